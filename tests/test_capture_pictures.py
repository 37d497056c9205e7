"""Pictures, folders and patterns of them."""

import zlib
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from graph import ConfigError, Frame, NodeError
from graph.wire import MAX_BUFFER
from nodes._video import LARGEST, Converter
from nodes.capture import find
from tests import clips
from tests.clips import block, captured, numbers, times


def put(path: Path, index: int = 0) -> Path:
    cv2.imwrite(str(path), clips.picture(index))
    return path


def test_folder_in_natural_order(tmp_path: Path) -> None:
    for index, name in enumerate(["shot1.png", "shot2.jpg", "shot10.PNG"]):
        put(tmp_path / name, index)
    put(tmp_path / ".hidden.png", 9)
    (tmp_path / "readme.txt").write_text("no picture")
    frames = captured(uri=str(tmp_path), fps=10.0)
    assert numbers(frames) == [0, 1, 2]
    assert times(frames) == [0.0, 0.1, 0.2]
    assert numbers(captured(uri=f"{tmp_path}/*1*")) == [0, 2]
    assert times(captured(uri=str(tmp_path))) == [0.0, 0.033, 0.067]


def test_a_pattern_does_not_apply_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "take [1]").mkdir()
    monkeypatch.chdir(tmp_path / "take [1]")
    there = [put(tmp_path / "take [1]" / name) for name in ("a.png", "b.png")]
    assert find("*.png") == there


def test_a_pattern_may_match_one_video(tmp_path: Path) -> None:
    clips.write(tmp_path / "cam-2026-11-28.mp4", clips.steady(3))
    assert numbers(captured(uri=f"{tmp_path}/cam-*.mp4")) == [0, 1, 2]


def test_unreadable_pictures_are_skipped_with_a_warning(tmp_path: Path, warnings_of: Callable[[], list[str]]) -> None:
    for index in range(5):
        put(tmp_path / f"{index}.png", index)
    clips.cut(tmp_path / "1.png", 0.5)
    (tmp_path / "2.png").write_bytes(b"")
    whole = (tmp_path / "3.png").read_bytes()
    header = b"IHDR" + (70_000).to_bytes(4) * 2 + whole[24:29]  # more pixels than OpenCV accepts
    (tmp_path / "3.png").write_bytes(whole[:12] + header + zlib.crc32(header).to_bytes(4) + whole[33:])
    frames = captured(uri=str(tmp_path))
    assert numbers(frames) == [0, 4]
    assert times(frames) == [0.0, 0.133]
    assert [find(str(tmp_path))[frame.seq].name for frame in frames] == ["0.png", "4.png"]  # type: ignore[index]
    assert warnings_of() == [f"{tmp_path}/{n}.png cannot be read as a picture: skipped" for n in (1, 2, 3)]


def test_unreadable_pictures_leave_a_gap_in_each_pass_of_a_loop(tmp_path: Path) -> None:
    """So that two folders joined by seq stay in step."""
    for index in range(3):
        put(tmp_path / f"{index}.png", index)
    clips.cut(tmp_path / "1.png", 0.5)
    frames = captured(uri=str(tmp_path), loop=True, limit=5)
    assert [(frame.seq, clips.number(frame.image)) for frame in frames] == [(0, 0), (2, 2), (3, 0), (5, 2), (6, 0)]


def test_a_picture_too_large_for_a_message_says_what_to_do(tmp_path: Path) -> None:
    assert LARGEST == MAX_BUFFER, "nodes can only import public names of graph"
    cv2.imwrite(str(tmp_path / "dot.png"), np.zeros((1, 1, 3), np.uint8))
    with pytest.raises(NodeError, match="16384 x 16384 pixels are too many for a message; set a smaller width"):
        captured(uri=str(tmp_path / "dot.png"), width=16_384)


def test_no_readable_picture_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"contains no pictures \(\.bmp .*\); the folder is empty"):
        captured(uri=str(tmp_path))
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(NodeError, match=r"a\.png cannot be read as a picture, nor can the 1 others$"):
        captured(uri=str(tmp_path))
    with pytest.raises(NodeError, match=r"a\.png cannot be read as a picture$"):
        captured(uri=str(tmp_path / "a.png"))


def test_one_picture_looped_is_one_scene(tmp_path: Path) -> None:
    frames = captured(uri=str(put(tmp_path / "face.png", 5)), loop=True, fps=20.0, limit=3, width=32)
    assert numbers(frames) == [5, 5, 5]
    assert times(frames) == [0.0, 0.05, 0.1]
    assert {frame.epoch for frame in frames} == {0}
    assert frames[0].image.shape == (24, 32, 3)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    path = put(tmp_path / "photo.jpg")
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # orientation 6: turn clockwise
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])
    frame = captured(uri=str(path))[0]
    assert frame.image.shape == (64, 48, 3)
    assert block(frame) == (0, 1)
    with av.open(str(path)) as container:  # as snapshots of cameras are read; PyAV has no name for EXIF
        picture = next(container.decode(video=0))
    assert block(Frame(image=Converter(0, 0).convert(picture, lambda shape: np.empty(shape, np.uint8)))) == (0, 1)
