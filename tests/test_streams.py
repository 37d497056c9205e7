"""Streams through whole graphs in real processes: diamonds, fan-out, policies, held inputs, restarts."""

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from graph import attach
from tests.conftest import PATIENCE_S, eventually
from tests.graphs import Graph, node, rows, wait_for_rows

pytestmark = pytest.mark.slow


def diamond(copy: dict[str, Any] | None = None, **source: Any) -> dict[str, Any]:
    """source -> copy -> pair.b, source -> pair.a"""
    return {
        "name": "diamond",
        "nodes": {
            "source": node("Source", **source),
            "copy": node("Copy", {"frame": "source.frame"}, **(copy or {})),
            "pair": node("Pair", {"a": "source.frame", "b": "copy.copied"}),
            "write": node("WriteNumbers", {"numbers": "pair.paired"}),
        },
    }


def pairs(folder: Path) -> list[list[float]]:
    """The output of a diamond: seq, seq and pixel of one input, seq of the other (-1: nothing)."""
    return [[seq, *values] for seq, values in rows(folder / "numbers.jsonl")]


def fan_out(policies: dict[str, dict[str, Any]], frames: int, **source: Any) -> dict[str, Any]:
    """One source, and for each name a Write node with the given edge."""
    writers = {name: node("Write", {"frame": "source.frame"}, path=f"{name}.jsonl") for name in policies}
    return {
        "name": "fan",
        "nodes": {"source": node("Source", frames=frames, **source), **writers},
        "edges": {f"source.frame -> {name}.frame": edge for name, edge in policies.items() if edge},
    }


def numbers(path: Path) -> list[int]:
    return [row[0] for row in rows(path)]


def test_frames_of_a_source_that_sets_no_times_have_those_of_their_yield(tmp_path: Path) -> None:
    nodes = {
        "source": node("Untimed"),
        "times": node("Times", {"frame": "source.frame"}),
        "write": node("WriteNumbers", {"numbers": "times.times"}),
    }
    with Graph(tmp_path, {"name": "untimed", "nodes": nodes}) as graph:
        assert graph.wait() == 0, graph.text()
    times = [values[0] for _, values in rows(tmp_path / "numbers.jsonl")]
    assert times[0] == 0.0 and len(times) == 5
    assert all(later - earlier >= 0.002 for earlier, later in pairwise(times))


def test_diamond_that_blocks_matches_every_frame(tmp_path: Path) -> None:
    with Graph(tmp_path, diamond(frames=200)) as graph:
        assert graph.wait() == 0, graph.text()
    assert pairs(tmp_path) == [[seq, seq, seq % 251, seq] for seq in range(200)]


@pytest.mark.parametrize("every", [1, 3])
def test_a_node_prepares_each_frame_once_while_an_input_is_late(tmp_path: Path, every: int) -> None:
    nodes = {
        "source": node("Source", frames=20),
        "some": node("Copy", {"frame": "source.frame"}, every=every),
        "late": node("AfterAhead", {"frame": "some.copied"}),
        "ahead": node("Ahead", {"a": "some.copied", "b": "late.copied"}),
        "write": node("WriteNumbers", {"numbers": "ahead.numbers"}),
    }
    with Graph(tmp_path, {"name": "ahead", "nodes": nodes}) as graph:
        assert graph.wait() == 0, graph.text()
    assert rows(tmp_path / "numbers.jsonl") == [[seq, [1.0]] for seq in range(0, 20, every)]


@pytest.mark.parametrize("queue", [1, 4])
def test_diamond_with_a_branch_that_skips_frames(tmp_path: Path, queue: int) -> None:
    config = diamond({"every": 3}, frames=100)
    config["edges"] = {
        edge: {"queue": queue}
        for edge in ("source.frame -> pair.a", "source.frame -> copy.frame", "copy.copied -> pair.b")
    }
    with Graph(tmp_path, config) as graph:
        assert graph.wait() == 0, graph.text()
    assert pairs(tmp_path) == [[seq, seq, seq % 251, -1 if seq % 3 else seq] for seq in range(100)]


def test_live_diamond_with_a_slow_branch_gives_matched_frames(tmp_path: Path) -> None:
    config = diamond({"pause": 0.02}, frames=100_000, pause=0.004, is_live=True)
    with Graph(tmp_path, config) as graph:
        wait_for_rows(tmp_path / "numbers.jsonl", 40)
        graph.interrupt()
        assert graph.wait() == 0, graph.text()
    got = pairs(tmp_path)
    assert all(seq == a == b and pixel == seq % 251 for seq, a, pixel, b in got)
    seqs = [row[0] for row in got]
    assert seqs == sorted(set(seqs))
    assert seqs[-1] > 2 * len(seqs)  # the slow branch skipped frames, and so did the fast one with it


