"""Pictures from a webcam with PyAV: Video4Linux on Linux, AVFoundation on macOS, DirectShow on Windows."""

import errno
import logging
import math
import os
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import av
from av.container import InputContainer
from av.video.frame import VideoFrame

from graph import ConfigError, NodeError
from nodes._arrivals import Arrivals, arrived_ns, decoded
from nodes._video import Shot, video_stream

logger = logging.getLogger(__name__)

PAUSE_S = 0.5  # while no picture comes, `shots` yields None this often, so that the node can be stopped
SILENCE_S = 10.0  # some webcams take several seconds to their first picture
STOP_S = 2.0  # how long `close` waits for a read of the driver to return
RAW_PIXELS = 640 * 480  # USB 2 carries raw pictures up to this size at 30 per second; larger ones need JPEG

ENUM_FORMATS, CAPTURE, MOST_FORMATS = 0xC0405602, 1, 64  # VIDIOC_ENUM_FMT, V4L2_BUF_TYPE_VIDEO_CAPTURE
FORMAT = struct.Struct("=III32sI16x")  # struct v4l2_fmtdesc: index, type, flags, description, pixel format
assert FORMAT.size == (ENUM_FORMATS >> 16) & 0x3FFF  # the number of an ioctl contains the size of its argument

Options = dict[str, str]


class Device(NamedTuple):
    """A capture device as FFmpeg addresses it."""

    format: str
    name: str


def device(uri: str | int) -> Device:
    """Return the device for a webcam's index or /dev/videoN on this system."""
    if sys.platform == "darwin":
        return Device("avfoundation", f"{uri}:none")
    if sys.platform == "win32":
        names = [name for name, _ in devices()]
        if not str(uri).isdigit() or int(uri) >= len(names):
            raise ConfigError(f"there is no webcam {uri}{_present()}")
        return Device("dshow", f"video={names[int(uri)]}")
    return Device("v4l2", uri if isinstance(uri, str) and uri.startswith("/dev/") else f"/dev/video{uri}")


def devices() -> list[tuple[str, str]]:
    """Return the webcams of this machine: (address, name)."""
    if sys.platform == "linux":
        nodes = sorted(Path("/sys/class/video4linux").glob("video*"), key=lambda node: int(node.name[5:]))
        return [(f"/dev/{node.name}", (node / "name").read_text().strip()) for node in nodes]
    kind = "avfoundation" if sys.platform == "darwin" else "dshow"
    found = [info for info in av.device.enumerate_input_devices(kind) if "video" in info.media_types]
    return [(info.name, info.description) for info in found]


