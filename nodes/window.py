"""Show frames in a window on the screen."""

import ctypes
import os
import sys
from collections.abc import Iterator
from typing import Self

import cv2

from graph import ConfigError, EndOfStream, Finding, Frame, Input, Node

QUIT_KEYS = frozenset({ord("q"), ord("Q"), 27})  # 27: Esc
LARGEST = (1280, 800)  # pixels, a new window: fits on a laptop screen, and can be enlarged
INSTEAD = "to write a video instead, use nodes.record:Record"


class Window(Node):
    """Show frames in a window; q, Esc or closing the window ends the graph.

    A file is shown as fast as the graph runs; set `paced: true` on its Capture to see it in real time.
    """

    frame = Input(Frame)

    title: str = ""  # window title; empty: the graph's name

    @classmethod
    def check(cls, node: Self | None) -> Iterator[Finding]:
        """Check for a screen, and for window support in OpenCV."""
        windows = f"OpenCV {cv2.__version__}, {cv2.currentUIFramework() or 'without windows'}"
        try:
            check_display()
        except ConfigError as exc:
            reason, _, instead = str(exc).rpartition("; ")
            remedy = f"configs/web.yaml shows it in a browser; {instead}"
            yield Finding("display", "problem" if node else "note", f"{reason} ({windows})", remedy)
        else:
            yield Finding("display", "ok", f"{os.environ.get('DISPLAY', 'a screen')} ({windows})")

    def open(self) -> None:
        """Raise ConfigError if there is no screen."""
        check_display()
        self._name = ""

    def process(self, frame: Frame) -> None:
        """Show one frame. Raises EndOfStream when the user quits."""
        if not self._name:
            self._open_window(frame)
        cv2.imshow(self._name, frame.image)
        self._check_keys()

    def idle(self) -> None:
        """Stay responsive while no frame comes (for instance if a camera hangs)."""
        if self._name:
            self._check_keys()

    def _check_keys(self) -> None:
        # pollKey also redraws the window, and does not wait, so it does not delay frames.
        if cv2.pollKey() in QUIT_KEYS or not self._visible():
            raise EndOfStream

    def _open_window(self, frame: Frame) -> None:
        self._name = self.title or frame.header.stream or "facegraph"
        cv2.namedWindow(self._name, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        height, width = frame.image.shape[:2]
        scale = min(1.0, LARGEST[0] / width, LARGEST[1] / height)
        cv2.resizeWindow(self._name, round(width * scale), round(height * scale))

    def _visible(self) -> bool:
        try:
            return cv2.getWindowProperty(self._name, cv2.WND_PROP_VISIBLE) >= 1
        except cv2.error:  # Qt ends with its last window
            return False

    def close(self) -> None:
        """Close the window."""
        if self.__dict__.get("_name"):
            cv2.destroyAllWindows()


def check_display() -> None:
    """Raise ConfigError unless OpenCV can show a window here."""
    if not cv2.currentUIFramework():
        hint = "pip uninstall opencv-python-headless, then pip install --force-reinstall opencv-python"
        raise ConfigError(f"no window: this OpenCV is a headless build ({hint}); {INSTEAD}")
    if sys.platform == "linux" and (reason := why_no_display()):
        raise ConfigError(f"no display: {reason}; {INSTEAD}")


def why_no_display() -> str:
    """Return why there is no connection to X11; empty if there is one.

    This uses the same library as Qt, which itself would abort the whole process if there is no screen.
    """
    display = os.environ.get("DISPLAY")
    if not display:
        return "the environment variable DISPLAY is not set"
    try:
        xcb = ctypes.CDLL("libxcb.so.1")
    except OSError:
        return "the library libxcb.so.1 is missing (Debian, Ubuntu: apt install libxcb1)"
    xcb.xcb_connect.restype = ctypes.c_void_p
    connection = ctypes.c_void_p(xcb.xcb_connect(None, None))
    failed = xcb.xcb_connection_has_error(connection)
    xcb.xcb_disconnect(connection)
    return f"DISPLAY is {display!r}, but no X server there accepts a connection" if failed else ""
