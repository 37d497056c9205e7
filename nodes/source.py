"""A test source: it moves a picture along a known path, so that the true place of every point is known."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from os.path import expanduser
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from graph import ConfigError, Frame, Header, Message, Node, Output, array, setting, waiting
from nodes._pacer import Pacer
from nodes._picture_files import read_picture

Image = NDArray[Any]  # (H, W, 3) uint8 BGR
Motion = Literal["still", "sine", "triangle", "stop_and_go"]

PERIODS = (1.0, 1.37, 1.64, 1.21)
"""Periods of x, y, zoom and rotation as multiples of `period`: different, so that a path does not repeat soon."""

MAT = 0.02
"""Width of the white edge around each picture as a share of its longer side; it hides the jagged rim of the warp."""

PAINTING, FORGOTTEN = 1.5, 0.9
"""A paced frame is started PAINTING times the longest recent painting time before it is due; with each frame, that time
counts only FORGOTTEN times as much. The slowest of a hundred takes 1.7 times the median (five portraits in 720p: 9.0
and 15.8 ms)."""

NOISE_ROOM = 64
"""The noise of each frame is cut from a random place in a field that is this many pixels larger than the frame."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth(Message):
    """Where the picture is in the frame of the same `seq`, one row per copy; no rows while the frame is blank."""

    transforms: NDArray[np.float32] = array(np.float32, "F", 2, 3)  # picture pixels to frame pixels


def wave(motion: Motion, phase: float) -> float:
    """Return the value (-1..1) of a wave of period 1 that is 0 and rising at `phase` 0.

    `triangle` moves at constant speed and turns abruptly; `stop_and_go` moves half of the time at twice that speed and
    rests at the ends.
    """
    if motion == "still":
        return 0.0
    if motion == "sine":
        return math.sin(2 * math.pi * phase)
    triangle = 1 - 4 * abs((phase + 0.25) % 1 - 0.5)
    return triangle if motion == "triangle" else max(-1.0, min(1.0, 2 * triangle))


def placement(centre: tuple[float, float], place: tuple[float, float], scale: float, degrees: float) -> Any:
    """Return the similarity (2, 3) float32 that turns and scales about `centre` and moves it to `place`.

    Positive angles turn clockwise in the image.
    """
    c = scale * math.cos(math.radians(degrees))
    s = scale * math.sin(math.radians(degrees))
    x = place[0] - c * centre[0] + s * centre[1]
    y = place[1] - s * centre[0] - c * centre[1]
    return np.array([[c, -s, x], [s, c, y]], np.float32)


