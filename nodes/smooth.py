"""Smooths the landmarks of each face without lagging behind its movement; see nodes._fusion for the method."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graph import Faces, Frame, Input, Node, Output, setting
from nodes._expression import LEAST_EYE, Blinks, eye_widths, eyes_in, openness
from nodes._flow import Crop, Tracked, crop, track
from nodes._fusion import (
    NOBODY,
    Found,
    Memory,
    begin,
    found,
    fuse,
    predict_by_detection,
    predict_by_flow,
    similarity,
    touch,
)
from nodes._geometry import landmark_box

GAP = 0.5
"""Seconds without a frame after which a face starts afresh: it has changed too much by then."""

FACES_KEPT = 1000
"""How many faces the blinks are remembered of, in case they return: far more than are out of sight at one time."""

POSE_TIME, POSE_STEP = 0.05, 3.0
"""Seconds and degrees: smaller changes of the head pose are averaged over this time, larger ones followed at once."""

STATE_TIME, STATE_STEP = 0.06, 0.3
"""The same for the probabilities of eyes and mouth: a blink lasts 0.15 s."""

SMALL_FACE_TIME = 0.3
"""Seconds over which the states of faces with eyes narrower than LEAST_EYE are averaged, whatever the step: the network
guesses anew in each frame. Measured on seven walkers in a 1080p street, with eyes of 7 to 14 px: eyes open or shut 75
times in four seconds with STATE_TIME and 16 times with this, and the words that Render writes about mouths change 54
and 18 times. An eye that stays shut is reported after 0.2 s."""


ASTRAY = 0.05
"""How far from where it was expected, in face sizes, the detection may find a face. If it is farther away, the flow is
measured once more, from there: LK reaches 0.09 (see nodes._flow.LEVELS).

