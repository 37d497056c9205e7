"""Network cameras for tests: a real RTSP server that can be stopped and killed, and any TCP server."""

import signal
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from graph import Frame
from nodes.capture import Capture
from tests.conftest import free_port

SYSTEM_PYTHON = "/usr/bin/python3"  # which has GStreamer's bindings
ROOT = Path(__file__).parents[1]

class Camera:
    """A camera that can be switched on and off."""

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        self.lines: list[str] = []
        self.start(*options)

    def start(self, *options: str) -> None:
        command = [SYSTEM_PYTHON, str(ROOT / "tests/rtsp_camera.py"), str(self.port), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout and self.process.stdout.readline() == "ready\n"
        self.listener = threading.Thread(target=self.lines.extend, args=(self.process.stdout,))
        self.listener.start()

    def uri(self, user: str = "", path: str = "cam") -> str:
        return f"rtsp://{user}127.0.0.1:{self.port}/{path}"

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.listener.join()
        assert self.process.stdout
        self.process.stdout.close()


@contextmanager
def playing(
    uri: str, patience: float = 1.0, **settings: object
) -> Iterator[Callable[[Callable[[Frame], bool]], Frame]]:
    """Give a function that reads frames until one meets a condition."""
    node = Capture(uri=uri, patience=patience, **settings)
    node.open()
    frames = node.process()
    next(frames)

    def until(condition: Callable[[Frame], bool]) -> Frame:
        end = time.monotonic() + 60
        for frame in frames:
            if frame is not None and condition(frame):
                return frame
            assert time.monotonic() < end, "no such frame"
        raise AssertionError("the stream has ended")

    try:
        yield until
    finally:
        frames.close()
        node.close()


def said(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


def any_frame(_: Frame) -> bool:
    return True


def shows_ball(frame: Frame) -> bool:
    return bool(frame.image.max() > 200 and np.median(frame.image) < 40)


@contextmanager
def served(handler: Callable[..., socketserver.BaseRequestHandler]) -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
