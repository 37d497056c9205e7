"""The random draws of `training.augment` have their documented distributions."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from nodes._geometry import landmark_box, landmark_roll
from tests.training.faces68 import points68
from training import augment
from training.augment import View

SIZE, MARGIN = 160, 1.4
FACE = (points68() * 55 + 128).astype(np.float32)


def views(count: int, mild: bool = False, face: np.ndarray = FACE) -> list[View]:
    rng = np.random.default_rng(0)
    return [augment.draw_view(rng, face, SIZE, mild) for _ in range(count)]


def box_errors(seen: list[View]) -> tuple[np.ndarray, np.ndarray]:
    """Return the errors of the boxes of crops: shifts (N, 2) in sides, and logarithms of the growth."""
    boxes = landmark_box(np.stack([view.points(FACE) for view in seen]))
    sides = (boxes[:, 2:] - boxes[:, :2]).max(1)
    return ((SIZE - 1) / 2 - (boxes[:, :2] + boxes[:, 2:]) / 2) / sides[:, None], np.log(SIZE / MARGIN / sides)


def test_boxes_have_errors_like_a_detectors() -> None:
    shifts, growth = box_errors(views(600))
    assert np.sqrt(np.square(shifts).mean()) == pytest.approx(0.057, rel=0.06)  # 0.05, of a tenth 0.1
    assert np.sqrt(np.square(growth).mean()) == pytest.approx(0.077, rel=0.06)  # 0.07, of a tenth 0.14
    assert abs(shifts.mean()) < 0.005 and abs(growth.mean()) < 0.01
    assert np.abs(shifts).max() <= 0.2005 and np.abs(growth).max() <= 0.2005
    shifts, growth = box_errors(views(600, mild=True))
    assert np.sqrt(np.square(shifts).mean()) == pytest.approx(0.025, rel=0.06)
    assert np.sqrt(np.square(growth).mean()) == pytest.approx(0.035, rel=0.06)


def rolls(seen: list[View], face: np.ndarray = FACE) -> np.ndarray:
    return np.degrees(landmark_roll(np.stack([view.points(face) for view in seen])))


def test_half_of_the_heads_are_upright_some_tilted_and_few_at_any_angle() -> None:
    assert np.sqrt(np.square(rolls(views(300, mild=True))).mean()) == pytest.approx(10, rel=0.1)
    lean = np.abs(rolls(views(300)))
    assert 0.26 < (lean > 20).mean() < 0.37  # upright ones, of 10 degrees, hardly ever
    assert 0.015 < (lean > 60).mean() < 0.05
    cos, sin = np.cos(np.radians(80)), np.sin(np.radians(80))
    lying = ((FACE - 128) @ np.array([[cos, sin], [-sin, cos]]) + 128).astype(np.float32)
    assert 0.45 < (np.abs(rolls(views(300, face=lying), lying)) < 25).mean() < 0.6


def test_faces_are_stretched_and_sheared_a_little_and_half_are_mirrored() -> None:
    seen = views(1000)
    assert 0.46 < np.mean([view.mirrored for view in seen]) < 0.54
    plane = np.stack([np.linalg.qr(view.matrix[:2, :2])[1] for view in seen if not view.matrix[2, :2].any()])
    side = np.sqrt(np.abs(plane[:, 0, 0] * plane[:, 1, 1]))
    aspect, shear = np.log(np.abs(plane[:, 0, 0]) / side), plane[:, 0, 1] / side
    assert np.sqrt(np.square(aspect).mean()) == pytest.approx(0.05, rel=0.1)
    assert np.sqrt(np.square(shear).mean()) == pytest.approx(0.05, rel=0.1)


def test_the_plane_of_a_face_tilts_by_a_tenth_of_its_scale() -> None:
    lean = np.stack([view.matrix[2, :2] for view in views(600) if view.matrix[2, :2].any()])
    lean = lean * np.ptp(FACE, axis=0).max() / 2
    assert np.sqrt(np.square(lean).mean()) == pytest.approx(0.099, rel=0.06)
    assert np.abs(lean).max() == pytest.approx(0.25, abs=1e-4)


def test_a_second_view_is_as_near_as_the_next_frame() -> None:
    rng = np.random.default_rng(0)
    first = views(1)[0]
    seen, onto = zip(*(augment.draw_near(rng, first, SIZE) for _ in range(600)), strict=True)
    for view, there in zip(seen, onto, strict=True):  # also if the first view is in perspective
        moved = augment.project(first.matrix, FACE) @ there[:, :2].T + there[:, 2]
        np.testing.assert_allclose(augment.project(view.matrix, FACE), moved, atol=1e-2)
        assert (np.linalg.det(there[:, :2]) < 0) == (view.mirrored != first.mirrored)
    maps = np.stack(onto)
    middle = np.full(2, (SIZE - 1) / 2)
    shifts = (maps[:, :, :2] @ middle + maps[:, :, 2] - middle) / SIZE * MARGIN
    assert np.sqrt(np.square(shifts).mean()) == pytest.approx(0.03, rel=0.06)
    mirrored = np.linalg.det(maps[:, :, :2]) < 0
    assert np.abs(shifts[mirrored].mean(0)).max() < 0.004 and np.abs(shifts[~mirrored].mean(0)).max() < 0.004
    growth = np.log(np.abs(np.linalg.det(maps[:, :, :2]))) / 2
    assert np.sqrt(np.square(growth).mean()) == pytest.approx(0.03, rel=0.06)
    turns = np.degrees(np.arctan(maps[:, 1, 0] / maps[:, 0, 0]))
    assert np.sqrt(np.square(turns).mean()) == pytest.approx(4, rel=0.06)
    assert 0.45 < mirrored.mean() < 0.55


def test_a_miss_overlaps_the_face_by_less_than_a_fifth() -> None:
    rng, square = np.random.default_rng(0), np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    box = landmark_box(FACE[None])[0]
    side = float((box[2:] - box[:2]).max())
    true = ((box[:2] + box[2:]) / 2 + side / 2 * square).astype(np.float32)
    overlaps, sides = [], []
    for _ in range(400):
        back = cv2.invertAffineTransform(augment.draw_miss(rng, FACE, SIZE).matrix[:2])
        crop = (SIZE - 1) / 2 + SIZE / MARGIN / 2 * square
        seen = (crop @ back[:, :2].T + back[:, 2]).astype(np.float32)
        area = cv2.contourArea(seen)
        both = cv2.intersectConvexConvex(true, seen)[0]
        overlaps.append(both / (area + side**2 - both))
        sides.append(np.sqrt(area) / side)
    assert max(overlaps) < 0.22  # rotated ones reach a little further
    assert 0.17 < np.less(sides, 0.6).mean() < 0.33 and 0.17 < np.greater(sides, 2).mean() < 0.33


def test_beyond_the_surroundings_is_grey_or_the_edge() -> None:
    white, away = np.full((256, 256, 3), 255, np.uint8), np.array([[1, 0, 80], [0, 1, 80], [0, 0, 1]], np.float32)
    lean = away.copy()
    lean[2, 0] = 1e-5
    for matrix in (away, lean):
        crops = [augment.cut_view(np.random.default_rng(seed), white, matrix, SIZE) for seed in range(40)]
        corners = [crop[0, 0].tolist() for crop in crops]
        assert 10 < corners.count([127] * 3) < 30 and corners.count([255] * 3) + corners.count([127] * 3) == 40


def dot(size: int = 96) -> np.ndarray:
    """A soft light dot at the middle of a dark picture."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return np.repeat((40 + 160 * np.exp(-(x**2 + y**2) / 200))[..., None], 3, 2).astype(np.uint8)


