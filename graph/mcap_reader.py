"""Read a recording, whole or cut off, without a graph.

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
from graph.recorder import END, PROFILE, START, SUFFIX, Count, Span, library
from graph.spec import did_you_mean

logger = logging.getLogger(__name__)


def recording(path: str | Path, *ports: str) -> Iterator[Any]:
    """Give the recorded messages of a port in their order, as `RunningGraph.subscribe` gives those of a running graph.

    The messages are yours to keep and to write to. With several ports, tuples of messages of the same frame, where
    all of them have one. A recording that is cut off is read up to the cut. Raises ConfigError for a file that is
    none, or a port that is not in it.
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
    """What a file holds."""

    graph: str
    types: dict[str, type[Message]]
    counts: dict[str, Count]
    span: Span
    cut: bool  # before its end, or with something broken in it


class Recording:
    """A file that `run_graph.py record` has written. Raises ConfigError for any other."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(os.path.expanduser(path)).absolute()  # ~nobody stays as it is, where Path raises RuntimeError
        survey = _survey_of(self.path)
        self.graph = survey.graph
        self.ports = survey.types
        self.counts = survey.counts
        self.span = survey.span
        self.cut = survey.cut

    def frames(self, ports: Iterable[str]) -> Iterator[dict[str, Message]]:
        """Give what was said about one frame after the other by port, marks included; read-only views."""
        ports = list(ports)
        for port in ports:
            if port not in self.ports:
                there = did_you_mean(port, self.ports) or f"recorded: {', '.join(self.ports)}"
                raise ConfigError(f"{self.path} has no {port!r}; {there}")
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
    """Look a file through: at its index, or, where it is cut off, at all of it."""
    if not path.is_file():
        raise ConfigError(f"{path} is no file, so it is no recording")
    try:
        with path.open("rb") as file:
            _check_beginning(file, path)
            survey = _index(file) or _look_through(file)
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}") from exc
    except WireError as exc:
        raise ConfigError(f"{path}: {exc}") from exc
    if not any(count.messages for count in survey.counts.values()):
        raise ConfigError(f"{path} holds no message{' before it is cut off' if survey.cut else ''}")
    return survey


def _check_beginning(file: IO[bytes], path: Path) -> None:
    """Raise ConfigError unless this is a recording of ours, as far as its first bytes tell."""
    magic = library().writer.MCAP0_MAGIC
    first = file.read(len(magic))
    if not first:
        raise ConfigError(f"{path} is empty: nothing was recorded")
    if not magic.startswith(first):
        raise ConfigError(f"{path} is no recording (MCAP); record one: run_graph.py record NODE.PORT -o FILE{SUFFIX}")
    file.seek(0)
    header = next(_records(file), None)
    if header is None:
        raise ConfigError(f"{path} holds no message before it is cut off")
    if getattr(header, "profile", None) != PROFILE:
        raise ConfigError(f"{path} is an MCAP file of another program ({_made_by(header)}), not one of run_graph.py")


def _made_by(header: Any) -> str:
    said = [getattr(header, name, "") for name in ("profile", "library")]
    return ", ".join(text for text in said if text) or "unnamed"


def _index(file: IO[bytes]) -> _Survey | None:
    """Return what the end of the file says; None where it has none: the recorder was killed, or the file cut."""
    reader = library().reader.SeekingReader(_rewound(file))
    with suppress(*_broken()):
        summary = reader.get_summary()
        said = {record.name: record.metadata for record in reader.iter_metadata()}
        if summary is None or END not in said:
            return None
        types, counts = {}, {}
        for channel in summary.channels.values():
            types[channel.topic] = recorded.type_from(summary.schemas[channel.schema_id].data)
            counts[channel.topic] = Count(messages=summary.statistics.channel_message_counts.get(channel.id, 0))
        span: dict[str, Any] = {name: tuple(map(_number, text.split())) for name, text in said[END].items()}
        return _Survey(said[START]["graph"], types, counts, Span(**span), cut=False)
    return None


def _look_through(file: IO[bytes]) -> _Survey:
    records = library().records
    graph, types, counts, span = "recording", dict[str, type[Message]](), dict[str, Count](), Span()
    schemas: dict[int, Any] = {}
    topics: dict[int, str] = {}
    for record in _records(_rewound(file)):
        if isinstance(record, records.Metadata) and record.name == START:
            graph = record.metadata.get("graph", graph)
        elif isinstance(record, records.Schema):
            schemas[record.id] = record
        elif isinstance(record, records.Channel) and record.topic not in types:
            types[record.topic] = recorded.type_from(schemas[record.schema_id].data)
            counts[record.topic], topics[record.id] = Count(), record.topic
        elif isinstance(record, records.Message):
            topic = topics[record.channel_id]
            message = recorded.from_bytes(record.data, types[topic])
            counts[topic].take(message)
            span.take(message.header)
    return _Survey(graph, types, counts, span, cut=True)


def _indexed(file: IO[bytes], port: str) -> Iterator[Any]:
    """Give the messages of a port, of a file with an index, in the order of the file."""
    reader = library().reader.SeekingReader(file, validate_crcs=True)
    for _, _, message in reader.iter_messages(topics=[port], log_time_order=False):
        yield message


def _linear(file: IO[bytes], port: str) -> Iterator[Any]:
    """Give the messages of a port up to where the file is cut off."""
    records = library().records
    channels: set[int] = set()
    for record in _records(file):
        if isinstance(record, records.Channel) and record.topic == port:
            channels.add(record.id)
        elif isinstance(record, records.Message) and record.channel_id in channels:
            yield record


def _records(file: IO[bytes]) -> Iterator[Any]:
    """Give everything in a file up to its end, or to where it is cut off or broken."""
    try:
        yield from library().stream_reader.StreamReader(file, validate_crcs=True).records
    except _broken():
        return


def _rewound(file: IO[bytes]) -> IO[bytes]:
    file.seek(0, os.SEEK_SET)
    return file


def _number(text: str) -> int | float:
    return int(text) if text.removeprefix("-").isdigit() else float(text)


def _broken() -> tuple[type[Exception], ...]:
    """Return what the library raises where a file is cut off or damaged."""
    from zstandard import ZstdError

    mcap_error = library().exceptions.McapError
    return mcap_error, WireError, ZstdError, struct.error, ValueError, LookupError, RuntimeError, MemoryError, OSError
