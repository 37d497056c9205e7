"""Converts messages to bytes and back: pure functions, no sockets. graph/README.md is the specification.

Every packet is `[header][buffer]...`. The header is a msgpack map with the protocol version `v` and the kind `k`.
Arrays never go through msgpack: they lie in shared memory or follow as buffers. Unpacking is bounded: whatever exceeds
a limit or is malformed raises WireError.
"""

from collections.abc import Callable, Iterator, Sequence
from math import prod
from reprlib import repr as brief  # a peer may send values that are long and deep
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from graph.errors import WireError
from graph.messages import DTYPES, Header, Hop, Mark, Message, array_specs, body_fields, describe, from_fields
from graph.slots import SlotMap

VERSION = 1
MAX_HEADER = 1 << 20
"""Bytes of a header; a hundred times the largest of ours."""
MAX_REQUEST = 1 << 16
"""Bytes of one message from a consumer, or of one request to a graph."""
MAX_BUFFER = 1 << 28
"""Bytes of one array; an 8K RGB picture has 1e8."""
MAX_ARRAYS = 64
MAX_HOPS = 256
SEQ_END = 1 << 62
"""Sequence numbers are less than this."""
SLOT_END = 1 << 63
"""Slot numbers and offsets are less than this."""
SENDABLE = (
    "str, bytes, float, bool, None, 64-bit int, and lists and dicts of these with str keys, all Python's own types: "
    "int(x), float(x), x.tolist()"
)
"""What can be sent apart from arrays."""

Place = int | Sequence[int]
"""Where an array's bytes are: their number (inline), or (slot, offset, number) in shared memory."""

pack: Callable[[Any], bytes] = msgpack.Packer(autoreset=True).pack
pack_words: Callable[[Any], bytes] = msgpack.Packer(autoreset=True, unicode_errors="backslashreplace").pack
"""For text that people read: file names in it may not be valid Unicode."""


def unpack(data: bytes | memoryview) -> dict[str, Any]:
    """Return a header map. Raises WireError for anything but a map of this protocol version."""
    if len(data) > MAX_HEADER:
        raise WireError(f"a header of {len(data)} bytes; at most {MAX_HEADER} are allowed")
    try:
        header = msgpack.unpackb(data, strict_map_key=True, max_ext_len=0)
    except ValueError as exc:  # msgpack's own errors are ValueErrors
        raise WireError(f"not a msgpack header: {exc}") from exc
    if not isinstance(header, dict) or not isinstance(header.get("k"), str):
        raise WireError("a header is a map with a kind 'k'")
    if header.get("v") != VERSION:
        raise WireError(f"protocol version {brief(header.get('v'))}; this side speaks version {VERSION}")
    return header


def arrays_of(message: Message) -> dict[str, NDArray[Any]]:
    """Return the arrays of a message by field. Raises WireError if one is too large to be sent."""
    values = message.__dict__
    arrays: dict[str, NDArray[Any]] = {name: values[name] for name in array_specs(type(message))}
    for name, value in arrays.items():
        if value.nbytes > MAX_BUFFER:
            what = f"{type(message).__name__}.{name}"
            raise WireError(f"{what} has {value.nbytes} bytes; at most {MAX_BUFFER} are allowed")
    return arrays


def encode(message: Message, header: Header, arrays: dict[str, NDArray[Any]], places: Sequence[Place]) -> bytes:
    """Return the header of a data packet whose arrays lie at `places`, in the order of `arrays`.

    `header` replaces the message's own. Raises WireError for what no consumer would accept.
    """
    values = message.__dict__
    stream, seq, epoch, pts, t, hops = header
    if not type(seq) is type(epoch) is type(t) is int or (type(pts) is not float and not isinstance(pts, int | float)):
        numbers = f"seq {seq!r}, epoch {epoch!r}, t_capture_ns {t!r}, pts {pts!r}"
        raise WireError(f"{type(message).__name__}.header cannot be sent: {numbers}; expected int, int, int, float")
    body = {name: values[name] for name in body_fields(type(message)) if name not in arrays}
    packet = {
        "v": VERSION,
        "k": "data",
        "type": type(message).__name__,
        "stream": stream,
        "seq": seq,
        "epoch": epoch,
        "pts": pts,
        "t": t,
        "hops": hops,
        "body": body,
        "arrays": [
            (name, value.dtype.str, value.shape, place)
            for (name, value), place in zip(arrays.items(), places, strict=True)
        ],
    }
    try:
        data = pack(packet)
        if len(data) > MAX_HEADER or any(isinstance(value, dict | list | tuple) for value in body.values()):
            unpack(data)  # as a consumer will: it rejects keys that are not str, and what is too large
    except (TypeError, ValueError, OverflowError, WireError) as exc:
        raise _unsendable(type(message).__name__, {**header._asdict(), **body}, exc) from exc
    return data


