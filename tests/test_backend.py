"""The three backends on the released networks (their numbers: test_models.py), and the errors if one is missing."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from graph import ConfigError
from nodes import _backend
from nodes._backend import MODELS, card, load
from nodes.detect import FaceDetector, FaceModel
from nodes.landmarks import LandmarkModel, Landmarks

BACKENDS = ["onnxruntime", "mnn", pytest.param("torch", marks=pytest.mark.slow)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_batch_and_any_picture_size(backend: str) -> None:
    if backend == "torch":
        pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    landmarks, faces = load(MODELS / "landmarks", backend), load(MODELS / "faces", backend)
    reference = load(MODELS / "landmarks"), load(MODELS / "faces")
    for batch in (3, 1, 8, 1):
        pictures = rng.uniform(-1, 1, (batch, 3, 160, 160)).astype(np.float32)
        outputs = landmarks.run(pictures)
        assert outputs["landmarks"].shape == (batch, 68, 2)
        np.testing.assert_allclose(outputs["landmarks"], reference[0].run(pictures)["landmarks"], atol=0.01)
    for height, width in ((192, 320), (64, 96), (320, 192)):
        picture = rng.uniform(-1, 1, (1, 3, height, width)).astype(np.float32)
        for name, level in faces.run(picture).items():
            np.testing.assert_allclose(level, reference[1].run(picture)[name], atol=0.01)


def test_results_are_not_overwritten_by_the_next_run() -> None:
    network = load(MODELS / "landmarks", "mnn")
    first = network.run(np.zeros((1, 3, 160, 160), np.float32))["landmarks"]
    kept = first.copy()
    network.run(np.ones((1, 3, 160, 160), np.float32))
    np.testing.assert_array_equal(first, kept)


def test_a_missing_file_is_named_with_its_absolute_path_and_a_suggestion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as none:
        load("my/landmark")
    assert str(none.value) == f"no network file {tmp_path}/my/landmark.onnx; .onnx files there: none"
    Path("my").mkdir()
    shutil.copy(MODELS / "landmarks.onnx", "my")
    with pytest.raises(FileNotFoundError, match=r"my/landmark\.onnx; did you mean 'landmarks\.onnx'\?"):
        load("my/landmark")
    assert load("my/landmarks").run(np.zeros((1, 3, 160, 160), np.float32))["presence"].shape == (1,)


def test_a_released_network_is_found_by_its_name_unless_a_file_here_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _backend.locate("landmarks-large", "mnn") == MODELS / "landmarks-large.mnn"
    with pytest.raises(FileNotFoundError, match=r"landmarks-larg\.mnn; did you mean 'landmarks-large'\?"):
        _backend.locate("landmarks-larg", "mnn")
    assert card("landmarks-large")["cost"]["macs"] > 2 * card("landmarks")["cost"]["macs"]
    shutil.copy(MODELS / "landmarks.onnx", "landmarks-large.onnx")
    assert _backend.locate("landmarks-large", "onnxruntime") == tmp_path / "landmarks-large.onnx"
    with pytest.raises(FileNotFoundError, match=rf"no network file {tmp_path}/landmarks-huge\.onnx"):
        load("landmarks-huge")


def test_wrong_names_are_refused_with_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="'onxruntime' is not one of 'onnxruntime', 'mnn', 'torch'; did you mean"):
        load(MODELS / "landmarks", "onxruntime")
    with pytest.raises(ValueError, match="device 'gpu' is not one of 'cpu', 'cuda'"):
        load(MODELS / "landmarks", device="gpu")
    with pytest.raises(ValueError, match=r"for backend 'onnxruntime', but the backend is 'mnn', which reads \.mnn"):
        load(MODELS / "landmarks.onnx", "mnn")
    with pytest.raises(ValueError, match="the mnn backend runs on 'cpu'"):
        load(MODELS / "landmarks", "mnn", device="cuda")


@pytest.mark.parametrize(("backend", "suffix"), [("onnxruntime", ".onnx"), ("mnn", ".mnn")])
@pytest.mark.parametrize("fault", ["cut off", "empty", "text"])
def test_a_broken_file_is_named(tmp_path: Path, backend: str, suffix: str, fault: str) -> None:
    whole = (MODELS / f"landmarks{suffix}").read_bytes()
    file = tmp_path / f"landmarks{suffix}"
    file.write_bytes({"cut off": whole[: len(whole) // 2], "empty": b"", "text": b"<html>404 not found</html>"}[fault])
    with pytest.raises(ValueError, match=r"cannot read this as a network \(\d+ bytes\)") as error:
        load(file, backend)
    assert str(error.value).startswith(str(file))


@pytest.mark.parametrize(
    ("backend", "package", "remedy"),
    [("onnxruntime", "onnxruntime", "onnxruntime"), ("mnn", "MNN", "MNN"), ("torch", "torch", "'.[train]'")],
)
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, backend: str, package: str, remedy: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    text = f"backend {backend!r} needs the package {package}: pip install {remedy}"
    with pytest.raises(ModuleNotFoundError, match=re.escape(text)) as error:
        load(MODELS / "landmarks", backend)
    assert isinstance(error.value, ConfigError)  # in a graph: one line without a traceback


def test_a_missing_or_wrong_card_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"no card {tmp_path}/face\.v2\.json"):
        card(tmp_path / "face.v2")
    (tmp_path / "face.json").write_text(json.dumps({"input": 160}))
    with pytest.raises(ValueError, match=r"face\.json: not the card of a network"):
        card(tmp_path / "face.onnx")


@pytest.mark.parametrize(
    ("use", "of", "text"),
    [
        (LandmarkModel, "faces", "gives stride8, stride16, stride32; expected one that gives landmarks"),
        (FaceModel, "landmarks", "gives landmarks, spread, states, presence; expected one that gives stride8"),
    ],
)
def test_a_network_with_other_outputs_is_refused(use: type, of: str, text: str) -> None:
    with pytest.raises(ValueError, match=rf"{of}: a network that {text}"):
        use(of)
    node = Landmarks if use is LandmarkModel else FaceDetector
    with pytest.raises(ValueError, match=text):
        node(model=of)


def test_a_detector_needs_no_card(tmp_path: Path) -> None:
    shutil.copy(MODELS / "faces.onnx", tmp_path)
    FaceModel(tmp_path / "faces")
    FaceDetector(model=str(tmp_path / "faces"))


def test_every_backend_has_its_released_files() -> None:
    for _, suffix, _ in _backend.BACKENDS.values():
        for name in ("faces", "landmarks", "landmarks-large"):
            assert (MODELS / f"{name}{suffix}").is_file()


@pytest.mark.parametrize(("backend", "suffix"), [("onnxruntime", ".onnx"), ("mnn", ".mnn")])
def test_a_folder_whose_name_is_not_utf8(tmp_path: Path, backend: str, suffix: str) -> None:
    path = Path(os.fsdecode(bytes(tmp_path) + b"/\xe4")) / f"faces{suffix}"
    path.parent.mkdir()
    shutil.copy(MODELS / path.name, path)
    with pytest.raises(ConfigError, match=f"faces{suffix}: .* cannot open a path that is not UTF-8"):
        load(path, backend)


@pytest.mark.slow
def test_no_telemetry_is_sent(tmp_path: Path) -> None:
    """onnxruntime's telemetry starts with an id for this machine in the user's folder."""
    unknown = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "CI")}
    code = "from nodes.detect import FaceModel; FaceModel()"
    folders = {name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME")}
    subprocess.run([sys.executable, "-c", code], env=unknown | folders, check=True, timeout=60)
    assert not list(tmp_path.rglob("*onnxruntime*"))
