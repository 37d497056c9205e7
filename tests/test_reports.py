"""Reports of a run do not disturb the run."""

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from graph import ConfigError, GraphError
from graph.reports import Reports, Wanted
from graph.spec import GraphSpec, NodeSpec

SPEC = GraphSpec("one", None, {"a": NodeSpec("a", "tests.toys:Source")}, (), "one.yaml")


def reports(wanted: Wanted) -> Reports:
    return Reports(SPEC, wanted, lambda: {"a": "READY"})


def lose(folder: Path) -> None:
    """Make it impossible to write into a folder, as a full disk does."""
    shutil.rmtree(folder)
    folder.touch()


@pytest.mark.parametrize("option", ["profile", "dot"])
def test_folder_that_cannot_be_written_is_an_error_before_the_run(tmp_path: Path, option: str) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigError, match=f"--{option} {file}: cannot create or write this folder: File exists"):
        reports(Wanted(**{option: file})).open()


def test_drawings_that_cannot_be_written_do_not_end_the_graph(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    drawn = reports(Wanted(dot=tmp_path / "dots"))
    drawn.open()

    def stats() -> dict[str, Any]:
        return {"state": "STARTING"} | drawn.now.summary({"a": "READY"}, {"a": 0})

    drawn.draw("STARTING", stats)
    assert len(list((tmp_path / "dots").iterdir())) == 1
    lose(tmp_path / "dots")
    caplog.set_level(logging.WARNING)
    for state in ("PLAYING", "ENDING"):
        drawn.draw(state, stats)
    assert [record.getMessage() for record in caplog.records] == [
        f"--dot {tmp_path / 'dots'}: stopped drawing: Not a directory"
    ]


def test_profile_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    measured = reports(Wanted(profile=tmp_path / "out"))
    measured.open()
    lose(tmp_path / "out")
    with pytest.raises(GraphError, match=f"--profile {tmp_path / 'out'}: cannot be written: File exists"):
        measured.finish()
