"""Tracks of faces, which are followed by their own landmarks and confirmed by detections."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from nodes._boxes import overlaps
from nodes._flow import face_size
from nodes._fusion import similarity
from nodes._geometry import Floats, centres, landmark_box, landmark_roll

SAME_FACE = 0.7
"""Largest distance (see `apart`) between a detection and a track of the same face: it is 1 or more between neighbours
in a crowd, and heads do not move half a face side between two frames. Chosen by eye on videos."""
ASTRAY = 0.35
"""A track further than this from its own new detection has fallen behind and restarts at the detection."""
SURE, TRUST = 0.9, 10.0
"""A face with presence SURE may go undetected for TRUST times `patience`: detectors miss profiles and covered faces
that the landmark network follows easily, and only 0.6 % of background crops have this presence (measured)."""
MISSES = 3
"""A track ends only if this many detections in a row lack it, however much time lies between them."""
MOMENTUM = 0.7
"""Share of its last speed with which a face is expected to continue in the next frame. At a steady speed of half its
side per frame, it is still found (measured), and for one that turns round the error is less than twice its step."""
STEADY = 0.03
"""The crop moves half the way from the last crop to the expected place if they are this far apart (see `apart`; radians
for the roll), less if nearer, with the square, and nearly all the way if further. The network's points move with its
crop, by 1.1 % of the eye distance for 2 % of the crop; a crop around the last points would carry this error on.

Measured on the portrait with sensor noise (tests.bench.stability), error of a point's step in per cent of the eye
distance: at rest 0.14 instead of 0.58, moved slowly 0.34 instead of 0.54, panned 0.51 instead of 0.63, turned and
panned fast 0.75 instead of 0.73; a step on a talking face is 0.55 instead of 0.67, of which 0.35 is motion. A crop that
stays until the face is 0.02 away, and then jumps, makes slow motion uneven (0.68). With 0.05, fast motion gets worse
(0.77). A crop that is 0.03 off costs 0.5 % of the error on held-out faces of AFW (4.29 instead of 4.27).
"""
LEAST_PACE = 0.02
"""Seconds, minimum over which a speed is measured. Frames with the time of their arrival may come in bursts: two frames
1 ms apart, then none for 100 ms, moved a face seventy of its steps ahead."""
PACE, COVERED, COAST = 0.4, 0.26, 0.83
"""Seconds. A hidden face is expected to continue for COAST with the speed of PACE of its places, as walkers do. The
speed is their median and excludes the last COVERED: the points of a face that is being covered move along with what
covers it, as long as the network still sees half of it (4 to 10 frames at 30 fps on the composed street of
tests.bench.tracks)."""
WANDER = 1.5
"""How much further from its expected place a face may reappear for each second out of sight, in face sides: a third of
the speed of an ordinary walker."""
SAME_SHAPE = 0.025
"""The points of one face differ by less than this on average from frame to frame, in face sizes, after alignment of
place, size and roll.

