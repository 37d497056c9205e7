import pytest
import torch

from training.faces_loss import (
    FACE,
    IGNORED,
    assign,
    detection_loss,
    overlaps,
    points_loss,
)
from training.faces_net import boxes_of, cells

SIDE = 64


def perfect_maps(faces, points=None, owner=None):
    """Maps on which every cell that learns a face, or owns it if given, outputs exactly that face."""
    learns, centres, strides = owners(faces)
    owner = learns if owner is None else owner
    rows = torch.zeros(len(owner), 15)
    rows[:, 0], rows[:, 3:5] = -12, -4  # elsewhere: no face, and a box too small to overlap any
    for i, (x0, y0, x1, y1) in enumerate(faces):
        middle, sides = torch.tensor([x0 + x1, y0 + y1]) / 2, torch.tensor([x1 - x0, y1 - y0])
        mine = owner == i
        rows[mine, 0] = 12
        rows[mine, 1:3] = (middle - centres[mine]) / strides[mine, None]
        rows[mine, 3:5] = (sides / strides[mine, None]).log()
        if points is not None:
            rows[mine, 5:] = ((points[i] - middle) / sides).flatten()
    counts = [(SIDE // s) ** 2 for s in (8, 16, 32)]
    return [part.T.reshape(1, 15, side, side) for part, side in zip(rows.split(counts), (8, 4, 2), strict=True)]


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


def test_right_maps_have_almost_no_loss_and_wrong_ones_do():
    right = losses(perfect_maps(FACES, POINTS), batch_of(FACES, points=POINTS))
    assert all(value < 1e-3 for value in right.values())
    moved = losses(perfect_maps([(x0 + 3, y0, x1 + 3, y1) for x0, y0, x1, y1 in FACES]), batch_of(FACES))
    assert moved["box"] > 0.1 and moved["score"] > 0.01
    missed = losses(perfect_maps(FACES[:1]), batch_of(FACES))
    assert missed["score"] > 0.1
    extra = losses(perfect_maps(FACES), batch_of(FACES[:1]))
    assert extra["score"] > 0.1


def test_low_faces_weigh_less_and_high_ones_do_not_weigh_more():
    (x0, y0, x1, y1), high = FACES  # 12 px high, of 16 that weigh fully, and 48 px
    moved = (x0 + 3, y0, x1 + 3, y1)
    owner = owners(FACES)[0]
    low, others = 0.75 * (owner == 0).sum(), (owner == 1).sum()
    wrong = 1 - overlaps(torch.tensor([moved]), torch.tensor([FACES[0]]))[1]
    box = losses(perfect_maps([moved, high], owner=owner), batch_of(FACES))["box"]
    assert box == pytest.approx(float(wrong * low / (low + others)), abs=1e-4)


def test_boxes_beside_their_face_move_towards_it():
    owner = owners(FACES)[0]
    for away in (60.0, 90.0):
        beside = [(x0 + away, y0, x1 + away, y1) for x0, y0, x1, y1 in FACES]
        maps = [level.requires_grad_() for level in perfect_maps(beside, owner=owner)]
        box = losses(maps, batch_of(FACES))["box"]
        assert box > 1.1  # an overlap alone would cost 1, and have no slope
        box.backward()
        assert torch.cat([level.grad[0, 1].flatten() for level in maps])[owner >= 0].all()


def test_scores_give_boxes_no_gradient():
    maps = [level.requires_grad_() for level in perfect_maps([(x0 + 3, y0, x1 + 3, y1) for x0, y0, x1, y1 in FACES])]
    losses(maps, batch_of(FACES))["score"].backward()
    assert all(level.grad[:, 1:].abs().max() == 0 for level in maps)


@pytest.mark.parametrize(("height", "weight"), [(3.2, 0.3), (8, 0.5), (24, 1)])
def test_scores_have_the_varifocal_loss(height, weight):
    face = (24.0, 32 - height / 2, 40.0, 32 + height / 2)
    owner = owners([face])[0]
    maps = perfect_maps([(24.0, 32 - height / 2, 32.0, 32 + height / 2)], owner=owner)  # half of it
    for level in maps:
        level[:, 0] = -1.0
        level.requires_grad_()
    cost = losses(maps, batch_of([face]))["score"]
    learns, others, shown = int((owner == 0).sum()), int((owner < 0).sum()), torch.tensor(-1.0).sigmoid()
    target = (0.5 - 0.25) / 0.5
    right = 0.5 * weight * -(target * shown.log() + (1 - target) * (1 - shown).log())
    total = max(1.0, learns * target * weight)
    assert cost.item() == pytest.approx((learns * right - others * 0.75 * shown**2 * (1 - shown).log()).item() / total)
    cost.backward()
    slopes = torch.cat([level.grad[0, 0].flatten() for level in maps])[owner < 0]
    assert slopes.tolist() == pytest.approx([0.75 * shown.item() ** 3 / total] * others)


def test_a_face_before_an_ignored_one_is_learnt():
    faces, kinds = [(24.0, 24.0, 40.0, 40.0), (0.0, 0.0, 64.0, 64.0)], [FACE, IGNORED]
    assert losses(perfect_maps([]), batch_of(faces, kinds))["score"] > 1


@pytest.mark.parametrize(("edge", "learnt"), [(17.6, False), (17.4, True)])  # the cell at 19.5 has 2 px of slack
def test_cells_within_a_quarter_of_their_stride_of_an_ignored_face_learn_nothing(edge, learnt):
    maps = perfect_maps([])
    maps[0][0, 0, 2, 2] = 3
    cost = losses(maps, batch_of([(4.0, 4.0, edge, edge)], [IGNORED]))["score"]
    assert (cost > 0.1) == learnt


def test_ignored_faces_have_no_loss_found_or_not():
    for found in (FACES, FACES[:1]):
        assert losses(perfect_maps(found), batch_of(FACES, [FACE, IGNORED]))["score"] < 1e-3


def test_faces_without_points_give_points_no_gradient():
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


def owners(faces, kinds=None, side=SIDE):
    _, centres, strides = cells([torch.zeros(1, 15, side // s, side // s) for s in (8, 16, 32)])
    boxes = torch.tensor(faces).reshape(1, -1, 4)
    kinds = torch.tensor(kinds or [FACE] * len(faces), dtype=torch.int64).reshape(1, -1)
    return assign(boxes, kinds, centres, strides)[0], centres, strides


def test_every_face_is_learnt_by_cells_near_its_centre_at_the_stride_for_its_size():
    faces = [[2.0, 2, 9, 10], [30, 30, 38, 40], [4, 4, 60, 62], [38, 30, 46, 40], [60, 60, 126, 127]]
    owner, centres, strides = owners(faces, side=128)
    for face, (expected, count) in enumerate(zip(([8], [8], [16, 32], [8], [16, 32]), (4, 4, 8, 4, 8), strict=True)):
        mine = owner == face
        middle = (torch.tensor(faces[face][:2]) + torch.tensor(faces[face][2:])) / 2
        assert set(strides[mine].tolist()) <= set(expected) and 1 <= mine.sum() <= count
        assert ((centres[mine] - middle).abs().amax(1) < 0.9 * strides[mine]).all()


@pytest.mark.parametrize(("height", "expected"), [
    (4, [8]), (28, [8]), (29, [8, 16]), (43, [8, 16]), (45, [16]), (57, [16]), (58, [16, 32]), (87, [16, 32]),
    (89, [32]), (300, [32]),
])
def test_a_face_is_learnt_at_the_strides_that_its_height_suits(height, expected):
    owner, _, strides = owners([[50.0, 60 - height / 2, 70, 60 + height / 2]], side=128)
    assert sorted(set(strides[owner == 0].tolist())) == expected


def test_a_nearer_face_of_another_size_takes_no_cell():
    owner, centres, strides = owners([[25.0, 25, 35, 35], [10.5, 10.5, 60.5, 60.5]])
    cell = (strides == 8) & (centres == 35.5).all(1)  # the middle of the second, which is too high for its stride
    assert owner[cell].tolist() == [0]


def test_pictures_of_a_batch_are_assigned_separately():
    one, other = [[2.0, 2, 9, 10], [30, 30, 38, 40]], [[4.0, 4, 60, 62], [8, 6, 16, 15]]
    alone = [owners(faces)[0] for faces in (one, other)]
    _, centres, strides = owners(one)
    together = assign(torch.tensor([one, other]), torch.full((2, 2), FACE), centres, strides)
    assert torch.equal(together, torch.stack(alone)) and not torch.equal(*alone)


def test_padding_and_ignored_faces_are_not_learnt():
    assert (owners([[2.0, 2, 9, 10], [30, 30, 38, 40]], [0, IGNORED])[0] == -1).all()
    assert (owners([])[0] == -1).all()


def test_overlaps_have_their_known_values():
    a = torch.tensor([[0.0, 0, 10, 10]]).expand(3, 4)
    b = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 0, 30, 10]])
    plain, generalised = overlaps(a, b)
    torch.testing.assert_close(plain, torch.tensor([1, 1 / 3, 0]))
    torch.testing.assert_close(generalised, torch.tensor([1, 1 / 3, -1 / 3]))


def test_points_are_measured_in_box_sides():
    box = torch.tensor([[0.0, 0, 20, 40]])
    right = torch.tensor([[-0.25, -0.25, 0.25, -0.25, 0, 0, -0.2, 0.3, 0.2, 0.3]])
    true = torch.tensor([[[5.0, 10], [15, 10], [10, 20], [6, 32], [14, 32]]])
    assert points_loss(right, box, true) < 1e-6
    assert points_loss(right + 0.1, box, true) == pytest.approx(0.075)  # 0.1 less half of beta


def test_only_labelled_faces_teach_points_and_boxes_get_no_gradient():
    boxes = torch.tensor([[0.0, 0, 20, 40], [5, 5, 15, 15]], requires_grad=True)
    offsets = torch.zeros(2, 10, requires_grad=True)
    true = torch.full((2, 5, 2), torch.nan)
    true[0] = torch.tensor([10.0, 24])  # a tenth of the box's height below its centre
    true[1, :3] = 10  # a face of which some points are known teaches none
    loss = points_loss(offsets, boxes, true)
    loss.backward()
    assert loss.item() == pytest.approx(0.0375)  # half the numbers are off by 0.1: less half of beta
    assert boxes.grad is None and offsets.grad[0].any() and not offsets.grad[1].any()
