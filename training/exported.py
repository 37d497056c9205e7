"""Start a network from the weights of an exported one, whose batch norms are folded into its convolutions."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from training.settings import SettingsError

INIT = "init: "
"""How the lines of a card begin on data that only the weights have seen which a training started from."""


def read_exported(path: Path) -> dict[str, Tensor]:
    """Return the weights of an exported network (.pt2) by the names they have in the network.

    Raises SettingsError when the file is not one.
    """
    try:
        program = torch.export.load(path)
    except Exception as exc:  # torch raises many types for a file that is none or damaged
        raise SettingsError(f"settings.init: {path}: not an exported network ({type(exc).__name__}: {exc})") from exc
    return {name.removeprefix("network."): value.detach() for name, value in program.state_dict.items()}


def terms_with_init(own: list[str], *starts: Path | None) -> list[str]:
    """Return the lines of a card on a training's own data, then those on what the networks have seen it started from.

    These stand in the cards beside them; a line that is there already is not repeated.
    """
    lines = list(own)
    for start in starts:
        card = start and start.with_suffix(".json")
        if card:
            seen = json.loads(card.read_text())["data"] if card.is_file() else [f"{start}: terms not stated"]
            seen = [text.removeprefix(INIT) for text in seen]
            lines += [INIT + text for text in seen if text not in lines and INIT + text not in lines]
    return lines


@torch.no_grad()
def unfold(network: nn.Module, weights: dict[str, Tensor], image_B3HW: Tensor) -> None:
    """Give the network the function of folded weights, with batch norms that are ready to be trained on.

    Each batch norm gets the mean and variance that its input has over the images, and the scale and shift that undo
    them, so neither evaluation nor training mode changes what the network says. The network may be deeper by blocks
    with a shortcut: these add nothing until they have learnt to. Raises SettingsError when the weights are of another
    network.
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
            raise SettingsError(f"settings.init: weights of another network: no layer {name} of shape "
                                f"{tuple(layer.weight.shape)} in it; null starts from chance")
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
    """Silence the blocks with a shortcut that the weights do not know; return how the names of their layers begin.

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
