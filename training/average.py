"""Average the weights of runs of which one went on from the other: between what each has learnt better than the other.

python -m training.average runs/calm/last.pt runs/landmarks/last.pt --shares 2 1 --out runs/mean.pt

Source: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", figure 1. It holds for runs whose weights are
near each other only; measure what comes out. The file can be exported, measured, and trained on from (`init`).
"""

import argparse
import logging
import sys
from pathlib import Path

from torch import Tensor

from training import checkpoint
from training.settings import SettingsError

logger = logging.getLogger("training")


def average(paths: list[Path], shares: list[float]) -> dict[str, Tensor]:
    """Return the mean of the averaged weights of checkpoints; counters come from the first.

    Raises SettingsError for shares that are not as many as the checkpoints, or weights of different networks.
    """
    if len(shares) != len(paths) or min(shares) < 0 or not sum(shares):
        raise SettingsError(f"shares: {len(paths)} of at least 0 are needed, and not all 0; found {shares}")
    weights = [checkpoint.load(path)["ema"] for path in paths]
    for path, other in zip(paths, weights, strict=True):
        if {name: value.shape for name, value in other.items()} != {k: v.shape for k, v in weights[0].items()}:
            raise SettingsError(f"{path}: weights of another network than those of {paths[0]}")
    return {
        name: sum(share / sum(shares) * one[name] for share, one in zip(shares, weights, strict=True))
        if value.is_floating_point() else value
        for name, value in weights[0].items()
    }


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and average; 2 means a file or a share is wrong."""
    parser = argparse.ArgumentParser(prog="python -m training.average", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--shares", type=float, nargs="+", help="of each; without: all alike")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint, with the settings of the first")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        mean = average(options.checkpoints, options.shares or [1.0] * len(options.checkpoints))
    except SettingsError as exc:
        logger.error("%s", exc)
        return 2
    checkpoint.save(options.out, checkpoint.load(options.checkpoints[0]) | {"ema": mean, "model": mean})
    return 0


if __name__ == "__main__":
    sys.exit(main())
