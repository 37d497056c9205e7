"""Whole graphs in real processes: how they end, also when something is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from graph import attach, rundir
from tests.conftest import PATIENCE_S, eventually
from tests.graphs import ROOT, Graph, line, node, rows, wait_for_rows

pytestmark = pytest.mark.slow


def ended(process: psutil.Process) -> bool:
    """Say whether a process has ended; its parent may not have reaped it."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("born", [False, True])
def test_end_of_stream_with_full_queues_loses_nothing(tmp_path: Path, born: bool) -> None:
    config = line(frames=200, pause=0.0) | {}
    config["nodes"]["source"]["settings"]["born"] = born
    config["nodes"]["write"]["settings"] = {"pause": 0.003}
    with Graph(tmp_path, config) as graph:
        assert graph.wait() == 0, graph.text()
    got = rows(tmp_path / "out.jsonl")
    assert [row[0] for row in got] == list(range(200))
    assert all(row[2] == row[0] % 251 and row[3] for row in got)
    assert got[0][4] == ["source", "copy"]
    assert (tmp_path / "out.jsonl").read_text().endswith("closed\n")


def test_changing_picture_size(tmp_path: Path) -> None:
    config = line(frames=100)
    config["nodes"]["source"]["settings"]["sizes"] = True
    with Graph(tmp_path, config) as graph:
        assert graph.wait() == 0, graph.text()
    assert [row[:4] for row in rows(tmp_path / "out.jsonl")] == [[i, 0, i, True] for i in range(100)]


@pytest.mark.parametrize("victim", ["source", "copy", "write"])
def test_sigkill_of_a_node(tmp_path: Path, victim: str) -> None:
    with Graph(tmp_path, line(frames=100_000, pause=0.005)) as graph:
        wait_for_rows(tmp_path / "out.jsonl", 10)
        graph.node(victim).kill()
        assert graph.wait() == 1
        assert f"{victim} was killed by SIGKILL" in graph.text()
        if victim != "write":
            assert "closed\n" in (tmp_path / "out.jsonl").read_text()


def test_sigkill_of_the_supervisor(tmp_path: Path) -> None:
    with Graph(tmp_path, line(frames=100_000, pause=0.005)) as graph:
        wait_for_rows(tmp_path / "out.jsonl", 10)
        nodes = graph.nodes()
        assert len(nodes) == 3
        graph.process.kill()
        assert eventually(lambda: all(map(ended, nodes)))


def test_node_resumed_after_its_supervisor_was_killed_does_not_affect_a_new_graph(tmp_path: Path) -> None:
    with Graph(tmp_path, line(frames=100_000, pause=0.005)) as old:
        wait_for_rows(tmp_path / "out.jsonl", 5)
        sleeper = old.node("source")
        sleeper.suspend()
        old.process.kill()
        old.process.wait()  # else leaving the block would kill the nodes, too
    with Graph(tmp_path, line(frames=100_000, pause=0.005)) as new:
        assert eventually(new.playing)
        sleeper.resume()
        assert eventually(lambda: ended(sleeper))
        assert rundir.running() == ["line"]
        new.interrupt()
        assert new.wait() == 0, new.text()


def test_sigkill_of_the_supervisor_while_nodes_open(tmp_path: Path) -> None:
    with Graph(tmp_path, line(frames=100_000)) as graph:
        assert eventually(lambda: len(graph.nodes()) == 3)
        nodes = graph.nodes()
        graph.process.kill()
        assert eventually(lambda: all(map(ended, nodes)))
    rundir.sweep()


