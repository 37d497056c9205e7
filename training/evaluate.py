"""Measure a network as the run time would use it: landmarks on folders of pictures with .pts, faces on those held out.

python -m training.evaluate nodes/models/landmarks ../data/landmarks/AFW/afw --out runs/evaluation
python -m training.evaluate runs/landmarks/best.pt ../data/landmarks/AFW/afw
python -m training.evaluate nodes/models/faces ../data --out runs/evaluation
"""

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nodes import _backend
from training import faces_evaluate, landmark_evaluate
from training.command import exit_code
from training.predictor import read_card
from training.settings import share


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
                        help="only the people that a training with this held_out share never saw")
    parser.add_argument("--source", help="name of the data set in the training config, for --held-out")
    parser.add_argument("--person", default=".*", help="pattern of a person in file names, as in the training config")
    parser.add_argument("--sets", default=".*", help="pattern of the sets of a prepared folder")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    return exit_code(lambda: measure_of(options.model)(options), "stopped")


def measure_of(model: Path) -> Callable[[Any], object]:
    """Return what measures a network: one whose card is that of a face detector, or one of landmarks."""
    finds_faces = model.suffix != ".pt" and "stride8" in read_card(model)["outputs"]
    return faces_evaluate.measure if finds_faces else landmark_evaluate.evaluate


if __name__ == "__main__":
    sys.exit(main())