def centre(image: np.ndarray) -> np.ndarray:
    weight = image[..., 0].astype(float) - image.min()
    y, x = np.mgrid[: len(image), : len(image)]
    return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum() - (len(image) - 1) / 2


def test_blur_moves_no_feature_and_darkens_nothing() -> None:
    before = dot()
    for seed in range(60):
        after = augment.blur(np.random.default_rng(seed), before)
        assert np.abs(centre(after)).max() < 0.1
        assert after.mean() == pytest.approx(before.mean(), abs=1.5)


def test_lower_resolution_moves_no_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("relight", "noise", "blur"):
        monkeypatch.setattr(augment, name, lambda _, image: image)
    monkeypatch.setattr(augment, "occlude", lambda _, image, other: image)
    before = dot()
    seen = [augment.degrade(np.random.default_rng(seed), before, before) for seed in range(150)]
    assert max(np.abs(centre(after)).max() for after in seen) < 0.25
    assert 0.55 < np.mean([(after == before).all() for after in seen]) < 0.75  # neither coarse nor compressed


def test_each_degradation_has_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    done = dict.fromkeys(("occlude", "relight", "blur", "noise", "imencode", "resize"), 0)
    sides = []

    def counted(name: str, call: Callable[..., object]) -> Callable[..., object]:
        def count(*given: object, **more: object) -> object:
            done[name] += 1
            sides.extend([given[1][0]] if name == "resize" else [])
            return call(*given, **more)
        return count

    for name in ("occlude", "relight", "blur", "noise"):
        monkeypatch.setattr(augment, name, counted(name, getattr(augment, name)))
    for name in ("imencode", "resize"):
        monkeypatch.setattr(cv2, name, counted(name, getattr(cv2, name)))
    rng, small = np.random.default_rng(0), dot(32)
    for _ in range(400):
        augment.degrade(rng, small, small)
    shares = {name: count / 400 for name, count in done.items()}
    assert shares == pytest.approx(
        {"occlude": 0.25, "relight": 1, "blur": 0.2, "noise": 0.25, "imencode": 0.2, "resize": 0.4}, abs=0.05)
    assert 6 <= min(sides) < 10  # of 32: down to a fifth


