"""The server of the web page with slow, foreign and faulty clients."""

import asyncio
import errno
import json
import math
import os
import socket
import struct
import sys
import threading
import time
from typing import Any

import aiohttp
import cv2
import numpy as np
import pytest

from graph import ConfigError, Faces
from graph.testing import run_node
from nodes._web_client import Client
from nodes._web_graph import GraphView, as_json
from nodes._web_picture import Newest, describe_faces
from nodes._web_server import MAX_COMMAND, WebServer
from nodes.web import WebView
from tests.conftest import PATIENCE_S, eventually
from tests.known_faces import known
from tests.web_server import TOKEN, frame, server

LOCAL = "127.0.0.1"


# ---------------------------------------------------------------- what is sent


def test_faces_as_numbers() -> None:
    faces = known(2)
    faces.pose[1] = faces.openness[1] = np.nan  # unknown
    first, second = describe_faces(faces)
    assert (first["id"], first["score"], first["pose"]) == (3, 0.97, [5.0, -20.0, 10.0])
    assert (second["id"], second["pose"]) == (4, None)
    assert np.allclose(np.reshape(first["landmarks"], (68, 2)), faces.landmarks[0], atol=0.051)
    assert np.allclose(first["box"], faces.boxes[0], atol=0.051)
    assert first["states"] == [0.02, 0.02, 0.95, 0.01]
    assert (first["openness"], first["blinks"], second["openness"], second["blinks"]) == ([0.3, 0.2, 0.1], 1, None, 2)
    assert describe_faces(Faces()) == []


def test_picture() -> None:
    newest = Newest()
    assert newest.picture(960, 80) is None
    newest.put(frame(7, 200, 100), known(1))
    picture = newest.picture(100, 80)
    assert picture is not None and newest.picture(100, 80) is picture  # made once for all clients
    about, image = unpack(picture.data)
    assert image.shape == (50, 100, 3) and np.abs(image.astype(int) - 100).max() <= 2
    assert (about["seq"], about["width"], about["height"], len(about["faces"])) == (7, 200, 100, 1)
    newest.put(frame(8), None)
    assert unpack(newest.picture(960, 80).data)[0]["faces"] == []  # type: ignore[union-attr]


def unpack(data: bytes) -> tuple[dict[str, Any], Any]:
    (length,) = struct.unpack_from("<I", data)
    return json.loads(data[4 : 4 + length]), cv2.imdecode(np.frombuffer(data[4 + length :], np.uint8), cv2.IMREAD_COLOR)


