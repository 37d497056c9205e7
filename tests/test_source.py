"""The test source shows what its truth says."""

import os
import time
from typing import Any

import cv2
import numpy as np
import pytest

from graph import ConfigError
from graph.testing import run_node
from nodes.source import Canvas, TestSource, apply, grid, picture_at, wave
from tests.portrait import LANDMARKS


def shown(**settings: Any) -> dict[str, list[Any]]:
    return run_node(TestSource(**{"width": 320, "height": 240, "frames": 6} | settings))


def test_waves_start_at_zero_rise_and_stay_within_one() -> None:
    phases = np.linspace(0, 1, 401)
    for motion in ("sine", "triangle", "stop_and_go"):
        values = np.array([wave(motion, phase) for phase in phases])
        assert values[0] == pytest.approx(0) and values[-1] == pytest.approx(0, abs=1e-9)
        assert values[1] > 0
        assert values.max() == pytest.approx(1) and values.min() == pytest.approx(-1)
    assert wave("triangle", 0.2) - wave("triangle", 0.1) == pytest.approx(0.4)
    assert wave("stop_and_go", 0.2) == wave("stop_and_go", 0.3) == 1.0


@pytest.mark.parametrize(("size", "rotation"), [(0.9, 0.0), (0.9, 40.0), (0.3, 25.0), (1.5, 10.0)])
def test_the_picture_is_where_the_truth_says(size: float, rotation: float) -> None:
    """Undo the true transform: the result must be the picture, to a tenth of a pixel."""
    out = shown(width=640, height=480, size=size, rotation=rotation, motion="triangle", period=1.0, frames=12, pan=0.05)
    frame, transform = out["frame"][-1].image, out["truth"][-1].transforms[0]
    scale = float(np.linalg.norm(transform[0, :2]))
    picture = picture_at("")
    undone = cv2.warpAffine(frame, transform, picture.shape[1::-1], flags=cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR)
    face = np.s_[140:320, 190:340]
    expected = cv2.GaussianBlur(picture, (0, 0), max(0.6, 0.6 / scale))[face].astype(np.float32)
    found = cv2.GaussianBlur(undone, (0, 0), 0.6)[face].astype(np.float32)
    (x, y), _ = cv2.phaseCorrelate(expected[..., 1], found[..., 1])
    assert abs(x) < 0.1 / min(1, scale) and abs(y) < 0.1 / min(1, scale)
    assert np.corrcoef(expected.ravel(), found.ravel())[0, 1] > 0.97


def test_equal_settings_give_equal_frames_and_another_seed_gives_others() -> None:
    settings: dict[str, Any] = {"noise": 5.0, "copies": 3, "cut_every": 0.1, "fps": 30.0}
    first, again, other = shown(**settings), shown(**settings), shown(**settings, seed=1)
    for a, b in zip(first["frame"], again["frame"], strict=True):
        np.testing.assert_array_equal(a.image, b.image)
    assert not np.array_equal(first["frame"][-1].image, other["frame"][-1].image)


def test_noise_has_the_requested_strength_and_differs_from_frame_to_frame() -> None:
    clean = shown(motion="still")["frame"]
    noisy = shown(motion="still", noise=6.0)["frame"]
    middle = np.s_[60:180, 120:200]
    first, second = (noisy[i].image[middle].astype(float) - clean[i].image[middle] for i in (0, 1))
    inside = (clean[0].image[middle] > 30) & (clean[0].image[middle] < 225)
    assert first[inside].std() == pytest.approx(6.0, rel=0.05)
    assert abs(np.corrcoef(first[inside], second[inside])[0, 1]) < 0.05


def test_a_cut_moves_the_picture_and_a_blank_hides_it() -> None:
    truths = shown(cut_every=0.2, blank=0.1, fps=20.0, frames=8, motion="still", size=0.4)["truth"]
    assert [len(truth.transforms) for truth in truths] == [1, 1, 0, 0, 1, 1, 0, 0]
    jump = apply(truths[4].transforms[0], LANDMARKS) - apply(truths[0].transforms[0], LANDMARKS)
    assert np.linalg.norm(jump.mean(axis=0)) > 10
    np.testing.assert_array_equal(truths[0].transforms, truths[1].transforms)


def test_copies_each_have_their_own_path() -> None:
    truths = shown(copies=20, pan=0.2, frames=10)["truth"]
    moves = truths[-1].transforms - truths[0].transforms
    assert moves.shape == (20, 2, 3)
    assert len(np.unique(np.round(moves[:, 0, 2], 3))) == 20


def test_each_copy_starts_in_the_middle_of_its_cell() -> None:
    truth = shown(copies=4, width=400, height=400, frames=1, pan=0.0, zoom=0.0, rotation=0.0)["truth"][0]
    height, width = picture_at("").shape[:2]
    middles = [apply(transform, np.float32([(width - 1) / 2, (height - 1) / 2])) for transform in truth.transforms]
    expected = [(x, y) for y in (99.5, 299.5) for x in (99.5, 299.5)]  # the centre of pixel 0 is at 0
    np.testing.assert_allclose(middles, expected, atol=1e-3)


def test_a_picture_outside_the_frame_leaves_the_background() -> None:
    canvas = Canvas(np.full((600, 500, 3), 200, np.uint8), 320, 240)
    image = np.empty((240, 320, 3), np.uint8)
    for x, y in ((-900, 50), (900, 50), (50, -900), (50, 900), (-900, -900)):
        canvas.paint(image, np.float32([[[0.5, 0, x], [0, 0.5, y]]]))
        np.testing.assert_array_equal(image, canvas.background)


