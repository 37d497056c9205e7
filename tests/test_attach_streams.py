"""Streams of a handle as they are used in a notebook: asked for twice, thrown away, taken into another process."""

from pathlib import Path

import pytest

import graph
from tests.attached import running, take, untouched
from tests.graphs import Graph, wait_for_rows

pytestmark = pytest.mark.slow


def test_a_port_may_be_named_twice(tmp_path: Path) -> None:
    with Graph(tmp_path, running()) as main:
        wait_for_rows(tmp_path / "out.jsonl", 5)
        with graph.attach("main") as g:
            for first, second in take(g.subscribe("source.frame", "source.frame"), 3):
                assert first.seq == second.seq and first.image is not second.image
            for a, b, c in take(g.subscribe("copy.copied", "source.frame", "copy.copied"), 3):
                assert a.seq == b.seq == c.seq and [len(m.header.hops) for m in (a, b, c)] == [2, 1, 2]
        main.interrupt()
        assert main.wait() == 0, main.text()
    assert untouched(tmp_path)


def test_a_stream_that_is_thrown_away_does_not_hold_up_the_graph(tmp_path: Path) -> None:
    with Graph(tmp_path, running()) as main:
        wait_for_rows(tmp_path / "out.jsonl", 5)
        with graph.attach("main") as g:
            g.subscribe("source.frame", policy="block")  # nobody keeps it
            wait_for_rows(tmp_path / "out.jsonl", next(g.subscribe("copy.copied")).seq + 50)
        main.interrupt()
        assert main.wait() == 0, main.text()
    assert untouched(tmp_path)
