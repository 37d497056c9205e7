"""Where a running graph can be found: one folder per graph below the user's run directory.

It holds the ipc sockets (mode 0700, so that only this user reaches them) and a lock that the supervisor keeps
while it lives; the kernel drops the lock with the process, so a folder whose lock is free is a leftover.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

from graph.errors import ConfigError, GraphError

MAX_SOCKET_PATH = 107  # bytes that fit in sockaddr_un (unix(7))


def base() -> Path:
    """Return the user's run directory, made if need be.

    $FACEGRAPH_RUN_DIR where set, else below $XDG_RUNTIME_DIR, else below the temporary folder. Raises GraphError
    if it belongs to somebody else.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    fallback = Path(runtime) / "facegraph" if runtime else Path(tempfile.gettempdir()) / f"facegraph-{os.getuid()}"
    path = Path(os.environ.get("FACEGRAPH_RUN_DIR", fallback))
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise GraphError(f"{path} must belong to you with mode 0700; set FACEGRAPH_RUN_DIR to a folder that does")
    return path


def running() -> list[str]:
    """Return the names of the graphs that run now."""
    return sorted(path.name for path in base().iterdir() if path.is_dir() and _held(path))


def left_over() -> list[str]:
    """Return the names of graphs that were killed and have left their folders."""
    return sorted(path.name for path in base().iterdir() if path.is_dir() and not _held(path))


def sweep() -> None:
    """Remove what killed graphs have left."""
    for name in left_over():
        shutil.rmtree(base() / name, ignore_errors=True)


def _held(path: Path) -> bool:
    try:
        with open(path / "lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False


class RunDir:
    """The addresses of one graph."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, graph: str) -> "RunDir":
        """Return the place of a graph by name, running or not."""
        return cls(base() / graph)

    @property
    def control(self) -> str:
        """The supervisor's ROUTER."""
        return f"ipc://{self.path}/control"

    def data(self, node: str) -> str:
        """Return the address of a node's outputs."""
        return f"ipc://{self.path}/{node}"

    def port(self, node: str, output: str) -> str:
        """Return an output's name on the wire."""
        return output

    def runs(self, silence_s: float) -> bool:
        """Say whether the graph runs; here its lock says so, however long it has been silent."""
        return _held(self.path)

    def secure(self, socket: Any) -> None:
        """Prepare a socket that is not connected yet: the folder's mode keeps others out."""

    def slots(self, node: str) -> str:
        """Return the path of the unix socket that hands out a node's shared memory."""
        return f"{self.path}/{node}.shm"

    def claim(self, nodes: list[str]) -> "Claim":
        """Make the folder and lock it.

        Raises ConfigError if a graph of this name runs already or a socket's path would be too long.
        """
        longest = max((self.slots(node) for node in nodes), key=len, default="")
        if len(os.fsencode(longest)) > MAX_SOCKET_PATH:
            raise ConfigError(
                f"socket path {longest} has more than {MAX_SOCKET_PATH} bytes; "
                "set FACEGRAPH_RUN_DIR to a shorter folder, or shorten the names of graph and nodes"
            )
        sweep()
        self.path.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise ConfigError(
                f"a graph named {self.path.name!r} is running already; stop it, or give this one another name"
            ) from None
        return Claim(self, lock)

    def remove(self) -> None:
        """Remove the folder with its sockets."""
        shutil.rmtree(self.path, ignore_errors=True)


class Claim:
    """The lock on a run folder; held while the graph runs."""

    def __init__(self, rundir: RunDir, lock: int) -> None:
        self.rundir = rundir
        self._lock = lock

    def close(self) -> None:
        """Remove the folder and let go the lock."""
        self.rundir.remove()
        with contextlib.suppress(OSError):
            os.close(self._lock)
