"""Train a network from a config file; stop it with Ctrl-C, type the same line again and it goes on.

python -m training.train configs/train/landmarks.yaml --set settings.data=../data
"""

import argparse
import copy
import json
import logging
import math
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter

from training import checkpoint
from training.settings import RunSettings, SettingsError, load_settings
from training.task import Batch, Task, load_task

logger = logging.getLogger("training")


def train(settings: RunSettings, runs: Path = Path("runs")) -> float:
    """Run the loop to `settings.steps` or to the first signal; return the best value of the first metric."""
    folder = runs / settings.name
    folder.mkdir(parents=True, exist_ok=True)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    cv2.setNumThreads(1)
    torch.manual_seed(settings.seed)
    device = choose_device(settings.device)
    amp = torch.autocast(device.type, torch.bfloat16, enabled=settings.amp and device.type == "cuda")
    task = load_task(settings.task, settings.settings)
    network = task.network().to(device, memory_format=torch.channels_last)
    ema = copy.deepcopy(network).eval()
    optimiser = make_optimiser(network, settings)
    step, seconds = 0, 0.0
    best = -math.inf if task.higher_is_better else math.inf

    last = folder / "last.pt"
    if last.exists():
        state = checkpoint.load(last)
        network.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        optimiser.load_state_dict(state["optimiser"])
        checkpoint.restore_random_state(state["random"])
        step, best, seconds = state["step"], state["best"], state["seconds"]
        logger.info("%s: goes on from step %d, best %.4f", settings.name, step, best)

    def save(path: Path) -> None:
        checkpoint.save(path, {
            "model": network.state_dict(), "ema": ema.state_dict(), "optimiser": optimiser.state_dict(),
            "random": checkpoint.random_state(), "step": step, "best": best, "seconds": seconds,
            "settings": settings.model_dump(mode="json"), "commit": commit,
        })

    commit = checkpoint.git_commit()
    totals: dict[str, float] = {}
    logged, began = step, time.monotonic()
    with open_log(folder, step) as log, SummaryWriter(str(folder)) as board, Signals() as signals:
        for batch in batches(task, settings, step, device):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(step, settings)
            with amp:
                loss, parts = task.loss(network, batch)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
            optimiser.step()
            step += 1
            average(ema, network, min(settings.ema, (1 + step) / (10 + step)))
            for name, value in {"loss": loss.detach(), **parts, "gradient": norm}.items():
                totals[name] = totals.get(name, 0.0) + float(value)

            validating = step % settings.validate_every == 0 or step == settings.steps
            if step % settings.log_every == 0 or validating:
                elapsed = time.monotonic() - began
                seconds += elapsed
                means = {name: total / (step - logged) for name, total in totals.items()}
                if not math.isfinite(means["loss"]):
                    raise FloatingPointError(f"{settings.name}: the loss is not finite at step {step}; "
                                             f"lower learning_rate (now {settings.learning_rate})")
                speed = (step - logged) * settings.batch / elapsed
                record(log, board, "train", step, {**means, "rate": learning_rate(step, settings), "speed": speed})
                logger.info("%s %d/%d  %s  %.0f samples/s  %s left", settings.name, step, settings.steps, line(means),
                            speed, clock((settings.steps - step) * settings.batch / speed))
                totals, logged, began = {}, step, time.monotonic()
            if validating:
                metrics = task.validate(ema)
                record(log, board, "validation", step, {**metrics, "minutes": seconds / 60})
                logger.info("%s %d/%d  validation  %s", settings.name, step, settings.steps, line(metrics))
                value = next(iter(metrics.values()))
                if value > best if task.higher_is_better else value < best:
                    best = value
                    save(folder / "best.pt")
                save(last)
                began = time.monotonic()
            elif signals.received:
                save(last)
            if signals.received:
                logger.info("%s: stopped at step %d; the same command goes on from here", settings.name, step)
                break
    return best


def choose_device(name: str) -> torch.device:
    """Return the device of a setting. Raises SettingsError when it asks for a GPU and there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device: 'cuda', but torch finds no usable GPU here; use 'cpu' or 'auto'")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def make_optimiser(network: nn.Module, settings: RunSettings) -> torch.optim.AdamW:
    """Return AdamW with weight decay on kernels only."""
    kernels = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def learning_rate(step: int, settings: RunSettings) -> float:
    """Linear warm-up, then cosine down to a thousandth of the peak at the last step."""
    warm_up = round(settings.warm_up * settings.steps)
    if step < warm_up:
        return settings.learning_rate * (step + 1) / warm_up
    progress = (step - warm_up) / max(1, settings.steps - warm_up)
    return settings.learning_rate * (0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


@torch.no_grad()
def average(ema: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the averaged weights and batch-norm statistics towards the network's."""
    for mean, value in zip(ema.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


class Draws(Dataset[Batch]):
    """Batch `i` of a run, drawn from (seed, i) alone: workers and resumed runs get the same ones."""

    def __init__(self, task: Task, seed: int, batch: int) -> None:
        self.task, self.seed, self.size = task, seed, batch

    def __getitem__(self, step: int) -> Batch:
        return self.task.batch(np.random.default_rng([self.seed, step]), self.size)


def batches(task: Task, settings: RunSettings, start: int, device: torch.device) -> Iterator[Batch]:
    """Yield the batches of steps start, start + 1, ... on the device."""
    draws = Draws(task, settings.seed, settings.batch)
    loader = DataLoader(draws, batch_size=None, sampler=range(start, settings.steps), num_workers=settings.workers,
                        pin_memory=device.type == "cuda", worker_init_fn=quiet_worker)
    for batch in loader:
        yield {name: place(value, device) for name, value in batch.items()}


def place(value: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move to the device; images go to channels-last, which trains six times faster on CPUs."""
    layout = torch.channels_last if value.ndim == 4 else torch.preserve_format
    return value.to(device, non_blocking=True, memory_format=layout)


def quiet_worker(_: int) -> None:
    """Leave Ctrl-C to the loop, which ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)


class Signals:
    """Notes the first SIGINT or SIGTERM inside its block; a second one acts as usual."""

    def __enter__(self) -> "Signals":
        self.received = False
        self.previous: dict[int, Any] = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _note(self, *_: object) -> None:
        self.received = True
        self.__exit__()

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)


def open_log(folder: Path, step: int) -> TextIO:
    """Open metrics.jsonl for appending, without the lines of steps that a killed run did not save."""
    path = folder / "metrics.jsonl"
    if path.exists():
        kept = [text for text in path.read_text().splitlines() if text and json.loads(text)["step"] <= step]
        path.write_text("".join(text + "\n" for text in kept))
    return path.open("a", buffering=1)


def record(log: TextIO, board: SummaryWriter, kind: str, step: int, values: dict[str, float]) -> None:
    """Write one line of metrics to the JSON log and to TensorBoard."""
    rounded = {name: float(f"{value:.6g}") for name, value in values.items()}
    log.write(json.dumps({"kind": kind, "step": step, **rounded}) + "\n")
    for name, value in values.items():
        board.add_scalar(f"{kind}/{name}", value, step)


def line(values: dict[str, float]) -> str:
    """Return 'name value' pairs for the console."""
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items())


def clock(seconds: float) -> str:
    """Return hours:minutes:seconds."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and train; 2 means the settings are wrong."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="PLACE=VALUE", dest="overrides",
                        help="change one setting, as in --set steps=100")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout)
    try:
        train(load_settings(options.config, options.overrides))
    except SettingsError as exc:
        logger.error("%s", exc)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
