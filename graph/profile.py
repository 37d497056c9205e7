"""The measurements of a whole run: the report at its end, and the files of `--profile DIR`.

latency.json has what `Profile.summary` returns; latency.png shows it (graph/latency_plot.py);
trace.json opens in Perfetto or chrome://tracing (graph/chrome_trace.py).
"""

import json
import os
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.text import Text

from graph.columns import Column, fitting
from graph.metrics import UNMATCHED, Histogram, short_ms, trace_rows
from graph.spec import GraphSpec, NodeSpec

FORMAT = 2  # version of latency.json; 1 defined rates, waits and shares differently
TRACE_FRAMES = 5_000  # newest frames kept per node for trace.json: 3 MB per node
TIMES = ("wait", "process", "publish", "age")


@dataclass
class _Process:
    """One process of a node; a restarted node has several."""

    ready_ns: int  # time of the last snapshot without frames
    ready_cpu_s: float
    latest: dict[str, Any]

    def take(self, snapshot: dict[str, Any]) -> None:
        self.latest = snapshot
        if not snapshot["frames"]:
            self.ready_ns, self.ready_cpu_s = snapshot["time_ns"], snapshot["cpu_s"]


class NodeProfile:
    """The measurements of one node, over all its processes."""

    def __init__(self, spec: NodeSpec) -> None:
        self.name = spec.name
        self.type = spec.type
        self.restarts = 0  # the new process may not have sent a snapshot yet
        self._processes: list[_Process] = []
        self._trace: list[NDArray[np.int64]] = []
        self._trace_length = 0

    def take(self, snapshot: dict[str, Any]) -> None:
        """Take a snapshot of the node's Meter (graph/metrics.py)."""
        if not self._processes or self._processes[-1].latest["started_ns"] != snapshot["started_ns"]:
            self._processes.append(_Process(snapshot["started_ns"], 0.0, snapshot))
        self._processes[-1].take(snapshot)
        self._keep_trace(snapshot)

    def _keep_trace(self, snapshot: dict[str, Any]) -> None:
        rows = trace_rows(snapshot)
        if not len(rows):
            return
        self._trace.append(rows)
        self._trace_length += len(rows)
        while self._trace_length - len(self._trace[0]) >= TRACE_FRAMES:
            self._trace_length -= len(self._trace.pop(0))

    @property
    def _snapshots(self) -> list[dict[str, Any]]:
        return [process.latest for process in self._processes]

    def trace(self) -> NDArray[np.int64]:
        """Return the newest frames, (N, 5): seq, ready, start, end, published (CLOCK_MONOTONIC ns)."""
        return np.concatenate([np.zeros((0, 5), np.int64), *self._trace])[-TRACE_FRAMES:]

    def times(self, name: str) -> Histogram:
        """Return the histogram of "wait", "process", "publish" or "age"."""
        merged = Histogram()
        for snapshot in self._snapshots:
            merged.merge(Histogram.from_wire(snapshot["times"][name]))
        return merged

    def counts(self, name: str) -> Counter[str]:
        """Return "dropped" (messages), "queue_peak" (messages) or "state_ns" by edge or state."""
        total: Counter[str] = Counter()
        for snapshot in self._snapshots:
            for key, count in snapshot[name].items():
                total[key] = max(total[key], count) if name == "queue_peak" else total[key] + count
        return total

    @property
    def frames(self) -> int:
        """Calls of process() so far."""
        return sum(snapshot["frames"] for snapshot in self._snapshots)

    @property
    def unmatched(self) -> int:
        """Inputs that were skipped, see UNMATCHED."""
        return sum(snapshot["unmatched"] for snapshot in self._snapshots)

    @property
    def span_ns(self) -> tuple[int, int]:
        """Start of the first frame and end of the last (CLOCK_MONOTONIC ns); needs at least one frame."""
        spans = [(snapshot["first_ns"], snapshot["last_ns"]) for snapshot in self._snapshots if snapshot["frames"]]
        return min(first for first, _ in spans), max(last for _, last in spans)

    @property
    def cpu_percent(self) -> float:
        """CPU time of the node's process while it played; 100 is one core."""
        elapsed = sum(process.latest["time_ns"] - process.ready_ns for process in self._processes) / 1e9
        return 100 * self.playing_cpu_s / elapsed if elapsed else 0.0

    @property
    def playing_cpu_s(self) -> float:
        """CPU time of all its processes since they were ready, without importing libraries."""
        return float(sum(process.latest["cpu_s"] - process.ready_cpu_s for process in self._processes))

    @property
    def cpu_s(self) -> float:
        """CPU time of all its processes."""
        return float(sum(snapshot["cpu_s"] for snapshot in self._snapshots))

    @property
    def rss_mb(self) -> float:
        """Resident memory at the last snapshot, including shared memory, 10**6 bytes."""
        return self._processes[-1].latest["rss_bytes"] / 1e6 if self._processes else 0.0


