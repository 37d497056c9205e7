"""The process of one node, from its job to its exit code."""

import faulthandler
import io
import os
import sys
import threading

from graph.job import Job
from graph.worker import Worker

LEAVE_S = 3.0  # threads that a node has left behind get so long to end by themselves


def main() -> None:
    """Run the job on standard input; the process's exit code is the node's."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what a node prints comes at once, also through a pipe
    faulthandler.enable(all_threads=False)  # a crash within a library tells the line of the node that called it
    worker = Worker(Job.from_stdin())
    code = worker.run()
    watchdog = threading.Timer(LEAVE_S, _cut_off, (worker.name, code))
    watchdog.daemon = True
    watchdog.start()
    sys.exit(code)  # once the node's own threads have ended


def _cut_off(name: str, code: int) -> None:
    """End the process though threads of its node still run: nobody is left to tell it."""
    left = [thread.name for thread in threading.enumerate() if not thread.daemon and thread.is_alive()]
    sys.stderr.write(f"warning: {name}: cut off, as it is closed, but threads still run: {', '.join(left)}\n")
    sys.stdout.flush()
    os._exit(code)
