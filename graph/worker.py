"""Runs one node in its own process: open, link, play, drain, close.

The node's code runs in the main thread only. This is the one place where every exception is caught: it becomes a
report to the supervisor, and the process ends in order.
"""

import gc
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from graph import slots
from graph.control import BusHandler, Control
from graph.errors import ConfigError, EndOfStream, GraphError, trace
from graph.inputs import Inputs, Set
from graph.job import Job
from graph.join import first_header, merge
from graph.messages import Header, Hop, Mark, Message
from graph.metrics import Meter
from graph.node import Node, as_outputs, change
from graph.receiver import type_names
from graph.rundir import RunDir
from graph.sender import FAREWELL_S, Sender
from graph.slots import SlotPool, SlotServer
from graph.spec import build
from graph.upstream import Upstream

logger = logging.getLogger(__name__)

MARK = Mark()
IDLE_MS = 50  # between two calls of a node's idle(), short enough for a window to respond to keys at once


class Worker:
    """Runs one node."""

    node: Node
    sender: Sender
    upstream: Upstream
    between_frames: str  # the state between two frames of a source

    def __init__(self, job: Job) -> None:
        self.job = job
        self.name = job.node.name
        self.rundir = RunDir(Path(job.rundir))
        self.context: zmq.Context[Any] = zmq.Context()
        self.control = Control(self.context, self.name, self.rundir)
        self.meter = Meter(job.trace)
        self.pool = SlotPool()
        self.inputs = Inputs({}, {}, newest=False)
        self.finishing = False  # stops after this frame
        self.paused = False
        self.leaving = False  # will be restarted in another process
        self.finish_asked = False  # sources stop at once, other nodes when their inputs end
        self.phase = "start"
        self.seq = job.first_seq - 1
        self.began_ns = 0  # when a source yielded its first frame
        self.unmatched = 0
        self.prepared: set[tuple[str, int]] = set()  # input and seq of what prepare() was last called with
        self.only_output: dict[type, str] = {}  # message type to port, of a node with a single output

    def run(self) -> int:
        """Run the node to its end; return the exit code."""
        self.control.start()
        self._log_to_bus()
        code = 0
        try:
            self._open()
            self._link()
            self._play()
        except BaseException as exc:  # noqa: BLE001 - the one place where a node's error becomes a report
            code = self._report_failure(exc)
        self.phase = "close"
        try:
            self._close(goes_on=self._will_start_again(failed=code != 0), in_order=not (code or self.leaving))
        except BaseException as exc:  # noqa: BLE001 - likewise
            code = self._report_failure(exc)
        self._leave(code)
        return code

    def _open(self) -> None:
        self.phase = "open"
        self.node = build(self.job.node)
        self.node.__dict__ |= {"_graph_name": self.job.graph, "_restarted": self.job.resumes}
        self.node.__dict__["_allocate"] = self.pool.empty
        if len(self.node.outputs) == 1:
            self.only_output = {port.type: name for name, port in self.node.outputs.items()}
        self.between_frames = "WAITING" if self.node.inputs or self.node.live() else "PROCESSING"
        self.upstream = Upstream(self.context, self.job, {name: port.type for name, port in self.node.inputs.items()})
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
            self.job.home,
            on_drop=self.meter.drop,
            on_queued=self.meter.queued,
            on_blocked=self._blocked,
        )
        if self.job.epoch:
            self.sender.expect(self.job.readers)
        self.control.serve(self.sender, server, self._snapshot)

    def _link(self) -> None:
        """Connect to all senders, then wait for the command to play."""
        self.phase = "link"
        self._await("link")
        self.inputs = self.upstream.connect()
        while not self.inputs.welcomed and not self.finishing:
            self.inputs.receive()
            self._wait_for_input(100)
            self.upstream.look(self.inputs)
        self.control.say("linked")
        self._await("play")

    def _await(self, command: str) -> None:
        """Wait for one command; obey others in the meantime."""
        while not self.finishing:
            while self.control.commands:
                said = self.control.commands.popleft()
                if said["k"] == command:
                    return
                self._obey(said)
            self.control.arrived.wait(1.0)
            self.control.acknowledge()

    def _play(self) -> None:
        self.phase = "process"
        gc.collect()
        gc.freeze()  # the collector skips what was imported and opened, which stays anyway
        self.control.say("state", state="PLAYING")
        if self.node.inputs:
            self._play_inputs()
        else:
            self._play_source()

    def _play_source(self) -> None:
        frames = self.node.process()
        self.meter.state(self.between_frames, time.monotonic_ns())
        self.control.watch_source(self._abandon)
        self.seq += 1  # of the frame that comes next
        try:
            while not self.finishing:
                if self.paused:
                    self._rest()
                    continue
                start, cpu = time.monotonic_ns(), time.thread_time_ns()
                try:
                    said = next(frames)
                except (StopIteration, EndOfStream):
                    break
                if said is not None:  # None: no frame yet
                    if self.between_frames == "WAITING":
                        start = max(start, time.monotonic_ns() - (time.thread_time_ns() - cpu))
                    self._give(self._outputs(said), start)
                self._obey_all()
        finally:
            self.control.watch_source(None)
            frames.close()

    def _give(self, outputs: dict[str, Message | None], start: int) -> None:
        """Number a source's frame and publish it."""
        self.meter.state("PROCESSING", start)
        end = time.monotonic_ns()
        hop = Hop(self.name, start, start, end)
        given = first_header(outputs)
        self.seq = max(self.seq, given.seq)  # a recording has its own numbers; they never go back
        self.began_ns = self.began_ns or end
        since_s = (end - self.began_ns) / 1e9
        header = given.numbered(self.job.graph, self.seq, end, self.job.epoch, (hop,), since_s)
        outputs = {port: None if isinstance(message, Mark) else message for port, message in outputs.items()}
        self._publish(outputs, header, start, hop)
        self.meter.state(self.between_frames, time.monotonic_ns())
        self.seq += 1

    def _abandon(self) -> None:
        """End the stream and this process while a source's process() hangs, as with a camera that does not answer.

        Runs in the control thread, because the main thread is stuck in the node's code. Does nothing if the main
        thread waits for a consumer: it then holds the sender's lock.
        """
        if not self.sender.lock.acquire(blocking=False):
            return
        logger.warning("process() did not return after a request to stop; ending the stream without close()")
        self.sender.end()
        self._drain(self.sender.idle)
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
                    del taken
                    self.inputs.done()
        except EndOfStream:
            self.control.say("finish")

    def _next_set(self) -> Set | None:
        """Wait for the messages of the next frame; return None at the end of the stream."""
        while not self.finishing:
            if self.control.commands:
                self._obey_all()
            if self.upstream.look(self.inputs):
                self.control.say("greeted", seq=self.seq)
            if self.paused and not self.finish_asked:
                self._rest()
                continue
            taken = self.inputs.take()
            if taken is not None:
                return taken
            if self.inputs.finished:
                break
            if self._prepare():
                continue
            self.meter.state("WAITING", time.monotonic_ns())
            self._wait_for_input(self._patience_ms())
        return None

    def _prepare(self) -> bool:
        """Let the node start on a frame that is not complete; return whether something new of it has arrived."""
        if type(self.node).prepare is Node.prepare:
            return False
        given = self.inputs.partial()
        known, self.prepared = self.prepared, {(name, message.header.seq) for name, message in given.items()}
        if self.prepared <= known or any(type(message) is Mark for message in given.values()):
            return False
        self.meter.state("PROCESSING", time.monotonic_ns())
        self.node.prepare(**dict.fromkeys(self.node.inputs) | given)
        return True

    def _rest(self) -> None:
        """Wait for a command without taking in frames."""
        self.meter.state("PAUSED", time.monotonic_ns())
        self.control.arrived.wait((self._patience_ms() if self.node.inputs else 1000) / 1000)
        self._obey_all()
        if not self.paused:
            self.meter.state(self.between_frames, time.monotonic_ns())

    def _patience_ms(self) -> int:
        """Call the node's idle() if it has one; return how long to wait for input, milliseconds."""
        if type(self.node).idle is Node.idle:
            return 1000
        self.node.idle()
        return IDLE_MS

    def _wait_for_input(self, timeout_ms: int) -> None:
        self.inputs.wait(timeout_ms, self.control.wake_fd)
        self._obey_all()

    def _step(self, taken: Set) -> None:
        """Process one frame."""
        matched = self.inputs.matched(taken)
        header = merge([arrived.message.header for arrived in matched])
        self.seq = header.seq
        given: dict[str, Message | None] = {}
        for name, port in self.node.inputs.items():
            arrived = taken.get(name)  # missing for an optional input that is not connected
            given[name] = message = None if arrived is None or type(arrived.message) is Mark else arrived.message
            if message is None and not port.optional:
                for output in self.node.outputs:
                    self.sender.publish(output, MARK, header)
                return
        received = max([arrived.received_ns for arrived in matched])
        ready = max([arrived.made_ns for arrived in matched])
        start = time.monotonic_ns()
        self.meter.state("PROCESSING", start)
        outputs = self._outputs(self.node.process(**given))
        hop = Hop(self.name, received, start, time.monotonic_ns())
        self._publish(outputs, header.after(hop) if outputs else header, ready, hop)

    def _outputs(self, said: Any) -> dict[str, Message | None]:
        """Return the messages of `process` by output, checked; fast in the usual case of one output."""
        port = self.only_output.get(type(said))
        return as_outputs(self.node, said) if port is None else {port: said}

    def _publish(self, outputs: dict[str, Message | None], header: Header, ready: int, hop: Hop) -> None:
        for port, message in outputs.items():
            self.sender.publish(port, MARK if message is None else message, header)
            if message is not None:
                self.meter.said(port)
        self.meter.frame(header.seq, ready, *hop[2:], time.monotonic_ns(), header.t_capture_ns)

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
            self.inputs.expire([edge.target_port for edge in self.job.edges if edge.source_graph])
        elif kind == "gone":
            self.inputs.expire([edge.target_port for edge in self.job.edges_from(command["node"])])
        elif kind == "relink":
            self.upstream.relink(self.inputs, command["node"], command["missed"])
        elif kind == "restarted":
            self.inputs.restarted(command["port"], command["seq"])
        elif kind == "restart":
            self.finishing = self.leaving = True
        elif kind in ("pause", "resume"):
            self.paused = kind == "pause"
            self.control.say("answer", ticket=command["ticket"])
        elif kind == "set":
            why = change(self.node, command["setting"], command["value"])
            self.control.say("answer", ticket=command["ticket"], why=why)

    def _will_start_again(self, failed: bool) -> bool:
        restart = self.job.node.restart
        always = restart == "always" and not self.job.edges  # a node with inputs ends when they do
        return not self.finish_asked and (self.leaving or always or (failed and restart != "never"))

    def _close(self, goes_on: bool, in_order: bool) -> None:
        """Close the node, send end of stream unless another process continues it, and wait until all is delivered."""
        self.meter.state("CLOSING", time.monotonic_ns())
        try:
            if hasattr(self, "node"):
                self.node.close()
        finally:
            self.inputs.close(again=goes_on)
            if hasattr(self, "sender") and not goes_on:
                self.sender.end()
                self._drain(self.sender.idle)
            elif hasattr(self, "sender") and in_order:
                self._drain(self.sender.all_taken)

    def _drain(self, drained: Callable[[], bool]) -> None:
        self.meter.state("DRAINING", time.monotonic_ns())
        farewell, owed = time.monotonic() + FAREWELL_S, self.sender.owed()
        while not drained():
            self.sender.wait(100)
            if self.sender.owed() < owed:  # a `block` consumer makes progress: give it as long again
                farewell, owed = time.monotonic() + FAREWELL_S, self.sender.owed()
            if time.monotonic() > farewell and not self.sender.has_consumers_of_this_graph():
                return

    def _blocked(self, blocked: bool) -> None:
        self.meter.state("BLOCKED" if blocked else "PROCESSING", time.monotonic_ns())

    def _snapshot(self) -> dict[str, Any]:
        self.meter.unmatched(self.inputs.dropped - self.unmatched)
        self.unmatched = self.inputs.dropped
        self.meter.depths(self.sender.depths())
        return self.meter.snapshot()

    def _log_to_bus(self) -> None:
        root = logging.getLogger()
        root.handlers[:] = [BusHandler(self.control)]
        root.setLevel(self.job.log_level)

    def _report_failure(self, exc: BaseException) -> int:
        """Report to the supervisor; return the exit code. A GraphError explains itself, others need a traceback."""
        where = f"on frame {self.seq}" if self.phase == "process" else f"in {self.phase}"
        known = isinstance(exc, GraphError)
        text = str(exc) if known else f"{type(exc).__name__}: {exc}".removesuffix(": ")
        wrong_config = isinstance(exc, ConfigError) and self.phase in ("start", "open")
        no_package = any(isinstance(error, ModuleNotFoundError) for error in (exc, exc.__cause__))
        told = "" if known else trace(exc, __file__)
        self.control.say("error", where=where, text=text, trace=told, wrong_config=wrong_config, hopeless=no_package)
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
