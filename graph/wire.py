"""Messages to bytes and back: pure functions, no sockets. graph/README.md is the specification.

Every packet is `[header][buffer]...`. The header is a msgpack map that names the protocol version `v` and the
kind `k`; arrays never go through msgpack, they lie in shared memory or follow as buffers. Unpacking is
bounded: whatever breaks a bound or the form raises WireError.
"""

from collections.abc import Callable, Sequence
from math import prod
from reprlib import repr as brief  # what a stranger sent may be long and deep
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from graph.errors import WireError
from graph.messages import DTYPES, Header, Hop, Mark, Message, array_specs, body_fields, from_fields

VERSION = 1
MAX_HEADER = 1 << 20
"""Bytes of a header; a hundred times what the largest of ours needs."""
MAX_BUFFER = 1 << 28
"""Bytes of one array: a 16K RGB picture has 4e8 bits of room below it."""
MAX_ARRAYS = 64
MAX_HOPS = 256
SEQ_END = 1 << 62
"""Sequence numbers lie below."""

Place = int | Sequence[int]
"""Where an array's bytes are: their number (inline), or (slot, offset, number) in shared memory."""

pack: Callable[[Any], bytes] = msgpack.Packer(autoreset=True).pack


def unpack(data: bytes | memoryview) -> dict[str, Any]:
    """Return a header map. Raises WireError for anything but a map of this protocol version."""
    if len(data) > MAX_HEADER:
        raise WireError(f"a header of {len(data)} bytes; at most {MAX_HEADER} are allowed")
    try:
        header = msgpack.unpackb(data, strict_map_key=True, max_ext_len=0)
    except (ValueError, RecursionError) as exc:  # msgpack's own errors are ValueErrors
        raise WireError(f"not a msgpack header: {exc}") from exc
    if not isinstance(header, dict) or not isinstance(header.get("k"), str):
        raise WireError("a header is a map with a kind 'k'")
    if header.get("v") != VERSION:
        raise WireError(f"protocol version {brief(header.get('v'))}; this side speaks {VERSION}")
    return header


def arrays_of(message: Message) -> dict[str, NDArray[Any]]:
    """Return the arrays of a message by field. Raises WireError for one that is too large to be sent."""
    values = message.__dict__
    arrays: dict[str, NDArray[Any]] = {name: values[name] for name in array_specs(type(message))}
    for name, value in arrays.items():
        if value.nbytes > MAX_BUFFER:
            what = f"{type(message).__name__}.{name}"
            raise WireError(f"{what} has {value.nbytes} bytes; at most {MAX_BUFFER} are allowed")
    return arrays


def encode(message: Message, arrays: dict[str, NDArray[Any]], places: Sequence[Place]) -> bytes:
    """Return the header of a data packet whose arrays lie at `places`, in the order of `arrays`."""
    values = message.__dict__
    header = message.header
    return pack(
        {
            "v": VERSION,
            "k": "data",
            "type": type(message).__name__,
            "stream": header.stream,
            "seq": header.seq,
            "epoch": header.epoch,
            "pts": header.pts,
            "t": header.t_capture_ns,
            "hops": header.hops,
            "body": {name: values[name] for name in body_fields(type(message)) if name not in arrays},
            "arrays": [
                (name, value.dtype.str, value.shape, place)
                for (name, value), place in zip(arrays.items(), places, strict=True)
            ],
        }
    )


def decode(packet: dict[str, Any], type_: type[Message], fetch: Callable[[int, Place], NDArray[np.uint8]]) -> Message:
    """Return the message in a data packet as `type_`, or as Mark.

    `fetch(index, place)` gives the bytes of an array as a flat uint8 array: the index-th buffer of the packet,
    or a place in shared memory. Raises WireError if the packet is malformed.
    """
    try:
        header = _header(packet)
        if packet["type"] == "Mark":
            return Mark.restore(header, {})
        arrays, body = packet["arrays"], packet["body"]
        if len(arrays) > MAX_ARRAYS:
            raise WireError(f"{len(arrays)} arrays; at most {MAX_ARRAYS} are allowed")
        for index, (name, code, shape, place) in enumerate(arrays):
            body[name] = _array(fetch(index, place), code, shape)
        return from_fields(type_, header, body)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as exc:
        raise WireError(f"malformed data packet: {type(exc).__name__}: {str(exc)[:200]}") from exc


def _header(packet: dict[str, Any]) -> Header:
    stream, seq, epoch = packet["stream"], packet["seq"], packet["epoch"]
    pts, t, hops = packet["pts"], packet["t"], packet["hops"]
    if len(hops) > MAX_HOPS:
        raise WireError(f"{len(hops)} hops; at most {MAX_HOPS} are allowed")
    if type(stream) is not str or type(epoch) is not int or type(t) is not int or not isinstance(pts, int | float):
        raise WireError(f"stream {brief(stream)}, epoch {brief(epoch)}, t {brief(t)}, pts {brief(pts)}")
    if type(seq) is not int or not -1 <= seq < SEQ_END:
        raise WireError(f"seq {brief(seq)}")
    return Header(stream, seq, epoch, pts, t, tuple([_hop(hop) for hop in hops]))


def _hop(hop: Any) -> Hop:
    if len(hop) != 4 or type(hop[0]) is not str or not type(hop[1]) is type(hop[2]) is type(hop[3]) is int:
        raise WireError(f"hop {brief(hop)}")
    return Hop(*hop)


def _array(flat: NDArray[np.uint8], code: str, shape: list[int]) -> NDArray[Any]:
    dtype = DTYPES[code]
    if min(shape, default=0) < 0 or prod(shape) * dtype.itemsize != flat.size:
        raise WireError(f"{flat.size} bytes for an array {code}{brief(shape)}")
    return np.ndarray(shape, dtype, flat)


def inline_size(place: Place) -> int | None:
    """Return the number of inline bytes, or None for a place in shared memory. Raises WireError if out of bounds."""
    slot, offset, size = _numbers(place)
    if not type(slot) is type(offset) is type(size) is int or min(slot, offset, size) < 0 or max(slot, offset) >> 63:
        raise WireError(f"a place {brief(place)}; it is a number of bytes, or a slot, an offset and a number of bytes")
    if size > MAX_BUFFER:
        raise WireError(f"an array of {size} bytes; at most {MAX_BUFFER} are allowed")
    return size if isinstance(place, int) else None


def _numbers(place: Place) -> Sequence[int]:
    if isinstance(place, int):
        return 0, 0, place
    return place if len(place) == 3 else (-1, -1, -1)
