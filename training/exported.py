"""Initialise a network with the weights of an exported one, whose batch norms are folded into its convolutions."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from training.settings import SettingsError

INIT = "init: "
"""Prefix of the lines of a card on data that only the initial weights were trained on."""


def read_exported(path: Path, setting: str = "settings.init") -> dict[str, Tensor]:
    """Return the weights of an exported network (.pt2) by their names in the network.

    Raises SettingsError, naming the setting, if the file is not one.
    """
    try:
        program = torch.export.load(path)
    except Exception as exc:  # torch raises many types for missing and damaged files
        raise SettingsError(f"{setting}: {path}: not an exported network ({type(exc).__name__}: {exc})") from exc
    return {name.removeprefix("network."): value.detach() for name, value in program.state_dict.items()}


def terms_with_init(own: list[str], *starts: Path | None) -> list[str]:
    """Return the lines of a card on a training's own data, then those from the cards of the networks it started from.

    No line is repeated.
    """
    lines = list(own)
    for start in filter(None, starts):
        card = start.with_suffix(".json")
        seen = json.loads(card.read_text())["data"] if card.is_file() else [f"{start}: terms not stated"]
        seen = [text.removeprefix(INIT) for text in seen]
        lines += [INIT + text for text in seen if text not in lines and INIT + text not in lines]
    return lines


@torch.no_grad()
def unfold(network: nn.Module, weights: dict[str, Tensor], image_B3HW: Tensor, setting: str = "settings.init") -> None:
    """Load folded weights into a network so that it computes the same function, with batch norms that can be trained.

    Each batch norm gets the mean and variance of its input over the images, and the scale and shift that undo them, so
    the outputs are the same in evaluation and in training mode. The network may have additional blocks with a shortcut:
    they add nothing at first. Raises SettingsError, naming the setting, if the weights belong to another network.
    """
    added = _added_blocks(network, weights)
    norms = {first: second for chain in network.modules() if isinstance(chain, nn.Sequential)
             for first, second in pairwise(chain) if isinstance(second, nn.BatchNorm2d)}
    handles = []
    for name, layer in network.named_modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear) or name.startswith(added):
            continue
        weight, bias = weights.get(f"{name}.weight"), weights.get(f"{name}.bias")
        if weight is None or bias is None or weight.shape != layer.weight.shape:
            raise SettingsError(f"{setting}: weights of another network: no layer {name} of shape "
                                f"{tuple(layer.weight.shape)} in it; null starts from random weights")
        layer.weight.copy_(weight)
        if layer in norms:
            handles.append(norms[layer].register_forward_pre_hook(_measurer(bias)))
        else:
            layer.bias.copy_(bias)
    training = network.training
    network.eval()(image_B3HW)
    network.train(training)
    for handle in handles:
        handle.remove()


def _added_blocks(network: nn.Module, weights: dict[str, Tensor]) -> tuple[str, ...]:
    """Make blocks with a shortcut that the weights lack identities; return the prefixes of the names of their layers.

    Source: Goyal et al. 2017, "Accurate, Large Minibatch SGD", 5.1: a block whose last scale is 0 is an identity.
    """
    added = []
    for name, block in network.named_modules():
        if getattr(block, "shortcut", False) and not any(known.startswith(f"{name}.") for known in weights):
            *_, last = (layer for layer in block.modules() if isinstance(layer, nn.BatchNorm2d))
            nn.init.zeros_(last.weight)
            added.append(f"{name}.")
    return tuple(added)


def _measurer(bias_C: Tensor) -> Callable[[nn.Module, tuple[Tensor]], None]:
    def measure(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        variance_C, mean_C = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        norm.running_mean.copy_(mean_C)
        norm.running_var.copy_(variance_C)
        norm.weight.copy_((variance_C + norm.eps).sqrt())
        norm.bias.copy_(bias_C + mean_C)

    return measure
