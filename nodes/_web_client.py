"""One browser that looks: it gets the newest picture whenever it has drawn one, and holds up nobody."""

import asyncio
import time
from collections import deque
from statistics import median
from typing import Any

from aiohttp import WSCloseCode, web

from nodes._web_picture import Picture

UNDER_WAY = 2
"""Pictures sent and not yet drawn: with one, the connection would rest while the browser draws."""

COMMANDS = 16  # that may wait while one is obeyed; then nothing more is read of a browser
WINDOW_S = 5.0  # what `view` looks back over, as the numbers of the nodes do


class Client:
    """A browser's connection, with room for one picture and one text of each kind: newer ones replace them."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.socket = socket
        self.commands: asyncio.Queue[tuple[int, dict[str, Any]]] = asyncio.Queue(COMMANDS)
        self._news = asyncio.Event()
        self._picture: Picture | None = None
        self._last: Picture | None = None  # offered
        self._texts: dict[str, str] = {}
        self._under_way: dict[int, int] = {}  # seq: t_capture_ns
        self._drawn: deque[tuple[float, float]] = deque()  # when (CLOCK_MONOTONIC s), and its age then (ms)
        self._opened = time.monotonic()

    @property
    def wants_picture(self) -> bool:
        """Whether a picture offered now would be sent at once."""
        return self._picture is None and len(self._under_way) < UNDER_WAY

    def offer(self, picture: Picture) -> None:
        """Send a picture when the browser is ready for it, unless it has it, or there is a newer one by then."""
        if picture is not self._last:
            self._picture = self._last = picture
            self._news.set()

    def tell(self, kind: str, text: str) -> None:
        """Send a text as soon as may be, unless there is a newer one of its kind by then."""
        self._texts[kind] = text
        self._news.set()

    def drawn(self, seq: int, seen: bool) -> None:
        """Hear that the browser is done with a picture, and whether it was seen (not in a hidden tab)."""
        t_capture_ns = self._under_way.pop(seq, None)
        if t_capture_ns is not None and seen:
            now = time.monotonic_ns()
            self._drawn.append((now / 1e9, (now - t_capture_ns) / 1e6))
        self._news.set()

    def view(self) -> dict[str, float | None]:
        """Return what this browser showed in the last seconds: frames per second, and their age in ms (median).

        The age is from the capture until we heard that it was drawn: an upper bound, by the way back of that word.
        """
        now = time.monotonic()
        while self._drawn and self._drawn[0][0] < now - WINDOW_S:
            self._drawn.popleft()
        fps = len(self._drawn) / min(WINDOW_S, max(now - self._opened, 1.0))
        age = round(median(age for _, age in self._drawn), 1) if self._drawn else None
        return {"fps": round(fps, 1), "age_ms": age}

    async def refuse(self, exc: Exception) -> None:
        """Leave a browser that says what is no command."""
        await self.socket.close(code=WSCloseCode.POLICY_VIOLATION, message=f"{exc!r}"[:100].encode())

    async def send(self) -> None:
        """Send until the connection ends; waits where the browser is slow, with nothing piling up meanwhile."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._texts:
                await self.socket.send_str(self._texts.pop(next(iter(self._texts))))
            if self._picture is not None and len(self._under_way) < UNDER_WAY:
                picture, self._picture = self._picture, None
                self._under_way[picture.seq] = picture.t_capture_ns
                await self.socket.send_bytes(picture.data)
