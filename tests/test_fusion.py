"""How much of detections and of the flow is believed, on motion and noise that are made up and so known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from nodes._flow import crop
from nodes._fusion import (
    Found,
    Memory,
    Prediction,
    begin,
    correct,
    found,
    fuse,
    learn_noise,
    predict_by_detection,
    predict_by_flow,
)
from tests.portrait import LANDMARKS, faces, still_picture

FACE = LANDMARKS.astype(np.float64)
SIZE = float(found(faces(LANDMARKS[None])).sizes[0, 0])
OUTLINE, EYES, MOUTH = slice(36), slice(36, 48), slice(48, 68)
TYPICAL = 0.003
"""Jitter of a network's points per axis, in face sizes."""


def seen(points: NDArray[np.float64], jitter: float = TYPICAL) -> Found:
    """Return one face at these points (68, 2), each of which is said to jitter so."""
    return found(faces(points[None].astype(np.float32), np.float32(jitter * SIZE)))


def step(memory: Memory, now: Found, by_flow: bool, elapsed: float = 1 / 30) -> NDArray[np.float64]:
    """Take in one more detection, with a flow that is sure that nothing has moved, or none; return the points."""
    still = Prediction(memory.points, np.zeros((1, 68)), np.ones(1))
    fuse(memory, still if by_flow else predict_by_detection(memory, now, elapsed), now, elapsed, 1.0, by_flow)
    memory.raw = now.points
    return memory.points[0]


def settled(by_flow: bool, jitter: float = TYPICAL) -> Memory:
    """Return the memory of a face that has been still for three seconds."""
    memory = begin(seen(FACE, jitter))
    for _ in range(90):
        step(memory, seen(FACE, jitter), by_flow)
    return memory


def followed(jitter: float) -> NDArray[np.float64]:
    """Return (68,) the share of a detection's small difference that is followed where the flow sees that all is still.

    The reciprocal is the number of detections that are averaged.
    """
    memory, away = settled(True, jitter), 0.5 * jitter * SIZE
    return (step(memory, seen(FACE + np.array([away, 0]), jitter), True) - FACE)[:, 0] / away


def test_with_flow_about_ten_detections_are_averaged_in_eyes_and_mouth_and_twenty_elsewhere() -> None:
    averaged = 1 / followed(TYPICAL)
    assert 8 < averaged[EYES].mean() < 13 and 8 < averaged[MOUTH].mean() < 13
    assert 16 < averaged[OUTLINE].mean() < 25


def test_detections_that_hardly_jitter_are_averaged_little_and_never_believed_wholly() -> None:
    share = followed(2e-5)
    assert 0.3 < share[EYES].mean() < 0.6


def test_without_flow_about_three_detections_are_averaged() -> None:
    random = np.random.default_rng(0)
    memory, left = begin(seen(FACE)), []
    for _ in range(150):
        noisy = FACE + random.normal(0, TYPICAL * SIZE, FACE.shape)
        left.append(step(memory, seen(noisy), False) - FACE)
    calm = np.std(left[30:]) / (TYPICAL * SIZE)
    assert 0.38 < calm < 0.54  # of n detections: 1 / sqrt(2 n - 1), which is 0.45 for three


@pytest.mark.parametrize("rate", [15, 60])
def test_noise_is_measured_over_half_a_second_at_any_rate(rate: int) -> None:
    memory = begin(seen(FACE))
    for ratio in (1.0, *[np.e**2] * (rate // 2)):
        learn_noise(memory, np.array([ratio]), 1 / rate)
    assert np.log(memory.noise[0]) / 2 == pytest.approx(1 - np.exp(-1), abs=0.03)


@pytest.mark.parametrize(("part", "by_flow", "gate"), [
    (OUTLINE, True, 40), (EYES, True, 6), (MOUTH, True, 9), (OUTLINE, False, 9), (EYES, False, 9), (MOUTH, False, 9),
])  # fmt: skip
def test_what_neighbours_agree_on_is_followed_beyond_chance_alone(part: slice, by_flow: bool, gate: float) -> None:
    def share(squared: float) -> float:
        """Return how much is followed of a move of all points by so many variances."""
        memory = begin(seen(FACE))
        moved, certain, noise = np.sqrt(squared), np.full((1, 68), 0.01), np.full((1, 68), 0.99)
        raw = FACE[None] + np.array([moved, 0])
        points, _ = correct(FACE[None], certain, raw, noise, memory.affinity, by_flow)
        return float((points[0] - FACE)[part, 0].mean() / moved)

    assert share(0.7 * gate) < 0.03 and share(1.5 * gate) > 0.5


def test_a_lone_point_pulls_no_more_than_three_standard_deviations_do() -> None:
    def pulled(deviations: float) -> float:
        raw, affinity = FACE[None].copy(), begin(seen(FACE)).affinity
        raw[0, 30, 0] += deviations
        points, _ = correct(FACE[None], np.full((1, 68), 0.1), raw, np.full((1, 68), 0.9), affinity, False)
        return float(points[0, 30, 0] - FACE[30, 0])

    assert pulled(2) == pytest.approx(2 * pulled(1)) and 2.2 * pulled(1) < pulled(1000) < 4 * pulled(1)


def test_without_flow_slow_movement_is_taken_for_noise_and_fast_movement_is_believed() -> None:
    def believed(deviations: float) -> float:
        """Return the share of a movement by so many standard deviations of a detection per frame that is predicted."""
        memory, points = begin(seen(FACE)), FACE
        memory.noise[:] = 1
        for _ in range(30):
            points = memory.raw[0] + np.array([deviations * TYPICAL * SIZE, 0])
            predicted = predict_by_detection(memory, seen(points), 1 / 30)
            share = (predicted.points - memory.points)[0, 0, 0] / (deviations * TYPICAL * SIZE)
            memory.raw = memory.points = points[None]
        return float(share)

    assert believed(0.7) < 0.2 and 0.35 < believed(2.2) < 0.65 and believed(7) > 0.8


def seen_again(before: NDArray[np.uint8], now: NDArray[np.uint8], points: NDArray[np.float32]) -> bool:
    """Say whether a face that stays at its points is known again in the next picture."""
    face = found(faces(points[None]))
    crops = [crop(image, face.boxes, [None]) for image in (before, now)]
    return bool(predict_by_flow(begin(face), *crops, face)[1][0])


@pytest.mark.parametrize(("covered", "again"), [(0.4, True), (0.7, False)])
def test_a_face_goes_on_while_two_fifths_of_its_points_are_seen_again(covered: float, again: bool) -> None:
    (before, now), points = still_picture(frames=2)
    now = now.copy()
    now[int(np.quantile(points[:, 1], 1 - covered)) :] = 90
    assert seen_again(before, now, points) == again


def test_a_small_face_in_a_grainy_picture_is_seen_again() -> None:
    (before, now), points = still_picture(frames=2, size=0.3, noise=20.0)
    assert seen_again(before, now, points)
