import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from matplotlib.cbook import get_sample_data

from nodes._backend import MODELS
from nodes.detect import FaceModel
from tests.portrait import LANDMARKS
from tests.training.faces68 import write_points
from training import evaluate, landmark_data, landmark_evaluate, metrics
from training.landmark_data import Sample
from training.landmark_evaluate import Predictions, measure, predict
from training.predictor import Predictor
from training.settings import SettingsError


@pytest.fixture(scope="module")
def portrait(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The public-domain portrait in a folder of its own, with its labelled points."""
    folder = tmp_path_factory.mktemp("portrait") / "set"
    for part in ("one", "two"):
        (folder / part).mkdir(parents=True)
        image = cv2.imread(str(get_sample_data("grace_hopper.jpg", asfileobj=False)))
        cv2.imwrite(str(folder / part / f"{part}.png"), image)
        write_points(folder / part / f"{part}.pts", LANDMARKS)
    return folder


def rows(**points: np.ndarray) -> Predictions:
    """Predictions for two faces, all equal to the truth except for the given ones."""
    true = np.stack([LANDMARKS, LANDMARKS * 2]).astype(np.float32)
    names = ("plain", "jittered", "again", "mirrored", "nudged", "nudged_again", "noisy", "detected")
    known = {"true": true, "states": np.zeros((2, 4)), "presence": np.ones(2)}
    return Predictions(**({name: true for name in names} | known  # type: ignore[arg-type]
                    | {"spread": np.full((2, 68), np.nan)}
                    | points))


def test_a_known_shift_is_the_error() -> None:
    true = rows().true
    corners = np.linalg.norm(true[:, 36] - true[:, 45], axis=-1)
    shifted = true + np.stack((0.03 * corners, 0 * corners), 1)[:, None]
    table, errors = measure(rows(plain=shifted))
    assert errors == pytest.approx([3, 3], rel=1e-4)
    assert table["nme"] == pytest.approx(3, rel=1e-4)
    assert table["area under curve to 10 %"] == pytest.approx(0.7, rel=1e-4)
    assert table["failures over 8 %"] == 0
    assert table["nme by pupils"] > 3 > table["nme by box"]
    assert table["response to noise of 4 levels"] == pytest.approx(3, rel=1e-4)


def test_a_face_missed_by_the_detector_is_a_failure() -> None:
    detected = rows().true.copy()
    detected[1] = np.nan
    table, _ = measure(rows(detected=detected))
    assert table["found by the detector"] == 50
    assert table["nme, behind the detector"] == 0
    assert table["failures over 8 % with the missed"] == 50


def test_a_state_that_nobody_has_is_not_measured() -> None:
    assert landmark_data.states(LANDMARKS).tolist() == [0, 0, 1, 0]
    assert [name for name in measure(rows())[0] if name.startswith("f1")] == ["f1 mouth closed"]
    table, _ = measure(rows(states=np.ones((2, 4))))
    assert table["f1 eyes closed"] == table["f1 mouth wide open"] == 0 and table["f1 mouth closed"] == 100


def test_every_measured_folder_has_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert landmark_evaluate.name_of(Path(), {}) == "a/b"
    assert landmark_evaluate.name_of(Path("..") / "b", {"a/b": 1}) == str(tmp_path / "a" / "b")[1:]


def test_the_curve_of_one_face_is_a_step(tmp_path: Path) -> None:
    landmark_evaluate.draw_curves({"one": np.array([3.0])}, tmp_path / "errors.png")
    blue = (cv2.imread(str(tmp_path / "errors.png")) == (180, 119, 31)).all(2)
    assert blue.any(1).mean() > 0.6 and blue.any(0).mean() > 0.5  # it rises all the way, and stays to the right


def test_normalisers() -> None:
    true = np.zeros((1, 68, 2))
    true[0, 36], true[0, 45] = (0, 0), (8, 6)
    true[0, 37:42], true[0, 42:45], true[0, 46:48] = (0, 0), (8, 6), (8, 6)
    assert metrics.eye_corners(true).tolist() == [10]
    assert metrics.pupils(true).tolist() == [10]
    assert metrics.box_side(true) == pytest.approx([48**0.5])


def test_measures_by_hand() -> None:
    errors = np.array([0, 4, 8, 12])
    assert metrics.failure_rate(errors, 8) == 25
    assert metrics.area_under_curve(errors, 8) == pytest.approx((1 + 0.5) / 4)
    found, true = np.array([True, True, False, False]), np.array([True, False, True, False])
    assert metrics.f1(found, true) == 0.5 and np.isnan(metrics.f1(found[3:], true[3:]))
    assert sorted(i for part in metrics.REGIONS.values() for i in range(68)[part]) == [*range(68)]
    apart = np.zeros((1, 68, 2))
    apart[0, :, 0] = 2
    assert metrics.normalised_errors(apart, 0 * apart, np.array([10.0])).tolist() == [[20.0] * 68]


@pytest.mark.slow
def test_the_released_network_hardly_moves_on_the_portrait(portrait: Path) -> None:
    sample = Sample(portrait / "one" / "one.png", LANDMARKS, "portrait", "one")
    found = Predictions(*(row[None] for row in predict(Predictor(MODELS / "landmarks"), FaceModel(), sample)))
    table, _ = measure(found)
    assert table["found by the detector"] == 100
    assert table["nme"] < 6
    for name in ("response to a mirror", "response to box errors of 2 %", "response to noise of 4 levels"):
        assert 0 < table[name] < 8
    assert table["response to box errors of 2 %, second pass"] < table["response to box errors of 2 %"]
    assert abs(table["nme, behind the detector"] - table["nme"]) < 4


@pytest.mark.slow
def test_parts_of_a_set_are_measured_separately(portrait: Path, capsys: pytest.CaptureFixture[str],
                                                caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert evaluate.main([str(MODELS / "landmarks"), str(portrait)]) == 0
    assert "set: one" in caplog.text and "set: two" in caplog.text


def test_faces_that_cannot_be_measured_are_listed_and_left_out(portrait: Path, tmp_path: Path,
                                                               caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(portrait, tmp_path / "set")
    (tmp_path / "set" / "one" / "one.png").write_bytes(b"no picture")
    options = SimpleNamespace(person=".*", source=None, held_out=1.0)
    assert [sample.path.name for sample in landmark_evaluate.usable(tmp_path / "set", options)] == ["two.png"]
    assert "one.png: picture cannot be read" in caplog.text
    with pytest.raises(SettingsError, match=r"2 pictures have a \.pts file, --held-out selects 0 of them"):
        landmark_evaluate.usable(tmp_path / "set", SimpleNamespace(person=".*", source=None, held_out=0.0))


def test_an_unreadable_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none.png: cannot be read as a picture"):
        landmark_evaluate.picture(Sample(tmp_path / "none.png", LANDMARKS, "", ""))


@pytest.mark.parametrize(("arguments", "text"), [
    (["faces", "plain", "--held-out", "0.1", "--detector", "x"], "--held-out, --detector cannot be used here: a det"),
    (["faces", "plain", "--sets", "x"], "--sets cannot be used here: a detector's card says which faces are measured"),
    (["landmarks", "prepared", "--held-out", "0.1"], "--held-out cannot be used here: in a prepared folder,"),
    (["landmarks", "plain", "--sets", "x"], "--sets cannot be used here: none of the folders was written by training"),
    (["landmarks", "plain", "--person", "x"], "--person cannot be used here: no effect without --held-out"),
    (["a.pt", "plain", "--backend", "mnn"], "--backend cannot be used here: a checkpoint runs in torch"),
    (["landmarks", "plain", "prepared", "--sets", "x", "--held-out", "0.1", "--person", "x"], "plain: no such folder"),
])
def test_an_option_without_effect_is_refused(arguments: list[str], text: str, tmp_path: Path,
                                             caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared" / "faces.jsonl").write_text("")
    places = {"faces": MODELS / "faces", "landmarks": MODELS / "landmarks", "a.pt": tmp_path / "a.pt",
              "plain": tmp_path / "plain", "prepared": tmp_path / "prepared"}
    assert evaluate.main([str(places.get(word, word)) for word in arguments]) == 2
    assert text in caplog.text


def test_a_folder_that_cannot_be_created_is_reported_before_measuring(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[object] = []
    monkeypatch.setattr(landmark_evaluate, "evaluate", measured.append)
    (tmp_path / "file").touch()
    assert evaluate.main([str(MODELS / "landmarks"), str(tmp_path), "--out", str(tmp_path / "file" / "out")]) == 2
    assert "Not a directory" in caplog.text and not measured
    assert evaluate.main([str(MODELS / "landmarks"), str(tmp_path), "--out", str(tmp_path / "new" / "out")]) == 0
    assert len(measured) == 1 and (tmp_path / "new" / "out").is_dir()


def test_a_checkpoint_of_something_else_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.pt").write_bytes(b"none")
    assert evaluate.main([str(tmp_path / "a.pt"), str(tmp_path)]) == 2
    assert "a.pt: not a readable checkpoint" in caplog.text
