"""Train a network from a config file. Ctrl-C stops and saves; the same command then continues.

python -m training.train configs/train/landmarks.yaml --set settings.data=../data
torchrun --nproc-per-node 4 -m training.train configs/train/landmarks.yaml --set settings.data=../data
"""

import contextlib
import copy
import json
import logging
import math
import signal
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import compress
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter

from training import checkpoint, command
from training.distributed import Group, joined
from training.files import named, whole
from training.resume import exclusive, is_complete, last_checkpoint
from training.settings import RunSettings, SettingsError, load_settings
from training.task import Batch, Task, load_task

logger = logging.getLogger("training")


def train(settings: RunSettings, runs: Path = Path("runs")) -> float:
    """Train to `settings.steps`; return the best value of the first metric.

    Raises KeyboardInterrupt, with a message for the user, when a signal has stopped it and it is saved.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    cv2.setNumThreads(1)
    torch.manual_seed(settings.seed)
    torch.backends.cudnn.benchmark = True  # all inputs have the same shape
    with joined(settings.device) as group, contextlib.ExitStack() as kept:
        with group.leader_first():
            if group.leads:
                kept.enter_context(exclusive(runs / settings.name))
            begun = last_checkpoint(settings, runs / settings.name)  # only now that no other process writes it
        if begun and is_complete(settings, begun):
            logger.info("%s: complete at step %d, best %.4f; increase `steps` or `minutes` to continue, or change "
                        "`name` to start another run", settings.name, begun["step"], begun["best"])
            return float(begun["best"])
        with group.leader_first():  # the leader writes the caches, the others read them
            task = load_task(settings.task, settings.settings)
        run = Run(task, settings, runs / settings.name, group, begun)
        model = group.share(run.network)
        if settings.compile:
            model = torch.compile(model, backend=settings.compile)
        with Log(run) as log, Signals() as signals:
            progress = group.from_leader(log.progress())
            for parts in batches(task, settings, run.step, group):
                log.add(learn(run, model, parts, progress))
                progress = group.from_leader(log.progress())
                done = progress >= 1
                validating = run.step % settings.validate_every == 0 or done
                stopping = group.any(signals.received)
                if validating or stopping or run.step % settings.log_every == 0:
                    log.train(progress)
                if validating and group.leads:
                    improved = log.validation(task.validate(run.ema))
                    if improved:
                        run.save("best.pt")
                if validating or stopping:
                    run.save("last.pt")
                    log.restart_clock()
                if done:
                    break
                if stopping:
                    raise KeyboardInterrupt(f"{settings.name}: stopped at step {run.step} and saved; run the same "
                                            "command to continue")
        return run.best


class Run:
    """The state of a run, which its checkpoints hold."""

    def __init__(self, task: Task, settings: RunSettings, folder: Path, group: Group,
                 begun: dict[str, Any] | None) -> None:
        self.task, self.settings, self.folder, self.group = task, settings, folder, group
        self.network = task.network()
        if begun is None:
            task.begin(self.network)
            if settings.init is not None:
                checkpoint.load_weights(self.network, settings.init)
        self.network.to(group.device, memory_format=torch.channels_last)
        self.ema = copy.deepcopy(self.network).eval()
        self.optimiser = make_optimiser(self.network, settings)
        self.step, self.seconds = 0, 0.0
        self.best = -math.inf if task.higher_is_better else math.inf
        self.commit = checkpoint.git_commit()
        if begun is not None:
            self._restore(begun)

    def _restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimiser.load_state_dict(state["optimiser"])
        checkpoint.restore_random_state(state["random"])
        self.step, self.best, self.seconds = state["step"], state["best"], state["seconds"]
        logger.info("%s: continues from step %d", self.settings.name, self.step)

    def save(self, name: str) -> None:
        """Write a checkpoint of this name into the run's folder; only the leader does."""
        if self.group.leads:
            checkpoint.save(self.folder / name, {
                "model": self.network.state_dict(), "ema": self.ema.state_dict(),
                "optimiser": self.optimiser.state_dict(), "random": checkpoint.random_state(), "step": self.step,
                "best": self.best, "seconds": self.seconds, "settings": self.settings.model_dump(mode="json"),
                "commit": self.commit,
            })


