"""The measures of validation for networks with made-up outputs, whose errors are known."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.training.faces68 import points68, write_two_sets
from training import landmark_validation
from training.landmark_net import POSE_UNIT
from training.landmark_settings import LandmarkSettings
from training.landmark_sources import read_sources
from training.landmark_task import LandmarkTask
from training.landmark_validation import Validation, crop_pose

FIRST, OTHERS = slice(0, 34), slice(34, 40)
"""Faces of the first set and of another one; 34 are more than are exported networks' batches."""
EYES = 24.4
"""Distance of the outer eye corners in pixels of the crop."""


class Told(torch.nn.Module):
    """A network that outputs the next rows of given arrays for any input."""

    def __init__(self, **rows: np.ndarray) -> None:
        super().__init__()
        self.rows = {name: torch.from_numpy(values.astype(np.float32)) for name, values in rows.items()}
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = 0

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        start, self.seen = self.seen, self.seen + len(image)
        return {name: values[start : self.seen] for name, values in self.rows.items()}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> LandmarkSettings:
    folder = tmp_path_factory.mktemp("data")
    return LandmarkSettings(data=folder, cache=folder / "cache", size=64, sources=write_two_sets(folder))


@pytest.fixture
def validation(files: LandmarkSettings) -> Validation:
    """Forty faces, the first with its left eye shut, the second with its mouth shut, the third with it wide open."""
    made = Validation(read_sources(files)[1], files)
    points = np.tile((points68() * 20 + 32).astype(np.float32), (40, 1, 1))
    points[0, 36:42, 1] = points[0, 36, 1]
    points[1, 65:68] = points[1, [63, 62, 61]]
    points[2, 65:68, 1] += 6
    made.points, made.images = points, np.zeros((40, 64, 64, 3), np.uint8)
    made.sources = ["first"] * 34 + ["others"] * 6
    made.known = np.arange(40) < 34
    made.backgrounds, made.lookalikes = np.zeros((5, 64, 64, 3), np.uint8), np.zeros((4, 64, 64, 3), np.uint8)
    return made


def shifted(points: np.ndarray) -> np.ndarray:
    """Return points that are off by 3 % of the eye distance, in half of the first set by 9 %, in the other by 20 %."""
    away = np.full(40, 0.03)
    away[:17], away[OTHERS] = 0.09, 0.2
    return points + np.stack((away * EYES, np.zeros(40)), 1)[:, None]


def test_all_outputs_of_a_network_are_measured(validation: Validation) -> None:
    states = np.full((49, 4), -0.3)
    states[0, 0] = states[1, 1] = states[1, 2] = 0.3  # one eye is right and one wrong
    states[OTHERS] = 0.3  # states of this set are unknown
    presence = np.full(49, -0.3)
    presence[[*range(30), 40, 45]] = 0.3  # of the faces, the backgrounds and the lookalikes
    landmarks, pose = np.zeros((49, 68, 2)), np.zeros((49, 3))
    landmarks[:40] = shifted(validation.points)
    pose[:40] = (crop_pose(validation.points, 64) + np.array([1, 2, 3 - 360])) / POSE_UNIT
    found = validation(Told(landmarks=landmarks, states=states, presence=presence, pose=pose))
    assert next(iter(found)) == "nme_first"
    told = {"nme_first": 6, "nme_others": 20, "failures_8": 50, "head_pitch_error": 1, "head_yaw_error": 2,
            "head_roll_error": 3, "eyes_f1": 2 / 3, "mouth_closed_f1": 1, "mouth_open_f1": 0, "present": 0.75,
            "false_present": 0.2, "false_lookalikes": 0.25}
    assert {name: found[name] for name in told} == pytest.approx(told, rel=1e-3)
    assert max(found[f"{angle}_error"] for angle in ("pitch", "yaw", "roll")) < 3


def test_an_exported_network_has_the_same_errors(validation: Validation) -> None:
    rows: Iterator[np.ndarray] = iter(shifted(validation.points))
    found = validation.errors(lambda batch: {"landmarks": np.stack([next(rows) for _ in batch])})
    assert list(found) == ["nme_first", "nme_others"]
    assert found == pytest.approx({"nme_first": 6, "nme_others": 20}, rel=1e-3)


def test_spread_is_scaled_to_be_the_mean_error_of_the_first_set(validation: Validation) -> None:
    landmarks, spread = shifted(validation.points), np.full((40, 68), 2.0)
    spread[OTHERS] = 1
    scale = validation.spread_scale(Told(landmarks=landmarks, spread=spread))
    assert scale == pytest.approx(0.06 * EYES / 2, rel=1e-3)
    assert validation.spread_scale(Told(landmarks=landmarks)) == 1


@pytest.mark.parametrize("size", [64, 255, 256])
def test_faces_fill_their_crops_as_at_run_time_and_backgrounds_are_the_middle_of_theirs(
    files: LandmarkSettings, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    crops = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (3, 256, 256, 3))
    monkeypatch.setattr(landmark_validation, "read_backgrounds", lambda *_, held_out: crops if held_out else None)
    settings = files.model_copy(update={"size": size})
    made = Validation(read_sources(settings)[1], settings)
    sides = np.ptp(made.points, axis=1).max(1)
    assert 1.4 * sides == pytest.approx(np.full(len(sides), size), rel=0.01)
    assert made.backgrounds.shape == (3, size, size, 3)
    assert made.backgrounds[0, 0, 0, 0] == (256 - size) // 2


def test_a_lower_error_is_better() -> None:
    assert not LandmarkTask.higher_is_better
