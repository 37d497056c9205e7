"""Export a checkpoint to ONNX, MNN and torch, with a card, and check that all three give the same numbers.

python -m training.export runs/landmarks/best.pt nodes/models/landmarks
"""

import hashlib
import io
import json
import logging
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch
from matplotlib.cbook import get_sample_data
from numpy.typing import NDArray
from rich.console import Console
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nodes import _backend
from nodes._geometry import MEAN, SCALE, to_input
from training import checkpoint, command, mnn_converter, quantise
from training.contact_sheet import save_picture
from training.files import ending, together
from training.heads import take_heads
from training.landmark_net import macs
from training.settings import RunSettings, checked
from training.task import Deployment, load_task
from training.tutor import pupil_of, tutor_of

logger = logging.getLogger("training")

OPSET = 18
TOLERANCE = 1e-3
"""Largest difference allowed between torch and an exported file, as a share of an output's range (at least 1)."""
SUFFIXES = {backend: suffix for backend, (_, suffix, _) in _backend.BACKENDS.items()}


def export(source: Path, target: Path, overrides: dict[str, Any] | None = None, int8: bool = False,
           tutor: bool = False, heads: Path | None = None) -> dict[str, Any]:
    """Write target.onnx, .mnn, .pt2, .json and .png from the averaged weights of a checkpoint; return the card.

    All files are replaced together at the end. `int8` also writes target-int8.onnx, .mnn and .json, and adds a
    comparison as card["int8"]. `tutor` exports the checkpoint's tutor (`training.tutor`), `heads` takes the heads of
    another checkpoint (`training.heads`).
    """
    state = checkpoint.load(source)
    settings = checked(RunSettings, state["settings"] | {"device": "cpu"}, str(source))
    task = load_task(settings.task, settings.settings | (overrides or {}))
    network = task.network()
    network.load_state_dict(state["ema"])
    network = tutor_of(network) if tutor else network
    history = origin(state)
    if heads is not None:
        history["heads"] = origin(take_heads(pupil_of(network), heads))
    network.eval()
    deployment = task.deploy(network, portrait())
    with torch.inference_mode():
        metrics = task.validate(network)
    fold_batch_norm(deployment.module.eval())
    about = {"name": f"{settings.name}-tutor" if tutor else settings.name, "training": history,
             "accuracy": {name: round(value, 4) for name, value in metrics.items()}}
    target = target.with_suffix("") if target.suffix in SUFFIXES.values() else target
    with together(target.parent) as folder:
        card = write(deployment, folder / target.name, about)
        more = {"int8": quantise.quantise(deployment, folder / target.name, card)} if int8 else {}
    return card | more


