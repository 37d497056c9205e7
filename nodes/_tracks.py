"""Who is who from frame to frame: tracks of faces, kept by their own landmarks and confirmed by detections."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from nodes._boxes import overlaps
from nodes._flow import face_size
from nodes._fusion import similarity
from nodes._geometry import landmark_box, landmark_roll

Floats = NDArray[np.float32]

SAME_FACE = 0.7
"""Largest `apart` between a detection and a track of one face: neighbours in a crowd are 1 apart or more, and half
a face side between two frames is faster than heads move. Chosen by eye on videos."""
ASTRAY = 0.35
"""A track this far from its own fresh detection has been outrun: it starts again from the detection."""
SURE, TRUST = 0.9, 10.0
"""A face of this presence may go undetected for so many times `patience`: detectors miss profiles and covered faces
that the landmark network follows with ease, and it takes only 0.6 % of background crops for such a face (measured)."""
MISSES = 3
"""A track ends only after so many detections in a row without it, however much time lies between them."""
MOMENTUM = 0.7
"""Share of its last speed that a face is expected to go on with in the next frame. At a steady speed of half its side
per frame it is then still met (measured), and one that turns round is not missed by twice its step."""
STEADY = 0.03
"""Where a face is looked for goes half the way from the last place to the expected one when they are so far apart (see
`apart`; radians for the roll), less when nearer, with the square, and nearly all when farther: the network's points
move with its crop, by 1.1 % of the eye distance for 2 % of the crop, and a crop laid about the last points carries that
on.

Measured on the portrait with sensor noise (tests.bench.stability), error of a point's step in per cent of the eye
distance: at rest 0.14 in place of 0.58, moved slowly 0.34 for 0.54, panned 0.51 for 0.63, turned and panned fast 0.75
for 0.73; a step on a talking face is 0.55 for 0.67, of which 0.35 is motion. A crop that stays until the face is 0.02
away, and then jumps, makes slow motion uneven (0.68). With 0.05 fast motion gets worse (0.77). A crop that lies 0.03
off costs 0.5 % of the error on held-out faces of AFW (4.29 for 4.27).
"""
LEAST_PACE = 0.02
"""Seconds over which a pace is measured at least. Frames that are timed by their arrival may come in bursts: two frames
1 ms apart, then none for 100 ms, led a face seventy of its steps ahead."""
PACE, COVERED, COAST = 0.4, 0.26, 0.83
"""Seconds: a face out of sight is expected where PACE of its places led, for COAST: people who walk keep their pace.
Their median, and not what came in the last COVERED: a face that is being covered drags its points along with what
covers it, for as long as the network still sees half of it (4 to 10 frames at 30 fps on the composed street of
tests.bench.tracks)."""
WANDER = 1.5
"""How much farther from where it is expected a face may come back, for each second out of sight, in face sides: a third
of an ordinary walker's pace."""
SAME_SHAPE = 0.025
"""Points of one face differ by less on average from frame to frame, in face sizes, its place, size and roll aside.

Measured: at most 0.017 in two clips of faces that talk (25 and 30 fps), at most 0.019 where the background of walkers
changes (tests.bench.tracks) unless they are just being covered; of 200 faces of LFPW 5 % differ by less from the next.
"""
NESTED = 0.6
"""A face of which more lies within another one's box is the other one: what is behind a face shows less of itself, and
two tracks on one face see more than two thirds in common."""
HISTORY = 64
"""Frames a track remembers its place for: how late a detection may come."""


