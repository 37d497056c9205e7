"""Rates, times and states of a running graph over the last few seconds, from the nodes' heartbeats.

For the whole run see graph/profile.py.
"""

import time
from collections import Counter, deque
from typing import Any

from graph.metrics import Histogram
from graph.spec import EdgeSpec, GraphSpec

WINDOW_S = 5.0
SILENT_S = 2.5  # five missed heartbeats: the node has ended, hangs, or is being restarted
PERCENTILES = (50, 95, 99)
WITHOUT_PROCESS = ("NULL", "DONE", "FAILED")  # states of a node; NULL: its process is starting
Snapshot = dict[str, Any]


class NodeStats:
    """The last snapshots of one node's Meter, and the counts of its earlier processes."""

    def __init__(self) -> None:
        self._snapshots: deque[Snapshot] = deque()
        self._before: Counter[str] = Counter()  # "frames", "unmatched"
        self._dropped_before: Counter[str] = Counter()

    def take(self, snapshot: Snapshot) -> None:
        """Add a snapshot, and drop those that are older than WINDOW_S or than the first frame."""
        kept = {key: value for key, value in snapshot.items() if key != "trace"}
        last = self.latest
        if last is not None and last["started_ns"] != kept["started_ns"]:
            self._before.update({name: last[name] for name in ("frames", "unmatched")})
            self._dropped_before.update(last["dropped"])
            self._snapshots.clear()
        elif last is not None and not last["frames"]:
            self._keep_last()
        self._snapshots.append(kept)
        while len(self._snapshots) > 2 and kept["time_ns"] - self._snapshots[1]["time_ns"] >= WINDOW_S * 1e9:
            self._snapshots.popleft()

    def expire(self, now_ns: int) -> None:
        """Reset the rates if there was no snapshot for SILENT_S."""
        if self._snapshots and now_ns - self._snapshots[-1]["time_ns"] > SILENT_S * 1e9:
            self._keep_last()

    def _keep_last(self) -> None:
        self._snapshots = deque([self._snapshots[-1]])

    def count(self, name: str) -> int:
        """Return a count since the start of the graph ("frames", "unmatched")."""
        return self._before[name] + int((self.latest or {}).get(name, 0))

    def dropped(self, edge: str) -> int:
        """Return how many messages an outgoing edge has dropped since the start of the graph."""
        return self._dropped_before[edge] + int((self.latest or {}).get("dropped", {}).get(edge, 0))

    @property
    def latest(self) -> Snapshot | None:
        """The newest snapshot, None before the first."""
        return self._snapshots[-1] if self._snapshots else None

    @property
    def window_s(self) -> float:
        """The seconds that the rates cover."""
        return (self._snapshots[-1]["time_ns"] - self._snapshots[0]["time_ns"]) / 1e9 if self._snapshots else 0.0

    def rate(self, name: str) -> float:
        """Return the growth per second of a count ("frames", "cpu_s", "unmatched")."""
        return self._per_s(self._snapshots[-1][name] - self._snapshots[0][name]) if self._snapshots else 0.0

    def rates(self, name: str) -> dict[str, float]:
        """Return the growth per second of counts by output, edge or state ("said", "dropped", "state_ns")."""
        if not self._snapshots:
            return {}
        first, last = self._snapshots[0][name], self._snapshots[-1][name]
        return {key: self._per_s(last[key] - first.get(key, 0)) for key in last}

    def _per_s(self, growth: float) -> float:
        return growth / self.window_s if self.window_s else 0.0

    def times_ms(self, name: str) -> dict[str, float] | None:
        """Return p50, p95, p99 in ms of "wait", "process", "publish" or "age"; None without frames."""
        if not self._snapshots:
            return None
        recent = _since(self._snapshots[0]["times"][name], self._snapshots[-1]["times"][name])
        if not recent.count:
            return None
        return {f"p{p}": round(recent.percentile(p) / 1e6, 4) for p in PERCENTILES}