def write(deployment: Deployment, target: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Write a network in all formats with its card, which includes `about`; return the card."""
    write_models(deployment, target)
    differences = {name: parity(deployment, target, name) for name in SUFFIXES}
    card = {
        "name": about["name"],
        "input": {"name": "image", "shape": input_shape(deployment), "dtype": "float32",
                  "colour": "BGR", "mean": MEAN, "scale": SCALE, **deployment.contract},
        "outputs": deployment.outputs,
        "cost": cost(deployment),
        "accuracy": about["accuracy"],
        "training": about["training"],
        "data": deployment.terms,
        "parity": differences,
        "files": {target.name + suffix: sha256(ending(target, suffix)) for suffix in SUFFIXES.values()},
        "reference": reference(deployment, target),
    }
    text = json.dumps(card, indent=1)
    text = re.sub(r"\[[^][{}]*\]", lambda found: re.sub(r"\s+", " ", found.group()), text)  # a list on one line
    ending(target, ".json").write_text(text + "\n")
    return card


def origin(state: dict[str, Any]) -> dict[str, Any]:
    """Return the entry of the card on the run that wrote a checkpoint."""
    settings = state["settings"]
    return {"steps": state["step"], "minutes": round(state["seconds"] / 60, 1), "seed": settings["seed"],
            "commit": state["commit"], "init": settings["init"], "settings": settings["settings"] | {"data": "data"}}


def input_shape(deployment: Deployment) -> list[int | str]:
    """Return the input's shape, with names for the axes whose size is free."""
    count, height, width, channels = deployment.images.shape
    return [deployment.dynamic.get(axis, side) for axis, side in enumerate((count, channels, height, width))]


def fold_batch_norm(module: nn.Module) -> None:
    """Fold every batch norm that follows a convolution in a Sequential into it, in place; for evaluation mode."""
    for child in module.modules():
        if isinstance(child, nn.Sequential):
            for i, (first, second) in enumerate(zip(child, list(child)[1:], strict=False)):
                if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                    child[i], child[i + 1] = fuse_conv_bn_eval(first, second), nn.Identity()


def write_models(deployment: Deployment, target: Path) -> None:
    """Write the three files of one network."""
    example = torch.from_numpy(to_input(deployment.images[:2]))
    program = torch.export.export(
        deployment.module, (example,), dynamic_shapes=(dict.fromkeys(deployment.dynamic, torch.export.Dim.AUTO),)
    )
    write_torch(program, ending(target, ".pt2"))
    write_onnx(deployment, example, ending(target, ".onnx"))
    mnn_converter.convert(ending(target, ".onnx"), ending(target, ".mnn"))


def write_torch(program: torch.export.ExportedProgram, path: Path) -> None:
    """Save without the example input and the stack traces, which name folders of this machine."""
    program.example_inputs = None
    for module in program.graph_module.modules():
        for node in module.graph.nodes if hasattr(module, "graph") else ():
            for key in ("stack_trace", "nn_module_stack"):
                node.meta.pop(key, None)
    content = io.BytesIO()
    torch.export.save(program, content)  # writing to a file, it ends the process if the disk is full
    path.write_bytes(content.getbuffer())


def write_onnx(deployment: Deployment, example: torch.Tensor, path: Path) -> None:
    """Write one self-contained file without metadata about this machine."""
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about its own internals
        program = torch.onnx.export(
            deployment.module, (example,), dynamo=True, verbose=False, opset_version=OPSET, input_names=["image"],
            output_names=list(deployment.outputs), dynamic_shapes=(deployment.dynamic,), optimize=True,
        )
    quiet.setLevel(level)
    model = program.model_proto
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output,
                 *model.graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    model.ClearField("metadata_props")
    onnx.checker.check_model(model)
    onnx.save(model, path)


def parity(deployment: Deployment, target: Path, backend: str) -> dict[str, float]:
    """Return the largest difference from torch per output, run as at run time, for one picture and for all at once.

    Raises RuntimeError if one is over `TOLERANCE`.
    """
    model = _backend.load(target, backend)
    batch = to_input(deployment.images)
    with torch.inference_mode():
        expected = {name: value.numpy() for name, value in deployment.module(torch.from_numpy(batch)).items()}
    differences: dict[str, float] = {}
    for images in (slice(0, 1), slice(None)) if 0 in deployment.dynamic else (slice(0, 1),):
        found = model.run(np.ascontiguousarray(batch[images]))
        if set(found) != set(deployment.outputs):
            raise RuntimeError(f"{target}: {backend} gives {sorted(found)}, expected {sorted(deployment.outputs)}")
        for name, value in found.items():
            true = expected[name][images]
            difference = float(np.abs(value - true).max()) if value.shape == true.shape else np.inf
            limit = TOLERANCE * max(1.0, float(np.ptp(true)))
            if not difference <= limit:
                raise RuntimeError(f"{target}: {backend} is off in {name!r} by {difference:g}, over {limit:g}")
            differences[name] = max(differences.get(name, 0.0), float(f"{difference:.2g}"))
    return differences


def cost(deployment: Deployment) -> dict[str, Any]:
    """Return the multiply-adds for one picture of the reference's size, and the number of weights."""
    image = torch.from_numpy(to_input(deployment.images[:1]))
    with torch.inference_mode():
        total = macs(deployment.module, image)
    return {"macs": total, "parameters": sum(p.numel() for p in deployment.module.parameters())}


def reference(deployment: Deployment, target: Path) -> dict[str, Any]:
    """Write the reference picture as target.png and return the network's outputs for it.

    Of an output with more than 512 numbers, 32 at even distances in the flattened array are returned.
    """
    save_picture(ending(target, ".png"), deployment.images[0])
    with torch.inference_mode():
        outputs = deployment.module(torch.from_numpy(to_input(deployment.images[:1])))
    found: dict[str, Any] = {"picture": f"{target.name}.png"}
    for name, value in outputs.items():
        flat = value.flatten().numpy().astype(float)
        every = 1 if flat.size <= 512 else flat.size // 32
        found[name] = {"shape": list(value.shape), "every": every, "values": [round(x, 4) for x in flat[::every]]}
    return found


def portrait() -> NDArray[np.uint8]:
    """Return the public-domain portrait of Grace Hopper that comes with matplotlib, (600, 512, 3) BGR."""
    image = cv2.imread(str(get_sample_data("grace_hopper.jpg", asfileobj=False)))
    assert image is not None, "matplotlib has no grace_hopper.jpg"
    return image


def sha256(path: Path) -> str:
    """Return the digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and export; return 0, 2 if a file or setting is wrong, 130 if stopped."""
    parser = command.parser("export", __doc__)
    parser.add_argument("checkpoint", type=Path, help="file of a run, such as runs/landmarks/best.pt")
    parser.add_argument("target", type=Path, help="path of the files to write, without suffix")
    parser.add_argument("--data", help="folder of the data sets, if it has moved since the training")
    parser.add_argument("--tutor", action="store_true",
                        help="export the larger network that was trained together with the landmark network")
    parser.add_argument("--heads", type=Path, metavar="CHECKPOINT",
                        help="take the heads for presence and states from this other checkpoint")
    parser.add_argument("--int8", action="store_true", help="also write int8 versions, and compare them")
    options = parser.parse_args(arguments)

    def work() -> None:
        moved = {"data": options.data} if options.data else None
        card = export(options.checkpoint, options.target, moved, options.int8, options.tutor, options.heads)
        logger.info("%s", json.dumps({key: card[key] for key in ("cost", "accuracy", "parity")}, indent=1))
        if options.int8:
            quantise.show(card["int8"], Console())

    return command.run(work)


if __name__ == "__main__":
    sys.exit(main())
