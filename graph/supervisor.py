"""Starts the nodes of a graph, watches and restarts them, and ends them together."""

import logging
import math
import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import zmq

from graph.attached import check_inputs
from graph.bus import Bus
from graph.child import BACK_OFF_S, BACK_OFF_WINDOW_S, Child
from graph.gateway import Gateway
from graph.job import Job
from graph.reports import Reports, Wanted
from graph.rundir import RunDir
from graph.service import Service
from graph.spec import EdgeSpec, GraphSpec
from graph.stop_signals import on_stop_signals

logger = logging.getLogger("facegraph")

GRACE_S = 10.0  # how long nodes may take to finish in order, after Ctrl-C or the failure of a node
RESTART_S = 3.0  # how long a node may take to close for a requested restart
SEQ_GAP = 100_000
"""A restarted source continues from its last known sequence number plus this, because numbers never decrease:
heartbeats report the number twice a second, so it can have published fewer frames since."""
LAST_MESSAGES_S = 1.0  # how long to wait for the `done` that a worker sends before it ends
OK, FAILED, WRONG_CONFIG = 0, 1, 2


def run(
    spec: GraphSpec,
    duration: float | None = None,
    profile: Path | None = None,
    log_level: str = "INFO",
    dot: Path | None = None,
    metrics: int | None = None,
) -> int:
    """Run a checked graph in the foreground until it ends.

    `duration` is the number of seconds of playing after which it ends in order. `profile` is a folder for
    latency.json, latency.png and trace.json, `dot` one for drawings at every change of state, `metrics` a port for
    Prometheus. Returns the exit code: 0 done, 1 a node failed. Raises ConfigError if the graph cannot start here (its
    name is in use, or the graph that it attaches to does not run).
    """
    if spec.attach is not None:
        check_inputs(spec, spec.attach)
    return Supervisor(spec, duration, log_level, Wanted(profile, dot, metrics)).run()


