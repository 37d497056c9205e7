"""Read a recording, complete or cut off, without a graph.

for faces in graph.recording("out.mcap", "smooth.faces"):
    print(faces.pts, faces.landmarks)
"""

import heapq
import logging
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import IO, Any

from graph import recorded
from graph.errors import ConfigError, GraphError, WireError
from graph.messages import Mark, Message
from graph.recorder import END, PROFILE, START, SUFFIX, Span, library
from graph.spec import choices, did_you_mean

logger = logging.getLogger(__name__)


def recording(path: str | Path, *ports: str) -> Iterator[Any]:
    """Yield the recorded messages of a port in order, like `RunningGraph.subscribe`.

    The messages are copies. Several ports give tuples of messages of the same frame, for the frames that all ports
    have. A recording that is cut off is read up to the cut. Raises ConfigError for a file that is not a recording, or
    a port that is not in it.
    """
    found = Recording(path)
    if not ports:
        raise ConfigError(f"recording() needs a port; recorded: {', '.join(found.ports)}")
    return _copies(found.frames(ports), ports)


def _copies(frames: Iterable[dict[str, Message]], ports: tuple[str, ...]) -> Iterator[Any]:
    for frame in frames:
        if len(frame) == len(set(ports)) and not any(isinstance(message, Mark) for message in frame.values()):
            given = tuple(frame[port].copy() for port in ports)
            yield given[0] if len(given) == 1 else given


@dataclass(frozen=True)
class _Survey:
    """The content of a file."""

    graph: str
    types: dict[str, type[Message]]  # by port
    span: Span
    cut: bool  # incomplete or damaged


