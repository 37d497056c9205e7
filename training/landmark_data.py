"""Pictures with 68 points: reading them, splitting them by person, states of eyes and mouth, and the crop cache."""

import hashlib
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from nodes._geometry import apply, crop, crop_matrix, landmark_box
from training.files import below, by_name, read_image, read_text, whole
from training.settings import SettingsError

logger = logging.getLogger("training")

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
CACHE_SIDE, CACHE_MARGIN = 256, 2.2
"""Side of cached crops in pixels and in face sides: 2.2 leaves room for a rotated crop of 1.4, and 116 px of face are
enough for inputs up to 160."""
CACHE_VERSION = 2
STATES = ("left eye closed", "right eye closed", "mouth closed", "mouth wide open")
"""Left and right as seen in the image."""

_FLIPS = (
    *((i, 16 - i) for i in range(8)), *((17 + i, 26 - i) for i in range(5)), (31, 35), (32, 34),
    (36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46),
    (48, 54), (49, 53), (50, 52), (55, 59), (56, 58), (60, 64), (61, 63), (65, 67),
)
MIRROR = np.arange(68)
"""Index of the point that takes each point's place in the mirrored picture: 29 pairs, ten points on the axis."""
for _a, _b in _FLIPS:
    MIRROR[[_a, _b]] = _b, _a


@dataclass(frozen=True)
class Sample:
    """One labelled face: picture, (68, 2) float32 points (0-based), data set and person."""

    path: Path
    points: NDArray[np.float32]
    source: str
    person: str
    row: int | None = None
    """Row in the file of prepared crops (`training.prepared`) at `path`; None: `path` is a picture."""
    held_out: bool = False
    """Whether `training.prepare` has held it out."""


def read_points(path: Path) -> NDArray[np.float32]:
    """Read a .pts file of 68 points; it counts pixels from 1, the result from 0. Raises ValueError if it is wrong."""
    text = read_text(path)
    inside = re.search(r"\{([^}]*)\}", text)
    if inside is None:
        raise ValueError("no { ... } block")
    try:
        numbers = np.array(inside.group(1).split(), np.float32)
    except ValueError as exc:
        raise ValueError(f"not a number among the points ({exc})") from exc
    if numbers.size != 136:
        raise ValueError(f"{numbers.size / 2:g} points, expected 68")
    if not np.isfinite(numbers).all():
        raise ValueError("a coordinate is not finite")
    return numbers.reshape(68, 2) - 1


def read_folder(root: Path, source: str, person: Callable[[str], str] = str) -> tuple[list[Sample], list[str]]:
    """Read every picture with a .pts file below `root`; return the faces and one line per fault.

    `person` maps a file's stem to the person, who must not be in both training and validation.
    """
    check_folder(root, f"the data set {source}")
    pairs, faults = read_pairs(below(root, (*PICTURES, ".pts")), root)
    return [Sample(picture, points, source, f"{source}/{person(picture.stem)}") for picture, points in pairs], faults


def read_pairs(files: list[Path], root: Path) -> tuple[list[tuple[Path, NDArray[np.float32]]], list[str]]:
    """Return the pictures among files below `root` that have a .pts file, with their points, and one line per fault."""
    pairs, faults = [], list[str]()
    pictures, labels = (by_name([file for file in files if file.suffix.lower() in suffixes], root, faults)
                        for suffixes in (PICTURES, (".pts",)))
    faults += [f"{labels[stem]}: no picture beside it" for stem in labels.keys() - pictures.keys()]
    faults += [f"{pictures[stem]}: no .pts beside it" for stem in pictures.keys() - labels.keys()]
    for stem in sorted(pictures.keys() & labels.keys()):
        try:
            pairs.append((pictures[stem], read_points(labels[stem])))
        except (ValueError, OSError) as exc:
            faults.append(f"{labels[stem]}: {exc}")
    return pairs, sorted(faults)


def log_faults(name: object, faults: list[str]) -> None:
    """Log the first faults of a data set, and how many more there are."""
    for fault in faults[:5]:
        logger.warning("%s", fault)
    if len(faults) > 5:
        logger.warning("%s: %d more faults", name, len(faults) - 5)


def check_folder(folder: Path, use: str) -> None:
    """Raise SettingsError saying what the folder is needed for, if it does not exist."""
    if not folder.is_dir():
        raise SettingsError(f"{folder}: no such folder, needed for {use}")


