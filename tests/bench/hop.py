"""Compare one hop of a picture between two processes with a bare ring of shared memory with ZeroMQ descriptors.

python -m tests.bench.hop [--size 480p|1080p|4k] [--repeats 5] [--json FILE]

one copy: the message has an ordinary array; zero copy: an array from `self.empty`. Latency is measured at 30 fps,
throughput as fast as possible over a `block` edge with the default queue, where every picture must arrive in order.
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench import _floor, _ours
from tests.bench._measure import Run, console, head, interleave, load, median, ratio, save, table, verdict
from tests.bench._traffic import Plan

SIZES = {"480p": (480, 640), "1080p": (1080, 1920), "4k": (2160, 3840)}
LATENCY_GOAL = 1.2  # times the floor
FPS_GOALS = {"one copy": 2000, "zero copy": 15000}  # at 1080p
KEYS = ("p50_us", "p95_us", "p99_us", "fps")

Results = Mapping[str, Sequence[Mapping[str, float]]]


def runs(plan: Plan, queue: int) -> dict[str, Run]:
    """Return the runs to measure, ours next to its floor."""
    made: dict[str, Run] = {}
    for mode, copy in (("one copy", True), ("zero copy", False)):
        made[f"floor, {mode}"] = partial(_floor.measure, plan, copy)
        made[f"ours, {mode}"] = partial(_ours.measure, plan, copy, queue)
    return made


def lost(results: Sequence[Mapping[str, float]]) -> int:
    """Return the number of pictures that did not arrive, or not in order."""
    return int(sum(result["sent"] - result["received"] + result["misplaced"] for result in results))


def show(results: Results) -> None:
    shown = table("", "p50 us", "p95 us", "p99 us", "fps flat out", "lost or misplaced")
    for name, found in results.items():
        numbers = [f"{median(found, key):,.0f}" for key in KEYS]
        shown.add_row(name, *numbers, str(lost(found)))
    console.print(shown)


def judge(results: Results, full_hd: bool) -> dict[str, Any]:
    """Print and return how ours compares with the floor."""
    said = {}
    for mode, goal in FPS_GOALS.items():
        ours, floor = results[f"ours, {mode}"], results[f"floor, {mode}"]
        latency, fps = ratio(ours, floor, "p50_us"), median(ours, "fps")
        rate = verdict(fps, goal, at_most=False) if full_hd else ""
        console.print(f"{mode}: p50 {latency:.2f} x floor ({verdict(latency, LATENCY_GOAL, at_most=True)}), "
                      f"{fps:,.0f} fps without loss {rate}")  # fmt: skip
        said[mode] = {"p50_ratio": latency, "fps": fps, "lost": lost(ours)}
    return said


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.hop", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="1080p")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--queue", type=int, default=4, help="of the edge")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    height, width = SIZES[options.size]
    about = head(f"one hop of {width} x {height} BGR, {options.repeats} repetitions")
    results = interleave(runs(Plan(height, width), options.queue), options.repeats)
    show(results)
    said = judge(results, options.size == "1080p")
    console.print(f"load at the end {load():.1f}")
    save(options.json, {"about": about, "size": options.size, "verdict": said, "runs": results})


if __name__ == "__main__":
    main()
