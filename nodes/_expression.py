"""What eyes and mouth do, in numbers: how far they are open, and blinks."""

import math
from collections import deque
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

EYES = slice(36, 48)
"""Points of both eyes."""
MIDDLES = np.repeat(np.eye(2, dtype=np.float32), 6, axis=1) / 6
"""The middles of the eyes are its product with their points (12, 2)."""

CORNERS = np.array([(36, 39), (42, 45), (60, 64)]).T
"""Left and right corners (2, 3) of the image's left eye, its right eye, and the inner lips (iBUG 68)."""

LIDS = np.array([(37, 41), (38, 40), (43, 47), (44, 46), (61, 67), (62, 66), (63, 65)]).T
"""Upper and lower points (2, 7) of the same, whose gaps count by the columns of `SHARES` (7, 3)."""
SHARES = np.repeat(np.eye(3) / (2, 2, 3), (2, 2, 3), axis=0)

LEAST, SURE, ENOUGH = 0.2, 9.0, 0.5
"""A blink takes more than LEAST of the opening before it, and either SURE standard deviations of its noise or ENOUGH.

The network draws lids that shut for a frame or two, or behind glasses, half open: four blinks of a talking face took
0.24 to 0.40 of an opening that is sure to 0.01. Of blinks that take 0.3 or 0.4, ENOUGH alone counts none, these all
where the noise is 0.02 or 0.03 (tests/test_expression.py). With noise of 0.1, as of eyes of LEAST_EYE, one in three
minutes is counted that is none. Of 84 portraits of LFPW, shown by the test source for five seconds each with the
released networks, 3 of those that were panned by 0.3 and turned by 20 degrees in 2 s "blinked" (1 by ENOUGH alone).
"""

BACK = 0.5
"""Share of what a blink took that has to come back before it counts: a look down takes as much, and stays."""

OPEN = 0.5
"""Share of their usual opening from which eyes count as open: those that stay shut do not blink."""

LEAST_EYE = 18.0
"""Pixels: narrower eyes show no blinks. Of ten walkers in a 1080p street, with eyes of 4 to 19 px, seven blinked 22
times in four seconds by ENOUGH alone, hardly once in truth; lids are found to a pixel at best."""

RIM = 0.5
"""Eye widths: an eye whose middle is nearer to the picture's rim may be cut off. The network then guesses its points
into the picture, half shut: a portrait that bobbed out of the picture three times "blinked" three times."""

LONGEST = 0.6
"""Seconds from open to open again: the lids are down for 0.1 to 0.4 s (Caffier et al. 2003); longer is no blink."""

MEMORY = 1.0
"""Seconds over which the noise of the openness is measured."""

RISE, FALL = 0.2, 10.0
"""Seconds over which the usual opening follows a wider one, and a narrower one of open eyes: fast up, so that a face
that begins with half closed eyes is soon known, and slowly down, so that a look down is no new usual."""


def openness(landmarks: NDArray[Any]) -> NDArray[np.float32]:
    """Return (F, 3): opening over width of left eye, right eye and mouth of landmarks (F, 68, 2).

    An eye's is its aspect ratio (Soukupova and Cech 2016, eq. 1): about 0.3 when open, under 0.15 when closed; the
    mouth's is that of the inner lips, 0 when closed. Size, place and roll do not matter; a turn of the head raises it.
    """
    return np.asarray(_distances(landmarks, LIDS) @ SHARES / np.maximum(widths(landmarks), 1e-6), np.float32)


def widths(landmarks: NDArray[Any]) -> NDArray[Any]:
    """Return (F, 3): the distance between the corners of left eye, right eye and mouth of landmarks (F, 68, 2)."""
    return _distances(landmarks, CORNERS)


def _distances(landmarks: NDArray[Any], pairs: NDArray[Any]) -> NDArray[Any]:
    """Return (F, P) how far the points of pairs (2, P) are from each other in landmarks (F, 68, 2)."""
    gaps = landmarks[:, pairs[0]] - landmarks[:, pairs[1]]
    return np.asarray(np.hypot(gaps[..., 0], gaps[..., 1]))


def eye_widths(landmarks: NDArray[Any]) -> NDArray[Any]:
    """Return (F,) the mean width of both eyes of landmarks (F, 68, 2), in their unit."""
    return np.asarray(widths(landmarks)[:, :2].mean(1))


def eyes_in(landmarks: NDArray[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Say which eyes (F, 2) of landmarks (F, 68, 2) a picture of `size` (width, height) shows whole, left and right."""
    middles = MIDDLES @ landmarks[:, EYES]
    room = np.minimum(middles + 0.5, np.array(size) - 0.5 - middles).min(2)
    return np.asarray(room >= RIM * widths(landmarks)[:, :2], np.bool_)


class Blinks:
    """Counts the blinks of one face: lids that fall and rise again at once. To be shown eyes that can be seen."""

    def __init__(self) -> None:
        self.count = 0
        self._usual = 0.0  # opening of the open eyes
        self._seen: deque[tuple[float, float]] = deque()  # pts and opening, of the last MEMORY seconds
        self._since = -math.inf  # pts of the last blink's end

    def see(self, pts: float, eyes: float, closed: float) -> int:
        """Take in the mean openness of both eyes and the probability that both are closed; return the count.

        The blink is counted when the eyes are open again, at `pts` seconds.
        """
        opening = eyes * (1 - closed)
        elapsed = pts - self._seen[-1][0] if self._seen else math.inf
        self._seen.append((pts, opening))
        while self._seen[0][0] < pts - MEMORY:
            self._seen.popleft()
        if opening > OPEN * self._usual:
            time = RISE if opening > self._usual else FALL
            self._usual += (1 - math.exp(-elapsed / time)) * (opening - self._usual)
            if self._fell_and_rose():
                self.count += 1
                self._since = pts
        return self.count

    def _fell_and_rose(self) -> bool:
        """Say whether the lids have been down between a moment not LONGEST ago and now."""
        first = max(self._since, self._seen[-1][0] - LONGEST)
        openings = [opening for pts, opening in self._seen if pts >= first]
        lowest = min(openings)
        before = max(openings[: openings.index(lowest)], default=0.0)
        fall = before - lowest
        if fall <= LEAST * before or before <= OPEN * self._usual or openings[-1] <= lowest + BACK * fall:
            return False
        return fall > min(SURE * self._noise(), ENOUGH * before)

    def _noise(self) -> float:
        """Return the standard deviation of the openness, by the median: blinks do not count.

        1.046 is that of independent Gaussian numbers that differ by 1 in the median. Successive frames are not
        independent, so every other one is compared.
        """
        openings = [opening for _, opening in self._seen]
        return 1.046 * median(abs(b - a) for a, b in zip(openings, openings[2:], strict=False))
