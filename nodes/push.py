"""Stream frames to a media server or player: RTSP, RTMP, SRT, or MPEG-TS over UDP or TCP."""

import logging
import random
import socket
import threading
from collections import deque
from collections.abc import Iterator
from typing import Literal, Self
from urllib.parse import urlsplit

from graph import ConfigError, Finding, Frame, Input, Node, NodeError, redact, setting

logger = logging.getLogger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0  # between attempts, doubling
GOOD_FRAMES = 30  # a connection that took this many counts as good, and the next wait is FIRST_WAIT_S again
PATIENCE_S = 4.0  # timeout for an answer; a node that blocks for 5 s causes a warning
STOP_S = 2.0  # how long `close` waits for the sending thread


class Push(Node):
    """Stream frames as H.264 to an address, only the newest ones, so that a slow network never slows the graph.

    Whatever the other side does, the graph keeps running. It reconnects when the other side comes back, and when the
    picture size changes.
    """

    frame = Input(Frame)

    uri: str  # rtsp://, rtmp://, srt://, udp:// or tcp://, with user:password@ if needed
    transport: Literal["tcp", "udp"] = "tcp"  # for RTSP
    crf: int = setting(26, minimum=0, maximum=51)  # lower: better quality, more bandwidth
    preset: Literal["ultrafast", "superfast", "veryfast", "faster"] = "ultrafast"  # slower: less bandwidth, more CPU

    @classmethod
    def check(cls, node: Self | None) -> Iterator[Finding]:
        """Test H.264."""
        from nodes._codecs import check_codecs

        return check_codecs(("H.264",))

    def open(self) -> None:
        """Check the address and the encoder (ConfigError); the server itself may be off."""
        from nodes._encoder import STREAM_FORMATS, encoder

        self._name: str = redact(self.uri)
        scheme, separator, place = self.uri.partition("://")
        self._address = scheme.lower() + separator + place
        self._failure: NodeError | None = None
        if scheme.lower() not in STREAM_FORMATS or not separator or not place:
            raise ConfigError(f"{self._name} is not an address to send to; expected {'://, '.join(STREAM_FORMATS)}://")
        self._codec = encoder("libx264")
        self._newest: deque[Frame] = deque(maxlen=1)
        self._work = threading.Event()
        self._stopping = threading.Event()
        self._sent = 0  # frames of this connection
        self._thread = threading.Thread(target=self._send, name="push", daemon=True)
        self._thread.start()

    def process(self, frame: Frame) -> None:
        """Pass the frame to the sending thread. Raises NodeError if no frame can ever be sent."""
        if self._failure:
            raise self._failure
        self._newest.append(frame)
        self._work.set()

    def _send(self) -> None:
        import av

        wait_s = FIRST_WAIT_S
        while not self._stopping.is_set():
            self._sent = 0
            try:
                self._stream()
            except (av.FFmpegError, NodeError) as exc:
                reason = exc.__cause__ or exc
                if isinstance(reason, av.ProtocolNotFoundError):
                    text = f"{self._name}: this FFmpeg (PyAV {av.__version__}) does not know the protocol"
                    self._failure = NodeError(text)
                    return
                why = reason.strerror if isinstance(reason, av.FFmpegError) else reason
                wait_s = FIRST_WAIT_S if self._sent >= GOOD_FRAMES else wait_s
                logger.warning("%s: %s; trying again in %.1f s", self._name, why, wait_s)
                self._stopping.wait(wait_s * random.uniform(0.7, 1.3))
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _stream(self) -> None:
        """Wait for a frame, connect, and send until the picture size changes or the node closes."""
        from nodes._encoder import VideoWriter, even, fit, stream_container

        frame = self._next()
        if frame is None:
            return
        size = even((frame.image.shape[1], frame.image.shape[0]))
        if self._address.startswith("rtsp:"):
            wait_for_answer(self._address)
        container = stream_container(self._address, self.transport, PATIENCE_S)
        writer = VideoWriter(container, self._name, size, self._codec, self.crf, self.preset)
        try:
            writer.write(fit(frame.image, size), frame.pts)
            logger.info("%s receives pictures of %d x %d", self._name, *size)
            frame = self._next()
            while frame is not None and even((frame.image.shape[1], frame.image.shape[0])) == size:
                writer.write(fit(frame.image, size), frame.pts)
                self._sent += 1
                frame = self._next()
        finally:
            writer.close()

    def _next(self) -> Frame | None:
        """Wait for a frame and return it; None when the graph ends."""
        while not self._newest and not self._stopping.is_set():
            self._work.wait()
            self._work.clear()
        return self._newest.popleft() if self._newest else None

    def close(self) -> None:
        """Disconnect."""
        if "_thread" not in self.__dict__:
            return
        self._stopping.set()
        self._work.set()
        self._thread.join(STOP_S)
        if self._thread.is_alive():
            logger.info("%s does not answer; the connection ends with this process", self._name)


def wait_for_answer(address: str) -> None:
    """Send OPTIONS to an RTSP server and wait for the first byte. Raises NodeError if none comes.

    PyAV holds Python's GIL during FFmpeg's handshake: a server that hangs would block the whole process.
    """
    try:
        place = urlsplit(address)
        host, port = place.hostname or "", place.port or 554
    except ValueError:  # its message may contain a password
        raise NodeError("invalid port, expected like rtsp://user:password@192.0.2.7:554/stream") from None
    url = f"rtsp://{place.netloc.rpartition('@')[2]}{place.path}"
    try:
        with socket.create_connection((host, port), PATIENCE_S) as server:
            server.sendall(f"OPTIONS {url} RTSP/1.0\r\nCSeq: 1\r\n\r\n".encode())
            answer = server.recv(1)
    except TimeoutError:
        raise NodeError("does not answer in time") from None
    except UnicodeError:
        raise NodeError(f"{host} is not a valid host name") from None
    except OSError as exc:
        raise NodeError(exc.strerror or str(exc)) from None
    if not answer:
        raise NodeError("closes the connection: it may not be an RTSP server")
