"""Compare the speed of the face detector with the architecture of RFB-320 on equal input, on one thread.

python -m tests.bench.detector [--repeats 100]

A whole call is resize, network, decoding and suppression; the two take turns. The other network has random weights and
finds nothing, so its suppression costs nothing. Like ours, its decoding uses numpy and is not part of the network.
"""

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from nodes._backend import load
from nodes._boxes import nms
from nodes.detect import FaceModel
from nodes.source import picture_at
from training.export import fold_batch_norm
from training.landmark_net import Separable, convolution, macs

SIZE = (320, 240)
ANCHORS = ((10, 16, 24), (32, 48), (64, 96), (128, 192, 256))
"""Sides of the square anchors of each of the four maps, pixels."""
STRIDES = (8, 16, 32, 64)


def linear(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """Convolution and batch norm."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, 1, padding, dilation, bias=False), nn.BatchNorm2d(outputs)
    )


class ReceptiveFields(nn.Module):
    """Three branches of growing dilation and a shortcut (Liu et al. 2018), an eighth of the channels wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        thin = width // 8
        self.branches = nn.ModuleList([
            nn.Sequential(linear(width, thin, 1), convolution(thin, 2 * thin), linear(2 * thin, 2 * thin, 3, 2)),
            nn.Sequential(linear(width, thin, 1), convolution(thin, 2 * thin), linear(2 * thin, 2 * thin, 3, 3)),
            nn.Sequential(linear(width, thin, 1), convolution(thin, 3 * thin // 2),
                          convolution(3 * thin // 2, 2 * thin), linear(2 * thin, 2 * thin, 3, 5)),
        ])
        self.join, self.shortcut = linear(6 * thin, width, 1), linear(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        joined = self.join(torch.cat([branch(x) for branch in self.branches], 1))
        return torch.relu(joined + self.shortcut(x))


class Rfb(nn.Module):
    """The architecture of RFB-320: 13 separable blocks, four maps, 4420 square anchors; 100 M MAC at 320 x 240."""

    def __init__(self) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
            return Separable(inputs, outputs, stride, shortcut=False)

        self.stages = nn.ModuleList([
            nn.Sequential(convolution(3, 16, stride=2), block(16, 32), block(32, 32, 2), block(32, 32),
                          block(32, 64, 2), block(64, 64), block(64, 64), ReceptiveFields(64)),
            nn.Sequential(block(64, 128, 2), block(128, 128), block(128, 128)),
            nn.Sequential(block(128, 256, 2), block(256, 256)),
            nn.Sequential(nn.Conv2d(256, 64, 1), nn.ReLU(), plain_separable(64, 256, 2), nn.ReLU()),
        ])
        self.heads = nn.ModuleList()
        for width, anchors in zip((64, 128, 256, 256), map(len, ANCHORS), strict=True):
            make = plain_separable if width < 256 or len(self.heads) < 3 else full
            self.heads.append(nn.ModuleList([make(width, anchors * 2), make(width, anchors * 4)]))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        scores, places = [], []
        for stage, (score, place) in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            scores.append(score(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 2))
            places.append(place(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4))
        return {"scores": torch.cat(scores, 1).softmax(-1), "places": torch.cat(places, 1)}


def plain_separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    depthwise = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs)
    return nn.Sequential(depthwise, nn.ReLU(), nn.Conv2d(inputs, outputs, 1))


def full(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def anchors() -> np.ndarray:
    """Centres and sides (4420, 4) of the anchors, in shares of the input."""
    boxes = []
    for stride, sides in zip(STRIDES, ANCHORS, strict=True):
        columns, rows = (-(-side // stride) for side in SIZE)
        y, x = np.mgrid[:rows, :columns] + 0.5
        for side in sides:
            boxes.append(np.stack((x * stride / SIZE[0], y * stride / SIZE[1],
                                   np.full_like(x, side / SIZE[0]), np.full_like(x, side / SIZE[1])), -1))
    return np.concatenate([box.reshape(-1, 4) for box in boxes]).astype(np.float32)


class RfbModel:
    """A whole call of RFB-320."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        network = Rfb().eval()
        image = torch.zeros(1, 3, SIZE[1], SIZE[0])
        with torch.inference_mode():
            self.macs = macs(network, image)
        fold_batch_norm(network)
        path = folder / "rfb.onnx"
        torch.onnx.export(network, (image,), path, dynamo=True, verbose=False, input_names=["image"],
                          output_names=["scores", "places"], external_data=False)
        self.network, self.anchors = load(path, "onnxruntime"), anchors()

    def detect(self, image: np.ndarray) -> np.ndarray:
        small = cv2.cvtColor(cv2.resize(image, SIZE), cv2.COLOR_BGR2RGB)
        found = self.network.run(((small - np.float32(127)) / 128).transpose(2, 0, 1)[None].copy())
        scores = found["scores"][0, :, 1]
        kept = scores > 0.99
        place, anchor = found["places"][0, kept], self.anchors[kept]
        centre = anchor[:, :2] + 0.1 * place[:, :2] * anchor[:, 2:]
        half = anchor[:, 2:] * np.exp(0.2 * place[:, 2:]) / 2
        boxes = np.concatenate((centre - half, centre + half), 1) * np.tile(image.shape[1::-1], 2)
        return boxes[nms(boxes.astype(np.float32), scores[kept])]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.detector", description=__doc__)
    parser.add_argument("--repeats", type=int, default=100)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        rfb = RfbModel(Path(folder))
    ours = FaceModel()
    table = Table("whole call on", "ours, ms", "RFB-320, ms", "ratio", title=f"RFB-320: {rfb.macs / 1e6:.1f} M MAC")
    for size in ((320, 240), (640, 480), (1920, 1080)):
        picture = cv2.resize(picture_at(""), size)
        taken: list[list[float]] = [[], []]
        for _ in range(repeats):
            for times, call in zip(taken, (ours.detect, rfb.detect), strict=True):
                start = time.perf_counter()
                call(picture)
                times.append((time.perf_counter() - start) * 1e3)
        for name, of in (("least", np.min), ("median", np.median)):
            a, b = of(taken[0]), of(taken[1])
            table.add_row(f"{size[0]} x {size[1]}, {name}", f"{a:.2f}", f"{b:.2f}", f"{a / b:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
