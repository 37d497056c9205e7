"""A graph of toy nodes that listens on tcp."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.attached import running, untouched
from tests.graphs import Graph, wait_for_rows


def config(listen: str = "tcp://127.0.0.1:0", keys: Path | None = None, name: str = "main") -> dict[str, Any]:
    """source -> copy -> write, source -> pair"""
    graph = running(name=name) | {"listen": listen} | ({"keys": str(keys)} if keys else {})
    del graph["nodes"]["numbers"]
    return graph


def address_of(main: Graph) -> str:
    """The address at which a graph listens, from its log."""
    found = re.search(r"can be attached to at (tcp://\S+)", main.text())
    assert found, main.text()
    return found[1]


@contextlib.contextmanager
def listening(folder: Path, keys: Path | None = None) -> Iterator[tuple[Graph, str]]:
    """Run a graph; yield it and the address at which it listens."""
    with Graph(folder, config(keys=keys)) as main:
        wait_for_rows(folder / "out.jsonl", 5)
        yield main, address_of(main)
        main.interrupt()
        assert main.wait() == 0, main.text()
    assert untouched(folder)
