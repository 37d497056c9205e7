"""Checks whether known faces are still there, by template matching near their last place.

This is much cheaper than a search with the network. It only tells when the next search is due; it finds no new faces.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from nodes._area import samples, square
from nodes._geometry import Floats, Image, centres

SIDE = 16
"""Side of a face's template, pixels: it shows the features of the face, but not noise and expressions."""
SEARCHED = 2 * SIDE
"""Side of the square that is searched, which allows half a face side of movement between two frames."""
FACE = slice((SEARCHED - SIDE) // 2, (SEARCHED + SIDE) // 2)
"""Rows and columns of the face in the square around it."""


class Watch:
    """Follows the faces of one stream between searches by their grey levels."""

    def __init__(self) -> None:
        """Watch nothing yet."""
        self.boxes: Floats = np.zeros((0, 4), np.float32)
        """Where the faces were last seen, (F, 4)."""
        self._templates: list[NDArray[np.uint8]] = []

    def take(self, image: Image, boxes: Floats) -> None:
        """Watch the faces at boxes (F, 4) of this picture from now on, and no others."""
        self.boxes = boxes.copy()
        self._templates = [_surroundings(image, box)[FACE, FACE].copy() for box in boxes]

    def follow(self, image: Image) -> float:
        """Move the boxes to where their faces are in this picture; return the least similarity (-1..1), 1 for no face.

        Similarity is the correlation of grey levels, which brightness and contrast do not change. It is 0 for a face
        whose centre has left the picture.
        """
        worst = 1.0
        for i, template in enumerate(self._templates):
            similarity = cv2.matchTemplate(_surroundings(image, self.boxes[i]), template, cv2.TM_CCOEFF_NORMED)
            _, best, _, (x, y) = cv2.minMaxLoc(similarity)
            step = np.array([x, y], np.float32) - FACE.start
            side = float((self.boxes[i, 2:] - self.boxes[i, :2]).max())
            self.boxes[i] += np.tile(step * side / SIDE, 2).astype(np.float32)
            centre = centres(self.boxes[i])
            inside = (centre >= 0).all() and (centre < image.shape[1::-1]).all()
            worst = min(worst, best if inside else 0.0)
        return worst


def _surroundings(image: Image, box: Floats) -> NDArray[np.uint8]:
    """Return the square around a box (4,), twice as wide as its longer side, in grey, with SIDE pixels per face."""
    x, y = centres(box).tolist()
    area = square(x, y, 2 * float((box[2:] - box[:2]).max()), 2 * SEARCHED)
    return np.asarray(cv2.resize(samples(image, area), (SEARCHED, SEARCHED), interpolation=cv2.INTER_AREA), np.uint8)