def learn(run: Run, model: nn.Module, parts: list[Batch], progress: float) -> dict[str, Tensor]:
    """Take one step on this process's parts of a batch; return the means of the losses, and the gradient's norm.

    `progress` is the share of the run that is done.
    """
    settings, device = run.settings, run.group.device
    amp = torch.autocast(device.type, torch.bfloat16, enabled=settings.amp and device.type == "cuda")
    for group in run.optimiser.param_groups:
        group["lr"] = learning_rate(progress, settings)
    run.optimiser.zero_grad(set_to_none=True)
    means: dict[str, Tensor] = {}
    for i, batch in enumerate(parts):
        last = i == len(parts) - 1
        with contextlib.nullcontext() if last or run.group.size == 1 else model.no_sync():
            with amp:
                loss, named = run.task.loss(model, batch)
            (loss / len(parts)).backward()
        for name, value in {"loss": loss, **named}.items():
            means[name] = means.get(name, 0.0) + value.detach() / len(parts)
    norm = nn.utils.clip_grad_norm_(run.network.parameters(), settings.clip)
    run.optimiser.step()
    run.step += 1
    average(run.ema, run.network, min(settings.ema, (1 + run.step) / (10 + run.step)))
    return {**means, "gradient": norm}


def make_optimiser(network: nn.Module, settings: RunSettings) -> torch.optim.AdamW:
    """Return AdamW with weight decay on kernels only."""
    kernels = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    fused = kernels[0].device.type == "cuda"
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=fused)


def learning_rate(progress: float, settings: RunSettings) -> float:
    """Return the rate: linear warm-up, then cosine to a thousandth of the peak; `progress` goes from 0 to 1."""
    if progress < settings.warm_up:
        return settings.learning_rate * (0.001 + 0.999 * progress / settings.warm_up)
    after = min(1.0, (progress - settings.warm_up) / (1 - settings.warm_up))
    return settings.learning_rate * (0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * after)))


