"""Adds five points to faces that only have a box, by a landmark network; once, before training, with a cache."""

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
"""Least height in pixels of a face that gets points: in smaller ones, eyes are at most two pixels wide."""
PRESENT = 0.8
"""Least presence of a face for the teacher."""
SAME_FACE = 0.5
"""Least overlap of the face's box with the box of the teacher's points; with less, the teacher has lost the face."""
VERSION = b"1"
"""Change it whenever the teacher's points change, so that cached points are not used."""


def with_points(pictures: list[Picture], teacher: Path, cache: Path) -> list[Picture]:
    """Add the teacher's points to pictures that have none. Raises SettingsError if the teacher cannot be loaded."""
    bare = [picture for picture in pictures if picture.points is None]
    key = hashlib.sha256(VERSION + teacher_file(teacher).read_bytes())
    for picture in bare:
        key.update(os.fsencode(picture.name) + picture.boxes.tobytes() + picture.ignored.tobytes())
    cached = cache / f"five-{key.hexdigest()[:16]}.npy"
    if not cached.exists():
        cache.mkdir(parents=True, exist_ok=True)
        predictor = Predictor(teacher)
        found = [find_points(predictor, picture) for picture in track(bare, "five points")]
        with whole(cached) as out:
            np.save(out, np.concatenate([np.zeros((0, 5, 2), np.float32), *found]))
    ends = np.cumsum([len(picture.boxes) for picture in bare])
    points = iter(np.split(np.load(cached), ends[:-1]))
    return [picture if picture.points is not None else replace(picture, points=next(points)) for picture in pictures]


def find_points(predictor: Predictor, picture: Picture) -> Floats:
    """Return five points (F, 5, 2) of a picture's faces, NaN for those that are too small, ignored or lost.

    The teacher runs twice: in the landmark box for the face box, then upright in the box of the points.
    """
    points = np.full((len(picture.boxes), 5, 2), np.nan, np.float32)
    seen = np.flatnonzero((picture.boxes[:, 3] - picture.boxes[:, 1] >= LEAST) & ~picture.ignored)
    if not len(seen):
        return points
    images = [picture.image()] * len(seen)
    first = predictor(images, detector_to_landmark_box(picture.boxes[seen]))
    landmarks = both_ways(predictor, images, first.points, landmark_roll(first.points))
    kept = (first.presence >= PRESENT) & (box_overlaps(landmarks, picture.boxes[seen]) >= SAME_FACE)
    points[seen[kept]] = five_points(landmarks)[kept]
    return points


def box_overlaps(landmarks: Floats, boxes: Floats) -> NDArray[np.float32]:
    """Return the overlaps (F,) of face boxes (F, 4) with the face boxes for landmarks (F, 68, 2)."""
    return np.diagonal(overlaps(face_ovals(landmarks).boxes(), boxes)).astype(np.float32)
