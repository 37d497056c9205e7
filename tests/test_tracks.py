"""Tracks of faces from landmarks made by hand."""

import dataclasses

import numpy as np
import pytest

from graph import Faces
from nodes._tracks import Look, Track, apart, inside, match, twins
from tests import portrait
from tests.bench.tracks import Score, score
from tests.bench.walkers import Person, Street, heads
from tests.face_stream import FPS, SIZE, Stream, face


@pytest.mark.parametrize("fps", [1, 4, 10])
def test_a_slow_camera_loses_a_face_and_finds_it_where_it_went(fps: float) -> None:
    """Two frames far apart are not enough for the median speed."""
    stream = Stream(patience=3, fps=fps)
    (first,) = stream.frame(face(100, 200), found=[face(100, 200)])
    stream.frame(face(110, 200))
    for _ in range(3):
        assert not stream.frame()
        assert all(np.isfinite(look.box).all() for look in stream.looks)
    assert [*stream.frame(face(120, 200), found=[face(120, 200)])] == [first]


def test_the_crop_is_steady_on_a_still_face_and_follows_a_moving_one() -> None:
    """Otherwise the noise of the points would move the crop, and the crop the points."""
    stream, random = Stream(), np.random.default_rng(0)
    stream.frame(face(100, 200), found=[face(100, 200)])
    centres, sides = [], []
    for x in [100.0] * 20 + [100.0 + i for i in range(30)] + [170.0] * 3:
        stream.frame(face(x, 200) + random.normal(0, 0.4, (68, 2)).astype(np.float32))
        box = stream.looks[0].box
        centres.append(float(box[0] + box[2]) / 2 - x)
        sides.append(float(box[2] - box[0]))
    assert np.std(centres[2:20]) < 0.1 and np.std(sides[2:20]) < 0.2
    assert np.abs(centres[30:50]).max() < 4, "a hundredth of the side per frame leaves it a few hundredths behind"
    assert abs(centres[-1]) < 2, "a jump is followed at once"


def test_a_face_is_followed_without_detections_and_keeps_its_id() -> None:
    stream = Stream()
    path = [face(100 + 6 * i, 200) for i in range(60)]
    assert list(stream.frame(path[0], found=[path[0]])) == [0]
    for at in path[1:]:
        seen = stream.frame(at)
        assert list(seen) == [0]
        np.testing.assert_array_equal(seen[0], at)


def test_two_faces_keep_their_ids_whatever_the_order_of_detections() -> None:
    stream = Stream()
    for i in range(40):
        a, b = face(150 + i, 200), face(450 - i, 220, 80)
        found = None if i % 5 else [[a, b], [b, a]][i % 2]
        seen = stream.frame(a, b, found=found)
        assert list(seen) == [0, 1]
        np.testing.assert_array_equal(seen[0], a)


def test_a_new_face_gets_a_new_id_and_ids_are_not_reused() -> None:
    stream = Stream(patience=0.1)
    a, b = face(150, 200), face(450, 200)
    stream.frame(a, found=[a])
    for _ in range(10):
        assert stream.frame() == {}
    assert list(stream.frame(b, found=[b])) == [1]
    stream.tracks.forget()
    assert list(stream.frame(b, found=[b])) == [2]


def test_a_face_that_is_briefly_hidden_keeps_its_id_and_is_not_shown_meanwhile() -> None:
    stream = Stream(patience=0.5)
    a = face(150, 200)
    stream.frame(a, found=[a])
    for _ in range(10):
        assert stream.frame() == {}
    assert list(stream.frame(a)) == [0]


def test_a_hidden_face_that_moved_comes_back_with_its_id_by_a_detection() -> None:
    stream = Stream(patience=0.5)
    a, moved = face(150, 200), face(210, 200)
    stream.frame(a, found=[a])
    stream.frame()
    assert stream.frame(moved) == {}
    assert list(stream.frame(moved, found=[moved])) == [0]


def test_a_fast_face_is_found_again_by_a_detection() -> None:
    stream = Stream()
    a, far = face(150, 200), face(205, 200)
    stream.frame(a, found=[a])
    assert stream.frame(far) == {}, "this stream's network finds no face half a side away"
    seen = stream.frame(far, found=[far])
    np.testing.assert_array_equal(seen[0], far)


def test_a_late_detection_starts_no_second_track() -> None:
    stream = Stream()
    path = [face(100 + 12 * i, 200) for i in range(40)]
    for i, at in enumerate(path):
        late = 10
        found = [path[i - late]] if i >= late and i % 5 == 0 else [at] if i == 0 else None
        seen = stream.frame(at, found=found, late=late if i else 0)
        assert list(seen) == [0]
        assert len(stream.looks) == 1, "it has moved more than its own side; only its history shows that it is the same"


