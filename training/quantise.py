"""Writes int8 versions of an exported network and compares their error, time and size with the float32 ones.

ONNX uses static quantisation: weights per channel, and activations in 8 bits with scales from real pictures. MNN uses
int8 weights and float activations: its static quantisation does not work for these networks (its tool crashes, or the
points are far off). Everything outside the convolutions, such as the decoding of points, stays in floats.
"""

import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from rich.console import Console
from rich.table import Table

from nodes import _backend
from nodes._geometry import Floats, to_input
from training.files import ending
from training.mnn_converter import convert
from training.task import Deployment

WORSE = 1.03
"""An int8 network is worth releasing if its error is at most this many times that of float32, and it is faster."""
REPEATS = 200


class _Inputs(CalibrationDataReader):
    """Network inputs one by one, for onnxruntime's calibration."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._inputs: Iterator[Floats] = (to_input(image[None]) for image in images)

    def get_next(self) -> dict[str, Floats] | None:
        """Return the next input by name, None at the end."""
        batch = next(self._inputs, None)
        return None if batch is None else {"image": batch}


def write_onnx_int8(source: Path, path: Path, images: NDArray[np.uint8]) -> None:
    """Quantise an ONNX file, with scales from its activations on pictures (B, H, W, 3)."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # onnxruntime recommends steps that are taken here
    try:
        with tempfile.TemporaryDirectory() as folder:
            clean = Path(folder) / "clean.onnx"
            quant_pre_process(str(source), str(clean), skip_symbolic_shape=True)
            quantize_static(
                str(clean), str(path), _Inputs(images), quant_format=QuantFormat.QDQ, op_types_to_quantize=["Conv"],
                per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.Percentile,
            )
    finally:
        root.setLevel(level)


def write_mnn_int8(source: Path, path: Path) -> None:
    """Convert an ONNX file to MNN with the weights of its convolutions in int8."""
    convert(source, path, "--weightQuantBits", "8")


def quantise(deployment: Deployment, target: Path, card: dict[str, Any]) -> dict[str, Any]:
    """Write target-int8.onnx, .mnn and .json beside an exported network; return name, error, ms and bytes of each."""
    small = target.with_name(f"{target.name}-int8")
    write_onnx_int8(ending(target, ".onnx"), ending(small, ".onnx"), deployment.calibration)
    write_mnn_int8(ending(target, ".onnx"), ending(small, ".mnn"))
    shutil.copyfile(ending(target, ".png"), ending(small, ".png"))
    rows = compare(deployment, target, small)
    own = {key: value for key, value in card.items() if key not in ("parity", "files", "reference")}
    text = json.dumps(own | {"name": small.name, "int8": rows}, indent=1)
    ending(small, ".json").write_text(text + "\n")
    return rows


def compare(deployment: Deployment, target: Path, small: Path) -> dict[str, Any]:
    """Measure the networks of onnxruntime and MNN, float32 and int8, by turns on one thread."""
    networks = {
        f"{backend} {kind}": _backend.load(ending(path, _backend.BACKENDS[backend][1]), backend)
        for backend in ("onnxruntime", "mnn") for kind, path in (("float32", target), ("int8", small))
    }
    batch = to_input(deployment.images[:1])
    calls: dict[str, Callable[[], object]] = {name: lambda n=n: n.run(batch) for name, n in networks.items()}
    milliseconds = by_turns(calls, REPEATS)
    rows: dict[str, Any] = {}
    for name, network in networks.items():
        backend, _, kind = name.partition(" ")
        path = small if kind == "int8" else target
        error, value = next(iter(deployment.measure(network.run).items()))
        rows[name] = {
            error: round(value, 4), "ms": [round(float(t), 3) for t in milliseconds[name]],
            "bytes": ending(path, _backend.BACKENDS[backend][1]).stat().st_size,
        }
        if kind == "int8":
            rows[name]["worth releasing"] = worth(rows[name], rows[f"{backend} float32"], error)
    return rows


def worth(small: dict[str, Any], full: dict[str, Any], error: str) -> bool:
    """Say whether an int8 network has hardly more error than its float32 original and a lower least time.

    The least time depends the least on other load on the machine.
    """
    return bool(small[error] <= WORSE * full[error] and small["ms"][0] < full["ms"][0])


def by_turns(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, NDArray[np.float64]]:
    """Return least and median milliseconds of calls that take turns, so that other load affects all alike."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + repeats // 10):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn >= repeats // 10:
                taken[name].append((time.perf_counter() - start) * 1e3)
    return {name: np.percentile(values, [0, 50]) for name, values in taken.items()}


def show(rows: dict[str, Any], console: Console) -> None:
    """Print the comparison."""
    error = next(iter(next(iter(rows.values()))))
    table = Table("network", error, "ms least", "ms median", "bytes", "worth releasing")
    for name, row in rows.items():
        verdict = {True: "yes", False: "no", None: ""}[row.get("worth releasing")]
        table.add_row(name, f"{row[error]:.4f}", *(f"{t:.3f}" for t in row["ms"]), str(row["bytes"]), verdict)
    console.print(table)
