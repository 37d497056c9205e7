"""The page reconnects to its server, and says why it cannot."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nodes._web_client import IN_FLIGHT
from nodes._web_graph import GraphView
from nodes._web_picture import Newest
from nodes._web_server import WebServer
from tests.conftest import eventually
from tests.known_faces import known
from tests.web_browser import Page, needs_browser
from tests.web_proxy import proxy
from tests.web_server import TOKEN, frame, server

pytestmark = [pytest.mark.slow, needs_browser]

Opener = Callable[..., Page]


@pytest.fixture
def visit(browser: Any) -> Iterator[Opener]:
    """Open a page whose console may report lost connections."""
    pages = []

    def opened(url: str, before: str = "") -> Page:
        pages.append(Page(browser, url, before=before))
        return pages[-1]

    yield opened
    for page in pages:
        page.page.close()
        page.said.clear()
        page.close()


def says(page: Page, text: str) -> bool:
    return eventually(lambda: text in page.text("#state"))


def test_a_server_with_another_token_shows_the_login(visit: Opener) -> None:
    with server(token=TOKEN) as (served, _):
        port = served.port
        page = visit(f"{served.url}/?token={TOKEN}")
        assert says(page, "connected")
    again = WebServer("127.0.0.1", port, "another-one-than-before", lambda: None, GraphView("", False, True))
    try:
        assert eventually(lambda: page.page.locator("#token").count() == 1)
    finally:
        again.close()


def test_a_stopped_server_is_not_reported_as_a_lost_connection(visit: Opener) -> None:
    with server() as (served, _):
        page = visit(served.url)
        assert says(page, "connected")
    assert says(page, "the server has stopped, trying again")
    page.page.wait_for_timeout(1000)  # meanwhile it tries again
    assert says(page, "the server has stopped, trying again")


def test_a_server_that_is_full_says_so(visit: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    with server() as (served, _):
        monkeypatch.setattr("nodes._web_server.MAX_CLIENTS", 1)
        first, second = visit(served.url), visit(served.url)
        assert says(first, "connected")
        assert says(second, "trying again: Too many browsers are connected (1).")
        first.page.close()
        assert says(second, "connected")


def test_behind_a_proxy_in_a_folder(visit: Opener) -> None:
    with server(token=TOKEN) as (served, newest):
        newest.put(frame(0, 512, 384), known(1))
        with proxy(served.port, lambda sent: sent.replace(b" /graph/", b" /")) as before:
            page = visit(f"http://127.0.0.1:{before.port}/graph/")
            page.page.fill("#token", TOKEN)
            page.page.click("text=Log in")
            assert eventually(lambda: page.text("#faces").startswith("#3")), page.said
            assert page.page.url.endswith("/graph/")


def test_a_proxy_that_passes_no_websockets_is_named(visit: Opener) -> None:
    upgrade = b"Upgrade: websocket\r\n"
    with server() as (served, _), proxy(served.port, lambda sent: sent.replace(upgrade, b"")) as before:
        page = visit(f"http://127.0.0.1:{before.port}")
        assert says(page, "a proxy in front must forward WebSockets and the Host header")


HURRIED = "const now = performance.now.bind(performance); performance.now = () => 4 * now();"


def test_a_dead_connection_is_replaced(visit: Opener) -> None:
    """Also if the next one is accepted but never answered."""
    with server() as (served, newest), proxy(served.port) as before:
        newest.put(frame(0, 512, 384), None)
        page = visit(f"http://127.0.0.1:{before.port}", before=HURRIED)
        assert eventually(lambda: page.text("#faces") == "no face in view")
        before.silent, made = True, len(before.connections)
        assert says(page, "no connection")
        assert eventually(lambda: len(before.connections) >= made + 2)
        before.silent = False
        newest.put(frame(1, 512, 384), known(1))
        assert eventually(lambda: page.text("#faces").startswith("#3")), page.text("#state")


HIDDEN = """
const asked = [];
window.requestAnimationFrame = (paint) => asked.push(paint);
window.come = () => { while (asked.length) asked.shift()(performance.now()); };
"""


def test_a_hidden_tab_gets_no_pictures_until_it_is_visible_again(
    visit: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    real = Newest.picture
    monkeypatch.setattr(Newest, "picture", lambda self, *how: made.append(1) or real(self, *how))
    with server() as (served, newest):
        newest.put(frame(0, 512, 384), None)
        page = visit(served.url, before=HIDDEN)
        assert says(page, "connected")
        for seq in range(1, 20):
            newest.put(frame(seq, 512, 384), known(1))
            served.notify()
            page.page.wait_for_timeout(50)  # time for another request
        assert len(made) <= IN_FLIGHT
        assert page.text("#faces") == ""
        assert eventually(lambda: page.page.evaluate("come()") or page.text("#faces").startswith("#3"))