class Supervisor:
    """The parent of all nodes of one graph."""

    def __init__(self, spec: GraphSpec, duration: float | None, log_level: str, wanted: Wanted) -> None:
        self.spec = spec
        self.run_id = secrets.token_hex(8)
        self.log_level = logging.getLevelNamesMapping()[log_level.upper()]
        self.duration = duration
        self.trace = wanted.profile is not None
        self.children = {name: Child(node) for name, node in spec.nodes.items()}
        self.rundir = RunDir.of(spec.name)
        self.claim = self.rundir.claim(list(self.children))  # may raise: first of all that must be closed
        self.context: zmq.Context[Any] = zmq.Context()
        self.bus = Bus(self.context, self.children)
        self.service = Service(self)
        self.reports = Reports(spec, wanted, self.states)
        self.gateway: Gateway | None = None
        self.paused = False
        self.interrupts = 0
        self.started = time.monotonic()
        self.linking = False  # READY nodes connect to those that they read from
        self.played: float | None = None  # CLOCK_MONOTONIC seconds when all nodes began to play
        self.deadline: float | None = None  # when the graph is ending: CLOCK_MONOTONIC seconds when all are killed
        self.code = OK
        self.wrong_config = False

    def run(self) -> int:
        """Run the graph; return the exit code."""
        with on_stop_signals(self._interrupt):
            self._run()
        if self.played is not None:
            self.reports.finish()
        return self.code

    def _run(self) -> None:
        logger.addHandler(self.service.log)
        try:
            self.reports.open()
            self.bus.socket.bind(self.rundir.control)
            self._open_gateway()
            for child in self.children.values():
                self._spawn(child)
            while any(child.running or child.restart_at is not None for child in self.children.values()):
                self._step()
        finally:
            self._kill_all()
            if self.gateway:
                self.gateway.close()
            self.reports.close()
            self.bus.close()
            self.context.term()
            self.claim.close()
            logger.removeHandler(self.service.log)

    def _open_gateway(self) -> None:
        if self.spec.listen is not None:
            self.gateway = Gateway(self.spec.listen, self.spec.keys, self.rundir, list(self.children))
            self.gateway.start()
            logger.info("%s can be attached to at %s", self.spec.name, self.gateway.address)

    def _step(self) -> None:
        """Wait up to 100 ms for an event, and do what is due."""
        poller = zmq.Poller()
        poller.register(self.bus.socket, zmq.POLLIN)
        for child in self.children.values():
            if child.pidfd >= 0:
                poller.register(child.pidfd, zmq.POLLIN)
        poller.poll(100)
        self._receive()
        self._reap()
        self._restart_due()
        self._advance()
        self._check_time()
        self.service.check_time()
        self.reports.draw(self.state, self.stats)

    def _spawn(self, child: Child, first_seq: int = 0) -> None:
        job = Job(
            graph=self.spec.name,
            run=self.run_id,
            rundir=str(self.rundir.path),
            node=child.spec,
            edges=self.spec.edges_into(child.spec.name),
            attach=self.spec.attach,
            log_level=self.log_level,
            trace=self.trace,
            first_seq=first_seq,
            epoch=child.epoch,
            resumes=child.last_seq >= 0,
            readers=self.spec.edges_from(child.spec.name),
        )
        child.start(job)

    def _receive(self) -> None:
        self.bus.receive(self._handle, self.service.handle)

    def _handle(self, name: str, message: dict[str, Any]) -> None:
        child, kind = self.children[name], message["k"]
        child.last_heard = time.monotonic()
        if kind == "report":
            self.reports.take(name, message["snapshot"])
            child.last_seq = max(child.last_seq, message["snapshot"]["last_seq"])
        elif kind == "log":
            logging.getLogger(f"facegraph.{name}").log(message["level"], "%s", message["text"])
        elif kind == "state":
            self._enter(child, message["state"])
        elif kind == "linked":
            self._enter(child, "LINKED")
        elif kind == "error":
            child.log_failure(message)
            self.wrong_config |= bool(message["wrong_config"])
        elif kind == "finish":
            logger.info("%s asks the graph to finish", name)
            self._finish()
        elif kind == "greeted":  # it has reconnected to a restarted node of another graph, and may have missed frames
            self._announce_gap(self.spec.rejoining(name, own=True), message["seq"])
        elif kind == "answer":
            self.service.answered(name, message)
        elif kind == "done":
            child.done = True

    def _enter(self, child: Child, state: str) -> None:
        child.state = state
        logger.debug("%s is %s", child.spec.name, state)
        while child.unsent:
            kind, content = child.unsent.popleft()
            self.send(child, kind, **content)
        if state == "READY" and self.linking:
            self._relink(child)
        if self.played is not None:
            if state == "LINKED":
                if self.paused and child.spec.name in self.roots():
                    self.send(child, "pause", ticket=0)
                self.send(child, "play")
            if state == "PLAYING":
                self.service.playing(child.spec.name)

    def _relink(self, child: Child) -> None:
        """Connect a restarted node with its neighbours, which may be playing already."""
        self.send(child, "link")
        for other in self.children.values():
            if other.state == "DONE":
                self.send(child, "gone", node=other.spec.name)  # so that it does not wait for it
        playing = self.played is not None
        for edge in self.spec.edges_from(child.spec.name):
            self.send(self.children[edge.target_node], "relink", node=child.spec.name, missed=playing)
        if playing:
            self._announce_gap(self.spec.rejoining(child.spec.name), child.last_seq)

    def _announce_gap(self, edges: Iterable[EdgeSpec], seq: int) -> None:
        """Tell the targets of these edges not to wait for frames after `seq` that a node before them may have lost."""
        for edge in edges:
            self.send(self.children[edge.target_node], "restarted", port=edge.target_port, seq=seq)

    def _advance(self) -> None:
        """Let all nodes enter the next state together: READY -> LINKED -> PLAYING."""
        if self.played is not None or self.deadline is not None:
            return
        states = {child.state for child in self.children.values()}
        if states == {"READY"} and not self.linking:
            self.linking = True
            self._broadcast("link")
        elif states == {"LINKED"}:
            self.played = time.monotonic()
            self._broadcast("play")
            count, seconds = len(self.children), self.played - self.started
            logger.info("%s: %d nodes playing after %.1f s", self.spec.name, count, seconds)

    def _reap(self) -> None:
        for child in self.children.values():
            code = child.reap()
            if code is not None:
                self._receive_last(child, code)
                self._ended(child, code)

    def _receive_last(self, child: Child, code: int) -> None:
        """Receive the last messages of an ended process, which ZeroMQ may deliver after the process has ended."""
        deadline = time.monotonic() + LAST_MESSAGES_S
        self._receive()
        while code in (OK, FAILED) and not child.done and time.monotonic() < deadline:
            self.bus.socket.poll(50)
            self._receive()

    def _ended(self, child: Child, code: int) -> None:
        name, in_order = child.spec.name, code == 0 and child.done
        if child.stop_by is not None:
            self._stopped_for_restart(child, in_order)
            return
        self.service.ended(name, for_good=child.spec.restart == "never")
        if in_order:
            self._done(child)
            return
        child.state = "FAILED"
        self._broadcast("forget", node=name, restarts=child.epoch)
        if not child.failure_logged and not child.discarded:
            logger.error("%s %s", name, child.describe_death(code))
        child.failure_logged = False
        if child.spec.restart != "never" and not child.hopeless and self._plan_restart(child):
            return
        self._broadcast("gone", node=name)
        if not child.discarded:
            self.code = WRONG_CONFIG if self.wrong_config and self.played is None else FAILED
            self._finish()

    def _done(self, child: Child) -> None:
        """Handle the end of a node that ended in order."""
        name = child.spec.name
        child.state = "DONE"
        if child.spec.restart == "always" and not self.spec.edges_into(name) and self._plan_restart(child):
            return
        self._broadcast("gone", node=name)
        if all(self.children[sink].state == "DONE" for sink in self.spec.sinks()):
            self._finish()  # sources may still run, for instance a camera joined with a file that has ended

    def _plan_restart(self, child: Child) -> bool:
        """Schedule a restart and return True, unless the graph is ending or there were too many restarts."""
        if self.deadline is not None or self.interrupts:
            return False
        wait = child.back_off()
        if wait is None:
            many, window = len(BACK_OFF_S), BACK_OFF_WINDOW_S
            logger.error("%s: restarted %d times within %.0f s; giving up", child.spec.name, many, window)
            self.code = FAILED
            return False
        logger.warning("%s: restarting in %.1f s", child.spec.name, wait)
        child.restart_at = time.monotonic() + wait
        child.state = "NULL"  # so that its readers do not take it for ended
        return True

    def restart(self, child: Child) -> None:
        """Restart a node's process: in order if it ends within RESTART_S, else by killing it."""
        logger.info("%s: restart requested", child.spec.name)
        if child.running:
            child.stop_by = time.monotonic() + RESTART_S
            self.send(child, "restart")
        else:
            child.restart_at = time.monotonic()

    def _stopped_for_restart(self, child: Child, in_order: bool) -> None:
        """Restart a node whose process has ended because a restart was requested."""
        child.stop_by, child.failure_logged = None, False
        if not in_order:
            self._broadcast("forget", node=child.spec.name, restarts=child.epoch)
        if self.deadline is not None:  # meanwhile the graph is ending
            child.state = "DONE"
            self._broadcast("gone", node=child.spec.name)
            return
        self._respawn(child, first_seq=child.last_seq + (1 if in_order else SEQ_GAP))

    def _restart_due(self) -> None:
        for child in self.children.values():
            if child.stop_by is not None and time.monotonic() >= child.stop_by:
                logger.warning("%s did not end for its restart; killing its process", child.spec.name)
                child.stop_by = math.inf
                child.kill()
            if child.restart_at is not None and time.monotonic() >= child.restart_at:
                child.restart_at = None
                self._respawn(child, first_seq=child.last_seq + SEQ_GAP)

    def _respawn(self, child: Child, first_seq: int) -> None:
        child.epoch += 1
        self.reports.restarted(child.spec.name)
        self._spawn(child, first_seq)

    def _check_time(self) -> None:
        now = time.monotonic()
        if self.duration is not None and self.played is not None and now >= self.played + self.duration:
            self._finish()
        if self.interrupts and self.deadline is None:
            logger.info("ending in order; press Ctrl-C again to kill")
            self._finish()
        if self.interrupts > 1 or (self.deadline is not None and now >= self.deadline):
            self._give_up()
        for child in self.children.values():
            child.warn_if_silent()
            child.kill_if_late()

    def _finish(self) -> None:
        """End the streams at their sources; everything downstream drains."""
        if self.deadline is not None:
            return
        self.deadline = time.monotonic() + GRACE_S
        for child in self.children.values():
            if child.restart_at is not None:
                child.restart_at, child.state = None, "FAILED"
                self._broadcast("gone", node=child.spec.name)
            if child.running and (self.played is None or child.state in ("NULL", "READY")):
                child.kill()  # nodes that it would read from may have ended already
                child.discarded = True
            self.send(child, "finish")

    def _give_up(self) -> None:
        states = {name: node["state"].lower() for name, node in self.stats()["nodes"].items()}
        late = [f"{name} ({states[name]})" for name, child in self.children.items() if child.running]
        if late and self.interrupts <= 1:
            logger.error("not finished after %.0f s, killed: %s", GRACE_S, ", ".join(late))
        self.code = FAILED if late else self.code
        self._kill_all()

    def _kill_all(self) -> None:
        for child in self.children.values():
            child.kill_and_reap()

    def _interrupt(self) -> None:
        self.interrupts += 1

    def send(self, child: Child, kind: str, /, **content: Any) -> None:
        """Send a message to a node that runs: now, or when it is READY to receive it."""
        if child.running and child.state == "NULL":
            child.unsent.append((kind, content))
        elif child.running:
            self.bus.send(child.spec.name, kind, **content)

    def _broadcast(self, kind: str, **content: Any) -> None:
        for child in self.children.values():
            self.send(child, kind, **content)

    @property
    def state(self) -> str:
        """The state of the whole graph: STARTING, PLAYING, PAUSED or ENDING."""
        if self.deadline is not None or self.interrupts:
            return "ENDING"
        return "STARTING" if self.played is None else "PAUSED" if self.paused else "PLAYING"

    def roots(self) -> list[str]:
        """Return the nodes where frames enter this graph: its sources, and those that only read another graph."""
        inner = {edge.target_node for edge in self.spec.edges if edge.source_graph is None}
        return [name for name in self.children if name not in inner]

    def states(self) -> dict[str, str]:
        """Return the state of every node's process."""
        return {name: child.state for name, child in self.children.items()}

    def stats(self) -> dict[str, Any]:
        """Return the current statistics; see graph/README.md."""
        restarts = {name: child.epoch for name, child in self.children.items()}
        playing_s = 0.0 if self.played is None else time.monotonic() - self.played
        about = {"graph": self.spec.name, "state": self.state, "playing_s": round(playing_s, 1)}
        return about | self.reports.now.summary(self.states(), restarts)
