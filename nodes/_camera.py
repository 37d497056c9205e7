"""Pictures from a network camera (RTSP, HTTP, MJPEG), which may refuse, hang, vanish and come back changed.

A thread connects, decodes and keeps the newest picture; nothing that the camera does ends it.
"""

import errno
import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import av
from av.container import InputContainer
from av.stream import Discard
from av.video.frame import VideoFrame

from graph import ConfigError, NodeError, redact
from nodes._arrivals import Arrivals, Packet, arrived_ns, decoded
from nodes._pacer import Pacer
from nodes._video import Shot, pixel_aspect, video_stream

logger = logging.getLogger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0  # between attempts, doubling; a rebooting camera takes 20 to 60 s
GOOD_FRAMES = 30  # a connection that gave this many counts as good, and the next wait is FIRST_WAIT_S again
PAUSE_S = 0.5  # while no picture comes, `shots` yields None this often, so that the node can be stopped
STEP_S = 0.001  # minimum between two pts: consumers that measure time need two different ones
JUMP_S = 2.0  # if timestamps differ from the arrival by more than this, the camera's clock was set
OLDEST_S = 10.0  # if a camera's wall clock is further behind ours, it is not set by NTP and says nothing about delay
SNAPSHOTS = 5.0  # requests per second to an address that gives one picture each, unless fps is set
NO_TIMESTAMPS = 0x80  # FFmpeg's AVFMT_NOTIMESTAMPS (MJPEG, raw H.264): it makes up timestamps at 25 per second
SEGMENTED = frozenset({"hls", "dash"})  # formats that deliver some seconds of video at once
KEYLESS_S = 30.0  # patience before the first key frame: some cameras send one every 20 s
STOP_S = 2.0  # how long `close` waits for an FFmpeg call to return

Transport = Literal["tcp", "udp"]


class Taken(NamedTuple):
    """A decoded picture and when it arrived."""

    picture: VideoFrame
    time_s: float  # timestamp within its connection
    arrived_ns: int  # CLOCK_MONOTONIC
    captured_ns: int | None  # CLOCK_MONOTONIC, from the camera's wall clock, if it has a plausible one
    epoch: int
    pixel_aspect: float


