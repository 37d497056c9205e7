import ctypes
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from graph import ConfigError, Frame
from graph.testing import run_node
from nodes.window import Window

needs_x11 = pytest.mark.skipif(
    not (shutil.which("Xvfb") and shutil.which("xdotool")), reason="apt-get install xvfb xdotool"
)

SHOW = """
import sys, time
import numpy as np
from graph import EndOfStream, Frame, Header
from nodes.window import Window

image = np.zeros((1200, 1600, 3), np.uint8)
image[:] = (200, 80, 20)
image[:600, :800] = (20, 80, 200)
image.flags.writeable = False
node = Window()
node.open()
try:
    for index in range(3000):
        if index < int(sys.argv[1]):
            node.process(Frame(image=image, header=Header(stream="kitchen", seq=index)))
        else:
            node.idle()
        print("shown", flush=True)
        time.sleep(0.01)
except EndOfStream:
    print("end of stream", flush=True)
finally:
    node.close()
"""


def test_no_display_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(ConfigError) as error:
        run_node(Window(), frame=[Frame(image=np.zeros((8, 8, 3), np.uint8))])
    assert str(error.value) == (
        "no display: the environment variable DISPLAY is not set; to write a video instead, use nodes.record:Record"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="X11")
def test_a_display_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":4711")
    with pytest.raises(ConfigError, match=r"DISPLAY is ':4711', but no X server there accepts a connection; to write"):
        run_node(Window(), frame=[])


def test_a_headless_opencv_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "currentUIFramework", lambda: "")  # two builds of OpenCV cannot be installed at once
    with pytest.raises(ConfigError, match=r"headless build \(pip uninstall opencv-python-headless.*Record"):
        run_node(Window(), frame=[])


@pytest.fixture
def display() -> Iterator[str]:
    """A separate X server: Xvfb chooses a free number and writes it to the pipe."""
    read_end, write_end = os.pipe()
    command = ["Xvfb", "-displayfd", str(write_end), "-screen", "0", "1600x1000x24"]
    server = subprocess.Popen(command, pass_fds=[write_end], stderr=subprocess.DEVNULL)
    os.close(write_end)
    try:
        with os.fdopen(read_end) as pipe:
            number = pipe.readline().strip()
        assert number, "Xvfb did not start"
        yield f":{number}"
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture
def shown(display: str, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A process that shows a picture in a window until it is told to end.

    The parameter is the number of frames, after which no more come.
    """
    root = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root, "DISPLAY": display}
    command = [sys.executable, "-c", SHOW, str(getattr(request, "param", 3000))]
    process = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "shown\n"
            yield process
        finally:
            process.kill()


def xdotool(display: str, *arguments: str) -> str:
    run = subprocess.run(["xdotool", *arguments], env=os.environ | {"DISPLAY": display}, capture_output=True, text=True)
    return run.stdout.strip()


def window_of(display: str) -> str:
    for _ in range(100):
        found = xdotool(display, "search", "--onlyvisible", "--name", "kitchen").split()
        if found:
            return found[0]
        time.sleep(0.05)
    raise AssertionError("no window named kitchen")


def press(display: str, key: str) -> None:
    window = window_of(display)
    xdotool(display, "windowfocus", window)
    time.sleep(0.2)  # without a window manager, there is no event for the focus
    xdotool(display, "key", key)


def close_button(display: str, window: str) -> None:
    """Send WM_DELETE_WINDOW, as a window manager does for its close button."""
    xcb = ctypes.CDLL("libxcb.so.1")
    xcb.xcb_connect.restype = ctypes.c_void_p
    xcb.xcb_intern_atom_reply.restype = ctypes.POINTER(ctypes.c_uint32)
    connection = ctypes.c_void_p(xcb.xcb_connect(display.encode(), None))

    def atom(name: bytes) -> int:
        cookie = xcb.xcb_intern_atom(connection, 0, len(name), name)
        return int(xcb.xcb_intern_atom_reply(connection, cookie, None)[2])

    message = np.zeros(8, np.uint32)
    message[0] = 33 | 32 << 8  # ClientMessage in 32-bit units
    message[1:5] = int(window), atom(b"WM_PROTOCOLS"), atom(b"WM_DELETE_WINDOW"), 0
    xcb.xcb_send_event(connection, 0, ctypes.c_uint32(int(window)), 0, message.tobytes())
    xcb.xcb_flush(connection)
    time.sleep(0.2)
    xcb.xcb_disconnect(connection)


def ended(process: "subprocess.Popen[str]") -> bool:
    output, _ = process.communicate(timeout=20)
    return process.returncode == 0 and output.endswith("end of stream\n")


@needs_x11
@pytest.mark.slow
@pytest.mark.parametrize(("key", "shown"), [("q", 3000), ("Q", 3000), ("Escape", 3000), ("q", 1)], indirect=["shown"])
def test_keys_end_the_graph(display: str, shown: "subprocess.Popen[str]", key: str) -> None:
    press(display, key)
    assert ended(shown)


@needs_x11
@pytest.mark.slow
def test_other_keys_do_not(display: str, shown: "subprocess.Popen[str]") -> None:
    for key in ("a", "Left", "shift+Left"):  # Left is 0xff51, and 0x51 is Q
        press(display, key)
    time.sleep(0.5)
    assert shown.poll() is None


@needs_x11
@pytest.mark.slow
def test_closing_the_window_ends_the_graph(display: str, shown: "subprocess.Popen[str]") -> None:
    close_button(display, window_of(display))
    assert ended(shown)


@needs_x11
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("xwd"), reason="apt-get install x11-apps")
def test_the_picture_is_on_the_screen(display: str, shown: "subprocess.Popen[str]") -> None:
    window = window_of(display)
    geometry = dict(line.split("=") for line in xdotool(display, "getwindowgeometry", "--shell", window).splitlines())
    width, height = int(geometry["WIDTH"]), int(geometry["HEIGHT"])
    assert (width, height) == (1067, 800)  # 1600 x 1200 fitted into 1280 x 800
    screen = screenshot(display)[int(geometry["Y"]) :, int(geometry["X"]) :]
    assert np.abs(screen[height // 4, width // 4].astype(int) - (20, 80, 200)).max() < 3
    assert np.abs(screen[height * 3 // 4, width * 3 // 4].astype(int) - (200, 80, 20)).max() < 3


def screenshot(display: str) -> np.ndarray:
    """The screen as (H, W, 3) BGR. XWD: a big-endian header, the colour map, then the pixels, blue first."""
    dump = subprocess.run(["xwd", "-root", "-silent", "-display", display], capture_output=True, check=True).stdout
    header = np.frombuffer(dump[:100], ">u4").tolist()
    size, width, height, bits, stride, colours = (header[place] for place in (0, 4, 5, 11, 12, 19))
    rows = np.frombuffer(dump[size + 12 * colours :], np.uint8)[: stride * height].reshape(height, stride)
    return rows[:, : width * bits // 8].reshape(height, width, bits // 8)[..., :3]
