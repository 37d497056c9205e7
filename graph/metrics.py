"""What a node's process measures about itself while it runs.

`Meter` collects the measurements in the worker; its `snapshot()` goes to the supervisor with every heartbeat. The
hot path only stores integers; all arithmetic is done in bulk, once per `BATCH` frames or snapshot.
"""

import os
import time
from collections import Counter
from struct import Struct
from threading import Lock
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

SUB_BUCKETS = 32  # per octave: half a bucket is at most 1/64 = 1.6 % of the value
LINEAR_NS = 1024  # below it the buckets are LINEAR_NS / SUB_BUCKETS = 32 ns wide
OCTAVES = 30  # above it: 1.024 us * 2**30 = 1,100 s; the last bucket also counts longer times
BUCKETS = SUB_BUCKETS * (OCTAVES + 1)

MAX_EDGES = 64  # edges to disconnected consumers whose counts are kept
BATCH = 1024  # frames that are evaluated together
TRACE_LIMIT = 20_000  # frames kept between two snapshots, 800 kB; later ones are not traced
UNMATCHED = "another input of the same frame never arrived, or a newer frame was complete first"
"""Why unmatched inputs are skipped."""
_ROW = Struct("6q")  # seq, ready, start, end, published, captured
_write_row = _ROW.pack_into


class Histogram:
    """Counts of durations (ns) in log-linear buckets: fixed size, fixed relative error.

    Source: the bucket layout of HdrHistogram (Gil Tene), with 32 linear sub-buckets per octave.
    A percentile is off by at most 1.6 %, or by 16 ns below 1 us; count, mean, minimum and maximum are exact.
    """

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(BUCKETS, np.int64)
        self.total_ns = 0
        self.min_ns = 0
        self.max_ns = 0

    def add_many(self, ns: NDArray[np.int64]) -> None:
        """Count durations, (N,) int64; a negative one counts as zero."""
        if not len(ns):
            return
        ns = np.maximum(ns, 0)
        low, high = int(ns.min()), int(ns.max())
        self.min_ns = min(self.min_ns, low) if self.count else low
        self.max_ns = max(self.max_ns, high)
        self.total_ns += int(ns.sum())
        self.counts += np.bincount(bucket_of(ns), minlength=BUCKETS)

    @property
    def count(self) -> int:
        """How many durations were added."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Exact mean in ns, 0 if empty."""
        return self.total_ns / max(self.count, 1)

    def percentile(self, p: float) -> float:
        """Return the duration in ns that `p` percent (0..100) of all do not exceed, 0 if empty."""
        cumulative = np.cumsum(self.counts)
        rank = np.ceil(cumulative[-1] * p / 100)
        middle = middle_of(int(np.searchsorted(cumulative, rank)))
        return float(min(max(middle, self.min_ns), self.max_ns))

    def merge(self, other: "Histogram") -> None:
        """Add the counts of `other`."""
        if not other.count:
            return
        self.min_ns = min(self.min_ns, other.min_ns) if self.count else other.min_ns
        self.max_ns = max(self.max_ns, other.max_ns)
        self.total_ns += other.total_ns
        self.counts += other.counts

    def to_wire(self) -> dict[str, Any]:
        """Return plain values for msgpack: only the buckets in use, as index, count, index, count, ..."""
        used = np.flatnonzero(self.counts)
        pairs = np.stack([used, self.counts[used]], axis=1)
        return {"total": self.total_ns, "min": self.min_ns, "max": self.max_ns, "buckets": pairs.ravel().tolist()}

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> Self:
        """Undo `to_wire`. Raises ValueError for a bucket that does not exist."""
        histogram = cls()
        histogram.total_ns, histogram.min_ns, histogram.max_ns = wire["total"], wire["min"], wire["max"]
        pairs = np.array(wire["buckets"], np.int64).reshape(-1, 2)
        if len(pairs) and not (pairs[:, 0].min() >= 0 and pairs[:, 0].max() < BUCKETS):
            raise ValueError(f"histogram bucket out of range 0..{BUCKETS - 1}: {pairs[:, 0].tolist()}")
        histogram.counts[pairs[:, 0]] = pairs[:, 1]
        return histogram


