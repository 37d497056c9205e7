"""What the page draws: the labels of the faces, and the graph."""

import json
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


# ---------------------------------------------------------------- labels


def arranged(page: Page, faces: list[list[float]], width: int = 640, height: int = 360) -> list[Any]:
    """Return text and place (x0, y0, x1, y1) of the labels of faces; a letter is 6 px wide, a line 10 px high."""
    texts = [[f"#{number}  97 %  eyes closed", f"#{number}  97 %", f"#{number}"] for number in range(len(faces))]
    labels = [{"face": face, "texts": words} for face, words in zip(faces, texts, strict=True)]
    script = """({ arrange }, labels, width, height) =>
        arrange(labels, 10, width, height, (text) => 6 * text.length).map(({ text, place }) => [text, place])"""
    return list(page.imported("labels.js", script, labels, width, height))


def overlap(a: list[float], b: list[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def test_labels_cover_neither_each_other_nor_another_face(page: Page) -> None:
    corners = np.random.default_rng(2).uniform(0, (600, 320), (40, 2)).tolist()
    faces = [[x, y, x + 30, y + 34] for x, y in corners]
    places = [place for _, place in arranged(page, faces)]
    assert len(places) > 15
    for number, place in enumerate(places):
        assert not any(overlap(place, other) for other in places[:number])
        assert sum(overlap(place, face) for face in faces) <= 1, "its own face at most"
        assert place[0] >= 0 and place[1] >= 0 and place[2] <= 640 and place[3] <= 360


def test_a_label_without_room_moves_and_is_shortened(page: Page) -> None:
    [[text, above]] = arranged(page, [[200, 150, 280, 230]])
    assert text == "#0  97 %  eyes closed" and above[0] == 200 and 140 < above[3] < 150
    [[_, below]] = arranged(page, [[200, 5, 280, 85]])
    assert 85 < below[1] < 95
    [[_, within]] = arranged(page, [[-50, -50, 700, 400]])
    assert within[:2] == [0, 0], "it is on a face that fills the picture"
    walls = [[x, y, x + 40, y + 150] for x in (140, 234) for y in (0, 190)]
    assert arranged(page, [[190, 150, 230, 190], *walls])[0][0] == "#0"


def test_a_label_stays_on_its_side_while_there_is_room(page: Page) -> None:
    face = [200, 150, 280, 230]
    script = """({ arrange }, face, side, height) =>
        arrange([{ face, side, texts: ["#0  97 %"] }], 10, 640, height, (text) => 6 * text.length)[0].side"""
    for before, height, after in ((None, 360, 0), (2, 360, 2), (5, 360, 5), (2, 240, 0)):
        assert page.imported("labels.js", script, face, before, height) == after


def test_all_labels_get_room_for_a_word_before_the_first_ones_get_more(page: Page) -> None:
    faces = [[0, 50, 53, 120], [58, 50, 80, 120]]
    for width, said in ((80, ["#0  97 %", "#1"]), (79, ["#0", "#1"]), (22, ["#0"])):
        assert [text for text, _ in arranged(page, faces, width, 120)] == said


def test_a_label_is_next_to_a_face_that_fills_the_height_and_not_on_a_small_one(page: Page) -> None:
    [[text, place]] = arranged(page, [[200, 10, 400, 350]])
    assert text == "#0  97 %  eyes closed" and 400 < place[0] < 410 and place[1] == 10
    assert arranged(page, [[0, 0, 100, 100]], 100, 100) == []


def test_a_label_larger_than_the_picture_is_shortened_or_skipped(page: Page) -> None:
    face = [10, 10, 20, 20]
    assert [text for text, _ in arranged(page, [face], width=80)] == ["#0  97 %"]
    assert arranged(page, [face], width=20) == arranged(page, [face], height=15) == []


# ---------------------------------------------------------------- the graph


def laid_out(page: Page, *edges: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the places of nodes by name, and the points of edges by "from to", as given."""
    pairs = [edge.split() for edge in edges]
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    script = "({ layout }, names, pairs) => layout(names, pairs.map(([from, to]) => ({ from, to })))"
    found = page.imported("diagram.js", script, names, pairs)
    return found["nodes"], {f"{edge['from']} {edge['to']}": edge["points"] for edge in found["edges"]}


def test_nodes_that_fork_and_join_are_centred(page: Page) -> None:
    branches = [f"branch{number}" for number in range(5)]
    nodes, _ = laid_out(page, *[f"source {name}" for name in branches], *[f"{name} end" for name in branches])
    places = [nodes[name]["x"] for name in branches]
    assert np.diff(places).min() >= 150, "nodes do not overlap"
    assert nodes["source"]["x"] == pytest.approx(np.mean(places), abs=2)
    assert nodes["end"]["x"] == pytest.approx(np.mean(places), abs=2)


def test_the_text_of_an_edge_is_not_covered_by_nodes(page: Page) -> None:
    chain = ["camera detector", "detector landmarks", "landmarks web"]
    nodes, edges = laid_out(page, *chain, "camera landmarks", "camera web")
    script = "({ Diagram }) => new Diagram(document.getElementById('diagram')).update(...%s)"
    drawn = [{"from": a, "to": b, "text": "30/s \u2212999", "title": ""} for a, b in map(str.split, edges)]
    page.imported("diagram.js", script % json.dumps([{name: {"line": ""} for name in nodes}, drawn]))
    boxes = "(all) => all.map((one) => one.getBBox()).map(({ x, y, width, height }) => [x, y, x + width, y + height])"
    texts = page.page.eval_on_selector_all("#diagram .edge text", boxes)
    assert len(texts) == len(edges)
    for box in page.page.eval_on_selector_all("#diagram .node rect", boxes):
        assert not any(overlap(text, box) for text in texts)


def test_edges_are_side_by_side_at_a_node_in_the_order_of_their_other_ends(page: Page) -> None:
    chain = ["camera detector", "detector landmarks", "landmarks smooth", "smooth web"]
    nodes, edges = laid_out(page, *chain, "camera landmarks", "camera smooth", "camera web")
    leaving = [points for name, points in edges.items() if name.startswith("camera ")]
    leaving.sort(key=lambda points: points[1]["x"])
    assert np.diff([points[0]["x"] for points in leaving]).min() > 10
    assert all(abs(points[0]["x"] - nodes["camera"]["x"]) < 60 for points in leaving), "at the node"
    assert edges["smooth web"][-1]["x"] < edges["camera web"][-1]["x"]
