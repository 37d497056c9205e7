import copy
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from tests.training.faces68 import write_two_sets
from training import augment, landmark_data, landmark_task, landmark_validation
from training.landmark_data import states
from training.landmark_loss import equivariance
from training.landmark_settings import LandmarkSettings
from training.landmark_sources import read_backgrounds, read_sources
from training.landmark_task import LandmarkTask, half_profile, mirrored
from training.landmark_validation import crop_pose, run
from training.lookalikes import Lookalikes
from training.settings import SettingsError, checked


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> LandmarkTask:
    folder = tmp_path_factory.mktemp("data")
    sources = write_two_sets(folder)
    return LandmarkTask(LandmarkSettings(data=folder, cache=folder / "cache", size=64, sources=sources))


def test_batches_depend_on_their_generator_alone(task: LandmarkTask) -> None:
    first, again, other = (task.batch(np.random.default_rng([1, step]), 5) for step in (7, 7, 8))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["image"], other["image"])
    assert first["image"].shape == (5, 3, 64, 64)


def test_a_pickled_task_has_no_cached_crops_and_draws_the_same(task: LandmarkTask, tmp_path: Path) -> None:
    own = LandmarkTask(task.settings.model_copy(update={"negatives": 0.5}))
    own.lookalikes = Lookalikes(own.crops.images, own.crops.points)
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((99, 99, 3), 90, np.uint8))
    walls = [(tmp_path / "wall.png", np.zeros((0, 4), np.float32))]
    own.backgrounds = landmark_data.cache_backgrounds(walls, tmp_path, 2)
    given = pickle.dumps(own)
    assert own.validation and len(given) < own.validation.images.nbytes < own.crops.images[0].nbytes
    here, there = (each.batch(np.random.default_rng(2), 12) for each in (own, pickle.loads(given)))
    assert all(torch.equal(here[name], there[name]) for name in here)


def test_inputs_are_no_larger_than_the_cached_crops(task: LandmarkTask) -> None:
    own = task.settings.model_dump(mode="json") | {"negatives": 0.9}
    largest = LandmarkTask(checked(LandmarkSettings, own | {"size": landmark_data.CACHE_SIDE}, "settings"))
    assert largest.batch(np.random.default_rng(0), 8)["image"].shape == (8, 3, 256, 256)
    with pytest.raises(SettingsError, match=r"settings: size: .* less than or equal to 256, found 288"):
        checked(LandmarkSettings, own | {"size": 288}, "settings")


@pytest.mark.parametrize(("own", "text"), [
    ({"backgrounds": "nope"}, "nope: no such folder, needed for pictures without faces"),
    ({"backgrounds": "cache"}, r"cache: no picture in it, needed for pictures without faces \(\.jpg"),
    ({"backgrounds": "broken"}, "below: found no place without a face in 1 pictures, the first of which is a.png"),
    ({"wider": "nope"}, "nope/wider_face_split/wider_face_train_bbx_gt.txt: no such file; expected the labels"),
])
def test_missing_crops_without_faces_are_named(task: LandmarkTask, tmp_path: Path, own: dict[str, str],
                                               text: str) -> None:
    (tmp_path / "broken" / "below").mkdir(parents=True)
    (tmp_path / "broken" / "below" / "a.png").write_bytes(b"no picture")
    (tmp_path / "cache").mkdir(exist_ok=True)
    settings = task.settings.model_copy(update={"data": tmp_path, "cache": tmp_path / "cache", **own})
    with pytest.raises(SettingsError, match=text):
        read_backgrounds(settings, held_out=landmark_data.held_out("a.png", 0.1))


def test_states_are_those_of_the_augmented_points(task: LandmarkTask) -> None:
    batch = task.batch(np.random.default_rng(0), 40)
    present = batch["presence"] > 0
    assert 0 < (~present).sum() < 20
    assert torch.equal(batch["states"][present], torch.from_numpy(states(batch["points"][present].numpy())))
    assert batch["weights"][~present].abs().sum() == 0
    assert batch["states_weight"][~present].abs().sum() == 0