class NetworkCamera:
    """Keeps the newest picture of a camera, and reconnects whenever the connection is lost.

    The constructor only checks the address (ConfigError): the camera may be off when the graph starts.
    """

    def __init__(self, uri: str, transport: Transport, patience_s: float, fps: float) -> None:
        scheme, separator, place = uri.partition("://")
        self.uri = scheme.lower() + separator + place
        self.name: str = redact(uri)
        if not place.lstrip("/@:"):
            raise ConfigError(f"{self.name}: no host in the address, expected like rtsp://user:password@192.0.2.7/stream")
        self.transport = transport
        self.patience_s = patience_s
        self.fps = fps
        self.dropped = 0  # pictures replaced by newer ones
        self.skipped = 0  # packets never decoded
        self.end = 0.0
        self._newest: deque[Taken] = deque(maxlen=1)
        self._arrived = threading.Event()
        self._stopping = threading.Event()
        self._ended = False
        self._failure: NodeError | None = None
        self._count = 0  # pictures of this connection
        self._is_snapshot = False  # whether this connection was a request for one picture
        self._epoch = -1
        self._thread: threading.Thread | None = None

    def shots(self) -> Iterator[Shot | None]:
        """Yield pictures as they arrive, and None every half second without one; only a file over HTTP has an end.

        Within a connection, `pts` follows the camera's timestamps; between connections, and where timestamps jump or
        do not grow, it follows the arrival. A new connection is a new epoch. Raises NodeError if no attempt can
        succeed.
        """
        if self._thread is not None:  # of the previous pass, which may still have to close its file
            self._thread.join()
        self._ended = False
        self._thread = threading.Thread(target=self._read, name="camera", daemon=True)
        self._thread.start()
        origin_ns, offset, epoch, end = 0, 0.0, -1, -STEP_S
        while True:
            taken = self._take()
            if taken is None:
                if self._failure:
                    raise self._failure
                if self._ended and not self._newest:
                    return
                yield None
                continue
            origin_ns = origin_ns or taken.arrived_ns
            arrival = (taken.arrived_ns - origin_ns) / 1e9
            pts = offset + taken.time_s
            if taken.epoch != epoch or pts <= end or abs(pts - arrival) > JUMP_S:
                epoch = taken.epoch
                pts = max(arrival, end + STEP_S)
                offset = pts - taken.time_s
            self.end, end = 2 * pts - end, pts  # as if the next interval were as long as the last one
            clock: Literal["arrival", "camera"] = "arrival" if taken.captured_ns is None else "camera"
            arrived_ns = taken.captured_ns or taken.arrived_ns
            yield Shot(pts, arrived_ns, taken.picture, epoch, clock, taken.pixel_aspect)

    def probe(self) -> str:
        """Connect once, wait for one picture and return what the camera sends. Raises NodeError with the reason."""
        reason = "its stream has ended"
        try:
            with self._connected() as (container, packets):
                context = video_stream(container).codec_context
                for taken in self._pictures(container, packets):
                    return f"{context.name}, {taken.picture.width} x {taken.picture.height}"
        except (av.FFmpegError, ConfigError, ValueError) as exc:
            reason = _reason(exc)
        raise NodeError(f"{self.name} {reason}")

    def _take(self) -> Taken | None:
        self._arrived.wait(PAUSE_S)
        self._arrived.clear()
        return self._newest.popleft() if self._newest else None

    def _read(self) -> None:
        wait_s = FIRST_WAIT_S
        while not self._stopping.is_set() and not self._ended:
            began_s = time.monotonic()
            reason = self._connection()
            wait_s = FIRST_WAIT_S if self._count >= GOOD_FRAMES or self._is_snapshot else wait_s
            if self._is_snapshot:
                self._stopping.wait(max(0.0, began_s + 1 / (self.fps or SNAPSHOTS) - time.monotonic()))
                continue
            if not self._stopping.is_set() and not self._ended:
                self._rest(f"is lost: {reason}" if self._count else reason, wait_s * random.uniform(0.7, 1.3))
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _connection(self) -> str:
        """Connect and keep the newest picture until the connection ends; return why it ended."""
        self._count, single = 0, False
        try:
            with self._connected() as (container, packets):
                single = _sends_snapshots(container)
                for taken in self._pictures(container, packets):
                    self._count += 1
                    self.dropped += len(self._newest)
                    self._newest.append(taken)
                    self._arrived.set()
                self._ended = bool(container.duration)  # only files have one
        except av.ProtocolNotFoundError as exc:
            self._failure, self._ended = NodeError(f"{self.name} {_reason(exc)}"), True
        except (av.FFmpegError, ConfigError, ValueError) as exc:
            broken_off = self._count and isinstance(exc, OSError) and exc.errno == errno.EIO
            return "its stream has broken off" if broken_off else _reason(exc)
        finally:
            self._is_snapshot = single and self._count == 1
        return "its stream has ended"

    def _rest(self, reason: str, wait_s: float) -> None:
        logger.warning("%s %s; trying again in %.1f s", self.name, reason, wait_s)
        self._stopping.wait(wait_s)

    @contextmanager
    def _connected(self) -> Iterator[tuple[InputContainer, Iterable[Packet]]]:
        with self._connect() as container:
            stream = video_stream(container)
            if _needs_pacing(container):
                for other in container.streams:  # otherwise every resolution in an HLS playlist is downloaded
                    other.discard = Discard.default if other is stream else Discard.all
                yield container, container.demux(stream)
                return
            with Arrivals(container, stream, self.name, self._stopping, self.patience_s) as arrivals:
                try:
                    yield container, arrivals
                finally:
                    self.skipped += arrivals.skipped

    def _connect(self) -> InputContainer:
        container = av.open(self.uri, mode="r", options=self._options(), timeout=(2 * self.patience_s, self.patience_s))
        try:
            stream = video_stream(container)
        except ConfigError:
            container.close()
            raise
        stream.thread_type = "NONE"  # frame threads would delay pictures
        if self._is_snapshot:  # the previous one was, too: the same epoch, no log message
            return container
        self._epoch += 1
        size = f"{stream.codec_context.width} x {stream.codec_context.height}"
        logger.info("%s is connected: %s, %s", self.name, stream.codec_context.name, size)
        return container

    def _options(self) -> dict[str, str]:
        """Return FFmpeg's options. (PyAV accepts misspelt names without an error.)"""
        if self.uri.startswith("rtmp"):  # by default, FFmpeg waits 5 s for an audio stream
            return {"fpsprobesize": "0", "analyzeduration": "1000000"}
        if not self.uri.startswith("rtsp"):
            return {"fpsprobesize": "0"}  # otherwise FFmpeg first buffers 20 pictures: up to 7 s of MPEG-TS
        return {
            "rtsp_transport": self.transport,
            "allowed_media_types": "video",  # audio would hide that no picture comes
            "timeout": str(round(self.patience_s * 1e6)),  # of the socket; named stimeout before FFmpeg 5
            "max_delay": "500000",
            "flags": "low_delay",
            "analyzeduration": "100000",  # enough, and plays a second sooner than the default (measured)
        }

    def _pictures(self, container: InputContainer, packets: Iterable[Packet]) -> Iterator[Taken]:
        """Decode the packets, in real time if they come faster. Raises ValueError if no picture comes for too long.

        Decoding starts at a key frame, so the first one gets more time, and restarts the count.
        """
        stream = video_stream(container)
        untimed = container.format.flags & NO_TIMESTAMPS or _sends_snapshots(container)
        heard_s, pacer = time.monotonic(), Pacer()
        first, place, is_keyed = None, -1, False
        for packet in packets:
            frames = decoded(packet)
            for frame in frames:
                came_ns = arrived_ns(frame)
                time_s = came_ns / 1e9 if untimed or frame.time is None else frame.time
                first = time_s if first is None else first
                if _needs_pacing(container):
                    self._stopping.wait(pacer.left_s(time_s))
                    came_ns = time.monotonic_ns()
                last, place = place, math.floor((time_s - first) * self.fps + 0.5) if self.fps else place + 1
                if place != last:
                    captured_ns = _captured_ns(container, frame, came_ns)
                    yield Taken(frame, time_s, came_ns, captured_ns, self._epoch, pixel_aspect(stream))
            if self._stopping.is_set():
                return
            if frames or (packet.is_keyframe and not is_keyed):
                heard_s, is_keyed = time.monotonic(), not frames
            silence_s = time.monotonic() - heard_s
            if silence_s > (self.patience_s if is_keyed or first is not None else max(KEYLESS_S, self.patience_s)):
                missing = "picture that can be decoded" if is_keyed else "key frame"
                raise ValueError(f"has sent no {missing} for {silence_s:.0f} s")

    def close(self) -> None:
        """Disconnect."""
        self._stopping.set()
        if self._thread is None:
            return
        self._thread.join(STOP_S)
        if self._thread.is_alive():  # closing a container while another thread reads from it hangs or crashes
            logger.info("%s: a read does not return; the connection ends with this process", self.name)
        elif self.dropped or self.skipped:
            counts = (self.dropped, self.skipped)
            logger.info("%s: %d pictures were replaced by newer ones, %d skipped undecoded", self.name, *counts)


