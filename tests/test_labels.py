"""The places of labels: next to their faces, and clear of others."""

import numpy as np
import pytest

from nodes._labels import Box, Label, Writer, overlap, places, shortened, text_size

SIZE = (640, 360)
WRITER = Writer()


def panels(labels: list[Label], monkeypatch: pytest.MonkeyPatch, size: tuple[int, int] = SIZE) -> list[Box]:
    """Write labels and return the places of their panels."""
    found: list[Box] = []
    monkeypatch.setattr(Writer, "panel", lambda self, image, lines, at, *_: found.append(at))
    WRITER.label_all(np.zeros((size[1], size[0], 3), np.uint8), labels, [label.beside for label in labels])
    return found


def label(face: Box, *lines: str) -> Label:
    return Label(lines or ("#12   97 %", "eyes closed"), face, 12, (90, 90, 250))


@pytest.mark.parametrize(
    ("face", "height", "size"), [(50, 480, 10), (100, 480, 12), (300, 480, 13), (20, 2160, 30), (2000, 2160, 57)]
)
def test_text_grows_with_the_face_up_to_a_share_of_the_picture(face: float, height: int, size: int) -> None:
    assert text_size(face, height) == size


def test_a_label_is_above_its_face_and_below_one_at_the_upper_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    [above] = panels([label((200, 150, 280, 230))], monkeypatch)
    assert above[0] == 200 and 140 < above[3] < 150
    [below] = panels([label((200, 5, 280, 85))], monkeypatch)
    assert 85 < below[1] < 95
    [within] = panels([label((-50, -50, 700, 400))], monkeypatch)
    assert within[:2] == (0, 0), "it is on a face that fills the picture"


def test_labels_cover_neither_each_other_nor_another_face(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    faces = [(x, y, x + 30, y + 34) for x, y in random.uniform(0, (600, 320), (40, 2)).tolist()]
    found = panels([label(face) for face in faces], monkeypatch)
    assert len(found) > 15
    for index, panel in enumerate(found):
        assert not any(overlap(panel, other) for other in found[:index])
        assert sum(overlap(panel, face) for face in faces) <= 1, "its own face at most"
        assert panel[0] >= 0 and panel[1] >= 0 and panel[2] <= SIZE[0] and panel[3] <= SIZE[1]


def test_a_label_without_room_is_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    walls = [(x, y, x + 28, y + 150) for x in (160, 234) for y in (20, 190)]
    [panel] = panels([label((190, 150, 230, 190))], monkeypatch)
    assert panel[2] - panel[0] == WRITER.extent(["#12   97 %", "eyes closed"], 12)[0]
    found = panels([label((190, 150, 230, 190)), *(label(wall, "x") for wall in walls)], monkeypatch)
    assert found[0][2] - found[0][0] == WRITER.extent(["#12"], 12)[0]
    assert shortened(["#12   97 %", "eyes closed"]) == [["#12   97 %", "eyes closed"], ["#12   97 %"], ["#12"]]
    assert shortened(["#12"]) == [["#12"]]


def test_all_labels_get_room_for_a_word_before_the_first_ones_get_more(monkeypatch: pytest.MonkeyPatch) -> None:
    word, line = (WRITER.extent([text], 12)[0] for text in ("#12", "#12   97 %"))
    faces = [(0, 50, line - 5, 120), (line, 50, line + word, 120)]
    for width, expected in ((line + word, [line, word]), (line + word - 1, [word, word]), (word, [word])):
        found = panels([label(face, "#12   97 %") for face in faces], monkeypatch, (width, 120))
        assert [panel[2] - panel[0] for panel in found] == expected


def test_a_label_stays_on_its_side_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    image, face = np.zeros((360, 640, 3), np.uint8), (200, 150, 280, 230)
    over = (190.0, 100.0, 400.0, 149.0)
    sides = [0]
    for in_the_way in ([], [over], [], [(190.0, 231.0, 400.0, 300.0)]):
        sides += WRITER.label_all(image, [label(face)._replace(side=sides[-1])], in_the_way)
    assert sides == [0, 0, 2, 2, 0]
    assert WRITER.label_all(image[:5], [label(face)._replace(side=3)], []) == [3], "it is skipped"


def test_a_label_is_next_to_a_face_that_fills_the_height(monkeypatch: pytest.MonkeyPatch) -> None:
    four = ["#12   97 %", "eyes closed", "mouth open", "3 blinks"]
    wide, high = WRITER.extent(four, 12)
    [right] = panels([label((200, 20, 400, 350), *four)], monkeypatch)
    assert 400 < right[0] < 410 and right[1] == 20 and (right[2] - right[0], right[3] - right[1]) == (wide, high)
    [left] = panels([label((200, -20, 600, 370), *four)], monkeypatch)
    assert 190 < left[2] < 200 and left[1] == 0


def test_a_label_on_its_own_face_leaves_the_brows_free(monkeypatch: pytest.MonkeyPatch) -> None:
    four = ["#12   97 %", "eyes closed", "mouth open", "3 blinks"]
    for side, lines in ((200, four[:1]), (800, four)):
        [panel] = panels([label((0, 0, side, side), *four)], monkeypatch, (side, side))
        assert (panel[2], panel[3]) == WRITER.extent(lines, 12)
    assert panels([label((0, 0, 100, 100), *four)], monkeypatch, (100, 100)) == [], "it would cover a small face"


def test_the_text_is_on_a_dim_panel_with_a_strip_of_the_face_colour() -> None:
    image = np.full((100, 200, 3), 128, np.uint8)
    WRITER.panel(image, ["#12   97 %", "eyes closed"], (20, 10, 120, 40), 12, (90, 90, 250))
    ground, first, second = (image[rows, 28:118].max(axis=2) for rows in (slice(10, 13), slice(13, 24), slice(26, 40)))
    assert ground.max() < 80, "dim"
    assert first.max() > 230 > second.max() > 180, "the first line is brighter"
    assert (image[10:40, 20] == (90, 90, 250)).all()
    assert (image[:, :20] == 128).all() and (image[:, 120:] == 128).all()


def test_a_label_larger_than_the_picture_is_shortened_or_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    face = (-50.0, -50.0, 150.0, 150.0)
    short, shortest = WRITER.extent(["#12   97 %"], 12), WRITER.extent(["#12"], 12)
    for size, extent in ((short, short), ((short[0] - 1, 100), shortest), ((200, short[1]), short)):
        [panel] = panels([label(face)], monkeypatch, size)
        assert (panel[2] - panel[0], panel[3] - panel[1]) == extent
    assert panels([label(face)], monkeypatch, (shortest[0] - 1, 100)) == []
    assert list(places((2, 2, 6, 6), (50, 30), 3, (8, 8))) == []
