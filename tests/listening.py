"""A graph of toy nodes that listens on tcp."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.graphs import Graph, node, rows, wait_for_rows


def config(listen: str = "tcp://127.0.0.1:0", keys: Path | None = None, name: str = "main") -> dict[str, Any]:
    """source -> copy -> write, source -> pair"""
    return {
        "name": name,
        "listen": listen,
        **({"keys": str(keys)} if keys else {}),
        "nodes": {
            "source": node("Source", frames=100_000, pause=0.003),
            "copy": node("Copy", {"frame": "source.frame"}),
            "pair": node("Pair", {"a": "source.frame", "b": "copy.copied"}),
            "write": node("Write", {"frame": "copy.copied"}),
        },
    }


@contextlib.contextmanager
def listening(folder: Path, keys: Path | None = None) -> Iterator[tuple[Graph, str]]:
    """Run a graph; yield it and the address at which it listens."""
    with Graph(folder, config(keys=keys)) as main:
        wait_for_rows(folder / "out.jsonl", 5)
        found = re.search(r"can be attached to at (tcp://\S+)", main.text())
        assert found, main.text()
        yield main, found[1]
        main.interrupt()
        assert main.wait() == 0, main.text()
    seqs = [row[0] for row in rows(folder / "out.jsonl")]
    assert seqs == [*range(len(seqs))]  # its own lossless edge has missed nothing
