"""How the page draws the graph."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.web_browser import Page, needs_browser
from tests.web_server import server

pytestmark = [pytest.mark.slow, needs_browser]


@pytest.fixture
def page(browser: Any) -> Iterator[Page]:
    with server() as (served, _):
        opened = Page(browser, served.url)
        yield opened
        opened.page.close()
        opened.close()


def laid_out(page: Page, *edges: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the places of nodes by name, and of the points of edges, given and keyed as "from to"."""
    pairs = [edge.split() for edge in edges]
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    script = "({ layout }, names, pairs) => layout(names, pairs.map(([from, to]) => ({ from, to })))"
    found = page.imported("diagram.js", script, names, pairs)
    return found["nodes"], {f"{edge['from']} {edge['to']}": edge["points"] for edge in found["edges"]}


def test_what_forks_and_joins_stands_in_the_middle(page: Page) -> None:
    branches = [f"branch{number}" for number in range(5)]
    nodes, _ = laid_out(page, *[f"source {name}" for name in branches], *[f"{name} end" for name in branches])
    places = [nodes[name]["x"] for name in branches]
    assert np.diff(places).min() >= 150, "nodes do not overlap"
    assert nodes["source"]["x"] == pytest.approx(np.mean(places), abs=2)
    assert nodes["end"]["x"] == pytest.approx(np.mean(places), abs=2)


def test_edges_leave_and_enter_a_node_side_by_side_in_the_order_in_which_they_go_on(page: Page) -> None:
    chain = ["camera detector", "detector landmarks", "landmarks smooth", "smooth web"]
    nodes, edges = laid_out(page, *chain, "camera landmarks", "camera smooth", "camera web")
    leaving = [points for name, points in edges.items() if name.startswith("camera ")]
    leaving.sort(key=lambda points: points[1]["x"])
    assert np.diff([points[0]["x"] for points in leaving]).min() > 10
    assert all(abs(points[0]["x"] - nodes["camera"]["x"]) < 60 for points in leaving), "at the node"
    assert edges["smooth web"][-1]["x"] < edges["camera web"][-1]["x"]