# ---------------------------------------------------------------- access


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"host": "0.0.0.0"}, r"host '0\.0\.0\.0' is open to others, and needs a token: set the environment"),
        ({"host": "::"}, r"host '::' is open to others"),
        ({"host": "0.0.0.0", "token": "short"}, "token has 5 characters, expected at least 12"),
        ({"host": "no.such.host.invalid", "token": TOKEN}, r"cannot listen on no\.such\.host\.invalid port 8080: "),
    ],
)
def test_refused_to_open(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        run_node(WebView(**settings), frame=[], faces=[])


def test_token_of_the_environment(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("FACEGRAPH_WEB_TOKEN", TOKEN)  # which no process list shows
    caplog.set_level("INFO")
    run_node(WebView(host="0.0.0.0", port=0), frame=[frame()], faces=[None])
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith("the page is at http://0.0.0.0:")


@pytest.mark.parametrize("kind", ["set", "pause", "resume", "restart"])
def test_a_read_only_page_executes_no_commands(kind: str) -> None:
    said = {"k": kind, "id": 1, "setting": "source.grey", "value": 1, "node": "source"}
    refused = {"error": "this page is read-only (its node has control: false)"}
    assert GraphView("shown", follow=False, control=False).execute(said) == refused


def test_nothing_is_compressed_without_browsers() -> None:
    def make() -> None:
        raise AssertionError("somebody looks")

    served = WebServer(LOCAL, 0, "", make, GraphView("", False, True))
    for _ in range(100):
        served.notify()
    served.close()
    served.notify()  # raises the error, if there was one


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use; set p"):
            run_node(WebView(port=port), frame=[], faces=[])


def test_a_port_that_only_root_may_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(ConfigError, match=r"port 80: Permission denied; set port to another one, or 0 for any"):
        run_node(WebView(port=80), frame=[], faces=[])


def test_without_aiohttp_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("nodes._web_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(ConfigError, match=r"the web page needs aiohttp: pip install '\.\[web\]'"):
        run_node(WebView(port=0), frame=[], faces=[])


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", {}, 200),
        ("/app.js", {}, 200),
        ("/", {"Host": "localhost:9000"}, 200),  # with ssh -L
        ("/", {"Host": "evil.example"}, 403),  # DNS rebinding
        ("/app.js", {"Host": "127.0.0.1.evil.example:80"}, 403),
        ("/", {"Host": "[nonsense"}, 403),
        ("/live", {"Origin": "http://evil.example"}, 403),
        ("/live", {"Origin": "null"}, 403),
        ("/live", {"Origin": "http://127.0.0.1:1"}, 403),  # another server on this machine
        ("/live", {}, 400),  # not a WebSocket
        ("/../web.py", {}, 404),
        ("/login.html", {}, 404),
    ],
)
def test_who_is_answered(path: str, headers: dict[str, str], status: int) -> None:
    async def ask(url: str) -> aiohttp.ClientResponse:
        async with aiohttp.ClientSession() as session, session.get(url + path, headers=headers) as response:
            await response.read()
            return response

    with server() as (served, _):
        response = asyncio.run(ask(served.url))
    assert response.status == status
    if headers.get("Host") == "evil.example":
        assert response._body == b"This page is at http://127.0.0.1, not at 'evil.example'.\n"
    assert "default-src 'none'; script-src 'self'" in response.headers["Content-Security-Policy"]


def test_token() -> None:
    async def visit(url: str) -> None:
        jar = aiohttp.CookieJar(unsafe=True)  # "unsafe": cookies of addresses without a name
        async with aiohttp.ClientSession(url, cookie_jar=jar) as session:
            for path in ("/", "/?token=wrong", "/live"):
                async with session.get(path) as response:
                    assert response.status == 401 and not jar
            async with session.post("/login", data={"token": TOKEN + "x"}) as response:
                assert response.status == 401 and not jar
            foreign = {"Origin": "http://evil.example"}
            async with session.post("/login", data={"token": TOKEN}, headers=foreign) as response:
                assert response.status == 403 and not jar
            async with session.post("/login", data={"token": TOKEN}) as response:
                assert response.status == 200 and 'id="stage"' in await response.text()
                cookie = response.history[0].headers["Set-Cookie"]
                assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and TOKEN not in cookie
            async with session.ws_connect("/live") as live:
                assert not live.closed
            jar.clear()
            async with session.get(f"/?token={TOKEN}") as response:
                assert response.status == 200 and "token" not in str(response.url)

    with server("0.0.0.0", TOKEN) as (served, _):
        asyncio.run(visit(served.url.replace("0.0.0.0", LOCAL)))


def test_a_page_with_a_token_may_be_behind_a_proxy() -> None:
    async def visit(url: str) -> None:
        named = {"Host": "cam.example.org", "Origin": "https://cam.example.org"}
        async with aiohttp.ClientSession(url, headers=named) as session:
            async with session.get("/") as response:
                assert response.status == 401
            async with session.post("/login", data={"token": TOKEN}, allow_redirects=False) as response:
                assert response.status == 303

    with server(LOCAL, TOKEN) as (served, _):
        asyncio.run(visit(served.url))


def test_numbers_that_json_lacks_become_strings() -> None:
    said = json.loads(as_json({"k": "graph", "most": math.inf, "all": [math.nan, 1.5, "a"]}))
    assert said == {"k": "graph", "most": "inf", "all": ["nan", 1.5, "a"]}


# ---------------------------------------------------------------- slow and faulty clients


def test_a_slow_client_gets_the_newest_picture_and_slows_nobody() -> None:
    async def look(served: WebServer, newest: Newest) -> None:
        async with (
            aiohttp.ClientSession(served.url) as session,
            session.ws_connect("/live") as idle,
            session.ws_connect("/live") as quick,
        ):
            for seq in range(200):
                newest.put(frame(seq), None)
                served.notify()
                assert await received(quick) == seq
                await quick.send_json({"k": "drawn", "seq": seq, "seen": True})
            assert [await received(idle), await received(idle)] == [0, 1]  # and then nothing more
            await idle.send_json({"k": "drawn", "seq": 0, "seen": True})
            assert await received(idle) == 199

    with server() as (served, newest):
        asyncio.run(look(served, newest))


def test_a_new_client_gets_the_latest_texts_at_once_but_no_outdated_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    class Known(GraphView):
        def update(self) -> dict[str, str]:
            self.latest = {"stats": '{"k": "stats"}'}
            return self.latest

    async def look(served: WebServer) -> None:
        async with aiohttp.ClientSession(served.url) as session, session.ws_connect("/live") as live:
            async with asyncio.timeout(PATIENCE_S):
                assert await live.receive_json() == {"k": "stats"}

    monkeypatch.setattr("nodes._web_server.POLL_S", 3600.0)  # a client that waits for the next poll would time out
    with server(graph_view=Known) as (served, _):
        asyncio.run(look(served))
        monkeypatch.setattr("nodes._web_server.POLL_S", 0.01)
        asyncio.run(look(served))
        assert eventually(lambda: not served._graph.latest)


def test_a_full_server_accepts_a_client_when_another_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    async def look(served: WebServer) -> None:
        async with aiohttp.ClientSession(served.url) as session, session.ws_connect("/live"):
            async with session.ws_connect("/live"):
                with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
                    await session.ws_connect("/live")
            async with asyncio.timeout(PATIENCE_S):
                while len(served._clients) > 1:
                    await asyncio.sleep(0.001)
            async with session.ws_connect("/live") as live:
                assert not live.closed

    monkeypatch.setattr("nodes._web_server.MAX_CLIENTS", 2)
    with server() as (served, _):
        asyncio.run(look(served))


def test_only_pictures_that_were_sent_and_seen_count_as_shown() -> None:
    client = Client(None)  # type: ignore[arg-type]
    now_ns = time.monotonic_ns()
    client._in_flight = {1: now_ns, 2: now_ns}
    for seq, seen in ((1, True), (1, True), (2, False), (3, True)):
        client.drawn(seq, seen)
    assert client.view()["fps"] == 1.0  # less than a second counts as one


def test_pictures_continue_while_a_command_is_executed(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()

    def execute(self: GraphView, said: dict[str, Any]) -> dict[str, Any]:
        return {"value": done.wait(PATIENCE_S)}

    async def look(served: WebServer, newest: Newest) -> None:
        async with aiohttp.ClientSession(served.url) as session, session.ws_connect("/live") as live:
            await live.send_json({"k": "restart", "id": 7, "node": "slow"})
            for seq in range(10):
                newest.put(frame(seq), None)
                served.notify()
                assert await received(live) == seq
                await live.send_json({"k": "drawn", "seq": seq, "seen": True})
            done.set()
            async with asyncio.timeout(PATIENCE_S):
                async for message in live:
                    if message.type is aiohttp.WSMsgType.TEXT and '"answer"' in message.data:
                        assert json.loads(message.data) == {"k": "answer", "id": 7, "value": True}
                        return

    monkeypatch.setattr(GraphView, "execute", execute)
    with server() as (served, newest):
        asyncio.run(look(served, newest))


def test_pictures_are_not_compressed_again() -> None:
    """aiohttp does that in its own task; when a browser disconnects, nobody awaits its error."""

    async def look(served: WebServer) -> int:
        async with aiohttp.ClientSession(served.url) as session, session.ws_connect("/live", compress=15) as live:
            return live.compress

    with server() as (served, _):
        assert asyncio.run(look(served)) == 0


async def received(live: aiohttp.ClientWebSocketResponse) -> int:
    """The number of the next picture."""
    async with asyncio.timeout(PATIENCE_S):
        async for message in live:
            if message.type is aiohttp.WSMsgType.BINARY:
                return int(unpack(message.data)[0]["seq"])
    raise AssertionError(f"closed: {live.close_code}")


@pytest.mark.parametrize(
    "said",
    ["no json", "[]", '"drawn"', "{}", '{"k": "drawn"}', '{"k": "drawn", "seq": [], "seen": 1}', '{"k": "set"}',
     b'{"k": "drawn", "seq": 0, "seen": true}',
     json.dumps({"k": "drawn", "seq": 0, "seen": True, "more": "x" * MAX_COMMAND})],
)  # fmt: skip
def test_invalid_messages_only_end_their_connection(said: str | bytes) -> None:
    async def talk(served: WebServer, newest: Newest) -> None:
        async with aiohttp.ClientSession(served.url) as session:
            async with session.ws_connect("/live") as live:
                await (live.send_bytes(said) if isinstance(said, bytes) else live.send_str(said))
                async with asyncio.timeout(PATIENCE_S):
                    async for _ in live:  # until it is closed
                        pass
            newest.put(frame(5), None)
            served.notify()
            async with session.ws_connect("/live") as other:
                assert await received(other) == 5

    with server() as (served, newest):
        asyncio.run(talk(served, newest))


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\r\n\r\n", b"400"),  # https
        (b"GET / HTTP/9.9\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", b"400"),
        (
            b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 5\r\n\r\nabcde",
            b"400",
        ),
        (
            b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n\r\n" + b"x" * 99_999,
            b"413",
        ),
    ],
)
def test_broken_requests_are_answered_and_not_logged(
    sent: bytes, status: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with server() as (served, _), socket.create_connection((LOCAL, served.port), timeout=PATIENCE_S) as connection:
        connection.sendall(sent)
        assert connection.recv(100).split()[1] == status
    assert not caplog.messages