def test_the_points_of_two_views_agree_only_where_they_should(task: LandmarkTask) -> None:
    paired = LandmarkTask(task.settings.model_copy(update={"pairs": 0.75}))
    batch = paired.batch(np.random.default_rng(3), 32)
    assert len(batch["pair_map"]) == 12 and 0 < batch["pair_mirrored"].sum() < 12
    assert equivariance(batch["points"], batch).item() == pytest.approx(0.01, abs=1e-4)  # its minimum, at distance 0
    shaken = batch["points"].clone()
    shaken[1:24:2] += torch.tensor([3.0, 4.0])
    assert equivariance(shaken, batch).item() == pytest.approx(5, rel=1e-3)
    shaken[24:] += 100  # rows that are not pairs
    assert equivariance(shaken, batch).item() == pytest.approx(5, rel=1e-3)
    assert not torch.equal(batch["image"][0], batch["image"][1])


@pytest.mark.parametrize("look", [1, 2])
def test_a_reused_batch_has_other_light_and_the_same_faces(task: LandmarkTask, look: int) -> None:
    paired = LandmarkTask(task.settings.model_copy(update={"pairs": 0.75, "network": "slim"}))
    batch = paired.batch(np.random.default_rng(3), 32)
    other = paired.again(torch.Generator().manual_seed(0), batch, look)
    assert other.keys() == batch.keys() and other["image"].dtype == torch.uint8
    assert not torch.equal(other["image"], batch["image"])
    present = batch["presence"] > 0
    mirror = look == 1
    seen = other["image"].flip(-1) if mirror else other["image"]
    for new, old in zip(seen.float(), batch["image"].float(), strict=True):
        if old.std() > 10 and new.std() > 10:
            assert torch.corrcoef(torch.stack((new.flatten(), old.flatten())))[0, 1] > 0.8
    assert equivariance(other["points"], other).item() == pytest.approx(0.01, abs=1e-4)
    assert torch.equal(other["states"][present], torch.from_numpy(states(other["points"][present].numpy())))
    away = (crop_pose(other["points"][present].numpy(), 64) - 90 * other["pose"][present].numpy() + 180) % 360 - 180
    assert np.nanmax(np.abs(away[batch["pose_weight"][present] > 0])) < 2
    if mirror:
        assert torch.allclose(other["points"][present][:, 8, 0], 63 - batch["points"][present][:, 8, 0])


def test_regions_have_the_weights_of_the_settings(task: LandmarkTask) -> None:
    settings = task.settings.model_copy(update={"region_weights": {"eyes": 1.5, "jaw": 0.5}})
    weighted, plain = LandmarkTask(settings), task.batch(np.random.default_rng(0), 8)["weights"]
    ratio = (weighted.batch(np.random.default_rng(0), 8)["weights"] / plain)[plain[:, 0] > 0]
    assert ratio[0].unique().tolist() == [0.5, 1.0, 1.5]
    assert (ratio[:, 36:48] == 1.5).all() and (ratio[:, :17] == 0.5).all()


def test_poses_are_learnt_where_the_network_has_them(task: LandmarkTask) -> None:
    slim = LandmarkTask(task.settings.model_copy(update={"network": "slim"}))
    plain, batch = (t.batch(np.random.default_rng(0), 12) for t in (task, slim))
    assert all(torch.equal(plain[name], batch[name]) for name in plain)
    assert batch.keys() - plain.keys() == {"pose", "pose_weight"}
    known = batch["pose_weight"] > 0
    assert torch.equal(known, batch["presence"] > 0)
    assert batch["pose"][~known].abs().sum() == 0
    metrics = slim.validate(slim.network().eval())
    assert {f"{kind}{angle}_error" for kind in ("", "head_") for angle in ("pitch", "yaw", "roll")} <= metrics.keys()


def test_rare_faces_are_drawn_more_often_where_their_states_are_known(task: LandmarkTask) -> None:
    rare = LandmarkTask(task.settings.model_copy(update={"rare": 3.0}))
    rare.states[:] = 0
    even = rare._chances()
    assert even == pytest.approx(np.full(len(even), even[0]))
    rare.states[0, 1] = rare.states[1, 3] = rare.states[2, 2] = 1  # a closed eye, a wide open mouth, a closed one
    rare.states[3, [0, 3]] = 1
    assert rare._chances() / rare._chances()[2] == pytest.approx([3, 3, 1, 9, 1, 1])
    nobody = {name: source.model_copy(update={"states": False}) for name, source in rare.settings.sources.items()}
    rare.settings = rare.settings.model_copy(update={"sources": nobody})
    assert rare._chances() == pytest.approx(even)


