"""Connections to a graph on another host that break while both sides live, cut by a proxy."""

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import graph
from tests.conftest import eventually
from tests.test_network import listening, take

pytestmark = pytest.mark.slow


class Proxy:
    """Forwards connections to a port of this machine until they are cut; accepts new ones at once."""

    def __init__(self, port: int) -> None:
        self._to = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._others: dict[socket.socket, socket.socket] = {}
        self._cut, self._stop = threading.Event(), threading.Event()
        self.down = threading.Event()  # while it is set, nothing passes, and nobody is told
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def cut(self) -> None:
        """Close all connections."""
        self._cut.set()
        assert eventually(lambda: not self._cut.is_set())

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with self._listener, selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._stop.is_set():
                if self.down.is_set():
                    self._stop.wait(0.05)
                    continue
                for key, _ in selector.select(0.05):
                    if key.fileobj is self._listener:
                        self._accept(selector)
                    elif key.fileobj in self._others:
                        self._pass_on(selector, key.fileobj)
                if self._cut.is_set():
                    self._drop_all(selector)
            self._drop_all(selector)

    def _accept(self, selector: selectors.BaseSelector) -> None:
        pair = self._listener.accept()[0], socket.create_connection(self._to)
        for here, there in (pair, pair[::-1]):
            self._others[here] = there
            selector.register(here, selectors.EVENT_READ)

    def _pass_on(self, selector: selectors.BaseSelector, here: socket.socket) -> None:
        data = b""
        with contextlib.suppress(OSError):
            data = here.recv(1 << 16)
            self._others[here].sendall(data)
        if not data:
            self._drop(selector, here)

    def _drop(self, selector: selectors.BaseSelector, here: socket.socket) -> None:
        for end in (here, self._others[here]):
            selector.unregister(end)
            del self._others[end]
            end.close()

    def _drop_all(self, selector: selectors.BaseSelector) -> None:
        while self._others:
            self._drop(selector, next(iter(self._others)))
        self._cut.clear()


@pytest.fixture
def main(tmp_path: Path) -> Iterator[Proxy]:
    """A graph behind a proxy."""
    with listening(tmp_path) as (_, address):
        proxy = Proxy(int(address.rpartition(":")[2]))
        yield proxy
        proxy.close()


def test_reader_continues_after_a_lost_connection(main: Proxy) -> None:
    with graph.attach(f"tcp://127.0.0.1:{main.port}") as running:
        stream = running.subscribe("copy.copied")
        before = take(stream, 5)
        main.cut()
        after = take(stream, 20)  # some of them were in transit
        assert after[-1].seq > before[-1].seq + 20 and running.stats()["state"] == "PLAYING"


def test_a_reader_waits_while_the_network_is_down(
    main: Proxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("graph.network.SILENT_S", 0.1)
    with graph.attach(f"tcp://127.0.0.1:{main.port}") as running:
        stream = running.subscribe("copy.copied")
        before = take(stream, 5)
        main.down.set()
        repair = threading.Thread(
            target=lambda: main.down.clear() if eventually(lambda: "does not answer" in caplog.text) else None
        )
        repair.start()
        after = take(stream, 200)  # more than could be on their way
        repair.join()
        assert "does not answer; trying again" in caplog.text
        assert after[-1].seq > before[-1].seq + 200 and running.stats()["state"] == "PLAYING"


def test_a_reader_gives_up_when_the_network_stays_down(main: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graph.network.SILENT_S", 0.1)
    monkeypatch.setattr("graph.network.OUTAGE_S", 3.0)
    with graph.attach(f"tcp://127.0.0.1:{main.port}") as running:
        stream = running.subscribe("copy.copied")
        next(stream)
        main.down.set()
        with pytest.raises(graph.GraphError, match="has died, or cannot be reached any more"):
            list(stream)
