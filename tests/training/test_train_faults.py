"""Faults during runs: a second run, a full disk, a cache that was not finished, wrong patterns."""

import contextlib
import itertools
import signal
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch

from tests.accidents import full_disk
from tests.training.faces68 import write_set, write_two_sets
from training import augmentation_page, checkpoint, evaluate, landmark_data, prepare, train
from training.resume import exclusive
from training.settings import RunSettings, SettingsError


@pytest.fixture
def settings(tmp_path: Path) -> RunSettings:
    own = {"data": str(tmp_path), "cache": str(tmp_path / "cache"), "size": 64, "sources": write_two_sets(tmp_path)}
    return RunSettings(name="tiny", task="training.landmark_task:LandmarkTask", settings=own, steps=2, batch=4,
                       log_every=1, device="cpu")


@pytest.mark.slow
def test_a_running_run_is_not_started_again(settings: RunSettings, tmp_path: Path) -> None:
    program = ("import pathlib, sys; from training.resume import exclusive\n"
               "with exclusive(pathlib.Path(sys.argv[1])): print('has it', flush=True); sys.stdin.read()")
    command = [sys.executable, "-c", program, str(tmp_path / "runs" / "tiny")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline() == "has it\n"
        with pytest.raises(SettingsError, match=rf"tiny: process {other.pid} is training there; end it, or give"):
            train.train(settings, tmp_path / "runs")
        assert [file.name for file in (tmp_path / "runs" / "tiny").iterdir()] == ["lock"]
        (tmp_path / "runs" / "tiny" / "last.pt").write_bytes(b"")  # files of the other run are not read
        with pytest.raises(SettingsError, match="is training there"):
            train.train(settings, tmp_path / "runs")
        (tmp_path / "runs" / "tiny" / "last.pt").unlink()
        other.kill()
    train.train(settings, tmp_path / "runs")
    assert checkpoint.load(tmp_path / "runs" / "tiny" / "last.pt")["step"] == 2


def test_a_folder_can_be_reserved_again(tmp_path: Path) -> None:
    for _ in range(2):
        with exclusive(tmp_path / "run"):
            pass


def test_a_log_continues_without_unsaved_and_cut_off_lines(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"kind": "tr')
    with train.open_log(tmp_path, 2) as log:
        log.write("next\n")
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\nnext\n'


def test_a_save_to_a_full_disk_says_so_and_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"ema": {}, "step": 1})
    with full_disk(100_000), pytest.raises(OSError, match=r"File too large: .*last.pt"):
        checkpoint.save(path, {"ema": {"a": torch.zeros(100_000)}, "step": 2})
    assert checkpoint.load(path)["step"] == 1 and list(tmp_path.iterdir()) == [path]


def test_a_disk_that_is_full_from_the_start_is_named(tmp_path: Path) -> None:
    with full_disk(0), pytest.raises(OSError, match=r"File too large: .*run/lock"), exclusive(tmp_path / "run"):
        pass


def test_a_disk_that_fills_up_between_checkpoints_is_named(settings: RunSettings, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    record, full = train.Log._record, contextlib.ExitStack()

    def record_on_a_full_disk(self: train.Log, kind: str, values: dict[str, float]) -> None:
        full.enter_context(full_disk(0))
        record(self, kind, values)

    monkeypatch.setattr(train.Log, "_record", record_on_a_full_disk)
    with full, pytest.raises(OSError, match=r"File too large: .*runs/tiny'"):
        train.train(settings, tmp_path / "runs")


def test_a_broken_save_keeps_the_old_checkpoint_alone(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"ema": {}, "step": 1})
    with pytest.raises(Exception, match=r"pickle|lambda"):
        checkpoint.save(path, {"ema": lambda: 0, "step": 2})
    assert checkpoint.load(path)["step"] == 1 and list(tmp_path.iterdir()) == [path]


