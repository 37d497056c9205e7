"""The whole way from pictures to smoothed landmarks, with the released networks, on faces whose places are known."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from graph.config import load
from graph.testing import run_graph
from tests.graphs import ROOT
from tests.portrait import EYE_DISTANCE, LANDMARKS

DEMO = str(ROOT / "configs/demo.yaml")


def found(*overrides: str, limit: int) -> tuple[list[Any], list[Any]]:
    """Run the demo in this process without its files; return the true transforms and the faces of each frame."""
    spec = load(DEMO, list(overrides))
    seen = {"source", "detector", "landmarks", "smooth"}
    edges = tuple(edge for edge in spec.edges if edge.target_node in seen)
    nodes = {name: node for name, node in spec.nodes.items() if name in seen}
    said = run_graph(type(spec)(spec.name, None, nodes, edges, spec.path), limit=limit)
    return said["source.truth"], said["smooth.faces"]


def to_picture(landmarks: np.ndarray, transform: np.ndarray) -> np.ndarray:
    return (landmarks - transform[:, 2]) @ np.linalg.inv(transform[:, :2]).T


def test_landmarks_stay_where_they_are_on_the_portrait() -> None:
    truths, faces = found(limit=40)
    assert [len(f) for f in faces] == [1] * 40
    assert {int(f.ids[0]) for f in faces} == {0}
    places = np.array([to_picture(f.landmarks[0], t.transforms[0]) for t, f in zip(truths, faces, strict=True)])
    error = np.linalg.norm(places - LANDMARKS, axis=2).mean() / EYE_DISTANCE
    jitter = np.linalg.norm(np.diff(places, axis=0), axis=2).mean() / EYE_DISTANCE
    assert error < 0.08
    assert jitter < 0.02
    assert all(np.abs(f.pose).max() < 40 and f.states.shape == (1, 4) for f in faces)


@pytest.mark.slow
def test_twenty_faces() -> None:
    size = ("source.width=1920", "source.height=1080", "source.copies=20", "detector.size=640")
    _truths, faces = found(*size, limit=12)
    assert len(faces[-1]) == 20
    assert set(faces[-1].ids.tolist()) == set(faces[2].ids.tolist())


def test_no_face() -> None:
    _truths, faces = found("source.pattern=noise", limit=12)
    assert [len(f) for f in faces] == [0] * 12


@pytest.mark.slow
def test_demo_as_a_newcomer_runs_it(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "run_graph.py"), "configs/demo.yaml", "--profile", "out"]
    done = subprocess.run(
        [*command, "--set", "source.frames=45"], cwd=tmp_path, capture_output=True, text=True, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr
    assert "capture -> record" in done.stdout
    out = tmp_path / "out"
    with av.open(str(out / "demo.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 45
    lines = [json.loads(line) for line in (out / "demo.jsonl").read_text().splitlines()]
    assert [line["seq"] for line in lines] == list(range(45))
    assert all(len(line["faces"]) == 1 for line in lines)
    with open(out / "demo.csv", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 45
    assert {path.name for path in out.iterdir()} >= {"latency.json", "latency.png", "trace.json"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"", 2, "is empty (0 bytes)"),
        (b"this is no video\n" * 50, 2, "capture"),
    ],
)
def test_video_that_is_none(tmp_path: Path, content: bytes, code: int, words: str) -> None:
    (tmp_path / "clip.mp4").write_bytes(content)
    command = [sys.executable, str(ROOT / "run_graph.py"), "video", "--set", "capture.uri=clip.mp4"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ})
    assert done.returncode == code, done.stderr
    assert words in done.stderr and "clip.mp4" in done.stderr
    assert "Traceback" not in done.stderr
