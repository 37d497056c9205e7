"""The heads of one run on the trunk of another that it went on from.

A run that goes on to learn one thing, as presence from `lookalikes`, moves the points too; its heads read the trunk
that it started from as well as its own, and with that the points stay where they were.
"""

from pathlib import Path
from typing import Any

from torch import nn

from training import checkpoint
from training.settings import SettingsError

HEADS = ("presence.", "states.", "state_features.")
"""How the weights of the heads begin that `take_heads` takes: all but the points."""


def take_heads(network: nn.Module, path: Path) -> dict[str, Any]:
    """Give a landmark network that votes the heads of a checkpoint's averaged one; return that checkpoint.

    Raises SettingsError when it is of another network.
    """
    state = checkpoint.load(path)
    weights = {name.removeprefix("pupil."): value for name, value in state["ema"].items()}  # where it had a tutor
    names = {name for name in network.state_dict() if name.startswith(HEADS)}
    try:
        heads = {name: weights[name] for name in names}
        network.load_state_dict(heads, strict=False)
    except (KeyError, RuntimeError) as exc:
        raise SettingsError(f"--heads {path}: heads of another network: {str(exc).splitlines()[-1].strip()}") from exc
    if not names:
        raise SettingsError(f"--heads {path}: {type(network).__name__} has none of {', '.join(HEADS)}")
    return state