def test_an_incomplete_cache_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_set(tmp_path / "set", 2)
    samples, cache = landmark_data.read_folder(folder, "own")[0], tmp_path / "cache"
    walls = [(sample.path, np.zeros((0, 4), np.float32)) for sample in samples]

    def cut_off(file: BinaryIO, **_: object) -> None:
        file.write(b"half")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", cut_off)
        with pytest.raises(OSError, match="No space"):
            landmark_data.cache_crops(samples, cache)
    assert [file.suffix for file in cache.iterdir()] == [".u8"]
    with full_disk(300_000), pytest.raises(OSError, match=r"File too large: '.*backgrounds-\w*\.u8'"):
        landmark_data.cache_backgrounds(walls, cache, 3)
    assert len(list(cache.iterdir())) == 1
    assert len(landmark_data.cache_crops(samples, cache)[0]) == 2
    assert len(landmark_data.cache_backgrounds(walls, cache, 3)) == 3


def test_what_cannot_be_written_is_one_line(settings: RunSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                            caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    below = str(tmp_path / "file" / "x")
    (tmp_path / "c.yaml").write_text(settings.model_dump_json())
    assert train.main([str(tmp_path / "c.yaml"), "--runs", below]) == 2
    assert prepare.main([str(tmp_path), "--out", below]) == 2
    assert augmentation_page.main([below]) == 2
    assert len(caplog.records) == 3
    assert all("file" in record.message for record in caplog.records)
    assert "Traceback" not in capsys.readouterr().err


def test_a_loss_that_is_not_finite_ends_with_one_line(settings: RunSettings, tmp_path: Path,
                                                      caplog: pytest.LogCaptureFixture) -> None:
    wild = settings.model_copy(update={"learning_rate": 1e30, "steps": 20, "warm_up": 0.0, "clip": 1e30})
    (tmp_path / "c.yaml").write_text(wild.model_dump_json())
    assert train.main([str(tmp_path / "c.yaml"), "--runs", str(tmp_path / "runs")]) == 2
    assert "tiny: the loss is not finite at step" in caplog.text


@pytest.mark.parametrize(("rate", "code", "saved"), [(1e-3, 130, ["last.pt"]), (1e30, 2, [])])
def test_a_stop_saves_the_elapsed_time_but_no_loss_that_is_not_finite(
        settings: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float, code: int,
        saved: list[str]) -> None:
    update = {"learning_rate": rate, "steps": 20, "warm_up": 0.0, "clip": 1e30, "log_every": 20}
    (tmp_path / "c.yaml").write_text(settings.model_copy(update=update).model_dump_json())
    steps, average = itertools.count(1), train.average

    def stop_after_five(*arguments: object) -> None:
        average(*arguments)
        if next(steps) == 5:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train, "average", stop_after_five)
    assert train.main([str(tmp_path / "c.yaml"), "--runs", str(tmp_path / "runs")]) == code
    found = list((tmp_path / "runs" / "tiny").glob("*.pt"))
    assert [file.name for file in found] == saved
    assert all(checkpoint.load(file)["seconds"] > 0 for file in found)


def test_an_invalid_pattern_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_set(tmp_path / "set", 2)
    prepare.main([str(tmp_path), "--out", str(tmp_path / "out")])
    released = str(Path(landmark_data.__file__).parents[1] / "nodes" / "models" / "landmarks")
    assert evaluate.main([released, str(tmp_path / "set"), "--person", "[", "--held-out", "0.5"]) == 2
    assert evaluate.main([released, str(tmp_path / "out"), "--sets", "["]) == 2
    assert [record.message.partition(" (")[0] for record in caplog.records if record.levelname == "ERROR"] == [
        "person: '[' is not a valid regular expression", "sets: '[' is not a valid regular expression"]


def test_a_config_in_another_encoding_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "c.yaml").write_bytes("name: Frühling".encode("latin-1"))
    assert train.main([str(tmp_path / "c.yaml")]) == 2
    assert "c.yaml: not valid YAML" in caplog.text
