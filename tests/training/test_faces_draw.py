import dataclasses
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from training import faces_draw
from training.faces_data import Cutouts, Ovals, Picture
from training.faces_draw import (
    Scene,
    cut,
    cut_window,
    draw_plain,
    draw_scene,
    mirror,
    mosaic,
    pick,
    put_face,
    settle,
    turn,
    window,
)
from training.faces_loss import FACE, IGNORED
from training.landmark_data import Crops

UNKNOWN = np.full((5, 2), np.nan, np.float32)


def coloured(boxes, shape=(200, 300)):
    """A black picture in which every face is a white rectangle."""
    image = np.zeros((*shape, 3), np.uint8)
    for x0, y0, x1, y1 in boxes:
        image[round(y0 + 0.5) : round(y1 + 0.5), round(x0 + 0.5) : round(x1 + 0.5)] = 255
    return image


def picture(boxes, ignored=None, shape=(200, 300)):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    ignored = np.zeros(len(boxes), bool) if ignored is None else np.array(ignored)
    return Picture(Path("p.jpg"), "p.jpg", boxes, ignored, coloured(boxes, shape))


def white_box(image, around):
    """The box of the white pixels near a box, to sub-pixel accuracy by their sums."""
    x0, y0, x1, y1 = np.clip(around + np.array([-3, -3, 4, 4]), 0, image.shape[1]).astype(int)
    part = image[y0:y1, x0:x1, 0] / 255.0
    columns, rows = part.max(0), part.max(1)
    left, top = x0 + columns.argmax(), y0 + rows.argmax()
    return np.array([left, top, left + columns.sum(), top + rows.sum()]) - 0.5


@pytest.mark.parametrize("seed", range(12))
def test_boxes_follow_their_pixels_into_a_window(seed):
    scene = settle(window(np.random.default_rng(seed), picture([(99.5, 79.5, 139.5, 129.5)]), 128, 96))
    assert scene.image.shape == (96, 128, 3)
    for box, kind in zip(scene.boxes, scene.kinds, strict=True):
        if kind == FACE:
            np.testing.assert_allclose(white_box(scene.image, box), box, atol=1.6)


@pytest.mark.parametrize("seed", range(5))
def test_points_follow_their_boxes_into_a_window_and_ignored_faces_stay_ignored(seed):
    boxes = np.array([[99.5, 79.5, 139.5, 129.5], [20, 20, 80, 50]], np.float32)
    points = np.stack((boxes[:, :2], boxes[:, 2:], *[(boxes[:, :2] + boxes[:, 2:]) / 2] * 3), 1)
    one = Picture(Path("p.jpg"), "p.jpg", boxes, np.array([False, True]), coloured(boxes), points)
    scene = window(np.random.default_rng(seed), one, 300, 200)
    assert len(scene.boxes) and set(scene.kinds.tolist()) <= {FACE, IGNORED}
    np.testing.assert_allclose(scene.points[:, :2].reshape(-1, 4), scene.boxes, atol=1e-3)
    for box, kind in zip(scene.boxes, scene.kinds, strict=True):  # 4 to 5, and 2 to 1
        assert (kind == IGNORED) == ((box[2] - box[0]) / (box[3] - box[1]) > 1.3)


def test_a_window_shows_a_face():
    scenes = [settle(window(np.random.default_rng(i), picture([(10, 10, 40, 50)]), 128, 128)) for i in range(40)]
    assert np.mean([len(scene.kinds) for scene in scenes]) > 0.9


def test_faces_are_drawn_at_all_sizes():
    heights = []
    for i in range(150):
        scene = settle(window(np.random.default_rng(i), picture([(120, 80, 150, 120)], shape=(267, 400)), 256, 256))
        heights += (scene.boxes[:, 3] - scene.boxes[:, 1])[scene.kinds == FACE].tolist()
    assert min(heights) < 20 and max(heights) > 70


def test_plain_scenes_show_faces_at_the_size_they_have_at_run_time():
    heights, upright = [], 0
    for i in range(60):
        one = picture([(120, 80, 150, 120)], shape=(300, 400))
        scene = draw_plain(np.random.default_rng(i), [one], None, 256)
        kept = scene.kinds == FACE
        heights += (scene.boxes[kept, 3] - scene.boxes[kept, 1]).tolist()
        upright += sum(abs((box[3] - box[1]) / (box[2] - box[0]) - 40 / 30) < 0.1 for box in scene.boxes[kept])
    fitted = 40 * 240 / 300
    assert len(heights) > 40 and fitted * 0.8 < min(heights) < fitted < max(heights) < fitted * 1.25
    assert upright > 0.9 * len(heights)


