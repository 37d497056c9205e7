"""The process of one node, from its job to its exit code."""

import faulthandler
import io
import os
import sys
import threading

from graph.job import Job
from graph.worker import Worker

LEAVE_S = 3.0  # how long threads that a node has left behind may take to end


def main() -> None:
    """Run the job on standard input; the process's exit code is the node's."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what a node prints appears at once, also through a pipe
    faulthandler.enable(all_threads=False)  # for a crash within a library, print the line of the node that called it
    worker = Worker(Job.from_stdin())
    code = worker.run()
    watchdog = threading.Timer(LEAVE_S, _cut_off, (worker.name, code))
    watchdog.daemon = True
    watchdog.start()
    sys.exit(code)  # waits until the node's own threads have ended


def _cut_off(name: str, code: int) -> None:
    """End the process although threads of its node still run. The supervisor is not connected any more."""
    left = [thread.name for thread in threading.enumerate() if not thread.daemon and thread.is_alive()]
    sys.stderr.write(f"warning: {name}: cut off, as it is closed, but threads still run: {', '.join(left)}\n")
    sys.stdout.flush()
    os._exit(code)
