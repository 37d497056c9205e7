"""Steady the landmarks of each face without lagging behind its movement.

Between two frames optical flow tells how each point moved, far more precisely than two detections do, but it drifts;
the detection tells where the point is, without drift but with noise. A small Kalman filter per point weighs
the one against the other by their errors: the flow predicts, the detection corrects.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graph import Faces, Frame, Input, Node, Output, setting
from nodes._expression import LEAST_EYE, Blinks, eye_widths, openness
from nodes._flow import Crop, Points, crop, face_size, neighbours, prior, regularise, track

PERIOD = 1 / 30
"""Seconds between frames that the errors below are for; other rates are converted, so 15 and 60 fps behave alike."""

GAP = 0.5
"""Seconds after which nothing is carried over: a face has long changed by then."""

DRIFT = 3e-4
"""Growth of the prediction's error per PERIOD with flow, standard deviation in face sizes.

Flow alone wanders by about half of this on the noisy test source (0.03 crop px, 114 crop px per face); the rest is
for light and shading that change. With detections that jitter by 0.3 % of the face it averages about 10 of them.
"""

GUESSED = 0.4
"""The same without flow, in standard deviations of the detection: features move unseen, about 3 frames are averaged."""

SPEED_TIME = 0.05
"""Seconds over which the face's speed is averaged without flow: motion lasts longer than noise, which alternates."""

NOISE_FLOOR = 5e-4
"""Smallest detection noise believed, standard deviation in face sizes (0.1 px at a 200-px face)."""

NOISE_MEMORY = 0.5
"""Seconds over which the detection's noise is measured: half a second holds 15 frames of 68 points."""

OUTLINE, EYES, MOUTH = 36, 12, 20
"""How many of the 68 points belong to jaw, brows and nose, to the eyes, and to the mouth, in this order."""

