"""Recording running graphs and replaying them, with real commands, processes and files."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import graph
from graph import ConfigError, cli
from graph.mcap_reader import Recording
from tests.attached import running, untouched
from tests.conftest import PATIENCE_S, eventually
from tests.graphs import ROOT, Graph, rows, wait_for_rows
from tests.toys import Numbers

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("COLUMNS", "110")
    return tmp_path


@contextlib.contextmanager
def command(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Start `run_graph.py` with arguments; kill it at the end if it still runs."""
    line = [sys.executable, str(ROOT / "run_graph.py"), *arguments]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def begun(recorder: "subprocess.Popen[str]") -> str:
    """Wait for the first line, which is printed when every sender has answered."""
    assert recorder.stdout is not None
    return recorder.stdout.readline()


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    said = process.communicate(timeout=PATIENCE_S * 2)[0]
    return process.returncode, said


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main([*arguments]) == 2
    return capsys.readouterr().err


FACES: dict[str, Any] = {
    "detector": {"type": "nodes.detect:FaceDetector", "inputs": {"frame": "camera.frame"}, "settings": {"every": 5}},
    "landmarks": {
        "type": "nodes.landmarks:Landmarks",
        "inputs": {"frame": "camera.frame", "found": "detector.faces"},
    },
    "smooth": {"type": "nodes.smooth:Smooth", "inputs": {"frame": "camera.frame", "raw": "landmarks.faces"}},
    "keep": {"type": "tests.recorded_nodes:Keep", "inputs": {"faces": "smooth.faces"}},
}


