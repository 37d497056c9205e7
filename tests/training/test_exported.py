import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from training.export import fold_batch_norm
from training.exported import read_exported, unfold
from training.faces_net import Down, FaceNet
from training.landmark_net import Separable
from training.landmark_settings import LandmarkSettings
from training.networks import NETWORKS, make_network
from training.settings import SettingsError, load_settings
from training.tutor import build, pupil_of, tutor_of


@pytest.fixture(scope="module")
def trained():
    """A network whose batch norms all have an effect, and images."""
    torch.manual_seed(0)
    network = FaceNet().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.5)
            torch.nn.init.normal_(module.running_mean, std=0.5)
    return network, torch.from_numpy(np.random.default_rng(0).normal(0, 1, (4, 3, 64, 64)).astype(np.float32))


def folded(network):
    network = copy.deepcopy(network)
    fold_batch_norm(network)
    return network.state_dict()


def test_unfolded_weights_give_the_same_outputs_in_both_modes(trained):
    network, images = trained
    other = FaceNet()
    unfold(other, folded(network), images)
    assert other.training
    with torch.no_grad():
        expected, as_trained, as_evaluated = network(images), other(images), other.eval()(images)
    for true, *found in zip(expected, as_trained, as_evaluated, strict=True):
        for one in found:
            assert (one - true).abs().max() < 1e-3 * true.abs().max()


def test_additional_blocks_add_nothing_at_first(trained):
    network, images = trained
    deeper = FaceNet()
    deeper.stride32.append(Down(128, 128, kernel=5))
    deeper.stride16.append(Separable(128, 128))
    unfold(deeper, folded(network), images)
    with torch.no_grad():
        for true, found in zip(network(images), deeper(images), strict=True):
            assert (found - true).abs().max() < 1e-3 * true.abs().max()
    sum(level.square().mean() for level in deeper(images)).backward()
    assert all(block.pointwise[1].weight.grad.abs().max() > 0 for block in (deeper.stride32[-1], deeper.stride16[-1]))


def test_weights_of_another_network_are_refused(trained):
    weights = folded(trained[0])
    del weights["stride8.0.pointwise.0.bias"]
    with pytest.raises(SettingsError, match=r"another network: no layer stride8\.0\.pointwise\.0 of shape \(64, 32"):
        unfold(FaceNet(), weights, trained[1])


@pytest.mark.parametrize("name", NETWORKS)
def test_every_landmark_network_can_be_started_from_its_own_export(name):
    torch.manual_seed(0)
    network, other = make_network(name, 64).eval(), make_network(name, 64)
    images = torch.randn(4, 3, 64, 64)
    unfold(other, folded(network), images)
    with torch.no_grad():
        assert (other(images)["landmarks"] - network(images)["landmarks"]).abs().max() < 1e-3


def test_a_file_that_is_not_a_network_is_named(tmp_path):
    (tmp_path / "faces.pt2").write_text("nothing")
    with pytest.raises(SettingsError, match=r"settings\.init: .*faces\.pt2: not an exported network"):
        read_exported(tmp_path / "faces.pt2")


@pytest.mark.slow
def test_the_released_network_can_be_started_from():
    from nodes._backend import MODELS

    weights = read_exported(MODELS / "faces.pt2")
    unfold(FaceNet(), weights, torch.zeros(1, 3, 64, 64))


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(Path("configs/train").glob("landmarks*.yaml")), ids=lambda path: path.stem)
def test_every_landmark_config_starts_from_weights_of_its_own_networks(path):
    settings = LandmarkSettings.model_validate(load_settings(path).settings)
    network, images = build(settings), torch.zeros(1, 3, settings.size, settings.size)
    unfold(pupil_of(network), read_exported(settings.init), images)
    if settings.tutor_init:
        unfold(tutor_of(network), read_exported(settings.tutor_init), images)
