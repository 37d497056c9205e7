"""What the doctor finds on this machine, and on machines that lack something."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
from packaging.requirements import Requirement
from rich.console import Console

from graph import Finding, cli, doctor, machine
from graph.rundir import MARK
from nodes import _codecs, _webcam
from tests import clips
from tests.graphs import ROOT

Examine = Callable[..., dict[str, Any]]

NODES = """\
import os, signal, time
import numpy as np
from graph import Finding, Frame, Input, Node, Output

class Lamp(Node):
    \"\"\"Of somebody else's package.\"\"\"
    frame = Output(Frame)
    colour: str = "red"

    @classmethod
    def check(cls, node):
        print("a library that talks")
        yield Finding("lamp", "problem", f"the {node.colour} lamp is broken", "a new lamp")

    def process(self):
        yield Frame(image=np.zeros((4, 4, 3), np.uint8))

class Crash(Lamp):
    @classmethod
    def check(cls, node):
        os.kill(os.getpid(), signal.SIGSEGV)

class Hang(Lamp):
    @classmethod
    def check(cls, node):
        time.sleep(1000)

class Raise(Lamp):
    @classmethod
    def check(cls, node):
        raise RuntimeError("no rtsp://bob:secret@host/x")
"""


@pytest.fixture
def examine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Examine]:
    """Run the doctor on a graph of some nodes and return its JSON; the exit code must agree."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "lamps.py").write_text(NODES)

    def examine(**nodes: Any) -> dict[str, Any]:
        (tmp_path / "graph.yaml").write_text(json.dumps({"nodes": nodes}))
        code = cli.main(["doctor", "graph.yaml", "--json"])
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert code == (1 if found["problems"] else 0)
        return found

    yield examine
    sys.modules.pop("lamps", None)


def lines(found: dict[str, Any], under: str) -> list[dict[str, str]]:
    return [line for line in found["findings"] if line["under"] == under]


def capture(uri: Any, **settings: Any) -> dict[str, Any]:
    return {"type": "nodes.capture:Capture", "settings": {"uri": uri, **settings}}


@pytest.mark.slow
def test_this_machine_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    verdicts = {(line["under"], line["about"]): line["verdict"] for line in found["findings"]}
    for line in (("Python", "packages"), ("Machine", "shared memory"), ("Graphs", "run folder"), ("Capture", "H.264")):
        assert verdicts[line] == "ok"
    for network in ("FaceDetector", "Landmarks"):
        assert [verdicts[network, name] for name in ("onnxruntime", "mnn")] == ["ok", "ok"]
    assert verdicts["Capture", "H.265 (HEVC)"] == verdicts["WebView", "web page"] == "ok"


@pytest.mark.slow
def test_nodes_of_other_packages_are_checked(examine: Examine) -> None:
    found = examine(
        lamp={"type": "lamps:Lamp", "settings": {"colour": "green"}},
        crash={"type": "lamps:Crash"},
        error={"type": "lamps:Raise"},
    )
    lamp = {"under": "lamp", "about": "lamp", "verdict": "problem"}
    assert lines(found, "lamp") == [{**lamp, "found": "the green lamp is broken", "remedy": "a new lamp"}]
    assert lines(found, "crash")[0]["found"] == "crashes with SIGSEGV in a library"
    assert lines(found, "error")[0]["found"] == "RuntimeError: no rtsp://bob:***@host/x"
    assert found["problems"] == 3


@pytest.mark.slow
def test_a_check_that_hangs_is_a_finding(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PATIENCE_S", 2.0)
    assert lines(examine(hang={"type": "lamps:Hang"}), "hang")[0]["found"] == "hangs: no answer in 2 s"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("uri", "about", "said"),
    [
        ("nothing.mp4", "file", "no file {folder}/nothing.mp4; it contains "),
        ("/dev/video99", "/dev/video99", "no such webcam; available: "),
        ("rtsp://bob:secret@127.0.0.1:1/x", "camera", "rtsp://bob:***@127.0.0.1:1/x refuses the connection"),
    ],
)
def test_a_source_that_does_not_exist(examine: Examine, tmp_path: Path, uri: str, about: str, said: str) -> None:
    found = examine(source=capture(uri, patience=1.0))
    [line] = [line for line in lines(found, "source") if line["about"] == about]
    assert line["verdict"] == "problem" and line["remedy"]
    assert line["found"].startswith(said.format(folder=tmp_path))
    assert "secret" not in json.dumps(found)


