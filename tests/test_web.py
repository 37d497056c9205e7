"""The web page: in a real browser on a real graph, and its server against slow, foreign and wrong clients."""

import asyncio
import json
import shutil
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import cv2
import numpy as np
import pytest
import yaml

import graph
from graph import ConfigError, Faces, Frame
from graph.testing import run_node
from nodes._web_inside import Inside
from nodes._web_picture import Newest, describe_faces
from nodes._web_server import MAX_COMMAND, WebServer
from nodes.source import read_picture
from nodes.web import WebView
from tests.conftest import PATIENCE_S, eventually
from tests.graphs import ROOT, Graph
from tests.known_faces import known

LOCAL = "127.0.0.1"
TOKEN = "open-sesame-please"
PATIENCE_MS = PATIENCE_S * 1000

slow = pytest.mark.slow
needs_browser = pytest.mark.skipif(not shutil.which("chromium"), reason="apt-get install chromium")


def frame(seq: int = 0, width: int = 64, height: int = 48) -> Frame:
    return Frame(image=np.full((height, width, 3), 100, np.uint8)).with_header(graph.Header("test", seq))


@contextmanager
def server(host: str = "127.0.0.1", token: str = "") -> Iterator[tuple[WebServer, Newest]]:
    """A server without a graph, and where it gets its pictures from."""
    newest = Newest()
    served = WebServer(host, 0, token, lambda: newest.picture(960, 80), Inside("", follow=False, control=True))
    try:
        yield served, newest
    finally:
        served.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


# ---------------------------------------------------------------- what is sent


def test_faces_as_numbers() -> None:
    faces = known(2)
    faces.pose[1] = faces.openness[1] = np.nan  # not known
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
    assert picture is not None and newest.picture(100, 80) is picture  # made once, however many ask
    about, image = unpack(picture.data)
    assert image.shape == (50, 100, 3) and np.abs(image.astype(int) - 100).max() <= 2
    assert (about["seq"], about["width"], about["height"], len(about["faces"])) == (7, 200, 100, 1)
    newest.put(frame(8), None)
    assert unpack(newest.picture(960, 80).data)[0]["faces"] == []  # type: ignore[union-attr]


def unpack(data: bytes) -> tuple[dict[str, Any], Any]:
    (length,) = struct.unpack_from("<I", data)
    return json.loads(data[4 : 4 + length]), cv2.imdecode(np.frombuffer(data[4 + length :], np.uint8), cv2.IMREAD_COLOR)


