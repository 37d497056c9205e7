"""Statistics of a running graph over the last seconds."""

import time
from typing import Any

import pytest

from graph.metrics import Meter
from graph.spec import EdgeSpec, GraphSpec, NodeSpec
from graph.stats import Stats

EDGES = (EdgeSpec("a.x", "b.x"), EdgeSpec("other/c.x", "c.y", "latest", 1, "hold"))
SPEC = GraphSpec("g", "other", {name: NodeSpec(name, f"tests.toys:{name}") for name in "abc"}, EDGES, "g.yaml")
READER = "a.x -> attached"  # an attached reader
EDGE = EDGES[0].name
S = 10**9
START_NS = time.monotonic_ns() + 3600 * S  # in the future, so that no node counts as silent


def heard(meter: Meter, at_s: float, **more: Any) -> dict[str, Any]:
    """A snapshot of a process that was started at 0 s."""
    return meter.snapshot() | {"started_ns": 0, "time_ns": START_NS + round(at_s * S)} | more


def summary(stats: Stats, state: str = "PLAYING") -> dict[str, Any]:
    return stats.summary(dict.fromkeys("abc", state), {"a": 0, "b": 2, "c": 0})


def test_old_snapshots_are_dropped() -> None:
    """It runs slowly for ten seconds, then three times as fast."""
    stats, meter = Stats(SPEC), Meter(trace=False)
    for second in range(21):
        took_ms, frames = (50, 10) if second <= 10 else (10, 30)
        for seq in range(frames if second else 0):
            meter.frame(seq, 1, 1, 1 + took_ms * 10**6, 1 + took_ms * 10**6, 0)
            meter.said("x")
        stats.take("a", heard(meter, second, cpu_s=second / 4))
    found = summary(stats)
    node = found["nodes"]["a"]
    assert (found["window_s"], node["fps"], node["frames"], node["cpu_percent"]) == (5.0, 30.0, 400, 25.0)
    assert [*node["process_ms"]] == ["p50", "p95", "p99"]
    assert 9.8 < node["process_ms"]["p50"] <= node["process_ms"]["p99"] < 10.2
    assert [found["nodes"][name]["restarts"] for name in "abc"] == [0, 2, 0]
    assert node["age_ms"] is None, "the capture times are unknown"
    assert found["edges"]["a.x -> b.x"]["rate"] == 30.0


def test_edges_have_queue_rate_and_drops() -> None:
    stats, meter = Stats(SPEC), Meter(trace=False)
    meter.depths({"a.x -> b.x": 0, READER: 0})
    stats.take("a", heard(meter, 0))
    for _ in range(8):
        meter.said("x")
    meter.drop("a.x -> b.x", 6)
    meter.drop(READER, 10)  # of two readers, which are counted as one
    meter.depths({"a.x -> b.x": 3, READER: 1})
    stats.take("a", heard(meter, 2))
    found = summary(stats)
    lost = {"rate": 1.0, "dropped": 6, "dropped_per_s": 3.0, "queued": 3}
    assert found["edges"] == {
        "a.x -> b.x": {"from": "a.x", "to": "b.x", "policy": "block", "queue": 4, "join": "seq"} | lost,
        "other/c.x -> c.y": {"from": "other/c.x", "to": "c.y", "policy": "latest", "queue": 1, "join": "hold"}
        | {"rate": None, "dropped": None, "dropped_per_s": None, "queued": None},
        READER: {"from": "a.x", "to": "attached", "policy": None, "queue": None, "join": None}
        | {"rate": 0.0, "dropped": 10, "dropped_per_s": 5.0, "queued": 1},
    }
    for name, counts in {"a": [0, 0, 0], "b": [3, 6, 3.0], "c": [None] * 3}.items():  # c: the other graph counts
        assert [found["nodes"][name][key] for key in ("queue", "dropped", "dropped_per_s")] == counts


