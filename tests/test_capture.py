import errno
import os
import threading
import time
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import cv2
import numpy as np
import pytest

from graph import ConfigError, Frame, Header, NodeError
from graph.testing import run_node
from nodes._pacer import LONG_GAP_S, Pacer
from nodes._video import video_stream
from nodes.capture import Capture, find
from tests import clips
from tests.clips import captured


def numbers(frames: list[Frame]) -> list[int]:
    return [clips.number(frame.image) for frame in frames]


def times(frames: list[Frame]) -> list[float]:
    return [round(frame.pts, 3) for frame in frames]


def block(frame: Frame) -> tuple[int, int]:
    """The quarter (row, column) of the frame that the blue block lies in."""
    y, x = np.nonzero((frame.image[..., 0] > 180) & (frame.image[..., 2] < 90))
    return int(y.mean() * 2 // frame.image.shape[0]), int(x.mean() * 2 // frame.image.shape[1])


# --- videos ---


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.mov", "clip.avi", "a:b %d.mp4"])
def test_every_frame_in_order_with_its_time(tmp_path: Path, name: str) -> None:
    path = clips.write(tmp_path / name, clips.steady(12))
    frames = captured(uri=str(path))
    assert numbers(frames) == list(range(12))
    assert np.allclose(np.diff([frame.pts for frame in frames]), 1 / 30, atol=1e-3)
    assert 0 <= frames[0].pts < 0.1
    assert {frame.image.shape for frame in frames} == {(48, 64, 3)}


def test_colours_are_bgr(tmp_path: Path) -> None:
    image = captured(uri=str(clips.write(tmp_path / "clip.mp4", [0.0])))[0].image
    assert np.abs(image[3, 3].astype(int) - (250, 20, 20)).max() < 12


def test_variable_frame_rate_is_kept(tmp_path: Path) -> None:
    at = [0.0, 0.04, 0.05, 0.3, 0.301, 1.7]
    assert times(captured(uri=str(clips.write(tmp_path / "clip.mp4", at)))) == at


def test_capture_time_is_now(tmp_path: Path) -> None:
    before = time.monotonic_ns()
    frames = captured(uri=str(clips.write(tmp_path / "clip.mp4", clips.steady(3))))
    stamps = [frame.header.t_capture_ns for frame in frames]
    assert before < stamps[0] < stamps[1] < stamps[2] < time.monotonic_ns()


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("turned", "place"), [(0, (0, 0)), (90, (1, 0)), (180, (1, 1)), (-90, (0, 1))])
def test_rotation_and_mirroring_of_phones_are_honoured(
    tmp_path: Path, turned: int, place: tuple[int, int], mirrored: bool
) -> None:
    path = clips.write(tmp_path / "clip.mp4", [0.0], turned=turned, mirrored=mirrored)
    frame = captured(uri=str(path))[0]
    assert frame.image.shape == ((64, 48, 3) if turned % 180 else (48, 64, 3))
    assert block(frame) == (place[0], 1 - place[1] if mirrored else place[1])


def test_scaling_counts_in_the_upright_picture(tmp_path: Path) -> None:
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


def test_fps_thins_a_video_out(tmp_path: Path) -> None:
    path = str(clips.write(tmp_path / "clip.mp4", clips.steady(12, fps=60)))
    assert numbers(captured(uri=path, fps=30.0)) == [0, 1, 3, 5, 7, 9, 11]
    assert numbers(captured(uri=path, fps=60.0)) == list(range(12))
    assert numbers(captured(uri=path, fps=1000.0)) == list(range(12))


def test_fps_goes_on_where_the_stamps_begin_anew(tmp_path: Path) -> None:
    once = clips.write(tmp_path / "once.ts", clips.steady(30)).read_bytes()
    twice = tmp_path / "twice.ts"
    twice.write_bytes(once + once)  # as recorders join their parts
    assert len(captured(uri=str(twice))) == 60
    alone = numbers(captured(uri=str(tmp_path / "once.ts"), fps=10.0))
    assert numbers(captured(uri=str(twice), fps=10.0)) == [*alone, *alone]


