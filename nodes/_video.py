"""Pictures from files: videos through PyAV, pictures through OpenCV, both straight into an array of the caller."""

import logging
import math
import os
import re
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NamedTuple

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideDataContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from graph import ConfigError, NodeError

logger = logging.getLogger(__name__)

PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
SET_BACK_S = 0.5  # stamps that go back by more are a clock that began anew; by less, B-frames without order
PIXELS_PER_THREAD = 1 << 20  # one thread decodes 720p H.264 at 300 fps; two take a sixth more CPU time for it
MOST_THREADS = min(4, os.cpu_count() or 1)  # 4 decode 4K H.264 in real time; more only hold more pictures
LARGEST = 1 << 28  # bytes of an array that a message may hold
DEFAULT_PERIOD = 1 / 30  # seconds between frames where the file does not say
UNTAGGED = 2  # H.273: a picture does not say by which matrix its colours were made
TURNS = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}

Allocate = Callable[[tuple[int, ...]], NDArray[Any]]


class Shot(NamedTuple):
    """One decoded picture."""

    pts: float  # seconds on the reader's time axis
    arrived_ns: int  # CLOCK_MONOTONIC
    picture: VideoFrame
    epoch: int = 0  # of the reader: a camera that was lost, and what a clip is joined to, come with the next
    clock: Literal["arrival", "camera"] = "arrival"  # what `arrived_ns` goes by
    pixel_aspect: float = 1.0  # width of a pixel over its height
    place: int = -1  # among the pictures of a folder, those that cannot be read and all passes counted; -1: the next