def _needs_pacing(container: InputContainer) -> bool:
    """Return whether pictures arrive faster than real time: from a file, or a live stream in segments."""
    return bool(container.duration) or container.format.name in SEGMENTED


def _sends_snapshots(container: InputContainer) -> bool:
    """Return whether the source sends single pictures, not a video."""
    return container.format.name.endswith("_pipe")


def _captured_ns(container: InputContainer, frame: VideoFrame, came_ns: int) -> int | None:
    """Return when the camera took the picture, on CLOCK_MONOTONIC, from the wall clock in its RTCP sender reports.

    None before the first report, and if that clock is wrong (later than the arrival `came_ns`, or much earlier).
    """
    start_us = container.start_time_realtime  # follows the newest report
    if not start_us or frame.time is None:
        return None
    captured_ns = start_us * 1000 + int(frame.time * 1e9) - time.time_ns() + time.monotonic_ns()
    return captured_ns if 0 <= came_ns - captured_ns < OLDEST_S * 1e9 else None


def _reason(exc: Exception) -> str:
    """Return what is wrong, without the address, which may contain a password."""
    if isinstance(exc, av.HTTPUnauthorizedError | av.HTTPForbiddenError):
        return "refuses the user or the password (rtsp://user:password@host/...)"
    if isinstance(exc, av.ProtocolNotFoundError):
        return f"cannot be read: this FFmpeg (PyAV {av.__version__}) does not know its protocol"
    if isinstance(exc, av.HTTPNotFoundError):
        return "has no such stream: look up the path in the camera's manual"
    if isinstance(exc, av.HTTPOtherClientError):
        return "refuses to send (it answers 4xx): too many clients may be connected, or the path may be wrong"
    if isinstance(exc, av.HTTPServerError):
        return "has an internal error (it answers 5xx): too many clients may be connected, or it is still starting"
    if isinstance(exc, av.ExitError | TimeoutError):
        return "does not answer in time"
    if isinstance(exc, ConnectionRefusedError):
        return "refuses the connection: nothing listens on this port"
    if isinstance(exc, av.ArgumentError):
        return "has a port above 65535, or / ? # % in its user or password, which must be written %2F %3F %23 %25"
    if isinstance(exc, av.InvalidDataError):
        return "does not send video"
    if isinstance(exc, OSError) and exc.errno == errno.EPROTONOSUPPORT:
        return "does not support this transport: try the other one, udp or tcp"
    if isinstance(exc, OSError) and exc.errno == errno.EIO:
        return "cannot be reached: no such host, or no way to it"
    return str(exc.strerror if isinstance(exc, av.FFmpegError) else exc)