Measured: 25 % of the faces in a street of walkers are measured twice, 8 % of those of a lively child, none of a man who
talks. With 0.04 it is 39, 12 and 0 %, and no error in tests.bench.stability is smaller; with 0.06 points overshoot by
0.30 % of the eye distance where a movement stops, for 0.20.
"""


def follow(
    last: NDArray[Any], now: NDArray[Any], elapsed: float, period: NDArray[Any] | float, step: NDArray[Any] | float
) -> NDArray[Any]:
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
    """Smooth the landmarks without lagging behind fast movement.

    Each face has its own memory. It ends with the track, at a cut, after half a second without a frame, and when the
    stream starts afresh; the next output is then the detection itself. `boxes` and `openness` are those of the smoothed
    points. Head pose and states are averaged lightly, the states of small faces longer. Blinks are counted for as long
    as the id lasts. `spread` is passed on unchanged: most of that error is the same in every frame.
    """

    frame = Input(Frame)
    raw = Input(Faces)
    faces = Output(Faces)

    flow: bool = setting(True, changeable=True)  # measure motion by optical flow; off: use the detections alone
    strength: float = setting(1.0, minimum=0.0, maximum=10.0, changeable=True)  # 0: as detected; larger is smoother

    def open(self) -> None:
        """Start without any face."""
        self._stream: tuple[int, tuple[int, ...]] | None = None
        self._crops: dict[int, Crop] = {}
        self._ahead: dict[tuple[int, int], dict[int, Tracked]] = {}  # by epoch and seq of the frame prepared last

    def prepare(self, frame: Frame | None, raw: Faces | None) -> None:
        """Follow the known faces into the picture while the landmark network is still looking at it."""
        if frame is not None and raw is None and self._crops and 0 < frame.pts - self._pts <= GAP:
            expected = self._memory.expected(frame.pts - self._pts)
            self._ahead = {(frame.epoch, frame.seq): self._follow(frame.image, self._memory, *expected)}

    def process(self, frame: Frame, raw: Faces) -> Faces:
        """Return the faces with steadied landmarks."""
        stream = (raw.epoch, frame.image.shape)
        if stream != self._stream:
            self._stream = stream
            self._memory, self._pts = NOBODY, -math.inf
            self._crops = {}
            self._blinks: dict[int, Blinks] = {}
        now, elapsed = found(raw), raw.pts - self._pts
        known, last = self._recall(now, elapsed)
        tracked: dict[int, Tracked] = {}
        if len(known):
            known, last, tracked = self._steady(frame, known, last, now.at(known), elapsed)
        if len(known) < len(now.ids):
            new = np.delete(np.arange(len(now.ids)), known)
            last = last.joined(begin(now.at(new)))
            now = now.at(np.concatenate((known, new)))
        self._crops = self._cut_out(frame.image, now, tracked)
        self._memory = replace(last, raw=now.points, boxes=now.boxes)
        self._pts = raw.pts
        return self._as_faces(raw, now.rows, frame.image.shape)

    def _recall(self, now: Found, elapsed: float) -> tuple[NDArray[np.intp], Memory]:
        """Return which faces continue from the last frame, and what is remembered of these."""
        rows = {id_: row for row, id_ in enumerate(self._memory.ids.tolist())}
        pairs = [(i, rows[id_]) for i, id_ in enumerate(now.ids.tolist()) if id_ in rows]
        if not (pairs and self.strength and 0 < elapsed <= GAP):
            return np.zeros(0, np.intp), NOBODY
        known, remembered = np.array(pairs).T
        near = touch(self._memory.boxes[remembered], now.boxes[known])
        return known[near], self._memory.at(remembered[near])

    def _track(
        self, frame: Frame, last: Memory, now: Found, detected: NDArray[Any], elapsed: float
    ) -> dict[int, Tracked]:
        """Return where the flow finds the known faces, by id.

        `detected` (F, 68, 2) is where the last points would be if each face had moved as a whole, as detected.
        See ASTRAY. The result is the same whether or not the frame has been prepared.
        """
        ids, ahead = last.ids.tolist(), self._ahead.get((frame.epoch, frame.seq), {})
        boxes, guess = last.expected(elapsed)
        astray = np.linalg.norm(detected - guess, axis=2).max(1) > ASTRAY * now.sizes[:, 0]
        boxes[astray], guess[astray] = now.boxes[astray], detected[astray]
        rows = np.array([row for row, id_ in enumerate(ids) if astray[row] or id_ not in ahead], np.intp)
        again = self._follow(frame.image, last.at(rows), boxes[rows], guess[rows])
        return {id_: again[id_] if id_ in again else ahead[id_] for id_ in ids}

    def _follow(
        self, image: NDArray[Any], last: Memory, boxes: NDArray[Any], guess: NDArray[Any]
    ) -> dict[int, Tracked]:
        """Track faces into a picture, from the boxes (F, 4) and points (F, 68, 2) expected there; return them by id."""
        ids = last.ids.tolist()
        before = [self._crops[id_] for id_ in ids]
        now = crop(image, boxes, before)
        return dict(zip(ids, map(Tracked, now, *track(before, now, last.points, guess)), strict=True))

    def _cut_out(self, image: NDArray[Any], now: Found, tracked: dict[int, Tracked]) -> dict[int, Crop]:
        """Return the crops of the faces, by id, for the flow into the next frame; none without flow."""
        if not (self.flow and self.strength):
            return {}
        ids = now.ids.tolist()
        new = [row for row, id_ in enumerate(ids) if id_ not in tracked]
        cut = dict(zip(new, crop(image, now.boxes[new], [None] * len(new)), strict=True))
        return {id_: cut[row] if row in cut else tracked[id_].crop for row, id_ in enumerate(ids)}

    def _steady(
        self, frame: Frame, known: NDArray[np.intp], last: Memory, now: Found, elapsed: float
    ) -> tuple[NDArray[np.intp], Memory, dict[int, Tracked]]:
        """Update the known faces; return those that the flow found again, what is remembered of them, and the flow.

        The flow is that of all known faces, by id; empty without flow.
        """
        tracked: dict[int, Tracked] = {}
        if self.flow and self._crops:
            detected = similarity(last.raw, now.points, last.points)
            tracked = self._track(frame, last, now, detected, elapsed)
            predicted, seen = predict_by_flow(last, list(tracked.values()), now, detected)
            if not seen.all():
                rows = np.flatnonzero(seen)
                known, last, now, predicted = known[rows], last.at(rows), now.at(rows), predicted.at(rows)
        else:
            predicted = predict_by_detection(last, now, elapsed)
        fuse(last, predicted, now, elapsed, self.strength, by_flow=bool(tracked))
        self._soften(last, now, elapsed)
        return known, last, tracked

    def _soften(self, faces: Memory, now: Found, elapsed: float) -> None:
        pose = turned(faces.pose, now.pose)
        pose = turned(np.zeros(3), follow(faces.pose, pose, elapsed, POSE_TIME * self.strength, POSE_STEP))
        faces.pose = np.where(np.isfinite(pose), pose, now.pose)  # a pose that could not be found is NaN
        unsure = (eye_widths(faces.points) < LEAST_EYE)[:, None]
        period, step = np.where(unsure, SMALL_FACE_TIME, STATE_TIME), np.where(unsure, np.inf, STATE_STEP)
        faces.states = follow(faces.states, now.states, elapsed, period * self.strength, step)

    def _as_faces(self, raw: Faces, rows: NDArray[np.intp], shape: tuple[int, ...]) -> Faces:
        """Return the message with its `rows` replaced by what is remembered; `shape` is that of the picture."""
        faces, smoothed = self._memory, raw.copy()
        smoothed.landmarks[rows], smoothed.boxes[rows] = faces.points, landmark_box(faces.points)
        smoothed.pose[rows], smoothed.states[rows] = faces.pose, faces.states
        smoothed.openness[:] = openness(smoothed.landmarks)
        clear = (eye_widths(faces.points) >= LEAST_EYE) & eyes_in(faces.points, (shape[1], shape[0])).all(1)
        for row, id_, seen in zip(rows, faces.ids.tolist(), clear, strict=True):
            counter = self._counter(id_)
            if seen:
                eyes, closed = smoothed.openness[row, :2].mean(), smoothed.states[row, :2].min()
                counter.see(raw.pts, float(eyes), float(closed))
            smoothed.blinks[row] = counter.count
        return smoothed

    def _counter(self, id_: int) -> Blinks:
        """Return the blink counter of a face, which may have been out of sight; the faces seen last are kept."""
        self._blinks[id_] = self._blinks.pop(id_) if id_ in self._blinks else Blinks()
        if len(self._blinks) > FACES_KEPT:
            del self._blinks[next(iter(self._blinks))]
        return self._blinks[id_]
