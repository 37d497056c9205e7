"""Compare the graph of configs/bench.yaml on a video with the loop of the original project.

python -m tests.bench.pipeline CLIP [--repeats 3] [--set node.setting=value] [--json FILE]

The graph decodes, detects, finds landmarks, smooths them and writes them to a file, but does not draw. Frames per
second are those of the last node, from its first frame to its last; starting does not count on either side.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from graph import config
from tests.bench._measure import Run, console, head, interleave, load, median, ratio, save, table, verdict
from tests.bench._ours import run_quietly
from tests.bench._seed import STATED_MS, Loop

GOAL = 4.0  # times the frames per second of the old loop
CONFIG = Path("configs/bench.yaml")
EVERY = (5, 1)
SHOWN = {"process": (50, 95), "wait": (50,), "publish": (50,)}

Results = Mapping[str, Sequence[Mapping[str, float]]]


def ours(clip: Path, every: int, overrides: list[str]) -> dict[str, float]:
    """Run the graph once over the clip; return fps and, as "node.name", what each node measured in ms."""
    with tempfile.TemporaryDirectory(prefix="fg") as folder:
        files = [f"capture.uri={clip.absolute()}", f"lines.path={folder}/lines.jsonl", f"detector.every={every}"]
        profile = run_quietly(config.load(CONFIG, [*files, *overrides]))
        seen = with_face(Path(folder) / "lines.jsonl")
    last = profile.nodes["lines"]
    found = {"fps": profile.fps(last), "frames": float(last.frames), "with_face": seen}
    for name, node in profile.nodes.items():
        found[f"{name}.cpu"] = node.cpu_percent
        for time, percentiles in SHOWN.items():
            found |= {f"{name}.{time}.p{p}": node.times(time).percentile(p) / 1e6 for p in percentiles}
    return found


def with_face(lines: Path) -> float:
    """Return the share of frames with a face; without one, the nodes after the detector have nothing to do."""
    faces = [bool(json.loads(line)["faces"]) for line in lines.read_text(encoding="utf-8").splitlines()]
    return sum(faces) / max(len(faces), 1)


def show_nodes(title: str, runs: Sequence[Mapping[str, float]]) -> None:
    columns = [f"{time}.p{p}" for time, percentiles in SHOWN.items() for p in percentiles]
    shown = table(title, *(f"{column.replace('.', ' ')} ms" for column in columns), "CPU %")
    for name in [key.removesuffix(".cpu") for key in runs[0] if key.endswith(".cpu")]:
        numbers = [f"{median(runs, f'{name}.{column}'):.2f}" for column in columns]
        shown.add_row(name, *numbers, f"{median(runs, f'{name}.cpu'):.0f}")
    console.print(shown)


def show_seed(runs: Sequence[Mapping[str, float]]) -> None:
    shown = table("old loop, ms per frame", *(key.removesuffix("_ms") for key in runs[0] if key.endswith("_ms")))
    shown.add_row("timed here", *(f"{median(runs, key):.2f}" for key in runs[0] if key.endswith("_ms")))
    console.print(shown)


def judge(results: Results) -> dict[str, float]:
    """Print and return frames per second, and their ratio to those of the old loop."""
    stated = 1e3 / sum(STATED_MS.values())
    timed = median(results["old loop"], "fps")
    console.print(f"old loop: {timed:.1f} fps timed here, {stated:.1f} fps by its stated stages")
    said = {"old loop": timed, "old loop, stated": stated}
    for every in EVERY:
        runs = results[f"every {every}"]
        fps, times, seen = median(runs, "fps"), ratio(runs, results["old loop"], "fps"), median(runs, "with_face")
        console.print(
            f"detector each {every}: {fps:.1f} fps, {times:.2f} x the loop timed here "
            f"({verdict(times, GOAL, at_most=False)}), {fps / stated:.2f} x its stated stages; "
            f"a face in {seen:.0%} of the frames"
        )
        said |= {f"every {every}": fps, f"every {every}, ratio": times}
    return said


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.pipeline", description=__doc__)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="NODE.SETTING=VALUE")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    about = head(f"{CONFIG} on {options.clip.name}, {options.repeats} repetitions")
    runs: dict[str, Run] = {f"every {n}": partial(ours, options.clip, n, options.overrides) for n in EVERY}
    results = interleave({"old loop": Loop(options.clip).run, **runs}, options.repeats)
    for every in EVERY:
        show_nodes(f"detector each {every}", results[f"every {every}"])
    show_seed(results["old loop"])
    said = judge(results)
    console.print(f"load at the end {load():.1f}")
    save(options.json, {"about": about, "clip": options.clip.name, "verdict": said, "runs": results})


if __name__ == "__main__":
    main()