def test_the_state_of_a_node_while_the_graph_plays() -> None:
    stats, meter = Stats(SPEC), Meter(trace=False)
    silent = summary(stats)["nodes"]["a"]  # it has sent no snapshot yet
    assert (silent["state"], silent["fps"], silent["process_ms"]) == ("PLAYING", 0, None)
    meter.state("BLOCKED", 0)
    stats.take("a", heard(meter, 0, state_ns={"PROCESSING": 0}))
    stats.take("a", heard(meter, 2, state_ns={"PROCESSING": 10**9, "BLOCKED": 10**9}))
    node = summary(stats)["nodes"]["a"]
    assert (node["state"], node["busy_percent"]) == ("BLOCKED", 50.0)
    assert summary(stats, "DONE")["nodes"]["a"]["state"] == "DONE"


def test_paths_are_the_ages_at_the_sinks() -> None:
    stats, meter = Stats(SPEC), Meter(trace=False)
    stats.take("b", heard(meter, 0))
    meter.frame(0, 10**9, 10**9, 10**9, 10**9, 10**9 - 20 * 10**6)
    stats.take("b", heard(meter, 1))
    paths = summary(stats)["paths"]
    assert [*paths] == ["b", "c"] and 19.6 < paths["b"]["p50"] < 20.4


def snapshot(
    now_ns: int, ago_s: float, frames: int, started_ns: int = 1, dropped: int = 0, unmatched: int = 0
) -> dict[str, Any]:
    """A snapshot taken that many seconds before `now_ns`."""
    counts = {"frames": frames, "dropped": {EDGE: dropped}, "unmatched": unmatched}
    at = {"started_ns": started_ns, "time_ns": now_ns - int(ago_s * S)}
    return Meter(trace=False).snapshot() | counts | at


def test_counts_continue_after_a_restart() -> None:
    now, now_ns = Stats(SPEC), time.monotonic_ns()
    now.take("a", snapshot(now_ns, 3, 40, dropped=7, unmatched=2))
    now.take("a", snapshot(now_ns, 2, 0, started_ns=2))
    assert summary(now)["nodes"]["a"]["fps"] == 0
    now.take("a", snapshot(now_ns, 1, 5, started_ns=2, dropped=1, unmatched=1))
    found = summary(now)
    assert (found["nodes"]["a"]["frames"], found["nodes"]["a"]["unmatched"]) == (45, 3)
    assert found["edges"][EDGE]["dropped"] == found["nodes"]["b"]["dropped"] == 8
    assert found["nodes"]["a"]["fps"] == pytest.approx(5, rel=0.01)


def test_the_time_before_the_first_frame_does_not_count() -> None:
    now, now_ns = Stats(SPEC), time.monotonic_ns()
    for ago_s in (5, 4, 3, 2):
        now.take("a", snapshot(now_ns, ago_s, 0))
    now.take("a", snapshot(now_ns, 1, 30))
    assert summary(now)["nodes"]["a"]["fps"] == pytest.approx(30, rel=0.01)


def test_a_silent_node_keeps_only_its_counts() -> None:
    now, now_ns = Stats(SPEC), time.monotonic_ns()
    for ago_s, frames in ((14, 0), (12, 60), (10, 120)):
        now.take("a", snapshot(now_ns, ago_s, frames))
    found = summary(now)["nodes"]["a"]
    assert (found["fps"], found["cpu_percent"], found["process_ms"], found["frames"]) == (0, 0, None, 120)


@pytest.mark.parametrize("state", ["NULL", "DONE", "FAILED"])
def test_a_node_without_a_process_uses_no_memory(state: str) -> None:
    now = Stats(SPEC)
    now.take("a", snapshot(time.monotonic_ns(), 0, 1))
    assert summary(now)["nodes"]["a"]["memory_mb"] > 0
    assert summary(now, state)["nodes"]["a"]["memory_mb"] == 0


def test_no_trace_is_kept() -> None:
    """It may hold thousands of frames, ten times in the window."""
    now, meter = Stats(SPEC), Meter(trace=True)
    meter.frame(0, 1, 1, 1, 1, 1)
    now.take("a", heard(meter, 0))
    latest = now.nodes["a"].latest
    assert latest is not None and latest["frames"] == 1 and "trace" not in latest