def test_sources_are_drawn_by_their_weights_and_half_profiles_more_often(task: LandmarkTask) -> None:
    own = task.settings.model_dump(mode="json")
    own["sources"] |= {"often": own["sources"]["train"] | {"weight": 3}}
    both = LandmarkTask(checked(LandmarkSettings, own | {"rare": 2}, "settings"))
    both.states[:] = 0
    chances = dict(zip(both.crops.sources, both._chances(), strict=True))
    assert len(both.crops) == 12 and chances["often"] == pytest.approx(3 * chances["train"])
    assert sum(both._chances()) == pytest.approx(1)
    turned = both.crops.points.copy()
    turned[4, 30] = turned[4, 2]  # the tip of the nose before a cheek
    both.crops = replace(both.crops, points=turned)
    assert both._chances()[4] / both._chances()[3] == pytest.approx(2)


def test_the_points_of_a_teacher_are_learnt(task: LandmarkTask, monkeypatch: pytest.MonkeyPatch) -> None:
    shut = task.crops.points.copy()
    shut[:, 36:42] = shut[:, 36:37]
    monkeypatch.setattr(landmark_task, "relabelled", lambda crops, _: replace(crops, points=shut))
    taught = LandmarkTask(task.settings)
    assert taught.states[:, 0].all() and np.array_equal(taught.crops.points, shut)


def test_half_profiles_show_one_side_of_the_nose_twice_as_wide() -> None:
    points = np.full((3, 68, 2), 9.0)
    points[:, [2, 14, 30], 1] = 0
    points[:, 30, 0], points[:, 14, 0], points[:, 2, 0] = (1.9, 2.1, -2.1), (2.9, 3.1, -3.1), 0
    assert half_profile(points).tolist() == [False, True, True]


def counted(monkeypatch: pytest.MonkeyPatch, place: object, name: str, done: Counter[str]) -> None:
    call = getattr(place, name)
    monkeypatch.setattr(place, name, lambda *given: (done.update([name]), call(*given))[1])


def test_batches_hold_what_the_settings_say(task: LandmarkTask, monkeypatch: pytest.MonkeyPatch) -> None:
    done: Counter[str] = Counter()
    own = {"size": 32, "negatives": 0.3, "mild": 0.7, "covered": 0.4}
    drawn = LandmarkTask(task.settings.model_copy(update=own))
    drawn.backgrounds = np.full((2, 256, 256, 3), 90, np.uint8)
    for place, name in ((augment, "relight"), (augment, "degrade"), (augment, "draw_miss"), (landmark_task, "cover")):
        counted(monkeypatch, place, name, done)
    present = drawn.batch(np.random.default_rng(0), 400)["presence"] > 0
    faces = int(present.sum())
    wild = done["degrade"] - (400 - faces)
    assert 0.64 < faces / 400 < 0.76 and 0.23 < wild / faces < 0.37 and 0.28 < done["cover"] / wild < 0.52
    assert done["relight"] == 400
    assert 0.3 < done["draw_miss"] / (400 - faces) < 0.5


def test_a_third_of_the_crops_without_a_face_are_lookalikes(task: LandmarkTask) -> None:
    own = LandmarkTask(task.settings.model_copy(update={"size": 32, "negatives": 0.9}))
    drawn: Counter[str] = Counter()
    own.lookalikes = SimpleNamespace(draw=lambda *_: (drawn.update(["drawn"]), np.zeros((32, 32, 3), np.uint8))[1])
    present = own.batch(np.random.default_rng(0), 400)["presence"].sum().item()
    assert 0.26 < drawn["drawn"] / (400 - present) < 0.4


def test_covered_faces_are_drawn(task: LandmarkTask, monkeypatch: pytest.MonkeyPatch) -> None:
    own = LandmarkTask(task.settings.model_copy(update={"mild": 0.0, "negatives": 0.0, "covered": 1.0}))
    monkeypatch.setattr(landmark_task, "cover", lambda _, image, __: np.zeros_like(image))
    monkeypatch.setattr(augment, "degrade", lambda _, image, __: image)
    assert not own.batch(np.random.default_rng(0), 4)["image"].any()


