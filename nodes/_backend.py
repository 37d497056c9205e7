"""Run a network on onnxruntime, MNN or torch, for any batch and picture size."""

import difflib
import json
import os
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from graph import ConfigError
from nodes._native import native

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]

MODELS = Path(__file__).with_name("models")
"""The folder of the released networks."""

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime 1.32 reports to its maker when it is imported


class MissingPackage(ConfigError, ModuleNotFoundError):
    """The package of a backend is not installed."""


class UnfitNetwork(ConfigError, ValueError):
    """A file is not a network, or its device is not available."""


class Backend(Protocol):
    """A loaded network."""

    def run(self, batch: Floats) -> dict[str, Floats]:
        """Map a contiguous float32 batch (B, 3, H, W) to the network's outputs by name, each (B, ...)."""
        ...


class OnnxRuntime:
    """A `.onnx` file on onnxruntime."""

    def __init__(self, path: Path, threads: int, device: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        # Spinning saves one session microseconds and costs all other processes of the graph CPU time.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = ["CPUExecutionProvider"]
        if device == "cuda":
            if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
                raise UnfitNetwork("device 'cuda': this onnxruntime has only "
                                   f"{onnxruntime.get_available_providers()}; "
                                   "pip install onnxruntime-gpu in its place")
            providers.insert(0, "CUDAExecutionProvider")
        self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, batch: Floats) -> dict[str, Floats]:
        """Map (B, 3, H, W) to outputs by name."""
        return dict(zip(self._outputs, self._session.run(self._outputs, {self._input: batch}), strict=True))


class Mnn:
    """A `.mnn` file on MNN's CPU backend, in float32 (its normal precision)."""

    def __init__(self, path: Path, threads: int, device: str) -> None:
        if device != "cpu":
            raise UnfitNetwork(f"device {device!r}: the mnn backend runs on 'cpu'; "
                               "use backend 'onnxruntime' or 'torch'")
        native("_mnncengine")
        from MNN import expr, nn

        config = {"backend": "CPU", "numThread": threads}
        self._expr = expr
        self._runtime = nn.create_runtime_manager((config,))  # kept alive here: the module only refers to it
        # Empty lists: all inputs and outputs of the file; get_info() then returns their names in order.
        self._module = nn.load_module_from_file(str(path), [], [], runtime_manager=self._runtime)
        self._outputs = self._module.get_info()["outputNames"]

    def run(self, batch: Floats) -> dict[str, Floats]:
        """Map (B, 3, H, W) to outputs by name."""
        results = self._module.onForward([self._expr.const(batch, batch.shape, self._expr.NCHW)])
        # read() returns a view of MNN's memory, which the next run overwrites.
        return {name: np.array(value.read(), np.float32) for name, value in zip(self._outputs, results, strict=True)}


class Torch:
    """A `.pt2` program of torch.export."""

    def __init__(self, path: Path, threads: int, device: str) -> None:
        import torch

        if device == "cuda" and not torch.cuda.is_available():
            raise UnfitNetwork("device 'cuda': torch finds no usable GPU here; use device 'cpu'")
        torch.set_num_threads(threads)
        self._torch, self._device = torch, torch.device(device)
        self._module = torch.export.load(str(path)).module().to(self._device)

    def run(self, batch: Floats) -> dict[str, Floats]:
        """Map (B, 3, H, W) to outputs by name."""
        with self._torch.inference_mode():
            results = self._module(self._torch.from_numpy(batch).to(self._device))
        return {name: value.cpu().numpy() for name, value in results.items()}


BACKENDS: dict[str, tuple[type[OnnxRuntime] | type[Mnn] | type[Torch], str, str]] = {
    "onnxruntime": (OnnxRuntime, ".onnx", "onnxruntime"),
    "mnn": (Mnn, ".mnn", "MNN"),
    "torch": (Torch, ".pt2", "torch"),
}
"""Class, file suffix and package of each backend, by its name in settings."""


def load(path: str | Path, backend: str = "onnxruntime", threads: int = 1, device: str = "cpu") -> Backend:
    """Load a network file; without suffix, the backend's own is added.

    Raises FileNotFoundError naming the absolute path, ModuleNotFoundError saying what to install, and ValueError for
    an unknown backend or device, a file of another backend, or one that cannot be read as a network.
    """
    file = locate(path, backend)
    one_of(device, "device", ("cpu", "cuda"))
    kind, _, package = BACKENDS[backend]
    if os.fsencode(file) != str(file).encode(errors="replace"):
        raise UnfitNetwork(f"{file}: {package} cannot open a path that is not UTF-8; rename the file or folder")
    try:
        return kind(file, threads, device)
    except ModuleNotFoundError as exc:
        raise MissingPackage(f"backend {backend!r} needs the package {package}: {remedy(package)}") from exc
    except _load_errors() as exc:
        raise UnfitNetwork(f"{file}: {package} cannot read this as a network "
                           f"({file.stat().st_size} bytes): {_reason(exc)}") from exc


