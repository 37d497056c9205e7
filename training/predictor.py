"""Runs a landmark network for measurements: an exported file with its card, or a checkpoint, even of an active run."""

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
from training.tutor import build, pupil_of

LANDMARK_TASK = "training.landmark_task:LandmarkTask"


@dataclass(frozen=True)
class Prediction:
    """Outputs for faces: points (F, 68, 2) and spread (F, 68) in picture pixels, probabilities (F, 4) and (F,)."""

    points: Floats
    spread: Floats
    states: Floats
    presence: Floats


class Predictor:
    """A network with its crop rule, for one face per picture."""

    def __init__(self, path: Path, backend: str = "onnxruntime") -> None:
        """Load an exported network and its card, or the averaged weights of a checkpoint (.pt).

        Raises SettingsError if either cannot be read or is not a landmark network.
        """
        if path.suffix == ".pt":
            settings = _checkpoint_settings(path)
            self.size, self.margin = settings.size, MARGIN
            self.model: _backend.Backend = _Checkpoint(path, settings)
            return
        card = read_card(path)
        if "landmarks" not in card["outputs"]:
            raise SettingsError(f"{path}: its card lists outputs {sorted(card['outputs'])}; expected a network with "
                                "the output 'landmarks'")
        self.size, self.margin = card["input"]["shape"][-1], card["input"]["margin"]
        try:
            self.model = _backend.load(path, backend)
        except (ValueError, FileNotFoundError, ModuleNotFoundError) as exc:
            raise SettingsError(str(exc)) from exc

    def __call__(self, images: list[NDArray[np.uint8]], boxes: Floats, roll: Floats | float = 0.0) -> Prediction:
        """Predict one face per picture, in its landmark box (F, 4) rotated upright by roll (F,)."""
        matrices = crop_matrix(boxes, self.size, self.margin, roll)
        crops = np.concatenate([crop(i, m[None], self.size) for i, m in zip(images, matrices, strict=True)])
        chunks = [self.model.run(to_input(crops[i : i + 32])) for i in range(0, len(crops), 32)]
        out = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
        scale = np.sqrt(np.abs(np.linalg.det(matrices[:, :, :2])))[:, None]
        spread = out.get("spread", np.full(out["landmarks"].shape[:2], np.nan, np.float32)) / scale
        return Prediction(apply(invert(matrices), out["landmarks"]), spread, out["states"], out["presence"])


def read_card(path: Path) -> dict[str, Any]:
    """Return the card beside an exported network. Raises SettingsError if there is none or it is not a card."""
    try:
        return {"outputs": {}, **_backend.card(path)}
    except (FileNotFoundError, ValueError) as exc:
        raise SettingsError(str(exc)) from exc


def _checkpoint_settings(path: Path) -> LandmarkSettings:
    settings = checkpoint.load(path)["settings"]
    if settings["task"] != LANDMARK_TASK:
        raise SettingsError(f"{path}: a checkpoint of {settings['task']}; only those of {LANDMARK_TASK} can be used "
                            "directly; export this one with training.export")
    found: LandmarkSettings = checked(LandmarkSettings, settings["settings"], str(path))
    return found


class _Checkpoint:
    """The averaged network of a checkpoint, with the interface of `nodes._backend`."""

    def __init__(self, path: Path, settings: LandmarkSettings) -> None:
        network = build(settings)
        network.load_state_dict(checkpoint.load(path)["ema"])
        self.module = Deployed(pupil_of(network), spread_scale=1.0).eval()

    @torch.inference_mode()
    def run(self, batch: Floats) -> dict[str, Floats]:
        """Map (B, 3, size, size) to the outputs by name."""
        return {name: value.numpy() for name, value in self.module(torch.from_numpy(batch)).items()}
