"""Accidents of recordings: a full disk, a killed process."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def full_disk(size: int = 200_000) -> Iterator[None]:
    """Limit files to `size` bytes: writing more fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def killed_after(lines: int, script: str, *arguments: str) -> int:
    """Run a script until it has printed this many numbers, kill it (SIGKILL), and return the last number."""
    root = Path(__file__).parents[1]
    child = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        text=True,
    )
    with child:
        assert child.stdout is not None
        printed = [child.stdout.readline() for _ in range(lines)]
        assert printed[-1], "the script ended by itself"
        child.kill()
        return int((printed[-1] + child.stdout.read()).split()[-1])
