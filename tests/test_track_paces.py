"""Where a hidden face is expected, and how far its speed is extrapolated."""

import numpy as np
import pytest

from nodes._geometry import landmark_box
from nodes._tracks import COAST, SAME_FACE, WANDER, Look, Track, Tracks, apart
from tests.face_stream import FPS, SIZE, Stream, face


def test_a_hidden_walker_is_expected_further_along_the_way() -> None:
    stream = Stream(patience=1.0)
    path = [face(100 + 20 * i, 200) for i in range(20)]
    stream.frame(path[0], found=[path[0]])
    stream.frame(path[1])
    stream.frame(path[2])
    for _ in range(3, 9):
        assert stream.frame() == {}
    assert list(stream.frame(path[9], found=[path[9]])) == [0]


@pytest.mark.parametrize("fps", [15, 30, 60])
def test_a_walker_keeps_the_id_behind_a_pillar_that_drags_the_last_points_along(fps: int) -> None:
    stream = Stream(patience=1.0, fps=fps)
    every = fps // 6

    def at(frame: float) -> np.ndarray:
        i = frame * 30 / fps
        return face(40 + 9 * i, 200 + 8 * np.sin(0.3 * i), 60)

    covered, gone, back = (round(second * fps) for second in (20 / 30, 23 / 30, 46 / 30))
    for i in range(covered):
        assert list(stream.frame(at(i), found=[at(i)] if i % every == 0 else None)) == [0]
    for i in range(covered, gone):
        stream.frame(at(covered - 1) + np.float32([2 * (i - covered + 1), 0]))
    for i in range(gone, back):
        assert stream.frame(found=[] if i % every == 0 else None) == {}
    quicker = at(back) + np.float32([25, 0])  # than expected, and outside the searched area
    assert list(stream.frame(quicker, found=[quicker])) == [0]


def test_a_clock_that_stands_still_or_goes_back_does_no_harm() -> None:
    tracks = Tracks(presence=0.5, patience=1.0)
    box = landmark_box(face(200, 200)[None])
    for pts in (0.0, 0.0, 1.0, 0.5, 0.5, 0.6):
        looks = tracks.look(box, np.zeros(1, np.float32), pts, pts)
        pairs = tracks.see(looks, face(200, 200)[None], np.array([0.9], np.float32), SIZE, pts)
        assert [track.id for track, _ in pairs] == [0]


def test_two_frames_with_the_same_time_do_not_misplace_a_hidden_face() -> None:
    stream = Stream()
    stream.frame(face(100, 200), found=[face(100, 200)])
    for n in range(20):
        stream.seq -= n == 10
        stream.frame(face(100 + n, 200))
    stream.frame()
    stream.frame()
    assert all(np.isfinite(look.box).all() for look in stream.looks)


def test_a_hidden_face_is_forgotten_when_the_clock_goes_back() -> None:
    stream = Stream()
    for _ in range(30):
        stream.frame(face(100, 200), found=[face(100, 200)])
    stream.frame()
    stream.seq = 0
    stream.frame()
    assert not stream.tracks.tracks


def test_frames_in_bursts_do_not_misplace_a_face() -> None:
    """By their arrival, two may be 1 ms apart and the next one 0.1 s later."""
    tracks = Tracks(presence=0.5, patience=1.0)
    looks = [Look(landmark_box(face(200, 200)[None])[0], 0.0)]
    for i, pts in enumerate((0.0, 0.001, 0.1, 0.101, 0.102, 0.2)):
        at = face(200 + 3 * i, 200)[None]
        assert apart(looks[0].box, landmark_box(at)[0]) < 0.2
        tracks.see(looks, at, np.array([0.9], np.float32), SIZE, pts)
        looks = tracks.look(None, np.zeros(0, np.float32), pts, pts + 0.1)


def gone(places: list[tuple[float, float]], visible: bool) -> Track:
    """A track whose face of 100 pixels had its left edge at these (seconds, x)."""
    track = Track(0, confirmed=0.0, visible=visible)
    track.places.extend((at, np.array((x, 0, x + 100, 100), np.float32)) for at, x in places)
    return track


def test_no_speed_is_computed_from_two_frames_in_a_burst() -> None:
    """Frames 100 ms and 10 pixels apart, with the time of their arrival; the last two arrived together."""
    burst = gone([(0.0, 100), (0.1, 110), (0.2, 120), (0.201, 130)], visible=True)
    assert 135 < burst.place(0.301)[0] < 150


@pytest.mark.parametrize("visible", [True, False])
def test_speed_is_only_extrapolated_for_a_time(visible: bool) -> None:
    walker = gone([(i / FPS, 100 + 2 * i) for i in range(40)], visible)
    last = 39 / FPS
    assert walker.place(last + COAST)[0] > 200
    np.testing.assert_allclose(walker.place(last + 10), walker.place(last + COAST), atol=0.01)


def test_the_first_place_does_not_misplace_a_briefly_seen_face() -> None:
    brief = gone([(0.0, 94), *((i / FPS, 100 + 3 * i) for i in range(1, 10))], visible=False)
    assert brief.place(0.4)[0] == pytest.approx(136, abs=5)


def test_the_longer_a_face_was_hidden_the_further_away_it_may_reappear() -> None:
    places = [(i / FPS, 100.0) for i in range(10)]
    assert gone(places, visible=True).reach(9 / FPS + 0.5) == SAME_FACE
    assert gone(places, visible=False).reach(9 / FPS + 0.5) == pytest.approx(SAME_FACE + 0.5 * WANDER)
    assert gone(places, visible=False).reach(100.0) == SAME_FACE + COAST * WANDER
