"""Recordings without a graph: bytes of messages; files that are complete, cut off and wrong."""

import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.writer import Writer
from numpy.typing import NDArray

import graph
from graph import ConfigError, Faces, Frame, GraphError, Header, Hop, Mark, Message, WireError, array, cli, recorded
from graph.cli_recording import report
from graph.mcap_reader import Recording
from graph.recorder import START, Recorder, Span, library, record, sent_ns
from tests.recordings import header, write
from tests.toys import Numbers, picture


@dataclass(frozen=True, kw_only=True, eq=False)
class Tagged(Frame):
    """A frame with more fields."""

    weights: NDArray[np.float16] = array(np.float16, 2, "N")
    tag: str

    def loud(self) -> str:
        return self.tag.upper()


TEXTS = st.text(max_size=8)
INTS = st.integers(0, 2**61)
HOPS = st.lists(st.builds(Hop, TEXTS, INTS, INTS, INTS), max_size=3).map(tuple)
FLOATS = st.floats(allow_nan=False)
HEADERS = st.builds(
    Header, TEXTS, st.integers(-1, 2**61), st.integers(0, 2**31), FLOATS, st.integers(-(2**62), 2**62), HOPS
)


@settings(max_examples=30)
@given(HEADERS, TEXTS, st.integers(0, 5), st.integers(0, 5))
def test_round_trip(header: Header, text: str, height: int, count: int) -> None:
    """Every message comes back unchanged, also as a type that is only known from the recording."""
    rng = np.random.default_rng(height * 6 + count)
    image = rng.integers(0, 256, (height, 3, 3), np.uint8)[::-1]  # not contiguous
    weights = rng.random((2, count)).astype(np.float16)
    message = Tagged(header=header, image=image, weights=weights, tag=text, clock=text)
    data = recorded.to_bytes(message)
    for type_ in (Tagged, rebuilt(Tagged)):
        back: Any = recorded.from_bytes(data, type_)
        assert back.header == header and back.tag == back.clock == text and isinstance(back, Frame)
        assert np.array_equal(back.image, image) and np.array_equal(back.weights, weights)
        assert not back.image.flags.writeable and back.copy().image.flags.writeable
    for end in (*range(min(20, len(data))), len(data) - 1):
        with pytest.raises(WireError):
            recorded.from_bytes(data[:end], Tagged)


def test_other_msgpack_is_refused() -> None:
    data = recorded.to_bytes(Numbers())
    for other in (b"\xdd" + data[1:], data[:3] + b"\xdb" + data[4:]):  # array 32, and str 32
        with pytest.raises(WireError, match="a recorded message is a msgpack array of byte strings"):
            recorded.from_bytes(other, Numbers)


def rebuilt(type_: type[Message]) -> type[Message]:
    """Return the type as in a process that has not imported its module."""
    schema = recorded.schema_of(type_).replace(type_.__module__.encode(), b"some.where")
    made = recorded.type_from(schema)
    assert made is not type_ and made is recorded.type_from(schema)
    return made


def test_known_types_are_themselves_and_made_types_are_not_known() -> None:
    assert recorded.type_from(recorded.schema_of(Faces)) is Faces
    made = rebuilt(Numbers)
    assert (made.__module__, made.__qualname__, made.__doc__) == ("some.where", "Numbers", Numbers.__doc__)
    with pytest.raises(GraphError, match=r"some\.where:Numbers is not known here"):
        graph.receiver.find_type(["some.where:Numbers"])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "schema", [b"", b"{}", b"[]", b'{"types": []}', b'{"types": ["a:b"], "arrays": {"x": ["O", 1]}}']
)
def test_a_wrong_schema(schema: bytes) -> None:
    with pytest.raises(WireError, match="not the schema of a message"):
        recorded.type_from(schema)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "a.mcap")


@pytest.mark.parametrize("compression", ["lz4", "zstd", "none"])
def test_read(tmp_path: Path, compression: str) -> None:
    path = write(tmp_path / "a.mcap", compression=compression)
    written = [name for name in ("lz4", "zstd") if name.encode() in path.read_bytes()]
    assert written == ([] if compression == "none" else [compression])
    frames = list(graph.recording(path, "camera.frame"))
    assert [frame.seq for frame in frames] == [*range(100, 140)]
    assert all(np.array_equal(frame.image, picture(frame.seq)) for frame in frames)
    assert frames[3].header == header(103)
    frames[0].image[:] = 0  # ours
    assert len(list(graph.recording(path, "camera.frame", "camera.frame"))) == len(frames)
    pairs = list(graph.recording(str(path), "camera.frame", "count.numbers"))
    assert [frame.seq for frame, _ in pairs] == [*range(100, 140, 2)]
    assert all(frame.header == numbers.header and numbers.values == frame.seq for frame, numbers in pairs)
    found = Recording(path)
    assert (found.graph, found.cut, found.span.seq, found.span.pts) == ("main", False, (100, 139), (4.0, 5.56))