def test_a_picture_has_a_white_edge_and_one_that_is_much_smaller_is_averaged() -> None:
    squares = np.kron(np.indices((300, 250)).sum(0) % 2, np.ones((2, 2))) * 200
    canvas = Canvas(np.repeat(squares[..., None], 3, 2).astype(np.uint8), 320, 240)
    image = np.empty((240, 320, 3), np.uint8)
    canvas.paint(image, np.float32([[[1 / 8, 0, 100], [0, 1 / 8, 100]]]))
    assert image[105:170, 105:155].std() < 5 and image[105:170, 105:155].mean() == pytest.approx(100, abs=5)
    canvas.paint(image, np.float32([[[1, 0, 100], [0, 1, 100]]]))
    assert (image[120:, 92:98] == 245).all() and image[120:, 80].max() < 245


def test_the_grid_makes_the_pictures_large() -> None:
    assert grid(1, 1280, 720, 0.85) == (1, 1)
    assert grid(2, 1280, 720, 0.85) == (2, 1)
    assert grid(20, 1920, 1080, 0.85) == (7, 3)
    assert grid(3, 300, 1200, 1.0) == (1, 3)


def test_time_axis_and_number_of_frames() -> None:
    out = shown(fps=12.5, frames=4)
    assert [frame.pts for frame in out["frame"]] == pytest.approx([0, 0.08, 0.16, 0.24])
    assert [truth.pts for truth in out["truth"]] == [frame.pts for frame in out["frame"]]


def test_a_paced_frame_is_painted_just_before_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    moments: list[float] = []
    monkeypatch.setattr("nodes.source.Pacer.left_s", lambda _, moment: moments.append(moment) or 0.0)
    shown(paced=True, fps=50.0)
    begun, due = np.array(moments[::2]), np.array(moments[1::2])
    np.testing.assert_allclose(np.diff(due), 0.02)
    assert begun[0] == due[0] and (begun[1:] < due[1:]).all()


def test_paced_frames_come_no_earlier_than_their_time() -> None:
    assert TestSource(paced=True).live() and not TestSource().live()
    start = time.monotonic()
    shown(paced=True, fps=50.0, frames=6)
    assert time.monotonic() - start >= 5 / 50


def test_a_paced_source_does_not_catch_up_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = [100.0]
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(time, "monotonic", lambda: sum(slept))
    source = TestSource(pattern="plain", paced=True, fps=50.0)
    source.open()
    frames = source.process()
    next(frames)
    time.sleep(1.5)
    next(frames)
    start = time.monotonic()
    for _ in range(5):
        next(frames)
    assert time.monotonic() - start == pytest.approx(5 / 50)


@pytest.mark.parametrize("pattern", ["noise", "plain"])
def test_benchmark_patterns_change_from_frame_to_frame(pattern: str) -> None:
    out = shown(pattern=pattern)
    assert not np.array_equal(out["frame"][0].image, out["frame"][1].image)
    assert all(len(truth.transforms) == 0 for truth in out["truth"])


def test_noise_is_uniform_and_a_plain_frame_has_the_level_of_its_number() -> None:
    for frame in shown(pattern="noise")["frame"]:
        levels = np.bincount(frame.image.ravel(), minlength=256)
        assert levels.min() > 0.8 * levels.mean() and levels.max() < 1.2 * levels.mean()
    for number, frame in enumerate(shown(pattern="plain")["frame"]):
        assert (frame.image == number).all()


def test_the_picture_may_leave_the_frame() -> None:
    out = shown(pan=2.0, motion="triangle", period=1.0, frames=8, fps=8.0)
    assert len(out["frame"]) == 8


def test_a_missing_or_broken_picture_is_named(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match=r"TestSource.picture: no file .*/nothing\.png; leave it empty"):
        shown(picture=str(tmp_path / "nothing.png"))
    with pytest.raises(ConfigError, match=r"no file .*/~nobody-here/a\.png"):
        shown(picture="~nobody-here/a.png")
    broken = tmp_path / "broken.png"
    for content in (b"not a picture", b""):
        broken.write_bytes(content)
        with pytest.raises(ConfigError, match=r"broken\.png is not a picture"):
            shown(picture=str(broken))


def test_own_pictures_are_read(tmp_path: Any) -> None:
    path = tmp_path / "red.png"
    cv2.imwrite(str(path), np.full((90, 120, 3), (0, 0, 255), np.uint8))
    frame = shown(picture=str(path), motion="still")["frame"][0].image
    np.testing.assert_array_equal(frame[120, 160], (0, 0, 255))


def test_own_pictures_may_be_in_the_home_folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    cv2.imwrite(str(tmp_path / "Süd.png"), np.zeros((90, 120, 3), np.uint8))
    assert picture_at("~/Süd.png").shape == (90, 120, 3)


def test_a_picture_whose_name_is_not_utf8(tmp_path: Any) -> None:
    content = cv2.imencode(".png", np.zeros((90, 120, 3), np.uint8))[1]
    path = os.fsdecode(bytes(tmp_path) + b"/\xe4.png")
    content.tofile(path)
    assert picture_at(path).shape == (90, 120, 3)
