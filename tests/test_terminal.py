"""A graph continues, and ends in order, if its output cannot be written any more."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from graph.terminal import Terminal
from tests.conftest import PATIENCE_S
from tests.graphs import ROOT, TIED, node, rows, wait_for_rows


def test_a_full_disk_silences_the_terminal() -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        terminal = Terminal(file=full)
        terminal.print("no space for this")
        terminal.print("nor for this")
        assert terminal.quiet


def test_a_command_reports_that_its_output_cannot_be_written() -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, str(ROOT / "run_graph.py"), "check", "demo"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: cannot write the output: No space left on device\n"


@pytest.mark.slow
def test_ctrl_c_ends_in_order_although_the_reader_of_the_log_ends_first(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    nodes = {
        "source": node("Source", frames=100_000, pause=0.01),
        "write": node("Write", {"frame": "source.frame"}, path=str(out)),
    }
    config = tmp_path / "piped.yaml"
    config.write_text(yaml.safe_dump({"nodes": nodes}))
    command = [*TIED, sys.executable, str(ROOT / "run_graph.py"), str(config), "--profile", str(tmp_path / "profile")]
    reader, writer = os.pipe()
    graph = subprocess.Popen(command, stdout=writer, stderr=writer, env={**os.environ, "PYTHONPATH": str(ROOT)})
    os.close(writer)
    try:
        wait_for_rows(out, 1)
        os.close(reader)
        graph.send_signal(signal.SIGINT)
        assert graph.wait(PATIENCE_S) == 0
    finally:
        graph.kill()
        graph.wait()
    assert rows(out)
    assert out.read_text().endswith("closed\n"), "the node was killed"
    assert (tmp_path / "profile" / "latency.json").exists()
