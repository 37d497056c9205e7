from pathlib import Path

import numpy as np
import pytest
import torch

from nodes._backend import MODELS
from tests.training.faces68 import write_two_sets
from training import checkpoint, landmark_task, tutor
from training.heads import take_heads
from training.landmark_settings import LandmarkSettings
from training.landmark_task import LandmarkTask
from training.settings import SettingsError


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> LandmarkTask:
    folder = tmp_path_factory.mktemp("data")
    sources = write_two_sets(folder)
    return LandmarkTask(LandmarkSettings(data=folder, cache=folder / "cache", size=64, sources=sources, pairs=0.5,
                                         network="slim-vote", tutor="vote", tutor_share=0.5))


def test_the_tutor_learns_from_labels_alone_and_the_pupil_from_both(task: LandmarkTask) -> None:
    network, batch = task.network().train(), task.batch(np.random.default_rng(0), 16)
    total, parts = task.loss(network, batch)
    total.backward()
    together = {name: p.grad.clone() for name, p in network.named_parameters()}
    alone = LandmarkTask(task.settings.model_copy(update={"tutor_weight": 0.0}))
    network.zero_grad()
    alone.loss(network, batch)[0].backward()
    same = {name.split(".")[0]: torch.equal(together[name], p.grad) for name, p in network.named_parameters()
            if name.endswith("head.weight")}
    assert same == {"pupil": False, "tutor": True}
    assert parts["from_tutor"] > 0 and parts["tutor_pixels"] > 0


def test_the_tutor_sees_the_first_rows_and_the_pairs_among_them(task: LandmarkTask) -> None:
    batch = task.batch(np.random.default_rng(0), 16)
    assert len(batch["pair_map"]) == 4
    for rows, pairs in ((8, 4), (6, 3), (12, 4)):
        first = tutor.first_rows(batch, rows)
        assert len(first["image"]) == len(first["points"]) == rows and len(first["pair_map"]) == pairs
    out = task.network().train()(batch["image"].float())
    assert len(out["landmarks"]) == 16 and len(out["tutor.landmarks"]) == 8
    assert [tutor.tutored_rows(16, share) for share in (0.01, 0.4, 1)] == [2, 6, 16]


def test_in_evaluation_mode_it_is_the_pupil_and_both_are_measured(task: LandmarkTask) -> None:
    network, image = task.network().eval(), torch.randn(2, 3, 64, 64)
    out, alone = network(image), network.pupil(image)
    assert out.keys() == alone.keys() and torch.equal(out["landmarks"], alone["landmarks"])
    measured = task.validate(network)
    assert measured["nme_held"] != measured["tutor_nme_held"]
    assert next(iter(measured)) == "nme_held"


def test_only_a_network_with_a_tutor_has_one(task: LandmarkTask) -> None:
    network = task.network()
    assert tutor.pupil_of(network) is network.pupil and tutor.tutor_of(network) is network.tutor
    assert tutor.pupil_of(network.pupil) is network.pupil
    with pytest.raises(SettingsError, match="without a tutor"):
        tutor.tutor_of(network.pupil)


def test_a_run_without_a_tutor_starts_from_the_pupil(task: LandmarkTask, tmp_path: Path) -> None:
    both = task.network()
    checkpoint.save(tmp_path / "last.pt", {"ema": both.state_dict(), "step": 1})
    alone = LandmarkTask(task.settings.model_copy(update={"tutor": ""})).network()
    for network, own in ((alone, both.pupil), (task.network(), both)):
        checkpoint.load_weights(network, tmp_path / "last.pt")
        found, expected = network.state_dict().values(), own.state_dict().values()
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.slow
def test_the_heads_of_a_run_with_a_tutor_are_its_pupils(task: LandmarkTask, tmp_path: Path) -> None:
    both, network = task.network(), tutor.build(task.settings.model_copy(update={"tutor": ""}))
    checkpoint.save(tmp_path / "last.pt", {"ema": both.state_dict(), "step": 3})
    take_heads(network, tmp_path / "last.pt")
    found, heads = network.state_dict(), both.pupil.state_dict()
    assert all(torch.equal(found[name], heads[name]) for name in found if name.startswith(("presence.", "states.")))


@pytest.mark.slow
def test_a_run_starts_from_released_networks(task: LandmarkTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landmark_task, "UNFOLDING_CROPS", 32)
    settings = task.settings.model_copy(update={"network": "vote", "tutor": "large", "size": 160,
                                                "init": MODELS / "landmarks.pt2",
                                                "tutor_init": MODELS / "landmarks-large.pt2"})
    started = LandmarkTask(settings)
    batch = started.batch(np.random.default_rng(5), 16)
    network = started.network().train()
    far = started.loss(network, batch)[1]
    started.begin(network)
    near = started.loss(network, batch)[1]
    assert near["pixels"] < far["pixels"] / 3 and near["tutor_pixels"] < far["tutor_pixels"] / 3
    wrong = LandmarkTask(settings.model_copy(update={"init": None, "tutor_init": MODELS / "landmarks.pt2"}))
    with pytest.raises(SettingsError, match=r"settings\.tutor_init: weights of another network"):
        wrong.begin(wrong.network())
