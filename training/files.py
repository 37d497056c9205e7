"""Reading the files of data sets, and writing files completely or not at all."""

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger("training")

UNFINISHED = ".unfinished-"
"""Prefix of the names of folders whose files are not all written yet."""


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield each folder from `root` down with the names of its folders and files; clear the former to not descend.

    Links to folders are followed, but no folder is visited twice, because links may form a circle. A folder that cannot
    be read is left out with a warning.
    """
    seen = set()
    for folder, folders, files in os.walk(root, onerror=_warn, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield Path(folder), folders, files


def _warn(exc: OSError) -> None:
    logger.warning("%s: left out: %s", exc.filename, exc.strerror)


def below(root: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the files below `root`, sorted, that end in one of the suffixes, in lower or upper case."""
    found = (folder / name for folder, _, files in walk(root) for name in files if name.lower().endswith(suffixes))
    return sorted(path for path in found if path.is_file())  # not a broken link


def by_name(files: list[Path], root: Path, faults: list[str]) -> dict[Path, Path]:
    """Return files by their paths from `root` without suffix; a second file of the same name is a fault."""
    found: dict[Path, Path] = {}
    for path in files:
        first = found.setdefault(path.relative_to(root).with_suffix(""), path)
        if first != path:
            faults.append(f"{path}: left out, {first.name} beside it has the same name")
    return found


def read_text(path: Path) -> str:
    """Return the text of a label file, without the byte order mark that editors on Windows put first."""
    return path.read_text("utf-8-sig", errors="replace")


def numbered_rows(path: Path) -> list[tuple[int, str]]:
    """Return the lines of a label file that are not blank, with their numbers, from 1."""
    return [(number, row) for number, row in enumerate(read_text(path).splitlines(), 1) if row.strip()]


def read_image(path: Path) -> NDArray[np.uint8] | None:
    """Return a picture (H, W, 3) BGR, or None if it cannot be read.

    OpenCV gets the bytes: a file name that is not UTF-8, as in old archives, ends the process in `cv2.imread`.
    """
    try:
        content = np.fromfile(path, np.uint8)
        return cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None  # type: ignore[return-value]
    except (OSError, cv2.error):  # OpenCV raises for headers, often damaged ones, of more than 2 ** 30 pixels
        return None


def ending(path: Path, suffix: str) -> Path:
    """Return a path with a suffix appended to its name, which may have dots of its own: `v1.2` becomes `v1.2.onnx`."""
    return path.with_name(path.name + suffix)


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Add the path to an OSError that names no file, such as that of a full disk."""
    try:
        yield
    except OSError as exc:
        if exc.errno and not exc.filename:
            exc.filename = str(path)
        raise


@contextlib.contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears under its name when it is complete, and not at all if writing fails.

    If several processes write the file at once, the last one wins. Remains of killed processes are removed.
    """
    clear(path.parent, f"{path.name}.", ".part")
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with named(path), part.open("wb") as file, locked(part):
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def together(folder: Path) -> Iterator[Path]:
    """Yield a folder for files that appear in `folder` together when the block ends, and not at all if it fails.

    Remains of killed processes are removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clear(folder, UNFINISHED, "")
    with named(folder), tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=folder) as inner, locked(Path(inner)):
        yield Path(inner)
        for file in Path(inner).iterdir():
            file.replace(folder / file.name)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Lock a file or a folder until the block or the process ends; yield whether that was possible.

    It is not if another process has locked it, or on a file system without locks.
    """
    place = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        possible = True
    except OSError:
        possible = False
    try:
        yield possible
    finally:
        os.close(place)


def clear(folder: Path, before: str, after: str) -> None:
    """Remove the files and folders whose names begin and end so, unless a living process has locked them."""
    for left in folder.iterdir() if folder.is_dir() else ():
        if left.name.startswith(before) and left.name.endswith(after):
            with contextlib.suppress(OSError), locked(left) as abandoned:  # another process may have removed it
                if abandoned:
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
