"""Measure the latency from capture to smoothed landmarks of a live 720p stream at 30 frames per second.

python -m tests.bench.live [CLIP] [--faces 1 5] [--seconds 20] [--set node.setting=value] [--json FILE]

The graph is configs/webcam.yaml up to `smooth`, with the test source in place of the camera, in real time, or with
CLIP, paced and in a loop. The age of a frame is the time from its capture to the end of `smooth`; the detector runs in
parallel (`join: hold`) and does not delay it.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from graph import config
from graph.spec import GraphSpec, NodeSpec
from tests.bench._measure import console, head, load, save, table, verdict
from tests.bench._ours import run_quietly

CONFIG = Path("configs/webcam.yaml")
CHAIN = ("camera", "detector", "landmarks", "smooth")
GOALS = {1: {"p50": 8.0, "p99": 20.0}, 5: {"p50": 12.0}}  # milliseconds by number of faces


def camera(faces: int, clip: Path | None) -> NodeSpec:
    """Return a node in place of a 720p camera at 30 fps."""
    if clip:
        settings: dict[str, Any] = {"uri": str(clip.absolute()), "paced": True, "loop": True}
        return NodeSpec("camera", "nodes.capture:Capture", settings)
    shown = {"width": 1280, "height": 720, "fps": 30.0, "copies": faces, "paced": True, "noise": 2.0}
    return NodeSpec("camera", "nodes.source:TestSource", shown)


def chain(faces: int, clip: Path | None, overrides: list[str]) -> GraphSpec:
    """Return the webcam graph without drawing and window."""
    spec = config.load(CONFIG, overrides)
    nodes = {name: spec.nodes[name] for name in CHAIN} | {"camera": camera(faces, clip)}
    edges = tuple(edge for edge in spec.edges if edge.target_node in CHAIN)
    return replace(spec, name="live-bench", nodes=nodes, edges=edges)


def measure(faces: int, clip: Path | None, seconds: float, overrides: list[str]) -> dict[str, float]:
    """Run the graph once; return the age at the end of `smooth` and the time of each node, in ms."""
    profile = run_quietly(chain(faces, clip, overrides), duration=seconds)
    nodes = profile.nodes
    found = {f"age.p{p}": nodes["smooth"].times("age").percentile(p) / 1e6 for p in (50, 95, 99)}
    found |= {f"{name}.p50": nodes[name].times("process").percentile(50) / 1e6 for name in CHAIN[1:]}
    return found | {"fps": profile.fps(nodes["smooth"]), "dropped": float(sum(profile.dropped().values()))}


def judge(faces: int, found: Mapping[str, float]) -> str:
    """Return whether the goals for this number of faces are met."""
    return ", ".join(
        f"{name} {verdict(found[f'age.{name}'], goal, at_most=True)} ms" for name, goal in GOALS.get(faces, {}).items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.live", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clip", type=Path, nargs="?")
    parser.add_argument("--faces", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="NODE.SETTING=VALUE")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    about = head(f"{CONFIG} without a window, {given.seconds:.0f} s each")
    run = partial(measure, clip=given.clip, seconds=given.seconds, overrides=given.overrides)
    results = {given.clip.name: run(0)} if given.clip else {f"{n} faces": run(n) for n in given.faces}
    ages = ("capture -> smooth p50", "p95", "p99")
    rows = table("ms", *ages, *(f"{name} p50" for name in CHAIN[1:]), "fps", "dropped")
    for name, found in results.items():
        *times, fps, dropped = found.values()
        rows.add_row(name, *(f"{ms:.1f}" for ms in times), f"{fps:.1f}", f"{dropped:.0f}")
    console.print(rows)
    for name, found in results.items():
        console.print(f"{name}: {judge(1 if given.clip else int(name.split()[0]), found)}")
    console.print(f"load at the end {load():.1f}")
    save(given.json, {"about": about, "results": results})


if __name__ == "__main__":
    main()