def formats(address: str) -> list[str]:
    """Return the picture formats of a Linux capture device; empty for a camera's second device, which has none.

    Raises OSError if it cannot be opened or is not a capture device.
    """
    import fcntl

    found = []
    fd = os.open(address, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        for index in range(MOST_FORMATS):
            answer = fcntl.ioctl(fd, ENUM_FORMATS, FORMAT.pack(index, CAPTURE, 0, b"", 0))
            found.append(FORMAT.unpack(answer)[3].rstrip(b"\0").decode(errors="replace"))
    except OSError as exc:
        if exc.errno != errno.EINVAL:  # after the last one
            raise
    finally:
        os.close(fd)
    return found


class Webcam:
    """Keeps the newest picture of a webcam, so that a slow graph gets fewer pictures but no old ones.

    A thread takes every picture from the driver, whose own queue would otherwise fill with old ones.
    The constructor raises ConfigError if the webcam is missing, busy or not a webcam.
    """

    end = math.inf

    def __init__(self, device: Device, width: int, height: int, fps: float) -> None:
        self.device = device
        self.dropped = 0
        self.container = _open(device, width, height, fps)
        stream = video_stream(self.container)
        stream.thread_type = "SLICE"  # frame threads would delay pictures
        self._requested = (width, height) if width and height else None
        self._changed = threading.Condition()
        self._newest: VideoFrame | None = None
        self._ended = False
        self._error: av.FFmpegError | None = None
        self._stopping = threading.Event()
        self._arrivals = Arrivals(self.container, stream, device.name, self._stopping)
        self._thread = threading.Thread(target=self._read, name="webcam", daemon=True)

    def shots(self) -> Iterator[Shot | None]:
        """Yield pictures as they arrive, with `pts` from 0, and None while there is none. Never ends.

        Raises NodeError if the webcam is unplugged or sends no more pictures.
        """
        self._heard_s = time.monotonic()
        self._thread.start()
        first = None
        while True:
            frame = self._take()
            if frame is None:
                yield None
                continue
            came_ns = arrived_ns(frame)
            time_s = came_ns / 1e9 if frame.time is None else frame.time
            if first is None:
                first = time_s
                self._note_size(frame)
            yield Shot(time_s - first, came_ns, frame)

    def _note_size(self, frame: VideoFrame) -> None:
        given = (frame.width, frame.height)
        if self._requested and self._requested != given:
            logger.warning("%s gives %d x %d instead of %d x %d", self.device.name, *given, *self._requested)

    def _take(self) -> VideoFrame | None:
        with self._changed:
            self._changed.wait_for(lambda: self._newest or self._ended, PAUSE_S)
            taken, self._newest = self._newest, None
        if taken:
            return taken
        if self._ended:
            raise NodeError(f"{self.device.name} is gone ({self._error or 'end of its stream'})")
        if time.monotonic() - self._heard_s > SILENCE_S:
            raise NodeError(f"{self.device.name} has given no picture for {SILENCE_S:.0f} s")
        return None

    def _read(self) -> None:
        try:
            with self._arrivals as packets:
                for packet in packets:
                    for frame in decoded(packet):
                        self._put(frame)
        except av.FFmpegError as exc:
            self._error = exc
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()

    def _put(self, frame: VideoFrame) -> None:
        with self._changed:
            self.dropped += self._newest is not None
            self._newest, self._heard_s = frame, time.monotonic()
            self._changed.notify()

    def close(self) -> None:
        """Close the webcam."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)
        if self._thread.is_alive():
            logger.warning("%s: a read does not return; the webcam is freed when this process ends", self.device.name)
            return  # closing a container while another thread reads from it hangs or crashes
        self.container.close()
        if self.dropped or self._arrivals.skipped:
            counts = (self.dropped, self._arrivals.skipped)
            logger.info("%s: %d pictures were replaced by newer ones, %d skipped undecoded", self.device.name, *counts)


def _open(device: Device, width: int, height: int, fps: float) -> InputContainer:
    failure: Exception | None = None
    for options in _options(device, width, height, fps):
        try:
            return av.open(device.name, mode="r", format=device.format, options=options)
        except (av.FFmpegError, ValueError) as exc:
            failure = exc
            if _final(exc):
                break
    raise ConfigError(_why_closed(device, failure)) from failure


def _options(device: Device, width: int, height: int, fps: float) -> Iterator[Options]:
    """Yield what to request from the driver, best first; FFmpeg itself would accept raw pictures at 5 per second."""
    requested: Options = {"fflags": "nobuffer"}
    if width and height:
        requested["video_size"] = f"{width}x{height}"
    if fps or device.format == "avfoundation":  # AVFoundation refuses FFmpeg's default of 29.97
        requested["framerate"] = f"{fps or 30:g}"
    if device.format == "v4l2" and width * height > RAW_PIXELS:
        yield requested | {"input_format": "mjpeg"}
    yield requested


def _final(exc: Exception) -> bool:
    return isinstance(exc, OSError) and exc.errno in (errno.ENOENT, errno.EACCES, errno.EBUSY, errno.ENODEV)


def _why_closed(device: Device, exc: Exception | None) -> str:
    number = exc.errno if isinstance(exc, OSError) else None
    if number in (errno.ENOENT, errno.ENODEV):
        return f"there is no webcam {device.name}{_present()}"
    if number == errno.EBUSY:
        return f"{device.name} is busy: another program uses it (fuser -v {device.name} shows which)"
    if number == errno.EACCES:
        return f"no permission to read {device.name}: your user may have to be in the group 'video'"
    reason = exc.strerror if isinstance(exc, OSError | av.FFmpegError) else exc
    return f"{device.name} cannot be opened as a webcam ({reason}){_present()}"


def _present() -> str:
    found = [f"{address} ({name})" for address, name in devices()]
    return f"; available: {', '.join(found)}" if found else "; this machine has no webcam"
