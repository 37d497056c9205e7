"""A node's line to its supervisor, and everything else that must go on while the node computes.

One thread: it reports, takes commands, serves consumers that return credits or ask for shared memory, and ends
the process at once when the supervisor is gone.
"""

import contextlib
import logging
import os
import select
import sys
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

REPORT_S = 0.5  # heartbeat; the supervisor worries after ten of them
STUCK_S = 2.0  # a source that has not come back for so long after `finish` is taken for stuck
DYING_S = 1.0  # a supervisor that is killed closes our pipe first and lets go its lock a little later
BUSY_S = 0.001  # how long to leave the main thread alone that is sending


def identity(supervisor_pid: int, node: str) -> bytes:
    """Return the name of a node's line; with the supervisor's pid, so that no stray of an earlier run is heard."""
    return f"{supervisor_pid}/{node}".encode()


class Control(threading.Thread):
    """The thread. `commands` fills with what the supervisor says; `wake_fd` becomes readable with it."""

    def __init__(self, context: "zmq.Context[Any]", node: str, rundir: RunDir) -> None:
        super().__init__(name="control", daemon=True)
        self.commands: deque[dict[str, Any]] = deque()
        self.arrived = threading.Event()
        self.wake_fd, self._wake_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._nudged, self._nudge = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
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
        """Look after a sender and its shared memory from now on, and send what `report` gives twice a second."""
        self._sender, self._server, self._report = sender, server, report
        self._poke(self._nudge)

    def watch_source(self, on_stuck: Callable[[], None] | None) -> None:
        """Call `on_stuck` (in this thread) if the main thread does not heed `finish` in time; None: it came back."""
        self._on_stuck = on_stuck

    def say(self, kind: str, **content: Any) -> None:
        """Tell the supervisor something; from any thread."""
        self._outbox.append({"v": wire.VERSION, "k": kind, **content})
        self._poke(self._nudge)

    def stop(self) -> None:
        """Send what is left, and end."""
        self._stopping = True
        self._poke(self._nudge)
        self.join(timeout=5)

    def acknowledge(self) -> None:
        """Empty the pipe behind `wake_fd`."""
        self.arrived.clear()
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake_fd, 4096)

    def run(self) -> None:
        """Serve until `stop`. Without this thread nobody would end the process: if it fails, all of it does."""
        try:
            self._serve_until_stopped()
        finally:
            if not self._stopping:
                traceback.print_exc()
                os._exit(1)

    def _serve_until_stopped(self) -> None:
        next_report = time.monotonic()
        while not self._stopping:
            self._sleep(max(0.0, next_report - time.monotonic()))
            self._send_outbox()
            self._take_commands()
            if time.monotonic() >= next_report:
                next_report = time.monotonic() + REPORT_S
                self._heartbeat()
            if self._stuck_at is not None and time.monotonic() >= self._stuck_at and self._on_stuck:
                self._stuck_at = time.monotonic() + STUCK_S  # it may find that this is not so
                self._on_stuck()
        self._send_outbox()
        self._socket.close()

    def _sleep(self, seconds: float) -> None:
        fds = [self._control_fd, self._nudged]
        if sys.stdin is not None:
            fds.append(sys.stdin.fileno())
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
            elif sys.stdin is not None and fd == sys.stdin.fileno():
                self._supervisor_died()
            elif self._sender and fd == self._sender.fd:
                self._serve_sender(self._sender)
            elif self._server and fd in self._server.sockets:
                self._server.serve(fd)

    def _serve_sender(self, sender: Sender) -> None:
        if sender.lock.acquire(blocking=False):
            try:
                sender.service()
            finally:
                sender.lock.release()
        else:
            time.sleep(BUSY_S)  # the main thread is at it and will see to this itself

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
            # In this order: the node empties the pipe when it sees `arrived`, and a byte that came after that would
            # keep it awake for ever.
            self._poke(self._wake_out)
            self.arrived.set()

    def _heartbeat(self) -> None:
        if self._sender and self._sender.lock.acquire(blocking=False):
            try:
                self._sender.ping()
                self._sender.service()
            finally:
                self._sender.lock.release()
        if self._server:
            self._server.pool.tend()
        if self._report:
            self._outbox.append({"v": wire.VERSION, "k": "report", "snapshot": self._report()})
        self._send_outbox()

    def last_words(self) -> None:
        """Send what is left, from this very thread, before the process ends without ceremony."""
        self._send_outbox()
        self._socket.close()

    def _send_outbox(self) -> None:
        while self._outbox:
            self._socket.send(wire.pack_words(self._outbox.popleft()))

    def _supervisor_died(self) -> None:
        """End: whoever would have told us to is gone. The memory goes with us; sockets must be removed.

        But not those of a new graph of the same name, if we have slept through its start.
        """
        if os.read(sys.stdin.fileno(), 1):
            return
        self._rundir.remove_left_over(DYING_S)
        os._exit(1)

    @staticmethod
    def _poke(fd: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(fd, b"!")


class BusHandler(logging.Handler):
    """Sends log records to the supervisor's bus."""

    def __init__(self, control: Control) -> None:
        super().__init__()
        self._control = control

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        self._control.say("log", level=record.levelno, text=self.format(record))
