"""Load MNN's native modules on systems that refuse them.

MNN's wheels (3.6.1) request an executable stack without needing one: one part was assembled without the note that says
so. Since glibc 2.41 (Debian 13, Ubuntu 25.04), a running process cannot load such a library
(https://sourceware.org/glibc/wiki/Release/2.41). A copy without the request can be loaded.
"""

import ctypes
import importlib
import importlib.machinery
import importlib.util
import os
import struct
import sys
from pathlib import Path
from types import ModuleType

REFUSAL = "cannot enable executable stack"
"""The error of glibc's loader."""

PT_GNU_STACK, PF_X = 0x6474E551, 1  # elf.h: the header that describes the stack, and its flag "executable"


def native(name: str) -> ModuleType:
    """Import the module "_mnncengine" or "_tools". Raises ImportError if that fails."""
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        if REFUSAL not in str(exc) or exc.path is None:
            raise
        path = Path(exc.path)
    for library in path.parent.glob("mnn.libs/*"):  # the wheel's own libraries, which the copy would not find
        ctypes.CDLL(str(library))
    return _load(name, without_executable_stack(path.read_bytes()))


def without_executable_stack(library: bytes) -> bytes:
    """Return a 64-bit little-endian ELF file that does not request an executable stack."""
    patched = bytearray(library)
    (table,) = struct.unpack_from("<Q", library, 0x20)
    size, count = struct.unpack_from("<HH", library, 0x36)
    for at in range(table, table + size * count, size):
        kind, flags = struct.unpack_from("<II", library, at)
        if kind == PT_GNU_STACK:
            struct.pack_into("<I", patched, at + 4, flags & ~PF_X)
    return bytes(patched)


def _load(name: str, library: bytes) -> ModuleType:
    """Load a module from memory, without a file on disk."""
    with open(os.memfd_create(name), "wb") as file:
        file.write(library)
        file.flush()
        path = f"/proc/self/fd/{file.fileno()}"
        loader = importlib.machinery.ExtensionFileLoader(name, path)
        spec = importlib.util.spec_from_file_location(name, path, loader=loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    sys.modules[name] = module  # MNN's Python files import it by this name
    return module