def test_a_loop_that_is_thinned_out_lasts_as_long(tmp_path: Path) -> None:
    path = str(clips.write(tmp_path / "clip.mp4", clips.steady(30)))
    every = [frame.pts for frame in captured(uri=path, fps=4.0, loop=True, limit=12)]
    one = [frame.pts for frame in captured(uri=path, fps=4.0)]
    assert every[: 2 * len(one)] == pytest.approx([*one, *(1 + pts for pts in one)], abs=1e-3)


def test_loop_goes_on_in_time_and_starts_a_new_epoch(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "clip.mp4", [0.0, 0.1, 0.4 - 1 / 30])
    frames = captured(uri=str(path), loop=True, limit=8)
    assert numbers(frames) == [0, 1, 2, 0, 1, 2, 0, 1]
    assert times(frames) == [0, 0.1, 0.367, 0.4, 0.5, 0.767, 0.8, 0.9]
    assert [frame.epoch for frame in frames] == [0, 0, 0, 1, 1, 1, 2, 2]


def test_paced_takes_the_time_of_the_clip(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "clip.mp4", [0.0, 0.05, 0.2])
    frames = captured(uri=str(path), paced=True)
    stamps = [frame.header.t_capture_ns / 1e9 for frame in frames]
    assert stamps[2] - stamps[0] > 0.15
    assert stamps[2] - stamps[1] > 0.1


def test_pacer_starts_anew_where_timestamps_jump() -> None:
    pacer = Pacer()
    before = time.monotonic()
    for pts in (0.0, 1000.0, 1000.01, 3.0, 3.01):
        pacer.wait(pts)
    assert 0.02 <= time.monotonic() - before < LONG_GAP_S


def test_pacer_waits_for_pictures_that_are_asked_for_at_long_intervals() -> None:
    slept: list[float] = []
    for pacer in (Pacer(slept.append), Pacer(slept.append, fps=0.05)):
        pacer.wait(0.0)
        pacer.wait(20.0)
    assert slept == pytest.approx([0.0, 0.0, 0.0, 20.0], abs=0.1)


def test_pacer_goes_on_where_a_joined_clip_begins_anew() -> None:
    slept: list[float] = []
    pacer = Pacer(slept.append)
    for pts in (5.0, 5.2, 3.0, 3.2):
        pacer.wait(pts)
    assert slept == pytest.approx([0.0, 0.2, 0.0, 0.2], abs=0.1)


def test_pacer_does_not_make_up_for_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    pacer = Pacer(slept.append)
    for now, pts in ((100.0, 5.0), (100.1, 5.2), (103.0, 5.4), (103.0, 5.6), (103.4, 5.8), (103.5, 6.0)):
        monkeypatch.setattr(time, "monotonic", lambda now=now: now)
        pacer.wait(pts)
    assert slept == pytest.approx([0.0, 0.1, 0.0, 0.2, 0.0, 0.1]), "a little is made up for"


def test_frames_are_born_in_the_allocated_array(tmp_path: Path) -> None:
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


# --- faults ---


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_a_cut_off_file_gives_what_it_has(tmp_path: Path, name: str, warnings_of: Callable[[], list[str]]) -> None:
    path = clips.write(tmp_path / name, clips.steady(90), size=(320, 240), movflags="faststart")
    frames = captured(uri=str(clips.cut(path, 0.5)))
    assert 5 < len(frames) < 85
    assert times(frames) == [round(index / 30, 3) for index in range(len(frames))]
    (warning,) = warnings_of()
    assert warning.startswith(f"{path} ends at {len(frames) / 30:.2f} s of 3.00 s: the file is cut off; ")
    assert f"{len(frames)} of 90 frames delivered" in warning or name == "clip.mkv"


def test_a_whole_file_gives_no_warning(tmp_path: Path, warnings_of: Callable[[], list[str]]) -> None:
    for at in (clips.steady(10), [0.0, 0.1, 2.0], [0.0]):
        captured(uri=str(clips.write(tmp_path / "clip.mp4", at)))
    assert warnings_of() == []


