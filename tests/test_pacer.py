"""Pictures that lie ready, given in real time."""

import time

import pytest

from nodes._pacer import LONG_GAP_S, Pacer


def test_pacer_starts_anew_where_timestamps_jump() -> None:
    pacer = Pacer()
    before = time.monotonic()
    for pts in (0.0, 1000.0, 1000.01, 3.0, 3.01):
        pacer.wait(pts)
    assert 0.02 <= time.monotonic() - before < LONG_GAP_S


def test_pacer_waits_for_pictures_that_are_asked_for_at_long_intervals() -> None:
    slept: list[float] = []
    for pacer in (Pacer(slept.append), Pacer(slept.append, fps=0.05)):
        pacer.wait(0.0)
        pacer.wait(20.0)
    assert slept == pytest.approx([0.0, 0.0, 0.0, 20.0], abs=0.1)


def test_pacer_goes_on_where_a_joined_clip_begins_anew() -> None:
    slept: list[float] = []
    pacer = Pacer(slept.append)
    for pts in (5.0, 5.2, 3.0, 3.2):
        pacer.wait(pts)
    assert slept == pytest.approx([0.0, 0.2, 0.0, 0.2], abs=0.1)


def test_pacer_does_not_make_up_for_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    pacer = Pacer(slept.append)
    for now, pts in ((100.0, 5.0), (100.1, 5.2), (103.0, 5.4), (103.0, 5.6), (103.4, 5.8), (103.5, 6.0)):
        monkeypatch.setattr(time, "monotonic", lambda now=now: now)
        pacer.wait(pts)
    assert slept == pytest.approx([0.0, 0.1, 0.0, 0.2, 0.0, 0.1]), "a little is made up for"
