"""Record ports of a running graph into one file: MCAP (https://mcap.dev/spec), read by `graph.recording`.

A channel per port, its topic "node.port". A message's `sequence` is its seq (modulo 2^32), its publish time when its
node was done with it, its log time when it came here; both in nanoseconds since 1970. CLOCK_MONOTONIC is turned into
wall clock by the pair of both that was read at the start, and that is kept in the metadata.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from graph import recorded, wire
from graph.attached import RunningGraph
from graph.endings import heeding
from graph.errors import ConfigError, GraphError
from graph.messages import Header, Mark, Message
from graph.receiver import type_name

Compression = Literal["lz4", "zstd", "none"]
PROFILE = "facegraph"
START, END = "facegraph.start", "facegraph.end"
"""Names of the metadata records: where and when it began, and what it holds in the end."""

QUEUE = 32
"""Messages that wait in the graph while the disk is busy: a second of video."""
FLUSH_S = 0.5
"""What a killed recorder loses at most: so often everything is handed to the operating system."""
LATE_S = 5.0
"""What was sent before the end, and waits for the disk, gets so long: else pictures would end before their faces."""
CHUNK = 1 << 20
"""Bytes that are compressed together: a picture, or many messages without one."""
SUFFIX = ".mcap"


@dataclass
class Span:
    """From where to where a recording goes, over all its ports."""

    seq: tuple[int, int] = (0, -1)
    epoch: tuple[int, int] = (0, 0)
    pts: tuple[float, float] = (0.0, 0.0)  # seconds
    sent_ns: tuple[int, int] = (0, 0)  # CLOCK_MONOTONIC of the graph's host

    def take(self, header: Header) -> None:
        """Grow so that a message is in it."""
        now = (header.seq, header.epoch, header.pts, sent_ns(header))
        first = self.seq[0] > self.seq[1]
        for name, value in zip(("seq", "epoch", "pts", "sent_ns"), now, strict=True):
            low, high = (value, value) if first else getattr(self, name)
            setattr(self, name, (min(low, value), max(high, value)))


@dataclass
class Count:
    """What was recorded of one port."""

    messages: int = 0
    marks: int = 0  # frames about which the node had nothing to say
    missing: int = 0  # frames between the first and the last that did not come
    last: Header | None = None
    channel: int = field(default=0, repr=False)

    def take(self, message: Message) -> None:
        """Count one message. A source that was started again jumps to a higher number: nothing is missing there."""
        header = message.header
        if self.last is not None and header.epoch == self.last.epoch:
            self.missing += max(0, header.seq - self.last.seq - 1)
        self.last = header
        if isinstance(message, Mark):
            self.marks += 1
        else:
            self.messages += 1


def sent_ns(header: Header) -> int:
    """Return when the node was done with a message; CLOCK_MONOTONIC ns."""
    return header.hops[-1].end_ns if header.hops else header.t_capture_ns


class Recorder:
    """Writes messages into a file. What lies there is readable at any time, up to the last half second."""

    def __init__(
        self,
        path: Path,
        types: Mapping[str, type[Message]],
        graph: str,
        compression: Compression,
        ahead_ns: int = 0,
    ) -> None:
        """Open the file, with a channel for each port. Raises ConfigError if it cannot be written.

        `ahead_ns` is by how much the clock of the messages is ahead of ours.
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
        with self._told():
            self._writer = mcap_writer.Writer(self._file, CHUNK, mcap_writer.CompressionType[compression.upper()])
            self._writer.start(PROFILE)
            self._writer.add_metadata(START, self._start(graph))
            for port, type_ in types.items():
                self._add_channel(port, type_)
            self._writer.flush()

    def _start(self, graph: str) -> dict[str, str]:
        to_wall_ns = str(self._to_wall_ns)
        return {"graph": graph, "protocol": str(wire.VERSION), "wall_minus_monotonic_ns": to_wall_ns}

    def _add_channel(self, port: str, type_: type[Message]) -> None:
        schema = self._writer.register_schema(type_name(type_), recorded.SCHEMA_ENCODING, recorded.schema_of(type_))
        self.counts[port].channel = self._writer.register_channel(port, recorded.ENCODING, schema)

    def write(self, port: str, message: Message) -> None:
        """Append a message of `port`. Raises GraphError if it cannot be written (disk full)."""
        header, count = message.header, self.counts[port]
        count.take(message)
        self.span.take(header)
        with self._told():
            self._writer.add_message(
                channel_id=count.channel,
                log_time=time.monotonic_ns() + self._ahead_ns + self._to_wall_ns,
                data=recorded.to_bytes(message),
                publish_time=max(0, sent_ns(header) + self._to_wall_ns),
                sequence=header.seq & 0xFFFFFFFF,
            )

    def flush(self) -> None:
        """Hand what has come to the operating system, if that is half a second ago."""
        if time.monotonic() - self._flushed >= FLUSH_S:
            self._flushed = time.monotonic()
            with self._told():
                self._writer.flush()

    def close(self) -> None:
        """Write the index, and close the file. Raises GraphError if that fails."""
        if self._file.closed:
            return
        with self._told():
            span = {name: f"{low!r} {high!r}" for name, (low, high) in vars(self.span).items()}
            self._writer.add_metadata(END, span)
            self._writer.finish()
            self._file.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Tell of a file that cannot be written, and leave it as it is: it can be read up to there."""
        try:
            yield
        except OSError as exc:
            with contextlib.suppress(OSError):
                self._file.close()
            count = sum(count.messages for count in self.counts.values())
            raise GraphError(f"{self.path}: {exc.strerror}; it ends after about {count} messages") from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def library() -> Any:
    """Return the package `mcap` with its modules. Raises ConfigError where it is not installed."""
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
    """Record ports of a running graph until it ends, one of ENDINGS comes, or `duration` seconds are over.

    `block` makes the graph wait where the disk is slower; otherwise the oldest messages are dropped, and counted as
    missing. `started` is called when every sender has answered. Returns the closed recorder with its counts.
    What was sent until then is still taken, for LATE_S at most.
    Raises ConfigError for ports that do not exist or a file that cannot be written, GraphError if the graph dies or
    the disk is full; the file is readable then, up to there.
    """
    if path.suffix.lower() != SUFFIX:
        raise ConfigError(f"{path}: the name of a recording ends in {SUFFIX}")
    types = {port: g.type_of(port) for port in ports}
    policy = "block" if block else "drop_oldest"
    stop = _Stop()
    with (
        heeding(stop.ask),
        Recorder(path, types, g.name, compression, g.ahead_ns) as recorder,
        contextlib.closing(g.listen(*ports, policy=policy, queue=QUEUE)) as stream,
    ):
        until: float | None = None  # CLOCK_MONOTONIC s
        late = set(ports)  # of these, messages that were sent before the end may still wait in the graph
        for said in stream:
            now = time.monotonic()
            if until is None:
                until = now + duration if duration is not None else float("inf")
                started()
            if stop.asked:
                until = min(until, now)
            if said is not None and sent_ns(said[1].header) - g.ahead_ns <= until * 1e9:
                recorder.write(*said)
            elif said is not None:
                late.discard(said[0])
            recorder.flush()
            if now >= until and (said is None or not late or now >= until + LATE_S):
                break
    return recorder


class _Stop:
    """Notes that the end is asked for, so that a message is written whole."""

    def __init__(self) -> None:
        self.asked = False

    def ask(self) -> None:
        if self.asked:
            os._exit(1)  # the second one: the file is cut off here
        self.asked = True
