"""The shape of a head from many views."""

import numpy as np

from tests.test_pose import rotation
from training.head_shape import EYE_CORNERS, FIRST, FRONTAL, head_shape, products
from training.landmark_data import MIRROR


def test_recovers_a_head_from_views_of_it() -> None:
    rng = np.random.default_rng(3)
    head = rng.normal([0, 0, -4], 3, (68, 3))
    head = (head + head[MIRROR] * [-1, 1, 1]) / 2
    head[list(FRONTAL)] = list(FRONTAL.values())
    turns = np.array([rotation(*angles) for angles in rng.normal(0, [12, 20, 15], (50, 3))])
    views = (head @ turns.transpose(0, 2, 1))[..., :2] * rng.uniform(20, 90, (50, 1, 1))
    views += rng.uniform(100, 900, (50, 1, 2)) + rng.normal(0, 1.5, views.shape)
    truth = head[FIRST:] * EYE_CORNERS / np.linalg.norm(head[45] - head[36])
    found = head_shape(views)
    moved = found - found.mean(0) + truth.mean(0)
    assert np.abs(moved - truth).max() < 2.5, "millimetres"
    assert found[30 - FIRST, 0] == 0


def test_products_are_a_quadratic_form() -> None:
    rng = np.random.default_rng(0)
    x, y, half = rng.normal(size=(2, 3)), rng.normal(size=(2, 3)), rng.normal(size=(3, 3))
    form = half + half.T
    np.testing.assert_allclose(products(x, y) @ form[np.triu_indices(3)], np.einsum("fi,ij,fj->f", x, form, y))
