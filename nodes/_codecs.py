"""Test for `doctor` whether this FFmpeg encodes and decodes the usual video codecs."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Literal

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from graph import Finding

SIZE, FRAMES = 64, 8  # side in pixels and number of the test pictures
NEAR = 8  # grey levels, tolerance for lossy codecs
REINSTALL = "pip install --force-reinstall av"
CODECS = {
    "H.264": ("libx264", "h264", "yuv420p"),
    "H.265 (HEVC)": ("libx265", "hevc", "yuv420p"),
    "JPEG": ("mjpeg", "mjpeg", "yuvj420p"),
    "VP9": ("libvpx-vp9", "vp9", "yuv420p"),
}
"""Encoder, decoder and pixel format by the usual name of a codec."""


def ffmpeg() -> Finding:
    """Return the version of FFmpeg."""
    codec = ".".join(map(str, av.library_versions["libavcodec"]))
    return Finding("FFmpeg", "ok", f"{av.ffmpeg_version_info}, libavcodec {codec}, in PyAV {av.__version__}")


def check_codecs(names: Iterable[str]) -> Iterator[Finding]:
    """Encode some pictures with each codec, decode them, and say whether they are the same."""
    for name in names:
        encoder, decoder, layout = CODECS[name]
        if not has_codec(decoder, "r"):
            yield Finding(name, "problem", f"this FFmpeg has no decoder {decoder}", REINSTALL)
        elif not has_codec(encoder, "w"):
            yield Finding(name, "note", f"can be decoded; this FFmpeg has no encoder {encoder}", REINSTALL)
        else:
            why = _round_trip(encoder, decoder, layout)
            yield Finding(name, "problem", why, REINSTALL) if why else Finding(name, "ok", "encoded and decoded")


def has_codec(name: str, mode: Literal["r", "w"]) -> bool:
    """Return whether this FFmpeg has a decoder ("r") or an encoder ("w") of this name."""
    try:
        av.Codec(name, mode)
    except av.codec.codec.UnknownCodecError:
        return False
    return True


def _round_trip(encoder: str, decoder: str, layout: str) -> str:
    """Return what went wrong; empty if nothing did."""
    levels = [index * 255 // FRAMES for index in range(FRAMES)]
    try:
        packets = _encoded(encoder, layout, levels)
        reader = _context(decoder, "r")
        pictures = [picture for packet in [*packets, None] for picture in reader.decode(packet)]
    except av.FFmpegError as exc:
        return f"{encoder} or {decoder} fails: {exc.strerror}"
    found = [float(picture.to_ndarray(format="gray").mean()) for picture in pictures]
    if len(found) != FRAMES or max(abs(a - b) for a, b in zip(found, levels, strict=True)) > NEAR:
        return f"{FRAMES} pictures of grey {levels} came back as {[round(level) for level in found]}"
    return ""


def _context(codec: str, mode: Literal["r", "w"]) -> VideoCodecContext:
    context = VideoCodecContext.create(codec, mode)
    assert isinstance(context, VideoCodecContext), codec
    return context


def _encoded(encoder: str, layout: str, levels: list[int]) -> "list[av.Packet[av.VideoStream]]":
    writer = _context(encoder, "w")
    writer.width = writer.height = SIZE
    writer.pix_fmt, writer.time_base, writer.framerate = layout, Fraction(1, 30), Fraction(30)
    packets = []
    for index, level in enumerate(levels):
        grey = np.full((SIZE, SIZE, 3), level, np.uint8)
        picture = VideoFrame.from_ndarray(grey, format="bgr24").reformat(format=layout)
        picture.pts = index
        packets += writer.encode(picture)
    return [*packets, *writer.encode(None)]