def remedy(package: str) -> str:
    """Return the command that installs the package of a backend, in the version that this project is tested with."""
    return "pip install '.[train]'" if package == "torch" else f"pip install {package}"


def card(path: str | Path) -> dict[str, Any]:
    """Read the card of a network file, which has the same name with suffix .json.

    Raises FileNotFoundError naming the absolute path, and ValueError if it is not a card.
    """
    suffixes = {suffix for _, suffix, _ in BACKENDS.values()}
    path = or_released(path)
    file = (path.with_suffix("") if path.suffix in suffixes else path).absolute()
    file = file.with_name(file.name + ".json")
    try:
        content = json.loads(file.read_text())
        content["input"]["shape"]
    except FileNotFoundError as exc:
        raise FileNotFoundError(f"no card {file}: a network needs the card that its export wrote next to it") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise ValueError(f"{file}: not the card of a network: {exc!r}; expected JSON with input.shape") from exc
    return dict(content)


def check_gives(path: str | Path, output: str) -> None:
    """Raise ValueError if a network has no such output according to its card (faces and landmarks mixed up).

    A network without a card passes.
    """
    with suppress(FileNotFoundError):
        outputs = card(path).get("outputs", [output])
        if output not in outputs:
            raise ValueError(f"{path}: a network that gives {', '.join(outputs)}; expected one that gives {output}")


def or_released(path: str | Path) -> Path:
    """Return the path, or, for a name such as `landmarks-large` without a file here, that of the released network."""
    path = Path(path)
    bare = path.name == str(path) and not path.suffix and not any(Path().glob(f"{path.name}.*"))
    return MODELS / path if bare and (MODELS / f"{path.name}.json").is_file() else path


def locate(path: str | Path, backend: str) -> Path:
    """Return the absolute path of the file that `load` would read. Raises the same errors as `load`."""
    path = or_released(path)
    suffix = BACKENDS[one_of(backend, "backend", tuple(BACKENDS))][1]
    suffixes = {own: name for name, (_, own, _) in BACKENDS.items()}
    if path.suffix in suffixes and path.suffix != suffix:
        raise ValueError(f"{path}: a file for backend {suffixes[path.suffix]!r}, but the backend is {backend!r}, "
                         f"which reads {suffix}")
    file = (path if path.suffix == suffix else path.with_name(path.name + suffix)).absolute()
    if file.is_file():
        return file
    others = sorted(other.name for other in file.parent.glob(f"*{suffix}"))
    released = [model.stem for model in MODELS.glob("*.json")] if path.name == str(path) else []
    near = difflib.get_close_matches(file.name, others, 1) or difflib.get_close_matches(path.name, released, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"{suffix} files there: {others or 'none'}"
    raise FileNotFoundError(f"no network file {file}; {hint}")


def one_of(value: str, name: str, valid: tuple[str, ...]) -> str:
    """Return `value`; raise ValueError with a hint unless it is one of `valid`."""
    if value in valid:
        return value
    near = difflib.get_close_matches(value, valid, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name} {value!r} is not one of {', '.join(map(repr, valid))}{hint}")


def whole_number(value: int, name: str, least: int) -> int:
    """Return `value`; raise ValueError unless it is a whole number of at least `least`."""
    if isinstance(value, int | np.integer) and value >= least:
        return int(value)
    raise ValueError(f"{name}: expected a whole number, {least} or more, found {value!r}")


def check_picture(image: Image) -> None:
    """Raise ValueError, with advice, unless `image` is (H, W, 3) uint8 and not empty."""
    expected = "expected a BGR picture, a numpy array uint8 (H, W, 3)"
    if not isinstance(image, np.ndarray):
        found = "None: cv2.imread returns that if a file is missing or not a picture"
        raise ValueError(f"{expected}, found {found if image is None else type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"{expected}, found {image.dtype} {image.shape}{_conversion(image)}")


def _conversion(image: NDArray[Any]) -> str:
    """Return how to convert other common arrays, for an error message."""
    if image.dtype.kind == "f":
        return "; (image * 255).astype(np.uint8) converts one from 0 to 1"
    if image.dtype != np.uint8 or not image.size:
        return ""
    if image.ndim == 2 or image.shape[2:] == (1,):
        return "; cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) converts it"
    return "; cv2.cvtColor(image, cv2.COLOR_BGRA2BGR) converts it" if image.shape[2:] == (4,) else ""


def _load_errors() -> tuple[type[BaseException], ...]:
    """Return the exceptions for a broken file; those of onnxruntime have no common base but Exception."""
    onnx: Any = sys.modules.get("onnxruntime.capi.onnxruntime_pybind11_state")
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented")
    own = [getattr(onnx, name) for name in names] if onnx else []
    return (SystemError, RuntimeError, OSError, zipfile.BadZipFile, *own)


def _reason(exc: BaseException) -> str:
    """Return the first line of the innermost cause's message."""
    while exc.__cause__:
        exc = exc.__cause__
    return (str(exc).splitlines() or [type(exc).__name__])[0]
