"""Measure a network as the run time would use it: landmarks on folders of pictures with .pts, faces on those held out.

python -m training.evaluate nodes/models/landmarks ../data/landmarks/AFW/afw --out runs/evaluation
python -m training.evaluate runs/landmarks/best.pt ../data/landmarks/AFW/afw
python -m training.evaluate nodes/models/faces ../data --out runs/evaluation
"""

import argparse
import logging
import sys
from pathlib import Path

from nodes import _backend
from training import faces_evaluate, landmark_evaluate
from training.predictor import read_card
from training.settings import SettingsError, share

logger = logging.getLogger("training")


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and measure; 2 means a file or folder is wrong."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="exported network with its card beside it, or a landmark checkpoint")
    parser.add_argument("data", type=Path, nargs="+",
                        help="folders of pictures with .pts, or prepared; for a face detector the folder of all sets")
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
    try:
        (faces_evaluate.measure if finds_faces(options.model) else landmark_evaluate.evaluate)(options)
    except (SettingsError, OSError) as exc:
        logger.error("%s", exc)
        return 2
    return 0


def finds_faces(model: Path) -> bool:
    """Say whether the card beside a network is that of a face detector."""
    return model.suffix != ".pt" and "stride8" in read_card(model)["outputs"]


if __name__ == "__main__":
    sys.exit(main())
