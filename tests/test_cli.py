"""The command line, in this process or, where needed, as a real command."""

# ruff: noqa: E501 (an error is one line)

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import run_graph
from graph import Frame, Input, Node, Output, cli, setting
from graph.catalog import comments
from graph.schema import NAME

ROOT = Path(__file__).resolve().parent.parent


class Blur(Node):
    """Soften the picture.

    Second paragraph.
    """

    frame = Input(Frame)
    picture = Output(Frame)

    radius: float = setting(
        1.5,  # a comment
        minimum=0.0,
        changeable=True,
    )  # pixels; larger is softer
    size: int = 3  # taps
    mode: str = "gauss"

    def process(self, frame: Frame) -> Frame:
        return frame


NODES = """\
from graph import EndOfStream, Frame, Input, Node, Output
import numpy as np

class Three(Node):
    \"\"\"Three frames.\"\"\"
    frame = Output(Frame)
    def process(self):
        for _ in range(3):
            yield Frame(image=np.zeros((4, 4, 3), np.uint8))

class Sink(Node):
    \"\"\"Takes frames.\"\"\"
    frame = Input(Frame)
    fail: bool = False
    def process(self, frame):
        if self.fail:
            raise ValueError("no more room")

class Pass(Node):
    frame = Input(Frame)
    picture = Output(Frame)
    def process(self, frame):
        return frame
"""

CONFIG = """\
nodes:
  three: {type: own_nodes:Three}
  sink: {type: own_nodes:Sink, inputs: {frame: three.frame}}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a folder with user nodes."""
    (tmp_path / "own_nodes.py").write_text(NODES)
    (tmp_path / "three.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "140")
    yield tmp_path
    sys.modules.pop("own_nodes", None)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the real command in the current folder."""
    line = [sys.executable, str(ROOT / "run_graph.py"), *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)


def test_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "three.yaml"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[2].split() == ["three.frame", "sink.frame", "block", "4", "seq"]
    assert "ok  three.yaml: three, 2 nodes, 1 edges" in said.out
    assert said.err == ""


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["check", "three.yaml", "--set", "snk.a=1"], "error: --set snk.a=1: there is no node 'snk'; did you mean 'sink'?"),
        (["keys", "x" * 300], f"error: cannot write {'x' * 300}: File name too long"),
        (["chekc", "three.yaml"], "error: no command and no config 'chekc'; did you mean 'check'?"),
        (["nodes", "Smoth"], "error: no node 'Smoth' in nodes; did you mean 'Smooth'?"),
        (["nodes", "own_nodes:Sinc"], "error: Sinc does not exist in own_nodes; did you mean 'Sink'?"),
        (["three.yaml", "--profile", "three.yaml"], "error: --profile three.yaml: cannot create or write this folder: File exists"),
        (["attach", "three.yaml"], "error: three.yaml: has no `attach: NAME` to name the running graph"),
    ],
)  # fmt: skip
def test_error(arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err.splitlines() == [error]


@pytest.mark.parametrize("arguments", [["check"], []])
def test_a_config_name_that_is_too_long(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*arguments, "x" * 300]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: no config 'xxxxxxxxxxxx")  # Python 3.14 does not say that it is too long


@pytest.mark.parametrize("arguments", [["no.yaml"], ["check", "no.yaml"], ["--duration", "1", "no.yaml"]])
def test_a_config_that_does_not_exist(arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    expected = f"error: no config 'no.yaml': neither {folder / 'no.yaml'} nor in {ROOT / 'configs'}; configs there: "
    assert line.startswith(expected)
    assert "demo" in line


@pytest.mark.parametrize(
    "arguments", [["check"], ["run"], ["three.yaml", "--duration", "soon"], ["--lgo", "three.yaml"]]
)
def test_wrong_arguments_exit_with_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    assert "Usage: run_graph.py" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["nan", "inf", "-1"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["three.yaml", "--duration"],
        ["attach", "three.yaml", "--duration"],
        ["record", "a.b", "-o", "x.mcap", "--duration"],
        ["top", "--every"],
    ],
)
def test_seconds_must_be_finite_and_not_negative(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*arguments, text]) == 2
    assert f"Invalid value for '{arguments[-1]}'" in capsys.readouterr().err


def test_a_profile_name_that_is_too_long(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", "x" * 300, "y"]) == 2
    assert capsys.readouterr().err.endswith("/latency.json: cannot be read: File name too long\n")


def test_draw_with_neither_a_config_nor_a_running_graph(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["draw", "demmo"]) == 2
    assert capsys.readouterr().err.endswith("; did you mean 'demo'?; running graphs: none\n")


@pytest.mark.parametrize("arguments", [["three.yaml", "--profile", ""], ["three.yaml", "--dot", ""], ["keys", ""]])
def test_a_folder_without_a_name_is_refused(
    arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It comes from an unset shell variable; nothing may be written into the current folder."""
    before = set(folder.iterdir())
    assert cli.main(arguments) == 2
    assert "is empty; expected the name of a folder" in capsys.readouterr().err
    assert set(folder.iterdir()) == before


def test_each_error_of_a_file_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "two.yaml").write_text(CONFIG.replace("three.frame", "thre.frame") + "name: 1\n")
    assert cli.main(["check", "two.yaml"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: two.yaml:3: nodes.sink.inputs.frame: there is no node 'thre'; did you mean 'three'?",
        "error: two.yaml:4: name: is 1, expected a string",
    ]


def test_our_configs_are_found_by_name_from_any_folder(capsys: pytest.CaptureFixture[str]) -> None:
    for given in ("demo", "demo.yaml", "configs/demo.yaml"):
        assert cli.main(["check", given]) == 0, given
        assert f"{ROOT / 'configs' / 'demo.yaml'}: demo," in capsys.readouterr().out.replace("\n", "")


def test_the_user_file_wins_over_ours(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "demo.yaml").write_text(CONFIG)
    assert cli.main(["check", "demo.yaml"]) == 0
    assert "ok  demo.yaml: demo, 2 nodes" in capsys.readouterr().out


def test_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["nodes"]) == 0
    said = capsys.readouterr().out
    for type_ in ("nodes.source:TestSource", "nodes.detect:FaceDetector", "nodes.smooth:Smooth", "graph.replay:Replay"):
        assert type_ in said


