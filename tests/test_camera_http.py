"""Pictures over HTTP, from a real server: MJPEG, and files."""

import http.server
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from nodes.capture import Capture
from tests import clips
from tests.cameras import playing, said, served
from tests.conftest import eventually

pytestmark = pytest.mark.slow


class Mjpeg(http.server.BaseHTTPRequestHandler):
    shots = 2000

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=shot")
        self.end_headers()
        try:
            for index in range(self.shots):
                data = cv2.imencode(".jpg", clips.picture(index % 50))[1].tobytes()
                head = f"--shot\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                self.wfile.write(head.encode() + data + b"\r\n")
                time.sleep(0.02)
        except OSError:  # the client has disconnected
            return

    def log_message(self, *_: object) -> None:
        return


def test_mjpeg_over_http_has_its_time_of_arrival() -> None:
    """It has no timestamps, and FFmpeg assumes 25 pictures per second."""
    with served(Mjpeg) as port, playing(f"http://127.0.0.1:{port}/") as until:
        first = until(lambda frame: clips.number(frame.image) >= 5)
        last = until(lambda frame: frame.pts > first.pts + 1.5)
    arrived_s = (last.header.t_capture_ns - first.header.t_capture_ns) / 1e9
    assert last.pts - first.pts == pytest.approx(arrived_s, abs=0.05)


class ShortMjpeg(Mjpeg):
    shots = 5


def test_a_stream_that_breaks_off_is_reported_as_such(caplog: pytest.LogCaptureFixture) -> None:
    """And not as an unknown host, for which FFmpeg has the same error number."""
    with served(ShortMjpeg) as port, playing(f"http://127.0.0.1:{port}/") as until:
        until(lambda frame: frame.epoch > 0)
    assert "is lost: its stream has broken off; trying again in" in said(caplog)


class Snapshot(http.server.BaseHTTPRequestHandler):
    """Serves one picture per request, with or (like some cameras) without its length; sometimes busy."""

    asked = 0
    busy = False

    def do_GET(self) -> None:
        if Snapshot.busy:
            self.send_error(503)
            return
        Snapshot.asked += 1
        data = cv2.imencode(".jpg", clips.picture(Snapshot.asked % 24))[1].tobytes()
        self.send_response(200)
        self.send_header("Content-Type", "image/jpeg")
        if "length" in self.path:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        return


@pytest.mark.parametrize("path", ["length.jpg", "snapshot.cgi?channel=1"])
def test_an_address_that_gives_one_picture_is_requested_again(path: str, caplog: pytest.LogCaptureFixture) -> None:
    Snapshot.busy = False
    with served(Snapshot) as port, playing(f"http://127.0.0.1:{port}/{path}", fps=10.0) as until:
        frames = [until(lambda _: True) for _ in range(10)]
        assert "trying again" not in said(caplog)
        Snapshot.busy = True
        assert eventually(lambda: "trying again" in said(caplog))
        Snapshot.busy = False
        after = until(lambda frame: frame.epoch == 1)
    assert len({clips.number(frame.image) for frame in frames}) == 10
    assert {frame.epoch for frame in frames} == {0}
    arrived_s = [frame.header.t_capture_ns / 1e9 for frame in frames]
    assert np.diff([frame.pts for frame in frames]) == pytest.approx(np.diff(arrived_s), abs=0.01)
    assert np.diff(arrived_s).mean() > 0.09
    assert after.pts > frames[-1].pts


class Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        return


def test_a_file_over_http_plays_in_real_time_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips.write(tmp_path / "clip.mp4", clips.steady(20))
    monkeypatch.chdir(tmp_path)
    with served(Files) as port:
        node = Capture(uri=f"http://127.0.0.1:{port}/clip.mp4")
        node.open()
        frames = [frame for frame in node.process() if frame is not None]
        node.close()
    assert len(frames) > 3
    assert clips.number(frames[-1].image) == 19


