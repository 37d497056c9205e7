"""Calibrated scores: the score of a detection becomes the share of detections like it that are right.

A detector trained on crowds gives its many small, badly placed boxes scores that its few large, well placed ones do not
exceed; one threshold then cannot serve both, and the ranking that an average precision measures suffers. A logistic
regression per stride of right or wrong on the logit and on the box's logarithmic sides repairs both, and as all of
these are outputs of one linear layer, it is folded into that layer's weights and costs nothing.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nodes import _boxes
from nodes._geometry import to_input
from training.faces_data import Picture
from training.faces_evaluate import Maps
from training.faces_metric import IOU

LOWEST = 0.01
"""Cells that score less are not fitted: they are never shown."""
FEWEST = 30
"""With fewer right or wrong cells than this at a stride, its scores stay as they are."""
LOGIT, LOG_WIDTH, LOG_HEIGHT = 0, 3, 4
"""Channels of the maps that the score is made of."""


@dataclass(frozen=True)
class Score:
    """A calibrated logit: slope * logit + width * log width + height * log height + shift; sides in strides."""

    slope: float = 1.0
    width: float = 0.0
    height: float = 0.0
    shift: float = 0.0


def fit(values: NDArray[np.float64], right: NDArray[np.bool_]) -> Score:
    """Fit the logistic regression of right (N,) on logit, log width and log height (N, 3) by Newton's method."""
    if min(right.sum(), len(right) - right.sum()) < FEWEST:
        return Score()
    columns = np.column_stack((values, np.ones(len(values))))
    start = weights = np.array([1.0, 0.0, 0.0, 0.0])
    for _ in range(50):
        p = 1 / (1 + np.exp(-(columns @ weights).clip(-50, 50)))
        curvature = (columns * (p * (1 - p))[:, None]).T @ columns + 1e-2 * np.eye(4)
        weights = weights + np.linalg.solve(curvature, columns.T @ (right - p) - 1e-2 * (weights - start))
    return Score(*weights.tolist())


def examples(
    maps: Maps, pictures: list[Picture], size: tuple[int, int]
) -> list[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    """Return per stride the logit and log sides (N, 3) of the cells that score, and which of them are right (N,).

    A cell is right when its box overlaps a face by at least a half; cells about ignored faces are left out.
    """
    values: list[list[NDArray[np.float64]]] = [[] for _ in _boxes.STRIDES]
    right: list[list[NDArray[np.bool_]]] = [[] for _ in _boxes.STRIDES]
    for picture in pictures:
        fitted, scale, offset = _boxes.letterbox(picture.image(), size)
        truth = picture.boxes * np.tile(scale, 2) + np.tile(offset, 2)
        for i, (level, stride) in enumerate(zip(maps(to_input(fitted[None])), _boxes.STRIDES, strict=True)):
            boxes, scores, _ = _boxes.decode([level], [stride], LOWEST)
            overlap = _boxes.overlaps(boxes, truth) if len(truth) else np.zeros((len(boxes), 1), np.float32)
            ignored = picture.ignored if len(truth) else np.zeros(1, bool)
            kept = ~((overlap.max(1) > 0.3) & ignored[overlap.argmax(1)])
            logits = np.log(scores) - np.log1p(-scores.clip(max=1 - 1e-6))
            sides = np.log((boxes[:, 2:] - boxes[:, :2]) / stride)
            values[i].append(np.column_stack((logits, sides))[kept].astype(np.float64))
            right[i].append((overlap.max(1) >= IOU)[kept])
    return [(np.concatenate(v), np.concatenate(r)) for v, r in zip(values, right, strict=True)]


@torch.no_grad()
def fold(network: nn.Module, scores: list[Score]) -> None:
    """Write the calibration of each stride into the last layer of its head, in place."""
    for head, score in zip(network.heads, scores, strict=True):
        for part in (head[-1].weight, head[-1].bias):
            part[LOGIT] = score.slope * part[LOGIT] + score.width * part[LOG_WIDTH] + score.height * part[LOG_HEIGHT]
        head[-1].bias[LOGIT] += score.shift


def calibrate(network: nn.Module, maps: Maps, pictures: list[Picture], size: tuple[int, int]) -> list[Score]:
    """Fit the scores on pictures and fold them into the network; return them, one per stride."""
    scores = [fit(values, right) for values, right in examples(maps, pictures, size)]
    fold(network, scores)
    return scores
