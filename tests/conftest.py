"""Every test gets its own run folder, and fails if it leaves a process, thread, socket or memory behind."""

import gc
import itertools
import logging
import os
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import psutil
import pytest
import zmq

from graph.slots import SlotPool

if TYPE_CHECKING:
    from tests.cameras import Camera
    from tests.pair import Pair

os.environ.pop("COLUMNS", None)  # tables must not depend on the width of the tester's terminal

PATIENCE_S = 60.0
"""How long a condition may take to become true, on any machine; only a failing test waits so long."""

Run = Callable[..., str]
"""Runs a command line like `run_graph.py`; returns its output, or its errors if it is expected to fail."""

hypothesis.settings.register_profile("facegraph", deadline=None, derandomize=True)  # no test depends on speed or luck
hypothesis.settings.load_profile("facegraph")


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def eventually(condition: Callable[[], bool], seconds: float = PATIENCE_S) -> bool:
    """Wait for a condition; return whether it became true."""
    end, pause = time.monotonic() + seconds, 0.001
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(pause)
        pause = min(2 * pause, 0.02)  # most become true at once
    return condition()


def shared_memory() -> set[str]:
    """Return the files in /dev/shm, without those of torch and the semaphores that other programs may have there.

    With .ci/run there are no other programs, and semaphores are included.
    """
    names = os.listdir("/dev/shm") if Path("/dev/shm").is_dir() else []
    others = ("torch_",) if os.environ.get("CI") else ("torch_", "sem.")
    return {name for name in names if not name.startswith(others)}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Fail skipped tests if everything that the tests need is installed (.ci/run)."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"nothing may be skipped here: {report.longrepr}"
    return report


def pytest_sessionstart() -> None:
    """Remove the folders of killed runs; their names contain the pid."""
    for folder in Path(tempfile.gettempdir()).glob("fg*-*"):
        process = folder.name[2:].partition("-")[0]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            shutil.rmtree(folder, ignore_errors=True)


def has_children() -> bool:
    """Say whether this process has children, running or ended; psutil would search all processes of the machine."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def pytest_collection() -> None:
    """Do not collect garbage while the tests and their libraries are imported: it takes a quarter of that time."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Collect the garbage of tests, without searching all that was imported each time."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def run_dirs() -> Iterator[Iterator[Path]]:
    """Paths of folders, not created because most tests need none."""
    with tempfile.TemporaryDirectory(prefix=f"fg{os.getpid()}-") as folder:
        yield (Path(folder, str(number)) for number in itertools.count())


@pytest.fixture(autouse=True)
def nothing_is_left(run_dirs: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = next(run_dirs)
    monkeypatch.setenv("FACEGRAPH_RUN_DIR", str(folder))
    threads, memory = set(threading.enumerate()), shared_memory()
    yield folder
    children = psutil.Process().children(recursive=True) if has_children() else []
    for child in children:
        child.kill()
    left = sorted(os.listdir(folder)) if os.path.exists(folder) else []  # some tests patch Path.stat()
    shutil.rmtree(folder, ignore_errors=True)
    assert not [child for child in children if "pytest" not in child.name()], f"processes left: {children}"
    assert not left, f"left in the run folder: {left}"
    assert eventually(lambda: set(threading.enumerate()) <= threads), f"threads left: {threading.enumerate()}"
    new = shared_memory() - memory  # may belong to a test that runs beside this one, and goes away with that
    assert eventually(lambda: new.isdisjoint(shared_memory()), 2 * PATIENCE_S), f"left in /dev/shm: {new}"


@pytest.fixture
def run_dir(nothing_is_left: Path) -> Path:
    nothing_is_left.mkdir(mode=0o700)
    return nothing_is_left


@pytest.fixture
def context() -> Iterator["zmq.Context[zmq.Socket[bytes]]"]:
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def pair(context: "zmq.Context[zmq.Socket[bytes]]", run_dir: Path) -> "Iterator[Pair]":
    from tests.pair import Pair  # which imports this module

    pair = Pair(context, run_dir)
    yield pair
    pair.close()


@pytest.fixture
def warnings_of(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records if record.name.startswith("nodes.")]


@pytest.fixture
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def gstreamer() -> None:
    from tests.cameras import SYSTEM_PYTHON

    ask = "import gi; gi.require_version('GstRtspServer', '1.0')"
    if subprocess.run([SYSTEM_PYTHON, "-c", ask], capture_output=True, timeout=60).returncode:
        pytest.skip("needs GStreamer's RTSP server: apt install gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-bad")


@pytest.fixture
def camera(gstreamer: None) -> "Iterator[Callable[..., Camera]]":
    from tests.cameras import Camera

    with ExitStack() as stack:

        def make(*options: str) -> Camera:
            made = Camera(*options)
            stack.callback(made.kill)
            return made

        yield make


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    from graph import cli

    def run(*arguments: str, code: int = 0) -> str:
        """Return the output of a command, or its error if `code` is not 0."""
        assert cli.main([*arguments]) == code
        said = capsys.readouterr()
        return said.err if code else said.out

    return run


@pytest.fixture
def hangs_up() -> Iterator[None]:
    """SIGHUP has its default effect, here and in child processes, although the tests may run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def descriptors() -> Iterator[Callable[[int], None]]:
    """Sets the limit of open file descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda most: resource.setrlimit(resource.RLIMIT_NOFILE, (most, before[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def pool() -> Iterator[SlotPool]:
    """Yield the shared memory of a sender."""
    pool = SlotPool()
    yield pool
    pool.close()
