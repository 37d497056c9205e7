"""Files whose names are no text: Linux takes any bytes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import eventually
from tests.graphs import ROOT


@pytest.mark.slow
def test_files_whose_names_are_not_utf8_may_be_spoken_of(tmp_path: Path) -> None:
    """A config of such a name, and a source that warns of such a picture."""
    odd = os.fsdecode(bytes(tmp_path) + b"/\xe4")
    Path(f"{odd}.png").write_bytes(b"no picture")
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 64, 3), np.uint8))
    camera = {"type": "nodes.capture:Capture", "settings": {"uri": str(tmp_path), "loop": True, "paced": True}}
    Path(f"{odd}.yaml").write_text(json.dumps({"name": "odd", "nodes": {"camera": camera}}))
    command = [sys.executable, str(ROOT / "run_graph.py")]
    with open(tmp_path / "log", "w", encoding="utf-8") as log:
        running = subprocess.Popen([*command, f"{odd}.yaml"], stdout=log, stderr=log)
    assert eventually(lambda: "playing" in (tmp_path / "log").read_text())
    assert eventually(lambda: r"\udce4.png" in (tmp_path / "log").read_text()), (tmp_path / "log").read_text()
    top = subprocess.run([*command, "top", "odd", "--once"], capture_output=True, text=True, timeout=60)
    running.send_signal(signal.SIGINT)
    assert (top.returncode, running.wait(60)) == (0, 0), top.stderr
