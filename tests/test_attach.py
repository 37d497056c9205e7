"""Reading from a running graph: from Python, and with extra nodes. The graph is not affected."""

import contextlib
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

import graph
from graph import ConfigError, Frame, GraphError, wire
from graph.attached import RunningGraph
from graph.rundir import RunDir
from tests.attached import running, take, untouched
from tests.conftest import PATIENCE_S, eventually
from tests.graphs import Graph, node, rows, wait_for_rows
from tests.toys import Numbers

pytestmark = pytest.mark.slow


def test_subscribe(tmp_path: Path) -> None:
    """One port, several, every policy, inline bytes, and wrong requests; one graph for all."""
    with Graph(tmp_path, running()) as main:
        wait_for_rows(tmp_path / "out.jsonl", 5)
        with graph.attach("main") as g:
            assert g.ports == {
                "source.frame": "graph.messages:Frame",
                "copy.copied": "graph.messages:Frame",
                "pair.paired": "tests.toys:Numbers",
            }
            playing = dict.fromkeys(("source", "copy", "pair", "write", "numbers"), "PLAYING")
            assert eventually(lambda: {name: node["state"] for name, node in g.spec()["nodes"].items()} == playing)
            one_port(g)
            several_ports(g)
            wrong_questions(g)
        with pytest.raises(ConfigError, match=r"no graph named 'mian' is running; did you mean 'main'\?"):
            graph.attach("mian")
        main.interrupt()
        assert main.wait() == 0, main.text()
        assert "broke the protocol" not in main.text()
    assert untouched(tmp_path)


def test_ports_take_turns_if_the_reader_is_slower_than_each(tmp_path: Path) -> None:
    with Graph(tmp_path, running()) as main:
        wait_for_rows(tmp_path / "out.jsonl", 5)
        with graph.attach("main") as g:
            came: list[str] = []
            with contextlib.closing(g.listen("source.frame", "copy.copied", policy="drop_oldest", queue=64)) as stream:
                for port, _message in filter(None, stream):
                    came.append(port)
                    time.sleep(0.03)  # ten new messages of each port meanwhile
                    if len(came) == 40:
                        break
            counts = Counter(came)
            assert min(counts["source.frame"], counts["copy.copied"]) >= 10, came
        main.interrupt()
        assert main.wait() == 0, main.text()


def one_port(g: RunningGraph) -> None:
    for shm in (True, False):
        frames = []
        for frame in g.subscribe("source.frame", policy="block", queue=8, shm=shm):
            assert isinstance(frame, Frame) and (frame.image == frame.seq % 251).all()
            assert frame.image.flags.owndata and frame.header.stream == "main"
            frames.append(frame.seq)
            if len(frames) == 30:
                break
        assert frames == [*range(frames[0], frames[0] + 30)]  # with "block" not one is missing
    assert all(isinstance(message, Numbers) for message in take(g.subscribe("pair.paired"), 3))
    assert take(g.subscribe("copy.copied", type_=Frame), 1)[0].header.hops[1].node == "copy"


def several_ports(g: RunningGraph) -> None:
    for policy in ("latest", "block"):
        got = take(g.subscribe("source.frame", "copy.copied", "pair.paired", policy=policy, queue=2), 20)
        seqs = [frame.seq for frame, _, _ in got]
        assert all(frame.seq == copied.seq == numbers.seq for frame, copied, numbers in got)
        assert seqs == sorted(set(seqs))
        if policy == "block":
            assert seqs == [*range(seqs[0], seqs[0] + 20)]


def wrong_questions(g: RunningGraph) -> None:
    with pytest.raises(ConfigError, match=r"main has no output 'source\.image'; did you mean 'source\.frame'\?"):
        g.subscribe("source.image")
    with pytest.raises(ConfigError, match=r"subscribe needs a port; outputs"):
        g.subscribe()
    with pytest.raises(ConfigError, match=r"no policy 'newest'; policies: \['block'"):
        g.subscribe("source.frame", policy="newest")
    with pytest.raises(ConfigError, match=r"queue of np\.int64\(4\); 1\.\.1024 are allowed"):
        g.subscribe("source.frame", policy="block", queue=np.int64(4))
    with pytest.raises(ConfigError, match=r"queue of 0; 1\.\.1024 are allowed"):
        g.subscribe("source.frame", "copy.copied", queue=0)
    with pytest.raises(ConfigError, match=r"queue of 1025; 1\.\.1024 are allowed"):
        g.listen("source.frame", queue=1025)
    with pytest.raises(GraphError, match=r"reads tests\.toys:Numbers, but .* gives graph\.messages:Frame"):
        take(g.subscribe("source.frame", type_=Numbers), 1)


def test_slow_consumer_gets_the_newest(tmp_path: Path) -> None:
    with Graph(tmp_path, running()) as main:
        wait_for_rows(tmp_path / "out.jsonl", 5)
        with graph.attach("main") as g:
            stream = g.subscribe("copy.copied")
            first = next(stream).seq
            wait_for_rows(tmp_path / "out.jsonl", first + 200)  # while the consumer reads nothing
            assert next(stream).seq >= first + 190
        main.interrupt()
        assert main.wait() == 0, main.text()
    assert untouched(tmp_path)


