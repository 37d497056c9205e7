"""A street composed from real faces: people with known paths cross, pass behind a pillar, leave and are replaced.

Faces are pictures with their 68 points in .pts files, as in 300-W, or the portrait; the background is a photograph
without faces, another one every ten seconds. All lengths are pixels, all times frames at 30 fps.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from nodes.detect import FaceModel
from nodes.source import blurred, picture_at
from tests.portrait import LANDMARKS

Image = NDArray[np.uint8]
Points = NDArray[np.float32]

WIDTH, HEIGHT = 1280, 720
PILLAR = (600, 660)
"""Columns of the pillar in front of everybody, which hides a face for about half a second."""

SHOT = 300
"""Frames with the same background."""

SIDES = (60.0, 170.0)
SPEEDS = (5.0, 11.0)  # per frame; across the picture in 4 to 9 seconds
BOB, SWAY = (8.0, 28), (12.0, 45)  # amplitude and period of a walker's steps up and down, and of the head in degrees

GRAIN, ROOM = 2.5, 64
"""Sensor noise in grey levels; it is cut from another place in each frame of a field that is ROOM rows higher."""

SEEN = 0.9
"""Minimum share of visible points of a face that counts as visible: a detector may miss one that is half hidden."""


class Head(NamedTuple):
    """A face cut out of a picture, with a mask that fades out around the head."""

    image: Image
    mask: NDArray[np.float32]  # (H, W), 0..1
    points: Points  # (68, 2)


class Walker(NamedTuple):
    """One person's path through the picture."""

    id: int
    head: Head
    enters: int  # frame
    speed: float  # per frame, negative to the left
    side: float  # longer side of the box around the points
    height: float  # y of the centre of the face
    phase: float

    def transform(self, frame: int) -> NDArray[np.float32]:
        """Return the transform (2, 3) of the head in a frame, from pixels of its picture to pixels of the scene."""
        low, high = self.head.points.min(axis=0), self.head.points.max(axis=0)
        scale = self.side / (high - low).max()
        turn = np.radians(SWAY[0]) * np.sin(2 * np.pi * frame / SWAY[1] + self.phase)
        along = self.speed * (frame - self.enters)
        x = along - self.side if self.speed > 0 else WIDTH + self.side + along
        y = self.height + BOB[0] * np.sin(2 * np.pi * frame / BOB[1] + self.phase)
        c, s = scale * np.cos(turn), scale * np.sin(turn)
        matrix = np.array([[c, -s], [s, c]])
        return np.column_stack((matrix, (x, y) - matrix @ ((low + high) / 2))).astype(np.float32)

    def leaves(self) -> int:
        """Return the first frame in which the face has left the picture."""
        return self.enters + round((WIDTH + 2 * self.side) / abs(self.speed))


class Person(NamedTuple):
    """The true place of a walker in a frame."""

    id: int
    points: Points  # (68, 2)
    showing: float  # share of the points inside the picture that are not behind the pillar or another person


def cut_out(picture: Image, points: Points) -> Head:
    """Cut a head out of a picture: the face and the rest of the head around it."""
    low, high = points.min(axis=0), points.max(axis=0)
    side = float((high - low).max())
    middle = np.array(((low[0] + high[0]) / 2, (low[1] + high[1]) / 2 - 0.15 * side))
    x0, y0 = np.floor(middle - 1.1 * side).astype(int)
    length = round(2.2 * side)
    room = length  # the head may extend beyond its picture
    padded = cv2.copyMakeBorder(picture, room, room, room, room, cv2.BORDER_REPLICATE)
    image = padded[y0 + room : y0 + room + length, x0 + room : x0 + room + length]
    y, x = np.mgrid[:length, :length]
    from_middle = np.hypot((x - length / 2) / (0.72 * side), (y - length / 2) / (0.88 * side))
    mask = np.clip((1.0 - from_middle) / 0.12, 0, 1).astype(np.float32)
    return Head(np.ascontiguousarray(image, np.uint8), mask, (points - (x0, y0)).astype(np.float32))


def heads(folder: Path | None) -> list[Head]:
    """Read the faces in a folder of pictures with .pts files; without a folder, the portrait.

    Cut-outs that contain a neighbour's face are skipped: they would show two faces, one of them without known points.
    Raises ValueError if there is no face in the folder.
    """
    if folder is None:
        return [cut_out(np.asarray(picture_at(""), np.uint8), LANDMARKS)]
    detector = FaceModel()
    cut = [cut_out(picture, points) for picture, points in annotated(folder)]
    found = [head for head in cut if len(detector.detect(as_shown(head), threshold=0.3)[0]) <= 1]
    if not found:
        raise ValueError(f"{folder}: no picture with a .pts file")
    return found


def as_shown(head: Head) -> Image:
    """Return the head on a grey background."""
    weight = head.mask[..., None]
    return np.asarray(head.image * weight + 128 * (1 - weight), np.uint8)


