"""Tiles, regions and quarter turns, compared with their definitions."""

import numpy as np
import pytest

from nodes._windows import (
    around,
    boxes_turned_back,
    centred_in,
    region_of,
    tile,
    turned,
    turned_back,
    whole,
    within,
)

PICTURE = (0, 0, 400, 300)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("window", [(0, 0, 3840, 2160), (100, 50, 401, 352)])
def test_tiles_cover_the_window_and_contain_what_is_on_their_seams(window, count):
    tiles = tile(window, count)
    assert len(tiles) == count**2
    x0, y0, x1, y1 = window
    side_x, side_y = tiles[0][2] - tiles[0][0], tiles[0][3] - tiles[0][1]
    face = np.array([side_x, side_y]) * 0.2
    rng = np.random.default_rng(0)
    for _ in range(200):
        corner = rng.uniform((x0, y0), np.array([x1, y1]) - face)
        low, high = corner, corner + face
        assert any((low >= t[:2]).all() and (high <= t[2:]).all() for t in tiles)
    assert all(x0 <= t[0] < t[2] <= x1 and y0 <= t[1] < t[3] <= y1 for t in tiles)


def test_a_small_window_is_not_cut_up():
    assert tile((0, 0, 20, 20), 4) == [(0, 0, 20, 20)]
    assert len(tile((0, 0, 200, 40), 4)) == 4


def test_only_boxes_at_a_cut_edge_are_not_whole():
    boxes = np.array([[10, 10, 30, 30], [180, 10, 199, 30], [10, 170, 30, 201], [0, 0, 30, 30]], np.float32)
    assert whole(boxes, (0, 0, 200, 200), PICTURE).tolist() == [True, False, False, True]
    assert whole(boxes, (0, 0, 200, 200), (0, 0, 200, 200)).all()


def test_a_window_must_be_inside_the_picture():
    assert within((10, 10, 400, 300), PICTURE) == (10, 10, 400, 300)
    for wrong in [(-1, 0, 10, 10), (10, 10, 10, 20), (0, 0, 401, 10)]:
        with pytest.raises(ValueError, match="window: expected x0 < x1"):
            within(wrong, PICTURE)
    for odd in [(0.0, 0.0, 9.5, 9.0), (0, 0, 9), None]:
        with pytest.raises(ValueError, match="window: expected x0, y0, x1, y1 in whole pixels, found"):
            within(odd, PICTURE)


def test_regions_are_shares_of_the_frame_and_never_empty():
    assert region_of((0, 0, 1, 1), 400, 300) == PICTURE
    assert region_of((0.25, 0.5, 0.5, 1), 400, 300) == (100, 150, 200, 300)
    assert region_of((0.999, 0.999, 0.9999, 0.9999), 4, 3) == (3, 2, 4, 3)
    assert region_of((0.25, 0.5, 0.2501, 0.5001), 400, 300) == (100, 150, 101, 151)


def test_the_window_around_known_faces_contains_them_with_a_margin():
    region = (100, 100, 200, 200)
    assert around(np.zeros((0, 4), np.float32), region, PICTURE) == region
    assert around(np.array([[300, 20, 320, 40]], np.float32), region, PICTURE) == (100, 10, 330, 200)
    assert around(np.array([[350, 250, 410, 310]], np.float32), region, PICTURE) == (100, 100, 400, 300)


def test_centres_decide_what_is_in_a_window():
    boxes = np.array([[0, 0, 10, 10], [90, 90, 130, 130], [80, 80, 110, 110]], np.float32)
    assert centred_in(boxes, (100, 100, 200, 200)).tolist() == [False, True, False]


@pytest.mark.parametrize("quarter", [0, 1, -1])
def test_results_in_a_turned_picture_are_mapped_back(quarter):
    image = np.zeros((30, 50, 3), np.uint8)
    image[7, 41] = 255
    row, column = np.argwhere(turned(image, quarter)[..., 0])[0]
    back = turned_back(np.array([[column, row]], np.float32), quarter, 50, 30)
    np.testing.assert_array_equal(back, [[41, 7]])
    image[7:12, 30:42] = 255
    rows, columns = np.nonzero(turned(image, quarter)[..., 0])
    box = np.array([[columns.min(), rows.min(), columns.max(), rows.max()]], np.float32)
    np.testing.assert_array_equal(boxes_turned_back(box, quarter, 50, 30), [[30, 7, 41, 11]])
