"""Compare networks, or values of any other setting, with the same data, augmentation and number of steps.

python -m training.compare configs/train/landmarks.yaml --steps 4000 --set settings.data=../data \\
    --set settings.init=null --vary settings.network=vote,slim,slim-vote

The networks are trained one after the other. Ctrl-C stops and saves; the same command then continues. The last averaged
weights of each are measured on the held-out faces: the best ones would have been chosen on these very faces. A table in
Markdown is printed and written.
"""

import json
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from nodes import _backend
from nodes._geometry import to_input
from training import checkpoint, command, export
from training.quantise import by_turns
from training.resume import FREE, check_same, is_complete
from training.settings import RunSettings, SettingsError, checked, load_settings
from training.task import load_task, task_class
from training.train import train

logger = logging.getLogger("training")

REPEATS = 200
COSTS = {"parameters": "{:,.0f}", "M MAC": "{:.1f}", "ms": "{:.2f}", "steps": "{:,.0f}", "minutes": "{:.0f}"}
"""Columns of the table that are not measures, and their formats."""

Row = dict[str, float]


def plan(config: Path, vary: str, overrides: list[str]) -> dict[str, RunSettings]:
    """Return the settings of the run of each value, named after config and value; all are checked before one starts."""
    place, equals, text = vary.partition("=")
    try:
        values = yaml.safe_load(f"[{text}]") if equals else None
    except yaml.YAMLError:
        values = None
    if not values:
        raise SettingsError(f"--vary {vary}: expected PLACE=VALUE,VALUE, as in settings.network=vote,slim")
    runs = {}
    for value in values:
        label = value if isinstance(value, str) else json.dumps(value)
        settings = load_settings(config, [*overrides, f"{place}={json.dumps(value)}"])
        checked(task_class(settings.task).Settings, settings.settings, "settings")
        runs[label] = settings.model_copy(update={"name": f"{settings.name}-{re.sub(r'[^A-Za-z0-9.]+', '-', label)}"})
    return runs


def finish(settings: RunSettings, runs: Path) -> None:
    """Train a run to its end, or from where it stopped.

    Raises SettingsError when the folder holds a run of other settings.
    """
    last = runs / settings.name / "last.pt"
    if last.exists():
        state = checkpoint.load(last)
        check_same(settings, state["settings"], last, FREE)
        if is_complete(settings, state):
            return
    train(settings, runs)


def measure(settings: RunSettings, folder: Path) -> tuple[Row, Callable[[], object]]:
    """Measure the last averaged weights of a run; return its row, and a call of the exported network, to be timed."""
    state = checkpoint.load(folder / "last.pt")
    task = load_task(settings.task, settings.settings)
    network = task.network()
    network.load_state_dict(state["ema"])
    with torch.inference_mode():
        metrics = task.validate(network.eval())
    deployment = task.deploy(network, export.portrait())
    cost = export.cost(deployment)
    export.fold_batch_norm(deployment.module)
    file = folder / "network.onnx"
    export.write_onnx(deployment, torch.from_numpy(to_input(deployment.images[:2])), file)
    network_file, picture = _backend.load(file), to_input(deployment.images[:1])
    row = {"parameters": cost["parameters"], "M MAC": cost["macs"] / 1e6, "steps": state["step"],
           "minutes": state["seconds"] / 60, **metrics}
    return row, lambda: network_file.run(picture)


def table(name: str, rows: dict[str, Row]) -> str:
    """Return the rows in Markdown, what it costs first; a measure that a network does not have stays empty."""
    measures = [key for key in dict.fromkeys(key for row in rows.values() for key in row) if key not in COSTS]
    columns = [*COSTS, *measures]
    lines = [f"| {' | '.join([name, *columns])} |", "|---" * (len(columns) + 1) + "|"]
    for value, row in rows.items():
        cells = [COSTS.get(key, "{:.3g}").format(row[key]) if key in row else "" for key in columns]
        lines.append(f"| {' | '.join([value, *cells])} |")
    return "\n".join(lines)


def compare(config: Path, vary: str, overrides: list[str], runs: Path) -> str:
    """Train and measure everything; return the table. Raises KeyboardInterrupt when a signal has stopped it."""
    trained = {}
    for value, settings in plan(config, vary, overrides).items():
        try:
            finish(settings, runs)
            trained[value] = settings
        except FloatingPointError as exc:
            logger.error("%s; left out", exc)
    if not trained:
        raise SettingsError("nothing to compare: no run came to its end")
    rows, calls = {}, {}
    for value, settings in trained.items():
        rows[value], calls[value] = measure(settings, runs / settings.name)
    for value, (least, _) in by_turns(calls, REPEATS).items():
        rows[value]["ms"] = float(least)
    batch, seed = (", ".join(dict.fromkeys(str(getattr(settings, name)) for settings in trained.values()))
                   for name in ("batch", "seed"))
    note = f"batch {batch}, seed {seed}; ms: least of {REPEATS} on one thread"
    text = f"{table(vary.partition('=')[0].rpartition('.')[2], rows)}\n\n{note}"
    (runs / "comparison.md").write_text(text + "\n")
    (runs / "comparison.json").write_text(json.dumps(rows, indent=1) + "\n")
    return text


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and compare; return 0, 2 if a setting or file is wrong, 130 if stopped."""
    parser = command.parser("compare", __doc__)
    parser.add_argument("config", type=Path, help="training config that all runs share")
    parser.add_argument("--vary", required=True, metavar="PLACE=VALUE,VALUE,...",
                        help="setting that differs, and its values")
    parser.add_argument("--steps", type=int, help="steps of each run (default: those of the config)")
    parser.add_argument("--set", action="append", default=[], metavar="PLACE=VALUE", dest="overrides",
                        help="change one setting of all runs; may be repeated")
    parser.add_argument("--runs", type=Path, default=Path("runs/compare"),
                        help="folder for the runs and the table (default: %(default)s)")
    options = parser.parse_args(arguments)
    steps = [] if options.steps is None else [f"steps={options.steps}"]
    return command.run(lambda: print(compare(options.config, options.vary, [*options.overrides, *steps], options.runs)),
                       "stopped; the same command continues from the last checkpoint", command.TIMED)


if __name__ == "__main__":
    sys.exit(main())