class Recording:
    """A file written by `run_graph.py record`. Raises ConfigError for other files."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(os.path.expanduser(path)).absolute()  # Path.expanduser raises for ~nobody
        survey = _survey_of(self.path)
        self.graph = survey.graph
        self.ports = survey.types
        self.span = survey.span
        self.cut = survey.cut

    def frames(self, ports: Iterable[str]) -> Iterator[dict[str, Message]]:
        """Yield the messages of each frame by port, including marks, as read-only views."""
        ports = list(ports)
        for port in ports:
            if port not in self.ports:
                raise ConfigError(f"{self.path} has no port {port!r}; {choices(port, self.ports, 'recorded')}")
        streams = [self._messages(port) for port in ports]
        merged = heapq.merge(*streams, key=lambda item: item[1].seq)
        for _, items in groupby(merged, key=lambda item: item[1].seq):
            yield dict(items)

    def _messages(self, port: str) -> Iterator[tuple[str, Message]]:
        try:
            with self.path.open("rb") as file:
                for message in _linear(file, port) if self.cut else _indexed(file, port):
                    yield port, recorded.from_bytes(message.data, self.ports[port])
        except _broken() as exc:
            raise GraphError(f"{self.path} is damaged: {exc}") from exc


def _survey_of(path: Path) -> _Survey:
    try:
        found = path.stat()
    except OSError as exc:
        near = did_you_mean(path.name, (other.name for other in path.parent.glob(f"*{SUFFIX}")))
        raise ConfigError(f"no recording {path}: {exc.strerror}{f'; {near}' if near else ''}") from exc
    return _survey(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=8)
def _survey(path: Path, size: int, changed_ns: int) -> _Survey:
    """Read the index of a file, or all of a file that is cut off."""
    if not path.is_file():
        raise ConfigError(f"{path} is not a file")
    try:
        with path.open("rb") as file:
            _check_beginning(file, path)
            survey = _index(file) or _scan(file)
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}") from exc
    except WireError as exc:
        raise ConfigError(f"{path}: {exc}") from exc
    if survey.span.empty:
        raise ConfigError(f"{path} has no messages{' before it is cut off' if survey.cut else ''}")
    return survey


def _check_beginning(file: IO[bytes], path: Path) -> None:
    """Raise ConfigError unless the first bytes are those of our recordings."""
    magic = library().writer.MCAP0_MAGIC
    first = file.read(len(magic))
    if not first:
        raise ConfigError(f"{path} is empty: nothing was recorded")
    if not magic.startswith(first):
        raise ConfigError(f"{path} is not a recording (MCAP); make one: run_graph.py record NODE.PORT -o FILE{SUFFIX}")
    file.seek(0)
    header = next(_records(file), None)
    if header is None:
        raise ConfigError(f"{path} has no messages before it is cut off")
    if getattr(header, "profile", None) != PROFILE:
        raise ConfigError(f"{path} is an MCAP file of another program ({_made_by(header)}), not one of run_graph.py")


def _made_by(header: Any) -> str:
    names = [getattr(header, name, "") for name in ("profile", "library")]
    return ", ".join(name for name in names if name) or "unnamed"


def _index(file: IO[bytes]) -> _Survey | None:
    """Return the content by the index at the end of the file; None without one: the file is incomplete."""
    file.seek(0)
    reader = library().reader.SeekingReader(file)
    with suppress(*_broken()):
        summary = reader.get_summary()
        metadata = {record.name: record.metadata for record in reader.iter_metadata()}
        if summary is None or END not in metadata:
            return None
        schemas = {channel.topic: summary.schemas[channel.schema_id] for channel in summary.channels.values()}
        types = {port: recorded.type_from(schema.data) for port, schema in schemas.items()}
        span: dict[str, Any] = {name: tuple(map(_number, text.split())) for name, text in metadata[END].items()}
        return _Survey(metadata[START]["graph"], types, Span(**span), cut=False)
    return None


def _scan(file: IO[bytes]) -> _Survey:
    """Return the content by reading all of the file."""
    file.seek(0)
    records = library().records
    graph, types, span = "recording", dict[str, type[Message]](), Span()
    schemas: dict[int, Any] = {}
    topics: dict[int, str] = {}
    for record in _records(file):
        if isinstance(record, records.Metadata) and record.name == START:
            graph = record.metadata.get("graph", graph)
        elif isinstance(record, records.Schema):
            schemas[record.id] = record
        elif isinstance(record, records.Channel) and record.topic not in types:
            types[record.topic] = recorded.type_from(schemas[record.schema_id].data)
            topics[record.id] = record.topic
        elif isinstance(record, records.Message):
            span.take(recorded.from_bytes(record.data, types[topics[record.channel_id]]).header)
    return _Survey(graph, types, span, cut=True)


def _indexed(file: IO[bytes], port: str) -> Iterator[Any]:
    """Yield the messages of a port from a file with an index, in file order."""
    reader = library().reader.SeekingReader(file, validate_crcs=True)
    for _, _, message in reader.iter_messages(topics=[port], log_time_order=False):
        yield message


def _linear(file: IO[bytes], port: str) -> Iterator[Any]:
    """Yield the messages of a port up to where the file is cut off."""
    records = library().records
    channels: set[int] = set()
    for record in _records(file):
        if isinstance(record, records.Channel) and record.topic == port:
            channels.add(record.id)
        elif isinstance(record, records.Message) and record.channel_id in channels:
            yield record


def _records(file: IO[bytes]) -> Iterator[Any]:
    """Yield all records of a file up to its end, or to where it is cut off or damaged."""
    try:
        yield from library().stream_reader.StreamReader(file, validate_crcs=True).records
    except _broken():
        return


def _number(text: str) -> int | float:
    return int(text) if text.removeprefix("-").isdigit() else float(text)


def _broken() -> tuple[type[Exception], ...]:
    """Return the exceptions that the library raises if a file is cut off or damaged."""
    from zstandard import ZstdError

    mcap_error = library().exceptions.McapError
    return mcap_error, WireError, ZstdError, struct.error, ValueError, LookupError, RuntimeError, MemoryError, OSError
