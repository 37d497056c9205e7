"""Whether a run may continue from the checkpoint in its folder: with the same settings, one process at a time."""

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
"""Settings that a run may change when it continues: where and on what it runs, and how often it reports."""
LENGTH = {"steps", "minutes"}
"""Settings that say how long a run takes: it may be made longer or shorter."""


def last_checkpoint(settings: RunSettings, folder: Path) -> dict[str, Any] | None:
    """Return the last checkpoint of the run in this folder, None if there is none.

    Raises SettingsError naming what differs if that run has other settings.
    """
    last = folder / "last.pt"
    if not last.exists():
        return None
    state = checkpoint.load(last)
    check_same(settings, state["settings"], last, FREE | LENGTH)
    return state


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Create a run's folder if needed, and reserve it for this process until the block or the process ends.

    Raises SettingsError if another process has reserved it. The lock is a record lock, because the processes that draw
    batches do not inherit those.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("ab+", buffering=0) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            if exc.errno in (errno.EACCES, errno.EAGAIN):  # else the file system has no locks
                file.seek(0)
                other = file.read().decode()
                raise SettingsError(f"{folder}: process {other} is training there; end it, or give another name "
                                    "or --runs") from exc
        file.truncate(0)
        with named(folder / "lock"):
            file.write(str(os.getpid()).encode())
        yield


def is_complete(settings: RunSettings, state: dict[str, Any]) -> bool:
    """Say whether a checkpoint is from the end of its run."""
    return state["step"] >= settings.steps or 0 < 60 * settings.minutes <= state["seconds"]


def check_same(settings: RunSettings, found: dict[str, Any], place: Path, free: set[str]) -> None:
    """Raise SettingsError naming what differs, except for `free`, between the settings and those of a checkpoint."""
    before = _complete(checked(RunSettings, found, str(place)), str(place))
    differ = list(_differences(before, _complete(settings, "settings"), free))
    if differ:
        lines = [f"{place}: run started with other settings; give another name or --runs, or delete its folder"]
        raise SettingsError("\n  ".join(lines + differ))


def _complete(settings: RunSettings, place: str) -> dict[str, Any]:
    """Return the settings with the defaults of the task's own settings filled in."""
    own = checked(task_class(settings.task).Settings, settings.settings, place)
    return settings.model_dump(mode="json") | {"settings": own.model_dump(mode="json")}


def _differences(before: dict[str, Any], now: dict[str, Any], free: set[str], above: str = "") -> Iterator[str]:
    for name in sorted(before.keys() | now.keys()):
        place, old, new = f"{above}{name}", before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, free, f"{place}.")
        elif place not in free and old != new:
            yield f"{place}: {shorten(repr(old), 60)} then, {shorten(repr(new), 60)} now"
