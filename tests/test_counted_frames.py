"""What counts as a frame in the table of a run, and as a message in the rate of an edge: not "nothing to say"."""

import json
from pathlib import Path
from typing import Any

import pytest

from graph.metrics import Meter
from graph.spec import EdgeSpec, GraphSpec, NodeSpec
from graph.stats import Stats
from tests.graphs import Graph, node, rows


@pytest.mark.slow
@pytest.mark.parametrize(("comes", "frames"), [(True, 10), (False, 0)])
def test_the_pauses_of_a_source_are_no_frames(tmp_path: Path, comes: bool, frames: int) -> None:
    camera, write = node("Camera", comes=comes), node("Write", {"frame": "camera.frame"}, path=str(tmp_path / "out"))
    config = {"name": "live", "nodes": {"camera": camera, "write": write}}
    with Graph(tmp_path, config, "run", "--profile", str(tmp_path / "profile")) as graph:
        assert graph.wait() == 0, graph.text()
    summary = json.loads((tmp_path / "profile" / "latency.json").read_text())
    assert {name: found["frames"] for name, found in summary["nodes"].items()} == {"camera": frames, "write": frames}
    assert [row[0] for row in rows(tmp_path / "out")] == list(range(frames)), "nor do they take a number"


@pytest.mark.slow
def test_a_source_that_waits_for_its_camera_is_not_at_work(tmp_path: Path) -> None:
    nodes = {name: node("Source", frames=10, pause=0.1, is_live=name == "live") for name in ("live", "file")}
    nodes |= {f"after_{name}": node("Write", {"frame": f"{name}.frame"}, path=name) for name in nodes}
    config = {"name": "two", "nodes": nodes}
    with Graph(tmp_path, config, "run", "--profile", str(tmp_path / "profile")) as graph:
        assert graph.wait() == 0, graph.text()
    found = json.loads((tmp_path / "profile" / "latency.json").read_text())["nodes"]
    assert found["live"]["process_ms"]["p50"] < 50 < found["file"]["process_ms"]["p50"]
    assert found["live"]["states_percent"]["WAITING"] > found["live"]["states_percent"]["PROCESSING"]
    assert "WAITING" not in found["file"]["states_percent"]


def test_the_rate_of_an_edge_is_that_of_messages() -> None:
    edges = (EdgeSpec("a.often", "b.often"), EdgeSpec("a.seldom", "b.seldom"))
    nodes = {name: NodeSpec(name, f"tests.toys:{name}") for name in "ab"}
    stats, meter = Stats(GraphSpec("g", None, nodes, edges, "g.yaml")), Meter(trace=False)
    stats.take("a", meter.snapshot())
    for seq in range(10):
        meter.frame(seq, 1, 2, 3, 4, 0)
        meter.said("often")
    meter.said("seldom")
    meter.drop("a.often -> b.often", 5)
    stats.take("a", meter.snapshot())
    found: dict[str, Any] = stats.summary(dict.fromkeys("ab", "PLAYING"), dict.fromkeys("ab", 0))["edges"]
    often, seldom = (found[edge.name]["rate"] for edge in edges)
    assert often == pytest.approx(5 * seldom, rel=0.01)
