"""Combines the heads of one run with the trunk of the run that it started from.

A run that continues another one to learn one thing, such as presence from `lookalikes`, also moves the points. Its
heads work with the trunk that it started from as well as with its own, and that trunk leaves the points unchanged.
"""

from pathlib import Path
from typing import Any

from torch import nn

from training import checkpoint
from training.settings import SettingsError

HEADS = ("presence.", "states.", "state_features.")
"""Prefixes of the weights that `take_heads` takes: all heads but that of the points."""


def take_heads(network: nn.Module, path: Path) -> dict[str, Any]:
    """Load the heads of a checkpoint's averaged weights into a landmark network that votes; return the checkpoint.

    Raises SettingsError if it belongs to another network.
    """
    state = checkpoint.load(path)
    weights = {name.removeprefix("pupil."): value for name, value in state["ema"].items()}  # if it had a tutor
    names = {name for name in network.state_dict() if name.startswith(HEADS)}
    try:
        heads = {name: weights[name] for name in names}
        network.load_state_dict(heads, strict=False)
    except (KeyError, RuntimeError) as exc:
        raise SettingsError(f"--heads {path}: heads of another network: {str(exc).splitlines()[-1].strip()}") from exc
    if not names:
        raise SettingsError(f"--heads {path}: {type(network).__name__} has none of {', '.join(HEADS)}")
    return state
