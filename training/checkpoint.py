"""Checkpoints: everything that a run needs to continue as if it had not stopped."""

import io
import os
import subprocess
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.files import whole
from training.settings import SettingsError


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` so that `path` always holds a complete checkpoint, the old one or the new one."""
    content = io.BytesIO()
    torch.save(state, content)  # writing to a file, it would replace the error of a full disk by its own
    with whole(path) as file:
        file.write(content.getbuffer())
        file.flush()
        os.fsync(file.fileno())


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU. Raises SettingsError if the file is not one of ours."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as exc:
        raise SettingsError(f"{path}: {exc.strerror}; expected a checkpoint of training.train") from exc
    except Exception as exc:  # torch raises many types for a damaged file
        raise SettingsError(f"{path}: not a readable checkpoint ({type(exc).__name__}: {exc})") from exc
    if "ema" not in state or "step" not in state:
        raise SettingsError(f"{path}: not a checkpoint of training.train: found {sorted(state)[:8]}")
    return state


def load_weights(network: nn.Module, path: Path) -> None:
    """Load the averaged weights of a checkpoint; if only the checkpoint has a tutor, those of the pupil.

    Raises SettingsError if they belong to another network.
    """
    weights = load(path)["ema"]
    pupil = {name.removeprefix("pupil."): value for name, value in weights.items() if name.startswith("pupil.")}
    try:
        network.load_state_dict(pupil if pupil and not hasattr(network, "pupil") else weights)
    except RuntimeError as exc:
        raise SettingsError(f"init: {path}: weights of another network: {str(exc).splitlines()[1].strip()}") from exc


def random_state() -> dict[str, Any]:
    """Return the state of torch's generators; batches depend on (seed, step) and need none."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"torch": torch.get_rng_state(), "cuda": cuda}


def restore_random_state(state: dict[str, Any]) -> None:
    """Set the generators to a state from `random_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def git_commit() -> str:
    """Return the commit of the code, with '+' if tracked files differ from it; '' outside git."""
    here = Path(__file__).parent
    try:
        command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+"]
        found = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip()
