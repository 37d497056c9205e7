"""Watched faces: followed when they move, lost when they are gone."""

import numpy as np
import pytest

from graph.testing import run_node
from nodes._watch import Watch
from nodes.source import TestSource
from tests.portrait import tight, true_points


def shots(**settings):
    return run_node(TestSource(**{"width": 640, "height": 480, "motion": "still"} | settings))


def test_nothing_to_watch_is_never_lost():
    watch = Watch()
    assert watch.follow(np.zeros((48, 64, 3), np.uint8)) == 1
    watch.take(np.zeros((48, 64, 3), np.uint8), np.zeros((0, 4), np.float32))
    assert watch.follow(np.zeros((48, 64, 3), np.uint8)) == 1


def test_a_moving_face_is_followed():
    shot = shots(frames=40, motion="sine", period=2.0, pan=0.2, zoom=0.0, rotation=0.0)
    watch = Watch()
    boxes = [tight(true_points(truth)) for truth in shot["truth"]]
    assert np.abs(np.ptp(boxes, axis=0)).max() > 80  # pixels: it moves
    watch.take(shot["frame"][0].image, boxes[0])
    likeness = [watch.follow(frame.image) for frame in shot["frame"]]
    assert min(likeness) > 0.7
    centre = (watch.boxes[0, :2] + watch.boxes[0, 2:] - boxes[-1][0, :2] - boxes[-1][0, 2:]) / 2
    assert np.abs(centre).max() < 0.3 * (boxes[0][0, 2] - boxes[0][0, 0])


def test_a_face_is_lost_when_hidden_or_gone_but_not_in_other_light():
    shot = shots(frames=1)
    image, box = shot["frame"][0].image, tight(true_points(shot["truth"][0]))
    watch = Watch()
    watch.take(image, box)
    dim = (image * 0.4 + 20).astype(np.uint8)
    assert watch.follow(dim) > 0.9
    hidden = image.copy()
    x0, y0, x1, y1 = box[0].astype(int)
    hidden[y0 - 60 : y1 + 60, x0 - 60 : x1 + 60] = np.random.default_rng(0).integers(0, 255, 3, np.uint8)
    assert watch.follow(hidden) < 0.5
    assert watch.follow(np.roll(image, 250, 1)) < 0.5


@pytest.mark.parametrize("box", [(-40, 100, 20, 160), (600, 440, 700, 540)])
def test_a_face_whose_centre_is_outside_is_lost(box):
    image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    watch = Watch()
    watch.take(image, np.array([box], np.float32))
    assert watch.follow(image) == 0