def test_landmarks_of_a_replay_are_identical(folder: Path) -> None:
    """The same nodes process the recorded frames again: all, and a cut recording with another name for the camera."""
    source = {"type": "tests.recorded_nodes:GatedSource", "settings": {"width": 320, "height": 240, "frames": 40}}
    with Graph(folder, {"name": "faces", "nodes": {"camera": source, **FACES}}) as main:
        with command("record", "camera.frame", "faces/smooth.faces", "--wait", "-o", "a.mcap", "--block") as recorder:
            assert begun(recorder) == "recording camera.frame, smooth.faces of faces; Ctrl-C stops it\n"
            Path("go").touch()
            assert main.wait() == 0, main.text()
            code, said = ended(recorder)
        assert code == 0 and "missing:" not in said
        assert [line.split() for line in said.splitlines()[2:4]] == [
            ["camera.frame", "40", "0"],
            ["smooth.faces", "40", "0"],
        ]
    live = Path("faces.bin").read_bytes()
    recorded = list(graph.recording("a.mcap", "smooth.faces"))
    assert len(recorded) == 40 and all(len(faces) == 1 for faces in recorded[1:])
    assert all(faces.landmarks.tobytes() in live for faces in recorded)

    Path("go").unlink()  # no node may wait for it
    faces, said = replayed("faces.yaml")
    assert faces == live and said.startswith("camera is replayed (camera.frame)\n")

    Path("other.yaml").write_text(Path("faces.yaml").read_text().replace("camera", "eye"))
    Path("a.mcap").write_bytes(Path("a.mcap").read_bytes()[: Path("a.mcap").stat().st_size // 2])
    there = len(list(graph.recording("a.mcap", "camera.frame")))
    assert 10 < there < 30
    faces, said = replayed("other.yaml")
    assert live.startswith(faces) and len(faces) >= len(live) // 40 * (there - 1)
    assert said.startswith("a.mcap is incomplete or still being written")
    assert "\neye is replayed (frame=camera.frame)\n" in said


def replayed(config: str) -> tuple[bytes, str]:
    """Return the faces that the nodes of a graph find in a recording, and the output of the command."""
    with command("replay", "a.mcap", config, "--speed", "0") as process:
        code, said = ended(process)
    assert code == 0, said
    return Path("faces.bin").read_bytes(), said


@pytest.fixture
def main(folder: Path) -> Iterator[Graph]:
    with Graph(folder, running()) as main:
        wait_for_rows(folder / "out.jsonl", 5)
        yield main


def stopped(main: Graph) -> None:
    main.interrupt()
    assert main.wait() == 0, main.text()
    assert untouched(main.folder)


def test_a_recording_is_played_as_the_original_graph(main: Graph) -> None:
    """Record ports of several types, then attach to the replay as to the graph, and join its ports."""
    ports = ("source.frame", "copy.copied", "pair.paired")
    with command("record", *ports, "-o", "a.mcap", "--duration", "0.5", "--compression", "none") as recorder:
        assert ended(recorder)[0] == 0
    stopped(main)
    found = Recording("a.mcap")
    assert {name: type_.__qualname__ for name, type_ in found.ports.items()} == dict(
        zip(ports, ("Frame", "Frame", "Numbers"), strict=True)
    )
    sets = list(graph.recording("a.mcap", *ports))
    assert all((frame.image == frame.seq % 251).all() and pair.values[0] == frame.seq for frame, _, pair in sets)
    with command("replay", "a.mcap", "--loop") as replay, graph.attach("main", wait=PATIENCE_S) as g:
        assert g.ports == {
            "source.frame": "graph.messages:Frame",
            "copy.copied": "graph.messages:Frame",
            "pair.paired": "tests.toys:Numbers",
        }
        seqs = []
        for frame, copied, pair in g.subscribe(*ports, policy="block"):
            assert isinstance(pair, Numbers) and frame.seq == copied.seq == pair.seq
            assert (frame.image == pair.values[0] % 251).all() and [hop.node for hop in frame.header.hops] == ["source"]
            seqs.append(frame.seq)
            if frame.epoch == 2:  # the third pass
                break
        assert seqs == sorted(set(seqs)) and len(seqs) > 1.5 * len(sets)
        replay.send_signal(signal.SIGINT)
        assert ended(replay)[0] == 0


def test_replay_in_place_of_a_node_in_the_middle(main: Graph) -> None:
    """Nodes that only it read are removed; a message type of the recording's own still fits."""
    with command("record", "source.frame", "pair.paired", "-o", "a.mcap", "--duration", "0.5") as recorder:
        assert ended(recorder)[0] == 0
    stopped(main)
    pairs = [pair.values.tolist() for pair in graph.recording("a.mcap", "pair.paired")]
    with command(
        "replay", "a.mcap", "main.yaml", "--in-place-of", "pair", "--speed", "0", "--set", "source.frames=5"
    ) as replay:
        code, said = ended(replay)
    assert code == 0 and "pair is replayed (pair.paired)" in said and "removed" not in said
    assert [values for _, values in rows(Path("numbers.jsonl"))] == pairs
    text = Path("main.yaml").read_text()
    Path("short.yaml").write_text(text[: text.index("  write:")] + text[text.index("  numbers:") :])
    with command("replay", "a.mcap", "short.yaml", "--in-place-of", "pair=pair.paired", "--speed", "0") as replay:
        code, said = ended(replay)
    assert code == 0 and {"copy is removed: no node reads it now", "source is removed: no node reads it now"} <= set(
        said.splitlines()
    )
    assert [values for _, values in rows(Path("numbers.jsonl"))] == pairs


def test_a_killed_recorder_leaves_a_recording_and_the_graph_continues(main: Graph) -> None:
    with command("record", "copy.copied", "-o", "a.mcap") as recorder:
        begun(recorder)
        assert eventually(lambda: Path("a.mcap").stat().st_size > 20_000)
        recorder.kill()
    frames = list(graph.recording("a.mcap", "copy.copied"))
    assert frames and all((frame.image == frame.seq % 251).all() for frame in frames)
    wait_for_rows(Path("out.jsonl"), len(rows(Path("out.jsonl"))) + 50)
    stopped(main)


def test_a_recording_continues_after_a_node_is_restarted(main: Graph) -> None:
    with command("record", "copy.copied", "source.frame", "-o", "a.mcap") as recorder:
        begun(recorder)
        with graph.attach("main") as g:
            g.restart("copy")
            fresh = next(g.subscribe("source.frame")).seq  # the old process never had this frame
        assert recorder.stdout is not None
        assert recorder.stdout.readline() == "warning: copy of the graph 'main' was restarted; continuing\n"
        wait_for_rows(main.folder / "out.jsonl", len(rows(main.folder / "out.jsonl")) + 300)
        recorder.send_signal(signal.SIGINT)
        assert ended(recorder)[0] == 0
    main.interrupt()
    assert main.wait() == 0, main.text()
    for port in ("copy.copied", "source.frame"):
        seqs = [frame.seq for frame in graph.recording("a.mcap", port)]
        assert seqs[0] < fresh < seqs[-1]


def test_a_stopped_recorder_blocks_nothing_and_counts_missing_frames(main: Graph) -> None:
    def recorded() -> list[int]:
        with contextlib.suppress(ConfigError):  # nothing is on the disk yet
            return [frame.seq for frame in graph.recording("a.mcap", "copy.copied")]
        return []

    with command("record", "copy.copied", "-o", "a.mcap") as recorder:
        begun(recorder)
        assert eventually(recorded)
        recorder.send_signal(signal.SIGSTOP)
        wait_for_rows(Path("out.jsonl"), len(rows(Path("out.jsonl"))) + 200)
        last = rows(Path("out.jsonl"))[-1][0]
        recorder.send_signal(signal.SIGCONT)
        assert eventually(lambda: recorded()[-1] > last), "nothing was recorded after SIGCONT"
        recorder.send_signal(signal.SIGINT)
        code, said = ended(recorder)
    assert code == 0 and "missing: frames dropped before they were recorded; --block" in said
    seqs = recorded()
    missing = seqs[-1] - seqs[0] + 1 - len(seqs)
    assert missing > 50
    assert said.splitlines()[2].split() == ["copy.copied", str(len(seqs)), str(missing)]
    stopped(main)


def test_block_misses_nothing_of_a_fast_graph(folder: Path) -> None:
    line = ("record", "pair.paired", "source.frame", "-o", "a.mcap", "--wait", "--block")
    document = running(frames=1000, pause=0.0)
    document["nodes"]["source"]["type"] = "tests.recorded_nodes:GatedNumbers"
    with Graph(folder, document) as main, command(*line) as recorder:
        begun(recorder)
        Path("go").touch()
        assert main.wait() == 0, main.text()
        assert ended(recorder)[0] == 0
    assert [frame.seq for frame in graph.recording("a.mcap", "source.frame")] == [*range(1000)]


def test_a_recording_of_a_graph_that_dies_is_complete(main: Graph) -> None:
    with command("record", "source.frame", "-o", "a.mcap") as recorder:
        begun(recorder)
        wait_for_rows(Path("out.jsonl"), len(rows(Path("out.jsonl"))) + 20)
        main.process.kill()
        code, said = ended(recorder)
    assert code == 1 and "error: the graph 'main' has died" in said
    assert not Recording("a.mcap").cut


def test_errors(main: Graph, capsys: pytest.CaptureFixture[str]) -> None:
    os.symlink("/dev/full", "full.mcap")
    with command("record", "source.frame", "-o", "full.mcap") as recorder:
        code, said = ended(recorder)
    assert code == 1 and "error: full.mcap: No space left on device; it ends after about" in said
    with command("record", "pair.paired", "-o", "a.mcap", "--duration", "0.3") as recorder:
        assert ended(recorder)[0] == 0
    with command("record", "pair.paired", "-o", "empty.mcap", "--duration", "0") as recorder:
        assert ended(recorder)[0] == 0
    with command("replay", "a.mcap") as replay:
        assert ended(replay) == (
            2,
            "error: a graph named 'main' is running already; stop it, or give this one another name\n",
        )
    for arguments, why in (
        (["record", "source.frme", "-o", "b.mcap"], "main has no output 'source.frme'; did you mean 'source.frame'?"),
        (["record", "source.frame", "-o", "b.mp4"], "b.mp4: the name of a recording must end in .mcap"),
        (["record", "source.frame", "-o", "no/b.mcap"], "no/b.mcap cannot be written: No such file or directory"),
        (["record", "a/x.y", "b/x.y", "-o", "b.mcap"], "cannot record several graphs into one file: a, b"),
        (["record", "mian/x.y", "-o", "b.mcap"], "no graph named 'mian' is running; did you mean 'main'?"),
        (
            ["replay", "a.mcap", "main.yaml"],
            "main.yaml:3: nothing to replay in place of source, which gives frame: Frame; recorded: "
            "pair.paired: Numbers; choose with --in-place-of NODE=RECORDED.PORT",
        ),
        (
            ["replay", "a.mcap", "main.yaml", "--in-place-of", "pear"],
            "--in-place-of pear: main.yaml has no node 'pear'; did you mean 'pair'?",
        ),
        (["replay", "a.mcap", "--in-place-of", "pair"], "--in-place-of needs a CONFIG with the node to replace"),
        (
            ["replay", "a.mcap", "main.yaml", "--in-place-of", "pair", "--speed", "1e9"],
            "replay in place of pair: settings.speed: is 1000000000.0, expected float from 0.0 to 1000.0",
        ),
        (["replay", "main.yaml"], f"{Path('main.yaml').absolute()} is not a recording (MCAP); make one: "
         "run_graph.py record NODE.PORT -o FILE.mcap"),
    ):  # fmt: skip
        assert failed(capsys, *arguments) == f"error: {why}\n"
    assert not Path("b.mcap").exists()
    stopped(main)
