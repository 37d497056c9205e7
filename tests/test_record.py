import logging
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from graph import ConfigError, Frame, Header, NodeError, config
from graph.testing import run_node
from nodes._encoder import LIMITED_RANGE, SMPTE170M, Timeline, encoder, fit, mpeg4_quantiser
from nodes.capture import Capture
from nodes.record import COLUMNS, Record, RecordFaces
from tests import clips
from tests.accidents import full_disk, killed_after
from tests.conftest import eventually
from tests.graphs import Graph


def frames(at: Sequence[float], size: tuple[int, int] = (64, 48)) -> list[Frame]:
    return [Frame(image=clips.picture(index, *size), header=Header(seq=index, pts=pts)) for index, pts in enumerate(at)]


def read(path: Path) -> list[Frame]:
    return run_node(Capture(uri=str(path)))["frame"]  # type: ignore[return-value]


def times(read_back: list[Frame]) -> list[float]:
    return [round(frame.pts, 3) for frame in read_back]


def test_no_node_overwrites_what_another_one_reads_or_writes(tmp_path: Path) -> None:
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
        f"{file}:4: nodes.same.settings: would overwrite {tmp_path}/clip.mp4, which clip reads",
        f"{file}:5: nodes.pictures.settings: would overwrite {tmp_path}/in, which album reads",
        f"{file}:7: nodes.other.settings: writes {tmp_path}/out.mp4, as does one",
    ]


def test_a_file_has_its_colour_space_duration_and_key_frames(tmp_path: Path) -> None:
    still = [Frame(header=Header(seq=i, pts=i / 10), image=clips.picture(0)) for i in range(130)]
    run_node(Record(path=str(tmp_path / "clip.mp4")), frame=still)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        (stream,) = container.streams.video
        made = (stream.codec_context.colorspace, stream.codec_context.color_range)
        assert made == (SMPTE170M, LIMITED_RANGE), "otherwise players assume BT.709 for HD"
        assert container.duration == 13_000_000, "the last frame is shown as long as the others"
        assert [index for index, packet in enumerate(container.demux(stream)) if packet.is_keyframe] == [0, 60, 120]


def test_an_invalid_path_is_reported_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "g.yaml"
    file.write_text("""nodes:
  clip: {type: nodes.capture:Capture, settings: {uri: a.mp4}}
  out: {type: nodes.record:Record, inputs: {frame: clip.frame}, settings: {path: ~no-such-user/out.mp4}}
""")
    why = r"g\.yaml:3: nodes\.out\.settings: Record: Could not determine home directory"
    with pytest.raises(ConfigError, match=why):
        config.load(file)


@pytest.mark.slow
def test_recordings_from_before_a_restart_are_kept(tmp_path: Path) -> None:
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
    assert f"clip.mp4 is from before the restart and is kept; continuing in {tmp_path}/clip-2.mp4" in running.text()
    assert len(read(tmp_path / "clip.mp4")) > 10 and len(read(tmp_path / "clip-2.mp4")) > 10


# --- video ---


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_recordings_can_be_read(tmp_path: Path, suffix: str, codec: str) -> None:
    path = tmp_path / "new" / "folder" / f"clip{suffix}"
    run_node(Record(path=str(path), crf=10, codec=codec), frame=frames(clips.steady(24)))
    back = read(path)
    assert [clips.number(frame.image) for frame in back] == list(range(24))
    assert times(back) == [round(time, 3) for time in clips.steady(24)]
    with av.open(str(path)) as container:
        assert container.duration == pytest.approx(0.8e6, rel=0.01)
        assert container.streams.video[0].codec_context.name == ("h264" if codec == "libx264" else codec)


def test_colours_are_kept(tmp_path: Path) -> None:
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


def test_a_stream_that_goes_back_in_time_continues_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    run_node(Record(path=str(path)), frame=frames([5.0, 5.1, 5.2, 0.0, 0.1, 0.1, 0.2]))
    assert times(read(path)) == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_frames_after_a_gap_of_hours_have_their_times(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    for hours, gap in ((9, 9 * 3600), (24, 1 / 30)):
        at = [*clips.steady(30), *(29 / 30 + hours * 3600 + second for second in clips.steady(30))]
        run_node(Record(path=str(path)), frame=frames(at))
        back = read(path)
        assert len(back) == 60
        assert np.diff([frame.pts for frame in back]) == pytest.approx([1 / 30] * 29 + [gap] + [1 / 30] * 29, abs=2e-3)


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
    assert warnings == ["frames change from 160 x 80 to 80 x 80: fitted with bars; RecordImages keeps sizes"]


def test_fit_returns_a_picture_of_the_right_size_unchanged() -> None:
    image = clips.picture(3)
    assert fit(image, (64, 48)) is image


def test_an_existing_file_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    run_node(Record(path=str(path)), frame=frames(clips.steady(30)))
    run_node(Record(path=str(path)), frame=frames(clips.steady(3)))
    assert len(read(path)) == 3


def test_without_a_frame_nothing_is_written_or_overwritten(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
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
    monkeypatch.setattr("nodes._encoder.has_codec", lambda name, mode: name == "mpeg4")
    assert encoder("auto") == "mpeg4"
    with pytest.raises(ConfigError, match=r"has no encoder libx264, only mpeg4"):
        encoder("libx264")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("clip.mp5", "'clip.mp5' ends in '.mp5', expected .mp4 or .mov or .mkv; did you mean .mp4?"),
        ("clip", "'clip' ends in '', expected .mp4 or .mov or .mkv"),
        ("faces.csv", "expected .mp4 or .mov or .mkv; nodes.record:RecordFaces writes .csv"),
        ("file/clip.mp4", "cannot write {cwd}/file/clip.mp4: {cwd}/file is not a folder"),
        ("file/a/b/clip.mp4", "cannot write {cwd}/file/a/b/clip.mp4: {cwd}/file is not a folder"),
        ("nowhere/clip.mp4", "cannot write {cwd}/nowhere/clip.mp4: {cwd}/nowhere is not a folder"),
        ("folder.mp4", "cannot write {cwd}/folder.mp4: Is a directory"),
    ],
)
def test_a_path_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to("what/is/not/there")
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(ConfigError) as error:
        run_node(Record(path=path), frame=frames([0.0]))
    assert text.format(cwd=tmp_path) in str(error.value)


@pytest.mark.parametrize(("codec", "most"), [("libx264", 16384), ("mpeg4", 8191)])
def test_pictures_that_are_too_large_are_refused_with_the_limit(tmp_path: Path, codec: Any, most: int) -> None:
    node = Record(path=str(tmp_path / "clip.mp4"), codec=codec)
    node.open()
    size = f"{most + 1 + (most + 1) % 2} x 16"
    with pytest.raises(NodeError, match=rf"clip\.mp4: pictures are {size}, but {codec} only supports .* up to {most};"):
        node.process(Frame(image=np.zeros((16, most + 1, 3), np.uint8)))
    node.close()


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    noise = [Frame(image=random.integers(0, 256, (240, 320, 3)).astype(np.uint8)) for _ in range(30)]
    with full_disk(), pytest.raises(NodeError, match=r"clip\.mp4: File too large"):
        run_node(Record(path=str(tmp_path / "clip.mp4"), crf=5), frame=noise)


RECORD_FOR_EVER = """
import sys, time
from graph import Frame, Header
from nodes.record import Record
from tests import clips
from tests.accidents import full_disk, killed_after

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
