"""Messages to bytes and back; whatever is malformed raises WireError, never anything else."""

import contextlib
from dataclasses import dataclass, field, make_dataclass
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from graph import Detections, Faces, Frame, Header, Hop, Mark, Message, WireError, array, wire
from graph.messages import DTYPES

HEADER = Header("cam", 7, 2, 1.25, 123456789, (Hop("source", 1, 2, 3), Hop("copy", 4, 5, 6)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixed(Message):
    """Plain fields of every kind, and arrays between them."""

    values: NDArray[np.float64] = array(np.float64, "N")
    word: str = ""
    table: dict[str, Any] = field(default_factory=dict)
    mask: NDArray[np.bool_] = array(np.bool_, "N", "M")


def there_and_back(message: Message, type_: type[Message] | None = None) -> Any:
    arrays = wire.arrays_of(message)
    buffers = [value.tobytes() for value in arrays.values()]
    header = wire.encode(message, message.header, arrays, [len(buffer) for buffer in buffers])
    return wire.decode(wire.unpack(header), type_ or type(message), iter(buffers), None)


def packet(**changes: Any) -> dict[str, Any]:
    """A valid data packet of a Frame of 2 x 3 pixels, with changes; ... removes a field."""
    valid = {
        "v": wire.VERSION,
        "k": "data",
        "type": "Frame",
        "stream": "cam",
        "seq": 0,
        "epoch": 0,
        "pts": 0.0,
        "t": 0,
        "hops": [["source", 1, 2, 3]],
        "body": {},
        "arrays": [["image", "|u1", [2, 3, 3], 18]],
    }
    return {name: value for name, value in (valid | changes).items() if value is not ...}


def receive(said: Any, *buffers: bytes, type_: type[Message] = Frame) -> Message:
    """What a consumer does with one packet."""
    return wire.decode(wire.unpack(msgpack.packb(said)), type_, iter(buffers), None)


plain = st.recursive(  # what a plain field may hold
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
any_array = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda code: hnp.arrays(code, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)


@given(any_array, st.sampled_from(["as it is", "transposed", "reversed", "every other", "fortran"]))
def test_any_array_comes_back(value: NDArray[Any], view: str) -> None:
    if value.ndim:
        value = {
            "as it is": value,
            "transposed": value.T,
            "reversed": value[::-1],
            "every other": value[..., ::2],
            "fortran": np.asfortranarray(value),
        }[view]
    free = [f"D{axis}" for axis in range(value.ndim)]
    type_ = make_dataclass(
        "Any", [("value", Any, array(value.dtype, *free))], bases=(Message,), frozen=True, kw_only=True, eq=False
    )
    back = there_and_back(type_(value=value, header=HEADER)).value
    assert back.dtype == value.dtype and back.shape == value.shape
    assert back.tobytes() == value.tobytes()


@given(
    st.text(max_size=5),
    st.dictionaries(st.text(max_size=5), plain, max_size=4),
    st.integers(0, 4),
    st.builds(
        Header,
        st.text(max_size=9),
        st.integers(0, wire.SEQ_END - 1),
        st.integers(0, 99),
        st.floats(allow_nan=False),
        st.integers(0, 2**63 - 1),
        st.lists(st.builds(Hop, st.text(max_size=5), *[st.integers(0, 2**63 - 1)] * 3), max_size=4).map(tuple),
    ),
)
def test_plain_fields_and_header_come_back(word: str, table: dict[str, Any], rows: int, header: Header) -> None:
    values, mask = np.arange(rows, dtype=np.float64), np.ones((rows, 2), bool)
    sent = Mixed(header=header, values=values, word=word, table=table, mask=mask)
    back = there_and_back(sent)
    assert back.header == header
    assert (back.word, back.table) == (word, table)
    assert np.array_equal(back.values, sent.values) and np.array_equal(back.mask, sent.mask)


@pytest.mark.parametrize("message", [Faces(), Detections(), Mark(), Mixed(mask=np.zeros((0, 0), bool))])
def test_empty_comes_back(message: Message) -> None:
    back = there_and_back(message.with_header(HEADER))
    assert type(back) is type(message) and back.header == HEADER
    for name, value in wire.arrays_of(message).items():
        assert getattr(back, name).shape == value.shape


def test_unknown_fields_are_ignored() -> None:
    """A newer sender may have more plain fields and arrays."""
    said = packet(body={"new": 1}, arrays=[["image", "|u1", [1, 1, 3], 3], ["depth", "<f4", [1], 4]])
    message = receive(said, b"abc", b"\0\0\0\0")
    assert isinstance(message, Frame) and message.image.tobytes() == b"abc"


def test_packet_at_the_limits_is_accepted() -> None:
    arrays = [["image", "|u1", [1, 1, 3], 3], *[[f"a{number}", "|u1", [0], 0] for number in range(63)]]
    message = receive(packet(arrays=arrays, hops=[["source", 1, 2, 3]] * 256), b"abc", *[b""] * 63)
    assert len(message.header.hops) == 256


def test_a_mark_needs_no_body() -> None:
    assert isinstance(receive(packet(type="Mark", body=..., arrays=...)), Mark)


def test_too_large_an_array_cannot_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_BUFFER", 26)
    with pytest.raises(WireError, match=r"^Frame\.image has 27 bytes; at most 26 are allowed$"):
        wire.arrays_of(Frame(image=np.zeros((3, 3, 3), np.uint8)))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({1: "left"}, "dict: .*int is not allowed for map key"),
        ({"deep": [{"er": {None: 1}}]}, "dict: .*NoneType is not allowed for map key"),
        ({"text": "x" * wire.MAX_HEADER}, f"dict: .*at most {wire.MAX_HEADER} are allowed"),
        (["x"] * wire.MAX_HEADER, f"list: .*at most {wire.MAX_HEADER} are allowed"),
        (np.ones((2, 3), np.float32), r"float32\(2, 3\): can not serialize"),
        (np.int64(3), r"int64: can not serialize 'numpy.int64'"),
        (1 << 70, "int: Integer value out of range"),
        ("\udc80", "str: .*surrogates not allowed"),
        ({1}, "set: can not serialize 'set'"),
    ],
)
def test_fields_that_no_consumer_would_accept_cannot_be_sent(table: Any, words: str) -> None:
    with pytest.raises(WireError, match=f"^Mixed.table is {words}.*; an array is declared as array"):
        there_and_back(Mixed(values=np.zeros(1), mask=np.zeros((1, 1), np.bool_), table=table, header=HEADER))


@pytest.mark.parametrize("changes", [{"t_capture_ns": 1.5e9}, {"epoch": np.int64(1)}, {"seq": True}, {"pts": None}])
def test_header_with_values_of_other_types_cannot_be_sent(changes: dict[str, Any]) -> None:
    with pytest.raises(WireError, match=r"^Mark.header cannot be sent: seq .*; expected int, int, int, float"):
        there_and_back(Mark(header=HEADER._replace(**changes)))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a msgpack header"),
        (b"\xc1", "not a msgpack header"),
        (b"\x81", "not a msgpack header"),
        (msgpack.packb([1, 2]), "a header is a map with a kind 'k'"),
        (msgpack.packb({"v": 1}), "a header is a map with a kind 'k'"),
        (msgpack.packb({"v": 1, "k": 5}), "a header is a map with a kind 'k'"),
        (msgpack.packb({"v": 1, "k": "data"}) + b"\0", "not a msgpack header"),
        (msgpack.packb({"v": 1, 5: "int key", "k": "data"}), "not a msgpack header"),
        (msgpack.packb({"v": 1, "k": "data", "x": msgpack.ExtType(5, b"abc")}), "not a msgpack header"),
        (msgpack.packb({"v": 2, "k": "data"}), "protocol version 2; this side speaks version 1"),
        (msgpack.packb({"v": "1", "k": "data"}), "protocol version '1'; this side speaks version 1"),
        (msgpack.packb({"k": "data"}), "protocol version None"),
        (b"\xa2\xff\xff", "not a msgpack header"),
        (b"\x91" * 100_000, "not a msgpack header"),
        (b"\xdd\xff\xff\xff\xff", "not a msgpack header"),  # claims to be an array of 4 billion
        (b"\xdf\xff\xff\xff\xff", "not a msgpack header"),
        (b"\xc6\xff\xff\xff\xff", "not a msgpack header"),
        (b"\0" * (wire.MAX_HEADER + 1), "a header of 1048577 bytes; at most 1048576 are allowed"),
    ],
)
def test_bad_headers(data: bytes, words: str) -> None:
    with pytest.raises(WireError, match=f"^{words}"):
        wire.unpack(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_header_or_refused(data: bytes) -> None:
    with contextlib.suppress(WireError):
        assert wire.unpack(data)["v"] == wire.VERSION


IMAGE = bytes(range(18))


@pytest.mark.parametrize("name", ["type", "stream", "seq", "epoch", "pts", "t", "hops", "body", "arrays"])
def test_missing_field(name: str) -> None:
    with pytest.raises(WireError, match=f"KeyError: '{name}'"):
        receive(packet(**{name: ...}), IMAGE)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seq": "0"}, "seq '0'"),
        ({"seq": None}, "seq None"),
        ({"seq": True}, "seq True"),
        ({"seq": 1 << 62}, "seq 46"),
        ({"seq": -2}, "seq -2"),
        ({"seq": "0", "type": "Mark"}, "seq '0'"),
        ({"epoch": 1.5}, "epoch 1.5"),
        ({"pts": "soon"}, "pts 'soon'"),
        ({"t": [1]}, r"t \[1\]"),
        ({"stream": 5}, "stream 5"),
        ({"stream": "x" * 5000, "epoch": None}, r"stream 'x+\.\.\."),
        ({"hops": [["source", 1, 2, 3]] * 257}, "257 hops; at most 256"),
        ({"hops": [["source", 1, 2]]}, "hop "),
        ({"hops": [["source", 1, 2, [3]]]}, "hop "),
        ({"hops": [5]}, "TypeError"),
        ({"hops": [[]]}, "hop"),
        ({"hops": 5}, "TypeError"),
        ({"body": [1]}, "malformed"),
        ({"body": None}, "malformed"),
        ({"body": [1], "arrays": []}, "malformed"),
        ({"arrays": [["image", "|u1", [0], 0]] * 65}, "65 arrays; at most 64"),
        ({"arrays": 5}, "malformed"),
        ({"arrays": [5]}, "malformed"),
        ({"arrays": []}, "Frame: .* 'image'"),
        ({"arrays": [["picture", "|u1", [2, 3, 3], 18]]}, "Frame: .* 'image'"),
        ({"arrays": [["image", "|u1", [2, 3, 3]]]}, "malformed"),
        ({"arrays": [[["image"], "|u1", [2, 3, 3], 18]]}, "malformed"),
        ({"arrays": [["image", "|O8", [2, 3, 3], 18]]}, "KeyError"),
        ({"arrays": [["image", "O", [2, 3, 3], 18]]}, "KeyError"),
        ({"arrays": [["image", ["|u1"], [2, 3, 3], 18]]}, "malformed"),
        ({"arrays": [["image", "x" * 9999, [2, 3, 3], 18]]}, "KeyError: 'x{199}$"),
        ({"arrays": [["image", "|u1", [2, 3, 4], 18]]}, r"18 bytes for an array \|u1\[2, 3, 4\]"),
        ({"arrays": [["image", "<f4", [2, 3, 3], 18]]}, "18 bytes for an array"),
        ({"arrays": [["image", "|u1", [-2, -3, 3], 18]]}, "18 bytes for an array"),
        ({"arrays": [["image", "|u1", [2, 9], 18]]}, r"Frame.image is uint8\(2, 9\)"),
        ({"arrays": [["image", "|i1", [2, 3, 3], 18]]}, "Frame.image is int8"),
        ({"arrays": [["image", "|u1", [2.0, 3, 3], 18]]}, "malformed"),
        ({"arrays": [["image", "|u1", ["2", 3, 3], 18]]}, "malformed"),
        ({"arrays": [["image", "|u1", 18, 18]]}, "malformed"),
        ({"arrays": [["image", "|u1", [1] * 99 + [18], 18]]}, "malformed"),
        ({"arrays": [["image", "|u1", [2, 3, 3], -18]]}, "a place -18"),
        ({"arrays": [["image", "|u1", [2, 3, 3], True]]}, "a place True"),
        ({"arrays": [["image", "|u1", [2, 3, 3], 18.0]]}, "a place 18.0"),
        ({"arrays": [["image", "|u1", [2, 3, 3], "18"]]}, "a place '18'"),
        ({"arrays": [["image", "|u1", [2, 3, 3], (1 << 28) + 1]]}, "an array of 268435457 bytes; at most"),
        ({"arrays": [["image", "|u1", [2, 3, 3], []]]}, r"a place \[\]"),
        ({"arrays": [["image", "|u1", [2, 3, 3], [1, 2]]]}, r"a place \[1, 2\]"),
        ({"arrays": [["image", "|u1", [2, 3, 3], ["a", 0, 18]]]}, "a place"),
        ({"arrays": [["image", "|u1", [2, 3, 3], [1, -1, 18]]]}, "a place"),
        ({"arrays": [["image", "|u1", [2, 3, 3], [2**63, 0, 18]]]}, "a place"),
    ],
)
def test_malformed_packets(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(WireError, match=words) as caught:
        receive(packet(**changes), IMAGE)
    assert len(str(caught.value)) < 400  # a peer cannot fill the log


@given(shape=st.lists(st.integers(-(2**63), 2**64 - 1) | st.just(0), max_size=5), size=st.integers(0, 4))
def test_shapes_that_overflow(shape: list[int], size: int) -> None:
    try:
        message = receive(packet(type="Any", arrays=[["values", "<f8", shape, 8 * size]]), bytes(8 * size), type_=Mixed)
    except WireError:
        return
    assert isinstance(message, Mixed)


numbers = [None, True, 0, 1, 3, 18, -1, 2**62, 2**63, 2**64 - 1, 0.5, float("inf")]
words = ["", "image", "word", "|u1", "<f8", "Mark", b"x"]
lists = [[], {}, [[]], [18], [2, 3, 3], [0, 2**63 - 1], [1, 0, 18], [2**64 - 1, 0, 18], ["source", 1, 2, 3], {"a": [1]}]
nasty = st.sampled_from([*numbers, *words, *lists])


@given(st.dictionaries(st.sampled_from(sorted(packet())), nasty, max_size=3), st.lists(nasty, max_size=5))
def test_anything_in_any_field_is_a_message_or_refused(changes: dict[str, Any], entry: list[Any]) -> None:
    for arrays in (packet()["arrays"], [entry], [["image", *entry]], [["image", "|u1", *entry]]):
        try:
            message = receive(packet(arrays=arrays) | changes, IMAGE)
        except WireError as exc:
            assert len(str(exc)) < 2000
            continue
        assert isinstance(message, Frame | Mark)
        assert -1 <= message.seq < wire.SEQ_END


def test_deep_nesting_is_refused() -> None:
    deep: Any = 0
    for _ in range(400):
        deep = [deep]
    for changes in ({"seq": deep}, {"stream": deep}, {"hops": deep}, {"arrays": deep}, {"arrays": [["image", deep]]}):
        with pytest.raises(WireError):
            receive(packet(**changes), IMAGE)
