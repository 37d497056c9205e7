"""MNN on systems that refuse to load its libraries (glibc 2.41 and newer), which the tests imitate."""

import importlib.util
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nodes import _native

REFUSED = """
import importlib, sys
from nodes import _backend, _native
from nodes.detect import RELEASED

there, imported = importlib.util.find_spec("_mnncengine").origin, importlib.import_module

def refuse(name, package=None):
    if name == "_mnncengine":
        raise ImportError(f"{there}: cannot enable executable stack as shared object requires", path=there)
    return imported(name, package)

importlib.import_module = refuse
_backend.load(RELEASED, "mnn")
print(sys.modules["_mnncengine"].__file__)
"""


def library() -> Path:
    package = importlib.util.find_spec("MNN")
    assert package is not None and package.origin is not None
    (found,) = Path(package.origin).parent.parent.glob("_mnncengine*.so")
    return found


def stack_flags(elf: bytes) -> int:
    table, (size, count) = struct.unpack_from("<Q", elf, 0x20)[0], struct.unpack_from("<HH", elf, 0x36)
    rows = [struct.unpack_from("<II", elf, table + size * i) for i in range(count)]
    return next(flags for kind, flags in rows if kind == 0x6474E551)


def test_only_the_request_for_an_executable_stack_is_removed() -> None:
    before = library().read_bytes()
    after = _native.without_executable_stack(before)
    assert stack_flags(after) == 6, "read and write"
    changed = np.frombuffer(before, np.uint8) != np.frombuffer(after, np.uint8)
    assert changed.sum() == (stack_flags(before) == 7)


def test_a_refused_library_is_loaded_without_the_request() -> None:
    done = subprocess.run([sys.executable, "-c", REFUSED], capture_output=True, text=True, check=True, timeout=60)
    assert any(line.startswith("/proc/self/fd/") for line in done.stdout.splitlines())  # MNN also prints when it ends


def test_other_import_errors_are_raised_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native.importlib, "import_module", lambda name: exec("raise ImportError('libc.so: no')"))
    with pytest.raises(ImportError, match=r"^libc\.so: no$"):
        _native.native("_tools")
