import subprocess
import sys
from pathlib import Path

import pytest

from training.files import UNFINISHED, locked, together, whole


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_abandoned_parts_are_removed(tmp_path: Path) -> None:
    for name in ("cache.1.part", "cache.2.part", "cached.1.part"):
        (tmp_path / name).write_bytes(b"half")
    with locked(tmp_path / "cache.2.part") as possible, whole(tmp_path / "cache") as file:
        assert possible
        file.write(b"all")
    assert names(tmp_path) == {"cache", "cache.2.part", "cached.1.part"}


def test_files_appear_together(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    for name in ("1", "2"):
        (tmp_path / f"{UNFINISHED}{name}").mkdir()
        (tmp_path / f"{UNFINISHED}{name}" / "a").write_text("half")
    with locked(tmp_path / f"{UNFINISHED}2") as possible, together(tmp_path) as folder:
        for name in "ab":
            (folder / name).write_text("new")
        assert possible and (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == {"a", "b", f"{UNFINISHED}2", f"{UNFINISHED}2/a"}
    assert {(tmp_path / name).read_text() for name in "ab"} == {"new"}


def test_incomplete_files_do_not_appear(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=f"No space left: '{tmp_path}'"), together(tmp_path) as folder:
        (folder / "a").write_text("half")
        raise OSError(28, "No space left")
    assert names(tmp_path) == set()


KILLED = """
import os, signal, sys
from pathlib import Path
from training.files import together, whole

with whole(Path(sys.argv[1]) / "cache"), together(Path(sys.argv[1])) as folder:
    (folder / "a").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_remains_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)])
    assert len(names(tmp_path)) == 3
    with whole(tmp_path / "cache"), together(tmp_path):
        pass
    assert names(tmp_path) == {"cache"}
