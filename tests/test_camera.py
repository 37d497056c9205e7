"""Network cameras: a real RTSP server that is stopped, killed, protected and restarted with other settings."""

import logging
import re
import signal
import socketserver
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import psutil
import pytest

import graph
from graph import ConfigError, NodeError
from nodes import _camera
from nodes._camera import NetworkCamera, Taken
from tests import clips
from tests.cameras import Camera, any_frame, playing, said, served, shows_ball
from tests.conftest import eventually, free_port

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


# --- what cameras send ---


@pytest.mark.parametrize(("codec", "transport"), [("h264", "tcp"), ("mjpeg", "udp"), ("h265", "udp")])
def test_plays_and_says_which_clock_it_uses(camera: Callable[..., Camera], codec: str, transport: str) -> None:
    with playing(camera("--codec", codec).uri(), transport=transport) as until:
        first = until(shows_ball)
        assert (first.image.shape, first.epoch) == ((240, 320, 3), 0)
        by_camera = until(lambda frame: frame.clock == "camera")  # after its first sender report
        assert by_camera.pts > first.pts
        age_s = (time.monotonic_ns() - by_camera.header.t_capture_ns) / 1e9
        assert 0 <= age_s < 5


def test_the_first_key_frame_is_shown_and_not_only_probed(camera: Callable[..., Camera]) -> None:
    """The next one comes after 10 minutes."""
    with playing(camera("--codec", "h265", "--gop", "18000").uri()) as until:
        assert until(any_frame).epoch == 0