@pytest.mark.parametrize("b_frames", [0, 3])
@pytest.mark.parametrize("name", ["clip.mkv", "clip.webm", "clip.nut", "clip.mp4", "clip.ts", "clip.flv", "clip.avi"])
def test_a_whole_file_that_begins_late_gives_no_warning(
    tmp_path: Path, name: str, b_frames: int, warnings_of: Callable[[], list[str]]
) -> None:
    codec = "libvpx" if name == "clip.webm" else "libx264"
    path = clips.write(tmp_path / name, [5 + at for at in clips.steady(36)], codec=codec, b_frames=b_frames)
    assert len(captured(uri=str(path))) == 36
    assert warnings_of() == []


def test_a_clip_joined_to_a_later_one_is_not_taken_for_cut_off(
    tmp_path: Path, warnings_of: Callable[[], list[str]]
) -> None:
    later = clips.write(tmp_path / "later.ts", [500 + at for at in clips.steady(10)]).read_bytes()
    joined = clips.write(tmp_path / "joined.ts", clips.steady(10))
    joined.write_bytes(joined.read_bytes() + later + joined.read_bytes())
    assert len(captured(uri=str(joined))) == 30
    assert warnings_of() == []


def test_damage_in_the_middle_is_passed_over(tmp_path: Path, warnings_of: Callable[[], list[str]]) -> None:
    path = clips.write(tmp_path / "clip.avi", clips.steady(30), codec="mjpeg", size=(160, 120))
    data = bytearray(path.read_bytes())
    start = data.find(b"00dc", data.find(b"00dc", len(data) // 3) + 1) + 8
    data[start : start + 600] = bytes(600)
    path.write_bytes(data)
    frames = captured(uri=str(path))
    assert len(frames) >= 28
    (warning,) = warnings_of()
    assert "damaged packets" in warning


def test_a_loop_of_a_damaged_file_ends_with_an_error_not_in_circles(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "clip.mp4", clips.steady(3), movflags="faststart")
    data = path.read_bytes()
    path.write_bytes(data[: data.find(b"mdat") + 4])
    with pytest.raises(NodeError, match="holds no picture that can be decoded"):
        captured(uri=str(path), loop=True)


def sound(path: Path, cover: bool = False) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le" if path.suffix == ".wav" else "mp3", rate=44_100)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 2304), np.int16), format="s16", layout="stereo")
        silence.rate = 44_100
        for packet in [*stream.encode(silence), *stream.encode(None)]:
            container.mux(packet)
    return path


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty.mp4": (lambda path: path.touch(), "empty.mp4 is empty (0 bytes)"),
    "words.mp4": (lambda path: path.write_text("words " * 99), "words.mp4 is neither a video nor a picture that can"),
    "notes.txt": (lambda path: path.write_text("words " * 99), "notes.txt is a text file, not a video"),
    "sound.wav": (sound, "sound.wav has no video stream (streams: audio)"),
    "early.mp4": (
        lambda path: clips.cut(clips.write(path, clips.steady(30)), 0.5),
        "early.mp4 is cut off: its index (the moov box) is missing, as in a recording that was never finished",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_not_a_video(tmp_path: Path, name: str) -> None:
    make, text = FAULTS[name]
    make(tmp_path / name)
    with pytest.raises(ConfigError) as error:
        captured(uri=str(tmp_path / name))
    assert str(error.value).startswith(str(tmp_path / text.split()[0]))
    assert text in str(error.value)


def test_a_pipe_without_a_video_is_told_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(b"words " * 99,), daemon=True)
    writer.start()
    told: list[ConfigError] = []

    def read() -> None:
        with pytest.raises(ConfigError) as error:
            captured(uri=str(tmp_path / "pipe"))
        told.append(error.value)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(20)
    assert told and "pipe is " in str(told[0])


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    cover = clips.write(tmp_path / "cover.mp4", [0.0], codec="mjpeg")
    song = tmp_path / "song.m4a"
    with av.open(str(song), "w", format="mp4") as container, av.open(str(cover)) as source:
        stream = container.add_stream_from_template(source.streams.video[0])
        stream.disposition = av.stream.Disposition.attached_pic
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    with pytest.raises(ConfigError, match="has no video stream"):
        captured(uri=str(song))


def test_a_tile_of_a_picture_is_not_taken_for_all_of_it() -> None:
    """As FFmpeg shows the HEIC of an iPhone: a stream for each tile of 512 x 512."""
    tiles = [SimpleNamespace(disposition=av.stream.Disposition.dependent) for _ in range(48)]
    container = SimpleNamespace(format=SimpleNamespace(name="mov,mp4"), streams=SimpleNamespace(video=tiles))
    with pytest.raises(ConfigError, match="is a picture in tiles, as phones write HEIC: save it as JPEG or PNG"):
        video_stream(container)  # type: ignore[arg-type]


def test_a_missing_file_names_the_near_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("holiday.mp4", "other.mp4"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        captured(uri="holidy.mp4")
    assert str(error.value) == f"no file {tmp_path}/holidy.mp4; did you mean 'holiday.mp4'?"
    with pytest.raises(ConfigError) as error:
        captured(uri="x")
    assert str(error.value) == f"no file {tmp_path}/x; it holds holiday.mp4, other.mp4"
    with pytest.raises(ConfigError) as error:
        captured(uri="deep/down/x.mp4")
    assert (
        str(error.value)
        == f"no file {tmp_path}/deep/down/x.mp4: there is no folder {tmp_path}/deep/down, only {tmp_path}"
    )
    with pytest.raises(ConfigError, match=r"no file matches .*/\*\.png"):
        captured(uri="*.png")


def test_a_link_to_what_is_gone_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "latest.mp4").symlink_to("gone.mp4")
    with pytest.raises(ConfigError) as error:
        find(str(tmp_path / "latest.mp4"))
    assert str(error.value) == f"no file {tmp_path}/latest.mp4: it is a link to gone.mp4, which is not there"


def test_what_may_not_be_looked_at_is_told_without_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"aaa cannot be looked at: File name too long$"):
        find(str(tmp_path / ("a" * 300)))
    assert Capture(uri=f"{tmp_path}/{'a' * 300}*").reads() == [tmp_path]

    def refuse(*args: object, **kwargs: object) -> None:
        av.error.err_check(-errno.EACCES)

    def denied(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / "clip.mp4").write_bytes(b"others'")
    monkeypatch.setattr(av, "open", refuse)  # root, who runs the tests in CI, may read everything
    with pytest.raises(ConfigError, match=r"clip\.mp4 may not be read by this user"):
        captured(uri=str(tmp_path / "clip.mp4"))
    monkeypatch.setattr(Path, "exists", denied)
    with pytest.raises(ConfigError, match=r"clip\.mp4 cannot be looked at: Permission denied"):
        captured(uri=str(tmp_path / "clip.mp4"))


@pytest.mark.parametrize("uri", ["/dev/stdin", "/dev/fd/63", "/proc/self/fd/0"])
def test_what_only_the_starting_process_has_open_is_refused(uri: str) -> None:
    """A node would read what its supervisor tells it, and wait for ever."""
    with pytest.raises(ConfigError, match=f"{uri} is not handed on to the nodes of a graph: name a pipe, as "):
        find(uri)


def test_the_home_of_a_user_who_is_not_there_is_no_folder() -> None:
    Capture(uri="~nobody-here/clip.mp4").reads()
    with pytest.raises(ConfigError, match=r"/~nobody-here/clip\.mp4: there is no folder"):
        find("~nobody-here/clip.mp4")


def test_an_empty_uri_is_not_the_working_directory() -> None:
    with pytest.raises(ConfigError, match=r"^uri is empty; expected a file, a folder \(\. for this one\), a webcam or"):
        find("")


def test_network_addresses_are_refused_without_their_password() -> None:
    with pytest.raises(ConfigError, match="ftp:// addresses cannot be read; cameras are read from rtsp, ") as error:
        captured(uri="ftp://user:secret@host/stream")
    assert "secret" not in str(error.value)


# --- pictures ---


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


def test_a_pattern_is_not_looked_for_in_the_name_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "take [1]").mkdir()
    monkeypatch.chdir(tmp_path / "take [1]")
    there = [put(tmp_path / "take [1]" / name) for name in ("a.png", "b.png")]
    assert find("*.png") == there


