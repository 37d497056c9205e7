import csv
import json
import logging
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from graph import OPENNESS, POSE, STATES, ConfigError, Faces, Frame, Header, NodeError, config
from graph.testing import run_node
from nodes._encoder import Timeline, encoder, fit, mpeg4_quantiser
from nodes.capture import Capture
from nodes.record import COLUMNS, Record, RecordFaces
from tests import clips
from tests.conftest import eventually
from tests.graphs import Graph


def frames(at: Sequence[float], size: tuple[int, int] = (64, 48)) -> list[Frame]:
    return [Frame(image=clips.picture(index, *size), header=Header(seq=index, pts=pts)) for index, pts in enumerate(at)]


def read(path: Path) -> list[Frame]:
    return run_node(Capture(uri=str(path)))["frame"]  # type: ignore[return-value]


def times(read_back: list[Frame]) -> list[float]:
    return [round(frame.pts, 3) for frame in read_back]


def test_nothing_is_written_over_what_the_graph_reads_or_writes(tmp_path: Path) -> None:
    clips.write(tmp_path / "clip.mp4", clips.steady(3))
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in/1.png"), clips.picture(1))
    text = """nodes:
  clip: {type: nodes.capture:Capture, settings: {uri: %s}}
  album: {type: nodes.capture:Capture, settings: {uri: %s}}
  same: {type: nodes.record:Record, inputs: {frame: clip.frame}, settings: {path: %s}}
  pictures: {type: nodes.record_images:RecordImages, inputs: {frame: clip.frame}, settings: {folder: %s}}
  one: {type: nodes.record:Record, inputs: {frame: album.frame}, settings: {path: %s}}
  other: {type: nodes.record:Record, inputs: {frame: album.frame}, settings: {path: %s}}
"""
    names = ("clip.mp4", "in/*.png", "in/../clip.mp4", "in", "out.mp4", "out.mp4")
    file = tmp_path / "g.yaml"
    file.write_text(text % tuple(tmp_path / name for name in names))
    with pytest.raises(ConfigError) as caught:
        config.load(file)
    assert str(caught.value).splitlines() == [
        f"{file}:4: nodes.same.settings: would write over what clip reads: {tmp_path}/clip.mp4",
        f"{file}:5: nodes.pictures.settings: would write over what album reads: {tmp_path}/in",
        f"{file}:7: nodes.other.settings: writes to {tmp_path}/out.mp4, and so does one",
    ]


def test_a_path_that_is_none_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "g.yaml"
    file.write_text("""nodes:
  clip: {type: nodes.capture:Capture, settings: {uri: a.mp4}}
  out: {type: nodes.record:Record, inputs: {frame: clip.frame}, settings: {path: ~no-such-user/out.mp4}}
""")
    why = r"g\.yaml:3: nodes\.out\.settings: Record: Could not determine home directory"
    with pytest.raises(ConfigError, match=why):
        config.load(file)


@pytest.mark.parametrize("left", ["", "seq,pts,ep", "whole line\npart of"])
def test_a_file_that_is_gone_on_with_has_its_head_and_whole_lines(tmp_path: Path, left: str) -> None:
    (tmp_path / "faces.csv").write_text(left)
    node = RecordFaces(path=str(tmp_path / "faces.csv"))
    node.__dict__["_restarted"] = True  # as a worker does
    run_node(node, faces=[some_faces(7, 1)])
    lines = (tmp_path / "faces.csv").read_text().splitlines()
    assert lines[0] == ("whole line" if "whole" in left else ",".join(COLUMNS))
    assert len(lines) == 2 and lines[1].startswith("7,")


