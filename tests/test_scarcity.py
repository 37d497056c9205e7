"""Graphs on systems that lack something: pidfds, further processes, standard files."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.graphs import ROOT, Graph, line, rows

pytestmark = pytest.mark.slow

PATHS = {**os.environ, "PYTHONPATH": str(ROOT)}


class WithoutPidfds(Graph):
    """Like a kernel before 5.3, or a container that forbids them."""

    script = ("-c", """
import os, run_graph

def refuse(pid):
    raise PermissionError(1, "Operation not permitted")

os.pidfd_open = refuse
run_graph.main()
""")


class Crowded(Graph):
    """Like a container that allows no third process, or no fourth."""

    script = ("-c", """
import errno, os, run_graph, subprocess, sys

class Popen(subprocess.Popen):
    left = int(sys.argv.pop(1))

    def __init__(self, *arguments, **options):
        Popen.left -= 1
        if Popen.left == 0:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        super().__init__(*arguments, **options)

subprocess.Popen = Popen
run_graph.main()
""")


def test_kernel_without_pidfds(tmp_path: Path) -> None:
    with WithoutPidfds(tmp_path, line(frames=20)) as graph:
        assert graph.wait() == 0, graph.text()
    assert len(rows(tmp_path / "out.jsonl")) == 20


def test_node_whose_process_cannot_be_started_is_named(tmp_path: Path) -> None:
    with Crowded(tmp_path, line(frames=20), "3") as graph:
        assert graph.wait() == 1
        assert graph.text() == "error: write cannot be started: Resource temporarily unavailable\n"


def test_node_whose_process_cannot_be_started_is_retried(tmp_path: Path) -> None:
    config = line(frames=20)
    config["nodes"]["copy"] |= {"type": "tests.toys:Fail", "settings": {"how": "exit"}, "restart": "on_failure"}
    with Crowded(tmp_path, config, "4") as graph:
        assert graph.wait() == 0, graph.text()
        assert "error: copy cannot be started: Resource temporarily unavailable\n" in graph.text()
    assert rows(tmp_path / "out.jsonl")[-1][0] == 19


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_files(tmp_path: Path, closed: str) -> None:
    (tmp_path / "line.yaml").write_text(json.dumps(line(frames=20)))
    command = shlex.join([sys.executable, str(ROOT / "run_graph.py"), "line.yaml"])
    done = subprocess.run(f"{command} {closed}", shell=True, cwd=tmp_path, env=PATHS, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(rows(tmp_path / "out.jsonl")) == 20