def test_a_file_over_http_is_looped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips.write(tmp_path / "clip.mp4", clips.steady(20))
    monkeypatch.chdir(tmp_path)
    with served(Files) as port, playing(f"http://127.0.0.1:{port}/clip.mp4", loop=True) as until:
        last = until(lambda frame: clips.number(frame.image) == 19)
        first = until(lambda frame: frame.epoch > 0)
    assert clips.number(first.image) < 10, "it starts again; only the newest picture is kept"
    assert 0 < first.pts - last.pts < 0.5


def test_a_stream_of_two_pictures_per_second_is_not_buffered_too_long(tmp_path: Path) -> None:
    whole = clips.write(tmp_path / "clip.ts", clips.steady(20, fps=2)).read_bytes()

    class Slow(Mjpeg):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            try:
                for index in range(20):
                    self.wfile.write(whole[index * len(whole) // 20 : (index + 1) * len(whole) // 20])
                    time.sleep(0.6)
            except OSError:
                return

    with served(Slow) as port, playing(f"http://127.0.0.1:{port}/") as until:
        assert until(lambda frame: clips.number(frame.image) == 9).epoch == 0


def test_live_segments_play_in_real_time(tmp_path: Path) -> None:
    """A live playlist (HLS) gives seconds of video at once, and then nothing for as long."""
    clips.write(tmp_path / "live.m3u8", clips.steady(20))
    whole = (tmp_path / "live.m3u8").read_text()
    (tmp_path / "live.m3u8").write_text(whole.replace("#EXT-X-ENDLIST", ""))
    with served(partial(Files, directory=tmp_path)) as port, playing(f"http://127.0.0.1:{port}/live.m3u8") as until:
        first = until(lambda frame: clips.number(frame.image) < 5)
        last = until(lambda frame: clips.number(frame.image) > 12)
    assert last.epoch == first.epoch
    assert last.header.t_capture_ns - first.header.t_capture_ns > 0.2e9


def test_only_the_largest_resolution_of_a_playlist_is_downloaded(tmp_path: Path) -> None:
    master = "#EXTM3U\n"
    for name, size in (("small", (32, 24)), ("large", (128, 96)), ("middle", (64, 48))):
        clips.write(tmp_path / f"{name}.m3u8", clips.steady(200), size=size)
        master += f"#EXT-X-STREAM-INF:BANDWIDTH=100000\n{name}.m3u8\n"
    (tmp_path / "all.m3u8").write_text(master)
    asked = []

    class Noted(Files):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

    with served(partial(Noted, directory=tmp_path)) as port, playing(f"http://127.0.0.1:{port}/all.m3u8") as until:
        assert until(lambda frame: frame.pts > 3.0).image.shape == (96, 128, 3)
    assert "/large1.ts" in asked
    assert not {"/small1.ts", "/middle1.ts"} & {*asked}, "only the first segments are probed"


def test_a_file_over_http_may_show_a_picture_for_longer_than_patience(tmp_path: Path) -> None:
    """A picture that waits until it is due has arrived: the camera is not silent."""
    clips.write(tmp_path / "clip.mp4", [0.0, 0.1, 2.6, 2.7, 2.8])
    with served(partial(Files, directory=tmp_path)) as port, playing(f"http://127.0.0.1:{port}/clip.mp4") as until:
        late = until(lambda frame: clips.number(frame.image) > 1)
    assert late.epoch == 0 and 2.5 < late.pts < 2.9


def test_a_gap_in_the_timestamps_of_a_file_over_http_is_not_waited_for(tmp_path: Path) -> None:
    clips.write(tmp_path / "clip.mp4", [*clips.steady(10), *(1000 + time_s for time_s in clips.steady(20))])
    with served(partial(Files, directory=tmp_path)) as port, playing(f"http://127.0.0.1:{port}/clip.mp4") as until:
        assert until(lambda frame: clips.number(frame.image) > 20)
