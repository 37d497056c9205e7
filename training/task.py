"""What the training loop asks of a task: a network, batches, a loss and a validation."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from nodes._geometry import MEAN, SCALE
from training.settings import SettingsError, Strict, checked

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Deployment:
    """What `training.export` needs to write a network for the run time."""

    module: nn.Module
    """Network in evaluation mode whose forward maps image (B, 3, H, W) to a dict of tensors (B, ...) by name."""
    images: NDArray[np.uint8]
    """Pictures (B, H, W, 3) to compare the exported files on, at least two; the first is the card's reference."""
    dynamic: dict[int, str]
    """Axes of the input that a caller may choose, and their names: {0: "faces"}."""
    outputs: dict[str, str]
    """Meaning of each output, with shape, unit and range."""
    contract: dict[str, Any]
    """What a caller must do to make the input, beyond colour order and normalisation."""
    calibration: NDArray[np.uint8]
    """Pictures (B, H, W, 3) of the kind that the network will see, by whose activations int8 versions are scaled."""
    measure: Callable[[Callable[[NDArray[np.float32]], dict[str, NDArray[np.float32]]]], dict[str, float]]
    """Errors on held-out data, the most telling one first, of a function from inputs to outputs as exported."""
    terms: list[str]
    """Data that the weights were trained on, and what its terms allow."""


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

    def begin(self, network: nn.Module) -> None:
        """Give a fresh network the weights from which a run begins, where the settings name released ones."""
        ...

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        """Draw one training batch of CPU tensors; `image` is (B, 3, H, W) uint8."""
        ...

    def again(self, rng: Generator, batch: Batch, look: int) -> Batch:
        """Return a drawn batch as it is shown for the `look`-th further time, from 1: other pixels, on its device."""
        ...

    def loss(self, network: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar to minimise and its named parts."""
        ...

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Measure the network, which is in evaluation mode, on held-out data."""
        ...

    def deploy(self, network: nn.Module, portrait: NDArray[np.uint8]) -> Deployment:
        """Return the network as the run time wants it; `portrait` (600, 512, 3) is the reference picture."""
        ...


def network_input(image: Tensor) -> Tensor:
    """Return pictures (B, 3, H, W) uint8 as float32 in the range of networks; made on the device, a quarter travels."""
    return (image.float() - MEAN) * SCALE


def relit(rng: Generator, image: Tensor) -> Tensor:
    """Return pictures (B, 3, H, W) uint8 with contrast and brightness changed at random, each colour a little apart."""
    colours, gain, shift = torch.rand(len(image), 5, 1, 1, device=image.device, generator=rng).split((3, 1, 1), 1)
    gain = 0.75 + 0.5 * gain + 0.16 * (colours - 0.5)
    shift = 50 * (shift - 0.5)
    return ((image - MEAN) * gain + MEAN + shift).clamp(0, 255).to(torch.uint8)


def load_task(path: str, settings: dict[str, Any]) -> Task:
    """Make the task that a config names from its settings."""
    kind = task_class(path)
    return kind(checked(kind.Settings, settings, "settings"))


def task_class(path: str) -> type[Task]:
    """Return the class that a config names, as in `training.landmark_task:LandmarkTask`."""
    module, _, name = path.partition(":")
    try:
        kind: type[Task] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as exc:
        raise SettingsError(f"task: {path!r} cannot be loaded ({exc}); write it as package.module:Class") from exc
    return kind