def annotated(folder: Path) -> Iterator[tuple[Image, Points]]:
    """Yield pictures with their 68 points, counted from 0."""
    for file in sorted(folder.glob("*.pts")):
        lines = file.read_text(encoding="utf-8").split("{")[1].split("}")[0].split()
        picture = cv2.imread(str(file.with_suffix(".jpg")))
        points = np.array(lines, np.float32).reshape(-1, 2) - 1
        if picture is not None and len(points) == 68:
            yield np.asarray(picture, np.uint8), points


class Street:
    """The scene: its frames, and where everybody is."""

    def __init__(
        self, faces: list[Head], backgrounds: list[Path], frames: int, at_once: int = 5, seed: int = 0
    ) -> None:
        self.frames = frames
        self._random = np.random.default_rng(seed)
        self._backgrounds = [paths_picture(path) for path in backgrounds] or [backdrop()]
        self._grain = self._random.normal(0, GRAIN, (HEIGHT + ROOM, WIDTH, 3)).astype(np.int16)
        self.walkers = list(self._people(faces, frames, at_once))

    def _people(self, faces: list[Head], frames: int, at_once: int) -> Iterator[Walker]:
        """Yield the walkers: on each lane, another one enters after the last one has left."""
        random, count = self._random, 0
        for _ in range(at_once):
            enters = -int(random.integers(0, 100))
            while enters < frames:
                speed = random.uniform(*SPEEDS) * random.choice((-1, 1))
                walker = Walker(
                    count, faces[int(random.integers(len(faces)))], enters, speed, random.uniform(*SIDES),
                    random.uniform(0.3, 0.7) * HEIGHT, random.uniform(0, 2 * np.pi),
                )  # fmt: skip
                yield walker
                count += 1
                enters = walker.leaves() + int(random.integers(5, 40))

    def present(self, frame: int) -> list[Walker]:
        """Return the walkers in the picture, the furthest (smallest) first."""
        return sorted((w for w in self.walkers if w.enters <= frame < w.leaves()), key=lambda walker: walker.side)

    def paint(self, frame: int) -> Image:
        """Return a frame (HEIGHT, WIDTH, 3) with sensor noise."""
        image = self._backgrounds[frame // SHOT % len(self._backgrounds)].copy()
        for walker in self.present(frame):
            paste(image, walker.head, walker.transform(frame))
        image[:, PILLAR[0] : PILLAR[1]] = (70, 80, 85)
        row = frame * 37 % ROOM
        return np.asarray(cv2.add(image, self._grain[row : row + HEIGHT], dtype=cv2.CV_8U))

    def people(self, frame: int) -> list[Person]:
        """Return the true places of everybody in a frame."""
        walkers = self.present(frame)
        places = [placed(walker.head.points, walker.transform(frame)) for walker in walkers]
        people = []
        for row, (walker, points) in enumerate(zip(walkers, places, strict=True)):
            hidden = (points < 0).any(1) | (points > (WIDTH - 1, HEIGHT - 1)).any(1)
            hidden |= (points[:, 0] > PILLAR[0]) & (points[:, 0] < PILLAR[1])
            for other, nearer in zip(walkers[row + 1 :], places[row + 1 :], strict=True):
                hidden |= np.linalg.norm((points - nearer.mean(0)) / (0.6, 0.75), axis=1) < other.side
            people.append(Person(walker.id, points, float(1 - hidden.mean())))
        return people


def placed(points: Points, transform: NDArray[np.float32]) -> Points:
    """Map points (68, 2) by a (2, 3) transform."""
    return np.asarray(points @ transform[:, :2].T + transform[:, 2], np.float32)


def paste(image: Image, head: Head, transform: NDArray[np.float32]) -> None:
    """Blend a transformed head into the picture."""
    height, width = head.mask.shape
    corners = placed(np.float32([(0, 0), (width, 0), (0, height), (width, height)]), transform)
    x0, y0 = np.maximum(0, np.floor(corners.min(0))).astype(int)
    x1, y1 = np.ceil(corners.max(0)).astype(int) + 1
    region = image[y0 : max(y0, y1), x0 : max(x0, x1)]
    if not region.size:
        return
    moved = transform.copy()
    moved[:, 2] -= (x0, y0)
    size = (region.shape[1], region.shape[0])
    mask = cv2.warpAffine(head.mask, moved, size)[..., None]
    shown = cv2.warpAffine(head.image, moved, size, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)
    region[:] = region + mask * (shown - region.astype(np.float32)) + 0.5


def paths_picture(path: Path) -> Image:
    """Return a photograph, cropped to the size of the scene. Raises ValueError if it cannot be read."""
    picture: Any = cv2.imread(str(path))
    if picture is None:
        raise ValueError(f"{path} is not a picture that OpenCV reads")
    scale = max(WIDTH / picture.shape[1], HEIGHT / picture.shape[0])
    large = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(large[:HEIGHT, :WIDTH], np.uint8)


def backdrop() -> Image:
    """Return a background without any recognisable shape."""
    return np.asarray(blurred(picture_at(""), WIDTH, HEIGHT), np.uint8)