def test_a_camera_joined_between_key_frames_gets_more_time(camera: Callable[..., Camera]) -> None:
    """Another client is connected, so no key frame comes first; they are 2.5 s apart, patience is 1 s."""
    cam = camera("--gop", "75")
    with playing(cam.uri()) as watching:
        watching(any_frame)
        time.sleep(0.5)
        with playing(cam.uri()) as until:
            assert until(any_frame).epoch == 0


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        ("kpP KP P", None),
        ("pp pK P", None),
        ("KP kpP KP", None),
        ("kp p", "has sent no picture that can be decoded for 1 s"),
        ("KP p", "has sent no key frame for 1 s"),
    ],
)
def test_packets_without_pictures_are_no_silence_before_the_first_key_frame(
    sent: str, why: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """k is a key frame, p another one; in capitals if it gives a picture. A space is a second."""

    def packets() -> Iterator[av.Packet]:
        for letter in sent:
            if letter == " ":
                time.sleep(1.0)
                continue
            packet = av.Packet(1)
            packet.is_keyframe = letter in "kK"
            packet.opaque = [av.VideoFrame(16, 16, "yuv420p")] if letter.isupper() else []
            yield packet

    monkeypatch.setattr(_camera, "decoded", lambda packet: packet.opaque)
    monkeypatch.setattr(_camera, "video_stream", lambda _: SimpleNamespace(sample_aspect_ratio=None))
    container = SimpleNamespace(format=SimpleNamespace(name="", flags=0), duration=None, start_time_realtime=None)
    pictures = NetworkCamera("rtsp://127.0.0.1:1/x", "tcp", 0.5, 0.0)._pictures(container, packets())  # type: ignore
    if why is None:
        assert len(list(pictures)) == sum(map(str.isupper, sent))
    else:
        with pytest.raises(ValueError, match=why):
            list(pictures)


def test_rate_is_thinned_and_size_converted(camera: Callable[..., Camera]) -> None:
    with playing(camera().uri(), fps=10.0, width=160) as until:
        pts = [until(any_frame).pts for _ in range(8)]
        assert until(any_frame).image.shape == (120, 160, 3)
    assert np.diff(pts).min() > 0.06


def test_slow_consumer_gets_the_newest(camera: Callable[..., Camera]) -> None:
    """Sleeping 0.3 s per frame for 7 s: a queue would have grown by about 6 s."""
    with playing(camera().uri()) as until:
        until(lambda frame: frame.clock == "camera")
        ages = []
        for _ in range(24):
            time.sleep(0.3)
            ages.append((time.monotonic_ns() - until(any_frame).header.t_capture_ns) / 1e9)
    assert np.median(ages[-8:]) < np.median(ages[:8]) + 1.0


@pytest.mark.parametrize("harm", ["--lose=0.15", "--garble=0.0005"])
@pytest.mark.parametrize("codec", ["h264", "mjpeg"])
def test_keeps_playing_through_loss_and_damage(camera: Callable[..., Camera], codec: str, harm: str) -> None:
    """Pictures are lost or damaged; the others continue for 5 s, in order and on the same connection."""
    cam = camera("--codec", codec, harm)
    with playing(cam.uri(), patience=30.0, transport="udp") as until:
        frames = [until(any_frame)]
        while frames[-1].pts < frames[0].pts + 5:
            frames.append(until(any_frame))
        frames.append(until(shows_ball))
    assert {(frame.epoch, frame.image.shape) for frame in frames} == {(0, (240, 320, 3))}
    assert np.diff([frame.pts for frame in frames]).min() > 0


@pytest.mark.parametrize("jumps", [(0, 3600, 0, -3600), (0, -0.9, -1.8, -2.7), (0, 0.105, 777.7, 0)])
@pytest.mark.parametrize("rate", [1.0, 0.0, 2.0])
def test_pts_grow_and_follow_the_arrival_whatever_the_timestamps(jumps: tuple[float, ...], rate: float) -> None:
    """A camera whose clock is set by an hour, restarts, stands still, or is too fast."""
    camera = NetworkCamera("rtsp://127.0.0.1:1/x", "tcp", 1.0, 0.0)
    picture = av.VideoFrame(16, 16, "yuv420p")
    shots = camera.shots()
    pts = []
    for index in range(40):
        stamp = rate * index / 10 + jumps[index // 10]
        camera._newest.append(Taken(picture, stamp, (index + 1) * 100_000_000, None, 0, 1.0))
        camera._arrived.set()
        shot = next(shots)
        assert shot is not None
        pts.append(shot.pts)
    camera.close()
    assert pts[0] == 0 and np.diff(pts).min() > 0 and np.diff(pts).max() < 0.11 + 0.1 * max(rate, 1.0)
    assert pts[-1] == pytest.approx(3.9, abs=2.0 if rate > 1 else 0.5)


@pytest.mark.parametrize(("ahead_s", "known"), [(-1.0, True), (0.5, False), (-60.0, False), (3600.0, False)])
def test_an_implausible_wall_clock_is_not_used(ahead_s: float, known: bool) -> None:
    """The picture arrived a second ago and has waited to be decoded."""
    came_ns = time.monotonic_ns() - 1_000_000_000

    class Container:
        start_time_realtime = int((time.time() - 1 + ahead_s) * 1e6)

    frame = av.VideoFrame(16, 16, "yuv420p")
    frame.pts, frame.time_base = 0, Fraction(1, 1000)
    captured_ns = _camera._captured_ns(Container(), frame, came_ns)
    assert (captured_ns is not None) == known
    if captured_ns is not None:
        assert (came_ns - captured_ns) / 1e9 == pytest.approx(-ahead_s, abs=0.2)


# --- what cameras do ---


def test_waits_between_attempts_grow_and_vary(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_camera, "FIRST_WAIT_S", 0.1)
    monkeypatch.setattr(_camera, "LONGEST_WAIT_S", 0.8)
    waits: list[float] = []
    monkeypatch.setattr(NetworkCamera, "_rest", lambda self, reason, wait_s: waits.append(wait_s))
    with playing(f"rtsp://127.0.0.1:{free_port()}/x"):
        assert eventually(lambda: len(waits) >= 40)
    middle = [0.1, 0.2, 0.4] + [0.8] * 37
    shares = np.array(waits[:40]) / middle
    assert 0.7 <= shares.min() < 0.85 and 1.15 < shares.max() <= 1.3


def test_killed_camera_comes_back_with_another_size(
    camera: Callable[..., Camera], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cam = camera()
    with playing(cam.uri()) as until:
        before = until(any_frame)
        cam.kill()
        assert eventually(lambda: "refuses the connection: nothing listens on this port" in said(caplog))
        cam.start("--size", "160x120", "--fps", "15")
        after = until(lambda frame: frame.epoch > 0)
        assert after.image.shape == (120, 160, 3)
        assert after.pts > before.pts
    assert "is lost: its stream has ended; trying again in" in said(caplog)


@pytest.mark.parametrize(
    ("status", "why"),
    [
        ("453 Not Enough Bandwidth", "refuses to send (it answers 4xx): too many clients may be connected"),
        ("503 Service Unavailable", "has an internal error (it answers 5xx)"),
    ],
)
def test_other_refusals_are_explained(status: str, why: str) -> None:
    class Refuses(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                if line.lower().startswith(b"cseq"):
                    self.wfile.write(f"RTSP/1.0 {status}\r\n".encode() + line + b"\r\n")

    with served(Refuses) as port, pytest.raises(NodeError, match=re.escape(why)):
        NetworkCamera(f"rtsp://127.0.0.1:{port}/x", "tcp", 1.0, 0.0).probe()


def test_a_hung_camera_is_reconnected(camera: Callable[..., Camera], caplog: pytest.LogCaptureFixture) -> None:
    cam = camera()
    with playing(cam.uri()) as until:
        until(any_frame)
        cam.signal(signal.SIGSTOP)
        try:
            assert eventually(lambda: "is lost: does not answer in time" in said(caplog))
        finally:
            cam.signal(signal.SIGCONT)
        assert shows_ball(until(lambda frame: frame.epoch > 0 and shows_ball(frame)))


def test_a_camera_that_only_sends_sound_is_reconnected(
    camera: Callable[..., Camera], caplog: pytest.LogCaptureFixture
) -> None:
    with playing(camera("--blind-after", "3").uri()) as until:
        until(lambda frame: frame.epoch > 0)
    assert "is lost: does not answer in time" in said(caplog)


def test_wrong_password_and_path_are_reported_without_the_password(
    camera: Callable[..., Camera], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cam = camera("--user", "bob:right")
    with playing(cam.uri("bob:wrong@")), playing(cam.uri("bob:right@", path="nothing")):
        assert eventually(lambda: "refuses the user or the password" in said(caplog))
        assert eventually(lambda: "has no such stream" in said(caplog))
    with playing(cam.uri("bob:right@")) as until:
        until(any_frame)
    assert "bob:***@127.0.0.1" in said(caplog)
    assert "wrong" not in said(caplog) and "right" not in said(caplog)


@pytest.mark.parametrize("place", ["bob:sec/ret@127.0.0.1/cam", "bob:sec#ret@127.0.0.1/cam", "127.0.0.1:99999/cam"])
def test_an_address_that_cannot_be_parsed_says_what_to_write(place: str) -> None:
    with pytest.raises(NodeError, match=r"/cam has a port above 65535, or / .* written %2F %3F %23 %25") as error:
        NetworkCamera(f"rtsp://{place}", "tcp", 1.0, 0.0).probe()
    assert "sec" not in str(error.value)


class Garbage(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.recv(1000)
        self.request.sendall(bytes(range(256)) * 40)


def test_invalid_answers_and_unknown_hosts_are_retried(caplog: pytest.LogCaptureFixture) -> None:
    with served(Garbage) as port, playing(f"rtsp://127.0.0.1:{port}/x"), playing("rtsp://nowhere.invalid/x"):
        assert eventually(lambda: f"127.0.0.1:{port}/x does not send video" in said(caplog))
        assert eventually(lambda: "nowhere.invalid/x cannot be reached: no such host, or no way to it" in said(caplog))


@pytest.mark.parametrize(
    "address", ["srt://host:1?mode=caller&passphrase=", "http://host/cam.cgi?access_token=", "http://host/?loginpas="]
)
def test_passwords_in_the_parameters_of_an_address_are_hidden(address: str) -> None:
    assert NetworkCamera(address + "secret99&fps=5", "tcp", 1.0, 0.0).name == address + "***&fps=5"


def test_an_address_without_a_host_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"rtsp://: no host in the address, expected like rtsp://user"):
        NetworkCamera("rtsp://", "tcp", 1.0, 0.0)


def test_a_protocol_that_ffmpeg_lacks_is_an_error_and_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.capture.SCHEMES", ("nonesuch",))
    with pytest.raises(NodeError, match=r"nonesuch://127.0.0.1:1 cannot be read: .* does not know its protocol"):
        clips.captured(uri="nonesuch://127.0.0.1:1")


def test_an_address_may_be_written_in_capitals(camera: Callable[..., Camera]) -> None:
    with playing(camera().uri().replace("rtsp", "RTSP")) as until:
        until(any_frame)


# --- a whole graph ---


def test_a_graph_outlives_its_camera_and_hides_its_password(
    camera: Callable[..., Camera], run_dir: Path, tmp_path: Path
) -> None:
    cam = camera("--user", "bob:secret")
    (tmp_path / "live.yaml").write_text(
        "name: live\n"
        "nodes:\n"
        "  camera: {type: nodes.capture:Capture, settings: {uri: '', patience: 1.0}}\n"
        f"  images: {{type: nodes.record_images:RecordImages, inputs: {{frame: camera.frame}},"
        f" settings: {{folder: {tmp_path / 'pictures'}, every: 10}}}}\n"
    )
    setting = f"camera.uri={cam.uri('bob:secret@')}"
    command = [sys.executable, str(ROOT / "run_graph.py"), str(tmp_path / "live.yaml"), "--set", setting]
    run = subprocess.Popen([*command, "--profile", str(tmp_path / "out")], stderr=subprocess.PIPE, text=True)
    try:
        with graph.attach("live", wait=60) as live:
            frames = iter(live.subscribe("camera.frame"))
            assert next(frames).epoch == 0
            processes = [run, *psutil.Process(run.pid).children(recursive=True)]
            shown = " ".join(" ".join(psutil.Process(process.pid).cmdline()) for process in processes)
            assert "secret" not in shown and "bob:***@" in shown
            cam.kill()
            cam.start("--user", "bob:secret", "--size", "160x120")
            assert next(frame for frame in frames if frame.epoch == 1).image.shape == (120, 160, 3)
        cam.signal(signal.SIGSTOP)
        run.send_signal(signal.SIGINT)
        errors = run.communicate(timeout=60)[1]
    finally:
        cam.signal(signal.SIGCONT)
        run.kill()
        run.communicate()
    assert run.returncode == 0, errors
    assert "is lost" in errors and "secret" not in errors
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert b"secret" not in written
    assert list((tmp_path / "pictures").glob("*.jpg"))