Measured: at most 0.017 in two clips of talking faces (25 and 30 fps), at most 0.019 when the background of walkers
changes (tests.bench.tracks) unless they are just being covered; of 200 faces of LFPW, 5 % differ by less from the next.
"""
NESTED = 0.6
"""A face with a larger share inside another one's box is the same face: a face behind another shows less of itself, and
two tracks on one face have more than two thirds in common."""
HISTORY = 64
"""Number of frames for which a track remembers its place: how late a detection may come."""


@dataclass
class Track:
    """A face that is followed from frame to frame."""

    id: int
    confirmed: float  # pts of its last detection
    landmarks: Floats = field(default_factory=lambda: np.zeros((68, 2), np.float32))  # where it was last seen
    box: Floats = field(default_factory=lambda: np.zeros(4, np.float32))  # around the upright face
    roll: float = 0.0  # radians
    aim: tuple[Floats, float] = field(default_factory=lambda: (np.zeros(4, np.float32), 0.0))  # last Look: box, roll
    presence: float = 0.0  # 0..1
    visible: bool = True  # whether the latest frame showed it
    misses: int = 0  # successive detections without it
    places: deque[tuple[float, Floats]] = field(default_factory=lambda: deque(maxlen=HISTORY))  # pts, box

    def next_aim(self, pts: float) -> tuple[Floats, float]:
        """Return box and roll of the crop for the face at `pts`: see STEADY."""
        (box, roll), place = self.aim, self.place(pts)
        box = np.asarray(box + _share(float(apart(place, box))) * (place - box), np.float32)
        return box, roll + _share(abs(self.roll - roll)) * (self.roll - roll)

    def place(self, pts: float) -> Floats:
        """Return the box (4,) of the face at `pts`: the nearest known one, extrapolated if it is older."""
        last, box = self.places[-1]
        if pts <= last:
            return min(self.places, key=lambda place: abs(place[0] - pts))[1]
        if not self.visible and last - self.places[0][0] >= PACE / 2:
            return self._extrapolated(pts)
        if len(self.places) < 2:
            return box
        older = (place for place in reversed(self.places) if last - place[0] >= LEAST_PACE)
        before, from_box = next(older, self.places[0])
        speed = (centres(box) - centres(from_box)) / max(last - before, LEAST_PACE)
        return box + np.tile(speed * np.float32(MOMENTUM * min(pts - last, COAST)), 2)

    def _extrapolated(self, pts: float) -> Floats:
        """Return the expected box of a hidden face: see PACE."""
        last = self.places[-1][0]
        recent = [place for place in self.places if -COVERED - PACE <= place[0] - last <= -COVERED]
        if len(recent) < 2 or recent[-1][0] - recent[0][0] < PACE / 2:  # the track had just started
            recent = [place for place in self.places if place[0] - self.places[0][0] <= PACE / 2]
        if len(recent) < 2:  # a slow camera, or seen only twice
            recent = [*self.places]
        times = np.array([place[0] - last for place in recent], np.float32)
        boxes = np.array([place[1] for place in recent], np.float32)
        middles, halves = centres(boxes), (boxes[:, 2:] - boxes[:, :2]) / 2
        speed = np.median(np.diff(middles, axis=0) / np.diff(times)[:, None], axis=0)
        ahead = np.float32(min(pts - last, COAST)) - times
        centre, half = np.median(middles + ahead[:, None] * speed, axis=0), np.median(halves, axis=0)
        return np.asarray(np.concatenate((centre - half, centre + half)), np.float32)

    def reach(self, pts: float) -> float:
        """Return how far (see `apart`) from its place at `pts` a detection of this face may be."""
        unseen = 0.0 if self.visible else pts - self.places[-1][0]
        return SAME_FACE + WANDER * min(max(0.0, unseen), COAST)


@dataclass
class Look:
    """Where to run the network in a frame: a landmark box, its roll, and the track it is for, if any."""

    box: Floats  # (4,)
    roll: float  # radians
    track: Track | None = None


class Tracks:
    """The tracks of one stream. Per frame, `look` returns where to run the network, `see` takes its results."""

    def __init__(self, presence: float, patience: float) -> None:
        """Keep faces of at least this presence; forget those unseen or undetected (see SURE) for `patience` seconds."""
        self.presence, self.patience = presence, patience
        self.tracks: list[Track] = []
        self._next_id = 0

    def forget(self) -> None:
        """Forget all tracks; ids are not reused."""
        self.tracks = []

    def forget_others(self, looks: list[Look], landmarks: Floats) -> None:
        """At a cut, forget each track whose place now shows another face, by the landmarks (F, 68, 2) of the looks."""
        for look, found in zip(looks, landmarks, strict=True):
            if look.track and unlike(look.track.landmarks, found) > SAME_SHAPE:
                self.tracks.remove(look.track)
                look.track = None

    def look(self, boxes: Floats | None, rolls: Floats, pts: float, now: float) -> list[Look]:
        """Return where to look in the frame at `now`, given the detections in the frame at `pts`, or None; seconds.

        `boxes` (F, 4) are landmark boxes. A detection that matches a track confirms it, and moves it if the face was
        faster; one that matches none is a new face. A track without detections eventually ends.
        """
        own = {track.id: Look(*track.next_aim(now), track) for track in self.tracks}
        if boxes is None:
            return list(own.values())
        places = np.array([track.place(pts) for track in self.tracks], np.float32).reshape(-1, 4)
        pairs = match(boxes, places, np.array([track.reach(pts) for track in self.tracks], np.float32))
        known = [track for track in self.tracks if track.places[0][0] <= pts]
        found = {self.tracks[column].id for _, column in pairs}
        for track in known:
            track.misses = 0 if track.id in found else track.misses + 1
        for row, column in pairs:
            track = self.tracks[column]
            track.confirmed = pts
            outrun = apart(boxes[row], track.box) > ASTRAY
            if pts == now and (outrun or not track.visible):
                own[track.id] = Look(boxes[row], float(rolls[row]), track)
        self.tracks = [track for track in self.tracks if self._trusted(track, pts)]
        taken = {row for row, _ in pairs}
        new = [Look(boxes[row], float(rolls[row])) for row in range(len(boxes)) if row not in taken]
        return [own[track.id] for track in self.tracks] + new

    def see(
        self, looks: list[Look], landmarks: Floats, presence: Floats, size: tuple[int, int], pts: float
    ) -> list[tuple[Track, int]]:
        """Update the tracks with landmarks (F, 68, 2) and presence (F,) of the looks in a picture (width, height).

        Returns the visible tracks in order of id, each with its row in the arguments.
        """
        present = presence >= self.presence
        present[present] = inside(landmarks[present], size) >= 0.5
        rolls = landmark_roll(landmarks)
        boxes = landmark_box(landmarks, rolls)
        present &= ~twins(looks, landmarks, boxes, present)
        visible = []
        for row, look in enumerate(looks):
            if look.track:
                look.track.visible = bool(present[row])
            if not present[row]:
                continue
            track = look.track or self._begin(pts)
            track.presence, track.aim = float(presence[row]), (look.box, look.roll)
            track.landmarks, track.box, track.roll = landmarks[row], boxes[row], float(rolls[row])
            if track.places and pts <= track.places[-1][0]:
                track.places.clear()  # time stands still or goes back: the speed is unknown
            track.places.append((pts, track.box))
            visible.append((track, row))
        self.tracks = [t for t in self.tracks if t.visible or 0 <= pts - t.places[-1][0] <= self.patience]
        return sorted(visible, key=lambda pair: pair[0].id)

    def _trusted(self, track: Track, pts: float) -> bool:
        patience = self.patience * (TRUST if track.presence >= SURE else 1)
        return track.misses < MISSES or pts - track.confirmed <= patience

    def _begin(self, pts: float) -> Track:
        track = Track(self._next_id, confirmed=pts)
        self._next_id += 1
        self.tracks.append(track)
        return track


def match(boxes: Floats, others: Floats, reach: Floats | float = SAME_FACE) -> list[tuple[int, int]]:
    """Pair boxes (A, 4) with boxes (B, 4) of the same faces, each at most once, with the least total distance.

    `reach` (B,) is the largest distance of a pair (see `apart`). Distances count in shares of it; boxes further apart
    are not paired and cost the whole reach. Pairs are in the order of `boxes`.
    Method: linear assignment (Crouse 2016, as implemented in scipy).
    """
    gaps = np.minimum(apart(boxes[:, None], others[None]) / reach, 1)
    pairs = zip(*linear_sum_assignment(gaps), strict=True)
    return [(int(row), int(column)) for row, column in pairs if gaps[row, column] < 1]


def apart(boxes: Floats, others: Floats) -> Floats:
    """Return the distance of the centres of boxes (..., 4), in mean face sides, plus the log ratio of the sides."""
    sides, other_sides = _sides(boxes), _sides(others)
    between = np.linalg.norm(centres(boxes) - centres(others), axis=-1) / ((sides + other_sides) / 2)
    return np.asarray(between + np.abs(np.log(sides / other_sides)), np.float32)


def unlike(landmarks: Floats, others: Floats) -> float:
    """Return how much the shape of a face (68, 2) differs from another: see SAME_SHAPE."""
    apart = np.linalg.norm(similarity(landmarks, others, landmarks) - others, axis=1).mean()
    return float(apart / face_size(others))


def twins(looks: list[Look], landmarks: Floats, boxes: Floats, present: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which of the looks (F,), with their landmarks and boxes, are on the same face as a better look.

    Better is the track that moved less: when one face passes behind another, the track of the hidden one jumps. Tracks
    of hidden faces come after all visible ones, new faces last.
    """
    doubled = np.zeros(len(looks), bool)
    if np.count_nonzero(overlaps(boxes[present], boxes[present])) <= present.sum():
        return doubled  # no two boxes overlap
    kept: list[int] = []
    for row in sorted(np.flatnonzero(present), key=lambda row: _rank(looks[row], landmarks[row])):
        doubled[row] = (within(boxes[row], boxes[kept]) > NESTED).any()
        if not doubled[row]:
            kept.append(int(row))
    return doubled


