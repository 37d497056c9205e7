import numpy as np
import pytest

from nodes._boxes import overlaps
from training.faces_metric import Detected, curve, match, operating_point


def picture(boxes=(), scores=(), truth=(), ignored=None):
    truth = np.array(truth, np.float32).reshape(-1, 4)
    return Detected(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), truth, truth[:, 3] - truth[:, 1],
        np.zeros(len(truth), bool) if ignored is None else np.array(ignored, bool),
    )


A, B, SMALL, NOWHERE = (0, 0, 40, 40), (100, 0, 140, 40), (0, 100, 10, 110), (200, 200, 240, 240)


def test_all_found_is_one():
    assert curve([picture([A, B], [0.9, 0.8], [A, B])], 0).average == pytest.approx(1)


def test_nothing_found_and_nothing_there_are_zero():
    assert curve([picture(truth=[A])], 0).average == 0
    assert curve([picture()], 0).average == 0
    assert curve([], 0).average == 0


def test_a_false_alarm_costs_by_its_rank():
    # First found at precision 1, second at precision 2/3 after the false alarm: 0.5 * 1 + 0.5 * 2/3.
    assert curve([picture([A, NOWHERE, B], [0.9, 0.8, 0.7], [A, B])], 0).average == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert curve([picture([A, B, NOWHERE], [0.9, 0.8, 0.7], [A, B])], 0).average == pytest.approx(1)


def test_precision_is_made_monotone():
    # Ranks: false, true, true: precision 0, 1/2, 2/3 becomes 2/3 throughout.
    assert curve([picture([NOWHERE, A, B], [0.9, 0.8, 0.7], [A, B])], 0).average == pytest.approx(2 / 3)


def test_a_second_detection_of_a_face_is_a_false_alarm():
    hits, counts = match(picture([A, A], [0.9, 0.8], [A]), np.array([True]))
    assert hits.tolist() == [0, -1] and counts.all()


def test_ignored_and_too_small_faces_count_neither_way():
    scene = picture([SMALL, A, NOWHERE], [0.9, 0.8, 0.7], [SMALL, A])
    assert curve([scene], 20).average == pytest.approx(1)
    assert curve([picture([SMALL, A], [0.9, 0.8], [SMALL, A], [True, False])], 0).average == pytest.approx(1)
    assert curve([picture([A], [0.9], [SMALL, A], [True, False])], 0).average == pytest.approx(1)
    assert scene.at_least(40).tolist() == [False, True] and not scene.at_least(40.1).any()
    hits, counts = match(scene, scene.at_least(20))
    assert hits.tolist() == [-1, 1, -1] and counts.tolist() == [False, True, True]


def test_an_overlap_of_a_half_counts_and_less_does_not():
    assert match(picture([(0, 0, 20, 40)], [0.9], [A]), np.array([True]))[0].tolist() == [0]
    assert match(picture([(0, 0, 19, 40)], [0.9], [A]), np.array([True]))[0].tolist() == [-1]


def test_pictures_share_one_ranking():
    high = picture([NOWHERE], [0.95], [A])
    low = picture([A], [0.9], [A])
    assert curve([high, low], 0).average == pytest.approx(0.5 * 0.5)
    assert operating_point([high, low], 0, 0.92) == (0.0, 0.0)
    assert operating_point([high, low], 0, 0.5) == (0.5, 0.5)


def test_agrees_with_counting_at_each_threshold():
    rng = np.random.default_rng(3)
    pictures = []
    for _ in range(15):
        corner = rng.uniform(0, 200, (6, 2))
        truth = np.concatenate((corner, corner + rng.uniform(10, 50, (6, 2))), 1)
        boxes = np.concatenate((truth + rng.normal(0, 4, truth.shape), truth[:3] + 30))
        pictures.append(picture(boxes, -np.sort(-rng.uniform(0, 1, 9)), truth, rng.random(6) < 0.2))
    found = curve(pictures, 15)
    for i in range(0, 1000, 37):
        precision, recall = operating_point(pictures, 15, np.nextafter(found.thresholds[i], 0))
        assert (found.precision[i], found.recall[i]) == pytest.approx((precision, recall))


def widers_own(pictures, size):
    """The average precision as the Python port of WIDER's evaluation computes it, step by step."""
    scores = np.concatenate([one.scores for one in pictures]).astype(np.float64)
    table, faces = np.zeros((1000, 2)), 0
    for one in pictures:
        counted = one.at_least(size)
        faces += counted.sum()
        found, proposal, recall = np.zeros(len(counted)), np.ones(len(one.boxes)), np.zeros(len(one.boxes))
        for h, row in enumerate(overlaps(one.boxes, one.truth)):
            face = row.argmax()
            if row[face] >= 0.5:
                if not counted[face]:
                    found[face] = proposal[h] = -1
                elif found[face] == 0:
                    found[face] = 1
            recall[h] = (found == 1).sum()
        scaled = (one.scores.astype(np.float64) - scores.min()) / (scores.max() - scores.min())
        for t in range(1000):
            last = np.flatnonzero(scaled >= 1 - (t + 1) / 1000)
            if len(last):
                table[t] += (proposal[: last[-1] + 1] == 1).sum(), recall[last[-1]]
    precision = np.concatenate(([0], table[:, 1] / np.maximum(table[:, 0], 1e-9), [0]))
    recall = np.concatenate(([0], table[:, 1] / faces, [1]))
    for i in range(len(precision) - 1, 0, -1):
        precision[i - 1] = max(precision[i - 1], precision[i])
    steps = np.where(recall[1:] != recall[:-1])[0]
    return ((recall[steps + 1] - recall[steps]) * precision[steps + 1]).sum()


@pytest.mark.parametrize("size", [8, 16, 32])
def test_agrees_with_widers_own_evaluation(size):
    rng, pictures = np.random.default_rng(5), []
    for _ in range(12):
        corner, sides = rng.uniform(0, 300, (7, 2)), np.exp(rng.uniform(np.log(5), np.log(60), (7, 2)))
        truth = np.concatenate((corner, corner + sides), 1)
        near = truth + rng.normal(0, 0.15, truth.shape) * np.tile(sides, 2)
        boxes = np.concatenate((near, truth[:3], truth[2:4] + 9))
        order = rng.permutation(len(boxes))
        pictures.append(picture(boxes[order], -np.sort(-rng.uniform(0.1, 0.9, len(boxes)) ** 2), truth,
                                rng.random(7) < 0.2))
    found = curve(pictures, size)
    assert found.average == pytest.approx(widers_own(pictures, size), abs=1e-6) and 0.2 < found.average < 0.8
    best, least = max(one.scores[0] for one in pictures), min(one.scores[-1] for one in pictures)
    assert found.thresholds[[0, -1]] == pytest.approx([best - (best - least) / 1000, least])