def test_a_detection_from_before_a_face_was_hidden_still_matches_it() -> None:
    stream = Stream()
    stream.frame(face(100, 200), found=[face(100, 200)])
    for _ in range(12):
        stream.frame(face(100, 200))
    stream.frame()
    stream.frame(found=[face(130, 200)], late=14)
    assert len(stream.looks) == 1


def test_detections_from_before_a_face_was_known_are_not_misses() -> None:
    stream = Stream(patience=0.05)
    for _ in range(10):
        stream.frame()
    stream.frame(face(100, 200), found=[face(100, 200)], late=10)
    for _ in range(3):
        stream.frame(face(100, 200), found=[], late=10)
    assert stream.frame(face(100, 200), found=[])


def test_a_hidden_face_that_stopped_is_found_by_a_detection() -> None:
    stream = Stream()
    for n in range(20):
        (first,) = stream.frame(face(100 + 10 * n, 200), found=[face(100 + 10 * n, 200)])
    for _ in range(8):
        stream.frame()
    assert [*stream.frame(face(290, 200), found=[face(290, 200)])] == [first]


def test_an_undetected_track_ends_after_its_patience_and_three_misses() -> None:
    stream = Stream(patience=0.5)
    poster = face(150, 200)
    stream.frame(poster, found=[poster])
    seen = [bool(stream.frame(poster, found=[] if i % 5 == 0 else None)) for i in range(40)]
    assert all(seen[:14])
    assert not any(seen[20:])
    rare = Stream(patience=0.5)
    rare.frame(poster, found=[poster])
    assert all(rare.frame(poster, found=[] if i == 30 else None) for i in range(60)), "one miss is not enough"


def test_a_face_with_high_presence_may_go_undetected_for_longer() -> None:
    stream = Stream(patience=0.5)
    profile = face(150, 200)
    stream.frame(profile, found=[profile])
    seen = [bool(stream.frame(profile, found=[] if i % 5 == 0 else None, sure=0.99)) for i in range(170)]
    assert all(seen[:140])
    assert not any(seen[160:]), "but not for ever"


@pytest.mark.parametrize("ids", [(0, 1), (1, 0)], ids=["in front first", "behind first"])
def test_of_two_tracks_on_one_face_the_hidden_one_finds_its_own_face_again(ids: tuple[int, int]) -> None:
    stream = Stream(patience=1.0)
    front = [face(200 + 4 * i, 200) for i in range(40)]
    behind = face(300, 200)
    both = [front[0], behind]
    stream.frame(*both, found=[both[ids.index(0)], both[ids.index(1)]])
    for at in front[1:]:
        hidden = np.abs(at - behind).max() < 60
        seen = stream.frame(*([at] if hidden else [at, behind]))
        np.testing.assert_array_equal(seen[ids[0]], at)
        assert list(seen) == [ids[0]] if hidden else [0, 1]


def test_a_detection_next_to_an_undetected_face_is_a_new_face() -> None:
    stream, old, new = Stream(), face(200, 200), face(300, 200)
    stream.frame(old, found=[old])
    seen = stream.frame(old, new, found=[new])
    assert list(seen) == [0, 1]
    np.testing.assert_array_equal(seen[0], old)


def test_overlapping_faces_get_different_ids() -> None:
    faces = [face(200, 200), face(280, 200), face(500, 400)]
    assert list(Stream().frame(*faces, found=faces)) == [0, 1, 2]


def test_a_face_that_leaves_the_picture_is_gone() -> None:
    stream = Stream()
    seen = [stream.frame(face(600 + 8 * i, 200), found=[face(600, 200)] if i == 0 else None) for i in range(12)]
    assert seen[0] and seen[4]
    assert not seen[6] and not seen[-1]