def within(box: Floats, others: Floats) -> Floats:
    """Return the intersections (F,) of a box (4,) with others (F, 4), as a share of the smaller of the two."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    smaller = np.minimum((box[2:] - box[:2]).prod(), (others[:, 2:] - others[:, :2]).prod(1))
    return np.asarray(np.maximum(sides, 0).prod(1) / np.maximum(smaller, 1), np.float32)


def inside(landmarks: Floats, size: tuple[int, int]) -> Floats:
    """Return the share (F,) of the points (F, 68, 2) that are inside a picture of `size` (width, height)."""
    within = (landmarks >= -0.5) & (landmarks <= np.array(size, np.float32) - 0.5)
    return np.asarray(within.all(2).mean(1), np.float32)


def _share(away: float) -> float:
    """Return the share of the distance `away` by which the crop moves: see STEADY."""
    return away**2 / (away**2 + STEADY**2)


def _rank(look: Look, landmarks: Floats) -> tuple[int, float]:
    if look.track is None:
        return 2, 0.0
    moved = np.linalg.norm(landmarks - look.track.landmarks, axis=1).mean()
    return int(not look.track.visible), float(moved / _sides(look.track.box))


def _sides(boxes: Floats) -> Floats:
    return np.asarray(np.maximum(boxes[..., 2:] - boxes[..., :2], 1).max(-1), np.float32)