def test_a_pattern_may_mean_one_video(tmp_path: Path) -> None:
    clips.write(tmp_path / "cam-2026-11-28.mp4", clips.steady(3))
    assert numbers(captured(uri=f"{tmp_path}/cam-*.mp4")) == [0, 1, 2]


def test_unreadable_pictures_are_left_out_with_a_warning(tmp_path: Path, warnings_of: Callable[[], list[str]]) -> None:
    for index in range(5):
        put(tmp_path / f"{index}.png", index)
    clips.cut(tmp_path / "1.png", 0.5)
    (tmp_path / "2.png").write_bytes(b"")
    whole = (tmp_path / "3.png").read_bytes()
    header = b"IHDR" + (70_000).to_bytes(4) * 2 + whole[24:29]  # of a picture with more pixels than OpenCV takes
    (tmp_path / "3.png").write_bytes(whole[:12] + header + zlib.crc32(header).to_bytes(4) + whole[33:])
    frames = captured(uri=str(tmp_path))
    assert numbers(frames) == [0, 4]
    assert times(frames) == [0.0, 0.133]
    assert [find(str(tmp_path))[frame.seq].name for frame in frames] == ["0.png", "4.png"]  # type: ignore[index]
    assert warnings_of() == [f"{tmp_path}/{n}.png cannot be read as a picture: left out" for n in (1, 2, 3)]