def test_reading_ports_that_do_not_exist(path: Path) -> None:
    for ports, why in (
        ((), r"recording\(\) needs a port; recorded: camera\.frame, count\.numbers"),
        (("camera.frme",), r"a\.mcap has no port 'camera\.frme'; did you mean 'camera\.frame'\?"),
        (("x",), r"a\.mcap has no port 'x'; recorded: camera\.frame, count\.numbers"),
    ):
        with pytest.raises(ConfigError, match=why):
            list(graph.recording(path, *ports))


def test_cut_anywhere(path: Path, tmp_path: Path) -> None:
    """Everything up to the last flush before the cut is read; only the end makes it complete."""
    data, cut = path.read_bytes(), tmp_path / "cut.mcap"
    whole = [frame.seq for frame in graph.recording(path, "camera.frame")]
    lengths = []
    for size in sorted({*range(0, 60, 4), *range(0, len(data), len(data) // 60), *range(len(data) - 10, len(data))}):
        cut.write_bytes(data[:size])
        try:
            found = Recording(cut)
        except ConfigError as exc:
            assert str(exc).endswith(("has no messages before it is cut off", "is empty: nothing was recorded"))
            assert not lengths
            continue
        frames = list(graph.recording(cut, "camera.frame"))
        assert found.cut and [frame.seq for frame in frames] == whole[: len(frames)]
        assert all(np.array_equal(frame.image, picture(frame.seq)) for frame in frames)
        assert found.span.seq == (100, frames[-1].seq)
        assert [f["camera.frame"].seq for f in found.frames(["camera.frame"])] == whole[: len(frames)]
        lengths.append(len(frames))
    assert lengths == sorted(lengths) and lengths[0] < 5 and lengths[-1] == len(whole)
    assert len(set(lengths)) > 15


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("compression", ["lz4", "none"])
def test_damaged_in_the_middle(tmp_path: Path, part: float, compression: str) -> None:
    """No damaged frame is returned; without compression only the checksums reveal the damage."""
    path = write(tmp_path / "a.mcap", compression=compression)
    data = bytearray(path.read_bytes())
    place = int(len(data) * part)
    data[place : place + 200] = bytes(byte ^ 0x55 for byte in data[place : place + 200])
    path.write_bytes(data)
    frames: list[Any] = []
    with pytest.raises((ConfigError, GraphError), match=r"a\.mcap"):
        frames += iter_all(path)
        raise ConfigError("a.mcap: what was damaged lay beside the messages")
    assert all(np.array_equal(frame.image, picture(frame.seq)) for frame in frames)


def iter_all(path: Path) -> Iterator[Any]:
    yield from graph.recording(path, "camera.frame")


def foreign(path: Path) -> None:
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start("ros2", library="rosbag2")
        writer.finish()


def nothing_recorded(path: Path) -> None:
    write(path, seqs=())


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: path.write_bytes(b""), "is empty: nothing was recorded"),
        (lambda path: path.write_bytes(b"\x00\x00\x00\x20ftypisom" * 9), r"is not a recording \(MCAP\); make one"),
        (lambda path: path.write_text("name: x"), r"is not a recording \(MCAP\)"),
        (foreign, r"is an MCAP file of another program \(ros2, rosbag2\), not one of run_graph\.py"),
        (nothing_recorded, "has no messages$"),
        (lambda path: path.mkdir(), "is not a file"),
        (lambda path: path.with_name("x2.mcap").touch(), r"no recording .*x\.mcap: No such .*mean 'x2\.mcap'\?"),
    ],
)  # fmt: skip
def test_wrong_files(tmp_path: Path, make: Any, why: str) -> None:
    make(tmp_path / "x.mcap")
    with pytest.raises(ConfigError, match=why):
        graph.recording(tmp_path / "x.mcap", "camera.frame")


def test_the_home_of_an_unknown_user() -> None:
    with pytest.raises(ConfigError, match=r"no recording .*/~nobody-here/x\.mcap: No such"):
        graph.recording("~nobody-here/x.mcap", "camera.frame")


