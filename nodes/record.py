"""Write frames to a video file, and faces to JSON lines or CSV. All remain readable if the run is killed."""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from difflib import get_close_matches
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TextIO

import numpy as np

from graph import OPENNESS, POSE, STATES, ConfigError, Faces, Finding, Frame, Input, Node, NodeError, setting

if TYPE_CHECKING:
    from nodes._encoder import VideoWriter

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv")
DATA_SUFFIXES = (".jsonl", ".csv")

COLUMNS = (
    *("seq", "pts", "epoch", "id", "score", "left", "top", "right", "bottom"),
    *(*POSE, *STATES, *OPENNESS, "blinks"),
    *(f"{axis}{point}" for point in range(68) for axis in "xy"),
    *(f"spread{point}" for point in range(68)),
)
"""Columns of the CSV file. Decimals: pts 6; score, states and openness 4; pixels and degrees 2."""

REFITTED = "frames change from %d x %d to %d x %d: fitted with bars; RecordImages keeps sizes"

LONGEST_LINE = 1 << 20  # bytes; a face takes 2,000


class Record(Node):
    """Write frames to a video file (H.264), each shown at its own time; overwrites the file.

    While it grows, and if the run is killed, the file can be played up to its last half second. Frames of another size
    than the first are fitted into it with black bars; an odd size gains a row or column. When the node restarts
    during a run, it continues in a new file: clip-2.mp4 next to clip.mp4.
    """

    frame = Input(Frame)

    path: str  # .mp4, .mov or .mkv; missing folders are created
    crf: int = setting(23, minimum=0, maximum=51)  # lower: better quality, larger file; 18 looks like the original
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium"] = "superfast"  # slower: smaller
    codec: Literal["auto", "libx264", "mpeg4"] = "auto"  # auto: libx264, or mpeg4 if FFmpeg lacks it

    @classmethod
    def check(cls, node: Self | None) -> Iterator[Finding]:
        """Test H.264, and whether the file can be written."""
        from nodes._codecs import check_codecs

        yield from check_codecs(("H.264",))
        if node is not None:
            yield file_finding(node.path, VIDEO_SUFFIXES)

    def writes(self) -> list[Path]:
        """Return the file."""
        return [Path(self.path).expanduser()]

    def open(self) -> None:
        """Raise ConfigError if the file cannot be written."""
        from nodes._encoder import encoder

        self._writer: VideoWriter | None = None
        self._has_warned = False
        self._encoder = encoder(self.codec)
        self._file = writable(self.path, VIDEO_SUFFIXES)
        if self.restarted and self._file.exists():
            self._file = free_name(kept := self._file)
            logger.warning("%s is from before the restart and is kept; continuing in %s", kept, self._file)

    def process(self, frame: Frame) -> None:
        """Append one frame; raises NodeError if it cannot be written."""
        from nodes._encoder import LARGEST, VideoWriter, even, file_container, fit

        size = even((frame.image.shape[1], frame.image.shape[0]))
        if self._writer is None:
            if max(size) > (most := LARGEST[self._encoder]):
                raise NodeError(
                    f"{self._file}: pictures are {size[0]} x {size[1]}, but {self._encoder} only supports sides of up "
                    f"to {most}; set a smaller width and height on the Capture"
                )
            container = file_container(self._file)
            self._writer = VideoWriter(container, str(self._file), size, self._encoder, self.crf, self.preset)
        if size != self._writer.size and not self._has_warned:
            self._has_warned = True
            logger.warning(REFITTED, *self._writer.size, *size)
        self._writer.write(fit(frame.image, self._writer.size), frame.pts)

    def close(self) -> None:
        """Finish the file; if no frame came, there is none."""
        writer = self.__dict__.get("_writer")
        if writer is not None:
            writer.close()
        elif "_file" in self.__dict__:
            logger.warning("no frame came: %s is not written", self._file)


class RecordFaces(Node):
    """Write faces to a file, one JSON line per frame (.jsonl) or one CSV row per face (.csv); overwrites the file.

    Every frame is written before the next one is read. Coordinates are pixels of the frame, counted from 0. When the
    node restarts during a run, it appends to the file.
    """

    faces = Input(Faces)

    path: str  # .jsonl or .csv; missing folders are created

    @classmethod
    def check(cls, node: Self | None) -> Iterator[Finding]:
        """Test whether the file can be written."""
        if node is not None:
            yield file_finding(node.path, DATA_SUFFIXES)

    def writes(self) -> list[Path]:
        """Return the file."""
        return [Path(self.path).expanduser()]

    def open(self) -> None:
        """Raise ConfigError if the file cannot be written."""
        self._path = writable(self.path, DATA_SUFFIXES)
        self._is_table = self._path.suffix.lower() == ".csv"
        self._file: TextIO | None = None

    def process(self, faces: Faces) -> None:
        """Append the faces of one frame; raises NodeError if they cannot be written (disk full)."""
        text = csv_rows(faces) if self._is_table else json_line(faces)
        try:
            if self._file is None:
                self._file = self._open_file()
            self._file.write(text)
            self._file.flush()
        except OSError as exc:
            raise NodeError(f"{self._path}: {exc.strerror}") from exc

    def _open_file(self) -> TextIO:
        """Open the file, after a restart to append to it."""
        if self.restarted and self._path.exists():
            _drop_partial_line(self._path)
        file = self._path.open("a" if self.restarted else "w", encoding="utf-8", newline="\n")
        file.write(",".join(COLUMNS) + "\n" if self._is_table and not file.tell() else "")
        return file

    def close(self) -> None:
        """Close the file; if no frame came, there is none."""
        file = self.__dict__.get("_file")
        if file is not None:
            with suppress(OSError):  # process() has already raised this error
                file.close()
        elif "_path" in self.__dict__:
            logger.warning("no frame came: %s is not written", self._path)


