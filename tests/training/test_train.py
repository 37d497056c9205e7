import itertools
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tests.training.faces68 import write_two_sets
from training import checkpoint, train
from training.distributed import Group
from training.landmark_settings import LandmarkSettings
from training.landmark_task import LandmarkTask
from training.settings import RunSettings, SettingsError, load_settings

CONFIG = Path("configs/train/landmarks.yaml")
ALONE = Group(0, 1, torch.device("cpu"))


@pytest.fixture
def settings(tmp_path: Path) -> RunSettings:
    """A run of seconds: drawn faces, inputs of 64 px, six steps."""
    own = {"data": str(tmp_path / "data"), "cache": str(tmp_path / "cache"), "size": 64,
           "sources": write_two_sets(tmp_path / "data")}
    return RunSettings(name="tiny", task="training.landmark_task:LandmarkTask", settings=own, steps=6, batch=4,
                       validate_every=3, log_every=1, threads=1, device="cpu")


def weights(path: Path) -> dict[str, torch.Tensor]:
    state = checkpoint.load(path)
    return {f"{kind}.{name}": value for kind in ("model", "ema") for name, value in state[kind].items()}


@pytest.mark.slow
@pytest.mark.parametrize("looks", [1, 3])  # of three, the run is stopped between the second and the third
def test_a_stopped_run_continues_bit_for_bit(settings: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                             looks: int) -> None:
    settings = settings.model_copy(update={"looks": looks})
    steps = iter(range(100))
    average = train.average

    @torch.no_grad()
    def with_noise(ema: torch.nn.Module, network: torch.nn.Module, decay: float) -> None:
        next(network.parameters()).mul_(1 + 1e-3 * torch.rand(()))  # uses torch's generator, like dropout
        average(ema, network, decay)

    def stop_after_two(*arguments: Any) -> None:
        with_noise(*arguments)
        if next(steps) == 1:
            signal.raise_signal(signal.SIGTERM)

    validate, validated = LandmarkTask.validate, []

    def noted(task: LandmarkTask, network: torch.nn.Module) -> dict[str, float]:
        validated.append({name: value.clone() for name, value in network.state_dict().items()})
        return validate(task, network)

    monkeypatch.setattr(train, "average", with_noise)
    monkeypatch.setattr(LandmarkTask, "validate", noted)
    train.train(settings, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(train, "average", stop_after_two)
        with pytest.raises(KeyboardInterrupt, match="step 2 and saved; run the same command to continue"):
            train.train(settings, tmp_path / "parts")
    assert checkpoint.load(tmp_path / "parts" / "tiny" / "last.pt")["step"] == 2
    train.train(settings, tmp_path / "parts")

    whole, parts = (weights(tmp_path / name / "tiny" / "last.pt") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name
    assert all(torch.equal(value, whole[f"ema.{name}"]) for name, value in validated[-1].items())
    lines = [json.loads(text) for text in (tmp_path / "parts" / "tiny" / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in lines if entry["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [entry["step"] for entry in lines if entry["kind"] == "validation"] == [3, 6]


def test_a_batch_is_reused_as_often_as_set(settings: RunSettings) -> None:
    task = LandmarkTask(LandmarkSettings(**settings.settings))
    settings = settings.model_copy(update={"looks": 2, "steps": 5})
    seen = [parts[0] for parts in train.batches(task, settings, 1, ALONE)]
    drawn = [task.batch(np.random.default_rng([settings.seed, i]), settings.batch) for i in range(4)]
    last = 63
    for step, batch in enumerate(seen, 1):
        points, expected = batch["points"][:, 8, 0], drawn[step // 2]["points"][:, 8, 0]
        assert torch.allclose(points, last - expected if step % 2 else expected, atol=1e-4)
    assert [torch.equal(a["image"], drawn[i]["image"]) for a, i in zip(seen[1::2], (1, 2), strict=True)] == [True] * 2


def test_every_reuse_has_its_own_light_also_after_a_stop() -> None:
    task = SimpleNamespace(batch=lambda rng, size: {"image": torch.zeros(size)},
                           again=lambda rng, part, look: {"light": torch.tensor(rng.initial_seed())})
    settings = load_settings(CONFIG, ["looks=3", "steps=9", "parts=2"])

    def lights(start: int) -> list[list[int]]:
        looks = train.batches(task, settings, start, ALONE)
        return [[int(part["light"]) for part in parts if "light" in part] for parts in looks]

    whole = lights(0)
    assert [len(parts) for parts in whole] == [0, 2, 2] * 3
    assert len({light for parts in whole for light in parts}) == 12
    assert lights(5) == whole[5:]


@pytest.mark.parametrize("higher", [False, True])
def test_the_best_weights_are_those_of_the_lowest_error_or_the_highest_precision(
    higher: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    run: Any = SimpleNamespace(settings=SimpleNamespace(name="a", steps=9), step=1, seconds=0.0, best=5.0,
                               task=SimpleNamespace(higher_is_better=higher))
    log = train.Log(run)
    monkeypatch.setattr(log, "_record", lambda *_: None)
    assert [log.validation({"first": value, "second": 9.0}) for value in (4.0, 6.0, 5.0)] == [not higher, higher, False]
    assert run.best == (6.0 if higher else 4.0)


def test_parts_do_not_depend_on_the_number_of_processes(settings: RunSettings) -> None:
    task = LandmarkTask(LandmarkSettings(**settings.settings))
    settings = settings.model_copy(update={"looks": 2, "steps": 2, "parts": 2})
    alone = list(train.batches(task, settings, 0, ALONE))
    first, second = (list(train.batches(task, settings, 0, Group(rank, 2, ALONE.device))) for rank in (0, 1))
    for both, (one,), (other,) in zip(alone, first, second, strict=True):
        assert [torch.equal(both[i]["image"], part["image"]) for i, part in enumerate((one, other))] == [True, True]


@pytest.mark.slow
def test_a_run_starts_from_the_averaged_weights_of_another(settings: RunSettings, tmp_path: Path) -> None:
    train.train(settings, tmp_path)
    first = tmp_path / "tiny" / "last.pt"
    more = settings.model_copy(update={"name": "more", "init": first, "steps": 1, "learning_rate": 1e-9})
    train.train(more, tmp_path)
    started, given = weights(tmp_path / "more" / "last.pt"), weights(first)
    learnt = [name for name in given if name.startswith("ema.") and name.endswith(("weight", "bias"))]
    for name in learnt:
        torch.testing.assert_close(started[name], given[name], atol=1e-6, rtol=1e-6)
    slim = more.model_copy(update={"name": "slim", "settings": {**more.settings, "network": "slim"}})
    with pytest.raises(SettingsError, match=r"tiny/last.pt: weights of another network: "):
        train.train(slim, tmp_path)
    first.unlink()  # only the start of a run needs it
    train.train(more.model_copy(update={"steps": 2}), tmp_path)
    assert checkpoint.load(tmp_path / "more" / "last.pt")["step"] == 2


def losses(folder: Path) -> list[float]:
    lines = [json.loads(text) for text in (folder / "tiny" / "metrics.jsonl").read_text().splitlines()]
    return [entry["loss"] for entry in lines if entry["kind"] == "train"]


def torchrun(settings: RunSettings, folder: Path) -> list[str]:
    """Return a command that trains in two processes, after writing its config to `folder`."""
    folder.mkdir()
    (folder / "tiny.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch += ["--log-dir", str(folder / "torchrun")]  # the default is in /tmp, where they would remain
    return [*launch, "-m", "training.train", str(folder / "tiny.yaml"), "--runs", str(folder)]


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(settings: RunSettings, tmp_path: Path) -> None:
    done = subprocess.run(torchrun(settings, tmp_path / "two"), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    train.train(settings.model_copy(update={"parts": 2}), tmp_path / "one")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    one, two = (checkpoint.load(tmp_path / name / "tiny" / "last.pt")["model"] for name in ("one", "two"))
    for name, value in one.items():
        if "running" not in name and "tracked" not in name:  # running statistics come from the leader's parts alone
            torch.testing.assert_close(two[name], value, atol=1e-3, rtol=1e-2)
    assert done.stdout.count("validation") == 2  # only the leader logs


TWINS = """
import itertools, os, sys
from types import SimpleNamespace
import torch
from training import train

rank, folder, runs = int(os.environ["RANK"]), sys.argv.pop(1), []
ticks = itertools.count(0, 1 + 9 * rank)  # the clock of the second process runs ten times as fast
train.time = SimpleNamespace(monotonic=lambda: next(ticks))
average = train.average
train.average = lambda ema, network, decay: (average(ema, network, decay), runs.append(network))
code = train.main()
torch.save(dict(runs[-1].named_parameters()), f"{folder}/{rank}.pt")
sys.exit(code)
"""


@pytest.mark.slow
def test_processes_of_a_run_of_minutes_follow_one_clock(settings: RunSettings, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"steps": 1000, "minutes": 1, "validate_every": 4})
    command = torchrun(settings, tmp_path / "two")
    module = command.index("-m", 3)
    (tmp_path / "twins.py").write_text(TWINS)
    command[module : module + 2] = [str(tmp_path / "twins.py"), str(tmp_path)]
    here = os.environ | {"PYTHONPATH": os.getcwd()}  # a script has its own folder on its path
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=here)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    state = checkpoint.load(tmp_path / "two" / "tiny" / "last.pt")
    assert state["step"] > 8 and 60 <= state["seconds"] < 70


@pytest.mark.slow
def test_several_processes_stop_together_and_save(settings: RunSettings, tmp_path: Path) -> None:
    command = torchrun(settings.model_copy(update={"steps": 100000, "validate_every": 100000}), tmp_path / "two")
    log = tmp_path / "two" / "tiny" / "metrics.jsonl"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            deadline = time.monotonic() + 120
            while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            output = process.communicate(timeout=120)[0]
        finally:
            process.kill()
    assert "run the same command to continue" in output
    assert checkpoint.load(tmp_path / "two" / "tiny" / "last.pt")["step"] > 0


def test_parts_that_do_not_divide_are_refused(settings: RunSettings) -> None:
    task = train.load_task(settings.task, settings.settings)
    with pytest.raises(SettingsError, match="parts: 3 parts of a batch of 4 for 1 processes"):
        next(train.batches(task, settings.model_copy(update={"parts": 3}), 0, ALONE))


@pytest.mark.slow
def test_a_compiled_run_has_the_same_losses(settings: RunSettings, tmp_path: Path) -> None:
    few = settings.model_copy(update={"steps": 2})
    train.train(few, tmp_path / "plain")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about its own internals
        train.train(few.model_copy(update={"compile": "aot_eager"}), tmp_path / "compiled")
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=1e-4)


@pytest.mark.slow
def test_worker_processes_draw_the_same_batches(settings: RunSettings) -> None:
    task = train.load_task(settings.task, settings.settings)
    first, second = (
        list(train.batches(task, settings.model_copy(update={"workers": workers}), 4, ALONE)) for workers in (0, 1)
    )
    assert len(first) == 2
    for (here,), (there,) in zip(first, second, strict=True):
        assert all(torch.equal(here[name], there[name]) for name in here)


@pytest.mark.slow
def test_a_fork_server_draws_the_same_batches(settings: RunSettings) -> None:
    script = """if True:
        import multiprocessing, sys, torch
        from training import train
        from training.distributed import Group
        from training.settings import RunSettings
        multiprocessing.set_start_method("forkserver")  # Python's default from 3.14 on
        settings = RunSettings.model_validate_json(sys.argv[1])
        task, alone = train.load_task(settings.task, settings.settings), Group(0, 1, torch.device("cpu"))
        mine, workers = (list(train.batches(task, settings.model_copy(update={"workers": count}), 4, alone))
                         for count in (0, 1))
        for (here,), (there,) in zip(mine, workers, strict=True):
            assert all(torch.equal(here[name], there[name]) for name in here)
        print(len(mine))
    """
    run = subprocess.run([sys.executable, "-c", script, settings.model_dump_json()], capture_output=True, text=True)
    assert (run.stdout, run.returncode) == ("2\n", 0), run.stderr


def test_learning_rate_warms_up_and_falls() -> None:
    settings = load_settings(CONFIG)
    rates = [train.learning_rate(step / settings.steps, settings) for step in range(settings.steps)]
    peak = rates.index(max(rates))
    assert peak == round(settings.warm_up * settings.steps)
    assert max(rates) == pytest.approx(settings.learning_rate)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < settings.learning_rate / 500


@pytest.mark.slow
def test_a_run_of_minutes_follows_the_clock(settings: RunSettings, tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(train, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    train.train(settings.model_copy(update={"steps": 1000, "minutes": 1}), tmp_path)
    lines = [json.loads(text) for text in (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()]
    rates = [entry["rate"] for entry in lines if entry["kind"] == "train"]
    assert 5 < len(rates) < 60, "every step asks for the time at least once"
    assert rates[-1] < settings.learning_rate / 50 < max(rates)
    assert lines[-1]["kind"] == "validation" and lines[-1]["step"] == len(rates)
    assert checkpoint.load(tmp_path / "tiny" / "last.pt")["step"] == len(rates)


@pytest.mark.parametrize(("clip", "moved"), [(1.0, 1.0), (5.0, 3.0)])
def test_a_step_follows_the_clipped_mean_of_its_parts_and_first_averages_are_short(clip: float, moved: float) -> None:
    settings = load_settings(CONFIG, [f"clip={clip}", "learning_rate=0.01", "ema=0.9"])
    network, ema = (torch.nn.Linear(1, 1, bias=False) for _ in range(2))
    for one in (network, ema):
        torch.nn.init.zeros_(one.weight)

    def loss(model: torch.nn.Module, batch: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return model(batch).mean() + 1, {"input": batch.mean()}

    run = SimpleNamespace(settings=settings, group=ALONE, network=network, ema=ema, step=0,
                          optimiser=torch.optim.SGD(network.parameters()), task=SimpleNamespace(loss=loss))
    means = train.learn(run, network, [torch.tensor([[2.0]]), torch.tensor([[4.0]])], settings.warm_up)
    assert {name: value.item() for name, value in means.items()} == pytest.approx(
        {"loss": 1, "input": 3, "gradient": 3})
    assert network.weight.item() == pytest.approx(-0.01 * moved) and run.step == 1
    assert ema.weight.item() == pytest.approx(-0.01 * moved * (1 - 2 / 11))
    for _ in range(200):
        train.learn(run, network, [torch.tensor([[0.0]])], settings.warm_up)
    before = ema.weight.item()
    train.learn(run, network, [torch.tensor([[-3.0]])], settings.warm_up)
    assert ema.weight.item() == pytest.approx(0.9 * before + 0.1 * network.weight.item(), rel=1e-4)


def test_average_follows_weights_and_counts() -> None:
    ema, network = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    torch.nn.init.constant_(network.weight, 3.0)
    network.num_batches_tracked += 5
    train.average(ema, network, 0.75)
    assert ema.weight.tolist() == [1.5, 1.5]
    assert ema.num_batches_tracked == 5


def test_kernels_alone_decay() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    kernels, others = train.make_optimiser(network, load_settings(CONFIG)).param_groups
    assert [p.ndim for p in kernels["params"]] == [4]
    assert kernels["weight_decay"] > 0 == others["weight_decay"]


def test_ctrl_c_while_data_are_read_ends_quietly(tmp_path: Path, caplog: pytest.LogCaptureFixture,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level("INFO")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "load_task", interrupted)
    assert train.main([str(CONFIG), "--runs", str(tmp_path)]) == 130
    assert "stopped; the same command continues from the last checkpoint, or starts if there is none" in caplog.text


@pytest.mark.slow
def test_wrong_data_end_all_processes_with_one_message(settings: RunSettings, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"settings": settings.settings | {"data": "nowhere"}})
    done = subprocess.run(torchrun(settings, tmp_path / "two"), capture_output=True, text=True, timeout=240)
    assert done.returncode != 0
    assert done.stdout.count("nowhere/held: no such folder") == 1
    assert done.stderr.count("Traceback") == 1 and "ChildFailedError" in done.stderr  # torchrun's own


def test_a_file_that_is_not_a_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(b"nothing")
    with pytest.raises(SettingsError, match=r"last.pt: not a readable checkpoint"):
        checkpoint.load(tmp_path / "last.pt")
    torch.save({"weights": 1}, tmp_path / "other.pt")
    with pytest.raises(SettingsError, match=r"other.pt: not a checkpoint of training.train: found \['weights'\]"):
        checkpoint.load(tmp_path / "other.pt")