def test_light_changes_about_the_mean_of_the_picture_and_is_sometimes_low() -> None:
    grey = np.full((8, 8, 3), 120, np.uint8)
    means = np.array([augment.relight(np.random.default_rng(seed), grey).mean() for seed in range(400)])
    assert 0.7 < ((means > 75) & (means < 165)).mean() < 0.95
    assert 0.05 < (means < 60).mean() < 0.12
    assert abs(np.median(means) - 120) < 5


def test_grey_pictures_weigh_colours_as_eyes_do() -> None:
    colours = np.zeros((1, 3, 3), np.uint8)
    colours[0, [0, 1, 2], [0, 1, 2]] = 200  # blue, green, red
    seen = [augment.relight(np.random.default_rng(seed), colours) for seed in range(300)]
    grey = [image[0, :, 0].astype(int) for image in seen if (image == image[..., :1]).all()]
    assert 15 < len(grey) < 60
    assert all(green >= red >= blue for blue, green, red in grey) and any(red > blue + 50 for blue, _, red in grey)


def test_another_gamma_keeps_black_and_white() -> None:
    levels, curves = np.array([[[0] * 3, [128] * 3, [255] * 3]], np.uint8), 0
    for seed in range(300):
        dark, middle, light = augment.relight(np.random.default_rng(seed), levels)[0, :, 0].tolist()
        if dark == 0 and light >= 254 and abs(middle - 128) > 8:
            curves += 1
            assert light == 255
    assert curves > 8


def test_noise_stays_in_range_and_is_grey_half_of_the_time() -> None:
    white = np.full((24, 24, 3), 255, np.uint8)
    seen = [augment.noise(np.random.default_rng(seed), white) for seed in range(60)]
    assert min(image.min() for image in seen) > 150
    assert 20 < sum((image == image[..., :1]).all() for image in seen) < 40
    grey = np.full((24, 24, 3), 128, np.uint8)
    spread = [augment.noise(np.random.default_rng(seed), grey)[..., 0].std() for seed in range(60)]
    assert 1.8 < min(spread) < 3 and 12 < max(spread) < 14.6


def test_occlusions_are_another_picture_a_colour_or_skin() -> None:
    face, other = np.full((80, 80, 3), (60, 90, 120), np.uint8), np.full((80, 80, 3), 255, np.uint8)
    seen = [augment.occlude(np.random.default_rng(seed), face, other) for seed in range(200)]
    covered = np.array([(np.abs(image.astype(int) - face) > 1).any(-1).mean() for image in seen])
    white = np.array([(image == 255).all(-1).any() for image in seen])
    skin = covered == 0  # the face is of one colour here
    assert 0.32 < white.mean() < 0.48 and 0.32 < skin.mean() < 0.48
    assert covered.max() < 0.4 and 0.04 < np.median(covered[~skin]) < 0.12
