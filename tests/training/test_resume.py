from pathlib import Path

import pytest

from training import checkpoint, train
from training.resume import last_checkpoint
from training.settings import RunSettings, SettingsError


def a_run(steps: int = 10, minutes: float = 0.0, **own: object) -> RunSettings:
    own = {"sources": {"a": {"folder": "a"}}, **own}
    return RunSettings(name="tiny", task="training.landmark_task:LandmarkTask", settings=own, steps=steps,
                       minutes=minutes)


def write_checkpoint(folder: Path, settings: RunSettings, step: int, seconds: float = 0.0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.save(folder / "last.pt", {"ema": {}, "step": step, "seconds": seconds, "best": 4.5,
                                         "settings": settings.model_dump(mode="json")})


def test_a_run_continues_with_the_same_settings(tmp_path: Path) -> None:
    assert last_checkpoint(a_run(), tmp_path) is None
    write_checkpoint(tmp_path, a_run(), 4)
    longer = a_run(steps=20, minutes=3, data="elsewhere", cache="c", network="vote")  # the last is the default
    state = last_checkpoint(longer.model_copy(update={"workers": 2, "threads": 1, "validate_every": 5, "log_every": 5}),
                     tmp_path)
    assert state is not None and state["step"] == 4


def test_a_run_with_other_settings_is_refused_with_the_differences(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, a_run(), 4)
    other = a_run(network="slim", sources={"a": {"folder": "b"}, "c": {"folder": "c"}})
    with pytest.raises(SettingsError) as caught:
        last_checkpoint(other.model_copy(update={"batch": 8}), tmp_path)
    first, *lines = str(caught.value).splitlines()
    assert first.endswith("last.pt: run started with other settings; give another name or --runs, or delete its folder")
    assert lines[0] == "  batch: 32 then, 8 now"
    assert lines[1] == "  settings.network: 'vote' then, 'slim' now"
    assert lines[2] == "  settings.sources.a.folder: 'a' then, 'b' now"
    assert lines[3].startswith("  settings.sources.c: None then, {'folder': 'c'") and len(lines) == 4


@pytest.mark.parametrize("settings", [a_run(steps=4), a_run(minutes=0.5)])
def test_a_complete_run_is_reported(tmp_path: Path, settings: RunSettings, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    write_checkpoint(tmp_path / "tiny", settings, 4, 31.0)
    assert train.train(settings, tmp_path) == 4.5  # without reading data
    assert "tiny: complete at step 4, best 4.5000; increase `steps` or `minutes` to continue" in caplog.text
