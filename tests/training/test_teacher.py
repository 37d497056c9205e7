from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.cbook import get_sample_data

from nodes._backend import MODELS
from nodes._geometry import apply, crop_matrix, landmark_box
from tests.portrait import LANDMARKS
from tests.training.faces68 import write_points
from training import metrics, teacher
from training.landmark_data import CACHE_MARGIN, CACHE_SIDE, MIRROR, read_points
from training.landmark_settings import LandmarkSettings
from training.landmark_task import LandmarkTask
from training.settings import SettingsError, checked


@pytest.fixture
def settings(tmp_path: Path) -> LandmarkSettings:
    """Three sets of the portrait: correct points held out, noisy ones, and one face with points beside it."""
    rng = np.random.default_rng(0)
    image = cv2.imread(str(get_sample_data("grace_hopper.jpg", asfileobj=False)))
    points = {
        "held": [LANDMARKS], "shaken": [LANDMARKS + rng.normal(0, 8, (68, 2)) for _ in range(3)],
        "beside": [LANDMARKS + np.array([60, 40])],
    }
    for name, faces in points.items():
        (tmp_path / name).mkdir()
        for i, face in enumerate(faces):
            cv2.imwrite(str(tmp_path / name / f"{i}.png"), image)
            write_points(tmp_path / name / f"{i}.pts", face)
    sources = {
        "held": {"folder": "held", "held_out": 1}, "shaken": {"folder": "shaken", "labels": "teacher"},
        "beside": {"folder": "beside", "labels": "teacher"},
    }
    return LandmarkSettings(data=tmp_path, cache=tmp_path / "cache", teacher=MODELS / "landmarks", sources=sources)


def with_labels(settings: LandmarkSettings, labels: str) -> LandmarkSettings:
    content = settings.model_dump()
    for name in ("shaken", "beside"):
        content["sources"][name]["labels"] = labels
    return LandmarkSettings(**content | ({"teacher": None} if labels == "file" else {}))


def test_a_teacher_corrects_noisy_labels(settings: LandmarkSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    told = LandmarkTask(with_labels(settings, "file")).crops
    taught = LandmarkTask(settings)
    shaken = told.sources == "shaken"
    labels = np.stack([read_points(settings.data / "shaken" / f"{i}.pts") for i in range(3)])
    true = apply(crop_matrix(landmark_box(labels), CACHE_SIDE, CACHE_MARGIN), np.repeat(LANDMARKS[None], 3, 0))
    before, after = (metrics.normalised_errors(c.points[shaken], true).mean(1) for c in (told, taught.crops))
    assert after.max() < 0.75 * before.min()
    beside = told.sources == "beside"
    assert (taught.crops.points[beside] == told.points[beside]).all(), "a face that the teacher finds elsewhere"

    monkeypatch.setattr(teacher, "teacher_points", None)  # the second time, the points come from the cache
    mean = LandmarkTask(with_labels(settings, "mean"))
    np.testing.assert_allclose(mean.crops.points[shaken], (told.points + taught.crops.points)[shaken] / 2, atol=1e-3)
    assert "points by a teacher network" in taught._terms()[1]


def test_mirror_is_its_own_inverse() -> None:
    points = np.random.default_rng(0).uniform(0, 255, (2, 68, 2)).astype(np.float32)
    np.testing.assert_allclose(teacher.mirror(teacher.mirror(points, 255), 255), points, atol=1e-4)
    assert teacher.mirror(points, 255)[0, 36, 0] == pytest.approx(255 - points[0, MIRROR[36], 0], abs=1e-4)


def test_a_missing_teacher_is_named(settings: LandmarkSettings, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"settings.teacher: no network file .*none.onnx"):
        LandmarkTask(settings.model_copy(update={"teacher": tmp_path / "none"}))
    with pytest.raises(SettingsError, match=r"settings.teacher: .*none.pt: no such file"):
        LandmarkTask(settings.model_copy(update={"teacher": tmp_path / "none.pt"}))


@pytest.mark.parametrize(("change", "text"), [
    ({"sources": {"One": {"folder": "one", "labels": "teacher"}}}, "sources.One.labels: teacher needs a teacher"),
    ({"sources": {"one": {"folder": "one"}}, "teacher": "x"}, "no source has labels: teacher or mean"),
])
def test_teacher_and_labels_go_together(change: dict[str, object], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        checked(LandmarkSettings, change, "settings")
