"""What the manuals say is true: names, files, commands, and the nodes that they show."""

import importlib.util
import logging
import re
from pathlib import Path

import numpy as np
import pytest

from graph import Faces, Frame, Node
from graph.cli import app
from graph.spec import load_class
from graph.testing import run_node
from tests.graphs import ROOT

MANUALS = [ROOT / "README.md", ROOT / "graph/README.md", ROOT / "training/README.md"]


def text(manual: Path) -> str:
    return manual.read_text(encoding="utf-8")


def node_in(manual: Path, name: str) -> type[Node]:
    """Run the code block that defines a node, and return its class."""
    for block in re.findall(r"```python\n(.*?)```", text(manual), re.DOTALL):
        if f"class {name}(Node)" in block:
            namespace: dict[str, object] = {"__name__": "readme"}
            exec(compile(block, str(manual), "exec"), namespace)
            found = namespace[name]
            assert isinstance(found, type) and issubclass(found, Node)
            return found
    raise AssertionError(f"no node {name} in {manual}")


@pytest.mark.parametrize("manual", MANUALS, ids=lambda path: path.parent.name)
def test_names_and_files_exist(manual: Path) -> None:
    for type_ in set(re.findall(r"\bnodes\.\w+:\w+", text(manual))):
        assert load_class(type_)
    for path in set(re.findall(r"\bconfigs/[\w/]+\.\w+", text(manual))):
        assert (ROOT / path).exists(), path
    for module in set(re.findall(r"python -m ([\w.]+)", text(manual))):
        assert importlib.util.find_spec(module), module


def test_commands_exist() -> None:
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    rows = "\n".join(re.findall(r"^\| `run_graph\.py .*", text(ROOT / "README.md"), re.MULTILINE))
    documented = set(re.findall(r"`run_graph\.py (\w+)", rows)) - {"CONFIG"}
    assert documented == commands - {"run"}


def test_every_message_in_the_table_of_troubles_is_seen_in_a_test() -> None:
    """A row that quotes a message: each of its constant parts is expected by some test."""
    table = text(MANUALS[0]).partition("## When something is wrong")[2]
    quoted = re.findall(r"^\| `(.+?)` \|", table, re.MULTILINE)
    tests = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py") if path != Path(__file__)
    )
    tests = tests.replace("\\", "")  # of regular expressions
    assert len(quoted) > 15
    for message in quoted:
        parts = [part.strip() for part in re.split(r"…|'[^']*'|\bX\b|\bhttp://|[\d.]*\d", message)]
        for part in parts:
            assert len(part) < 5 or part in tests, f"no test expects {part!r} of {message!r}"


def test_blink_node(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    closed = np.array([[0.9, 0.8, 0, 0]], np.float32)
    one = {
        "ids": np.array([3]),
        "boxes": np.zeros((1, 4), np.float32),
        "scores": np.ones(1, np.float32),
        "landmarks": np.zeros((1, 68, 2), np.float32),
        "spread": np.zeros((1, 68), np.float32),
        "pose": np.zeros((1, 3), np.float32),
    }
    open_ = np.zeros((1, 4), np.float32)
    run_node(node_in(MANUALS[0], "Blink")(), faces=[Faces(**one, states=s) for s in (open_, closed, closed, open_)])
    assert [record.message for record in caplog.records] == ["face 3 blinks at 0.03 s"]


def test_blur_node() -> None:
    picture = np.zeros((20, 20, 3), np.uint8)
    picture[10, 10] = 255
    blurred = run_node(node_in(MANUALS[1], "Blur")(sigma=1.0), frame=[Frame(image=picture)])["blurred"]
    assert isinstance(blurred[0], Frame)
    assert 0 < blurred[0].image[10, 11, 0] < blurred[0].image[10, 10, 0] < 255