def apply(transform: NDArray[np.float32], points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Map points (..., 2) by a (2, 3) transform."""
    return points @ transform[:, :2].T + transform[:, 2]


def grid(copies: int, width: int, height: int, aspect: float) -> tuple[int, int]:
    """Return columns and rows of the grid in which `copies` pictures of `aspect` (width / height) are largest."""

    def shown(columns: int) -> float:
        rows = math.ceil(copies / columns)
        return min(width / columns, height / rows * aspect)

    columns = max(range(1, copies + 1), key=shown)
    return columns, math.ceil(copies / columns)


class Canvas:
    """Paints one picture many times, at any place and size."""

    def __init__(self, picture: Image, width: int, height: int) -> None:
        self.height, self.width = picture.shape[:2]
        self.background = blurred(picture, width, height)
        self.levels = list(pyramid(picture))
        self.mat = MAT * max(self.width, self.height)

    def paint(self, image: Image, transforms: NDArray[np.float32]) -> None:
        """Fill `image` with the background and the picture at each of `transforms` (F, 2, 3)."""
        np.copyto(image, self.background)
        for transform in transforms:
            self._paint_one(image, transform)

    def _paint_one(self, image: Image, transform: NDArray[np.float32]) -> None:
        right, bottom, mat = self.width - 1 + self.mat, self.height - 1 + self.mat, -self.mat
        corners = np.array([(mat, mat), (right, mat), (right, bottom), (mat, bottom)], np.float32)
        quad = apply(transform, corners)
        cv2.fillConvexPoly(image, np.rint(quad * 16).astype(np.int32), (245, 245, 245), cv2.LINE_AA, shift=4)
        x0, y0 = np.maximum(0, np.floor(quad.min(axis=0))).astype(int)
        x1, y1 = np.ceil(quad.max(axis=0)).astype(int) + 1
        region = image[y0 : max(y0, y1), x0 : max(x0, x1)]
        if not region.size:
            return
        shrink = 1 / math.hypot(transform[0, 0], transform[1, 0])
        level = min(len(self.levels) - 1, max(0, math.floor(math.log2(shrink))))
        moved = transform.astype(np.float64)
        moved[:, 2] -= (x0, y0)
        # The levels have one pixel of white around them, so that the warp blends the picture's edge.
        moved = moved @ np.array([[2.0**level, 0, -(2.0**level)], [0, 2.0**level, -(2.0**level)], [0, 0, 1]])
        size = (region.shape[1], region.shape[0])
        cv2.warpAffine(self.levels[level], moved, size, dst=region, borderMode=cv2.BORDER_TRANSPARENT)


def pyramid(picture: Image) -> Iterator[Image]:
    """Yield the picture at full size, half size and so on down to 64 px, each with one pixel of white around it.

    Pixel i of a level is at pixel 2 i of the level above (cv2.pyrDown), so (0, 0) stays where it is.
    """
    while True:
        yield cv2.copyMakeBorder(picture, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(245, 245, 245))
        if min(picture.shape[:2]) < 128:
            return
        picture = cv2.pyrDown(picture)


def blurred(picture: Image, width: int, height: int) -> Image:
    """Return a background: the picture enlarged over the whole frame, dim and without any recognisable shape."""
    small = cv2.resize(picture, (16, 9), interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(small, (0, 0), 1.5) // 2 + 16
    return cv2.resize(soft, (width, height), interpolation=cv2.INTER_CUBIC)


def portrait() -> Path:
    """Return the path of matplotlib's portrait, without importing it, which would create folders and search fonts."""
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise ConfigError("TestSource.picture: the built-in one comes with matplotlib: pip install matplotlib")
    return Path(spec.origin).with_name("mpl-data") / "sample_data" / "grace_hopper.jpg"


def picture_at(path: str) -> Image:
    """Read a picture as BGR; an empty path is the public-domain portrait that comes with matplotlib (512 x 600).

    Raises ConfigError if there is no picture at `path`.
    """
    file = Path(expanduser(path)).absolute() if path else portrait()
    if not file.is_file():
        raise ConfigError(f"TestSource.picture: no file {file}; leave it empty for the built-in one")
    picture = read_picture(file)
    if picture is None:
        raise ConfigError(f"TestSource.picture: {file} is not a picture that OpenCV reads")
    return picture


class TestSource(Node):
    """Show a picture that pans, zooms, turns and jumps along a known path, or plain and noise frames for benchmarks.

    Equal settings give equal frames. In the first frame, the picture is upright in the middle of its cell.
    """

    __test__ = False  # pytest must not collect it; the name is usual (videotestsrc)

    frame = Output(Frame)
    truth = Output(Truth)

    pattern: Literal["picture", "noise", "plain"] = "picture"  # noise and plain cost at most one copy of the frame
    picture: str = ""  # picture file; empty: the public-domain portrait that comes with matplotlib
    width: int = setting(1280, minimum=16, maximum=7680)  # pixels
    height: int = setting(720, minimum=16, maximum=4320)  # pixels
    fps: float = setting(30.0, minimum=0.1, maximum=1000.0)  # frames per second
    frames: int = setting(0, minimum=0)  # end after this many; 0: never
    paced: bool = False  # in real time like a camera; otherwise as fast as possible
    copies: int = setting(1, minimum=1, maximum=20)  # pictures, each in its own grid cell, on its own path
    size: float = setting(0.9, minimum=0.05, maximum=4.0)  # share of the cell that a picture fills
    motion: Motion = "sine"  # none, smooth, at constant speed with sharp turns, or with rests
    period: float = setting(4.0, minimum=0.05)  # seconds of one swing to the right, left and back
    pan: float = setting(0.1, minimum=0.0, maximum=2.0)  # swing to each side, in cell heights
    zoom: float = setting(0.15, minimum=0.0, maximum=0.9)  # swing of the size; 0.15: 15 % larger and smaller
    rotation: float = setting(10.0, minimum=0.0, maximum=180.0)  # degrees, swing to each side
    cut_every: float = setting(0.0, minimum=0.0)  # seconds between jumps to another place and path; 0: none
    blank: float = setting(0.0, minimum=0.0)  # seconds without a picture before each jump
    noise: float = setting(0.0, minimum=0.0, maximum=64.0)  # standard deviation of sensor noise, grey levels
    seed: int = setting(0, minimum=0)  # random seed of paths and noise

    def live(self) -> bool:
        """Return whether frames come in real time."""
        return self.paced

    def open(self) -> None:
        """Read the picture and prepare background and noise."""
        self._random = np.random.default_rng(self.seed)
        if self.pattern == "picture":
            self._canvas = Canvas(picture_at(self.picture), self.width, self.height)
        shape = (self.height + NOISE_ROOM, self.width + NOISE_ROOM, 3)
        if self.pattern == "noise":
            self._field = self._random.integers(0, 256, (self.height + NOISE_ROOM, self.width, 3), np.uint8)
        if self.noise:
            grain = np.rint(self._random.normal(0, self.noise, shape)).astype(np.int16)
            self._brighter = np.maximum(grain, 0).astype(np.uint8)
            self._darker = np.maximum(-grain, 0).astype(np.uint8)

    def process(self) -> Iterator[dict[str, Message] | None]:
        """Yield frames with their truth."""
        pacer, lead, index = Pacer(fps=self.fps), 0.0, 0
        while not self.frames or index < self.frames:
            pts = index / self.fps
            if self.paced:  # paint just before the frame is due, as a camera does, and not while the graph works
                yield from waiting(pacer.left_s(pts - lead))
            begun = time.monotonic()
            transforms = self.transforms(pts)
            image = self.empty((self.height, self.width, 3))
            self._fill(image, index, transforms)
            lead = max(PAINTING * (time.monotonic() - begun), lead * FORGOTTEN)
            if self.paced:
                yield from waiting(pacer.left_s(pts))
            header = Header(pts=pts)
            yield {
                "frame": Frame(header=header, image=image),
                "truth": Truth(header=header, transforms=transforms),
            }
            index += 1

    def transforms(self, pts: float) -> NDArray[np.float32]:
        """Return where the copies of the picture are at `pts` seconds, (F, 2, 3) float32 as in Truth."""
        if self.pattern != "picture":
            return np.zeros((0, 2, 3), np.float32)
        shot, into_shot = divmod(pts + 1e-9, self.cut_every) if self.cut_every else (0, pts)
        if self.cut_every and into_shot >= self.cut_every - self.blank:
            return np.zeros((0, 2, 3), np.float32)
        return np.stack([self._transform(copy, int(shot), pts) for copy in range(self.copies)])

    def _transform(self, copy: int, shot: int, pts: float) -> NDArray[np.float32]:
        picture_width, picture_height = self._canvas.width, self._canvas.height
        columns, rows = grid(self.copies, self.width, self.height, picture_width / picture_height)
        cell_width, cell_height = self.width / columns, self.height / rows
        scale = self.size * min(cell_width / picture_width, cell_height / picture_height)
        phases, shift = np.zeros(4), np.zeros(2)
        if copy or shot:
            random = np.random.default_rng([self.seed, copy, shot])
            phases = random.random(4)
            shift = random.uniform(-0.5, 0.5, 2) if shot else shift
        waves = [wave(self.motion, pts / (self.period * p) + q) for p, q in zip(PERIODS, phases, strict=True)]
        swing = self.pan * cell_height
        # The centre of its cell, or, after a cut, anywhere in the cell where the picture fits.
        x = (copy % columns + 0.5) * cell_width + shift[0] * max(0, cell_width - scale * picture_width)
        y = (copy // columns + 0.5) * cell_height + shift[1] * max(0, cell_height - scale * picture_height)
        place = (float(x) - 0.5 + swing * waves[0], float(y) - 0.5 + swing * waves[1])
        centre = ((picture_width - 1) / 2, (picture_height - 1) / 2)
        transform: NDArray[np.float32] = placement(
            centre, place, scale * (1 + self.zoom * waves[2]), self.rotation * waves[3]
        )
        return transform

    def _fill(self, image: Image, index: int, transforms: NDArray[np.float32]) -> None:
        if self.pattern == "plain":
            image.fill(index % 256)
            return
        if self.pattern == "noise":
            row = index * 7 % NOISE_ROOM
            np.copyto(image, self._field[row : row + self.height])
            return
        self._canvas.paint(image, transforms)
        if self.noise:
            y, x = self._random.integers(0, NOISE_ROOM, 2)
            area = np.s_[y : y + self.height, x : x + self.width]
            cv2.add(image, self._brighter[area], dst=image)
            cv2.subtract(image, self._darker[area], dst=image)
