"""What a supervisor sends to a worker on the worker's standard input."""

import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import msgpack

from graph import wire
from graph.link import Home
from graph.network import Remote, is_remote
from graph.rundir import RunDir
from graph.spec import EdgeSpec, NodeSpec


@dataclass(frozen=True)
class Job:
    """One node to run."""

    graph: str
    run: str  # id of this run of the graph, by which its nodes recognize one another
    rundir: str
    node: NodeSpec
    edges: tuple[EdgeSpec, ...]  # into this node
    attach: str | None  # name or address of the other graph from which edges may come
    readers: tuple[EdgeSpec, ...]  # the graph's own edges from this node
    log_level: int
    trace: bool
    first_seq: int = 0
    epoch: int = 0
    resumes: bool = False  # an earlier process of the node has processed frames in this run

    @property
    def home(self) -> Home:
        """What the node's sender must know about the graph."""
        return Home(self.run, self.epoch, frozenset(edge.target for edge in self.readers))

    def edges_from(self, node: str) -> list[EdgeSpec]:
        """Return the edges into this node from `node` of the same graph."""
        return [edge for edge in self.edges if edge.source_node == node and not edge.source_graph]

    def place_of(self, edge: EdgeSpec) -> RunDir | Remote:
        """Return where the source of an edge can be reached."""
        if edge.source_graph is None:
            return RunDir(Path(self.rundir))
        if self.attach is not None and is_remote(self.attach):
            return Remote(self.attach)
        return RunDir.of(edge.source_graph)

    def to_wire(self) -> bytes:
        """Return the job as bytes, preceded by their number."""
        data = wire.pack(asdict(self))
        return len(data).to_bytes(4, "little") + data

    @classmethod
    def from_stdin(cls) -> "Job":
        """Read the job. The pipe stays open: when it closes, the supervisor has died."""
        size = int.from_bytes(_read_exactly(4), "little")
        job = msgpack.unpackb(_read_exactly(size))
        edges, readers = (tuple(EdgeSpec(**edge) for edge in job[name]) for name in ("edges", "readers"))
        return cls(**job | {"node": NodeSpec(**job["node"]), "edges": edges, "readers": readers})


def _read_exactly(size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = os.read(0, size - len(data))
        if not piece:
            sys.exit(1)
        data += piece
    return data
