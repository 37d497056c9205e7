"""Encode frames to a video file or stream with PyAV, each at its own time. A file is readable while it grows."""

import os
import re
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import cv2
import numpy as np
from av.container import OutputContainer
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from graph import ConfigError, NodeError
from nodes._codecs import has_codec

Image = NDArray[np.uint8]  # (H, W, 3) BGR

TICKS = 60_000
"""Time base, ticks per second: milliseconds and all usual rates (29.97 too) are whole numbers of ticks, and MPEG-4
part 2 allows up to 65,535."""

LONGEST_GAP = 2**31 - 1
"""Ticks (about ten hours): MP4 stores the duration of a frame in 32 bits, and is corrupt beyond."""

FRAGMENT_S = 0.5
"""Seconds per fragment. Each is readable without the following ones, so a killed run loses one at most."""

KEYFRAME_INTERVAL = 60  # frames; a player that seeks decodes this many at most
THREADS = min(4, os.cpu_count() or 1)  # each encodes a slice of the picture, and slices cost bits
SMPTE170M = 6  # H.273: the matrix of BT.601, which cv2.COLOR_BGR2YUV_I420 uses
LIMITED_RANGE = 1  # AVCOL_RANGE_MPEG: black is 16, white 235

STREAM_FORMATS = {"rtsp": "rtsp", "rtmp": "flv", "rtmps": "flv", "udp": "mpegts", "tcp": "mpegts", "srt": "mpegts"}
"""The container format for H.264 by the scheme of the address."""

Codec = Literal["libx264", "mpeg4"]
ENCODERS: tuple[Codec, ...] = ("libx264", "mpeg4")  # the better one first
LARGEST = {"libx264": 16384, "mpeg4": 8191}  # pixels per side; beyond, FFmpeg fails without a reason


def encoder(name: str) -> Codec:
    """Return the encoder to use; "auto" is the first of ENCODERS that this FFmpeg has.

    Raises ConfigError if FFmpeg does not have it.
    """
    available = [codec for codec in ENCODERS if has_codec(codec, "w")]
    for codec in available:
        if name in ("auto", codec):
            return codec
    others = ", ".join(available) or "others"
    raise ConfigError(f"this FFmpeg (PyAV {av.__version__}) has no encoder {name}, only {others}")


class Timeline:
    """Converts the seconds of a stream to ticks of a file, which start at 0 and always grow; gaps are kept."""

    def __init__(self) -> None:
        self._origin: float | None = None  # pts of tick 0
        self._last = 0
        self.step = TICKS // 30  # between the last two frames

    def tick(self, pts: float) -> int:
        """Return the time of a frame in the file.

        A frame that is earlier than its predecessor (a loop), or too much later, follows it after the last interval.
        """
        if self._origin is None:
            self._origin = pts
            return 0
        tick = round((pts - self._origin) * TICKS)
        if not 0 < tick - self._last <= LONGEST_GAP:
            tick = self._last + self.step
            self._origin = pts - tick / TICKS
        self.step = min(tick - self._last, TICKS)
        self._last = tick
        return tick


