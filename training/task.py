"""The interface between the training loop and a task: a network, batches, a loss and a validation."""

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
    """Pictures (B, H, W, 3) on which the exported files are compared, at least two; the first is the card's
    reference."""
    dynamic: dict[int, str]
    """Axes of the input whose size is free, and their names: {0: "faces"}."""
    outputs: dict[str, str]
    """Meaning of each output, with shape, unit and range."""
    contract: dict[str, Any]
    """How a caller must make the input, apart from colour order and normalisation."""
    calibration: NDArray[np.uint8]
    """Typical pictures (B, H, W, 3), whose activations set the scales of int8 versions."""
    measure: Callable[[Callable[[NDArray[np.float32]], dict[str, NDArray[np.float32]]]], dict[str, float]]
    """From a function that maps inputs to outputs as the exported network does, to its errors on held-out data, the
    most important one first."""
    terms: list[str]
    """The data that the weights were trained on, and its terms."""


class Task(Protocol):
    """Something to train. The class has `Settings` (a training.settings.Strict) and is created with an instance of it.

    `batch` must depend on nothing but its generator and size, so that a resumed run sees the same batches.
    `validate` returns its metrics in order; the first one decides which weights are the best.
    """

    Settings: type[Strict]
    higher_is_better: bool

    def network(self) -> nn.Module:
        """Return the network to train, initialised from torch's global generator."""
        ...

    def begin(self, network: nn.Module) -> None:
        """Load the released weights that the settings name, if any, into a new network."""
        ...

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        """Draw one training batch of CPU tensors; `image` is (B, 3, H, W) uint8."""
        ...

    def again(self, rng: Generator, batch: Batch, look: int) -> Batch:
        """Return a batch with other pixels for its `look`-th reuse, counted from 1; on the batch's device."""
        ...

    def loss(self, network: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar to minimise and its named parts."""
        ...

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Measure the network, which is in evaluation mode, on held-out data."""
        ...

    def deploy(self, network: nn.Module, portrait: NDArray[np.uint8]) -> Deployment:
        """Return the network in the form that is used at run time; `portrait` (600, 512, 3) is the reference."""
        ...


def network_input(image: Tensor) -> Tensor:
    """Normalise pictures (B, 3, H, W) uint8 to float32; call it on the device, to which uint8 is copied faster."""
    return (image.float() - MEAN) * SCALE


def relit(rng: Generator, image: Tensor) -> Tensor:
    """Change contrast and brightness of pictures (B, 3, H, W) uint8 at random, slightly differently per colour."""
    colours, gain, shift = torch.rand(len(image), 5, 1, 1, device=image.device, generator=rng).split((3, 1, 1), 1)
    gain = 0.75 + 0.5 * gain + 0.16 * (colours - 0.5)
    shift = 50 * (shift - 0.5)
    return ((image - MEAN) * gain + MEAN + shift).clamp(0, 255).to(torch.uint8)


def load_task(path: str, settings: dict[str, Any]) -> Task:
    """Create the task that a config names, with its settings."""
    kind = task_class(path)
    return kind(checked(kind.Settings, settings, "settings"))


def task_class(path: str) -> type[Task]:
    """Return the class with this path, such as `training.landmark_task:LandmarkTask`."""
    module, _, name = path.partition(":")
    try:
        kind: type[Task] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as exc:
        raise SettingsError(f"task: {path!r} cannot be loaded ({exc}); write it as package.module:Class") from exc
    return kind
