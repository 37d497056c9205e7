from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from training.landmark_loss import bilinear_targets
from training.landmark_net import cell_centres
from training.landmark_settings import LandmarkSettings
from training.networks import NETWORKS, cost, make_network, table
from training.settings import SettingsError, checked


def test_cost_is_within_the_budget() -> None:
    macs, parameters = cost("vote")
    assert macs <= 25e6
    assert parameters * 4 < 1e6
    assert cost("large")[0] <= 150e6


def test_known_networks_have_their_published_costs() -> None:
    """Slim as in its authors' file; the backbones as published, on 160 px, without their classifiers."""
    assert cost("slim") == (24_694_464, 234_415)
    last, classifier = 464 * 1024, 1024 * 1000
    published = 146e6 - classifier - last * 7 * 7
    assert cost("shufflenetv2-100", 224)[0] == pytest.approx(published, rel=0.01)
    assert cost("shufflenetv2-100")[1] == 2_278_604 - classifier - 1000 - last - 2 * 1024 + 813 * 143
    large, small = 1280 * 961 + 1281 * 1000, 1024 * 577 + 1025 * 1000  # timm's classifiers of the minimal ones
    assert cost("mobilenetv3-large")[1] - (40 + 112 + 960 + 1) * 143 + large == pytest.approx(3.92e6, rel=2e-3)
    assert cost("mobilenetv3-small")[1] - (24 + 48 + 576 + 1) * 143 + small == pytest.approx(2.04e6, rel=3e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_finds_points_and_learns(name: str) -> None:
    torch.manual_seed(0)
    net = make_network(name, 64)
    out = net(torch.randn(4, 3, 64, 64))
    assert out["landmarks"].shape == (4, 68, 2)
    assert out["states"].shape == (4, 4)
    assert out["presence"].shape == (4,)
    assert ("pose" in out) != ("spread" in out)
    sum(value.sum() for value in out.values()).backward()
    assert all(p.grad is not None for p in net.parameters())


def test_the_readme_has_the_table_of_costs() -> None:
    assert table() in Path("training/README.md").read_text()


def test_an_unknown_network_is_named() -> None:
    with pytest.raises(SettingsError, match=r"settings: network: .*known are vote, large, slim.*, found 'slimm'"):
        checked(LandmarkSettings, {"sources": {}, "network": "slimm"}, "settings")


def test_a_mouth_both_closed_and_open_is_no_face() -> None:
    net = make_network("slim", 64).eval()
    torch.nn.init.zeros_(net.head.weight)
    for states, presence in (((9, 9), 0), ((9, -9), 1), ((-9, -9), 1), ((0, 0), 0.75)):
        with torch.no_grad():
            net.head.bias[-2:] = torch.tensor(states, dtype=torch.float32)
        assert net(torch.zeros(1, 3, 64, 64))["presence"].sigmoid().item() == pytest.approx(presence, abs=2e-3)


def test_decode_of_a_known_map() -> None:
    """Scores that are certain of one cell give that cell's centre plus its offset, and no spread."""
    net = make_network("vote", 64).eval()
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
    net = make_network("vote", 64).eval()
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
    net, images = make_network("vote", 64).eval(), torch.randn(3, 3, 64, 64)
    together, alone = net(images), net(images[1:2])
    for name in together:
        torch.testing.assert_close(together[name][1:2], alone[name], atol=1e-4, rtol=1e-4)


class Fixed(torch.nn.Module):
    """Returns the same map for every input."""

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        return self.value
