"""The comparison of two runs."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from graph import cli
from graph.compare import Change, report

TIMES = {"p50": 2.0, "p95": 3.0, "p99": 4.0, "mean": 2.0, "max": 5.0}
NODE = {
    "type": "nodes.x:X",
    "frames": 100,
    "fps": 30.0,
    "busy_percent": 10.0,
    **{f"{name}_ms": TIMES for name in ("wait", "process", "publish", "age")},
    "states_percent": {},
    "unmatched": 0,
    "restarts": 0,
    "cpu_percent": 20.0,
    "memory_mb": 100.0,
}
RUN: dict[str, Any] = {
    "format": 2,
    "graph": "g",
    "machine": {"cpu": "x", "cores": 2, "system": "Linux", "python": "3.11"},
    "capture_to_sink": {"window": TIMES},
    "nodes": {"camera": NODE, "landmarks": NODE, "window": NODE},
    "edges": {"camera.frame -> landmarks.frame": {"dropped": 0, "queue_peak": 1}},
}


def write(folder: Path, run: Any) -> str:
    folder.mkdir()
    (folder / "latency.json").write_text(run if isinstance(run, str) else json.dumps(run))
    return str(folder)


def said(capsys: pytest.CaptureFixture[str], *folders: str) -> list[str]:
    assert cli.main(["compare", *folders]) == 0
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


def test_changes_are_reported_and_noise_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    after = json.loads(json.dumps(RUN))
    after["nodes"]["landmarks"]["process_ms"]["p50"] = 2.54
    after["nodes"]["landmarks"]["memory_mb"] = 200.0
    after["nodes"]["camera"]["process_ms"]["p50"] = 1.0
    after["nodes"]["window"]["process_ms"]["p50"] = 2.1  # 5 %
    after["capture_to_sink"]["window"]["p50"] = 5.0
    after["edges"]["camera.frame -> landmarks.frame"]["dropped"] = 25
    lines = said(capsys, write(tmp_path / "a", RUN), write(tmp_path / "b", after))
    assert lines[lines.index("") + 1 :] == [
        "capture → window is slower: p50 2.00 → 5.00 ms (+150 %)",
        "landmarks itself is slower: process p50 2.00 → 2.54 ms (+27 %)",
        "camera itself is faster: process p50 2.00 → 1.00 ms (-50 %)",
        "landmarks misses 20.0 % of its frames, was 0.0 %",
        "landmarks uses more memory: 100 → 200 MB",
    ]
    back = said(capsys, str(tmp_path / "b"), str(tmp_path / "a"))
    assert back[back.index("") + 1 :] == [
        "capture → window is faster: p50 5.00 → 2.00 ms (-60 %)",
        "camera itself is slower: process p50 1.00 → 2.00 ms (+100 %)",
        "landmarks itself is faster: process p50 2.54 → 2.00 ms (-21 %)",
        "landmarks misses 0.0 % of its frames, was 20.0 %",
    ]
    row = next(line for line in lines if line.startswith("landmarks "))
    assert "30.0 → 30.0" in row and "2.00 → 2.54" in row and "20 → 20" in row


@pytest.mark.parametrize(
    ("change", "verdict", "percent"),
    [
        (Change(0.02, 0.06, least=0.05), "", "+200 %"),
        (Change(0.0, 0.06, least=0.05), "worse", "new"),
        (Change(2.0, 2.19, least=0.05), "", "+9 %"),
        (Change(2.0, 1.7, least=0.05), "better", "-15 %"),
        (Change(30.0, 26.0, least=0.1, more_is_worse=False), "worse", "-13 %"),
    ],
)
def test_noise_is_relative_with_an_absolute_minimum(change: Change, verdict: str, percent: str) -> None:
    assert (change.verdict, change.percent) == (verdict, percent)


def test_the_largest_change_is_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    after = json.loads(json.dumps(RUN))
    for name, ms in (("camera", 3.0), ("landmarks", 9.0), ("window", 4.0)):
        after["nodes"][name]["process_ms"]["p50"] = ms
    lines = said(capsys, write(tmp_path / "a", RUN), write(tmp_path / "b", after))
    assert [line.split()[0] for line in lines if "itself is slower" in line] == ["landmarks", "window", "camera"]


def test_large_relative_changes_of_small_numbers_are_noise() -> None:
    before, after = json.loads(json.dumps(RUN)), json.loads(json.dumps(RUN))
    for run, fps, ms, percent, mb in ((before, 0.5, 0.05, 5.0, 20.0), (after, 0.58, 0.09, 9.0, 24.0)):
        times = {f"{name}_ms": TIMES | {"p50": ms} for name in ("wait", "process", "age")}
        run["nodes"]["landmarks"] |= {"fps": fps, "cpu_percent": percent, "memory_mb": mb, **times}
        run["capture_to_sink"]["window"]["p50"] = ms
    after["edges"]["camera.frame -> landmarks.frame"]["dropped"] = 1
    console = Console(width=120, force_terminal=True, color_system="standard")
    with console.capture() as shown:
        console.print(report(before, after, 120))
    assert "\x1b[31m" not in shown.get() and "\x1b[32m" not in shown.get(), "neither red nor green"


def test_a_pipe_gets_all_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS")
    folder = write(tmp_path / "a", RUN)
    row = next(line for line in said(capsys, folder, folder) if line.startswith("landmarks "))
    assert row.count("→") == 7


def test_the_same_run_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "a", RUN)
    lines = said(capsys, folder, f"{folder}/latency.json")
    assert lines[lines.index("") + 1 :] == ["capture → window is as fast as before: p50 2.00 → 2.00 ms (+0 %)"]
    assert not any(line.startswith(("different", "only in")) for line in lines)


def test_differences_between_the_machines_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = json.loads(json.dumps(RUN))
    other["machine"] = {"cpu": "y", "cores": 4, "system": "Darwin", "python": "3.12"}
    other["nodes"]["smooth"] = other["nodes"].pop("landmarks")
    lines = said(capsys, write(tmp_path / "a", RUN), write(tmp_path / "b", other))
    assert [line for line in lines if line.startswith(("different", "only in"))] == [
        "different cpu: x, y",
        "different cores: 2, 4",
        "different system: Linux, Darwin",
        "different python: 3.11, 3.12",
        "only in the first run: landmarks",
        "only in the second run: smooth",
    ]


def test_a_lower_frame_rate_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If a node slows a file down, the latency of each frame may stay the same."""
    after = json.loads(json.dumps(RUN))
    for node in after["nodes"].values():
        node["fps"] = 12.0
    lines = said(capsys, write(tmp_path / "a", RUN), write(tmp_path / "b", after))
    assert lines[lines.index("") + 1 :] == [
        "capture → window is as fast as before: p50 2.00 → 2.00 ms (+0 %)",
        "window runs at 12.0 fps, was 30.0",
    ]
    *_, last = report(RUN, after, 120).renderables
    assert isinstance(last, Text) and last.style == "red"