def _unsendable(type_: str, values: dict[str, Any], exc: Exception) -> WireError:
    """Return the error for a message that cannot be sent, naming the first field at fault."""
    for name, value in values.items():
        try:
            unpack(pack({"v": VERSION, "k": "data", "body": {name: value}}))
        except (TypeError, ValueError, OverflowError, WireError) as why:
            declared = "an array is declared as array(dtype, *shape), other fields hold"
            return WireError(f"{type_}.{name} is {describe(value)}: {why}; {declared} {SENDABLE}")
    return WireError(f"{type_} cannot be sent: {exc}")


def decode(packet: dict[str, Any], type_: type[Message], buffers: Iterator[bytes], slots: SlotMap | None) -> Message:
    """Return the message in a data packet as `type_`, or as Mark.

    `buffers` yields the parts that follow the header; `slots` is the sender's shared memory, None if it was not
    requested. Raises WireError if the packet is malformed.
    """
    try:
        header = _header(packet)
        if packet["type"] == "Mark":
            return Mark.restore(header, {})
        arrays, body = packet["arrays"], packet["body"]
        if len(arrays) > MAX_ARRAYS:
            raise WireError(f"{len(arrays)} arrays; at most {MAX_ARRAYS} are allowed")
        for name, code, shape, place in arrays:
            body[name] = _array(code, shape, place, buffers, slots)
        return from_fields(type_, header, body)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as exc:
        raise WireError(f"malformed data packet: {type(exc).__name__}: {str(exc)[:200]}") from exc


def _header(packet: dict[str, Any]) -> Header:
    stream, seq, epoch = packet["stream"], packet["seq"], packet["epoch"]
    pts, t, hops = packet["pts"], packet["t"], packet["hops"]
    if len(hops) > MAX_HOPS:
        raise WireError(f"{len(hops)} hops; at most {MAX_HOPS} are allowed")
    if type(stream) is not str or type(epoch) is not int or type(t) is not int or not isinstance(pts, int | float):
        raise WireError(f"invalid stream {brief(stream)}, epoch {brief(epoch)}, t {brief(t)} or pts {brief(pts)}")
    if type(seq) is not int or not -1 <= seq < SEQ_END:
        raise WireError(f"invalid seq {brief(seq)}")
    return Header(stream, seq, epoch, pts, t, tuple([_hop(hop) for hop in hops]))


def _hop(hop: Any) -> Hop:
    if len(hop) != 4 or type(hop[0]) is not str or not type(hop[1]) is type(hop[2]) is type(hop[3]) is int:
        raise WireError(f"invalid hop {brief(hop)}")
    return Hop(*hop)


def _array(code: str, shape: list[int], place: Place, buffers: Iterator[bytes], slots: SlotMap | None) -> NDArray[Any]:
    """Return an array where it lies, without copying it."""
    dtype = DTYPES[code]
    inline = type(place) is int
    numbers: Any = [0, 0, place] if inline else place
    known = isinstance(numbers, list) and list(map(type, numbers)) == [int, int, int]
    if not known or min(numbers) < 0 or max(numbers) >= SLOT_END:
        raise WireError(f"a place {brief(place)}; expected a number of bytes, or [slot, offset, number of bytes]")
    number, offset, size = numbers
    if size > MAX_BUFFER:
        raise WireError(f"an array of {size} bytes; at most {MAX_BUFFER} are allowed")
    if min(shape, default=0) < 0 or prod(shape) * dtype.itemsize != size:
        raise WireError(f"{size} bytes for an array {code}{brief(shape)}")
    if not inline:
        if slots is None:
            raise WireError("a place in shared memory, which was not requested")
        return slots.array(number, offset, shape, dtype)
    buffer = next(buffers, None)
    if buffer is None or len(buffer) != size:
        raise WireError(f"a buffer of {size} bytes is missing")
    return np.ndarray(shape, dtype, buffer)
