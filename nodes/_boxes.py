"""The face detector's input and output: letterbox, decoding of the network's maps, non-maximum suppression.

Coordinates as in `nodes._geometry`: the centre of pixel (0, 0) is (0.0, 0.0), boxes are x0, y0, x1, y1.
The network gives one map (15, H / stride, W / stride) per stride: the logit of the score; the centre of the box as
offset from the cell's centre and the logarithms of its width and height, all in strides; five points as offsets from
the centre of the box, in box widths and heights.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from nodes._geometry import BORDER, Floats, Image

STRIDES = (8, 16, 32)
"""Pixels per cell of the network's maps, finest first; the sides of the input are multiples of the last."""
POINTS = ("left eye", "right eye", "nose tip", "left mouth corner", "right mouth corner")
"""The five points; left as seen in the image."""
OVERLAP = 0.45
"""Two boxes with a larger intersection over union are one face. Measured on held-out pictures of WIDER FACE: 0.5 adds
0.002 to the average precision, 0.3 costs 0.005; a lower value gives fewer duplicates."""
BLEND = 4
"""The boxes of one face are weighted by their score to this power. Compared with 2, it adds 0.003 to 0.007 to the
average precision: boxes with low scores are inaccurate."""
CHANNELS = 1 + 4 + 2 * len(POINTS)


def letterbox(image: Image, size: tuple[int, int]) -> tuple[Image, Floats, Floats]:
    """Fit a picture (H, W, 3) into `size` (width, height), keeping its proportions.

    Returns the input picture, scale (2,) and offset (2,): a point p of the frame is at p * scale + offset in the
    input; `to_frame` is the inverse. The scales of x and y differ only by the rounding of the sides. The picture is at
    the top left; right and bottom are padded with `BORDER` to multiples of the largest stride only, not to `size`.
    """
    height, width = image.shape[:2]
    scale = min(size[0] / width, size[1] / height)
    w, h = max(1, round(width * scale)), max(1, round(height * scale))
    # Use every `step`-th pixel of large pictures, two or more per input pixel: a seventh of the time of averaging all.
    step = max(1, min(int(1 / scale) // 2, width, height))
    columns, rows = width // step, height // step
    if step > 1:
        seen = image[: rows * step, : columns * step]
        image = np.asarray(cv2.resize(seen, (columns, rows), interpolation=cv2.INTER_NEAREST), np.uint8)
    coarsest = STRIDES[-1]
    out = np.full((-(-h // coarsest) * coarsest, -(-w // coarsest) * coarsest, 3), BORDER, np.uint8)
    # Linear resizing reads 2 x 2 pixels at any scale, and loses small faces between them.
    shrink = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    out[:h, :w] = cv2.resize(image, (w, h), interpolation=shrink)
    scales: Floats = np.array((w / (columns * step), h / (rows * step)), np.float32)
    offsets: Floats = (scales * np.float32(step) - 1) / np.float32(2)
    return out, scales, offsets


def to_frame(points: Floats, scale: Floats, offset: Floats) -> Floats:
    """Map boxes (F, 4) or points (F, N, 2) from the letterboxed input to pixels of the frame."""
    mapped: Floats = ((points.reshape(-1, 2) - offset) / scale).reshape(points.shape)
    return mapped


def decode(
    outputs: Sequence[NDArray[np.float32]], strides: Sequence[int] = STRIDES, threshold: float = 0.5
) -> tuple[Floats, Floats, Floats]:
    """Decode the network's maps of one picture to boxes (F, 4), scores (F,), points (F, 5, 2) in input pixels.

    `outputs` has one map (15, H / stride, W / stride) per stride, possibly with a leading 1. Cells that score less
    than `threshold` are skipped at no cost; all others are returned, best first, overlapping ones too.
    """
    found = [_decode_level(maps.reshape(maps.shape[-3:]), stride, threshold) for maps, stride in
             zip(outputs, strides, strict=True)]
    boxes, scores, points = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(-scores, kind="stable")
    return boxes[order], scores[order], points[order]


def _decode_level(maps: NDArray[np.float32], stride: int, threshold: float) -> tuple[Floats, Floats, Floats]:
    # The sigmoid is monotone: comparing logits with the threshold's logit leaves only a few cells to compute.
    lowest = np.log(threshold) - np.log1p(-threshold) if 0 < threshold < 1 else np.copysign(np.inf, threshold - 0.5)
    rows, columns = np.nonzero(maps[0] >= lowest)
    values = maps[:, rows, columns].T
    cells = (np.stack((columns, rows), 1) + 0.5) * stride - 0.5
    centres = cells + values[:, 1:3] * stride
    sides = np.exp(np.minimum(values[:, 3:5], 8.0)) * stride
    boxes = np.concatenate((centres - sides / 2, centres + sides / 2), 1).astype(np.float32)
    points = (centres[:, None] + values[:, 5:].reshape(-1, len(POINTS), 2) * sides[:, None]).astype(np.float32)
    return boxes, (1 / (1 + np.exp(-values[:, 0]))).astype(np.float32), points


def overlaps(a: Floats, b: Floats) -> Floats:
    """Return the intersection over union (A, B) of boxes (A, 4) and (B, 4); 0 for boxes without area."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inside = np.maximum(high - low, 0).prod(-1)
    both = areas(a)[:, None] + areas(b)[None] - inside
    overlap: Floats = np.divide(inside, both, out=np.zeros_like(inside), where=both > 0)
    return overlap


def areas(boxes: Floats) -> Floats:
    """Return the areas (F,) of boxes (F, 4)."""
    area: Floats = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    return area


def merge(boxes: Floats, scores: Floats, points: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the faces that `nms` keeps, each blended with those it suppresses, best first.

    Boxes (F, 4) and points (F, 5, 2) are means weighted by the score to the power `BLEND`: the errors of neighbouring
    cells are independent, so their mean is more accurate and jitters less. Source: Gidaris and Komodakis 2015,
    "box voting"; Bazarevsky et al. 2019, 3.4. Here it adds 0.008 to the average precision (faces of 8, 16 and 32 px).
    """
    order = np.argsort(-scores, kind="stable")
    best, blended = [], []
    values = np.concatenate((boxes, points.reshape(len(points), 2 * len(POINTS))), 1)
    while len(order):
        near = overlaps(boxes[order[:1]], boxes[order])[0] > OVERLAP
        near[0] = True  # a box without area does not overlap even itself
        best.append(order[0])
        blended.append(np.average(values[order[near]], 0, scores[order[near]] ** BLEND + 1e-12))
        order = order[~near]
    faces = np.array(blended, np.float32).reshape(-1, CHANNELS - 1)
    return faces[:, :4], scores[best], faces[:, 4:].reshape(-1, len(POINTS), 2)


def nested(boxes: Floats, share: float) -> NDArray[np.bool_]:
    """Return which boxes (F, 4), best first, have more than `share` of their area inside a better one."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    inside = np.maximum(high - low, 0).prod(-1) > share * areas(boxes)[:, None]
    return np.asarray(np.tril(inside, -1).any(1), np.bool_)


def nms(boxes: Floats, scores: Floats) -> NDArray[np.intp]:
    """Return the indices of the faces to keep, best first: none overlaps a better one by more than OVERLAP.

    Greedy non-maximum suppression, which computes one row of overlaps per face kept.
    """
    order = np.argsort(-scores, kind="stable")
    kept = []
    while len(order):
        kept.append(order[0])
        order = order[1:][overlaps(boxes[order[:1]], boxes[order[1:]])[0] <= OVERLAP]
    return np.array(kept, np.intp)
