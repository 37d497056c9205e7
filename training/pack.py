"""Pack data sets into one small zip file, to train on another machine, such as one with a GPU.

python -m training.pack ../data visit.zip --megabytes 60

Faces with 68 points are cut out, shrunk to the size that training uses, and written as pictures with .pts files. File
names are kept, so that the same config trains on the unpacked folder and holds out the same people:

python -m zipfile -e visit.zip data
python -m training.train configs/train/landmarks.yaml --set settings.data=data --set workers=8
"""

import logging
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from nodes._geometry import Floats, Image
from training import command
from training.faces_data import Picture
from training.files import below, read_image, whole
from training.find_sets import FaceSet, find_sets
from training.landmark_data import CACHE_SIDE, PICTURES, cut_face, shrunk
from training.prepare import judge, read_all
from training.read_boxes import VOC_EDGES
from training.settings import SettingsError

logger = logging.getLogger("training")

QUALITIES = (90, 80, 70, 60, 50, 40, 30, 20)
"""JPEG and WebP qualities to try; the best one that fits is used."""
SAMPLE = 25
"""One picture in this many is compressed to estimate the size."""


@dataclass(frozen=True)
class Member:
    """One picture of the pack, its label file, '' for none, and its part of the text in that file."""

    name: str
    image: Image
    labels: str = ""
    text: str = ""


def members(data: Path, sets: list[FaceSet], backgrounds: str, face_side: int, picture_side: int,
            every: int = 1) -> Iterator[Member]:
    """Yield the pictures to pack, or one in `every`: faces, pictures with boxes, pictures without faces."""
    for found in sets:
        taken = set[str]()
        for face, image in read_all(found.faces[::every]):
            if image is None or not judge(face.points, image)[1]:
                continue
            cut, points = cut_face(image, face.points, face_side)
            stem = face.picture.stem if face.frame is None else f"{face.picture.parent.name}_{face.frame + 1:06d}"
            stem = unused(stem, taken)
            rows = "".join(f"{x:.2f} {y:.2f}\n" for x, y in points + 1)
            name = f"{found.name}/{stem}"
            yield Member(f"{name}.webp", cut, f"{name}.pts", f"version: 1\nn_points: 68\n{{\n{rows}}}\n")
        for picture in found.pictures[::every]:
            image = read_image(picture.path)
            if image is not None:
                path = picture.path.relative_to(data)
                small, scale = shrink(image, picture_side)
                text = label_text(found.layout, picture, image.shape[1::-1], scale)
                yield Member(path.as_posix(), small, label_file(found.layout, path, picture.name), text)
    folder = data / backgrounds
    for path in below(folder, PICTURES)[::every] if backgrounds else []:
        image = read_image(path)
        if image is not None:
            yield Member(path.relative_to(data).as_posix(), shrink(image, picture_side)[0])


def unused(stem: str, taken: set[str]) -> str:
    """Return the name, numbered if another face or picture has it, and add it to `taken`."""
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}_{number}"
    taken.add(name)
    return name


def shrink(image: Image, side: int) -> tuple[Image, Floats]:
    """Return a picture shrunk to at most `side` pixels on its longer side, and the scales (2,) of x and y."""
    return shrunk(image, min(1.0, side / max(image.shape[:2])))


def label_file(layout: str, path: Path, name: str) -> str:
    """Return the label file of a picture with this name in its set; RetinaFace's list becomes YOLO files."""
    images = Path(path.as_posix().removesuffix(f"/{name}"))
    if layout == "WIDER FACE":
        part = images.parent.name.removeprefix("WIDER_")
        return (images.parents[1] / "wider_face_split" / f"wider_face_{part}_bbx_gt.txt").as_posix()
    folder, suffix = ("Annotations", ".xml") if layout == "VOC" else ("labels", ".txt")
    return (images.parent / folder / name).with_suffix(suffix).as_posix()


def label_text(layout: str, picture: Picture, sides: tuple[int, ...], scale: Floats) -> str:
    """Return the boxes of a picture with these sides (width, height), after scaling, in the format of `label_file`."""
    if layout == "WIDER FACE":
        return wider_rows(picture, scale)
    return voc_xml(picture, scale) if layout == "VOC" else yolo_rows(picture, np.array(sides))


def wider_rows(picture: Picture, scale: Floats) -> str:
    """Return a picture's rows in WIDER's label file."""
    boxes, ignored = picture.boxes, picture.ignored
    corners, sides = (boxes[:, :2] + 0.5) * scale, (boxes[:, 2:] - boxes[:, :2]) * scale
    rows = [f"{x:.2f} {y:.2f} {w:.2f} {h:.2f} 0 0 0 {int(i)} 0 0\n"
            for (x, y), (w, h), i in zip(corners, sides, ignored, strict=True)]
    return f"{picture.name}\n{len(rows)}\n" + "".join(rows or ["0 0 0 0 0 0 0 0 0 0\n"])


