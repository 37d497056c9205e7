"""One node in its process: open, link, play, drain, close.

The supervisor starts `main` with a job on standard input. The node's own code runs only in the main thread
and only here is every exception caught, turned into a report, and the process ended in order.
"""

import logging
import os
import select
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import zmq

from graph import slots, wire
from graph.control import BusHandler, Control
from graph.errors import ConfigError, EndOfStream, GraphError
from graph.join import Arrived, Join, JoinKind
from graph.messages import Header, Hop, Mark, Message
from graph.metrics import Meter
from graph.node import Node, as_outputs
from graph.receiver import Receiver, type_names
from graph.rundir import RunDir
from graph.sender import Sender
from graph.slots import SlotPool, SlotServer
from graph.spec import EdgeSpec, NodeSpec, build

logger = logging.getLogger(__name__)

IDLE_MS = 50  # between two calls of a node's idle(): a window answers as fast as fingers are
FAREWELL_S = 2.0  # consumers of other graphs and tools get so long to take what is left


@dataclass(frozen=True)
class Job:
    """What a worker must know, as it travels on standard input."""

    graph: str
    rundir: str
    node: NodeSpec
    edges: tuple[EdgeSpec, ...]  # into this node
    log_level: int
    trace: bool
    first_seq: int = 0
    epoch: int = 0

    def to_wire(self) -> bytes:
        """Return the job as bytes, its length first."""
        edges = [[e.source, e.target, e.policy, e.queue, e.join] for e in self.edges]
        node = [self.node.name, self.node.type, dict(self.node.settings), self.node.restart]
        rest = [self.log_level, self.trace, self.first_seq, self.epoch]
        data = wire.pack([self.graph, self.rundir, node, edges, *rest])
        return len(data).to_bytes(4, "little") + data

    @classmethod
    def from_stdin(cls) -> "Job":
        """Read the job; the pipe stays open and its end means that the supervisor died."""
        size = int.from_bytes(_read_exactly(4), "little")
        graph, rundir, node, edges, *rest = msgpack.unpackb(_read_exactly(size))
        return cls(graph, rundir, NodeSpec(*node), tuple(EdgeSpec(*edge) for edge in edges), *rest)