def fitted(size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """Return (width, height) to deliver for a picture of `size`: the largest of its shape that fits; 0 is free."""
    if not (width or height):
        return size
    scale = min((side / own for side, own in zip((width, height), size, strict=True) if side))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


class Converter:
    """Turns decoded pictures upright, scales them and writes them as BGR into an array of the caller.

    One pass of swscale and one copy: 0.9 ms for 1080p. `to_ndarray` costs the same and then needs the copy too.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self._scaler = VideoReformatter()

    def convert(self, picture: VideoFrame, allocate: Allocate, pixel_aspect: float = 1.0) -> NDArray[np.uint8]:
        """Return (H, W, 3) uint8 BGR in an array from `allocate`; its pixels are square.

        Raises NodeError if that is larger than can be sent.
        """
        turns = round(picture.rotation / 90) % 4  # counterclockwise quarters, from the display matrix (phones)
        size = (max(1, round(picture.width * pixel_aspect)), picture.height)
        width, height = fitted(size[::-1] if turns % 2 else size, self.width, self.height)
        if 3 * width * height > LARGEST:
            raise NodeError(f"{width} x {height} pixels are more than can be sent; a smaller width scales them down")
        scaled = (height, width) if turns % 2 else (width, height)
        method = "BILINEAR" if scaled == (picture.width, picture.height) else "BICUBIC"
        matrix = Colorspace.ITU709 if is_hd(picture) and picture.colorspace == UNTAGGED else None
        bgr = self._scaler.reformat(
            picture, *scaled, format="bgr24", src_colorspace=matrix, interpolation=method, threads=1
        )
        stored = pixels(bgr)[::-1] if is_flipped(picture) else pixels(bgr)
        image = allocate((height, width, 3))
        if turns:
            cv2.rotate(stored, TURNS[turns], dst=image)
        else:
            np.copyto(image, stored)
        return image


def is_hd(picture: VideoFrame) -> bool:
    """Return whether a picture is of high definition, whose colours players take for BT.709 unless it says otherwise.

    What decoders give has its parts in planes; the packed pixels of webcams are BT.601 at any size.
    """
    large = picture.height >= 720 or picture.width >= 1280
    return large and picture.format.is_planar


def is_flipped(picture: VideoFrame) -> bool:
    """Return whether the display matrix turns the picture upside down, as in a mirror, before it rotates it.

    So a selfie that is mirrored left to right is flipped, and rotated by half a turn.
    """
    try:
        # What picture.side_data gives the picture keeps, and is kept by: hundreds stayed until garbage was looked for.
        matrix: Any = SideDataContainer(picture).get("DISPLAYMATRIX")  # type: ignore[call-arg]  # its stub has none
    except ValueError:  # beside something that PyAV has no name for, as the EXIF of a JPEG
        return False
    a, b, _, c, d = struct.unpack_from("=5i", matrix) if matrix else (1, 0, 0, 0, 1)
    return bool(a * d < b * c)


def pixels(bgr: VideoFrame) -> NDArray[np.uint8]:
    """Return the (H, W, 3) view of a bgr24 picture; its rows may be padded."""
    plane = bgr.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)  # type: ignore[call-overload]
    view: NDArray[np.uint8] = rows[: bgr.height, : bgr.width * 3].reshape(bgr.height, bgr.width, 3)
    return view


class VideoFile:
    """Decodes a video file from its beginning, again on each call of `shots`, at most `fps` frames a second.

    Raises ConfigError from the constructor for what is not a video.
    """

    def __init__(self, path: Path, fps: float = 0.0) -> None:
        self.path = path
        self.fps = fps
        self.end = 0.0  # of the last pass, seconds
        self._joints = 0  # where stamps began anew, of all passes
        self._container: InputContainer | None = open_video(path)

    def shots(self) -> Iterator[Shot]:
        """Yield every frame that can be decoded; a file that is cut off ends early, with one warning.

        `pts` is the container's. Raises NodeError if no frame at all can be decoded.
        """
        self._container = self._container or open_video(self.path)
        stream = video_stream(self._container)
        stream.thread_type = "AUTO"
        threads = round(stream.width * stream.height / PIXELS_PER_THREAD)  # the other nodes need the cores too
        stream.codec_context.thread_count = max(1, min(MOST_THREADS, threads))
        report = _Report(stream)
        origin, taken, last = None, -1, -math.inf
        for frame in _frames(self._container, stream, report):
            pts = report.count(frame)
            if pts < last - SET_BACK_S:
                self._joints, origin = self._joints + 1, None
            if origin is None:
                origin, taken = pts, -1
            last = pts
            place = math.floor((pts - origin) * self.fps + 0.5) if self.fps else report.frames
            if place > taken:
                yield Shot(pts, time.monotonic_ns(), frame, self._joints, pixel_aspect=pixel_aspect(stream))
            taken = max(taken, place)
        self.end = report.end
        report.conclude(self.path)
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._container is not None:
            self._container.close()
            self._container = None


class _Report:
    """What came out of a video file, against what its header promised."""

    def __init__(self, stream: VideoStream) -> None:
        self.frames = 0
        self.damaged = 0
        self.end = 0.0  # seconds
        self._furthest = 0.0  # end, where stamps that begin anew have not set it back
        self._period = _period(stream)
        self._promised_frames = stream.frames
        self._promised_end = _promised_end(stream)
        self._without_pts = stream.container.format.name == "avi"  # what FFmpeg makes up for B-frames goes to and fro

    def count(self, frame: VideoFrame) -> float:
        """Return the frame's pts in seconds; one without follows its predecessor."""
        stamp = frame.dts if self._without_pts else frame.pts
        pts = self.end if stamp is None or frame.time_base is None else float(stamp * frame.time_base)
        length = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else self._period
        self.frames += 1
        self.damaged += frame.is_corrupt
        self.end = pts + length
        self._furthest = max(self._furthest, self.end)
        return pts

    def conclude(self, path: Path) -> None:
        if not self.frames:
            raise NodeError(f"{path} holds no picture that can be decoded ({self.damaged} damaged packets)")
        cut_off = self._promised_end is not None and self._promised_end - self._furthest > 1.5 * self._period
        if not cut_off and not self.damaged:
            return
        frames = f"{self.frames} of {self._promised_frames}" if self.frames < self._promised_frames else self.frames
        promised = f" of {self._promised_end:.2f} s: the file is cut off" if cut_off else ""
        damaged = f"; {self.damaged} damaged packets" if self.damaged else ""
        logger.warning("%s ends at %.2f s%s; %s frames delivered%s", path, self.end, promised, frames, damaged)


def _frames(container: InputContainer, stream: VideoStream, report: _Report) -> Iterator[VideoFrame]:
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            report.damaged += 1
            packet = None
        try:
            yield from stream.decode(packet)
        except av.EOFError:
            return
        except av.FFmpegError:
            report.damaged += 1
        if packet is None:
            return


def open_video(path: Path) -> InputContainer:
    """Open a video file; raises ConfigError that says what the file is instead."""
    if path.is_file() and path.stat().st_size == 0:
        raise ConfigError(f"{path} is empty (0 bytes)")
    try:
        container = av.open(str(path), mode="r")
    except av.FFmpegError as exc:
        raise ConfigError(f"{path} {_why_unreadable(path, exc)}") from exc
    try:
        video_stream(container)
    except ConfigError as exc:
        container.close()
        raise ConfigError(f"{path} {exc}") from None
    return container


def _why_unreadable(path: Path, exc: av.FFmpegError) -> str:
    if isinstance(exc, PermissionError):
        return "may not be read by this user (ls -l names whose it is)"
    if path.is_file() and _start(path)[4:8] == b"ftyp":  # a pipe would wait for another writer
        return "is cut off: its index (the moov box) is missing, as in a recording that was never finished"
    return f"is neither a video nor a picture that can be read ({exc.strerror})"


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(12)


def video_stream(container: InputContainer) -> VideoStream:
    """Return the main video stream; raises ConfigError (without the file's name) if there is none.

    Of several it is the one that the file says is meant, or else the largest, as of a list that offers some (HLS). A
    cover picture in a sound file is no video, nor is a tile of a picture (HEIC, of which PyAV does not say how they
    lie), and FFmpeg would draw any text file as a terminal ("tty").
    """
    if container.format.name == "tty":
        raise ConfigError("is a text file, not a video")
    others = Disposition.attached_pic | Disposition.dependent
    if streams := [stream for stream in container.streams.video if not stream.disposition & others]:
        return max(streams, key=_rank)
    if any(stream.disposition & Disposition.dependent for stream in container.streams.video):
        raise ConfigError("is a picture in tiles, as phones write HEIC: save it as JPEG or PNG")
    found = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
    raise ConfigError(f"has no video stream (streams: {found})")


def _rank(stream: VideoStream) -> tuple[bool, int]:
    return bool(stream.disposition & Disposition.default), stream.codec_context.width * stream.codec_context.height


def pixel_aspect(stream: VideoStream) -> float:
    """Return the width of a pixel over its height, 1 where the stream does not say: DVDs and DV have others."""
    return float(stream.sample_aspect_ratio or 1)


def _period(stream: VideoStream) -> float:
    rate = stream.average_rate or stream.guessed_rate
    return float(1 / rate) if rate else DEFAULT_PERIOD


def _promised_end(stream: VideoStream) -> float | None:
    """Return the end of the stream in seconds as the header has it, None where it has nothing that can be relied on."""
    if stream.container.format.name == "mpegts":  # guessed from the last stamp there
        return None
    if stream.duration and stream.time_base:
        return float((stream.duration + (stream.start_time or 0)) * stream.time_base)
    container = stream.container
    if isinstance(container, InputContainer) and container.duration and len(container.streams) == 1:
        return container.duration / av.time_base  # of Matroska, NUT and FLV, from 0 on and not from the first picture
    return None


class PictureFiles:
    """Reads pictures one after the other, EXIF orientation honoured, `fps` of them per second of pts."""

    def __init__(self, paths: Sequence[Path], fps: float) -> None:
        self.paths = paths
        self.period = 1 / fps if fps else DEFAULT_PERIOD
        self.end = len(paths) * self.period
        self._passed = 0  # pictures of the passes before

    def shots(self) -> Iterator[Shot]:
        """Yield every picture that can be read, and warn of each other one.

        Raises NodeError if there is none.
        """
        readable = 0
        for index, path in enumerate(self.paths):
            image = read_picture(path)
            if image is None:
                logger.warning("%s cannot be read as a picture: left out", path)
                continue
            readable += 1
            picture = VideoFrame.from_numpy_buffer(image, format="bgr24")
            yield Shot(index * self.period, time.monotonic_ns(), picture, place=self._passed + index)
        self._passed += len(self.paths)
        if not readable:
            raise NodeError(f"{self.paths[0]} cannot be read as a picture" + _others(len(self.paths) - 1))

    def close(self) -> None:
        """Nothing stays open between pictures."""


def _others(count: int) -> str:
    return f", nor can the {count} others" if count else ""


def read_picture(path: Path) -> NDArray[np.uint8] | None:
    """Return (H, W, 3) uint8 BGR, or None for what is not a picture."""
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError:
        return None
    try:
        image: Any = cv2.imdecode(data, cv2.IMREAD_COLOR)
        return _of_floats(cv2.imdecode(data, cv2.IMREAD_UNCHANGED)) if image is None else image
    except cv2.error:  # empty, or more pixels than it takes, by its header
        return None


def _of_floats(image: Any) -> NDArray[np.uint8] | None:
    """Return (H, W, 3) uint8 BGR of a TIFF of floats, which OpenCV reads only as they are; None for anything else.

    White is 1, or the largest value where that is more.
    """
    if image is None or image.dtype.kind != "f":
        return None
    levels = np.nan_to_num(image) * (255 / max(1.0, np.nanmax(image)))
    bgr = levels[..., :3] if levels.ndim == 3 else np.repeat(levels[..., None], 3, 2)
    return np.ascontiguousarray(bgr.clip(0, 255).round(), np.uint8)


def picture_paths(folder: Path) -> list[Path]:
    """Return the pictures in a folder in natural order; raises ConfigError if it holds none."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES and path.name[0] != "."]
    if not found:
        known = " ".join(sorted(PICTURE_SUFFIXES))
        raise ConfigError(f"folder {folder} holds no pictures ({known}){_holds(folder)}")
    return natural_order(found)


def natural_order(paths: list[Path]) -> list[Path]:
    """Sort so that shot2.png comes before shot10.png."""
    return sorted(paths, key=lambda path: _alternating(path.as_posix()))


def _alternating(text: str) -> list[str | int]:
    parts = re.split(r"(\d+)", text)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def missing(path: Path) -> ConfigError:
    """Return the error for a path that does not exist, with the names that come near."""
    if path.is_symlink():
        return ConfigError(f"no file {path}: it is a link to {path.readlink()}, which is not there")
    if not path.parent.is_dir():
        folder = next(parent for parent in path.parents if parent.is_dir())
        return ConfigError(f"no file {path}: there is no folder {path.parent}, only {folder}")
    near = get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=3)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else _holds(path.parent)
    return ConfigError(f"no file {path}{hint}")


def _holds(folder: Path) -> str:
    names = [path.name for path in natural_order([path for path in folder.iterdir() if path.name[0] != "."])]
    if not names:
        return "; the folder is empty"
    return f"; it holds {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