def person_of(pattern: str) -> Callable[[str], str]:
    """Return the function from a file's stem to its person: what the pattern matches at its start, else all of it.

    Raises SettingsError if it is not a valid pattern.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as exc:
        raise SettingsError(f"person: {pattern!r} is not a valid regular expression ({exc})") from exc
    return lambda stem: found.group() if (found := compiled.match(stem)) else stem


def held_out(person: str, share: float) -> bool:
    """Say whether a person belongs to the held-out share; the same on every machine."""
    return hashed(person) < share


def hashed(person: str) -> float:
    """Return a hash of a person's name from 0 to 1, the same on every machine; the lowest are held out."""
    return int.from_bytes(hashlib.sha256(os.fsencode(person)).digest()[:4]) / 2**32


def states(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (..., 4) the `STATES` of faces (..., 68, 2) as 0 or 1, independent of size and position.

    An eye is closed if its mean lid distance is under 0.12 of its width; the mouth is closed if the mean distance of
    the inner lips is under 0.02, wide open if over 0.12, of the height of the face's upright box.
    Thresholds: chosen on HELEN and LFPW, where 3-4 % of the eyes and 40-45 % of the mouths are closed by them.
    """
    points = np.asarray(points, np.float32)

    def gap(i: int, j: int) -> NDArray[np.float32]:
        return np.linalg.norm(points[..., i, :] - points[..., j, :], axis=-1)

    left = (gap(37, 41) + gap(38, 40)) / np.maximum(2 * gap(36, 39), 1e-6)
    right = (gap(43, 47) + gap(44, 46)) / np.maximum(2 * gap(42, 45), 1e-6)
    brow = (points[..., 21, :] + points[..., 22, :]) / 2
    height = np.maximum(np.linalg.norm(points[..., 8, :] - brow, axis=-1), 1e-6)
    lips = (gap(61, 67) + gap(62, 66) + gap(63, 65)) / 3 / height
    return np.stack((left < 0.12, right < 0.12, lips < 0.02, lips > 0.12), -1).astype(np.float32)


@dataclass(frozen=True)
class Crops:
    """Cached faces: (F, 256, 256, 3) uint8 BGR, points (F, 68, 2) in crop pixels, and the set each comes from."""

    images: "CropFile | Rows"
    points: NDArray[np.float32]
    sources: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.points)


class CropFile:
    """A memory-mapped file of cached crops as an array (F, 256, 256, 3).

    It is pickled as its path, for the workers of a training: numpy would pickle the content.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._crops = np.memmap(path, np.uint8, "r").reshape(-1, CACHE_SIDE, CACHE_SIDE, 3)

    def __len__(self) -> int:
        return len(self._crops)

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        return self._crops[index]

    def __reduce__(self) -> "tuple[type[CropFile], tuple[Path]]":
        return CropFile, (self.path,)


class Rows:
    """Crops in several memory-mapped files, indexed one by one like an array."""

    def __init__(self, places: "list[tuple[CropFile | Rows, int]]") -> None:
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        crops, row = self._places[index]
        return crops[row]


def read_picture(sample: Sample) -> NDArray[np.uint8] | None:
    """Return the picture (H, W, 3) BGR that a face's points refer to, or None if it cannot be read."""
    return read_image(sample.path) if sample.row is None else CropFile(sample.path)[sample.row]


def cache_crops(samples: list[Sample], folder: Path) -> tuple[Crops, list[str]]:
    """Return the crops of `samples`, from a memory-mapped file in `folder` that is written on first use, and faults.

    Prepared crops are read from the prepared folder, and come last.
    """
    ready = [sample for sample in samples if sample.row is not None]
    if ready:
        return _with_prepared(ready, [sample for sample in samples if sample.row is None], folder)
    key = hashlib.sha256(repr((CACHE_VERSION, CACHE_SIDE, CACHE_MARGIN)).encode())
    for sample in samples:
        key.update(os.fsencode(f"{sample.path} {sample.path.stat().st_mtime_ns}"))
        key.update(sample.points.tobytes())
    base = folder / f"faces-{key.hexdigest()[:16]}"
    file, index = base.with_suffix(".u8"), base.with_suffix(".npz")
    if not (file.exists() and index.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        _write_cache(samples, base)
    found = np.load(index)
    return Crops(CropFile(file), found["points"], found["sources"]), [str(text) for text in found["faults"]]


def _with_prepared(ready: list[Sample], others: list[Sample], folder: Path) -> tuple[Crops, list[str]]:
    files = {path: CropFile(path) for path in {sample.path for sample in ready}}
    places = [(files[sample.path], sample.row or 0) for sample in ready]
    points, sources = np.stack([sample.points for sample in ready]), np.array([sample.source for sample in ready])
    if not others:
        return Crops(Rows(places), points, sources), []
    cut, faults = cache_crops(others, folder)
    places = [(cut.images, i) for i in range(len(cut))] + places
    crops = Crops(Rows(places), np.concatenate((cut.points, points)), np.concatenate((cut.sources, sources)))
    return crops, faults


def _write_cache(samples: list[Sample], base: Path) -> None:
    points, sources, faults = [], [], []
    with whole(base.with_suffix(".u8")) as crops:
        for sample in samples:
            image = read_image(sample.path)
            if fault := unusable(sample.points, image):
                faults.append(f"{sample.path}: {fault}")
                continue
            cut, mapped = cut_face(image, sample.points)
            crops.write(cut.tobytes())
            points.append(mapped)
            sources.append(sample.source)
        if not points:
            raise SettingsError(f"none of {len(samples)} faces can be used; first fault: {(faults or ['none'])[0]}")
    with whole(base.with_suffix(".npz")) as index:
        np.savez(index, points=np.stack(points), sources=np.array(sources), faults=np.array(faults, str))
    logger.info("cached %d faces in %s", len(points), base.with_suffix(".u8"))


def unusable(points: NDArray[np.float32], image: NDArray[np.uint8] | None) -> str:
    """Return why a face (68, 2) cannot be used: no picture, too small, or not in the picture; '' if it can."""
    if image is None:
        return "picture cannot be read"
    height, width = image.shape[:2]
    low, high = points.min(0), points.max(0)
    if (high - low).max() < 8:
        return f"face of {(high - low).max():.1f} px, expected at least 8"
    middle = (low + high) / 2
    if not (0 <= middle[0] < width and 0 <= middle[1] < height):
        return f"face centre {middle.round().tolist()} lies outside the {width} x {height} picture"
    return ""


def cut_face(image: NDArray[np.uint8], points: NDArray[np.float32], side: int = CACHE_SIDE,
             margin: float = CACHE_MARGIN) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the square crop around the box of one face's points, and its points in the crop."""
    box = landmark_box(points[None])
    shrink = min(1.0, side / (margin * float((box[0, 2:] - box[0, :2]).max())))
    if shrink < 0.5:  # the crop is bilinear: average first, or it would skip pixels
        image, scale = shrunk(image, shrink)
        points = (points + 0.5) * scale - 0.5
        box = landmark_box(points[None])
    matrix = crop_matrix(box, side, margin)
    return crop(image, matrix, side)[0], apply(matrix, points[None])[0]


def shrunk(image: NDArray[np.uint8], factor: float) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return a picture averaged to about `factor` of its size, and the exact scales (2,) of x and y."""
    sides = [max(1, round(side * factor)) for side in image.shape[1::-1]]
    small = cv2.resize(image, sides, interpolation=cv2.INTER_AREA)
    return small, np.array(sides, np.float32) / image.shape[1::-1]  # type: ignore[return-value]


def cache_backgrounds(pictures: list[tuple[Path, NDArray[np.float32]]], folder: Path, count: int) -> CropFile:
    """Return (count, 256, 256, 3) crops without faces, cut on first use from pictures with known face boxes (F, 4)."""
    key = hashlib.sha256(repr((CACHE_VERSION, count)).encode())
    for path, boxes in pictures:
        key.update(os.fsencode(f"{path} {path.stat().st_mtime_ns}") + boxes.tobytes())
    file = folder / f"backgrounds-{key.hexdigest()[:16]}.u8"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        cuts = []
        for index in rng.permutation(np.resize(np.arange(len(pictures)), count * 2)):
            path, boxes = pictures[index]
            cut = _cut_background(read_image(path), boxes, rng)
            cuts += [] if cut is None else [cut]
            if len(cuts) == count:
                break
        if not cuts:
            raise SettingsError(f"{pictures[0][0].parent}: found no place without a face in {len(pictures)} pictures, "
                                f"the first of which is {pictures[0][0].name}")
        with whole(file) as out:
            out.writelines(cuts)
        logger.info("cached %d backgrounds in %s", len(cuts), file)
    return CropFile(file)


def _cut_background(image: NDArray[np.uint8] | None, boxes: NDArray[np.float32],
                    rng: np.random.Generator) -> NDArray[np.uint8] | None:
    if image is None:
        return None
    height, width = image.shape[:2]
    for _ in range(10):
        side = min(height, width) * rng.uniform(0.15, 1.0)
        x, y = rng.uniform(0, width - side), rng.uniform(0, height - side)
        overlap = (np.minimum(boxes[:, 2:], [x + side, y + side]) - np.maximum(boxes[:, :2], [x, y])).clip(0).prod(1)
        if not (overlap > 0).any():
            box = np.array([[x, y, x + side, y + side]], np.float32)
            return crop(image, crop_matrix(box, CACHE_SIDE, margin=1.0), CACHE_SIDE)[0]
    return None
