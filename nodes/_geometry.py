"""The input of the networks: boxes, crops and pixel values, for training and run time alike.

Frames are (H, W, 3) uint8 in BGR order. The centre of pixel (0, 0) is (0.0, 0.0), so an image of width W covers x from
-0.5 to W - 0.5. Boxes are x0, y0, x1, y1 in these coordinates; angles are radians, positive from x towards y (clockwise
in the picture). F faces, N = 68 points in iBUG order.
"""

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]

BORDER = 127
"""Grey level of crop pixels outside the frame; near the middle of the input range."""
MEAN, SCALE = 127.5, 1 / 127.5
"""Network input = (pixel - MEAN) * SCALE, in [-1, 1]."""
MARGIN = 1.4
"""Side of a crop over the longer side of its landmark box, in training and at run time."""
EYES_AND_MOUTH = slice(36, 60)
"""Points of the left eye as seen in the image (6), the right eye (6) and the outer lips (12)."""
ACROSS_AND_DOWN = np.repeat(np.array([[-2, 2, 0], [-1, -1, 1]], np.float32), (6, 6, 12), axis=1)
"""Multiplied with these points: twelve times the vectors from the left to the right eye centre, and from between the
eyes to the mouth centre. For a face or two, one product takes half of the time of the means of slices."""
DETECTOR_TO_LANDMARK = (-0.007, 0.262, 0.009, 0.009)
"""Shift of each edge, in face box widths (x) and heights (y), from a face box to the box of the 68 points."""


def landmark_box(landmarks: NDArray[Any], roll: Floats | float | None = None) -> Floats:
    """Return the box (F, 4) of the points of each face (F, 68, 2).

    With a roll, the box has the width and height of the face turned upright and is centred on the turned box, so it
    does not grow when the head tilts.
    """
    landmarks = np.ascontiguousarray(landmarks, np.float32)
    if roll is None:
        return np.concatenate((landmarks.min(1), landmarks.max(1)), 1)
    angles = _per_face(roll, len(landmarks))
    upright = _turned(landmarks, -angles)
    low, high = upright.min(1), upright.max(1)
    centre, half = _turned((low + high)[:, None] / 2, angles)[:, 0], (high - low) / 2
    return np.concatenate((centre - half, centre + half), 1)


def _turned(points: Floats, angles: Floats) -> Floats:
    """Turn points (F, N, 2) clockwise about (0, 0) by an angle (F,) each, as complex numbers x + iy."""
    turned: Floats = points.view(np.complex64) * np.exp(1j * angles)[:, None, None]
    return turned.view(np.float32)


def landmark_roll(landmarks: Floats) -> Floats:
    """Return the angle (F,) of each face (F, 68, 2) in the image plane, 0 if upright.

    It is the direction of the sum of two vectors: the line between the eyes, and the perpendicular of the line from
    the eyes to the mouth. In a frontal face both agree; in profile the first is short and the second decides.
    """
    across, down = (ACROSS_AND_DOWN @ landmarks[:, EYES_AND_MOUTH]).swapaxes(0, 1)
    return np.asarray(np.arctan2(across[:, 1] - down[:, 0], across[:, 0] + down[:, 1]), np.float32)


def detector_to_landmark_box(boxes: Floats) -> Floats:
    """Estimate the boxes of the 68 points from detected face boxes (F, 4).

    Source: measured with the released detector at 320 x 240 on the upright faces of AFW, which it was not trained on:
    x0 -0.007, y0 0.262, x1 1.009, y1 1.009 of the face box, standard deviations 0.039 to 0.051.
    """
    boxes = np.asarray(boxes, np.float32)
    sides = boxes[:, 2:] - boxes[:, :2]
    mapped: Floats = boxes + np.concatenate((sides, sides), 1) * np.array(DETECTOR_TO_LANDMARK, np.float32)
    return mapped


def crop_matrix(boxes: Floats, size: int, margin: float = MARGIN, roll: Floats | float = 0.0) -> Floats:
    """Return maps (F, 2, 3) float32 from frame pixels to pixels of upright square crops of side `size`.

    A crop is centred on its landmark box (F, 4), its side is `margin` times the longer side of the box, and it is
    turned so that a face with this `roll` is upright. The maps are similarities: proportions are kept.
    """
    boxes = np.asarray(boxes, np.float32)
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0).max(1)
    turn = size / (margin * sides) * np.exp(-1j * _per_face(roll, len(boxes)))
    matrices = np.empty((len(boxes), 2, 3), np.float32)
    matrices[:, 0, 0] = matrices[:, 1, 1] = turn.real
    matrices[:, 0, 1], matrices[:, 1, 0] = -turn.imag, turn.imag
    matrices[:, :, 2] = (size - 1) / 2 - (matrices[:, :, :2] @ centres(boxes)[:, :, None])[:, :, 0]
    return matrices


