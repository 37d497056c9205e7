"""Whether a run may go on from the checkpoint in its folder: with the settings that it began with, and alone."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from textwrap import shorten
from typing import Any

from training import checkpoint
from training.files import named
from training.settings import RunSettings, SettingsError, checked
from training.task import task_class

FREE = {"name", "device", "amp", "compile", "threads", "workers", "log_every", "validate_every",
        "settings.data", "settings.cache"}
"""Settings that may change without making the run another one: where and on what it runs, and what it tells."""
LENGTH = {"steps", "minutes"}
"""Settings that say how long a run takes: it may be made longer or shorter."""


def going_on(settings: RunSettings, folder: Path) -> dict[str, Any] | None:
    """Return the last checkpoint of a run that has begun in this folder, None when none has.

    Raises SettingsError naming what differs when that run is one of other settings.
    """
    last = folder / "last.pt"
    if not last.exists():
        return None
    state = checkpoint.load(last)
    check_same(settings, state["settings"], last, FREE | LENGTH)
    return state


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep a run's folder, made if need be, for this process until the block or the process ends.

    Raises SettingsError when another one has it. A record lock, because processes that draw batches do not inherit it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("ab+", buffering=0) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            if exc.errno in (errno.EACCES, errno.EAGAIN):  # else a file system without locks
                file.seek(0)
                other = file.read().decode()
                raise SettingsError(f"{folder}: process {other} is training there; end it, or give another name "
                                    "or --runs") from exc
        file.truncate(0)
        with named(folder / "lock"):
            file.write(str(os.getpid()).encode())
        yield


def is_complete(settings: RunSettings, state: dict[str, Any]) -> bool:
    """Say whether a checkpoint is of the end of its run."""
    return state["step"] >= settings.steps or 0 < 60 * settings.minutes <= state["seconds"]


def check_same(settings: RunSettings, found: dict[str, Any], place: Path, free: set[str]) -> None:
    """Raise SettingsError naming what differs, but for `free`, when those found in a checkpoint are not these."""
    before = _whole(checked(RunSettings, found, str(place)), str(place))
    differ = list(_differences(before, _whole(settings, "settings"), free))
    if differ:
        lines = [f"{place}: of a run with other settings; give another name or --runs, or remove this one's folder"]
        raise SettingsError("\n  ".join(lines + differ))


def _whole(settings: RunSettings, place: str) -> dict[str, Any]:
    """Return the settings with those of the task checked, so that what is not given has its default."""
    own = checked(task_class(settings.task).Settings, settings.settings, place)
    return settings.model_dump(mode="json") | {"settings": own.model_dump(mode="json")}


def _differences(before: dict[str, Any], now: dict[str, Any], free: set[str], above: str = "") -> Iterator[str]:
    for name in sorted(before.keys() | now.keys()):
        place, old, new = f"{above}{name}", before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, free, f"{place}.")
        elif place not in free and old != new:
            yield f"{place}: {shorten(repr(old), 60)} then, {shorten(repr(new), 60)} now"
