"""Requests of other processes to a running graph: what is answered, and what is refused."""

import logging
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import zmq

import graph
from graph import ConfigError, wire
from graph.attached import RunningGraph
from graph.bus import Bus
from graph.passwords import redact
from graph.rundir import RunDir
from graph.service import BusLog, Service
from tests.conftest import eventually
from tests.graphs import Graph, node, rows, wait_for_rows
from tests.toys import Numbers

pytestmark = pytest.mark.slow


def config() -> dict[str, Any]:
    """source -> copy -> second -> pair, and source -> pair; copy -> write; source -> picky"""
    return {
        "name": "main",
        "nodes": {
            "source": node("Source", frames=100_000, pause=0.003),
            "copy": node("Copy", {"frame": "source.frame"}),
            "second": node("Copy", {"frame": "copy.copied"}),
            "pair": node("Pair", {"a": "source.frame", "b": "second.copied"}),
            "picky": node("Picky", {"frame": "source.frame"}),
            "write": node("Write", {"frame": "copy.copied"}),
            "numbers": node("WriteNumbers", {"numbers": "pair.paired"}),
        },
    }


@pytest.fixture
def main(tmp_path: Path) -> Iterator[Graph]:
    with Graph(tmp_path, config()) as main:
        wait_for_rows(tmp_path / "out.jsonl", 5)
        yield main
        main.interrupt()
        assert main.wait() == 0, main.text()


def goes_on(main: Graph) -> None:
    """Wait until frames have reached both ends."""
    for name in ("out.jsonl", "numbers.jsonl"):
        wait_for_rows(main.folder / name, len(rows(main.folder / name)) + 20)


def complete(main: Graph) -> bool:
    seqs = [row[0] for row in rows(main.folder / "out.jsonl")]
    return seqs == [*range(len(seqs))]


def test_requests(main: Graph) -> None:
    """All requests that do not restart processes, in one graph."""
    with graph.attach() as g:
        shows_what_it_is(g)
        shows_what_it_does(g)
        changes_settings(g)
        pauses(main, g)
        refuses_nonsense(g)
    assert complete(main)


def shows_what_it_is(g: RunningGraph) -> None:
    spec = g.spec()
    assert (spec["name"], spec["state"]) == ("main", "PLAYING")
    assert {found["state"] for found in spec["nodes"].values()} == {"PLAYING"}
    picky = spec["nodes"]["picky"]
    assert (picky["type"], picky["inputs"]) == ("tests.toys:Picky", {"frame": "graph.messages:Frame"})
    assert picky["settings"]["even"] == {
        "value": 2,
        "default": 2,
        "type": "int",
        "choices": None,
        "minimum": 0,
        "maximum": 100,
        "changeable": True,
        "about": "apples",
    }
    assert picky["settings"]["uri"]["value"] == "rtsp://user:***@host/stream"
    assert ["copy.copied", "write.frame", "block", 4, "seq"] in spec["edges"]
    assert "wonder" not in str(spec) and "sesame" not in str(spec)


def shows_what_it_does(g: RunningGraph) -> None:
    stream = g.subscribe("copy.copied")
    next(stream)

    def measured() -> bool:
        stats = g.stats()
        known = stats["paths"]["write"] is not None and "copy.copied -> attached" in stats["edges"]
        rates = stats["nodes"]["copy"]["fps"], stats["edges"]["source.frame -> copy.frame"]["rate"]
        return known and min(rates) > 0  # rates of the last seconds, reported by different processes

    assert eventually(measured)
    stats = g.stats()
    copy, edge = stats["nodes"]["copy"], stats["edges"]["source.frame -> copy.frame"]
    assert copy["fps"] > 0 and copy["frames"] > 0 and copy["memory_mb"] > 1 and copy["restarts"] == 0
    assert copy["state"] in ("WAITING", "PROCESSING", "BLOCKED")
    for name in ("wait_ms", "process_ms", "publish_ms"):
        assert 0 <= copy[name]["p50"] <= copy[name]["p95"] <= copy[name]["p99"]
    assert edge["rate"] > 0 and (edge["dropped"], edge["policy"], edge["queue"]) == (0, "block", 4)
    assert 0 < stats["window_s"] < 8
    assert stats["paths"].keys() == {"write", "numbers", "picky"}
    assert stats["paths"]["write"]["p50"] > 0
    stream.close()
    assert eventually(lambda: "copy.copied -> attached" not in g.stats()["edges"])