def test_without_the_package(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "mcap"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mcap", None)
    with pytest.raises(ConfigError, match=r"recordings need the package mcap.*: pip install '\.\[record\]'"):
        graph.recording(path.rename(path.with_name("b.mcap")), "camera.frame")


def test_a_wrong_setting_of_a_replay_without_a_config(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["replay", str(path), "--speed", "1e9"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error: {path}: nodes.{node}.settings.speed: is 1000000000.0, expected float from 0.0 to 1000.0"
        for node in ("camera", "count")
    ]


def test_full_disk(tmp_path: Path) -> None:
    full = tmp_path / "full.mcap"
    full.symlink_to("/dev/full")
    with pytest.raises(GraphError, match=r"full\.mcap: No space left on device; it ends after about 0 messages"):
        write(full)
    with pytest.raises(ConfigError, match=r"no/a\.mcap cannot be written: No such file or directory"):
        write(tmp_path / "no" / "a.mcap")


def test_a_disk_that_becomes_full_leaves_what_was_written(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # for a file this acts like a full disk
    try:
        with pytest.raises(GraphError, match=r"a\.mcap: File too large; it ends after about [1-9]\d* messages$"):
            write(tmp_path / "a.mcap", range(100, 1000), compression="none")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    found = Recording(tmp_path / "a.mcap")
    assert found.cut and found.span.seq[0] == 100


def test_a_span_covers_messages_in_any_order() -> None:
    span = Span()
    for seq in (5, 3, 4):
        span.take(header(seq, epoch=seq))
    sent = tuple(5_002_000_000 + seq * 40_000_000 for seq in (3, 5))
    assert span == Span((3, 5), (3, 5), (3 / 25, 5 / 25), sent)


def test_sent_ns_is_the_end_of_the_last_hop_or_else_the_capture() -> None:
    assert sent_ns(header(0).after(Hop("copy", 6_000_000_000, 6_000_000_001, 6_000_000_002))) == 6_000_000_002
    assert sent_ns(Header(t_capture_ns=5)) == 5


def test_missing_frames_are_counted_but_not_across_a_restart(tmp_path: Path) -> None:
    with Recorder(tmp_path / "a.mcap", {"count.numbers": Numbers}, "main", "none") as recorder:
        for seq, epoch in ((0, 0), (1, 0), (5, 0), (6, 0), (100_005, 1), (100_007, 1)):
            recorder.write("count.numbers", Numbers(header=header(seq, epoch), values=np.zeros(0)))
    assert recorder.counts["count.numbers"].missing == 3 + 1


@pytest.mark.parametrize("ahead_ns", [0, 10**15])
def test_mcap_times_are_of_the_wall_clock(tmp_path: Path, ahead_ns: int) -> None:
    done_ns = time.monotonic_ns() + ahead_ns - 10**9
    said = Header("s", 2**32 + 7, hops=(Hop("count", done_ns - 2, done_ns - 1, done_ns),))
    with Recorder(tmp_path / "a.mcap", {"count.numbers": Numbers}, "main", "none", ahead_ns) as recorder:
        recorder.write("count.numbers", Numbers(header=said, values=np.zeros(0)))
    with (tmp_path / "a.mcap").open("rb") as file:
        reader = library().reader.make_reader(file)
        [(_, channel, message)] = reader.iter_messages()
        start = next(found.metadata for found in reader.iter_metadata() if found.name == START)
    assert (channel.topic, message.sequence) == ("count.numbers", 7)
    assert message.publish_time == done_ns + int(start["wall_minus_monotonic_ns"])
    assert message.publish_time + 10**9 <= message.log_time == pytest.approx(time.time_ns(), abs=60 * 10**9)


def test_a_port_without_messages_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Recorder(tmp_path / "a.mcap", {"a.numbers": Numbers, "off.numbers": Numbers}, "main", "none") as recorder:
        recorder.write("a.numbers", Numbers(header=header(0, 0), values=np.zeros(0)))
        recorder.write("off.numbers", Mark(header=header(0, 0)))
    report(recorder)
    assert [line.split() for line in capsys.readouterr().out.splitlines()[2:4]] == [
        ["a.numbers", "1", "0"],
        ["off.numbers", "0", "no", "messages"],
    ]


class Delayed:
    """A graph whose pictures are two seconds behind its numbers when the recording ends."""

    name = "slow"

    def __init__(self, ahead_ns: int) -> None:
        self.ahead_ns = ahead_ns

    def type_of(self, port: str) -> type[Message]:
        return {"camera.frame": Frame, "count.numbers": Numbers}[port]

    def listen(self, *ports: str, policy: str, queue: int) -> Iterator[tuple[str, Message] | None]:
        begun = time.monotonic_ns() + self.ahead_ns

        def header(seq: int, after_s: float) -> Header:
            return Header("camera", seq, 0, seq / 25, begun, (Hop("camera", begun, begun, begun + int(after_s * 1e9)),))

        yield "count.numbers", Numbers(header=header(50, 1000.0), values=np.zeros(1))
        for seq in range(3):
            yield "camera.frame", Frame(header=header(seq, -1.0), image=picture(seq))
        yield "camera.frame", Frame(header=header(3, 1000.0), image=picture(3))
        raise AssertionError("both ports have sent a message after the end")


@pytest.mark.parametrize("ahead_ns", [0, 10**15, -(10**15)])
def test_messages_sent_before_the_end_are_recorded(tmp_path: Path, ahead_ns: int) -> None:
    """Also if the clock of the graph, on another host, is days ahead or behind."""
    path = tmp_path / "end.mcap"
    done = record(Delayed(ahead_ns), ["camera.frame", "count.numbers"], path, duration=0.0)
    assert {port: count.messages for port, count in done.counts.items()} == {"camera.frame": 3, "count.numbers": 0}
