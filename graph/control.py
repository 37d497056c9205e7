"""A node's connection to its supervisor, and everything else that must go on while the node computes.

A thread that reports to the supervisor, receives its commands, serves consumers that return credits or request shared
memory, and ends the process at once when the supervisor is gone.
"""

import contextlib
import logging
import os
import select
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

import zmq

from graph import wire
from graph.errors import WireError
from graph.rundir import RunDir
from graph.sender import Sender
from graph.slots import SlotServer

REPORT_S = 0.5  # between heartbeats; the supervisor warns when ten are missing
STUCK_S = 2.0  # a source whose process() has not returned this long after `finish` counts as stuck
DYING_S = 1.0  # a supervisor that is killed closes our pipe first, and releases its lock a little later
BUSY_S = 0.001  # how long to wait while the main thread is sending
STDIN = 0  # a pipe from the supervisor, closed when the supervisor dies


def identity(supervisor_pid: int, node: str) -> bytes:
    """Return the ZeroMQ identity of a node; the supervisor's pid in it tells apart the nodes of an earlier run."""
    return f"{supervisor_pid}/{node}".encode()


class Control(threading.Thread):
    """The thread. The supervisor's commands are appended to `commands`, which makes `wake_fd` readable."""

    def __init__(self, context: "zmq.Context[Any]", node: str, rundir: RunDir) -> None:
        super().__init__(name="control", daemon=True)
        self.commands: deque[dict[str, Any]] = deque()
        self.arrived = threading.Event()
        self.wake_fd, self._wake_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)  # wakes the main thread
        self._nudged, self._nudge = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)  # wakes this thread
        self._outbox: deque[dict[str, Any]] = deque()
        self._rundir = rundir
        self._stopping = False
        self._sender: Sender | None = None
        self._server: SlotServer | None = None
        self._report: Callable[[], dict[str, Any]] | None = None
        self._on_stuck: Callable[[], None] | None = None
        self._stuck_at: float | None = None
        self._socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        self._socket.set(zmq.IDENTITY, identity(os.getppid(), node))
        self._socket.set(zmq.LINGER, 2000)
        self._socket.connect(rundir.control)
        self._control_fd: int = self._socket.get(zmq.FD)

    def serve(self, sender: Sender, server: SlotServer | None, report: Callable[[], dict[str, Any]]) -> None:
        """Serve a sender and its shared memory from now on, and send the result of `report` twice a second."""
        self._sender, self._server, self._report = sender, server, report
        self._poke(self._nudge)

    def watch_source(self, on_stuck: Callable[[], None] | None) -> None:
        """Call `on_stuck` (in this thread) if the main thread does not obey `finish` in time; None: stop watching."""
        self._on_stuck = on_stuck

    def say(self, kind: str, **content: Any) -> None:
        """Send a message to the supervisor; any thread may call this."""
        self._outbox.append({"v": wire.VERSION, "k": kind, **content})
        self._poke(self._nudge)

    def stop(self) -> None:
        """Send what is left, and end the thread."""
        self._stopping = True
        self._poke(self._nudge)
        self.join(timeout=5)

    def acknowledge(self) -> None:
        """Empty the pipe behind `wake_fd`."""
        self.arrived.clear()
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake_fd, 4096)

    def run(self) -> None:
        """Serve until `stop`. If this thread fails, end the process, since nothing else would."""
        try:
            self._serve_until_stopped()
        finally:
            if not self._stopping:
                traceback.print_exc()
                os._exit(1)

    def _serve_until_stopped(self) -> None:
        next_report = time.monotonic()
        while not self._stopping:
            self._wait(max(0.0, next_report - time.monotonic()))
            self._send_outbox()
            self._take_commands()
            if time.monotonic() >= next_report:
                next_report = time.monotonic() + REPORT_S
                self._heartbeat()
            if self._stuck_at is not None and time.monotonic() >= self._stuck_at and self._on_stuck:
                self._stuck_at = time.monotonic() + STUCK_S  # once more, if it turns out not to be stuck
                self._on_stuck()
        self._send_outbox()
        self._socket.close()

    def _wait(self, seconds: float) -> None:
        """Wait for an event; serve consumers meanwhile."""
        fds = [self._control_fd, self._nudged, STDIN]
        if self._sender:
            fds.append(self._sender.fd)
        if self._server:
            fds.extend(self._server.sockets)
        poller = select.poll()
        for fd in fds:
            poller.register(fd, select.POLLIN)
        for fd, _event in poller.poll(seconds * 1000):
            if fd == self._nudged:
                with contextlib.suppress(BlockingIOError):
                    os.read(fd, 4096)
            elif fd == STDIN:
                self._supervisor_died()
            elif self._sender and fd == self._sender.fd:
                if not self._sender.unless_busy(self._sender.service):
                    time.sleep(BUSY_S)  # the main thread is sending and will service the consumers itself
            elif self._server and fd in self._server.sockets:
                self._server.serve(fd)

    def _take_commands(self) -> None:
        while int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
            try:
                command = wire.unpack(self._socket.recv(zmq.NOBLOCK))
            except WireError:
                logging.getLogger(__name__).exception("malformed command")
                continue
            if command["k"] == "finish":
                self._stuck_at = time.monotonic() + STUCK_S
                if self._sender:
                    self._sender.finish()
            if command["k"] in ("forget", "gone") and self._sender:
                restarts = command["restarts"] if command["k"] == "forget" else None
                self._sender.forget(command["node"], restarts)
            self.commands.append(command)
            # In this order: the node empties the pipe when it sees `arrived`; a byte written after that would wake it
            # for ever.
            self._poke(self._wake_out)
            self.arrived.set()

    def _heartbeat(self) -> None:
        if self._sender:
            self._sender.unless_busy(self._sender.ping)
            self._sender.unless_busy(self._sender.service)
        if self._server:
            self._server.pool.tend()
        if self._report:
            self.say("report", snapshot=self._report())

    def last_words(self) -> None:
        """Send what is left, from this thread, before the process is cut off."""
        self._send_outbox()
        self._socket.close()

    def _send_outbox(self) -> None:
        while self._outbox:
            self._socket.send(wire.pack_words(self._outbox.popleft()))

    def _supervisor_died(self) -> None:
        """Remove the sockets of the graph and end the process, which frees its memory.

        The sockets of a new graph of the same name, started while this process was suspended, are left alone.
        """
        self._rundir.remove_left_over(DYING_S)
        os._exit(1)

    @staticmethod
    def _poke(fd: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(fd, b"!")


class BusHandler(logging.Handler):
    """Sends log records to the supervisor."""

    def __init__(self, control: Control) -> None:
        super().__init__()
        self._control = control

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        self._control.say("log", level=record.levelno, text=self.format(record))
