"""Nodes of a real graph that fail: how they are reported, and which are restarted."""

import re
from pathlib import Path

import pytest

from tests.conftest import eventually
from tests.graphs import Graph, line, node, rows, wait_for_rows

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raise", "bad failed on frame 5: ZeroDivisionError: seven by zero"),
        ("interrupt", "bad failed on frame 5: KeyboardInterrupt\n"),
        ("exit", "bad ended with exit code 7 and reported no error"),
        ("sys.exit", "bad failed on frame 5: SystemExit: bye"),
        ("nonsense", "bad failed on frame 5: TypeError: Fail.process() gave str"),
        ("close", "bad failed in close: RuntimeError: disk full"),
        ("open", "bad failed in open: RuntimeError: no such model"),
    ],
)
def test_failing_node_is_named(tmp_path: Path, how: str, words: str) -> None:
    config = line(frames=20)
    config["nodes"]["bad"] = node("Fail", {"frame": "copy.copied"}, how=how)
    config["nodes"]["write"]["inputs"] = {"frame": "bad.copied"}
    with Graph(tmp_path, config) as graph:
        assert graph.wait() == 1
        assert words in graph.text()
        assert how == "exit" or "Traceback" in graph.text()
        assert "worker.py" not in graph.text()  # only the node's own lines
    seqs = [row[0] for row in rows(tmp_path / "out.jsonl")]
    if how in ("raise", "interrupt", "sys.exit", "nonsense"):
        assert seqs == list(range(5))
    if how == "exit":  # messages that a process has not delivered are lost with it
        assert seqs == sorted(set(seqs) & set(range(5)))
    if how != "open":
        assert (tmp_path / "out.jsonl").read_text().endswith("closed\n")


def test_node_that_hangs_at_the_end_is_named_apart_from_those_that_wait_for_it(tmp_path: Path) -> None:
    config = line(frames=20)
    config["nodes"]["bad"] = node("Fail", {"frame": "copy.copied"}, how="hang")
    with Graph(tmp_path, config) as graph:
        wait_for_rows(tmp_path / "out.jsonl", 20)
        graph.interrupt()
        assert graph.wait() == 1, graph.text()
        assert "error: not finished after 10 s, killed: copy (draining), bad (closing)\n" in graph.text()


class Impatient(Graph):
    """With timeouts of 1 s in place of 10 s."""

    script = ("-c", """
import graph.child, graph.supervisor, run_graph
graph.child.FAILED_S = graph.supervisor.GRACE_S = 1.0
run_graph.main()
""")


def test_failed_node_whose_messages_are_not_taken_is_killed(tmp_path: Path) -> None:
    config = line(frames=10**6, pause=0.01)
    config["nodes"]["copy"] |= {"type": "tests.toys:Fail", "settings": {"at": 3}}
    config["nodes"]["write"] = node("Copy", {"frame": "copy.copied"}, pause=1000.0)
    with Impatient(tmp_path, config) as graph:
        assert graph.wait() == 1
        assert "warning: copy: killed, still running 1 s after it failed\n" in graph.text()
        assert "error: not finished after 1 s, killed: write (processing)\n" in graph.text()


def test_crash_in_a_library_names_the_line_of_the_node(tmp_path: Path) -> None:
    nodes = {"source": node("Source", frames=3), "bad": node("Fail", {"frame": "source.frame"}, at=1, how="crash")}
    with Graph(tmp_path, {"name": "crashing", "nodes": nodes}) as graph:
        assert graph.wait() == 1
        assert "bad was killed by SIGSEGV" in graph.text()
        assert re.search(r'File ".*toys\.py", line \d+ in process', graph.text())


def test_wrong_setting_found_by_open_is_exit_code_2(tmp_path: Path) -> None:
    config = line(frames=100)
    config["nodes"]["source"] = {"type": "nodes.capture:Capture", "settings": {"uri": "no-such-clip.mp4"}}
    with Graph(tmp_path, config) as graph:
        assert graph.wait() == 2, graph.text()
        assert "source failed in open: no file" in graph.text()
        assert "Traceback" not in graph.text()


def test_node_whose_package_is_missing_is_not_restarted(tmp_path: Path) -> None:
    config = line()
    config["nodes"]["bad"] = node("Fail", {"frame": "copy.copied"}, how="import") | {"restart": "on_failure"}
    with Graph(tmp_path, config) as graph:
        assert graph.wait() == 1
    assert "bad failed in open: ModuleNotFoundError: No module named 'no_such_package'" in graph.text()
    assert "restarting" not in graph.text()


def test_restart_on_failure_continues(tmp_path: Path) -> None:
    config = line(frames=100_000, pause=0.01)
    config["nodes"]["bad"] = node("FailOnce", {"frame": "copy.copied"}, mark=str(tmp_path / "mark"))
    config["nodes"]["bad"]["restart"] = "on_failure"
    config["nodes"]["write"]["inputs"] = {"frame": "bad.copied"}
    with Graph(tmp_path, config) as graph:
        assert eventually(lambda: any(row[0] > 30 for row in rows(tmp_path / "out.jsonl"))), graph.text()
        graph.interrupt()
        assert graph.wait() == 0, graph.text()
        assert "bad: restarting" in graph.text()
    seqs = [row[0] for row in rows(tmp_path / "out.jsonl")]
    assert seqs == sorted(set(seqs))


def test_restarted_source_bumps_the_epoch(tmp_path: Path) -> None:
    config = line(frames=100_000, pause=0.01)
    config["nodes"]["source"]["restart"] = "on_failure"
    with Graph(tmp_path, config) as graph:
        wait_for_rows(tmp_path / "out.jsonl", 5)
        graph.node("source").kill()
        assert eventually(lambda: any(row[1] == 1 for row in rows(tmp_path / "out.jsonl"))), graph.text()
        graph.interrupt()
        assert graph.wait() == 0, graph.text()
    seqs = [row[0] for row in rows(tmp_path / "out.jsonl")]
    assert seqs == sorted(set(seqs))


class Hasty(Graph):
    """Restarts nodes without a delay, but not more often."""

    script = ("-c", "import run_graph, graph.child; graph.child.BACK_OFF_S = (0.1,) * 5; run_graph.main()")


def test_restart_gives_up(tmp_path: Path) -> None:
    config = line(frames=100_000, pause=0.01)
    config["nodes"]["bad"] = node("Fail", {"frame": "copy.copied"}, how="open")
    config["nodes"]["bad"]["restart"] = "on_failure"
    config["nodes"]["write"]["inputs"] = {"frame": "bad.copied"}
    with Hasty(tmp_path, config) as graph:
        assert graph.wait() == 1
        assert "giving up" in graph.text()


def test_source_with_restart_always_that_soon_ends_has_failed(tmp_path: Path) -> None:
    """All its frames arrive, however slow the other nodes are."""
    config = line(frames=20)
    config["nodes"]["source"]["restart"] = "always"
    config["nodes"]["copy"]["settings"] = {"pause": 0.02}
    with Hasty(tmp_path, config) as graph:
        assert graph.wait() == 1
        assert "source: restarted 5 times within 60 s; giving up" in graph.text()
    assert [row[1] for row in rows(tmp_path / "out.jsonl")] == [epoch for epoch in range(6) for _ in range(20)]
