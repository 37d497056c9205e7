"""What is a cut to another scene, and what is not."""

import cv2
import numpy as np
import pytest

from graph.testing import run_node
from nodes._scene import Scene
from nodes.source import TestSource


def scenery(seed: int) -> np.ndarray:
    """Return a picture of soft patches that differs for each seed."""
    patches = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return np.asarray(cv2.resize(patches, (640, 480), interpolation=cv2.INTER_LINEAR), np.uint8)


def cuts(*images: np.ndarray) -> list[bool]:
    scene = Scene()
    return [scene.cut(image) for image in images]


def test_another_scene_is_a_cut_and_the_same_is_not() -> None:
    assert cuts(scenery(0), scenery(0), scenery(1), scenery(1), scenery(0)) == [False, False, True, False, True]


def test_flashes_dark_moments_and_other_light_are_not_cuts() -> None:
    image = scenery(0)
    white, black = np.full_like(image, 250), np.zeros_like(image)
    assert not any(cuts(image, white, image, black, image, image // 2, image))
    assert cuts(image, black, scenery(1)) == [False, False, True], "a cut through black"


@pytest.mark.parametrize("colour", [(0, 135, 0), (255, 0, 0), (20, 20, 120)], ids=["broken", "no signal", "a finger"])
def test_a_picture_of_one_colour_is_not_a_cut(colour: tuple[int, int, int]) -> None:
    image = scenery(0)
    plain = np.full_like(image, colour)
    noisy = np.clip(plain + np.random.default_rng(0).normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    assert not any(cuts(image, plain, image, noisy, image))
    assert cuts(image, plain, scenery(1)) == [False, False, True]


def test_a_picture_that_swings_through_the_frame_is_not_a_cut() -> None:
    swing = TestSource(width=320, height=240, frames=60, pan=0.6, period=2.0, rotation=60.0, noise=10.0)
    assert not any(cuts(*(frame.image for frame in run_node(swing)["frame"])))  # type: ignore[attr-defined]
