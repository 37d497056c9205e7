"""Starts the nodes of a graph, watches them, and brings them to an end together."""

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
from graph.door import Door
from graph.endings import heeding
from graph.job import Job
from graph.reports import Reports, Wanted
from graph.rundir import RunDir
from graph.service import Service
from graph.spec import EdgeSpec, GraphSpec

logger = logging.getLogger("facegraph")

GRACE_S = 10.0  # after Ctrl-C, or after a node failed, the others get so long to finish in order
RESTART_S = 3.0  # a node that is to be restarted gets so long to come back and close
SEQ_GAP = 100_000
"""A source that is started again counts on from its last known number plus this: heartbeats come twice a second,
so fewer than that can have gone unreported, and sequence numbers never go back."""
LAST_WORDS_S = 1.0  # a worker that ends by itself always says so before
OK, FAILED, WRONG_CONFIG = 0, 1, 2


def run(
    spec: GraphSpec,
    duration: float | None = None,
    profile: Path | None = None,
    log_level: str = "INFO",
    dot: Path | None = None,
    metrics: int | None = None,
) -> int:
    """Run a checked graph to its end in this process's foreground.

    `duration` ends it after so many seconds of playing, in order. `profile` names a folder for latency.json,
    latency.png and trace.json, `dot` one for drawings at every change of state; `metrics` is the port where
    Prometheus may ask. Returns the exit code: 0 done, 1 a node failed. Raises ConfigError if the graph
    cannot start here (its name is taken, or the graph that it attaches to does not run).
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
        self.claim = self.rundir.claim(list(self.children))  # before anything else that would have to be closed
        self.context: zmq.Context[Any] = zmq.Context()
        self.bus = Bus(self.context, self.children)
        self.service = Service(self)
        self.reports = Reports(spec, wanted, self.states)
        self.door: Door | None = None
        self.paused = False
        self.interrupts = 0
        self.started = time.monotonic()
        self.linking = False  # whoever is ready greets those that it reads from
        self.played: float | None = None
        self.deadline: float | None = None
        self.code = OK
        self.wrong_config = False

    def run(self) -> int:
        """Run the graph; return the exit code."""
        with heeding(self._interrupt):
            self._run()
        if self.played is not None:
            self.reports.finish()
        return self.code

    def _run(self) -> None:
        logger.addHandler(self.service.log)
        try:
            self.reports.open()
            self.bus.socket.bind(self.rundir.control)
            self._open_door()
            for child in self.children.values():
                self._spawn(child)
            while any(child.running or child.start_again_at is not None for child in self.children.values()):
                self._turn()
        finally:
            self._kill_all()
            if self.door:
                self.door.close()
            self.reports.close()
            self.bus.close()
            self.context.term()
            self.claim.close()
            logger.removeHandler(self.service.log)

    def _open_door(self) -> None:
        if self.spec.listen is not None:
            self.door = Door(self.spec.listen, self.spec.keys, self.rundir, list(self.children))
            self.door.start()
            logger.info("%s can be attached to at %s", self.spec.name, self.door.address)

    def _turn(self) -> None:
        """Wait a little for news, and act on it."""
        poller = zmq.Poller()
        poller.register(self.bus.socket, zmq.POLLIN)
        for child in self.children.values():
            if child.pidfd >= 0:
                poller.register(child.pidfd, zmq.POLLIN)
        poller.poll(100)
        self._listen()
        self._reap()
        self._start_again()
        self._advance()
        self._watch_time()
        self.service.watch_time()
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

    def _listen(self) -> None:
        self.bus.receive(self._hear, self.service.take)

    def _hear(self, name: str, said: dict[str, Any]) -> None:
        child, kind = self.children[name], said["k"]
        child.heard = time.monotonic()
        if kind == "report":
            self.reports.take(name, said["snapshot"])
            child.last_seq = max(child.last_seq, said["snapshot"]["last_seq"])
        elif kind == "log":
            logging.getLogger(f"facegraph.{name}").log(said["level"], "%s", said["text"])
        elif kind == "state":
            self._enter(child, said["state"])
        elif kind == "linked":
            self._enter(child, "LINKED")
        elif kind == "error":
            child.tell_of_failure(said)
            self.wrong_config |= bool(said["wrong_config"])
        elif kind == "finish":
            logger.info("%s asks the graph to finish", name)
            self._finish()
        elif kind == "greeted":  # a node of another graph again, which was started again and may have sent before
            self._tell_of_gap(self.spec.rejoining(name, own=True), said["seq"])
        elif kind == "answer":
            self.service.answered(name, said)
        elif kind == "done":
            child.done = True

    def _enter(self, child: Child, state: str) -> None:
        child.state = state
        logger.debug("%s is %s", child.spec.name, state)
        while child.untold:
            kind, content = child.untold.popleft()
            self.tell(child, kind, **content)
        if state == "READY" and self.linking:
            self._join(child)
        if self.played is not None:
            if state == "LINKED":
                if self.paused and child.spec.name in self.roots():
                    self.tell(child, "pause", ticket=0)
                self.tell(child, "play")
            if state == "PLAYING":
                self.service.playing(child.spec.name)

    def _join(self, child: Child) -> None:
        """Bring a node that was started again together with its neighbours, which may play already."""
        self.tell(child, "link")
        for name in [name for name, state in self.states().items() if state == "DONE"]:
            self.tell(child, "gone", node=name)  # there is nobody to greet, or to wait for
        playing = self.played is not None
        for edge in self.spec.edges_from(child.spec.name):
            self.tell(self.children[edge.target_node], "relink", node=child.spec.name, missed=playing)
        if playing:
            self._tell_of_gap(self.spec.rejoining(child.spec.name), child.last_seq)

    def _tell_of_gap(self, edges: Iterable[EdgeSpec], seq: int) -> None:
        """Tell the nodes behind these edges not to wait for frames after `seq`, which somebody before them missed."""
        for edge in edges:
            self.tell(self.children[edge.target_node], "restarted", port=edge.target_port, seq=seq)

    def _advance(self) -> None:
        """Let all take the next step together: READY -> linked -> PLAYING."""
        if self.played is not None or self.deadline is not None:
            return
        states = {child.state for child in self.children.values()}
        if states == {"READY"} and not self.linking:
            self.linking = True
            for child in self.children.values():
                self.tell(child, "link")
        elif states == {"LINKED"}:
            self.played = time.monotonic()
            for child in self.children.values():
                self.tell(child, "play")
            count, seconds = len(self.children), self.played - self.started
            logger.info("%s: %d nodes playing after %.1f s", self.spec.name, count, seconds)

    def _reap(self) -> None:
        for child in self.children.values():
            code = child.reap()
            if code is not None:
                self._hear_last_words(child, code)
                self._ended(child, code)

    def _hear_last_words(self, child: Child, code: int) -> None:
        """Hear what an ended process said: ZeroMQ may still be reading it while its end is known already."""
        deadline = time.monotonic() + LAST_WORDS_S
        self._listen()
        while code in (OK, FAILED) and not child.done and time.monotonic() < deadline:
            self.bus.socket.poll(50)
            self._listen()

    def _ended(self, child: Child, code: int) -> None:
        name = child.spec.name
        if child.restart_by is not None:
            self._restarted(child, orderly=code == 0 and child.done)
            return
        self.service.ended(name, for_good=child.spec.restart == "never")
        if code == 0 and child.done:
            self._done(child)
            return
        child.state = "FAILED"
        if child.dismissed:
            self._tell_all("forget", node=name, restarts=child.epoch)
            self._tell_all("gone", node=name)
            return
        if not child.failure_told:
            logger.error("%s %s", name, child.describe_death(code))
        child.failure_told = False
        self._tell_all("forget", node=name, restarts=child.epoch)
        if child.spec.restart != "never" and not child.hopeless and self._may_start_again(child):
            return
        self._tell_all("gone", node=name)
        self.code = WRONG_CONFIG if self.wrong_config and self.played is None else FAILED
        self._finish()

    def _done(self, child: Child) -> None:
        """See to a node that ended in order."""
        name = child.spec.name
        child.state = "DONE"
        if child.spec.restart == "always" and not self.spec.edges_into(name) and self._may_start_again(child):
            return
        self._tell_all("gone", node=name)
        if all(self.children[sink].state == "DONE" for sink in self.spec.sinks()):
            self._finish()  # nobody is left to deliver to, like a camera joined with a file that has ended

    def _may_start_again(self, child: Child) -> bool:
        """Plan another start, unless the graph is ending or there were too many."""
        if self.deadline is not None or self.interrupts:
            return False
        wait = child.back_off()
        if wait is None:
            many, window = len(BACK_OFF_S), BACK_OFF_WINDOW_S
            logger.error("%s: started again %d times within %.0f s; giving up", child.spec.name, many, window)
            self.code = FAILED
            return False
        logger.warning("%s: starting again in %.1f s", child.spec.name, wait)
        child.start_again_at = time.monotonic() + wait
        child.state = "NULL"  # it has not ended for those who read from it
        return True

    def restart(self, child: Child) -> None:
        """Start a node's process again: in order if it heeds us, else by force after RESTART_S."""
        logger.info("%s: restart asked for", child.spec.name)
        if child.running:
            child.restart_by = time.monotonic() + RESTART_S
            self.tell(child, "restart")
        else:
            child.start_again_at = time.monotonic()

    def _restarted(self, child: Child, orderly: bool) -> None:
        """Start a node again whose process was asked to end for that."""
        child.restart_by, child.failure_told = None, False
        if not orderly:
            self._tell_all("forget", node=child.spec.name, restarts=child.epoch)
        if self.deadline is not None:  # the graph is ending meanwhile
            child.state = "DONE"
            self._tell_all("gone", node=child.spec.name)
            return
        self._spawn_again(child, first_seq=child.last_seq + (1 if orderly else SEQ_GAP))

    def _start_again(self) -> None:
        for child in self.children.values():
            if child.restart_by is not None and time.monotonic() >= child.restart_by:
                logger.warning("%s does not heed the restart; killing its process", child.spec.name)
                child.restart_by = math.inf
                child.kill()
            if child.start_again_at is not None and time.monotonic() >= child.start_again_at:
                child.start_again_at = None
                self._spawn_again(child, first_seq=child.last_seq + SEQ_GAP)

    def _spawn_again(self, child: Child, first_seq: int) -> None:
        child.epoch += 1
        self.reports.restarted(child.spec.name)
        self._spawn(child, first_seq)

    def _watch_time(self) -> None:
        now = time.monotonic()
        if self.duration is not None and self.played is not None and now >= self.played + self.duration:
            self.duration = None
            self._finish()
        if self.interrupts and self.deadline is None:
            logger.info("ending in order; Ctrl-C again kills")
            self._finish()
        if self.interrupts > 1 or (self.deadline is not None and now >= self.deadline):
            self._give_up()
        for child in self.children.values():
            child.tell_of_silence()
            child.end_in_time()

    def _finish(self) -> None:
        """End the streams at their sources; everything downstream drains."""
        if self.deadline is not None:
            return
        self.deadline = time.monotonic() + GRACE_S
        for child in self.children.values():
            if child.start_again_at is not None:
                child.start_again_at, child.state = None, "FAILED"
                self._tell_all("gone", node=child.spec.name)
            if child.running and (self.played is None or child.state in ("NULL", "READY")):
                child.kill()  # what it would read from may have ended already
                child.dismissed = True
            self.tell(child, "finish")

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

    def tell(self, child: Child, kind: str, /, **content: Any) -> None:
        """Send a word to a node that runs, as soon as it can hear it: when it is READY."""
        if child.running and child.state == "NULL":
            child.untold.append((kind, content))
        elif child.running:
            self.bus.tell(child.spec.name, kind, **content)

    def _tell_all(self, kind: str, **content: Any) -> None:
        for child in self.children.values():
            self.tell(child, kind, **content)

    @property
    def state(self) -> str:
        """The state of the whole graph: STARTING, PLAYING, PAUSED or ENDING."""
        if self.deadline is not None or self.interrupts:
            return "ENDING"
        return "STARTING" if self.played is None else "PAUSED" if self.paused else "PLAYING"

    def roots(self) -> list[str]:
        """Return the nodes where frames enter this graph: its sources, and those that read only another graph."""
        inner = {edge.target_node for edge in self.spec.edges if edge.source_graph is None}
        return [name for name in self.children if name not in inner]

    def states(self) -> dict[str, str]:
        """Return the state of every node's process."""
        return {name: child.state for name, child in self.children.items()}

    def stats(self) -> dict[str, Any]:
        """Return what the graph does now."""
        restarts = {name: child.epoch for name, child in self.children.items()}
        playing_s = 0.0 if self.played is None else time.monotonic() - self.played
        about = {"graph": self.spec.name, "state": self.state, "playing_s": round(playing_s, 1)}
        return about | self.reports.now.summary(self.states(), restarts)
