import numpy as np
import pytest

from nodes._geometry import landmark_roll
from tests.training.faces68 import draw
from training import augment
from training.landmark_data import cut_face


@pytest.mark.parametrize("seed", range(8))
def test_points_stay_on_their_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image, points = cut_face(*draw(rng, 300))
    view = augment.draw_view(rng, points, 160)
    seen = augment.cut_view(rng, image, view.matrix, 160)
    moved = view.points(points)
    for eye in (slice(36, 42), slice(42, 48)):
        x, y = moved[eye].mean(0).round().astype(int)
        assert seen[y, x].max() < 90
    left, right, mouth = moved[36:42].mean(0), moved[42:48].mean(0), moved[48:60].mean(0)
    across, down = right - left, mouth - (left + right) / 2
    assert across[0] * down[1] - across[1] * down[0] > 0, "a mirrored face must have its names exchanged"


def test_every_other_view_that_is_not_mild_is_in_perspective() -> None:
    rng = np.random.default_rng(0)
    _, points = cut_face(*draw(rng, 300))
    wild, mild = ([augment.draw_view(rng, points, 160, mild).matrix for _ in range(200)] for mild in (False, True))
    assert 70 < sum(matrix[2, :2].any() for matrix in wild) < 130
    assert not any(matrix[2, :2].any() for matrix in mild)


def test_boxes_stay_near_the_face() -> None:
    rng = np.random.default_rng(0)
    _, points = cut_face(*draw(rng, 300))
    moved = np.stack([augment.draw_view(rng, points, 160).points(points) for _ in range(200)])
    inside = ((moved > 0) & (moved < 159)).all(-1).mean()
    assert inside > 0.98
    sides = np.ptp(moved, axis=1).max(1) / 160
    assert 0.6 < np.median(sides) < 0.82  # the box is 1 / 1.4 of the crop


@pytest.mark.parametrize("degrees", [0, 70, 180])
def test_mild_views_are_about_upright_and_keep_proportions(degrees: float) -> None:
    rng = np.random.default_rng(0)
    _, points = cut_face(*draw(rng, 300))
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turned = ((points - 128) @ np.array([[cos, sin], [-sin, cos]]) + 128).astype(np.float32)
    for _ in range(50):
        view = augment.draw_view(rng, turned, 160, mild=True)
        stretched, squeezed = np.linalg.svd(view.matrix[:, :2])[1]
        assert stretched == pytest.approx(squeezed, rel=1e-3)
        assert abs(landmark_roll(view.points(turned)[None])[0]) < np.radians(45)


def test_same_generator_gives_the_same_picture() -> None:
    image, _ = draw(np.random.default_rng(0), 160)
    first, again = (augment.degrade(np.random.default_rng(3), image, image[::-1]) for _ in range(2))
    assert (first == again).all()


@pytest.mark.parametrize("change", [augment.relight, augment.blur, augment.noise])
def test_changes_keep_shape_and_change_the_picture(change: object) -> None:
    image, _ = draw(np.random.default_rng(0), 160)
    results = [change(np.random.default_rng(seed), image) for seed in range(20)]
    assert all(result.shape == image.shape and result.dtype == np.uint8 for result in results)
    assert sum((result != image).any() for result in results) > 10


def test_occlusion_covers_a_part() -> None:
    image, _ = draw(np.random.default_rng(0), 160)
    other = np.full_like(image, 255)
    results = [augment.occlude(np.random.default_rng(seed), image, other) for seed in range(30)]
    covered = [(result != image).any(-1).mean() for result in results]
    assert 0.005 < np.median(covered) < 0.4
    assert max(covered) < 0.6
