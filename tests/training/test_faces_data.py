from pathlib import Path

import cv2
import numpy as np
import pytest

from training.faces_data import Cutouts, Decoded, Picture, chances, face_ovals, five_points, read_backgrounds, split
from training.landmark_data import MIRROR, Crops
from training.read_boxes import read_wider
from training.settings import SettingsError

LABELS = """what is this
10 20 30 40
0--Parade/a.jpg
2
10 20 30 40 0 0 0 0 0 0
50 60 5 6 0 0 0 1 0 0
0--Parade/none.jpg
0
0 0 0 0 0 0 0 0 0 0
1--Dance/b.jpg
2
1 2 0 9 0 0 0 0 0 0

4 4 8 8
1--Dance/nobody.jpg
0
1--Dance/missing.jpg
1
1 1 5 5 0 0 0 0 0 0
1--Dance/c.jpg
many
0--Parade/d.jpg
2
1 2 3
4 4 8 8 0 0 0 0 0 0
1--Dance/nan.jpg
1
nan 2 3 4
1--Dance/more.jpg
1
1 1 5 5 0 0 0 0 0 0
1 1 5 5 0 0 0 0 0 0
1--Dance/some.jpg
0
1 1 5 5 0 0 0 0 0 0
1 1 5 5 0 0 0 0 0 0
1--Dance/fewer.jpg
2
1 1 5 5 0 0 0 0 0 0
0--Parade/end.jpg
"""


@pytest.fixture
def wider(tmp_path):
    for name in ("0--Parade/a", "0--Parade/none", "0--Parade/d", "0--Parade/end",
                 *(f"1--Dance/{name}" for name in ("b", "c", "nobody", "nan", "more", "some", "fewer"))):
        path = tmp_path / "WIDER_train" / "images" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.zeros((100, 120, 3), np.uint8))
    (tmp_path / "wider_face_split").mkdir()
    (tmp_path / "wider_face_split" / "wider_face_train_bbx_gt.txt").write_text(LABELS)
    return tmp_path


def test_read_wider_reads_the_official_format(wider):
    pictures, _ = read_wider(wider)
    names = ["0--Parade/a.jpg", "0--Parade/none.jpg", "1--Dance/b.jpg", "1--Dance/nobody.jpg"]
    assert [picture.name for picture in pictures] == names
    np.testing.assert_array_equal(pictures[0].boxes, [[9.5, 19.5, 39.5, 59.5], [49.5, 59.5, 54.5, 65.5]])
    assert pictures[0].ignored.tolist() == [False, True]
    assert pictures[1].boxes.shape == (0, 4) and pictures[1].ignored.shape == (0,)
    np.testing.assert_array_equal(pictures[2].boxes, [[3.5, 3.5, 11.5, 11.5]])
    assert pictures[3].boxes.shape == (0, 4)


def test_pictures_of_wider_with_unreadable_faces_are_left_out_and_listed(wider):
    pictures, faults = read_wider(wider)
    assert not {picture.path.stem for picture in pictures} & {"c", "d", "nan", "more", "some", "fewer", "end"}
    for fault, expected in zip(faults, (
        "bbx_gt.txt:1: expected a picture's name, found 'what is this'", "bbx_gt.txt:12: box without area: 0.5 1.5 0.5",
        ":17: no picture", ":20: expected the number of faces of 1--Dance/c.jpg next, found 'many'; it is left out",
        ":24: expected 'x y w h ...', found '1 2 3'; 0--Parade/d.jpg is left out", ":28: box with a number that is not",
        ":29: 1--Dance/more.jpg has 2 rows for its 1 faces; it is left out", "some.jpg has 2 rows for its 0 faces",
        "fewer.jpg has 1 rows for its 2 faces", "number of faces of 0--Parade/end.jpg next, found ''",
    ), strict=True):
        assert expected in fault


def test_read_wider_names_a_missing_file(tmp_path):
    with pytest.raises(SettingsError, match=r"wider_face_val_bbx_gt\.txt: no such file"):
        read_wider(tmp_path, "val")


def test_pictures_are_decoded_once_and_unreadable_ones_named(wider):
    picture = read_wider(wider)[0][0]
    assert picture.image().shape == (100, 120, 3)
    assert picture.image() is picture.image()
    (wider / "WIDER_train/images/0--Parade/none.jpg").write_bytes(b"no jpeg")
    with pytest.raises(SettingsError, match=r"none\.jpg"):
        read_wider(wider)[0][1].image()


def test_backgrounds_leave_out_the_named(wider, tmp_path):
    names = [picture.name for picture in read_backgrounds(wider / "WIDER_train", {"b.jpg", "none.jpg"})]
    assert names == ["a.jpg", "d.jpg", "end.jpg", "c.jpg", "fewer.jpg", "more.jpg", "nan.jpg", "nobody.jpg", "some.jpg"]
    with pytest.raises(SettingsError, match="nope: no such folder, needed for pictures without faces"):
        read_backgrounds(tmp_path / "nope", set())


