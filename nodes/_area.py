"""Squares of a frame in grey, subsampled so that a large one costs no more than a small one.

Of a large square, every n-th pixel of every n-th row is used. The green channel serves as grey (59 % of luma, and the
least noisy channel of a Bayer sensor), which saves the conversion.
"""

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray


class Area(NamedTuple):
    """A square of the frame, sampled at (x + i stride, y + j stride) for i and j below `samples`."""

    x: int
    y: int
    samples: int  # per side
    stride: int

    @property
    def length(self) -> int:
        """Side of the square, frame pixels."""
        return self.samples * self.stride


def square(x: float, y: float, side: float, least: int) -> Area:
    """Return the square of about `side` frame pixels around x, y, with at least `least` samples per side, or all."""
    stride = max(1, int(side // least))
    count = max(8, int(side // stride))
    return Area(round(x - count * stride / 2), round(y - count * stride / 2), count, stride)


def samples(image: NDArray[Any], area: Area) -> NDArray[Any]:
    """Return the grey levels (S, S) of an area of a BGR picture; outside it, the picture's edge is repeated."""
    height, width = image.shape[:2]
    x0, y0, length, stride = area.x, area.y, area.length, area.stride
    if x0 >= 0 and y0 >= 0 and x0 + length <= width and y0 + length <= height:
        region = image[y0 : y0 + length : stride, x0 : x0 + length]
        return np.asarray(cv2.extractChannel(region, 1)) if stride == 1 else region[:, ::stride, 1].copy()
    columns = np.clip(np.arange(x0, x0 + length, stride), 0, width - 1)
    rows = np.clip(np.arange(y0, y0 + length, stride), 0, height - 1)
    return np.asarray(image[rows[:, None], columns, 1])
