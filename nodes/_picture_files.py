"""Picture files: which there are, in which order, and their pixels."""

import re
from difflib import get_close_matches
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from graph import ConfigError

PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def read_picture(path: Path) -> NDArray[np.uint8] | None:
    """Return the picture as (H, W, 3) uint8 BGR, or None if the file cannot be read as one."""
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        return cv2.imdecode(data, cv2.IMREAD_COLOR)  # type: ignore[return-value]
    except (OSError, cv2.error):  # cv2: an empty file, or a header with more pixels than OpenCV accepts
        return None


def picture_paths(folder: Path) -> list[Path]:
    """Return the pictures in a folder in natural order; raises ConfigError if there are none."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES and path.name[0] != "."]
    if not found:
        known = " ".join(sorted(PICTURE_SUFFIXES))
        raise ConfigError(f"folder {folder} contains no pictures ({known}){_content(folder)}")
    return natural_order(found)


def natural_order(paths: list[Path]) -> list[Path]:
    """Sort so that shot2.png comes before shot10.png."""
    return sorted(paths, key=_natural_key)


def _natural_key(path: Path) -> list[str | int]:
    parts = re.split(r"(\d+)", path.as_posix())  # text and numbers in turn
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def missing(path: Path) -> ConfigError:
    """Return the error for a path that does not exist; it suggests similar names."""
    if path.is_symlink():
        return ConfigError(f"no file {path}: it is a link to {path.readlink()}, which does not exist")
    if not path.parent.is_dir():
        folder = next(parent for parent in path.parents if parent.is_dir())
        return ConfigError(f"no file {path}: there is no folder {path.parent}, only {folder}")
    near = get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=3)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else _content(path.parent)
    return ConfigError(f"no file {path}{hint}")


def _content(folder: Path) -> str:
    names = [path.name for path in natural_order([path for path in folder.iterdir() if path.name[0] != "."])]
    if not names:
        return "; the folder is empty"
    return f"; it contains {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