def test_split_keeps_events_together_and_depends_on_names_alone(wider):
    pictures, _ = read_wider(wider)
    many = [type(pictures[0])(p.path, f"{i}--Event/{j}.jpg", p.boxes, p.ignored) for i in range(20) for j in range(20)
            for p in pictures[:1]]
    training, aside = split(many, 0.25, "event")
    assert training and aside
    assert not {p.name.split("/")[0] for p in training} & {p.name.split("/")[0] for p in aside}
    training, aside = split(many, 0.25, "name")
    assert 60 < len(aside) < 140 and len(training) + len(aside) == 400
    assert {p.name for p in split(many[::-1], 0.25, "name")[1]} == {p.name for p in aside}


def a_face():
    """68 points whose features are in the right places, within a box 80 wide and 78 high at (10, 30)."""
    points = np.zeros((68, 2), np.float32)
    points[:17] = np.stack((np.linspace(10, 90, 17), 50 + 58 * np.sin(np.linspace(0, np.pi, 17))), 1)
    points[17:27] = np.stack((np.linspace(20, 80, 10), np.full(10, 30)), 1)
    points[27:36] = np.stack((np.full(9, 50), np.linspace(40, 75, 9)), 1)
    points[36:42] = np.array([30, 45]) + 3 * np.array([[-2, 0], [-1, -1], [1, -1], [2, 0], [1, 1], [-1, 1]])
    points[42:48] = np.array([70, 45]) + 3 * np.array([[-2, 0], [-1, -1], [1, -1], [2, 0], [1, 1], [-1, 1]])
    angles = np.pi + 2 * np.pi * np.arange(12) / 12
    points[48:60] = np.array([50, 90]) + np.stack((15 * np.cos(angles), 5 * np.sin(angles)), 1)
    angles = np.pi + 2 * np.pi * np.arange(8) / 8
    points[60:68] = np.array([50, 90]) + np.stack((10 * np.cos(angles), 2 * np.sin(angles)), 1)
    return points[None]


def test_the_face_box_follows_the_measured_map():
    box = face_ovals(a_face()).boxes()[0]
    np.testing.assert_allclose(box, [10, 30 - 25, 90, 30 - 25 + 100], atol=0.5)


@pytest.mark.parametrize("degrees", [0, 40, 90, 180, -120])
def test_the_oval_turns_with_the_face(degrees):
    face = a_face()
    angle = np.radians(degrees)
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
    upright, turned = face_ovals(face), face_ovals(face @ linear.T)
    np.testing.assert_allclose(turned.centres, upright.centres @ linear.T, atol=0.5)
    np.testing.assert_allclose(turned.halves, upright.halves, atol=0.5)
    if degrees in (90, 180):
        np.testing.assert_allclose(turned.boxes() - np.tile(turned.centres, 2),
                                   upright.boxes(angle) - np.tile(upright.centres, 2), atol=0.5)


def test_five_points_are_named_as_seen_in_the_image():
    face = a_face()
    expected = [[30, 45], [70, 45], [50, face[0, 30, 1]], [35, 90], [65, 90]]
    np.testing.assert_allclose(five_points(face)[0], expected, atol=0.01)
    mirrored = face[:, MIRROR] * [-1, 1]
    np.testing.assert_allclose(five_points(mirrored)[0] * [-1, 1], five_points(face)[0][[1, 0, 2, 4, 3]], atol=0.01)


def test_decoded_pictures_stay_within_their_memory_limit(tmp_path):
    images = {tmp_path / f"{i}.png": np.full((10, 10, 3), i, np.uint8) for i in range(4)}
    for path, image in images.items():
        cv2.imwrite(str(path), image)
    decoded = Decoded(room=2 * 300)
    for path in [*images, *images]:
        assert np.array_equal(decoded(path), images[path])
        assert decoded(path) is decoded(path)
        assert decoded.used == sum(image.nbytes for image in decoded.images.values()) <= 600
    assert [path.name for path in decoded.images] == ["2.png", "3.png"]
    assert np.array_equal(Decoded(room=1)(path), images[path])  # larger than the limit
    with pytest.raises(SettingsError, match=r"none.png: picture cannot be read"):
        decoded(tmp_path / "none.png")


def test_pictures_are_drawn_with_the_root_of_their_faces_that_can_be_learnt():
    def picture(heights, ignored=False):
        boxes = np.array([(0, 0, 20, height) for height in heights], np.float32).reshape(-1, 4)
        return Picture(Path(), "", boxes, np.full(len(boxes), ignored))

    pictures = [picture([]), picture([10] * 3), picture([40] * 8), picture([9.9] * 5), picture([40] * 5, True)]
    np.testing.assert_allclose(chances(pictures), np.array([1, 2, 3, 1, 1]) / 8)


def test_faces_labelled_by_hand_are_drawn_three_times_as_often_and_infants_six_times():
    sources = np.array(["YTF", "HELEN", "InfAnFace", "AAF", "mine"])
    cutouts = Cutouts(Crops(np.zeros((5, 1, 1, 3), np.uint8), np.zeros((5, 68, 2), np.float32), sources))
    np.testing.assert_allclose(cutouts.chances, np.array([1, 3, 6, 1, 3]) / 14)
