import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.video.reformatter import Colorspace

from graph import Header
from graph.testing import run_node
from nodes import _video
from nodes._video import Converter, VideoFile
from nodes.capture import Capture
from tests import clips
from tests.clips import block, captured, numbers, times


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.mov", "clip.avi", "a:b %d.mp4"])
def test_every_frame_in_order_with_its_time(tmp_path: Path, name: str) -> None:
    path = clips.write(tmp_path / name, clips.steady(12))
    frames = captured(uri=str(path))
    assert numbers(frames) == list(range(12))
    assert np.allclose(np.diff([frame.pts for frame in frames]), 1 / 30, atol=1e-3)
    assert 0 <= frames[0].pts < 0.1
    assert {frame.image.shape for frame in frames} == {(48, 64, 3)}


def test_an_avi_with_b_frames_has_the_times_of_its_rate(tmp_path: Path) -> None:
    """FFmpeg makes up presentation timestamps for them, which go back and forth."""
    frames = captured(uri=str(clips.write(tmp_path / "clip.avi", clips.steady(12), b_frames=3)))
    assert numbers(frames) == list(range(12))
    assert np.allclose(np.diff([frame.pts for frame in frames]), 1 / 30)


def test_colours_are_bgr(tmp_path: Path) -> None:
    image = captured(uri=str(clips.write(tmp_path / "clip.mp4", [0.0])))[0].image
    assert np.abs(image[3, 3].astype(int) - (250, 20, 20)).max() < 12


@pytest.mark.parametrize(("name", "width"), [("clip.ts", 128), ("clip.mkv", 64)])
def test_of_several_streams_the_default_is_taken_or_else_the_largest(tmp_path: Path, name: str, width: int) -> None:
    sizes = [(64, 48), (128, 96), (32, 24)]
    with av.open(str(tmp_path / name), "w") as container:
        streams = [container.add_stream("libx264", rate=30) for _ in sizes]
        for stream, (stream.width, stream.height) in zip(streams, sizes, strict=True):
            stream.pix_fmt = "yuv420p"
        if name == "clip.mkv":
            streams[0].disposition = Disposition.default
        for index in range(5):
            for stream, size in zip(streams, sizes, strict=True):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(clips.picture(index, *size), format="bgr24")))
        for stream in streams:
            container.mux(stream.encode(None))
    frames = captured(uri=str(tmp_path / name))
    assert numbers(frames) == list(range(5)) and {frame.image.shape[1] for frame in frames} == {width}


def test_variable_frame_rate_is_kept(tmp_path: Path) -> None:
    at = [0.0, 0.04, 0.05, 0.3, 0.301, 1.7]
    assert times(captured(uri=str(clips.write(tmp_path / "clip.mp4", at)))) == at


def test_a_picture_is_freed_when_it_has_been_converted(tmp_path: Path) -> None:
    with av.open(str(clips.write(tmp_path / "clip.mp4", [0.0], turned=90, mirrored=True))) as container:
        picture = next(container.decode(video=0))
        before = sys.getrefcount(picture)
        Converter(0, 0).convert(picture, lambda shape: np.empty(shape, np.uint8))
        assert sys.getrefcount(picture) == before, "its memory is not freed before garbage collection"


def test_capture_time_is_now(tmp_path: Path) -> None:
    before = time.monotonic_ns()
    frames = captured(uri=str(clips.write(tmp_path / "clip.mp4", clips.steady(3))))
    stamps = [frame.header.t_capture_ns for frame in frames]
    assert before < stamps[0] < stamps[1] < stamps[2] < time.monotonic_ns()


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("turned", "place"), [(0, (0, 0)), (90, (1, 0)), (180, (1, 1)), (-90, (0, 1))])
def test_rotation_and_mirroring_of_phones_are_applied(
    tmp_path: Path, turned: int, place: tuple[int, int], mirrored: bool
) -> None:
    path = clips.write(tmp_path / "clip.mp4", [0.0], turned=turned, mirrored=mirrored)
    frame = captured(uri=str(path))[0]
    assert frame.image.shape == ((64, 48, 3) if turned % 180 else (48, 64, 3))
    assert block(frame) == (place[0], 1 - place[1] if mirrored else place[1])


