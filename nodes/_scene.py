"""Whether the scene changes, by thumbnails of the frames: too coarse for noise or small movements."""

import cv2
import numpy as np
from numpy.typing import NDArray

from nodes._geometry import Image

THUMBNAIL = (32, 18)
"""Width and height to which frames are averaged before they are compared.

Measured on three clips: at most 7 grey levels from frame to frame in a crowded street, 1 to 6 with one face; cuts from
one clip to another give 49 and more.
"""
ANOTHER, ALIKE = 20.0, 0.4
"""Grey levels from which, and likeness (-1..1) below which, the next picture is of another scene.

Measured on the same clips: a likeness of 0.94 and more from frame to frame, of 0.39 at most from one clip to another.
Of 300 photographs (WIDER FACE, backgrounds) in any order 97 % count as another scene than the one before.
"""
PLAIN = 8.0
"""A picture whose colours all vary by less (standard deviation, grey levels) is a flash, a dark moment, a covered lens
or the green of a broken one: it is no scene, and the one after it is compared with the one before it. The same
photographs vary by 18 and more."""


def thumbnail(image: Image) -> Image:
    """Return the picture averaged to `THUMBNAIL`, from a sample of sixteen pixels per cell."""
    width, height = THUMBNAIL
    sample = cv2.resize(image, (4 * width, 4 * height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(cv2.resize(sample, THUMBNAIL, interpolation=cv2.INTER_AREA), np.uint8)


class Scene:
    """The scene of one stream, and where it is cut."""

    def __init__(self) -> None:
        """Know no scene yet."""
        self._before: NDArray[np.uint8] | None = None

    def cut(self, image: Image) -> bool:
        """Say whether this picture (H, W, 3) shows another scene than the one before; see ANOTHER."""
        now = thumbnail(image)
        if cv2.meanStdDev(now)[1].max() < PLAIN:
            return False
        before, self._before = self._before, now
        if before is None or cv2.absdiff(before, now).mean() < ANOTHER:
            return False
        likeness = cv2.matchTemplate(now, before, cv2.TM_CCOEFF_NORMED)[0, 0]
        return bool(likeness < ALIKE)
