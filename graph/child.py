"""One node's process as the supervisor sees it."""

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

from graph.endings import ENDINGS
from graph.job import Job
from graph.spec import NodeSpec, build

logger = logging.getLogger("facegraph")

QUIET_S = 5.0  # ten heartbeats missed: say so
START_S = 30.0  # the same before the first word: Python and a node's libraries must load
FAILED_S = 10.0  # a node that has failed gets so long to close, and those behind it to take what it had given
BOOTSTRAP = """\
import os, signal, sys
endings = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
for number in endings:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_UNBLOCK, endings)
sys.path[:] = os.environ["FACEGRAPH_PATH"].split(os.pathsep)
from graph.process import main
main()
"""
"""Terminals and service managers send ENDINGS to the whole group. The supervisor sees to an orderly end; a node ignores
them, and they are blocked until it has come to that: Python takes a second to start."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""The processes are the parallelism: pools of BLAS threads in each of them would only wait for one another."""
BACK_OFF_S = (0.1, 0.5, 1.0, 2.0, 5.0)
"""Waits before a node that ended is started again; once more within BACK_OFF_WINDOW_S, and it has failed (as with
Frigate's watchdog)."""
BACK_OFF_WINDOW_S = 60.0


@dataclass
class Child:
    """A node's process, and what is known of it."""

    spec: NodeSpec
    process: "subprocess.Popen[bytes] | None" = None
    pidfd: int = -1  # readable when the process has ended
    state: str = "NULL"
    heard: float = 0.0  # CLOCK_MONOTONIC seconds of its last word
    last_seq: int = -1
    epoch: int = 0
    done: bool = False
    failure_told: bool = False
    hopeless: bool = False  # it lacks a package, and would for ever
    stillborn: bool = False  # the system had no process for it; `reap` tells
    dismissed: bool = False
    quiet_told: bool = False
    endings: deque[float] = field(default_factory=deque)  # CLOCK_MONOTONIC s; after each it was to be started again
    untold: deque[tuple[str, dict[str, Any]]] = field(default_factory=deque)  # for a process that cannot hear it yet
    start_again_at: float | None = None
    end_by: float = math.inf  # when a process that has told of a failure is killed
    restart_by: float | None = None  # when a process that was asked to end, to be started again, is killed

    def __post_init__(self) -> None:
        """Look at what it gives; the settings may say."""
        self.outputs = build(self.spec).outputs

    @property
    def running(self) -> bool:
        """Say whether the process has started and not been reaped."""
        return self.process is not None or self.stillborn

    def start(self, job: Job) -> None:
        """Start a fresh interpreter on a job; never a fork, whose threads and locks would be broken."""
        self.state, self.heard, self.done, self.end_by = "NULL", time.monotonic(), False, math.inf
        self.untold.clear()
        path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", BOOTSTRAP, f"{job.graph}/{job.node.name}"],
                stdin=subprocess.PIPE,
                env={**ONE_THREAD, **os.environ, "FACEGRAPH_PATH": path},
            )
        except OSError as exc:  # as many processes run, or files are open, as may be
            logger.error("%s cannot be started: %s", self.spec.name, exc.strerror)
            self.stillborn = self.failure_told = True
            return
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        with contextlib.suppress(AttributeError, OSError):  # not on Linux, or not before 5.3, or a container forbids it
            self.pidfd = os.pidfd_open(self.process.pid)
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once; `reap` tells
            self.process.stdin.write(job.to_wire())
            self.process.stdin.flush()

    def back_off(self) -> float | None:
        """Return how many seconds to wait before a node that ended by itself is started again; None: too often."""
        now = time.monotonic()
        while self.endings and self.endings[0] < now - BACK_OFF_WINDOW_S:
            self.endings.popleft()
        if len(self.endings) == len(BACK_OFF_S):
            return None
        self.endings.append(now)
        return BACK_OFF_S[len(self.endings) - 1]

    def reap(self) -> int | None:
        """Return the exit code if the process has ended, and forget it."""
        if self.stillborn:
            self.stillborn = False
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
        """Kill the process; `reap` afterwards."""
        if self.process is not None:
            self.process.kill()

    def kill_and_reap(self) -> None:
        """Kill the process and wait for its end."""
        self.start_again_at = None
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.reap()

    def tell_of_silence(self) -> None:
        """Warn once of a process that has not said anything for too long."""
        silent_s = time.monotonic() - self.heard
        quiet = self.running and silent_s > (START_S if self.state == "NULL" else QUIET_S)
        if quiet and not self.quiet_told:
            logger.warning("%s has not been heard from for %.0f s", self.spec.name, silent_s)
        self.quiet_told = quiet

    def tell_of_failure(self, said: dict[str, Any]) -> None:
        """Log the error with which a node says that it ends."""
        self.failure_told, self.hopeless = True, bool(said["hopeless"])
        self.end_by = min(self.end_by, time.monotonic() + FAILED_S)
        trace = "".join(f"\n    {line}" for line in said["trace"].splitlines())
        logger.error("%s failed %s: %s%s", self.spec.name, said["where"], said["text"], trace)

    def end_in_time(self) -> None:
        """Kill a process that has failed but does not end, as where a node behind it hangs."""
        if self.process is not None and time.monotonic() >= self.end_by:
            logger.warning("%s: killed, not ended %.0f s after it failed", self.spec.name, FAILED_S)
            self.end_by = math.inf
            self.process.kill()

    def describe_death(self, code: int) -> str:
        """Return what an exit code tells of a process that said nothing."""
        on = f" on frame {self.last_seq}" if self.last_seq >= 0 else ""
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"was killed by {signal.Signals(-code).name}{on}"
        return f"ended with exit code {code} and no word of why{on}"
