"""Reads packets from a camera as they arrive, for a decoder that may be slower than the camera."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Self, TypeAlias

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

logger = logging.getLogger(__name__)

LATE_S = 0.25  # a packet that has waited longer is skipped if a newer key frame is waiting
LOST_S = 1.0  # a packet that has waited longer is skipped in any case: the picture then stops until a key frame comes,
KEY_S = 10.0  # or for this long at most, as the camera may send no key frame
WARN_S = 60.0  # between two warnings
START_S = 5.0  # without a warning: the server first sends what it has buffered, and the starting graph uses the CPU
BEHIND = "%s sends more than can be decoded here: %d pictures skipped; set it to a smaller size or a lower rate"

Packet: TypeAlias = "av.Packet[VideoStream]"


class Arrivals:
    """Reads packets in its own thread and keeps them for the decoder, with their time of arrival.

    A decoder that falls behind continues at the newest key frame; skipped packets are counted. Use it in a `with`,
    which waits for the thread: a container must not be closed while another thread reads from it.
    """

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        name: str,
        stopping: threading.Event,
        patience_s: float = math.inf,
    ) -> None:
        """`name` stands for the camera in warnings; once `stopping` is set, iteration ends at the next packet.

        If only audio or data arrive for `patience_s`, iteration ends with a ValueError.
        """
        self.skipped = 0
        self._patience_s = patience_s
        self._container = container
        self._stream = stream
        self._name = name
        self._stopping = stopping
        self._left = False
        self._warn_s = time.monotonic() + START_S  # CLOCK_MONOTONIC, when the next warning may come
        self._waiting: deque[Packet] = deque()
        self._key_until_s = 0.0  # CLOCK_MONOTONIC; until then, only a key frame is accepted
        self._over = False
        self._error: av.FFmpegError | ValueError | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, name="packets", daemon=True)
        stream.codec_context.copy_opaque = True

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left = True
        self._thread.join()

    def __iter__(self) -> Iterator[Packet]:
        """Yield packets in order until the stream ends. Raises av.FFmpegError or ValueError if it breaks off."""
        while not self._stopping.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._over)
                packet = self._waiting.popleft() if self._waiting else None
            if packet is None:
                break
            yield packet
            self._skip()
        if self._error:
            raise self._error

    def _read(self) -> None:
        try:
            for packet in self._packets():
                packet.opaque = time.monotonic_ns()
                self._put(packet)
                if self._left or self._stopping.is_set():
                    return
        except (av.FFmpegError, ValueError) as exc:
            self._error = exc
        finally:
            with self._changed:
                self._over = True
                self._changed.notify()

    def _packets(self) -> Iterator[Packet]:
        """Yield the packets of the pictures; read the others too, to notice when no more pictures come."""
        came_s = time.monotonic()
        for packet in self._container.demux():
            if packet.stream is self._stream:
                came_s = time.monotonic()
                yield packet  # type: ignore[misc]  # its type is that of its stream
            elif self._left or self._stopping.is_set():
                return
            elif time.monotonic() - came_s > self._patience_s:
                raise ValueError(f"has sent only sound or data for {self._patience_s:g} s")

    def _put(self, packet: Packet) -> None:
        with self._changed:
            if packet.is_keyframe:
                self._key_until_s = 0.0
            if time.monotonic() < self._key_until_s:
                self.skipped += 1
            else:
                self._waiting.append(packet)
                self._changed.notify()

    def _skip(self) -> None:
        """If the oldest packet has waited too long, skip those before the newest key frame."""
        with self._changed:
            keys = [index for index, packet in enumerate(self._waiting) if packet.is_keyframe]
            if not self._waiting or keys == [0] or self._late_s() < (LATE_S if keys else LOST_S):
                return
            self._key_until_s = 0.0 if keys else time.monotonic() + KEY_S
            for _ in range(keys[-1] if keys else len(self._waiting)):
                self._waiting.popleft()
                self.skipped += 1
        self._stream.codec_context.flush_buffers()  # drops pictures that refer to skipped packets
        if time.monotonic() >= self._warn_s:
            self._warn_s = time.monotonic() + WARN_S
            logger.warning(BEHIND, self._name, self.skipped)

    def _late_s(self) -> float:
        arrived_ns = self._waiting[0].opaque
        assert isinstance(arrived_ns, int), arrived_ns
        return (time.monotonic_ns() - arrived_ns) / 1e9


def decoded(packet: Packet) -> list[VideoFrame]:
    """Return the pictures of a packet; none if it is damaged (the next key frame recovers)."""
    try:
        return packet.decode()
    except av.FFmpegError:
        return []


def arrived_ns(picture: VideoFrame) -> int:
    """Return when the packet of a picture arrived, CLOCK_MONOTONIC ns; now, if it has no time."""
    return picture.opaque if isinstance(picture.opaque, int) else time.monotonic_ns()
