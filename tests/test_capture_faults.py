"""What cannot be read, or only in part, and its error messages."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from graph import ConfigError, NodeError
from nodes._video import video_stream
from nodes.capture import Capture, find
from tests import clips
from tests.clips import captured, times


@pytest.mark.parametrize(
    ("name", "begins"), [("clip.mp4", 0), ("clip.mp4", 5), ("clip.mkv", 0), ("clip.mkv", 5), ("clip.flv", 0)]
)
def test_a_truncated_file_gives_the_frames_it_has(
    tmp_path: Path, name: str, begins: int, warnings_of: Callable[[], list[str]]
) -> None:
    path = clips.write(
        tmp_path / name, [begins + at for at in clips.steady(90)], size=(320, 240), movflags="faststart"
    )
    frames = captured(uri=str(clips.cut(path, 0.5)))
    assert 5 < len(frames) < 85
    assert times(frames) == [round(begins + index / 30, 3) for index in range(len(frames))]
    (warning,) = warnings_of()
    end = begins + len(frames) / 30
    assert warning.startswith(f"{path} ends at {end:.2f} s of {begins + 3:.2f} s: the file is truncated; ")
    assert f"{len(frames)} of 90 frames delivered" in warning or name != "clip.mp4"


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".flv", ".ts"])
def test_a_complete_file_gives_no_warning(tmp_path: Path, suffix: str, warnings_of: Callable[[], list[str]]) -> None:
    for at in (clips.steady(10), clips.steady(10, fps=10), [0.0, 0.1, 2.0], [0.0]):
        captured(uri=str(clips.write(tmp_path / f"clip{suffix}", at)))
    assert warnings_of() == []


@pytest.mark.parametrize("b_frames", [0, 3])
@pytest.mark.parametrize("name", ["clip.mkv", "clip.webm", "clip.nut", "clip.mp4", "clip.ts", "clip.flv", "clip.avi"])
def test_a_complete_file_that_starts_late_gives_no_warning(
    tmp_path: Path, name: str, b_frames: int, warnings_of: Callable[[], list[str]]
) -> None:
    codec = "libvpx" if name == "clip.webm" else "libx264"
    path = clips.write(tmp_path / name, [5 + at for at in clips.steady(36)], codec=codec, b_frames=b_frames)
    assert len(captured(uri=str(path))) == 36
    assert warnings_of() == []


def test_a_file_with_longer_sound_is_not_truncated(
    tmp_path: Path, warnings_of: Callable[[], list[str]]
) -> None:
    with av.open(str(tmp_path / "clip.mkv"), "w") as container:
        pictures, sound = container.add_stream("libx264", rate=30), container.add_stream("pcm_s16le", rate=8000)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        for index in range(5):
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(clips.picture(index), format="bgr24")))
        container.mux(pictures.encode(None))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 2 * 16_000), np.int16), format="s16", layout="stereo")
        silence.rate = 8000
        container.mux(sound.encode(silence))
    assert len(captured(uri=str(tmp_path / "clip.mkv"))) == 5
    assert warnings_of() == []


def test_a_clip_joined_to_a_later_one_is_not_truncated(
    tmp_path: Path, warnings_of: Callable[[], list[str]]
) -> None:
    later = clips.write(tmp_path / "later.ts", [500 + at for at in clips.steady(10)]).read_bytes()
    joined = clips.write(tmp_path / "joined.ts", clips.steady(10))
    joined.write_bytes(joined.read_bytes() + later + joined.read_bytes())
    assert len(captured(uri=str(joined))) == 30
    assert warnings_of() == []


def test_damage_in_the_middle_is_skipped(tmp_path: Path, warnings_of: Callable[[], list[str]]) -> None:
    path = clips.write(tmp_path / "clip.avi", clips.steady(30), codec="mjpeg", size=(160, 120))
    data = bytearray(path.read_bytes())
    start = data.find(b"00dc", data.find(b"00dc", len(data) // 3) + 1) + 8
    data[start : start + 600] = bytes(600)
    path.write_bytes(data)
    frames = captured(uri=str(path))
    assert len(frames) >= 28
    (warning,) = warnings_of()
    assert "damaged packets" in warning


def test_a_loop_of_a_file_without_frames_is_an_error(tmp_path: Path) -> None:
    path = clips.write(tmp_path / "clip.mp4", clips.steady(3), movflags="faststart")
    data = path.read_bytes()
    path.write_bytes(data[: data.find(b"mdat") + 4])
    with pytest.raises(NodeError, match=r"clip\.mp4: no frame can be decoded"):
        captured(uri=str(path), loop=True)


def sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le" if path.suffix == ".wav" else "mp3", rate=44_100)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 2304), np.int16), format="s16", layout="stereo")
        silence.rate = 44_100
        for packet in [*stream.encode(silence), *stream.encode(None)]:
            container.mux(packet)
    return path


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty.mp4": (lambda path: path.touch(), "empty.mp4 is empty (0 bytes)"),
    "words.mp4": (lambda path: path.write_text("words " * 99), "words.mp4 is neither a readable video nor a picture ("),
    "notes.txt": (lambda path: path.write_text("words " * 99), "notes.txt is a text file, not a video"),
    "sound.wav": (sound, "sound.wav has no video stream (streams: audio)"),
    "early.mp4": (
        lambda path: clips.cut(clips.write(path, clips.steady(30)), 0.5),
        "early.mp4 is truncated: its index (the moov box) is missing, as in an unfinished recording",
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


def test_a_pipe_without_a_video_is_an_error_at_once(tmp_path: Path) -> None:
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


def test_a_cover_picture_is_not_a_video(tmp_path: Path) -> None:
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


def test_a_tile_of_a_picture_is_not_mistaken_for_the_picture() -> None:
    """FFmpeg gives a stream for each tile of 512 x 512 in the HEIC of an iPhone."""
    tiles = [SimpleNamespace(disposition=av.stream.Disposition.dependent) for _ in range(48)]
    container = SimpleNamespace(format=SimpleNamespace(name="mov,mp4"), streams=SimpleNamespace(video=tiles))
    with pytest.raises(ConfigError, match=r"is a tiled picture \(HEIC, as phones write it\): save it as JPEG or PNG"):
        video_stream(container)  # type: ignore[arg-type]


def test_a_missing_file_is_reported_with_similar_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("holiday.mp4", "other.mp4"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        captured(uri="holidy.mp4")
    assert str(error.value) == f"no file {tmp_path}/holidy.mp4; did you mean 'holiday.mp4'?"
    with pytest.raises(ConfigError) as error:
        captured(uri="x")
    assert str(error.value) == f"no file {tmp_path}/x; it contains holiday.mp4, other.mp4"
    with pytest.raises(ConfigError) as error:
        captured(uri="deep/down/x.mp4")
    assert (
        str(error.value)
        == f"no file {tmp_path}/deep/down/x.mp4: there is no folder {tmp_path}/deep/down, only {tmp_path}"
    )
    with pytest.raises(ConfigError, match=r"no file matches .*/\*\.png"):
        captured(uri="*.png")


def test_a_broken_link_is_reported_as_such(tmp_path: Path) -> None:
    (tmp_path / "latest.mp4").symlink_to("gone.mp4")
    with pytest.raises(ConfigError) as error:
        find(str(tmp_path / "latest.mp4"))
    assert str(error.value) == f"no file {tmp_path}/latest.mp4: it is a link to gone.mp4, which does not exist"


def test_inaccessible_files_are_reported_without_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"^no file .*aaa|aaa cannot be accessed: File name too long$"):
        find(str(tmp_path / ("a" * 300)))
    assert Capture(uri=f"{tmp_path}/{'a' * 300}*").reads() == [tmp_path]

    def refuse(*args: object, **kwargs: object) -> None:
        av.error.err_check(-errno.EACCES)

    def denied(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / "clip.mp4").write_bytes(b"others'")
    monkeypatch.setattr(av, "open", refuse)  # root, who runs the tests in CI, can read everything
    with pytest.raises(ConfigError, match=r"clip\.mp4 cannot be read by this user"):
        captured(uri=str(tmp_path / "clip.mp4"))
    monkeypatch.setattr(Path, "exists", denied)
    with pytest.raises(ConfigError, match=r"clip\.mp4 cannot be accessed: Permission denied"):
        captured(uri=str(tmp_path / "clip.mp4"))


@pytest.mark.parametrize("uri", ["/dev/stdin", "/dev/fd/63", "/proc/self/fd/0"])
def test_file_descriptors_of_the_starting_process_are_refused(uri: str) -> None:
    """A node would read what its supervisor sends it, and wait for ever."""
    with pytest.raises(ConfigError, match=f"{uri} is not passed on to the nodes of a graph: use a named pipe"):
        find(uri)


def test_the_home_of_an_unknown_user_is_reported() -> None:
    Capture(uri="~nobody-here/clip.mp4").reads()
    with pytest.raises(ConfigError, match=r"/~nobody-here/clip\.mp4: there is no folder"):
        find("~nobody-here/clip.mp4")


def test_an_empty_uri_is_not_the_working_directory() -> None:
    with pytest.raises(ConfigError, match=r"^uri is empty; expected a file, a folder \(\. for this one\), a webcam or"):
        find("")


def test_network_addresses_are_refused_without_their_password() -> None:
    with pytest.raises(ConfigError, match="ftp:// addresses are not supported; cameras: rtsp, ") as error:
        captured(uri="ftp://user:secret@host/stream")
    assert "secret" not in str(error.value)
