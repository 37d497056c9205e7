"""Read all face data sets below a folder, list their faults, and write an index, face crops and a contact sheet.

python -m training.prepare ../data --out prepared

SET and PATTERN are regular expressions.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, track
from rich.table import Column, Table

from nodes._geometry import Image, landmark_box, landmark_roll
from training import command, contact_sheet, landmark_data
from training.faces_data import Picture
from training.files import read_image, together
from training.find_sets import FaceSet, find_sets
from training.landmark_data import STATES, cut_face
from training.prepared import CROPS, FACES, PICTURES, POINTS
from training.read_landmarks import Labelled
from training.settings import SettingsError

OFFICIAL_TESTS = r".*(testset|[iI][bB][uU][gG]|300W(/.*)?|AFLW2000[^/]*|WFLW[^/]*/test|/val)"
"""Pattern for the names of sets that are official test parts; they are held out by default."""
SMALL_EYE_DISTANCE = 0.5
"""In a half profile, the outer eye corners are nearer than this share of the width of the upright box of the points."""
FAR_OUTSIDE = 0.25
"""A point farther outside the picture than this share of the face's side is a fault. Many faces reach a little beyond
their picture, and are labelled there."""
SHEET = 100
"""Sets on the contact sheet; if there are more, such as one folder per person, it shows a selection."""
FLAGS = (*(name.replace(" ", "_") for name in STATES), "small_eye_distance")
ROWS = 40
"""Most rows of a table on the console; if there would be more, the sets of a folder share a row."""
SHOWN = 10
"""Pictures of each set on the contact sheet, and kinds of faults on the console."""


def attributes(points: NDArray[np.float32]) -> dict[str, bool]:
    """Return the states of one face (68, 2) and whether its eye distance is small, independent of size and roll."""
    box = landmark_box(points[None], landmark_roll(points[None]))[0]
    near = np.linalg.norm(points[36] - points[45]) < SMALL_EYE_DISTANCE * (box[2] - box[0])
    states = zip(FLAGS, landmark_data.states(points).tolist(), strict=False)
    return {name: bool(held) for name, held in states} | {FLAGS[-1]: bool(near)}


def prepare(data: Path, out: Path, share: float, tests: str, people: dict[str, str], console: Console) -> list[FaceSet]:
    """Write the prepared folder `out` (see `training.prepared`) from all sets below `data`; return the sets."""
    if not data.is_dir():
        raise SettingsError(f"{data}: no such folder")
    held = Split(share, tests, data.resolve().name)
    sets = list(_merged(track(find_sets(data, people), "reading labels", console=console)))
    if not any(found.faces or found.pictures for found in sets):
        faults = [fault for found in sets for fault in found.faults]
        if faults:
            raise SettingsError(f"{data}: nothing in it can be used; the first of {len(faults)} faults is {faults[0]}")
        raise SettingsError(f"{data}: no data set found; expected pictures with .pts files beside them, or another "
                            "layout listed in training/README.md")
    check_people(people, sets)
    held.hold_out_one({(found.name, face.person) for found in sets for face in found.faces})
    held.hold_out_one({(found.name, unique_name(found, picture)) for found in sets for picture in found.pictures})
    with together(out) as folder:
        rows = write_faces(sets, data, folder, held, console)
        rows += write_pictures(sets, data, folder, held, console)
        contact_sheet.save_picture(folder / "sheet.png", contact_sheet.sheet(rows[:: -(-len(rows) // SHEET)]))
        faults = [fault for found in sets for fault in found.faults]
        (folder / "faults.txt").write_text("".join(fault + "\n" for fault in faults), "utf-8", "backslashreplace")
        for name in {FACES, CROPS, POINTS, PICTURES} - {file.name for file in folder.iterdir()}:
            (out / name).unlink(missing_ok=True)  # from an earlier call
    return sets


def check_people(people: dict[str, str], sets: list[FaceSet]) -> None:
    """Raise SettingsError if a pattern matches no set: its people would be on both sides of the split."""
    names = sorted(found.name for found in sets if found.faces)
    for pattern, person in people.items():
        if not any(re.fullmatch(pattern, name) for name in names):
            raise SettingsError(f"--person {pattern}={person}: no set matches; the sets: {', '.join(names) or 'none'}")


class Split:
    """Who is held out: whole sets by their names, and a share of the people of all others, but at least one."""

    def __init__(self, share: float, tests: str, data: str = "") -> None:
        """Take the share, the pattern of sets, and the data folder's name, because it may itself be such a set."""
        self.share, self.data, self.lowest = share, data, set[str]()
        try:
            self.tests = re.compile(tests)
        except re.error as exc:
            raise SettingsError(f"--hold-out-sets {tests}: not a valid regular expression ({exc})") from exc

    def __call__(self, name: str, person: str) -> bool:
        """Say whether a person of the set of this name is held out; the same on every machine."""
        official = any(self.tests.fullmatch(text) for text in (name, f"{self.data}/{name}"))
        return official or person in self.lowest or landmark_data.held_out(person, self.share)

    def hold_out_one(self, people: set[tuple[str, str]]) -> None:
        """If none of these (set, person) is held out, hold out one, unless the share is 0 or there is only one."""
        if self.share and len(people) > 1 and not any(self(name, person) for name, person in people):
            self.lowest.add(min((person for _, person in people), key=landmark_data.hashed))


