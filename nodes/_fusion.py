"""Estimates where the points of faces are, from optical flow and detections.

Optical flow measures how each point moved between two frames, far more precisely than two detections do, but it
drifts. A detection measures where the point is, without drift but with noise. A small Kalman filter per point weighs
one against the other by their errors: the flow predicts, the detection corrects.

All faces of a frame are processed at once: F faces with 68 points each, in pixels of the frame.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from graph import Faces
from nodes._flow import Tracked, box_size, neighbours, prior, regularise
from nodes._geometry import landmark_box

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]

PERIOD = 1 / 30
"""Seconds between frames to which the errors below refer; other rates are converted, so 15 and 60 fps behave alike."""

DRIFT = 3e-4
"""Growth of the prediction's error per PERIOD with flow, standard deviation in face sizes.

Flow alone wanders by about half of this on the noisy test source (0.03 crop px, 114 crop px per face); the rest is
for light and shading that change. With detections that jitter by 0.3 % of the face it averages about 10 of them.
"""

GUESSED = 0.4
"""The same without flow, in standard deviations of the detection; about 3 frames are averaged."""

SPEED_TIME = 0.05
"""Seconds over which the face's speed is averaged without flow: motion lasts longer than noise, which alternates."""

NOISE_FLOOR = 5e-4
"""Least detection noise assumed, standard deviation in face sizes (0.1 px for a face of 200 px)."""

NOISE_MEMORY = 0.5
"""Seconds over which the detection's noise is measured: half a second holds 15 frames of 68 points."""

OUTLINE, EYES, MOUTH = 36, 12, 20
"""How many of the 68 points belong to jaw, brows and nose, to the eyes, and to the mouth, in this order."""

GATE = 9.0
GATE_SEEN = np.repeat((40.0, 6.0, 9.0), (OUTLINE, EYES, MOUTH))
"""Squared distance, in variances per axis, up to which detection and prediction differ by chance; _SEEN: with flow.

Where a point and its neighbours agree on a larger difference, the prediction missed a movement (a blink), and the
variance grows by the excess. Agreement is the product of their differences, limited by the shorter one, so neither a
lone point nor its neighbours alone count. The squared length of a two-dimensional Gaussian exceeds 6 in 5 % and 9 in
1 % of cases.

In eyes and mouth things appear and vanish (a pupil, teeth) that the flow cannot follow, so the detection leads: with 9
a blink of 150 ms in a 70-px face keeps 93 % of its amplitude. On jaw, brows and nose nothing moves that the flow
does not see, so only gross contradiction counts (6 sigma): with 9 they follow the detector's slow errors instead
(step 0.72 for 0.44 % of the eye distance per frame on the demo's portrait).
"""

PERSISTENCE = np.repeat((4.0, 1.0, 1.0), (OUTLINE, EYES, MOUTH))
"""In how many successive frames a detection errs alike, beyond what differences of successive ones show: a network's
errors depend on pose and place. It counts where the flow sees all movement. Measured on the demo's portrait: 4 halves
what is left of the jitter there; in eyes and mouth it would let blinks and speech fade."""

SLIP = np.repeat((0.0, 0.5, 0.5), (OUTLINE, EYES, MOUTH))
"""Error of the flow as a share of how a point moved beyond the face as a whole: lids and lips move over what appears
and vanishes beneath them, and a window that spans both sees less than the whole motion.

Speech then keeps 95.3 % of the lips' travel, with 0 93.8 %, and a still mouth is as still (0.11). More costs accuracy
while speaking (0.8: error 0.81 for 0.78 % of the eye distance), for it follows the noise of the detections. On jaw,
brows and nose nothing appears; there it would only let through the detector's slow errors (against flow on a talking
face 0.31 for 0.28 % of the eye distance).
"""

OUTLIER = 3.0
"""Standard deviations at which the pull of a single detection stops growing (Huber's rule)."""

TRUSTED = 1.5
"""Crop pixels of flow error up to which a point counts as seen again (1.3 % of the face)."""

SEEN_AGAIN = 0.4
"""Share of points that must be seen again; otherwise the picture was cut or covered, and the face starts afresh.

Measured on cuts between 110 noisy portraits of LFPW: by chance 30 % are seen again in one cut of 20, 51 % at most.
The first picture after a cut is off by over 3 % of the eye distance after 2 cuts, with 0.25 after 7. Of the faces in a
crowded street, most of them 20 to 40 px wide, one in twenty has less than half of its points seen again: with 0.5 their
points shake by 1 % more. A face that fills the picture never has less than 79 %."""


