"""Calibrates scores: the score of a detection becomes the share of similar detections that are right.

A detector trained on crowds scores its many small, inaccurate boxes as high as its few large, accurate ones. No single
threshold then suits both, and the ranking, which an average precision measures, is worse. A logistic regression per
stride, of right or wrong on the logit and on the logarithms of the box's sides, corrects this. All of these are outputs
of one linear layer, so the correction is folded into that layer's weights and costs nothing.
"""

import math
from dataclasses import dataclass, replace

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
"""Cells that score less are left out of the fit: such detections are never shown."""
FEWEST = 30
"""A stride with fewer right or wrong cells than this keeps its scores."""
TILT = 0.3
"""Added to the logit of a box e times as tall. An inaccurate small box is also a false alarm among large faces, which
its own chance of being right does not include. Of 0, 0.15, 0.3, 0.5 and 0.8 this gave the best average precision (16
px) on training pictures; on held-out ones it adds 0.010 (32 px) and 0.002 (16 px), and costs 0.007 (8 px)."""
TILT_FROM = 16.0
"""Height in pixels of a box whose score the tilt does not change."""
LOGIT, LOG_WIDTH, LOG_HEIGHT = 0, 3, 4
"""Channels of the maps that the calibrated score depends on."""


@dataclass(frozen=True)
class Score:
    """A calibrated logit: slope * logit + width * log width + height * log height + shift; sides in strides."""

    slope: float = 1.0
    width: float = 0.0
    height: float = 0.0
    shift: float = 0.0


def fit(values: NDArray[np.float64], right: NDArray[np.bool_], used: tuple[int, ...] = (1, 1, 1, 1)) -> Score:
    """Fit the logistic regression of right (N,) on logit, log width and log height (N, 3) by Newton's method.

    Columns (the three, then the shift) that are not `used` keep their weights.
    """
    if min(right.sum(), len(right) - right.sum()) < FEWEST:
        return Score()
    columns = np.column_stack((values, np.ones(len(values)))) * used
    start = weights = np.array([1.0, 0.0, 0.0, 0.0])
    for _ in range(50):
        p = 1 / (1 + np.exp(-(columns @ weights).clip(-50, 50)))
        curvature = (columns * (p * (1 - p))[:, None]).T @ columns + 1e-2 * np.eye(4)
        weights = weights + np.linalg.solve(curvature, columns.T @ (right - p) - 1e-2 * (weights - start))
    return Score(*weights.tolist())


def examples(
    maps: Maps, pictures: list[Picture], size: tuple[int, int], survivors: bool = False
) -> list[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    """Return per stride the logit and log sides (N, 3) of cells that score enough, and which of them are right (N,).

    A cell is right if its box overlaps a face by at least a half; those on ignored faces are left out. With
    `survivors`, only the cells that remain after non-maximum suppression count.
    """
    values, right, level = [], [], []
    for picture in pictures:
        fitted, scale, offset = _boxes.letterbox(picture.image(), size)
        truth = picture.boxes * np.tile(scale, 2) + np.tile(offset, 2)
        found = [_boxes.decode([one], [stride], LOWEST)[:2] for one, stride in
                 zip(maps(to_input(fitted[None])), _boxes.STRIDES, strict=True)]
        strides = np.repeat(_boxes.STRIDES, [len(scores) for _, scores in found])
        boxes, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
        overlap = _boxes.overlaps(boxes, truth) if len(truth) else np.zeros((len(boxes), 1), np.float32)
        ignored = picture.ignored if len(truth) else np.zeros(1, bool)
        kept = _boxes.nms(boxes, scores) if survivors else np.arange(len(boxes))
        kept = kept[~((overlap.max(1) > 0.3) & ignored[overlap.argmax(1)])[kept]]
        logits = np.log(scores) - np.log1p(-scores.clip(max=1 - 1e-6))
        sides = np.log((boxes[:, 2:] - boxes[:, :2]) / strides[:, None])
        values.append(np.column_stack((logits, sides))[kept].astype(np.float64))
        right.append((overlap.max(1) >= IOU)[kept])
        level.append(strides[kept])
    all_values, all_right, levels = np.concatenate(values), np.concatenate(right), np.concatenate(level)
    return [(all_values[levels == stride], all_right[levels == stride]) for stride in _boxes.STRIDES]


@torch.no_grad()
def fold(network: nn.Module, scores: list[Score]) -> None:
    """Write the calibration of each stride into the last layer of its head, in place."""
    for head, score in zip(network.heads, scores, strict=True):
        for part in (head[-1].weight, head[-1].bias):
            part[LOGIT] = score.slope * part[LOGIT] + score.width * part[LOG_WIDTH] + score.height * part[LOG_HEIGHT]
        head[-1].bias[LOGIT] += score.shift


def tilted(score: Score, stride: int) -> Score:
    """Add the tilt to the score of a stride, whose sides are in strides, while the tilt's are in pixels."""
    return replace(score, height=score.height + TILT, shift=score.shift + TILT * math.log(stride / TILT_FROM))


def calibrate(network: nn.Module, maps: Maps, pictures: list[Picture], size: tuple[int, int]) -> list[Score]:
    """Fit the scores on pictures and fold them into the network, whose maps are `maps`; return them, one per stride.

    The first fit, per stride and over all cells, tilted by `TILT`, ranks small and large boxes correctly. The second,
    for all strides together, is over the cells that remain after suppression, fewer of which are right, so that a score
    of one half means one half of what is shown.
    """
    fitted = [fit(values, right) for values, right in examples(maps, pictures, size)]
    scores = [tilted(score, stride) for score, stride in zip(fitted, _boxes.STRIDES, strict=True)]
    fold(network, scores)
    shown = examples(maps, pictures, size, survivors=True)
    last = fit(*(np.concatenate(parts) for parts in zip(*shown, strict=True)), used=(1, 0, 0, 1))
    fold(network, [last] * len(scores))
    return [Score(*(last.slope * x for x in (one.slope, one.width, one.height)), last.slope * one.shift + last.shift)
            for one in scores]