def test_mirror_twice_is_the_scene_itself():
    rng = np.random.default_rng(1)
    scene = Scene(rng.integers(0, 256, (64, 64, 3), np.uint8), rng.uniform(0, 64, (3, 4)).astype(np.float32),
                  rng.uniform(0, 64, (3, 5, 2)).astype(np.float32), np.array([1, 1, -1]))
    back = mirror(mirror(scene))
    np.testing.assert_array_equal(back.image, scene.image)
    np.testing.assert_allclose(back.boxes, scene.boxes, atol=1e-4)
    np.testing.assert_allclose(back.points, scene.points, atol=1e-4)
    assert mirror(scene).points[0, 0, 0] == pytest.approx(63 - scene.points[0, 1, 0])


@pytest.mark.parametrize("quarters", [1, 2, -1])
def test_quarter_turns_carry_boxes_and_points_with_the_pixels(quarters):
    boxes = np.array([[19.5, 9.5, 39.5, 49.5]], np.float32)
    points = np.array([[[20, 10], [39, 10], [30, 30], [20, 49], [39, 49]]], np.float32)
    scene = turn(Scene(coloured(boxes, (100, 100)), boxes, points, np.array([FACE])), quarters * np.pi / 2)
    np.testing.assert_allclose(white_box(scene.image, scene.boxes[0]), scene.boxes[0], atol=0.6)
    columns, rows = scene.points[0].T.round().astype(int)
    assert (scene.image[rows, columns] > 100).all()


def test_settle_ignores_small_and_hidden_faces_and_drops_those_outside():
    boxes = np.array([[10, 10, 30, 40], [50, 50, 54, 55], [-30, 10, 10, 50], [-50, -50, -10, -10], [20, 20, 28, 30]])
    scene = settle(Scene(np.zeros((64, 64, 3), np.uint8), boxes.astype(np.float32), np.stack([UNKNOWN] * 5),
                         np.array([FACE, FACE, FACE, FACE, IGNORED])))
    assert scene.kinds.tolist() == [FACE, IGNORED, IGNORED, IGNORED]
    assert scene.boxes.min() >= -0.5 and scene.boxes.max() <= 63.5


@pytest.mark.parametrize(("box", "kind"), [
    ((10, 10, 14, 17), FACE), ((10, 10, 14, 16.9), IGNORED), ((10, 10, 13.4, 17), IGNORED),
    ((-10, 10, 10, 50), FACE), ((-11, 10, 9, 50), IGNORED), ((10, 44.1, 30, 84.1), IGNORED),
])
def test_settle_ignores_what_is_lower_than_7_px_or_narrower_than_half_that_or_shows_less_than_half(box, kind):
    boxes = np.array([box], np.float32)
    assert settle(Scene(np.zeros((64, 64, 3), np.uint8), boxes, UNKNOWN[None], np.array([FACE]))).kinds == [kind]


def test_cut_fills_what_lies_beyond_with_grey():
    image = np.full((10, 10, 3), 9, np.uint8)
    out = cut(image, -2, -3, 14, 15)
    assert out.shape == (15, 14, 3)
    assert (out[3:13, 2:12] == 9).all()
    assert (out == 9).sum() == 300 and (out == 127).sum() == out.size - 300


def a_cutout():
    """A grey face with its five points painted in different greys."""
    points = np.zeros((1, 68, 2), np.float32)
    points[0, :, 0], points[0, :, 1] = np.linspace(78, 178, 68), np.linspace(90, 166, 68)
    points[0, 36:42], points[0, 42:48], points[0, 30] = (100, 100), (156, 100), (128, 130)
    points[0, 48:60], points[0, 48], points[0, 54] = (128, 155), (105, 155), (151, 155)
    image = np.full((1, 256, 256, 3), 60, np.uint8)
    for i, (x, y) in enumerate(((100, 100), (156, 100), (128, 130), (105, 155), (151, 155))):
        image[0, y - 5 : y + 6, x - 5 : x + 6] = 120 + 25 * i
    return Cutouts(Crops(image, points, np.array(["HELEN"])))


@pytest.mark.parametrize("seed", range(10))
def test_a_pasted_face_has_its_points_on_its_features(seed):
    rng = np.random.default_rng(seed)
    empty = Scene(np.full((256, 256, 3), 60, np.uint8), np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32),
                  np.zeros(0, np.int64))
    scene = put_face(rng, empty, a_cutout())
    assert scene.kinds.tolist() == [FACE]
    x0, y0, x1, y1 = scene.boxes[0]
    assert ((scene.points[0] > (x0, y0)) & (scene.points[0] < (x1, y1))).all()
    if y1 - y0 > 40:  # relighting keeps the order of grey levels
        inside = scene.points[0].round().astype(int).clip(0, 255)
        levels = scene.image[inside[:, 1], inside[:, 0]].astype(int).sum(-1)
        assert (np.diff(levels) > -6).all() and levels[-1] > levels[0]


