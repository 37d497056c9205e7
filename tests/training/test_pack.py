import os
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.training.faces68 import draw, write_set
from training import landmark_data, pack
from training.find_sets import find_sets
from training.landmark_settings import LandmarkSettings
from training.landmark_task import LandmarkTask
from training.read_boxes import read_wider
from training.read_landmarks import WFLW_68


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
    (found,), faults = read_wider(unpacked / "WIDER")
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


def test_a_pack_that_does_not_fit_leaves_nothing(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = data.parent / "visit.zip"
    assert pack.main([str(data), str(out), "--megabytes", "0.001"]) == 2
    assert "more than 0.001 MB even at quality 20" in caplog.text
    assert pack.main([str(data), str(out / "below.zip")]) == 2
    assert f"{out}: no such folder" in caplog.text
    assert not list(data.parent.glob("visit*"))


def test_own_boxes_shrink_with_their_pictures(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("voc/JPEGImages/A/a.jpg", "yolo/images/b.png", "retina/images/c.jpg"):
        (data / name).parent.mkdir(parents=True)
        cv2.imwrite(str(data / name), np.zeros((480, 640, 3), np.uint8))
    for name in ("voc/Annotations/A", "yolo/labels"):
        (data / name).mkdir(parents=True)
    edges = "<bndbox><xmin>65</xmin><ymin>49</ymin><xmax>384</xmax><ymax>288</ymax></bndbox>"
    things = [f"<object><name>face</name><difficult>{hard}</difficult>{edges}</object>" for hard in (0, 1)]
    (data / "voc/Annotations/A/a.xml").write_text(f"<annotation>{''.join(things)}</annotation>")
    (data / "yolo/labels/b.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    known, unknown = " ".join(f"{100 + i} {200 + i} 0" for i in range(5)), "-1 -1 -1 " * 5
    (data / "retina/label.txt").write_text(f"# c.jpg\n64 48 320 240 {known} 0.9\n10 20 40 40 {unknown} 0.9\n")
    assert pack.main([str(data), str(tmp_path / "visit.zip"), "--picture-side", "160"]) == 0
    with zipfile.ZipFile(tmp_path / "visit.zip") as file:
        file.extractall(tmp_path / "unpacked")
    before, after = ({found.name: found for found in find_sets(root, {})} for root in (data, tmp_path / "unpacked"))
    assert {name: found.layout for name, found in after.items()} == {"voc": "VOC", "yolo": "YOLO", "retina": "YOLO"}
    for name, found in after.items():
        (old,), (new,) = before[name].pictures, found.pictures
        assert not found.faults and new.name == old.name and new.image().shape == (120, 160, 3)
        assert new.boxes == pytest.approx((old.boxes + 0.5) / 4 - 0.5, abs=0.01)
        assert new.ignored.tolist() == old.ignored.tolist()
        assert (new.points is None) == (old.points is None)
        if new.points is not None and old.points is not None:
            assert new.points == pytest.approx((old.points + 0.5) / 4 - 0.5, abs=0.01, nan_ok=True)


def test_missing_backgrounds_are_reported_once(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")
    mine, out = data / "landmarks" / "mine", data.parent / "visit.zip"
    assert pack.main([str(mine), str(out)]) == 0
    assert caplog.messages == [f"{mine}/backgrounds: no such folder; no pictures without faces are packed"]
    caplog.clear()
    assert pack.main([str(mine), str(out), "--backgrounds", ""]) == 0
    assert not caplog.messages


def test_a_set_by_itself_is_packed(data: Path) -> None:
    assert pack.main([str(data / "WIDER"), str(data.parent / "visit.zip")]) == 0
    with zipfile.ZipFile(data.parent / "visit.zip") as file:
        assert file.namelist() == ["WIDER_train/images/0--Parade/a.jpg", "wider_face_split/wider_face_train_bbx_gt.txt"]


def test_backgrounds_have_no_labels_and_names_in_any_encoding_are_packed(data: Path) -> None:
    (data / "backgrounds" / "b.png").unlink()
    cv2.imwrite(str(data / "backgrounds" / "b.webp"), draw(np.random.default_rng(0))[0])
    for suffix in (".png", ".pts"):
        odd = os.fsdecode(b"caf\xe9" + suffix.encode())
        (data / "landmarks" / "mine" / f"p0_0{suffix}").rename(data / "landmarks" / "mine" / odd)
    assert pack.main([str(data), str(data.parent / "visit.zip")]) == 0
    with zipfile.ZipFile(data.parent / "visit.zip") as file:
        names = set(file.namelist())
    assert {"landmarks/mine/caf\\udce9.webp", "landmarks/mine/caf\\udce9.pts", "backgrounds/b.webp"} <= names
    assert "backgrounds/b.pts" not in names


def test_faces_of_one_picture_get_unique_names(tmp_path: Path) -> None:
    data, rows = tmp_path / "data" / "WFLW", []
    (data / "WFLW_images").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "a_2.png", "a.png", "a_2.png")):
        image, points = draw(np.random.default_rng(seed))
        cv2.imwrite(str(data / "WFLW_images" / name), image)
        of_98 = np.zeros((98, 2))
        of_98[WFLW_68] = points
        rows.append(" ".join(map(str, of_98.ravel())) + f" {name}\n")
    (data / "list_98pt_train.txt").write_text("".join(rows))
    assert pack.main([str(data.parent), str(tmp_path / "visit.zip")]) == 0
    with zipfile.ZipFile(tmp_path / "visit.zip") as file:
        names = [name for name in file.namelist() if name.endswith(".pts")]
    assert names == [f"WFLW/train/{stem}.pts" for stem in ("a", "a_2", "a_3", "a_2_2")]