GATE = 9.0
GATE_SEEN = np.repeat((40.0, 6.0, 9.0), (OUTLINE, EYES, MOUTH))
"""Squared distance, in variances per axis, up to which detection and prediction differ by chance; _SEEN: with flow.

What a point and its neighbours agree on beyond it is movement that the prediction missed (a blink): its variance grows
by it. Agreement is the product of their differences, with the shorter of the two: neither a lone point nor the
neighbours of one count. The squared length of a two-dimensional Gaussian exceeds 6 in 5 % and 9 in 1 % of cases.

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

POSE_TIME, POSE_STEP = 0.05, 3.0
"""Seconds and degrees: smaller changes of the head pose are averaged over this time, larger ones followed at once."""

STATE_TIME, STATE_STEP = 0.06, 0.3
"""The same for the probabilities of eyes and mouth: a blink lasts 0.15 s."""

TRUSTED = 1.5
"""Crop pixels of flow error up to which a point counts as seen again (1.3 % of the face)."""

SEEN_AGAIN = 0.25
"""Share of points that must be seen again; otherwise the picture was cut or covered, and the face starts afresh."""


@dataclass
class Track:
    """What is remembered of one face."""

    pts: float
    crop: Crop | None
    raw: NDArray[np.float64]  # (68, 2) last detection
    points: NDArray[np.float64]  # (68, 2) last output
    variance: NDArray[np.float64]  # (68,) of the output, per axis, pixels squared
    covariance: NDArray[np.float64]  # (68, 68) expected motion, see nodes._flow.prior
    affinity: NDArray[np.float64]  # (68, 68) weights of the other points, rows sum to 1
    noise: float  # (measured noise / announced spread) squared of the detection, 0: not yet known
    velocity: NDArray[np.float64]  # (68, 2) of the face as a whole, pixels per second; only without flow
    pose: Points
    states: Points
    blinks: Blinks


@dataclass
class Prediction:
    """Where the points should be now, before the detection is looked at."""

    points: NDArray[np.float64]  # (68, 2)
    variance: NDArray[np.float64]  # (68,) of the motion, per axis, pixels squared
    noise: float  # (measured noise / announced spread) squared of this and the last detection
    seen: bool  # by flow


def similarity(source: NDArray[Any], target: NDArray[Any], points: NDArray[Any]) -> NDArray[np.float64]:
    """Move `points` by the similarity transform that brings `source` nearest to `target` (least squares).

    Source: Umeyama 1991 in two dimensions, where it is one complex factor.
    """
    a, b, p = (np.ascontiguousarray(x, np.float64).view(np.complex128)[:, 0] for x in (source, target, points))
    centred = a - a.mean()
    factor = np.vdot(centred, b - b.mean()) / max(np.vdot(centred, centred).real, 1e-9)
    moved = factor * (p - a.mean()) + b.mean()
    return np.stack([moved.real, moved.imag], axis=1)


def noise_ratio(difference: NDArray[Any], spread: NDArray[Any]) -> float:
    """Return (noise / announced spread) squared of two detections that differ by `difference` (68, 2) beyond motion.

    The median over the points does not see a blink or a mouth. 1.386 is the median of the squared length of a
    two-dimensional unit Gaussian; the difference has twice the variance of one detection.
    """
    squared = np.square(difference).sum(axis=1) / np.square(spread)
    squared.sort()
    return float(squared[34] / 1.386 / 2)


def predict_by_flow(last: Track, now: Crop, raw: NDArray[Any], spread: NDArray[Any]) -> Prediction | None:
    """Predict from the optical flow between the crops; None if too little of the face was seen again."""
    assert last.crop is not None
    guess = similarity(last.raw, raw, last.points)
    found, error = track(last.crop, now, last.points, guess)
    if np.mean(error < TRUSTED) < SEEN_AGAIN:
        return None
    unit = face_size(raw) / now.step  # crop pixels per face size
    guessed = now.inside(guess)
    motion, variance = regularise(found - guessed, error, last.covariance * unit**2)
    points = now.outside(guessed + motion)
    ratio = noise_ratio((raw - last.raw) - (points - last.points), spread)
    bent = np.square(points - similarity(last.points, points, last.points)).sum(axis=1)
    return Prediction(points, variance * now.step**2 + SLIP**2 * bent / 2, ratio, seen=True)


def predict_by_detection(last: Track, raw: NDArray[Any], spread: NDArray[Any], elapsed: float) -> Prediction:
    """Predict from how the face moved as a whole between two detections, as far as that exceeds their noise.

    The share of the motion that is believed grows smoothly from 0 with the speed over SPEED_TIME, and is half at 5.5
    standard deviations of the detection per frame: one detection against the last differs by 2 if all points err alike.
    """
    ratio = noise_ratio(raw - similarity(last.raw, raw, last.raw), spread)
    step = similarity(last.raw, raw, last.points) - last.points
    weight = 1 - math.exp(-elapsed / SPEED_TIME)
    last.velocity = last.velocity + weight * (step / elapsed - last.velocity)
    speed = float(np.square(last.velocity * elapsed).sum(axis=1).mean())
    # Differences of white noise alternate, so their average keeps only weight^2 / (2 - weight) of their variance.
    noise = last.noise or ratio
    chance = 30 * noise * float(np.square(spread).mean()) * weight**2 / (2 - weight)
    share = speed / (speed + chance + 1e-9)
    left = (1 - share) ** 2 * float(np.square(step).sum(axis=1).mean()) / 2
    variance = left + GUESSED**2 * noise * np.square(spread)
    return Prediction(last.points + share * step, variance, ratio, seen=False)


def correct(
    predicted: Prediction, prior_variance: NDArray[Any], raw: NDArray[Any], noise: NDArray[Any], affinity: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return points (68, 2) and their variance (68,), the detection `raw` with variance `noise` (68,) weighed in.

    A Kalman update per point, without switch or dead band: see GATE for motion that the prediction missed and
    OUTLIER for single wild detections.
    """
    innovation = raw - predicted.points
    expected = prior_variance + noise
    others = affinity @ innovation
    squared, squared_others = np.square(innovation).sum(axis=1), np.square(others).sum(axis=1)
    agreed = (innovation * others).sum(axis=1) * np.sqrt(np.minimum(1, squared_others / np.maximum(squared, 1e-12)))
    missed = np.maximum(0, agreed - (GATE_SEEN if predicted.seen else GATE) * (affinity @ expected))
    variance = prior_variance + missed
    noise = noise * PERSISTENCE if predicted.seen else noise
    gain = variance / (variance + noise)
    pull = gain * np.minimum(1, OUTLIER * np.sqrt((variance + noise) / np.maximum(squared, 1e-12)))
    return predicted.points + pull[:, None] * innovation, (1 - gain) * variance


def follow(last: NDArray[Any], now: NDArray[Any], elapsed: float, period: float, step: float) -> NDArray[Any]:
    """Return values between `last` and `now`: averaged over `period` seconds where they differ by less than `step`."""
    least = 1 - np.exp(-elapsed / period)
    squared = np.square(now - last)
    weight = least + (1 - least) * squared / (squared + step**2)
    followed: NDArray[Any] = last + weight * (now - last)
    return followed


def turned(last: NDArray[Any], now: NDArray[Any]) -> NDArray[Any]:
    """Return the angles `now` (degrees), turned by whole circles to lie nearest to `last`."""
    nearest: NDArray[Any] = last + (now - last + 180) % 360 - 180
    return nearest


