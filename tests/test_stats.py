"""What `top` shows of a node: over a few seconds, since the start, and of one that says nothing any more."""

import time
from typing import Any

import pytest

from graph.metrics import Meter
from graph.spec import EdgeSpec, GraphSpec, NodeSpec
from graph.stats import Stats

EDGE = EdgeSpec("a.out", "b.in")
S = 10**9


def stats() -> Stats:
    return Stats(GraphSpec("g", None, {name: NodeSpec(name, f"nodes.{name}:N") for name in "ab"}, (EDGE,), "g.yaml"))


def snapshot(
    now_ns: int, ago_s: float, frames: int, started_ns: int = 1, dropped: int = 0, unmatched: int = 0
) -> dict[str, Any]:
    """A report of so many seconds before `now_ns`."""
    counts = {"frames": frames, "dropped": {EDGE.name: dropped}, "unmatched": unmatched}
    at = {"started_ns": started_ns, "time_ns": now_ns - int(ago_s * S)}
    return Meter("a", trace=False).snapshot() | counts | at


def seen(stats: Stats) -> dict[str, Any]:
    found: dict[str, Any] = stats.summary(dict.fromkeys("ab", "PLAYING"), dict.fromkeys("ab", 0))
    return found


def test_counts_go_on_when_a_node_is_started_again() -> None:
    now, now_ns = stats(), time.monotonic_ns()
    now.take("a", snapshot(now_ns, 3, 40, dropped=7, unmatched=2))
    now.take("a", snapshot(now_ns, 2, 0, started_ns=2))
    now.take("a", snapshot(now_ns, 1, 5, started_ns=2, dropped=1, unmatched=1))
    found = seen(now)
    assert (found["nodes"]["a"]["frames"], found["nodes"]["a"]["unmatched"]) == (45, 3)
    assert found["edges"][EDGE.name]["dropped"] == found["nodes"]["b"]["dropped"] == 8
    assert found["nodes"]["a"]["fps"] == pytest.approx(5, rel=0.01)


def test_the_time_before_the_first_frame_makes_nothing_slower() -> None:
    now, now_ns = stats(), time.monotonic_ns()
    for ago_s in (5, 4, 3, 2):
        now.take("a", snapshot(now_ns, ago_s, 0))
    now.take("a", snapshot(now_ns, 1, 30))
    assert seen(now)["nodes"]["a"]["fps"] == pytest.approx(30, rel=0.01)


def test_of_a_node_that_says_nothing_any_more_only_the_counts_are_told() -> None:
    now, now_ns = stats(), time.monotonic_ns()
    for ago_s, frames in ((14, 0), (12, 60), (10, 120)):
        now.take("a", snapshot(now_ns, ago_s, frames))
    found = seen(now)["nodes"]["a"]
    assert (found["fps"], found["cpu_percent"], found["process_ms"], found["frames"]) == (0, 0, None, 120)
