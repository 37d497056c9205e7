import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training.faces_loss import (  # noqa: E402
    FACE,
    IGNORED,
    assign,
    detection_loss,
    generalised_overlap,
    pairwise_overlap,
    points_loss,
)
from training.faces_net import FaceNet, boxes_of, cells  # noqa: E402

SIDE = 64


def perfect_maps(faces, points=None):
    """Maps that say exactly these faces, each in the cell it lies in at the stride nearest a third of its height."""
    maps = [torch.zeros(1, 15, SIDE // s, SIDE // s) for s in (8, 16, 32)]
    for level in maps:
        level[:, 0], level[:, 3:5] = -12, -4  # elsewhere: no face, and a box too small to overlap any
    for i, (x0, y0, x1, y1) in enumerate(faces):
        level = min(range(3), key=lambda k: abs(8 * 2**k - (y1 - y0) / 3))
        stride = 8 * 2**level
        x, y, w, h = (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0
        row, column = int((y + 0.5) // stride), int((x + 0.5) // stride)
        cell = maps[level][0, :, row, column]
        cell[0] = 12
        cell[1], cell[2] = (x - (column + 0.5) * stride + 0.5) / stride, (y - (row + 0.5) * stride + 0.5) / stride
        cell[3], cell[4] = np.log(w / stride), np.log(h / stride)
        if points is not None:
            cell[5:] = ((points[i] - torch.tensor([x, y])) / torch.tensor([w, h])).flatten()
    return maps


def batch_of(faces, kinds=None, points=None):
    return {
        "boxes": torch.tensor(faces, dtype=torch.float32).reshape(1, -1, 4),
        "kinds": torch.tensor([kinds or [FACE] * len(faces)]),
        "points": torch.full((1, len(faces), 5, 2), torch.nan) if points is None else points[None],
    }


def losses(maps, batch):
    outputs, centres, strides = cells(maps)
    return detection_loss(outputs, boxes_of(outputs, centres, strides), centres, strides, batch)


FACES = [(5.0, 6.0, 15.0, 18.0), (20.0, 10.0, 60.0, 58.0)]
POINTS = torch.rand(2, 5, 2) * 10 + 20


def test_right_maps_cost_next_to_nothing_and_wrong_ones_do():
    right = losses(perfect_maps(FACES, POINTS), batch_of(FACES, points=POINTS))
    assert all(value < 1e-3 for value in right.values())
    moved = losses(perfect_maps([(x0 + 3, y0, x1 + 3, y1) for x0, y0, x1, y1 in FACES]), batch_of(FACES))
    assert moved["box"] > 0.1 and moved["score"] > 0.01
    missed = losses(perfect_maps(FACES[:1]), batch_of(FACES))
    assert missed["score"] > 0.1
    extra = losses(perfect_maps(FACES), batch_of(FACES[:1]))
    assert extra["score"] > 0.1


def test_ignored_faces_cost_nothing_found_or_not():
    for found in (FACES, FACES[:1]):
        assert losses(perfect_maps(found), batch_of(FACES, [FACE, IGNORED]))["score"] < 1e-3


def test_faces_without_points_leave_the_points_alone():
    maps = [level.requires_grad_() for level in perfect_maps(FACES)]
    parts = losses(maps, batch_of(FACES))
    assert parts["points"] == 0
    sum(parts.values()).backward()
    assert all(level.grad[:, 5:].abs().max() == 0 for level in maps)


def test_a_batch_without_faces_has_a_finite_loss_and_gradient():
    maps = [level.requires_grad_() for level in perfect_maps([])]
    parts = losses(maps, {**batch_of([]), "kinds": torch.zeros(1, 0, dtype=torch.int64)})
    sum(parts.values()).backward()
    assert all(torch.isfinite(value) for value in parts.values())
    assert all(torch.isfinite(level.grad).all() for level in maps)


def test_every_face_is_learnt_by_a_cell_and_no_cell_learns_two():
    torch.manual_seed(0)
    maps = FaceNet().eval()(torch.zeros(1, 3, SIDE, SIDE))
    outputs, centres, strides = cells(maps)
    faces = torch.tensor([[2.0, 2, 9, 10], [30, 30, 38, 40], [4, 20, 60, 62], [46, 30, 54, 40]])
    owner, overlap = assign(faces, boxes_of(outputs, centres, strides)[0], outputs[0, :, 0], centres, strides)
    assert set(owner.tolist()) == {-1, 0, 1, 2, 3}
    assert (strides[owner == 2] >= 16).any() and (strides[owner == 0] == 8).all()
    assert ((overlap > 0) <= (pairwise_overlap(faces, boxes_of(outputs, centres, strides)[0]).amax(0) > 0)).all()


def test_overlaps_have_their_known_values():
    a = torch.tensor([[0.0, 0, 10, 10]])
    b = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 0, 30, 10]])
    torch.testing.assert_close(pairwise_overlap(a, b)[0], torch.tensor([1, 1 / 3, 0]))
    torch.testing.assert_close(generalised_overlap(a.expand(3, 4), b), torch.tensor([1, 1 / 3, -1 / 3]))


def test_points_are_measured_in_box_sides():
    box = torch.tensor([[0.0, 0, 20, 40]])
    right = torch.tensor([[-0.25, -0.25, 0.25, -0.25, 0, 0, -0.2, 0.3, 0.2, 0.3]])
    true = torch.tensor([[[5.0, 10], [15, 10], [10, 20], [6, 32], [14, 32]]])
    assert points_loss(right, box, true) < 1e-6
    assert points_loss(right + 0.1, box, true) == pytest.approx(0.075)  # 0.1 less half of beta
