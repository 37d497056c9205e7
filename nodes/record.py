"""What a graph saw, kept in files: frames as a video, faces as JSON lines or CSV. Both survive a killed run."""

import csv
import json
import logging
import math
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

import numpy as np

from graph import POSE, STATES, ConfigError, Faces, Frame, Input, Node, setting

if TYPE_CHECKING:
    from nodes._encoder import VideoWriter

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv")
DATA_SUFFIXES = (".jsonl", ".csv")

COLUMNS = (
    *("seq", "pts", "epoch", "id", "score", "left", "top", "right", "bottom"),
    *(*POSE, *STATES),
    *(f"{axis}{point}" for point in range(68) for axis in "xy"),
)
"""Of the CSV file. Digits kept: pts 6, score and states 4, pixels and degrees 2."""


class Record(Node):
    """Write frames to a video file (H.264), each shown at its own time; an existing file is overwritten.

    The file can be played up to its last half second while it grows and after the run was killed. Frames of
    another size than the first are fitted into it with black bars; an odd size gains a row or column.
    """

    frame = Input(Frame)

    path: str  # .mp4, .mov or .mkv; missing folders are made
    crf: int = setting(23, minimum=0, maximum=51)  # quality: lower is better and larger, 18 looks like the original
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium"] = "superfast"  # later: smaller
    codec: Literal["auto", "libx264", "mpeg4"] = "auto"  # auto: libx264, or mpeg4 where FFmpeg lacks it

    def open(self) -> None:
        """Create the file; raises ConfigError if it cannot be."""
        from nodes._encoder import encoder

        self._writer: VideoWriter | None = None
        self._told_size = False
        self._encoder = encoder(self.codec)
        self._file = create(self.path, VIDEO_SUFFIXES)

    def process(self, frame: Frame) -> None:
        """Append one frame; raises NodeError if it cannot be written."""
        from nodes._encoder import VideoWriter, even, fit

        size = even((frame.image.shape[1], frame.image.shape[0]))
        if self._writer is None:
            self._writer = VideoWriter(self._file, size, self._encoder, self.crf, self.preset)
        if size != self._writer.size and not self._told_size:
            self._told_size = True
            logger.warning("frames change from %d x %d to %d x %d: fitted with bars", *self._writer.size, *size)
        self._writer.write(fit(frame.image, self._writer.size), frame.pts)

    def close(self) -> None:
        """Finish the file; without a single frame there is none."""
        if "_file" not in self.__dict__:
            return
        if self._writer is not None:
            self._writer.close()
        else:
            self._file.unlink(missing_ok=True)
            logger.warning("no frame came: %s is not written", self._file)


class RecordFaces(Node):
    """Write faces to a file, one JSON line per frame (.jsonl) or one CSV row per face (.csv); overwrites it.

    Every frame is on disk before the next one is looked at. Pixels are those of the frame, counted from 0.
    """

    faces = Input(Faces)

    path: str  # .jsonl or .csv; missing folders are made

    def open(self) -> None:
        """Create the file; raises ConfigError if it cannot be."""
        path = create(self.path, DATA_SUFFIXES)
        self._file: TextIO = path.open("w", encoding="utf-8", newline="")
        self._write = self._write_rows if path.suffix.lower() == ".csv" else self._write_line
        if path.suffix.lower() == ".csv":
            self._csv = csv.writer(self._file)
            self._csv.writerow(COLUMNS)
            self._file.flush()

    def process(self, faces: Faces) -> None:
        """Append the faces of one frame."""
        self._write(faces)
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if "_file" in self.__dict__:
            self._file.close()

    def _write_line(self, faces: Faces) -> None:
        json.dump(as_json(faces), self._file, allow_nan=False, separators=(",", ":"))
        self._file.write("\n")

    def _write_rows(self, faces: Faces) -> None:
        self._csv.writerows(rows(faces))


def as_json(faces: Faces) -> dict[str, Any]:
    """Return the faces of one frame as JSON has them; a number that is not finite is null."""
    columns = zip(
        faces.ids.tolist(),
        rounded(faces.boxes, 2),
        rounded(faces.scores, 4),
        rounded(faces.landmarks, 2),
        rounded(faces.pose, 2),
        rounded(faces.states, 4),
        strict=True,
    )
    found = [
        {
            "id": id_,
            "box": box,
            "score": score,
            "landmarks": landmarks,
            "pose": dict(zip(POSE, pose, strict=True)),
            "states": dict(zip(STATES, states, strict=True)),
        }
        for id_, box, score, landmarks, pose, states in columns
    ]
    return {"seq": faces.seq, "pts": round(faces.pts, 6), "epoch": faces.epoch, "faces": found}


def rows(faces: Faces) -> Iterator[list[Any]]:
    """Yield one row of COLUMNS per face; a number that is not finite is left empty."""
    for face in as_json(faces)["faces"]:
        points = [value for point in face["landmarks"] for value in point]
        yield [
            *(faces.seq, round(faces.pts, 6), faces.epoch, face["id"], face["score"], *face["box"]),
            *(*face["pose"].values(), *face["states"].values(), *points),
        ]


def rounded(values: Any, digits: int) -> Any:
    """Return an array as nested lists of rounded floats, None for what is not finite."""
    if np.isfinite(values).all():
        return np.round(values.astype(np.float64), digits).tolist()
    return [rounded(value, digits) if value.ndim else finite(float(value), digits) for value in values]


def finite(value: float, digits: int) -> float | None:
    """Return the rounded value, or None for infinities and NaN."""
    return round(value, digits) if math.isfinite(value) else None


def create(path: str, suffixes: tuple[str, ...]) -> Path:
    """Make an empty file, and the folders on the way; an existing file is emptied.

    Raises ConfigError for another suffix than `suffixes`, and where nothing can be written.
    """
    file = Path(path).expanduser().absolute()
    if file.suffix.lower() not in suffixes:
        near = get_close_matches(file.suffix.lower(), suffixes, n=1)
        other = "Record" if suffixes is DATA_SUFFIXES else "RecordFaces"
        known = file.suffix.lower() in VIDEO_SUFFIXES + DATA_SUFFIXES
        hint = f"; nodes.record:{other} writes {file.suffix}" if known else f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"path {path!r} ends in {file.suffix!r}, expected {' or '.join(suffixes)}{hint}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("wb").close()
    except OSError as exc:
        raise ConfigError(f"cannot write {file}: {exc.strerror}") from exc
    return file
