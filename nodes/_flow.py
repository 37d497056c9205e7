"""How the points of one face moved between two frames: optical flow on a small crop, and what it is worth."""

import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dpotri, dpotrs

Points = NDArray[np.float32]  # (68, 2), pixels of the frame unless said otherwise

SIDE = 160
"""Crop side, pixels. Cost and accuracy of the flow then do not depend on the resolution; an open eye is 7 px high."""

MARGIN = 1.4
"""Crop side in face sizes: points at the rim keep a whole window around them while the face moves."""


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


class Crop(NamedTuple):
    """The green channel around one face, (SIDE, SIDE) uint8, and where it lies in the frame."""

    image: NDArray[Any]
    area: Area
    origin: NDArray[np.float64]  # frame pixels of the crop's (-0.5, -0.5)
    step: float  # frame pixels per crop pixel

    def inside(self, points: NDArray[Any]) -> Points:
        """Map frame pixels to crop pixels."""
        return ((points - self.origin) / self.step - 0.5).astype(np.float32)

    def outside(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Map crop pixels to frame pixels."""
        mapped: NDArray[np.float64] = (points + 0.5) * self.step + self.origin
        return mapped


def face_size(points: NDArray[Any]) -> float:
    """Return the size of a face in frame pixels: side of the square as large as the tight box around its points."""
    width, height = points.max(axis=0) - points.min(axis=0)
    return max(math.sqrt(width * height), 1.0)


def crop(image: NDArray[Any], points: NDArray[Any], last: Crop | None = None) -> Crop:
    """Cut the face out, upright and as it is, from a BGR picture; outside the picture its rim is repeated.

    The place of the `last` crop is kept while the face fits it: on a still face two crops then differ by sensor noise
    only, not by resampling. A large face is thinned out to every n-th pixel of every n-th row, so that a 4K face
    costs no more than a small one. Green alone stands for grey (59 % of luma, and the least noisy channel of a
    Bayer sensor), which saves the conversion.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    side = MARGIN * max(math.sqrt((high[0] - low[0]) * (high[1] - low[1])), 1.0)
    middle = (low + high) / 2
    area = last.area if last and fits(last.area, middle, side) else _area(middle, side)
    small = cv2.resize(_samples(image, area), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    return Crop(small, area, np.array([area.x, area.y]) - area.stride / 2, area.length / SIDE)


def fits(area: Area, middle: NDArray[Any], side: float) -> bool:
    """Return whether a square about `middle` lies well in an area: off by a tenth at most, within 19 % of its size."""
    off = np.abs(middle - (area.x + area.length / 2, area.y + area.length / 2)).max()
    return bool(off < area.length / 10 and 0.84 < side / area.length < 1.19)


def _area(middle: NDArray[Any], side: float) -> Area:
    stride = max(1, int(side // SIDE))
    count = max(8, int(side // stride))
    x, y = np.rint(middle - count * stride / 2).astype(int).tolist()
    return Area(x, y, count, stride)


def _samples(image: NDArray[Any], area: Area) -> NDArray[Any]:
    """Return green at the samples of an area, the picture's rim repeated outside."""
    height, width = image.shape[:2]
    x0, y0, length, stride = area.x, area.y, area.length, area.stride
    if x0 >= 0 and y0 >= 0 and x0 + length <= width and y0 + length <= height:
        region = image[y0 : y0 + length : stride, x0 : x0 + length]
        return np.asarray(cv2.extractChannel(region, 1)) if stride == 1 else region[:, ::stride, 1].copy()
    columns = np.clip(np.arange(x0, x0 + length, stride), 0, width - 1)
    rows = np.clip(np.arange(y0, y0 + length, stride), 0, height - 1)
    return np.asarray(image[rows[:, None], columns, 1])


WINDOW = (11, 11)
"""LK window, crop pixels: spans an eye opening. 15 is no better on moving faces (median error 0.067 against 0.065 px
on a panned portrait with noise) and costs twice."""

LEVELS = 1
"""Pyramid levels above the crop itself: reaches about 10 crop px (9 % of the face) beyond the guessed motion."""

STOP = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 10, 0.03)

TEXTURE_LAW = 0.005
"""Flow error per axis = TEXTURE_LAW * residual / sqrt(smallest eigenvalue), crop px; residual in grey levels.

The form is that of least squares: the noise variance times the inverse Hessian, here the window's texture matrix. The
factor was measured against the test source's truth: 0.0043 to 0.0060 over residuals of 0.5 to 3.4 grey levels.
"""

FLOOR = 0.01
"""Smallest flow error believed, crop px: interpolation of 8-bit crops (0.013 px measured on a still face, sigma 2)."""

LOST = 1e3
"""Flow error of a point that was not found, crop px: larger than any motion, so its neighbours decide."""


def track(before: Crop, now: Crop, points: NDArray[Any], guess: NDArray[Any]) -> tuple[Points, Points]:
    """Follow frame points (68, 2) of one crop into the next and back.

    `guess` says where they might be now. Returns their places in pixels of the crop `now` (68, 2) and the standard
    error per axis (68,), to which the distance between start and return counts in full.
    """
    start, guessed = before.inside(points), now.inside(guess)
    flags = cv2.OPTFLOW_USE_INITIAL_FLOW
    found, ok, texture = cv2.calcOpticalFlowPyrLK(
        before.image, now.image, start, guessed.copy(), winSize=WINDOW, maxLevel=LEVELS, criteria=STOP,
        flags=flags | cv2.OPTFLOW_LK_GET_MIN_EIGENVALS, minEigThreshold=1e-6,
    )  # fmt: skip
    back, ok_back, residual = cv2.calcOpticalFlowPyrLK(
        now.image, before.image, found, found + (start - guessed), winSize=WINDOW, maxLevel=0, criteria=STOP,
        flags=flags, minEigThreshold=1e-6,
    )  # fmt: skip
    missed = np.square(back - start).sum(axis=1)
    noise = np.square(TEXTURE_LAW * residual[:, 0]) / np.maximum(texture[:, 0], 1e-6)
    error = np.sqrt(FLOOR**2 + noise + missed)
    lost = (ok[:, 0] == 0) | (ok_back[:, 0] == 0) | ~np.isfinite(error)
    places, errors = np.asarray(found, np.float32), error.astype(np.float32)
    errors[lost] = LOST
    places[lost] = guessed[lost]
    return places, errors


GROUPS = (
    range(17), range(17, 22), range(22, 27), range(27, 36),
    (36, 39), (37, 38), (40, 41), (42, 45), (43, 44), (46, 47),
    (48, 60), (49, 50, 51, 52, 53, 61, 62, 63), (54, 64), (55, 56, 57, 58, 59, 65, 66, 67),
)  # fmt: skip
"""Points (iBUG 68) that move as neighbours: jaw, brows, nose, per eye corners, upper and lower lid, mouth corners,
upper and lower lip. A lid never pulls the other lid along, nor a lip the other lip."""

REACH = 0.12
"""How far neighbours speak for one another, of the face size: half of a mouth."""

RIGID, LOCAL, OWN = 0.04, 0.013, 0.004
"""Motion expected beyond the guess in one frame, standard deviation in face sizes: of the face as a whole (an error of
the guess), of a feature (an opening mouth: 0.15 face sizes in 10 frames at 30 fps), and of a single point."""


def neighbours(points: NDArray[Any]) -> NDArray[np.float64]:
    """Return how closely two points move together, (68, 68), 1 on the diagonal, 0 across groups."""
    scaled = points / (REACH * face_size(points))
    distance = np.square(scaled[:, None] - scaled).sum(axis=2)
    together = np.zeros((68, 68))
    for group in GROUPS:
        together[np.ix_(group, group)] = 1
    affinity: NDArray[np.float64] = together * np.exp(-distance / 2)
    return affinity


def prior(points: NDArray[Any]) -> NDArray[np.float64]:
    """Return the covariance (68, 68) of the points' motion beyond the guess, in face sizes squared, per axis.

    The face as a whole (an affine motion of variance RIGID at its rim), its features, and each point by itself.
    """
    relative = (points - points.mean(axis=0)) / face_size(points)
    affine = np.concatenate([np.ones((68, 1)), relative * 2], axis=1)
    covariance: NDArray[np.float64] = RIGID**2 * affine @ affine.T + LOCAL**2 * neighbours(points)
    return covariance + OWN**2 * np.eye(68)


def regularise(
    motion: NDArray[Any], error: NDArray[Any], covariance: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the expected true motion (68, 2) and its variance per axis (68,), given measured ones with their errors.

    Gaussian process regression (Rasmussen and Williams 2006, eq. 2.25-2.26): points without texture follow their
    neighbours. A point that contradicts the others' prediction of it by more than 3 sigma (leave-one-out residual,
    their eq. 5.12) is taken for less certain by the excess, smoothly.
    """
    noise = np.square(error.astype(np.float64))
    weighed, precision = _solve(covariance, noise, motion)
    residual = np.square(weighed).sum(axis=1) / np.square(precision)
    excess = residual - 2 * 9 / precision
    if excess.max() > 0:
        noise += np.maximum(0, excess)
        weighed, precision = _solve(covariance, noise, motion)
    # K (K + N)^-1 = 1 - N (K + N)^-1, and its variance K - K (K + N)^-1 K = N - N (K + N)^-1 N, without a product.
    return motion - noise[:, None] * weighed, np.maximum(noise - np.square(noise) * precision, 0)


def _solve(
    covariance: NDArray[np.float64], noise: NDArray[np.float64], motion: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (covariance + diag(noise))^-1 motion and the diagonal of that inverse, by Cholesky's factor."""
    total = covariance.copy()
    total.flat[::69] += noise
    factor, _ = dpotrf(total, lower=1, overwrite_a=1)
    weighed, _ = dpotrs(factor, motion, lower=1)
    inverse, _ = dpotri(factor, lower=1, overwrite_c=1)
    return weighed, inverse.diagonal()
