"""Graphs where the system gives less than elsewhere: no pidfds."""

from pathlib import Path

import pytest

from tests.graphs import Graph, line, rows

pytestmark = pytest.mark.slow


class WithoutPidfds(Graph):
    """As on a kernel before 5.3, or in a container that forbids them."""

    script = ("-c", """
import os, run_graph

def refuse(pid):
    raise PermissionError(1, "Operation not permitted")

os.pidfd_open = refuse
run_graph.main()
""")


def test_a_kernel_without_pidfds(tmp_path: Path) -> None:
    with WithoutPidfds(tmp_path, line(frames=20)) as graph:
        assert graph.wait() == 0, graph.text()
    assert len(rows(tmp_path / "out.jsonl")) == 20
