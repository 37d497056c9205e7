"""The numbers of real runs compared with known values."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.graphs import Graph, node


def profiled(folder: Path, nodes: dict[str, Any], *arguments: str, **rest: Any) -> dict[str, Any]:
    """Run a graph to its end; return its latency.json."""
    with Graph(folder, {"name": "profiled", "nodes": nodes, **rest}, "run", "--profile", "out", *arguments) as graph:
        assert graph.wait() == 0, graph.text()
    summary: dict[str, Any] = json.loads((folder / "out" / "latency.json").read_text())
    return summary


@pytest.mark.slow
def test_the_latency_is_the_sum_of_wait_and_process_on_the_path(tmp_path: Path) -> None:
    """Most of it is queueing: the source is much faster than the rest."""
    nodes = {
        "source": node("Source", frames=30),
        "slow": node("Copy", {"frame": "source.frame"}, pause=0.01),
        "end": node("Write", {"frame": "slow.copied"}),
    }
    summary = profiled(tmp_path, nodes)
    parts = [summary["nodes"][name][time]["mean"] for name in ("slow", "end") for time in ("wait_ms", "process_ms")]
    way = summary["capture_to_sink"]["end"]["mean"]
    assert summary["edges"]["source.frame -> slow.frame"]["queue_peak"] >= 1
    assert sum(parts) + summary["nodes"]["end"]["publish_ms"]["mean"] == pytest.approx(way, abs=0.001)


@pytest.mark.slow
def test_a_node_that_drains_is_not_blocked(tmp_path: Path) -> None:
    nodes = {"source": node("Source", frames=2), "slow": node("Copy", {"frame": "source.frame"}, pause=0.5)}
    source = profiled(tmp_path, nodes)["nodes"]["source"]
    states = [*source["states_percent"]]
    assert states == ["CLOSING", "DRAINING", "PROCESSING"], "the queue has room for both frames"


@pytest.mark.slow
def test_drawing_without_a_cache_folder_logs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    profiled(tmp_path, {"source": {"type": "nodes.source:TestSource", "settings": {"frames": 2}}})
    log = (tmp_path / "profiled.log").read_text()
    assert "source" in log and "matplotlib" not in log.lower() and "font" not in log
