"""Readers and extra nodes that join ports and block do not wait for what a node before them has lost."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import graph
from tests.conftest import PATIENCE_S, eventually
from tests.graphs import Graph, node, rows, wait_for_rows

pytestmark = pytest.mark.slow


def chain(queue: int, pause: float) -> dict[str, Any]:
    """source -> copy -> third; `copy` is slow, and holds twice as many frames as `queue`."""
    return {
        "name": "main",
        "nodes": {
            "source": node("Source", frames=100_000, pause=0.002),
            "copy": node("Copy", {"frame": "source.frame"}, pause=pause),
            "third": node("Copy", {"frame": "copy.copied"}),
        },
        "edges": {"source.frame -> copy.frame": {"queue": queue}},
    }


def test_reader_with_block_continues_when_a_node_before_its_port_is_restarted(tmp_path: Path) -> None:
    """That node holds more frames than the reader may have of the other port, so that the reader blocks the source."""

    def read(stream: Any) -> None:
        seqs.extend(frame.seq for frame, copied in stream if frame.seq == copied.seq)

    seqs: list[int] = []
    with Graph(tmp_path, chain(queue=64, pause=0.02)) as main, graph.attach("main", wait=PATIENCE_S) as g:
        with ThreadPoolExecutor() as pool:
            reading = pool.submit(read, g.subscribe("source.frame", "third.copied", policy="block", queue=16))
            for _ in range(2):
                before = len(seqs)
                assert eventually(lambda before=before: len(seqs) > before + 100), main.text()
                g.restart("copy")
            before = len(seqs)
            went_on = eventually(lambda: len(seqs) > before + 100)
            main.interrupt()
            assert main.wait() == 0, main.text()
            reading.result()
        assert went_on, "the reader waits for frames that died with a node"
    assert seqs == sorted(set(seqs))


@pytest.mark.parametrize("inputs", [{"b": "main/third.copied"}, {"b": "behind.copied"}])
def test_extra_nodes_with_block_continue_when_a_node_before_theirs_is_restarted(
    tmp_path: Path, inputs: dict[str, str]
) -> None:
    extra: dict[str, Any] = {
        "attach": "main",
        "nodes": {
            "behind": node("Copy", {"frame": "main/third.copied"}),
            "pair": node("Pair", {"a": "main/source.frame", **inputs}),
            "write": node("WriteNumbers", {"numbers": "pair.paired"}),
            "end": node("Write", {"frame": "behind.copied"}),
        },
        "edges": {"main/source.frame -> pair.a": {"policy": "block", "queue": 1}},
    }
    numbers = tmp_path / "numbers.jsonl"
    with Graph(tmp_path, chain(queue=4, pause=0.0)) as main, Graph(tmp_path, extra, "attach", "--wait") as attached:
        with graph.attach("main", wait=PATIENCE_S) as g:
            for _ in range(3):
                wait_for_rows(numbers, len(rows(numbers)) + 50)
                g.restart("copy")
            wait_for_rows(numbers, len(rows(numbers)) + 50)
        main.interrupt()
        assert main.wait() == 0, main.text()
        assert attached.wait() == 0, attached.text()
    assert all(a == b for _, (a, _, b) in rows(numbers))