@dataclass
class Track:
    """One face followed through the frames."""

    id: int
    confirmed: float  # pts of the last detection of it
    landmarks: Floats = field(default_factory=lambda: np.zeros((68, 2), np.float32))  # where it was last seen
    box: Floats = field(default_factory=lambda: np.zeros(4, np.float32))  # around the upright face
    roll: float = 0.0  # radians
    aim: tuple[Floats, float] = field(default_factory=lambda: (np.zeros(4, np.float32), 0.0))  # last Look: box, roll
    presence: float = 0.0  # 0..1
    visible: bool = True  # whether the latest frame showed it
    misses: int = 0  # detections in a row without it
    places: deque[tuple[float, Floats]] = field(default_factory=lambda: deque(maxlen=HISTORY))  # pts, box

    def next_aim(self, pts: float) -> tuple[Floats, float]:
        """Return box and roll by which to look for the face at `pts`: see STEADY."""
        (box, roll), place = self.aim, self.place(pts)
        box = np.asarray(box + _share(float(apart(place, box))) * (place - box), np.float32)
        return box, roll + _share(abs(self.roll - roll)) * (self.roll - roll)

    def place(self, pts: float) -> Floats:
        """Return the (4,) box of the face at `pts`: the nearest one known, moved on if it is older."""
        last, box = self.places[-1]
        if pts <= last:
            return min(self.places, key=lambda place: abs(place[0] - pts))[1]
        if not self.visible and last - self.places[0][0] >= PACE / 2:
            return self._led_to(pts)
        if len(self.places) < 2:
            return box
        older = (place for place in reversed(self.places) if last - place[0] >= LEAST_PACE)
        before, from_box = next(older, self.places[0])
        speed = (_centres(box) - _centres(from_box)) / max(last - before, LEAST_PACE)
        return box + np.tile(speed * np.float32(MOMENTUM * min(pts - last, COAST)), 2)

    def _led_to(self, pts: float) -> Floats:
        """Return where the way of the last places leads: see PACE."""
        last = self.places[-1][0]
        recent = [place for place in self.places if -COVERED - PACE <= place[0] - last <= -COVERED]
        if len(recent) < 2 or recent[-1][0] - recent[0][0] < PACE / 2:  # first seen shortly before
            recent = [place for place in self.places if place[0] - self.places[0][0] <= PACE / 2]
        if len(recent) < 2:  # a slow camera, or seen only twice
            recent = [*self.places]
        times = np.array([place[0] - last for place in recent], np.float32)
        boxes = np.array([place[1] for place in recent], np.float32)
        centres, halves = _centres(boxes), (boxes[:, 2:] - boxes[:, :2]) / 2
        speed = np.median(np.diff(centres, axis=0) / np.diff(times)[:, None], axis=0)
        ahead = np.float32(min(pts - last, COAST)) - times
        centre, half = np.median(centres + ahead[:, None] * speed, axis=0), np.median(halves, axis=0)
        return np.asarray(np.concatenate((centre - half, centre + half)), np.float32)

    def reach(self, pts: float) -> float:
        """Return how far from its place at `pts` a detection may be and still be this face, see `apart`."""
        unseen = 0.0 if self.visible else pts - self.places[-1][0]
        return SAME_FACE + WANDER * min(max(0.0, unseen), COAST)


@dataclass
class Look:
    """Where to look for a face in a frame: a landmark box, its roll, and whose face it may be."""

    box: Floats  # (4,)
    roll: float  # radians
    track: Track | None = None


class Tracks:
    """The faces of one stream. Per frame: `look` says where to run the network, `see` takes in what it saw."""

    def __init__(self, presence: float, patience: float) -> None:
        """Keep faces of at least this presence; forget those unseen or undetected (see SURE) for `patience` seconds."""
        self.presence, self.patience = presence, patience
        self.tracks: list[Track] = []
        self._next_id = 0

    def forget(self) -> None:
        """Start afresh; ids are not used again."""
        self.tracks = []

    def forget_others(self, looks: list[Look], landmarks: Floats) -> None:
        """At a cut, forget the tracks in whose place another face is now, by the landmarks (F, 68, 2) of the looks."""
        for look, found in zip(looks, landmarks, strict=True):
            if look.track and unlike(look.track.landmarks, found) > SAME_SHAPE:
                self.tracks.remove(look.track)
                look.track = None

    def look(self, boxes: Floats | None, rolls: Floats, pts: float, now: float) -> list[Look]:
        """Return where to look in the frame at `now`, given the faces found in the one at `pts`, or None; seconds.

        `boxes` (F, 4) are landmark boxes. A detection that belongs to a track confirms it, and takes it along where
        the face was faster; one that belongs to none is a new face. A track that detections miss ends in time.
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
        """Take in landmarks (F, 68, 2) and presence (F,) of the looks in a picture of `size` (width, height).

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
                track.places.clear()  # time stands still or goes back: nothing is known of the pace
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
    """Pair boxes (A, 4) with boxes (B, 4) of the same faces, each at most once, so that they are nearest in sum.

    `reach` (B,) is the largest `apart` of a pair; gaps count in shares of it, and what is farther off is no pair and
    costs as much as the whole reach. Pairs are in the order of `boxes`.
    Method: the linear assignment problem (Crouse 2016, as scipy solves it).
    """
    gaps = np.minimum(apart(boxes[:, None], others[None]) / reach, 1)
    pairs = zip(*linear_sum_assignment(gaps), strict=True)
    return [(int(row), int(column)) for row, column in pairs if gaps[row, column] < 1]


