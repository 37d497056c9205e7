"""Turns the nodes' heartbeats into the profile of the run, current statistics, Prometheus metrics, state drawings."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from graph.draw import StateDrawings
from graph.errors import ConfigError, GraphError
from graph.profile import Profile, format_report
from graph.spec import GraphSpec
from graph.stats import Stats
from graph.terminal import Terminal

if TYPE_CHECKING:
    from graph import prometheus

logger = logging.getLogger("facegraph")


@dataclass(frozen=True)
class Wanted:
    """What a user wants to get from a run, apart from the table at its end."""

    profile: Path | None = None  # folder for latency.json, latency.png, trace.json
    dot: Path | None = None  # folder for a drawing at every change of state
    metrics: int | None = None  # port for Prometheus


class Reports:
    """Takes the snapshots of all nodes of one graph."""

    def __init__(self, spec: GraphSpec, wanted: Wanted, states: Callable[[], dict[str, str]]) -> None:
        self.profile = Profile(spec)
        self.now = Stats(spec)
        self._wanted = wanted
        self._states = states
        self._drawings: StateDrawings | None = None
        self._endpoint: prometheus.Endpoint | None = None

    def open(self) -> None:
        """Start what is wanted. Raises ConfigError if the port is in use or a folder cannot be created or written."""
        if self._wanted.profile is not None:
            _make("--profile", self._wanted.profile)
        if self._wanted.dot is not None:
            _make("--dot", self._wanted.dot)
            self._drawings = StateDrawings(self._wanted.dot, self.profile.spec)
        if self._wanted.metrics is not None:
            from graph import prometheus

            self._endpoint = prometheus.Endpoint(self._wanted.metrics, self.profile, self._states)
            logger.info("metrics for Prometheus at %s", self._endpoint.address)

    def take(self, node: str, snapshot: dict[str, Any]) -> None:
        """Add a snapshot of the Meter of `node`."""
        with self._endpoint.lock if self._endpoint else nullcontext():
            self.profile.take(node, snapshot)
        self.now.take(node, snapshot)

    def restarted(self, node: str) -> None:
        """Note that `node` gets a new process."""
        self.profile.nodes[node].restarts += 1

    def draw(self, state: str, stats: Callable[[], dict[str, Any]]) -> None:
        """Draw the graph if that is wanted and its state or a node's has changed; stop if a drawing cannot be saved."""
        if self._drawings is None:
            return
        try:
            self._drawings.update(state, self._states(), stats)
        except OSError as exc:
            logger.warning("--dot %s: stopped drawing: %s", self._wanted.dot, exc.strerror)
            self._drawings = None

    def close(self) -> None:
        """Stop serving."""
        if self._endpoint is not None:
            self._endpoint.close()

    def finish(self) -> None:
        """Print the table of the run and write the files. Raises GraphError if they cannot be written (disk full)."""
        terminal = Terminal()
        terminal.print(format_report(self.profile, terminal.width))
        if self._wanted.profile is None:
            return
        try:
            written = self.profile.write(self._wanted.profile)
        except OSError as exc:
            raise GraphError(f"--profile {self._wanted.profile}: cannot be written: {exc.strerror}") from exc
        for path in written:
            logger.info("wrote %s", path)


def _make(option: str, folder: Path) -> None:
    """Create a folder, and check before the run that it can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as exc:
        raise ConfigError(f"{option} {folder}: cannot create or write this folder: {exc.strerror}") from exc
