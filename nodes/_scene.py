"""Detects cuts between scenes from thumbnails, which are too coarse to show noise or small movements."""

import cv2
import numpy as np
from numpy.typing import NDArray

from nodes._geometry import Image

THUMBNAIL = (32, 18)
"""Width and height of the thumbnails that are compared.

Mean difference, measured on three clips: at most 7 grey levels between frames of a crowded street, 1 to 6 with one
face; 49 and more at a cut from one clip to another.
"""
ANOTHER, ALIKE = 20.0, 0.4
"""A cut is a difference of more grey levels than the first and a correlation (-1..1) below the second.

Measured on the same clips: correlations of 0.94 and more from frame to frame, 0.39 at most from one clip to another.
Of 300 photographs (WIDER FACE, backgrounds) in any order, 97 % count as another scene than the previous one.
"""
PLAIN = 8.0
"""A picture whose colours all vary by less (standard deviation, grey levels) is a flash, a dark moment, a covered lens
or a green decoding error. It is ignored, and the next one is compared with the one before it. The same photographs vary
by 18 and more."""


def thumbnail(image: Image) -> Image:
    """Return the picture averaged to `THUMBNAIL`, from sixteen pixels per cell."""
    width, height = THUMBNAIL
    sample = cv2.resize(image, (4 * width, 4 * height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(cv2.resize(sample, THUMBNAIL, interpolation=cv2.INTER_AREA), np.uint8)


class Scene:
    """Finds the cuts in one stream."""

    def __init__(self) -> None:
        """Start before the first picture."""
        self._before: NDArray[np.uint8] | None = None

    def cut(self, image: Image) -> bool:
        """Return whether this picture (H, W, 3) shows another scene than the previous one; see ANOTHER."""
        now = thumbnail(image)
        if cv2.meanStdDev(now)[1].max() < PLAIN:
            return False
        before, self._before = self._before, now
        if before is None or cv2.absdiff(before, now).mean() < ANOTHER:
            return False
        correlation = cv2.matchTemplate(now, before, cv2.TM_CCOEFF_NORMED)[0, 0]
        return bool(correlation < ALIKE)
