"""A web page with the live picture, the faces (drawn in the browser), and the graph with its statistics and settings.

    web: {type: nodes.web:WebView, inputs: {frame: camera.frame, faces: smooth.faces}}

serves http://127.0.0.1:8080. Needs the extra `web`: pip install '.[web]'.
"""

import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

from graph import ConfigError, Faces, Finding, Frame, Input, Node, setting

if TYPE_CHECKING:
    from nodes._web_picture import Picture

logger = logging.getLogger(__name__)

MISSING = "the web page needs aiohttp: pip install '.[web]' (or pip install aiohttp)"


class WebView(Node):
    """Serve a web page with the live picture, the faces and the graph; a slow browser gets fewer pictures.

    Everyone who can open the page can also change settings, pause the graph and restart nodes, unless `control` is
    false. The connection is not encrypted: on a shared network, use ssh -L or a proxy.
    """

    frame = Input(Frame)
    faces = Input(Faces, optional=True)

    host: str = "127.0.0.1"  # address to listen on; 0.0.0.0: the whole network, needs a token
    port: int = setting(8080, minimum=0, maximum=65535)  # 0: any free port; the log says which
    token: str = setting("", secret=True)  # asked of browsers; empty: $FACEGRAPH_WEB_TOKEN, if set
    control: bool = True  # whether the page may change the graph
    graph: str = ""  # name of the graph to show; empty: the node's own, or the one it is attached to
    width: int = setting(960, minimum=64, maximum=7680, changeable=True)  # pixels; wider pictures are scaled down
    quality: int = setting(80, minimum=1, maximum=100, changeable=True)  # JPEG quality

    @classmethod
    def check(cls, node: Self | None) -> Iterator[Finding]:
        """Look for aiohttp; for a graph, try to listen on its address."""
        try:
            import aiohttp

            from nodes._web_access import Access
            from nodes._web_server import listen
        except ModuleNotFoundError:
            yield Finding("web page", "problem" if node else "note", "aiohttp is not installed", "pip install '.[web]'")
            return
        if node is None:
            yield Finding("web page", "ok", f"aiohttp {aiohttp.__version__}")
            return
        try:
            Access(node.host, node.port, node.token_or_default())
            listen(node.host, node.port).close()
        except ConfigError as exc:
            yield Finding("web page", "problem", str(exc), "set another web.port, or stop the other program")
        else:
            yield Finding("web page", "ok", f"{node.host} port {node.port} is free")

    def open(self) -> None:
        """Start the server. Raises ConfigError if the address is in use, or open to others without a token."""
        try:
            from nodes._web_server import WebServer
        except ModuleNotFoundError as exc:
            raise ConfigError(MISSING) from exc
        from nodes._web_graph import GraphView
        from nodes._web_picture import Newest

        self._newest = Newest()
        self._graph_view = GraphView(self.graph or self.graph_name, follow=not self.graph, control=self.control)
        self._server = WebServer(self.host, self.port, self.token_or_default(), self._picture, self._graph_view)
        logger.info("the page is at %s", self._server.url)

    def token_or_default(self) -> str:
        """Return the token, or that of the environment; empty if there is none."""
        return self.token or os.environ.get("FACEGRAPH_WEB_TOKEN", "")

    def process(self, frame: Frame, faces: Faces | None) -> None:
        """Keep the newest frame for the browsers; costs nothing while none is connected."""
        self._newest.put(frame, faces)
        self._server.notify()

    def _picture(self) -> "Picture | None":
        return self._newest.picture(self.width, self.quality)

    def close(self) -> None:
        """Disconnect the browsers and stop the server."""
        if "_server" in self.__dict__:
            self._server.close()
            self._graph_view.close()
