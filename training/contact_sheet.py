"""Sheets of small pictures with their labels drawn on them, to check data before training on it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from nodes._geometry import Floats, Image
from training.files import whole
from training.landmark_data import shrunk
from training.settings import SettingsError

TILE = 140
BAR = 22


def with_points(image: Image, points: Floats, side: int = TILE) -> Image:
    """Return a square picture resized to a tile, with its points (N, 2) as green dots."""
    tile: Any = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    draw_points(tile, (np.asarray(points) + 0.5) * side / image.shape[0] - 0.5)
    return tile


def with_boxes(image: Image, boxes: Floats, ignored: Sequence[bool], points: Floats | None, side: int = TILE) -> Image:
    """Return a picture fitted into a tile, with boxes (F, 4) yellow, ignored ones grey, and points (F, 5, 2) green."""
    small, scale = shrunk(image, side / max(image.shape[:2]))
    tile = np.full((side, side, 3), 40, np.uint8)
    tile[: small.shape[0], : small.shape[1]] = small
    for box, unused in zip((np.asarray(boxes) + 0.5) * np.tile(scale, 2) - 0.5, ignored, strict=True):
        x0, y0, x1, y1 = box.round().astype(int).tolist()
        cv2.rectangle(tile, (x0, y0), (x1, y1), (128, 128, 128) if unused else (0, 255, 255), 1)
    if points is not None:
        draw_points(tile, (points[np.isfinite(points).all(2)] + 0.5) * scale - 0.5)
    return tile


def draw_points(image: Image, points: Floats, colour: tuple[int, int, int] = (0, 255, 0)) -> None:
    """Draw dots on the image at points (N, 2)."""
    for x, y in points.tolist():
        cv2.circle(image, (round(x * 8), round(y * 8)), 8, colour, -1, cv2.LINE_AA, 3)


def save_picture(path: Path, image: Image) -> None:
    """Write a picture in the format of its suffix. Raises SettingsError if it cannot be written.

    OpenCV does not get the name: one that is not UTF-8 ends the process in `cv2.imwrite`.
    """
    try:
        content = cv2.imencode(path.suffix, image)[1].tobytes()
        with whole(path) as file:
            file.write(content)
    except cv2.error as exc:  # no format has this suffix
        raise SettingsError(f"{path}: cannot be written: {exc.err}") from exc
    except OSError as exc:
        raise SettingsError(f"{path}: cannot be written: {exc.strerror}") from exc


def sheet(rows: list[tuple[str, list[Image]]], columns: int = 10) -> Image:
    """Arrange tiles in rows below their titles; a row without tiles consists of its title."""
    width = columns * TILE
    parts = []
    for title, tiles in rows:
        bar = np.full((BAR, width, 3), 255, np.uint8)
        cv2.putText(bar, ascii(title)[1:-1], (4, BAR - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        parts += [bar, grid(tiles, columns)] if tiles else [bar]
    return np.vstack(parts)


def grid(tiles: list[Image], columns: int) -> Image:
    """Arrange tiles of one size in rows; the rest of the last row is black."""
    tiles = tiles + [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)])
