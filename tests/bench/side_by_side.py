"""Compare the speed of all versions of the landmark network on one thread: onnxruntime, MNN, int8, and a plain Slim.

python -m tests.bench.side_by_side [--models FOLDER] [--repeats 300]

The int8 versions and Slim, with random weights, are made here: their accuracy does not affect their speed.
"""

import argparse
import os
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from nodes._backend import MODELS, Backend, card, load
from nodes._geometry import to_input
from training.export import fold_batch_norm, write_onnx
from training.networks import make_network
from training.quantise import by_turns, write_mnn_int8, write_onnx_int8
from training.task import Deployment


def slim(folder: Path, images: np.ndarray) -> Backend:
    """Return a plain Slim with the same input and folded batch norms."""
    network = make_network("slim", images.shape[1]).eval()
    fold_batch_norm(network)
    names = ("landmarks", "pose", "states", "presence")
    deployment = Deployment(
        module=network, images=images, dynamic={0: "faces"}, outputs=dict.fromkeys(names, ""), contract={},
        calibration=images, measure=lambda run: {}, terms=[],
    )
    write_onnx(deployment, torch.from_numpy(to_input(images[:2])), folder / "slim.onnx")
    return load(folder / "slim.onnx")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.side_by_side", description=__doc__)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--repeats", type=int, default=300)
    options = parser.parse_args()
    source = options.models / "landmarks"
    side = card(source)["input"]["shape"][-1]
    portrait = cv2.resize(cv2.imread(str(source.with_suffix(".png"))), (side, side))
    images = np.stack([portrait, portrait[::-1], portrait[:, ::-1], 255 - portrait])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_onnx_int8(source.with_suffix(".onnx"), folder / "small.onnx", images)
        write_mnn_int8(source.with_suffix(".onnx"), folder / "small.mnn")
        networks = {
            "onnxruntime": load(source), "mnn": load(source, "mnn"), "onnxruntime int8": load(folder / "small"),
            "mnn int8 weights": load(folder / "small", "mnn"), "plain Slim, onnxruntime": slim(folder, images),
        }
        batch = to_input(images[:1])
        taken = by_turns({name: lambda n=n: n.run(batch) for name, n in networks.items()}, options.repeats)
    first = taken["onnxruntime"][0]
    table = Table("network", "least", "p50", "of onnxruntime", title=f"ms per face; load {os.getloadavg()[0]:.1f}")
    for name, (least, median) in taken.items():
        table.add_row(name, f"{least:.3f}", f"{median:.3f}", f"{least / first:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
