"""The released networks: files match their cards, and reference outputs for users of other runtimes are right."""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from nodes import _backend
from nodes._geometry import MEAN, SCALE, to_input

CARDS = sorted(_backend.MODELS.glob("*.json"))


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_files_match_their_card(path: Path) -> None:
    card = json.loads(path.read_text())
    for name, digest in card["files"].items():
        assert hashlib.sha256(path.with_name(name).read_bytes()).hexdigest() == digest, name
    assert {Path(name).suffix for name in card["files"]} == {".onnx", ".mnn", ".pt2"}


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_input_matches_the_run_time(path: Path) -> None:
    contract = json.loads(path.read_text())["input"]
    assert (contract["colour"], contract["mean"], contract["scale"]) == ("BGR", MEAN, SCALE)


@pytest.mark.parametrize("backend", ["onnxruntime", "mnn"])
@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_the_reference_picture_gives_the_reference_numbers(path: Path, backend: str) -> None:
    reference = json.loads(path.read_text())["reference"]
    image = cv2.imread(str(path.with_name(reference["picture"])))
    assert image is not None
    found = _backend.load(path.with_suffix(""), backend).run(to_input(image[None]))
    for name, value in found.items():
        expected = reference[name]
        assert list(value.shape) == expected["shape"]
        assert value.ravel()[:: expected["every"]] == pytest.approx(np.array(expected["values"]), abs=0.02), name
