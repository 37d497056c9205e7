"""What the manuals say is true: names, files, commands, and the nodes that they show."""

import importlib.util
import logging
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from graph import Faces, Frame, Message, Node, wire
from graph.cli import app
from graph.spec import load_class
from graph.testing import run_node
from nodes.record import COLUMNS
from nodes.source import picture_at
from tests.graphs import ROOT
from tests.portrait import LANDMARKS

MANUALS = [ROOT / "README.md", ROOT / "graph/README.md", ROOT / "training/README.md",
           ROOT / "training/logs/README.md"]


def text(manual: Path) -> str:
    return manual.read_text(encoding="utf-8")


def class_in(manual: Path, name: str, base: type) -> Any:
    """Run the code block that defines a class, and return it."""
    for block in re.findall(r"```python\n(.*?)```", text(manual), re.DOTALL):
        if f"class {name}({base.__name__})" in block:
            namespace: dict[str, object] = {"__name__": "readme"}
            exec(compile(block, str(manual), "exec"), namespace)
            found = namespace[name]
            assert isinstance(found, type) and issubclass(found, base)
            return found
    raise AssertionError(f"no {base.__name__} {name} in {manual}")


@pytest.mark.parametrize("manual", MANUALS, ids=lambda path: path.parent.name)
def test_names_and_files_exist(manual: Path) -> None:
    for type_ in set(re.findall(r"\bnodes\.\w+:\w+", text(manual))):
        assert load_class(type_)
    for path in set(re.findall(r"\bconfigs/[\w/]+\.\w+", text(manual))):
        assert (ROOT / path).exists(), path
    for module in set(re.findall(r"python -m ([\w.]+)", text(manual))):
        assert importlib.util.find_spec(module), module


@pytest.mark.parametrize("manual", MANUALS, ids=lambda path: path.parent.name)
def test_links_lead_to_files_and_headings(manual: Path) -> None:
    for path, place in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text(manual)):
        target = manual.parent / path if path else manual
        assert target.exists(), path
        if place:
            headings = re.findall(r"^#+ (.*)", text(target), re.MULTILINE)
            assert place in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings], place


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


def test_columns_of_the_csv_file_are_told() -> None:
    table = text(MANUALS[0]).partition("| column in CSV |")[2].partition("\n\n")[0]
    told = re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in table.splitlines()[2:]))
    numbered = [name for name in COLUMNS if re.fullmatch(r"(x|y|spread)\d+", name)]
    assert {*told} == {*COLUMNS} - {*numbered} | {"x0", "y0", "x67", "y67", "spread0", "spread67"}
    assert len(numbered) == 3 * 68


def test_blink_node(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    one = {
        "ids": np.array([3]),
        "boxes": np.zeros((1, 4), np.float32),
        "scores": np.ones(1, np.float32),
        "landmarks": np.zeros((1, 68, 2), np.float32),
        "spread": np.zeros((1, 68), np.float32),
        "pose": np.zeros((1, 3), np.float32),
        "states": np.zeros((1, 4), np.float32),
    }
    blink = class_in(MANUALS[0], "Blink", Node)()
    run_node(blink, faces=[Faces(**one, blinks=np.array([count])) for count in (0, 1, 1, 2)])
    assert [record.message for record in caplog.records] == [
        "face 3 blinked at 0.03 s",
        "face 3 blinked at 0.10 s",
    ]


def test_blur_node() -> None:
    picture = np.zeros((20, 20, 3), np.uint8)
    picture[10, 10] = 255
    blurred = run_node(class_in(MANUALS[1], "Blur", Node)(sigma=1.0), frame=[Frame(image=picture)])["blurred"]
    assert isinstance(blurred[0], Frame)
    assert 0 < blurred[0].image[10, 11, 0] < blurred[0].image[10, 10, 0] < 255


def test_without_a_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    portrait = picture_at("")
    cv2.imwrite(str(tmp_path / "group.jpg"), np.hstack([portrait, np.rot90(portrait, 2)]))
    monkeypatch.chdir(tmp_path)
    [block] = [code for code in re.findall(r"```python\n(.*?)```", text(MANUALS[0]), re.DOTALL) if "FaceModel" in code]
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    upright, hanging = sorted(names["faces"].landmarks.tolist(), key=lambda face: face[30])
    width = portrait.shape[1]
    assert np.abs(np.array(upright) - LANDMARKS).mean() < 5
    assert np.abs(np.array(hanging) - ((2 * width - 1, len(portrait) - 1) - LANDMARKS)).mean() < 5
    assert (names["faces"].scores > 0.5).all()


def test_gaze_message() -> None:
    gaze_type = class_in(MANUALS[1], "Gaze", Message)
    gaze = gaze_type(ids=np.array([3]), direction=np.ones((1, 3), np.float32), lamp="on")
    arrays = wire.arrays_of(gaze)
    assert wire.unpack(wire.encode(gaze, gaze.header, arrays, [8, 12]))["body"] == {"lamp": "on"}
    with pytest.raises(ValueError, match="direction"):
        gaze_type(ids=np.array([3, 4]), direction=np.ones((1, 3), np.float32))
