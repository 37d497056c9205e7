"""Metrics for Prometheus: `run CONFIG --metrics PORT` serves them at http://127.0.0.1:PORT/metrics.

Names and units follow https://prometheus.io/docs/practices/naming/. Counts start with the graph and continue across
restarts of nodes.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from graph.errors import ConfigError
from graph.metrics import UNMATCHED, Histogram, bucket_of
from graph.profile import NodeProfile, Profile
from graph.stats import WITHOUT_PROCESS

BOUNDS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
HOST = "127.0.0.1"
TIMES = {
    "wait": "From when the last input of a frame was made to the start of process()",
    "process": "In process()",
    "publish": "Publishing a frame, including waiting while a queue is full",
    "age": "From the capture of a frame until the node was done with it",
}
States = Callable[[], dict[str, str]]


class Endpoint:
    """The HTTP server, on the loopback interface only."""

    def __init__(self, port: int, profile: Profile, states: States) -> None:
        """Listen on `port`; 0: any free port. Raises ConfigError if it is in use."""
        registry = CollectorRegistry()
        self.lock = threading.Lock()
        """Hold it while changing the profile, which the server reads from other threads."""
        registry.register(_Measured(profile, states, self.lock))
        try:
            self._server, self._thread = start_http_server(port, HOST, registry)
        except OSError as exc:
            raise ConfigError(f"--metrics {port}: cannot listen on {HOST}:{port}: {exc.strerror}") from exc
        self.address = f"http://{HOST}:{self._server.server_port}/metrics"

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Measured(Collector):
    """Reads the profile on every request."""

    def __init__(self, profile: Profile, states: States, lock: threading.Lock) -> None:
        self._profile = profile
        self._states = states
        self._lock = lock

    def collect(self) -> Iterable[Metric]:
        """Return all metrics as they are now."""
        with self._lock:
            return [*self._counts(), *self._times(), *self._edges(), *self._processes()]

    def _counts(self) -> Iterator[Metric]:
        counts: dict[str, tuple[str, Callable[[NodeProfile], float]]] = {
            "frames": ("Frames that a node has processed", lambda node: node.frames),
            "unmatched": (f"Skipped inputs: {UNMATCHED}", lambda node: node.unmatched),
            "restarts": ("Restarts of a node", lambda node: node.restarts),
            "cpu_seconds": ("CPU time of a node's processes", lambda node: node.cpu_s),
        }
        for name, (about, count) in counts.items():
            family = CounterMetricFamily(f"facegraph_{name}", about, labels=("graph", "node"))
            for node in self._profile.nodes.values():
                family.add_metric((self._graph, node.name), count(node))
            yield family

    def _times(self) -> Iterator[Metric]:
        for name, about in TIMES.items():
            family = HistogramMetricFamily(f"facegraph_{name}_seconds", about, labels=("graph", "node"))
            for node in self._profile.nodes.values():
                times = node.times(name)
                family.add_metric((self._graph, node.name), _buckets(times), sum_value=times.total_ns / 1e9)
            yield family

    def _edges(self) -> Iterator[Metric]:
        edges = self._profile.edges()
        dropped = CounterMetricFamily("facegraph_dropped", "Messages dropped by an edge", labels=("graph", "edge"))
        peak = GaugeMetricFamily(
            "facegraph_queue_peak", "Longest queue of an edge, in messages", labels=("graph", "edge")
        )
        for name, edge in edges.items():
            dropped.add_metric((self._graph, name), edge["dropped"])
            peak.add_metric((self._graph, name), edge["queue_peak"])
        yield from (dropped, peak)

    def _processes(self) -> Iterator[Metric]:
        memory = GaugeMetricFamily(
            "facegraph_resident_memory_bytes",
            "Memory of a node's process, including shared memory",
            labels=("graph", "node"),
        )
        up = GaugeMetricFamily(
            "facegraph_state", "1 for the current state of a node", labels=("graph", "node", "state")
        )
        states = self._states()
        for node in self._profile.nodes.values():
            if states[node.name] not in WITHOUT_PROCESS:
                memory.add_metric((self._graph, node.name), node.rss_mb * 1e6)
            up.add_metric((self._graph, node.name, states[node.name]), 1)
        yield from (memory, up)

    @property
    def _graph(self) -> str:
        return self._profile.spec.name


def _buckets(times: Histogram) -> list[tuple[str, float]]:
    """Return how many times do not exceed each bound, which is exact to a bucket of graph/metrics.py (3 %)."""
    below = np.concatenate([[0], np.cumsum(times.counts)])
    last = bucket_of(np.array([bound * 1e9 for bound in BOUNDS_S]).astype(np.int64))
    found: list[tuple[str, Any]] = [
        (str(bound), int(below[index])) for bound, index in zip(BOUNDS_S, last.tolist(), strict=True)
    ]
    return [*found, ("+Inf", times.count)]
