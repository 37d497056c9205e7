import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from nodes._picture_files import PICTURE_SUFFIXES
from tests.training.faces68 import draw, points68, write_points, write_set
from training import landmark_data
from training.landmark_data import MIRROR, states
from training.settings import SettingsError


def test_mirror_twice_is_identity_and_swaps_sides() -> None:
    assert (MIRROR[MIRROR] == np.arange(68)).all()
    assert (np.arange(68) != MIRROR).sum() == 58
    face = points68()
    assert face[MIRROR] * [-1, 1] == pytest.approx(face, abs=1e-9)


def test_points_are_shifted_from_one_to_zero(tmp_path: Path) -> None:
    _, points = draw(np.random.default_rng(0))
    write_points(tmp_path / "a.pts", points)
    assert landmark_data.read_points(tmp_path / "a.pts") == pytest.approx(points, abs=1e-3)


def test_every_fault_is_listed_and_the_rest_is_read(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 4)
    (folder / "p0_0.pts").unlink()
    (folder / "p0_1.png").unlink()
    write_points(folder / "p1_2.pts", points68()[:5])
    (folder / "broken.pts").write_text("version: 1\nn_points: 68\n{\n1 x\n}\n")
    cv2.imwrite(str(folder / "broken.png"), np.zeros((9, 9, 3), np.uint8))
    samples, faults = landmark_data.read_folder(folder, "toy")
    assert [sample.path.name for sample in samples] == ["p1_3.png"]
    expected = ("broken.pts: not a number", "p0_0.png: no .pts", "p0_1.pts: no picture", "p1_2.pts: 5 points")
    assert len(faults) == 4
    for fault, text in zip(faults, expected, strict=True):
        assert text in fault


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nowhere: no such folder, needed for the data set toy"):
        landmark_data.read_folder(tmp_path / "nowhere", "toy")


def test_cache_keeps_points_on_their_pixels_and_lists_unusable_pictures(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 3)
    (folder / "p0_0.png").write_bytes(b"no picture")
    samples, faults = landmark_data.read_folder(folder, "toy")
    assert not faults
    crops, faults = landmark_data.cache_crops(samples, tmp_path / "cache")
    assert len(crops) == 2
    assert "p0_0.png: picture cannot be read" in faults[0]
    for image, points in zip(crops.images, crops.points, strict=True):
        for eye in (slice(36, 42), slice(42, 48)):
            x, y = points[eye].mean(0).round().astype(int)
            assert image[y, x].max() < 60  # the pupils are drawn dark on a light skin
    for gone in (None, ".u8", ".npz"):  # deleted to free space
        for file in (tmp_path / "cache").iterdir():
            if file.suffix == gone:
                file.unlink()
        again, _ = landmark_data.cache_crops(samples, tmp_path / "cache")
        assert (again.images[:] == crops.images[:]).all()


def test_cached_crops_are_pickled_as_their_path(tmp_path: Path) -> None:
    samples, _ = landmark_data.read_folder(write_set(tmp_path / "set", 3), "toy")
    crops, _ = landmark_data.cache_crops(samples, tmp_path / "cache")
    prepared = landmark_data.Rows([(crops.images, 2), (crops.images, 0)])
    for images in (crops.images, prepared):
        given = pickle.dumps(images)
        assert len(given) < 400
        for there, here in zip(pickle.loads(given), images, strict=True):
            assert np.array_equal(there, here)


@pytest.mark.parametrize("width", [1999, 2003])  # shrunk by a seventh: 297.1 and 297.7 pixels
def test_a_face_in_a_large_picture_keeps_its_points_on_their_pixels(width: int) -> None:
    points = (points68() * 400 + (width - 450, 400)).astype(np.float32)
    x, y = points[54].round().astype(int)  # a corner of the mouth, on a whole pixel
    image = np.zeros((900, width, 3), np.uint8)
    image[y - 15 : y + 16, x - 15 : x + 16] = 255
    cut, mapped = landmark_data.cut_face(image, points)
    left, top = mapped[54].astype(int) - 9
    part = cut[top : top + 19, left : left + 19, 0].astype(float)
    seen = [corner + (part.sum(axis) * np.arange(19)).sum() / part.sum() for corner, axis in ((left, 0), (top, 1))]
    assert seen == pytest.approx(mapped[54].tolist(), abs=0.05)


@pytest.mark.parametrize(("scale", "shift", "text"), [
    (20, (50, 40), ""), (3.5, (50, 40), "face of 7."), (20, (-1, 40), "face centre"), (20, (101, 40), "face centre"),
    (20, (50, -8), "face centre"), (20, (50, 81), "lies outside the 100 x 80 picture"),
])
def test_a_face_that_is_too_small_or_not_in_the_picture_is_unusable(scale: float, shift: tuple[int, int],
                                                                    text: str) -> None:
    points = (points68() * scale + shift).astype(np.float32)
    fault = landmark_data.unusable(points, np.zeros((80, 100, 3), np.uint8))
    assert text in fault and bool(text) == bool(fault)
    assert landmark_data.unusable(points, None) == "picture cannot be read"


def test_people_are_held_out_whole() -> None:
    person = landmark_data.person_of(".*(?=_)")
    assert person("Ann_Lee_00") == person("Ann_Lee_17") == "Ann_Lee"
    held = [landmark_data.held_out(f"set/{i}", 0.1) for i in range(3000)]
    assert 0.08 < np.mean(held) < 0.12
    assert not any(landmark_data.held_out(f"set/{i}", 0.0) for i in range(100))
    assert all(landmark_data.held_out(f"set/{i}", 1.0) for i in range(100))


@pytest.mark.parametrize("size", [0.05, 3.0, 400.0])
def test_states_do_not_depend_on_size(size: float) -> None:
    face = points68()
    face[61:64, 1] = face[65:68, 1][::-1] - 0.06
    assert states(face * size + 7).tolist() == [0, 0, 0, 0]
    shut = face.copy()
    shut[[37, 38, 40, 41], 1] = -0.1
    shut[61:64, 1] = shut[65:68, 1] = 0.65
    assert states(shut * size).tolist() == [1, 0, 1, 0]
    shout = face.copy()
    shout[65:68, 1] += 0.3
    assert states(shout * size).tolist() == [0, 0, 0, 1]


def test_backgrounds_avoid_faces(tmp_path: Path) -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    image[30:70, 90:110] = 255
    cv2.imwrite(str(tmp_path / "a.png"), image)
    box = np.array([[90, 30, 110, 70]], np.float32)
    found = landmark_data.cache_backgrounds([(tmp_path / "a.png", box)], tmp_path / "cache", 20)
    assert len(found) == 20
    assert found[:].max() < 200


def test_changed_backgrounds_are_cut_again(tmp_path: Path) -> None:
    path, nobody = tmp_path / "a.png", np.zeros((0, 4), np.float32)
    for grey in (10, 200):
        cv2.imwrite(str(path), np.full((100, 100, 3), grey, np.uint8))
        os.utime(path, (grey, grey))
        assert (landmark_data.cache_backgrounds([(path, nobody)], tmp_path / "cache", 2)[:] == grey).all()


def test_pictures_that_a_graph_takes_can_be_trained_with() -> None:
    assert {*landmark_data.PICTURES} == PICTURE_SUFFIXES
