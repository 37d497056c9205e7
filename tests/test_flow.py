"""Optical flow on crops of faces, against the known path of the source, and what it says of its own error."""

from typing import Any

import numpy as np
import pytest

from graph.testing import run_node
from nodes._flow import LOST, Crop, crop, face_size, inside, outside, prior, regularise, track
from nodes._geometry import landmark_box
from nodes.source import TestSource
from tests.portrait import LANDMARKS, still_picture, true_points


def cut_out(image: Any, points: Any, last: Crop | None = None) -> Crop:
    return crop(image, landmark_box(points[None]), [last])[0]


def tracked(before: Crop, now: Crop, points: Any, guess: Any) -> tuple[Any, Any]:
    found, claim = track([before], [now], points[None], guess[None])
    return inside([now], found)[0], claim[0]


@pytest.mark.parametrize(("width", "height"), [(320, 180), (1280, 720), (3840, 2160)])
def test_a_crop_maps_points_there_and_back_at_any_resolution(width: int, height: int) -> None:
    images, points = still_picture(height, width)
    cut = cut_out(images[0], points)
    assert cut.image.shape == (160, 160)
    within = inside([cut], points[None])
    np.testing.assert_allclose(outside([cut], within)[0], points, atol=1e-3)
    assert within.min() > 15 and within.max() < 145


def test_a_crop_shows_what_lies_at_its_points() -> None:
    images, points = still_picture()
    for image in (images[0], np.ascontiguousarray(np.kron(images[0], np.ones((8, 8, 1), np.uint8)))):
        scale = image.shape[0] // 360
        cut = cut_out(image, (points + 0.5) * scale - 0.5)
        x, y = (axis.ravel() for axis in np.meshgrid(np.arange(20, 140, 7), np.arange(20, 140, 7)))
        places = (outside([cut], np.stack([x, y], axis=1)[None])[0] + 0.5) / scale - 0.5
        columns, rows = np.rint(places).astype(int).T
        difference = cut.image[y, x].astype(int) - images[0][rows, columns, 1]
        assert np.median(np.abs(difference)) <= 6


def test_a_crop_stays_in_place_while_the_face_fits_it() -> None:
    images, points = still_picture()
    first = cut_out(images[0], points)
    assert cut_out(images[0], points + 5, first).area == first.area
    assert cut_out(images[0], points * 1.1 - points.mean(axis=0) * 0.1, first).area == first.area
    assert cut_out(images[0], points + 25, first).area != first.area
    for scale in (0.75, 1.3):
        assert cut_out(images[0], points * scale + points.mean(axis=0) * (1 - scale), first).area != first.area


def test_a_crop_beyond_the_picture_repeats_its_rim() -> None:
    images, points = still_picture()
    for shift in ((-330, 0), (330, 0), (0, -250), (5000, 5000)):
        cut = cut_out(images[0], points + np.array(shift))
        assert cut.image.shape == (160, 160)


def test_flow_finds_a_known_motion_and_says_how_well() -> None:
    out = run_node(TestSource(width=1280, height=720, frames=8, pan=0.2, period=1.5, noise=3.0))
    missed, claimed = [], []
    for index in range(1, 8):
        before, after = (true_points(out["truth"][i])[0] for i in (index - 1, index))
        old, new = (cut_out(out["frame"][i].image, p) for i, p in ((index - 1, before), (index, after)))
        found, claim = tracked(old, new, before, after + 1.5)
        missed.append(np.linalg.norm(found - inside([new], after[None])[0], axis=1))
        claimed.append(claim)
    assert np.median(missed) < 0.12
    ratio = np.median(np.concatenate(missed) / np.concatenate(claimed)) / 1.18  # median length of a 2-D unit Gaussian
    assert 0.4 < ratio < 2.5


@pytest.mark.parametrize("noise", [0.0, 10.0])
def test_flow_knows_its_error_on_a_still_face(noise: float) -> None:
    images, points = still_picture(frames=2, noise=noise)
    old, new = (cut_out(image, points) for image in images)
    found, claim = tracked(old, new, points, points)
    if noise:
        missed = np.median(np.linalg.norm(found - inside([new], points[None])[0], axis=1)) / 1.18
        assert 0.5 < missed / np.median(claim) < 1.2
    else:
        assert np.median(claim) == pytest.approx(0.013, rel=0.5)  # what 8-bit crops allow, even where all is the same


