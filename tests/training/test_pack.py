import os
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.training.faces68 import draw, write_set
from training import landmark_data, pack
from training.faces_data import read_wider
from training.landmark_settings import LandmarkSettings
from training.landmark_task import LandmarkTask


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A tree of one set with points, one picture of WIDER and one background."""
    root = tmp_path / "data"
    write_set(root / "landmarks" / "mine", 6)
    events, split = root / "WIDER" / "WIDER_train" / "images" / "0--Parade", root / "WIDER" / "wider_face_split"
    for folder in (events, split, root / "backgrounds"):
        folder.mkdir(parents=True)
    large = cv2.resize(draw(np.random.default_rng(0))[0], (640, 480))
    cv2.imwrite(str(events / "a.jpg"), large)
    (split / "wider_face_train_bbx_gt.txt").write_text("0--Parade/a.jpg\n2\n64 48 320 240 0 0 0 0 0 0\n"
                                                       "0 0 10 10 0 0 0 1 0 0\n")
    cv2.imwrite(str(root / "backgrounds" / "b.png"), large)
    return root


@pytest.fixture
def unpacked(data: Path) -> Path:
    """The same tree, packed and unpacked."""
    out = data.parent / "visit.zip"
    assert pack.main([str(data), str(out), "--megabytes", "1", "--picture-side", "160"]) == 0
    assert out.stat().st_size <= 1e6
    with zipfile.ZipFile(out) as file:
        file.extractall(data.parent / "unpacked")
    return data.parent / "unpacked"


def test_faces_keep_their_points_and_people(data: Path, unpacked: Path) -> None:
    before, _ = landmark_data.read_folder(data / "landmarks" / "mine", "mine")
    after, faults = landmark_data.read_folder(unpacked / "landmarks" / "mine", "mine")
    assert not faults
    assert [sample.person for sample in after] == [sample.person for sample in before]
    for old, new in zip(before, after, strict=True):
        cuts = [landmark_data.cut_face(cv2.imread(str(s.path)), s.points, 64, 1.4) for s in (old, new)]
        assert cuts[0][1] == pytest.approx(cuts[1][1], abs=0.1)
        assert np.abs(cuts[0][0].astype(int) - cuts[1][0]).mean() < 6


def test_boxes_shrink_with_their_picture(unpacked: Path) -> None:
    (found,), faults = read_wider(unpacked / "WIDER" / "wider_face_split" / "wider_face_train_bbx_gt.txt",
                                  unpacked / "WIDER" / "WIDER_train" / "images")
    assert not faults
    assert found.image().shape == (120, 160, 3)
    assert found.boxes[0].tolist() == [15.5, 11.5, 95.5, 71.5]
    assert found.ignored.tolist() == [False, True]


@pytest.mark.slow
def test_the_pack_trains(unpacked: Path) -> None:
    sources = {"mine": {"folder": "landmarks/mine", "held_out": 0.4}}
    settings = LandmarkSettings(data=unpacked, cache=unpacked / "cache", size=64, sources=sources,
                                backgrounds="backgrounds", wider="WIDER")
    task = LandmarkTask(settings)
    assert len(task.crops) + len(task.validation.points) == 6
    assert task.batch(np.random.default_rng(0), 4)["image"].shape == (4, 3, 64, 64)


def test_what_does_not_fit_leaves_nothing(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = data.parent / "visit.zip"
    assert pack.main([str(data), str(out), "--megabytes", "0.001"]) == 2
    assert "more than 0.001 MB even at quality 20" in caplog.text
    assert not list(data.parent.glob("visit*"))


def test_what_is_not_packed_is_said_and_names_in_any_encoding_are(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    (data / "mine" / "labels").mkdir(parents=True)
    (data / "mine" / "images").mkdir()
    (data / "backgrounds" / "b.png").rename(data / "mine" / "images" / "a.png")
    (data / "mine" / "labels" / "a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    for suffix in (".png", ".pts"):
        odd = os.fsdecode(b"caf\xe9" + suffix.encode())
        (data / "landmarks" / "mine" / f"p0_0{suffix}").rename(data / "landmarks" / "mine" / odd)
    assert pack.main([str(data), str(data.parent / "visit.zip")]) == 0
    assert "mine: boxes of the layout YOLO are not packed" in caplog.text
    with zipfile.ZipFile(data.parent / "visit.zip") as file:
        assert {"landmarks/mine/caf\\udce9.webp", "landmarks/mine/caf\\udce9.pts"} <= set(file.namelist())
