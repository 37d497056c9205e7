"""A landmark network as it is measured: an exported file with its card, or a checkpoint, also of a running training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nodes import _backend
from nodes._geometry import MARGIN, Floats, apply, crop, crop_matrix, invert, to_input
from training import checkpoint
from training.landmark_net import Deployed
from training.landmark_settings import LandmarkSettings
from training.settings import SettingsError, checked
from training.tutor import assembled, taught

LANDMARK_TASK = "training.landmark_task:LandmarkTask"


@dataclass(frozen=True)
class Found:
    """What a network says of faces: points (F, 68, 2) and spread (F, 68) in picture pixels, probabilities."""

    points: Floats
    spread: Floats
    states: Floats
    presence: Floats


class Predictor:
    """A network with its crop rule, for one face per picture."""

    def __init__(self, path: Path, backend: str = "onnxruntime") -> None:
        """Load an exported network with its card beside it, or a checkpoint (.pt), whose averaged weights are used.

        Raises SettingsError when either cannot be read or is of something else.
        """
        if path.suffix == ".pt":
            settings = _checkpoint_settings(path)
            self.size, self.margin = settings.size, MARGIN
            self.model: _backend.Backend = _Checkpoint(path, settings)
            return
        card = read_card(path)
        if "landmarks" not in card["outputs"]:
            raise SettingsError(f"the card of {path}: outputs {sorted(card['outputs'])}, none is 'landmarks'")
        self.size, self.margin = card["input"]["shape"][-1], card["input"]["margin"]
        try:
            self.model = _backend.load(path, backend)
        except (ValueError, FileNotFoundError, ModuleNotFoundError) as exc:
            raise SettingsError(str(exc)) from exc

    def __call__(self, images: list[NDArray[np.uint8]], boxes: Floats, roll: Floats | float = 0.0) -> Found:
        """Find the points of one face per picture in its landmark box (F, 4), turned upright by roll (F,)."""
        matrices = crop_matrix(boxes, self.size, self.margin, roll)
        crops = np.concatenate([crop(i, m[None], self.size) for i, m in zip(images, matrices, strict=True)])
        chunks = [self.model.run(to_input(crops[i : i + 32])) for i in range(0, len(crops), 32)]
        out = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
        scale = np.sqrt(np.abs(np.linalg.det(matrices[:, :, :2])))[:, None]
        spread = out.get("spread", np.full(out["landmarks"].shape[:2], np.nan, np.float32)) / scale
        return Found(apply(invert(matrices), out["landmarks"]), spread, out["states"], out["presence"])


def read_card(path: Path) -> dict[str, Any]:
    """Return the card beside an exported network. Raises SettingsError when there is none, or something else."""
    try:
        return {"outputs": {}, **_backend.card(path)}
    except (FileNotFoundError, ValueError) as exc:
        raise SettingsError(str(exc)) from exc


def _checkpoint_settings(path: Path) -> LandmarkSettings:
    settings = checkpoint.load(path)["settings"]
    if settings["task"] != LANDMARK_TASK:
        raise SettingsError(f"{path}: a checkpoint of {settings['task']}; export it first (training.export)")
    found: LandmarkSettings = checked(LandmarkSettings, settings["settings"], str(path))
    return found


class _Checkpoint:
    """The averaged network of a checkpoint, as `nodes._backend` runs exported ones."""

    def __init__(self, path: Path, settings: LandmarkSettings) -> None:
        network = assembled(settings)
        network.load_state_dict(checkpoint.load(path)["ema"])
        self.module = Deployed(taught(network), spread_scale=1.0).eval()

    @torch.inference_mode()
    def run(self, batch: Floats) -> dict[str, Floats]:
        """Map (B, 3, size, size) to the outputs by name."""
        return {name: value.numpy() for name, value in self.module(torch.from_numpy(batch)).items()}