def _drop_partial_line(path: Path) -> None:
    """Cut off what a killed process wrote after its last complete line."""
    with path.open("r+b") as file:
        start = max(0, file.seek(0, os.SEEK_END) - LONGEST_LINE)
        file.seek(start)
        file.truncate(start + file.read().rfind(b"\n") + 1)


def json_line(faces: Faces) -> str:
    """Return the faces of one frame as a line of JSON; numbers that are not finite are null."""
    return json.dumps(as_json(faces), allow_nan=False, separators=(",", ":")) + "\n"


def csv_rows(faces: Faces) -> str:
    """Return the faces of one frame as lines of CSV, one per face; numbers that are not finite are empty."""
    return "".join(",".join("" if value is None else str(value) for value in row) + "\n" for row in rows(faces))


def as_json(faces: Faces) -> dict[str, Any]:
    """Return the faces of one frame as dictionaries and lists of rounded numbers; None for one that is not finite."""
    columns = {
        "id": faces.ids.tolist(),
        "box": rounded(faces.boxes, 2),
        "score": rounded(faces.scores, 4),
        "landmarks": rounded(faces.landmarks, 2),
        "spread": rounded(faces.spread, 2),
        "pose": _named(POSE, rounded(faces.pose, 2)),
        "states": _named(STATES, rounded(faces.states, 4)),
        "openness": _named(OPENNESS, rounded(faces.openness, 4)),
        "blinks": faces.blinks.tolist(),
    }
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return {"seq": faces.seq, "pts": round(faces.pts, 6), "epoch": faces.epoch, "faces": rows}


def _named(names: Sequence[str], rows: list[list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(names, row, strict=True)) for row in rows]


def rows(faces: Faces) -> Iterator[list[Any]]:
    """Yield the values of COLUMNS for each face."""
    for face in as_json(faces)["faces"]:
        points = [value for point in face["landmarks"] for value in point]
        yield [
            *(faces.seq, round(faces.pts, 6), faces.epoch, face["id"], face["score"], *face["box"]),
            *(*face["pose"].values(), *face["states"].values(), *face["openness"].values(), face["blinks"], *points),
            *face["spread"],
        ]


def rounded(values: Any, digits: int) -> Any:
    """Return an array as nested lists of rounded floats; None for a number that is not finite."""
    if np.isfinite(values).all():
        return np.round(values.astype(np.float64), digits).tolist()
    return [rounded(value, digits) for value in values] if values.ndim else None


def writable(path: str, suffixes: tuple[str, ...]) -> Path:
    """Return the absolute path of a file that can be written, and create missing folders.

    An existing file keeps its content until the first frame. Raises ConfigError for a suffix that is not one of
    `suffixes`, and if the file cannot be written.
    """
    file = Path(path).expanduser().absolute()
    _check_suffix(file, suffixes)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        existed = file.exists()
        file.open("ab").close()
        if not existed:
            file.unlink()
    except (FileExistsError, NotADirectoryError) as exc:
        in_the_way = next(path for path in file.parents if os.path.lexists(path))
        raise ConfigError(f"cannot write {file}: {in_the_way} is not a folder") from exc
    except OSError as exc:
        raise ConfigError(f"cannot write {file}: {exc.strerror}") from exc
    return file


def free_name(file: Path) -> Path:
    """Return clip-2.mp4 for clip.mp4, or the first higher number that does not exist."""
    return next(path for n in count(2) if not (path := file.with_stem(f"{file.stem}-{n}")).exists())


def file_finding(path: str, suffixes: tuple[str, ...]) -> Finding:
    """Return whether a file can be written, for `doctor`."""
    try:
        file = writable(path, suffixes)
    except ConfigError as exc:
        return Finding("file", "problem", str(exc), "set another path, or get permission to write there")
    return Finding("file", "ok", f"{file} can be written" + (" and will be overwritten" if file.exists() else ""))


def _check_suffix(file: Path, suffixes: tuple[str, ...]) -> None:
    suffix = file.suffix.lower()
    if suffix in suffixes:
        return
    near = get_close_matches(suffix, suffixes, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    if suffix in VIDEO_SUFFIXES + DATA_SUFFIXES:
        hint = f"; nodes.record:{'Record' if suffix in VIDEO_SUFFIXES else 'RecordFaces'} writes {suffix}"
    raise ConfigError(f"{file.name!r} ends in {suffix!r}, expected {' or '.join(suffixes)}{hint}")
