"""One connected browser: it gets the newest picture when it has drawn one, and never slows others."""

import asyncio
import time
from collections import deque
from statistics import median
from typing import Any

from aiohttp import WSCloseCode, web

from nodes._web_picture import Picture

IN_FLIGHT = 2
"""Maximum number of pictures sent and not yet drawn: with one, the connection would be idle while the browser draws."""

COMMANDS = 16  # waiting commands of a browser; with more, nothing is read from it
WINDOW_S = 5.0  # period of the statistics in `view`, the same as for the nodes


class Client:
    """The connection to a browser, which buffers one picture and one text of each kind; newer ones replace them."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.socket = socket
        self.commands: asyncio.Queue[tuple[int, dict[str, Any]]] = asyncio.Queue(COMMANDS)
        self._changed = asyncio.Event()
        self._picture: Picture | None = None
        self._last: Picture | None = None  # the last one offered
        self._texts: dict[str, str] = {}
        self._in_flight: dict[int, int] = {}  # seq: t_capture_ns
        self._drawn: deque[tuple[float, float]] = deque()  # time (CLOCK_MONOTONIC s) and age of the picture then (ms)
        self._opened = time.monotonic()

    @property
    def wants_picture(self) -> bool:
        """Whether a picture offered now would be sent at once."""
        return self._picture is None and len(self._in_flight) < IN_FLIGHT

    def offer_picture(self, picture: Picture) -> None:
        """Send a picture when the browser is ready, unless it has it already or a newer one comes first."""
        if picture is not self._last:
            self._picture = self._last = picture
            self._changed.set()

    def offer_text(self, kind: str, text: str) -> None:
        """Send a text as soon as possible, unless a newer one of its kind comes first."""
        self._texts[kind] = text
        self._changed.set()

    def drawn(self, seq: int, seen: bool) -> None:
        """Note that the browser is done with a picture, and whether it was visible (not in a hidden tab)."""
        t_capture_ns = self._in_flight.pop(seq, None)
        if t_capture_ns is not None and seen:
            now = time.monotonic_ns()
            self._drawn.append((now / 1e9, (now - t_capture_ns) / 1e6))
        self._changed.set()

    def view(self) -> dict[str, float | None]:
        """Return the frames per second that this browser has drawn lately, and their median age in ms.

        The age is from capture until the browser's message arrived, so it includes the time of that message.
        """
        now = time.monotonic()
        while self._drawn and self._drawn[0][0] < now - WINDOW_S:
            self._drawn.popleft()
        fps = len(self._drawn) / min(WINDOW_S, max(now - self._opened, 1.0))
        age = round(median(age for _, age in self._drawn), 1) if self._drawn else None
        return {"fps": round(fps, 1), "age_ms": age}

    async def refuse(self, exc: Exception) -> None:
        """Disconnect a browser that has sent an invalid command."""
        await self.socket.close(code=WSCloseCode.POLICY_VIOLATION, message=f"{exc!r}"[:100].encode())

    async def send(self) -> None:
        """Send until the connection ends. Waits for a slow browser without building up a queue."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._texts:
                await self.socket.send_str(self._texts.pop(next(iter(self._texts))))
            if self._picture is not None and len(self._in_flight) < IN_FLIGHT:
                picture, self._picture = self._picture, None
                self._in_flight[picture.seq] = picture.t_capture_ns
                await self.socket.send_bytes(picture.data)
