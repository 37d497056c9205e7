"""Drawings of a running graph."""

from itertools import count
from pathlib import Path
from typing import Any

import pytest

from graph.draw import StateDrawings, to_dot, to_mermaid
from graph.spec import EdgeSpec, GraphSpec, NodeSpec

EDGES = (EdgeSpec("camera.frame", "copy.frame", "latest", 1), EdgeSpec("other/eyes.faces", "copy.faces", join="hold"))
SPEC = GraphSpec("g", "other", {name: NodeSpec(name, f"toys:{name.title()}") for name in ("camera", "copy")}, EDGES, "")


@pytest.fixture
def stats() -> dict[str, Any]:
    lost = {"rate": 20.0, "dropped_per_s": 9.5}
    return {
        "state": "PLAYING",
        "nodes": {
            "camera": {"state": "PROCESSING", "fps": 29.5, "process_ms": {"p50": 33.3}},
            "copy": {"state": "FAILED", "fps": 0.0, "process_ms": None},
        },
        "edges": {
            EDGES[0].name: lost,
            EDGES[1].name: {"rate": None, "dropped_per_s": None},
            'camera.frame -> my "eye".frame': {"from": "camera.frame", "to": 'my "eye".frame'} | lost,
        },
    }


def test_dot_of_a_running_graph(stats: dict[str, Any]) -> None:
    assert to_dot(SPEC, stats).splitlines()[1:] == [
        '  graph [rankdir=LR, label="g: playing", labelloc=t, fontname="Helvetica"];',
        '  node [shape=box, style="rounded,filled", fillcolor="#eef2f7", color="#5b6b7f", fontname="Helvetica"];',
        '  edge [color="#5b6b7f", fontname="Helvetica", fontsize=10];',
        '  "camera" [label="camera\\nCamera\\nprocessing, 29.5 fps\\n33.3 ms"];',
        '  "copy" [label="copy\\nCopy\\nfailed", fillcolor="#fed7d7"];',
        '  "other/eyes" [style="rounded,dashed"];',
        '  "my??eye?" [style="rounded,dashed"];',
        '  "camera" -> "copy" [label="frame\\nlatest\\n20.0 per s, 9.5 dropped", style=dashed, color="#c05621"];',
        '  "other/eyes" -> "copy" [label="faces\\nblock 4, hold", style=solid];',
        '  "camera" -> "my??eye?" [label="frame\\n20.0 per s, 9.5 dropped", style=dotted];',
        "}",
    ]


def test_mermaid_of_a_running_graph(stats: dict[str, Any]) -> None:
    assert to_mermaid(SPEC, stats).splitlines() == [
        "flowchart LR",
        '  n0["camera<br/><small>Camera<br/>processing, 29.5 fps<br/>33.3 ms</small>"]',
        '  n1["copy<br/><small>Copy<br/>failed</small>"]',
        '  n2(["other/eyes"])',
        '  n3(["my??eye?"])',
        '  n0 -.->|"frame<br/>latest<br/>20.0 per s, 9.5 dropped"| n1',
        '  n2 -->|"faces<br/>block 4, hold"| n1',
        '  n0 -.->|"frame<br/>20.0 per s, 9.5 dropped"| n3',
    ]


def test_every_change_of_state_is_drawn_but_common_steps_once(
    tmp_path: Path, stats: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = count(100.0, 0.25)
    monkeypatch.setattr("graph.draw.time.monotonic", lambda: next(seconds))
    drawings = StateDrawings(tmp_path, SPEC)
    for graph, camera, copy in (
        ("STARTING", "NULL", "NULL"),
        ("STARTING", "READY", "NULL"),
        ("STARTING", "READY", "READY"),
        ("STARTING", "READY", "LINKED"),
        ("PLAYING", "PLAYING", "PLAYING"),
        ("PLAYING", "PLAYING", "FAILED"),
    ):
        drawings.update(graph, {"camera": camera, "copy": copy}, lambda: stats)
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == [
        "000-0.250s-g-STARTING.dot",
        "001-0.500s-camera-READY.dot",
        "002-0.750s-copy-READY.dot",
        "003-1.000s-g-PLAYING.dot",
        "004-1.250s-copy-FAILED.dot",
    ]