def test_a_face_is_not_pasted_over_another():
    boxes = np.array([[0, 0, 127, 127]], np.float32)
    whole = Scene(np.zeros((128, 128, 3), np.uint8), boxes, UNKNOWN[None], np.array([FACE]))
    assert put_face(np.random.default_rng(0), whole, a_cutout()) is whole


def test_scenes_depend_on_the_generator_alone():
    pictures = [picture([(50, 50, 80, 90)]), picture([(10, 20, 60, 80), (150, 50, 160, 60)], [False, True])]
    first = [draw_scene(np.random.default_rng(i), pictures, a_cutout(), 128) for i in range(20)]
    again = [draw_scene(np.random.default_rng(i), pictures, a_cutout(), 128) for i in range(20)]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.boxes, b.boxes)
        assert a.image.shape == (128, 128, 3) and a.image.dtype == np.uint8
        assert len(a.boxes) == len(a.points) == len(a.kinds)


def test_pictures_are_drawn_by_their_chances_and_one_in_six_is_a_face():
    rng, pictures, chances = np.random.default_rng(0), [picture([]), picture([(50, 50, 80, 90)])], np.array([0.9, 0.1])
    alone = Counter(len(pick(rng, pictures, None, chances).boxes) for _ in range(400))
    assert 340 < alone[0] < 380
    among = Counter(pick(rng, pictures, a_cutout(), chances).name for _ in range(400))
    assert 45 < among[""] < 85
    white = [Picture(Path(), "", np.zeros((0, 4), np.float32), np.zeros(0, bool), np.full((60, 80, 3), v, np.uint8))
             for v in (0, 255)]
    plain = [draw_plain(rng, white, None, 64, chances).image.max() == 255 for _ in range(200)]
    assert 8 < sum(plain) < 40


def test_scenes_are_mosaics_and_get_faces_at_the_right_rates(monkeypatch):
    done, rng = Counter(), np.random.default_rng(0)

    def counted(name, result):
        monkeypatch.setattr(faces_draw, name, lambda *_, **__: (done.update([name]), result)[1])

    for name in ("window", "cut_window", "mosaic", "put_face", "mirror", "turn", "settle"):
        counted(name, nothing(8))
    for name in ("_degrade", "relight"):
        counted(name, nothing(8).image)
    pictures, cutouts = [picture([(50, 50, 80, 90)], shape=(100, 100))], a_cutout()
    for _ in range(3000):
        draw_scene(rng, pictures, cutouts, 64)
    shares = {name: count / 3000 for name, count in done.items()}
    assert shares == pytest.approx({"mosaic": 0.12, "window": 0.88, "put_face": 0.08, "mirror": 0.5, "turn": 1,
                                    "_degrade": 1, "settle": 1}, abs=0.025)
    done.clear()
    for _ in range(3000):
        draw_plain(rng, pictures, cutouts, 64)
    shares = {name: count / 3000 for name, count in done.items()}
    assert shares == pytest.approx({"cut_window": 1, "put_face": 0.1, "mirror": 0.5, "relight": 0.2, "settle": 1},
                                   abs=0.025)


def test_a_mosaic_keeps_each_face_in_its_own_tile():
    pictures = [picture([(50, 50, 80, 90)], shape=(400, 400))] * 4
    for seed in range(10):
        scene = mosaic(np.random.default_rng(seed), pictures, 128)
        for box in scene.boxes[scene.kinds == FACE]:
            assert scene.image[int(box[1:4:2].mean()), int(box[0:3:2].mean())].min() == 255
            grown = scene.image[max(0, int(box[1]) - 2), int(box[0:3:2].mean())]
            assert grown.max() < 255 or box[1] < 2


def heights_in_windows(box, ignored, count=150, name="p.jpg"):
    """Heights of a box of a 300 x 200 picture in windows of 256 px, whole or not."""
    rng, one = np.random.default_rng(0), dataclasses.replace(picture([box], [ignored]), name=name)
    scenes = [window(rng, one, 256, 256) for _ in range(count)]
    return np.array([scene.boxes[0, 3] - scene.boxes[0, 1] for scene in scenes if len(scene.boxes)])


