"""Write the traced frames of a profile in the Chrome Trace Event Format (Perfetto, chrome://tracing).

One process per node: its first track has the slices `process SEQ` and `publish SEQ`, the tracks below it
`wait SEQ`; arrows follow a frame along the edges. Format: "Trace Event Format", Google; what it leaves open follows
Perfetto's importer (src/trace_processor/importers/json): thread ids are global; overlapping slices of one track are
dropped, so times are whole microseconds (fractions are truncated one by one); events of equal time keep the order of
the file; an arrow binds to the slice that began last on its track. Arrows start where publishing begins: the first
consumer may start before the last one is served.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graph.spec import EdgeSpec

if TYPE_CHECKING:
    from graph.profile import Profile

TRACKS = 100  # thread ids per process: one for processing, the others for frames that wait at the same time
Event = dict[str, Any]


def write(profile: "Profile", path: Path) -> None:
    """Write trace.json."""
    left_out = {name: node.frames - len(node.trace()) for name, node in profile.nodes.items()}
    with path.open("w", encoding="ascii") as file:
        file.write('{"displayTimeUnit": "ms",\n"traceEvents": [\n')
        for index, event in enumerate(events(profile)):
            file.write((",\n" if index else "") + json.dumps(event, separators=(",", ":")))
        file.write(f'\n],\n"otherData": {json.dumps({"graph": profile.spec.name, "frames_left_out": left_out})}}}\n')


def events(profile: "Profile") -> Iterator[Event]:
    """Yield all events, node by node; times are microseconds since the first traced time."""
    traces = {name: node.trace() for name, node in profile.nodes.items()}
    origin = min((int(rows[:, 1:].min()) for rows in traces.values() if len(rows)), default=0)
    arrows = _arrows(profile.spec.edges, traces)
    for index, (name, rows) in enumerate(traces.items(), start=1):
        rows[:, 1:] = (rows[:, 1:] - origin) // 1000
        pid = index * TRACKS
        yield from _names(pid, name, profile.nodes[name].type)
        into = [arrow for arrow in arrows if arrow.edge.target_node == name]
        out_of = [arrow for arrow in arrows if arrow.edge.source_node == name]
        yield from _work(pid, rows, into, out_of)
        yield from _waits(pid, rows)


class _Arrow(NamedTuple):
    edge: EdgeSpec
    number: int
    edges: int
    seqs: frozenset[int]  # frames traced at both ends

    def event(self, phase: str, seq: int, pid: int, ts: int) -> Event:
        flow = seq * self.edges + self.number  # unique for each frame on each edge
        return {"ph": phase, "cat": "edge", "name": self.edge.name, "id": flow, "pid": pid, "tid": pid, "ts": ts}


def _arrows(edges: tuple[EdgeSpec, ...], traces: dict[str, NDArray[np.int64]]) -> list[_Arrow]:
    """Return the edges whose frames can be followed; `hold` joins older messages, which are not traced."""
    seqs = {name: set(rows[:, 0].tolist()) for name, rows in traces.items()}
    return [
        _Arrow(edge, number, len(edges), frozenset(seqs[edge.source_node] & seqs[edge.target_node]))
        for number, edge in enumerate(edges)
        if edge.source_graph is None and edge.join == "seq"
    ]


def _work(pid: int, rows: NDArray[np.int64], into: list[_Arrow], out_of: list[_Arrow]) -> Iterator[Event]:
    for seq, _, start, end, published in rows.tolist():
        yield _slice("process", seq, pid, pid, start, end)
        for arrow in into:
            if seq in arrow.seqs:
                yield arrow.event("f", seq, pid, start) | {"bp": "e"}
        if published > end:
            yield _slice("publish", seq, pid, pid, end, published)
        for arrow in out_of:
            if seq in arrow.seqs:
                yield arrow.event("s", seq, pid, end if published > end else (start + end) // 2)


def _waits(pid: int, rows: NDArray[np.int64]) -> Iterator[Event]:
    """Yield the waits, on as many tracks as frames wait at the same time, at most TRACKS - 1."""
    free_at: list[int] = []
    for seq, ready, start in rows[np.argsort(rows[:, 1], kind="stable"), :3].tolist():
        if start <= ready:
            continue
        track = next((index for index, free in enumerate(free_at) if free <= ready), len(free_at))
        if track == TRACKS - 1:
            continue
        if track == len(free_at):
            free_at.append(start)
            yield _metadata("thread_name", pid, pid + len(free_at), {"name": "wait"})
        free_at[track] = start
        yield _slice("wait", seq, pid, pid + 1 + track, ready, start)


def _names(pid: int, name: str, type_: str) -> Iterator[Event]:
    yield _metadata("process_name", pid, pid, {"name": name})
    yield _metadata("process_labels", pid, pid, {"labels": type_})
    yield _metadata("process_sort_index", pid, pid, {"sort_index": pid})
    yield _metadata("thread_name", pid, pid, {"name": "process"})


def _metadata(name: str, pid: int, tid: int, args: dict[str, Any]) -> Event:
    return {"ph": "M", "name": name, "pid": pid, "tid": tid, "args": args}


def _slice(name: str, seq: int, pid: int, tid: int, start: int, end: int) -> Event:
    times = {"ts": start, "dur": end - start}
    return {"ph": "X", "cat": name, "name": f"{name} {seq}", "pid": pid, "tid": tid, **times, "args": {"seq": seq}}
