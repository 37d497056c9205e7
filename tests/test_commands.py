"""The commands that inspect and change a running graph, as a user types them."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from prometheus_client.parser import text_string_to_metric_families

from tests.attached import untouched
from tests.conftest import Run, eventually
from tests.graphs import ROOT, Graph, node, rows, wait_for_rows

pytestmark = pytest.mark.slow


def config(name: str = "main") -> dict[str, Any]:
    """source -> copy -> write, source -> picky; the last one drops"""
    return {
        "name": name,
        "nodes": {
            "source": node("Source", frames=100_000, pause=0.003),
            "copy": node("Copy", {"frame": "source.frame"}),
            "picky": node("Picky", {"frame": "copy.copied"}),
            "write": node("Write", {"frame": "copy.copied"}),
        },
    }


@pytest.fixture
def main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Graph]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    with Graph(tmp_path, config(), "run", "--metrics", "0", "--dot", "dots") as main:
        wait_for_rows(tmp_path / "out.jsonl", 5)
        yield main
        main.interrupt()
        assert main.wait() == 0, main.text()


def test_commands(main: Graph, run: Run) -> None:
    top(run)
    tap(run)
    pictures(main, run)
    changes(main, run)
    drawings(main, run)
    prometheus(main)
    wrong(run)
    assert untouched(main.folder)


def top(run: Run) -> None:
    assert eventually(lambda: "no frames" not in run("top", "--once"))
    lines = run("top", "main", "--once").splitlines()
    assert lines[0].startswith("main  playing  for ")
    assert [line.split()[0] for line in lines[4:8]] == ["source", "copy", "picky", "write"]
    assert max(map(len, lines)) <= 110
    assert [line.split()[:3] for line in lines[8:10]] == [["capture", "→", "picky"], ["capture", "→", "write"]]
    assert run("top").splitlines()[0].startswith("main")  # no terminal: once
    assert eventually(lambda: json.loads(run("top", "--json"))["nodes"]["copy"]["fps"] > 0)


def tap(run: Run) -> None:
    lines = [json.loads(line) for line in run("tap", "copy.copied", "--count", "3").splitlines()]
    assert [line["type"] for line in lines] == ["Frame"] * 3
    assert all(after["seq"] > before["seq"] for before, after in pairwise(lines))
    value = lines[0]["seq"] % 251
    assert lines[0]["image"] == f"uint8[64, 64, 3] {value}.0..{value}.0"
    assert lines[0]["hops"] == ["source", "copy"] and lines[0]["age_ms"] > 0
    assert " Hz " in run("tap", "source.frame", "--hz", "--count", "30").splitlines()[-1]
    assert "12.29 kB to 12.29 kB" in run("tap", "main/source.frame", "--bw", "--count", "30").splitlines()[-1]
    command = [sys.executable, str(ROOT / "run_graph.py"), "tap", "picky.numbers", "--count", "2", "--full"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr  # a type that only its own module knows
    assert (
        json.loads(done.stdout.splitlines()[-1]).items() >= {"type": "Numbers", "word": "main", "values": [2.0]}.items()
    )


def pictures(main: Graph, run: Run) -> None:
    for name in ("picture.png", "picture.JPG"):
        assert run("tap", "source.frame", "--image", name) == ""
        picture = imread(main.folder / name)
        assert picture.shape[:2] == (64, 64) and np.ptp(picture[..., :3]) == 0
    for port, file, why in (
        ("picky.numbers", "x.png", "picky.numbers carries Numbers, not pictures; pictures: source.frame, copy.copied"),
        ("source.frame", "x.bmp", "x.bmp: the name of a picture must end in .png, .jpg, .jpeg, .webp, .tiff"),
        ("source.frame", "no/x.png", "no/x.png cannot be written: No such file or directory"),
    ):
        assert run("tap", port, "--image", file, code=2) == f"error: {why}\n"
    assert not [path for path in main.folder.iterdir() if path.name.startswith(".")]


def changes(main: Graph, run: Run) -> None:
    assert run("set", "picky.even=8") == "main/picky.even = 8\n"
    assert run("set", "main/picky.token=xyz") == "main/picky.token = ***\n"
    assert run("set", "picky.ripe=true") == "main/picky.ripe = true\n"
    run("pause")
    assert run("top", "--once").startswith("main  paused")
    before = len(rows(main.folder / "out.jsonl"))
    run("resume", "main")
    wait_for_rows(main.folder / "out.jsonl", before + 10)
    pid = main.node("picky").pid
    run("restart", "picky")
    assert main.node("picky").pid != pid
    assert "restarts of picky: 1" in run("top", "--once")


def drawings(main: Graph, run: Run) -> None:
    assert eventually(lambda: "fps" in run("draw", "main"))
    said = run("draw", "main")
    assert said.startswith('digraph "main" {\n  graph [rankdir=LR, label="main: playing"')
    assert '"copy" -> "write" [label="copied → frame\\nblock 4\\n' in said and "per s" in said
    assert run("draw", "main", "--mermaid").startswith("flowchart LR\n")
    names = [path.name.partition("s-")[2] for path in sorted((main.folder / "dots").iterdir())]
    assert names[0] == "main-STARTING.dot"
    steps = [name for name in names if name.startswith("main-")]
    assert steps == [f"main-{state}.dot" for state in ("STARTING", "PLAYING", "PAUSED", "PLAYING")]
    assert [name for name in names if name.startswith("picky-")][-1] == "picky-PLAYING.dot"


def prometheus(main: Graph) -> None:
    address = next(line.split()[-1] for line in main.text().splitlines() if "metrics for Prometheus" in line)
    with urllib.request.urlopen(address, timeout=60) as answer:
        text = answer.read().decode()
    assert "wonder" not in text and "sesame" not in text
    families = {family.name: family for family in text_string_to_metric_families(text)}

    def value(family: str, sample: str, **labels: str) -> float:
        found = [s for s in families[family].samples if s.name == sample and s.labels.items() >= labels.items()]
        assert len(found) == 1, (sample, labels)
        return found[0].value

    assert value("facegraph_frames", "facegraph_frames_total", node="copy", graph="main") > 5
    buckets = [
        s.value
        for s in families["facegraph_process_seconds"].samples
        if s.labels.items() >= {"node": "copy"}.items() and "le" in s.labels
    ]
    assert buckets == sorted(buckets) and len(buckets) == 15
    count = value("facegraph_process_seconds", "facegraph_process_seconds_count", node="copy")
    assert buckets[-1] == count == value("facegraph_frames", "facegraph_frames_total", node="copy")
    assert value("facegraph_restarts", "facegraph_restarts_total", node="picky") == 1
    assert value("facegraph_state", "facegraph_state", node="write") == 1
    assert value("facegraph_dropped", "facegraph_dropped_total", edge="copy.copied -> write.frame") == 0
    assert value("facegraph_cpu_seconds", "facegraph_cpu_seconds_total", node="source") > 0


def wrong(run: Run) -> None:
    """What a user sees after a typing error."""
    for arguments, why in (
        (["top", "mian"], "no graph named 'mian' is running; did you mean 'main'?"),
        (["tap", "copy.copy"], "main has no output 'copy.copy'; did you mean 'copy.copied'?"),
        (["tap", "nose"], "main has no output 'nose'; outputs: source.frame, copy.copied, picky.numbers"),
        (["set", "picky.even"], "'picky.even' is not of the form node.setting=value"),
        (["set", "picky.even=7"], "picky.even: 7 is odd"),
        (["set", "write.path=x"], "write.path cannot be changed while the graph runs; changeable here: none"),
        (["restart", "pick"], "main has no node 'pick'; did you mean 'picky'?"),
    ):  # fmt: skip
        assert run(*arguments, code=2) == f"error: {why}\n"


def test_which_graph(tmp_path: Path, run: Run) -> None:
    assert run("top", code=2) == "error: no graph is running; start one: run_graph.py CONFIG\n"
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with Graph(tmp_path / "a", config("one")) as one, Graph(tmp_path / "b", config("two")) as two:
        assert eventually(lambda: one.playing() and two.playing())
        assert run("pause", code=2) == "error: 2 graphs are running, say which: one, two\n"
        run("pause", "one")
        assert run("top", "one", "--once").startswith("one  paused")
        assert run("top", "two", "--once").startswith("two  playing")
        for graph in (one, two):
            graph.interrupt()
            assert graph.wait() == 0, graph.text()