@torch.no_grad()
def average(ema: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the averaged weights and batch-norm statistics towards the network's."""
    means, values = ([*module.parameters(), *module.buffers()] for module in (ema, network))
    floats = [mean.is_floating_point() for mean in means]
    torch._foreach_lerp_([*compress(means, floats)], [*compress(values, floats)], 1 - decay)  # one kernel, not hundreds
    for mean, value, real in zip(means, values, floats, strict=True):
        if not real:
            mean.copy_(value)


class Draws(Dataset[Batch]):
    """Part `j` of batch `i` of a run; it depends on (seed, i, j) alone, so workers and resumed runs get the same."""

    def __init__(self, task: Task, seed: int, size: int) -> None:
        self.task, self.seed, self.size = task, seed, size

    def __getitem__(self, place: tuple[int, int]) -> Batch:
        step, part = place
        return self.task.batch(np.random.default_rng([self.seed, step, part] if part else [self.seed, step]), self.size)


def batches(task: Task, settings: RunSettings, start: int, group: Group) -> Iterator[list[Batch]]:
    """Yield this process's parts of the batches of steps start, start + 1, ..., on its device.

    Each is yielded `settings.looks` times, from the second time on as changed by the task's `again`.
    """
    count = settings.parts or group.size
    if count % group.size or settings.batch % count:
        raise SettingsError(f"parts: {count} parts of a batch of {settings.batch} for {group.size} processes; parts "
                            "must divide the batch, and processes the parts")
    own = range(group.rank, count, group.size)
    draws = Draws(task, settings.seed, settings.batch // count)
    first, last = start // settings.looks, -(-settings.steps // settings.looks)
    places = ((drawn, part) for drawn in range(first, last) for part in own)
    loader = DataLoader(draws, batch_size=None, sampler=places, num_workers=settings.workers,
                        pin_memory=group.device.type == "cuda", worker_init_fn=quiet_worker,
                        generator=torch.Generator())  # the default is the global one, which initialises networks
    skipped = start % settings.looks  # a resumed run may have used its first batch before
    parts: list[Batch] = []
    for part in loader:
        parts.append({name: place(value, group.device) for name, value in part.items()})
        if len(parts) == len(own):
            for look in range(skipped, settings.looks):
                rngs = [torch.Generator(group.device).manual_seed(seed_of(settings.seed, start, i)) for i in own]
                pairs = zip(rngs, parts, strict=True)
                yield [task.again(rng, part, look) for rng, part in pairs] if look else parts
                start += 1
            parts, skipped = [], 0


def seed_of(*numbers: int) -> int:
    """Combine several numbers into one seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def place(value: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move to the device; images go to channels-last, which trains six times faster on CPUs."""
    layout = torch.channels_last if value.ndim == 4 else torch.preserve_format
    return value.to(device, non_blocking=True, memory_format=layout)


def quiet_worker(_: int) -> None:
    """Ignore Ctrl-C in a worker: the loop ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)


class Signals:
    """Notes the first SIGINT and the first SIGTERM inside its block; a second one of the same kind acts as usual.

    Of the same kind, because torchrun answers Ctrl-C with a SIGTERM to each of its processes.
    """

    def __enter__(self) -> "Signals":
        self.received = False
        self.previous: dict[int, Any] = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _note(self, number: int, _: object) -> None:
        self.received = True
        signal.signal(number, self.previous[number])

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)


class Log:
    """Averages the losses and logs them on the console, in metrics.jsonl and in TensorBoard."""

    def __init__(self, run: Run) -> None:
        self.run, self.name = run, run.settings.name
        self.totals: dict[str, Tensor] = {}
        self.logged, self.validated = run.step, ""
        self.restart_clock()

    def __enter__(self) -> "Log":
        self.files = contextlib.ExitStack()
        if self.run.group.leads:
            self.log = self.files.enter_context(open_log(self.run.folder, self.run.step))
            self.board = self.files.enter_context(SummaryWriter(str(self.run.folder)))
        return self

    def __exit__(self, *_: object) -> None:
        with named(self.run.folder):
            self.files.close()

    def restart_clock(self) -> None:
        """Do not count the time since the last line, such as that of a validation, as training."""
        self.began = time.monotonic()

    def progress(self) -> float:
        """Return the share of the run that is done: of its steps, or of its minutes by this process's clock."""
        steps = self.run.step / self.run.settings.steps
        if not self.run.settings.minutes:
            return steps
        return max(steps, (self.run.seconds + time.monotonic() - self.began) / (60 * self.run.settings.minutes))

    def add(self, values: dict[str, Tensor]) -> None:
        """Add the losses of one step, without waiting for the device."""
        for name, value in values.items():
            self.totals[name] = self.totals.get(name, 0.0) + value.detach()

    def train(self, progress: float) -> None:
        """Write the means since the last line. Raises FloatingPointError if the loss is not finite."""
        run, steps = self.run, self.run.step - self.logged
        means = {name: float(run.group.mean(total / steps)) for name, total in self.totals.items()}
        elapsed = time.monotonic() - self.began
        run.seconds += elapsed
        self.restart_clock()
        if not math.isfinite(means["loss"]):
            raise FloatingPointError(f"{self.name}: the loss is not finite at step {run.step}; "
                                     f"lower learning_rate (now {run.settings.learning_rate})")
        speed = steps * run.settings.batch / elapsed
        if run.group.leads:
            self._record("train", {**means, "rate": learning_rate(progress, run.settings), "speed": speed})
            left = run.seconds * max(0.0, 1 / progress - 1)
            logger.info("%s %d/%d  %s  %.0f samples/s  %s left%s", self.name, run.step, run.settings.steps, line(means),
                        speed, timedelta(seconds=round(left)), self.validated)
        self.totals, self.logged = {}, run.step

    def validation(self, metrics: dict[str, float]) -> bool:
        """Write the metrics; return whether the first of them is the best so far, and keep it in the run if so."""
        run = self.run
        self._record("validation", {**metrics, "minutes": run.seconds / 60})
        logger.info("%s %d/%d  validation  %s", self.name, run.step, run.settings.steps, line(metrics))
        name, value = next(iter(metrics.items()))
        improved = value > run.best if run.task.higher_is_better else value < run.best
        run.best = value if improved else run.best
        self.validated = f"  {name} {value:.4f}, best {run.best:.4f}"
        return improved

    def _record(self, kind: str, values: dict[str, float]) -> None:
        rounded = {name: float(f"{value:.6g}") for name, value in values.items()}
        with named(self.run.folder):
            self.log.write(json.dumps({"kind": kind, "step": self.run.step, **rounded}) + "\n")
            for name, value in values.items():
                self.board.add_scalar(f"{kind}/{name}", value, self.run.step)


def open_log(folder: Path, step: int) -> TextIO:
    """Open metrics.jsonl for appending, and remove the lines of steps that a killed run did not save."""
    path = folder / "metrics.jsonl"
    if path.exists():
        kept = [text for text in path.read_text().splitlines() if step_of(text) <= step]
        with whole(path) as file:
            file.write("".join(text + "\n" for text in kept).encode())
    return path.open("a", buffering=1)


def step_of(text: str) -> float:
    """Return the step of a line of metrics.jsonl, infinity if a full disk or a crash has cut it off."""
    try:
        return float(json.loads(text)["step"])
    except ValueError:
        return math.inf


def line(values: dict[str, float]) -> str:
    """Return 'name value' pairs for the console."""
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items())


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and train; return 0, 2 if a setting or file is wrong or the loss is not finite, 130 if
    stopped.
    """
    parser = command.parser("train", __doc__)
    parser.add_argument("config", type=Path, help="YAML file, such as configs/train/landmarks.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="PLACE=VALUE", dest="overrides",
                        help="change one setting, as in --set steps=100; may be repeated")
    parser.add_argument("--runs", type=Path, default=Path("runs"),
                        help="folder in which the run gets its own, named after it (default: %(default)s)")
    options = parser.parse_args(arguments)
    return command.run(lambda: train(load_settings(options.config, options.overrides), options.runs),
                       "stopped; the same command continues from the last checkpoint, or starts if there is none",
                       command.TIMED)


if __name__ == "__main__":
    sys.exit(main())
