import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from nodes import _boxes
from nodes._backend import MODELS
from nodes._geometry import to_input
from tests.portrait import LANDMARKS
from tests.training.faces68 import write_set
from training import evaluate, export, faces_task
from training.faces_calibrate import Score
from training.faces_data import Picture, five_points
from training.faces_evaluate import exported, in_picture
from training.faces_net import NETWORKS, FaceNet
from training.faces_points import with_points
from training.faces_settings import FaceSettings
from training.faces_sources import terms_of
from training.faces_task import FaceTask, torch_maps
from training.landmark_data import held_out
from training.landmark_net import macs
from training.settings import SettingsError, checked, load_settings
from training.train import train


def smiley(image, x, y, height):
    """Paint a face: an oval with eyes and a mouth."""
    half = np.array([0.4 * height, 0.5 * height])
    cv2.ellipse(image, ((x, y), tuple((2 * half).tolist()), 0), (150, 190, 230), -1)
    for dx in (-0.17, 0.17):
        eye = round(x + dx * height), round(y - 0.1 * height)
        cv2.circle(image, eye, max(1, round(0.06 * height)), (20, 20, 20), -1)
    left, right, down = round(x - 0.15 * height), round(x + 0.15 * height), round(y + 0.25 * height)
    cv2.line(image, (left, down), (right, down), (40, 40, 200), max(1, height // 20))
    return (x - half[0], y - half[1], 2 * half[0], 2 * half[1])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder in WIDER's layout with painted faces, one picture without, and backgrounds."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    lines = []
    for i in range(24):
        image = np.full((192, 256, 3), rng.integers(40, 90, 3), np.uint8)
        boxes = [smiley(image, int(x), int(rng.integers(60, 130)), int(rng.integers(30, 100))) for x in (70, 190)]
        name = f"{i % 4}--Event/{i}.png"
        (root / "WIDER/WIDER_train/images" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / "WIDER/WIDER_train/images" / name), image)
        lines += [name, "2", *(" ".join(str(round(v)) for v in box) for box in boxes)]
    (root / "WIDER/wider_face_split").mkdir()
    (root / "WIDER/wider_face_split/wider_face_train_bbx_gt.txt").write_text("\n".join(lines) + "\n")
    (root / "backgrounds").mkdir()
    cv2.imwrite(str(root / "backgrounds/empty.png"), np.full((100, 100, 3), 60, np.uint8))
    return root


def settings_of(data, **more):
    places = {"wider": "WIDER", "backgrounds": "backgrounds"}
    fixed = places | {"size": 64, "hold_out": 0.25, "validation_size": (256, 192)}
    return FaceSettings(data=data, **fixed, **more)


def test_batches_depend_on_the_generator_alone_and_are_padded(data):
    task = FaceTask(settings_of(data))
    first, again = (task.batch(np.random.default_rng(5), 6) for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value.nan_to_num(-1), again[name].nan_to_num(-1))
    assert first["image"].shape == (6, 3, 64, 64) and first["image"].dtype == torch.uint8
    faces = first["kinds"].shape[1]
    assert first["boxes"].shape == (6, faces, 4) and first["points"].shape == (6, faces, 5, 2)
    assert (first["kinds"] == 1).any()


def test_reused_scenes_are_mirrored_with_their_faces(data):
    task = FaceTask(settings_of(data))
    batch = task.batch(np.random.default_rng(5), 6)
    batch["points"][0, 0] = torch.tensor([[10.0, 5], [20, 5], [15, 9], [11, 12], [19, 12]])
    mirrored, lit = (task.again(torch.Generator().manual_seed(0), batch, look) for look in (1, 2))
    assert not torch.equal(lit["image"], batch["image"]) and torch.equal(lit["boxes"], batch["boxes"])
    faces = batch["kinds"] != 0
    for side in (0, 2):
        assert torch.equal(mirrored["boxes"][faces][:, side], 63 - batch["boxes"][faces][:, 2 - side])
    assert mirrored["points"][0, 0].tolist() == [[43, 5], [53, 5], [48, 9], [44, 12], [52, 12]]
    for new, old in zip(mirrored["image"].flip(-1).flatten(1), batch["image"].flatten(1), strict=True):
        assert torch.corrcoef(torch.stack((new.float(), old.float())))[0, 1] > 0.9


def test_scenes_are_plain_and_empty_as_often_as_the_settings_say(data, monkeypatch):
    task = FaceTask(settings_of(data, plain=0.7, background_share=0.2, background_hold_out=0))
    task.cutouts = "the faces of the landmark sets"
    drawn = []
    for kind in ("draw_plain", "draw_scene"):
        call = getattr(faces_task, kind)

        def draw(rng, pictures, cutouts, size, likely, kind=kind, call=call):
            assert cutouts is task.cutouts and size == 64
            drawn.append((kind == "draw_plain", pictures is task.backgrounds, likely))
            return call(rng, pictures, None, size, likely)

        monkeypatch.setattr(faces_task, kind, draw)
    task.batch(np.random.default_rng(0), 200)
    plain, empty, likely = zip(*drawn, strict=True)
    assert 0.6 < np.mean(plain) < 0.8 and 0.13 < np.mean(empty) < 0.27
    assert all((one is None) if none else (one is task.chances) for none, one in zip(empty, likely, strict=True))


def test_nothing_that_is_held_out_is_trained_with_or_calibrated_on(data, monkeypatch):
    (data / "many").mkdir(exist_ok=True)
    for i in range(12):
        cv2.imwrite(str(data / f"many/{i}.png"), np.full((40, 40, 3), 60, np.uint8))
    task = FaceTask(settings_of(data).model_copy(update={"backgrounds": "many"}))
    names = {picture.name for picture in task.backgrounds}
    assert 0 < len(names) < 12 and not any(held_out(name, 0.5) for name in names)
    assert not {p.name for p in task.training} & {p.name for p in task.held_out}
    assert len(task.training) + len(task.held_out) == 24 and task.held_out
    fitted = []

    def calibrate(network, maps, pictures, size):
        fitted.extend(picture.name for picture in pictures)
        return [Score()] * 3

    monkeypatch.setattr(faces_task, "calibrate", calibrate)
    deployed = task.deploy(task.network().eval(), np.zeros((600, 512, 3), np.uint8))
    assert fitted == [picture.name for picture in task.training] and len(deployed.calibration) == len(fitted)


def test_backgrounds_with_people_are_left_out_and_faults_logged(data, tmp_path, caplog):
    (data / "some").mkdir()
    for name in ("empty", "person"):
        cv2.imwrite(str(data / f"some/{name}.png"), np.full((40, 40, 3), 60, np.uint8))
    caplog.set_level("WARNING", "training")
    own = write_set(data / "own", 4)
    (own / "p0_0.png").write_bytes(b"no picture")
    (own / "p0_1.pts").unlink()
    task = FaceTask(settings_of(data, points={"own": "own"}, cache=tmp_path).model_copy(
        update={"backgrounds": "some", "not_backgrounds": ["person.png"], "background_hold_out": 0}))
    assert [picture.name for picture in task.backgrounds] == ["empty.png"]
    assert len(task.cutouts.crops) == 2
    told = {f"{own}/p0_0.png: picture cannot be read", f"{own}/p0_1.png: no .pts beside it"}
    assert set(caplog.messages) == told


def test_a_teacher_adds_points_to_training_pictures_only(data, monkeypatch):
    asked = []
    monkeypatch.setattr(faces_task, "with_points", lambda *given: (asked.append(given), given[0])[1])
    FaceTask(settings_of(data))
    assert not asked
    task = FaceTask(settings_of(data, point_teacher=MODELS / "landmarks"))
    assert asked == [(task.training, MODELS / "landmarks", task.settings.cache)]
    assert FaceTask.higher_is_better


def test_pictures_are_drawn_by_the_chances_of_those_to_train_with(data, monkeypatch):
    asked = []
    monkeypatch.setattr(faces_task, "chances", lambda pictures: asked.append(pictures) or np.eye(len(pictures))[3])
    task = FaceTask(settings_of(data))
    assert asked == [task.training] and task.chances[3] == 1


@pytest.mark.slow
def test_a_run_starts_from_the_released_detector(data):
    task = FaceTask(settings_of(data, init=MODELS / "faces.pt2"))
    network = task.network()
    task.begin(network)
    image = to_input(export.portrait()[None, 100:356, 140:396])
    for found, released in zip(torch_maps(network.eval())(image), exported(MODELS / "faces")(image), strict=True):
        np.testing.assert_allclose(found, released, atol=0.02)


def test_boxes_and_points_have_the_weights_of_the_settings(data):
    task = FaceTask(settings_of(data, bfloat16=False, box_weight=3.0, point_weight=7.0))
    batch = task.batch(np.random.default_rng(1), 2)
    batch["points"] = batch["boxes"][:, :, None, :2].expand(-1, -1, 5, -1)
    with torch.no_grad():
        total, parts = task.loss(task.network(), batch)
    assert parts["points"] > 0
    assert total.item() == pytest.approx((parts["score"] + 3 * parts["box"] + 7 * parts["points"]).item())


@pytest.mark.parametrize("name", ["pyramid", "slim"])
def test_one_batch_is_learnt(data, name):
    task = FaceTask(settings_of(data, bfloat16=False, network=name))
    torch.manual_seed(0)
    network = task.network().to(memory_format=torch.channels_last)
    batch = task.batch(np.random.default_rng(1), 4)
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3)
    values = []
    for _ in range(10):
        loss, parts = task.loss(network, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(float(loss.detach()))
    assert set(parts) == {"score", "box", "points"}
    assert values[-1] < 0.6 * values[0]


@pytest.mark.slow
def test_a_run_is_exported_and_measured_alike(data, tmp_path):
    config = tmp_path / "faces.yaml"
    config.write_text(json.dumps({
        "name": "painted", "task": "training.faces_task:FaceTask", "steps": 25, "batch": 4, "validate_every": 25,
        "warm_up": 0.1, "ema": 0.95, "threads": 1,
        "settings": json.loads(settings_of(data, bfloat16=False).model_dump_json()),
    }))
    best = train(load_settings(config), tmp_path)
    card = export.export(tmp_path / "painted/best.pt", tmp_path / "models/faces")
    assert card["accuracy"]["ap16"] == pytest.approx(best, abs=1e-3)
    assert card["cost"]["macs"] <= 100e6 and (tmp_path / "models/faces.onnx").stat().st_size < 1.1e6
    out = tmp_path / "evaluation"
    assert evaluate.main([str(tmp_path / "models/faces"), str(data), "--out", str(out)]) == 0
    table = json.loads((out / "evaluation.json").read_text())
    assert table["ap, faces of at least 16 px"] == pytest.approx(card["accuracy"]["ap16"], abs=0.02)
    for name in ("precision-recall", "misses", "alarms", "alarms-backgrounds"):
        assert cv2.imread(str(out / f"{name}.png")) is not None


def test_a_card_names_the_data_that_its_settings_and_init_use(tmp_path):
    (tmp_path / "faces.json").write_text(json.dumps({"data": ["mine: ours", "init: WIDER FACE: research only"]}))
    own = FaceSettings(data=tmp_path, wider="", prepared={"ours": "a.*", "theirs": ".*"}, points={"mine": "mine"},
                       terms={"mine": "ours", "ours": "all of us", "wider": "not used"}, backgrounds="walls")
    lines = ["ours: all of us", "theirs: terms not stated", "mine: ours", "backgrounds: terms not stated"]
    assert terms_of(own) == lines
    started = own.model_copy(update={"init": tmp_path / "faces.pt2"})
    assert terms_of(started) == [*lines, "init: WIDER FACE: research only"]
    taught = own.model_copy(update={"wider": "WIDER", "point_teacher": Path("models/large"), "init": Path("nowhere")})
    assert terms_of(taught)[:2] == ["wider: not used; points by large", "ours: all of us; points by large"]
    assert terms_of(taught)[-1] == "init: nowhere: terms not stated"


def test_slim_costs_three_quarters():
    with torch.inference_mode():
        costs = {name: 20 * macs(network().eval(), torch.zeros(1, 3, 64, 64)) for name, network in NETWORKS.items()}
    assert costs["pyramid"] <= 100e6 and costs["slim"] < 0.75 * costs["pyramid"]  # at 320 x 256


def test_faces_without_points_get_them_from_a_teacher(tmp_path):
    cv2.imwrite(str(tmp_path / "portrait.png"), export.portrait())
    boxes = np.array([[178, 110, 358, 336], [10, 10, 60, 75], [5, 5, 12, 14]], np.float32)
    known = Picture(tmp_path / "known.png", "known", boxes, np.zeros(3, bool), points=np.ones((3, 5, 2), np.float32))
    bare = Picture(tmp_path / "portrait.png", "portrait", boxes, np.zeros(3, bool))
    ignored = Picture(tmp_path / "portrait.png", "ignored", boxes[:1], np.ones(1, bool))
    for _ in range(2):  # the second time from the cache
        same, found, nobody = with_points([known, bare, ignored], MODELS / "landmarks", tmp_path / "cache")
        assert same is known and np.isnan(nobody.points).all()
        assert np.isnan(found.points[1:]).all()  # the flag behind her, and a face of 9 pixels
        true = five_points(LANDMARKS[None])[0]
        assert np.abs(found.points[0] - true).max() < 8
    assert len(list((tmp_path / "cache").iterdir())) == 1
    with pytest.raises(SettingsError, match="nothing"):
        with_points([bare], tmp_path / "nothing", tmp_path / "cache")


@pytest.mark.parametrize(("name", "value", "text"), [
    ("size", 100, "multiple of 32, found 100"), ("size", 0, "greater than or equal to 64, found 0"),
    ("hold_out_by", "people", "should be 'name' or 'event', found 'people'"),
    ("validation_size", [320, 0], "validation_size.1: input should be greater than 0, found 0"),
])
def test_settings_without_training_data_are_named(name, value, text):
    with pytest.raises(SettingsError, match=re.escape(text)):
        checked(FaceSettings, {"data": "data", name: value}, "settings")


def test_boxes_go_back_to_the_picture(data):
    picture = FaceTask(settings_of(data)).held_out[0]
    box = in_picture(np.array([0, 0, 10, 20], np.float32), picture, (128, 96))
    np.testing.assert_allclose(box, [0.5, 0.5, 20.5, 40.5])


def test_torch_maps_are_the_networks(data):
    task = FaceTask(settings_of(data))
    torch.manual_seed(0)
    network = task.network().eval()
    image = np.random.default_rng(0).normal(0, 1, (1, 3, 64, 96)).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(image))
    for found, true, stride in zip(torch_maps(network)(image), expected, _boxes.STRIDES, strict=True):
        assert found.shape == (15, 64 // stride, 96 // stride)
        np.testing.assert_allclose(found, true[0].numpy(), atol=1e-5)


@pytest.mark.parametrize("able", [True, False])
def test_bfloat16_is_used_where_the_processor_has_it(data, able, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able})
    seen = []

    class Spy(FaceNet):
        def forward(self, image):
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().forward(image)

    for wanted in (None, True, False):
        task = FaceTask(settings_of(data, bfloat16=wanted))
        task.loss(Spy(), task.batch(np.random.default_rng(0), 2))
    assert seen == [able, True, False]


def test_the_network_gives_similar_maps_in_bfloat16_and_float32(data):
    torch.manual_seed(0)
    network = FaceTask(settings_of(data)).network().eval().to(memory_format=torch.channels_last)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as after training: no layer is without effect
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.5)
    image = torch.randn(1, 3, 64, 64).to(memory_format=torch.channels_last)
    with torch.no_grad():
        exact = network(image)
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(image)
    for a, b in zip(exact, rough, strict=True):
        assert (a - b).abs().max() < 0.05 * a.abs().max()