def bucket_of(ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bucket of each duration, (N,) int64 >= 0."""
    mantissa, exponent = np.frexp(ns.astype(np.float64))  # ns = mantissa * 2**exponent, mantissa in [0.5, 1)
    sub = (mantissa * (2 * SUB_BUCKETS)).astype(np.int64)  # SUB_BUCKETS .. 2 * SUB_BUCKETS - 1
    octave = exponent.astype(np.int64) - LINEAR_NS.bit_length()
    logarithmic = np.minimum(octave * SUB_BUCKETS + sub, BUCKETS - 1)
    return np.where(ns < LINEAR_NS, ns * SUB_BUCKETS // LINEAR_NS, logarithmic)


def middle_of(bucket: int) -> float:
    """Return the duration in ns at the middle of a bucket."""
    octave, sub = divmod(bucket, SUB_BUCKETS)
    if octave:
        sub += SUB_BUCKETS
        octave -= 1
    return (sub + 0.5) * (LINEAR_NS / SUB_BUCKETS) * 2.0**octave


def short_ms(ms: float) -> str:
    """Return milliseconds with up to three digits: 0.04, 3.14, 31.4, 314."""
    return f"{ms:.2f}" if ms < 9.995 else f"{ms:.1f}" if ms < 99.95 else f"{ms:.0f}"


class Meter:
    """Times, drops, queues and states of one node. All times are CLOCK_MONOTONIC nanoseconds.

    `frame` and `snapshot` may be called from different threads.
    """

    def __init__(self, trace: bool) -> None:
        self.frames = 0
        self._trace_wanted = trace
        self._lock = Lock()
        self._rows = bytearray(BATCH * _ROW.size)
        self._used = 0  # bytes of it
        self._trace: list[NDArray[np.int64]] = []
        self._histograms = {name: Histogram() for name in ("wait", "process", "publish", "age")}
        self._said: Counter[str] = Counter()
        self._drops: Counter[str] = Counter()
        self._unmatched = 0
        self._queued: dict[str, int] = {}
        self._queue_peak: Counter[str] = Counter()
        self._state = ""
        self._state_since = self._started = time.monotonic_ns()
        self._state_ns: Counter[str] = Counter()
        self._last_seq = -1
        self._first_ns = self._last_ns = 0
        self._cpu_before = time.process_time()

    def frame(self, seq: int, ready_ns: int, start_ns: int, end_ns: int, published_ns: int, captured_ns: int) -> None:
        """Record the times of one call of process().

        ready: when the last input was made (`made_ns` in graph/join.py), of a source the same as start; start, end:
        around process(); published: queued for all consumers, of a sink the same as end; captured: `t_capture_ns` of
        the frame, 0 if unknown.
        """
        with self._lock:
            used = self._used
            _write_row(self._rows, used, seq, ready_ns, start_ns, end_ns, published_ns, captured_ns)
            self._used = used = used + _ROW.size
            if used == len(self._rows):
                self._fold()

    def said(self, port: str) -> None:
        """Count a message of an output."""
        self._said[port] += 1

    def drop(self, edge: str, count: int = 1) -> None:
        """Count messages dropped by the policy of an outgoing edge such as "camera.frame -> render.frame"."""
        self._drops[edge] += count

    def unmatched(self, count: int) -> None:
        """Count skipped inputs, see UNMATCHED."""
        self._unmatched += count

    def queued(self, edge: str, waiting: int) -> None:
        """Record the length of the queue of an outgoing edge after a message was added."""
        self._queue_peak[edge] = max(waiting, self._queue_peak[edge])

    def depths(self, queued: dict[str, int]) -> None:
        """Record the queue length of each current outgoing edge; forget the oldest edges that are gone."""
        self._queued = queued
        for counts in (self._drops, self._queue_peak):
            for edge in [edge for edge in list(counts) if edge not in queued][:-MAX_EDGES]:
                del counts[edge]

    def state(self, name: str, now_ns: int) -> None:
        """Record a change of state.

        WAITING for input, PROCESSING or publishing, BLOCKED by a consumer, PAUSED; after the end of the stream CLOSING
        (in close()), then DRAINING (consumers take the last messages).
        """
        if self._state:
            self._state_ns[self._state] += now_ns - self._state_since
        self._state = name
        self._state_since = now_ns

    def snapshot(self) -> dict[str, Any]:
        """Return everything measured so far as plain values for msgpack.

        Counts and histograms are cumulative, so losing a snapshot does no harm; only `trace` (see `trace_rows`)
        covers just the time since the previous snapshot.
        """
        with self._lock:
            self._fold()
            now = time.monotonic_ns()
            snapshot = {
                "started_ns": self._started,
                "time_ns": now,
                "frames": self.frames,
                "last_seq": self._last_seq,
                "first_ns": self._first_ns,
                "last_ns": self._last_ns,
                "times": {name: histogram.to_wire() for name, histogram in self._histograms.items()},
                "said": dict(self._said),
                "dropped": dict(self._drops),
                "unmatched": self._unmatched,
                "queued": dict(self._queued),
                "queue_peak": dict(self._queue_peak),
                "state": self._state,
                "state_ns": self._times_in_states(now),
                "cpu_s": time.process_time() - self._cpu_before,
                "rss_bytes": resident_bytes(),
            }
            if self._trace_wanted:
                snapshot["trace"] = b"".join(rows.astype("<i8").tobytes() for rows in self._trace)
                self._trace = []
        return snapshot

    def _times_in_states(self, now_ns: int) -> dict[str, int]:
        times = Counter(self._state_ns)
        if self._state:
            times[self._state] += max(now_ns - self._state_since, 0)
        return dict(times)

    def _fold(self) -> None:
        """Move the collected rows into the histograms and the trace."""
        if not self._used:
            return
        rows = np.frombuffer(self._rows, np.int64, count=self._used // 8).reshape(-1, 6)
        self._used = 0
        seq, ready, start, end, published, captured = rows.T
        self._histograms["wait"].add_many(start - ready)
        self._histograms["process"].add_many(end - start)
        self._histograms["publish"].add_many(published - end)
        self._histograms["age"].add_many((published - captured)[captured > 0])
        self._first_ns = self._first_ns or int(start[0])
        self._last_ns = int(published[-1])
        self._last_seq = int(seq[-1])
        self.frames += len(rows)
        if self._trace_wanted:
            room = TRACE_LIMIT - sum(map(len, self._trace))
            self._trace.append(rows[:room, :5].copy())


def trace_rows(snapshot: dict[str, Any]) -> NDArray[np.int64]:
    """Return the traced frames of a snapshot, (N, 5): seq, ready, start, end, published (ns)."""
    return np.frombuffer(snapshot.get("trace", b""), "<i8").reshape(-1, 5)


def resident_bytes() -> int:
    """Return the resident memory of this process, including shared memory; 0 without /proc."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
