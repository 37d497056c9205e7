"""Graphs written in one line: their meaning, errors, and real runs."""

# ruff: noqa: E501 (one line per graph)

import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from graph import cli
from graph.document import Document, to_yaml
from tests.conftest import PATIENCE_S, Run
from tests.graphs import ROOT
from tests.recordings import write

OWN = """\
from graph import Frame, Input, Node, Output
import numpy as np

class Three(Node):
    \"\"\"Three frames.\"\"\"
    left = Output(Frame)
    right = Output(Frame)
    def process(self):
        for value in range(3):
            frame = Frame(image=np.full((16, 16, 3), value, np.uint8))
            yield {"left": frame, "right": frame}

class Sink(Node):
    frame = Input(Frame)
    path: str = "sink.txt"
    note: str = ""
    def process(self, frame):
        with open(self.path, "a") as file:
            file.write(f"{frame.seq} {self.note}\\n")
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("own.py").write_text(OWN)
    yield tmp_path
    sys.modules.pop("own", None)


def made(capsys: pytest.CaptureFixture[str], *line: str) -> dict[str, Any]:
    assert cli.main(["launch", "--print", *line]) == 0
    said: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return said


def links(graph: dict[str, Any]) -> dict[str, str]:
    nodes = graph["nodes"].items()
    return {f"{name}.{port}": source for name, node in nodes for port, source in node.get("inputs", {}).items()}


def test_the_line_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    line = "capture uri=clip.mp4 ! detect ! landmarks ! smooth ! render ! record path=out.mp4"
    graph = made(capsys, line)
    assert graph["nodes"]["detect"] == {"type": "nodes.detect:FaceDetector", "inputs": {"frame": "capture.frame"}}
    assert graph["nodes"]["record"]["settings"] == {"path": "out.mp4"}
    assert links(graph) == {
        "detect.frame": "capture.frame",
        "landmarks.frame": "capture.frame",
        "landmarks.found": "detect.faces",
        "smooth.frame": "capture.frame",
        "smooth.raw": "landmarks.faces",
        "render.frame": "capture.frame",
        "render.faces": "smooth.faces",
        "record.frame": "render.image",
    }
    assert made(capsys, *line.split()) == graph  # as a shell splits it
    assert cli.main(["launch", "--print", "--name", "x", "--set", "detect.every=3", line]) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        "name: x\nnodes:\n  capture:\n    type: nodes.capture:Capture\n    settings: {uri: clip.mp4}\n"
    )
    Path("x.yaml").write_text(said)
    assert cli.main(["check", "x.yaml"]) == 0


def test_branches_names_and_edges(capsys: pytest.CaptureFixture[str]) -> None:
    graph = made(
        capsys,
        "capture uri=0 name=cam ! detect ! landmarks found.join=hold ! smooth name=s restart=on_failure ! render ! window "
        "cam. ! window frame.policy=latest  s. ! RecordFaces path='my faces.csv' "
        "s. ! nodes.record:RecordFaces path=b.jsonl  render.image ! record-images folder=pictures "
        "capture uri=other.mp4 name=two ! window  cam. ! render faces=s.faces frame=two.frame ! window",
    )
    assert [*graph["nodes"]] == [
        *("cam", "detect", "landmarks", "s", "render", "window", "window2", "record_faces", "record_faces2"),
        *("record-images", "two", "window3", "render2", "window4"),
    ]
    assert (
        links(graph).items()
        >= {
            "window.frame": "render.image",
            "window2.frame": "cam.frame",
            "record_faces.faces": "s.faces",
            "record-images.frame": "render.image",
            "window3.frame": "two.frame",
            "render2.frame": "two.frame",
            "render2.faces": "s.faces",
            "window4.frame": "render2.image",
        }.items()
    )
    assert graph["edges"] == {
        "detect.faces -> landmarks.found": {"join": "hold"},
        "cam.frame -> window2.frame": {"policy": "latest"},
    }
    assert graph["nodes"]["record_faces"]["settings"] == {"path": "my faces.csv"}
    assert graph["nodes"]["s"]["restart"] == "on_failure"


def test_outputs_that_depend_on_settings_and_nodes_of_other_modules(capsys: pytest.CaptureFixture[str]) -> None:
    path = write(Path("a.mcap"), seqs=range(3))
    graph = made(capsys, f"replay path={path} ports=[camera.frame] ! own:Sink")
    assert links(graph) == {"sink.frame": "replay.frame"}
    graph = made(capsys, "own:Three name=eyes ! own:Sink frame=eyes.left eyes.right ! own:Sink")
    assert links(graph) == {"sink.frame": "eyes.left", "sink2.frame": "eyes.right"}


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("captur uri=0", "no element 'captur'; did you mean 'capture'?"),
        ("xyz", "no element 'xyz'; elements: capture, detect, landmarks, push, record, record_faces, record_images, render, replay, smooth, source, web, window, or module:Class; settings are written name=value"),
        ("capture uri=0 ! detect evry=4", "detect evry=4: no setting or input 'evry'; did you mean 'every'?"),
        ("capture uri=0 ! window ev=4", "window ev=4: no setting or input 'ev'; valid: title, frame, name, restart"),
        ("source restart=foo ! window", "source: restart: is 'foo'; valid: never, on_failure, always"),
        ("source ! window frame.queue=x", "edges.source.frame -> window.frame.queue: is 'x', expected a whole number"),
        ("capture uri=0 ! detect every=x", "detect every=x: is 'x', expected int of at least 1"),
        ("capture ! window", "capture: setting 'uri' (str or int) is missing"),
        ("detect", "detect: input frame needs Frame, but no earlier element outputs it; those that do: capture, render, source"),
        ("capture uri=0 ! smooth", "smooth: input raw needs Faces, but no earlier element outputs it; those that do: landmarks, smooth"),
        ("capture uri=0 ! record out.mp4", "out.mp4: no earlier element 'out'; earlier elements: capture, record; settings are written name=value"),
        ("source name=cam camm. ! window", "camm.: no earlier element 'camm'; did you mean 'cam'?; settings are written name=value"),
        ("source source.fram ! window", "source.fram: source has no output 'fram'; did you mean 'frame'?"),
        ("source ! detect ! source. ! window", "source. can only start a branch; to read it elsewhere, write INPUT=source.OUTPUT"),
        ("! capture", "no element before '!'; expected for example: capture uri=0 ! window"),
        ("capture uri=0 ! ! window", "no element before '!'; expected for example: capture uri=0 ! window"),
        ("capture uri=0 !", "no element at the end of the line; expected for example: capture uri=0 ! window"),
        ("", "no element at the end of the line; expected for example: capture uri=0 ! window"),
        ("capture uri=0!window", "uri=0!window: '!' needs spaces around it"),
        ("capture uri='a", "capture uri='a: no closing quotation"),
        ("source name=a ! detect name=a", "detect name=a: another element already has the name 'a'"),
        ("source name=control ! window", "control: is a reserved name; reserved: control, lock"),
        ("source ! window frame=sorce.frame", "window frame=sorce.frame: there is no node 'sorce'; did you mean 'source'?"),
        ("source ! window frame.polcy=latest", "window frame.polcy=latest: frame.polcy: unknown option of an edge; did you mean 'policy'?"),
        ("own:Three ! own:Sink", "own:Sink: frame could read three.left or three.right; choose one: frame=three.right"),
        ("source ! tests.toys:Copy ! tests.toys:Pair", "tests.toys:Pair: a and b both read Frame; choose their outputs, as in a=copy.copied: source.frame, copy.copied"),
        ("replay path=no.mcap ! window", "replay path=no.mcap: no recording {cwd}/no.mcap: No such file or directory"),
        ("replay pth=no.mcap ! window", "replay pth=no.mcap: no setting or input 'pth'; did you mean 'path'?"),
        ("replay ! window", "replay: setting 'path' (str) is missing"),
    ],
)  # fmt: skip
def test_wrong_lines(line: str, error: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["launch", "--print", line]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"error: launch: {error.format(cwd=folder)}\n")


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12)
TRICKY = st.sampled_from(
    ["\x85", "no", "on", "1e3", "0o17", "0x1F", "017", "1_000", "12:30", "2001-01-01", "~", "", "=", "a: b", "#x"]
)


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.text(st.characters(codec="ascii", categories=["L"]), min_size=1), PLAIN | TRICKY | st.lists(PLAIN)
    )
)
def test_printed_yaml_loads_as_the_same(data: dict[str, Any]) -> None:
    """With our own loader, which reads more scalars as strings than PyYAML."""
    assert Document(Path("x"), to_yaml({"settings": data})).data == {"settings": data}


def launched(*arguments: str) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, str(ROOT / "run_graph.py"), "launch", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE_S * 2, check=False)


@pytest.mark.slow
def test_a_line_runs_and_prints_the_same_graph(run: Run) -> None:
    line = "source frames=12 width=320 height=240 ! detect ! landmarks ! smooth ! render ! record path='my out.mp4'"
    done = launched(line, "--profile", "profile", "--set", "source.fps=25")
    assert done.returncode == 0, done.stderr
    printed = run("launch", "--print", line, "--set", "source.fps=25")
    assert done.stdout.startswith(printed)
    assert Path("profile/latency.json").exists()
    with av.open("my out.mp4") as container:
        assert sum(1 for _ in container.decode(video=0)) == 12
    Path("again.yaml").write_text(printed)
    assert "ok  again.yaml: launch, 6 nodes, 8 edges" in run("check", "again.yaml")
    set_ = {name: found["settings"] for name, found in yaml.safe_load(printed)["nodes"].items() if "settings" in found}
    assert set_ == {
        "source": {"frames": 12, "width": 320, "height": 240, "fps": 25}, "record": {"path": "my out.mp4"}
    }  # fmt: skip


@pytest.mark.slow
def test_run_of_own_nodes_shows_no_password() -> None:
    done = launched("own:Three ! own:Sink frame=three.left note=rtsp://me:wonder@host/x")
    assert done.returncode == 0, done.stderr
    assert Path("sink.txt").read_text().split()[::2] == ["0", "1", "2"]
    assert "rtsp://me:***@host/x" in done.stdout and "wonder" not in done.stdout + done.stderr