@pytest.mark.parametrize(
    ("size", "made_by", "says", "right"),
    [
        ((1280, 720), Colorspace.ITU709, 2, True),
        ((720, 1280), Colorspace.ITU709, 2, True),
        ((1280, 720), Colorspace.ITU601, 2, False),
        ((1280, 720), Colorspace.ITU601, 6, True),
        ((720, 576), Colorspace.ITU601, 2, True),
        ((720, 576), Colorspace.ITU709, 1, True),
    ],
)
def test_untagged_hd_colours_are_bt709_as_in_players(
    size: tuple[int, int], made_by: Colorspace, says: int, right: bool
) -> None:
    colour = np.full((size[1], size[0], 3), (40, 60, 200), np.uint8)
    picture = av.VideoFrame.from_ndarray(colour, format="bgr24").reformat(format="yuv420p", dst_colorspace=made_by)
    picture.colorspace = says
    converted = Converter(0, 0).convert(picture, lambda shape: np.empty(shape, np.uint8))
    assert (np.abs(converted.astype(int) - colour).max() < 6) == right


def test_a_webcam_has_the_same_colours_at_any_size() -> None:
    packed = av.VideoFrame.from_ndarray(np.full((720, 1280, 2), (90, 200), np.uint8), format="yuyv422")
    small = av.VideoFrame.from_ndarray(np.full((48, 64, 2), (90, 200), np.uint8), format="yuyv422")
    large, little = (Converter(0, 0).convert(one, lambda shape: np.empty(shape, np.uint8)) for one in (packed, small))
    np.testing.assert_array_equal(large[5, 5], little[5, 5])


def test_scaling_applies_to_the_upright_picture(tmp_path: Path) -> None:
    path = str(clips.write(tmp_path / "clip.mp4", [0.0], turned=90))
    assert captured(uri=path, width=24)[0].image.shape == (32, 24, 3)
    assert captured(uri=path, height=32)[0].image.shape == (32, 24, 3)
    assert captured(uri=path, width=50, height=20)[0].image.shape == (20, 15, 3), "it keeps its shape"
    assert block(captured(uri=path, width=96)[0]) == (1, 0)


def test_pixels_that_are_not_square_become_so(tmp_path: Path) -> None:
    wide = str(clips.write(tmp_path / "wide.mp4", [0.0], pixel_aspect=Fraction(3, 2)))
    upright = str(clips.write(tmp_path / "upright.mp4", [0.0], turned=90, pixel_aspect=Fraction(3, 2)))
    assert captured(uri=wide)[0].image.shape == (48, 96, 3)
    assert captured(uri=wide, width=48)[0].image.shape == (24, 48, 3)
    assert captured(uri=upright)[0].image.shape == (96, 48, 3)


@pytest.mark.parametrize("suffix", [".h264", ".ts"])
def test_picture_size_may_change(tmp_path: Path, suffix: str) -> None:
    small = clips.write(tmp_path / f"small{suffix}", clips.steady(4))
    large = clips.write(tmp_path / f"large{suffix}", clips.steady(4), size=(96, 80))
    both = tmp_path / f"both{suffix}"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    frames = captured(uri=str(both))
    assert [frame.image.shape[:2] for frame in frames] == [(48, 64)] * 4 + [(80, 96)] * 4
    assert numbers(frames) == [0, 1, 2, 3] * 2


def test_fps_reduces_the_frame_rate(tmp_path: Path) -> None:
    path = str(clips.write(tmp_path / "clip.mp4", clips.steady(12, fps=60)))
    assert numbers(captured(uri=path, fps=30.0)) == [0, 1, 3, 5, 7, 9, 11]
    assert numbers(captured(uri=path, fps=60.0)) == list(range(12))
    assert numbers(captured(uri=path, fps=1000.0)) == list(range(12))


