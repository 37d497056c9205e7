"""The run folder of a graph: it is created, found and removed, and nothing else is ever touched."""

import fcntl
import os
import stat
from pathlib import Path

import pytest

from graph import ConfigError, cli, rundir
from graph.rundir import MARK, RunDir


def killed(name: str) -> Path:
    """Create what a killed graph leaves."""
    folder = rundir.base() / name
    folder.mkdir()
    (folder / "lock").write_bytes(MARK)
    (folder / "control").touch()
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run directory that contains other files of its user."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("FACEGRAPH_RUN_DIR", str(tmp_path))
    for name in ("photos", "project"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious").write_text("mine")
    (tmp_path / "project" / "lock").write_text("of another program")
    (tmp_path / "pipe").mkdir()
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "pipe" / "lock")
    return tmp_path


def test_only_folders_of_graphs_are_removed(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "lock").write_bytes(MARK)
    (home / "link").symlink_to(elsewhere)
    before = sorted(path.name for path in home.iterdir())
    killed("old")
    assert (rundir.left_over(), rundir.running()) == (["old"], [])
    claim = RunDir.of("new").claim([])
    assert (rundir.left_over(), rundir.running()) == ([], ["new"])
    claim.close()
    assert sorted(path.name for path in home.iterdir()) == before
    assert (home / "photos" / "precious").exists() and (home / "project" / "precious").exists()
    assert (elsewhere / "lock").exists()


@pytest.mark.parametrize("name", ["photos", "project", "pipe", "link"])
def test_graph_does_not_use_a_folder_of_something_else(home: Path, name: str) -> None:
    (home / "link").symlink_to(home / "photos")
    with pytest.raises(ConfigError, match=f"{home / name} was not made by a graph; give this one another name, or set"):
        RunDir.of(name).claim([])
    assert (home / "photos" / "precious").exists() and (home / "project" / "lock").read_text() == "of another program"


def test_relative_run_directory_is_the_same_for_a_node_that_changes_its_working_directory(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("FACEGRAPH_RUN_DIR", "new/run")
    assert RunDir.of("a").data("node") == f"ipc://{home}/new/run/a/node"


def test_a_run_directory_whose_name_is_not_utf8_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEGRAPH_RUN_DIR", os.fsdecode(bytes(home) + b"/\xe4"))
    with pytest.raises(ConfigError, match=f"the run folder {home}/.* is not named in UTF-8; set FACEGRAPH_RUN_DIR to"):
        rundir.base()
    assert not any(path.name.startswith("\udce4") for path in home.iterdir())


def test_a_run_directory_of_another_user_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In /tmp any user may have created a folder of that name."""
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    with pytest.raises(ConfigError, match=f"{home} must belong to you with mode 0700; set FACEGRAPH_RUN_DIR to"):
        rundir.base()


def test_only_its_user_can_reach_the_sockets_of_a_graph() -> None:
    claim = RunDir.of("main").claim([])
    assert stat.S_IMODE(claim.rundir.path.stat().st_mode) == 0o700
    claim.close()


def test_folder_that_cannot_be_created(home: Path) -> None:
    with pytest.raises(ConfigError, match=f"the run folder {home / 'file'} cannot be created: File exists; set"):
        RunDir.of("file").claim([])


@pytest.mark.parametrize("variable", ["FACEGRAPH_RUN_DIR", "XDG_RUNTIME_DIR"])
def test_run_directory_that_cannot_be_created(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FACEGRAPH_RUN_DIR", "")  # as if it were not set
    monkeypatch.setenv(variable, str(tmp_path / "file" / "run"))
    assert cli.main(["top"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: the run folder {tmp_path / 'file' / 'run'}")
    assert error.endswith("cannot be created: Not a directory; set FACEGRAPH_RUN_DIR to a folder of your own\n")


def test_name_is_free_if_its_graph_was_killed_but_not_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    killed("main")
    (rundir.base() / "begun").mkdir()
    (rundir.base() / "begun" / "lock").touch()  # killed before it had written its mark
    claims = [RunDir.of(name).claim([]) for name in ("main", "begun")]
    assert not (claims[0].rundir.path / "control").exists()
    monkeypatch.setattr(rundir, "CLAIM_S", 0.05)
    with pytest.raises(ConfigError, match="a graph named 'main' is running already"):
        RunDir.of("main").claim([])
    for claim in claims:
        claim.close()


def test_late_process_does_not_remove_the_folder_of_a_new_graph() -> None:
    old = RunDir.of("main")
    claim = old.claim([])
    old.remove_left_over()
    assert rundir.running() == ["main"]
    old.path.rename(old.path.with_name("moved"))  # by its user, who then starts another graph
    new = RunDir.of("main").claim([])
    claim.close()
    assert rundir.running() == ["main"]
    new.close()
    RunDir.of("moved").remove_left_over()
    assert rundir.left_over() == rundir.running() == []


def test_folder_that_another_graph_replaces_while_it_is_locked_is_not_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening the lock file and locking it, which cannot be one step."""
    locked, others = fcntl.flock, []

    def too_late(lock: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", locked)
        RunDir.of("wanted").remove()
        others.append(RunDir.of("wanted").claim([]))
        locked(lock, how)

    monkeypatch.setattr(rundir, "CLAIM_S", 0.1)
    monkeypatch.setattr(fcntl, "flock", too_late)
    with pytest.raises(ConfigError, match="a graph named 'wanted' is running already"):
        RunDir.of("wanted").claim([])
    others[0].close()
