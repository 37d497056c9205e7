"""A proxy between a browser and the server of the web page."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.conftest import PATIENCE_S, free_port


class Proxy:
    """Forwards bytes between its own port and the server's; `change` is applied to what the browser sends.

    While `silent`, nothing is forwarded and no connection ends. `connections` are all connections so far.
    """

    def __init__(self, server: int, change: Callable[[bytes], bytes]) -> None:
        self.silent = False
        self.connections: list[asyncio.Task[None] | None] = []  # asyncio does not keep references to them
        self.port = free_port()
        self._server = server
        self._change = change

    def run(self, ready: threading.Event, stop: asyncio.Event) -> None:
        asyncio.run(self._serve(ready, stop))

    async def _serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        self.loop = asyncio.get_running_loop()
        async with await asyncio.start_server(self._connected, "127.0.0.1", self.port):
            ready.set()
            await stop.wait()
            for connection in self.connections:  # from Python 3.12 on, the end of this block waits for them
                if connection:
                    connection.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(asyncio.current_task())
        there, back = await asyncio.open_connection("127.0.0.1", self._server)
        try:
            await asyncio.gather(self._pass(reader, back, self._change), self._pass(there, writer, bytes))
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            for end in (writer, back):
                end.close()
                with contextlib.suppress(ConnectionError):
                    await end.wait_closed()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Callable[[bytes], bytes]
    ) -> None:
        held = self.silent
        while data := await reader.read(65536):
            held |= self.silent
            if not held:
                writer.write(change(data))
                await writer.drain()
        if not held:
            writer.close()


@contextmanager
def proxy(server: int, change: Callable[[bytes], bytes] = bytes) -> Iterator[Proxy]:
    """A proxy in its own thread."""
    made, ready, stop = Proxy(server, change), threading.Event(), asyncio.Event()
    thread = threading.Thread(target=made.run, args=(ready, stop))
    thread.start()
    try:
        assert ready.wait(PATIENCE_S)
        yield made
    finally:
        made.loop.call_soon_threadsafe(stop.set)
        thread.join()
