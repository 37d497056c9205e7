"""A graph of toy nodes to attach to, and what it must have done."""

from pathlib import Path
from typing import Any

from tests.graphs import node, rows


def running(frames: int = 100_000, pause: float = 0.003, name: str = "main") -> dict[str, Any]:
    """source -> copy -> write, source -> pair"""
    return {
        "name": name,
        "nodes": {
            "source": node("Source", frames=frames, pause=pause),
            "copy": node("Copy", {"frame": "source.frame"}),
            "pair": node("Pair", {"a": "source.frame", "b": "copy.copied"}),
            "write": node("Write", {"frame": "copy.copied"}),
            "numbers": node("WriteNumbers", {"numbers": "pair.paired"}),
        },
    }


def take(stream: Any, count: int) -> list[Any]:
    return [message for message, _ in zip(stream, range(count), strict=False)]


def untouched(folder: Path) -> bool:
    """Say whether the graph's own lossless edge has lost nothing."""
    seqs = [row[0] for row in rows(folder / "out.jsonl")]
    return seqs == [*range(len(seqs))]
