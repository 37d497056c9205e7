"""Pictures delivered in real time."""

import time

import pytest

from graph import waiting
from nodes._pacer import Pacer


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """All sleeps, on a clock that only they advance."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(time, "monotonic", lambda: 100.0 + sum(slept))
    return slept


def left(pacer: Pacer, *moments: float) -> list[float]:
    return [pacer.left_s(pts) for pts in moments]


def test_pacer_restarts_where_timestamps_jump() -> None:
    assert left(Pacer(), 0.0, 1000.0, 1000.01, 3.0, 3.01) == pytest.approx([0.0, 0.0, 0.01, 0.0, 0.01])


def test_pacer_waits_for_pictures_requested_at_long_intervals() -> None:
    assert left(Pacer(), 0.0, 20.0) == [0.0, 0.0]
    assert left(Pacer(fps=0.05), 0.0, 20.0) == [0.0, 20.0]


def test_pacer_continues_where_a_joined_clip_starts() -> None:
    assert left(Pacer(), 5.0, 5.2, 3.0, 3.2) == pytest.approx([0.0, 0.2, 0.0, 0.2])


def test_pacer_does_not_catch_up_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    pacer, found = Pacer(), []
    for now, pts in ((100.0, 5.0), (100.1, 5.2), (103.0, 5.4), (103.0, 5.6), (103.4, 5.8), (103.5, 6.0)):
        monkeypatch.setattr(time, "monotonic", lambda now=now: now)
        found.append(pacer.left_s(pts))
    assert found == pytest.approx([0.0, 0.1, 0.0, 0.2, 0.0, 0.1]), "a short delay is caught up"


@pytest.mark.parametrize(
    ("seconds", "pieces"), [(1.25, [0.5, 0.5, 0.25]), (0.5, [0.5]), (0.01, [0.01]), (0.0, [0.0]), (-1.0, [0.0])]
)
def test_a_long_wait_consists_of_many_pauses(seconds: float, pieces: list[float], slept: list[float]) -> None:
    assert [*waiting(seconds)] == [None] * (len(pieces) - 1)
    assert slept == pytest.approx(pieces)
