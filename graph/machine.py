"""Checks of this machine for the doctor: Python, packages, memory, processors, run folder."""

import contextlib
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from graph import rundir, slots
from graph.errors import GraphError
from graph.finding import Finding

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTION = "facegraph"

FEW_FILES = 256  # a node with 60 readers has about 200 open files
LITTLE_MEMORY_MB = 1000  # the eight processes of the demo use about 900
BUSY_LOAD = 1.5  # runnable processes per processor
FULL_SLOT = 8 << 20  # bytes: a 1080p picture and some more
LEAST_ROOM = 30  # bytes: "/webcam/landmarks.shm" and some more


def check() -> Iterator[tuple[str, Finding]]:
    """Yield the findings, each with its heading."""
    for finding in (python(), *packages()):
        yield "Python", finding
    for finding in (processors(), memory(), shared_memory(), files(), gpu()):
        yield "Machine", finding
    for finding in graphs():
        yield "Graphs", finding


def python() -> Finding:
    """Return the version of Python and the system."""
    where = f"{sys.executable} on {platform.system()} {platform.release()}, {platform.machine()}"
    return Finding("Python", "ok", f"{platform.python_version()}, {where}")


def packages() -> Iterator[Finding]:
    """Yield a finding for each package that is missing or too old, one for all others, and one per extra."""
    wanted, extras = _requirements()
    yield from checked("packages", wanted, extra=None)
    for extra, names in extras.items():
        yield from checked(f"extra {extra}", names, extra)


def checked(about: str, wanted: list[Requirement], extra: str | None) -> Iterator[Finding]:
    """Yield a finding per package that does not fit, and one for the others; for an extra, one in all."""
    fitting, wrong = [], []
    for requirement in wanted:
        version = _version(requirement.name)
        if version is None:
            wrong.append((requirement, "is not installed"))
        elif not requirement.specifier.contains(version, prereleases=True):
            wrong.append((requirement, f"{version} does not fit {requirement.specifier}"))
        else:
            fitting.append(f"{requirement.name} {version}")
    if extra is None:
        for requirement, why in wrong:
            yield Finding(requirement.name, "problem", why, f"pip install '{requirement}'")
    elif wrong:
        text = ", ".join(f"{requirement.name} {why}" for requirement, why in wrong)
        yield Finding(about, "note", text, f"pip install '.[{extra}]'")
        return
    yield Finding(about, "ok", ", ".join(fitting))


def _version(package: str) -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _requirements() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """Return the requirements of the checkout, or else of the installed package, and those of each extra."""
    file = ROOT / "pyproject.toml"
    if file.is_file():
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        extras = project["optional-dependencies"]
        return _parsed(project["dependencies"]), {name: _parsed(lines) for name, lines in extras.items()}
    lines = _parsed(metadata.requires(DISTRIBUTION) or [])
    names = metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    by_extra = {
        name: [line for line in lines if line.marker and line.marker.evaluate({"extra": name})] for name in names
    }
    return [line for line in lines if line.marker is None], by_extra


def _parsed(lines: list[str]) -> list[Requirement]:
    return [Requirement(line) for line in lines]


def processors() -> Finding:
    """Return the number of usable processors, and whether they are free."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = psutil.getloadavg()[0]
    found = f"{count} usable, load {load:.1f}"
    if load > BUSY_LOAD * count:
        return Finding("processors", "note", f"{found}: other programs keep them busy", "`top` shows which")
    if count < 2:
        return Finding("processors", "note", f"{found}: all nodes share it", "--set detector.every=10 saves the most")
    return Finding("processors", "ok", found)


def memory() -> Finding:
    """Return the free memory."""
    found = psutil.virtual_memory()
    free, whole = found.available / 1e6, found.total / 1e6
    text = f"{free:,.0f} of {whole:,.0f} MB are free"
    if free < LITTLE_MEMORY_MB:
        return Finding("memory", "note", text, f"a graph of eight nodes needs about {LITTLE_MEMORY_MB} MB")
    return Finding("memory", "ok", text)


def shared_memory() -> Finding:
    """Allocate a slot as a sender does, and return whether pictures can be shared instead of sent."""
    if not slots.AVAILABLE:
        return Finding("shared memory", "note", "this system has no memfd: pictures are sent as bytes, which is slower")
    began = time.perf_counter()
    try:
        slots.Slot(0, FULL_SLOT).close()
    except OSError as exc:
        more = "free memory, or raise the limit of the container"
        return Finding("shared memory", "problem", f"{FULL_SLOT >> 20} MB of memfd: {exc.strerror}", more)
    took_ms = (time.perf_counter() - began) * 1e3
    return Finding("shared memory", "ok", f"memfd, {FULL_SLOT >> 20} MB allocated in {took_ms:.0f} ms")


def files() -> Finding:
    """Return the number of files that a process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FEW_FILES:
        return Finding(
            "open files", "problem", f"at most {soft}, but {FEW_FILES} are needed", f"ulimit -n {min(4096, hard)}"
        )
    return Finding("open files", "ok", f"at most {soft:,}")


def gpu() -> Finding:
    """Return the GPU that the driver reports; the backends report whether they can use it."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return Finding("GPU", "ok", "no NVIDIA driver: networks run on the processor")
    query = [command, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return Finding("GPU", "note", "nvidia-smi fails: the driver does not answer", "`nvidia-smi` says why")
    return Finding("GPU", "ok", "; ".join(done.stdout.split("\n")).strip("; "))


def graphs() -> Iterator[Finding]:
    """Yield the run folder, the graphs that run in it, and the leftovers of killed ones."""
    try:
        folder = rundir.base()
    except (GraphError, OSError) as exc:
        remedy = "chmod 700 the folder, or set FACEGRAPH_RUN_DIR to one of your own"
        yield Finding("run folder", "problem", str(exc).partition(";")[0], remedy)
        return
    room = rundir.MAX_SOCKET_PATH - len(os.fsencode(folder))
    if room < LEAST_ROOM:
        found = f"{folder} leaves only {room} bytes for the names of graph and node"
        yield Finding("run folder", "problem", found, "set FACEGRAPH_RUN_DIR to a shorter one")
    else:
        yield Finding("run folder", "ok", f"{folder}, private")
    running = rundir.running()
    left = rundir.left_over()
    yield Finding("running", "ok", ", ".join(running) or "none")
    if left:
        yield Finding("left over", "note", f"{', '.join(left)}: killed graphs; the next one to start removes them")
