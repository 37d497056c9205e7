"""What `pip install` takes along: facegraph works without its checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.graphs import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, and return the folder that it is unpacked into."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("graph", "nodes", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("run_graph.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = "from setuptools import build_meta; build_meta.build_wheel('.')"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True, timeout=300)
    with zipfile.ZipFile(next(source.glob("*.whl"))) as wheel:
        wheel.extractall(target)
    return target


def test_it_holds_all_that_runs_and_nothing_else(installed: Path) -> None:
    assert {path.name for path in installed.iterdir()} == {
        "graph", "nodes", "run_graph.py", "facegraph-0.1.0.dist-info"
    }  # fmt: skip
    kinds = ("graph/*.py", "nodes/*.py", "nodes/models/*", "nodes/_page/*")
    for path in (path for kind in kinds for path in ROOT.glob(kind)):
        assert (installed / path.relative_to(ROOT)).is_file(), path
    for package in ("graph", "nodes"):
        assert (installed / package / "py.typed").is_file(), "type checkers take its types for the user's own nodes"


def test_its_graphs_are_found_by_name_from_anywhere(installed: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "run_graph", "check"]
    env = {**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "300"}
    for name in ("demo", "video.yaml", "configs/web.yaml"):
        done = subprocess.run([*command, name], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert f"{installed / 'nodes/configs'}" in done.stdout
    done = subprocess.run([*command, "no"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert done.stderr.endswith("configs there: bench, demo, rtsp, video, watch, web, webcam\n")
