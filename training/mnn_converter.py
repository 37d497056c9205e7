"""MNN's converter, without its command `mnnconvert`, which installs further packages when it runs."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path


def convert(source: Path, path: Path, *options: str) -> None:
    """Convert ONNX to MNN with the wheel's native converter, in a process of its own because it writes to stdout.

    Raises RuntimeError with the end of its output if it fails, and OSError if the disk is full, which it ignores.
    """
    arguments = ["mnnconvert", "-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(path), "--bizCode", "MNN",
                 *options]
    program = f"from nodes._native import native; native('_tools').mnnconvert({arguments!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    if done.returncode or not path.exists():
        raise RuntimeError(f"MNN could not convert {source}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    if not shutil.disk_usage(path.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