def _merged(sets: Iterable[FaceSet]) -> list[FaceSet]:
    """Join sets of the same name, such as the clips of 300-VW."""
    merged: dict[str, FaceSet] = {}
    for found in sets:
        old = merged.get(found.name)
        merged[found.name] = found if old is None else FaceSet(
            old.name, old.layout, old.faces + found.faces, old.pictures + found.pictures, old.faults + found.faults)
    return list(merged.values())


def write_faces(sets: list[FaceSet], data: Path, out: Path, held: Split,
                console: Console) -> list[tuple[str, list[Image]]]:
    """Write the index and the crops of all faces with 68 points; return the rows of the contact sheet."""
    total = sum(len(found.faces) for found in sets)
    if not total:
        return []
    points, rows = [], []
    with (out / FACES).open("wb") as index, (out / CROPS).open("wb") as crops, Progress(console=console) as progress:
        bar = progress.add_task("cutting out faces", total=total)
        for found in (found for found in sets if found.faces):
            every, tiles, before = max(1, len(found.faces) // SHOWN), list[Image](), len(points)
            for i, (face, image) in enumerate(read_all(found.faces)):
                progress.advance(bar)
                fault, usable = judge(face.points, image)
                found.faults.extend([f"{place(face)}: {fault}"] if fault else [])
                if image is None or not usable:
                    continue
                cut, mapped = cut_face(image, face.points)
                crops.write(cut.tobytes())
                points.append(mapped)
                index.write(json.dumps(line_of(face, found.name, data, image, held)).encode() + b"\n")
                if i % every == 0 and len(tiles) < SHOWN:
                    tiles.append(contact_sheet.with_points(cut, mapped))
            rows.append((f"{found.name} ({found.layout}): {len(points) - before} faces", tiles))
        np.save(out / POINTS, np.array(points, np.float32).reshape(-1, 68, 2))
    return rows


def judge(points: NDArray[np.float32], image: Image | None) -> tuple[str, bool]:
    """Return the fault of a face (68, 2) in its picture, '' for none, and whether the face can be used."""
    fault = landmark_data.unusable(points, image)
    if image is None or fault:
        return fault, False
    sides = np.array([image.shape[1], image.shape[0]])
    beyond = np.maximum(-0.5 - points, points - (sides - 0.5)).max(1)
    far = int((beyond > FAR_OUTSIDE * np.ptp(points, axis=0).max()).sum())
    return f"{far} of 68 points lie far outside the picture; kept" if far else "", True


def line_of(face: Labelled, name: str, data: Path, image: Image, held: Split) -> dict[str, Any]:
    """Return the entry of one face in the index."""
    return {
        "set": name, "person": face.person, "held_out": held(name, face.person),
        "picture": face.picture.relative_to(data).as_posix(), "frame": face.frame,
        "size": [image.shape[1], image.shape[0]],
        "box": np.round(landmark_box(face.points[None])[0].astype(float), 2).tolist(),
        **attributes(face.points), "points": np.round(face.points.astype(float), 2).tolist(),
    }


def place(face: Labelled) -> str:
    """Return the location of a face for a fault."""
    return str(face.picture) if face.frame is None else f"{face.picture}, frame {face.frame + 1}"


def read_all(faces: list[Labelled]) -> Iterator[tuple[Labelled, Image | None]]:
    """Yield each face with its picture, None if that cannot be read; a video is decoded once, from its start."""
    path, image, capture, at = Path(), None, None, -1
    try:
        for face in faces:
            if face.picture != path:
                if capture is not None:
                    capture.release()
                path, at = face.picture, -1
                capture = None if face.frame is None else cv2.VideoCapture(str(path))
                image = read_image(path) if capture is None else None
            while capture is not None and at < (face.frame or 0):
                good, image = capture.read()
                image, at = image if good else None, at + 1
            yield face, image
    finally:
        if capture is not None:
            capture.release()


def write_pictures(sets: list[FaceSet], data: Path, out: Path, held: Split,
                   console: Console) -> list[tuple[str, list[Image]]]:
    """Write the index of all pictures with boxes; return the rows of the contact sheet."""
    sets = [found for found in sets if found.pictures]
    if not sets:
        return []
    rows = []
    with (out / PICTURES).open("wb") as index, Progress(console=console) as progress:
        bar = progress.add_task("reading pictures", total=sum(len(found.pictures) for found in sets))
        for found in sets:
            every, tiles, kept = max(1, len(found.pictures) // SHOWN), list[Image](), 0
            for i, picture in enumerate(found.pictures):
                progress.advance(bar)
                image = read_image(picture.path)
                if image is None:
                    found.faults.append(f"{picture.path}: picture cannot be read")
                    continue
                inside = inner(picture.boxes, image)
                found.faults.extend([f"{picture.path}: {(~inside).sum()} boxes lie outside it"] * (not inside.all()))
                boxes, ignored = picture.boxes[inside], picture.ignored[inside]
                points = None if picture.points is None else picture.points[inside]
                index.write(json.dumps({
                    "set": found.name, "held_out": held(found.name, unique_name(found, picture)),
                    "picture": picture.path.relative_to(data).as_posix(), "size": list(image.shape[1::-1]),
                    "boxes": boxes.tolist(), "ignored": ignored.tolist(), "points": listed(points),
                }).encode() + b"\n")
                kept += len(boxes)
                if i % every == 0 and len(tiles) < SHOWN:
                    tiles.append(contact_sheet.with_boxes(image, boxes, ignored.tolist(), points))
            rows.append((f"{found.name} ({found.layout}): {len(found.pictures)} pictures, {kept} faces", tiles))
    return rows


def unique_name(found: FaceSet, picture: Picture) -> str:
    """Return the unique name of a picture with boxes, which counts as a person."""
    return f"{found.name}/{picture.name}"


def inner(boxes: NDArray[np.float32], image: Image) -> NDArray[np.bool_]:
    """Say which boxes (F, 4) have their centre in the picture."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((centres >= -0.5) & (centres <= np.array(image.shape[1::-1]) - 0.5)).all(1)


def listed(points: NDArray[np.float32] | None) -> list[Any] | None:
    """Return five points per face for JSON, null for a face without points."""
    if points is None:
        return None
    return [five.tolist() if np.isfinite(five).all() else None for five in points]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of an index, none if it does not exist."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def show(sets: list[FaceSet], out: Path, console: Console) -> None:
    """Print the sets, one or several per row, and the first fault of each kind."""
    lines, pictures = read_lines(out / FACES), read_lines(out / PICTURES)
    table = Table(Column("set", overflow="fold"), "layout", "people", "faces", "held out", "faults")
    states = Table(Column("set", overflow="fold"), *(flag.replace("_", " ") for flag in FLAGS))
    total = len(lines) + sum(len(line["boxes"]) for line in pictures)
    row_of = rows_of(sets)
    for row, layout in dict.fromkeys(row_of.values()):
        shown = [found for found in sets if row_of[found.name] == (row, layout)]
        own, boxed = ([line for line in some if row_of[line["set"]] == (row, layout)] for some in (lines, pictures))
        people = len({line["person"] for line in own})
        aside = [line["held_out"] for line in own] + [line["held_out"] for line in boxed for _ in line["boxes"]]
        faulty = sum(len(found.faults) for found in shown)
        table.add_row(row, layout, *map(str, (people or "", len(aside), sum(aside), faulty)))
        if own:
            states.add_row(row, *(str(sum(line[flag] for line in own)) for flag in FLAGS))
    console.print(table, *([states] if states.row_count else []))
    faults = [fault for found in sets for fault in found.faults]
    kinds: dict[str, list[str]] = {}
    for fault in faults:
        kinds.setdefault(re.sub(r"[\d.,]+", "N", fault.partition(": ")[2])[:40], []).append(fault)
    for alike in sorted(kinds.values(), key=len, reverse=True)[:SHOWN]:
        console.print(f"{len(alike)} x {alike[0]}", highlight=False, soft_wrap=True)
    summary = f"{out}: {total} faces, {len(faults)} faults (faults.txt), sheet.png"
    console.print(summary, highlight=False, soft_wrap=True)


def rows_of(sets: list[FaceSet]) -> dict[str, tuple[str, str]]:
    """Return the row of the tables, and its layout, for the name of each set.

    Each set has its own row. If these are more than `ROWS`, such as with one folder per person, the sets of a folder
    share a row.
    """
    names = [found.name.split("/") for found in sets]
    rows: dict[str, tuple[str, str]] = {}
    for depth in range(max(map(len, names)), -1, -1):
        short = ["/".join([*name[:depth], "*"] if len(name) > depth else name) for name in names]
        rows = {found.name: (row, found.layout) for found, row in zip(sets, short, strict=True)}
        if len(set(rows.values())) <= ROWS:
            break
    return rows


def read_people(texts: list[str]) -> dict[str, str]:
    """Return patterns of persons by patterns of sets. Raises SettingsError for a text that is not SET=PATTERN."""
    for text in texts:
        try:
            _ = [re.compile(part) for part in text.split("=", 1)]
        except re.error as exc:
            raise SettingsError(f"--person {text}: not a valid regular expression ({exc})") from exc
        if "=" not in text:
            raise SettingsError(f"--person {text}: expected SET=PATTERN, as in 'mine.*=[^_]*'")
    return dict(text.split("=", 1) for text in texts)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and prepare; return 0, 2 if a folder or pattern is wrong, 130 if stopped."""
    parser = command.parser("prepare", __doc__)
    parser.add_argument("data", type=Path, help="folder that contains data sets, at any depth")
    parser.add_argument("--out", type=Path, default=Path("prepared"),
                        help="folder to write the index, crops and contact sheet to (default: %(default)s)")
    parser.add_argument("--held-out", type=command.share, default=0.1, metavar="SHARE",
                        help="share of the people held out for validation, from 0 to 1 (default: %(default)s)")
    parser.add_argument("--hold-out-sets", default=OFFICIAL_TESTS, metavar="PATTERN",
                        help="sets held out as a whole, as a pattern for their names (default: official test parts)")
    parser.add_argument("--person", action="append", default=[], metavar="SET=PATTERN",
                        help="which part of the file names is the person, for the sets whose names match SET, as in "
                             "--person 'mine.*=[^_]*'; may be repeated")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120, markup=False)

    def work() -> None:
        people = read_people(options.person)
        sets = prepare(options.data, options.out, options.held_out, options.hold_out_sets, people, console)
        show(sets, options.out, console)

    return command.run(work)


if __name__ == "__main__":
    sys.exit(main())