def changes_settings(g: RunningGraph) -> None:
    assert g.set("picky.even", 4) == 4
    told = next(g.subscribe("picky.numbers", type_=Numbers))
    assert (told.word, told.values.tolist()) == ("main", [4])
    assert g.set("picky.token", "alibaba") == "***"
    assert g.set("picky.folder", "there") == "there"  # a path in the node
    for setting, value, why in (
        ("picky.even", 5, r"^picky\.even: 5 is odd$"),
        ("picky.even", 102, r"^picky\.even is 102, expected int from 0 to 100$"),
        ("picky.even", "two", r"^picky\.even is 'two', expected int from 0 to 100$"),
        ("picky.even", b"2", r"^picky\.even "),
        ("picky.evn", 2, r"^picky has no setting 'evn'; did you mean 'even'\?$"),
        ("piky.even", 2, r"^main has no node 'piky'; did you mean 'picky'\?$"),
        ("picky.uri", "x", r"^picky\.uri cannot be changed while the graph runs; .* here: even, token, ripe, folder$"),
        ("write.path", "x", r"^write\.path cannot be changed while the graph runs; changeable here: none$"),
        ("even", 2, r"^'even' is not of the form node\.setting$"),
    ):
        with pytest.raises(ConfigError, match=why):
            g.set(setting, value)
    assert g.spec()["nodes"]["picky"]["settings"]["even"]["value"] == 4
    assert next(g.subscribe("picky.numbers", type_=Numbers)).values.tolist() == [4]
    assert g.set("copy.pause", 0.004) == 0.004  # this node is never idle now, and still obeys
    assert g.set("copy.pause", 0.0) == 0.0


def pauses(main: Graph, g: RunningGraph) -> None:
    g.pause()
    assert g.spec()["state"] == "PAUSED"
    assert eventually(lambda: g.stats()["nodes"]["source"]["state"] == "PAUSED")
    assert eventually(lambda: g.stats()["nodes"]["copy"]["fps"] == 0)
    before = rows(main.folder / "out.jsonl")
    assert g.set("picky.even", 6) == 6
    assert rows(main.folder / "out.jsonl") == before
    g.resume()
    goes_on(main)
    assert eventually(lambda: g.stats()["nodes"]["source"]["state"] != "PAUSED")


def refuses_nonsense(g: RunningGraph) -> None:
    """Sent directly to the socket, as by a faulty client."""
    context: zmq.Context[Any] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.connect(RunDir.of("main").control)
    requests: list[tuple[dict[str, Any], str]] = [
        ({"k": "dance"}, "no request 'dance'; requests: describe, stats"),
        ({"k": "set"}, "main has no node None; nodes: source"),
        ({"k": "set", "node": ["picky"]}, "main has no node ['picky']"),
        ({"k": "set", "node": "picky", "setting": 3}, "picky has no setting 3"),
        ({"k": "set", "node": "picky", "setting": "even", "value": [[[[]]]]}, "picky.even is [[[[]]]], expected int"),
        ({"k": "restart", "node": "nobody"}, "main has no node 'nobody'"),
        ({"k": "log", "since": "x"}, "since is 'x'"),
        ({"k": "stats", "padding": "x" * 70_000}, "at most 65536 are allowed"),
    ]
    for number, (request, why) in enumerate(requests):
        socket.send(wire.pack({"v": wire.VERSION, "id": number, **request}))
        assert socket.poll(30_000)
        answer = wire.unpack(socket.recv())
        assert (answer["k"], answer["id"]) == ("refused", number)
        assert why in answer["why"]
    socket.send(b"\xc1 no msgpack")
    socket.send(wire.pack({"v": wire.VERSION + 1, "k": "stats"}))
    socket.send_multipart([b"two", b"parts"])
    socket.close()
    context.term()
    assert eventually(lambda: sum("malformed control message" in line["text"] for line in g.log()) == 3)
    last = g.log()[-1]
    assert (last["level"], last["node"]) == ("WARNING", "") and last["number"] >= 3
    assert g.log(since=last["number"]) == []


def test_restart_of_nodes(main: Graph) -> None:
    with graph.attach("main") as g:
        g.set("copy.pause", 0.001)
        for name in ("copy", "second", "write"):
            before = main.node(name).pid
            g.restart(name)
            assert main.node(name).pid != before
            goes_on(main)
            assert g.stats()["nodes"][name]["restarts"] == 1
        assert g.spec()["nodes"]["copy"]["settings"]["pause"]["value"] == 0.001
        restarts_the_source(main, g)
        assert "killing" not in main.text()
        restarts_one_that_hangs(main, g)