class Profile:
    """Collects the snapshots of all nodes of one graph."""

    def __init__(self, spec: GraphSpec) -> None:
        self.spec = spec
        self.started = datetime.now(UTC)
        self.nodes = {name: NodeProfile(spec.nodes[name]) for name in spec.flow_order()}

    def take(self, node: str, snapshot: dict[str, Any]) -> None:
        """Take a snapshot of the Meter of `node`."""
        self.nodes[node].take(snapshot)

    def sinks(self) -> list[NodeProfile]:
        """Return the sinks that have processed a frame."""
        return [self.nodes[name] for name in self.spec.sinks() if self.nodes[name].times("age").count]

    def dropped(self) -> Counter[str]:
        """Return the messages dropped so far by edge, "camera.frame -> render.frame"."""
        return sum((node.counts("dropped") for node in self.nodes.values()), Counter())

    def dropped_before(self, name: str) -> int | None:
        """Return how many messages to this node were dropped; None if another graph counts them."""
        if any(edge.source_graph for edge in self.spec.edges_into(name)):
            return None
        return sum(count for edge, count in self.dropped().items() if edge.split(" -> ")[-1].split(".")[0] == name)

    @property
    def duration_s(self) -> float:
        """Seconds from the start of the first frame anywhere in the graph to the end of the last."""
        spans = [node.span_ns for node in self.nodes.values() if node.frames]
        return (max(last for _, last in spans) - min(first for first, _ in spans)) / 1e9 if spans else 0.0

    def fps(self, node: NodeProfile) -> float:
        """Return a node's frames per second over the whole run."""
        return node.frames / self.duration_s if self.duration_s else 0.0

    def busy_percent(self, node: NodeProfile) -> float:
        """Return the share of the run spent working: in process() or publishing, not waiting or blocked."""
        busy_s = node.counts("state_ns")["PROCESSING"] / 1e9
        return min(100 * busy_s / self.duration_s, 100.0) if self.duration_s else 0.0

    def busiest(self) -> NodeProfile | None:
        """Return the busiest node, except sources whose consumers drop frames: they limit nothing."""
        busy = [node for node in self.nodes.values() if node.frames and not self._is_ahead(node.name)]
        return max(busy, key=self.busy_percent, default=None)

    def _is_ahead(self, name: str) -> bool:
        edges = self.spec.edges_from(name) if name in self.spec.sources() else ()
        return any(self.dropped()[edge.name] for edge in edges)

    def summary(self) -> dict[str, Any]:
        """Return latency.json as plain values. Times are milliseconds, rates per second.

        - `duration_s`: from the start of the first frame anywhere to the end of the last; rates and shares refer to it
        - `nodes.NAME`: `frames`; `fps`; `busy_percent` (share of the time in process() or publishing, not waiting or
          blocked; for a live source, which waits for its camera in process(), only the CPU time counts, also in
          `process_ms`); `wait_ms` (from when the last input was made to the start: in queues, in transit, and until
          the node was free), `process_ms`, `publish_ms` (including waiting while a queue is full) and `age_ms` (from
          the capture of the frame to here), each with `p50`, `p95`, `p99`, `mean`, `max`; `states_percent`;
          `unmatched`; `restarts`; `cpu_percent` (100 is one core); `memory_mb`
        - `edges.EDGE`: `dropped` messages and `queue_peak`, the longest queue in the sender; an edge from another
          graph is in the profile of that graph
        - `capture_to_sink.NAME`: `age_ms` at this sink. It consists of wait and process of the nodes on the path;
          while a node publishes, the next ones already wait.
        """
        return {
            "format": FORMAT,
            "graph": self.spec.name,
            "started": self.started.isoformat(timespec="seconds"),
            "duration_s": round(self.duration_s, 3),
            "machine": machine(),
            "capture_to_sink": {node.name: _in_ms(node.times("age")) for node in self.sinks()},
            "nodes": {name: self._node_summary(node) for name, node in self.nodes.items()},
            "edges": self.edges(),
        }

    def _node_summary(self, node: NodeProfile) -> dict[str, Any]:
        states = node.counts("state_ns")
        total = max(states.total(), 1)
        return {
            "type": node.type,
            "frames": node.frames,
            "fps": round(self.fps(node), 2),
            "busy_percent": round(self.busy_percent(node), 1),
            **{f"{name}_ms": _in_ms(node.times(name)) for name in TIMES},
            "states_percent": {name: round(100 * ns / total, 1) for name, ns in sorted(states.items())},
            "unmatched": node.unmatched,
            "restarts": node.restarts,
            "cpu_percent": round(node.cpu_percent, 1),
            "memory_mb": round(node.rss_mb, 1),
        }

    def edges(self) -> dict[str, dict[str, int]]:
        """Return `dropped` and `queue_peak` in messages for the edges from our nodes, including attached readers."""
        dropped = self.dropped()
        peaks = sum((node.counts("queue_peak") for node in self.nodes.values()), Counter())
        own = [edge.name for edge in self.spec.edges if edge.source_graph is None]
        names = dict.fromkeys([*own, *dropped, *peaks])
        return {edge: {"dropped": dropped[edge], "queue_peak": peaks[edge]} for edge in names}

    def write(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write latency.json, latency.png and, if frames were traced, trace.json; return their paths.

        Either all files are written or none; no file of an earlier run remains among them.
        """
        from graph import chrome_trace, latency_plot  # matplotlib is slow to import

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        summary = json.dumps(self.summary(), indent=2).encode()
        files: dict[Path, Callable[[Path], object]] = {
            folder / "latency.json": lambda path: path.write_bytes(summary),
            folder / "latency.png": lambda path: latency_plot.draw(self, path),
        }
        if any(len(node.trace()) for node in self.nodes.values()):
            files[folder / "trace.json"] = lambda path: chrome_trace.write(self, path)
        _replace(files)
        if folder / "trace.json" not in files:
            (folder / "trace.json").unlink(missing_ok=True)
        return list(files)


def format_report(profile: Profile, width: int) -> RenderableType:
    """Return the report at the end of a run: one row per node, then latency, drops and restarts.

    `width` is in characters: a narrow terminal gets fewer columns.
    """
    columns = (
        Column("node", lambda node: node.name, 0, "left", "cyan"),
        Column("frames", lambda node: f"{node.frames:,}", 0),
        Column("fps", lambda node: f"{profile.fps(node):.1f}", 3),
        Column("process ms\np50 / p95", lambda node: _ms_row(node.times("process"), (50, 95)), 1),
        Column("wait ms\np50", lambda node: _ms_row(node.times("wait"), (50,)), 6),
        Column("publish ms\np50", lambda node: _ms_row(node.times("publish"), (50,)), 7),
        Column("busy\n%", lambda node: f"{profile.busy_percent(node):.0f}", 4),
        Column("CPU\n%", lambda node: f"{node.cpu_percent:.0f}", 5),
        Column("dropped", lambda node: _dropped(profile.dropped_before(node.name)), 2),
    )
    table = fitting(columns, list(profile.nodes.values()), width)
    return Group("", table, "", *_sentences(profile))


def _sentences(profile: Profile) -> Iterable[Text]:
    for sink in profile.sinks():
        age = _in_ms(sink.times("age"))
        yield Text(f"capture -> {sink.name}: p50 {age['p50']:.1f} ms, p95 {age['p95']:.1f} ms, p99 {age['p99']:.1f} ms")
    busiest = profile.busiest()
    if busiest is not None:
        yield Text(f"busiest node: {busiest.name}, {profile.busy_percent(busiest):.0f} % of the time")
    for edge, count in profile.dropped().most_common():
        yield Text(f"dropped {count:,} on {edge}", style="yellow")
    for node in profile.nodes.values():
        if node.unmatched:
            yield Text(f"unmatched {node.unmatched:,} inputs of {node.name}: {UNMATCHED}", style="yellow")
    for node in profile.nodes.values():
        if node.restarts:
            yield Text(f"restarts of {node.name}: {node.restarts}", style="yellow")


def machine() -> dict[str, Any]:
    """Return what the numbers depend on: processor, usable cores, system, Python."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _cpu_model() -> str:
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _in_ms(times: Histogram) -> dict[str, float]:
    values = {f"p{p}": times.percentile(p) for p in (50, 95, 99)}
    return {name: round(ns / 1e6, 4) for name, ns in {**values, "mean": times.mean, "max": times.max_ns}.items()}


def _ms_row(times: Histogram, percentiles: Iterable[int]) -> str:
    if not times.count:
        return "-"
    return " / ".join(short_ms(times.percentile(p) / 1e6) for p in percentiles)


def _dropped(count: int | None) -> Text:
    return Text("-" if count is None else f"{count:,}", style="yellow" if count else "dim")


def _replace(files: Mapping[Path, Callable[[Path], object]]) -> None:
    """Write all files under temporary names, then rename them: if the disk is full, the old files stay."""
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}") for path in files}
    try:
        for path, write in files.items():
            write(temporary[path])
        for path in files:
            temporary[path].replace(path)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)
