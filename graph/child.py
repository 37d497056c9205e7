"""The process of one node, as the supervisor sees it."""

import contextlib
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graph.job import Job
from graph.spec import NodeSpec, build
from graph.stop_signals import STOP_SIGNALS

logger = logging.getLogger("facegraph")

QUIET_S = 5.0  # warn after ten missed heartbeats
START_S = 30.0  # the same before the first one: Python and the node's libraries must load
FAILED_S = 10.0  # how long a failed node may take to close, and nodes after it to take its last messages
BOOTSTRAP = """\
import os, signal, sys
stop_signals = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
for number in stop_signals:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_UNBLOCK, stop_signals)
sys.path[:] = os.environ["FACEGRAPH_PATH"].split(os.pathsep)
from graph.process import main
main()
"""
"""Terminals and service managers send STOP_SIGNALS to the whole process group. The supervisor ends the nodes in order,
so they ignore these signals; the signals are blocked until then, because Python takes a second to start."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""The processes run in parallel: BLAS thread pools in each of them would only wait for one another."""
BACK_OFF_S = (0.1, 0.5, 1.0, 2.0, 5.0)
"""Delays before the restarts of a node that ended; if it ends once more within BACK_OFF_WINDOW_S, it has failed (as in
Frigate's watchdog)."""
BACK_OFF_WINDOW_S = 60.0


@dataclass
class Child:
    """A node's process and its status. Times are CLOCK_MONOTONIC seconds."""

    spec: NodeSpec
    process: "subprocess.Popen[bytes] | None" = None
    pidfd: int = -1  # readable when the process has ended
    state: str = "NULL"
    last_heard: float = 0.0
    last_seq: int = -1
    epoch: int = 0  # how often it has been restarted
    done: bool = False  # the process has said that it is
    failure_logged: bool = False
    hopeless: bool = False  # a package is missing: a restart cannot help
    not_started: bool = False  # the system refused a process; `reap` reports it
    discarded: bool = False  # killed because the graph ends before this process has linked
    silence_logged: bool = False
    failures: deque[float] = field(default_factory=deque)  # when it ended and was to be restarted
    unsent: deque[tuple[str, dict[str, Any]]] = field(default_factory=deque)  # messages that wait until it is READY
    restart_at: float | None = None
    kill_at: float = math.inf  # set when the process has reported a failure
    stop_by: float | None = None  # when a process that was asked to end for a restart is killed

    def __post_init__(self) -> None:
        """Find its outputs, which may depend on its settings."""
        self.outputs = build(self.spec).outputs

    @property
    def running(self) -> bool:
        """Whether the process has started and not been reaped."""
        return self.process is not None or self.not_started

    def start(self, job: Job) -> None:
        """Start a fresh interpreter on a job; never a fork, in which threads and locks would be broken."""
        self.state, self.last_heard, self.done, self.kill_at = "NULL", time.monotonic(), False, math.inf
        self.unsent.clear()
        path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", BOOTSTRAP, f"{job.graph}/{job.node.name}"],
                stdin=subprocess.PIPE,
                env={**ONE_THREAD, **os.environ, "FACEGRAPH_PATH": path},
            )
        except OSError as exc:  # too many processes or open files
            logger.error("%s cannot be started: %s", self.spec.name, exc.strerror)
            self.not_started = self.failure_logged = True
            return
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        with contextlib.suppress(AttributeError, OSError):  # not Linux, Linux before 5.3, or a container forbids it
            self.pidfd = os.pidfd_open(self.process.pid)
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once; `reap` reports it
            self.process.stdin.write(job.to_wire())
            self.process.stdin.flush()

    def back_off(self) -> float | None:
        """Return the seconds to wait before restarting a node that ended by itself; None if it ended too often."""
        now = time.monotonic()
        while self.failures and self.failures[0] < now - BACK_OFF_WINDOW_S:
            self.failures.popleft()
        if len(self.failures) == len(BACK_OFF_S):
            return None
        self.failures.append(now)
        return BACK_OFF_S[len(self.failures) - 1]

    def reap(self) -> int | None:
        """Return the exit code if the process has ended, and forget the process."""
        if self.not_started:
            self.not_started = False
            return os.EX_OSERR
        if self.process is None or self.process.poll() is None:
            return None
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
        code = self.process.returncode
        self.process, self.pidfd = None, -1
        return code

    def kill(self) -> None:
        """Kill the process; call `reap` afterwards."""
        if self.process is not None:
            self.process.kill()

    def kill_and_reap(self) -> None:
        """Kill the process and wait for its end; cancel a restart."""
        self.restart_at = None
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.reap()

    def warn_if_silent(self) -> None:
        """Warn once about a process that has been silent for too long."""
        silent_s = time.monotonic() - self.last_heard
        silent = self.running and silent_s > (START_S if self.state == "NULL" else QUIET_S)
        if silent and not self.silence_logged:
            logger.warning("%s has not been heard from for %.0f s", self.spec.name, silent_s)
        self.silence_logged = silent

    def log_failure(self, error: dict[str, Any]) -> None:
        """Log the error that a node reports before it ends."""
        self.failure_logged, self.hopeless = True, bool(error["hopeless"])
        self.kill_at = min(self.kill_at, time.monotonic() + FAILED_S)
        trace = "".join(f"\n    {line}" for line in error["trace"].splitlines())
        logger.error("%s failed %s: %s%s", self.spec.name, error["where"], error["text"], trace)

    def kill_if_late(self) -> None:
        """Kill a process that has failed but does not end, for instance because a node after it hangs."""
        if self.process is not None and time.monotonic() >= self.kill_at:
            logger.warning("%s: killed, still running %.0f s after it failed", self.spec.name, FAILED_S)
            self.kill_at = math.inf
            self.process.kill()

    def describe_death(self, code: int) -> str:
        """Return how a process ended that has not reported an error."""
        on = f" on frame {self.last_seq}" if self.last_seq >= 0 else ""
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"was killed by {signal.Signals(-code).name}{on}"
        return f"ended with exit code {code} and reported no error{on}"
