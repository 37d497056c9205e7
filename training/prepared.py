"""Reads the folder that `training.prepare` writes: an index of faces with their crops, and one of pictures with boxes.

A prepared folder holds
    faces.jsonl    one face per line: set, person, held_out, picture, frame (of a video), size, points, attributes
    crops.u8       its crop: 256 x 256 x 3 bytes in BGR order, 2.2 face sides wide, in the order of the lines
    crops.npy      its points in the crop, (F, 68, 2) float32
    pictures.jsonl one picture per line: set, held_out, picture, boxes x0, y0, x1, y1, ignored, five points each or null
Points and boxes count pixels from 0, at their centres; pictures are named relative to the data folder.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from training.faces_data import Picture
from training.landmark_data import Sample
from training.settings import SettingsError

UNKNOWN = np.full((5, 2), np.nan, np.float32)
FACES, CROPS, POINTS, PICTURES = "faces.jsonl", "crops.u8", "crops.npy", "pictures.jsonl"


def read_faces(folder: Path, source: str, sets: str = ".*") -> list[Sample]:
    """Return the faces of the prepared sets whose whole names match the pattern, as one source of training.

    Raises SettingsError if the folder is not a prepared one or no set matches.
    """
    return [replace(face, source=source, person=f"{source}/{face.person}") for face in read_by_set(folder, sets)]


def read_by_set(folder: Path, sets: str = ".*") -> list[Sample]:
    """Return the same faces, with the names of their sets as sources."""
    crops, points = folder / CROPS, folder / POINTS
    lines = list(_lines(folder / FACES))
    if not crops.is_file() or not points.is_file():
        raise SettingsError(f"{folder}: {CROPS} or {POINTS} is missing; run training.prepare again")
    mapped = np.load(points)
    if len(mapped) != len(lines):
        raise SettingsError(f"{folder}: {len(lines)} lines in {FACES}, but {len(mapped)} crops; "
                            "run training.prepare again")
    return [
        Sample(crops, mapped[row], line["set"], line["person"], row, line["held_out"])
        for row, line in _matching(lines, sets, folder)
    ]


def read_pictures(folder: Path, data: Path, sets: str = ".*") -> tuple[list[Picture], list[Picture]]:
    """Return the prepared pictures with boxes, to train with and held out; `data` is the folder of all sets.

    Raises SettingsError if the folder is not a prepared one, no set matches, or a picture is missing.
    """
    training: list[Picture] = []
    aside: list[Picture] = []
    for _, line in _matching(list(_lines(folder / PICTURES)), sets, folder):
        points = None
        if line["points"] is not None:
            known = [UNKNOWN if five is None else five for five in line["points"]]
            points = np.array(known, np.float32).reshape(-1, 5, 2)
        boxes = np.array(line["boxes"], np.float32).reshape(-1, 4)
        picture = Picture(data / line["picture"], line["picture"], boxes, np.array(line["ignored"], bool),
                          points=points)
        (aside if line["held_out"] else training).append(picture)
    missing = [picture.path for picture in training + aside if not picture.path.is_file()]
    if missing:
        raise SettingsError(f"{folder}: {len(missing)} of its {len(training + aside)} pictures are missing, the first "
                            f"is {missing[0]}; run training.prepare again, or correct settings.data")
    return training, aside


def _matching(lines: list[dict[str, Any]], sets: str, folder: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        pattern = re.compile(sets)
    except re.error as exc:
        raise SettingsError(f"sets: {sets!r} is not a valid regular expression ({exc})") from exc
    kept = [(row, line) for row, line in enumerate(lines) if pattern.fullmatch(line["set"])]
    if not kept:
        names = sorted({line["set"] for line in lines})
        raise SettingsError(f"{folder}: no set matches {sets!r}; its sets: {', '.join(names) or 'none'}")
    return kept


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    number = 0
    try:
        with path.open() as file:
            for line in file:
                number += 1
                yield json.loads(line)
    except OSError as exc:
        raise SettingsError(f"{path}: {exc.strerror}; python -m training.prepare writes it") from exc
    except ValueError as exc:
        raise SettingsError(f"{path}:{number}: not JSON ({exc})") from exc
