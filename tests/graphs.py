"""Starts real graphs as a user does, and reads their output."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import psutil
import yaml

from tests.conftest import PATIENCE_S, eventually

ROOT = Path(__file__).parents[1]
TIED = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
"""Prefix of a command that ends it with its parent, so that graphs end with a killed run of tests."""


class Graph:
    """`run_graph.py` in a process of its own, with its output collected in a file."""

    script = (str(ROOT / "run_graph.py"),)

    def __init__(self, folder: Path, config: dict[str, Any], *arguments: str) -> None:
        self.folder = folder
        self.name = config.get("name", "extra")
        path = folder / f"{self.name}.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        self.log = folder / f"{self.name}.log"
        with open(self.log, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [*TIED, sys.executable, *self.script, *arguments, str(path)],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )

    def wait(self) -> int:
        """Return the exit code; fail if the graph does not end."""
        try:
            return self.process.wait(PATIENCE_S * 2)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running:\n{self.text()}") from None

    def text(self) -> str:
        return self.log.read_text()

    def playing(self) -> bool:
        return "playing after" in self.text()

    def node(self, name: str) -> psutil.Process:
        """Return the process of a node."""
        title = f"{self.name}/{name}"
        for child in psutil.Process(self.process.pid).children():
            if child.cmdline()[-1] == title:
                return child
        raise AssertionError(f"no process {title}:\n{self.text()}")

    def nodes(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            for child in self.nodes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            self.process.kill()
        self.process.wait()


def line(frames: int = 100, pause: float = 0.0, **write: object) -> dict[str, Any]:
    """source -> copy -> write"""
    return {
        "name": "line",
        "nodes": {
            "source": node("Source", frames=frames, pause=pause),
            "copy": node("Copy", {"frame": "source.frame"}),
            "write": node("Write", {"frame": "copy.copied"}, **write),
        },
    }


def rows(path: Path) -> list[Any]:
    """Return the lines that a Write node wrote."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("]")]


def wait_for_rows(path: Path, count: int) -> None:
    assert eventually(lambda: len(rows(path)) >= count), f"only {len(rows(path))} rows in {path.name}"


def node(type_: str, inputs: dict[str, str] | None = None, **settings: Any) -> dict[str, Any]:
    """Return the configuration of a node of tests/toys.py."""
    spec: dict[str, Any] = {"type": f"tests.toys:{type_}"}
    if inputs:
        spec["inputs"] = inputs
    if settings:
        spec["settings"] = settings
    return spec
