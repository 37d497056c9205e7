"""Measure a network as the run time would use it: landmarks on folders of pictures with .pts, faces on those held out.

python -m training.evaluate nodes/models/landmarks ../data/landmarks/AFW/afw --out runs/evaluation
python -m training.evaluate runs/landmarks/best.pt ../data/landmarks/AFW/afw
python -m training.evaluate nodes/models/faces ../data --out runs/evaluation
"""

import argparse
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nodes import _backend
from training import faces_evaluate, landmark_evaluate
from training.command import exit_code
from training.predictor import read_card
from training.prepared import FACES
from training.settings import SettingsError, share


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and measure; 2 means a file or folder is wrong, 130 that it was stopped."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="exported network with its card beside it, or a landmark checkpoint")
    parser.add_argument("data", type=Path, nargs="+",
                        help="folders of pictures with .pts, or prepared; for a detector the one of all sets")
    parser.add_argument("--backend", default="onnxruntime", choices=sorted(_backend.BACKENDS))
    parser.add_argument("--out", type=Path, help="folder for numbers, curve and worst faces")
    parser.add_argument("--detector", type=Path, help="face detector in front of the landmarks; default the released")
    parser.add_argument("--held-out", type=share, default=1.0, metavar="SHARE",
                        help="of a folder only the people that a training with this held_out share never saw")
    parser.add_argument("--source", help="name of the data set in the training config, for --held-out")
    parser.add_argument("--person", default=".*", help="pattern of a person in file names, as in the training config")
    parser.add_argument("--sets", default=".*", help="pattern of the sets of a prepared folder")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)

    def work() -> None:
        measure = measure_of(options.model)
        for names, why in unused(options, measure is faces_evaluate.measure):
            given = [name for name in names if getattr(options, name) != parser.get_default(name)]
            if given:
                words = ", ".join(f"--{name.replace('_', '-')}" for name in given)
                raise SettingsError(f"{words} cannot be used here: {why}")
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)  # where it cannot be made, minutes of measuring are spared
        measure(options)

    return exit_code(work, "stopped")


def measure_of(model: Path) -> Callable[[Any], object]:
    """Return what measures a network: one whose card is that of a face detector, or one of landmarks."""
    finds_faces = model.suffix != ".pt" and "stride8" in read_card(model)["outputs"]
    return faces_evaluate.measure if finds_faces else landmark_evaluate.evaluate


def unused(options: Any, finds_faces: bool) -> Iterator[tuple[list[str], str]]:
    """Yield names of options that would change nothing about a measurement, and why."""
    prepared = [(folder / FACES).is_file() for folder in options.data]
    if finds_faces:
        yield ["held_out", "source", "person", "sets", "detector"], "a detector's card says which faces are measured"
    if options.model.suffix == ".pt":
        yield ["backend"], "a checkpoint runs in torch"
    if all(prepared):
        yield ["held_out", "source", "person"], "training.prepare has said who is held out"
    if not any(prepared):
        yield ["sets"], "no folder here is one of training.prepare"
    if options.held_out == 1:
        yield ["source", "person"], "they say who is held out, so they need --held-out"


if __name__ == "__main__":
    sys.exit(main())
