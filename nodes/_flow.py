"""Measures how the points of faces moved between two frames: optical flow on a small crop of each, and its error.

F faces with 68 points each, in pixels of the frame unless said otherwise.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dtrtri

from nodes._area import Area, samples, square

Points = NDArray[np.float32]

SIDE = 160
"""Crop side, pixels. Cost and accuracy of the flow then do not depend on the resolution; an open eye is 7 px high."""

MARGIN = 1.4
"""Crop side in face sizes: large enough for a whole window around the outer points while the face moves."""


class Crop(NamedTuple):
    """The green channel around one face, (SIDE, SIDE) uint8, and where it lies in the frame."""

    image: NDArray[Any]
    area: Area

    @property
    def origin(self) -> tuple[float, float]:
        """Frame pixels of the crop's (-0.5, -0.5)."""
        return self.area.x - self.area.stride / 2, self.area.y - self.area.stride / 2

    @property
    def step(self) -> float:
        """Frame pixels per crop pixel."""
        return self.area.length / SIDE


def inside(crops: Sequence[Crop], points: NDArray[Any]) -> Points:
    """Map points (F, 68, 2) to pixels of the crops of their faces."""
    places = np.array([(*crop.origin, crop.step) for crop in crops]).reshape(-1, 1, 3)
    return np.asarray((points - places[..., :2]) / places[..., 2:] - 0.5, np.float32)


def outside(crops: Sequence[Crop], points: NDArray[Any]) -> NDArray[np.float64]:
    """Map points (F, 68, 2) in pixels of the crops of their faces to those of the frame."""
    places = np.array([(*crop.origin, crop.step) for crop in crops]).reshape(-1, 1, 3)
    return np.asarray((points + 0.5) * places[..., 2:] + places[..., :2])


def box_size(boxes: NDArray[Any]) -> NDArray[np.float64]:
    """Return (...) the sizes of faces with tight boxes (..., 4): side of the square that is as large as the box."""
    sides = boxes[..., 2:] - boxes[..., :2]
    return np.asarray(np.maximum(np.sqrt(sides[..., 0] * sides[..., 1]), 1.0), np.float64)


def face_size(points: NDArray[Any]) -> NDArray[np.float64]:
    """Return (...) the sizes of faces (..., 68, 2)."""
    return box_size(np.concatenate((points.min(axis=-2), points.max(axis=-2)), axis=-1))


