"""Settings of a training run: a YAML file, and `--set place=value` on the command line."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError


class SettingsError(ValueError):
    """A wrong setting, file or folder, which the user can correct; shown without a traceback."""


class Strict(BaseModel):
    """Base of all settings: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RunSettings(Strict):
    """Settings of the loop; those of the task, such as `data`, are under `settings`."""

    name: str
    """Folder under runs/ for checkpoints and logs."""
    task: str
    """Class to train, as package.module:Class."""
    settings: dict[str, Any] = {}
    """Settings of that class."""
    init: Path | None = None
    """Checkpoint of another run of the same network, whose averaged weights this one starts from."""
    seed: int = 1
    steps: int = Field(gt=0)
    minutes: float = Field(0.0, ge=0)
    """Length of the run in minutes of training; the schedule then follows the clock, and `steps` is an upper limit. 0:
    `steps` is the length, and the same seed gives the same weights."""
    batch: int = Field(32, gt=0)
    learning_rate: float = Field(3e-3, gt=0)
    """Peak of the schedule: linear warm-up, then cosine to a thousandth."""
    warm_up: float = Field(0.05, ge=0, lt=1)
    """Share of the run that is warm-up."""
    weight_decay: float = Field(1e-2, ge=0)
    """Decoupled; on convolution and linear kernels only, not on norms and biases."""
    clip: float = Field(5.0, gt=0)
    """Largest norm of the gradient."""
    ema: float = Field(0.999, ge=0, lt=1)
    """Decay per step of the averaged weights, which are validated and released."""
    validate_every: int = Field(1000, gt=0)
    log_every: int = Field(100, gt=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """cpu, cuda, or auto: cuda if there is a GPU."""
    amp: bool = True
    """bfloat16 autocast on a GPU; not used on CPUs, where it was slower than float32 in all measurements."""
    threads: int = Field(0, ge=0)
    """torch threads; 0: torch's default."""
    workers: int = Field(0, ge=0)
    """Processes that draw batches; 0: they are drawn in the loop."""
    looks: int = Field(1, gt=0)
    """Steps for which each drawn batch is used, mirrored and relit on the device in between. It helps if drawing is the
    bottleneck, as on a GPU. Source: Choi et al. 2019, "Faster Neural Network Training with Data Echoing"."""
    parts: int = Field(0, ge=0)
    """Number of parts of a batch, which are drawn and normalised separately and divided among the processes that
    torchrun starts; more parts than processes need less memory. 0: one per process. The same number of parts gives the
    same losses, up to rounding."""
    compile: Literal["", "inductor", "aot_eager"] = ""
    """Backend of torch.compile; inductor needs a C++ compiler, and was no faster on the CPUs measured. Empty: none."""


def load_settings(path: Path, overrides: Sequence[str] = ()) -> RunSettings:
    """Read a training config. Raises SettingsError naming file, place, what was found and what would be valid.

    A config with `base: other.yaml`, a path relative to its own folder, inherits what it does not set. In such a config
    and in an override, null removes a setting, or an entry such as a data set, so that its default applies.
    """
    content = _read(path)
    for override in overrides:
        _assign(content, override)
    return checked(RunSettings, content, str(path))


def _read(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as exc:
        raise SettingsError(f"{path}: {exc.strerror}") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{path}: not valid YAML: {exc}") from exc
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: expected a mapping of settings, found {type(content).__name__}")
    base = content.pop("base", None)
    if base is None:
        return content
    above = (*above, path.resolve())
    if not isinstance(base, str) or (path.parent / base).resolve() in above:
        raise SettingsError(f"{path}: base: expected the name of another config, found {base!r}")
    return _merged(_read(path.parent / base, above), content)


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return `base` updated with `own`, mapping by mapping, without the settings that are null in `own`."""
    both = base | own
    for name in base.keys() & own.keys():
        if own[name] is None:
            del both[name]
        elif isinstance(base[name], dict) and isinstance(own[name], dict):
            both[name] = _merged(base[name], own[name])
    return both


def checked(kind: type[Strict], content: dict[str, Any], place: str) -> Any:
    """Validate `content` as `kind`. Raises SettingsError with a line per fault, with suggestions for unknown keys."""
    try:
        return kind.model_validate(content)
    except ValidationError as exc:
        lines = [f"{place}: {_explain(kind, error)}" for error in exc.errors()]
        raise SettingsError("\n".join(lines)) from exc


def _explain(kind: type[BaseModel], error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        wrong = error["msg"].removeprefix("Value error, ")
        found = "" if isinstance(error["input"], dict) else f", found {error['input']!r}"  # not the whole mapping
        return f"{where}: {wrong[0].lower()}{wrong[1:]}{found}".removeprefix(": ")
    for part in error["loc"][:-1]:
        if part in kind.model_fields:
            annotation = kind.model_fields[part].annotation
            types = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type)]
            kind = next((a for a in types if issubclass(a, BaseModel)), kind)
    near = difflib.get_close_matches(str(error["loc"][-1]), kind.model_fields, 1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(kind.model_fields)}"
    return f"no setting '{where}'; {hint}"


def _assign(content: dict[str, Any], override: str) -> None:
    place, equals, value = override.partition("=")
    if not equals:
        raise SettingsError(f"--set {override}: expected place=value, as in --set steps=100")
    *parents, last = place.split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
        if not isinstance(content, dict):
            raise SettingsError(f"--set {override}: '{parent}' is a single value and has no settings below it")
    try:
        found = yaml.safe_load(value)
    except yaml.YAMLError as exc:
        raise SettingsError(f"--set {override}: not a YAML value: {str(exc).splitlines()[0]}") from exc
    if found is None and last in content:
        del content[last]
    else:
        content[last] = found
