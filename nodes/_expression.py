"""Openness of eyes and mouth, and blinks, from landmarks."""

import math
from collections import deque
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

EYES = slice(36, 48)
"""Points of both eyes."""
MIDDLES = np.repeat(np.eye(2, dtype=np.float32), 6, axis=1) / 6
"""Multiplied with the points of both eyes (12, 2): the eye centres."""

CORNERS = np.array([(36, 39), (42, 45), (60, 64)]).T
"""Left and right corners (2, 3) of the image's left eye, its right eye, and the inner lips (iBUG 68)."""

LIDS = np.array([(37, 41), (38, 40), (43, 47), (44, 46), (61, 67), (62, 66), (63, 65)]).T
"""Upper and lower points (2, 7) of the same; their gaps are averaged with the weights `SHARES` (7, 3)."""
SHARES = np.repeat(np.eye(3) / (2, 2, 3), (2, 2, 3), axis=0)

LEAST, SURE, ENOUGH = 0.2, 9.0, 0.5
"""A blink reduces the opening by more than the share LEAST, and by either SURE standard deviations of its noise or the
share ENOUGH.

The network shows lids that close for a frame or two, or behind glasses, as half open: four blinks of a talking face
reduced an opening with noise of 0.01 by 0.24 to 0.40. Of blinks that reduce it by 0.3 or 0.4, ENOUGH alone counts none;
together they count all if the noise is 0.02 or 0.03 (tests/test_expression.py). With noise of 0.1, as of eyes of
LEAST_EYE, there is one false blink in three minutes. Of 84 portraits of LFPW, shown by the test source for five seconds
each with the released networks, 3 that were panned by 0.3 and turned by 20 degrees in 2 s "blinked" (1 with ENOUGH
alone).
"""

BACK = 0.5
"""Share of its reduction by which the opening must recover before a blink counts: a look down does not recover."""

OPEN = 0.5
"""Share of their usual opening from which eyes count as open: eyes that stay closed do not blink."""

LEAST_EYE = 18.0
"""Pixels; narrower eyes show no blinks. Of ten walkers in a 1080p street, with eyes of 4 to 19 px, seven blinked 22
times in four seconds with ENOUGH alone, but hardly once in reality; lids are found to a pixel at best."""

RIM = 0.5
"""Eye widths; an eye whose centre is nearer to the picture's edge may be cut off. The network then places its points
inside the picture, half closed: a portrait that bobbed out of the picture three times "blinked" three times."""

LONGEST = 0.6
"""Seconds from open to open again: the lids are down for 0.1 to 0.4 s (Caffier et al. 2003); longer is not a blink."""

MEMORY = 1.0
"""Seconds over which the noise of the openness is measured."""

RISE, FALL = 0.2, 10.0
"""Time constants, seconds, with which the usual opening follows a wider and a narrower opening of open eyes: fast up,
so that a face that starts with half closed eyes is soon known; slow down, so that a look down does not change it."""


def openness(landmarks: NDArray[Any]) -> NDArray[np.float32]:
    """Return opening over width (F, 3) of left eye, right eye and mouth of landmarks (F, 68, 2).

    For eyes it is the eye aspect ratio (Soukupova and Cech 2016, eq. 1): about 0.3 if open, under 0.15 if closed. For
    the mouth it is that of the inner lips, 0 if closed. Size, place and roll do not matter; yaw increases it.
    """
    return np.asarray(_distances(landmarks, LIDS) @ SHARES / np.maximum(widths(landmarks), 1e-6), np.float32)


def widths(landmarks: NDArray[Any]) -> NDArray[Any]:
    """Return the widths (F, 3) of left eye, right eye and mouth, between their corners, of landmarks (F, 68, 2)."""
    return _distances(landmarks, CORNERS)


def _distances(landmarks: NDArray[Any], pairs: NDArray[Any]) -> NDArray[Any]:
    """Return the distances (F, P) between the points of pairs (2, P) in landmarks (F, 68, 2)."""
    gaps = landmarks[:, pairs[0]] - landmarks[:, pairs[1]]
    return np.asarray(np.hypot(gaps[..., 0], gaps[..., 1]))


def eye_widths(landmarks: NDArray[Any]) -> NDArray[Any]:
    """Return the mean width (F,) of both eyes of landmarks (F, 68, 2), in the same unit."""
    return np.asarray(widths(landmarks)[:, :2].mean(1))


def eyes_in(landmarks: NDArray[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which eyes (F, 2), left and right, of landmarks (F, 68, 2) a picture (width, height) shows completely."""
    middles = MIDDLES @ landmarks[:, EYES]
    room = np.minimum(middles + 0.5, np.array(size) - 0.5 - middles).min(2)
    return np.asarray(room >= RIM * widths(landmarks)[:, :2], np.bool_)


class Blinks:
    """Counts the blinks of one face: lids that close and soon open again. Expects eyes that are visible."""

    def __init__(self) -> None:
        self.count = 0
        self._usual = 0.0  # opening of the open eyes
        self._seen: deque[tuple[float, float]] = deque()  # pts and opening in the last MEMORY seconds
        self._since = -math.inf  # pts of the last blink's end

    def see(self, pts: float, eyes: float, closed: float) -> int:
        """Add the mean openness of both eyes and the probability that both are closed; return the number of blinks.

        A blink is counted when the eyes are open again, at `pts` seconds.
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
        """Return whether the lids have closed and opened again within LONGEST."""
        first = max(self._since, self._seen[-1][0] - LONGEST)
        openings = [opening for pts, opening in self._seen if pts >= first]
        lowest = min(openings)
        before = max(openings[: openings.index(lowest)], default=0.0)
        fall = before - lowest
        if fall <= LEAST * before or before <= OPEN * self._usual or openings[-1] <= lowest + BACK * fall:
            return False
        return fall > min(SURE * self._noise(), ENOUGH * before)

    def _noise(self) -> float:
        """Return the standard deviation of the openness, estimated from the median difference, which ignores blinks.

        1.046 is the standard deviation of independent Gaussian numbers whose median difference is 1. Successive frames
        are not independent, so every other one is compared.
        """
        openings = [opening for _, opening in self._seen]
        return 1.046 * median(abs(b - a) for a, b in zip(openings, openings[2:], strict=False))