def centres(boxes: Floats) -> Floats:
    """Return the centres (..., 2) of boxes (..., 4)."""
    return np.asarray((boxes[..., :2] + boxes[..., 2:]) / 2, np.float32)


def crop(image: Image, matrices: Floats, size: int) -> Image:
    """Cut crops (F, size, size, 3) from a frame, with `BORDER` outside it.

    Bilinear. If a face is shrunk to half or less, four pixels are averaged first: bilinear interpolation alone skips
    pixels, and noise and fine edges would cause jitter.
    """
    crops = np.empty((len(matrices), size, size, 3), np.uint8)
    for out, matrix in zip(crops, matrices, strict=True):
        part, matrix = _under(image, matrix, size)
        # OpenCV takes less than half of the time for four channels that it takes for three.
        turned = cv2.warpAffine(cv2.cvtColor(part, cv2.COLOR_BGR2BGRA), matrix, (size, size), flags=cv2.INTER_LINEAR,
                                borderMode=cv2.BORDER_CONSTANT, borderValue=(BORDER,) * 4)
        cv2.cvtColor(turned, cv2.COLOR_BGRA2BGR, dst=out)
    return crops


def _under(image: Image, matrix: Floats, size: int) -> tuple[Image, Floats]:
    """Return the part of the frame under the crop, shrunk to just above its resolution, and the map from there.

    Takes every `stride`-th pixel, then means of 2 x 2: a fifth of the time of averaging all, for very large faces.
    """
    stride = int(1 / max(float(np.hypot(matrix[0, 0], matrix[1, 0])), 1e-3)) // 2
    factor = max(2 * stride, 1)
    x0, y0, x1, y1 = _reach(matrix, size, factor, (image.shape[1], image.shape[0]))
    wide, high = (x1 - x0) // factor, (y1 - y0) // factor
    if wide < 1 or high < 1:
        return image, matrix
    part = image[y0 : y0 + high * factor, x0 : x0 + wide * factor]
    if stride > 1:  # much faster than slicing with numpy
        part = cv2.resize(part, (2 * wide, 2 * high), interpolation=cv2.INTER_NEAREST)  # type: ignore[assignment]
    if stride:
        part = cv2.resize(part, (wide, high), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    half = stride / 2
    back = np.array([[factor, 0, x0 + half], [0, factor, y0 + half], [0, 0, 1]], np.float32)
    return part, (matrix @ back).astype(np.float32)


def _reach(matrix: Floats, size: int, more: int, picture: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return x0, y0, x1, y1 of the pixels of a picture (width, height) under a crop, plus `more` on each side."""
    (a, b, x), (c, d, y) = cv2.invertAffineTransform(matrix).tolist()
    end, (width, height) = size - 1, picture
    return (
        min(max(math.floor(x + min(0, a * end) + min(0, b * end) - more), 0), width - 1),
        min(max(math.floor(y + min(0, c * end) + min(0, d * end) - more), 0), height - 1),
        min(max(math.ceil(x + max(0, a * end) + max(0, b * end) + more + 1), 0), width),
        min(max(math.ceil(y + max(0, c * end) + max(0, d * end) + more + 1), 0), height),
    )


def to_input(crops: Image) -> Floats:
    """Convert BGR crops (F, size, size, 3) to the network input (F, 3, size, size)."""
    planes = np.empty((len(crops), 3, *crops.shape[1:3]), np.uint8)
    for one, its in zip(crops, planes, strict=True):
        cv2.split(one, list(its))
    if not planes.size:
        return planes.astype(np.float32)
    rows = planes.reshape(-1, planes.shape[-1])  # a third of the time of cv2.dnn.blobFromImages
    scaled = cv2.addWeighted(rows, SCALE, rows, 0, -MEAN * SCALE, dtype=cv2.CV_32F)
    return np.asarray(scaled, np.float32).reshape(planes.shape)


def invert(matrices: Floats) -> Floats:
    """Invert (F, 2, 3) affine maps."""
    inverses = np.empty_like(matrices)
    for matrix, inverse in zip(matrices, inverses, strict=True):
        cv2.invertAffineTransform(matrix, inverse)  # a third of the time of numpy for a face or two
    return inverses


def apply(matrices: Floats, points: Floats) -> Floats:
    """Map the points (F, N, 2) of each face by its affine map (F, 2, 3)."""
    return (points @ matrices[:, :, :2].transpose(0, 2, 1) + matrices[:, None, :, 2]).astype(np.float32)


def _per_face(roll: Floats | float, faces: int) -> Floats:
    return np.broadcast_to(np.asarray(roll, np.float32), (faces,))
