"""The node that plays a recording, without a graph."""

import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graph import ConfigError, Frame, Header, Hop, Mark
from graph.mcap_reader import Recording
from graph.recorder import Recorder
from graph.replay import Replay, _Timeline
from graph.testing import run_node
from tests.graphs import Graph, node, rows
from tests.recordings import header, write
from tests.toys import Numbers, picture


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "a.mcap")


def test_replay_keeps_numbers_and_times(path: Path) -> None:
    said = run_node(Replay(path=str(path), speed=0))
    assert [frame.seq for frame in said["frame"]] == [*range(100, 140)]
    assert [numbers.seq for numbers in said["numbers"]] == [*range(100, 140, 2)]
    for messages in said.values():
        assert all(message.pts == message.seq / 25 and message.header.hops == () for message in messages)
    assert all(np.array_equal(frame.image, picture(frame.seq)) for frame in said["frame"])  # type: ignore[attr-defined]


def test_a_loop_continues_the_numbers(path: Path) -> None:
    frames = run_node(Replay(path=str(path), ports=("picture=camera.frame",), speed=0, loop=True), limit=100)["picture"]
    assert [frame.seq for frame in frames] == [*range(100, 200)]
    assert [frame.epoch for frame in frames] == [0] * 40 + [1] * 40 + [2] * 20
    assert np.allclose([frame.pts for frame in frames], np.arange(100, 200) / 25)
    assert all(np.array_equal(frame.image, picture(100 + index % 40)) for index, frame in enumerate(frames))  # type: ignore[attr-defined]


