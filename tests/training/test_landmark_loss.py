import math

import numpy as np
import pytest
import torch

from tests.training.faces68 import points68
from training.landmark_data import MIRROR
from training.landmark_loss import bilinear_targets, equivariance, landmark_loss, pose_loss, wing
from training.landmark_settings import LandmarkSettings
from training.landmark_validation import crop_pose
from training.metrics import REGIONS

SOURCES = {"one": {"folder": "one"}}


def test_wing_by_hand() -> None:
    apart = torch.tensor([[[0.0, 0.0], [2.0, 0.0], [10.0, 0.0], [30.0, -30.0]]])
    expected = [0, 10 * math.log(2), 10 * math.log(6), 2 * (30 - 10 + 10 * math.log(6))]
    assert wing(apart, 10, 2)[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_wing_is_steepest_where_errors_are_small() -> None:
    apart = torch.tensor([[[0.5, 0.0], [5.0, 0.0], [50.0, 0.0]]], requires_grad=True)
    wing(apart, 10, 2).sum().backward()
    slopes = apart.grad[0, :, 0].tolist()
    assert slopes == pytest.approx([10 / 2.5, 10 / 7, 1.0], rel=1e-5)


def test_pose_differences_take_the_shorter_way_round() -> None:
    pose, true = torch.tensor([[0.0, 0.1, 1.9]]), torch.tensor([[0.0, 0.0, -1.9]])
    assert pose_loss(pose, true, torch.ones(1)).item() == pytest.approx((0.1 + 0.2) / 3, rel=1e-4)
    assert pose_loss(pose, true, torch.zeros(1)).item() == 0


def test_the_pose_of_a_frontal_face_in_a_crop_is_about_zero() -> None:
    face = (points68() * 55 + 80).astype(np.float32)
    leaning = ((points68() @ np.array([[0, 1], [-1, 0]])) * 55 + 80).astype(np.float32)  # a quarter turn clockwise
    upright, turned, none = crop_pose(np.stack([face, leaning, 0 * face]), 160)
    assert np.abs(upright[1:]).max() < 3
    assert turned[2] == pytest.approx(90, abs=3)
    assert np.isnan(none).all()


def loss(**settings: object) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of points that are 3 px off on the eyes and right elsewhere."""
    points = torch.rand(2, 68, 2, generator=torch.Generator().manual_seed(0)) * 64
    found = points.clone()
    found[:, REGIONS["eyes"], 0] += 3
    out = {"landmarks": found, "states": torch.zeros(2, 4), "presence": torch.zeros(2)}
    batch = {"points": points, "weights": torch.ones(2, 68), "states": torch.zeros(2, 4),
             "states_weight": torch.ones(2), "presence": torch.ones(2)}
    total, parts = landmark_loss(out, batch, LandmarkSettings(sources=SOURCES, size=64, **settings))
    return total.item(), parts


def test_the_settings_choose_the_loss_of_points() -> None:
    plain, parts = loss()
    assert parts["pixels"].item() == pytest.approx(3 * 12 / 68, abs=0.011)
    winged, more = loss(point_loss="wing")
    assert more["wing"].item() == pytest.approx(10 * math.log(2.5) * 12 / 68, rel=1e-4)
    assert winged - plain == pytest.approx(0.3 * (more["wing"] - parts["pixels"]).item(), rel=1e-3)


def test_every_output_is_learnt_with_its_weight() -> None:
    settings = LandmarkSettings(sources=SOURCES, size=64)
    points = torch.full((2, 68, 2), 31.5)
    out = {"landmarks": points + torch.tensor([[[0.0, 0.0]], [[3.0, 0.0]]]), "scores": torch.zeros(2, 68, 16),
           "spread": torch.full((2, 68), 2.0), "pose": torch.zeros(2, 3), "states": torch.zeros(2, 4),
           "presence": torch.zeros(2)}
    batch = {"points": points, "weights": torch.ones(2, 68), "pose": torch.full((2, 3), 0.5),
             "pose_weight": torch.ones(2), "states": torch.zeros(2, 4), "states_weight": torch.ones(2),
             "presence": torch.ones(2), "pair_map": torch.eye(3)[None, :2], "pair_mirrored": torch.tensor([False])}
    total, parts = landmark_loss(out, batch, settings)
    expected = {"pixels": 1.5, "apart": 3.0, "scores": math.log(16), "spread": math.log(2) + 0.75, "pose": 0.5,
                "states": math.log(2), "presence": math.log(2)}
    assert {name: value.item() for name, value in parts.items()} == pytest.approx(expected, abs=0.01)
    weights = {"pixels": 0.3, "apart": 0.12, "scores": 1, "spread": 0.05, "pose": 1, "states": 0.4, "presence": 0.3}
    assert total.item() == pytest.approx(sum(weights[name] * value.item() for name, value in parts.items()), rel=1e-5)


def test_a_point_is_shared_among_the_four_nearest_cells() -> None:
    points = torch.tensor([[[7.5, 23.5], [11.5, 7.5], [-40.0, 100.0]]])  # of 4 x 4 cells, 16 px wide
    target = bilinear_targets(points, 4, 16)[0].reshape(3, 4, 4)
    expected = torch.zeros(3, 4, 4)
    expected[0, 1, 0] = 1
    expected[1, 0, 0], expected[1, 0, 1] = 0.75, 0.25
    expected[2, 3, 0] = 1
    assert target.tolist() == expected.tolist()


def states_loss(states: list[list[float]], known: list[float]) -> float:
    points = torch.zeros(2, 68, 2)
    out = {"landmarks": points, "states": torch.zeros(2, 4), "presence": torch.zeros(2)}
    batch = {"points": points, "weights": torch.ones(2, 68), "states": torch.tensor(states),
             "states_weight": torch.tensor(known), "presence": torch.ones(2)}
    return landmark_loss(out, batch, LandmarkSettings(sources=SOURCES, size=64))[1]["states"].item()


def test_rare_states_weigh_more_and_unknown_ones_nothing() -> None:
    none, shut = [0.0] * 4, [1.0] * 4
    assert states_loss([shut, none], [1, 0]) == pytest.approx((3 + 3 + 1 + 3) / 4 * math.log(2))
    assert states_loss([shut, none], [0, 1]) == pytest.approx(math.log(2))
    assert states_loss([shut, none], [0, 0]) == 0


@pytest.mark.parametrize(("state", "weight"), [(0, 3), (1, 3), (2, 1), (3, 3)])
def test_closed_eyes_and_wide_open_mouths_are_rare_and_closed_mouths_are_not(state: int, weight: int) -> None:
    held = [float(i == state) for i in range(4)]
    assert states_loss([held, held], [1, 0]) == pytest.approx((3 + weight) / 4 * math.log(2))


def voted() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The outputs of a voting network, off by a pixel, and the true batch."""
    points = torch.rand(2, 68, 2, generator=torch.Generator().manual_seed(0)) * 63
    out = {"landmarks": points + 1, "scores": torch.zeros(2, 68, 16), "spread": torch.full((2, 68), 2.0),
           "states": torch.zeros(2, 4), "presence": torch.zeros(2)}
    batch = {"points": points, "weights": torch.ones(2, 68), "states": torch.zeros(2, 4),
             "states_weight": torch.ones(2), "presence": torch.ones(2)}
    return out, batch


def test_points_of_weight_zero_are_not_learnt() -> None:
    out, batch = voted()
    batch["weights"][:, 30:] = 0
    before = landmark_loss(out, batch, LandmarkSettings(sources=SOURCES, size=64))[0]
    out["landmarks"][:, 30:] += 40
    out["spread"][:, 30:] *= 9
    out["scores"][:, 30:, 0] = 9
    assert landmark_loss(out, batch, LandmarkSettings(sources=SOURCES, size=64))[0] == before


def test_the_spread_gives_points_no_gradient() -> None:
    out, batch = voted()
    for name in ("landmarks", "spread"):
        out[name].requires_grad_()
    landmark_loss(out, batch, LandmarkSettings(sources=SOURCES, size=64, coordinate_weight=0))[0].backward()
    assert not out["landmarks"].grad.any() and out["spread"].grad.all()


def test_two_views_are_drawn_together() -> None:
    points = torch.zeros(2, 68, 2).requires_grad_()
    batch = {"pair_map": torch.tensor([[[1.0, 0, 3], [0, 1, 0]]]), "pair_mirrored": torch.tensor([False]),
             "presence": torch.ones(2)}
    equivariance(points, batch).backward()
    assert (points.grad[0, :, 0] > 0).all() and (points.grad[1, :, 0] < 0).all()


def test_views_of_a_face_agree_in_the_second_crop() -> None:
    first = torch.rand(68, 2, generator=torch.Generator().manual_seed(0)) * 64
    onto = torch.tensor([[0.0, -1, 63], [2, 0, 5]])  # a turn that is stretched
    second = first @ onto[:, :2].T + onto[:, 2]
    flip = torch.tensor([[-1.0, 0, 63], [0, 1, 0]])
    mirrored = (first @ flip[:, :2].T + flip[:, 2])[MIRROR]
    none = torch.zeros(68, 2)
    batch = {"pair_map": torch.stack((onto, flip, onto)), "pair_mirrored": torch.tensor([False, True, False]),
             "presence": torch.tensor([1.0, 1, 1, 1, 0, 0, 1])}
    points = torch.stack((first, second, first, mirrored, first, none, none))
    assert equivariance(points, batch).item() == pytest.approx(0.01, abs=1e-4)  # of the constant that keeps it smooth
    assert equivariance(points + torch.tensor([0.0, 3]), batch | {"pair_map": flip[None]}).item() > 3
