"""Which module may import which, and what a node's process never loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

GRAPH = sorted((ROOT / "graph").glob("**/*.py"))
NODES = sorted((ROOT / "nodes").glob("**/*.py"))
TRAINING = sorted((ROOT / "training").glob("**/*.py"))

SOCKETS = {
    "attached", "bus", "control", "door", "lookout", "network", "receiver", "sender", "supervisor", "upstream",
    "worker",
}  # fmt: skip
"""The files of graph/ that talk ZeroMQ."""

PURE = {"nodes._geometry", "nodes._boxes", "nodes._pose", "nodes._backend", "nodes.detect", "nodes.landmarks"}
"""What training may share with the nodes: the crops and boxes that a network is trained on and fed; and, for the
parity check of an export, what loads the exported network."""


def imported(path: Path) -> set[str]:
    """Return the modules and names that a file imports, as dotted names, wherever in the file that is."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def tops(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(path)}


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def test_there_is_something_to_check() -> None:
    assert len(GRAPH) > 10
    assert len(NODES) > 5
    assert len(TRAINING) > 3


@pytest.mark.parametrize("file", names(GRAPH))
def test_graph_knows_nothing_of_faces(file: str) -> None:
    foreign = {"nodes", "training", "torch", "cv2", "onnxruntime", "MNN", "av"}
    assert not tops(ROOT / file) & foreign


@pytest.mark.parametrize("file", names(GRAPH))
def test_only_the_transport_talks_zeromq(file: str) -> None:
    assert "zmq" not in tops(ROOT / file) or Path(file).stem in SOCKETS


@pytest.mark.parametrize("file", names(NODES))
def test_nodes_use_the_public_names_of_graph_and_shared_files_of_nodes(file: str) -> None:
    import graph

    assert not tops(ROOT / file) & {"training", "zmq", "pydantic", "typer", "yaml"}
    for name in imported(ROOT / file):
        first, _, rest = name.partition(".")
        if first == "graph":
            assert rest in graph.__all__, f"from graph import ... only, not {name}"
        if first == "nodes":
            assert rest.startswith("_"), f"a node imports no other node: {name}"


@pytest.mark.parametrize("file", names(NODES))
def test_torch_is_imported_by_its_backend_only(file: str) -> None:
    assert "torch" not in tops(ROOT / file) or Path(file).stem == "_backend"


@pytest.mark.parametrize("file", names(TRAINING))
def test_training_shares_only_what_is_pure(file: str) -> None:
    for name in imported(ROOT / file):
        first, _, rest = name.partition(".")
        assert first not in {"run_graph", "zmq"}
        if first == "nodes":
            assert any(name == pure or name.startswith(f"{pure}.") for pure in PURE), name
        if first == "graph":
            assert "." not in rest, f"public names of graph only, not {name}"


@pytest.mark.parametrize("file", names([*GRAPH, *NODES, *TRAINING]))
def test_files_are_named_for_what_they_hold_and_stay_short(file: str) -> None:
    assert Path(file).stem.strip("_") not in {"utils", "util", "misc", "common", "helpers", "helper", "base"}
    if not file.startswith("training"):
        assert len((ROOT / file).read_text(encoding="utf-8").splitlines()) <= 400


def test_the_process_of_a_node_does_not_load_what_only_the_supervisor_needs() -> None:
    """Each of them costs every node some 50 to 200 ms at its start."""
    code = "import sys, graph.worker, graph.spec; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert not set(done.stdout.split()) & {"pydantic", "typer", "yaml", "rich", "matplotlib", "cv2", "torch", "psutil"}


def test_a_graph_is_checked_without_what_reads_its_videos() -> None:
    code = "import sys; from nodes.capture import Capture; Capture(uri='a.mp4').reads(); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert not set(done.stdout.split()) & {"cv2", "av"}


def test_nothing_at_run_time_loads_torch() -> None:
    code = (
        "import sys\n"
        "from graph.catalog import find_nodes\n"
        "found, failed = find_nodes('nodes')\n"
        "assert found and not failed, failed\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert not set(done.stdout.split()) & {"torch", "training", "onnxruntime", "MNN"}
