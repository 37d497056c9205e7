import io
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from training import augmentation_page, evaluate, export, head_shape, networks, pack, prepare
from training.command import run
from training.settings import SettingsError


def raising(error: BaseException | None) -> None:
    if error is not None:
        raise error


@pytest.mark.parametrize(("error", "code", "text"), [
    (None, 0, ""), (SettingsError("a: wrong"), 2, "a: wrong"), (OSError(28, "No space left"), 2, "No space left"),
    (FloatingPointError("nan"), 2, "nan"), (KeyboardInterrupt(), 130, "stopped here"),
    (KeyboardInterrupt("at step 3"), 130, "at step 3"),
])
def test_a_command_ends_with_a_line_and_a_code(error: BaseException | None, code: int, text: str,
                                               caplog: pytest.LogCaptureFixture) -> None:
    assert run(lambda: raising(error), "stopped here") == code
    assert text in caplog.text and len(caplog.records) == (code > 0)


@pytest.mark.parametrize(("command", "work", "arguments"), [
    (prepare, "prepare", ["data"]), (pack, "pack", ["data", "x.zip"]), (export, "export", ["x.pt", "x"]),
    (evaluate, "measure_of", ["x", "data"]), (augmentation_page, "page", ["x.png"]),
])
def test_ctrl_c_ends_a_command_with_130(command: ModuleType, work: str, arguments: list[str], tmp_path: Path,
                                        monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, work, lambda *_: raising(KeyboardInterrupt()))
    assert command.main(arguments) == 130
    assert caplog.text.count("stopped") == 1


@pytest.mark.parametrize(("command", "arguments", "text"), [
    (pack, ["data", "x.zip", "--face-side", "0"], "expected a whole number of pixels, 32 or more, found '0'"),
    (pack, ["data", "x.zip", "--picture-side", "big"], "expected a whole number of pixels, 32 or more, found 'big'"),
    (networks, ["--size", "33"], "argument --size: invalid choice: 33"), (head_shape, ["."], "a.pts: no { ... } block"),
])
def test_wrong_arguments_are_named(command: ModuleType, arguments: list[str], text: str, tmp_path: Path,
                                   monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pts").write_text("")
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert text in capsys.readouterr().err


def test_file_names_in_any_encoding_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "utf-8", "strict"))
    assert run(lambda: print(os.fsdecode(b"caf\xe9.png: no .pts beside it"), flush=True)) == 0
    assert written.getvalue() == b"caf\\udce9.png: no .pts beside it\n"


WRITING = """
import signal, sys
from pathlib import Path
from training.command import run
from training.files import whole

def work():
    with whole(Path(sys.argv[1])) as file:
        file.write(b"half")
        file.flush()
        signal.raise_signal(signal.SIGTERM)

sys.exit(run(work))
"""


def test_a_terminated_command_removes_incomplete_files(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WRITING, str(tmp_path / "cache")], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (130, "stopped; nothing was written")
    assert list(tmp_path.iterdir()) == []