@pytest.mark.slow
def test_what_was_recorded_before_a_restart_is_kept(tmp_path: Path) -> None:
    def sink(type_: str, port: str, source: str, path: str) -> dict[str, Any]:
        settings = {"path": path}
        return {"type": type_, "inputs": {port: source}, "settings": settings, "restart": "on_failure"}

    source = {"width": 320, "height": 240, "paced": True}
    looked_at = {"frame": "source.frame"}
    nodes = {
        "source": {"type": "nodes.source:TestSource", "settings": source},
        "found": {"type": "nodes.detect:FaceDetector", "inputs": looked_at},
        "faces": {"type": "nodes.landmarks:Landmarks", "inputs": looked_at | {"found": "found.faces"}},
        "clip": sink("nodes.record:Record", "frame", "source.frame", "clip.mp4"),
        "table": sink("nodes.record:RecordFaces", "faces", "faces.faces", "faces.csv"),
    }

    def recorded() -> int:
        table = tmp_path / "faces.csv"
        return table.read_text().count("\n") if table.exists() else 0

    with Graph(tmp_path, {"name": "kept", "nodes": nodes}) as running:
        assert eventually(lambda: recorded() > 30), running.text()
        begin = (tmp_path / "faces.csv").read_text().splitlines()[:30]
        victims = [running.node("clip"), running.node("table")]
        for victim in victims:
            victim.kill()
        assert eventually(lambda: recorded() > 90 and (tmp_path / "clip-2.mp4").exists()), running.text()
        running.interrupt()
        assert running.wait() == 0, running.text()
    lines = (tmp_path / "faces.csv").read_text().splitlines()
    seqs = [int(line.partition(",")[0]) for line in lines[1:]]
    assert lines[:30] == begin and lines[0] == ",".join(COLUMNS)
    assert seqs == sorted(set(seqs))
    assert f"clip.mp4 is from before the restart and is kept; going on in {tmp_path}/clip-2.mp4" in running.text()
    assert len(read(tmp_path / "clip.mp4")) > 10 and len(read(tmp_path / "clip-2.mp4")) > 10


# --- video ---


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_what_is_recorded_can_be_read(tmp_path: Path, suffix: str, codec: str) -> None:
    path = tmp_path / "new" / "folder" / f"clip{suffix}"
    run_node(Record(path=str(path), crf=10, codec=codec), frame=frames(clips.steady(24)))
    back = read(path)
    assert [clips.number(frame.image) for frame in back] == list(range(24))
    assert times(back) == [round(time, 3) for time in clips.steady(24)]
    with av.open(str(path)) as container:
        assert container.duration == pytest.approx(0.8e6, rel=0.01)
        assert container.streams.video[0].codec_context.name == ("h264" if codec == "libx264" else codec)


def test_colours_survive(tmp_path: Path) -> None:
    colours = [(250, 20, 20), (20, 200, 20), (20, 20, 230), (120, 160, 220), (0, 0, 0), (255, 255, 255)]
    images = [np.full((64, 64, 3), colour, np.uint8) for colour in colours]
    path = tmp_path / "clip.mp4"
    run_node(Record(path=str(path), crf=5), frame=[Frame(image=image) for image in images])
    for frame, colour in zip(read(path), colours, strict=True):
        assert np.abs(frame.image[32, 32].astype(int) - colour).max() <= 6


