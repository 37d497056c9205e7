import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graph import OPENNESS, POSE, STATES, ConfigError, Faces, Header, NodeError
from graph.testing import run_node
from nodes.record import COLUMNS, RecordFaces
from tests.accidents import full_disk, killed_after


def some_faces(seq: int, count: int) -> Faces:
    random = np.random.default_rng(seq)
    return Faces(
        header=Header(seq=seq, pts=seq / 30, epoch=2),
        ids=np.arange(count, dtype=np.int64) + 7,
        boxes=random.uniform(0, 1000, (count, 4)).astype(np.float32),
        scores=random.uniform(0, 1, count).astype(np.float32),
        landmarks=random.uniform(-50, 2000, (count, 68, 2)).astype(np.float32),
        spread=random.uniform(0, 20, (count, 68)).astype(np.float32),
        pose=random.uniform(-90, 90, (count, 3)).astype(np.float32),
        states=random.uniform(0, 1, (count, 4)).astype(np.float32),
        openness=random.uniform(0.1, 1, (count, 3)).astype(np.float32),
        blinks=np.arange(count) + 3,
    )


def record_faces(path: Path, messages: list[Faces]) -> str:
    run_node(RecordFaces(path=str(path)), faces=messages)
    return path.read_text(encoding="utf-8")


def test_json_lines(tmp_path: Path) -> None:
    messages = [some_faces(0, 2), some_faces(1, 0), some_faces(2, 1)]
    lines = [json.loads(line) for line in record_faces(tmp_path / "out" / "faces.jsonl", messages).splitlines()]
    assert [line["seq"] for line in lines] == [0, 1, 2]
    assert lines[1] == {"seq": 1, "pts": 0.033333, "epoch": 2, "faces": []}
    face, original = lines[0]["faces"][1], messages[0]
    assert list(face) == ["id", "box", "score", "landmarks", "spread", "pose", "states", "openness", "blinks"]
    assert face["id"] == 8
    assert np.allclose(face["box"], original.boxes[1], atol=0.0051)
    assert np.allclose(face["landmarks"], original.landmarks[1], atol=0.0051)
    assert np.allclose(face["spread"], original.spread[1], atol=0.0051)
    assert face["score"] == pytest.approx(float(original.scores[1]), abs=5e-5)
    assert list(face["pose"]) == list(POSE)
    assert np.allclose(list(face["pose"].values()), original.pose[1], atol=0.0051)
    assert list(face["states"]) == list(STATES)
    assert np.allclose(list(face["states"].values()), original.states[1], atol=5.1e-5)
    assert list(face["openness"]) == list(OPENNESS)
    assert np.allclose(list(face["openness"].values()), original.openness[1], atol=5.1e-5)
    assert face["blinks"] == 4


def digits(numbers: Any) -> int:
    """Return the largest number of decimals in nested lists or dictionaries of written numbers."""
    if isinstance(numbers, str):
        return len(numbers.partition(".")[2])
    return max(map(digits, numbers.values() if isinstance(numbers, dict) else numbers))


def test_pixels_and_degrees_have_two_decimals_pts_six_the_others_four(tmp_path: Path) -> None:
    text = record_faces(tmp_path / "faces.jsonl", [some_faces(1, 9)])
    line = json.loads(text, parse_float=str)
    faces = {name: [face[name] for face in line["faces"]] for name in line["faces"][0]}
    assert digits(line["pts"]) == 6
    assert {digits(faces[name]) for name in ("box", "landmarks", "spread", "pose")} == {2}
    assert {digits(faces[name]) for name in ("score", "states", "openness")} == {4}
    assert len(text) < 9 * 2000
    table = list(csv.DictReader(record_faces(tmp_path / "faces.csv", [some_faces(1, 9)]).splitlines()))
    told = {"pts": 6, **dict.fromkeys(("seq", "epoch", "id", "blinks"), 0)}
    told |= dict.fromkeys(("score", *STATES, *OPENNESS), 4)
    assert {name: digits([row[name] for row in table]) for name in COLUMNS} == dict.fromkeys(COLUMNS, 2) | told


