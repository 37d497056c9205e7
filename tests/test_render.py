"""What is drawn and where, also for unusual faces."""

import dataclasses
import time
from collections.abc import Container
from typing import Any

import numpy as np
import pytest

from graph import Faces, Frame, Header
from graph.testing import run_node
from nodes._draw import (
    AXES,
    PALETTE,
    SPLINES,
    draw_axes,
    draw_brackets,
    draw_points,
    draw_spread,
    rotation,
    splines,
    stroke,
    track_color,
)
from nodes._labels import Box, Writer, overlap
from nodes.render import Render, radius, size_of, state_words
from tests.portrait import LANDMARKS, faces

GREY = np.full((360, 480, 3), 110, np.uint8)
FACE = LANDMARKS * 0.8 + np.float32([20, 0])


def drawn(found: Faces | None, image: Any = GREY, **settings: Any) -> Any:
    """Return the rendered picture; only what `settings` names is drawn."""
    off = {"style": "none", "box": False, "label": False, "states": False, "pose": "none"}
    frame = Frame(image=image.copy())
    frame.image.setflags(write=False)
    return run_node(Render(**off | settings), frame=[frame], faces=[found])["image"][0].image


def changed(image: Any) -> Any:
    return (image != GREY).any(axis=2)


def test_a_frame_without_faces_is_passed_on_unchanged() -> None:
    for found in (None, Faces()):
        frame = Frame(image=GREY)
        out = run_node(Render(), frame=[frame], faces=[found])["image"]
        assert len(out) == 1 and np.shares_memory(out[0].image, frame.image)


def test_a_prepared_frame_is_drawn_as_any_other_and_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def filmed(prepared: Container[int], dropped: int = -1) -> list[Any]:
        node, out = Render(), []
        node.open()
        for seq in range(4):
            header = Header(seq=seq, pts=seq / 30)
            frame = Frame(header=header, image=GREY + np.uint8(seq))
            if seq in prepared:
                node.prepare(frame, None)
            if seq != dropped:
                out.append(node.process(frame, faces(FACE[None]).with_header(header)).image)
        return out

    np.testing.assert_array_equal(filmed([2], dropped=2), filmed([], dropped=2))
    once, copied = filmed([]), []
    monkeypatch.setattr(Render, "empty", lambda self, shape: copied.append(shape) or np.empty(shape, np.uint8))
    np.testing.assert_array_equal(filmed(range(4)), once)
    assert len(copied) == 4


def test_everything_is_drawn_on_a_copy_and_keeps_size_and_header() -> None:
    frame = Frame(image=GREY.copy(), header=Header(stream="s", seq=7, pts=1.5))
    found = faces(FACE[None]).with_header(frame.header)
    out = run_node(Render(), frame=[frame], faces=[found])["image"][0]
    np.testing.assert_array_equal(frame.image, GREY)
    assert out.image.shape == GREY.shape and out.seq == 7
    assert changed(out.image).sum() > 1000


@pytest.mark.parametrize("style", ["contours", "points", "both"])
def test_the_landmarks_are_where_the_faces_say(style: str) -> None:
    image = drawn(faces(FACE[None]), style=style)
    x, y = np.rint(FACE).astype(int).T
    assert changed(image)[y, x].all()
    assert changed(image).sum() < 0.06 * GREY.shape[0] * GREY.shape[1]


@pytest.mark.parametrize("radius", [0.8, 2.0, 3.7])
def test_a_point_covers_its_area_around_its_exact_centre(radius: float) -> None:
    image = np.zeros((41, 41, 3), np.uint8)
    draw_points(image, np.tile(np.float32([[20.3, 19.6]]), (68, 1)), (255, 255, 255), radius, 0.0)
    weight = image[..., 0] / 255.0
    y, x = np.mgrid[:41, :41]
    assert weight.sum() == pytest.approx(np.pi * radius**2, rel=0.35)
    assert (weight * x).sum() / weight.sum() == pytest.approx(20.3, abs=0.15)
    assert (weight * y).sum() / weight.sum() == pytest.approx(19.6, abs=0.15)


