"""How much of detections and of the flow is believed, on motion and noise that are made up and so known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from nodes._flow import Tracked, crop, track
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
    similarity,
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


def followed(jitter: float, rate: float = 30) -> NDArray[np.float64]:
    """Return (68,) the share of a detection's small difference that is followed where the flow sees that all is still.

    The reciprocal is the number of detections that are averaged.
    """
    memory, away = begin(seen(FACE, jitter)), np.array([0.5 * jitter * SIZE, 0])
    for _ in range(90):
        step(memory, seen(FACE, jitter), True, 1 / rate)
    return (step(memory, seen(FACE + away, jitter), True, 1 / rate) - FACE)[:, 0] / away[0]


def test_with_flow_about_ten_detections_are_averaged_in_eyes_and_mouth_and_twenty_elsewhere() -> None:
    averaged = 1 / followed(TYPICAL)
    assert 8 < averaged[EYES].mean() < 13 and 8 < averaged[MOUTH].mean() < 13
    assert 16 < averaged[OUTLINE].mean() < 25


@pytest.mark.parametrize("rate", [15, 60])
def test_detections_are_averaged_over_the_same_time_at_other_rates(rate: float) -> None:
    assert followed(TYPICAL, rate) * rate == pytest.approx(followed(TYPICAL) * 30, rel=0.15)


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


@pytest.mark.parametrize("told", [1, 10])
def test_a_second_detection_counts_as_much_as_the_first_whatever_spread_is_told(told: float) -> None:
    memory, away = begin(seen(FACE, told * TYPICAL)), np.array([0.5 * TYPICAL * SIZE, 0])
    still = Prediction(memory.points, np.zeros((1, 68)), np.full(1, 1 / told**2))
    fuse(memory, still, seen(FACE + away, told * TYPICAL), 1 / 30, 1.0, True)
    assert (memory.points[0] - FACE)[EYES, 0].mean() / away[0] == pytest.approx(0.5, abs=0.05)


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
    def pulled(deviations: float, others: float = 0) -> float:
        raw, affinity = FACE[None] + np.array([others, 0]), begin(seen(FACE)).affinity
        raw[0, 30, 0] = FACE[30, 0] + deviations
        points, _ = correct(FACE[None], np.full((1, 68), 0.1), raw, np.full((1, 68), 0.9), affinity, False)
        return float(points[0, 30, 0] - FACE[30, 0])

    assert pulled(2) == pytest.approx(2 * pulled(1)) and 2.2 * pulled(1) < pulled(1000) < 4 * pulled(1)
    assert pulled(1000, others=1) < 4 * pulled(1)  # neighbours that agree on a little do not vouch for it


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


def predicted(
    before: NDArray[np.uint8], now: NDArray[np.uint8], last: Memory, face: Found
) -> tuple[Prediction, NDArray[np.bool_]]:
    """Predict one face from the flow between two pictures, looked for where it was."""
    old, new = (crop(image, face.boxes, [None]) for image in (before, now))
    tracked = list(map(Tracked, new, *track(old, new, last.points, last.points)))
    return predict_by_flow(last, tracked, face, similarity(last.raw, face.points, last.points))


def seen_again(before: NDArray[np.uint8], now: NDArray[np.uint8], points: NDArray[np.float32]) -> bool:
    """Say whether a face that stays at its points is known again in the next picture."""
    face = found(faces(points[None]))
    return bool(predicted(before, now, begin(face), face)[1][0])


@pytest.mark.parametrize(("covered", "again"), [(0.4, True), (0.7, False)])
def test_a_face_goes_on_while_two_fifths_of_its_points_are_seen_again(covered: float, again: bool) -> None:
    (before, now), points = still_picture(frames=2)
    now = now.copy()
    now[int(np.quantile(points[:, 1], 1 - covered)) :] = 90
    assert seen_again(before, now, points) == again


def test_a_face_is_not_seen_again_in_its_mirror_image() -> None:
    (before,), points = still_picture()
    assert not seen_again(before, np.roll(before[:, ::-1], 40, 1), points)


@pytest.mark.parametrize(("part", "share"), [(slice(17, 27), (0, 0.1)), (EYES, (0.17, 0.4)), (MOUTH, (0.17, 0.4))])
def test_flow_is_believed_less_of_eyes_and_mouths_that_move_within_the_face(
    part: slice, share: tuple[float, float]
) -> None:
    (before,), points = still_picture()
    now, moved = before.copy(), points.copy()
    (left, top), (right, bottom) = points[part].min(0).astype(int) - 12, points[part].max(0).astype(int) + 12
    now[top + 3 : bottom + 3, left:right] = before[top:bottom, left:right]
    moved[part, 1] += 3
    last, face = begin(found(faces(points[None]))), found(faces(moved[None]))
    doubt = np.median(np.sqrt(2 * predicted(before, now, last, face)[0].variance[0, part])) / 3
    assert share[0] <= doubt < share[1]


def test_a_small_face_in_a_grainy_picture_is_seen_again() -> None:
    (before, now), points = still_picture(frames=2, size=0.3, noise=20.0)
    assert seen_again(before, now, points)


def test_without_flow_points_are_half_a_frame_late_where_movement_is_half_believed() -> None:
    random, speed = np.random.default_rng(0), 2.2 * TYPICAL * SIZE
    memory, late = begin(seen(FACE)), []
    for frame in range(1, 61):
        there = FACE + np.array([frame * speed, 0])
        noisy = there + random.normal(0, TYPICAL * SIZE, FACE.shape)
        late.append((there - step(memory, seen(noisy), False))[:, 0].mean() / speed)
    assert np.mean(late[20:]) < 0.55
