"""Readers of pictures with face boxes in the layouts that their authors publish.

Every reader returns a set's pictures and one line per fault. A picture with an unreadable box is left out, because its
face would be learnt as background. Boxes and points count pixels from 0, at their centres: a box of the pixels 3 to 5
reaches from 2.5 to 5.5. Points are eyes, nose and mouth corners, image left first, NaN where a face has none.
"""

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from training.faces_data import Picture
from training.files import below, by_name, numbered_rows, read_image
from training.landmark_data import PICTURES
from training.settings import SettingsError

Read = tuple[list[Picture], list[str]]
VOC_EDGES = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class _Faces:
    """Collects the faces of one picture."""

    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    ignored: list[bool] = field(default_factory=list)
    points: list[np.ndarray] = field(default_factory=list)
    readable: bool = True  # all of them

    def add(self, box: tuple[float, float, float, float], points: np.ndarray | None, ignored: bool, place: str,
            faults: list[str]) -> None:
        """Add one face, or a fault if its box has no area or is not finite."""
        if not np.isfinite(box).all():
            faults.append(f"{place}: box with a number that is not finite; its picture is left out")
            self.readable = False
            return
        if not (box[2] > box[0] and box[3] > box[1]):
            faults.append(f"{place}: box without area: {' '.join(f'{edge:g}' for edge in box)}")
            return
        self.boxes.append(box)
        self.ignored.append(ignored)
        self.points.append(np.full((5, 2), np.nan, np.float32) if points is None else points)

    def numbers(self, row: str, place: str, name: str, faults: list[str]) -> list[float]:
        """Return the numbers of a row 'x y w h ...' of the picture `name`; if it is not one, add a fault."""
        try:
            values = [float(word) for word in row.split()]
        except ValueError:
            values = []
        if len(values) < 4:
            faults.append(f"{place}: expected 'x y w h ...', found {row[:60]!r}; {name} is left out")
            self.readable = False
            return []
        return values

    def picture(self, path: Path, name: str) -> Picture:
        """Return the picture with its faces; its points are None if no face has any."""
        points = np.array(self.points, np.float32).reshape(-1, 5, 2)
        boxes = np.array(self.boxes, np.float32).reshape(-1, 4)
        known = bool(np.isfinite(points).any())
        return Picture(path, name, boxes, np.array(self.ignored, bool), points=points if known else None)


def wider_list(root: Path, part: str) -> Path:
    """Return the label file of a part of WIDER FACE, train or val."""
    return root / "wider_face_split" / f"wider_face_{part}_bbx_gt.txt"


def read_wider(root: Path, part: str = "train") -> Read:
    """Read a part of WIDER FACE: for each picture its name, its number of faces, and 'x y w h ...' per face.

    A box `x y w h` covers the pixels x to x + w - 1; those marked invalid are ignored. Raises SettingsError if the part
    has no label file.
    """
    labels, images = wider_list(root, part), root / f"WIDER_{part}" / "images"
    if not labels.is_file():
        raise SettingsError(f"{labels}: no such file; expected the labels of WIDER FACE")
    pictures: list[Picture] = []
    faults: list[str] = []
    rows = [(number, row.strip()) for number, row in numbered_rows(labels)]
    names = [i for i, (_, row) in enumerate(rows) if row.lower().endswith((".jpg", ".jpeg", ".png"))]
    for number, row in rows[:1]:
        faults += [] if 0 in names else [f"{labels}:{number}: expected a picture's name, found {row[:60]!r}"]
    for start, end in pairwise([*names, len(rows)]):
        (number, name), *own = rows[start:end]
        place, path, count = f"{labels}:{number}", images / name, own[0][1] if own else ""
        if not count.isdigit():
            faults.append(f"{place}: expected the number of faces of {name} next, found {count[:60]!r}; it is left out")
        elif len(own) - 1 != int(count) and own[1:] != own[1:2] * (count == "0"):  # 0 faces may have a row of zeros
            faults.append(f"{place}: {name} has {len(own) - 1} rows for its {count} faces; it is left out")
        elif not path.is_file():
            faults.append(f"{place}: no picture {path}")
        else:
            faces = _Faces()
            for at, row in own[1 : 1 + int(count)]:
                if values := faces.numbers(row, f"{labels}:{at}", name, faults):
                    invalid = len(values) > 7 and values[7] != 0
                    faces.add(_pixels(values), None, invalid, f"{labels}:{at}", faults)
            if faces.readable:
                pictures.append(faces.picture(path, name))
    return pictures, faults


def read_retinaface(labels: Path) -> Read:
    """Read RetinaFace's label.txt: '# NAME' lines, then 'x y w h' and up to five points 'x y flag' per face.

    The pictures are in the folder images beside it. A box `x y w h` covers the pixels x to x + w - 1; points of -1 are
    unknown.
    """
    pictures: list[Picture] = []
    faults: list[str] = []
    path, name, faces = Path(), "", _Faces()
    rows = numbered_rows(labels)
    for number, row in rows[:1]:
        faults += [] if row.startswith("#") else [f"{labels}:{number}: expected '# NAME', found {row[:60]!r}"]
    for number, row in [*rows, (0, "# ")]:
        place = f"{labels}:{number}"
        if row.startswith("#"):
            if name and path.is_file() and faces.readable:
                pictures.append(faces.picture(path, name))
            name, faces = row[1:].strip(), _Faces()
            path = labels.parent / "images" / name
            if name and not path.is_file():
                faults.append(f"{place}: no picture {path}")
        elif name and (values := faces.numbers(row, place, name, faults)):
            faces.add(_pixels(values), _triples(values[4:19]), False, place, faults)
    return pictures, faults