def crop(image: NDArray[Any], boxes: NDArray[Any], last: Sequence[Crop | None]) -> list[Crop]:
    """Cut faces with tight boxes (F, 4) from a BGR picture, without rotation; beyond the picture its rim is repeated.

    The place of a face's `last` crop is kept while the face fits it: two crops of a still face then differ only by
    sensor noise, not by resampling.
    """
    middles = ((boxes[:, :2] + boxes[:, 2:]) / 2).tolist()
    sides = (MARGIN * box_size(boxes)).tolist()
    crops = []
    for (x, y), side, before in zip(middles, sides, last, strict=True):
        area = before.area if before and fits(before.area, x, y, side) else square(x, y, side, SIDE)
        small = cv2.resize(samples(image, area), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
        crops.append(Crop(small, area))
    return crops


def fits(area: Area, x: float, y: float, side: float) -> bool:
    """Return whether a square about x, y fits an area: off centre by a tenth at most, of its size within 19 %."""
    half = area.length / 2
    off = max(abs(x - area.x - half), abs(y - area.y - half))
    return off < area.length / 10 and 0.84 < side / area.length < 1.19


class Tracked(NamedTuple):
    """A face of the last frame as optical flow finds it in the next one."""

    crop: Crop
    points: NDArray[np.float64]  # (68, 2)
    error: Points  # (68,) standard error per axis, pixels of the crop


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


def track(
    before: Sequence[Crop], now: Sequence[Crop], points: NDArray[Any], guess: NDArray[Any]
) -> tuple[NDArray[np.float64], Points]:
    """Follow points (F, 68, 2) from the crops of their faces into the next ones and back.

    `guess` says where they might be now. Returns where they are (F, 68, 2), and the standard error per axis in pixels
    of the crops `now` (F, 68), to which the distance between start and return counts in full.
    """
    start, guessed = inside(before, points), inside(now, guess)
    found, back = guessed.copy(), np.empty_like(start)
    ok, texture, residual = np.empty(start.shape[:2], bool), np.empty_like(start[..., 0]), np.empty_like(start[..., 0])
    for i, (old, new) in enumerate(zip(before, now, strict=True)):
        _, ok_there, textures = cv2.calcOpticalFlowPyrLK(
            old.image, new.image, start[i], found[i], winSize=WINDOW, maxLevel=LEVELS, criteria=STOP,
            flags=cv2.OPTFLOW_USE_INITIAL_FLOW | cv2.OPTFLOW_LK_GET_MIN_EIGENVALS, minEigThreshold=1e-6,
        )  # fmt: skip
        np.add(found[i], start[i] - guessed[i], out=back[i])
        _, ok_back, residuals = cv2.calcOpticalFlowPyrLK(
            new.image, old.image, found[i], back[i], winSize=WINDOW, maxLevel=0, criteria=STOP,
            flags=cv2.OPTFLOW_USE_INITIAL_FLOW, minEigThreshold=1e-6,
        )  # fmt: skip
        ok[i] = np.logical_and(ok_there, ok_back)[:, 0]
        texture[i], residual[i] = textures[:, 0], residuals[:, 0]
    residual[~ok] = 0  # OpenCV leaves anything there
    missed = np.square(back - start).sum(axis=2)
    noise = np.square(TEXTURE_LAW * residual) / np.maximum(texture, 1e-6)
    error = np.sqrt(FLOOR**2 + noise + missed)
    lost = ~ok | ~np.isfinite(error)
    error[lost] = LOST
    found[lost] = guessed[lost]
    return outside(now, found), error


GROUPS = (
    range(17), range(17, 22), range(22, 27), range(27, 36),
    (36, 39), (37, 38), (40, 41), (42, 45), (43, 44), (46, 47),
    (48, 60), (49, 50, 51, 52, 53, 61, 62, 63), (54, 64), (55, 56, 57, 58, 59, 65, 66, 67),
)  # fmt: skip
"""Points (iBUG 68) that move as neighbours: jaw, brows, nose, per eye corners, upper and lower lid, mouth corners,
upper and lower lip. A lid never pulls the other lid along, nor a lip the other lip."""

REACH = 0.12
"""Range over which neighbours move together, in face sizes: half a mouth."""

RIGID, LOCAL, OWN = 0.04, 0.013, 0.004
"""Motion expected beyond the guess in one frame, standard deviation in face sizes: of the face as a whole (an error of
the guess), of a feature (an opening mouth: 0.15 face sizes in 10 frames at 30 fps), and of a single point."""


TOGETHER = np.array([[any(a in group and b in group for group in GROUPS) for a in range(68)] for b in range(68)])


def neighbours(points: NDArray[Any]) -> NDArray[np.float64]:
    """Return how closely each two of points (F, 68, 2) move together, (F, 68, 68): 1 for the same, 0 across groups."""
    scaled = points / (REACH * face_size(points)[:, None, None])
    distance = np.square(scaled[:, :, None] - scaled[:, None]).sum(axis=3)
    return np.asarray(TOGETHER * np.exp(-distance / 2))


def prior(points: NDArray[Any]) -> NDArray[np.float64]:
    """Return the covariance (F, 68, 68) of the motion of points (F, 68, 2) beyond the guess, face sizes^2, per axis.

    The face as a whole (an affine motion of variance RIGID at its rim), its features, and each point by itself.
    """
    relative = (points - points.mean(axis=1, keepdims=True)) / face_size(points)[:, None, None]
    affine = np.concatenate((np.ones_like(relative[..., :1]), relative * 2), axis=2)
    covariance = RIGID**2 * affine @ affine.swapaxes(1, 2) + LOCAL**2 * neighbours(points)
    return np.asarray(covariance + OWN**2 * np.eye(68))


def regularise(
    motion: NDArray[Any], error: NDArray[Any], covariance: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the expected true motion (F, 68, 2) and its variance per axis (F, 68), given measured ones, their errors.

    Gaussian process regression (Rasmussen and Williams 2006, eq. 2.25-2.26): points without texture follow their
    neighbours. A point that contradicts the others' prediction of it by more than 3 sigma (leave-one-out residual,
    their eq. 5.12) is taken for less certain by the excess, smoothly.
    """
    noise = np.square(error.astype(np.float64))
    weighed, precision = np.empty(motion.shape), np.empty(noise.shape)
    for i in range(len(motion)):
        weighed[i], precision[i] = _solve(covariance[i], noise[i], motion[i])
    excess = np.square(weighed).sum(axis=2) / np.square(precision) - 2 * 9 / precision
    for i in np.flatnonzero(excess.max(axis=1, initial=0) > 0).tolist():
        noise[i] += np.maximum(0, excess[i])
        weighed[i], precision[i] = _solve(covariance[i], noise[i], motion[i])
    # K (K + N)^-1 = 1 - N (K + N)^-1, and its variance K - K (K + N)^-1 K = N - N (K + N)^-1 N, without a product.
    return motion - noise[..., None] * weighed, np.maximum(noise - np.square(noise) * precision, 0)


def _solve(
    covariance: NDArray[np.float64], noise: NDArray[np.float64], motion: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (covariance + diag(noise))^-1 motion and the diagonal of that inverse, by Cholesky's factor."""
    total = covariance.copy()
    total.flat[::69] += noise
    factor, _ = dpotrf(total, lower=1, overwrite_a=1)
    inverse, _ = dtrtri(factor, lower=1, overwrite_c=1)  # of the factor alone: that of the whole takes twice as long
    return inverse.T @ (inverse @ motion), np.einsum("ij,ij->j", inverse, inverse)
