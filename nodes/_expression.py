"""What eyes and mouth do, in numbers: how far they are open, and blinks."""

import math
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

SHUT, REOPENED = 0.5, 0.7
"""Share of its usual opening below which an eye is shut, and above which it is open again. Between the two nothing
changes, so noise makes no blinks: lids are found to about 3 % of the eye's width, a tenth of an open eye."""

LEAST_EYE = 18.0
"""Pixels: narrower eyes show no blinks. Of ten walkers in a 1080p street, with eyes of 4 to 19 px, seven blinked 22
times in four seconds by these rules, hardly once in truth; lids are found to a pixel at best."""

RIM = 0.5
"""Eye widths: an eye whose middle is nearer to the picture's rim may be cut off. The network then guesses its points
into the picture, half shut: a portrait that bobbed out of the picture three times "blinked" three times."""

SAID = 0.6
"""Probability from which the network's word that both eyes are closed counts, whatever the points say."""

LONGEST = 0.5
"""Seconds: a blink takes 0.1 to 0.4 s (Caffier et al. 2003); eyes shut for longer are closed, or asleep."""

RISE, FALL = 0.2, 10.0
"""Seconds over which the usual opening follows a wider one, and a narrower one of eyes that are not shut: fast up, so
that a face that begins with half closed eyes is soon known, and slowly down, so that a look down is no new usual."""


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
    x, y = np.moveaxis(landmarks[:, pairs[0]] - landmarks[:, pairs[1]], -1, 0)
    return np.asarray(np.hypot(x, y))


def eye_widths(landmarks: NDArray[Any]) -> NDArray[Any]:
    """Return (F,) the mean width of both eyes of landmarks (F, 68, 2), in their unit."""
    return np.asarray(widths(landmarks)[:, :2].mean(1))


def eyes_in(landmarks: NDArray[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Say which eyes (F, 2) of landmarks (F, 68, 2) a picture of `size` (width, height) shows whole, left and right."""
    middles = MIDDLES @ landmarks[:, EYES]
    room = np.minimum(middles + 0.5, np.array(size) - 0.5 - middles).min(2)
    return np.asarray(room >= RIM * widths(landmarks)[:, :2], np.bool_)


class Blinks:
    """Counts the blinks of one face: both eyes shut, and open again soon after. To be shown eyes that can be seen."""

    def __init__(self) -> None:
        self.count = 0
        self._usual = 0.0  # opening of the open eyes
        self._shut_at = math.nan  # pts
        self._pts = math.nan

    def see(self, pts: float, eyes: float, closed: float) -> int:
        """Take in the mean openness of both eyes and the probability that both are closed; return the count.

        The blink is counted when the eyes are open again, at `pts` seconds.
        """
        elapsed = pts - self._pts if math.isfinite(self._pts) else math.inf
        self._pts = pts
        was_shut = math.isfinite(self._shut_at)
        share = eyes / self._usual if self._usual else 1.0
        if not was_shut and (share < SHUT or closed > SAID):
            self._shut_at = pts
        elif was_shut and share > REOPENED and closed < SAID:
            self.count += pts - self._shut_at <= LONGEST
            self._shut_at = math.nan
        if not math.isfinite(self._shut_at):
            time = RISE if eyes > self._usual else FALL
            self._usual += (1 - math.exp(-elapsed / time)) * (eyes - self._usual)
        return self.count
