"""The tables of `top` and `compare` in narrow terminals: they omit columns and never truncate names or numbers."""

import copy
from typing import Any

import pytest
from rich.console import Console, RenderableType

from graph import compare, top
from tests.test_compare import RUN

NAMES = ("camera", "face_detector", "landmarks", "record_faces")
TIMES = {"p50": 12.3, "p95": 45.6, "p99": 112.0}
NODE = {
    "state": "PROCESSING",
    "fps": 29.97,
    "queue": 12,
    **{f"{name}_ms": TIMES for name in ("wait", "process", "publish")},
    "busy_percent": 95.0,
    "dropped_per_s": 12.3,
    "cpu_percent": 101.0,
    "memory_mb": 1234.0,
    "unmatched": 0,
    "restarts": 0,
}
STATS: dict[str, Any] = {
    "graph": "g",
    "state": "PLAYING",
    "playing_s": 100,
    "window_s": 2.0,
    "nodes": dict.fromkeys(NAMES, NODE),
    "paths": {},
    "edges": {},
}


def lines(table: RenderableType, width: int) -> list[str]:
    console = Console(width=width)
    with console.capture() as shown:
        console.print(table)
    return [line.rstrip() for line in shown.get().splitlines()]


def row(found: list[str], name: str) -> str:
    assert "…" not in "".join(found)
    return next(line for line in found if line.startswith(f"{name} ")).removeprefix(name).strip()


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (60, "processing 30.0 12.3 / 45.6 / 112 12.3"),
        (80, "processing 30.0 12.3 / 45.6 / 112 95 12.3 101 1234"),
        (100, "processing 30.0 12 12.3 / 45.6 12.3 / 45.6 / 112 95 12.3 101 1234"),
        (120, "processing 30.0 12 12.3 / 45.6 12.3 / 45.6 / 112 12.3 95 12.3 101 1234"),
    ],
)
def test_top(width: int, shown: str) -> None:
    found = lines(top.view(STATS, [], width), width)
    for name in NAMES:
        assert " ".join(row(found, name).split()) == shown


def test_the_rate_is_shown_in_any_terminal() -> None:
    found = lines(top.view(STATS, [], 20), 60)
    for name in NAMES:
        assert row(found, name) == "30.0"


def test_the_columns_of_top_do_not_depend_on_the_numbers() -> None:
    idle = NODE | {"state": "DONE", "fps": 0.0, "cpu_percent": 0.0, "memory_mb": 9.0, "wait_ms": None}
    found = lines(top.view(STATS | {"nodes": dict.fromkeys(NAMES, idle)}, [], 80), 80)
    assert row(found, "camera").split() == ["done", "0.0", "12.3", "/", "45.6", "/", "112", "95", "12.3", "0", "9"]


def test_a_busy_node_is_red() -> None:
    nodes = {"camera": NODE | {"busy_percent": 89.0}, "landmarks": NODE | {"busy_percent": 90.0}}
    console = Console(width=160, force_terminal=True, color_system="standard")
    with console.capture() as shown:
        console.print(top.view(STATS | {"nodes": nodes}, [], 160))
    [red] = [line for line in shown.get().splitlines() if "\x1b[1;31m" in line]
    assert "landmarks" in red


def test_top_shows_a_dash_for_counts_of_another_graph() -> None:
    far = NODE | {"queue": None, "dropped_per_s": None}
    edge = {"from": "other/eyes.faces", "to": "camera.faces", "policy": "latest", "dropped": None}
    stats = STATS | {"nodes": {"camera": far}, "edges": {"other/eyes.faces -> camera.faces": edge}}
    found = lines(top.view(stats, [], 120), 120)
    assert row(found, "camera").split()[:3] == ["processing", "30.0", "-"]
    assert row(found, "camera").split()[-4:] == ["95", "-", "101", "1234"]
    assert "dropped" not in "".join(found)


def test_top_shows_unmatched_inputs() -> None:
    nodes = {"smooth": NODE | {"unmatched": 1234}, "camera": NODE}
    found = [line for line in lines(top.view(STATS | {"nodes": nodes}, [], 160), 160) if "unmatched" in line]
    assert [line.split(":")[0] for line in found] == ["unmatched 1,234 inputs of smooth"]


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (40, ["30.0", "2.00"]),
        (60, ["30.0", "2.00", "2.00"]),
        (80, ["30.0", "2.00", "3.00", "2.00", "2.00"]),
        (100, ["30.0", "2.00", "3.00", "2.00", "2.00", "20"]),
        (120, ["30.0", "2.00", "3.00", "2.00", "2.00", "3.00", "20"]),
    ],
)
def test_compare(width: int, shown: list[str]) -> None:
    run = copy.deepcopy(RUN)
    run["nodes"] = dict.fromkeys(NAMES, RUN["nodes"]["camera"])
    run["capture_to_sink"] = {}
    found = lines(compare.report(run, run, width), width)
    for name in NAMES:
        assert row(found, name).replace(" → ", " ").split()[::2] == shown