def voc_xml(picture: Picture, scale: Floats) -> str:
    """Return a picture's label file in VOC's format, which counts from pixel 1."""
    edges = (picture.boxes + 0.5) * np.tile(scale, 2) + [1, 1, 0, 0]
    things = [
        f"<object><name>face</name><difficult>{int(ignored)}</difficult><bndbox>"
        + "".join(f"<{edge}>{value:.2f}</{edge}>" for edge, value in zip(VOC_EDGES, box, strict=True))
        + "</bndbox></object>\n" for box, ignored in zip(edges, picture.ignored, strict=True)]
    return f"<annotation>\n{''.join(things)}</annotation>\n"


def yolo_rows(picture: Picture, sides: NDArray[np.int_]) -> str:
    """Return a picture's label file in YOLO's format: boxes, and five points if any are known, -1 for the others."""
    boxes = picture.boxes
    columns = [((boxes[:, :2] + boxes[:, 2:]) / 2 + 0.5) / sides, (boxes[:, 2:] - boxes[:, :2]) / sides]
    if picture.points is not None:
        columns.append(np.nan_to_num((picture.points + 0.5) / sides, nan=-1).reshape(-1, 10))
    return "".join(f"0 {' '.join(f'{value:.6f}' for value in row)}\n" for row in np.concatenate(columns, 1))


def encoded(image: Image, name: str, quality: int) -> bytes:
    """Return a picture compressed in the format of its name's suffix: WebP, JPEG or a lossless one; .pgm is grey."""
    flag = cv2.IMWRITE_WEBP_QUALITY if name.endswith(".webp") else cv2.IMWRITE_JPEG_QUALITY
    suffix = Path(name).suffix.lower()
    pixels = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if suffix == ".pgm" else image
    good, content = cv2.imencode(suffix, pixels, [flag, quality])
    assert good, name
    return content.tobytes()


def pack(data: Path, out: Path, megabytes: float, backgrounds: str, sides: tuple[int, int],
         console: Console) -> tuple[int, int]:
    """Write the zip; return the quality that fits and the number of pictures.

    `sides` are those of faces and of other pictures. Raises SettingsError if nothing fits or there is nothing to pack.
    """
    for folder in (data, out.parent):
        if not folder.is_dir():
            raise SettingsError(f"{folder}: no such folder")
    if backgrounds and not (data / backgrounds).is_dir():
        logger.warning("%s: no such folder; no pictures without faces are packed", data / backgrounds)
        backgrounds = ""
    sets = list(find_sets(data, {}))
    sample = list(members(data, sets, backgrounds, *sides, every=SAMPLE))
    if not sample:
        raise SettingsError(f"{data}: nothing to pack; expected the layouts that training.prepare reads")
    for quality in QUALITIES:
        if SAMPLE * sum(len(encoded(m.image, m.name, quality)) + len(m.text) // 2 for m in sample) < megabytes * 1e6:
            count = write(out, members(data, sets, backgrounds, *sides), quality, SAMPLE * len(sample), console)
            if out.stat().st_size <= megabytes * 1e6:
                return quality, count
    out.unlink(missing_ok=True)
    raise SettingsError(f"{data}: more than {megabytes:g} MB even at quality {QUALITIES[-1]}; "
                        "lower --face-side or --picture-side, or pack fewer sets")


def write(out: Path, pictures: Iterator[Member], quality: int, about: int, console: Console) -> int:
    """Write the members into a zip that appears when it is complete; return their number."""
    lists, count = dict[str, list[str]](), 0
    with whole(out) as packed, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for member in track(pictures, f"quality {quality}", about, console=console):
            count += 1
            content = encoded(member.image, member.name, quality)
            file.writestr(printable(member.name), content, zipfile.ZIP_STORED)
            lists.setdefault(member.labels, []).append(member.text)
        lists.pop("", None)
        for name, texts in lists.items():
            file.writestr(printable(name), printable("".join(texts)))
    return count


def printable(text: str) -> str:
    """Return file names in the only encoding that a zip knows, UTF-8, with the other bytes escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and pack; return 0, 2 if a folder is wrong or nothing fits, 130 if stopped."""
    parser = command.parser("pack", __doc__)
    parser.add_argument("data", type=Path, help="folder that contains data sets, at any depth")
    parser.add_argument("out", type=Path, help="zip file to write")
    parser.add_argument("--megabytes", type=float, default=60.0,
                        help="largest size of the file, in millions of bytes (default: %(default)s)")
    parser.add_argument("--backgrounds", default="backgrounds", metavar="FOLDER",
                        help="folder of pictures without faces, relative to the data (default: %(default)s)")
    parser.add_argument("--face-side", type=command.pixels, default=CACHE_SIDE, metavar="PIXELS",
                        help="side of the crop of a face, which is 2.2 faces wide (default: %(default)s)")
    parser.add_argument("--picture-side", type=command.pixels, default=192, metavar="PIXELS",
                        help="longer side of all other pictures; use 400 to train a detector (default: %(default)s)")
    options = parser.parse_args(arguments)

    def work() -> None:
        quality, count = pack(options.data, options.out, options.megabytes, options.backgrounds,
                              (options.face_side, options.picture_side), Console())
        size = options.out.stat().st_size / 1e6
        logger.info("%s: %d pictures at quality %d, %.1f MB", options.out, count, quality, size)

    return command.run(work)


if __name__ == "__main__":
    sys.exit(main())
