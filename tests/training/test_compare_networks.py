import json
import signal
from pathlib import Path

import pytest
import yaml

from tests.training.faces68 import write_two_sets
from training import checkpoint, compare, train


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config of seconds: drawn faces, inputs of 64 px."""
    own = {"data": str(tmp_path / "data"), "cache": str(tmp_path / "cache"), "size": 64,
           "sources": write_two_sets(tmp_path / "data")}
    content = {"name": "tiny", "task": "training.landmark_task:LandmarkTask", "settings": own, "steps": 4, "batch": 4,
               "threads": 1, "device": "cpu"}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "tiny.yaml"


@pytest.mark.slow
def test_a_stopped_comparison_continues(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    command = [str(config), "--vary", "settings.network=vote,slim", "--runs", str(tmp_path / "runs")]
    steps, average = iter(range(100)), train.average

    def stop_after_six(*arguments: object) -> None:
        average(*arguments)
        if next(steps) == 5:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(train, "average", stop_after_six)
        assert compare.main(command) == 130
    found = {name: checkpoint.load(tmp_path / "runs" / f"tiny-{name}" / "last.pt")["step"] for name in ("vote", "slim")}
    assert found == {"vote": 4, "slim": 2}
    assert not (tmp_path / "runs" / "comparison.md").exists()
    capsys.readouterr()

    assert compare.main(command) == 0
    text = (tmp_path / "runs" / "comparison.md").read_text()
    assert text.strip() in capsys.readouterr().out
    header, _, vote, slim, _, note = text.strip().splitlines()
    assert header.startswith("| network | parameters | M MAC | ms | steps | minutes | nme_held |")
    assert vote.startswith("| vote | 192,113 | 3.9 |") and slim.startswith("| slim | 234,415 | 4.0 |")
    assert note.startswith("batch 4, seed 1;")
    rows = json.loads((tmp_path / "runs" / "comparison.json").read_text())
    assert rows["slim"]["head_yaw_error"] > 0 and "head_yaw_error" not in rows["vote"]
    assert all(row["ms"] > 0 for row in rows.values())

    assert compare.main([*command, "--steps", "5"]) == 2  # the same folder for another comparison


def test_any_setting_can_be_varied(config: Path) -> None:
    planned = compare.plan(config, "settings.region_weights={eyes: 1.5},{}", [])
    assert [settings.settings["region_weights"] for settings in planned.values()] == [{"eyes": 1.5}, {}]
    assert len({settings.name for settings in planned.values()}) == 2


@pytest.mark.parametrize(("vary", "text"), [
    ("settings.network", "--vary settings.network: expected PLACE=VALUE,VALUE"),
    ("settings.network=vote,slimm", "found 'slimm'"),
    ("settings.netwrok=vote", "did you mean 'network'?"),
])
def test_a_wrong_comparison_is_refused_before_anything_starts(vary: str, text: str, config: Path, tmp_path: Path,
                                                              caplog: pytest.LogCaptureFixture) -> None:
    assert compare.main([str(config), "--vary", vary, "--runs", str(tmp_path / "runs")]) == 2
    assert text in caplog.text
    assert not (tmp_path / "runs").exists()


def test_a_measure_that_a_network_lacks_stays_empty() -> None:
    costs = {"parameters": 1234567, "M MAC": 22.61, "ms": 0.361, "steps": 1200, "minutes": 12.4}
    text = compare.table("network", {"a": costs | {"nme": 5.236}, "b": costs | {"nme": 6, "pose": 0.5678}})
    assert text.splitlines() == [
        "| network | parameters | M MAC | ms | steps | minutes | nme | pose |", "|---|---|---|---|---|---|---|---|",
        "| a | 1,234,567 | 22.6 | 0.36 | 1,200 | 12 | 5.24 |  |",
        "| b | 1,234,567 | 22.6 | 0.36 | 1,200 | 12 | 6 | 0.568 |",
    ]