def test_held_input_never_delays(tmp_path: Path) -> None:
    """The slow branch is held: every frame of the fast one arrives, with the newest of the slow one."""
    config = diamond({"pause": 0.05}, frames=150, pause=0.005)
    config["edges"] = {
        "source.frame -> copy.frame": {"policy": "latest"},
        "copy.copied -> pair.b": {"join": "hold", "policy": "latest"},
    }
    with Graph(tmp_path, config) as graph:
        assert graph.wait() == 0, graph.text()
    got = pairs(tmp_path)
    assert [row[0] for row in got] == [*range(150)]
    held = [row[3] for row in got]
    assert held[0] == -1 and held == sorted(held)
    assert 3 < len(set(held)) < 100


def test_join_of_sources_of_different_length_ends_with_the_shorter(tmp_path: Path) -> None:
    config = diamond(frames=30)
    config["nodes"]["copy"] = node("Source", frames=100_000, pause=0.001)
    config["nodes"]["pair"]["inputs"] = {"a": "source.frame", "b": "copy.frame"}
    with Graph(tmp_path, config) as graph:
        assert graph.wait() == 0, graph.text()
    assert [row[0] for row in pairs(tmp_path)] == [*range(30)]


def test_fan_out_to_five(tmp_path: Path) -> None:
    with Graph(tmp_path, fan_out({f"w{i}": {} for i in range(5)}, frames=150)) as graph:
        assert graph.wait() == 0, graph.text()
    for i in range(5):
        got = rows(tmp_path / f"w{i}.jsonl")
        assert [row[:4] for row in got] == [[seq, 0, seq, True] for seq in range(150)]


def test_policies_side_by_side_account_for_every_frame(tmp_path: Path) -> None:
    """What a slow reader misses depends on its policy, and the report counts it."""
    policies = {
        "all": {},
        "oldest": {"policy": "drop_oldest", "queue": 3},
        "newest": {"policy": "drop_newest", "queue": 3},
        "latest": {"policy": "latest"},
    }
    config = fan_out(policies, frames=200, pause=0.002)
    for name in ("oldest", "newest", "latest"):
        config["nodes"][name]["settings"]["pause"] = 0.03
    with Graph(tmp_path, config, "run", "--profile", str(tmp_path / "profile")) as graph:
        assert graph.wait() == 0, graph.text()
    dropped = {edge["name"]: edge["dropped"] for edge in edges_of(tmp_path / "profile")}
    got = {name: numbers(tmp_path / f"{name}.jsonl") for name in policies}
    assert got["all"] == [*range(200)]
    for name, seqs in got.items():
        assert seqs == sorted(set(seqs))
        assert len(seqs) + dropped[f"source.frame -> {name}.frame"] == 200
    for name in ("oldest", "latest"):
        assert got[name][-1] == 199  # the last one is never dropped
        assert len(got[name]) < 150
    assert got["newest"][:6] == [*range(6)]  # three in transit, three in the queue


def edges_of(profile: Path) -> list[dict[str, Any]]:
    found = json.loads((profile / "latency.json").read_text())["edges"]
    return [{"name": name, **edge} for name, edge in found.items()] if isinstance(found, dict) else found


def test_restarted_branch_of_a_diamond_continues(tmp_path: Path) -> None:
    """Frames that were lost with the branch are dropped; the blocked source must not wait for them for ever."""
    config = diamond(frames=100_000, pause=0.002)
    config["nodes"]["copy"] = node("FailOnce", {"frame": "source.frame"}, mark=str(tmp_path / "mark"))
    config["nodes"]["copy"]["restart"] = "on_failure"
    with Graph(tmp_path, config) as graph:
        assert eventually(lambda: len(pairs(tmp_path)) > 50), graph.text()
        graph.interrupt()
        assert graph.wait() == 0, graph.text()
        assert "copy: restarting" in graph.text()
    got = pairs(tmp_path)
    assert all(seq == a == b for seq, a, _pixel, b in got)
    assert [row[0] for row in got] == sorted({row[0] for row in got})