def test_any_part_of_any_background_is_drawn_also_mirrored(task: LandmarkTask) -> None:
    own = LandmarkTask(task.settings)
    own.backgrounds = np.empty((2, 256, 256, 3), np.uint8)
    own.backgrounds[..., 0] = np.arange(2)[:, None, None]
    own.backgrounds[..., 1], own.backgrounds[..., 2] = np.mgrid[:256, :256]
    rng = np.random.default_rng(0)
    parts = np.stack([own._other(rng) for _ in range(100)]).astype(int)
    which, top, left = parts[:, 0, 0, 0], parts[:, 0, 0, 1], parts[:, 0].min(1)[:, 2]
    for drawn in (which, parts[:, 0, 0, 2] > parts[:, 0, 1, 2]):
        assert 0.3 < drawn.mean() < 0.7
    for corner in (top, left):
        assert corner.min() < 20 and corner.max() > 172
    assert abs(np.corrcoef(top, left)[0, 1]) < 0.4


def test_a_card_names_the_training_data(task: LandmarkTask) -> None:
    own = copy.copy(task)
    train = task.settings.sources["train"].model_copy(update={"terms": "ours"})
    own.settings = task.settings.model_copy(update={
        "wider": "WIDER", "background_terms": "walls", "init": Path("small"), "tutor_init": Path("large"),
        "sources": task.settings.sources | {"train": train, "taught": train.model_copy(update={"labels": "teacher"}),
                                            "both": train.model_copy(update={"labels": "mean"})},
    })
    assert own._terms() == [
        "train: ours", "taught: ours; points by a teacher network",
        "both: ours; points: mean with a teacher network's", "no faces: walls",
        "init: small: terms not stated", "init: large: terms not stated",
    ]