def apart(boxes: Floats, others: Floats) -> Floats:
    """Return the distance of the centres of boxes (..., 4), in mean face sides, plus the log of the sides' ratio."""
    sides, other_sides = _sides(boxes), _sides(others)
    between = np.linalg.norm(_centres(boxes) - _centres(others), axis=-1) / ((sides + other_sides) / 2)
    return np.asarray(between + np.abs(np.log(sides / other_sides)), np.float32)


def unlike(landmarks: Floats, others: Floats) -> float:
    """Return how far the shape of a face (68, 2) is from another's: see SAME_SHAPE."""
    apart = np.linalg.norm(similarity(landmarks, others, landmarks) - others, axis=1).mean()
    return float(apart / face_size(others))


def twins(looks: list[Look], landmarks: Floats, boxes: Floats, present: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Say which of the looks (F,), with their landmarks and boxes, are on a face that another has a better claim to.

    The better claim is that of the track which moved less: when one face passes behind another, it is the hidden one's
    track that jumps. A track out of sight has less claim than any in sight, a new face the least.
    """
    doubled = np.zeros(len(looks), bool)
    if np.count_nonzero(overlaps(boxes[present], boxes[present])) <= present.sum():
        return doubled  # no two touch
    kept: list[int] = []
    for row in sorted(np.flatnonzero(present), key=lambda row: _claim(looks[row], landmarks[row])):
        doubled[row] = (within(boxes[row], boxes[kept]) > NESTED).any()
        if not doubled[row]:
            kept.append(int(row))
    return doubled


def within(box: Floats, others: Floats) -> Floats:
    """Return (F,): the intersection of a box (4,) with others (F, 4), as share of the smaller of the two."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    smaller = np.minimum((box[2:] - box[:2]).prod(), (others[:, 2:] - others[:, :2]).prod(1))
    return np.asarray(np.maximum(sides, 0).prod(1) / np.maximum(smaller, 1), np.float32)


def inside(landmarks: Floats, size: tuple[int, int]) -> Floats:
    """Return (F,) the share of the points (F, 68, 2) that lie in a picture of `size` (width, height)."""
    within = (landmarks >= -0.5) & (landmarks <= np.array(size, np.float32) - 0.5)
    return np.asarray(within.all(2).mean(1), np.float32)


def _share(away: float) -> float:
    """Return the share of the way that is gone when a face is expected so far away, see STEADY."""
    return away**2 / (away**2 + STEADY**2)


def _claim(look: Look, landmarks: Floats) -> tuple[int, float]:
    if look.track is None:
        return 2, 0.0
    moved = np.linalg.norm(landmarks - look.track.landmarks, axis=1).mean()
    return int(not look.track.visible), float(moved / _sides(look.track.box))


def _centres(boxes: Floats) -> Floats:
    return np.asarray((boxes[..., :2] + boxes[..., 2:]) / 2, np.float32)


def _sides(boxes: Floats) -> Floats:
    return np.asarray(np.maximum(boxes[..., 2:] - boxes[..., :2], 1).max(-1), np.float32)