def restarts_the_source(main: Graph, g: RunningGraph) -> None:
    """In a paused graph, which remains paused."""
    g.pause()
    g.restart("source")
    before = len(rows(main.folder / "out.jsonl"))
    assert g.stats()["state"] == "PAUSED"
    assert len(rows(main.folder / "out.jsonl")) <= before + 8  # what was in transit
    g.resume()
    goes_on(main)
    seqs, epochs = zip(*(row[:2] for row in rows(main.folder / "out.jsonl")), strict=True)
    assert epochs[-1] == 1
    assert list(seqs) == sorted(set(seqs))
    assert seqs[-1] < 100_000  # it continues the numbering


def restarts_one_that_hangs(main: Graph, g: RunningGraph) -> None:
    main.node("copy").send_signal(signal.SIGSTOP)
    g.restart("copy")
    assert "copy did not end for its restart; killing its process" in main.text()
    goes_on(main)


def test_restart_of_two_nodes_at_once(tmp_path: Path) -> None:
    """The reader is told of the other's new process while it opens, before it has connected to any."""
    nodes = {
        "source": node("Source", frames=100_000, pause=0.003),
        "copy": node("Copy", {"frame": "source.frame"}),
        "write": node("Write", {"frame": "copy.copied"}, load=2.0),
    }
    with Graph(tmp_path, {"name": "main", "nodes": nodes}) as main:
        wait_for_rows(tmp_path / "out.jsonl", 5)
        with graph.attach("main") as g, ThreadPoolExecutor() as pool:
            list(pool.map(g.restart, ("write", "copy")))
        wait_for_rows(tmp_path / "out.jsonl", 20)
        main.interrupt()
        assert main.wait() == 0, main.text()


def test_busy_node_is_named(main: Graph) -> None:
    with graph.attach("main") as g:
        assert "copy is busy with one frame for 5 s; copy.pause is set when" in refusal(g)
        goes_on(main)
        assert g.spec()["nodes"]["copy"]["settings"]["pause"]["value"] == 0.0


def refusal(g: RunningGraph) -> str:
    """Return why a change is refused; retry one that is not, because it came before the first slow frame."""
    for _ in range(100):
        g.set("copy.pause", 8.0)
        try:
            g.set("copy.pause", 0.0)
        except ConfigError as exc:
            return str(exc)
    return "never"


def test_log_has_a_limited_size() -> None:
    log = BusLog()
    texts = ["x" * 100_000 + str(number) for number in range(100)] + ["short", "\udcff"]
    for text in texts:
        log.emit(logging.LogRecord("facegraph.node", logging.INFO, "", 0, text, (), None))
    lines = log.since(0)
    assert len(wire.pack(lines)) < 300_000
    assert [line[0] for line in lines] == [*range(103 - len(lines), 103)] and 10 < len(lines) < 20
    assert lines[-3][4].startswith("xxx") and lines[-3][4].endswith("x99")
    assert "\n... 83618 bytes left out ...\n" in lines[-3][4]
    assert [line[4] for line in log.since(100)] == ["short", "?"]
    assert log.since(102) == []


def test_too_large_an_answer_is_refused(context: "zmq.Context[Any]") -> None:
    bus = Bus(context, [])
    bus.socket.bind("inproc://bus")
    client = context.socket(zmq.DEALER)
    client.connect("inproc://bus")
    client.send(wire.pack({"v": wire.VERSION, "k": "stats", "id": 7}))
    bus.receive(lambda name, said: None, lambda said, reply: reply({"k": "stats", "much": "x" * wire.MAX_HEADER}))
    answer = wire.unpack(client.recv())
    assert (answer["k"], answer["id"]) == ("refused", 7)
    assert "bytes; at most 1048576 are allowed" in answer["why"]
    bus.close()
    client.close()


def test_request_that_fails_is_refused_and_the_graph_continues(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def stats(self) -> None:
            raise ZeroDivisionError("seven by zero")

    broken: Any = Broken()
    answers: list[dict[str, Any]] = []
    Service(broken).handle({"k": "stats"}, answers.append)
    assert answers == [{"k": "refused", "why": "ZeroDivisionError: seven by zero"}]
    assert caplog.messages[0].startswith("the request 'stats' failed: Traceback")


def test_passwords_are_hidden() -> None:
    assert redact("rtsp://user:se/cr@et@host:554/a opened") == "rtsp://user:***@host:554/a opened"
    assert redact({"a": ["http://host/?token=abc&x=1"]}) == {"a": ["http://host/?token=***&x=1"]}
    assert redact(("rtsp://host/stream", 5, None)) == ["rtsp://host/stream", 5, None]