def test_contours_pass_through_the_landmarks() -> None:
    for matrix, indices in zip(SPLINES, ([0, 16], [17, 21]), strict=False):
        line = matrix @ LANDMARKS
        np.testing.assert_allclose(line[0], LANDMARKS[indices[0]], atol=1e-3)
        np.testing.assert_allclose(line[-1], LANDMARKS[indices[1]], atol=1e-3)
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    straight = np.stack([np.arange(68), 2 * np.arange(68)], axis=1).astype(np.float32)
    (through,) = splines([((3, 4, 5, 6), False)])
    np.testing.assert_allclose(through @ straight[:, 0] * 2, through @ straight[:, 1], atol=1e-5)
    assert np.all(np.diff(through @ straight[:, 0]) > 0)


@pytest.mark.parametrize(
    ("pose", "axis", "expected"),
    [
        ((0, 30, 0), (0, 0, -1), (-0.5, 0, -0.87)),  # yaw > 0 looks to the image's left
        ((30, 0, 0), (0, 0, -1), (0, 0.5, -0.87)),  # pitch > 0 looks down
        ((0, 0, 30), (1, 0, 0), (0.87, 0.5, 0)),  # roll > 0 tilts clockwise
    ],
)
def test_the_head_turns_as_documented(pose: Any, axis: Any, expected: Any) -> None:
    np.testing.assert_allclose(rotation(np.float32(pose)) @ np.array(axis), expected, atol=0.01)


@pytest.mark.parametrize("pose", ["axes", "cube"])
def test_the_pose_is_drawn_to_the_side_that_the_head_turns_to(pose: str) -> None:
    found = faces(FACE[None])
    left, right = (
        drawn(dataclasses.replace(found, pose=np.float32([[0, yaw, 0]])), pose=pose).max(axis=2) > 200
        for yaw in (60, -60)
    )
    assert left.sum() > 50 and right.sum() > 50
    assert np.nonzero(left)[1].min() < np.nonzero(right)[1].min() - 10


def test_the_axes_have_their_colours_and_the_farthest_is_drawn_first() -> None:
    image, centre = np.zeros((200, 200, 3), np.uint8), np.float32([100, 100])
    draw_axes(image, centre, np.zeros(3), 60.0, 3, 0)
    for axis, (x, y) in ((0, (128, 100)), (1, (100, 128)), (2, (100, 100))):
        assert image[y, x].tolist() == list(AXES[axis])
    assert not image[:96].any() and not image[:, :96].any() and not image[134:].any() and not image[:, 134:].any()
    draw_axes(image, centre, np.float32([0, 180, 0]), 60.0, 3, 0)
    assert image[100, 100].tolist() != list(AXES[2]), "the head looks away"


def test_the_circles_are_twice_the_spread_and_the_box_is_open_between_its_corners() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    draw_spread(image, np.full((68, 2), 100, np.float32), np.full(68, 20.0), (250, 250, 250))
    rows, columns = np.nonzero(image.any(axis=2))
    assert [abs(int(end) - 100) for end in (rows.min(), rows.max(), columns.min(), columns.max())] == pytest.approx(
        [40] * 4, abs=1
    )
    draw_spread(image, np.full((68, 2), 100, np.float32), np.full(68, 1e12), (250, 250, 250))
    image[:] = 0
    draw_brackets(image, (50, 50, 150, 150), (250, 250, 250), 1, 0)
    assert image[50, 50].all() and image[150, 150].all() and image[50, 64].all() and not image[50, 68:133].any()


def test_box_label_and_spread_can_be_switched_one_by_one() -> None:
    found = faces(FACE[None], spread=4.0)
    for settings in ({"box": True}, {"label": True}, {"spread": True}):
        assert changed(drawn(found, **settings)).sum() > 50
    assert not changed(drawn(found)).any()


def test_states_in_words() -> None:
    assert state_words(np.array([0.1, 0.1, 0.9, 0.0])) == []
    assert state_words(np.array([0.9, 0.8, 0.9, 0.0])) == ["eyes closed"]
    assert state_words(np.array([0.9, 0.1, 0.2, 0.3])) == ["left eye closed", "mouth open"]
    assert state_words(np.array([0.1, 0.6, 0.0, 0.7])) == ["right eye closed", "mouth wide open"]
    assert state_words(np.array([0.1, 0.1, 0.4, 0.1])) == [], "lips that just part"


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], Box, int]]:
    """Lines, place and size of the panels, which are not drawn."""
    panels: list[tuple[list[str], Box, int]] = []
    monkeypatch.setattr(Writer, "panel", lambda self, image, lines, at, size, _: panels.append((lines, at, size)))
    return panels


