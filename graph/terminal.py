"""Writes to the terminal of a running graph."""

import os
from typing import Any

from rich.console import Console


class Terminal(Console):
    """A console that becomes silent when it cannot be written to, so that the graph continues.

    Examples are `run_graph.py ... | tee log`, where Ctrl-C ends `tee` before the graph, and a log on a full disk.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        """Print like `Console`, but do not raise OSError."""
        try:
            super().print(*objects, **options)
        except OSError:
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Become silent; discard what Python would flush on exit."""
        self.quiet = True
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self.file.fileno())