def test_windows_show_a_picture_at_about_its_scale_in_a_small_input():
    scales = heights_in_windows((50, 50, 250, 150), True) / 100 / (400 / 300)  # ignored faces choose none
    assert 0.5 < scales.min() < 0.66 and 1.15 < scales.max() < 1.45
    assert np.log(scales).mean() == pytest.approx((np.log(0.6) + np.log(1.25)) / 2, abs=0.04)


def test_windows_made_for_a_face_keep_within_what_the_picture_gives():
    low = heights_in_windows((140, 90, 155, 106), False)
    assert low.min() > 10.5 and 30 < low.max() < 32 * 1.12  # 12 px and more, at most twice as large
    high = heights_in_windows((60, 20, 200, 180), False)
    assert high.min() > 160 * 0.7 * 256 / 300 * 0.85  # the picture fills most of the window
    made = heights_in_windows((60, 20, 200, 180), False, name="")  # the crop of a face: all windows are made for it
    assert 0.75 < made.max() / 256 < 0.88  # 0.85, stretched a little


def test_a_face_lies_anywhere_in_its_window():
    one, sides = picture([(490, 490, 510, 510)], shape=(1000, 1000)), np.array([100, 100])
    boxes = [cut_window(np.random.default_rng(i), one, one.boxes[0], sides, np.ones(2)).boxes[0] for i in range(150)]
    away = (np.array(boxes)[:, :2] + np.array(boxes)[:, 2:]) / 2 - 49.5
    assert np.abs(away).max() < 41 and away.std() == pytest.approx(80 / np.sqrt(12), rel=0.08)


def test_a_picture_smaller_than_its_window_lies_anywhere_in_it():
    one, corners = Picture(Path(), "p", np.zeros((0, 4), np.float32), np.zeros(0, bool), np.full((50, 50, 3), 255,
                           np.uint8)), []
    for i in range(40):
        image = cut_window(np.random.default_rng(i), one, None, np.array([100, 100]), np.ones(2)).image[..., 0]
        assert (image == 255).sum() == 2500
        corners.append(np.argwhere(image == 255)[0])
    assert np.std(corners, axis=0).min() > 5


@pytest.mark.parametrize("box", [(0, 40, 19, 60), (81, 40, 99, 60), (40, 0, 60, 19), (40, 81, 60, 99)])
def test_faces_outside_their_window_are_gone_before_a_turn_could_bring_them_back(box):
    one, gone = picture([(0, 0, 99, 99), box], [True, False], shape=(100, 100)), 0
    for seed in range(12):
        middle = np.array([50, 50, 50, 50])
        scene = cut_window(np.random.default_rng(seed), one, middle, np.array([60, 60]), np.ones(2))
        x, y = (-scene.boxes[0, :2]).tolist()
        inside = box[2] > x and box[3] > y and box[0] < x + 60 and box[1] < y + 60
        assert len(scene.boxes) == 1 + inside
        gone += not inside
    assert gone > 2


def test_mosaics_show_pictures_at_seven_tenths_of_their_scale():
    one = picture([(140, 90, 160, 110)], [True])
    boxes = np.concatenate([mosaic(np.random.default_rng(i), [one] * 4, 256).boxes for i in range(40)])
    sides = boxes[:, 2:] - boxes[:, :2]
    whole = sides[np.abs(np.log(sides[:, 0] / sides[:, 1])) < 0.2, 1]
    assert np.log(whole / (20 * 400 / 300 * 0.7)).mean() == pytest.approx((np.log(0.6) + np.log(1.25)) / 2, abs=0.06)


