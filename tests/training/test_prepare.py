import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io

from tests.training.faces68 import draw, write_points, write_set
from training import prepare, prepared, read_boxes, read_landmarks
from training.faces_settings import FaceSettings
from training.faces_task import FaceTask
from training.find_sets import FaceSet, find_sets
from training.landmark_data import cache_crops, hashed
from training.landmark_settings import LandmarkSettings
from training.landmark_task import LandmarkTask
from training.settings import SettingsError


def picture(path: Path, seed: int = 0) -> np.ndarray:
    """Write one drawn face; return its points, counted from pixel 0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image, points = draw(np.random.default_rng(seed))
    cv2.imwrite(str(path), image)
    return points


def found_in(data: Path) -> dict[str, FaceSet]:
    return {found.name: found for found in find_sets(data, {})}


def test_the_tree_of_the_original_is_read_by_sets_and_people(tmp_path: Path) -> None:
    for name in ("300W/01_Indoor", "AFW/afw", "HELEN/testset", "LFPW/trainset", "300VW/001_annot"):
        write_set(tmp_path / name, 4)
    (tmp_path / "YTF" / "training").mkdir(parents=True)
    (tmp_path / "YTF" / "test").mkdir()
    for i, stem in enumerate(("training/Ann_Lee_1", "training/Bo_2", "test/Ann_Lee_3")):
        write_points(tmp_path / "YTF" / f"{stem}.pts", picture(tmp_path / "YTF" / f"{stem}.jpg", i))
    found = found_in(tmp_path)
    assert set(found) == {"300W/01_Indoor", "AFW/afw", "HELEN/testset", "LFPW/trainset", "YTF/training", "YTF/test",
                          "300VW"}
    assert {face.person for face in found["YTF/training"].faces} == {"YTF/Ann_Lee", "YTF/Bo"}
    assert {face.person for face in found["YTF/test"].faces} == {"YTF/Ann_Lee"}
    assert {face.person for face in found["300VW"].faces} == {"300VW/001"}
    assert len({face.person for face in found["AFW/afw"].faces}) == 4


@pytest.mark.parametrize("name", ["{:06d}.pts", "{}.pts"])
def test_300vw_frames_have_the_points_of_their_numbers(name: str, tmp_path: Path) -> None:
    clip = tmp_path / "300VW" / "007"
    (clip / "annot").mkdir(parents=True)
    video = cv2.VideoWriter(str(clip / "vid.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (120, 120))
    frames = [draw(np.random.default_rng(i)) for i in range(11)]
    for number, (image, points) in enumerate(frames, 1):
        video.write(image)
        write_points(clip / "annot" / name.format(number), points)
    video.release()
    write_points(clip / "annot" / name.format(12), frames[0][1])
    found = found_in(tmp_path)["300VW"]
    assert [face.frame for face in found.faces] == [*range(11)]
    assert "12.pts: expected a name from 1 to the 11 frames of vid.avi" in found.faults[0]
    for (face, image), (drawn, points) in zip(prepare.read_all(found.faces), frames, strict=True):
        assert face.points == pytest.approx(points, abs=1e-3)
        assert image is not None
        assert np.abs(image.astype(int) - drawn).mean() < 8


def test_300wlp_counts_from_one_and_views_of_a_photograph_are_one_person(tmp_path: Path) -> None:
    root = tmp_path / "300W_LP"
    (root / "landmarks" / "AFW").mkdir(parents=True)
    for view in (0, 1, 2):
        points = picture(root / "AFW" / f"AFW_12_1_{view}.jpg")
        scipy.io.savemat(root / "landmarks" / "AFW" / f"AFW_12_1_{view}_pts.mat", {"pts_2d": points + 1})
    (root / "landmarks" / "AFW" / "AFW_12_1_1_pts.mat").write_bytes(b"no matlab")
    (root / "AFW" / "AFW_12_1_2.jpg").unlink()
    found = found_in(tmp_path)["300W_LP"]
    assert [face.person for face in found.faces] == ["300W_LP/AFW_12_1"]
    assert found.faces[0].points == pytest.approx(points_of(0), abs=1e-3)
    assert "not a readable .mat" in found.faults[0] and "no picture in AFW" in found.faults[1]


def points_of(seed: int) -> np.ndarray:
    return draw(np.random.default_rng(seed))[1]


def test_aflw2000_takes_two_of_three_coordinates(tmp_path: Path) -> None:
    points = picture(tmp_path / "AFLW2000" / "a.jpg")
    solid = np.concatenate((points.T + 1, np.zeros((1, 68))))
    scipy.io.savemat(tmp_path / "AFLW2000" / "a.mat", {"pt3d_68": solid})
    found = found_in(tmp_path)["AFLW2000"]
    assert found.faces[0].points == pytest.approx(points, abs=1e-3)


def test_wflw_points_become_the_68_nearest(tmp_path: Path) -> None:
    root = tmp_path / "WFLW"
    lists = root / "WFLW_annotations" / "list_98pt_rect_attr_train_test"
    lists.mkdir(parents=True)
    picture(root / "WFLW_images" / "0--Parade" / "a.jpg")
    points = np.arange(196).reshape(98, 2) / 2
    row = " ".join(f"{value}" for value in points.ravel())
    attributes = "1 2 3 4 0 0 0 0 0 0 0--Parade/"
    (lists / "list_98pt_rect_attr_train.txt").write_text(
        f"{row} {attributes}a.jpg\n{row} {attributes}b.jpg\n1 2 3 {attributes}a.jpg\n")
    (lists / "list_98pt_rect_attr_test.txt").write_text(f"{row} {attributes}a.jpg\n")
    found = found_in(tmp_path)
    face = found["WFLW/train"].faces[0]
    assert face.points[8].tolist() == points[16].tolist()  # the chin
    assert face.points[[36, 39, 42, 45]].tolist() == points[[60, 64, 68, 72]].tolist()  # eye corners
    assert face.points[[48, 54, 60, 64]].tolist() == points[[76, 82, 88, 92]].tolist()  # mouth corners
    assert face.points[30].tolist() == points[54].tolist()  # the tip of the nose
    assert len(set(read_landmarks.WFLW_68.tolist())) == 68
    assert "no picture" in found["WFLW/train"].faults[0] and "13 numbers" in found["WFLW/train"].faults[1]
    assert prepare.Split(0.0, prepare.OFFICIAL_TESTS)("WFLW/test", "a")
    assert not prepare.Split(0.0, prepare.OFFICIAL_TESTS)("WFLW/train", "a")


def test_retinaface_boxes_and_points(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a" / "1.jpg")
    five = " ".join(f"{i}.0 {i + 1}.0 0.0" for i in range(5))
    picture(tmp_path / "images" / "a" / "3.jpg")
    (tmp_path / "label.txt").write_text("1 2 3 4\n5 6 7 8\n# a/1.jpg\n"
                                        f"10 20 5 6 {five} 0.9\n1 2 3 4 {'-1 -1 -1 ' * 5}0.1\n1 1 0 0\n"
                                        "# a/3.jpg\n1 2 3 4\nx\n# a/2.jpg\n1 2 3 4\n")
    (found,), faults = read_boxes.read_retinaface(tmp_path / "label.txt")
    assert found.boxes.tolist() == [[9.5, 19.5, 14.5, 25.5], [0.5, 1.5, 3.5, 5.5]]
    assert found.points is not None
    assert found.points[0].tolist() == [[i, i + 1] for i in range(5)]
    assert np.isnan(found.points[1]).all()
    for fault, text in zip(faults, ("label.txt:1: expected '# NAME', found '1 2 3 4'", "label.txt:6: box without area",
                                    "label.txt:9: expected 'x y w h", "label.txt:10: no picture"), strict=True):
        assert text in fault


def test_voc_edges_count_from_one(tmp_path: Path) -> None:
    for name in ("a", "b", "d", "e"):
        picture(tmp_path / "JPEGImages" / f"{name}.jpg")
    (tmp_path / "Annotations").mkdir()
    box = "<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>5</xmax><ymax>9</ymax></bndbox>"
    things = (f"<object><name>face</name><difficult>1</difficult>{box}</object>"
              f"<object><name>dog</name>{box}</object>")
    (tmp_path / "Annotations" / "a.xml").write_text(f"<annotation>{things}</annotation>")
    (tmp_path / "Annotations" / "b.xml").write_text("<annotation>")
    (tmp_path / "Annotations" / "c.xml").write_text("<annotation></annotation>")
    masked = f"<annotation>{things}<object><name>face_mask</name></object></annotation>"
    (tmp_path / "Annotations" / "e.xml").write_text(masked)
    (found,), faults = read_boxes.read_voc(tmp_path)
    assert found.boxes.tolist() == [[1.5, 2.5, 4.5, 8.5]]  # the pixels 2 to 4 and 3 to 8
    assert found.ignored.tolist() == [True]
    texts = ("not XML", "no picture c", "e.xml: an object without the four numbers", "d.jpg: no d.xml")
    for fault, text in zip(faults, texts, strict=True):
        assert text in fault


def test_a_set_without_usable_pictures_is_explained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    picture(tmp_path / "images" / "a.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.1 0.1 0.1 0.2 0.2 0.2 0.2 0.1\n")  # a turned box
    assert prepare.main([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "nothing in it can be used; the first of 1 faults is" in caplog.text
    assert "a.txt:1: expected 5, 15 or 20 numbers" in caplog.text


def test_a_voc_set_without_faces_by_name_is_not_learnt_as_background(tmp_path: Path) -> None:
    box = "<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>5</xmax><ymax>9</ymax></bndbox>"
    (tmp_path / "Annotations").mkdir()
    for name, kind in (("a", "head"), ("b", "dog"), ("c", "head")):
        picture(tmp_path / "JPEGImages" / f"{name}.jpg")
        (tmp_path / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><object><name>{kind}</name>{box}</object></annotation>")
    pictures, faults = read_boxes.read_voc(tmp_path)
    assert not pictures
    assert faults == [f"{tmp_path}/Annotations: no object with 'face' in its name, found 'dog, head'; its pictures are "
                      "left out"]


def test_yolo_shares_become_pixels(tmp_path: Path) -> None:
    for name in ("a", "b", "d"):
        picture(tmp_path / "images" / "train" / f"{name}.jpg")  # 120 x 120
    labels = tmp_path / "labels" / "train"
    labels.mkdir(parents=True)
    seen = " ".join(["0.5 0.25 2"] * 5)
    (labels / "a.txt").write_text(f"0 0.5 0.5 0.5 0.25 {seen}\n")
    (labels / "d.txt").write_text("0 0.5 0.5 0.5 0.25\n0 0.1 0.1 0.1 0.2 0.2 0.2\n")  # an outline
    (labels / "c.txt").write_text("")
    (a, b), faults = read_boxes.read_yolo(tmp_path)
    assert a.boxes.tolist() == [[29.5, 44.5, 89.5, 74.5]]
    assert a.points is not None
    assert a.points[0, 0].tolist() == [59.5, 29.5]
    assert len(b.boxes) == 0
    assert "c.txt: no picture" in faults[0] and "d.txt:2: expected 5, 15 or 20 numbers" in faults[1]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Faces in two layouts and pictures with boxes, with a fault of each kind."""
    folder = write_set(tmp_path / "data" / "mine", 6)
    (folder / "p0_0.pts").unlink()
    (folder / "p0_1.png").write_bytes(b"no picture")
    points = picture(folder / "far.png", 3)
    write_points(folder / "far.pts", points + 500)
    half = points.copy()
    half[:5, 0] -= 75
    picture(folder / "half.png", 3)
    write_points(folder / "half.pts", half)
    write_set(tmp_path / "data" / "LFPW" / "testset", 3, seed=9)
    (tmp_path / "data" / "yolo" / "labels").mkdir(parents=True)
    picture(tmp_path / "data" / "yolo" / "images" / "a.jpg")
    (tmp_path / "data" / "yolo" / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n0 3 3 0.1 0.1\n")
    return tmp_path / "data"


def test_prepared_faces_train_a_network(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = data.parent / "prepared"
    assert prepare.main([str(data), "--out", str(out), "--held-out", "0", "--person", "mine=p[0-9]"]) == 0
    faults = (out / "faults.txt").read_text()
    for text in ("p0_0.png: no .pts", "p0_1.png: picture cannot be read", "far.png: face centre", "half.png: 5 of 68",
                 "a.jpg: 1 boxes lie outside it"):
        assert text in faults
    assert "5 faults" in capsys.readouterr().out
    assert cv2.imread(str(out / "sheet.png")) is not None

    lines = [json.loads(line) for line in (out / "faces.jsonl").read_text().splitlines()]
    assert [line["set"] for line in lines] == ["LFPW/testset"] * 3 + ["mine"] * 5
    assert [line["held_out"] for line in lines] == [True] * 3 + [False] * 5
    assert {line["person"] for line in lines[3:]} == {"mine/half", "mine/p1", "mine/p2"}
    assert {"left_eye_closed", "mouth_wide_open", "small_eye_distance"} <= lines[0].keys()

    sources = {"tests": {"prepared": str(out), "sets": "LFPW/.*"}, "own": {"prepared": str(out), "sets": "mine"},
               "more": {"folder": "LFPW/testset"}}
    task = LandmarkTask(LandmarkSettings(data=data, cache=data.parent / "cache", size=64, sources=sources))
    assert task.crops.sources.tolist() == ["more"] * 3 + ["own"] * 5
    assert len(task.validation.points) == 3
    assert task.batch(np.random.default_rng(0), 4)["image"].shape == (4, 3, 64, 64)
    for index, points in enumerate(task.crops.points):
        x, y = points[36:42].mean(0).round().astype(int)
        assert task.crops.images[index][y, x].max() < 60  # pupils are drawn dark


def test_prepared_crops_are_not_copied(data: Path) -> None:
    out = data.parent / "prepared"
    prepare.main([str(data), "--out", str(out)])
    crops, _ = cache_crops(prepared.read_faces(out, "own", "mine"), data.parent / "cache")
    assert len(crops.images) == 5
    assert not (data.parent / "cache").exists()


def test_prepared_pictures_have_boxes(data: Path) -> None:
    out = data.parent / "prepared"
    prepare.main([str(data), "--out", str(out), "--held-out", "0"])
    (found,), aside = prepared.read_pictures(out, data)
    assert found.boxes.tolist() == [[29.5, 29.5, 89.5, 89.5]]
    assert found.image().shape == (120, 120, 3)
    assert not aside
    found.path.unlink()
    with pytest.raises(SettingsError, match=rf"1 of its 1 pictures are missing, the first is {found.path}; run"):
        prepared.read_pictures(out, data)


def test_prepared_pictures_train_a_detector(data: Path) -> None:
    out = data.parent / "prepared"
    five = " ".join(["0.4 0.4"] * 5)
    (data / "yolo" / "labels" / "a.txt").write_text(f"0 0.5 0.5 0.5 0.5 {five}\n0 0.2 0.2 0.2 0.2\n")
    (data / "aside" / "labels").mkdir(parents=True)
    picture(data / "aside" / "images" / "b.jpg")
    (data / "aside" / "labels" / "b.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    prepare.main([str(data), "--out", str(out), "--held-out", "0", "--hold-out-sets", "aside"])
    own = FaceSettings(data=data, wider="", prepared={out: "yolo|aside"}, cache=data.parent / "cache")
    task = FaceTask(own)
    assert [picture.name for picture in task.held_out] == ["aside/images/b.jpg"]
    batch = task.batch(np.random.default_rng(0), 8)
    assert batch["image"].shape == (8, 3, 256, 256)
    assert (batch["kinds"] != 0).any()
    assert np.isfinite(batch["points"].numpy()).any() and np.isnan(batch["points"].numpy()).any()
    with pytest.raises(SettingsError, match=r"1 pictures to train with, 0 held out; both are needed"):
        FaceTask(own.model_copy(update={"prepared": {out: "yolo"}}))


def test_of_few_people_one_is_held_out_and_of_few_pictures_one(tmp_path: Path) -> None:
    write_set(tmp_path / "data" / "mine", 5)
    for name in "abc":
        picture(tmp_path / "data" / "yolo" / "images" / f"{name}.jpg")
    (tmp_path / "data" / "yolo" / "labels").mkdir()
    (tmp_path / "data" / "yolo" / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    people = {f"mine/p{i}" for i in range(3)}
    for share, held in (("1e-6", 1), ("0", 0)):
        assert prepare.main([str(tmp_path / "data"), "--out", str(tmp_path), "--held-out", share,
                             "--person", "mine=[^_]*"]) == 0
        faces = prepared.read_by_set(tmp_path)
        assert {face.person for face in faces if face.held_out} == {*sorted(people, key=hashed)[:held]}
        assert len({face.person for face in faces}) == 3
        assert len(prepared.read_pictures(tmp_path, tmp_path / "data")[1]) == held


def test_one_person_alone_is_trained_with() -> None:
    split = prepare.Split(0.1, "none")
    split.hold_out_one({("mine", "mine/ann")})
    assert not split("mine", "mine/ann")


def test_missing_data_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert prepare.main([str(tmp_path / "none")]) == 2
    assert "none: no such folder" in caplog.text
    (tmp_path / "empty").mkdir()
    assert prepare.main([str(tmp_path / "empty")]) == 2
    assert "no data set found" in caplog.text
    for wrong, text in (("mine", "--person mine: expected SET=PATTERN"), ("a=(", "--person a=(: not a valid regular")):
        assert prepare.main([str(tmp_path / "empty"), "--person", wrong]) == 2
        assert text in caplog.text
    assert prepare.main([str(tmp_path / "empty"), "--hold-out-sets", "("]) == 2
    assert "--hold-out-sets (: not a valid regular expression" in caplog.text
    with pytest.raises(SettingsError, match=r"faces.jsonl: No such file .* training.prepare writes it"):
        prepared.read_faces(tmp_path, "own")


def test_a_person_pattern_for_no_set_is_an_error_that_names_the_sets(data: Path,
                                                                     caplog: pytest.LogCaptureFixture) -> None:
    out = data.parent / "prepared"
    for sets in ("mine/.*", "yolo"):  # pictures with only boxes have no persons
        assert prepare.main([str(data), "--out", str(out), "--person", f"{sets}=[^_]*"]) == 2
        assert f"--person {sets}=[^_]*: no set matches; the sets: LFPW/testset, mine" in caplog.text
    assert not out.exists()
    assert prepare.main([str(data), "--out", str(out), "--person", "mine.*=[^_]*"]) == 0
    people = {json.loads(line)["person"] for line in (out / "faces.jsonl").read_text().splitlines()}
    assert {"mine/p1", "mine/p2"} <= people


def test_faces_with_boxes_are_counted_in_the_summary(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare.main([str(data), "--out", str(data.parent / "prepared")])
    assert "prepared: 9 faces, 5 faults" in capsys.readouterr().out  # 8 with points, one in a box


def test_stopping_keeps_what_was_prepared_before(data: Path, monkeypatch: pytest.MonkeyPatch,
                                                 caplog: pytest.LogCaptureFixture) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    arguments = [str(data), "--out", str(data.parent / "prepared")]
    prepare.main(arguments)
    before = {file.name: file.read_bytes() for file in (data.parent / "prepared").iterdir()}
    shutil.rmtree(data / "mine")
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "write_pictures", stopped)
        assert prepare.main(arguments) == 130
    assert "stopped; nothing was written" in caplog.text
    assert {file.name: file.read_bytes() for file in (data.parent / "prepared").iterdir()} == before


def test_preparing_again_removes_outdated_files(data: Path) -> None:
    prepare.main([str(data), "--out", str(data.parent / "prepared")])
    shutil.rmtree(data / "yolo")
    prepare.main([str(data), "--out", str(data.parent / "prepared")])
    assert not (data.parent / "prepared" / "pictures.jsonl").exists()
    assert len(prepared.read_by_set(data.parent / "prepared")) == 8


def test_sets_that_do_not_match_are_named(data: Path) -> None:
    out = data.parent / "prepared"
    prepare.main([str(data), "--out", str(out)])
    with pytest.raises(SettingsError, match="no set matches 'min'; its sets: LFPW/testset, mine"):
        prepared.read_faces(out, "own", "min")


def test_half_profiles_and_states_do_not_depend_on_size_or_roll() -> None:
    face = points_of(0)
    turned = face @ np.array([[0, 1], [-1, 0]], np.float32) * 5
    assert prepare.attributes(face) == prepare.attributes(turned)
    narrow = face.copy()
    narrow[36:48, 0] = narrow[36:48, 0].mean() + (narrow[36:48, 0] - narrow[36:48, 0].mean()) * 0.4
    assert prepare.attributes(narrow)["small_eye_distance"]
    assert not prepare.attributes(face)["small_eye_distance"]