def test_held_out_backgrounds_and_lookalikes_are_measured_and_not_learnt(
    task: LandmarkTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = task.settings.data / "empty"
    own.mkdir()
    for i in range(40):
        (own / f"{i}.png").touch()
    asked: list[tuple[str, bool]] = []

    def cached(pictures: list[tuple[Path, np.ndarray]], *_: object) -> np.ndarray:
        asked.extend(("backgrounds", landmark_data.held_out(path.name, 0.1)) for path, _ in pictures)
        return np.zeros((1, 256, 256, 3), np.uint8)

    def found(_: object, held_out: bool) -> Lookalikes:
        asked.append(("lookalikes", held_out))
        return Lookalikes(np.zeros((1, 256, 256, 3), np.uint8), np.zeros((1, 68, 2), np.float32))

    monkeypatch.setattr(landmark_data, "cache_backgrounds", cached)
    for place in (landmark_task, landmark_validation):
        monkeypatch.setattr(place, "find_lookalikes", found)
    monkeypatch.setattr(landmark_task, "Validation", lambda *_: None)
    settings = task.settings.model_copy(update={"backgrounds": "empty", "lookalikes": tmp_path / "faces.yaml"})
    LandmarkTask(settings)
    assert set(asked) == {("backgrounds", False), ("lookalikes", False)}
    asked.clear()
    landmark_validation.Validation(read_sources(settings)[1], settings)
    assert set(asked) == {("backgrounds", True), ("lookalikes", True)}


def test_sources_say_what_is_learnt_from_them(task: LandmarkTask, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {name: source.model_copy(update={"jaw_weight": 0.5, "states": False, "mild": 1.0})
               for name, source in task.settings.sources.items()}
    done: Counter[str] = Counter()
    changes = {"sources": sources, "mild": 0.0, "negatives": 0.0, "pairs": 0.5}
    own = LandmarkTask(task.settings.model_copy(update=changes))
    counted(monkeypatch, augment, "degrade", done)
    views: list[bool] = []
    draw = augment.draw_view
    monkeypatch.setattr(augment, "draw_view", lambda *given: (views.append(given[3]), draw(*given))[1])
    batch = own.batch(np.random.default_rng(0), 12)
    assert views == [True] * 9  # of three pairs one each
    assert (batch["weights"][:, :17] == 0.5).all() and (batch["weights"][:, 17:] == 1).all()
    assert not batch["states_weight"].any() and not done


def test_faces_are_drawn_by_their_chances(task: LandmarkTask) -> None:
    one = LandmarkTask(task.settings.model_copy(update={"negatives": 0.0, "mild": 1.0}))
    one.chances = np.eye(6)[2]
    one.jaw_weights = np.arange(6, dtype=np.float32)
    assert (one.batch(np.random.default_rng(0), 9)["weights"][:, 0] == 2).all()


def test_both_views_of_a_pair_are_learnt(task: LandmarkTask, monkeypatch: pytest.MonkeyPatch) -> None:
    own = LandmarkTask(task.settings.model_copy(update={"pairs": 0.5, "negatives": 0.3}))
    own.jaw_weights = np.arange(1, 7, dtype=np.float32)
    done: Counter[str] = Counter()
    counted(monkeypatch, own, "_face", done)
    batch = own.batch(np.random.default_rng(0), 32)
    for name in ("weights", "presence", "states_weight"):
        assert torch.equal(batch[name][:16:2], batch[name][1:16:2])
    assert done["_face"] == batch["presence"].sum()  # the others show none
    assert len(batch["weights"][:16, 0].unique()) > 3 and 0 < batch["presence"][:16].sum() < 16


def test_mirrored_points_keep_their_weights(task: LandmarkTask) -> None:
    batch = task.batch(np.random.default_rng(0), 4)
    batch["weights"][:, 36] = 7
    other = mirrored(batch, batch["image"])["weights"]
    assert (other[:, 45] == 7).all() and (other[:, 36] == batch["weights"][:, 45]).all()


@pytest.mark.slow
@pytest.mark.parametrize("network", ["vote", "large", "slim", "shufflenetv2-50-vote"])
def test_one_small_batch_can_be_learnt(task: LandmarkTask, network: str) -> None:
    task.settings = task.settings.model_copy(update={"network": network})
    torch.manual_seed(0)
    net = task.network().to(memory_format=torch.channels_last)
    batch = task.batch(np.random.default_rng(1), 6)
    optimiser = torch.optim.AdamW(net.parameters(), 5e-3)
    first, parts = None, {}
    for _ in range(80):
        loss, parts = task.loss(net, batch)
        first = first or parts
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert parts["pixels"] < 0.25 * first["pixels"]
    assert parts["presence"] < 0.5 * first["presence"]
    assert "pose" not in parts or parts["pose"] < 0.6 * first["pose"]


def test_validation_measures_every_set(task: LandmarkTask) -> None:
    task.settings = task.settings.model_copy(update={"network": "vote"})
    network, f1s = task.network().eval(), {"eyes_f1", "mouth_closed_f1", "mouth_open_f1"}
    for linear in network.states:
        torch.nn.init.constant_(linear.bias, 100)  # every state is predicted
    metrics = task.validate(network)
    assert next(iter(metrics)) == "nme_held"
    assert metrics.keys() >= {"failures_8", "present"} | f1s
    task.validation.known[:] = False  # no face has known states
    assert not task.validate(network).keys() & f1s


def test_faces_that_cannot_be_used_are_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = LandmarkSettings(data=tmp_path, cache=tmp_path / "cache", size=64, sources=write_two_sets(tmp_path))
    pictures, other = sorted((tmp_path / "held").glob("*.png")), next((tmp_path / "train").glob("*.png"))
    for path in (pictures[0], other):
        path.write_bytes(b"no picture")
    caplog.set_level("WARNING", "training")
    task = LandmarkTask(settings)
    assert len(task.validation.images) == 3 and len(task.crops) == 5
    assert {f"{path}: picture cannot be read" for path in (pictures[0], other)} == set(caplog.messages)
    for picture in pictures:
        picture.write_bytes(b"no picture")
    with pytest.raises(SettingsError, match=r"settings\.sources: no usable face is held out"):
        LandmarkTask(settings)


def test_a_folder_without_faces_is_named(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(SettingsError, match=r"settings\.sources: every source is empty, held out or of weight 0"):
        LandmarkTask(LandmarkSettings.model_validate({"data": tmp_path, "sources": {"own": {"folder": "none"}}}))


def test_running_in_batches_gives_the_same(task: LandmarkTask) -> None:
    task.settings = task.settings.model_copy(update={"network": "vote"})
    network = task.network().eval()
    crops = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    split, whole = run(network, crops, batch=2), run(network, crops)
    for name, value in whole.items():
        assert split[name] == pytest.approx(value, abs=1e-3)
