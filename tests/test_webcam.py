"""Webcams: FFmpeg's lavfi device takes the place of one."""

import errno
import os
import time
from collections.abc import Callable
from itertools import pairwise

import av
import pytest

from graph import ConfigError, NodeError
from nodes import _source_check, _webcam
from nodes.capture import Capture
from tests.clips import captured


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def plug_in(graph: str) -> None:
        monkeypatch.setattr(_webcam, "device", lambda uri: _webcam.Device("lavfi", graph))

    return plug_in


def test_webcam_delivers_live(camera: Callable[[str], None], warnings_of: Callable[[], list[str]]) -> None:
    camera("testsrc2=size=320x240:rate=50,realtime")
    before = time.monotonic_ns()
    frames = captured(uri=0, width=640, height=480, limit=5)
    assert frames[0].pts == 0.0
    assert all(later.pts > earlier.pts for earlier, later in pairwise(frames))
    assert all(before < frame.header.t_capture_ns < time.monotonic_ns() for frame in frames)
    assert frames[0].image.shape == (240, 320, 3)
    assert "testsrc2=size=320x240:rate=50,realtime gives 320 x 240 instead of 640 x 480" in warnings_of()


def test_a_slow_graph_sees_the_newest_picture(
    camera: Callable[[str], None], warnings_of: Callable[[], list[str]]
) -> None:
    camera("testsrc2=size=64x48:rate=100,realtime")
    node = Capture(uri=0)
    node.open()
    try:
        frames = (frame for frame in node.process() if frame)
        first = next(frames)
        time.sleep(0.3)
        second, third = next(frames), next(frames)
        assert second.pts - first.pts > 0.2
        assert third.header.t_capture_ns - second.header.t_capture_ns < 0.2e9
    finally:
        node.close()
    assert any("pictures were replaced by newer ones" in text for text in warnings_of())


def test_an_unplugged_webcam_is_an_error(camera: Callable[[str], None]) -> None:
    camera("testsrc2=size=64x48:rate=30:duration=0.1")
    with pytest.raises(NodeError, match=r"is gone \(end of its stream\)"):
        captured(uri=0)


def test_a_silent_webcam_is_an_error(camera: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_webcam, "SILENCE_S", 0.05)
    monkeypatch.setattr(_webcam, "PAUSE_S", 0.02)
    camera("testsrc2=size=64x48:rate=4,realtime")
    with pytest.raises(NodeError, match="has given no picture for"):
        captured(uri=0)


@pytest.mark.skipif(not os.path.isdir("/sys/class"), reason="Video4Linux")
def test_a_missing_webcam_is_reported_with_the_available_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"there is no webcam /dev/video97; (this machine has no webcam|available: )"):
        captured(uri=97)
    monkeypatch.setattr(_webcam, "devices", lambda: [("/dev/video2", "HD Webcam")])
    with pytest.raises(ConfigError, match=r"there is no webcam /dev/video97; available: /dev/video2 \(HD Webcam\)"):
        captured(uri="/dev/video97")
    with pytest.raises(ConfigError, match=r"/dev/null cannot be opened as a webcam \(Inappropriate ioctl for device\)"):
        _webcam.Webcam(_webcam.Device("v4l2", "/dev/null"), 1280, 720, 30.0)


@pytest.mark.skipif(not os.path.isdir("/sys/class"), reason="Video4Linux")
def test_links_to_webcams_are_webcams(monkeypatch: pytest.MonkeyPatch) -> None:
    link = "/dev/v4l/by-id/usb-046d_HD_Webcam-video-index0"
    assert Capture(uri=link).live() and Capture(uri=link).reads() == []
    with pytest.raises(ConfigError, match=f"there is no webcam {link}; "):
        captured(uri=link)
    assert Capture(uri="/dev/null").live(), "it may be a link to a device with any name"
    assert not Capture(uri="/dev/shm/clip.mp4").live()
    monkeypatch.setattr(_webcam, "devices", lambda: [("/dev/video2", "HD Webcam")])
    monkeypatch.setattr(_webcam, "formats", lambda address: ["MJPG"])
    monkeypatch.setattr(os.path, "realpath", lambda path, **_: "/dev/video2" if str(path) == link else path)
    assert [finding.verdict for finding in _source_check.webcams(link)] == ["ok"]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.EBUSY, "/dev/video0 is busy: another program uses it"),
        (errno.EACCES, "no permission to read /dev/video0"),
    ],
)
def test_a_busy_webcam_says_so(monkeypatch: pytest.MonkeyPatch, number: int, text: str) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        av.error.err_check(-number)

    monkeypatch.setattr(av, "open", refuse)  # the tests have no camera that could be busy
    with pytest.raises(ConfigError, match=text):
        _webcam.Webcam(_webcam.Device("v4l2", "/dev/video0"), 0, 0, 0.0)