@dataclass
class Rows:
    """Arrays with one row per face."""

    def at(self, rows: NDArray[np.intp]) -> Self:
        """Return some of the faces, by number."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))

    def joined(self, others: Self) -> Self:
        """Return these faces and then the others."""
        both = ((getattr(self, field.name), getattr(others, field.name)) for field in fields(self))
        return type(self)(*(np.concatenate(arrays) for arrays in both))


@dataclass
class Found(Rows):
    """The faces of a message whose points are known."""

    rows: NDArray[np.intp]  # (F,) in the message
    ids: NDArray[np.int64]  # (F,)
    points: Doubles  # (F, 68, 2)
    boxes: Floats  # (F, 4) tight around them
    sizes: Doubles  # (F, 1) see nodes._flow.box_size
    spread: Doubles  # (F, 68)
    pose: NDArray[np.float32]  # (F, 3)
    states: NDArray[np.float32]  # (F, 4)


@dataclass
class Memory(Rows):
    """What is remembered of the faces of the last frame."""

    ids: NDArray[np.int64]  # (F,)
    raw: Doubles  # (F, 68, 2) last detection
    boxes: Floats  # (F, 4) tight around it
    points: Doubles  # (F, 68, 2) last output
    variance: Doubles  # (F, 68) of the output, per axis, pixels squared
    covariance: Doubles  # (F, 68, 68) expected motion, see nodes._flow.prior
    affinity: Doubles  # (F, 68, 68) weights of the other points, rows sum to 1
    noise: Doubles  # (F,) (measured noise / announced spread) squared of the detection, 0: not yet known
    velocity: Doubles  # (F, 68, 2) of the face as a whole, pixels per second
    pose: NDArray[np.float32]  # (F, 3)
    states: NDArray[np.float32]  # (F, 4)

    def expected(self, elapsed: float) -> tuple[Floats, Doubles]:
        """Return the boxes (F, 4) and points (F, 68, 2) after so many seconds, if the faces move on as they did."""
        step = self.velocity * elapsed
        return self.boxes + np.tile(step.mean(1), 2).astype(np.float32), self.points + step


@dataclass
class Prediction(Rows):
    """Where the points should be now, before the detection is looked at."""

    points: Doubles  # (F, 68, 2)
    variance: Doubles  # (F, 68) of the motion, per axis, pixels squared
    noise: Doubles  # (F,) (measured noise / announced spread) squared of this and the last detection


def similarity(source: NDArray[Any], target: NDArray[Any], points: NDArray[Any]) -> Doubles:
    """Move `points` (..., N, 2) by the similarity transforms that bring `source` nearest to `target` (..., M, 2).

    Source: least squares as in Umeyama 1991, in two dimensions, where it is one complex factor.
    """
    a, b, p = (np.ascontiguousarray(x, np.float64).view(np.complex128)[..., 0] for x in (source, target, points))
    middle, onto = a.mean(-1, keepdims=True), b.mean(-1, keepdims=True)
    arms = a - middle
    factor = np.vecdot(arms, b - onto) / np.maximum(np.vecdot(arms, arms).real, 1e-9)
    moved = factor[..., None] * (p - middle) + onto
    return np.asarray(moved.view(np.float64).reshape(points.shape))


def noise_ratio(difference: NDArray[Any], spread: NDArray[Any]) -> Doubles:
    """Return (F,) (noise / announced spread) squared of detections two of which differ by (F, 68, 2) beyond motion.

    The median over the points does not see a blink or a mouth. 1.386 is the median of the squared length of a
    two-dimensional unit Gaussian; the difference has twice the variance of one detection.
    """
    squared = np.square(difference).sum(axis=2) / np.square(spread)
    return np.asarray(np.sort(squared, axis=1)[:, 34] / 1.386 / 2)


def predict_by_flow(
    last: Memory, tracked: Sequence[Tracked], now: Found, guess: Doubles
) -> tuple[Prediction, NDArray[np.bool_]]:
    """Predict from the optical flow; also return of which faces (F,) it found enough points again.

    `guess` (F, 68, 2) is where the last points would be if each face had moved as a whole, as the detections did.
    """
    steps = np.array([one.crop.step for one in tracked])[:, None]
    error = np.array([one.error for one in tracked])
    beyond = (np.array([one.points for one in tracked]) - guess) / steps[..., None]
    unit = now.sizes / steps  # crop pixels per face size
    motion, variance = regularise(beyond, error, last.covariance * np.square(unit)[..., None])
    points = guess + motion * steps[..., None]
    ratio = noise_ratio((now.points - last.raw) - (points - last.points), now.spread)
    bent = np.square(points - similarity(last.points, points, last.points)).sum(axis=2)
    predicted = Prediction(points, variance * np.square(steps) + SLIP**2 * bent / 2, ratio)
    return predicted, (error < TRUSTED).mean(axis=1) >= SEEN_AGAIN


def predict_by_detection(last: Memory, now: Found, elapsed: float) -> Prediction:
    """Predict from how the faces moved as wholes between two detections, as far as that exceeds their noise.

    The share of the motion that is believed grows smoothly from 0 with the speed over SPEED_TIME, and is half at 5.5
    standard deviations of the detection per frame: one detection against the last differs by 2 if all points err alike.
    """
    ratio = noise_ratio(now.points - similarity(last.raw, now.points, last.raw), now.spread)
    step = similarity(last.raw, now.points, last.points) - last.points
    weight = 1 - math.exp(-elapsed / SPEED_TIME)
    last.velocity = last.velocity + weight * (step / elapsed - last.velocity)
    speed = np.square(last.velocity * elapsed).sum(axis=2).mean(axis=1)
    # Differences of white noise alternate, so their average keeps only weight^2 / (2 - weight) of their variance.
    noise = np.where(last.noise > 0, last.noise, ratio)
    chance = 30 * noise * np.square(now.spread).mean(axis=1) * weight**2 / (2 - weight)
    share = (speed / (speed + chance + 1e-9))[:, None, None]
    left = np.square((1 - share) * step).sum(axis=2).mean(axis=1) / 2
    variance = left[:, None] + GUESSED**2 * noise[:, None] * np.square(now.spread)
    return Prediction(last.points + share * step, variance, ratio)


def correct(
    points: Doubles, variance: Doubles, raw: Doubles, noise: Doubles, affinity: Doubles, by_flow: bool
) -> tuple[Doubles, Doubles]:
    """Return predicted points (F, 68, 2) and their variance (F, 68) with the detections `raw`, of `noise`, weighed in.

    A Kalman update per point, without switch or dead band: see GATE for motion that the prediction missed and
    OUTLIER for single wild detections.
    """
    innovation = raw - points
    around = affinity @ np.concatenate((innovation, (variance + noise)[..., None]), axis=2)
    others, expected = around[..., :2], around[..., 2]
    squared, squared_others = np.square(innovation).sum(axis=2), np.square(others).sum(axis=2)
    agreed = (innovation * others).sum(axis=2) * np.sqrt(np.minimum(1, squared_others / np.maximum(squared, 1e-12)))
    variance = variance + np.maximum(0, agreed - (GATE_SEEN if by_flow else GATE) * expected)
    noise = noise * PERSISTENCE if by_flow else noise
    gain = variance / (variance + noise)
    pull = gain * np.minimum(1, OUTLIER * np.sqrt((variance + noise) / np.maximum(squared, 1e-12)))
    return points + pull[..., None] * innovation, (1 - gain) * variance


def found(raw: Faces) -> Found:
    """Return the faces of a message whose points are known."""
    rows = np.flatnonzero(np.isfinite(raw.landmarks).all((1, 2)))
    points = raw.landmarks[rows].astype(np.float64)
    boxes = landmark_box(points)
    sizes = box_size(boxes)[:, None]
    spread = np.fmax(raw.spread[rows].astype(np.float64), NOISE_FLOOR * sizes)
    return Found(rows, raw.ids[rows], points, boxes, sizes, spread, raw.pose[rows], raw.states[rows])


def begin(now: Found) -> Memory:
    """Return the memory of faces that are seen for the first time: the detections, believed as they are."""
    affinity = neighbours(now.points) - np.eye(68)
    return Memory(
        ids=now.ids,
        raw=now.points,
        boxes=now.boxes,
        points=now.points,
        variance=np.square(now.spread),
        covariance=prior(now.points),
        affinity=affinity / affinity.sum(axis=2, keepdims=True),
        noise=np.zeros(len(now.ids)),
        velocity=np.zeros_like(now.points),
        pose=now.pose,
        states=now.states,
    )


def fuse(faces: Memory, predicted: Prediction, now: Found, elapsed: float, strength: float, by_flow: bool) -> None:
    """Update the remembered faces: predict, then correct by what was detected `elapsed` seconds later."""
    frames = elapsed / PERIOD
    learn_noise(faces, np.maximum(predicted.noise, 1e-6), elapsed)
    # Two detections of nearly the same picture err alike: twice the rate does not bring twice the knowledge.
    noise = np.maximum(faces.noise[:, None] * np.square(now.spread), np.square(NOISE_FLOOR * now.sizes))
    noise *= strength**2 / frames
    variance = faces.variance + (predicted.variance + np.square(DRIFT * now.sizes)) * frames
    last = faces.points
    faces.points, faces.variance = correct(predicted.points, variance, now.points, noise, faces.affinity, by_flow)
    if by_flow:
        faces.velocity = np.broadcast_to((faces.points - last).mean(1, keepdims=True) / elapsed, last.shape)


def learn_noise(faces: Memory, ratio: Doubles, elapsed: float) -> None:
    """Update the noise of the detections by that of one frame (F,)."""
    unknown = faces.noise == 0
    faces.noise = np.where(unknown, ratio, faces.noise)
    faces.variance *= np.where(unknown, ratio, 1)[:, None]
    # The geometric mean: a moment in which flow and detection disagree wholly counts for little.
    faces.noise *= (ratio / faces.noise) ** (1 - math.exp(-elapsed / NOISE_MEMORY))


def touch(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.bool_]:
    """Return of which faces (F,) the two tight boxes (F, 4) touch: no face moves beyond its own box in one frame."""
    return np.asarray(((a[:, :2] <= b[:, 2:]) & (b[:, :2] <= a[:, 2:])).all(1), np.bool_)


NOBODY = begin(found(Faces()))
"""The memory of no face."""