def test_nodes_without_frames_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none = json.loads(json.dumps(RUN)) | {"capture_to_sink": {}}
    for node in none["nodes"].values():
        node |= {"frames": 0, "process_ms": dict.fromkeys(TIMES, 0.0)}
    one = json.loads(json.dumps(none))
    one["nodes"]["camera"] |= {"frames": 1, "process_ms": TIMES}
    folder = write(tmp_path / "a", RUN)
    lines = said(capsys, folder, write(tmp_path / "b", one))
    assert "no frames in the second run: landmarks, window" in lines and lines[-1] == ""
    lines = said(capsys, write(tmp_path / "c", none), folder)
    assert "no frames in the first run: camera, landmarks, window" in lines
    assert lines[-1] == "no node has frames in both runs"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "error: no {}/latency.json; create it: run_graph.py CONFIG --profile {}"),
        ("{", "error: {}/latency.json: cannot be read: Expecting property name"),
        (RUN | {"format": 1}, "error: {}/latency.json: has format 1, but this version reads format 2; create"),
        ({"format": 2}, "error: {}/latency.json: is not the latency.json of a run"),
        ({"nodes": {}}, "error: {}/latency.json: is not the latency.json of a run"),
        ("5", "error: {}/latency.json: is not the latency.json of a run"),
    ],
)
def test_files_that_are_not_of_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any, why: str
) -> None:
    folder = tmp_path / "a"
    if content is None:
        folder.mkdir()
    else:
        write(folder, content)
    assert cli.main(["compare", str(folder), str(folder)]) == 2
    assert capsys.readouterr().err.startswith(why.replace("{}", str(folder)))