def test_csv(tmp_path: Path) -> None:
    messages = [some_faces(0, 2), some_faces(1, 0), some_faces(2, 1)]
    table = list(csv.DictReader(record_faces(tmp_path / "faces.csv", messages).splitlines()))
    assert tuple(table[0]) == COLUMNS
    assert COLUMNS[-70:-67] == ("x67", "y67", "spread0")
    assert [(row["seq"], row["id"]) for row in table] == [("0", "7"), ("0", "8"), ("2", "7")]
    row, original = table[1], messages[0]
    points = [[float(row[f"x{n}"]), float(row[f"y{n}"])] for n in range(68)]
    assert np.allclose(points, original.landmarks[1], atol=0.0051)
    assert np.allclose([float(row[f"spread{n}"]) for n in range(68)], original.spread[1], atol=0.0051)
    assert np.allclose([float(row[name]) for name in POSE], original.pose[1], atol=0.0051)
    assert np.allclose([float(row[name]) for name in STATES], original.states[1], atol=5.1e-5)
    assert np.allclose([float(row[name]) for name in OPENNESS], original.openness[1], atol=5.1e-5)
    assert row["blinks"] == "4"
    assert np.allclose([float(row[n]) for n in ("left", "top", "right", "bottom")], original.boxes[1], atol=0.0051)
    assert row["epoch"] == "2"


def test_numbers_that_are_not_finite_are_null_or_empty(tmp_path: Path) -> None:
    faces = some_faces(0, 1)
    faces.pose[0] = np.nan
    faces.landmarks[0, 5] = (np.inf, 3.0)
    face = json.loads(record_faces(tmp_path / "faces.jsonl", [faces]))["faces"][0]
    assert list(face["pose"].values()) == [None] * 3
    assert face["landmarks"][5] == [None, 3.0]
    row = next(csv.DictReader(record_faces(tmp_path / "faces.csv", [faces]).splitlines()))
    assert (row["pitch"], row["x5"], row["y5"]) == ("", "", "3.0")


@pytest.mark.parametrize("left", [None, "", "seq,pts,ep", "whole line\npart of"])
def test_a_continued_file_has_its_header_and_complete_lines(tmp_path: Path, left: str | None) -> None:
    if left is not None:  # None: the process ended before its first frame
        (tmp_path / "faces.csv").write_text(left)
    node = RecordFaces(path=str(tmp_path / "faces.csv"))
    node.__dict__["_restarted"] = True  # as a worker does
    run_node(node, faces=[some_faces(7, 1)])
    lines = (tmp_path / "faces.csv").read_text().splitlines()
    assert lines[0] == ("whole line" if left and "whole" in left else ",".join(COLUMNS))
    assert len(lines) == 2 and lines[1].startswith("7,")


def test_every_frame_is_in_the_file_before_the_next_one(tmp_path: Path) -> None:
    node = RecordFaces(path=str(tmp_path / "faces.CSV"))
    node.open()
    for seq in range(3):
        node.process(some_faces(seq, 1))
        table = (tmp_path / "faces.CSV").read_text().splitlines()
        assert len(table) == 2 + seq and table[0].startswith("seq,pts,epoch")
    node.close()


def test_a_full_disk_causes_no_second_error_on_close(tmp_path: Path) -> None:
    node = RecordFaces(path=str(tmp_path / "faces.jsonl"))
    node.open()
    with full_disk(100):
        with pytest.raises(NodeError):
            node.process(some_faces(0, 1))
        node.close()


def test_a_tilde_is_the_home_and_an_existing_file_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    node = RecordFaces(path="~/faces.csv")
    assert [finding.found for finding in RecordFaces.check(node)] == [f"{tmp_path / 'faces.csv'} can be written"]
    run_node(node, faces=[some_faces(0, 1)])
    assert (tmp_path / "faces.csv").is_file() and node.writes() == [tmp_path / "faces.csv"]
    [again] = RecordFaces.check(node)
    assert again.found == f"{tmp_path / 'faces.csv'} can be written and will be overwritten"


def test_a_video_file_is_refused_for_faces() -> None:
    with pytest.raises(ConfigError, match=r"nodes\.record:Record writes \.mp4"):
        run_node(RecordFaces(path="clip.mp4"), faces=[])


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with full_disk(), pytest.raises(NodeError, match=r"faces\.csv: File too large"):
        run_node(RecordFaces(path=str(tmp_path / "faces.csv")), faces=[some_faces(0, 20)] * 20)


RECORD_FACES_FOR_EVER = """
import sys, time
from tests.test_record_faces import some_faces
from nodes.record import RecordFaces

node = RecordFaces(path=sys.argv[1])
node.open()
for index in range(10_000):
    node.process(some_faces(index, 3))
    print(index, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_faces_of_a_killed_run_are_all_there(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"faces{suffix}"
    recorded = killed_after(50, RECORD_FACES_FOR_EVER, str(path))
    lines = path.read_text().splitlines()
    if suffix == ".jsonl":
        assert json.loads(lines[recorded])["seq"] == recorded
    else:
        rows = [row for row in csv.DictReader(lines) if row["seq"] == str(recorded)]
        assert len(rows) == 3
        assert all(rows[2].values())
