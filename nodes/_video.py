"""Decode video files and picture files, and convert the pictures to upright BGR."""

import logging
import math
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
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
from nodes._picture_files import read_picture

logger = logging.getLogger(__name__)

RESTART_S = 0.5  # timestamps that go back by more have started anew; by less, they are B-frames out of order
PIXELS_PER_THREAD = 1 << 20  # one thread decodes 720p H.264 at 300 fps; two need a sixth more CPU time for it
MAX_THREADS = min(4, os.cpu_count() or 1)  # 4 decode 4K H.264 in real time; more only buffer more pictures
LARGEST = 1 << 28  # bytes, maximum size of an array in a message
DEFAULT_PERIOD = 1 / 30  # seconds between frames if the file does not say
UNTAGGED = 2  # H.273: the picture does not say which matrix its colours use
TURNS = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}

Allocate = Callable[[tuple[int, ...]], NDArray[Any]]


class Shot(NamedTuple):
    """One decoded picture."""

    pts: float  # seconds on the reader's time axis
    arrived_ns: int  # CLOCK_MONOTONIC
    picture: VideoFrame
    epoch: int = 0  # of the reader; grows when a camera reconnects or the timestamps of a file start anew
    clock: Literal["arrival", "camera"] = "arrival"  # which clock `arrived_ns` comes from
    pixel_aspect: float = 1.0  # width of a pixel over its height
    place: int = -1  # number among the pictures of a folder, unreadable ones and earlier passes included; -1: the next