def test_missing_frames_are_missing_in_each_pass_of_a_loop(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mcap", seqs=(0, 5))
    frames = [said["frame"] for said in islice(Replay(path=str(path), speed=0, loop=True).process(), 5)]
    assert [frame.seq for frame in frames if frame] == [0, 5, 6, 11, 12]


def test_no_frame_of_a_replay_was_captured_in_the_future(tmp_path: Path) -> None:
    """As with a camera whose clock is ahead."""
    with Recorder(tmp_path / "a.mcap", {"a.numbers": Numbers}, "main", "none") as recorder:
        ahead = Header("s", 0, t_capture_ns=10**18, hops=(Hop("a", 1, 1, 1),))
        recorder.write("a.numbers", Numbers(header=ahead, values=np.zeros(0)))
    [said] = Replay(path=str(tmp_path / "a.mcap")).process()
    assert said["numbers"] is not None and said["numbers"].header.t_capture_ns <= time.monotonic_ns()


def test_replay_at_a_speed(path: Path) -> None:
    """Two passes of 40 frames of 40 ms at 40 times the speed: each frame is as old as it was."""
    node = Replay(path=str(path), ports=("camera.frame",), speed=40.0, loop=True)
    assert node.live() and not Replay(path=str(path), speed=0).live()
    messages = [said["frame"] for said in islice(node.process(), 80)]
    times = np.array([message.header.t_capture_ns for message in messages if message])
    assert np.allclose(np.diff(times), 1e6, atol=2)


@pytest.mark.parametrize("seqs", [[7], [7, 8, 9]])
def test_replay_yields_only_frames_of_its_ports(tmp_path: Path, seqs: list[int]) -> None:
    with Recorder(tmp_path / "a.mcap", {"camera.frame": Frame, "a.numbers": Numbers}, "main", "none") as recorder:
        for seq in seqs:
            recorder.write("camera.frame", Frame(header=header(seq), image=picture(seq)))
        recorder.write("a.numbers", Numbers(header=header(seqs[-1]), values=np.zeros(0)))
    [said] = Replay(path=str(tmp_path / "a.mcap"), ports=("a.numbers",), speed=0).process()
    assert said["numbers"] is not None and said["numbers"].seq == seqs[-1]


@pytest.mark.slow
def test_marks_are_replayed_too(tmp_path: Path) -> None:
    """A slow node sent 0 and 9, had nothing to say about 5, and missed the others."""
    with Recorder(tmp_path / "a.mcap", {"camera.frame": Frame, "slow.copied": Frame}, "main", "none") as recorder:
        for seq in range(10):
            frame = Frame(header=header(seq), image=picture(seq))
            recorder.write("camera.frame", frame)
            if seq in (0, 5, 9):
                recorder.write("slow.copied", Mark(header=header(seq)) if seq == 5 else frame)
    replay: dict[str, Any] = {"type": "graph.replay:Replay", "settings": {"path": str(tmp_path / "a.mcap"), "speed": 0}}
    nodes = {
        "camera": {**replay, "settings": replay["settings"] | {"ports": ["camera.frame"]}},
        "slow": {**replay, "settings": replay["settings"] | {"ports": ["slow.copied"]}},
        "pair": node("Pair", {"a": "camera.frame", "b": "slow.copied"}),
        "write": node("WriteNumbers", {"numbers": "pair.paired"}, path=str(tmp_path / "out")),
    }
    with Graph(tmp_path, {"name": "again", "nodes": nodes}) as graph:
        assert graph.wait() == 0, graph.text()
    assert rows(tmp_path / "out") == [[0, [0, 0, 0]], [5, [5, 5, -1]], [9, [9, 9, 9]]]


def test_reads_names_the_recording(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(path.parent))
    assert Replay(path=str(path)).reads() == Replay(path="~/a.mcap").reads() == [path]


def test_a_replay_starts_without_delay(path: Path) -> None:
    timeline = _Timeline(Recording(path).span, speed=40.0)
    began = timeline._start_ns
    assert timeline.moved(header(100), 0).t_capture_ns == began - 2_000_000 // 40  # it was sent 2 ms after its capture


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A clock that only sleep() advances."""
    now = [1_000_000_000]
    monkeypatch.setattr("graph.replay.time.monotonic_ns", lambda: now[0])
    monkeypatch.setattr("graph.replay.time.monotonic", lambda: now[0] / 1e9)
    monkeypatch.setattr("graph.replay.time.sleep", lambda s: now.__setitem__(0, now[0] + round(s * 1e9)))
    return now


def test_after_a_pause_a_replay_does_not_catch_up(path: Path, clock: list[int]) -> None:
    times = []
    for count, _ in enumerate(Replay(path=str(path), ports=("camera.frame",)).process()):
        times.append(clock[0])
        clock[0] += 60_000_000_000 if count == 9 else 5_000_000
    steps = np.diff(times) / 1e6
    assert np.allclose(np.delete(steps, 9), 40) and 60_000 <= steps[9] <= 60_040


def test_a_pause_while_waiting_for_the_next_frame(path: Path, clock: list[int]) -> None:
    times: list[int] = []
    for said in Replay(path=str(path), ports=("camera.frame",), speed=0.05).process():
        if said is not None:
            times.append(clock[0])
        elif len(times) == 9:
            clock[0] += 60_000_000_000
    steps = np.diff(times) / 1e6
    assert np.allclose(np.delete(steps, 8), 800) and steps[8] == pytest.approx(60_800)


def test_replay_of_a_recording_that_is_cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3000])
    frames = run_node(Replay(path=str(path), speed=0))["frame"]
    assert 30 < len(frames) <= 40


@pytest.mark.parametrize(
    ("ports", "why"),
    [
        (("camera.frme",), r"a\.mcap has no port 'camera\.frme'; did you mean 'camera\.frame'\?"),
        (
            ("1=camera.frame",),
            r"'1' in '1=camera\.frame' is not a valid output name; use for example picture=camera\.frame",
        ),
        (("frame=count.numbers", "camera.frame"), r"numbers and camera\.frame would both be 'frame'; rename"),
    ],
)
def test_replay_of_wrong_ports(path: Path, ports: tuple[str, ...], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Replay(path=str(path), ports=ports)
