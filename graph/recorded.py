"""Messages and message types as bytes in a recording; no files here.

A recorded message is a msgpack array of the parts of its `data` message with all arrays inline (see graph/README.md):
the header as one byte string, then a byte string per array.
"""

import inspect
import json
import struct
from collections.abc import Iterator
from dataclasses import field, make_dataclass
from functools import cache
from typing import Any

import numpy as np

from graph import wire
from graph.errors import WireError
from graph.messages import Message, array, array_specs, body_fields
from graph.receiver import MADE, known_types, type_names

ENCODING = "msgpack"
"""Encoding of the messages in the registry of MCAP (https://mcap.dev/spec/registry)."""
SCHEMA_ENCODING = "facegraph"

_ARRAY, _BINARY = 0xDC, 0xC6
"""array 16 and bin 32 (https://github.com/msgpack/msgpack/blob/master/spec.md), whose headers have fixed lengths."""


def to_bytes(message: Message) -> bytes:
    """Return a message as bytes. Raises WireError if it is too large to be sent."""
    arrays = wire.arrays_of(message)
    header = wire.encode(message, message.header, arrays, [array.nbytes for array in arrays.values()])
    parts: list[Any] = [struct.pack(">BH", _ARRAY, 1 + len(arrays)), _binary(len(header)), header]
    for value in arrays.values():
        parts += [_binary(value.nbytes), np.ascontiguousarray(value)]
    return b"".join(parts)


def from_bytes(data: bytes, type_: type[Message]) -> Message:
    """Return a message as `type_`, or as Mark; arrays are read-only views of `data`.

    Raises WireError for bytes that are not from `to_bytes`.
    """
    parts = _parts(memoryview(data))
    header = next(parts, None)
    if header is None:
        raise WireError("a recorded message without a header")
    return wire.decode(wire.unpack(bytes(header)), type_, parts, None)


def _binary(size: int) -> bytes:
    return struct.pack(">BI", _BINARY, size)


def _parts(data: memoryview) -> Iterator[Any]:
    try:
        kind, count = struct.unpack_from(">BH", data)
        place = 3
        for _ in range(count):
            mark, size = struct.unpack_from(">BI", data, place)
            place += 5
            if (kind, mark) != (_ARRAY, _BINARY) or place + size > len(data):
                raise WireError("a recorded message is a msgpack array of byte strings")
            yield data[place : place + size]
            place += size
    except struct.error as exc:
        raise WireError(f"a recorded message is cut off: {exc}") from exc


def schema_of(type_: type[Message]) -> bytes:
    """Return the schema of a message type as JSON: wire names, docstring, arrays, other fields."""
    specs = array_specs(type_)
    schema = {
        "types": type_names(type_),
        "about": inspect.cleandoc(type_.__doc__ or ""),
        "arrays": {name: [spec.dtype.str, *spec.shape] for name, spec in specs.items()},
        "fields": {name: str(f.type) for name, f in body_fields(type_).items() if name not in specs},
    }
    return json.dumps(schema, indent=1).encode()


@cache
def type_from(schema: bytes) -> type[Message]:
    """Return the message type that a schema describes.

    That is the type itself if this process has imported it, else a new one with the same names and fields: reading a
    file never imports code. Raises WireError if the schema is not ours.
    """
    try:
        content = json.loads(schema)
        names = [str(name) for name in content["types"]]
        known = known_types()
        if names[0] in known:
            return known[names[0]]
        base = next((known[name] for name in names if name in known), Message)
        return _make(names[0], base, content)
    except (LookupError, TypeError, ValueError, AttributeError) as exc:
        raise WireError(f"not the schema of a message: {type(exc).__name__}: {exc}") from exc


def _make(name: str, base: type[Message], schema: dict[str, Any]) -> type[Message]:
    inherited = body_fields(base)
    module, _, qualname = name.partition(":")
    fields: list[tuple[str, Any, Any]] = [
        (key, Any, array(dtype, *shape)) for key, (dtype, *shape) in schema["arrays"].items() if key not in inherited
    ]
    fields += [(key, Any, field()) for key in schema["fields"] if key not in inherited]
    own = {"__qualname__": qualname, "__doc__": str(schema["about"]), MADE: True}
    short = qualname.rpartition(".")[2]
    made = make_dataclass(short, fields, bases=(base,), namespace=own, frozen=True, kw_only=True, eq=False)
    made.__module__ = module  # afterwards: from Python 3.12 on, make_dataclass sets the caller's module
    return made