def fitted(size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """Return the largest (width, height) with the shape of `size` that fits into width x height; 0: no limit."""
    if not (width or height):
        return size
    scale = min((side / own for side, own in zip((width, height), size, strict=True) if side))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


class Converter:
    """Turns decoded pictures upright, scales them and writes them as BGR into an array of the caller.

    This takes one pass of swscale and one copy: 0.9 ms for 1080p. `to_ndarray` costs the same without the copy.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self._scaler = VideoReformatter()

    def convert(self, picture: VideoFrame, allocate: Allocate, pixel_aspect: float = 1.0) -> NDArray[np.uint8]:
        """Return the picture with square pixels as (H, W, 3) uint8 BGR, in an array from `allocate`.

        Raises NodeError if it is too large for a message.
        """
        turns = round(picture.rotation / 90) % 4  # counterclockwise quarter turns, from the display matrix (phones)
        size = (max(1, round(picture.width * pixel_aspect)), picture.height)
        width, height = fitted(size[::-1] if turns % 2 else size, self.width, self.height)
        if 3 * width * height > LARGEST:
            raise NodeError(f"{width} x {height} pixels are too many for a message; set a smaller width")
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
    """Return whether a picture is high definition: players assume BT.709 for its colours unless it says otherwise.

    Decoded pictures are planar; the packed pixels of webcams are BT.601 at any size.
    """
    large = picture.height >= 720 or picture.width >= 1280
    return large and picture.format.is_planar


def is_flipped(picture: VideoFrame) -> bool:
    """Return whether the display matrix mirrors the picture vertically before it rotates it.

    A selfie that is mirrored left to right is flipped and then rotated by 180 degrees.
    """
    try:
        # picture.side_data and the picture refer to each other: hundreds stayed in memory until garbage collection.
        matrix: Any = SideDataContainer(picture).get("DISPLAYMATRIX")  # type: ignore[call-arg]  # missing in its stub
    except ValueError:  # PyAV has no name for other side data, such as the EXIF of a JPEG
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
    """Decodes a video file from the start on each call of `shots`, at most `fps` frames per second (0: all).

    The constructor raises ConfigError if the file is not a video.
    """

    def __init__(self, path: Path, fps: float = 0.0) -> None:
        self.path = path
        self.fps = fps
        self.end = 0.0  # of the last pass, seconds
        self._restarts = 0  # how often timestamps have started anew, in all passes
        self._container: InputContainer | None = open_video(path)

    def shots(self) -> Iterator[Shot]:
        """Yield every frame that can be decoded; a truncated file ends early, with one warning.

        `pts` comes from the container. Raises NodeError if no frame can be decoded.
        """
        self._container = self._container or open_video(self.path)
        stream = video_stream(self._container)
        stream.thread_type = "AUTO"
        threads = round(stream.width * stream.height / PIXELS_PER_THREAD)  # the other nodes need the cores too
        stream.codec_context.thread_count = max(1, min(MAX_THREADS, threads))
        report = _Report(stream)
        origin, taken, last = None, -1, -math.inf
        for frame in _frames(self._container, stream, report):
            pts = report.count(frame)
            if pts < last - RESTART_S:
                self._restarts, origin = self._restarts + 1, None
            if origin is None:
                origin, taken = pts, -1
            last = pts
            place = math.floor((pts - origin) * self.fps + 0.5) if self.fps else report.frames
            if place > taken:
                yield Shot(pts, time.monotonic_ns(), frame, self._restarts, pixel_aspect=pixel_aspect(stream))
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
    """Compares the decoded frames of a video file with what its header promises."""

    def __init__(self, stream: VideoStream) -> None:
        self.frames = 0
        self.damaged = 0
        self.end = 0.0  # seconds
        self._furthest = 0.0  # largest `end`, which timestamps that start anew do not reduce
        self._period = _period(stream)
        self._promised_frames = stream.frames
        self._promised_end = _promised_end(stream)
        self._without_pts = stream.container.format.name == "avi"  # FFmpeg's guesses for B-frames go back and forth

    def count(self, frame: VideoFrame) -> float:
        """Return the frame's pts in seconds; a frame without one follows its predecessor."""
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
            raise NodeError(f"{path}: no frame can be decoded ({self.damaged} damaged packets)")
        cut_off = self._promised_end is not None and self._promised_end - self._furthest > 1.5 * self._period
        if not cut_off and not self.damaged:
            return
        frames = f"{self.frames} of {self._promised_frames}" if self.frames < self._promised_frames else self.frames
        promised = f" of {self._promised_end:.2f} s: the file is truncated" if cut_off else ""
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
    """Open a video file. Raises ConfigError that says what the file is instead."""
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
        return "cannot be read by this user (ls -l shows its owner)"
    if path.is_file():  # a pipe would wait for another writer
        with path.open("rb") as file:
            if file.read(8)[4:] == b"ftyp":
                return "is truncated: its index (the moov box) is missing, as in an unfinished recording"
    return f"is neither a readable video nor a picture ({exc.strerror})"


def video_stream(container: InputContainer) -> VideoStream:
    """Return the main video stream. Raises ConfigError (without the file's name) if there is none.

    Of several, it is the default one, or else the largest (as in an HLS playlist with several sizes). Not videos are:
    the cover picture of an audio file, a tile of a HEIC picture (PyAV does not say how they are arranged), and text
    files, which FFmpeg would draw as a terminal ("tty").
    """
    if container.format.name == "tty":
        raise ConfigError("is a text file, not a video")
    others = Disposition.attached_pic | Disposition.dependent
    if streams := [stream for stream in container.streams.video if not stream.disposition & others]:
        return max(streams, key=_rank)
    if any(stream.disposition & Disposition.dependent for stream in container.streams.video):
        raise ConfigError("is a tiled picture (HEIC, as phones write it): save it as JPEG or PNG")
    found = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
    raise ConfigError(f"has no video stream (streams: {found})")


def _rank(stream: VideoStream) -> tuple[bool, int]:
    return bool(stream.disposition & Disposition.default), stream.codec_context.width * stream.codec_context.height


def pixel_aspect(stream: VideoStream) -> float:
    """Return the width of a pixel over its height (DVD and DV: not 1); 1 if the stream does not say."""
    return float(stream.sample_aspect_ratio or 1)


def _period(stream: VideoStream) -> float:
    rate = stream.average_rate or stream.guessed_rate
    return float(1 / rate) if rate else DEFAULT_PERIOD


def _promised_end(stream: VideoStream) -> float | None:
    """Return the end of the stream in seconds according to the header; None if that is not reliable."""
    if stream.container.format.name == "mpegts":  # guessed from the last timestamp
        return None
    if stream.duration and stream.time_base:
        return float((stream.duration + (stream.start_time or 0)) * stream.time_base)
    container = stream.container
    if isinstance(container, InputContainer) and container.duration and len(container.streams) == 1:
        return container.duration / av.time_base  # Matroska, NUT and FLV count from 0, not from the first picture
    return None


class PictureFiles:
    """Reads picture files in order, turned as their EXIF says, with `fps` of them per second of pts."""

    def __init__(self, paths: Sequence[Path], fps: float) -> None:
        self.paths = paths
        self.period = 1 / fps if fps else DEFAULT_PERIOD
        self.end = len(paths) * self.period
        self._passed = 0  # pictures of earlier passes

    def shots(self) -> Iterator[Shot]:
        """Yield every readable picture; log a warning for each other one. Raises NodeError if none can be read."""
        readable = 0
        for index, path in enumerate(self.paths):
            image = read_picture(path)
            if image is None:
                logger.warning("%s cannot be read as a picture: skipped", path)
                continue
            readable += 1
            picture = VideoFrame.from_numpy_buffer(image, format="bgr24")
            yield Shot(index * self.period, time.monotonic_ns(), picture, place=self._passed + index)
        self._passed += len(self.paths)
        if not readable:
            others = f", nor can the {len(self.paths) - 1} others" if len(self.paths) > 1 else ""
            raise NodeError(f"{self.paths[0]} cannot be read as a picture{others}")

    def close(self) -> None:
        """Do nothing: no file stays open between pictures."""