def _read_exactly(size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = os.read(0, size - len(data))
        if not piece:
            sys.exit(1)
        data += piece
    return data


class Worker:
    """Runs one node."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.name = job.node.name
        self.rundir = RunDir(Path(job.rundir))
        self.context: zmq.Context[Any] = zmq.Context()
        self.control = Control(self.context, self.name, self.rundir)
        self.meter = Meter(self.name, job.trace)
        self.pool = SlotPool()
        self.receivers: dict[str, Receiver] = {}
        self.node: Node
        self.sender: Sender
        self.join: Join
        self.finishing = False
        self.finish_asked = False
        self.phase = "start"
        self.seq = job.first_seq - 1
        self.unmatched = 0

    def run(self) -> int:
        """Run the node to its end; return the exit code."""
        self.control.start()
        self._log_to_bus()
        code = 0
        try:
            self._open()
            self._link()
            self._play()
        except Exception as exc:  # noqa: BLE001 - here, and only here, a node's error becomes a report
            code = self._report_failure(exc)
        self.phase = "close"
        try:
            self._close(goes_on=self._will_start_again(failed=code != 0))
        except Exception as exc:  # noqa: BLE001 - here, and only here, a node's error becomes a report
            code = self._report_failure(exc)
        self._leave(code)
        return code

    def _open(self) -> None:
        self.phase = "open"
        self.node = build(self.job.node)
        self.node.__dict__["_allocate"] = self.pool.empty
        self._serve()
        self.node.open()
        self.control.say("state", state="READY")

    def _serve(self) -> None:
        shared = slots.AVAILABLE and bool(self.node.outputs)
        path = self.rundir.slots(self.name)
        Path(path).unlink(missing_ok=True)  # of a process that was started before
        server = SlotServer(path, self.pool) if shared else None
        ports = {name: type_names(port.type) for name, port in self.node.outputs.items()}
        self.sender = Sender(
            self.context,
            self.name,
            self.rundir.data(self.name),
            ports,
            self.pool,
            path if shared else None,
            on_drop=self.meter.drop,
            on_blocked=self._blocked,
        )
        self.control.serve(self.sender, server, self._snapshot)

    def _link(self) -> None:
        """Connect to everything upstream, and wait for the word to play."""
        self.phase = "link"
        self._await("link")
        for edge in self.job.edges:
            self.receivers[edge.target_port] = self._receiver(edge)
        kinds: dict[str, JoinKind] = {edge.target_port: edge.join for edge in self.job.edges}
        matched = [edge for edge in self.job.edges if edge.join == "seq"]
        self.join = Join(kinds, newest=len(matched) > 1 and any(edge.policy != "block" for edge in matched))
        while not all(receiver.welcomed or receiver.ended for receiver in self.receivers.values()):
            self._wait_for_input(100)
            self._receive()
        self.control.say("linked")
        self._await("play")

    def _receiver(self, edge: EdgeSpec) -> Receiver:
        place = RunDir.of(edge.source_graph) if edge.source_graph else self.rundir
        name = f"{self.job.graph}/{edge.target}" if edge.source_graph else edge.target
        return Receiver(
            self.context,
            place.data(edge.source_node),
            edge.source_port,
            self.node.inputs[edge.target_port].type,
            name=name,
            policy=edge.policy,
            queue=edge.queue,
        )

    def _await(self, command: str) -> None:
        while True:
            while self.control.commands:
                said = self.control.commands.popleft()
                if said["k"] == command:
                    return
                self._obey(said)
                if self.finishing:
                    return
            self.control.arrived.wait(1.0)
            self.control.acknowledge()

    def _play(self) -> None:
        self.phase = "process"
        self.control.say("state", state="PLAYING")
        if self.node.inputs:
            self._play_inputs()
        else:
            self._play_source()

    def _play_source(self) -> None:
        frames = self.node.process()
        self.control.watch_source(self._abandon)
        try:
            while not self.finishing:
                start = time.monotonic_ns()
                self.meter.state("PROCESSING", start)
                self.seq += 1
                try:
                    outputs = as_outputs(type(self.node), next(frames))
                except (StopIteration, EndOfStream):
                    break
                end = time.monotonic_ns()
                given = next((message.header for message in outputs.values() if message is not None), Header())
                header = given.numbered(self.job.graph, self.seq, end)
                header = header._replace(epoch=header.epoch + self.job.epoch)
                self._publish(outputs, header, (start, start, end))
                self._obey_all()
        finally:
            self.control.watch_source(None)
            frames.close()

    def _abandon(self) -> None:
        """End the stream of a source whose process() does not come back (a hung camera), and the process with it.

        Runs in the control thread, while the main thread is stuck in the node's code.
        """
        logger.warning("process() did not come back after the end was asked for; ending the stream without close()")
        with self.sender.lock:
            self.sender.end()
            self._drain()
            self.sender.close()
        self.control.say("done", code=0)
        self.control.last_words()
        self.context.term()
        os._exit(0)

    def _play_inputs(self) -> None:
        try:
            while not self.finishing:
                taken = self._next_set()
                if taken is None:
                    return
                try:
                    self._step(taken)
                finally:
                    names = [name for name in taken if self.join.waits_for(name)]
                    del taken
                    self._consumed(names)
        except EndOfStream:
            self.control.say("finish")

    def _next_set(self) -> dict[str, Arrived | None] | None:
        """Wait for the messages of the next frame; None when there can be no more."""
        while True:
            self._receive()
            self._consumed(self.join.settle())
            taken = self.join.pop()
            if taken is not None:
                return taken
            if self.join.finished or self.finishing:
                return None
            self.meter.state("WAITING", time.monotonic_ns())
            for receiver in self.receivers.values():
                receiver.flush(idle=True)
            self._wait_for_input(self._patience_ms())

    def _patience_ms(self) -> int:
        """Let a node that has something to do in quiet times do it; return how long to wait for input."""
        if type(self.node).idle is Node.idle:
            return 1000
        self.node.idle()
        return IDLE_MS

    def _step(self, taken: dict[str, Arrived | None]) -> None:
        """Process one frame."""
        header = self._merge(taken)
        self.seq = header.seq
        received = max(arrived.received_ns for name, arrived in taken.items() if arrived and self.join.waits_for(name))
        given: dict[str, Message | None] = {}
        for name, port in self.node.inputs.items():
            arrived = taken.get(name)  # nothing at all from an optional input that is not connected
            message = None if arrived is None or isinstance(arrived.message, Mark) else arrived.message
            if message is None and not port.optional:
                self._publish_marks(header)
                return
            given[name] = message
        start = time.monotonic_ns()
        self.meter.state("PROCESSING", start)
        outputs = as_outputs(type(self.node), self.node.process(**given))
        self._publish(outputs, header, (received, start, time.monotonic_ns()))

    def _merge(self, taken: dict[str, Arrived | None]) -> Header:
        """Return the header of what comes of these messages: the frame's, with all the hops so far."""
        matched = [a.message.header for name, a in taken.items() if a and self.join.waits_for(name)]
        header = matched[0]
        if len(matched) == 1:
            return header
        hops = dict.fromkeys(hop for other in matched for hop in other.hops)
        return header._replace(hops=tuple(hops))

    def _publish(self, outputs: dict[str, Message | None], header: Header, times: tuple[int, int, int]) -> None:
        header = header._replace(hops=(*header.hops, Hop(self.name, *times)))
        for port, message in outputs.items():
            stamped = Mark.restore(header, {}) if message is None else message.with_header(header)
            self.sender.publish(port, stamped)
        self.meter.frame(header.seq, *times, time.monotonic_ns(), header.t_capture_ns)

    def _publish_marks(self, header: Header) -> None:
        for port in self.node.outputs:
            self.sender.publish(port, Mark.restore(header, {}))

    def _receive(self) -> None:
        for name, receiver in self.receivers.items():
            while arrived := receiver.receive():
                self._consumed(self.join.push(name, arrived))
            if receiver.ended:
                self.join.end(name)

    def _consumed(self, names: list[str]) -> None:
        for name in names:
            self.receivers[name].consumed()
            self.receivers[name].flush(idle=False)

    def _wait_for_input(self, timeout_ms: int) -> None:
        poller = select.poll()
        poller.register(self.control.wake_fd, select.POLLIN)
        for receiver in self.receivers.values():
            poller.register(receiver.fd, select.POLLIN)
        if not any(receiver.readable() for receiver in self.receivers.values()) and not poller.poll(timeout_ms):
            self._look_for_lost()
        self._obey_all()

    def _look_for_lost(self) -> None:
        """Notice that a sender of another graph died; of deaths in this one the supervisor tells."""
        for edge in self.job.edges:
            receiver = self.receivers[edge.target_port]
            if edge.source_graph and receiver.lost():
                logger.warning("%s: the sender is gone; its stream ends here", receiver.name)
                receiver.expire()

    def _obey_all(self) -> None:
        while self.control.commands:
            self._obey(self.control.commands.popleft())
        if self.control.arrived.is_set():
            self.control.acknowledge()

    def _obey(self, command: dict[str, Any]) -> None:
        kind = command["k"]
        if kind == "finish":
            self.finish_asked = True
            self.finishing = not self.node.inputs
            self._expire([edge for edge in self.job.edges if edge.source_graph])
        elif kind == "abort":
            self.finishing = True
        elif kind == "gone":
            dead = command["node"]
            self._expire([edge for edge in self.job.edges if edge.source_node == dead and not edge.source_graph])
        elif kind == "relink":
            self._relink(command["node"])
        elif kind == "set":
            self._set(command["setting"], command["value"])

    def _expire(self, edges: list[EdgeSpec]) -> None:
        for edge in edges:
            if edge.target_port in self.receivers:
                self.receivers[edge.target_port].expire()

    def _relink(self, node: str) -> None:
        """Greet a node that was started again."""
        for edge in self.job.edges:
            if edge.source_node == node and not edge.source_graph:
                self.receivers[edge.target_port].close()
                self.receivers[edge.target_port] = self._receiver(edge)

    def _set(self, name: str, value: Any) -> None:
        setattr(self.node, name, value)
        self.node.changed(name)
        logger.info("%s = %r", name, value)

    def _will_start_again(self, failed: bool) -> bool:
        restart = self.job.node.restart
        return not self.finish_asked and (restart == "always" or (failed and restart == "on_failure"))

    def _close(self, goes_on: bool) -> None:
        """Close the node, say end of stream unless it goes on in another process, and wait until all is taken."""
        try:
            if hasattr(self, "node"):
                self.node.close()
        finally:
            for receiver in self.receivers.values():
                receiver.close()
            if hasattr(self, "sender") and not goes_on:
                self.sender.end()
                self._drain()

    def _drain(self) -> None:
        self.meter.state("BLOCKED", time.monotonic_ns())
        farewell = time.monotonic() + FAREWELL_S
        while not self.sender.idle() and not self.sender.released.is_set():
            self.sender.wait(100)
            if time.monotonic() > farewell and not self.sender.has_consumers_of_this_graph():
                return

    def _blocked(self, blocked: bool) -> None:
        self.meter.state("BLOCKED" if blocked else "PROCESSING", time.monotonic_ns())

    def _snapshot(self) -> dict[str, Any]:
        if hasattr(self, "join"):
            let_go = sum(self.join.let_go.values())
            self.meter.unmatched(let_go - self.unmatched)
            self.unmatched = let_go
        for edge, waiting in self.sender.depths().items():
            self.meter.depth(edge, waiting)
        return self.meter.snapshot()

    def _log_to_bus(self) -> None:
        root = logging.getLogger()
        root.handlers[:] = [BusHandler(self.control)]
        root.setLevel(self.job.log_level)

    def _report_failure(self, exc: Exception) -> int:
        """Tell the supervisor; return the exit code. A GraphError explains itself, anything else needs its trace."""
        where = f"on frame {self.seq}" if self.phase == "process" else f"in {self.phase}"
        known = isinstance(exc, GraphError)
        text = str(exc) if known else f"{type(exc).__name__}: {exc}"
        trace = "" if known else "".join(traceback.format_exception(exc))
        wrong_config = isinstance(exc, ConfigError) and self.phase in ("start", "open")
        self.control.say("error", where=where, text=text, trace=trace, wrong_config=wrong_config)
        return 1

    def _leave(self, code: int) -> None:
        if hasattr(self, "sender"):
            self.control.say("report", snapshot=self._snapshot())
        self.control.say("done", code=code)
        self.control.stop()
        if hasattr(self, "sender"):
            self.sender.close()
        self.pool.close()
        self.context.term()


def main() -> None:
    """Run the job on standard input; the process's exit code is the node's."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group by terminals and service managers
        signal.signal(number, signal.SIG_IGN)  # the supervisor gets it too and sees to an orderly end
    sys.exit(Worker(Job.from_stdin()).run())