def test_blinks_are_counted_in_the_label(written: list[tuple[list[str], Box, int]]) -> None:
    for count in (0, 1, 12):
        drawn(dataclasses.replace(faces(FACE[None]), blinks=np.array([count])), states=True)
    assert [lines for lines, _, _ in written] == [["1 blink"], ["12 blinks"]]


def test_the_larger_face_is_labelled_first_and_none_covers_another(written: list[tuple[list[str], Box, int]]) -> None:
    """The label of the lower face would cover the upper one."""
    found = faces(np.stack([LANDMARKS * 0.3 + np.float32([100, 50]), LANDMARKS * 0.32 + np.float32([95, 107])]))
    drawn(found, label=True)
    assert [lines[0].split()[0] for lines, _, _ in written] == ["#1", "#0"]
    for _, place, _ in written:
        assert not any(overlap(place, tuple(box)) for box in found.boxes.tolist())


def test_scale_applies_to_lines_points_and_text(written: list[tuple[list[str], Box, int]]) -> None:
    found = faces(FACE[None])
    for settings in ({"style": "contours"}, {"style": "points"}, {"box": True}, {"pose": "axes"}, {"pose": "cube"}):
        once, thrice = (changed(drawn(found, **settings, scale=scale)).sum() for scale in (1.0, 3.0))
        assert thrice > 1.25 * once, settings
    for scale in (1.0, 2.0):
        drawn(found, label=True, latency=True, scale=scale)
    assert [size for _, _, size in written[2:]] == [2 * size for _, _, size in written[:2]]


def test_points_are_white_on_contours_and_have_rims_on_large_faces_only() -> None:
    found = faces(FACE[None])
    assert drawn(found, style="both").min(axis=2).max() == 250 > drawn(found, style="points").min(axis=2).max()
    for scale, has_rims in ((1.1, True), (0.6, False)):
        image = drawn(faces(FACE[None] * np.float32(scale)), style="points")
        assert (image.max(axis=2).min() < 105) == has_rims
    assert [radius(face) for face in (20, 60, 300)] == [0.5, 0.8, 3.0]


def test_a_small_face_is_not_hidden_by_its_points_and_words() -> None:
    small = np.stack([LANDMARKS * 0.15 + np.float32([100, 100])])
    asleep = dataclasses.replace(faces(small), states=np.float32([[0.9, 0.9, 0.9, 0]]), blinks=np.array([3]))
    np.testing.assert_array_equal(drawn(asleep, style="both"), drawn(asleep, style="contours"))
    assert not changed(drawn(asleep, states=True)).any()
    assert changed(drawn(asleep, style="points")).sum() > 68


def test_lines_have_dark_rims_except_on_small_faces() -> None:
    for scale, darkest in ((0.8, range(90)), (0.3, range(105, 111))):
        found = faces(LANDMARKS[None] * np.float32(scale))
        for settings in ({"style": "contours"}, {"box": True}, {"pose": "axes"}):
            assert drawn(found, **settings).max(axis=2).min() in darkest, settings


def test_tracks_have_their_own_colours() -> None:
    assert len({track_color(i) for i in range(len(PALETTE))}) == len(PALETTE)
    assert track_color(3) == track_color(3 + len(PALETTE))
    first, second = (drawn(faces(FACE[None], first_id=i), style="contours") for i in (0, 1))
    assert not np.array_equal(first, second)


def test_the_age_of_the_frame_is_written_top_left() -> None:
    header = Header(seq=0, t_capture_ns=time.monotonic_ns())
    out = run_node(Render(latency=True), frame=[Frame(image=GREY, header=header)], faces=[None])["image"][0]
    rows, columns = np.nonzero(changed(out.image))
    assert rows.max() < 60 and columns.max() < 240


def test_lines_and_text_keep_their_size_until_the_face_changes(written: list[tuple[list[str], Box, int]]) -> None:
    limit = (FACE - FACE.min(axis=0)) * 270 / size_of(FACE) + 60  # where the thickness changes
    scales = (0.98, 1.02, 0.98, 1.2, 1.0)
    assert stroke(0.98 * 270) + 1 == stroke(1.02 * 270)
    frames = [Frame(image=np.full((1300, 700, 3), 110, np.uint8))] * len(scales)
    found = [faces((limit * scale)[None]) for scale in scales]
    out = run_node(Render(style="contours", box=False, pose="none"), frame=frames, faces=found)["image"]
    lines = [np.abs(frame.image - np.float32(track_color(0))).max(axis=2) < 20 for frame in out]  # type: ignore[attr-defined]
    ink = [line.sum() / scale for line, scale in zip(lines, scales, strict=True)]
    assert ink[1] < 1.1 * ink[0] and ink[3] > 1.2 * ink[0] and ink[4] < 1.1 * ink[0], ink
    first, *held, grown, shrunk = (size for _, _, size in written)
    assert held == [first, first] and grown > shrunk


