"""Measure the cost of profiling: its own work alone, and the same graph with and without it in turns.

python -m tests.bench.profile_cost [CLIP] [--repeats 15] [--set node.setting=value] [--json FILE]

With CLIP, the graph of configs/bench.yaml runs on it; without, a hop of 1080p pictures without a copy, as fast as
possible, which is the hardest case: only the runtime works there. The runs compare the CPU times of all nodes per
frame, as frames per second vary by several per cent from run to run. Even CPU times vary by more than profiling costs,
so the additional work with --profile is also timed alone: the rows that a node's meter keeps and sends with its
reports, and that the supervisor collects. The files are written once, after the run, and do not count.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import msgpack
import numpy as np

from graph import config
from graph.metrics import Meter
from graph.profile import NodeProfile, Profile
from graph.spec import NodeSpec
from tests.bench._measure import Run, console, head, interleave, load, median, save, table, verdict
from tests.bench._ours import hop_spec, received, run_quietly
from tests.bench._traffic import Plan
from tests.bench.pipeline import CONFIG

GOAL_PERCENT = 2.0
REPORTS = 20  # of a node, one per second
PLAN = Plan(paced=1, warm_up=0, flood_s=0.8)  # short, as the speed of the machine changes within seconds


def hop(profiled: bool) -> dict[str, float]:
    """Return pictures per second and CPU time per picture of a hop."""
    with tempfile.TemporaryDirectory(prefix="fg") as name:
        folder = Path(name)
        profile = run_quietly(hop_spec(PLAN, False, folder), folder / "profile" if profiled else None)
        arrived = received(folder)
        return {"fps": arrived["fps"], "cpu_us": cpu_us(profile, arrived["received"]), "nodes": len(profile.nodes)}


def clip(path: Path, overrides: list[str], profiled: bool) -> dict[str, float]:
    """Return frames per second and CPU time per frame of configs/bench.yaml on a clip."""
    with tempfile.TemporaryDirectory(prefix="fg") as folder:
        files = [f"capture.uri={path.absolute()}", f"lines.path={folder}/lines.jsonl"]
        spec = config.load(CONFIG, [*files, *overrides])
        profile = run_quietly(spec, Path(folder) / "profile" if profiled else None)
        lines = profile.nodes["lines"]
        return {"fps": profile.fps(lines), "cpu_us": cpu_us(profile, lines.frames), "nodes": len(profile.nodes)}


def cpu_us(profile: Profile, frames: float) -> float:
    """Return the CPU time of all nodes per frame, microseconds."""
    return 1e6 * sum(node.playing_cpu_s for node in profile.nodes.values()) / frames


def metering(node: NodeSpec, frames: int, profiled: bool) -> dict[str, float]:
    """Return the CPU time that metering takes per frame and node, with a report every `frames` frames."""
    meter, taken = Meter(profiled), NodeProfile(node)
    began = time.process_time()
    for _ in range(REPORTS):
        for seq in range(frames):
            meter.frame(seq, 1, 2, 3, 4, 1)
        taken.take(msgpack.unpackb(msgpack.packb(meter.snapshot())))
    return {"cpu_us": 1e6 * (time.process_time() - began) / (REPORTS * frames)}


def interval_of_median(values: list[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the median (percentile bootstrap)."""
    drawn = np.random.default_rng(0).choice(values, (4000, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), (2.5, 97.5))
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profile_cost", description=__doc__)
    parser.add_argument("clip", type=Path, nargs="?")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="NODE.SETTING=VALUE")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    run = partial(clip, options.clip, options.overrides) if options.clip else hop
    runs: dict[str, Run] = {"plain": partial(run, False), "profiled": partial(run, True)}
    about = head(f"cost of profiling, {options.repeats} repetitions")
    results = interleave(runs, options.repeats)
    shown = table("", "fps", "CPU us per frame", "more than without, %", "95 % interval")
    said = {}
    for name, found in results.items():
        pairs = zip(found, results["plain"], strict=True)
        costs = [100 * (mine["cpu_us"] / other["cpu_us"] - 1) for mine, other in pairs]
        cost, low, high = float(np.median(costs)), *interval_of_median(costs)
        fps, cpu = median(found, "fps"), median(found, "cpu_us")
        said[name] = {"fps": fps, "cpu_us": cpu, "cost_percent": cost, "interval": [low, high]}
        shown.add_row(name, f"{fps:,.1f}", f"{cpu:,.1f}", f"{cost:.2f}", f"{low:.2f} .. {high:.2f}")
    console.print(shown)
    plain = results["plain"]
    frames, nodes, cpu = round(median(plain, "fps")), median(plain, "nodes"), median(plain, "cpu_us")
    node = NodeSpec("camera", "Capture")
    alone = interleave({name: partial(metering, node, frames, name == "profiled") for name in runs}, options.repeats)
    more = nodes * (median(alone["profiled"], "cpu_us") - median(alone["plain"], "cpu_us"))
    cost = 100 * more / cpu
    said["alone"] = {"us_per_frame": more, "cost_percent": cost}
    console.print(f"timed alone, profiling costs {more:.2f} us per frame in {nodes:.0f} nodes and "
                  f"the supervisor: {cost:.3f} % "
                  f"({verdict(cost, GOAL_PERCENT, at_most=True)}), load {load():.1f}")
    save(options.json, {"about": about, "verdict": said, "runs": results})


if __name__ == "__main__":
    main()
