"""Labels by a teacher: a larger network's points in the place of those that another machine made.

The sets whose `labels` are `teacher` or `mean` are looked at once, before training, and the points kept in the cache.
"""

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from nodes import _backend
from nodes._geometry import Floats, landmark_box, landmark_roll
from training import metrics
from training.files import whole
from training.landmark_data import MIRROR, Crops
from training.landmark_settings import LandmarkSettings
from training.predictor import Predictor
from training.settings import SettingsError

logger = logging.getLogger("training")


BELIEVED = 15.0
"""Farther from the file's points than this, in per cent of the eye distance on the mean, the teacher has lost the face:
these keep the file's. Three times the error of the released network on photographs."""
VERSION = b"1"
"""Of how a teacher looks; another one makes cached points old."""
CHUNK = 32


def relabelled(crops: Crops, settings: LandmarkSettings) -> Crops:
    """Return the crops with the teacher's points in the sets that ask for them; from the cache after the first time."""
    kinds = np.array([settings.sources[name].labels for name in crops.sources])
    rows = np.flatnonzero(kinds != "file")
    if settings.teacher is None or not len(rows):
        return crops
    file = teacher_file(settings.teacher)
    key = hashlib.sha256(VERSION + file.read_bytes() + crops.points[rows].tobytes() + rows.tobytes())
    cached = settings.cache / f"taught-{key.hexdigest()[:16]}.npy"
    if not cached.exists():
        settings.cache.mkdir(parents=True, exist_ok=True)
        points = taught(Predictor(settings.teacher), crops, rows)
        with whole(cached) as out:
            np.save(out, points)
    found, told = np.load(cached), crops.points[rows]
    apart = metrics.normalised_errors(found, told).mean(1)
    lost = ~(apart < BELIEVED)
    for name in dict.fromkeys(crops.sources[rows].tolist()):
        own = crops.sources[rows] == name
        logger.info("%s: points by the teacher %s, on the median %.2f %% of the eye distance from the file's; "
                    "%d of %d over %g %%: the file's kept", name, settings.teacher.name, np.median(apart[own]),
                    (own & lost).sum(), own.sum(), BELIEVED)
    found = np.where((kinds[rows] == "mean")[:, None, None], (found + told) / 2, found)
    points = crops.points.copy()
    points[rows] = np.where(lost[:, None, None], told, found)
    return replace(crops, points=points)


def taught(predictor: Predictor, crops: Crops, rows: NDArray[np.intp]) -> Floats:
    """Return the teacher's points (R, 68, 2) on some crops, in pixels of the crops.

    A face is looked at upright, in the box and with the roll of the file's points, as it is and mirrored. Measured with
    the released network on 100 held-out faces of AFW: 5.14 % with one look in the unturned box, 4.98 with the mirror,
    4.95 upright as well; a second look where the first one found the face brings no more (4.96).
    """
    found = []
    for start in track(range(0, len(rows), CHUNK), "teacher looks"):
        chunk = rows[start : start + CHUNK]
        images = [np.asarray(crops.images[row]) for row in chunk]
        found.append(both_ways(predictor, images, crops.points[chunk], landmark_roll(crops.points[chunk])))
    return np.concatenate(found)


def both_ways(predictor: Predictor, images: list[NDArray[np.uint8]], points: Floats, roll: Floats) -> Floats:
    """Return the mean of the points (F, 68, 2) found in pictures of one side length and in their mirrored images.

    They are looked for in the boxes of `points`, turned upright by `roll` (F,).
    """
    last = images[0].shape[1] - 1
    plain = predictor(images, landmark_box(points, roll), roll).points
    mirrored = mirror(points, last)
    turned = predictor([np.ascontiguousarray(image[:, ::-1]) for image in images], landmark_box(mirrored, -roll), -roll)
    return (plain + mirror(turned.points, last)) / 2


def mirror(points: Floats, last: int) -> Floats:
    """Return the points (F, 68, 2) in the mirrored picture, whose last column is `last`, under their names there."""
    return (points[:, MIRROR] * [-1, 1] + [last, 0]).astype(np.float32)


def teacher_file(teacher: Path) -> Path:
    """Return the file that holds the teacher's weights. Raises SettingsError when there is none."""
    try:
        file = teacher if teacher.suffix == ".pt" else _backend.locate(teacher, "onnxruntime")
    except (ValueError, FileNotFoundError) as exc:
        raise SettingsError(f"settings.teacher: {exc}") from exc
    if not file.is_file():
        raise SettingsError(f"settings.teacher: {file}: no such file; expected an exported network or a checkpoint")
    return file