@pytest.mark.parametrize("columns", [40, 80])
def test_narrow_terminals_do_not_truncate_names(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli.out, "width", columns)
    assert cli.main(["nodes"]) == cli.main(["check", "demo"]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= columns
    assert "…" not in said
    assert "nodes.record_images:RecordImages" in said
    assert "found: Detections (optional)" in " ".join(said.split())


def test_node_in_detail(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["nodes", f"{__name__}:Blur"]) == 0
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for line in (
        "Soften the picture.",
        "Second paragraph.",
        "input frame Frame",
        "output picture Frame",
        "radius* 1.5 float of at least 0.0 a comment pixels; larger is softer",
        "size 3 int taps",
        'mode "gauss" str',
        "* can be changed while the graph runs",
    ):
        assert line in said


def test_node_by_its_class_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["nodes", "TestSource"]) == 0
    assert "nodes.source:TestSource" in capsys.readouterr().out


def test_comments() -> None:
    assert comments(Blur) == {"radius": "a comment pixels; larger is softer", "size": "taps", "mode": ""}


def test_draw_dot(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["draw", "three.yaml"]) == 0
    said = capsys.readouterr().out
    assert said.startswith('digraph "three" {')
    assert '"three" -> "sink" [label="frame\\nblock 4", style=solid];' in said
    assert said.endswith("}\n")


def test_a_file_is_drawn_without_a_run_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FACEGRAPH_RUN_DIR", str(folder / "three.yaml"))
    assert cli.main(["draw", "three.yaml"]) == 0
    assert cli.main(["draw", "thre.yaml"]) == 2
    assert "no config 'thre.yaml'" in capsys.readouterr().err
    assert cli.main(["draw", "three"]) == 2
    assert "three.yaml cannot be created" in capsys.readouterr().err, "a graph of that name may be running"