def test_twenty_faces() -> None:
    stream = Stream()
    faces = [face(60 + 120 * (i % 5), 60 + 115 * (i // 5), 80) for i in range(20)]
    stream.frame(*faces, found=faces)
    for step in range(10):
        moved = [at + np.float32([0, step]) for at in faces]
        seen = stream.frame(*moved, found=moved[::-1] if step % 5 == 0 else None)
        assert list(seen) == list(range(20))


def test_two_faces_that_move_together_are_not_swapped() -> None:
    before = np.array([[0, 0, 100, 100], [50, 0, 150, 100]], np.float32)
    assert match(before + np.float32([30, 0, 30, 0]), before) == [(0, 0), (1, 1)], "the second place is nearer to 30"


def test_matching_takes_each_box_once() -> None:
    boxes = np.array([[0, 0, 100, 100], [100, 0, 200, 100], [60, 0, 160, 100]], np.float32)
    others = np.array([[90, 0, 190, 100], [20, 0, 120, 100]], np.float32)
    assert match(boxes, others) == [(0, 1), (1, 0)]
    assert match(boxes, others[:0]) == []
    assert match(boxes[:0], others) == []
    assert match(boxes, boxes + 1000) == []
    assert match(boxes[:1], np.array([[30, 30, 70, 70]], np.float32)) == [], "half the size is another face"


def test_distances_are_in_face_sides() -> None:
    box = np.array([0, 0, 100, 80], np.float32)
    assert apart(box, box + np.float32([30, 0, 30, 0])) == pytest.approx(0.3)
    assert apart(box, box * 2) == pytest.approx(np.hypot(50, 40) / 150 + np.log(2), rel=1e-5)


def test_twins_and_inside_without_faces() -> None:
    none = np.zeros((0, 68, 2), np.float32)
    assert twins([], none, np.zeros((0, 4), np.float32), np.zeros(0, bool)).shape == (0,)
    assert inside(none, SIZE).shape == (0,)
    assert inside(np.array([face(-20, 200)]), SIZE)[0] == pytest.approx(0.4, abs=0.1)


def test_a_smaller_face_inside_a_face_is_the_same_one() -> None:
    stream = Stream()
    a, part = face(200, 200), face(215, 220, 55)
    assert list(stream.frame(a, found=[a])) == [0]
    assert list(stream.frame(a, part, found=[a, part])) == [0]
    apart = face(300, 200, 55)
    assert list(stream.frame(a, apart, found=[a, apart])) == [0, 1]


def test_a_track_ranks_before_a_new_face() -> None:
    points = np.stack([face(200, 200)] * 2)
    track = Track(0, confirmed=0.0, landmarks=face(195, 200), box=Stream.boxes([face(195, 200)])[0])
    boxes = Stream.boxes(points)
    looks = [Look(boxes[0], 0.0), Look(boxes[1], 0.0, track)]
    assert twins(looks, points, boxes, np.ones(2, bool)).tolist() == [True, False]


def test_at_a_cut_another_face_in_the_same_place_gets_a_new_id() -> None:
    stream = Stream()
    known = [face(100, 200), face(300, 200)]
    assert [*stream.frame(*known, found=known)] == [0, 1]
    looks = stream.tracks.look(None, np.zeros(0, np.float32), 1 / FPS, 1 / FPS)
    other = face(100, 200)
    other[:30] += np.random.default_rng(0).normal(0, 8, (30, 2)).astype(np.float32)
    landmarks = np.stack([other, known[1]])
    stream.tracks.forget_others(looks, landmarks)
    pairs = stream.tracks.see(looks, landmarks, np.ones(2, np.float32), SIZE, 1 / FPS)
    assert [(track.id, row) for track, row in pairs] == [(1, 1), (2, 0)]
    assert [track.id for track in stream.tracks.tracks] == [1, 2]


def test_two_faces_that_cross_behind_a_pillar_keep_their_ids() -> None:
    stream = Stream(patience=1.0)
    right = [face(100 + 8 * i, 200, 80) for i in range(45)]
    left = [face(520 - 8 * i, 210, 70) for i in range(45)]
    for i in range(20):
        stream.frame(right[i], left[i], found=[right[i], left[i]] if i % 5 == 0 else None)
    for _ in range(20, 32):
        assert stream.frame() == {}
    seen = stream.frame(right[32], left[32], found=[left[32], right[32]])
    np.testing.assert_array_equal(seen[0], right[32])
    np.testing.assert_array_equal(seen[1], left[32])


def test_the_score_counts_switches_ghosts_and_false_tracks() -> None:
    def found(*pairs: tuple[int, np.ndarray]) -> Faces:
        made = portrait.faces(np.array([at for _, at in pairs], np.float32).reshape(-1, 68, 2))
        return dataclasses.replace(made, ids=np.array([id_ for id_, _ in pairs], np.int64))

    a, b = face(100, 200), face(400, 200)
    people = [Person(0, a, 1.0), Person(1, b, 1.0)]
    score = Score()
    score.take(people, found())
    score.take(people, found((0, a), (1, b)))
    score.take(people, found((0, b), (1, a), (2, face(250, 100))))
    assert (score.switches, score.false_tracks(), score.ghosts(), score.never()) == (2, [1], 1, 0)
    assert score.waits == {0: 1, 1: 1} and (score.seen, score.showing) == (4, 6)


@pytest.mark.slow
def test_real_faces_keep_their_ids_on_a_street() -> None:
    """Four people pass behind the pillar; a tracker without memory would give each of them two ids."""
    result = score(Street(heads(None), [], frames=300, at_once=2, seed=2))
    assert len(result.waits) == 4 and result.never() == 0
    assert result.switches <= 1
    assert result.false_tracks() == [] and result.ghosts() <= 5
    assert result.seen > 0.9 * result.showing
