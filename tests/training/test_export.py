import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import onnx
import pytest
import torch

from nodes import _backend
from nodes._geometry import to_input
from nodes.landmarks import LandmarkModel
from tests.accidents import full_disk
from tests.training.faces68 import write_two_sets
from training import checkpoint, evaluate, export, mnn_converter, quantise
from training.files import ending
from training.landmark_net import convolution
from training.landmark_settings import LandmarkSettings
from training.landmark_task import LandmarkTask
from training.networks import cost, make_network
from training.predictor import Prediction, Predictor
from training.settings import RunSettings, SettingsError


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a small untrained network."""
    return untrained(tmp_path_factory.mktemp("export"), "vote")


@pytest.fixture(scope="module")
def exported(source: Path) -> Path:
    """The same network, exported in all formats under a name with dots: path without suffix."""
    export.export(source, source.parent / "out" / "tiny-v1.2.onnx", int8=True)
    return source.parent / "out" / "tiny-v1.2"


def untrained(folder: Path, network: str, tutor: str = "") -> Path:
    """Write the checkpoint of an untrained network for small crops, with its data beside it."""
    own = {"data": str(folder / "data"), "cache": str(folder / "cache"), "size": 64, "network": network, "tutor": tutor,
           "sources": write_two_sets(folder / "data")}
    torch.manual_seed(0)
    made = LandmarkTask(LandmarkSettings(**own)).network()
    made.train()(torch.randn(8, 3, 64, 64))  # batch statistics that are not the initial ones
    settings = RunSettings(name="tiny", task="training.landmark_task:LandmarkTask", settings=own, steps=1)
    checkpoint.save(folder / "best.pt", {
        "ema": made.state_dict(), "step": 1, "seconds": 1.0, "commit": "",
        "settings": settings.model_dump(mode="json"),
    })
    return folder / "best.pt"


@pytest.mark.slow
def test_exported_files_are_complete_and_name_no_folder(exported: Path) -> None:
    model = onnx.load(ending(exported, ".onnx"))
    kinds = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in kinds
    assert "Conv" in kinds
    shape = model.graph.input[0].type.tensor_type.shape
    assert [side.dim_param or side.dim_value for side in shape.dim] == ["faces", 3, 64, 64]
    for suffix in (".onnx", ".mnn", ".pt2", ".json"):
        content = ending(exported, suffix).read_bytes()
        assert str(Path.home()).encode() not in content
        assert str(Path(__file__).parents[2]).encode() not in content
    names = {"tiny-v1.2" + suffix for suffix in (".onnx", ".mnn", ".pt2", ".json", ".png")}
    small = {"tiny-v1.2-int8" + suffix for suffix in (".onnx", ".mnn", ".json", ".png")}
    assert {file.name for file in exported.parent.iterdir()} == names | small


@pytest.mark.slow
@pytest.mark.parametrize("backend", sorted(_backend.BACKENDS))
def test_card_describes_the_files(exported: Path, backend: str) -> None:
    card = json.loads(ending(exported, ".json").read_text())
    files = [ending(exported, suffix) for suffix in (".onnx", ".mnn", ".pt2")]
    assert card["files"] == {file.name: export.sha256(file) for file in files}
    image = cv2.imread(str(exported.with_name(card["reference"]["picture"])))
    found = _backend.load(exported, backend).run(to_input(image[None]))
    assert set(found) == set(card["outputs"])
    for name, value in found.items():
        assert value.ravel() == pytest.approx(np.array(card["reference"][name]["values"]), abs=2e-2), name


@pytest.mark.slow
def test_evaluation_runs_on_the_exported_file_and_on_its_checkpoint(source: Path, exported: Path,
                                                                    tmp_path: Path) -> None:
    data = source.parent / "data" / "held"
    assert evaluate.main([str(exported), str(data), "--out", str(tmp_path)]) == 0
    card = json.loads(ending(exported, ".json").read_text())
    measured = json.loads((tmp_path / "evaluation.json").read_text())["data/held"]
    assert measured["nme"] == pytest.approx(card["accuracy"]["nme_held"], rel=1e-3)
    for name in ("errors.png", "worst-data-held.png"):
        assert cv2.imread(str(tmp_path / name)) is not None
    assert evaluate.main([str(source), str(data), "--out", str(tmp_path)]) == 0
    again = json.loads((tmp_path / "evaluation.json").read_text())["data/held"]
    assert again["nme"] == pytest.approx(measured["nme"], rel=1e-3)
    assert again["response to a mirror"] == pytest.approx(measured["response to a mirror"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "mnn"])
def test_int8_is_smaller_and_close(exported: Path, backend: str) -> None:
    small = ending(exported, "-int8")
    suffix = _backend.BACKENDS[backend][1]
    assert ending(small, suffix).stat().st_size < 0.7 * ending(exported, suffix).stat().st_size
    image = cv2.imread(str(ending(exported, ".png")))
    full, less = (_backend.load(path, backend).run(to_input(image[None])) for path in (exported, small))
    assert set(full) == set(less)
    away = np.abs(full["landmarks"] - less["landmarks"]).max()
    assert 0 < away < 3  # of 64 pixels
    rows = json.loads(ending(small, ".json").read_text())["int8"]
    assert set(rows) == {"onnxruntime float32", "onnxruntime int8", "mnn float32", "mnn int8"}
    assert rows[f"{backend} int8"]["nme_held"] == pytest.approx(rows[f"{backend} float32"]["nme_held"], rel=0.2)


@pytest.mark.parametrize(("error", "time", "expected"), [(1.02, 0.9, True), (1.04, 0.9, False), (1.0, 1.1, False)])
def test_int8_is_worth_it_when_faster_and_hardly_worse(error: float, time: float, expected: bool) -> None:
    assert quantise.worth({"e": error, "ms": [time, 0]}, {"e": 1.0, "ms": [1.0, 0]}, "e") is expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenetv3-small", "shufflenetv2-50-vote"])
def test_other_families_are_the_same_in_every_format(source: Path, name: str, tmp_path: Path) -> None:
    own = checkpoint.load(source)["settings"]["settings"]
    task = LandmarkTask(LandmarkSettings(**own | {"network": name}))
    torch.manual_seed(0)
    network = task.network()
    network.train()(torch.randn(8, 3, 64, 64))
    deployment = task.deploy(network.eval(), export.portrait())
    export.fold_batch_norm(deployment.module)
    export.write_models(deployment, tmp_path / name)
    kinds = {node.op_type for node in onnx.load(tmp_path / f"{name}.onnx").graph.node}
    assert "BatchNormalization" not in kinds
    for backend in export.SUFFIXES:
        export.parity(deployment, tmp_path / name, backend)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["large", "slim"])
def test_the_run_time_takes_other_networks_too(tmp_path: Path, network: str) -> None:
    card = export.export(untrained(tmp_path, network), tmp_path / network)
    assert ("pose" in card["outputs"]) == (network == "slim") != ("spread" in card["outputs"])
    box = np.array([[178, 165, 358, 332]], np.float32)
    for backend in _backend.BACKENDS:
        faces = LandmarkModel(tmp_path / network, backend).predict(export.portrait(), box, kind="landmarks")
        assert faces.landmarks.shape == (1, 68, 2)
        assert np.isfinite(faces.landmarks).all()
        assert 0 <= faces.scores[0] <= 1


@pytest.mark.slow
def test_a_wrong_file_is_noticed(source: Path, exported: Path) -> None:
    torch.manual_seed(1)
    state = checkpoint.load(source)
    task = LandmarkTask(LandmarkSettings(**state["settings"]["settings"]))
    other = task.deploy(make_network("vote", 64).eval(), export.portrait())
    with pytest.raises(RuntimeError, match="onnxruntime is off in"):
        export.parity(other, exported, "onnxruntime")



def test_folding_keeps_the_function() -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(convolution(3, 8), convolution(8, 8, groups=8))
    module.train()(torch.randn(4, 3, 16, 16) * 3 + 1)
    image = torch.randn(2, 3, 16, 16)
    expected = module.eval()(image)
    export.fold_batch_norm(module)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in module.modules())
    torch.testing.assert_close(module(image), expected, atol=1e-5, rtol=1e-5)


def test_a_missing_checkpoint_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert export.main([str(tmp_path / "none.pt"), str(tmp_path / "out")]) == 2
    assert "none.pt: No such file or directory; expected a checkpoint" in caplog.text


def test_a_network_without_card_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no card .*model.json: a network needs the card"):
        Predictor(tmp_path / "model")


def test_an_invalid_card_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for content in ("{", "[]", "{}"):
        (tmp_path / "model.json").write_text(content)
        assert evaluate.main([str(tmp_path / "model"), str(tmp_path)]) == 2
        assert "model.json: not the card of a network" in caplog.records[-1].message


@pytest.mark.slow
def test_a_full_disk_is_reported_in_one_line(source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with full_disk(100_000):
        assert export.main([str(source), str(tmp_path / "out" / "tiny")]) == 2
    assert f"File too large: '{tmp_path / 'out'}" in caplog.text
    assert not list((tmp_path / "out").iterdir())


def test_a_disk_full_after_a_conversion_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> SimpleNamespace:
        (tmp_path / "a.mnn").write_bytes(b"half")
        return SimpleNamespace(returncode=0, stdout="Converted Success!", stderr="")

    monkeypatch.setattr(mnn_converter.subprocess, "run", run)
    mnn_converter.convert(tmp_path / "a.onnx", tmp_path / "a.mnn")
    monkeypatch.setattr(mnn_converter.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.mnn'"):
        mnn_converter.convert(tmp_path / "a.onnx", tmp_path / "a.mnn")


def test_a_failed_export_changes_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_one_and_stop(_: object, target: Path) -> None:
        ending(target, ".onnx").write_bytes(b"the new release")
        raise KeyboardInterrupt

    out = tmp_path / "out"
    out.mkdir()
    (out / "tiny.onnx").write_bytes(b"the release before")
    monkeypatch.setattr(export, "write_models", write_one_and_stop)
    with pytest.raises(KeyboardInterrupt):
        export.export(source, out / "tiny")
    assert [(file.name, file.read_bytes()) for file in out.iterdir()] == [("tiny.onnx", b"the release before")]


@pytest.mark.slow
def test_a_tutor_can_be_exported(tmp_path: Path) -> None:
    both = untrained(tmp_path, "slim-vote", tutor="vote")
    card = export.export(both, tmp_path / "tutor", tutor=True)
    assert (card["name"], card["cost"]["macs"]) == ("tiny-tutor", cost("vote", 64)[0])
    assert np.abs(predict(both).points - predict(tmp_path / "tutor").points).max() > 0.1


@pytest.mark.slow
def test_a_pupil_with_heads_of_another_run_keeps_its_points(tmp_path: Path) -> None:
    paths = [untrained(tmp_path / name, "slim-vote", tutor) for name, tutor in (("own", "vote"), ("other", ""))]
    state = checkpoint.load(paths[1])
    for value in state["ema"].values():
        if value.is_floating_point():
            value += torch.rand(value.shape, generator=torch.Generator().manual_seed(0))
    checkpoint.save(paths[1], state | {"step": 7})
    card = export.export(paths[0], tmp_path / "mixed", heads=paths[1])
    assert (card["name"], card["training"]["heads"]["steps"]) == ("tiny", 7)
    before, after = (predict(model) for model in (paths[0], tmp_path / "mixed"))
    np.testing.assert_allclose(before.points, after.points, atol=1e-3)
    scale = after.spread / before.spread  # that of an export makes it the mean error
    np.testing.assert_allclose(scale, scale.mean(), rtol=1e-3)
    for name in ("presence", "states"):
        assert np.abs(getattr(before, name) - getattr(after, name)).max() > 0.01
    for network, wrong in (("shufflenetv2-50-vote", "heads of another network"), ("slim", "MeanNet has none")):
        with pytest.raises(SettingsError, match=wrong):
            export.export(untrained(tmp_path / network, network), tmp_path / "out", heads=paths[1])
    assert not list(tmp_path.glob("out*"))


def predict(model: Path) -> Prediction:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    return Predictor(model)([image], np.array([[10, 10, 50, 50]], np.float32))


def test_a_missing_tutor_cannot_be_exported(source: Path, tmp_path: Path) -> None:
    assert export.main([str(source), str(tmp_path / "out"), "--tutor"]) == 2
    assert not list(tmp_path.glob("out*"))
