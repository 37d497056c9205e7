import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from nodes._geometry import crop, crop_matrix, landmark_box, landmark_roll
from tests.portrait import LANDMARKS
from tests.training.faces68 import write_two_sets
from training import lookalikes
from training.export import portrait
from training.landmark_settings import LandmarkSettings
from training.landmark_task import LandmarkTask
from training.lookalikes import UPRIGHT, find_lookalikes
from training.settings import SettingsError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two backgrounds, one held out, in which the released detector finds something: a portrait passes for a dog."""
    (tmp_path / "backgrounds").mkdir()
    for name, shift in (("0", 0), ("1", 24), ("person", 0)):
        cv2.imwrite(str(tmp_path / f"backgrounds/{name}.png"), np.roll(portrait(), shift, 1))
    settings = {"data": "data", "backgrounds": "backgrounds", "background_hold_out": 0.5,
                "not_backgrounds": ["person.png"]}
    config = {"name": "faces", "task": "training.faces_task:FaceTask", "steps": 1, "settings": settings}
    (tmp_path / "faces.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def settings_of(data: Path, config: str = "faces.yaml") -> LandmarkSettings:
    return LandmarkSettings(data=data, cache=data / "cache", sources={}, lookalikes=data / config)


def test_lookalikes_are_what_the_detector_finds_and_are_drawn_like_faces(data: Path) -> None:
    train, held = (find_lookalikes(settings_of(data), held_out) for held_out in (False, True))
    assert train and held
    assert len(train.images) >= 2 and len(held.images) >= 2  # near and far
    face = crop(portrait(), crop_matrix(landmark_box(LANDMARKS[None]), 160), 160)[0]
    likest = max(np.corrcoef(one.mean(2).ravel(), face.mean(2).ravel())[0, 1] for one in train.crops(160))
    assert likest > 0.5  # boxes differ by some pixels; for other places it is 0.1
    assert np.abs(landmark_roll(train.points)).max() < 1e-4
    assert train.draw(np.random.default_rng(0), 64).shape == (64, 64, 3)


def test_lookalikes_are_cached_until_pictures_change(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = find_lookalikes(settings_of(data), held_out=False)
    assert first
    with monkeypatch.context() as patch:
        patch.setattr(lookalikes, "exported", None)  # the detector
        again = find_lookalikes(settings_of(data), held_out=False)
        assert again and np.array_equal(first.images[:], again.images[:]) and np.array_equal(first.points, again.points)
    for path in (data / "backgrounds").iterdir():
        cv2.imwrite(str(path), portrait()[:, ::-1])
        os.utime(path, (1, 1))
    changed = find_lookalikes(settings_of(data), held_out=False)
    assert changed and not np.array_equal(first.images[0], changed.images[0])


def test_the_upright_face_is_one() -> None:
    assert abs(landmark_roll(UPRIGHT[None])[0]) < 1e-6 and landmark_box(UPRIGHT[None])[0].tolist() == [0, 0, 1, 1]


def test_lookalikes_are_drawn_as_no_faces_and_measured(data: Path) -> None:
    sources = write_two_sets(data)
    own = {"data": data, "cache": data / "cache", "size": 64, "sources": sources, "negatives": 0.9}
    with_them = LandmarkTask(LandmarkSettings(**own, lookalikes=data / "faces.yaml"))
    batch = with_them.batch(np.random.default_rng(0), 64)
    absent = (batch["presence"] == 0).numpy()
    plain = LandmarkTask(LandmarkSettings(**own)).batch(np.random.default_rng(0), 64)
    assert 40 < absent.sum() < 64 and not torch.equal(batch["image"], plain["image"])  # otherwise they are equal
    assert 0 <= with_them.validate(with_them.network().eval())["false_lookalikes"] <= 1


def test_backgrounds_without_lookalikes_are_named(data: Path) -> None:
    cv2.imwrite(str(data / "backgrounds" / "0.png"), np.full((64, 64, 3), 90, np.uint8))
    (data / "backgrounds" / "1.png").write_bytes(b"no picture")
    for held_out in (True, False):
        with pytest.raises(SettingsError, match=r"faces\.yaml: nothing found in 1 backgrounds"):
            find_lookalikes(settings_of(data), held_out)
    elsewhere = settings_of(data).model_copy(update={"data": data / "elsewhere"})
    with pytest.raises(SettingsError, match=r"^settings\.lookalikes: .*elsewhere/backgrounds: no such folder"):
        find_lookalikes(elsewhere, held_out=False)
    (data / "without.yaml").write_text("base: faces.yaml\nsettings: {backgrounds: null}\n")  # all of data, faces too
    with pytest.raises(SettingsError, match=r"without\.yaml: backgrounds: expected a folder of pictures without faces"):
        find_lookalikes(settings_of(data, "without.yaml"), held_out=False)
    with pytest.raises(SettingsError, match=r"^settings\.lookalikes: .*none\.yaml: No such file"):
        find_lookalikes(settings_of(data, "none.yaml"), held_out=False)
