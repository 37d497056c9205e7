"""Cameras that send more than can be decoded in time: real ones, and packets made by the test."""

import io
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from nodes import _arrivals, _camera, _webcam
from nodes._arrivals import Arrivals
from nodes.capture import Capture
from tests import clips
from tests.cameras import Camera, playing, said
from tests.conftest import eventually


class Sender:
    """A fake container that sends packets on request, K for a key frame; their size is their number.

    S is sound, the end of a stream a dot.
    """

    def __init__(self) -> None:
        self.more = threading.Semaphore(0)
        self.kinds = ""
        self._made = av.open(io.BytesIO(), "w", format="nut")
        self.pictures = self._made.add_stream("mjpeg")
        self.sound = self._made.add_stream("mp2")

    def send(self, kinds: str) -> None:
        self.kinds += kinds
        for _ in kinds:
            self.more.release()

    def demux(self) -> Iterator[av.Packet]:
        for number in range(100):
            self.more.acquire()
            if self.kinds[number] == ".":
                return
            packet = av.Packet(number + 1)
            packet.is_keyframe = self.kinds[number] == "K"
            packet.stream = self.sound if self.kinds[number] == "S" else self.pictures
            yield packet


@contextmanager
def arrivals(sender: Sender, patience_s: float = math.inf) -> Iterator[tuple[Arrivals, Iterator[av.Packet]]]:
    with Arrivals(sender, sender.pictures, "cam", threading.Event(), patience_s) as read:  # type: ignore[arg-type]
        try:
            yield read, iter(read)
        finally:
            sender.send(".")


def take(packets: Iterator[av.Packet]) -> int:
    return next(packets).size - 1


def come(read: Arrivals, count: int) -> bool:
    return eventually(lambda: len(read._waiting) + read.skipped >= count)


def send_after(read: Arrivals, skipped: int, sender: Sender, kinds: str) -> None:
    """Send more as soon as this many packets have been skipped, while the test waits for the next one."""

    def wait_and_send() -> None:
        if eventually(lambda: read.skipped >= skipped):
            sender.send(kinds)

    threading.Thread(target=wait_and_send).start()


def test_a_decoder_that_keeps_up_gets_every_packet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_arrivals, "LATE_S", 3600.0)
    sender = Sender()
    with arrivals(sender) as (read, packets):
        sender.send("KPPKPPKPPP")
        assert [take(packets) for _ in range(10)] == list(range(10))
        assert read.skipped == 0
        sender.send(".")
        assert next(packets, None) is None


@pytest.mark.parametrize("is_start", [False, True])
def test_a_late_decoder_continues_at_the_newest_key_frame_with_a_warning_except_at_the_start(
    is_start: bool, monkeypatch: pytest.MonkeyPatch, warnings_of: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr(_arrivals, "LATE_S", 0.0)
    monkeypatch.setattr(_arrivals, "START_S", 3600.0 if is_start else 0.0)
    sender = Sender()
    with arrivals(sender) as (read, packets):
        sender.send("KPPKPPKPPP")
        assert come(read, 10)
        assert [take(packets) for _ in range(5)] == [0, 6, 7, 8, 9]
        assert read.skipped == 5
    assert warnings_of() == ([] if is_start else [_arrivals.BEHIND % ("cam", 5)])


def test_a_late_decoder_waits_for_the_next_key_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    sender = Sender()
    with arrivals(sender) as (read, packets):
        sender.send("KPPP")
        assert come(read, 4)
        assert take(packets) == 0
        monkeypatch.setattr(_arrivals, "LOST_S", 0.0)
        send_after(read, 3, sender, "PPKP")
        assert take(packets) == 6
        assert read.skipped == 5
        monkeypatch.undo()
        assert take(packets) == 7


def test_waiting_for_a_key_frame_ends_after_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sender = Sender()
    monkeypatch.setattr(_arrivals, "LOST_S", 0.0)
    monkeypatch.setattr(_arrivals, "KEY_S", 0.0)
    with arrivals(sender) as (read, packets):
        sender.send("KPPP")
        assert come(read, 4)
        assert take(packets) == 0
        send_after(read, 3, sender, "P")
        assert take(packets) == 4


def test_sound_does_not_hide_missing_pictures() -> None:
    """Only over RTSP can pictures alone be requested."""
    sender = Sender()
    with arrivals(sender, patience_s=0.2) as (_, packets):
        sender.send("KSP")
        assert [take(packets), take(packets)] == [0, 2]
        time.sleep(0.3)
        sender.send("S")
        with pytest.raises(ValueError, match=r"has sent only sound or data for 0\.2 s"):
            next(packets)


def test_damaged_packets_are_skipped(tmp_path: Path) -> None:
    shown = []
    with av.open(str(clips.write(tmp_path / "clip.avi", clips.steady(5), codec="mjpeg"))) as container:
        for number, packet in enumerate(container.demux(video=0)):
            if number == 2:
                packet.update(bytes(packet.size))
            shown += [clips.number(picture.to_ndarray(format="bgr24")) for picture in _arrivals.decoded(packet)]
    assert shown == [0, 1, 3, 4]


def slow(seconds: float) -> Callable[[av.Packet], list[av.VideoFrame]]:
    def decoded(packet: av.Packet) -> list[av.VideoFrame]:
        time.sleep(seconds)
        return _arrivals.decoded(packet)

    return decoded


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["h264", "mjpeg"])
def test_the_delay_of_a_slowly_decoded_network_camera_does_not_grow(
    camera: Callable[..., Camera], codec: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By the camera's own clock. A third of its rate would be 5 s late after 8 s."""
    monkeypatch.setattr(_camera, "decoded", slow(0.1))
    with playing(camera("--codec", codec).uri()) as until:
        first = until(lambda frame: frame.clock == "camera")
        ages, frame = [], first
        while frame.pts < first.pts + 8:
            frame = until(lambda frame: frame.clock == "camera")
            ages.append((time.monotonic_ns() - frame.header.t_capture_ns) / 1e9)
    assert np.median(ages[-20:]) < 2.5
    assert "sends more than can be decoded here" in said(caplog)


@pytest.mark.slow
def test_pictures_of_a_slowly_decoded_webcam_have_their_time_of_arrival(
    monkeypatch: pytest.MonkeyPatch, warnings_of: Callable[[], list[str]]
) -> None:
    class Keys(Arrivals):
        def _put(self, packet: av.Packet) -> None:
            packet.is_keyframe = True  # as in FFmpeg for JPEG and raw pictures, but not for lavfi
            super()._put(packet)

    monkeypatch.setattr(_webcam, "Arrivals", Keys)
    monkeypatch.setattr(_arrivals, "START_S", 0.0)
    monkeypatch.setattr(_webcam, "device", lambda uri: _webcam.Device("lavfi", "testsrc2=size=64x48:rate=50,realtime"))
    monkeypatch.setattr(_webcam, "decoded", slow(0.2))
    node = Capture(uri=0)
    node.open()
    frames = (frame for frame in node.process() if frame)
    shown_s = [frame.header.t_capture_ns / 1e9 - frame.pts for frame in islice(frames, 15)]
    node.close()
    assert max(shown_s) - min(shown_s) < 1.0, "15 pictures with nine lost between two would come 2.7 s late"
    assert any("sends more than can be decoded here" in text for text in warnings_of())
    assert re.search(r", [1-9]\d* skipped undecoded$", warnings_of()[-1])
