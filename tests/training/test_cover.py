"""Glasses, masks and hands cover the right parts of faces and nothing else."""

import numpy as np
import pytest

from tests.training.faces68 import points68
from training import cover
from training.metrics import REGIONS

POINTS = (points68() * 55 + 80).astype(np.float32)
GREY = np.full((160, 160, 3), 120, np.uint8)


def changed(image: np.ndarray, region: str) -> float:
    """Share of a region's points at which the grey crop has another colour now."""
    x, y = POINTS[REGIONS[region]].round().astype(int).clip(0, 159).T
    return float((np.abs(image[y, x].astype(int) - 120).max(1) > 8).mean())


@pytest.mark.parametrize(("draw", "over", "beside"), [(cover.glasses, "eyes", "mouth"), (cover.mask, "mouth", "eyes")])
def test_glasses_and_masks_sit_where_people_wear_them(draw, over: str, beside: str) -> None:
    seen = [draw(np.random.default_rng(seed), GREY, POINTS) for seed in range(30)]
    assert np.mean([changed(image, over) for image in seen]) > 0.5
    assert max(changed(image, beside) for image in seen) == 0


def test_a_hand_covers_a_part_of_the_face() -> None:
    lit = (GREY * np.linspace(0.5, 1.2, 160)[:, None, None]).astype(np.uint8)  # on an even grey, no hand would show
    shares = [(cover.hand(np.random.default_rng(seed), lit, POINTS) != lit).any(2).mean() for seed in range(30)]
    assert min(shares) > 0.005 and max(shares) < 0.5


def test_everything_is_worn_and_the_picture_given_stays() -> None:
    before = GREY.copy()
    seen = [cover.cover(np.random.default_rng(seed), GREY, POINTS) for seed in range(12)]
    assert len({image.tobytes() for image in seen}) == 12
    assert all(image.dtype == np.uint8 and image.shape == GREY.shape for image in seen)
    assert np.array_equal(GREY, before)
    assert np.array_equal(seen[3], cover.cover(np.random.default_rng(3), GREY, POINTS))


def test_points_beyond_the_crop_do_no_harm() -> None:
    for seed in range(40):
        cover.cover(np.random.default_rng(seed), GREY, POINTS * 3 - 150)
