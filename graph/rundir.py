"""Where a running graph can be found: one folder per graph in the user's run directory.

The folder contains the ipc sockets (its mode is 0700, so that only this user can reach them) and a lock that the
supervisor holds while it lives. The kernel releases the lock when the process ends, so a folder whose lock is free is a
leftover. The lock file contains a mark that tells these folders from others in the run directory.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import Any

from graph.errors import ConfigError

MAX_SOCKET_PATH = 107  # bytes that fit in sockaddr_un (unix(7))
CONTROL, LOCK = "control", "lock"
"""Files in the folder next to the nodes' sockets, which have the names of the nodes: no node can have these names."""
MARK = b"facegraph\n"
"""Contents of the lock file: only folders with it are ever removed."""
CLAIM_S = 0.5  # a lock that is only tested, or whose folder is being removed, becomes free within this time
LOOK_S = 0.02


def base() -> Path:
    """Return the user's run directory; create it if necessary.

    It is $FACEGRAPH_RUN_DIR if set, else a folder in $XDG_RUNTIME_DIR, else one in the temporary folder. Raises
    ConfigError if it belongs to another user, cannot be created, or has a name that is not UTF-8.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    fallback = Path(runtime) / "facegraph" if runtime else Path(tempfile.gettempdir()) / f"facegraph-{os.getuid()}"
    path = Path(os.environ.get("FACEGRAPH_RUN_DIR") or fallback).absolute()  # a node may change its working directory
    if os.fsencode(path) != str(path).encode(errors="replace"):  # ZeroMQ would use another path
        raise ConfigError(f"the run folder {path} is not named in UTF-8; set FACEGRAPH_RUN_DIR to one that is")
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except OSError as exc:
        raise ConfigError(
            f"the run folder {path} cannot be created: {exc.strerror}; set FACEGRAPH_RUN_DIR to a folder of your own"
        ) from exc
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigError(f"{path} must belong to you with mode 0700; set FACEGRAPH_RUN_DIR to a folder that does")
    return path


def running() -> list[str]:
    """Return the names of the graphs that are running."""
    paths = (path for path in base().iterdir() if not path.name.startswith("."))  # a dot: it is being removed
    return sorted(path.name for path in paths if _made_by_graph(path) and _held(path))


def left_over() -> list[str]:
    """Return the names of killed graphs whose folders are still there."""
    return sorted(path.name for path in base().iterdir() if _made_by_graph(path) and not _held(path))


def sweep() -> None:
    """Remove the folders of killed graphs, and nothing else: the run directory may be somebody's home."""
    for name in left_over():
        RunDir(base() / name).remove_left_over()


def _made_by_graph(path: Path) -> bool:
    """Say whether a folder has the mark of a graph; the run directory may contain other folders and links."""
    lock = path / LOCK
    try:
        if path.is_symlink() or lock.is_symlink() or not lock.is_file():
            return False
        with lock.open("rb") as file:
            return file.read(len(MARK)) == MARK
    except OSError:
        return False


def _free_for_a_graph(path: Path) -> bool:
    """Say whether a folder is a graph's, or empty except for the lock of a graph killed before it wrote its mark."""
    if _made_by_graph(path):
        return True
    return not path.is_symlink() and all(entry.name == LOCK and _is_blank(entry) for entry in path.iterdir())


