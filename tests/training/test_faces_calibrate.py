from pathlib import Path

import numpy as np
import pytest
import torch

from training.faces_calibrate import TILT, Score, calibrate, examples, fit, fold, tilted
from training.faces_data import Picture
from training.faces_net import FaceNet
from training.faces_task import torch_maps


def test_fit_recovers_the_true_weights():
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (20000, 3))
    logit = 2 * values[:, 0] - 1 * values[:, 1] + 0.5 * values[:, 2] - 1
    right = rng.random(20000) < 1 / (1 + np.exp(-logit))
    found = fit(values, right)
    assert (found.slope, found.width, found.height, found.shift) == pytest.approx((2, -1, 0.5, -1), abs=0.15)


def test_too_few_examples_change_nothing():
    assert fit(np.zeros((1000, 3)), np.arange(1000) < 5) == Score()
    assert fit(np.zeros((0, 3)), np.zeros(0, bool)) == Score()


def test_fit_stays_finite_for_separable_examples():
    values = np.linspace(-3, 3, 200)[:, None] * [1, 0, 0]
    assert np.isfinite(list(vars(fit(values, values[:, 0] > 0)).values())).all()


def test_a_folded_network_outputs_the_calibrated_logit():
    torch.manual_seed(0)
    network = FaceNet().eval()
    image = np.random.default_rng(0).normal(0, 1, (1, 3, 64, 64)).astype(np.float32)
    before = torch_maps(network)(image)
    scores = [Score(2, 0.3, -0.5, 1), Score(), Score(0.5, 0, 2, -3)]
    fold(network, scores)
    for old, new, score in zip(before, torch_maps(network)(image), scores, strict=True):
        expected = score.slope * old[0] + score.width * old[3] + score.height * old[4] + score.shift
        np.testing.assert_allclose(new[0], expected, atol=1e-4)
        np.testing.assert_array_equal(new[1:], old[1:])


def one_cell(logit, log_side):
    maps = [np.full((15, 64 // s, 64 // s), -20, np.float32) for s in (8, 16, 32)]
    maps[0][:, 3, 3] = [logit, 0, 0, log_side, log_side, *[0] * 10]
    return lambda _: maps


def picture(boxes, ignored=False):
    image = np.zeros((64, 64, 3), np.uint8)
    return Picture(Path("p"), "p", np.array(boxes, np.float32).reshape(-1, 4), np.full(len(boxes), ignored), image)


def test_examples_on_faces_are_right_and_those_on_ignored_faces_left_out():
    at = (23.5, 23.5, 31.5, 31.5)
    maps = one_cell(1.0, 0.0)
    for boxes, ignored, expected in (([at], False, [True]), ([(50, 50, 60, 60)], False, [False]), ([], False, [False]),
                                     ([at], True, [])):
        (values, right), (none, _), _ = examples(maps, [picture(boxes, ignored)], (64, 64))
        assert right.tolist() == expected and len(none) == 0
        np.testing.assert_allclose(values, np.array([[1.0, 0, 0]])[: len(expected)], atol=1e-5)


def test_examples_count_sides_in_strides_and_an_overlap_of_a_half_as_right():
    maps = [np.full((15, 64 // s, 64 // s), -20, np.float32) for s in (8, 16, 32)]
    maps[1][:, 1, 1] = [1, 0, 0, np.log(2), 0, *[0] * 10]  # 32 x 16 px about 23.5, 23.5
    box = np.array((7.5, 15.5, 39.5, 31.5))
    for share, expected in ((0.55, True), (0.45, False)):
        part = box - [0, 0, 32 * (1 - share), 0]
        _, (values, right), _ = examples(lambda _: maps, [picture([part])], (64, 64))
        np.testing.assert_allclose(values, [[1, np.log(2), 0]], atol=1e-5)
        assert right.tolist() == [expected]
    part = box - [0, 0, 32 * 0.6, 0]  # an overlap of 0.4 is not right, but enough to ignore it
    assert len(examples(lambda _: maps, [picture([part], True)], (64, 64))[1][1]) == 0
    maps[1][:, 1, 2] = [0.5, -1, 0, np.log(2), 0, *[0] * 10]  # its neighbour gives the same box
    both, last = (examples(lambda _: maps, [picture([box])], (64, 64), survivors=only)[1][1] for only in (False, True))
    assert both.tolist() == [True, True] and last.tolist() == [True]


def test_fit_changes_less_with_fewer_examples():
    values, right = np.zeros((80, 3)), np.arange(80) < 40
    assert vars(fit(values, right)) == pytest.approx(vars(Score()), abs=1e-6)
    parted = fit(np.linspace(-3, 3, 200)[:, None] * [1, 0, 0], np.arange(200) >= 100)
    assert parted.slope < 30  # without the regularisation it would grow without limit
    assert np.isfinite(list(vars(fit(np.linspace(-900, 900, 200)[:, None] * [1, 0, 0], np.arange(200) >= 100))
                            .values())).all()


def test_with_too_few_examples_only_the_tilt_is_folded():
    network = FaceNet().eval()
    found = calibrate(network, one_cell(1.0, 0.0), [picture([])], (64, 64))
    assert found == [tilted(Score(), stride) for stride in (8, 16, 32)]


def test_calibrate_folds_what_it_fits_and_reports_it():
    torch.manual_seed(0)
    rng, network = np.random.default_rng(0), FaceNet().eval()
    maps = [np.full((15, 64 // s, 64 // s), -20, np.float32) for s in (8, 16, 32)]
    maps[0][:] = 0
    maps[0][0], maps[0][3:5] = rng.normal(0, 1.5, (8, 8)), rng.normal(0, 0.2, (2, 8, 8))
    corners = np.stack(np.meshgrid(range(8), range(8)), -1).reshape(-1, 2) * 8 - 0.5
    right = rng.random((6, 64)) < 1 / (1 + np.exp(-2 * maps[0][0].reshape(-1)))
    pictures = [picture(np.concatenate((corners, corners + 8), 1)[faces]) for faces in right]
    image = np.random.default_rng(0).normal(0, 1, (1, 3, 64, 64)).astype(np.float32)
    before = torch_maps(network)(image)
    scores = calibrate(network, lambda _: maps, pictures, (64, 64))
    assert scores[0].slope > 1.2 * scores[1].slope  # the others had too few examples
    for old, new, score in zip(before, torch_maps(network)(image), scores, strict=True):
        expected = score.slope * old[0] + score.width * old[3] + score.height * old[4] + score.shift
        np.testing.assert_allclose(new[0], expected, atol=1e-4)


def test_the_tilt_raises_tall_boxes_alike_at_every_stride():
    def raised(stride, height):
        score = tilted(Score(2, 0.5, -1, 3), stride)
        return score.height * np.log(height / stride) + score.shift - (3 - np.log(height / stride))

    for stride in (8, 16, 32):
        assert raised(stride, 16) == pytest.approx(0, abs=1e-6)
        assert raised(stride, 48) == pytest.approx(TILT * np.log(3))
