import numpy as np
import pytest

from graph import Faces
from nodes._expression import LEAST_EYE, Blinks, eye_widths, eyes_in, openness
from tests import portrait
from tests.bench.smoothing import blink_clip, ours_faces


def test_openness_is_the_opening_over_the_width_whatever_size_and_roll() -> None:
    landmarks = portrait.LANDMARKS
    found = openness(landmarks[None])[0]
    left = np.mean([np.hypot(0, 13), np.hypot(1, 13)]) / np.hypot(34, 2)
    assert found[0] == pytest.approx(left, abs=1e-4)
    assert found[2] < 0.03  # the portrait's mouth is closed
    cos, sin = np.cos(0.7), np.sin(0.7)
    turned = 2.5 * landmarks @ np.array([[cos, sin], [-sin, cos]]) + 40
    assert np.allclose(openness(turned[None])[0], found, atol=1e-4)
    assert openness(np.zeros((0, 68, 2))).shape == (0, 3)


def seen(values: list[float], closed: list[float] | None = None, fps: float = 30) -> list[int]:
    blinks = Blinks()
    probabilities = closed or [0.0] * len(values)
    return [blinks.see(i / fps, eyes, p) for i, (eyes, p) in enumerate(zip(values, probabilities, strict=True))]


@pytest.mark.parametrize("fps", [15, 30, 60])
def test_a_blink_counts_once_when_the_eyes_are_open_again(fps: int) -> None:
    shut = round(0.15 * fps)
    values = [0.3] * fps + [0.1] * shut + [0.3] * fps
    counts = seen(values, fps=fps)
    assert counts == [0] * (fps + shut) + [1] * fps


def test_closed_eyes_noise_and_a_look_down_are_not_blinks() -> None:
    for deviation in (0.005, 0.01, 0.03):
        noise = np.random.default_rng(0).normal(0, deviation, 1800)
        assert seen(list(0.3 + noise))[-1] == 0
    assert seen([0.3] * 30 + [0.1] * 30 + [0.3] * 30)[-1] == 0
    assert seen(list(np.linspace(0.3, 0.17, 60)) + [0.17] * 60)[-1] == 0
    assert seen([0.3] * 30 + [0.2] * 30)[-1] == 0


@pytest.mark.parametrize(("deviation", "fall"), [(0.006, 0.3), (0.01, 0.4), (0.03, 0.8)])
def test_blinks_that_stand_out_of_the_noise_are_counted(deviation: float, fall: float) -> None:
    """The network shows lids behind glasses, or closed for a single frame, as half open."""
    lids = np.ones(1800)
    for at in range(60, 1800, 90):
        lids[at : at + 5] -= fall * np.array((0.5, 1, 1, 1, 0.5))
    noise = np.random.default_rng(1).normal(0, deviation, 1800)
    assert seen(list(lids * (0.3 + noise)))[-1] == 20


def test_a_look_down_does_not_change_the_usual_opening() -> None:
    down = [0.3] * 30 + [0.2] * 30
    assert seen(down + [0.13] * 4 + [0.3] * 5)[-1] == 1


def test_eyes_that_are_half_open_for_a_moment_blink_once() -> None:
    assert seen([0.3] * 30 + [0.14, 0.16] * 4 + [0.3] * 5)[-1] == 1


def test_eyes_closed_for_long_do_not_change_the_usual_opening() -> None:
    asleep = [0.3] * 30 + [0.1] * 900
    assert seen(asleep + [0.05] * 4 + [0.1] * 30 + [0.3] * 5)[-1] == 0
    assert seen(asleep + [0.05] * 4 + [0.1] * 4 + [0.3] * 5)[-1] == 0, "waking up is not a blink"


def test_eyes_that_start_closed_and_the_probability_of_closed_eyes() -> None:
    assert seen([0.08] * 3 + [0.3] * 30 + [0.1] * 4 + [0.3] * 5)[-1] == 1
    assert seen([0.3] * 30 + [0.25] * 4 + [0.3] * 5, [0.0] * 30 + [0.9] * 4 + [0.0] * 5)[-1] == 1


def test_the_usual_opening_rises_fast_and_falls_slowly() -> None:
    """A blink only counts between open eyes: more than half of the usual opening."""
    blink = [0.16] * 60 + [0.04] * 4 + [0.13] * 5
    assert seen([0.14] * 5 + [0.3] * 20 + blink)[-1] == 0, "0.13 of 0.3 is not open"
    assert seen(blink)[-1] == 1, "0.13 of 0.16 is"


@pytest.mark.parametrize("at", [(16.4, 39.5), (82.8, 39.5), (49.5, 16.4), (49.5, 62.8)])
def test_an_eye_near_any_edge_of_the_picture_may_be_cut_off(at: tuple[float, float]) -> None:
    eye = portrait.LANDMARKS - portrait.LANDMARKS[36:42].mean(axis=0)  # 34 pixels wide
    both = np.stack([eye + np.array((49.5, 39.5)), eye + np.array(at)])
    assert eyes_in(both, (100, 80))[:, 0].tolist() == [True, False]


def test_every_blink_of_a_noisy_clip_is_counted() -> None:
    clip, closed = blink_clip(width=640, height=360)
    true = int(((closed[1:] > 0.5) & (closed[:-1] <= 0.5)).sum())
    assert true == 4
    last = ours_faces(clip)[-1]
    assert isinstance(last, Faces)
    assert last.blinks.tolist() == [true]
    assert 0.2 < last.openness[0, :2].mean() < 0.5


def test_eyes_that_are_too_small_show_no_blinks() -> None:
    clip, _ = blink_clip(width=240, height=136)
    assert eye_widths(clip.true[:1])[0] < LEAST_EYE
    last = ours_faces(clip)[-1]
    assert isinstance(last, Faces)
    assert last.blinks.tolist() == [0]
    assert eye_widths(portrait.LANDMARKS[None])[0] == pytest.approx(34.5, abs=0.5)