def nothing(size=256):
    return Scene(np.zeros((size, size, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32),
                 np.zeros(0, np.int64))


def test_faces_are_pasted_at_all_sizes_and_in_any_direction(monkeypatch):
    cutouts = a_cutout()
    wide, high = cutouts.ovals.halves[0].tolist()
    boxes = np.stack([put_face(np.random.default_rng(i), nothing(), cutouts).boxes[0] for i in range(120)])
    sides = boxes[:, 3] - boxes[:, 1]
    assert 8 * min(1, wide / high) < sides.min() + 1e-3 and 90 < sides.max() < 154
    assert 25 < np.median(sides) < 48
    monkeypatch.setattr(faces_draw, "_draw_roll", lambda _: np.pi / 2)
    x0, y0, x1, y1 = put_face(np.random.default_rng(0), nothing(), cutouts).boxes[0]
    head = cutouts.ovals.boxes()[0]
    assert (x1 - x0) / (y1 - y0) == pytest.approx((head[3] - head[1]) / (head[2] - head[0]), rel=1e-3)


@pytest.mark.parametrize(("taken", "put"), [(4, True), (5, False)])
def test_pasting_tries_five_places(taken, put, monkeypatch):
    answers = iter([True] * taken + [False])
    monkeypatch.setattr(faces_draw, "_meet", lambda *_: next(answers))
    scene = put_face(np.random.default_rng(0), nothing(128), a_cutout())
    assert len(scene.boxes) == put


def test_a_face_that_is_shrunk_is_averaged_and_stays_in_place():
    oval = Ovals(np.array([[127.5, 127.5]]), np.array([[60.0, 80.0]]), np.zeros(1))
    checks = np.repeat(((np.indices((256, 256)).sum(0) % 2) * 255)[..., None], 3, 2).astype(np.uint8)
    y, x = np.mgrid[:256, :256] - np.array([140, 110])[:, None, None]
    spot = np.repeat((255 * np.exp(-(x**2 + y**2) / 450))[..., None], 3, 2).astype(np.uint8)
    for scale in (0.5, 0.2, 0.08):
        rng = np.random.default_rng(1)
        image, matrix = faces_draw._paste(rng, nothing(64).image, checks, oval, scale, 0.3, np.array([31.5, 31.5]))
        assert image[29:35, 29:35].std() < 12
        rng = np.random.default_rng(1)
        image, matrix = faces_draw._paste(rng, nothing(64).image, spot, oval, scale, 0.3, np.array([31.5, 31.5]))
        weight = image[..., 0] / image[..., 0].sum()
        seen = np.array([(weight * np.arange(64)).sum(), (weight * np.arange(64)[:, None]).sum()])
        assert np.abs(seen - (matrix[:, :2] @ (110, 140) + matrix[:, 2])).max() < 0.2


def test_a_pasted_face_is_tilted_like_its_head():
    oval = Ovals(np.array([[127.5, 127.5]]), np.array([[20.0, 60.0]]), np.array([0.5]))
    white = np.full((256, 256, 3), 255, np.uint8)
    image, _ = faces_draw._paste(np.random.default_rng(1), nothing(128).image, white, oval, 0.5, 0.3,
                                 np.array([63.5, 63.5]))
    moments = cv2.moments(image[..., 0])
    lean = np.arctan2(2 * moments["mu11"], moments["mu20"] - moments["mu02"]) / 2  # of the long axis, against x
    assert lean == pytest.approx(0.8 - np.pi / 2, abs=0.03)


def test_heads_are_tilted_and_pictures_rotated_at_the_right_rates():
    rng = np.random.default_rng(0)
    leans = np.abs(np.degrees([faces_draw._draw_roll(rng) for _ in range(600)]))
    assert 0.65 < (leans < 25).mean() < 0.76 and 0.06 < (leans > 61).mean() < 0.14
    turns = np.degrees([faces_draw._draw_turn(rng) for _ in range(600)])
    quarters = np.isin(np.abs(turns), (90, 180))
    assert 0.87 < (turns == 0).mean() < 0.93 and 0.015 < quarters.mean() < 0.05
    assert turns[(turns != 0) & ~quarters].std() == pytest.approx(15, rel=0.3)


def test_a_third_of_the_faces_drawn_as_pictures_are_rotated():
    rng, cutouts = np.random.default_rng(0), a_cutout()
    shown = [pick(rng, [picture([])], cutouts) for _ in range(900)]
    turned = [(one.image() != cutouts.crops.images[0]).any() for one in shown if not one.name]
    assert 0.2 < np.mean(turned) < 0.45


def test_scenes_are_degraded_and_plain_ones_relit_at_the_right_rates(monkeypatch):
    done, qualities = Counter(), []

    def counted(place, name):
        call = getattr(place, name)

        def count(*given):
            done.update([name])
            qualities.extend(given[2][1:] if name == "imencode" else [])
            return call(*given)

        monkeypatch.setattr(place, name, count)

    for name in ("relight", "blur", "noise"):
        counted(faces_draw, name)
    counted(cv2, "imencode")
    rng = np.random.default_rng(0)
    for _ in range(400):
        faces_draw._degrade(rng, nothing(16).image)
    shares = {name: count / 400 for name, count in done.items()}
    assert shares == pytest.approx({"relight": 0.7, "blur": 0.1, "noise": 0.1, "imencode": 0.1}, abs=0.045)
    assert 25 <= min(qualities) < 40 and 70 < max(qualities) < 85
    done.clear()
    for _ in range(200):
        draw_plain(rng, [picture([], shape=(30, 40))], None, 32)
    assert 25 < done["relight"] < 55 and len(done) == 1
