"""Pictures with face boxes: the held-out split, how often each is drawn, and faces with points to paste into scenes."""

from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from nodes._geometry import Floats, Image, landmark_box, landmark_roll
from training.files import below, read_image
from training.landmark_data import PICTURES, Crops, check_folder, held_out
from training.settings import SettingsError

LEARNABLE = 10.0
"""Least height in pixels of the picture of a face that can be learnt."""
FACE_HEIGHT = 1 / 0.78
FACE_TOP = 0.25
"""A WIDER-like face box from the upright box of the 68 points: its height relative to theirs, and the share of its own
height above them; its width is the same (measured with RFB-320 on 76 faces, standard deviations 4-5 %)."""
ROOM = 1_500_000_000
"""Bytes of decoded pictures that a process keeps: 3,048 of WIDER at 400 px take 1.1 GB, 12,880 as published 30 GB."""


class Decoded:
    """A cache of decoded pictures by their files; it drops those that were not used for longest."""

    def __init__(self, room: int) -> None:
        self.room, self.used = room, 0
        self.images: OrderedDict[Path, Image] = OrderedDict()

    def __call__(self, path: Path) -> Image:
        """Return a picture (H, W, 3). Raises SettingsError if it cannot be read."""
        if path in self.images:
            self.images.move_to_end(path)
            return self.images[path]
        image = read_image(path)
        if image is None:
            raise SettingsError(f"{path}: picture cannot be read")
        self.images[path] = image
        self.used += image.nbytes
        while self.used > self.room and len(self.images) > 1:
            self.used -= self.images.popitem(last=False)[1].nbytes
        return image


decoded = Decoded(ROOM)


@dataclass(frozen=True)
class Picture:
    """One picture with its faces: boxes (F, 4) x0, y0, x1, y1, which of them are ignored (F,), five points each.

    Points are (F, 5, 2), or None if none are known.
    """

    path: Path
    name: str
    boxes: Floats
    ignored: NDArray[np.bool_]
    pixels: Image | None = field(default=None, repr=False, compare=False)
    """The picture itself, if it has no file."""
    points: Floats | None = None

    def image(self) -> Image:
        """Return the decoded picture (H, W, 3). Raises SettingsError if it cannot be read."""
        return decoded(self.path) if self.pixels is None else self.pixels


def read_backgrounds(folder: Path, with_faces: set[str]) -> list[Picture]:
    """Return the pictures at any depth of `folder` as scenes without faces, except those named in `with_faces`.

    Raises SettingsError if there are none.
    """
    check_folder(folder, "pictures without faces")
    paths = below(folder, PICTURES)
    if not paths:
        raise SettingsError(f"{folder}: no picture in it, needed for pictures without faces ({', '.join(PICTURES)})")
    empty = np.zeros((0, 4), np.float32), np.zeros(0, bool)
    return [Picture(path, path.name, *empty) for path in paths if path.name not in with_faces]


def split(pictures: list[Picture], share: float, by: str) -> tuple[list[Picture], list[Picture]]:
    """Return training and held-out pictures, chosen by the hash of their names, or of their events' names."""
    aside = [held_out(picture.name.split("/")[0] if by == "event" else picture.name, share) for picture in pictures]
    return (
        [picture for picture, out in zip(pictures, aside, strict=True) if not out],
        [picture for picture, out in zip(pictures, aside, strict=True) if out],
    )


def chances(pictures: list[Picture]) -> NDArray[np.float64]:
    """Return the chance of each picture to be drawn: it grows with the square root of its faces that can be learnt.

    An average precision counts faces, not pictures; with equal chances, most pictures would show one or two faces.
    """
    faces = [int(((p.boxes[:, 3] - p.boxes[:, 1] >= LEARNABLE) & ~p.ignored).sum()) for p in pictures]
    weights = np.sqrt(1 + np.array(faces))
    return weights / weights.sum()


@dataclass(frozen=True)
class Ovals:
    """Faces that may be rotated: centre (F, 2), half width and half height (F, 2), and angle (F,) in the image."""

    centres: Floats
    halves: Floats
    angles: Floats

    def only(self, face: int) -> "Ovals":
        """Return one of them."""
        one = slice(face, face + 1)
        return Ovals(self.centres[one], self.halves[one], self.angles[one])

    def boxes(self, turn: float = 0.0) -> Floats:
        """Return (F, 4) the boxes around the ovals after a further rotation about their centres.

        An oval has nearly the shape of a head; the box around a rotated box would be far too large.
        """
        cos, sin = np.cos(self.angles + turn)[:, None], np.sin(self.angles + turn)[:, None]
        half = np.sqrt((self.halves * cos) ** 2 + (self.halves[:, ::-1] * sin) ** 2)
        return np.concatenate((self.centres - half, self.centres + half), 1).astype(np.float32)


def face_ovals(landmarks: Floats) -> Ovals:
    """Return the ovals of WIDER-like face boxes for faces with 68 points (F, 68, 2), upright in the head's frame."""
    roll = landmark_roll(landmarks)
    points = landmark_box(landmarks, roll)
    middle, sides = (points[:, :2] + points[:, 2:]) / 2, points[:, 2:] - points[:, :2]
    height = sides[:, 1] * FACE_HEIGHT
    up = np.stack((np.sin(roll), -np.cos(roll)), 1)
    shift = FACE_TOP * height + sides[:, 1] / 2 - height / 2
    return Ovals((middle + up * shift[:, None]).astype(np.float32), np.stack((sides[:, 0], height), 1) / 2, roll)


def five_points(landmarks: Floats) -> Floats:
    """Return (F, 5, 2): eye centres, nose tip and mouth corners of faces with 68 points, image left first."""
    eyes = landmarks[:, 36:42].mean(1), landmarks[:, 42:48].mean(1)
    return np.stack((*eyes, landmarks[:, 30], landmarks[:, 48], landmarks[:, 54]), 1).astype(np.float32)


@dataclass(frozen=True)
class Cutouts:
    """Cached crops of faces with points, to paste into scenes."""

    crops: Crops

    @cached_property
    def ovals(self) -> Ovals:
        """Face ovals in crop pixels."""
        return face_ovals(self.crops.points)

    @cached_property
    def points(self) -> Floats:
        """Five points (F, 5, 2) in crop pixels."""
        return five_points(self.crops.points)

    def picture(self, face: int, turn: float = 0.0) -> Picture:
        """Return one crop as a picture of its own, rotated about the face by `turn` radians."""
        oval, image, points = self.ovals.only(face), self.crops.images[face], self.points[face]
        if turn:
            linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]], np.float32)
            matrix = np.column_stack((linear, oval.centres[0] - linear @ oval.centres[0]))
            image = cv2.warpAffine(image, matrix, image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
            points = (points @ linear.T + matrix[:, 2]).astype(np.float32)
        return Picture(Path(), "", oval.boxes(turn), np.zeros(1, bool), image, points[None])

    @cached_property
    def chances(self) -> NDArray[np.float64]:
        """Chance of each face to be drawn; labels by hand weigh three times, infants six times those by machine."""
        weight = {"YTF": 1.0, "AAF": 1.0, "InfAnFace": 6.0}
        weights = np.array([weight.get(source, 3.0) for source in self.crops.sources.tolist()])
        return weights / weights.sum()
