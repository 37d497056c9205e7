"""Small videos for tests: each frame is grey, and its brightness is its number."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from graph import Frame
from graph.testing import run_node
from nodes.capture import Capture

STEP = 8  # grey levels from one frame to the next


def captured(limit: int | None = None, **settings: Any) -> list[Frame]:
    """The frames of a Capture with these settings."""
    return run_node(Capture(**settings), limit)["frame"]  # type: ignore[return-value]


def picture(index: int, width: int = 64, height: int = 48) -> NDArray[np.uint8]:
    """A grey picture, (H, W, 3) BGR, with a blue block in its top left corner."""
    image = np.full((height, width, 3), 20 + STEP * (index % 24), np.uint8)
    image[: height // 4, : width // 4] = (250, 20, 20)
    return image


def number(image: NDArray[np.uint8]) -> int:
    """The number of a picture."""
    return round((float(np.median(image)) - 20) / STEP)


def write(
    path: Path,
    times: Sequence[float],
    *,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    turned: int = 0,
    mirrored: bool = False,
    movflags: str = "",
    pixel_aspect: Fraction | None = None,
    b_frames: int = 0,
) -> Path:
    """Write a clip with one frame at each of `times` (seconds).

    Players show it `turned` by degrees, counterclockwise, and then `mirrored` left to right.
    """
    with av.open(str(path), "w", options={"movflags": movflags} if movflags else {}) as container:
        order = {"bf": str(b_frames)} if b_frames else {"tune": "zerolatency"}
        options = {"crf": "4", **order} if codec == "libx264" else {}
        stream = container.add_stream(codec, rate=30, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        ticks = 30 if path.suffix == ".avi" else 60_000  # per second; AVI only has a constant rate
        stream.codec_context.time_base = Fraction(1, ticks)
        if pixel_aspect:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if turned or mirrored:
            stream.set_display_rotation(turned, hflip=mirrored)
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(index, *size), format="bgr24")
            frame.pts = round(time * ticks)
            frame.time_base = Fraction(1, ticks)
            for packet in stream.encode(frame):
                packet.duration = ticks // 30  # of the last frame; the others last until the next
                container.mux(packet)
        container.mux(stream.encode(None))
    return path


def steady(count: int, fps: float = 30.0) -> list[float]:
    """Return the times of `count` frames at a constant rate."""
    return [index / fps for index in range(count)]


def cut(path: Path, part: float) -> Path:
    """Truncate a file to `part` of its length."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    return path


def numbers(frames: list[Frame]) -> list[int]:
    return [number(frame.image) for frame in frames]


def times(frames: list[Frame]) -> list[float]:
    return [round(frame.pts, 3) for frame in frames]


def block(frame: Frame) -> tuple[int, int]:
    """The quarter (row, column) of the frame in which the blue block is."""
    y, x = np.nonzero((frame.image[..., 0] > 180) & (frame.image[..., 2] < 90))
    return int(y.mean() * 2 // frame.image.shape[0]), int(x.mean() * 2 // frame.image.shape[1])
