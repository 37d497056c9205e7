"""Which module may import which, and what a node's process never loads."""

import ast
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

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


@cache
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


def importers(paths: list[Path], wrong: Callable[[str], bool]) -> list[str]:
    """Return which files import what they may not, each with its name."""
    return [f"{path.relative_to(ROOT)}: {name}" for path in paths for name in imported(path) if wrong(name)]


def importers_of(paths: list[Path], *packages: str) -> list[str]:
    return importers(paths, lambda name: name.partition(".")[0] in packages)


def test_there_is_something_to_check() -> None:
    assert len(GRAPH) > 10
    assert len(NODES) > 5
    assert len(TRAINING) > 3


def test_graph_knows_nothing_of_faces() -> None:
    assert not importers_of(GRAPH, "nodes", "training", "torch", "cv2", "onnxruntime", "MNN", "av")


def test_only_the_transport_talks_zeromq() -> None:
    assert not importers_of([path for path in GRAPH if path.stem not in SOCKETS], "zmq")


def test_nodes_use_the_public_names_of_graph() -> None:
    import graph

    public = {f"graph.{name}" for name in graph.__all__}
    assert not importers(NODES, lambda name: name.partition(".")[0] == "graph" and name not in public)


def test_nodes_share_files_and_import_no_other_node() -> None:
    assert not importers(NODES, lambda name: name.startswith("nodes") and not name.startswith("nodes._"))
    assert not importers_of(NODES, "training", "zmq", "pydantic", "typer", "yaml")


def test_torch_is_imported_by_its_backend_only() -> None:
    assert not importers_of([path for path in NODES if path.stem != "_backend"], "torch")


def test_training_shares_only_what_is_pure() -> None:
    pure = tuple(f"{name}." for name in PURE)
    assert not importers_of(TRAINING, "run_graph", "zmq")
    assert not importers(TRAINING, lambda name: name.startswith("nodes") and not f"{name}.".startswith(pure))
    assert not importers(TRAINING, lambda name: name.startswith("graph.") and name.count(".") > 1)


def test_files_are_named_for_what_they_hold_and_stay_short() -> None:
    idle = {"utils", "util", "misc", "common", "helpers", "helper", "base"}
    assert not [path for path in (*GRAPH, *NODES, *TRAINING) if path.stem.strip("_") in idle]
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (*GRAPH, *NODES)}
    assert not {path: count for path, count in lines.items() if count > 400}


def test_the_process_of_a_node_does_not_load_what_only_the_supervisor_needs() -> None:
    """Each of them costs every node some 50 to 200 ms at its start."""
    code = "import sys, graph.process, graph.spec; print(*{name.partition('.')[0] for name in sys.modules})"
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
