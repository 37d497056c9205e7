"""Checkpoints: everything a run needs to go on as if it had never stopped."""

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
    """Write `state` so that `path` always holds a whole checkpoint, the old one or the new one."""
    content = io.BytesIO()
    torch.save(state, content)  # into a file it would hide that the disk is full, behind an error of its own
    with whole(path) as file:
        file.write(content.getbuffer())
        file.flush()
        os.fsync(file.fileno())


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU. Raises SettingsError when the file is not one of ours."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # torch raises many types for a damaged file
        raise SettingsError(f"{path}: not a readable checkpoint ({type(exc).__name__}: {exc})") from exc
    if "ema" not in state or "step" not in state:
        raise SettingsError(f"{path}: not a checkpoint of training.train: found {sorted(state)[:8]}")
    return state


def load_weights(network: nn.Module, path: Path) -> None:
    """Give the network the averaged weights of a checkpoint: of one with a tutor the pupil's, unless it has one too.

    Raises SettingsError when they are of another network.
    """
    weights = load(path)["ema"]
    pupil = {name.removeprefix("pupil."): value for name, value in weights.items() if name.startswith("pupil.")}
    try:
        network.load_state_dict(pupil if pupil and not hasattr(network, "pupil") else weights)
    except RuntimeError as exc:
        raise SettingsError(f"init: {path}: weights of another network: {str(exc).splitlines()[1].strip()}") from exc


def random_state() -> dict[str, Any]:
    """Return the state of torch's generators; batches draw from (seed, step) and need none."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"torch": torch.get_rng_state(), "cuda": cuda}


def restore_random_state(state: dict[str, Any]) -> None:
    """Undo `random_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def git_commit() -> str:
    """Return the commit of the code, with '+' when tracked files differ from it; '' outside git."""
    here = Path(__file__).parent
    try:
        command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+"]
        found = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip()
