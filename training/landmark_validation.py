"""Measures a landmark network on held-out faces, in every validation and for an exported file."""

import logging
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from nodes._geometry import MARGIN, to_input
from nodes._pose import camera_matrix, head_pose
from training import landmark_data, metrics
from training.landmark_data import Sample
from training.landmark_net import POSE_UNIT
from training.landmark_settings import LandmarkSettings
from training.landmark_sources import read_backgrounds
from training.lookalikes import find_lookalikes
from training.settings import SettingsError

logger = logging.getLogger("training")

CROP_FOV = 15.0
"""Field of view of a crop in degrees, for the head pose in it: about a quarter of a webcam's."""


class Validation:
    """Crops of the held-out faces with true boxes, and held-out backgrounds, kept in memory."""

    def __init__(self, samples: list[Sample], settings: LandmarkSettings) -> None:
        cuts, self.sources, points = [], [], []
        for sample in samples:
            image = landmark_data.read_picture(sample)
            if fault := landmark_data.unusable(sample.points, image):
                logger.warning("%s: %s", sample.path, fault)
                continue
            cut, mapped = landmark_data.cut_face(image, sample.points, settings.size, MARGIN)
            cuts.append(cut)
            points.append(mapped)
            self.sources.append(sample.source)
        if not cuts:
            raise SettingsError("settings.sources: no usable face is held out; increase held_out of a source that is a "
                                "folder, up to 1, or run training.prepare with a higher --held-out")
        self.points = np.stack(points)
        self.images = np.stack(cuts)
        self.known = np.array([settings.sources[name].states for name in self.sources])
        like = find_lookalikes(settings, held_out=True)
        self.lookalikes = like.crops(settings.size) if like else None
        backgrounds = read_backgrounds(settings, held_out=True)
        middle = (landmark_data.CACHE_SIDE - settings.size) // 2
        inner = slice(middle, middle + settings.size)
        self.backgrounds = np.ascontiguousarray(backgrounds[:, inner, inner])

    def __call__(self, network: nn.Module) -> dict[str, float]:
        """Return the metrics; the first is the mean error of the first data set in the order of the settings.

        Errors of the head pose are in degrees, relative to the pose of the true points: of the pose of the predicted
        points, and with `head_` of the pose that the network outputs. The F1 of a state that is neither true nor
        predicted for any face is left out.
        """
        out = run(network, self.images)
        errors, found = self._errors(out["landmarks"])
        found["failures_8"] = metrics.failure_rate(errors[np.array(self.sources) == self.sources[0]], 8)
        true_pose = crop_pose(self.points, self.images.shape[1])
        poses = {"": crop_pose(out["landmarks"], self.images.shape[1])}
        if "pose" in out:
            poses["head_"] = out["pose"] * POSE_UNIT
        for prefix, pose in poses.items():
            angles = np.nanmean(np.abs((pose - true_pose + 180) % 360 - 180), axis=0)
            found |= {f"{prefix}{name}_error": float(angle)
                      for name, angle in zip(("pitch", "yaw", "roll"), angles, strict=True)}
        true, predicted = landmark_data.states(self.points) > 0, out["states"] > 0
        columns_of = {"eyes_f1": slice(0, 2), "mouth_closed_f1": slice(2, 3), "mouth_open_f1": slice(3, 4)}
        for label, columns in columns_of.items():
            f1 = metrics.f1(predicted[self.known, columns], true[self.known, columns])
            found |= {label: f1} if math.isfinite(f1) else {}
        found["present"] = float((out["presence"] > 0).mean())
        if len(self.backgrounds):
            found["false_present"] = float((run(network, self.backgrounds)["presence"] > 0).mean())
        if self.lookalikes is not None:
            found["false_lookalikes"] = float((run(network, self.lookalikes)["presence"] > 0).mean())
        return found

    def errors(self, run: Callable[[np.ndarray], dict[str, np.ndarray]]) -> dict[str, float]:
        """Return the mean error per data set of an exported network; `run` maps inputs to outputs."""
        found = [run(to_input(self.images[i : i + 32]))["landmarks"] for i in range(0, len(self.images), 32)]
        return self._errors(np.concatenate(found))[1]

    def _errors(self, landmarks: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
        """Return the mean error of each face (F,), and that of each data set by name."""
        errors = metrics.normalised_errors(landmarks, self.points).mean(1)
        return errors, {f"nme_{name}": float(errors[np.array(self.sources) == name].mean())
                        for name in dict.fromkeys(self.sources)}

    def spread_scale(self, network: nn.Module) -> float:
        """Return mean error over mean spread of the first data set: real crops are easier than those of training."""
        out = run(network, self.images)
        if "spread" not in out:
            return 1.0
        first = np.array(self.sources) == self.sources[0]
        away = np.linalg.norm(out["landmarks"] - self.points, axis=-1)
        return float(away[first].mean() / out["spread"][first].mean())


@torch.inference_mode()
def run(network: nn.Module, crops: np.ndarray, batch: int = 64) -> dict[str, np.ndarray]:
    """Return the network's outputs for crops (F, size, size, 3), in batches."""
    device = next(network.parameters()).device
    chunks = []
    for start in range(0, len(crops), batch):
        image = torch.from_numpy(to_input(crops[start : start + batch])).to(device, memory_format=torch.channels_last)
        chunks.append({name: value.float().cpu().numpy() for name, value in network(image).items()})
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def crop_pose(points: np.ndarray, size: int) -> np.ndarray:
    """Return (F, 3) pitch, yaw, roll in degrees of heads with these points (F, 68, 2) in crops; NaN where unknown."""
    return head_pose(points, camera_matrix(size, size, CROP_FOV))
