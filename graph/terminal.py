"""What a running graph writes for whoever watches it."""

import os
from typing import Any

from rich.console import Console


class Terminal(Console):
    """A console that falls silent where nothing can be written any more, for the graph is to go on.

    `run_graph.py ... | tee log` is such a case, as Ctrl-C ends `tee` before the graph; a log on a full disk is another.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as `Console` does, but raise no OSError."""
        try:
            super().print(*objects, **options)
        except OSError:
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Fall silent; what Python still holds of the last line goes nowhere when it exits."""
        self.quiet = True
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self.file.fileno())
