"""The parts of a picture that a face detector searches: windows, tiles, and the picture turned by 90 degrees.

Coordinates as in `nodes._geometry`; windows are x0, y0, x1, y1 in whole pixels, x1 and y1 exclusive.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from nodes._geometry import Floats, Image, centres

Window = tuple[int, int, int, int]

OVERLAP = 0.25
"""Share of a tile's side that overlaps its neighbour: a face of up to this height is whole in one of them."""
EDGE = 0.02
"""A face this near to a cut edge of its tile, in tile sides, may extend beyond it, and is left to the other tile."""


def tile(window: Window, count: int) -> list[Window]:
    """Return count x count windows (fewer if they would be too small) that cover a window and overlap by `OVERLAP`."""
    x0, y0, x1, y1 = window
    across, down = _cuts(x0, x1, count), _cuts(y0, y1, count)
    return [(left, top, right, bottom) for top, bottom in down for left, right in across]


def _cuts(start: int, end: int, count: int) -> list[tuple[int, int]]:
    count = max(1, min(count, (end - start) // 32))
    side = (end - start) / (count - (count - 1) * OVERLAP)
    starts = [start + i * side * (1 - OVERLAP) for i in range(count)]
    return [(round(at), round(at + side)) for at in starts]


def whole(boxes: Floats, window: Window, picture: Window) -> NDArray[np.bool_]:
    """Return which boxes (F, 4), found in a window of a picture, do not touch a cut edge of the window."""
    x0, y0, x1, y1 = window
    slack = EDGE * max(x1 - x0, y1 - y0)
    inner = np.array([x0 > picture[0], y0 > picture[1], x1 < picture[2], y1 < picture[3]])
    gap = (boxes - window) * (1, 1, -1, -1)
    return np.asarray(((gap > slack) | ~inner).all(1), np.bool_)


def within(window: Window, picture: Window) -> Window:
    """Return the window. Raises ValueError unless it has whole numbers, lies in the picture and is not empty."""
    sides = np.asarray(window)
    if sides.shape != (4,) or sides.dtype.kind not in "iu":
        raise ValueError(f"window: expected x0, y0, x1, y1 in whole pixels, found {window}")
    x0, y0, x1, y1 = sides.tolist()
    if not (picture[0] <= x0 < x1 <= picture[2] and picture[1] <= y0 < y1 <= picture[3]):
        raise ValueError(f"window: expected x0 < x1, y0 < y1 within {picture}, found {(x0, y0, x1, y1)}")
    return x0, y0, x1, y1


def around(boxes: Floats, region: Window, picture: Window) -> Window:
    """Return the smallest window of the picture that contains `region` and the boxes (F, 4) at twice their size."""
    halves = (boxes[:, 2:] - boxes[:, :2]) / 2
    every = np.concatenate((np.concatenate((boxes[:, :2] - halves, boxes[:, 2:] + halves), 1), [region]))
    low, high = np.floor(every[:, :2].min(0)), np.ceil(every[:, 2:].max(0))
    x0, y0 = np.maximum(low, picture[:2])
    x1, y1 = np.minimum(high, picture[2:])
    return int(x0), int(y0), int(x1), int(y1)


def region_of(shares: Sequence[float], width: int, height: int) -> Window:
    """Return the window for x0, y0, x1, y1 given as shares of the picture's sides; it has at least one pixel."""
    x0, y0 = int(shares[0] * width), int(shares[1] * height)
    return x0, y0, max(x0 + 1, round(shares[2] * width)), max(y0 + 1, round(shares[3] * height))


def centred_in(boxes: Floats, window: Window) -> NDArray[np.bool_]:
    """Return which boxes (F, 4) have their centre in the window."""
    middles, low, high = centres(boxes), np.array(window[:2]) - 0.5, np.array(window[2:]) - 0.5
    return np.asarray(((middles >= low) & (middles < high)).all(1), np.bool_)


QUARTERS = {1: cv2.ROTATE_90_CLOCKWISE, -1: cv2.ROTATE_90_COUNTERCLOCKWISE}


def turned(image: Image, quarter: int) -> Image:
    """Return the picture turned by 90 degrees: 1 clockwise, -1 counterclockwise, 0 not at all."""
    return np.asarray(cv2.rotate(image, QUARTERS[quarter]), np.uint8) if quarter else image


def turned_back(points: Floats, quarter: int, width: int, height: int) -> Floats:
    """Map points (..., 2) of the turned picture back to the original one of `width` x `height` pixels."""
    x, y = points[..., 0], points[..., 1]
    if quarter > 0:
        x, y = y, height - 1 - x
    elif quarter < 0:
        x, y = width - 1 - y, x
    return np.stack((x, y), -1)


def boxes_turned_back(boxes: Floats, quarter: int, width: int, height: int) -> Floats:
    """Map boxes (F, 4) as `turned_back` maps points."""
    corners = turned_back(boxes.reshape(-1, 2, 2), quarter, width, height)
    return np.concatenate((corners.min(1), corners.max(1)), 1)
