"""Readers of faces with 68 points in the layouts that their authors publish.

Every reader takes the folder of one set and returns `Labelled` faces and one line per fault.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import scipy.io

from nodes._geometry import Floats
from training.files import numbered_rows
from training.landmark_data import PICTURES, read_pairs, read_points

VIDEOS = (".avi", ".mp4", ".mov", ".mkv")


@dataclass(frozen=True)
class Labelled:
    """One labelled face: picture or video, points (68, 2) counted from pixel 0, person."""

    picture: Path
    points: Floats
    person: str
    frame: int | None = None
    """Frame of a video, counted from 0; None: `picture` is a picture."""
    part: str = ""
    """Official part of the set, train or test, if its lists name one."""


Read = tuple[list[Labelled], list[str]]

PEOPLE = {
    "YTF": r".+(?=_\d+$)",
    "AAF": r"\d+(?=A\d+$)",
    "300W[_-]?LP": r".+(?=_\d+$)",
}
"""Patterns of the person in file names, by patterns of the set's name. YouTube Faces numbers the frames of a person,
All-Age-Faces writes idAage, 300W-LP numbers the views made of a photograph. In all other sets each file is a person."""


def person_pattern(name: str, above: tuple[str, ...] = ()) -> tuple[str, str]:
    """Return the folder within which the persons of this set are unique, and the pattern of a person.

    `above` are the names of the data folder and its parents: the data folder may be a set, or a part of one.
    """
    parts = name.split("/")
    known = [("/".join(parts[: i + 1]), part) for i, part in enumerate(parts)] + [(part, part) for part in above]
    for folder, part in known:
        for kind, pattern in PEOPLE.items():
            if re.fullmatch(kind, part):
                return folder, pattern
    return name, ".*"


def read_plain(folder: Path, person: Callable[[str], str]) -> Read:
    """Read the pictures with a .pts file beside them in this folder, not below it: the layout of the 300-W sets."""
    pairs, faults = read_pairs(sorted(path for path in folder.iterdir() if path.is_file()), folder)
    return [Labelled(picture, points, person(picture.stem)) for picture, points in pairs], faults


def read_300vw(clip: Path, person: str) -> Read:
    """Read one clip of 300-VW, which shows `person`: a video, and annot/000001.pts for its first frame and so on."""
    video = next(path for path in sorted(clip.iterdir()) if path.suffix.lower() in VIDEOS)
    try:
        str(video).encode()
    except UnicodeEncodeError:  # OpenCV would end the process
        return [], [f"{video}: a video whose path is not UTF-8 cannot be read; rename it"]
    capture = cv2.VideoCapture(str(video))
    frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    capture.release()
    if not frames:
        return [], [f"{video}: cannot be read as a video"]
    faces, faults = [], []
    for path in sorted((clip / "annot").glob("*.pts")):
        if not path.stem.isdecimal() or not 1 <= int(path.stem) <= frames:
            faults.append(f"{path}: expected a name from 1 to the {frames} frames of {video.name}")
            continue
        points = _or_fault(read_points, path, faults)
        if points is not None:
            faces.append(Labelled(video, points, person, int(path.stem) - 1))
    return sorted(faces, key=lambda face: face.frame or 0), faults  # without leading zeros, 10.pts comes before 9.pts


def read_300wlp(root: Path, person: Callable[[str], str]) -> Read:
    """Read 300W-LP: pictures in folders by source, landmarks/SOURCE/NAME_pts.mat with pts_2d (68, 2), from pixel 1.

    The folders *_Flip, which hold the same pictures mirrored, are not read: training mirrors pictures itself. All views
    of one photograph are one person.
    """
    faces: list[Labelled] = []
    faults: list[str] = []
    for folder in sorted(path for path in (root / "landmarks").iterdir() if path.is_dir()):
        labels = {path.stem.removesuffix("_pts"): path for path in folder.glob("*_pts.mat")}
        pictures = {path.stem: path for path in _pictures(root / folder.name)}
        faults += [f"{labels[stem]}: no picture in {folder.name}" for stem in labels.keys() - pictures.keys()]
        faults += [f"{pictures[stem]}: no {stem}_pts.mat" for stem in pictures.keys() - labels.keys()]
        for stem in sorted(pictures.keys() & labels.keys()):
            points = _or_fault(lambda path: _read_mat(path, "pts_2d"), labels[stem], faults)
            if points is not None:
                faces.append(Labelled(pictures[stem], points, person(stem)))
    return faces, sorted(faults)


def read_mats(folder: Path, person: Callable[[str], str]) -> Read:
    """Read AFLW2000-3D: pictures with a .mat beside them that holds pt3d_68 (3, 68), from pixel 1."""
    faces: list[Labelled] = []
    faults: list[str] = []
    for picture in _pictures(folder):
        label = picture.with_suffix(".mat")
        points = _or_fault(lambda path: _read_mat(path, "pt3d_68"), label, faults)
        if points is not None:
            faces.append(Labelled(picture, points, person(picture.stem)))
    return faces, faults


_SIDES = (60, 61, 63, 64, 65, 67, 68, 69, 71, 72, 73, 75)
WFLW_68 = np.array([*range(0, 33, 2), *range(33, 38), *range(42, 47), *range(51, 60), *_SIDES, *range(76, 96)])
"""Those of WFLW's 98 points that are nearest to iBUG's 68: every other one of the jaw, the upper edge of the brows, the
nose, the eyes without the middles of the lids, the mouth. Pupils and the lower edge of the brows are left out."""


def read_wflw(root: Path, name: str) -> Read:
    """Read WFLW: WFLW_images, and lists whose lines hold 98 points, box, six attributes and the picture's name.

    Coordinates count from pixel 0. Each picture counts as one person, so that its faces stay together.
    """
    faces: list[Labelled] = []
    faults: list[str] = []
    for path in sorted(root.rglob("list_98pt_*.txt")):
        if "test" in path.parent.name.split("_") and "train" not in path.parent.name.split("_"):
            continue  # subsets of the test list by attribute
        for number, row in numbered_rows(path):
            *words, file = row.split()
            picture = root / "WFLW_images" / file
            try:
                numbers = np.array(words, np.float64)
            except ValueError as exc:
                faults.append(f"{path}:{number}: not a number ({exc})")
                continue
            if len(numbers) not in (196, 200, 206):
                faults.append(f"{path}:{number}: {len(numbers)} numbers before the name, expected 206, 200 or 196")
            elif not np.isfinite(numbers).all():
                faults.append(f"{path}:{number}: a number that is not finite")
            elif not picture.is_file():
                faults.append(f"{path}:{number}: no picture {picture}")
            else:
                points = numbers[:196].reshape(98, 2)[WFLW_68].astype(np.float32)
                part = "test" if "test" in path.stem.split("_") else "train"
                faces.append(Labelled(picture, points, f"{name}/{file}", part=part))
    return faces, faults


def _pictures(folder: Path) -> Iterator[Path]:
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return (path for path in files if path.suffix.lower() in PICTURES)


def _read_mat(path: Path, key: str) -> Floats:
    """Return the points (68, 2) of a Matlab file, which counts from 1. Raises ValueError if it has none."""
    if not path.is_file():
        raise ValueError("missing")
    try:
        content: dict[str, Any] = scipy.io.loadmat(str(path), variable_names=[key])
    except Exception as exc:  # scipy raises many types for a damaged file
        raise ValueError(f"not a readable .mat file ({exc})") from exc
    if key not in content:
        raise ValueError(f"no {key} in it")
    found = np.asarray(content[key], np.float32)
    if found.ndim == 2 and found.shape[0] in (2, 3) and found.shape[1] == 68:
        found = found[:2].T
    if found.shape != (68, 2) or not np.isfinite(found).all():
        raise ValueError(f"{key} has the shape {found.shape}, expected 68 finite points")
    return found - 1


def _or_fault(read: Callable[[Path], Floats], path: Path, faults: list[str]) -> Floats | None:
    try:
        return read(path)
    except (ValueError, OSError) as exc:
        faults.append(f"{path}: {exc}")
        return None
