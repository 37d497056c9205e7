"""What the training loop asks of a task: a network, batches, a loss and a validation."""

import importlib
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from training.settings import SettingsError, Strict, checked

Batch = dict[str, Tensor]


class Task(Protocol):
    """One thing to learn. A class with `Settings` (a training.settings.Strict), made with an instance of it.

    `batch` must depend on nothing but its generator and size, so that a resumed run sees the same batches.
    `validate` returns its metrics in order; the first one decides which weights are the best.
    """

    Settings: type[Strict]
    higher_is_better: bool

    def network(self) -> nn.Module:
        """Return the network to train, freshly initialised from torch's global generator."""
        ...

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        """Draw one training batch of CPU tensors; images are (B, 3, H, W)."""
        ...

    def loss(self, network: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar to minimise and its named parts."""
        ...

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Measure the network, which is in evaluation mode, on held-out data."""
        ...


def load_task(path: str, settings: dict[str, Any]) -> Task:
    """Make the task that a config names, as in `training.landmark_task:LandmarkTask`, from its settings."""
    module, _, name = path.partition(":")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as exc:
        raise SettingsError(f"task: {path!r} cannot be loaded ({exc}); write it as package.module:Class") from exc
    return kind(checked(kind.Settings, settings, "settings"))