class VideoWriter:
    """Writes pictures of one size, whose width and height are even.

    cv2 converts to YUV 4:2:0 in a fifth of swscale's time (0.5 instead of 2.3 ms at 720 x 1280). The encoder works
    without delay (`zerolatency`), otherwise the last frames before a kill would still be in it.
    """

    def __init__(
        self, container: OutputContainer, name: str, size: tuple[int, int], codec: Codec, crf: int, preset: str
    ) -> None:
        """Take over a container opened by `file_container` or `stream_container`; errors call it `name`."""
        self.name = name
        self.size = size
        self._timeline = Timeline()
        self._container = container
        self._stream = self._container.add_stream(codec, rate=30, options=_encoder_options(codec, crf, preset))
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.time_base = Fraction(1, TICKS)
        context.gop_size = KEYFRAME_INTERVAL
        context.thread_count = THREADS
        context.colorspace = SMPTE170M
        context.color_range = LIMITED_RANGE
        if codec == "mpeg4":
            context.qmin = context.qmax = mpeg4_quantiser(crf)

    def write(self, image: Image, pts: float) -> None:
        """Append (H, W, 3) uint8 BGR; raises NodeError if it cannot be written (disk full)."""
        planes: NDArray[np.uint8] = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420)  # type: ignore[assignment]
        picture = VideoFrame.from_ndarray(planes, format="yuv420p")  # from_numpy_buffer takes height 242 to be 240
        picture.pts = self._timeline.tick(pts)
        picture.time_base = Fraction(1, TICKS)
        self._mux(picture)

    def close(self) -> None:
        """Write the rest and the index; raises NodeError if that fails."""
        try:
            self._mux(None)
        finally:
            try:
                self._container.close()
            except av.FFmpegError as exc:
                raise NodeError(f"{self.name}: {exc.strerror}") from exc

    def _mux(self, picture: VideoFrame | None) -> None:
        try:
            packets = self._stream.encode(picture)
            for packet in packets:
                packet.duration = packet.duration or self._timeline.step  # otherwise the last frame has none
            self._container.mux(packets)
        except av.FFmpegError as exc:
            raise NodeError(f"{self.name}: {exc.strerror}") from exc


def file_container(path: Path) -> OutputContainer:
    """Open a video file for writing."""
    return av.open(f"file:{path}", mode="w", options=_muxer_options(path))


def stream_container(uri: str, transport: str, patience_s: float) -> OutputContainer:
    """Open an address to send to: RTSP, RTMP (as FLV), or UDP, TCP or SRT (as MPEG transport stream)."""
    scheme = uri.partition("://")[0]
    patience_us = str(round(patience_s * 1e6))
    options = {"rtsp_transport": transport, "timeout": patience_us} if scheme == "rtsp" else {}
    if scheme in ("rtmp", "rtmps", "tcp"):  # PyAV opens these without options, and would wait for ever
        uri = f"tee:[rw_timeout={patience_us}]" + re.sub(r"([\\'|])", r"\\\1", uri)
    return av.open(uri, mode="w", format=STREAM_FORMATS[scheme], options=options)


def _muxer_options(path: Path) -> dict[str, str]:
    if path.suffix.lower() == ".mkv":
        return {"cluster_time_limit": str(round(FRAGMENT_S * 1000)), "flush_packets": "1"}
    # Fragments while it grows; closing turns them into an ordinary file, in which players can seek.
    return {"movflags": "hybrid_fragmented", "frag_duration": str(round(FRAGMENT_S * 1e6)), "flush_packets": "1"}


def _encoder_options(codec: Codec, crf: int, preset: str) -> dict[str, str]:
    return {"crf": str(crf), "preset": preset, "tune": "zerolatency"} if codec == "libx264" else {}


def mpeg4_quantiser(crf: int) -> int:
    """Return the MPEG-4 part 2 quantiser (1..31) that is about as coarse as H.264 with `crf`.

    The step of H.264 is 0.625 * 2^(qp / 6) (ITU-T H.264, table 8-15), that of MPEG-4 twice its quantiser.
    """
    return max(1, min(31, round(0.3125 * 2 ** (crf / 6))))


def even(size: tuple[int, int]) -> tuple[int, int]:
    """Round (width, height) up to even numbers: 4:2:0 has one colour for 2 x 2 pixels."""
    return size[0] + size[0] % 2, size[1] + size[1] % 2


def fit(image: Image, size: tuple[int, int]) -> Image:
    """Return the picture at `size`: repeat a missing row or column, scale any other size and add black bars."""
    height, width = image.shape[:2]
    right, below = size[0] - width, size[1] - height
    if not right and not below:
        return image
    if right in (0, 1) and below in (0, 1):
        return cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE)  # type: ignore[return-value]
    scale = min(size[0] / width, size[1] / height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    canvas[top : top + inner[1], left : left + inner[0]] = cv2.resize(image, inner, interpolation=method)
    return canvas
