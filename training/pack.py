"""Pack data sets into one small zip file, for a visit to a machine with a GPU and little else.

python -m training.pack ../data visit.zip --megabytes 60

Faces with 68 points are cut out and shrunk as far as training can see, all sets get the layout of pictures and .pts,
and file names stay, so that the same config trains on the unpacked folder and holds out the same people:

python -m zipfile -e visit.zip data
python -m training.train configs/train/landmarks.yaml --set settings.data=data --set workers=8
"""

import argparse
import logging
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track

from nodes._geometry import Floats, Image
from training.command import exit_code
from training.files import below, read_image, whole
from training.find_sets import Found, find_sets
from training.landmark_data import CACHE_SIDE, PICTURES, cut_face
from training.prepare import judge, read_all
from training.settings import SettingsError

logger = logging.getLogger("training")

QUALITIES = (90, 80, 70, 60, 50, 40, 30, 20)
"""Of JPEG and WebP; the best one that fits is taken."""
SAMPLE = 25
"""One picture in so many is compressed to foresee the size."""


@dataclass(frozen=True)
class Member:
    """One picture of the pack, and the text of its .pts file or of its part of WIDER's list."""

    name: str
    image: Image
    text: str


def members(data: Path, sets: list[Found], backgrounds: str, face_side: int, picture_side: int,
            every: int = 1) -> Iterator[Member]:
    """Yield the pictures to pack, or one in `every`: faces, pictures with boxes, pictures without faces."""
    for found in sets:
        taken: dict[str, int] = {}
        for face, image in read_all(found.faces[::every]):
            if image is None or not judge(face.points, image)[1]:
                continue
            cut, points = cut_face(image, face.points, face_side)
            stem = face.picture.stem if face.frame is None else f"{face.picture.parent.name}_{face.frame + 1:06d}"
            taken[stem] = taken.get(stem, 0) + 1
            stem += f"_{taken[stem]}" if taken[stem] > 1 else ""
            rows = "".join(f"{x:.2f} {y:.2f}\n" for x, y in points + 1)
            yield Member(f"{found.name}/{stem}.webp", cut, f"version: 1\nn_points: 68\n{{\n{rows}}}\n")
        for picture in found.pictures[::every] if found.layout == "WIDER FACE" else []:
            image = read_image(picture.path)
            if image is not None:
                small, scale = shrink(image, picture_side)
                text = wider_rows(picture.name, picture.boxes, picture.ignored, scale)
                yield Member(picture.path.relative_to(data).as_posix(), small, text)
    folder = data / backgrounds
    for path in below(folder, PICTURES)[::every] if backgrounds else []:
        image = read_image(path)
        if image is not None:
            yield Member(path.relative_to(data).as_posix(), shrink(image, picture_side)[0], "")


def shrink(image: Image, side: int) -> tuple[Image, Floats]:
    """Return a picture whose longer side is at most `side` pixels, and the scales (2,) of x and y."""
    factor = min(1.0, side / max(image.shape[:2]))
    size = [max(1, round(length * factor)) for length in image.shape[1::-1]]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return small, np.array(size, np.float32) / image.shape[1::-1]  # type: ignore[return-value]


def wider_rows(name: str, boxes: Floats, ignored: np.ndarray, scale: Floats) -> str:
    """Return a picture's rows in WIDER's text format, its boxes (F, 4) scaled."""
    corners, sides = (boxes[:, :2] + 0.5) * scale, (boxes[:, 2:] - boxes[:, :2]) * scale
    rows = [f"{x:.2f} {y:.2f} {w:.2f} {h:.2f} 0 0 0 {int(i)} 0 0\n"
            for (x, y), (w, h), i in zip(corners, sides, ignored, strict=True)]
    return f"{name}\n{len(rows)}\n" + "".join(rows or ["0 0 0 0 0 0 0 0 0 0\n"])


def encoded(image: Image, name: str, quality: int) -> bytes:
    """Return a picture compressed as its name says: WebP, JPEG, or lossless."""
    flag = cv2.IMWRITE_WEBP_QUALITY if name.endswith(".webp") else cv2.IMWRITE_JPEG_QUALITY
    good, content = cv2.imencode(Path(name).suffix, image, [flag, quality])
    assert good, name
    return content.tobytes()


def pack(data: Path, out: Path, megabytes: float, backgrounds: str, sides: tuple[int, int],
         console: Console) -> tuple[int, int]:
    """Write the zip; return the quality that fits and the number of pictures.

    `sides` are those of faces and of other pictures. Raises SettingsError when nothing fits, or nothing is there.
    """
    if not data.is_dir():
        raise SettingsError(f"{data}: no such folder")
    sets = list(find_sets(data, {}))
    for found in sets:
        if found.pictures and found.layout != "WIDER FACE":
            logger.warning("%s: boxes of the layout %s are not packed, only those of WIDER FACE are; take this set "
                           "along as it is", found.name, found.layout)
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
    """Write the members into a zip that appears when it is whole; return how many there are."""
    lists, count = dict[str, str](), 0
    with whole(out) as packed, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for member in track(pictures, f"quality {quality}", about, console=console):
            count += 1
            name = member.name.encode("utf-8", "backslashreplace").decode()  # zip has no other encoding
            content = encoded(member.image, member.name, quality)
            file.writestr(name, content, zipfile.ZIP_STORED)
            if member.name.endswith(".webp"):
                file.writestr(Path(name).with_suffix(".pts").as_posix(), member.text)
            elif member.text:
                root, _, rest = member.name.partition("/WIDER_")
                labels = f"{root}/wider_face_split/wider_face_{rest.partition('/')[0]}_bbx_gt.txt"
                lists[labels] = lists.get(labels, "") + member.text
        for name, text in lists.items():
            file.writestr(name, text)
    return count


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and pack; 2 means a folder is wrong or nothing fits, 130 that it was stopped."""
    parser = argparse.ArgumentParser(prog="python -m training.pack", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of data sets")
    parser.add_argument("out", type=Path, help="zip file to write")
    parser.add_argument("--megabytes", type=float, default=60.0, help="largest size of the file")
    parser.add_argument("--backgrounds", default="backgrounds", help="folder below the data of pictures without faces")
    parser.add_argument("--face-side", type=int, default=CACHE_SIDE, help="pixels of a cut-out face, 2.2 faces wide")
    parser.add_argument("--picture-side", type=int, default=192,
                        help="longer side of all other pictures; 400 to train a detector")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)

    def work() -> None:
        quality, count = pack(options.data, options.out, options.megabytes, options.backgrounds,
                              (options.face_side, options.picture_side), Console())
        size = options.out.stat().st_size / 1e6
        logger.info("%s: %d pictures at quality %d, %.1f MB", options.out, count, quality, size)

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
