"""Labels next to faces: dim panels with text, placed so that they cover neither each other nor another face."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from nodes._draw import DARK, Color, Image

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels

LIGHT: Color = (245, 245, 245)
DIM: Color = (206, 206, 206)
GAP = 1 / 3
"""Distance between a face's box and its label, in line heights."""
FOREHEAD = 1 / 8
"""Share of the height of a face's box above its brows: a label that only has room on its face is not higher."""


class Label(NamedTuple):
    """The text next to a face."""

    lines: Sequence[str]
    beside: Box
    size: int  # height of a line, pixels
    color: Color
    side: int = 0  # where it was in the previous frame, see `places`


class Writer:
    """Writes text with OpenCV's built-in font (Rubik), anti-aliased."""

    def __init__(self) -> None:
        self._font = cv2.FontFace("sans")

    def width(self, text: str, size: int, weight: int) -> int:
        """Return the width of a line in pixels."""
        return int(cv2.getTextSize((0, 0), text, (0, 0), self._font, size, weight)[2])

    def label_all(self, image: Image, labels: Sequence[Label], kept_free: Sequence[Box]) -> list[int]:
        """Write the labels, shortened if there is no room, and return their sides.

        No label covers another one, or any of the boxes `kept_free` (faces and other panels) except its own face.
        First, each label gets room for its first word; then, in order, for all lines or at least the first line. A
        label without any room is skipped. A label stays on its side as long as there is room.
        """
        size = (image.shape[1], image.shape[0])
        placed: dict[int, tuple[list[str], int, Box]] = {}
        for versions in (slice(-1, None), slice(None)):
            for row, label in enumerate(labels):
                taken = [box for box in kept_free if box != label.beside]
                taken += [panel for other, (_, _, panel) in placed.items() if other != row]
                for lines in shortened(label.lines)[versions]:
                    room = self._room(size, lines, label, taken)
                    if room:
                        placed[row] = lines, *room
                        break
        for row, (lines, _, panel) in placed.items():
            self.panel(image, lines, panel, labels[row].size, labels[row].color)
        return [placed[row][1] if row in placed else label.side for row, label in enumerate(labels)]

    def _room(
        self, size: tuple[int, int], lines: Sequence[str], label: Label, taken: Sequence[Box]
    ) -> tuple[int, Box] | None:
        there = dict(places(label.beside, self.extent(lines, label.size), label.size * GAP, size))
        for side in sorted(there, key=lambda side: side != label.side):
            if not any(overlap(there[side], other) for other in taken):
                return side, there[side]
        return None

    def extent(self, lines: Sequence[str], size: int) -> tuple[int, int]:
        """Return width and height of the panel for these lines."""
        pad = _padding(size)
        wide = max(self.width(line, size, _weight(row)) for row, line in enumerate(lines)) + 3 * pad
        return wide, _step(size) * len(lines) + pad

    def panel(self, image: Image, lines: Sequence[str], at: Box, size: int, color: Color) -> None:
        """Write lines on a dim panel with a strip of `color` on its left; `size` is the height of a line in pixels."""
        x0, y0, x1, y1 = (round(value) for value in at)
        ground: NDArray[np.uint8] = image[y0:y1, x0:x1]
        pad = _padding(size)
        cv2.addWeighted(ground, 0.35, np.full_like(ground, DARK), 0.65, 0, dst=ground)
        ground[:, : max(2, pad // 2)] = color
        for row, line in enumerate(lines):
            baseline = y0 + (row + 1) * _step(size) - max(1, size // 8)
            shade = LIGHT if row == 0 else DIM
            cv2.putText(image, line, (x0 + round(1.5 * pad), baseline), shade, self._font, size, _weight(row))


def shortened(lines: Sequence[str]) -> list[list[str]]:
    """Return all lines, then the first line alone, then its first word."""
    versions = [list(lines), [lines[0]], [lines[0].split()[0]]]
    return [version for row, version in enumerate(versions) if version not in versions[:row]]


def places(face: Box, extent: tuple[int, int], gap: float, size: tuple[int, int]) -> Iterator[tuple[int, Box]]:
    """Yield side and box of each place for a label of `extent` in a picture of `size`: above, below, next to the face.

    Only places inside the picture count. The last one is on the face itself, moved into the picture, if the label
    fits on its FOREHEAD. There is none for a label larger than the picture.
    """
    (wide, high), (width, height) = extent, size
    if wide > width or high > height:
        return
    x0, y0, x1, y1 = face
    above, below = round(y0 - gap) - high, round(y1 + gap)
    left, right = round(x0), round(x1) - wide
    for side, (x, y) in enumerate(((left, above), (right, above), (left, below), (right, below))):
        inside = min(max(0, x), width - wide)  # a label may move sideways and still be next to its face
        if y >= 0 and y + high <= height:
            yield side, (inside, y, inside + wide, y + high)
    y = min(max(0, round(y0)), height - high)
    for side, x in enumerate((round(x1 + gap), round(x0 - gap) - wide), start=4):
        if x >= 0 and x + wide <= width:
            yield side, (x, y, x + wide, y + high)
    if high <= FOREHEAD * (y1 - y0):
        x, y = min(max(0, left), width - wide), min(max(0, above), height - high)
        yield 6, (x, y, x + wide, y + high)


def overlap(a: Box, b: Box) -> bool:
    """Return whether two boxes share any area."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def text_size(face: float, height: int) -> int:
    """Return the line height for a face of this size in a frame of this height, pixels, at least 10."""
    return max(10, round(min(height / 38, max(height / 72, face * 0.12))))


def _padding(size: int) -> int:
    return max(3, size // 3)


def _step(size: int) -> int:
    return round(size * 1.15)


def _weight(row: int) -> int:
    return 600 if row == 0 else 400
