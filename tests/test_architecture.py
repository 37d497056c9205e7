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
    "attached", "bus", "control", "gateway", "lookout", "network", "receiver", "sender", "supervisor", "upstream",
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


LOADS = """
import sys

def show():
    print(*{name.partition(".")[0] for name in sys.modules})

import graph.process, graph.spec
show()
from nodes.capture import Capture
Capture(uri="a.mp4").reads()
show()
from graph.catalog import find_nodes
found, failed = find_nodes("nodes")
assert found and not failed, failed
show()
"""


def test_each_process_loads_what_it_needs_and_no_more() -> None:
    """A node's own, one that checks a graph of videos, and one that looks at all nodes; one after the other in one."""
    done = subprocess.run(
        [sys.executable, "-c", LOADS], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    node, check, catalog = (set(line.split()) for line in done.stdout.splitlines())
    # Each of these costs every node some 50 to 200 ms at its start.
    assert not node & {"pydantic", "typer", "yaml", "rich", "matplotlib", "cv2", "torch", "psutil"}
    assert not check & {"cv2", "av"}
    assert not catalog & {"torch", "training", "onnxruntime", "MNN"}
