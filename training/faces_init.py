"""Start a detector from the weights of an exported one, whose batch norms are folded into its convolutions."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from training.settings import SettingsError


def read_exported(path: Path) -> dict[str, Tensor]:
    """Return the weights of an exported detector (.pt2) by the names they have in the network.

    Raises SettingsError when the file is not one.
    """
    try:
        program = torch.export.load(path)
    except Exception as exc:  # torch raises many types for a file that is none or damaged
        raise SettingsError(f"settings.init: {path}: not an exported network ({type(exc).__name__}: {exc})") from exc
    return {name.removeprefix("network."): value.detach() for name, value in program.state_dict.items()}


@torch.no_grad()
def unfold(network: nn.Module, weights: dict[str, Tensor], image_B3HW: Tensor) -> None:
    """Give the network the function of folded weights, with batch norms that are ready to be trained on.

    Each batch norm gets the mean and variance that its input has over the images, and the scale and shift that undo
    them, so neither evaluation nor training mode changes what the network says. Raises SettingsError when the weights
    are of another network.
    """
    modules = dict(network.named_modules())
    after = {name: modules.get(f"{name.rpartition('.')[0]}.{int(name.rpartition('.')[2]) + 1}")
             for name, module in modules.items() if isinstance(module, nn.Conv2d)}
    handles = []
    for name, norm in after.items():
        convolution, weight, bias = modules[name], weights.get(f"{name}.weight"), weights.get(f"{name}.bias")
        if weight is None or bias is None or weight.shape != convolution.weight.shape:
            raise SettingsError(f"settings.init: no layer {name} of shape {tuple(convolution.weight.shape)} in it")
        convolution.weight.copy_(weight)
        if isinstance(norm, nn.BatchNorm2d):
            handles.append(norm.register_forward_pre_hook(_measurer(bias)))
        else:
            convolution.bias.copy_(bias)
    training = network.training
    network.eval()(image_B3HW)
    network.train(training)
    for handle in handles:
        handle.remove()


def _measurer(bias_C: Tensor) -> Callable[[nn.Module, tuple[Tensor]], None]:
    def measure(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        variance_C, mean_C = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        norm.running_mean.copy_(mean_C)
        norm.running_var.copy_(variance_C)
        norm.weight.copy_((variance_C + norm.eps).sqrt())
        norm.bias.copy_(bias_C + mean_C)

    return measure
