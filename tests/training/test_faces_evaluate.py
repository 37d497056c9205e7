"""Measures of a face detector: detections, points, edges and false alarms."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from nodes import _boxes
from nodes._backend import MODELS
from nodes.landmarks import LandmarkModel
from training import evaluate, export, prepare
from training.faces_data import Picture
from training.faces_evaluate import edge_rows, exported, find, landmarked, measure_points
from training.landmark_data import Sample
from training.settings import SettingsError


def one_face(box, score=5.0, size=(64, 64)):
    """Maps with one face, whatever the input: box in input pixels, points at a third of its sides."""
    maps = [np.zeros((15, size[1] // s, size[0] // s), np.float32) for s in _boxes.STRIDES]
    for level in maps:
        level[0] = -9
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    cell = maps[0][:, 3, 3]
    cell[:5] = score, (x - 27.5) / 8, (y - 27.5) / 8, np.log((box[2] - box[0]) / 8), np.log((box[3] - box[1]) / 8)
    cell[5:] = np.array([[-1, -1], [1, -1], [0, 0], [-1, 1], [1, 1]]).ravel() / 3
    return lambda _: maps


def test_find_gives_boxes_and_points_in_input_pixels():
    boxes, scores, points = find(one_face((10, 12, 40, 48)), np.zeros((64, 64, 3), np.uint8), (64, 64), 0.5)
    np.testing.assert_allclose(boxes, [[10, 12, 40, 48]], rtol=1e-5)
    assert scores[0] == pytest.approx(1 / (1 + np.exp(-5)))
    np.testing.assert_allclose(points[0], [[15, 18], [35, 18], [25, 30], [15, 42], [35, 42]], rtol=1e-5)


def test_points_and_box_edges_are_measured_where_a_face_is_found(tmp_path):
    image = np.zeros((128, 128, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "face.png"), image)
    points = np.zeros((68, 2), np.float32)
    points[:, 0], points[:, 1] = np.linspace(20, 80, 68), np.linspace(42, 98, 68)
    points[36:42], points[42:48], points[30] = (30, 36), (70, 36), (50, 60)
    points[48:60], points[48], points[54] = (50, 84), (30, 84), (70, 84)
    sample = Sample(tmp_path / "face.png", points, "made", "one")
    table, edges = measure_points(one_face((10, 12, 40, 48)), [sample], (64, 64))  # the picture is halved
    assert table["faces found, %"] == 100
    assert max(value for key, value in table.items() if key.startswith("error")) < 2
    low, high = (points.min(0) + 0.5) / 2 - 0.5, (points.max(0) + 0.5) / 2 - 0.5
    expected = [(low[0] - 10) / 30, (low[1] - 12) / 36, (high[0] - 40) / 30, (high[1] - 48) / 36]
    np.testing.assert_allclose(edges, [expected], atol=1e-3)
    assert measure_points(one_face((10, 12, 40, 48), score=-5), [sample], (64, 64))[0] == {"faces found, %": 0}
    (tmp_path / "none.png").write_bytes(b"no picture")
    both = [Sample(tmp_path / "none.png", points, "made", "two"), sample]
    assert measure_points(one_face((10, 12, 40, 48)), both, (64, 64))[0] == table


def test_false_alarms_confirmed_by_the_landmark_network_are_counted():
    image = np.full((600, 1024, 3), 90, np.uint8)
    image[:, :512] = export.portrait()
    found = Picture(Path("p"), "p", np.zeros((0, 4), np.float32), np.zeros(0, bool), image)
    face, wall = (178 / 2, 110 / 2, 358 / 2, 336 / 2), (380, 100, 470, 210)
    for boxes, believed in (((face, wall), 1), ((wall,), 0), ((), 0)):
        assert landmarked(LandmarkModel(), found, np.array(boxes, np.float32).reshape(-1, 4), (512, 300)) == believed


def test_edges_of_no_face_give_no_rows() -> None:
    assert edge_rows("own", np.zeros((0, 4), np.float32)) == {}
    rows = edge_rows("own", np.array([[0, 1, 2, 3], [2, 1, 2, 3]], np.float32))
    assert rows["own: landmark box x0"] == 1 and rows["own: its deviation x0"] == 1
    assert rows["own: landmark box y1"] == 3 and rows["own: its deviation y1"] == 0


def test_a_missing_network_is_named(tmp_path):
    with pytest.raises(SettingsError, match="nothing"):
        exported(tmp_path / "nothing")


def test_a_detector_is_measured_on_what_its_own_settings_hold_out(tmp_path):
    (tmp_path / "mine/images").mkdir(parents=True)
    (tmp_path / "mine/labels").mkdir()
    for i in range(6):
        cv2.imwrite(str(tmp_path / f"mine/images/{i}.png"), export.portrait())
        (tmp_path / f"mine/labels/{i}.txt").write_text("0 0.52 0.37 0.35 0.38\n")
    prepare.main([str(tmp_path), "--out", str(tmp_path / "prepared"), "--held-out", "0.5"])
    own = {"wider": "", "prepared": {str(tmp_path / "prepared"): "mine"}}
    card = json.loads((MODELS / "faces.json").read_text()) | {"training": {"settings": own}}
    (tmp_path / "faces.json").write_text(json.dumps(card))
    shutil.copy(MODELS / "faces.onnx", tmp_path)
    assert evaluate.main([str(tmp_path / "faces"), str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    table = json.loads((tmp_path / "out/evaluation.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "prepared/pictures.jsonl").read_text().splitlines()]
    assert 0 < table["pictures held out"] == sum(line["held_out"] for line in lines) < 6
    assert table["ap, faces of at least 32 px"] == 1


def test_a_detector_is_not_measured_on_the_first_of_several_folders_alone(tmp_path, caplog):
    assert evaluate.main([str(MODELS / "faces"), str(tmp_path / "one"), str(tmp_path)]) == 2
    found = f"found {tmp_path / 'one'}, {tmp_path}"
    assert f"measured on one folder, the one with all sets of its card; {found}" in caplog.text