def test_stream_ends_with_the_graph(tmp_path: Path) -> None:
    with Graph(tmp_path, running(frames=300)) as main:
        wait_for_rows(tmp_path / "out.jsonl", 5)
        with graph.attach("main") as g:
            seqs = [frame.seq for frame in g.subscribe("copy.copied", policy="block", queue=4)]
        assert seqs == [*range(seqs[0], 300)]  # to the last frame
        assert main.wait() == 0, main.text()


def test_consumer_that_does_not_read_does_not_delay_the_end(tmp_path: Path) -> None:
    """It has subscribed but reads nothing: the graph ends without it."""
    with Graph(tmp_path, running()) as main:
        wait_for_rows(tmp_path / "out.jsonl", 5)
        with graph.attach("main") as g:
            stream = g.subscribe("copy.copied")
            next(stream)
            main.interrupt()
            assert main.wait() == 0, main.text()
    assert untouched(tmp_path)


def test_foreign_consumers_are_not_part_of_the_graph(tmp_path: Path, context: "zmq.Context[Any]") -> None:
    """The minimal consumer of graph/README.md stalls, another claims to be an edge of the graph: it ends in order."""
    with Graph(tmp_path, running()) as main:
        wait_for_rows(tmp_path / "out.jsonl", 5)
        said, strangers = [], [context.socket(zmq.DEALER), context.socket(zmq.DEALER)]
        for stranger, name in zip(strangers, ("mine", "write.frame"), strict=True):
            stranger.connect(RunDir.of("main").data("copy"))
            stranger.send(wire.pack({"v": 1, "k": "hello", "port": "copied", "name": name, "shm": False}))
            assert stranger.poll(PATIENCE_S * 1000)
            said.append(wire.unpack(stranger.recv()))
        assert [words["k"] for words in said] == ["welcome", "refused"]
        assert "'write.frame' is an edge of the graph itself; take another name" in said[1]["why"]
        main.interrupt()
        assert main.wait() == 0, main.text()
        for stranger in strangers:
            stranger.close(linger=0)
    assert untouched(tmp_path)


def test_death_of_the_graph_is_raised(tmp_path: Path) -> None:
    with Graph(tmp_path, running()) as main:
        wait_for_rows(tmp_path / "out.jsonl", 5)
        with graph.attach("main") as g:
            stream = g.subscribe("source.frame")
            next(stream)
            main.process.kill()
            with pytest.raises(GraphError, match="the graph 'main' has died"):
                take(stream, 100_000)
        with pytest.raises(ConfigError, match="no graph named 'main' is running; running now: none"):
            graph.attach("main")


def test_attach_before_the_start_and_after_a_restart(tmp_path: Path) -> None:
    """Readers and extra nodes may start first; after a restart of the graph they find the new one."""
    (tmp_path / "extra").mkdir()
    with Graph(tmp_path / "extra", extra(), "attach", "--wait") as attached, ThreadPoolExecutor() as pool:
        coming = pool.submit(graph.attach, "main", wait=PATIENCE_S)
        with Graph(tmp_path, running()) as main, coming.result() as g:
            stream = g.subscribe("copy.copied")  # its process may still be starting
            assert next(stream).header.stream == "main"
            wait_for_rows(tmp_path / "extra" / "extra.jsonl", 5)
            main.process.kill()
            with pytest.raises(GraphError, match="the graph 'main' has died"):
                take(stream, 100_000)
            with pytest.raises(GraphError, match="the graph 'main' has ended"):
                g.stats()
            assert attached.wait() == 0, attached.text()
            with Graph(tmp_path, running()) as again:
                assert eventually(again.playing)
                assert next(g.subscribe("copy.copied")).header.stream == "main"  # even with the old handle
                assert g.spec()["pid"] == again.process.pid
                again.interrupt()
                assert again.wait() == 0, again.text()
    with pytest.raises(ConfigError, match="no graph named 'main' is running"):
        graph.attach("main", wait=0.2)