def test_draw_mermaid_of_attached_nodes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "more.yaml").write_text(
        "attach: main\nnodes:\n"
        "  pass: {type: own_nodes:Pass, inputs: {frame: main/smooth.frame}}\n"
        "  end: {type: own_nodes:Sink, inputs: {frame: pass.picture}}\n"
    )
    assert cli.main(["draw", "more.yaml", "--mermaid"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "flowchart LR",
        '  n0["pass<br/><small>Pass</small>"]',
        '  n1["end<br/><small>Sink</small>"]',
        '  n2(["main/smooth"])',
        '  n2 -.->|"frame<br/>latest"| n0',
        '  n0 -.->|"picture → frame<br/>latest"| n1',
    ]


def test_warnings_go_to_stderr_and_unknown_characters_become_question_marks(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    passing = "  pass: {type: own_nodes:Pass, inputs: {frame: three.frame}}\n"
    unread = passing.replace("pass:", "more:")
    (folder / "more.yaml").write_text(CONFIG.replace("three.frame", "pass.picture") + passing + unread)
    done = command("draw", "more.yaml")
    assert done.returncode == 0
    assert done.stderr == "warning: more.yaml:5: no node reads the outputs of more (picture)\n"
    assert done.stdout.startswith("digraph") and "picture ? frame" in done.stdout


def test_schema_knows_the_settings_of_our_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    rules = {rule["if"]["properties"]["type"]["const"]: rule["then"] for rule in schema["$defs"]["NodeModel"]["allOf"]}
    width = rules["nodes.source:TestSource"]["properties"]["settings"]["properties"]["width"]
    assert width == {"type": "integer", "minimum": 16, "maximum": 7680, "default": 1280, "description": "pixels"}
    smooth = rules["nodes.smooth:Smooth"]["properties"]
    inputs = {"frame": {"type": "string", "description": "Frame"}, "raw": {"type": "string", "description": "Faces"}}
    assert smooth["inputs"] == {"properties": inputs, "additionalProperties": False}
    assert smooth["settings"]["additionalProperties"] is False
    types = schema["$defs"]["NodeModel"]["properties"]["type"]["anyOf"]
    assert types == [{"enum": sorted(rules)}, {"pattern": "^.+:.+$"}], "nodes of other packages are allowed"
    nodes = schema["properties"]["nodes"]
    assert list(nodes["patternProperties"]) == [f"^{NAME}$"]
    assert "speed" in rules["graph.replay:Replay"]["properties"]["settings"]["properties"]
    assert nodes["additionalProperties"] is False, "editors reject invalid names, too"


def test_a_package_that_shadows_ours(folder: Path) -> None:
    (folder / "nodes.py").write_text("")
    code = f"import sys; sys.path.append({str(ROOT)!r}); import run_graph; run_graph.main()"
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: {folder / 'nodes.py'} hides the package 'nodes' of facegraph; see PYTHONPATH\n"


@pytest.mark.parametrize("early", [True, False])
def test_ctrl_c_before_a_graph_runs_exits_with_130(early: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_graph, "shadows", interrupt if early else list)
    monkeypatch.setattr(cli, "main", interrupt)
    with pytest.raises(SystemExit) as ended:
        run_graph.main()
    assert ended.value.code == 130


SWALLOWING = """
import contextlib, os, signal, sys, time
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "graph.cli":
            with contextlib.suppress(KeyboardInterrupt):  # like a library that calls Python from C
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have set it to be ignored
sys.meta_path.insert(0, Finder())
sys.argv = ["run_graph.py", "--help"]
import run_graph
run_graph.main()
"""


def test_ctrl_c_while_libraries_are_imported_is_not_lost() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}){SWALLOWING}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")  # shells report it as 130


def test_importing_the_script_imports_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import run_graph; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, cwd=ROOT
    )
    assert done.stdout.split() == ["run_graph"]


@pytest.mark.slow
def test_run_from_another_folder_with_own_nodes() -> None:
    done = command("three.yaml")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_run_of_a_node_that_fails() -> None:
    done = command("three.yaml", "--set", "sink.fail=true")
    assert done.returncode == 1, done.stderr
    assert "error: sink failed" in done.stderr
    assert "no more room" in done.stderr


def test_wrong_config_starts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["three.yaml", "--set", "sink.fail=maybe"]) == 2
    assert capsys.readouterr() == ("", "error: --set sink.fail=maybe: is 'maybe', expected true or false\n")


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    said = "".join(capsys.readouterr())
    assert "CONFIG alone is the same as run CONFIG" in " ".join(said.split())
    assert len(said.splitlines()) > 10