# ---------------------------------------------------------------- who may look


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"host": "0.0.0.0"}, r"host '0\.0\.0\.0' is open to others, who must then know a token: set the environment"),
        ({"host": "::"}, r"host '::' is open to others"),
        ({"host": "0.0.0.0", "token": "short"}, "token has 5 characters, expected at least 12"),
        ({"host": "no.such.host.invalid", "token": TOKEN}, r"cannot listen on no\.such\.host\.invalid port 8080: "),
    ],
)
def test_refused_to_open(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        run_node(WebView(**settings), frame=[], faces=[])


def test_token_of_the_environment(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("FACEGRAPH_WEB_TOKEN", TOKEN)  # where no list of processes shows it
    caplog.set_level("INFO")
    run_node(WebView(host="0.0.0.0", port=0), frame=[frame()], faces=[None])
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith("the page is at http://0.0.0.0:")


@pytest.mark.parametrize("kind", ["set", "pause", "resume", "restart"])
def test_page_that_only_shows(kind: str) -> None:
    said = {"k": kind, "id": 1, "setting": "source.grey", "value": 1, "node": "source"}
    refused = {"error": "this page only shows (its node has control: false)"}
    assert Inside("shown", follow=False, control=False).obey(said) == refused


def test_nothing_is_compressed_while_nobody_looks() -> None:
    def make() -> None:
        raise AssertionError("somebody looks")

    served = WebServer(LOCAL, 0, "", make, Inside("", False, True))
    for _ in range(100):
        served.news()
    served.close()
    served.news()  # raises what went wrong


def test_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use; set p"):
            run_node(WebView(port=port), frame=[], faces=[])


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
        ("/", {"Host": "localhost:9000"}, 200),  # by ssh -L
        ("/", {"Host": "evil.example"}, 403),  # DNS rebinding
        ("/app.js", {"Host": "127.0.0.1.evil.example:80"}, 403),
        ("/", {"Host": "[nonsense"}, 403),
        ("/live", {"Origin": "http://evil.example"}, 403),
        ("/live", {"Origin": "null"}, 403),
        ("/live", {"Origin": "http://127.0.0.1:1"}, 403),  # another server of this machine
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
                assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and TOKEN not in cookie
            async with session.ws_connect("/live") as live:
                assert not live.closed
            jar.clear()
            async with session.get(f"/?token={TOKEN}") as response:
                assert response.status == 200 and "token" not in str(response.url)

    with server("0.0.0.0", TOKEN) as (served, _):
        asyncio.run(visit(served.url.replace("0.0.0.0", LOCAL)))


# ---------------------------------------------------------------- who is slow, or wrong


def test_a_slow_client_gets_the_newest_and_holds_up_nobody() -> None:
    async def look(served: WebServer, newest: Newest) -> None:
        async with (
            aiohttp.ClientSession(served.url) as session,
            session.ws_connect("/live") as idle,
            session.ws_connect("/live") as quick,
        ):
            for seq in range(200):
                newest.put(frame(seq), None)
                served.news()
                assert await received(quick) == seq
                await quick.send_json({"k": "drawn", "seq": seq, "seen": True})
            assert [await received(idle), await received(idle)] == [0, 1]  # and then nothing, unasked
            await idle.send_json({"k": "drawn", "seq": 0, "seen": True})
            assert await received(idle) == 199

    with server() as (served, newest):
        asyncio.run(look(served, newest))


async def received(live: aiohttp.ClientWebSocketResponse) -> int:
    """The number of the next picture."""
    async with asyncio.timeout(PATIENCE_S):
        async for message in live:
            if message.type is aiohttp.WSMsgType.BINARY:
                return int(unpack(message.data)[0]["seq"])
    raise AssertionError(f"closed: {live.close_code}")


@pytest.mark.parametrize(
    "said",
    ["no json", "[]", '"drawn"', "{}", '{"k": "drawn"}', '{"k": "drawn", "seq": [], "seen": 1}', '{"k": "set"}', b"\0",
     "x" * (MAX_COMMAND + 1)],
)  # fmt: skip
def test_nonsense_ends_the_connection_only(said: str | bytes) -> None:
    async def talk(served: WebServer, newest: Newest) -> None:
        async with aiohttp.ClientSession(served.url) as session:
            async with session.ws_connect("/live") as live:
                await (live.send_bytes(said) if isinstance(said, bytes) else live.send_str(said))
                async with asyncio.timeout(PATIENCE_S):
                    async for _ in live:  # until it is closed
                        pass
            newest.put(frame(5), None)
            served.news()
            async with session.ws_connect("/live") as other:
                assert await received(other) == 5

    with server() as (served, newest):
        asyncio.run(talk(served, newest))


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\r\n\r\n",  # https
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 5\r\n\r\nabcde",
        b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n\r\n" + b"x" * 99_999,
    ],
)
def test_broken_requests_are_answered_and_not_logged(sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with server() as (served, _), socket.create_connection((LOCAL, served.port), timeout=PATIENCE_S) as connection:
        connection.sendall(sent)
        assert b" 4" in connection.recv(100).partition(b"\r\n")[0]  # 400 or 413
    assert not caplog.messages


# ---------------------------------------------------------------- the page in a browser


@pytest.fixture
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        yield chromium
        chromium.close()


class Page:
    """One browser window; fails at the end if the page said anything on its console."""

    def __init__(self, browser: Any, url: str, phone: bool = False, dark: bool = False) -> None:
        size = {"width": 390, "height": 844} if phone else {"width": 1400, "height": 900}
        self.context = browser.new_context(viewport=size, color_scheme="dark" if dark else "light", is_mobile=phone)
        self.context.set_default_timeout(PATIENCE_MS)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.goto(url)

    def colour(self, canvas: str, x: float, y: float) -> list[int]:
        """Red, green, blue and opacity of a canvas where pixel (x, y) of the 512 x 384 frame is."""
        script = """([id, x, y]) => {
            const canvas = document.getElementById(id);
            const at = [Math.floor((x + 0.5) * canvas.width / 512), Math.floor((y + 0.5) * canvas.height / 384), 1, 1];
            return canvas.width ? [...canvas.getContext("2d").getImageData(...at).data] : [0, 0, 0, 0];
        }"""
        return list(self.page.evaluate(script, [canvas, float(x), float(y)]))

    def shows(self, canvas: str, x: float, y: float, colour: tuple[int, int, int]) -> bool:
        red, green, blue, alpha = self.colour(canvas, x, y)
        return alpha > 200 and max(abs(a - b) for a, b in zip((red, green, blue), colour, strict=True)) < 12

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def close(self) -> None:
        self.context.close()
        assert not self.said


def shown(port: int, **settings: Any) -> dict[str, Any]:
    """A graph whose faces are known, with a page."""
    return {
        "name": "shown",
        "nodes": {
            "source": {"type": "tests.known_faces:KnownFaces", "settings": settings},
            "web": {
                "type": "nodes.web:WebView",
                "inputs": {"frame": "source.frame", "faces": "source.faces"},
                "settings": {"port": port},
            },
        },
    }


CHIN, EYE = known(1).landmarks[0, 8], known(1).landmarks[0, 36:42].mean(axis=0)
TRACK_3 = (140, 240, 110)  # the colour of id 3


@slow
@needs_browser
def test_page(tmp_path: Path, browser: Any) -> None:
    port = free_port()
    with Graph(tmp_path, shown(port)) as running:
        assert eventually(running.playing), running.text()
        large = Page(browser, f"http://127.0.0.1:{port}")
        the_picture_and_the_faces(large)
        the_graph(large)
        small = Page(browser, f"http://127.0.0.1:{port}", phone=True, dark=True)
        the_phone(small)
        what_is_changed_in_one_shows_in_the_other(large, small)
        small.close()
        pausing(large)
        large.page.close()  # the console would tell of the lost connection
        large.close()
        running.interrupt()
        assert running.wait() == 0, running.text()


def the_picture_and_the_faces(page: Page) -> None:
    assert eventually(lambda: page.shows("picture", 30, 200, (20, 20, 250))), page.said
    assert page.shows("picture", 300, 20, (60, 60, 60))
    assert page.shows("overlay", *CHIN, TRACK_3)  # the landmarks, where they are
    assert page.colour("overlay", *EYE)[3] == 0  # and nothing within the eye
    assert page.text("#faces .face") == "#3 97 % · 1 blink\npitch 5° yaw -20° roll 10°\nleft eye\nright eye\nmouth"
    page.page.uncheck("text=Contours")
    assert eventually(lambda: page.colour("overlay", *CHIN)[3] == 0)
    page.page.check("text=Contours")
    assert eventually(lambda: "ms after capture" in page.text("#view"))


def the_graph(page: Page) -> None:
    assert eventually(lambda: page.text("#state") == "playing"), page.text("#state")
    assert eventually(lambda: page.page.locator("#nodes tr").count() == 2)
    assert eventually(lambda: float(page.page.locator("#nodes tr").first.locator("td").nth(1).inner_text()) > 1)
    assert page.text("#nodes th") == "source"
    assert page.page.locator("#diagram .node").count() == 2
    assert eventually(lambda: str(page.page.text_content("#diagram .edge text")).endswith("/s"))
    assert "capture to web" in page.text("#path")
    assert page.page.locator("#nodes button").count() == 1  # the source can be started again from here, the page not


def the_phone(page: Page) -> None:
    assert eventually(lambda: page.shows("picture", 30, 200, (20, 20, 250)))
    assert page.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(14, 18, 20)"
    assert eventually(lambda: page.page.locator("#settings input").count() == 4)
    assert page.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")  # with all there is


def what_is_changed_in_one_shows_in_the_other(one: Page, other: Page) -> None:
    one.page.fill("[id='set source.grey']", "200")
    assert eventually(lambda: one.shows("picture", 300, 20, (200, 200, 200)))
    assert eventually(lambda: other.shows("picture", 300, 20, (200, 200, 200)))
    assert eventually(lambda: other.page.input_value("[id='set source.grey']") == "200")
    one.page.fill("[id='set source.grey']", "13")
    assert eventually(lambda: "13 is bad luck" in one.text("#notice"))
    assert one.page.input_value("[id='set source.grey']") == "200"
    other.page.select_option("[id='set source.mood']", label="asleep")
    assert eventually(lambda: "eyes closed" in one.text("#faces"))
    with graph.attach("shown") as running:
        settings = running.spec()["nodes"]["source"]["settings"]
        assert (settings["grey"]["value"], settings["mood"]["value"]) == (200, "asleep")
        running.set("source.count", 2)
    assert eventually(lambda: one.page.locator(".face").count() == 2)
    assert one.page.locator("[id='set source.secret']").count() == 0


def pausing(page: Page) -> None:
    page.page.click("text=Pause")
    assert eventually(lambda: page.text("#state") == "paused")
    page.page.click("text=Resume")
    assert eventually(lambda: page.text("#state") == "playing")
    page.page.click("text=Restart")
    assert eventually(lambda: page.page.locator("text=Restart >> nth=0").is_enabled())
    assert eventually(lambda: page.shows("picture", 300, 20, (200, 200, 200)))  # settings outlive a restart


@slow
@needs_browser
def test_page_finds_the_graph_again(browser: Any) -> None:
    """It says that the connection is lost, and goes on by itself when there is a server again; with a token, too."""
    newest, port = Newest(), free_port()
    newest.put(frame(0, 512, 384), known(1))

    def serve() -> WebServer:
        return WebServer("127.0.0.1", port, TOKEN, lambda: newest.picture(960, 80), Inside("", False, True))

    served = serve()
    try:
        page = Page(browser, f"http://127.0.0.1:{port}")
        assert page.said.pop().startswith("Failed to load resource")  # 401
        page.page.fill("#token", TOKEN)
        page.page.click("text=Look in")
        page.page.wait_for_selector("#overlay")
        assert eventually(lambda: page.shows("overlay", *CHIN, TRACK_3)), page.said
        served.close()
        assert eventually(lambda: "no connection" in page.text("#state"))
        assert "stale" in str(page.page.get_attribute("#stage", "class"))  # the last picture is dimmed
        newest.put(frame(1, 512, 384), None)
        served = serve()
        assert eventually(lambda: page.text("#faces") == "no face in view"), page.text("#state")
        page.said.clear()
        page.close()
    finally:
        served.close()


def ours(name: str, **settings: dict[str, Any]) -> dict[str, Any]:
    """A config of ours with some settings changed; its web page is on a free port."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8"))
    for node, changed in {**settings, "web": {"port": free_port()}}.items():
        config["nodes"][node].setdefault("settings", {}).update(changed)
    return config


@slow
@needs_browser
def test_our_configs(tmp_path: Path, browser: Any) -> None:
    """The whole graph with its networks, and a page that is attached to it, which shows the graph it is attached to."""
    cv2.imwrite(str(tmp_path / "portrait.png"), read_picture(""))
    camera = {"uri": str(tmp_path / "portrait.png"), "loop": True, "paced": True, "fps": 10.0, "width": 0, "height": 0}
    main, watch = ours("web", camera=camera) | {"name": "webcam"}, ours("watch")
    with Graph(tmp_path, main) as running:
        assert eventually(running.playing), running.text()
        with Graph(tmp_path, watch) as attached:
            assert eventually(attached.playing), attached.text()
            for config in (main, watch):
                page = Page(browser, f"http://127.0.0.1:{config['nodes']['web']['settings']['port']}")
                assert eventually(lambda page=page: page.text("#faces").startswith("#")), page.said
                assert eventually(lambda page=page: page.text("#name") == "webcam")
                assert eventually(lambda page=page: page.page.locator("#diagram .outside").count() == 1)  # watch
                page.close()
            attached.interrupt()
            assert attached.wait() == 0, attached.text()
        running.interrupt()
        assert running.wait() == 0, running.text()
