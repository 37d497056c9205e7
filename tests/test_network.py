"""Attaching to graphs over tcp: through one port, with keys, and from another network."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

import graph
from graph import ConfigError, GraphError, network, wire
from graph.config import load
from tests.attached import take
from tests.conftest import PATIENCE_S, Run, eventually
from tests.graphs import ROOT, Graph, node, rows, wait_for_rows
from tests.listening import address_of, config, listening
from tests.toys import Numbers


@pytest.mark.slow
def test_attaching_over_tcp(tmp_path: Path, run: Run) -> None:
    """Subscribe, inspect and control; the messages are those that a reader on the same host gets."""
    with listening(tmp_path) as (main, address):
        with graph.attach(address) as g, graph.attach("main") as near:
            assert (g.name, g.ports) == ("main", near.ports)
            for frame in take(g.subscribe("copy.copied"), 20):
                assert frame.image.shape == (64, 64, 3) and np.all(frame.image == frame.seq % 251)
                assert [hop.node for hop in frame.header.hops] == ["source", "copy"]
            for a, b in take(g.subscribe("source.frame", "copy.copied"), 10):
                assert a.seq == b.seq
            for queue, count in ((4, 50), (64, 200)):  # the largest queue requests too many credits
                blocked = take(g.subscribe("source.frame", policy="block", queue=queue), count)
                assert len(blocked) == count
                assert all(after.seq == before.seq + 1 for before, after in pairwise(blocked))
            assert isinstance(next(g.subscribe("pair.paired", type_=Numbers)), Numbers)
            with pytest.raises(ConfigError, match=r"main has no output 'copy\.copy'; did you mean 'copy\.copied'"):
                g.subscribe("copy.copy")
            g.pause()
            assert near.spec()["state"] == "PAUSED"
            g.resume()
            g.restart("pair")
            assert eventually(lambda: g.stats()["nodes"]["copy"]["fps"] > 0)  # a rate of the last seconds, also paused
            with pytest.raises(ConfigError, match="cannot be changed while the graph runs"):
                g.set("source.frames", 3)
        assert run("top", address, "--once").startswith("main  playing")
        tapped = run("tap", f"{address}/copy.copied", "--count", "3").splitlines()
        assert [json.loads(line)["age_ms"] for line in tapped] == [None] * 3  # that host may have another clock
        assert run("draw", address).startswith('digraph "main"')
        assert eventually(lambda: not waiting_for_readers(main)), "readers are left behind"


def waiting_for_readers(main: Graph) -> list[str]:
    """Return the outputs with messages queued for an attached consumer: for ever, if it is gone but not forgotten."""
    with graph.attach(main.name) as g:
        return [name for name, edge in g.stats()["edges"].items() if "attached" in name and edge["queued"]]


@pytest.mark.slow
def test_a_reader_notices_the_end_and_the_death_of_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Graph(tmp_path, config()) as main:
        wait_for_rows(tmp_path / "out.jsonl", 5)
        address = address_of(main)
        with graph.attach(address) as g:
            stream = g.subscribe("copy.copied")
            next(stream)
            main.interrupt()
            assert len(list(stream)) >= 0  # ends
            assert main.wait() == 0
            with pytest.raises(GraphError, match="refuses the connection, or cannot be reached: nothing listens"):
                graph.attach(address)
    with Graph(tmp_path, config()) as main:
        assert eventually(lambda: "can be attached to" in main.text() and main.playing())
        address = address_of(main)
        with graph.attach(address) as g:
            stream = g.subscribe("copy.copied")
            next(stream)
            main.process.kill()
            monkeypatch.setattr(network, "SILENT_S", 2.0)
            with pytest.raises(GraphError, match="the graph 'main' has died, or cannot be reached any more"):
                list(stream)


@pytest.mark.slow
def test_only_clients_with_a_known_key_are_admitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    keys, others = tmp_path / "keys", tmp_path / "others"
    network.make_keys(keys, ["laptop"])
    network.make_keys(others, ["stranger"])
    mixed = tmp_path / "mixed"  # knows the server's key, but the server does not know its key
    shutil.copytree(others / "stranger", mixed)
    shutil.copy(keys / "server.key", mixed / "server.key")
    with listening(tmp_path, keys) as (main, address):
        with graph.attach(address, keys=keys / "laptop") as g:
            assert all(np.all(frame.image == frame.seq % 251) for frame in take(g.subscribe("copy.copied"), 10))
        assert "client laptop connected from 127.0.0.1" in main.text()
        (keys / "clients/broken.key").write_text("nonsense")
        monkeypatch.setenv("FACEGRAPH_KEYS", str(keys / "laptop"))
        assert run("top", address, "--once").startswith("main  playing")
        for folder, why in (
            (mixed, f"does not know the key in {mixed}: its public half must be in the graph's keys/clients"),
            (others / "stranger", f"closes the connection: server.key in {others}/stranger is not its key, or "),
        ):
            began = time.monotonic()
            with pytest.raises(GraphError, match=re.escape(f"{address} {why}")):
                graph.attach(address, keys=folder)
            assert time.monotonic() - began < PATIENCE_S
        monkeypatch.delenv("FACEGRAPH_KEYS")
        with pytest.raises(GraphError, match=r"closes the connection: it may require keys; pass FACEGRAPH_KEYS=DIR"):
            graph.attach(address)
        (keys / "clients/laptop.key").unlink()  # excluded again, while the graph runs
        with pytest.raises(GraphError, match="does not know the key in"):
            graph.attach(address, keys=keys / "laptop")
        assert "has a key that is not in" in main.text()
        assert main.text().count("client laptop connected from 127.0.0.1") == 1, "not of each request"
        assert "broken.key is not a key and is ignored" in main.text()


@pytest.mark.slow
def test_clients_that_break_the_protocol_do_not_affect_others(tmp_path: Path, context: "zmq.Context[Any]") -> None:
    with listening(tmp_path) as (_, address), context.socket(zmq.DEALER) as client:
        client.connect(address)

        def answer(words: dict[str, Any] | bytes) -> dict[str, Any]:
            client.send(words if isinstance(words, bytes) else wire.pack({"v": 1, **words}))
            assert client.poll(PATIENCE_S * 1000)
            return wire.unpack(client.recv())

        hello = {"k": "hello", "name": "x", "policy": "latest"}
        assert "port '../main/copy.copied'" in answer({**hello, "port": "../main/copy.copied"})["why"]
        assert "queue of 65; 1..64 are allowed over tcp" in answer({**hello, "port": "copy.copied", "queue": 65})["why"]
        assert "not a msgpack header" in answer(b"\xc1")["why"]
        assert "no request 'nonsense'" in answer({"k": "nonsense", "id": [1]})["why"]
        assert answer({"k": "describe", "id": "mine"})["id"] == "mine"
        assert "has no output 'nose'" in skip_pings(answer, client, {**hello, "port": "copy.nose"})["why"]
        host, port = network.parse(address)
        with socket.create_connection((host, port)) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n" * 1000)
        with graph.attach(address) as g:
            assert len(take(g.subscribe("copy.copied"), 5)) == 5


@pytest.mark.slow
def test_one_client_does_not_stop_the_relay_for_the_others(
    tmp_path: Path, run: Run, context: "zmq.Context[Any]"
) -> None:
    """It connects to a node that has ended, sends it much, and requests the log of a node that logs much."""
    made = config()
    made["nodes"] |= {
        "short": node("Source", frames=3),
        "ended": node("Write", {"frame": "short.frame"}, path="ended.jsonl"),
        "talk": node("Talk", {"frame": "source.frame"}),
    }
    made["edges"] = {"source.frame -> talk.frame": {"policy": "latest"}}
    with Graph(tmp_path, made) as main, context.socket(zmq.DEALER) as client:
        wait_for_rows(tmp_path / "out.jsonl", 300)
        address = address_of(main)
        assert eventually(lambda: "closed\n" in (tmp_path / "ended.jsonl").read_text())
        with graph.attach(address) as g:
            assert eventually(lambda: g.stats()["nodes"]["short"]["state"] == "DONE")
            lines = g.log()
            assert len(lines) > 10 and lines[-1]["text"].endswith("The end.")
        client.set(zmq.SNDHWM, 0)
        client.connect(address)
        client.send(wire.pack({"v": 1, "k": "hello", "port": "short.frame"}))
        for _ in range(2000):
            client.send(wire.pack({"v": 1, "k": "credit", "n": 0}))
        assert client.poll(PATIENCE_S * 1000)
        assert "the node does not accept your messages" in wire.unpack(client.recv())["why"]
        assert run("top", address, "--once").startswith("main  playing")
        with graph.attach(address) as g:
            assert len(take(g.subscribe("copy.copied"), 5)) == 5
        main.interrupt()
        assert main.wait() == 0, main.text()


def skip_pings(answer: Callable[[Any], dict[str, Any]], client: "zmq.Socket[bytes]", words: Any) -> dict[str, Any]:
    said = answer(words)
    while said["k"] == "ping":
        said = wire.unpack(client.recv())
    return said


def extra(address: str, name: str = "main") -> dict[str, Any]:
    """Extra nodes for a graph at an address that join and write two of its outputs."""
    return {
        "attach": address,
        "nodes": {
            "pair": node("Pair", {"a": f"{name}/source.frame", "b": f"{name}/copy.copied"}),
            "numbers": node("WriteNumbers", {"numbers": "pair.paired"}, path="extra.jsonl"),
        },
    }


@pytest.mark.slow
@pytest.mark.parametrize("end", ["extra first", "main first", "main is killed"])
def test_extra_nodes_over_tcp(tmp_path: Path, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network.make_keys(tmp_path / "keys", ["laptop"])
    monkeypatch.setenv("FACEGRAPH_KEYS", str(tmp_path / "keys/laptop"))
    (tmp_path / "extra").mkdir()
    with Graph(tmp_path, config(keys=tmp_path / "keys")) as main:
        wait_for_rows(tmp_path / "out.jsonl", 5)
        address = address_of(main)
        with Graph(tmp_path / "extra", extra(address), "attach") as attached:
            assert eventually(lambda: len(rows(tmp_path / "extra/extra.jsonl")) >= 20), attached.text()
            if end == "extra first":
                attached.interrupt()
                assert attached.wait() == 0, attached.text()
            if end == "main is killed":
                main.process.kill()
            else:
                main.interrupt()
                assert main.wait() == 0, main.text()
            if end != "extra first":
                assert attached.wait() == 0, attached.text()
            assert ("cannot be reached any more; its stream ends here" in attached.text()) == (end == "main is killed")
    assert all(a == b for _, (a, _, b) in rows(tmp_path / "extra/extra.jsonl"))


@pytest.mark.slow
def test_readers_over_tcp_continue_when_a_node_is_restarted(tmp_path: Path) -> None:
    (tmp_path / "extra").mkdir()
    got = tmp_path / "extra/extra.jsonl"
    with Graph(tmp_path, config()) as main:
        wait_for_rows(tmp_path / "out.jsonl", 5)
        address = address_of(main)
        with Graph(tmp_path / "extra", extra(address), "attach") as attached, graph.attach(address) as g:
            wait_for_rows(got, 5)
            stream = g.subscribe("copy.copied")
            next(stream)
            g.restart("copy")
            fresh = next(g.subscribe("source.frame")).seq  # the old process has not received that one
            assert eventually(lambda: next(stream).seq > fresh)
            assert eventually(lambda: rows(got)[-1][0] > fresh), attached.text()
            stream.close()
            main.interrupt()
            assert main.wait() == 0, main.text()
            assert attached.wait() == 0, attached.text()
            assert "copy of the graph 'main' was restarted; continuing" in attached.text()


@pytest.mark.slow
def test_clients_with_equal_names_do_not_affect_one_another_or_the_graph(
    tmp_path: Path, context: "zmq.Context[Any]"
) -> None:
    """Two hosts attach the same extra nodes, and a client uses the name of an edge of the graph."""
    hosts = [tmp_path / name for name in ("here", "there")]
    with listening(tmp_path) as (_, address), context.socket(zmq.DEALER) as client, contextlib.ExitStack() as attached:
        client.connect(address)
        hello = {"v": 1, "k": "hello", "port": "copy.copied", "name": "write.frame"}
        client.send(wire.pack(hello))
        assert client.poll(PATIENCE_S * 1000) and wire.unpack(client.recv())["k"] == "welcome"
        graphs = []
        for host in hosts:
            host.mkdir()
            run_dir = attached.enter_context(tempfile.TemporaryDirectory(prefix=f"fg{os.getpid()}-"))
            with pytest.MonkeyPatch.context() as other:
                other.setenv("FACEGRAPH_RUN_DIR", run_dir)
                graphs.append(attached.enter_context(Graph(host, extra(address), "attach")))
            assert eventually(lambda host=host: len(rows(host / "extra.jsonl")) >= 20), graphs[-1].text()
        for host in hosts:
            wait_for_rows(host / "extra.jsonl", len(rows(host / "extra.jsonl")) + 20)
        wait_for_rows(tmp_path / "out.jsonl", len(rows(tmp_path / "out.jsonl")) + 20)
        for graph_ in graphs:
            graph_.interrupt()
            assert graph_.wait() == 0, graph_.text()


@pytest.mark.slow
def test_error_names_the_graph_at_the_address(tmp_path: Path) -> None:
    (tmp_path / "extra").mkdir()
    with listening(tmp_path) as (_, address), Graph(tmp_path / "extra", extra(address, "webcam"), "attach") as attached:
        assert attached.wait() == 2
        assert (
            f"pair.a reads from webcam/source.frame, but the graph at {address} is 'main'; write main/source.frame"
            in attached.text()
        )


def test_extra_nodes_for_an_invalid_address(tmp_path: Path) -> None:
    path = tmp_path / "extra.yaml"
    path.write_text(json.dumps(extra("tcp://192.0.2.7")))
    with pytest.raises(ConfigError, match=r"attach: 'tcp://192\.0\.2\.7' is not an address, expected like tcp://"):
        load(path)


@pytest.mark.slow
def test_clients_that_are_killed_are_forgotten(tmp_path: Path) -> None:
    code = (
        "import sys, graph\n"
        "with graph.attach(sys.argv[1]) as g:\n"
        "    for frame in g.subscribe('copy.copied'):\n"
        "        print(frame.seq, flush=True)"
    )
    with listening(tmp_path) as (main, address):
        for _ in range(5):
            reader = subprocess.Popen([sys.executable, "-c", code, address], stdout=subprocess.PIPE, cwd=ROOT)
            assert reader.stdout and reader.stdout.readline()
            reader.kill()
            reader.wait()
            reader.stdout.close()
        assert eventually(lambda: not waiting_for_readers(main))


@pytest.mark.slow
def test_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with Graph(tmp_path, config(listen)) as main:
            assert main.wait() == 2
            assert f"error: cannot listen at {listen}: Address already in use" in main.text()


# --- from another network ---


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """A network namespace that only reaches this one, at 10.211.7.1; skipped where none can be created."""
    name = f"fg{os.getpid()}"
    steps = [
        f"netns add {name}",
        f"link add {name}a type veth peer name {name}b",
        f"link set {name}b netns {name}",
        f"addr add 10.211.7.1/24 dev {name}a",
        f"link set {name}a up",
        f"-n {name} addr add 10.211.7.2/24 dev {name}b",
        f"-n {name} link set {name}b up",
    ]
    ip = shutil.which("ip") or "/sbin/ip"
    try:
        for step in steps:
            try:
                subprocess.run([ip, *step.split()], check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as exc:
                pytest.xfail(f"no network namespace may be made here: {getattr(exc, 'stderr', exc)!r}")
        yield name
    finally:
        with contextlib.suppress(OSError):
            subprocess.run([ip, "link", "del", f"{name}a"], capture_output=True, check=False)
            subprocess.run([ip, "netns", "del", name], capture_output=True, check=False)


@pytest.mark.slow
def test_a_client_in_another_network(tmp_path: Path, elsewhere: str) -> None:
    keys = tmp_path / "keys"
    network.make_keys(keys, ["laptop"])
    code = (
        "import sys, graph\n"
        "with graph.attach(sys.argv[1], keys=sys.argv[2]) as g:\n"
        "    for frame, _ in zip(g.subscribe('copy.copied'), range(20)):\n"
        "        assert (frame.image == frame.seq % 251).all()\n"
        "print('done')"
    )
    with Graph(tmp_path, config("tcp://10.211.7.1:0", keys)) as main:
        wait_for_rows(tmp_path / "out.jsonl", 5)
        address = address_of(main)
        command = ["ip", "netns", "exec", elsewhere, sys.executable, "-c", code, address, str(keys / "laptop")]
        environment = {**os.environ, "FACEGRAPH_RUN_DIR": str(tmp_path / "nothing"), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=environment, check=False)
        assert done.stdout == "done\n", done.stderr
        main.interrupt()
        assert main.wait() == 0, main.text()
