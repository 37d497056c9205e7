"""The web server of the page: static files, a login if there is a token, and one WebSocket per browser.

Over the socket, the server sends pictures (binary, see _web_picture) and texts, JSON with a kind `k`:
    graph   the graph: nodes, settings, edges
    stats   the statistics of its nodes, once a second
    view    what this browser has shown: fps, age_ms
    answer  to a command: id, and error or value
and a browser sends:
    drawn   seq, seen: it has drawn a picture and is ready for another
    set, pause, resume, restart   with an id, see _web_graph.GraphView.execute
"""

import asyncio
import contextlib
import errno
import json
import logging
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web
from aiohttp.http_exceptions import HttpProcessingError

from graph import ConfigError
from nodes._web_access import Access
from nodes._web_client import Client
from nodes._web_graph import GraphView, as_json
from nodes._web_picture import Picture

logger = logging.getLogger(__name__)
requests = logger.getChild("requests")
# Malformed requests are answered with 400; their tracebacks do not belong in the graph's log.
requests.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))

PAGE = Path(__file__).with_name("_page")
FILES = ("app.js", "picture.js", "labels.js", "diagram.js", "settings.js", "elements.js", "style.css", "icon.svg")
MAX_CLIENTS = 32
MAX_COMMAND = 16384  # bytes
POLL_S = 1.0  # between two queries of the graph
HEARTBEAT_S = 15.0  # a browser that does not answer for this long is gone (its machine sleeps)
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers would send "Origin: null" with the login
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class WebServer:
    """Serves the page in its own thread until `close`.

    `make` returns the newest picture. It is called from other threads, one at a time, and only while browsers are
    connected. Raises ConfigError if it cannot listen on `host` and `port` (0: any free one).
    """

    def __init__(self, host: str, port: int, token: str, make: Callable[[], Picture | None], graph: GraphView) -> None:
        self.access = Access(host, port, token)
        self._socket = listen(host, port)
        self._make = make
        self._graph = graph
        self._clients: set[Client] = set()
        self._loop = asyncio.new_event_loop()
        self._new_frame = asyncio.Event()  # a frame has come, or a browser is ready for one
        self._new_client = asyncio.Event()  # a browser has connected
        self._stop = asyncio.Event()
        self._ended: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return int(self._socket.getsockname()[1])

    @property
    def url(self) -> str:
        """The address of the page."""
        host = self._socket.getsockname()[0]
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def notify(self) -> None:
        """Announce a new frame. Raises the error that ended the server, if there was one."""
        if self._ended.done():
            self._ended.result()
        if self._clients:
            self._call(self._new_frame.set)

    def close(self) -> None:
        """Disconnect the browsers and stop."""
        self._call(self._stop.set)
        self._thread.join()
        self._socket.close()

    def _call(self, what: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(what)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
            self._ended.set_result(None)
        except BaseException as exc:  # noqa: BLE001 - `notify` raises it in the node's thread
            self._ended.set_exception(exc)

    async def _serve(self) -> None:
        runner = web.AppRunner(self._app(), access_log=None, logger=requests, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.SockSite(runner, self._socket).start()
            tasks = [asyncio.create_task(work()) for work in (self._stop.wait, self._send_pictures, self._send_texts)]
            done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)
            for task in done:
                task.result()
        finally:
            await runner.cleanup()

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_COMMAND)
        app.router.add_get("/", self._page)
        app.router.add_post("/login", self._log_in)
        app.router.add_get("/live", self._live)
        for name in FILES:
            app.router.add_get(f"/{name}", _file(name))
        app.on_response_prepare.append(_add_headers)
        app.on_shutdown.append(self._close_clients)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.access.check_host(request)
        if request.path in ("/live", "/login"):
            self.access.check_origin(request)
        response: web.StreamResponse = await handler(request)
        return response

    async def _page(self, request: web.Request) -> web.StreamResponse:
        if "token" in request.query and self.access.is_token(request.query["token"]):
            return self._accept()
        if not self.access.is_allowed(request):
            return _ask_for_token("token" in request.query)
        return web.FileResponse(PAGE / "index.html")

    async def _log_in(self, request: web.Request) -> web.StreamResponse:
        try:
            given = str((await request.post()).get("token", ""))
        except ValueError as exc:
            raise web.HTTPBadRequest(text="This is not a form.\n") from exc
        if not self.access.is_token(given):
            return _ask_for_token(wrong=True)
        return self._accept()

    def _accept(self) -> web.Response:
        response = web.Response(status=303, headers={"Location": "./"})  # the address without the token
        response.set_cookie(self.access.cookie, self.access.cookie_value, httponly=True, samesite="Lax")
        return response

    async def _live(self, request: web.Request) -> web.StreamResponse:
        if not self.access.is_allowed(request):
            raise web.HTTPUnauthorized(text="The token is missing.\n")
        if len(self._clients) >= MAX_CLIENTS:
            raise web.HTTPServiceUnavailable(text=f"Too many browsers are connected ({MAX_CLIENTS}).\n")
        response = web.WebSocketResponse(  # JPEG pictures cannot be compressed further
            heartbeat=HEARTBEAT_S, max_msg_size=MAX_COMMAND, timeout=1.0, compress=False
        )
        await response.prepare(request)
        client = Client(response)
        self._clients.add(client)
        for kind, text in self._graph.latest.items():
            client.offer_text(kind, text)
        tasks = [asyncio.create_task(client.send()), asyncio.create_task(self._execute(client))]
        self._new_frame.set()
        self._new_client.set()
        try:
            await self._receive(client)
        finally:
            self._clients.discard(client)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return response

    async def _receive(self, client: Client) -> None:
        async for message in client.socket:
            if message.type is not WSMsgType.TEXT:
                break
            try:
                command = json.loads(message.data)
                if command["k"] == "drawn":
                    client.drawn(int(command["seq"]), bool(command["seen"]))
                    self._new_frame.set()
                    continue
                await client.commands.put((int(command["id"]), command))
            except (ValueError, KeyError, TypeError) as exc:
                await client.refuse(exc)

    async def _execute(self, client: Client) -> None:
        """Execute the commands of a browser in order, while `_receive` goes on."""
        while True:
            number, command = await client.commands.get()
            try:
                answer = await asyncio.to_thread(self._graph.execute, command)
            except (ValueError, KeyError, TypeError) as exc:
                await client.refuse(exc)
                return
            await client.socket.send_str(as_json({"k": "answer", "id": number, **answer}))

    async def _send_pictures(self) -> None:
        while True:
            await self._new_frame.wait()
            self._new_frame.clear()
            if any(client.wants_picture for client in self._clients):
                picture = await asyncio.to_thread(self._make)
                if picture is not None:
                    for client in self._clients:
                        client.offer_picture(picture)

    async def _send_texts(self) -> None:
        while True:
            if self._clients:
                news = await asyncio.to_thread(self._graph.update)
                for client in self._clients:
                    for kind, text in news.items():
                        client.offer_text(kind, text)
                    client.offer_text("view", json.dumps({"k": "view", **client.view()}))
            else:
                self._graph.latest = {}  # the next browser gets no outdated texts
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._new_client.wait(), POLL_S)
            self._new_client.clear()

    async def _close_clients(self, app: web.Application) -> None:
        for client in set(self._clients):
            await client.socket.close(code=WSCloseCode.GOING_AWAY, message=b"the server has stopped")


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises ConfigError with the reason if that fails."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as exc:
        why = exc.strerror
        if exc.errno in (errno.EADDRINUSE, errno.EACCES):
            why = f"{os.strerror(exc.errno)}; set port to another one, or 0 for any that is free"
        raise ConfigError(f"cannot listen on {host} port {port}: {why}") from exc


def _ask_for_token(wrong: bool) -> web.Response:
    page = (PAGE / "login.html").read_text(encoding="utf-8")
    if not wrong:
        page = page.replace('<p role="alert">Wrong token.</p>', "")
    return web.Response(text=page, content_type="text/html", status=401)


def _file(name: str) -> Callable[[web.Request], Any]:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.FileResponse(PAGE / name)

    return answer


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)
