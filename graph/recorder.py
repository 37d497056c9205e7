"""Record ports of a running graph into one file: MCAP (https://mcap.dev/spec), read by `graph.recording`.

Each port is a channel with the topic "node.port". A message's `sequence` is its seq (modulo 2^32), its publish time is
when its node was done with it, and its log time when it was received, both in nanoseconds since 1970. The difference
between CLOCK_MONOTONIC and the wall clock is measured at the start and stored in the metadata.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from graph import recorded, wire
from graph.attached import RunningGraph
from graph.errors import ConfigError, GraphError
from graph.messages import Header, Mark, Message
from graph.receiver import type_name
from graph.stop_signals import on_stop_signals

Compression = Literal["lz4", "zstd", "none"]
PROFILE = "facegraph"
START, END = "facegraph.start", "facegraph.end"
"""Names of the metadata records: graph and clocks at the start, the Span at the end."""

QUEUE = 32
"""Messages that wait in the sender while the disk is busy: a second of video."""
FLUSH_S = 0.5
"""Interval at which data goes to the operating system: a killed recorder loses no more than this."""
LATE_S = 5.0
"""How long messages that were sent before the end may still arrive: else pictures would end before their faces."""
CHUNK = 1 << 20
"""Bytes that are compressed together: one picture, or many small messages."""
SUFFIX = ".mcap"


@dataclass
class Span:
    """First and last values in a recording, over all its ports."""

    seq: tuple[int, int] = (0, -1)
    epoch: tuple[int, int] = (0, 0)
    pts: tuple[float, float] = (0.0, 0.0)  # seconds
    sent_ns: tuple[int, int] = (0, 0)  # CLOCK_MONOTONIC of the graph's host

    def take(self, header: Header) -> None:
        """Extend the span by a message."""
        first = self.empty
        values = {"seq": header.seq, "epoch": header.epoch, "pts": header.pts, "sent_ns": sent_ns(header)}
        for name, value in values.items():
            low, high = (value, value) if first else getattr(self, name)
            setattr(self, name, (min(low, value), max(high, value)))

    @property
    def empty(self) -> bool:
        """Whether there was no message."""
        return self.seq[0] > self.seq[1]


@dataclass
class Count:
    """The number of recorded messages of one port."""

    messages: int = 0
    missing: int = 0  # frames between the first and the last that were not received
    last: Header | None = None

    def take(self, message: Message) -> None:
        """Count one message. Where a restarted source jumps to a higher number, nothing is missing."""
        header = message.header
        if self.last is not None and header.epoch == self.last.epoch:
            self.missing += max(0, header.seq - self.last.seq - 1)
        self.last = header
        self.messages += not isinstance(message, Mark)


def sent_ns(header: Header) -> int:
    """Return when the node was done with a message (CLOCK_MONOTONIC ns)."""
    return header.hops[-1].end_ns if header.hops else header.t_capture_ns


class Recorder:
    """Writes messages into a file, which is readable at any time, except for the last half second."""

    def __init__(
        self,
        path: Path,
        types: Mapping[str, type[Message]],
        graph: str,
        compression: Compression,
        ahead_ns: int = 0,
    ) -> None:
        """Open the file, with a channel for each port. Raises ConfigError if it cannot be written.

        `ahead_ns`: how far the clock of the messages is ahead of ours.
        """
        mcap_writer = library().writer
        self.path = path
        self.span = Span()
        self.counts = {port: Count() for port in types}
        self._ahead_ns = ahead_ns
        self._to_wall_ns = time.time_ns() - time.monotonic_ns() - ahead_ns
        self._flushed = time.monotonic()
        try:
            self._file = path.open("wb")
        except OSError as exc:
            raise ConfigError(f"{path} cannot be written: {exc.strerror}") from exc
        with self._reporting_errors():
            self._writer = mcap_writer.Writer(self._file, CHUNK, mcap_writer.CompressionType[compression.upper()])
            self._writer.start(PROFILE)
            start = {"protocol": str(wire.VERSION), "wall_minus_monotonic_ns": str(self._to_wall_ns)}
            self._writer.add_metadata(START, {"graph": graph, **start})
            self._channels = {port: self._add_channel(port, type_) for port, type_ in types.items()}
            self._writer.flush()

    def _add_channel(self, port: str, type_: type[Message]) -> Any:
        schema = self._writer.register_schema(type_name(type_), recorded.SCHEMA_ENCODING, recorded.schema_of(type_))
        return self._writer.register_channel(port, recorded.ENCODING, schema)

    def write(self, port: str, message: Message) -> None:
        """Append a message of `port`. Raises GraphError if it cannot be written (disk full)."""
        header = message.header
        self.counts[port].take(message)
        self.span.take(header)
        with self._reporting_errors():
            self._writer.add_message(
                channel_id=self._channels[port],
                log_time=time.monotonic_ns() + self._ahead_ns + self._to_wall_ns,
                data=recorded.to_bytes(message),
                publish_time=max(0, sent_ns(header) + self._to_wall_ns),
                sequence=header.seq & 0xFFFFFFFF,
            )

    def flush(self) -> None:
        """Pass the data to the operating system if the last time was FLUSH_S ago."""
        if time.monotonic() - self._flushed >= FLUSH_S:
            self._flushed = time.monotonic()
            with self._reporting_errors():
                self._writer.flush()

    def close(self) -> None:
        """Write the index, and close the file. Raises GraphError if that fails."""
        if self._file.closed:
            return
        with self._reporting_errors():
            span = {name: f"{low!r} {high!r}" for name, (low, high) in vars(self.span).items()}
            self._writer.add_metadata(END, span)
            self._writer.finish()
            self._file.close()

    @contextlib.contextmanager
    def _reporting_errors(self) -> Iterator[None]:
        """Turn a write error into a GraphError; the file stays as it is, readable up to there."""
        try:
            yield
        except OSError as exc:
            with contextlib.suppress(OSError):
                self._file.close()
            count = sum(count.messages for count in self.counts.values())
            raise GraphError(f"{self.path}: {exc.strerror}; it ends after about {count} messages") from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def library() -> Any:
    """Return the package `mcap` with its modules. Raises ConfigError if it is not installed."""
    try:
        import mcap.exceptions
        import mcap.reader
        import mcap.records
        import mcap.stream_reader
        import mcap.writer
    except ImportError as exc:
        install = "pip install '.[record]' (or pip install mcap)"
        raise ConfigError(f"recordings need the package {exc.name}: {install}") from exc
    return mcap


def record(
    g: RunningGraph,
    ports: list[str],
    path: Path,
    duration: float | None = None,
    block: bool = False,
    compression: Compression = "lz4",
    started: Callable[[], None] = lambda: None,
) -> Recorder:
    """Record ports of a running graph until it ends, a stop signal arrives, or `duration` seconds have passed.

    `block` makes the graph wait if the disk is too slow; otherwise the oldest messages are dropped and counted as
    missing. `started` is called when every sender has answered. Messages sent before the end are still recorded if
    they arrive within LATE_S. Returns the closed recorder with its counts.
    Raises ConfigError for ports that do not exist or a file that cannot be written, GraphError if the graph dies or
    the disk is full; the file is readable up to there.
    """
    if path.suffix.lower() != SUFFIX:
        raise ConfigError(f"{path}: the name of a recording must end in {SUFFIX}")
    types = {port: g.type_of(port) for port in ports}
    policy = "block" if block else "drop_oldest"
    stop = _Stop()
    with (
        on_stop_signals(stop.request),
        Recorder(path, types, g.name, compression, g.ahead_ns) as recorder,
        contextlib.closing(g.listen(*ports, policy=policy, queue=QUEUE)) as stream,
    ):
        until: float | None = None  # CLOCK_MONOTONIC s
        late = set(ports)  # may still have messages in the graph that were sent before the end
        for item in stream:
            now = time.monotonic()
            if until is None:
                until = now + duration if duration is not None else float("inf")
                started()
            if stop.requested:
                until = min(until, now)
            if item is not None and sent_ns(item[1].header) - g.ahead_ns <= until * 1e9:
                recorder.write(*item)
            elif item is not None:
                late.discard(item[0])
            recorder.flush()
            if now >= until and (item is None or not late or now >= until + LATE_S):
                break
    return recorder


class _Stop:
    """A request to stop, which takes effect between two messages."""

    def __init__(self) -> None:
        self.requested = False

    def request(self) -> None:
        if self.requested:
            os._exit(1)  # the second request: the file stays incomplete
        self.requested = True