def test_timestamps_that_go_back_and_forth_do_not_exceed_fps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = VideoFile(clips.write(tmp_path / "clip.mp4", [0.0]), fps=10.0)
    frames = [av.VideoFrame(16, 16, "yuv420p") for _ in range(7)]
    for frame, frame.pts in zip(frames, (0, 1, 2, 1, 2, 3, 4), strict=True):
        frame.time_base = Fraction(1, 10)
    monkeypatch.setattr(_video, "_frames", lambda *_: iter(frames))
    assert [shot.pts for shot in file.shots()] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_where_timestamps_start_anew_the_epoch_grows_and_fps_still_applies(tmp_path: Path) -> None:
    once = clips.write(tmp_path / "once.ts", clips.steady(30)).read_bytes()
    twice = tmp_path / "twice.ts"
    twice.write_bytes(once + once)  # as recorders join their files
    assert [frame.epoch for frame in captured(uri=str(twice))] == [0] * 30 + [1] * 30
    assert [frame.epoch for frame in captured(uri=str(twice), loop=True, limit=120)] == sorted([0, 1, 2, 3] * 30)
    alone = numbers(captured(uri=str(tmp_path / "once.ts"), fps=10.0))
    assert numbers(captured(uri=str(twice), fps=10.0)) == [*alone, *alone]


def test_a_loop_with_fps_has_the_same_duration(tmp_path: Path) -> None:
    path = str(clips.write(tmp_path / "clip.mp4", clips.steady(30)))
    every = [frame.pts for frame in captured(uri=path, fps=4.0, loop=True, limit=12)]
    one = [frame.pts for frame in captured(uri=path, fps=4.0)]
    assert every[: 2 * len(one)] == pytest.approx([*one, *(1 + pts for pts in one)], abs=1e-3)


def test_a_loop_continues_in_time_and_starts_a_new_epoch(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "clip.mp4", [0.0, 0.1, 0.4 - 1 / 30])
    frames = captured(uri=str(path), loop=True, limit=8)
    assert numbers(frames) == [0, 1, 2, 0, 1, 2, 0, 1]
    assert times(frames) == [0, 0.1, 0.367, 0.4, 0.5, 0.767, 0.8, 0.9]
    assert [frame.epoch for frame in frames] == [0, 0, 0, 1, 1, 1, 2, 2]


def test_a_loop_of_a_clip_that_starts_late_continues_at_once(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "clip.mp4", [5.0, 5.1, 5.2])
    assert times(captured(uri=str(path), loop=True, limit=5)) == [5, 5.1, 5.2, 5.233, 5.333]


def test_paced_takes_the_time_of_the_clip(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "clip.mp4", [0.0, 0.05, 0.2])
    frames = captured(uri=str(path), paced=True)
    stamps = [frame.header.t_capture_ns / 1e9 for frame in frames]
    assert stamps[2] - stamps[0] > 0.15
    assert stamps[2] - stamps[1] > 0.1


def test_frames_are_written_to_the_allocated_array(tmp_path: Path) -> None:
    node = Capture(uri=str(clips.write(tmp_path / "clip.mp4", clips.steady(2), turned=90)))
    born: list[np.ndarray] = []

    def allocate(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        born.append(np.empty(shape, dtype))
        return born[-1]

    node.__dict__["_allocate"] = allocate
    frames = run_node(node)["frame"]
    assert len(born) == 2
    assert all(frame.image is array for frame, array in zip(frames, born, strict=True))


@pytest.mark.parametrize(
    ("settings", "live"),
    [
        ({"uri": 0}, True),
        ({"uri": "1"}, True),
        ({"uri": "/dev/video2"}, True),
        ({"uri": "clip.mp4"}, False),
        ({"uri": "./0"}, False),
        ({"uri": "clip.mp4", "paced": True}, True),
    ],
)
def test_live(settings: dict[str, Any], live: bool) -> None:
    assert Capture(**settings).live() is live


def test_header_of_a_frame_is_complete(tmp_path: Path) -> None:
    frame = captured(uri=str(clips.write(tmp_path / "clip.mp4", clips.steady(2))))[1]
    assert frame.header._replace(t_capture_ns=0) == Header(stream="test", seq=1, pts=frame.pts)