@pytest.mark.slow
def test_sources_and_sinks_that_exist(examine: Examine, tmp_path: Path) -> None:
    clips.write(tmp_path / "clip.mp4", clips.steady(5))
    cv2.imwrite(str(tmp_path / "one.png"), clips.picture(1))
    height, width = clips.picture(1).shape[:2]
    found = examine(
        video=capture("clip.mp4"),
        picture=capture("one.png"),
        record={
            "type": "nodes.record:Record",
            "inputs": {"frame": "video.frame"},
            "settings": {"path": "out/x.mp4"},
        },
        web={"type": "nodes.web:WebView", "inputs": {"frame": "video.frame"}, "settings": {"port": 0}},
        faces={
            "type": "nodes.detect:FaceDetector",
            "inputs": {"frame": "video.frame"},
            "settings": {"backend": "mnn"},
        },
    )
    last = {under: lines(found, under)[-1]["found"] for under in ("video", "picture", "record", "web")}
    assert last["video"] == f"{tmp_path}/clip.mp4, {width} x {height}"
    assert last["picture"] == f"1 pictures, the first {width} x {height}"
    assert last["record"] == f"{tmp_path}/out/x.mp4 can be written"
    assert last["web"] == "127.0.0.1 port 0 is free"
    assert [line["about"] for line in lines(found, "faces")] == ["mnn"]
    assert found["problems"] == 0


def test_packages_that_are_missing_or_too_old() -> None:
    wanted = [Requirement("numpy<1"), Requirement("no-such-package>=2"), Requirement("rich")]
    old, missing, rest = machine.checked("packages", wanted, extra=None)
    assert (old.about, old.verdict, old.remedy) == ("numpy", "problem", "pip install 'numpy<1'")
    assert old.found.endswith(" does not fit <1")
    assert missing == Finding("no-such-package", "problem", "is not installed", "pip install 'no-such-package>=2'")
    assert (rest.verdict, rest.found.partition(" ")[0]) == ("ok", "rich")
    [extra] = machine.checked("extra web", [Requirement("no-such-package")], "web")
    assert (extra.verdict, extra.remedy) == ("note", "pip install '.[web]'")


def test_a_run_folder_that_others_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setenv("FACEGRAPH_RUN_DIR", str(tmp_path))
    [line] = machine.graphs()
    assert (line.verdict, line.found) == ("problem", f"{tmp_path} must belong to you with mode 0700")
    tmp_path.chmod(0o700)
    for name in ("killed", "photos"):
        (tmp_path / name).mkdir()
    (tmp_path / "killed" / "lock").write_bytes(MARK)
    folder, running, left = machine.graphs()
    assert (folder.verdict, running.found, left.verdict) == ("ok", "none", "note")
    assert left.found.startswith("killed: ")
    long = tmp_path / ("x" * 90)
    monkeypatch.setenv("FACEGRAPH_RUN_DIR", str(long))
    assert next(machine.graphs()).remedy == "set FACEGRAPH_RUN_DIR to a shorter one"


@pytest.mark.parametrize(("load", "verdict"), [(5.9, "ok"), (6.1, "note")])
def test_busy_processors(load: float, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(machine.psutil, "getloadavg", lambda: (load, 0.0, 0.0))
    found = machine.processors()
    assert (found.verdict, found.found.partition(":")[0]) == (verdict, f"4 usable, load {load}")


def test_too_few_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        assert machine.files() == Finding(
            "open files", "problem", "at most 200, but 256 are needed", f"ulimit -n {min(4096, hard)}"
        )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_codec_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"no reader": ("mjpeg", "nothing", "yuvj420p"), "no writer": ("nothing", "h264", "yuv420p")}
    monkeypatch.setattr(_codecs, "CODECS", table)
    assert [finding.verdict for finding in _codecs.check_codecs(("no reader", "no writer"))] == ["problem", "note"]


@pytest.mark.skipif(sys.platform != "linux", reason="Video4Linux")  # only Linux has such files
def test_a_device_that_is_not_a_webcam() -> None:
    with pytest.raises(OSError, match="Inappropriate ioctl"):
        _webcam.formats(os.devnull)


def test_the_table_in_a_narrow_terminal() -> None:
    findings = [
        ("Machine", Finding("memory", "ok", "plenty")),
        ("web", Finding("web page", "problem", "aiohttp is not installed", "pip install '.[web]'")),
    ]
    console = Console(width=60, record=True)
    console.print(doctor.report(findings))
    said = [line.rstrip() for line in console.export_text().splitlines()]
    assert "ok       memory    plenty" in said
    assert "problem  web page  aiohttp is not installed" in said
    assert "                   → pip install '.[web]'" in said
    assert said[-1] == "1 problem"


@pytest.mark.slow
def test_without_a_package_the_command_line_says_so(tmp_path: Path) -> None:
    code = "import sys, run_graph; sys.modules['typer'] = None; sys.argv = ['run_graph.py', 'doctor']; run_graph.main()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr == f"error: the package typer is not installed for {sys.executable}: pip install .\n"