@pytest.mark.usefixtures("hangs_up")
@pytest.mark.parametrize(
    ("number", "whole_group"),
    [(signal.SIGINT, False), (signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGHUP, True)],
)
def test_interrupt_ends_in_order(tmp_path: Path, number: signal.Signals, whole_group: bool) -> None:
    with Graph(tmp_path, line(frames=100_000, pause=0.005)) as graph:
        wait_for_rows(tmp_path / "out.jsonl", 10)
        if whole_group:  # as terminals and service managers do
            os.killpg(graph.process.pid, number)
        else:
            graph.process.send_signal(number)
        assert graph.wait() == 0, graph.text()
    assert (tmp_path / "out.jsonl").read_text().endswith("closed\n")
    seqs = [row[0] for row in rows(tmp_path / "out.jsonl")]
    assert seqs == list(range(len(seqs)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("count", [1, 3])
def test_interrupt_while_nodes_start_ends_in_order(tmp_path: Path, count: int, number: signal.Signals) -> None:
    with Graph(tmp_path, line(frames=100_000, pause=0.005, load=30.0)) as graph:
        assert eventually(lambda: len(graph.nodes()) >= count)
        os.killpg(graph.process.pid, number)
        assert graph.wait() == 0, graph.text()
    assert graph.text() == "info: ending in order; press Ctrl-C again to kill\n"


def test_second_interrupt_kills(tmp_path: Path) -> None:
    config = line(frames=100_000)
    config["nodes"]["write"]["settings"] = {"pause": 30.0}
    with Graph(tmp_path, config) as graph:
        assert eventually(graph.playing)
        graph.interrupt()
        assert eventually(lambda: "ending in order" in graph.text())
        graph.interrupt()
        assert eventually(lambda: graph.process.poll() is not None, 5)
        assert graph.process.returncode == 1


def test_stuck_source_does_not_delay_the_end(tmp_path: Path) -> None:
    config = line(frames=100)
    config["nodes"]["source"]["settings"]["pause_after"] = 20
    with Graph(tmp_path, config) as graph:
        wait_for_rows(tmp_path / "out.jsonl", 21)
        graph.interrupt()
        assert graph.wait() == 0, graph.text()
        assert "did not return" in graph.text()
    assert (tmp_path / "out.jsonl").read_text().endswith("closed\n")


def test_source_that_waits_long_between_frames_ends_in_order(tmp_path: Path) -> None:
    config = line()
    slow = {"fps": 0.1, "paced": True, "pattern": "plain", "width": 64, "height": 64}
    config["nodes"]["source"] = {"type": "nodes.source:TestSource", "settings": slow}
    with Graph(tmp_path, config) as graph:
        wait_for_rows(tmp_path / "out.jsonl", 1)
        graph.interrupt()
        assert graph.wait() == 0, graph.text()
        assert "did not return" not in graph.text()
    assert [row[0] for row in rows(tmp_path / "out.jsonl")] == [0]


def test_stalled_reader_with_block_does_not_delay_the_end(tmp_path: Path) -> None:
    with Graph(tmp_path, line(frames=100_000, pause=0.01)) as graph, attach("line", wait=PATIENCE_S) as running:
        stream = running.subscribe("source.frame", policy="block")
        next(stream)
        assert eventually(lambda: running.stats()["nodes"]["source"]["state"] == "BLOCKED")
        graph.interrupt()
        assert graph.wait() == 0, graph.text()
        assert "source.frame -> attached has taken nothing" in graph.text()
        assert "did not return" not in graph.text(), "a blocked source is not stuck"
        stream.close()
    assert (tmp_path / "out.jsonl").read_text().endswith("closed\n")


def test_slow_reader_with_block_loses_nothing_at_the_end(tmp_path: Path) -> None:
    with Graph(tmp_path, line(frames=150, pause=0.02)) as graph, attach("line", wait=PATIENCE_S) as running:
        came = []
        for frame in running.subscribe("source.frame", policy="block", queue=8):
            came.append(frame.seq)
            time.sleep(0.2 if frame.seq >= 126 else 0)  # the last 24 are in transit or queued: over four seconds
        assert graph.wait() == 0, graph.text()
    assert came == list(range(came[0], 150))


def test_printed_text_appears_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    nodes = {"source": node("Source", frames=3), "bad": node("Fail", {"frame": "source.frame"}, at=1, how="exit")}
    with Graph(tmp_path, {"name": "printing", "nodes": nodes}) as graph:
        assert graph.wait() == 1
        assert "frame 0 came\n" in graph.text()


def test_threads_that_a_node_leaves_do_not_delay_the_end(tmp_path: Path) -> None:
    nodes = {"source": node("Source", frames=3), "linger": node("Linger", {"frame": "source.frame"})}
    with Graph(tmp_path, {"name": "lingering", "nodes": nodes}) as graph:
        assert graph.wait() == 0, graph.text()
        assert "linger: cut off, as it is closed, but threads still run: lingers\n" in graph.text()


def test_node_that_keeps_many_frames(tmp_path: Path) -> None:
    config = line(frames=150)
    config["nodes"]["keep"] = node("Keep", {"frame": "copy.copied"})
    config["nodes"]["write"]["inputs"] = {"frame": "keep.copied"}
    with Graph(tmp_path, config) as graph:
        assert graph.wait() == 0, graph.text()
    assert len(rows(tmp_path / "out.jsonl")) == 150


def test_duration(tmp_path: Path) -> None:
    with Graph(tmp_path, line(frames=100_000, pause=0.01), "run", "--duration", "0.5") as graph:
        assert graph.wait() == 0, graph.text()
    assert (tmp_path / "out.jsonl").read_text().endswith("closed\n")


def test_a_node_may_end_the_graph(tmp_path: Path) -> None:
    with Graph(tmp_path, line(frames=100_000, pause=0.002, stop_after=10)) as graph:
        assert graph.wait() == 0, graph.text()
        assert "write asks the graph to finish" in graph.text()


def test_two_graphs_side_by_side_and_the_same_name_twice(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = line(frames=100_000, pause=0.005)
    second = line(frames=50) | {"name": "second"}
    with Graph(tmp_path / "a", first) as one:
        wait_for_rows(tmp_path / "a" / "out.jsonl", 5)
        with Graph(tmp_path / "b", first) as twin:
            assert twin.wait() == 2
            assert "a graph named 'line' is running already" in twin.text()
        with Graph(tmp_path / "b", second) as two:
            assert two.wait() == 0, two.text()
        assert len(rows(tmp_path / "b" / "out.jsonl")) == 50
        one.interrupt()
        assert one.wait() == 0


TAKEN = """
import psutil
from graph import ConfigError
from graph.rundir import RunDir
from graph.spec import GraphSpec
from graph.supervisor import run
held, before = RunDir.of("line").claim([]), psutil.Process().num_fds()
try:
    run(GraphSpec("line", None, {}, (), "made in code"))
except ConfigError as exc:
    print(psutil.Process().num_fds() - before, exc)
held.close()
"""


KILLED = """
import os, pathlib, signal, sys
from tests.graphs import Graph, node
from tests.conftest import eventually
nodes = {"source": node("Source", frames=10**9, pause=0.01)}
graph = Graph(pathlib.Path(sys.argv[1]), {"name": "endless", "nodes": nodes})
assert eventually(graph.playing)
print(graph.process.pid, *(child.pid for child in graph.nodes()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_graphs_of_a_killed_test_run_end(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    left = [int(pid) for pid in ended.stdout.split()]
    assert len(left) == 2
    assert eventually(lambda: not any(map(psutil.pid_exists, left)))


def test_name_in_use_leaves_nothing_open_in_the_caller() -> None:
    ended = subprocess.run([sys.executable, "-c", TAKEN], capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("0 a graph named 'line' is running already")


def test_stalled_consumer_does_not_affect_others(tmp_path: Path) -> None:
    config = line(frames=100_000, pause=0.002)
    config["nodes"]["stalled"] = node("Write", {"frame": "source.frame"}, path="stalled.jsonl")
    config["edges"] = {"source.frame -> stalled.frame": {"policy": "drop_oldest", "queue": 2}}
    with Graph(tmp_path, config) as graph:
        wait_for_rows(tmp_path / "stalled.jsonl", 3)
        stalled = graph.node("stalled")
        stalled.suspend()
        before = len(rows(tmp_path / "out.jsonl"))
        wait_for_rows(tmp_path / "out.jsonl", before + 300)
        assert eventually(lambda: "stalled has not been heard from for 5 s" in graph.text())
        stalled.resume()
        before = len(rows(tmp_path / "stalled.jsonl"))
        wait_for_rows(tmp_path / "stalled.jsonl", before + 10)
        graph.interrupt()
        assert graph.wait() == 0, graph.text()
    assert [row[0] for row in rows(tmp_path / "out.jsonl")] == list(range(len(rows(tmp_path / "out.jsonl"))))
    seqs = [row[0] for row in rows(tmp_path / "stalled.jsonl")]
    assert seqs == sorted(set(seqs))
    assert len(seqs) < len(rows(tmp_path / "out.jsonl"))


def test_idle_is_called_while_no_input_comes(tmp_path: Path) -> None:
    config = line(frames=100)
    config["nodes"]["source"]["settings"]["pause_after"] = 3
    config["nodes"]["patient"] = node("Patient", {"frame": "copy.copied"})
    with Graph(tmp_path, config) as graph:
        assert graph.wait() == 0, graph.text()
        assert "patient asks the graph to finish" in graph.text()
