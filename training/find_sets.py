"""Finds the data sets in a folder. It recognises them by the layout that their authors publish, not by their names."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from training import read_boxes, read_landmarks
from training.faces_data import Picture
from training.files import walk
from training.landmark_data import PICTURES, person_of
from training.read_landmarks import VIDEOS, Labelled


@dataclass(frozen=True)
class FaceSet:
    """One data set: its name (its folder below the data folder), its layout, what could be read, and faults."""

    name: str
    layout: str
    faces: list[Labelled]
    pictures: list[Picture]
    faults: list[str]


def find_sets(data: Path, people: dict[str, str]) -> Iterator[FaceSet]:
    """Read the sets below `data` one after the other; `people` maps patterns of set names to patterns of persons."""
    above = data.resolve().parts
    for root, folders, files in walk(data):
        relative = root.relative_to(data).as_posix()
        name = data.resolve().name if relative == "." else relative
        found = _whole(root, name, folders, _person(name, above, people))
        if found:
            folders.clear()
            yield from found
            continue
        suffixes = {Path(file).suffix.lower() for file in files}
        clip = re.fullmatch(r"(?:.+/)?(\d+)_annot", name)
        if ".pts" in suffixes and clip:  # extracted frames of a 300-VW clip: NNN_annot
            video = name.rpartition("/")[0] or above[-1]
            faces, faults = read_landmarks.read_plain(root, lambda _, person=f"{video}/{clip[1]}": person)
            yield FaceSet(video, "frames and .pts", faces, [], faults)
        elif ".pts" in suffixes and root.name != "annot":
            faces, faults = read_landmarks.read_plain(root, _person(name, above, people))
            yield FaceSet(name, "pictures and .pts", faces, [], faults)
        elif ".mat" in suffixes and suffixes & set(PICTURES):
            faces, faults = read_landmarks.read_mats(root, _person(name, above, people))
            yield FaceSet(name, "pictures and .mat", faces, [], faults)


def _whole(root: Path, name: str, folders: list[str], person: Callable[[str], str]) -> list[FaceSet]:
    """Return the set, or its official parts, if this folder is the root of a known layout."""
    here = set(folders)
    if "annot" in here and any(path.suffix.lower() in VIDEOS for path in root.iterdir()):
        faces, faults = read_landmarks.read_300vw(root, name)
        return [FaceSet(name.rpartition("/")[0] or name, "300-VW clips", faces, [], faults)]
    if "WFLW_images" in here:
        faces, faults = read_landmarks.read_wflw(root, name)
        parts = {part: [face for face in faces if face.part == part] for part in ("train", "test")}
        return [FaceSet(f"{name}/{part}", "WFLW", own, [], faults if part == "train" else [])
                for part, own in parts.items() if own or part == "train"]
    if "landmarks" in here and next(root.glob("landmarks/*/*_pts.mat"), None):
        faces, faults = read_landmarks.read_300wlp(root, person)
        return [FaceSet(name, "300W-LP", faces, [], faults)]
    if "wider_face_split" in here:
        return [FaceSet(f"{name}/{part}", "WIDER FACE", [], *read_boxes.read_wider(root, part))
                for part in ("train", "val") if read_boxes.wider_list(root, part).is_file()]
    if "images" in here and (root / "label.txt").is_file():
        return [FaceSet(name, "RetinaFace", [], *read_boxes.read_retinaface(root / "label.txt"))]
    if {"Annotations", "JPEGImages"} <= here:
        return [FaceSet(name, "VOC", [], *read_boxes.read_voc(root))]
    if {"images", "labels"} <= here and next((root / "labels").rglob("*.txt"), None):
        return [FaceSet(name, "YOLO", [], *read_boxes.read_yolo(root))]
    return []


def _person(name: str, above: tuple[str, ...], people: dict[str, str]) -> Callable[[str], str]:
    """Return the function from a file's stem to its person, prefixed with the folder within which people are unique."""
    own = [(name, pattern) for sets, pattern in people.items() if re.fullmatch(sets, name)]
    root, pattern = own[0] if own else read_landmarks.person_pattern(name, above)
    of = person_of(pattern)
    return lambda stem: f"{root}/{of(stem)}"
