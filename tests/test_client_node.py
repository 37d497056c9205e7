"""A consumer in another language, written from graph/README.md alone: tests/client.mjs, on a real graph."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import graph
from graph import Detections, Faces, Frame
from graph.messages import Message, array_specs
from tests.conftest import PATIENCE_S, eventually
from tests.graphs import ROOT, Graph, node
from tests.known_faces import known

MODULES = Path(sys.prefix) / "node" / "node_modules"
CONFIG = {
    "name": "shown",
    "nodes": {
        "source": {"type": "tests.known_faces:KnownFaces", "settings": {"count": 2, "grey": 90}},
        "write": node("Write", {"frame": "source.frame"}),
    },
}


def client(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start the client where its two libraries are."""
    program = folder / "client.mjs"
    if not program.exists():
        shutil.copy(ROOT / "tests" / "client.mjs", program)
        (folder / "node_modules").symlink_to(MODULES)
    command = ["node", str(program), *arguments]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )


def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    with client(folder, *arguments) as process:
        try:
            out, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    return process.returncode, out, err


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("node") and MODULES.is_dir()),
    reason=f"apt-get install nodejs npm; npm install --no-save --prefix {MODULES.parent} zeromq@6 @msgpack/msgpack@3",
)
def test_client_in_javascript(tmp_path: Path) -> None:
    with Graph(tmp_path, CONFIG) as running:
        assert eventually(running.playing), running.text()
        landmarks(tmp_path)
        picture(tmp_path)
        mistakes(tmp_path)
        with client(tmp_path, "shown", "--faces", "source.faces") as watching:
            assert watching.stdout is not None and watching.stderr is not None
            assert json.loads(watching.stdout.readline())["faces"]
            with graph.attach("shown") as g:
                g.set("source.count", 0)
            assert any(json.loads(line)["faces"] == [] for line in watching.stdout)  # empty is a value
            running.interrupt()
            rest = watching.communicate(timeout=PATIENCE_S)  # it reads to the end of the stream
            assert (watching.returncode, rest[1]) == (0, "")
        assert running.wait() == 0, running.text()


def landmarks(folder: Path) -> None:
    code, out, err = run(folder, "shown", "--faces", "source.faces", "--count", "3")
    assert (code, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    seqs = [line["seq"] for line in lines]
    assert len(seqs) == 3 and seqs == sorted(set(seqs))
    for line in lines:
        assert [face["id"] for face in line["faces"]] == [3, 4]
        assert np.array_equal(np.float32([face["landmarks"] for face in line["faces"]]), known(2).landmarks)
        assert line["faces"][1]["pose"] == [5, -20, 10]


def picture(folder: Path) -> None:
    code, _, err = run(folder, "shown", "--frame", "source.frame", "--picture", "picture.bmp")
    assert (code, err) == (0, "")
    image = cv2.imread(str(folder / "picture.bmp"))
    assert image is not None and image.shape == (384, 512, 3)
    assert (image[:, :64] == (250, 20, 20)).all() and (image[:, 64:] == 90).all()


def mistakes(folder: Path) -> None:
    assert run(folder, "shown", "--faces", "source.fases")[::2] == (
        1,
        "error: source.fases refused: source has no output 'fases'; outputs: ['frame', 'faces']\n",
    )
    code, _, err = run(folder, "shwon", "--faces", "source.faces")
    assert code == 1 and err.startswith("error: no node source of a graph shwon is running")


@pytest.mark.parametrize("type_", [Frame, Detections, Faces], ids=lambda type_: type_.__name__)
def test_the_specification_names_every_array(type_: type[Message]) -> None:
    """Whoever writes a consumer in another language has nothing else to look it up in."""
    text = (ROOT / "graph" / "README.md").read_text(encoding="utf-8")
    for name, spec in array_specs(type_).items():
        shape = ", ".join(map(str, spec.shape))
        row = rf"^\|[^|]*\| `{name}` \| `{re.escape(spec.dtype.str.replace('|', chr(92) + '|'))}` \({shape}\) \|"
        assert re.search(row, text, re.MULTILINE), f"{type_.__name__}.{name}: {spec.dtype.str} ({shape})"