def _pixels(values: list[float]) -> tuple[float, float, float, float]:
    """Return the edges of the pixels x to x + w - 1 and y to y + h - 1 of 'x y w h ...'."""
    x, y, w, h = values[:4]
    return x - 0.5, y - 0.5, x + w - 0.5, y + h - 0.5


def _triples(values: list[float]) -> np.ndarray | None:
    """Return five points from 'x y flag' each, None unless all are known."""
    if len(values) < 15:
        return None
    points = np.array(values, np.float32).reshape(5, 3)[:, :2]
    return None if (points < 0).any() else points


def read_voc(root: Path) -> Read:
    """Read Pascal VOC: Annotations/*.xml for JPEGImages; objects with 'face' in their name, edges from pixel 1.

    Those marked difficult are ignored: they count neither way. A set without any face object is left out.
    """
    pictures: list[Picture] = []
    faults: list[str] = []
    kinds: set[str] = set()
    labels, images = root / "Annotations", root / "JPEGImages"
    found, texts = by_name(below(images, PICTURES), images, faults), by_name(below(labels, (".xml",)), labels, faults)
    faults += [f"{found[name]}: no {name}.xml in Annotations" for name in found.keys() - texts.keys()]
    faults += [f"{texts[name]}: no picture {name} in JPEGImages" for name in texts.keys() - found.keys()]
    for name in sorted(found.keys() & texts.keys()):
        path = texts[name]
        try:
            tree = ElementTree.parse(path).getroot()
        except (ElementTree.ParseError, ValueError, LookupError, OSError) as exc:  # gb2312: ValueError
            faults.append(f"{path}: not XML ({exc})")
            continue
        faces = _Faces()
        for thing in tree.iter("object"):
            kind = (thing.findtext("name") or "").strip()
            kinds.add(kind)
            if "face" not in kind.lower():
                continue
            try:
                x0, y0, x1, y1 = (float(thing.findtext(f"bndbox/{edge}", "")) for edge in VOC_EDGES)
            except ValueError:
                faults.append(f"{path}: an object without the four numbers of a bndbox; its picture is left out")
                faces.readable = False
                continue
            difficult = (thing.findtext("difficult") or "0").strip() == "1"
            faces.add((x0 - 1.5, y0 - 1.5, x1 - 0.5, y1 - 0.5), None, difficult, str(path), faults)
        if faces.readable:
            pictures.append(faces.picture(found[name], found[name].relative_to(images).as_posix()))
    if kinds and not any("face" in kind.lower() for kind in kinds):
        faults.append(f"{labels}: no object with 'face' in its name, found {', '.join(sorted(kinds))[:60]!r}; its "
                      "pictures are left out")
        pictures = []
    return pictures, sorted(faults)


def read_yolo(root: Path) -> Read:
    """Read YOLO text: images/A/B.jpg with labels/A/B.txt, 'class x y w h' in shares of the picture's sides.

    Five points may follow, as 'x y' or 'x y seen' each, unknown where negative or unseen. Every class is a face. A
    picture without a text file shows no face.
    """
    pictures: list[Picture] = []
    faults: list[str] = []
    labels, images = root / "labels", root / "images"
    found, texts = by_name(below(images, PICTURES), images, faults), by_name(below(labels, (".txt",)), labels, faults)
    for name in sorted(texts.keys() - found.keys()):
        if texts[name].name != "classes.txt":
            faults.append(f"{texts[name]}: no picture of this name in images")
    for stem, path in sorted(found.items()):
        image = read_image(path)
        if image is None:
            faults.append(f"{path}: picture cannot be read")
            continue
        sides = np.array([image.shape[1], image.shape[0]], np.float32)
        faces, text = _Faces(), texts.get(stem)
        try:
            rows = numbered_rows(text) if text else []
        except OSError as exc:
            faults.append(f"{text}: {exc}")
            continue
        for number, row in rows:
            try:
                numbers = np.array(row.split(), np.float32)
            except ValueError:
                numbers = np.zeros(0, np.float32)
            if len(numbers) in (5, 15, 20):
                centre, half = numbers[1:3] * sides - 0.5, numbers[3:5] * sides / 2
                box = (*(centre - half).tolist(), *(centre + half).tolist())
                faces.add(box, _shares(numbers[5:], sides), False, f"{text}:{number}", faults)
            else:
                faults.append(f"{text}:{number}: expected 5, 15 or 20 numbers, found {row[:60]!r}; "
                              f"{path.name} is left out")
                faces.readable = False
        if faces.readable:
            pictures.append(faces.picture(path, path.relative_to(images).as_posix()))
    return pictures, faults


def _shares(values: np.ndarray, sides: np.ndarray) -> np.ndarray | None:
    """Return five points given in shares of the picture's sides, None unless all are known."""
    if not len(values):
        return None
    points = values.reshape(5, -1)
    if (points[:, :2] < 0).any() or (points.shape[1] == 3 and (points[:, 2] == 0).any()):
        return None
    return points[:, :2] * sides - 0.5
