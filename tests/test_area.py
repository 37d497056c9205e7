"""Squares of a frame in grey: subsampled, and with the edge repeated outside."""

import numpy as np
import pytest

from nodes._area import Area, samples, square

PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(
    ("x", "y"),
    [(20, 20), (0, 0), (-1, 20), (20, -1), (-30, -30), (90, 90)],
    ids=["inside", "in the corner", "left", "above", "far outside", "far outside at the other end"],
)
def test_samples_are_green_levels_with_the_edge_repeated_outside(x: int, y: int, stride: int) -> None:
    levels = samples(PICTURE, Area(x, y, 8, stride))
    across, down = np.clip(x + stride * np.arange(8), 0, 63), np.clip(y + stride * np.arange(8), 0, 47)
    np.testing.assert_array_equal(levels, PICTURE[down][:, across, 1])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("beyond", [0, 1])
def test_a_square_may_end_at_or_beyond_the_right_and_lower_edge(stride: int, beyond: int) -> None:
    side = 8 * stride
    for x, y in ((64 - side + beyond, 20), (20, 48 - side + beyond)):
        levels = samples(PICTURE, Area(x, y, 8, stride))
        across, down = np.minimum(x + stride * np.arange(8), 63), np.minimum(y + stride * np.arange(8), 47)
        np.testing.assert_array_equal(levels, PICTURE[down][:, across, 1])


def test_samples_do_not_change_with_the_picture() -> None:
    picture = PICTURE.copy()
    found = [samples(picture, Area(4, 4, 8, stride)) for stride in (1, 2)]
    before = [levels.copy() for levels in found]
    picture[:] = 0
    for levels, kept in zip(found, before, strict=True):
        np.testing.assert_array_equal(levels, kept)


@pytest.mark.parametrize(("side", "count", "stride"), [(30.0, 30, 1), (99.0, 49, 2), (150.0, 50, 3), (1.0, 8, 1)])
def test_a_square_is_centred_and_subsampled(side: float, count: int, stride: int) -> None:
    area = square(100.0, 50.0, side, 40)
    assert (area.samples, area.stride, area.length) == (count, stride, count * stride)
    assert abs(area.x + area.length / 2 - 100) <= 0.5 and abs(area.y + area.length / 2 - 50) <= 0.5
