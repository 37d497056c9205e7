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
from tests.training.faces68 import write_set
from training import checkpoint, evaluate, export, mnn_converter, quantise
from training.landmark_net import convolution
from training.landmark_settings import LandmarkSettings
from training.landmark_task import LandmarkTask
from training.networks import make_network
from training.predictor import Predictor
from training.settings import RunSettings, SettingsError


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained network, exported in all formats: path without suffix."""
    folder = tmp_path_factory.mktemp("export")
    export.export(untrained(folder, "vote"), folder / "tiny", int8=True)
    return folder / "tiny"


def untrained(folder: Path, network: str, tutor: str = "") -> Path:
    """Write the checkpoint of an untrained network for small crops, with its data beside it."""
    write_set(folder / "data" / "train", 4)
    write_set(folder / "data" / "held", 4, seed=1)
    sources = {"held": {"folder": "held", "weight": 0, "held_out": 1}, "train": {"folder": "train"}}
    own = {"data": str(folder / "data"), "cache": str(folder / "cache"), "size": 64, "sources": sources,
           "network": network, "tutor": tutor}
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
def test_files_are_small_whole_and_without_the_machine(exported: Path) -> None:
    model = onnx.load(exported.with_suffix(".onnx"))
    kinds = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in kinds
    assert "Conv" in kinds
    shape = model.graph.input[0].type.tensor_type.shape
    assert [side.dim_param or side.dim_value for side in shape.dim] == ["faces", 3, 64, 64]
    for suffix in (".onnx", ".mnn", ".pt2", ".json"):
        content = exported.with_suffix(suffix).read_bytes()
        assert str(Path.home()).encode() not in content
        assert str(Path(__file__).parents[2]).encode() not in content


@pytest.mark.slow
@pytest.mark.parametrize("backend", sorted(_backend.BACKENDS))
def test_card_describes_the_files(exported: Path, backend: str) -> None:
    card = json.loads(exported.with_suffix(".json").read_text())
    assert card["files"] == {f"tiny{s}": export.sha256(exported.with_suffix(s)) for s in (".onnx", ".mnn", ".pt2")}
    image = cv2.imread(str(exported.with_name(card["reference"]["picture"])))
    found = _backend.load(exported, backend).run(to_input(image[None]))
    assert set(found) == set(card["outputs"])
    for name, value in found.items():
        assert value.ravel() == pytest.approx(np.array(card["reference"][name]["values"]), abs=2e-2), name


@pytest.mark.slow
def test_evaluation_runs_on_the_exported_file_and_on_its_checkpoint(exported: Path, tmp_path: Path) -> None:
    data = exported.parent / "data" / "held"
    assert evaluate.main([str(exported), str(data), "--out", str(tmp_path)]) == 0
    card = json.loads(exported.with_suffix(".json").read_text())
    measured = json.loads((tmp_path / "evaluation.json").read_text())["data/held"]
    assert measured["nme"] == pytest.approx(card["accuracy"]["nme_held"], rel=1e-3)
    for name in ("errors.png", "worst-data-held.png"):
        assert cv2.imread(str(tmp_path / name)) is not None
    assert evaluate.main([str(exported.with_name("best.pt")), str(data), "--out", str(tmp_path)]) == 0
    again = json.loads((tmp_path / "evaluation.json").read_text())["data/held"]
    assert again["nme"] == pytest.approx(measured["nme"], rel=1e-3)
    assert again["response to a mirror"] == pytest.approx(measured["response to a mirror"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "mnn"])
def test_int8_is_smaller_and_close(exported: Path, backend: str) -> None:
    small = exported.with_name("tiny-int8")
    suffix = _backend.BACKENDS[backend][1]
    assert small.with_name(f"tiny-int8{suffix}").stat().st_size < 0.7 * exported.with_suffix(suffix).stat().st_size
    image = cv2.imread(str(exported.with_suffix(".png")))
    full, less = (_backend.load(path, backend).run(to_input(image[None])) for path in (exported, small))
    assert set(full) == set(less)
    away = np.abs(full["landmarks"] - less["landmarks"]).max()
    assert 0 < away < 3  # of 64 pixels
    rows = json.loads(small.with_name("tiny-int8.json").read_text())["int8"]
    assert set(rows) == {"onnxruntime float32", "onnxruntime int8", "mnn float32", "mnn int8"}
    assert rows[f"{backend} int8"]["nme_held"] == pytest.approx(rows[f"{backend} float32"]["nme_held"], rel=0.2)


@pytest.mark.parametrize(("error", "time", "expected"), [(1.02, 0.9, True), (1.04, 0.9, False), (1.0, 1.1, False)])
def test_int8_is_worth_it_when_faster_and_hardly_worse(error: float, time: float, expected: bool) -> None:
    assert quantise.worth({"e": error, "ms": [time, 0]}, {"e": 1.0, "ms": [1.0, 0]}, "e") is expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenetv3-small", "shufflenetv2-50-vote"])
def test_other_families_are_the_same_in_every_format(exported: Path, name: str, tmp_path: Path) -> None:
    own = checkpoint.load(exported.with_name("best.pt"))["settings"]["settings"]
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
def test_a_wrong_file_is_noticed(exported: Path) -> None:
    torch.manual_seed(1)
    state = checkpoint.load(exported.with_name("best.pt"))
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
    assert "none.pt" in caplog.text


def test_a_network_without_card_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no card .*model.json: a network needs the card"):
        Predictor(tmp_path / "model")


def test_a_card_that_is_none_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for content in ("{", "[]", "{}"):
        (tmp_path / "model.json").write_text(content)
        assert evaluate.main([str(tmp_path / "model"), str(tmp_path)]) == 2
        assert "model.json: not the card of a network" in caplog.records[-1].message


@pytest.mark.slow
def test_a_name_with_dots_stays_whole(tmp_path: Path) -> None:
    card = export.export(untrained(tmp_path, "vote"), tmp_path / "out" / "mine-v1.2.onnx", int8=True)
    names = {"mine-v1.2" + suffix for suffix in (".onnx", ".mnn", ".pt2", ".json", ".png")}
    small = {"mine-v1.2-int8" + suffix for suffix in (".onnx", ".mnn", ".json", ".png")}
    assert {file.name for file in (tmp_path / "out").iterdir()} == names | small
    assert names == {*card["files"], "mine-v1.2.json", card["reference"]["picture"]}
    assert evaluate.main([str(tmp_path / "out" / "mine-v1.2"), str(tmp_path / "data" / "held")]) == 0


@pytest.mark.slow
def test_a_full_disk_is_told_in_a_sentence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = untrained(tmp_path, "vote")
    with full_disk(100_000):
        assert export.main([str(source), str(tmp_path / "out" / "tiny")]) == 2
    assert f"File too large: '{tmp_path / 'out'}" in caplog.text
    assert not list((tmp_path / "out").iterdir())


def test_a_disk_that_is_full_after_a_conversion_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> SimpleNamespace:
        (tmp_path / "a.mnn").write_bytes(b"half")
        return SimpleNamespace(returncode=0, stdout="Converted Success!", stderr="")

    monkeypatch.setattr(mnn_converter.subprocess, "run", run)
    mnn_converter.convert(tmp_path / "a.onnx", tmp_path / "a.mnn")
    monkeypatch.setattr(mnn_converter.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.mnn'"):
        mnn_converter.convert(tmp_path / "a.onnx", tmp_path / "a.mnn")


@pytest.mark.slow
@pytest.mark.parametrize("failing", ["parity", "reference"])
def test_an_export_that_fails_leaves_the_release_as_it_was(tmp_path: Path, failing: str,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    source, out = untrained(tmp_path, "vote"), tmp_path / "out"
    out.mkdir()
    (out / "tiny.onnx").write_bytes(b"the release before")
    monkeypatch.setattr(export, failing, stopped)
    with pytest.raises(KeyboardInterrupt):
        export.export(source, out / "tiny")
    assert [(file.name, file.read_bytes()) for file in out.iterdir()] == [("tiny.onnx", b"the release before")]


@pytest.mark.slow
def test_pupil_and_tutor_are_exported_each_for_itself(tmp_path: Path) -> None:
    both = untrained(tmp_path, "slim-vote", tutor="vote")
    pupil, tutor = (export.export(both, tmp_path / name, tutor=name == "tutor") for name in ("pupil", "tutor"))
    assert pupil["cost"]["macs"] != tutor["cost"]["macs"]
    assert (pupil["name"], tutor["name"]) == ("tiny", "tiny-tutor")
    trained, first, second = (evaluate_points(path) for path in (both, tmp_path / "pupil", tmp_path / "tutor"))
    np.testing.assert_allclose(trained, first, atol=1e-2)
    assert np.abs(trained - second).max() > 0.1


@pytest.mark.slow
def test_heads_of_another_run_leave_the_points_where_they_are(tmp_path: Path) -> None:
    paths = [untrained(tmp_path / name, "slim-vote") for name in ("own", "other")]
    state = checkpoint.load(paths[1])
    for value in state["ema"].values():
        if value.is_floating_point():
            value += torch.rand(value.shape, generator=torch.Generator().manual_seed(0))
    checkpoint.save(paths[1], state | {"step": 7})
    plain, mixed = (export.export(paths[0], tmp_path / name, heads=heads)
                    for name, heads in (("plain", None), ("mixed", paths[1])))
    assert (plain["training"].get("heads"), mixed["training"]["heads"]["steps"]) == (None, 7)
    image = np.random.default_rng(0).normal(0, 1, (2, 3, 64, 64)).astype(np.float32)
    before, after = (_backend.load(tmp_path / name, "onnxruntime").run(image) for name in ("plain", "mixed"))
    for name in ("landmarks", "spread"):
        np.testing.assert_allclose(before[name], after[name], atol=1e-3)
    for name in ("presence", "states"):
        assert np.abs(before[name] - after[name]).max() > 0.01
    for network, wrong in (("shufflenetv2-50-vote", "heads of another network"), ("slim", "MeanNet has none")):
        with pytest.raises(SettingsError, match=wrong):
            export.export(untrained(tmp_path / network, network), tmp_path / "out", heads=paths[1])
    assert not list(tmp_path.glob("out*"))


def evaluate_points(model: Path) -> np.ndarray:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    return Predictor(model)([image], np.array([[10, 10, 50, 50]], np.float32)).points


def test_a_tutor_that_is_not_there_cannot_be_exported(tmp_path: Path) -> None:
    assert export.main([str(untrained(tmp_path, "vote")), str(tmp_path / "out"), "--tutor"]) == 2
    assert not list(tmp_path.glob("out*"))
