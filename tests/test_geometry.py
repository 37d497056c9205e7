import numpy as np
import pytest

from nodes._geometry import (
    BORDER,
    MARGIN,
    apply,
    crop,
    crop_matrix,
    detector_to_landmark_box,
    invert,
    landmark_box,
    landmark_roll,
    to_input,
)

BOX = np.array([[100, 60, 180, 120]], np.float32)


def face(roll: float = 0.0, centre: tuple[float, float] = (200, 150), width: float = 60) -> np.ndarray:
    """Points of an upright face-like layout, turned by roll about its centre: (1, 68, 2)."""
    points = np.zeros((68, 2))
    points[:17] = np.stack((np.linspace(-1, 1, 17), 1.2 - 1.2 * np.linspace(-1, 1, 17) ** 2), 1)
    points[17:36] = np.stack((np.linspace(-0.8, 0.8, 19), np.full(19, -0.4)), 1)
    points[36:42], points[42:48], points[48:68] = (-0.4, -0.1), (0.4, -0.1), (0, 0.7)
    turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    return (points @ turn.T * width + centre)[None].astype(np.float32)


def test_crop_is_centred_and_keeps_proportions() -> None:
    matrix = crop_matrix(BOX, 160)
    middle = apply(matrix, np.array([[[140, 90]]], np.float32))
    assert middle == pytest.approx(np.full((1, 1, 2), 79.5), abs=1e-3)
    corners = apply(matrix, np.array([[[100, 60], [180, 120]]], np.float32))[0]
    assert corners[1] - corners[0] == pytest.approx([160 / MARGIN, 160 / MARGIN * 60 / 80], abs=1e-3)


def test_inverted_maps_map_back() -> None:
    matrices = crop_matrix(np.repeat(BOX, 3, 0), 112, roll=np.array([0, 0.5, -2.0], np.float32))
    points = np.random.default_rng(0).uniform(0, 300, (3, 68, 2)).astype(np.float32)
    assert apply(invert(matrices), apply(matrices, points)) == pytest.approx(points, abs=1e-3)


@pytest.mark.parametrize("roll", [0.0, 0.6, -1.2, 3.0])
def test_a_rolled_face_is_upright_at_the_same_size(roll: float) -> None:
    upright, leaning = face(), face(roll)
    assert landmark_roll(leaning) == pytest.approx([roll], abs=1e-3)
    boxes = landmark_box(leaning, landmark_roll(leaning))
    assert boxes[:, 2:] - boxes[:, :2] == pytest.approx(np.ptp(upright, axis=1), abs=1e-3)
    seen = apply(crop_matrix(boxes, 160, roll=landmark_roll(leaning)), leaning)
    expected = apply(crop_matrix(landmark_box(upright), 160), upright)
    assert seen == pytest.approx(expected, abs=0.01)


def test_a_bright_pixel_is_where_the_matrix_maps_it() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    image[90, 140] = 255
    matrix = crop_matrix(BOX, 161, margin=161 / 80 * 0.25, roll=0.4)
    cut = crop(image, matrix, 161)[0, ..., 0].astype(float)
    y, x = np.mgrid[:161, :161]
    found = [(cut * x).sum() / cut.sum(), (cut * y).sum() / cut.sum()]
    assert found == pytest.approx(apply(matrix, np.array([[[140, 90]]], np.float32))[0, 0], abs=0.02)


@pytest.mark.parametrize("roll", [0.0, 0.7])
def test_large_faces_are_averaged_not_sampled(roll: float) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    matrix = crop_matrix(np.array([[300, 200, 860, 700]], np.float32), 160, roll=roll)
    assert crop(image, matrix, 160)[0, 40:120, 40:120].std() < 0.6 * image.std()
    y, x = np.mgrid[:900, :1200]
    ramp = np.stack((x / 5, y / 5, x * 0), 2).astype(np.uint8)
    cut = crop(ramp, matrix, 160)[0]
    inside = np.array([[[30, 40], [80, 80], [120, 70]]], np.float32)
    for (u, v), (px, py) in zip(inside[0].astype(int), apply(invert(matrix), inside)[0], strict=True):
        assert cut[v, u, :2] == pytest.approx([px / 5, py / 5], abs=1.0)


def test_a_large_face_outside_the_frame_is_grey() -> None:
    image = np.zeros((50, 50, 3), np.uint8)
    far = crop_matrix(np.array([[900, 900, 1900, 1900]], np.float32), 64)
    assert (crop(image, far, 64) == BORDER).all()


def test_outside_the_frame_is_grey() -> None:
    image = np.zeros((50, 50, 3), np.uint8)
    assert (crop(image, crop_matrix(np.array([[200, 200, 240, 240]], np.float32), 64), 64) == BORDER).all()


def test_no_faces_give_empty_arrays() -> None:
    nobody = np.zeros((0, 4), np.float32)
    assert crop(np.zeros((9, 9, 3), np.uint8), crop_matrix(nobody, 64), 64).shape == (0, 64, 64, 3)
    assert to_input(np.zeros((0, 64, 64, 3), np.uint8)).shape == (0, 3, 64, 64)
    assert detector_to_landmark_box(nobody).shape == (0, 4)


def test_input_is_planar_bgr_from_minus_one_to_one() -> None:
    crops = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    crops[0, 0, 0], crops[0, 0, 1] = 0, 255
    expected = (crops.transpose(0, 3, 1, 2).astype(np.float64) - 127.5) / 127.5
    assert to_input(crops) == pytest.approx(expected, abs=1e-6)
    assert to_input(crops).dtype == np.float32


def test_an_empty_box_does_not_divide_by_zero() -> None:
    assert np.isfinite(crop_matrix(np.array([[5, 5, 5, 5]], np.float32), 64)).all()
