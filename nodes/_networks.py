"""Check for `doctor` whether each backend reproduces the reference outputs of a network's card, and how fast."""

import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

from graph import Finding
from nodes._backend import BACKENDS, Backend, card, load, remedy
from nodes._geometry import to_input

NEAR = 0.02  # tolerance for rounding differences between backends, in pixels and logits
RUNS = 5


def check_network(path: Path, backend: str | None = None, device: str = "cpu") -> Iterator[Finding]:
    """Run the network at `path` (no suffix needed) on one backend, or on all that are installed."""
    for name in BACKENDS if backend is None else (backend,):
        package = BACKENDS[name][2]
        if not find_spec(package):
            yield Finding(name, "problem" if backend else "note", f"{package} is not installed", remedy(package))
            continue
        try:
            found = _run(load(path, name, device=device), path)
        except (OSError, ValueError, ImportError, RuntimeError) as exc:
            yield Finding(name, "problem", str(exc), f"pip install --force-reinstall {package}")
        else:
            yield found._replace(about=name, found=f"{found.found}{_devices(name)}")


def _run(network: Backend, path: Path) -> Finding:
    """Run the reference picture of the network's card and compare the outputs."""
    reference = card(path).get("reference")
    if not reference:
        return Finding("", "note", f"{path.name} loads; its card has no reference picture to compare with")
    image = cv2.imread(str(path.with_name(reference["picture"])))
    if image is None:
        return Finding("", "problem", f"{path.with_name(reference['picture'])} cannot be read", "restore nodes/models")
    batch = to_input(np.asarray(image[None], np.uint8))
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        outputs = network.run(batch)
        times.append((time.perf_counter() - began) * 1e3)
    for name, value in outputs.items():
        part, expected = value.ravel()[:: reference[name]["every"]], np.array(reference[name]["values"])
        if part.shape != expected.shape or not np.allclose(part, expected, atol=NEAR, rtol=0):
            return Finding("", "problem", f"{path.name}: {name} differs from its card", "restore nodes/models")
    return Finding("", "ok", f"{path.name} reproduces its reference outputs, {min(times):.1f} ms")


def _devices(backend: str) -> str:
    """Return the devices on which a backend can run, if it says."""
    if backend == "onnxruntime":
        import onnxruntime

        return f" (providers: {', '.join(onnxruntime.get_available_providers())})"
    return ""
