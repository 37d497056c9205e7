"""Measure a network as it is used at run time.

A landmark network is measured on folders of pictures with .pts files, or on prepared folders; a face detector on the
pictures that were held out from its training.

python -m training.evaluate nodes/models/landmarks ../data/landmarks/AFW/afw --out runs/evaluation
python -m training.evaluate runs/landmarks/best.pt ../data/landmarks/AFW/afw
python -m training.evaluate nodes/models/faces ../data --out runs/evaluation

PATTERN is a regular expression.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nodes import _backend
from training import command, faces_evaluate, landmark_evaluate
from training.predictor import read_card
from training.prepared import FACES
from training.settings import SettingsError


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and measure; return 0, 2 if a file or folder is wrong, 130 if stopped."""
    parser = command.parser("evaluate", __doc__)
    parser.add_argument("model", type=Path,
                        help="exported network, whose card must be in the same folder, or checkpoint (.pt) of a "
                             "landmark network")
    parser.add_argument("data", type=Path, nargs="+",
                        help="folders of pictures with .pts files, or folders that training.prepare wrote; for a "
                             "detector the one folder that contains all its data sets")
    parser.add_argument("--backend", default="onnxruntime", choices=sorted(_backend.BACKENDS),
                        help="what runs the exported network (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder to write the numbers, curves and worst faces to")
    parser.add_argument("--detector", type=Path,
                        help="face detector that finds the faces for the landmarks (default: the released one)")
    parser.add_argument("--held-out", type=command.share, default=1.0, metavar="SHARE",
                        help="measure only the people that a training with this held_out setting did not see")
    parser.add_argument("--source", metavar="NAME", help="name of the data set in the training config, for --held-out")
    parser.add_argument("--person", default=".*", metavar="PATTERN",
                        help="which part of the file names is the person, as in the training config, for --held-out")
    parser.add_argument("--sets", default=".*", metavar="PATTERN",
                        help="measure only the sets of a prepared folder whose names match")
    options = parser.parse_args(arguments)

    def work() -> None:
        measure = measure_of(options.model)
        for names, why in unused(options, measure is faces_evaluate.measure):
            given = [name for name in names if getattr(options, name) != parser.get_default(name)]
            if given:
                words = ", ".join(f"--{name.replace('_', '-')}" for name in given)
                raise SettingsError(f"{words} cannot be used here: {why}")
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)  # if this fails, it does before minutes of measuring
        measure(options)

    return command.run(work, "stopped")


def measure_of(model: Path) -> Callable[[Any], object]:
    """Return the function that measures a network: a face detector or a landmark network, by its card."""
    finds_faces = model.suffix != ".pt" and "stride8" in read_card(model)["outputs"]
    return faces_evaluate.measure if finds_faces else landmark_evaluate.evaluate


def unused(options: Any, finds_faces: bool) -> Iterator[tuple[list[str], str]]:
    """Yield the options that have no effect on a measurement, and why."""
    prepared = [(folder / FACES).is_file() for folder in options.data]
    if finds_faces:
        yield ["held_out", "source", "person", "sets", "detector"], "a detector's card says which faces are measured"
    if options.model.suffix == ".pt":
        yield ["backend"], "a checkpoint runs in torch"
    if all(prepared):
        yield ["held_out", "source", "person"], "in a prepared folder, training.prepare chose who is held out"
    if not any(prepared):
        yield ["sets"], "none of the folders was written by training.prepare"
    if options.held_out == 1:
        yield ["source", "person"], "no effect without --held-out"


if __name__ == "__main__":
    sys.exit(main())
