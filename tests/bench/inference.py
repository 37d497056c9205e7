"""Measure the networks on one thread: the landmark network alone, a whole predict, a whole detect, per backend.

python -m tests.bench.inference [--models FOLDER] [--backends onnxruntime mnn torch] [--repeats 200]
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from nodes._backend import MODELS, card, load
from nodes.detect import FaceModel
from nodes.landmarks import LandmarkModel
from nodes.source import picture_at
from tests.portrait import LANDMARKS, tight

FACES = (1, 2, 5, 20)
STATISTICS = ("least", "p50", "p95")
GOAL_MS = 0.6
"""The goal for the landmark network, per face."""


def times(call: Callable[[], object], repeats: int) -> np.ndarray:
    """Return least, median and 95th percentile in milliseconds, after a warm-up of a tenth of the repeats."""
    taken = []
    for _ in range(repeats + repeats // 10 + 2):
        start = time.perf_counter()
        call()
        taken.append((time.perf_counter() - start) * 1e3)
    return np.percentile(taken[-repeats:], [0, 50, 95])


def crowd(width: int, height: int) -> np.ndarray:
    """A picture with twenty portraits on a grid."""
    tile = cv2.resize(picture_at(""), (width // 5, height // 4), interpolation=cv2.INTER_AREA)
    return np.tile(tile, (4, 5, 1))


def network_rows(models: Path, backend: str, repeats: int) -> list[tuple[str, ...]]:
    size = card(models / "landmarks")["input"]["shape"][-1]
    network = load(models / "landmarks", backend)
    model = LandmarkModel(models / "landmarks", backend)
    picture = picture_at("")
    rows = []
    for faces in FACES:
        batch = np.random.default_rng(0).uniform(-1, 1, (faces, 3, size, size)).astype(np.float32)
        boxes = np.repeat(tight(LANDMARKS[None]), faces, 0)
        alone = times(lambda batch=batch: network.run(batch), repeats)
        whole = times(lambda boxes=boxes: model.predict(picture, boxes, "landmarks"), repeats)
        rows.append((backend, str(faces), *cells(alone, faces), *cells(whole, faces)))
    return rows


def detector_rows(models: Path, backend: str, repeats: int) -> list[tuple[str, ...]]:
    model = FaceModel(models / "faces", backend)
    rows = []
    for width, height in ((640, 480), (1280, 720), (1920, 1080)):
        picture = crowd(width, height)
        found = len(model.detect(picture)[0])
        taken = times(lambda picture=picture: model.detect(picture), repeats)
        rows.append((backend, f"{width}x{height}", str(found), *cells(taken, 1)))
    return rows


def cells(taken: np.ndarray, faces: int) -> list[str]:
    return [f"{value / faces:.3f}" for value in taken]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.inference", description=__doc__)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--backends", nargs="+", default=["onnxruntime", "mnn"])
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    console = Console(width=100)
    load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    console.print(f"{platform.machine()}, {os.cpu_count()} cores, load {load_average:.1f} before; one thread each")

    landmarks = Table("backend", "faces", *STATISTICS, *STATISTICS, title="ms per face: network; whole predict")
    faces = Table("backend", "frame", "found", *STATISTICS, title="ms per frame: whole detect at 320 px")
    for backend in options.backends:
        for row in network_rows(options.models, backend, options.repeats):
            landmarks.add_row(*row)
        for row in detector_rows(options.models, backend, options.repeats):
            faces.add_row(*row)
    console.print(landmarks, f"goal: {GOAL_MS} ms per face for the network on onnxruntime", faces)


if __name__ == "__main__":
    main()
