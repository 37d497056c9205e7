"""Frames into a video file or stream through PyAV, at their own times; a file is readable while it grows."""

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

Image = NDArray[np.uint8]  # (H, W, 3) BGR

TICKS = 60_000
"""Time base, per second: whole ticks for milliseconds and all usual rates (29.97 too), and within the 65,535 that
MPEG-4 part 2 can write."""

LONGEST_GAP = 2**31 - 1
"""Ticks (some ten hours): MP4 has 32 bits for how long a frame is shown, and is garbled beyond."""

FRAGMENT_S = 0.5
"""Length of the pieces that go to disk, each readable without what follows: all that a killed run loses."""

KEYFRAME_INTERVAL = 60  # frames; a player that seeks decodes no more than these
THREADS = min(4, os.cpu_count() or 1)  # each takes a slice of the picture, and slices cost bits
SMPTE170M = 6  # H.273: the matrix of BT.601, which cv2.COLOR_BGR2YUV_I420 uses
LIMITED_RANGE = 1  # AVCOL_RANGE_MPEG: black is 16, white 235

STREAM_FORMATS = {"rtsp": "rtsp", "rtmp": "flv", "rtmps": "flv", "udp": "mpegts", "tcp": "mpegts", "srt": "mpegts"}
"""The container in which each kind of address carries H.264."""

Codec = Literal["libx264", "mpeg4"]
ENCODERS: tuple[Codec, ...] = ("libx264", "mpeg4")  # the better one first
LARGEST = {"libx264": 16384, "mpeg4": 8191}  # pixels on a side; beyond, FFmpeg says only that it fails


def encoder(name: str) -> Codec:
    """Return the encoder to use; "auto" is the first of ENCODERS that this FFmpeg has.

    Raises ConfigError if it lacks the one asked for.
    """
    have = [known for known in ENCODERS if _has(known)]
    for known in have:
        if name in ("auto", known):
            return known
    raise ConfigError(f"this FFmpeg (PyAV {av.__version__}) has no encoder {name}, only {', '.join(have) or 'others'}")


def _has(name: str) -> bool:
    try:
        av.Codec(name, "w")
    except av.codec.codec.UnknownCodecError:
        return False
    return True


class Timeline:
    """Turns the seconds of a stream into ticks of a file: from 0, always growing, gaps kept."""

    def __init__(self) -> None:
        self._origin: float | None = None  # pts of tick 0
        self._last = 0
        self.step = TICKS // 30  # from the last frame but one to the last

    def tick(self, pts: float) -> int:
        """Return the time of a frame in the file.

        One that lies before its predecessor (a loop), or too long after it, follows it at once.
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
    """Writes pictures of one size, given with even width and height.

    Speed: cv2 converts to YUV 4:2:0 in a fifth of swscale's time (0.5 against 2.3 ms at 720 x 1280), and the encoder
    works without delay (`zerolatency`), or the last frames before a kill would still lie in it.
    """

    def __init__(
        self, container: OutputContainer, name: str, size: tuple[int, int], codec: Codec, crf: int, preset: str
    ) -> None:
        """Take over `container`, called `name` in errors, which `file_container` or `stream_container` opened."""
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
        picture = VideoFrame.from_ndarray(planes, format="yuv420p")  # from_numpy_buffer takes height 242 for 240
        picture.pts = self._timeline.tick(pts)
        picture.time_base = Fraction(1, TICKS)
        self._mux(picture)

    def close(self) -> None:
        """Write what is left and the index; raises NodeError if it cannot be written."""
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
                packet.duration = packet.duration or self._timeline.step  # how long a player shows the last frame
            self._container.mux(packets)
        except av.FFmpegError as exc:
            raise NodeError(f"{self.name}: {exc.strerror}") from exc


def file_container(path: Path) -> OutputContainer:
    """Open a video file for writing."""
    return av.open(f"file:{path}", mode="w", options=_muxer_options(path))


def stream_container(uri: str, transport: str, patience_s: float) -> OutputContainer:
    """Open an address for sending: RTSP, RTMP (as FLV), and UDP, TCP or SRT (as an MPEG transport stream)."""
    scheme = uri.partition("://")[0]
    patience_us = str(round(patience_s * 1e6))
    options = {"rtsp_transport": transport, "timeout": patience_us} if scheme == "rtsp" else {}
    if scheme in ("rtmp", "rtmps", "tcp"):  # PyAV opens these without options: a server that hangs would be for ever
        uri = f"tee:[rw_timeout={patience_us}]" + re.sub(r"([\\'|])", r"\\\1", uri)
    return av.open(uri, mode="w", format=STREAM_FORMATS[scheme], options=options)


def _muxer_options(path: Path) -> dict[str, str]:
    if path.suffix.lower() == ".mkv":
        return {"cluster_time_limit": str(round(FRAGMENT_S * 1000)), "flush_packets": "1"}
    # Fragments while it grows; on closing they become one ordinary file, which players seek in.
    return {"movflags": "hybrid_fragmented", "frag_duration": str(round(FRAGMENT_S * 1e6)), "flush_packets": "1"}


def _encoder_options(codec: Codec, crf: int, preset: str) -> dict[str, str]:
    return {"crf": str(crf), "preset": preset, "tune": "zerolatency"} if codec == "libx264" else {}


def mpeg4_quantiser(crf: int) -> int:
    """Return the MPEG-4 part 2 quantiser (1..31) about as coarse as an H.264 one of `crf`.

    H.264's step is 0.625 * 2^(qp / 6) (ITU-T H.264, table 8-15), MPEG-4's twice its quantiser.
    """
    return max(1, min(31, round(0.3125 * 2 ** (crf / 6))))


def even(size: tuple[int, int]) -> tuple[int, int]:
    """Return the smallest even (width, height) that holds `size`: 4:2:0 has one colour for 2 x 2 pixels."""
    return size[0] + size[0] % 2, size[1] + size[1] % 2


def fit(image: Image, size: tuple[int, int]) -> Image:
    """Return the picture at `size`: a missing row or column is repeated, any other size scaled between black bars."""
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