def test_restarted_source_waits_for_busy_consumers(tmp_path: Path) -> None:
    """Its first frame reaches the readers of its previous process, even if they notice late."""
    config = fan_out({"late": {"policy": "block"}}, frames=100_000, pause=0.01)
    config["nodes"]["source"]["restart"] = "on_failure"
    with Graph(tmp_path, config) as graph, attach("fan", wait=PATIENCE_S) as running:
        wait_for_rows(tmp_path / "late.jsonl", 1)
        late = graph.node("late")
        late.suspend()
        graph.node("source").kill()
        again = lambda: "restarting" in graph.text() and running.spec()["nodes"]["source"]["state"]  # noqa: E731
        assert eventually(lambda: again() in ("LINKED", "PLAYING")), graph.text()
        time.sleep(0.5)  # time for fifty frames
        late.resume()
        assert eventually(lambda: any(row[1] == 1 for row in rows(tmp_path / "late.jsonl"))), graph.text()
        graph.interrupt()
        assert graph.wait() == 0, graph.text()
    first = next(row for row in rows(tmp_path / "late.jsonl") if row[1] == 1)
    assert first[2] == 0, "each frame bears its number in its pixels"


def test_interrupt_while_a_node_waits_for_its_restart(tmp_path: Path) -> None:
    config = fan_out({"write": {}}, frames=100_000, pause=0.002)
    config["nodes"]["bad"] = node("Fail", {"frame": "source.frame"}, at=5, how="exit")
    config["nodes"]["bad"]["restart"] = "on_failure"
    config["nodes"]["late"] = node("Write", {"frame": "bad.copied"}, path="late.jsonl")
    with Graph(tmp_path, config) as graph:
        assert eventually(lambda: "bad: restarting" in graph.text()), graph.text()
        graph.interrupt()
        assert graph.wait() == 0, graph.text()
        assert "killed" not in graph.text()
    assert (tmp_path / "late.jsonl").read_text().endswith("closed\n")


def test_source_with_restart_always_continues_until_the_graph_ends(tmp_path: Path) -> None:
    config = fan_out({"write": {}}, frames=200, pause=0.005)
    config["nodes"]["source"]["restart"] = "always"
    out = tmp_path / "write.jsonl"
    with Graph(tmp_path, config) as graph:
        assert eventually(lambda: any(row[1] >= 2 for row in rows(out)), 40), graph.text()
        graph.interrupt()
        assert graph.wait() == 0, graph.text()
    assert numbers(out) == sorted(set(numbers(out)))
    assert out.read_text().endswith("closed\n")


def test_node_with_restart_always_ends_with_its_stream(tmp_path: Path) -> None:
    config = fan_out({"write": {}}, frames=10)
    config["nodes"]["write"]["restart"] = "always"
    with Graph(tmp_path, config) as graph:
        assert graph.wait() == 0, graph.text()
    assert numbers(tmp_path / "write.jsonl") == [*range(10)]


def test_extra_nodes_that_rejoin_continue_though_one_was_busy_when_their_source_was_restarted(tmp_path: Path) -> None:
    block = {"policy": "block", "queue": 1}
    extra = {
        "attach": "main",
        "nodes": {
            "busy": node("Copy", {"frame": "main/source.frame"}),
            "pair": node("Pair", {"a": "main/source.frame", "b": "busy.copied"}),
            "write": node("WriteNumbers", {"numbers": "pair.paired"}),
        },
        "edges": {f"main/source.frame -> {target}": block for target in ("busy.frame", "pair.a")},
    }
    main = {"name": "main", "nodes": {"source": node("Source", frames=100_000, pause=0.005)}}
    numbers = tmp_path / "numbers.jsonl"
    with Graph(tmp_path, main) as graph, Graph(tmp_path, extra, "attach", "--wait") as attached:
        wait_for_rows(numbers, 10)
        with attach("main") as g, attach("extra") as g_extra:
            g_extra.set("busy.pause", 3.0)  # it is too busy to connect to the new process, which sends to the other one
            g.restart("source")
            assert eventually(lambda: g.stats()["nodes"]["source"]["state"] == "BLOCKED")
            g_extra.set("busy.pause", 0.0)
        assert eventually(lambda: "busy: source of the graph 'main' was restarted" in attached.text())
        wait_for_rows(numbers, len(rows(numbers)) + 100)
        graph.interrupt()
        assert graph.wait() == 0, graph.text()
        assert attached.wait() == 0, attached.text()
