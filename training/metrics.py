"""Measures of landmark errors and of binary predictions. F faces, N = 68 points."""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

REGIONS = {
    "jaw": slice(0, 17), "brows": slice(17, 27), "nose": slice(27, 36), "eyes": slice(36, 48), "mouth": slice(48, 68),
}


def normalised_errors(found: Floats, true: Floats, by: Floats | None = None) -> Floats:
    """Return (F, N) distances in per cent of `by` (F,), by default the distance of the outer eye corners."""
    by = eye_corners(true) if by is None else by
    return 100 * np.linalg.norm(found - true, axis=-1) / by[:, None]


def eye_corners(true: Floats) -> Floats:
    """Return (F,) the distance of the outer eye corners, points 36 and 45: the inter-ocular normaliser.

    Source: Sagonas et al. 2013, "300 Faces in-the-Wild Challenge".
    """
    return np.linalg.norm(true[:, 36] - true[:, 45], axis=-1)


def pupils(true: Floats) -> Floats:
    """Return (F,) the distance of the means of the eyes' points: the inter-pupil normaliser, smaller by a third."""
    return np.linalg.norm(true[:, 36:42].mean(1) - true[:, 42:48].mean(1), axis=-1)


def box_side(true: Floats) -> Floats:
    """Return (F,) the square root of the area of the box of the points: the normaliser of profile faces."""
    return np.sqrt(np.ptp(true, axis=1).prod(-1))


def failure_rate(errors: Floats, limit: float) -> float:
    """Return the per cent of faces (F,) whose mean error is over the limit."""
    return float(100 * (errors > limit).mean())


def area_under_curve(errors: Floats, limit: float) -> float:
    """Return the area under the cumulative distribution of errors (F,) up to the limit; 1 if all errors are 0.

    The curve is a staircase, so the integral is exact: the mean over faces of how far they are below the limit.
    """
    return float((1 - errors / limit).clip(0, 1).mean())


def f1(found: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    """Return the harmonic mean of precision and recall; NaN if nothing is true and nothing was found."""
    both = float(found.sum() + true.sum())
    return 2 * float((found & true).sum()) / both if both else math.nan
