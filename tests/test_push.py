"""Frames streamed to servers."""

import re
import socket
import time
from collections.abc import Callable

import numpy as np
import pytest

from graph import ConfigError, Frame, Header, NodeError
from nodes import _encoder, push
from nodes.push import Push
from tests.cameras import Camera, said
from tests.conftest import eventually, free_port

pytestmark = pytest.mark.slow


def test_pushes_to_a_server_and_reconnects(camera: Callable[..., Camera], caplog: pytest.LogCaptureFixture) -> None:
    cam = camera()
    node = Push(uri=cam.uri(path="push"))
    node.open()
    sizes = [(240, 320)] * 30 + [(120, 160)] * 400
    try:
        for index, size in enumerate(sizes):
            image = np.full((*size, 3), index % 250, np.uint8)
            node.process(Frame(image=image, header=Header(seq=index, pts=index / 30)))
            time.sleep(0.03)
            if {"frame 320 240\n", "frame 160 120\n"} <= set(cam.lines):
                break
        assert {"frame 320 240\n", "frame 160 120\n"} <= set(cam.lines)
        cam.kill()
        cam.lines.clear()
        cam.start()

        def arrives() -> bool:
            node.process(Frame(image=np.zeros((120, 160, 3), np.uint8), header=Header(pts=time.monotonic())))
            time.sleep(0.03)
            return "frame 160 120\n" in cam.lines

        assert eventually(arrives)
    finally:
        node.close()
    assert "trying again in" in said(caplog)


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("rtsp://127.0.0.1:{mute}", "does not answer in time"),
        ("rtsp://127.0.0.1:{closed}", "Connection refused"),
        ("rtsp://nowhere.invalid", "Name or service not known|Temporary failure in name resolution"),
        ("rtsp://192.0..2.7", "192.0..2.7 is not a valid host name"),
        ("rtsp://bob:sec/ret@127.0.0.1:1", "invalid port"),
        ("rtmp://127.0.0.1:{mute}", "Connection timed out"),
        ("rtmp://bob:sec'|ret@127.0.0.1:{closed}", "Connection refused"),
    ],
)
def test_an_unreachable_server_is_reported(
    place: str, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(push, "PATIENCE_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        node = Push(uri=f"{place.format(mute=mute.getsockname()[1], closed=free_port())}/push")
        node.open()
        node.process(Frame(image=np.zeros((48, 64, 3), np.uint8)))
        assert eventually(lambda: re.search(f": ({why}).*; trying again", said(caplog)) is not None), said(caplog)
        node.close()
    assert "sec" not in said(caplog)


def test_a_server_that_took_many_pictures_is_retried_soon(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise the waits would grow with each loss, as for a server that never answers."""

    def stream(node: Push) -> None:
        node._sent = 1000
        raise NodeError("gone")

    monkeypatch.setattr(Push, "_stream", stream)
    monkeypatch.setattr(push, "FIRST_WAIT_S", 0.1)
    node = Push(uri="rtsp://127.0.0.1:1/push")
    node.open()
    assert eventually(lambda: len(caplog.records) >= 4)
    node.close()
    assert {record.getMessage() for record in caplog.records} == {f"{node.uri}: gone; trying again in 0.1 s"}


def test_addresses_to_send_to() -> None:
    with pytest.raises(ConfigError, match=r"^out\.mp4 is not an address to send to; expected rtsp://, rtmp://"):
        Push(uri="out.mp4").open()


def test_a_protocol_that_ffmpeg_lacks_is_an_error_and_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_encoder, "STREAM_FORMATS", {"nonesuch": "mpegts"})
    frame = Frame(image=np.zeros((48, 64, 3), np.uint8))
    sender = Push(uri="NONESUCH://127.0.0.1:1")
    sender.open()

    def fails() -> bool:
        try:
            sender.process(frame)
        except NodeError as exc:
            return "does not know the protocol" in str(exc)
        return False

    assert eventually(fails)
    sender.close()
