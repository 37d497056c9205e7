"""Whether the faces that were found are still there: each is looked for near its last place by its grey pixels.

Far cheaper than a search by the network, and only to know when the next one is due; it finds no new faces.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from nodes._area import samples, square
from nodes._geometry import Floats, Image

SIDE = 16
"""Pixels to which a face is shrunk: features of a face show, noise and expressions do not."""
SEARCHED = 2 * SIDE
"""Side of the square that is searched: half a face side of movement between two frames."""
FACE = slice((SEARCHED - SIDE) // 2, (SEARCHED + SIDE) // 2)
"""Where in the square about it a face is."""


class Watch:
    """Faces of one stream, followed by their looks between searches."""

    def __init__(self) -> None:
        """Watch nothing yet."""
        self.boxes: Floats = np.zeros((0, 4), np.float32)
        """Where the faces (F, 4) were last seen."""
        self._looks: list[NDArray[np.uint8]] = []

    def take(self, image: Image, boxes: Floats) -> None:
        """Watch the faces at boxes (F, 4) of this picture from here on, and no others."""
        self.boxes = boxes.copy()
        self._looks = [_surroundings(image, box)[FACE, FACE].copy() for box in boxes]

    def follow(self, image: Image) -> float:
        """Move the boxes to where their faces are in this picture; return the least likeness (-1..1), 1 for no face.

        Likeness is the correlation of grey levels, which light and contrast do not change; a face whose centre left the
        picture has none.
        """
        worst = 1.0
        for i, look in enumerate(self._looks):
            likeness = cv2.matchTemplate(_surroundings(image, self.boxes[i]), look, cv2.TM_CCOEFF_NORMED)
            _, best, _, (x, y) = cv2.minMaxLoc(likeness)
            step = np.array([x, y], np.float32) - FACE.start
            side = float((self.boxes[i, 2:] - self.boxes[i, :2]).max())
            self.boxes[i] += np.tile(step * side / SIDE, 2).astype(np.float32)
            middle = (self.boxes[i, :2] + self.boxes[i, 2:]) / 2
            inside = (middle >= 0).all() and (middle < image.shape[1::-1]).all()
            worst = min(worst, best if inside else 0.0)
        return worst


def _surroundings(image: Image, box: Floats) -> NDArray[np.uint8]:
    """Return the square about a box (4,), twice its longer side wide, in grey, SIDE pixels to the face."""
    x, y = ((box[:2] + box[2:]) / 2).tolist()
    area = square(x, y, 2 * float((box[2:] - box[:2]).max()), 2 * SEARCHED)
    return np.asarray(cv2.resize(samples(image, area), (SEARCHED, SEARCHED), interpolation=cv2.INTER_AREA), np.uint8)
