"""Points that stand still on a still face and move with a moving one, checked against the known path of the source."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graph import Faces, Frame, Header
from graph.testing import run_node
from nodes._fusion import noise_ratio, similarity
from nodes.smooth import FACES_KEPT, GAP, Smooth, follow, turned
from nodes.source import TestSource
from tests.bench.smoothing import (
    Scene,
    amplitude,
    blink_clip,
    compressed,
    error,
    jitter,
    lag,
    one_euro,
    ours,
    out_of_focus,
    scene,
    seed_rule,
    speech_amplitude,
    speech_clip,
    spoilt,
)
from tests.portrait import LANDMARKS, faces, still_picture, true_points

SMALL: dict[str, Any] = {"width": 640, "height": 360, "frames": 40}


def run(node: Smooth, steps: list[tuple[Any, Any, float, int]]) -> list[Faces]:
    """Feed (image, Faces, pts, epoch)."""
    node.open()
    out = []
    for index, (image, found, pts, epoch) in enumerate(steps):
        header = Header(seq=index, pts=pts, epoch=epoch)
        out.append(node.process(Frame(header=header, image=image), found.with_header(header)))
    return out


# --- Small parts


def test_similarity_recovers_turn_scale_and_shift() -> None:
    turn = 1.3 * np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    moved = LANDMARKS @ turn.T + np.array([7, -3])
    np.testing.assert_allclose(similarity(LANDMARKS, moved, LANDMARKS[:3]), moved[:3], rtol=1e-5)


def test_noise_ratio_measures_noise_and_ignores_a_few_moving_points() -> None:
    random = np.random.default_rng(0)
    difference = random.normal(0, 3.0 * np.sqrt(2), (68, 2))
    difference[36:48] += 50
    assert noise_ratio(difference[None], np.full((1, 68), 6.0))[0] == pytest.approx(0.25, rel=0.5)


def test_follow_averages_small_changes_and_takes_large_ones_at_once() -> None:
    small = follow(np.zeros(1), np.array([0.5]), 1 / 30, 0.05, 3.0)
    large = follow(np.zeros(1), np.array([40.0]), 1 / 30, 0.05, 3.0)
    assert 0.2 < small[0] / 0.5 < 0.6 and large[0] / 40 > 0.99
    twice = follow(follow(np.zeros(1), np.array([0.1]), 1 / 60, 0.05, 3.0), np.array([0.1]), 1 / 60, 0.05, 3.0)
    once = follow(np.zeros(1), np.array([0.1]), 1 / 30, 0.05, 3.0)
    np.testing.assert_allclose(twice, once, rtol=0.01)


def test_angles_turn_the_short_way() -> None:
    np.testing.assert_allclose(turned(np.array([179.0, 10.0]), np.array([-179.0, 12.0])), [181.0, 12.0])


# --- The node against the truth


@pytest.fixture(scope="module")
def still() -> Scene:
    """A face at rest, filmed once."""
    clip = scene(**SMALL, motion="still")
    images = [*clip.frames()]
    return clip._replace(frames=lambda: iter(images))


@pytest.fixture(scope="module")
def pan() -> Scene:
    """A face that is swept through the picture, filmed once."""
    clip = scene(**SMALL, pan=0.25, period=1.2)
    images = [*clip.frames()]
    return clip._replace(frames=lambda: iter(images))


@pytest.mark.parametrize("flow", [True, False])
def test_a_still_face_stands_still(still: Scene, flow: bool) -> None:
    out = ours(still, flow=flow)
    assert jitter(out, still) < jitter(still.raw, still) * (0.15 if flow else 0.6)
    assert error(out, still) < error(still.raw, still) * (0.5 if flow else 0.8)
    if flow:
        assert jitter(out, still) < jitter(seed_rule(still.raw, still.true, still.fps), still)


def test_a_fast_pan_is_followed_without_lag(pan: Scene) -> None:
    out = ours(pan)
    assert abs(lag(out, pan)) < 0.05
    assert error(out, pan) < 0.6 * error(pan.raw, pan)
    plain = one_euro(1.0, 20.0)(pan.raw, pan.true, pan.fps)
    assert lag(plain, pan) > 0.05 and error(out, pan) < error(plain, pan)


@pytest.mark.parametrize("spoil", [out_of_focus, compressed])
def test_a_poor_picture_still_helps(pan: Scene, spoil: Callable[[Any], Any]) -> None:
    poor = spoilt(pan, spoil)
    assert error(ours(poor), poor) < 0.85 * error(poor.raw, poor)


def test_without_flow_the_error_is_no_larger_than_raw_and_the_lag_small(pan: Scene) -> None:
    out = ours(pan, flow=False)
    assert abs(lag(out, pan)) < 0.1
    assert error(out, pan) < error(pan.raw, pan)


def test_stopping_and_turning_back_does_not_overshoot() -> None:
    clip = scene(**SMALL, motion="stop_and_go", pan=0.2, period=0.9, zoom=0.0, rotation=0.0)
    out = ours(clip)
    beyond = out.mean(axis=1)[:, 0] - clip.true.mean(axis=1)[:, 0].max()
    assert beyond.max() < 0.01 * clip.eye
    assert error(out, clip) < 0.6 * error(clip.raw, clip)


def test_slow_motion_is_steady_and_not_in_steps() -> None:
    clip = scene(**SMALL, motion="triangle", pan=0.05, period=8.0, zoom=0.0, rotation=0.0)
    speed = np.diff(ours(clip).mean(axis=1)[:, 0])[10:]
    true = np.diff(clip.true.mean(axis=1)[:, 0])[10:]
    assert 0.1 < true.mean() < 0.4
    assert np.abs(speed - true).max() < 0.5 * true.mean()


@pytest.mark.parametrize("fps", [15.0, 60.0])
def test_other_frame_rates_behave_alike(fps: float) -> None:
    clip = scene(**SMALL | {"frames": int(fps * 1.3)}, fps=fps, period=1.5)
    out = ours(clip)
    assert abs(lag(out, clip)) < 0.1
    assert 0.25 < error(out, clip) / error(clip.raw, clip) < 0.65


@pytest.mark.parametrize("in_picture", [True, False])
def test_blinks_keep_their_amplitude(in_picture: bool) -> None:
    clip, closed = blink_clip(in_picture, **SMALL | {"frames": 75})
    assert amplitude(ours(clip), clip, closed) >= 95


def blinking(place: NDArray[np.float32], blinks: int, hidden: slice = slice(0)) -> list[Faces]:
    """Return what Smooth says of a face at a place in a grey picture that blinks so often, and is `hidden` for a while.

    Opening and shutting take no time; eyes are shut for 5 of 15 frames.
    """
    shut = place.copy()
    for upper, lower in ((37, 41), (38, 40), (43, 47), (44, 46)):
        shut[[upper, lower], 1] = shut[[upper, lower], 1].mean()
    shown = [faces((shut if i % 15 >= 10 else place)[None]) for i in range(15 * blinks + 1)]
    shown[hidden] = [Faces()] * len(shown[hidden])
    grey = np.full((360, 640, 3), 120, np.uint8)
    return run(Smooth(flow=False), [(grey, found, i / 30, 0) for i, found in enumerate(shown)])


def test_blinks_are_counted_while_the_id_lasts() -> None:
    assert blinking(LANDMARKS, 2)[-1].blinks.tolist() == [2]
    away = blinking(LANDMARKS, 3, slice(16, 20))
    assert [away[15].blinks.tolist(), away[18].blinks.tolist(), away[-1].blinks.tolist()] == [[1], [], [3]]


def test_blinks_of_a_thousand_faces_are_kept_those_seen_last() -> None:
    node = Smooth()
    node._blinks = {}
    for id_ in (*range(FACES_KEPT), 0, FACES_KEPT):
        node._counter(id_).count += 1
    assert len(node._blinks) == FACES_KEPT
    assert node._blinks[0].count == 2 and 1 not in node._blinks


def test_eyes_outside_the_picture_do_not_blink() -> None:
    above = LANDMARKS - np.float32([0, LANDMARKS[36:48, 1].max()])
    assert blinking(above, 2)[-1].blinks.tolist() == [0]


def test_speech_keeps_its_amplitude_and_a_still_mouth_stands_still(still: Scene) -> None:
    clip = speech_clip(**SMALL | {"frames": 60})
    assert speech_amplitude(ours(clip), clip) >= 0.95 * speech_amplitude(clip.raw, clip)
    out = ours(still)
    mouth = still._replace(true=still.true[:, 48:])
    assert jitter(out[:, 48:], mouth) < 0.15 * jitter(still.raw[:, 48:], mouth)


def test_single_wild_detections_are_held_back(still: Scene) -> None:
    raw = still.raw.copy()
    raw[20::3, 30] += 0.12 * still.eye
    out = ours(still._replace(raw=raw))
    pulled = np.linalg.norm(out[20:, 30] - still.true[20:, 30], axis=1).max()
    assert pulled < 0.04 * still.eye


def test_an_overstated_spread_is_found_out() -> None:
    """Networks announce their error against the truth; what counts here is how much it varies from frame to frame."""
    clip = scene(**SMALL, pan=0.15, period=1.5)
    told = 10 * np.hypot(0.007, 0.003) * clip.eye
    out = run(
        Smooth(),
        [(im, faces(r[None], told), i / 30, 0) for i, (im, r) in enumerate(zip(clip.frames(), clip.raw, strict=True))],
    )
    honest = ours(clip)
    assert np.sqrt(np.mean(np.square(out[-1].landmarks[0] - honest[-1]))) < 0.3 * told / 10


def test_strength_zero_is_raw_and_more_strength_is_calmer(still: Scene) -> None:
    np.testing.assert_allclose(ours(still, strength=0.0), still.raw, atol=1e-3)
    assert jitter(ours(still, strength=3.0), still) < jitter(ours(still, strength=0.5), still)


def test_boxes_are_tight_and_the_rest_passes() -> None:
    clip = scene(**SMALL | {"frames": 5})
    found = [faces(raw[None], 3.0, first_id=4) for raw in clip.raw]
    out = run(Smooth(), [(im, f, i / 30, 0) for i, (im, f) in enumerate(zip(clip.frames(), found, strict=True))])
    np.testing.assert_allclose(out[-1].boxes[0, :2], out[-1].landmarks[0].min(axis=0))
    np.testing.assert_allclose(out[-1].boxes[0, 2:], out[-1].landmarks[0].max(axis=0))
    for name in ("ids", "scores", "spread"):
        np.testing.assert_array_equal(getattr(out[-1], name), getattr(found[-1], name))


# --- What ends the memory


def after_history(change: dict[str, Any], flow: bool = True) -> tuple[Faces, Faces]:
    """Smooth ten noisy frames of a still face, then one with `change`; return what went in and what came out last."""
    images, points = still_picture(frames=11, noise=3.0)
    random = np.random.default_rng(3)
    found = [faces(points[None] + random.normal(0, 1.0, (1, 68, 2)).astype(np.float32)) for _ in range(11)]
    last = dataclasses.replace(found[10], **change.get("faces", {}))
    image = change.get("image", images[10])
    steps = [(images[i], found[i], i / 30, 0) for i in range(10)]
    if change.get("lost"):
        steps[9] = (images[9], faces(np.zeros((0, 68, 2), np.float32)), 9 / 30, 0)
    out = run(Smooth(flow=flow), [*steps, (image, last, change.get("pts", 10 / 30), change.get("epoch", 0))])
    return last, out[-1]


def test_memory_works_when_nothing_changes() -> None:
    given, out = after_history({})
    assert np.abs(out.landmarks - given.landmarks).mean() > 0.3


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 1},
        {"pts": 9 / 30 + 2 * GAP},
        {"pts": 1 / 30},
        {"lost": True},
        {"faces": {"ids": np.array([7])}},
        {"image": np.zeros((480, 640, 3), np.uint8)},
        {"image": np.random.default_rng(0).integers(0, 256, (360, 640, 3), np.uint8)},
    ],
    ids=["epoch", "pause", "back in time", "lost face", "new face", "other size", "other picture"],
)
def test_nothing_is_carried_over(change: dict[str, Any]) -> None:
    given, out = after_history(change)
    np.testing.assert_array_equal(out.landmarks, given.landmarks)


@pytest.mark.parametrize("flow", [True, False])
def test_a_face_that_jumps_is_right_at_once(flow: bool) -> None:
    clip = scene(width=640, height=360, motion="still", size=0.5, cut_every=0.5, frames=22, noise=3.0)
    out = ours(clip, flow=flow)
    cut = int(np.argmax(np.linalg.norm(np.diff(clip.true.mean(axis=1), axis=0), axis=1))) + 1
    raw = error(clip.raw, clip, slice(cut, cut + 3))
    assert np.linalg.norm(clip.true[cut].mean(axis=0) - clip.true[cut - 1].mean(axis=0)) > 20
    assert error(out, clip, slice(cut, cut + 3)) <= 1.05 * raw


# --- Several faces, odd input


def test_several_faces_each_with_its_own_memory() -> None:
    out = run_node(TestSource(width=960, height=360, copies=3, frames=25, noise=3.0, rotation=5.0))
    truth = [true_points(t) for t in out["truth"]]
    random = np.random.default_rng(0)
    raw = [t + random.normal(0, 0.8, t.shape).astype(np.float32) for t in truth]
    swapped = []
    for index, points in enumerate(raw):
        order = random.permutation(3)
        found = faces(points[order], 0.8)
        swapped.append((out["frame"][index].image, dataclasses.replace(found, ids=order), index / 30, 0))
    smooth = run(Smooth(), swapped)
    left = [s.landmarks - t[s.ids] for s, t in zip(smooth, truth, strict=True)][10:]
    assert np.sqrt(np.mean(np.square(left))) < 0.5 * 0.8
    assert all(np.array_equal(s.ids, given[1].ids) for s, given in zip(smooth, swapped, strict=True))


@pytest.mark.parametrize("flow", [True, False])
def test_what_happens_to_one_face_is_nothing_to_another(flow: bool) -> None:
    """One is covered, leaves, comes back elsewhere; the other is steadied to the bit as it is alone."""
    out = run_node(TestSource(width=960, height=360, copies=2, frames=25, noise=3.0, rotation=5.0))
    random = np.random.default_rng(0)
    raw = [faces(true_points(t) + random.normal(0, 0.8, (2, 68, 2)).astype(np.float32), 0.8) for t in out["truth"]]
    images = [frame.image for frame in out["frame"]]
    x0, y0, x1, y1 = raw[10].boxes[0].round().astype(int)
    images[10] = images[10].copy()
    images[10][max(0, y0 - 20) : y1 + 20, max(0, x0 - 20) : x1 + 20] = 90
    second = [faces(given.landmarks[1:], 0.8, first_id=1) for given in raw]
    raw[15] = second[15]
    raw[20].landmarks[0] += (0, 150)
    both, alone = (
        run(Smooth(flow=flow), [(images[i], given, i / 30, 0) for i, given in enumerate(some)])
        for some in (raw, second)
    )
    for pair, one, given in zip(both, alone, raw, strict=True):
        np.testing.assert_allclose(pair.landmarks[pair.ids == 1], one.landmarks, atol=1e-4)
        assert np.array_equal(pair.ids, given.ids)
    for fresh in (10, 16, 20) if flow else (16, 20):
        np.testing.assert_array_equal(both[fresh].landmarks[0], raw[fresh].landmarks[0])


def test_pose_and_states_are_calmed_but_prompt_and_survive_an_unknown_pose() -> None:
    images, points = still_picture(frames=6)
    found = faces(points[None])
    poses = [(0, 0, 179), (1, 0, -179), (np.nan, np.nan, np.nan), (0, 0, 0), (0, 1, 0), (0, 40, 0)]
    closed = [0.1, 0.2, 0.1, 0.2, 0.1, 0.98]
    steps = []
    for index, (pose, state) in enumerate(zip(poses, closed, strict=True)):
        states = np.full((1, 4), state, np.float32)
        steps.append((images[index], dataclasses.replace(found, pose=np.float32([pose]), states=states), index / 30, 0))
    out = run(Smooth(), steps)
    assert 0.2 < out[1].pose[0, 0] < 0.8 and 179 <= abs(out[1].pose[0, 2]) <= 180
    assert np.isnan(out[2].pose).all()
    np.testing.assert_allclose(out[3].pose[0], 0)
    assert out[5].pose[0, 1] > 39.5 and out[5].states[0, 0] > 0.9
    assert 0.11 < out[1].states[0, 0] < 0.17


def test_states_of_small_faces_neither_flicker_nor_are_kept_shut() -> None:
    said = np.array([0.0, 0.9] * 10 + [0.95] * 12 + [0.05] * 12)
    out = {}
    for size in (0.4, 1.5):
        images, points = still_picture(frames=len(said), size=size)
        found = [dataclasses.replace(faces(points[None]), states=np.full((1, 4), state, np.float32)) for state in said]
        out[size] = run(Smooth(), [(im, f, i / 30, 0) for i, (im, f) in enumerate(zip(images, found, strict=True))])
    small, large = (np.array([faces.states[0] for faces in out[size]]) for size in (0.4, 1.5))
    assert np.abs(np.diff(small[:20], axis=0)).max() < 0.15
    assert small[31].min() > 0.7 and small[43].max() < 0.35
    assert np.abs(np.diff(large[:20], axis=0)).min() > 0.5


def test_unknown_landmarks_pass_through_and_no_face_is_fine() -> None:
    images, points = still_picture(frames=3)
    broken = faces(points[None].copy())
    broken.landmarks[0, 3] = np.nan
    uncertain = faces(points[None], np.float32(np.nan))
    steps = [(images[0], faces(points[None]), 0.0, 0), (images[1], broken, 1 / 30, 0)]
    steps += [(images[1], uncertain, t / 30, 0) for t in (2, 3)]
    out = run(Smooth(), [*steps, (images[2], Faces(), 4 / 30, 0)])
    np.testing.assert_array_equal(out[1].landmarks, broken.landmarks)
    assert np.isfinite(out[3].landmarks).all()
    assert len(out[4]) == 0


def test_flow_can_be_switched_while_running(still: Scene) -> None:
    node, out = Smooth(), []
    node.open()
    for index, image in enumerate(still.frames()):
        node.flow = not 10 <= index < 20
        header = Header(seq=index, pts=index / 30)
        frame = Frame(header=header, image=image)
        out.append(node.process(frame, faces(still.raw[index][None]).with_header(header)).landmarks[0])
    steps, raw = (np.linalg.norm(np.diff(points, axis=0), axis=2).mean(1) for points in (out, still.raw))
    before, without, after = ((steps / raw)[part].mean() for part in (slice(5, 9), slice(11, 19), slice(23, None)))
    assert max(before, after) < 0.15 and 0.25 < without < 0.5


def test_input_arrays_are_neither_kept_nor_written() -> None:
    images, points = still_picture(frames=2)
    found = faces(points[None])
    for array in (images[0], images[1], found.landmarks, found.pose, found.states, found.boxes, found.spread):
        array.setflags(write=False)
    node = Smooth()
    node.open()
    header = Header(seq=0, pts=0.0)
    out = node.process(Frame(header=header, image=images[0]), found.with_header(header))
    for name in ("landmarks", "pose", "states", "boxes"):
        assert not np.shares_memory(getattr(out, name), getattr(found, name))
    kept = node._memory
    assert not np.shares_memory(node._crops[0].image, images[0])
    assert not any(np.shares_memory(value, found.landmarks) for value in (kept.points, kept.raw))
    assert not any(np.shares_memory(kept.pose, value) for value in (found.pose, out.pose))
