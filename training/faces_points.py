"""Five points for faces that have a box only, by a landmark network: once, before training, and kept in the cache."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from nodes._boxes import overlaps
from nodes._geometry import Floats, detector_to_landmark_box, landmark_roll
from training.faces_data import Picture, face_ovals, five_points
from training.files import whole
from training.predictor import Predictor
from training.teacher import both_ways, teacher_file

LEAST = 20.0
"""Height in pixels of the picture from which a face is looked at: at less, eyes are two pixels wide."""
BELIEVED = 0.8
"""Presence from which the teacher's face counts as one."""
MEETING = 0.5
"""Least overlap of the box, with that which belongs to the teacher's points: fewer mean that it has lost the face."""
VERSION = b"1"
"""Of how the teacher looks; another one makes cached points old."""


def with_points(pictures: list[Picture], teacher: Path, cache: Path) -> list[Picture]:
    """Return the pictures with the teacher's points where they have none. Raises SettingsError when it cannot load."""
    bare = [picture for picture in pictures if picture.points is None]
    key = hashlib.sha256(VERSION + teacher_file(teacher).read_bytes())
    for picture in bare:
        key.update(os.fsencode(picture.name) + picture.boxes.tobytes() + picture.ignored.tobytes())
    cached = cache / f"five-{key.hexdigest()[:16]}.npy"
    if not cached.exists():
        cache.mkdir(parents=True, exist_ok=True)
        predictor = Predictor(teacher)
        found = [look(predictor, picture) for picture in track(bare, "five points")]
        with whole(cached) as out:
            np.save(out, np.concatenate([np.zeros((0, 5, 2), np.float32), *found]))
    ends = np.cumsum([len(picture.boxes) for picture in bare])
    points = iter(np.split(np.load(cached), ends[:-1]))
    return [picture if picture.points is not None else replace(picture, points=next(points)) for picture in pictures]


def look(predictor: Predictor, picture: Picture) -> Floats:
    """Return five points (F, 5, 2) of a picture's faces, NaN where they are too small, ignored or not believed.

    Faces are looked at twice: in the landmark box that belongs to the face box, then upright in that of the points.
    """
    points = np.full((len(picture.boxes), 5, 2), np.nan, np.float32)
    seen = np.flatnonzero((picture.boxes[:, 3] - picture.boxes[:, 1] >= LEAST) & ~picture.ignored)
    if not len(seen):
        return points
    images = [picture.image()] * len(seen)
    first = predictor(images, detector_to_landmark_box(picture.boxes[seen]))
    landmarks = both_ways(predictor, images, first.points, landmark_roll(first.points))
    kept = (first.presence >= BELIEVED) & (meeting(landmarks, picture.boxes[seen]) >= MEETING)
    points[seen[kept]] = five_points(landmarks)[kept]
    return points


def meeting(landmarks: Floats, boxes: Floats) -> NDArray[np.float32]:
    """Return how far (F,) face boxes (F, 4) overlap those that belong to landmarks (F, 68, 2)."""
    return np.diagonal(overlaps(face_ovals(landmarks).boxes(), boxes)).astype(np.float32)
