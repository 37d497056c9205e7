"""The web page in a real browser, on real graphs."""

from itertools import count
from pathlib import Path
from typing import Any

import cv2
import pytest
import yaml

import graph
from nodes._web_graph import GraphView
from nodes._web_picture import Newest
from nodes._web_server import WebServer
from nodes.source import picture_at
from tests.conftest import eventually, free_port
from tests.graphs import ROOT, Graph
from tests.known_faces import known
from tests.web_browser import Page, needs_browser
from tests.web_server import TOKEN, frame, server

slow = pytest.mark.slow


def shown(port: int, **settings: Any) -> dict[str, Any]:
    """A graph with known faces and a page."""
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
        values_of_every_kind(large)
        pausing(large)
        large.page.close()  # its console would report the lost connection
        large.close()
        running.interrupt()
        assert running.wait() == 0, running.text()


def the_picture_and_the_faces(page: Page) -> None:
    assert eventually(lambda: page.shows("picture", 30, 200, (20, 20, 250))), page.said
    assert page.shows("picture", 300, 20, (60, 60, 60))
    assert page.shows("overlay", *CHIN, TRACK_3)  # the landmarks, where they are
    assert page.colour("overlay", *EYE)[3] == 0  # and nothing inside the eye
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
    assert page.page.locator("#nodes button").count() == 1  # the source can be restarted here, the page cannot


def the_phone(page: Page) -> None:
    assert eventually(lambda: page.shows("picture", 30, 200, (20, 20, 250)))
    assert page.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(14, 18, 20)"
    assert eventually(lambda: page.page.locator("#settings input").count() == 6)
    assert page.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")  # with all its content


def what_is_changed_in_one_shows_in_the_other(one: Page, other: Page) -> None:
    one.page.fill("[id='set source.grey']", "200")
    assert eventually(lambda: one.shows("picture", 300, 20, (200, 200, 200)))
    assert eventually(lambda: other.shows("picture", 300, 20, (200, 200, 200)))
    assert eventually(lambda: other.page.input_value("[id='set source.grey']") == "200")
    for page in (one, other):  # also in the one that did not set it
        page.page.fill("[id='set source.grey']", "13")
        assert eventually(lambda page=page: "13 is bad luck" in page.text("#notice"))
        assert page.page.input_value("[id='set source.grey']") == "200"
    other.page.select_option("[id='set source.mood']", label="asleep")
    assert eventually(lambda: "eyes closed" in one.text("#faces"))
    with graph.attach("shown") as running:
        settings = running.spec()["nodes"]["source"]["settings"]
        assert (settings["grey"]["value"], settings["mood"]["value"]) == (200, "asleep")
        running.set("source.count", 2)
    assert eventually(lambda: one.page.locator(".face").count() == 2)
    assert one.page.locator("[id='set source.secret']").count() == 0


def values_of_every_kind(page: Page) -> None:
    def put(name: str, text: str) -> None:
        page.page.fill(f"[id='set source.{name}']", text)
        page.page.press(f"[id='set source.{name}']", "Enter")

    with graph.attach("shown") as running:

        def is_now(name: str, value: Any) -> bool:
            return bool(running.spec()["nodes"]["source"]["settings"][name]["value"] == value)

        put("pause", "")
        assert eventually(lambda: "source.pause is '', expected float" in page.text("#notice"))
        assert page.page.input_value("[id='set source.pause']") == "0.03"
        for name, given, value in [("pause", "0.02", 0.02), ("region", "[0, 0.5]", [0, 0.5]), ("region", "null", None)]:
            put(name, given)
            assert eventually(lambda name=name, value=value: is_now(name, value)), page.text("#notice")


def pausing(page: Page) -> None:
    page.page.click("text=Pause")
    assert eventually(lambda: page.text("#state") == "paused")
    page.page.click("text=Resume")
    assert eventually(lambda: page.text("#state") == "playing")
    page.page.click("text=Restart")
    assert eventually(lambda: page.page.locator("text=Restart >> nth=0").is_enabled())
    assert eventually(lambda: page.shows("picture", 300, 20, (200, 200, 200)))  # settings survive a restart


