import math

import numpy as np
import pytest

from nodes._boxes import BLEND, CHANNELS, OVERLAP, STRIDES, decode, letterbox, merge, nested, nms, overlaps, to_frame
from nodes._geometry import BORDER


def plain_decode(outputs, strides, threshold):
    """`decode` cell by cell."""
    faces = []
    for maps, stride in zip(outputs, strides, strict=True):
        for row in range(maps.shape[1]):
            for column in range(maps.shape[2]):
                v = [float(x) for x in maps[:, row, column]]
                score = 1 / (1 + math.exp(-v[0]))
                if score < threshold:
                    continue
                x = (column + 0.5) * stride - 0.5 + v[1] * stride
                y = (row + 0.5) * stride - 0.5 + v[2] * stride
                w, h = math.exp(v[3]) * stride, math.exp(v[4]) * stride
                points = [(x + v[i] * w, y + v[i + 1] * h) for i in range(5, CHANNELS, 2)]
                faces.append((score, (x - w / 2, y - h / 2, x + w / 2, y + h / 2), points))
    return sorted(faces, key=lambda face: -face[0])


def plain_overlap(a, b):
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
    return w * h / both if both > 0 else 0.0


def plain_nms(boxes, scores):
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(plain_overlap(boxes[i], boxes[j]) <= OVERLAP for j in kept):
            kept.append(i)
    return kept


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def maps_of(rng, width=96, height=64):
    return [rng.normal(0, 1, (CHANNELS, height // s, width // s)).astype(np.float32) for s in STRIDES]


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9, 0.999])
def test_decode_agrees_with_the_plain_one(rng, threshold):
    outputs = maps_of(rng)
    boxes, scores, points = decode(outputs, STRIDES, threshold)
    plain = plain_decode(outputs, STRIDES, threshold)
    assert len(scores) == len(plain)
    assert boxes.shape == (len(plain), 4) and points.shape == (len(plain), 5, 2)
    np.testing.assert_allclose(scores, [face[0] for face in plain], rtol=1e-5)
    np.testing.assert_allclose(boxes, np.reshape([face[1] for face in plain], (-1, 4)), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(points, np.reshape([face[2] for face in plain], (-1, 5, 2)), rtol=1e-4, atol=1e-3)


def test_decode_takes_the_leading_batch_axis_and_all_or_nothing_thresholds(rng):
    outputs = maps_of(rng)
    cells = sum(maps[0].size for maps in outputs)
    with_axis = decode([maps[None] for maps in outputs], STRIDES, 0.5)
    for a, b in zip(with_axis, decode(outputs, STRIDES, 0.5), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(decode(outputs, STRIDES, 0.0)[0]) == cells
    boxes, scores, points = decode(outputs, STRIDES, 1.0)
    assert boxes.shape == (0, 4) and scores.shape == (0,) and points.shape == (0, 5, 2)


def test_decode_stays_finite_for_extreme_maps(rng):
    outputs = [maps * 200 for maps in maps_of(rng)]
    with np.errstate(over="ignore"):
        boxes, scores, points = decode(outputs, STRIDES, 0.5)
    assert np.isfinite(boxes).all() and np.isfinite(scores).all() and np.isfinite(points).all()


def some_boxes(rng, count, sides=(5, 40), room=60):
    corner = rng.uniform(0, room, (count, 2))
    return np.concatenate((corner, corner + rng.uniform(*sides, (count, 2)).clip(0)), 1).astype(np.float32)


@pytest.mark.parametrize("count", [0, 1, 2, 60])
def test_nms_agrees_with_the_plain_one(rng, count):
    boxes, scores = some_boxes(rng, count), rng.uniform(0, 1, count).astype(np.float32)
    kept = nms(boxes, scores).tolist()
    assert kept == plain_nms(boxes.tolist(), scores.tolist())
    assert count < 60 or 1 < len(kept) < 60


@pytest.mark.parametrize("count", [0, 1, 2, 60])
def test_merge_keeps_what_nms_keeps_blended_with_what_it_suppresses(rng, count):
    boxes, scores = some_boxes(rng, count), rng.uniform(0.1, 1, count).astype(np.float32)
    points = rng.uniform(0, 60, (count, 5, 2)).astype(np.float32)
    found = merge(boxes, scores, points)
    left = sorted(range(count), key=lambda i: -scores[i])
    for box, score, face_points in zip(*found, strict=True):
        best = boxes[left[0]].tolist()
        group = [i for i in left if i == left[0] or plain_overlap(boxes[i].tolist(), best) > OVERLAP]
        weights = [float(scores[i]) ** BLEND for i in group]
        assert score == scores[left[0]]
        for mean, values in ((box, boxes), (face_points, points)):
            expected = sum(w * values[i].astype(float) for w, i in zip(weights, group, strict=True)) / sum(weights)
            np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-3)
        left = [i for i in left if i not in group]
    assert not left
    assert len(found[0]) == len(nms(boxes, scores)) and found[2].shape == (len(found[0]), 5, 2)


@pytest.mark.parametrize("count", [0, 1, 40])
def test_nested_agrees_with_the_plain_one(rng, count):
    boxes, expected = some_boxes(rng, count, sides=(2, 60)), []
    for i, a in enumerate(boxes.tolist()):
        shares = [0.0]
        for b in boxes[:i].tolist():
            w, h = max(0.0, min(a[2], b[2]) - max(a[0], b[0])), max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
            shares.append(w * h / ((a[2] - a[0]) * (a[3] - a[1])))
        expected.append(max(shares) > 0.8)
    assert nested(boxes, 0.8).tolist() == expected
    assert count < 40 or 0 < sum(expected) < count


def test_overlaps_agree_with_the_plain_ones_and_boxes_without_area_have_none(rng):
    boxes = some_boxes(rng, 12, sides=(-2, 20), room=30)
    expected = [[plain_overlap(a, b) for b in boxes.tolist()] for a in boxes.tolist()]
    np.testing.assert_allclose(overlaps(boxes, boxes), expected, atol=1e-5)
    nothing = np.zeros((1, 4), np.float32)
    assert overlaps(nothing, nothing)[0, 0] == 0


@pytest.mark.parametrize(("shape", "fitted"), [
    ((480, 640), (256, 320)),
    ((720, 1280), (192, 320)),
    ((1280, 720), (256, 160)),
    ((10, 10), (256, 256)),
    ((1, 2000), (32, 320)),
    ((2000, 1), (256, 32)),
])
def test_letterbox_keeps_proportions_and_pads_to_multiples_of_32(shape, fitted):
    image = np.full((*shape, 3), 200, np.uint8)
    out, scale, offset = letterbox(image, (320, 240))
    assert out.shape == (*fitted, 3)
    width, height = np.rint(np.array(shape[::-1]) * scale).astype(int)
    assert width == 320 or height == 240
    assert (out[:height, :width] == 200).all()
    assert (out[height:] == BORDER).all() and (out[:, width:] == BORDER).all()
    corners = np.array([[[-0.5, -0.5], [width - 0.5, height - 0.5]]], np.float32)
    expected = [[[-0.5, -0.5], [shape[1] - 0.5, shape[0] - 0.5]]]
    step = max(1, int(max(shape) / max(fitted)) // 2)  # large pictures are subsampled
    np.testing.assert_allclose(to_frame(corners, scale, offset), expected, rtol=1e-4, atol=step - 1)
    boxes = to_frame(corners.reshape(1, 4), scale, offset)
    np.testing.assert_allclose(boxes, np.reshape(expected, (1, 4)), rtol=1e-4, atol=step - 1)


@pytest.mark.parametrize("enlarged", [1, 3, 4, 5.33])
def test_letterbox_maps_points_as_it_says(enlarged):
    height, width = round(400 * enlarged), round(600 * enlarged)
    y, x = np.ogrid[:height, :width]
    place = np.array([450.0, 200.0]) * enlarged
    distance = np.hypot(x - place[0], y - place[1]) / enlarged
    image = np.repeat((255 * np.clip(6 - distance, 0, 1)).astype(np.uint8)[..., None], 3, 2)  # a soft disc
    out, scale, offset = letterbox(image, (320, 240))
    out = out[: round(height * scale[1]), : round(width * scale[0])]
    rows, columns = np.nonzero(out[..., 0] > 0)
    weights = out[rows, columns, 0].astype(float)
    found = np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()
    np.testing.assert_allclose(found, place * scale + offset, atol=0.05)
