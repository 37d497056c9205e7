"""What a supervisor tells a worker, as it travels on the worker's standard input."""

import os
import sys
from dataclasses import dataclass
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
    run: str  # which run of the graph this is: its nodes know one another by it
    rundir: str
    node: NodeSpec
    edges: tuple[EdgeSpec, ...]  # into this node
    attach: str | None  # the other graph that edges may come from: its name, or its address
    readers: tuple[str, ...]  # the targets of the graph's own edges from this node: "render.frame"
    consumers: tuple[str, ...]  # those of them who must have found this process before it plays
    log_level: int
    trace: bool
    first_seq: int = 0
    epoch: int = 0
    resumes: bool = False  # an earlier process of the node has had frames of this run

    @property
    def home(self) -> Home:
        """What the node's sender is to know of the graph."""
        return Home(self.run, self.epoch, frozenset(self.readers))

    def edges_from(self, node: str) -> list[EdgeSpec]:
        """Return the edges into this node that come from another one of the same graph."""
        return [edge for edge in self.edges if edge.source_node == node and not edge.source_graph]

    def place_of(self, edge: EdgeSpec) -> RunDir | Remote:
        """Return where the edge comes from."""
        if edge.source_graph is None:
            return RunDir(Path(self.rundir))
        if self.attach is not None and is_remote(self.attach):
            return Remote(self.attach)
        return RunDir.of(edge.source_graph)

    def to_wire(self) -> bytes:
        """Return the job as bytes, its length first."""
        edges = [[e.source, e.target, e.policy, e.queue, e.join] for e in self.edges]
        node = [self.node.name, self.node.type, dict(self.node.settings), self.node.restart]
        rest = [self.log_level, self.trace, self.first_seq, self.epoch, self.resumes]
        start = [self.graph, self.run, self.rundir, node, edges, self.attach]
        data = wire.pack([*start, self.readers, self.consumers, *rest])
        return len(data).to_bytes(4, "little") + data

    @classmethod
    def from_stdin(cls) -> "Job":
        """Read the job; the pipe stays open, and its end means that the supervisor died."""
        size = int.from_bytes(_read_exactly(4), "little")
        graph, run, rundir, node, edges, attach, readers, consumers, *rest = msgpack.unpackb(_read_exactly(size))
        edges = tuple(EdgeSpec(*edge) for edge in edges)
        return cls(graph, run, rundir, NodeSpec(*node), edges, attach, tuple(readers), tuple(consumers), *rest)


def _read_exactly(size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = os.read(0, size - len(data))
        if not piece:
            sys.exit(1)
        data += piece
    return data
