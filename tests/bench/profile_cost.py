"""Measure what profiling and metering cost: the same graph with and without, taking turns.

python -m tests.bench.profile_cost [CLIP] [--repeats 15] [--set node.setting=value] [--json FILE]

With CLIP the graph of configs/bench.yaml runs on it; without, a hop of 1080p pictures born in their slots, flat out,
the hardest case: nothing but the runtime works there. "unmetered" is the hop without histograms and times as well.
"""

import argparse
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from graph import config
from graph.spec import GraphSpec
from tests.bench._measure import Run, console, head, interleave, load, median, save, table, verdict
from tests.bench._ours import hop_spec, received, run_quietly
from tests.bench._traffic import Plan
from tests.bench.pipeline import CONFIG

GOAL_PERCENT = 2.0  # issue 2
PLAN = Plan(paced=1, warm_up=0, flood_s=0.8)  # short, and taking turns: the machine changes its mood within seconds


def hop(profiled: bool, metered: bool = True) -> dict[str, float]:
    """Return the pictures per second of a hop."""
    with tempfile.TemporaryDirectory(prefix="fg") as name:
        folder = Path(name)
        spec = hop_spec(PLAN, False, folder)
        run_quietly(spec if metered else unmetered(spec), folder / "profile" if profiled else None)
        return {"fps": received(folder)["fps"]}


def unmetered(spec: GraphSpec) -> GraphSpec:
    """Return the hop with nodes whose processes measure nothing."""
    nodes = {name: replace(node, type=node.type.replace("_nodes", "_unmetered")) for name, node in spec.nodes.items()}
    return replace(spec, nodes=nodes)


def clip(path: Path, overrides: list[str], profiled: bool) -> dict[str, float]:
    """Return the frames per second of configs/bench.yaml on a clip."""
    with tempfile.TemporaryDirectory(prefix="fg") as folder:
        files = [f"capture.uri={path.absolute()}", f"lines.path={folder}/lines.jsonl"]
        spec = config.load(CONFIG, [*files, *overrides])
        return {"fps": run_quietly(spec, Path(folder) / "profile" if profiled else None).nodes["lines"].fps}


def interval_of_median(values: list[float]) -> tuple[float, float]:
    """Return the 95 % interval of the median, by drawing the runs anew (percentile bootstrap)."""
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
    runs: dict[str, Run] = {"plain": partial(hop, False), "profiled": partial(hop, True)}
    runs["unmetered"] = partial(hop, False, False)
    if options.clip:
        runs = {
            name: partial(clip, options.clip, options.overrides, name == "profiled") for name in ("plain", "profiled")
        }
    about = head(f"cost of profiling, {options.repeats} repetitions")
    results = interleave(runs, options.repeats)
    shown = table("", "fps", "slower than without, %", "95 % interval of it")
    said = {}
    for name, found in results.items():
        costs = [100 * (1 - mine["fps"] / other["fps"]) for mine, other in zip(found, results["plain"], strict=True)]
        cost, low, high = float(np.median(costs)), *interval_of_median(costs)
        said[name] = {"fps": median(found, "fps"), "cost_percent": cost, "interval": [low, high]}
        shown.add_row(name, f"{median(found, 'fps'):,.1f}", f"{cost:.2f}", f"{low:.2f} .. {high:.2f}")
    console.print(shown)
    cost = said["profiled"]["cost_percent"]
    console.print(f"profiling costs {cost:.2f} % ({verdict(cost, GOAL_PERCENT, at_most=True)}), load {load():.1f}")
    save(options.json, {"about": about, "verdict": said, "runs": results})


if __name__ == "__main__":
    main()