def test_variable_frame_rate_is_kept_from_zero(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    run_node(Record(path=str(path)), frame=frames([100.0, 100.04, 100.05, 101.5, 101.501]))
    assert times(read(path)) == [0.0, 0.04, 0.05, 1.5, 1.501]


def test_a_stream_that_goes_back_in_time_goes_on_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    run_node(Record(path=str(path)), frame=frames([5.0, 5.1, 5.2, 0.0, 0.1, 0.1, 0.2]))
    assert times(read(path)) == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


def test_timeline_always_grows() -> None:
    timeline = Timeline()
    random = np.random.default_rng(1)
    ticks = [timeline.tick(pts) for pts in random.uniform(-5, 5, 200)]
    assert ticks[0] == 0
    assert all(later > earlier for earlier, later in pairwise(ticks))


@pytest.mark.parametrize("size", [(65, 48), (64, 49), (63, 47), (1, 1), (2, 3), (64, 50)])
def test_odd_sizes_gain_a_row_or_column(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "clip.mp4"
    run_node(Record(path=str(path), crf=5), frame=frames(clips.steady(3), size))
    image = read(path)[2].image
    width, height = size
    assert image.shape == (height + height % 2, width + width % 2, 3)
    if min(size) > 40:
        assert np.abs(image[:height, :width].astype(int) - clips.picture(2, *size)).mean() < 3


def test_another_size_is_fitted_with_bars(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "clip.mp4"
    shown = frames(clips.steady(2), (160, 80)) + frames(clips.steady(2), (80, 80)) + frames(clips.steady(2), (40, 20))
    renumbered = [frame.with_header(Header(seq=i, pts=i / 30)) for i, frame in enumerate(shown)]
    run_node(Record(path=str(path), crf=5), frame=renumbered)
    back = read(path)
    assert {frame.image.shape for frame in back} == {(80, 160, 3)}
    assert back[3].image[:, :38].max() < 8
    assert abs(float(np.median(back[3].image[:, 60:120])) - 28) < 3
    assert abs(float(np.median(back[5].image)) - 28) < 3
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == ["frames change from 160 x 80 to 80 x 80: fitted with bars"]


def test_fit_leaves_a_picture_of_the_right_size_alone() -> None:
    image = clips.picture(3)
    assert fit(image, (64, 48)) is image


def test_an_existing_file_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    run_node(Record(path=str(path)), frame=frames(clips.steady(30)))
    run_node(Record(path=str(path)), frame=frames(clips.steady(3)))
    assert len(read(path)) == 3


def test_without_a_frame_nothing_is_written_or_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    video, lines = tmp_path / "clip.mp4", tmp_path / "faces.jsonl"
    for _ in range(2):
        run_node(Record(path=str(video)), frame=[])
        run_node(RecordFaces(path=str(lines)), faces=[])
        for path in (video, lines):
            assert f"no frame came: {path} is not written" in caplog.text
    assert list(tmp_path.iterdir()) == []
    video.write_bytes(b"from an earlier run")
    run_node(Record(path=str(video)), frame=[])
    assert video.read_bytes() == b"from an earlier run"


def test_lower_crf_is_larger(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    noise = [Frame(image=random.integers(0, 256, (96, 128, 3)).astype(np.uint8)) for _ in range(5)]
    for codec in ("libx264", "mpeg4"):
        for crf in (12, 40):
            run_node(Record(path=str(tmp_path / f"{crf}.mp4"), crf=crf, codec=codec), frame=noise)
        assert (tmp_path / "12.mp4").stat().st_size > 2 * (tmp_path / "40.mp4").stat().st_size
    assert mpeg4_quantiser(0) == 1
    assert mpeg4_quantiser(24) == 5
    assert mpeg4_quantiser(51) == 31


def test_auto_takes_the_best_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert encoder("auto") == "libx264"
    monkeypatch.setattr("nodes._encoder._has", lambda name: name == "mpeg4")
    assert encoder("auto") == "mpeg4"
    with pytest.raises(ConfigError, match=r"has no encoder libx264, only mpeg4"):
        encoder("libx264")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("clip.mp5", "'clip.mp5' ends in '.mp5', expected .mp4 or .mov or .mkv; did you mean .mp4?"),
        ("clip", "'clip' ends in '', expected .mp4 or .mov or .mkv"),
        ("faces.csv", "expected .mp4 or .mov or .mkv; nodes.record:RecordFaces writes .csv"),
        ("file/clip.mp4", "cannot write {cwd}/file/clip.mp4: File exists"),
        ("folder.mp4", "cannot write {cwd}/folder.mp4: Is a directory"),
    ],
)
def test_a_path_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(ConfigError) as error:
        run_node(Record(path=path), frame=frames([0.0]))
    assert text.format(cwd=tmp_path) in str(error.value)
    with pytest.raises(ConfigError, match=r"nodes\.record:Record writes \.mp4"):
        run_node(RecordFaces(path="clip.mp4"), faces=[])


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    random = np.random.default_rng(0)
    noise = [Frame(image=random.integers(0, 256, (240, 320, 3)).astype(np.uint8)) for _ in range(30)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # writing beyond fails as on a full disk
    try:
        with pytest.raises(NodeError, match=r"clip\.mp4: File too large"):
            run_node(Record(path=str(path), crf=5), frame=noise)
        with pytest.raises(NodeError, match=r"faces\.csv: File too large"):
            run_node(RecordFaces(path=str(tmp_path / "faces.csv")), faces=[some_faces(0, 20)] * 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


RECORD_FOR_EVER = """
import sys, time
from graph import Frame, Header
from nodes.record import Record
from tests import clips

node = Record(path=sys.argv[1], codec=sys.argv[2])
node.open()
for index in range(10_000):
    node.process(Frame(image=clips.picture(index), header=Header(seq=index, pts=index / 30)))
    print(index, flush=True)
    time.sleep(0.002)
"""


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_killed_recording_can_be_read_up_to_its_last_second(tmp_path: Path, suffix: str, codec: str) -> None:
    path = tmp_path / f"clip{suffix}"
    recorded = killed_after(100, RECORD_FOR_EVER, str(path), codec)
    back = read(path)
    assert recorded - 30 <= len(back) <= recorded + 1
    assert [clips.number(frame.image) for frame in back[:24]] == list(range(24))
    assert np.allclose(np.diff([frame.pts for frame in back]), 1 / 30, atol=1e-3)


def killed_after(lines: int, script: str, *arguments: str) -> int:
    """Run a script until it has printed so many numbers, SIGKILL it, and return the last number."""
    root = Path(__file__).parents[1]
    child = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        text=True,
    )
    with child:
        assert child.stdout is not None
        printed = [child.stdout.readline() for _ in range(lines)]
        assert printed[-1], "the script ended by itself"
        child.kill()
        return int((printed[-1] + child.stdout.read()).split()[-1])


# --- faces ---


def some_faces(seq: int, count: int) -> Faces:
    random = np.random.default_rng(seq)
    return Faces(
        header=Header(seq=seq, pts=seq / 30, epoch=2),
        ids=np.arange(count, dtype=np.int64) + 7,
        boxes=random.uniform(0, 1000, (count, 4)).astype(np.float32),
        scores=random.uniform(0, 1, count).astype(np.float32),
        landmarks=random.uniform(-50, 2000, (count, 68, 2)).astype(np.float32),
        spread=random.uniform(0, 20, (count, 68)).astype(np.float32),
        pose=random.uniform(-90, 90, (count, 3)).astype(np.float32),
        states=random.uniform(0, 1, (count, 4)).astype(np.float32),
        openness=random.uniform(0.1, 1, (count, 3)).astype(np.float32),
        blinks=np.arange(count) + 3,
    )


def record_faces(path: Path, messages: list[Faces]) -> str:
    run_node(RecordFaces(path=str(path)), faces=messages)
    return path.read_text(encoding="utf-8")


def test_json_lines(tmp_path: Path) -> None:
    messages = [some_faces(0, 2), some_faces(1, 0), some_faces(2, 1)]
    lines = [json.loads(line) for line in record_faces(tmp_path / "out" / "faces.jsonl", messages).splitlines()]
    assert [line["seq"] for line in lines] == [0, 1, 2]
    assert lines[1] == {"seq": 1, "pts": 0.033333, "epoch": 2, "faces": []}
    face, original = lines[0]["faces"][1], messages[0]
    assert list(face) == ["id", "box", "score", "landmarks", "spread", "pose", "states", "openness", "blinks"]
    assert face["id"] == 8
    assert np.allclose(face["box"], original.boxes[1], atol=0.0051)
    assert np.allclose(face["landmarks"], original.landmarks[1], atol=0.0051)
    assert np.allclose(face["spread"], original.spread[1], atol=0.0051)
    assert face["score"] == pytest.approx(float(original.scores[1]), abs=5e-5)
    assert list(face["pose"]) == list(POSE)
    assert np.allclose(list(face["pose"].values()), original.pose[1], atol=0.0051)
    assert list(face["states"]) == list(STATES)
    assert np.allclose(list(face["states"].values()), original.states[1], atol=5.1e-5)
    assert list(face["openness"]) == list(OPENNESS)
    assert np.allclose(list(face["openness"].values()), original.openness[1], atol=5.1e-5)
    assert face["blinks"] == 4


def test_numbers_are_short(tmp_path: Path) -> None:
    text = record_faces(tmp_path / "faces.jsonl", [some_faces(0, 3)])
    assert max(len(number.partition(".")[2]) for number in text.replace("]", ",").split(",") if "." in number) < 10
    assert len(text) < 3 * 2000


def test_csv(tmp_path: Path) -> None:
    messages = [some_faces(0, 2), some_faces(1, 0), some_faces(2, 1)]
    table = list(csv.DictReader(record_faces(tmp_path / "faces.csv", messages).splitlines()))
    assert tuple(table[0]) == COLUMNS
    assert COLUMNS[-70:-67] == ("x67", "y67", "spread0")
    assert [(row["seq"], row["id"]) for row in table] == [("0", "7"), ("0", "8"), ("2", "7")]
    row, original = table[1], messages[0]
    points = [[float(row[f"x{n}"]), float(row[f"y{n}"])] for n in range(68)]
    assert np.allclose(points, original.landmarks[1], atol=0.0051)
    assert np.allclose([float(row[f"spread{n}"]) for n in range(68)], original.spread[1], atol=0.0051)
    assert np.allclose([float(row[name]) for name in POSE], original.pose[1], atol=0.0051)
    assert np.allclose([float(row[name]) for name in STATES], original.states[1], atol=5.1e-5)
    assert np.allclose([float(row[name]) for name in OPENNESS], original.openness[1], atol=5.1e-5)
    assert row["blinks"] == "4"
    assert np.allclose([float(row[n]) for n in ("left", "top", "right", "bottom")], original.boxes[1], atol=0.0051)
    assert row["epoch"] == "2"


def test_what_is_not_finite_is_null_or_empty(tmp_path: Path) -> None:
    faces = some_faces(0, 1)
    faces.pose[0] = np.nan
    faces.landmarks[0, 5] = (np.inf, 3.0)
    face = json.loads(record_faces(tmp_path / "faces.jsonl", [faces]))["faces"][0]
    assert list(face["pose"].values()) == [None] * 3
    assert face["landmarks"][5] == [None, 3.0]
    row = next(csv.DictReader(record_faces(tmp_path / "faces.csv", [faces]).splitlines()))
    assert (row["pitch"], row["x5"], row["y5"]) == ("", "", "3.0")


RECORD_FACES_FOR_EVER = """
import sys, time
from tests.test_record import some_faces
from nodes.record import RecordFaces

node = RecordFaces(path=sys.argv[1])
node.open()
for index in range(10_000):
    node.process(some_faces(index, 3))
    print(index, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_killed_faces_are_all_there(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"faces{suffix}"
    recorded = killed_after(50, RECORD_FACES_FOR_EVER, str(path))
    lines = path.read_text().splitlines()
    if suffix == ".jsonl":
        assert json.loads(lines[recorded])["seq"] == recorded
    else:
        rows = [row for row in csv.DictReader(lines) if row["seq"] == str(recorded)]
        assert len(rows) == 3
        assert all(rows[2].values())
