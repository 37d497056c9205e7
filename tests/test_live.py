"""The measured live chain is the webcam's graph, and it runs."""

import pytest

from graph import config
from tests.bench.live import CHAIN, CONFIG, chain, judge, measure


def test_the_chain_is_that_of_the_webcam_without_drawing() -> None:
    webcam, made = config.load(CONFIG), chain(5, None, ["smooth.strength=2.0"])
    assert set(made.nodes) == set(CHAIN)
    for name in ("detector", "landmarks"):
        assert made.nodes[name] == webcam.nodes[name]
    assert made.nodes["smooth"].settings["strength"] == 2.0
    assert made.nodes["camera"].settings["copies"] == 5
    held = [edge.name for edge in made.edges if edge.join == "hold"]
    assert held == ["detector.faces -> landmarks.found"], "the detector is not waited for"
    assert all(edge.policy != "block" for edge in made.edges), "nobody holds up the camera"


def test_goals_are_judged() -> None:
    assert "meets 8" in judge(1, {"age.p50": 7.9, "age.p99": 20.1})
    assert "misses 20" in judge(1, {"age.p50": 7.9, "age.p99": 20.1})
    assert judge(3, {}) == ""


@pytest.mark.slow
def test_the_live_chain_runs_and_says_how_old_its_frames_are() -> None:
    found = measure(1, None, 2.0, [])
    assert found["fps"] > 0
    assert 0 < found["age.p50"] <= found["age.p95"] <= found["age.p99"]
    assert found["smooth.p50"] > 0