def test_flow_reaches_ten_pixels_beyond_the_guess() -> None:
    images, points = still_picture()
    cut = cut_out(images[0], points)
    found, _ = tracked(cut, cut, points, points + 10 * cut.step * np.float32([0.8, 0.6]))
    assert np.mean(np.linalg.norm(found - inside([cut], points[None])[0], axis=1) < 0.5) > 0.7


def test_flow_into_a_plain_crop_is_not_believed() -> None:
    images, points = still_picture()
    cut = cut_out(images[0], points)
    plain = cut._replace(image=np.full_like(cut.image, 90))
    _, claim = tracked(cut, plain, points, points)
    assert np.mean(claim > 1.5) > 0.9


def test_lost_points_follow_their_neighbours() -> None:
    """Points that turn with the others are predicted from them; two on a lid from the face as a whole."""
    size = 114.0
    shape = LANDMARKS / face_size(LANDMARKS) * size
    motion = (shape - shape.mean(axis=0)) @ np.array([[0, 0.05], [-0.05, 0]]) + np.array([2.0, -1.0])
    claim = np.full(68, 0.05)
    measured = motion.copy()
    for lost in (5, 30, 37, 38, 57):
        measured[lost], claim[lost] = (40, 40), LOST
    (expected,), (variance,) = regularise(measured[None], claim[None], prior(shape[None]) * size**2)
    np.testing.assert_allclose(expected, motion, atol=0.35)
    assert variance[5] > 4 * variance[4]


def test_a_confident_but_contradicting_point_is_overruled() -> None:
    size = 114.0
    shape = LANDMARKS / face_size(LANDMARKS) * size
    measured = np.tile([3.0, 1.0], (68, 1))
    measured[8] = (-12.0, 9.0)
    (expected,), _ = regularise(measured[None], np.full((1, 68), 0.05), prior(shape[None]) * size**2)
    assert np.linalg.norm(expected[8] - (3, 1)) < 1.0
    np.testing.assert_allclose(expected[:7], measured[:7], atol=0.4)


LOWER_LIP = [55, 56, 57, 58, 59, 65, 66, 67]


def believed(moved: list[int], motion: float, claim: Any) -> Any:
    """Return how far each point is taken to have moved (68,), where only some are seen to; lengths in face sizes."""
    size = 114.0
    shape, measured = LANDMARKS / face_size(LANDMARKS) * size, np.zeros((1, 68, 2))
    measured[0, moved, 1] = motion * size
    claims = np.broadcast_to(np.float64(claim), 68)[None] * size
    return regularise(measured, claims, prior(shape[None]) * size**2)[0][0, :, 1] / size


def test_faces_and_features_are_expected_to_move_as_far_as_they_do() -> None:
    """What is measured as badly as that is believed by half or three quarters, neither wholly nor not at all."""
    assert 0.35 < believed([*range(68)], 0.02, 0.33).mean() / 0.02 < 0.65  # the mean of 68 errs by 0.04
    assert 0.55 < believed(LOWER_LIP, 0.01, 0.02)[LOWER_LIP].mean() / 0.01 < 0.85


def test_a_point_alone_may_move_by_two_per_cent_of_the_face_and_not_by_four() -> None:
    assert believed([57], 0.02, 0.002)[57] > 0.8 * 0.02 and believed([57], 0.04, 0.002)[57] < 0.2 * 0.04


def test_a_lost_point_follows_its_neighbours_on_the_lip_and_not_those_far_along_the_jaw() -> None:
    claims = np.full(68, 0.003)
    claims[[57, *range(8, 17)]] = 10
    assert believed([point for point in LOWER_LIP if point != 57], 0.01, claims)[57] > 0.009
    jaw = believed([*range(8)], 0.01, claims)[8:17] / 0.01
    assert 0.4 < jaw[0] < 0.65 and jaw[2] < 0.25