def test_readers_continue_when_a_node_is_restarted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One port, several, inline bytes, and extra nodes; the node is first restarted on request, and then killed."""
    (tmp_path / "extra").mkdir()
    got = tmp_path / "extra" / "extra.jsonl"
    config = running()
    config["nodes"]["copy"]["restart"] = "on_failure"
    with Graph(tmp_path, config) as main, Graph(tmp_path / "extra", extra(), "attach", "--wait") as attached:
        wait_for_rows(got, 5)
        with graph.attach("main") as g:
            one, sent = g.subscribe("copy.copied"), g.subscribe("copy.copied", shm=False)
            several = g.subscribe("source.frame", "copy.copied")
            for count, again in enumerate((lambda: g.restart("copy"), lambda: main.node("copy").kill()), 1):
                next(one), next(sent), next(several)
                again()
                assert eventually(lambda count=count: g.stats()["nodes"]["copy"]["restarts"] == count)
                fresh = next(g.subscribe("source.frame")).seq  # the old process has not received that one
                assert eventually(lambda fresh=fresh: next(one).seq > fresh)
                assert eventually(lambda fresh=fresh: next(sent).seq > fresh)
                assert eventually(lambda fresh=fresh: next(several)[0].seq > fresh)
                assert eventually(lambda fresh=fresh: rows(got)[-1][0] > fresh), attached.text()
            assert "copy of the graph 'main' was restarted; continuing" in caplog.text
            assert "has died" not in attached.text()
        main.interrupt()
        assert main.wait() == 0, main.text()
        assert attached.wait() == 0, attached.text()
    assert all(a == b for _, (a, _, b) in rows(got))


def test_end_of_a_node_for_good_is_raised(tmp_path: Path) -> None:
    """Its graph continues, and so do other streams."""
    config = running()
    config["nodes"] |= {
        "short": node("Source", frames=200, pause=0.01),
        "last": node("Write", {"frame": "short.frame"}, path="last.jsonl"),
    }
    with Graph(tmp_path, config) as main:
        wait_for_rows(tmp_path / "last.jsonl", 5)
        with graph.attach("main") as g:
            slow = g.subscribe("short.frame", policy="drop_oldest", queue=4)
            next(slow)  # and takes the others when the node is gone
            assert eventually(lambda: g.stats()["nodes"]["short"]["state"] == "DONE")
            with pytest.raises(GraphError, match="short of the graph 'main' has ended"):
                take(slow, 1000)
            with pytest.raises(GraphError, match="short of the graph 'main' has ended"):
                next(g.subscribe("short.frame"))
            assert next(g.subscribe("source.frame")).seq > 0
        main.interrupt()
        assert main.wait() == 0, main.text()


def test_handle_may_be_closed_while_threads_read_with_it(tmp_path: Path) -> None:
    def read(stream: Any, last: list[int]) -> None:
        for frame in stream:
            last[:] = [frame.seq]

    with Graph(tmp_path, running()) as main, ThreadPoolExecutor() as pool:
        for _ in range(5):
            with graph.attach("main", wait=PATIENCE_S) as g:
                lasts: list[list[int]] = [[] for _ in range(4)]
                reading = [pool.submit(read, g.subscribe("copy.copied"), last) for last in lasts]
                g.subscribe("source.frame")  # which is never iterated
                assert eventually(partial(all, lasts))
            for ended in reading:
                why = ended.exception(PATIENCE_S)
                assert why is None or str(why) == "this handle on the graph 'main' is closed"
        with pytest.raises(GraphError, match="this handle on the graph 'main' is closed"):
            g.stats()
        with pytest.raises(GraphError, match="this handle on the graph 'main' is closed"):
            g.subscribe("source.frame")
        main.interrupt()
        assert main.wait() == 0, main.text()


def extra() -> dict[str, Any]:
    """Extra nodes for the running graph."""
    return {
        "attach": "main",
        "nodes": {
            "pair": node("Pair", {"a": "main/source.frame", "b": "main/copy.copied"}),
            "numbers": node("WriteNumbers", {"numbers": "pair.paired"}, path="extra.jsonl"),
        },
    }


@pytest.mark.parametrize("end", ["extra first", "main first", "main is killed", "extra is killed"])
def test_extra_nodes(tmp_path: Path, end: str) -> None:
    (tmp_path / "main").mkdir()
    (tmp_path / "extra").mkdir()
    with Graph(tmp_path / "main", running()) as main:
        wait_for_rows(tmp_path / "main" / "out.jsonl", 5)
        with Graph(tmp_path / "extra", extra(), "attach") as attached:
            assert eventually(lambda: len(rows(tmp_path / "extra" / "extra.jsonl")) >= 20), attached.text()
            if end == "extra first":
                attached.interrupt()
                assert attached.wait() == 0, attached.text()
            elif end == "extra is killed":
                nodes = attached.nodes()
                attached.process.kill()
                assert eventually(lambda: not any(found.is_running() for found in nodes))
            elif end == "main is killed":
                main.process.kill()
            if end != "main is killed":
                before = len(rows(tmp_path / "main" / "out.jsonl"))
                wait_for_rows(tmp_path / "main" / "out.jsonl", before + 50)
                main.interrupt()
                assert main.wait() == 0, main.text()
            if not end.startswith("extra"):
                assert attached.wait() == 0, attached.text()
    assert untouched(tmp_path / "main")
    got = rows(tmp_path / "extra" / "extra.jsonl")
    assert all(a == b for _, (a, _, b) in got)
    assert [seq for seq, _ in got] == sorted({seq for seq, _ in got})


def test_extra_nodes_without_the_graph(tmp_path: Path) -> None:
    with Graph(tmp_path, extra(), "attach") as attached:
        assert attached.wait() == 2
        assert "no graph named 'main' is running" in attached.text()
