"""Training configs, and the messages about wrong settings."""

import re
from pathlib import Path

import pytest

from training import train
from training.settings import SettingsError, checked, load_settings
from training.task import task_class

CONFIG = Path("configs/train/landmarks.yaml")


def test_a_config_with_a_base_holds_what_differs(tmp_path: Path) -> None:
    whole = "name: a\ntask: x:Y\nsteps: 5\nsettings: {sources: {one: {weight: 1, folder: f}}}\n"
    (tmp_path / "a.yaml").write_text(whole)
    (tmp_path / "b.yaml").write_text("base: a.yaml\nname: b\nsettings: {size: 64, sources: {one: {weight: 2}}}\n")
    settings = load_settings(tmp_path / "b.yaml", ["settings.sources.one.held_out=0.1"])
    assert (settings.name, settings.task, settings.steps) == ("b", "x:Y", 5)
    assert settings.settings == {"size": 64, "sources": {"one": {"weight": 2, "folder": "f", "held_out": 0.1}}}
    (tmp_path / "c.yaml").write_text("base: b.yaml\nsettings: {size: null, sources: {one: null, two: {mild: null}}}\n")
    settings = load_settings(tmp_path / "c.yaml", ["settings.network=null"])
    assert settings.settings == {"sources": {"two": {"mild": None}}, "network": None}
    assert load_settings(tmp_path / "c.yaml", ["settings.sources=null"]).settings == {}
    there = f"../{tmp_path.name}/b.yaml"  # a circle, also by another path to the same file
    for base in ("b.yaml", there):
        (tmp_path / "a.yaml").write_text(f"base: {base}\n")
        with pytest.raises(SettingsError, match=f"a.yaml: base: expected the name of another config, found '{base}'"):
            load_settings(tmp_path / "b.yaml")


@pytest.mark.parametrize("path", sorted(Path("configs/train").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_is_valid(path: Path) -> None:
    settings = load_settings(path)
    module, _, name = settings.task.partition(":")
    task = getattr(__import__(module, fromlist=[name]), name)
    task.Settings.model_validate(settings.settings)


def test_the_readmes_files_for_own_faces_use_no_other_data(tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(CONFIG.parent.parent.absolute())
    seen = []
    for text in re.findall(r"```yaml\n(.*?)```", Path("training/README.md").read_text(), re.DOTALL):
        (tmp_path / "own.yaml").write_text(text)
        settings = load_settings(tmp_path / "own.yaml")
        seen.append(task_class(settings.task).Settings.model_validate(settings.settings))
    landmarks, faces = seen
    assert list(landmarks.sources) == ["mine"] and not landmarks.backgrounds and not landmarks.wider
    assert not faces.points and not faces.wider and not faces.backgrounds and len(faces.prepared) == 1


@pytest.mark.parametrize(("overrides", "text"), [
    (["stpes=3"], "no setting 'stpes'; did you mean 'steps'?"),
    (["steps=many"], "steps: input should be a valid integer"),
    (["steps=0"], "steps: input should be greater than 0, found 0"),
    (["steps"], "--set steps: expected place=value"),
    (["steps=["], "--set steps=[: not a YAML value: while parsing a flow node"),
    (["steps.more=3"], "'steps' is a single value and has no settings below it"),
])
def test_wrong_settings_are_explained(overrides: list[str], text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(CONFIG, overrides)
    assert text in str(caught.value)


def test_other_settings_are_not_repeated_in_an_error() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(CONFIG, ["steps=null"])
    assert str(caught.value) == f"{CONFIG}: steps: field required"
    own = load_settings(CONFIG, ["settings.teacher=large.pt"])
    with pytest.raises(SettingsError) as caught:
        checked(task_class(own.task).Settings, own.settings, "settings")
    assert str(caught.value) == "settings: teacher: no source has labels: teacher or mean"


@pytest.mark.parametrize(("override", "text"), [
    ("settings.sise=160", "settings: no setting 'sise'; did you mean 'size'?"),
    ("settings.sources.lfpw.weihgt=2", "settings: no setting 'sources.lfpw.weihgt'; did you mean 'weight'?"),
    ("task=training.landmark_task:Landmarks", "cannot be loaded"),
    ("settings.data=nowhere", "nowhere/landmarks/AFW/afw: no such folder"),
    ("device=gpu", "device: input should be 'auto', 'cpu' or 'cuda', found 'gpu'"),
])
def test_wrong_task_settings_end_with_2_and_one_line(override: str, text: str, tmp_path: Path,
                                                     caplog: pytest.LogCaptureFixture,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIG.absolute()
    monkeypatch.chdir(tmp_path)
    assert train.main([str(config), "--set", override]) == 2
    assert text in caplog.text
    assert "Traceback" not in caplog.text