@slow
@needs_browser
def test_page_reconnects(browser: Any) -> None:
    """It says that the server has stopped, and reconnects by itself, with a token too."""
    newest, port = Newest(), free_port()
    newest.put(frame(0, 512, 384), known(1))

    def serve() -> WebServer:
        return WebServer("127.0.0.1", port, TOKEN, lambda: newest.picture(960, 80), GraphView("", False, True))

    served = serve()
    try:
        page = Page(browser, f"http://127.0.0.1:{port}")
        assert page.said.pop().startswith("Failed to load resource")  # 401
        assert "Wrong token" not in page.text("form")
        page.page.fill("#token", TOKEN + "x")
        page.page.click("text=Log in")
        assert eventually(lambda: "Wrong token" in page.text("form"))
        page.page.fill("#token", TOKEN)
        page.page.click("text=Log in")
        page.page.wait_for_selector("#overlay")
        assert eventually(lambda: page.shows("overlay", *CHIN, TRACK_3)), page.said
        colour = style(page, "name", "color")
        served.close()
        assert eventually(lambda: "the server has stopped, trying again" in page.text("#state"))
        assert "stale" in str(page.page.get_attribute("#stage", "class"))  # the last picture is dimmed
        assert page.text("#view") == "" and style(page, "faces", "opacity") == "0.45"  # and so are the faces
        assert style(page, "name", "color") == colour  # the rest does not change
        newest.put(frame(1, 512, 384), None)
        served = serve()
        assert eventually(lambda: page.text("#faces") == "no face in view"), page.text("#state")
        assert style(page, "faces", "opacity") == "1"
        page.said.clear()
        page.close()
    finally:
        served.close()


def style(page: Page, id_: str, name: str) -> str:
    return str(page.page.evaluate("([id, name]) => getComputedStyle(document.getElementById(id))[name]", [id_, name]))


BLOCKED = 'Object.defineProperty(window, "localStorage", {get() { throw new DOMException("no", "SecurityError"); }});'
BROKEN = """
const decode = window.createImageBitmap;
let failures = 0;
window.createImageBitmap = (...given) => (failures++ < 5 ? Promise.reject(new Error("no memory")) : decode(...given));
"""


@slow
@needs_browser
@pytest.mark.parametrize("trouble", [BLOCKED, BROKEN])
def test_page_works_without_storage_and_after_pictures_that_it_cannot_show(browser: Any, trouble: str) -> None:
    with server() as (served, newest):
        page = Page(browser, served.url, before=trouble)

        def next_is_shown() -> bool:
            newest.put(frame(next(numbers), 512, 384), known(1))
            served.notify()
            return page.shows("overlay", *CHIN, TRACK_3)

        numbers = count()
        assert eventually(next_is_shown), page.said
        assert ("no memory" in page.text("#notice")) == (trouble is BROKEN)
        page.page.uncheck("text=Contours")
        assert eventually(lambda: page.colour("overlay", *CHIN)[3] == 0)
        page.page.close()
        page.close()


def ours(name: str, **settings: dict[str, Any]) -> dict[str, Any]:
    """A config of the project with some settings changed and its web page on a free port."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8"))
    for node, changed in {**settings, "web": {"port": free_port()}}.items():
        config["nodes"][node].setdefault("settings", {}).update(changed)
    return config


@slow
@needs_browser
def test_our_configs(tmp_path: Path, browser: Any) -> None:
    """The whole graph with its networks, and an attached page, which shows the graph it is attached to."""
    cv2.imwrite(str(tmp_path / "portrait.png"), picture_at(""))
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
                for setting, value in {"landmarks.fov": "60", "smooth.strength": "1", "detector.lost": "0.5"}.items():
                    field = f"[id='set {setting}']"
                    assert (page.page.input_value(field), page.text(f"{field} + output")) == (value, value)
                page.close()
            attached.interrupt()
            assert attached.wait() == 0, attached.text()
        running.interrupt()
        assert running.wait() == 0, running.text()