def test_a_label_stays_where_another_face_has_moved_it(
    written: list[tuple[list[str], Box, int]],
) -> None:
    low = FACE * 0.5 + np.float32([100, 200])
    above = low - np.float32([0, 100])
    found = [faces(low[None]), faces(np.stack((low, above))), faces(low[None])]
    run_node(Render(), frame=[Frame(image=GREY)] * 3, faces=found)
    first, second, third = (panel for lines, panel, _ in written if lines[0].startswith("#0 "))
    assert second[1] > first[3] and third == second


def test_no_label_covers_the_age_of_the_frame(written: list[tuple[list[str], Box, int]]) -> None:
    at_the_corner = FACE[None] - FACE.min(axis=0) + np.float32([20, 50])  # its label would cover the age
    drawn(faces(at_the_corner), label=True, latency=True)
    (_, age, _), (_, label, _) = written
    assert not overlap(age, label)


def test_the_age_has_room_in_a_narrow_picture() -> None:
    upright = np.full((1280, 720, 3), 110, np.uint8)
    columns = np.nonzero((drawn(None, upright, latency=True) != upright).any(axis=2))[1]
    assert columns.max() < 480


def test_a_picture_too_low_for_the_age_stays_unchanged() -> None:
    low = np.full((4, 300, 3), 110, np.uint8)
    np.testing.assert_array_equal(drawn(None, low, latency=True), low)


@pytest.mark.parametrize("size", [(240, 320), (333, 101), (120, 160)])
def test_the_age_is_made_small_enough_to_be_read_whole(
    written: list[tuple[list[str], Box, int]], size: tuple[int, int]
) -> None:
    drawn(None, np.zeros((*size, 3), np.uint8), latency=True, scale=2.0)
    [(_, panel, _)] = written
    assert 0.75 * size[1] < panel[2] <= size[1]


@pytest.mark.parametrize("shift", [(-300, 0), (0, -250), (300, 0), (0, 250), (5000, 5000), (-1e7, 1e7), (1e10, -1e10)])
@pytest.mark.parametrize("style", ["contours", "points"])
def test_faces_partly_or_fully_outside_do_no_harm(shift: Any, style: str) -> None:
    everything = {"box": True, "label": True, "states": True, "spread": True, "latency": True}
    for pose in ("axes", "cube"):
        image = drawn(faces(FACE[None] + np.float32(shift)), style=style, pose=pose, **everything)
        assert image.shape == GREY.shape


def test_unknown_values_are_not_drawn() -> None:
    found = faces(np.stack([FACE, FACE + 40, FACE - 40]))
    found.landmarks[0, 8] = np.nan
    found.pose[1] = np.nan
    found.spread[1] = np.nan
    found.boxes[2] = np.nan
    image = drawn(found, style="both", box=True, label=True, pose="axes", spread=True)
    alone = drawn(
        dataclasses.replace(
            found, **{f.name: getattr(found, f.name)[1:2] for f in dataclasses.fields(found) if f.name != "header"}
        ),
        style="both", box=True, label=True, pose="axes", spread=True,
    )  # fmt: skip
    np.testing.assert_array_equal(image, alone)


def test_degenerate_and_tiny_faces_do_no_harm() -> None:
    for landmarks in (np.full((1, 68, 2), 50.0, np.float32), FACE[None] * 0.02, FACE[None] * 6):
        for style in ("contours", "points", "both"):
            drawn(faces(landmarks), style=style, box=True, label=True, states=True, pose="cube", spread=True)


def test_twenty_faces_and_a_tiny_frame() -> None:
    spread_out = np.stack([LANDMARKS * 0.2 + np.float32([x, y]) for x in range(0, 400, 80) for y in range(0, 320, 80)])
    assert changed(drawn(faces(spread_out), style="both", box=True, label=True)).sum() > 5000
    assert drawn(faces(FACE[None]), image=np.zeros((8, 8, 3), np.uint8), label=True, latency=True).shape == (8, 8, 3)