def _is_blank(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size == 0


def _held(path: Path) -> bool:
    try:
        with open(path / LOCK, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False


class RunDir:
    """The addresses of one graph."""

    died = "has died"

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, graph: str) -> "RunDir":
        """Return the folder of a graph by name, whether it runs or not."""
        return cls(base() / graph)

    @property
    def control(self) -> str:
        """The supervisor's ROUTER."""
        return f"ipc://{self.path}/{CONTROL}"

    def data(self, node: str) -> str:
        """Return the address of a node's outputs."""
        return f"ipc://{self.path}/{node}"

    def port(self, node: str, output: str) -> str:
        """Return an output's name on the wire."""
        return output

    def runs(self, silence_s: float) -> bool:
        """Say whether the graph runs, by its lock; `silence_s` does not matter here."""
        return _held(self.path)

    def secure(self, socket: Any) -> None:
        """Prepare a socket before it connects: nothing to do, the folder's mode keeps other users out."""

    def slots(self, node: str) -> str:
        """Return the path of the unix socket that hands out a node's shared memory."""
        return f"{self.path}/{node}.shm"

    def claim(self, nodes: list[str]) -> "Claim":
        """Create the folder and lock it.

        Raises ConfigError if a graph of this name is running, a socket's path would be too long, or the folder is not
        a graph's.
        """
        longest = max((self.slots(node) for node in nodes), key=len, default="")
        if len(os.fsencode(longest)) > MAX_SOCKET_PATH:
            raise ConfigError(
                f"socket path {longest} has more than {MAX_SOCKET_PATH} bytes; "
                "set FACEGRAPH_RUN_DIR to a shorter folder, or shorten the names of graph and nodes"
            )
        sweep()
        until = time.monotonic() + CLAIM_S
        while (lock := self._make()) is None:
            if time.monotonic() >= until:
                raise ConfigError(
                    f"a graph named {self.path.name!r} is running already; stop it, or give this one another name"
                )
            time.sleep(LOOK_S)
        return Claim(self, lock)

    def _make(self) -> int | None:
        """Create the folder and return its lock, held and marked; None if another process holds it."""
        try:
            self.path.mkdir(mode=0o700, exist_ok=True)
            if not _free_for_a_graph(self.path):
                raise ConfigError(
                    f"{self.path} was not made by a graph; give this one another name, "
                    "or set FACEGRAPH_RUN_DIR to a folder for graphs alone"
                )
            lock = self._lock(os.O_CREAT)
            if lock is not None:
                os.pwrite(lock, MARK, 0)
            return lock
        except FileNotFoundError:
            return None  # another process is removing it
        except OSError as exc:
            raise ConfigError(
                f"the run folder {self.path} cannot be created: {exc.strerror}; "
                "set FACEGRAPH_RUN_DIR to a folder of your own"
            ) from exc

    def _lock(self, flags: int = 0) -> int | None:
        """Return the folder's lock, held; None if another process holds it."""
        lock = os.open(self.path / LOCK, flags | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self.is_locked_by(lock):
                return lock
        os.close(lock)
        return None

    def is_locked_by(self, lock: int) -> bool:
        """Say whether an open file is the folder's lock, and not that of a folder that was removed."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(lock), os.stat(self.path / LOCK))
        return False

    def remove_left_over(self, wait_s: float = 0.0) -> None:
        """Remove the folder with its sockets, unless a graph runs in it: a new one may use the name.

        `wait_s` is how long to wait for the lock of a graph that is being killed.
        """
        until = time.monotonic() + wait_s
        with contextlib.suppress(OSError):  # another process was faster
            while _made_by_graph(self.path):
                lock = self._lock()
                if lock is not None:
                    self.remove()
                    os.close(lock)
                if time.monotonic() >= until:
                    return
                time.sleep(LOOK_S)

    def remove(self) -> None:
        """Remove the folder; the caller holds its lock.

        It is renamed first, so that nobody adds to it meanwhile, and a new graph finds either none or a complete one.
        """
        away = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            self.path.rename(away)
            shutil.rmtree(away, ignore_errors=True)


class Claim:
    """The lock on a run folder; held while the graph runs."""

    def __init__(self, rundir: RunDir, lock: int) -> None:
        self.rundir = rundir
        self._lock = lock

    def close(self) -> None:
        """Remove the folder, unless another one has replaced it, and release the lock."""
        if self.rundir.is_locked_by(self._lock):
            self.rundir.remove()
        with contextlib.suppress(OSError):
            os.close(self._lock)
