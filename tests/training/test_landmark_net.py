import numpy as np
import pytest
import torch
import torch.nn.functional as F

from training.landmark_net import Slim, VoteNet, cell_centres, macs
from training.landmark_task import bilinear_targets


def test_cost_is_within_the_budget() -> None:
    image = torch.zeros(1, 3, 160, 160)
    assert macs(VoteNet().eval(), image) <= 25e6
    assert macs(Slim().eval(), image) == pytest.approx(24.69e6, rel=1e-3)
    assert sum(p.numel() for p in VoteNet().parameters()) * 4 < 1e6


def test_decode_of_a_known_map() -> None:
    """Scores that are certain of one cell give that cell's centre plus its offset, and no spread."""
    net = VoteNet(64).eval()
    cells = 4
    cell = torch.randint(cells**2, (68,), generator=torch.Generator().manual_seed(0))
    head = torch.zeros(1, 3, 68, cells**2)
    head[0, 0] = 60 * F.one_hot(cell, cells**2)
    head[0, 1], head[0, 2] = 0.25, -0.5
    net.head = Fixed(head.reshape(1, 204, cells, cells))
    out = net(torch.zeros(1, 3, 64, 64))
    expected = cell_centres(cells, 16)[cell] + torch.tensor([4.0, -8.0])
    torch.testing.assert_close(out["landmarks"][0], expected, atol=1e-3, rtol=0)
    assert out["spread"].max() < 0.2


def test_spread_is_the_distance_of_disagreeing_votes() -> None:
    net = VoteNet(64).eval()
    head = torch.full((1, 3, 68, 16), 0.0)
    head[0, 0] = -60
    head[0, 0, :, [5, 7]] = 0  # two cells in one row, 32 px apart, equally likely
    net.head = Fixed(head.reshape(1, 204, 4, 4))
    out = net(torch.zeros(1, 3, 64, 64))
    torch.testing.assert_close(out["landmarks"][0, 0], cell_centres(4, 16)[6], atol=1e-2, rtol=0)
    torch.testing.assert_close(out["spread"], torch.full((1, 68), 16.0), atol=1e-2, rtol=0)


def test_bilinear_targets_have_the_point_as_their_mean() -> None:
    points = torch.from_numpy(np.random.default_rng(0).uniform(8, 150, (3, 68, 2)).astype(np.float32))
    targets = bilinear_targets(points, 10, 16)
    torch.testing.assert_close(targets.sum(-1), torch.ones(3, 68))
    torch.testing.assert_close(targets @ cell_centres(10, 16), points, atol=1e-3, rtol=0)
    outside = bilinear_targets(torch.full((1, 1, 2), 500.0), 10, 16)
    assert outside[0, 0].argmax() == 99


def test_batch_does_not_change_the_result() -> None:
    torch.manual_seed(0)
    net, images = VoteNet(64).eval(), torch.randn(3, 3, 64, 64)
    together, alone = net(images), net(images[1:2])
    for name in together:
        torch.testing.assert_close(together[name][1:2], alone[name], atol=1e-4, rtol=1e-4)


class Fixed(torch.nn.Module):
    """Gives one map whatever comes."""

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        return self.value