def test_unreadable_pictures_leave_their_gap_in_each_pass_of_a_loop(tmp_path: Path) -> None:
    """So that two folders that are joined by seq stay together."""
    for index in range(3):
        put(tmp_path / f"{index}.png", index)
    clips.cut(tmp_path / "1.png", 0.5)
    frames = captured(uri=str(tmp_path), loop=True, limit=5)
    assert [(frame.seq, clips.number(frame.image)) for frame in frames] == [(0, 0), (2, 2), (3, 0), (5, 2), (6, 0)]


def test_a_picture_that_is_too_large_to_be_sent_says_what_to_do(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "dot.png"), np.zeros((1, 1, 3), np.uint8))
    with pytest.raises(NodeError, match="16384 x 16384 pixels are more than can be sent; a smaller width scales them"):
        captured(uri=str(tmp_path / "dot.png"), width=16_384)


def test_no_readable_picture_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no pictures \(\.bmp .*\); the folder is empty"):
        captured(uri=str(tmp_path))
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(NodeError, match=r"a\.png cannot be read as a picture, nor can the 1 others"):
        captured(uri=str(tmp_path))


def test_one_picture_looped_is_one_scene(tmp_path: Path) -> None:
    frames = captured(uri=str(put(tmp_path / "face.png", 5)), loop=True, fps=20.0, limit=3, width=32)
    assert numbers(frames) == [5, 5, 5]
    assert times(frames) == [0.0, 0.05, 0.1]
    assert {frame.epoch for frame in frames} == {0}
    assert frames[0].image.shape == (24, 32, 3)


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    path = put(tmp_path / "photo.jpg")
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # orientation 6: turn clockwise
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])
    frame = captured(uri=str(path))[0]
    assert frame.image.shape == (64, 48, 3)
    assert block(frame) == (0, 1)


def test_header_of_a_frame_is_complete(tmp_path: Path) -> None:
    frame = captured(uri=str(clips.write(tmp_path / "clip.mp4", clips.steady(2))))[1]
    assert frame.header._replace(t_capture_ns=0) == Header(stream="test", seq=1, pts=frame.pts)