class Smooth(Node):
    """Steady the landmarks without lagging behind fast movement.

    Each face has its own memory, which ends with the track, at a cut, at a pause of half a second, and when the
    stream starts afresh; the next output is then the detection itself. `boxes` are tight around the steadied points,
    `openness` is theirs; head pose and states are averaged lightly; blinks are counted while the id lasts. `spread`
    passes as it is: most of that error is the same in every frame.
    """

    frame = Input(Frame)
    raw = Input(Faces)
    faces = Output(Faces)

    flow: bool = setting(True, changeable=True)  # measure motion in the picture; off: from the detections alone
    strength: float = setting(1.0, minimum=0.0, maximum=10.0, changeable=True)  # 0: as detected; larger is calmer

    def open(self) -> None:
        """Start without any face."""
        self._tracks: dict[int, Track] = {}
        self._epoch = -1
        self._size: tuple[int, ...] = ()

    def process(self, frame: Frame, raw: Faces) -> Faces:
        """Return the faces with steadied landmarks."""
        if raw.epoch != self._epoch or frame.image.shape != self._size:
            self._tracks = {}
        self._epoch, self._size = raw.epoch, frame.image.shape
        self._tracks = {
            int(id_): self._step(self._tracks.get(int(id_)), frame.image, raw, row)
            for row, id_ in enumerate(raw.ids)
            if np.isfinite(raw.landmarks[row]).all()
        }
        return self._as_faces(raw)

    def _step(self, last: Track | None, image: NDArray[Any], raw: Faces, row: int) -> Track:
        points = raw.landmarks[row].astype(np.float64)
        blinks = last.blinks if last else Blinks()
        if last and not (self.strength and 0 < raw.pts - last.pts <= GAP and overlap(last.raw, points)):
            last = None
        now = crop(image, points, last.crop if last else None) if self.flow else None
        spread = np.fmax(raw.spread[row].astype(np.float64), NOISE_FLOOR * face_size(points))
        predicted = None
        if last and now and last.crop:
            predicted = predict_by_flow(last, now, points, spread)
        elif last:
            predicted = predict_by_detection(last, points, spread, raw.pts - last.pts)
        if last and predicted:
            self._fuse(last, predicted, points, spread, raw.pts - last.pts)
            self._soften(last, raw, row)
        else:
            last = begin(points, spread, raw, row, blinks)
        last.pts, last.crop, last.raw = raw.pts, now, points
        return last

    def _fuse(
        self, face: Track, predicted: Prediction, raw: NDArray[Any], spread: NDArray[Any], elapsed: float
    ) -> None:
        frames = elapsed / PERIOD
        size = face_size(raw)
        self._learn_noise(face, max(predicted.noise, 1e-6), elapsed)
        # Two detections of nearly the same picture err alike: twice the rate does not bring twice the knowledge.
        noise = np.maximum(face.noise * np.square(spread), (NOISE_FLOOR * size) ** 2) / frames * self.strength**2
        variance = face.variance + (predicted.variance + (DRIFT * size) ** 2) * frames
        face.points, face.variance = correct(predicted, variance, raw, noise, face.affinity)

    def _learn_noise(self, face: Track, ratio: float, elapsed: float) -> None:
        if not face.noise:
            face.noise = ratio
            face.variance *= ratio
        # The geometric mean: a moment in which flow and detection disagree wholly counts for little.
        face.noise *= (ratio / face.noise) ** (1 - math.exp(-elapsed / NOISE_MEMORY))

    def _soften(self, face: Track, raw: Faces, row: int) -> None:
        elapsed = raw.pts - face.pts
        pose = turned(face.pose, raw.pose[row])
        pose = turned(np.zeros(3), follow(face.pose, pose, elapsed, POSE_TIME * self.strength, POSE_STEP))
        face.pose = np.where(np.isfinite(pose), pose, raw.pose[row])  # a pose that could not be found is NaN
        face.states = follow(face.states, raw.states[row], elapsed, STATE_TIME * self.strength, STATE_STEP)

    def _as_faces(self, raw: Faces) -> Faces:
        landmarks, boxes = raw.landmarks.copy(), raw.boxes.copy()
        pose, states, blinks = raw.pose.copy(), raw.states.copy(), raw.blinks.copy()
        for row, id_ in enumerate(raw.ids):
            face = self._tracks.get(int(id_))
            if face:
                landmarks[row], pose[row], states[row] = face.points, face.pose, face.states
                boxes[row] = *face.points.min(axis=0), *face.points.max(axis=0)
                if eye_widths(face.points[None])[0] >= LEAST_EYE:
                    eyes = float(openness(face.points[None])[0, :2].mean())
                    face.blinks.see(raw.pts, eyes, float(face.states[:2].min()))
                blinks[row] = face.blinks.count
        found = openness(landmarks)
        return replace(raw, landmarks=landmarks, boxes=boxes, pose=pose, states=states, openness=found, blinks=blinks)


def begin(points: NDArray[Any], spread: NDArray[Any], raw: Faces, row: int, blinks: Blinks) -> Track:
    """Return the memory of a face that is seen for the first time: the detection, believed as it is."""
    affinity = neighbours(points) - np.eye(68)
    return Track(
        pts=raw.pts,
        crop=None,
        raw=points,
        points=points,
        variance=np.square(spread),
        covariance=prior(points),
        affinity=affinity / affinity.sum(axis=1, keepdims=True),
        noise=0.0,
        velocity=np.zeros((68, 2)),
        pose=raw.pose[row].copy(),
        states=raw.states[row].copy(),
        blinks=blinks,
    )


def overlap(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Return whether the tight boxes around two sets of points touch: no face leaves its own place in one frame."""
    return bool((a.min(axis=0) <= b.max(axis=0)).all() and (b.min(axis=0) <= a.max(axis=0)).all())
