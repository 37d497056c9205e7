"""The server of the web page without a graph."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

import graph
from graph import Frame
from nodes._web_graph import GraphView
from nodes._web_picture import Newest
from nodes._web_server import WebServer

TOKEN = "open-sesame-please"


def frame(seq: int = 0, width: int = 64, height: int = 48) -> Frame:
    return Frame(image=np.full((height, width, 3), 100, np.uint8)).with_header(graph.Header("test", seq))


@contextmanager
def server(
    host: str = "127.0.0.1", token: str = "", graph_view: type[GraphView] = GraphView
) -> Iterator[tuple[WebServer, Newest]]:
    """A server without a graph, and the source of its pictures."""
    newest = Newest()
    served = WebServer(host, 0, token, lambda: newest.picture(960, 80), graph_view("", follow=False, control=True))
    try:
        yield served, newest
    finally:
        served.close()