def _since(before: Snapshot, now: Snapshot) -> Histogram:
    """Return the counts between two snapshots of a histogram; total and extremes are of the whole run."""
    recent, older = Histogram.from_wire(now), Histogram.from_wire(before)
    recent.counts -= older.counts
    return recent


class Stats:
    """The recent statistics of all nodes of one graph."""

    def __init__(self, spec: GraphSpec) -> None:
        self.spec = spec
        self.nodes = {name: NodeStats() for name in spec.nodes}

    def take(self, node: str, snapshot: Snapshot) -> None:
        """Take a snapshot of the Meter of `node`."""
        self.nodes[node].take(snapshot)

    def summary(self, states: dict[str, str], restarts: dict[str, int]) -> dict[str, Any]:
        """Return the answer to the request `stats` (graph/README.md).

        `states` and `restarts` of the nodes come from the supervisor.
        """
        now_ns = time.monotonic_ns()
        for node in self.nodes.values():
            node.expire(now_ns)
        edges = self._edges()
        return {
            "window_s": round(max((node.window_s for node in self.nodes.values()), default=0.0), 2),
            "nodes": {
                name: self._node(name, edges, states[name]) | {"restarts": restarts[name]} for name in self.nodes
            },
            "edges": edges,
            "paths": self._paths(),
        }

    def _node(self, name: str, edges: dict[str, Any], state: str) -> dict[str, Any]:
        node = self.nodes[name]
        latest = node.latest or {}
        before = [edge for edge in edges.values() if edge["to"].partition(".")[0] == name]
        return {
            "state": latest.get("state") or state if state == "PLAYING" else state,
            "fps": round(node.rate("frames"), 2),
            "frames": node.count("frames"),
            "queue": _sum(before, "queued"),
            **{f"{what}_ms": node.times_ms(what) for what in ("wait", "process", "publish", "age")},
            "busy_percent": round(node.rates("state_ns").get("PROCESSING", 0.0) / 1e7, 1),
            "dropped": _sum(before, "dropped"),
            "dropped_per_s": _sum(before, "dropped_per_s"),
            "unmatched": node.count("unmatched"),
            "cpu_percent": round(100 * node.rate("cpu_s"), 1),
            "memory_mb": 0.0 if state in WITHOUT_PROCESS else round(latest.get("rss_bytes", 0) / 1e6, 1),
        }

    def _edges(self) -> dict[str, dict[str, Any]]:
        """Return the edges of this graph, and those from it to attached readers."""
        found = {edge.name: self._edge(edge.name, edge) for edge in self.spec.edges}
        for node in self.nodes.values():
            for name in (node.latest or {}).get("queued", {}):
                if name not in found:
                    found[name] = self._edge(name, None)
        return found

    def _edge(self, name: str, edge: EdgeSpec | None) -> dict[str, Any]:
        source, _, target = name.partition(" -> ")
        options = {key: getattr(edge, key, None) for key in ("policy", "queue", "join")}  # None: an attached reader
        found = {"from": source, "to": target, **options}
        sender = self.nodes.get(source.partition(".")[0])
        if sender is None:  # another graph sends, and measures it
            return found | dict.fromkeys(("rate", "dropped", "dropped_per_s", "queued"))
        latest = sender.latest or {}
        lost = sender.rates("dropped").get(name, 0.0)
        return found | {
            "rate": round(max(sender.rates("said").get(source.partition(".")[2], 0.0) - lost, 0.0), 2),
            "dropped": sender.dropped(name),
            "dropped_per_s": round(lost, 2),
            "queued": latest.get("queued", {}).get(name, 0),
        }

    def _paths(self) -> dict[str, dict[str, float] | None]:
        """Return the age of the frames at each sink: the time since their capture."""
        return {name: self.nodes[name].times_ms("age") for name in self.spec.sinks()}


def _sum(edges: list[dict[str, Any]], name: str) -> float | None:
    """Return a sum over edges; None if one of them comes from another graph, which alone knows its value."""
    values = [edge[name] for edge in edges]
    return None if None in values else round(sum(values), 2)
