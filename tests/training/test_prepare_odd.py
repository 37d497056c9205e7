"""Unusual data sets: links, capital suffixes, byte order marks, names in any encoding, a single set."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from nodes._picture_files import PICTURE_SUFFIXES
from tests.training.faces68 import draw, write_points, write_set
from training import pack, prepare, prepared, read_boxes
from training.files import below, read_image
from training.find_sets import FaceSet, find_sets
from training.landmark_data import cache_crops, read_folder

BOM = "\ufeff"


def found_in(data: Path) -> dict[str, FaceSet]:
    return {found.name: found for found in find_sets(data, {})}


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    good, content = cv2.imencode(path.suffix.lower(), draw(np.random.default_rng(0))[0])
    assert good
    path.write_bytes(content.tobytes())


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, "utf-8")
    return path


def test_linked_folders_are_read_once_and_circles_end(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "mine").symlink_to(write_set(tmp_path / "elsewhere", 2))
    (tmp_path / "elsewhere" / "round").symlink_to(data)
    (data / "twice").symlink_to(tmp_path / "elsewhere")
    for name in ("dead.png", "dead.pts"):
        (tmp_path / "elsewhere" / name).symlink_to(tmp_path / "nowhere")
    assert {name: len(found.faces) for name, found in found_in(data).items()} == {"mine": 2}
    assert len(read_folder(data, "own")[0]) == 2


@pytest.mark.parametrize("suffix", sorted(PICTURE_SUFFIXES))
def test_every_picture_that_a_graph_takes_can_be_trained_with(suffix: str, tmp_path: Path) -> None:
    image, points = draw(np.random.default_rng(0))
    pixels = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if suffix == ".pgm" else image
    (tmp_path / f"a{suffix}").write_bytes(cv2.imencode(suffix, pixels)[1].tobytes())
    write_points(tmp_path / "a.pts", points)
    (sample,), faults = read_folder(tmp_path, "own")
    packed = pack.encoded(read_image(sample.path), f"a{suffix}", 90)
    assert not faults and cv2.imdecode(np.frombuffer(packed, np.uint8), cv2.IMREAD_COLOR).shape == image.shape


def test_pictures_a_few_pixels_wide_or_high_are_prepared_and_shown(tmp_path: Path) -> None:
    for name, sides in {"a": (2, 900), "b": (900, 2), "c": (1, 1), "d": (90, 90)}.items():
        for folder in ("images", "labels"):
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "data" / "images" / f"{name}.png"), np.full((*sides, 3), 90, np.uint8))
        text(tmp_path / "data" / "labels" / f"{name}.txt", "0 0.5 0.5 0.2 0.9\n")
    assert prepare.main([str(tmp_path / "data"), "--out", str(tmp_path / "out")]) == 0
    assert len((tmp_path / "out" / "pictures.jsonl").read_text().splitlines()) == 4


HUGE = b"P6 60000 60000 255\n"  # a header with more pixels than OpenCV accepts


@pytest.mark.parametrize("content", [b"", b"none", HUGE])
def test_an_unreadable_picture_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    assert read_image(tmp_path / "a.jpg") is None
    assert read_image(tmp_path / "b.jpg") is None


def test_names_in_another_encoding_are_read_like_all_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data" / os.fsdecode(b"Fr\xfchling")
    write_set(tmp_path / "data" / "mine", 3).rename(folder)
    for suffix in (".png", ".pts"):
        (folder / f"p0_0{suffix}").rename(folder / os.fsdecode(b"caf\xe9" + suffix.encode()))
    (folder / "p1_2.pts").rename(folder / os.fsdecode(b"\xe9.pts"))
    assert prepare.main([str(tmp_path / "data"), "--out", str(tmp_path / "out")]) == 0
    assert "Fr\\udcfchling" in capsys.readouterr().out
    assert "\\udce9.pts: no picture beside it" in (tmp_path / "out" / "faults.txt").read_text()
    assert len(prepared.read_by_set(tmp_path / "out")) == 2
    assert len(cache_crops(read_folder(folder, "own")[0], tmp_path / "cache")[0]) == 2


def test_a_video_whose_path_is_in_another_encoding_is_a_fault(tmp_path: Path) -> None:
    video = tmp_path / "300VW" / os.fsdecode(b"Fr\xfchling") / "vid.avi"
    (video.parent / "annot").mkdir(parents=True)
    video.write_bytes(b"")
    assert found_in(tmp_path)["300VW"].faults == [
        f"{video}: a video whose path is not UTF-8 cannot be read; rename it"]


def test_names_in_brackets_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path / "data" / "mine [v2]", 2)
    text(tmp_path / "data" / "mine [v2]" / "[x].pts", "")
    prepare.main([str(tmp_path / "data"), "--out", str(tmp_path / "out")])
    shown = capsys.readouterr().out
    assert shown.count("mine [v2]") == 3  # both tables, the fault
    assert "mine [v2]/[x].pts: no picture beside it" in shown


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    for path in ("WIDER_train/images/a.jpg", "images/a.jpg", "WFLW_images/a.jpg"):
        picture(tmp_path / path)
    text(read_boxes.wider_list(tmp_path, "train"), f"{BOM}a.jpg\r\n1\r\n1 2 3 4\r\n")
    retina = text(tmp_path / "label.txt", f"{BOM}# a.jpg\n1 2 3 4\n")
    text(tmp_path / "labels" / "a.txt", f"{BOM}0 0.5 0.5 0.5 0.5\n")
    for found, faults in (read_boxes.read_wider(tmp_path), read_boxes.read_retinaface(retina),
                          read_boxes.read_yolo(tmp_path)):
        assert faults == []
        assert [len(one.boxes) for one in found] == [1]
    text(tmp_path / "lists" / "list_98pt_train.txt", BOM + " ".join(["5"] * 196) + " a.jpg\n")
    assert len(found_in(tmp_path)[f"{tmp_path.name}/train"].faces) == 1


def test_suffixes_may_be_capital(tmp_path: Path) -> None:
    box = "".join(f"<{edge}>{value}</{edge}>" for edge, value in zip(read_boxes.VOC_EDGES, (1, 1, 9, 9), strict=True))
    for path in ("JPEGImages/a.JPG", "JPEGImages/b.jpg", "images/a.JPG"):
        picture(tmp_path / path)
    for name in ("a.xml", "b.XML"):
        text(tmp_path / "Annotations" / name, f"<a><object><name>face</name><bndbox>{box}</bndbox></object></a>")
    text(tmp_path / "labels" / "a.TXT", "0 0.5 0.5 0.5 0.5\n")
    for found, faults in (read_boxes.read_voc(tmp_path), read_boxes.read_yolo(tmp_path)):
        assert faults == []
        assert {len(one.boxes) for one in found} == {1}
    assert len(below(tmp_path, (".jpg",))) == 3


def test_a_share_over_one_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        prepare.main([str(tmp_path), "--held-out", "10"])
    assert "argument --held-out: expected a number from 0 to 1, found '10'" in capsys.readouterr().err


def test_the_sheet_counts_the_faces_that_are_kept(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "data" / "mine", 3)
    (folder / "p0_0.png").write_bytes(b"no picture")
    held = prepare.Split(0.0, "none")
    sets = [found_in(tmp_path / "data")["mine"]]
    rows = prepare.write_faces(sets, tmp_path / "data", tmp_path, held, Console(quiet=True))
    assert [(title, len(tiles)) for title, tiles in rows] == [("mine (pictures and .pts): 2 faces", 2)]


def test_a_second_picture_of_a_name_is_listed(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "data" / "mine", 2)
    picture(folder / "p0_0.jpg")
    for faults in (found_in(tmp_path / "data")["mine"].faults, read_folder(folder, "own")[1]):
        assert faults == [f"{folder}/p0_0.png: left out, p0_0.jpg beside it has the same name"]


def test_a_set_by_itself_or_a_part_of_it_knows_its_people(tmp_path: Path) -> None:
    folder = tmp_path / "YTF" / "training"
    for number, stem in enumerate(("Ann_1", "Ann_2")):
        picture(folder / f"{stem}.jpg")
        write_points(folder / f"{stem}.pts", draw(np.random.default_rng(number))[1])
    for data, name in ((tmp_path, "YTF/training"), (tmp_path / "YTF", "training"), (folder, "training")):
        assert {face.person for face in found_in(data)[name].faces} == {"YTF/Ann"}
    write_set(tmp_path / "300VW" / "001_annot", 2)
    for data in (tmp_path, tmp_path / "300VW"):
        assert {face.person for face in found_in(data)["300VW"].faces} == {"300VW/001"}
    write_set(tmp_path / "300W" / "01_Indoor", 2)
    prepare.main([str(tmp_path / "300W"), "--out", str(tmp_path / "out"), "--held-out", "0"])
    lines = (tmp_path / "out" / "faces.jsonl").read_text().splitlines()
    assert all(json.loads(line)["held_out"] for line in lines)


@pytest.mark.parametrize(("encoding", "why"), [
    ("gb2312", "multi-byte encodings are not supported"), ("nonsense", "unknown encoding: nonsense")])
def test_an_annotation_in_an_encoding_that_cannot_be_read_is_a_fault(encoding: str, why: str, tmp_path: Path) -> None:
    for stem in ("a", "b"):
        picture(tmp_path / "JPEGImages" / f"{stem}.png")
    text(tmp_path / "Annotations" / "a.xml", f'<?xml version="1.0" encoding="{encoding}"?><annotation/>')
    text(tmp_path / "Annotations" / "b.xml", "<annotation/>")
    found, faults = read_boxes.read_voc(tmp_path)
    assert [one.name for one in found] == ["b.png"]
    assert faults == [f"{tmp_path}/Annotations/a.xml: not XML ({why})"]


def test_points_of_wflw_that_are_no_numbers_are_a_fault(tmp_path: Path) -> None:
    picture(tmp_path / "WFLW_images" / "a.jpg")
    words = {"nan": "a number that is not finite", "x": "not a number (could not convert string to float: 'x')"}
    for word, fault in words.items():
        path = text(tmp_path / "lists" / "list_98pt_train.txt", " ".join(["5"] * 195) + f" {word} a.jpg\n")
        assert found_in(tmp_path)[f"{tmp_path.name}/train"].faults == [f"{path}:1: {fault}"]


@pytest.fixture
def unreadable() -> Path:
    """A file that exists but cannot be read, not even by root."""
    path = Path("/proc/self/mem")
    if not path.exists():
        pytest.skip("no such file here")
    return path


def test_a_label_that_cannot_be_read_is_a_fault(unreadable: Path, tmp_path: Path) -> None:
    plain, voc, yolo = write_set(tmp_path / "plain", 2), tmp_path / "voc", tmp_path / "yolo"
    (plain / "p0_0.pts").unlink()
    for name in ("voc/JPEGImages/a.png", "voc/JPEGImages/b.png", "yolo/images/a.png", "yolo/images/b.png"):
        picture(tmp_path / name)
    text(voc / "Annotations" / "b.xml", "<annotation/>")
    text(yolo / "labels" / "b.txt", "0 0.5 0.5 0.1 0.1")
    links = plain / "p0_0.pts", voc / "Annotations" / "a.xml", yolo / "labels" / "a.txt"
    for link in links:
        link.symlink_to(unreadable)
    found = found_in(tmp_path)
    for name, link in zip(("plain", "voc", "yolo"), links, strict=True):
        assert len(found[name].faces or found[name].pictures) == 1
        assert [fault.startswith(f"{link}: ") for fault in found[name].faults] == [True]
    samples, faults = read_folder(plain, "own")
    assert len(samples) == 1 and faults[0].startswith(f"{links[0]}: ")


def test_a_folder_that_cannot_be_read_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert below(tmp_path / "gone", (".jpg",)) == []
    assert f"{tmp_path / 'gone'}: left out: No such file or directory" in caplog.text


def test_a_folder_for_each_person_and_a_sheet_that_viewers_show(tmp_path: Path,
                                                               capsys: pytest.CaptureFixture[str],
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(5):
        write_set(tmp_path / "data" / "mine" / f"id{i}", 2)
    text(tmp_path / "data" / "mine" / "id3" / "alone.pts", "")
    write_set(tmp_path / "data" / "other", 2)
    monkeypatch.setattr(prepare, "SHEET", 3)
    monkeypatch.setattr(prepare, "ROWS", 5)
    arguments = [str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--held-out", "0", "--person", "mine/.*="]
    assert prepare.main(arguments) == 0
    assert len({face.person for face in prepared.read_by_set(tmp_path / "out", "mine.*")}) == 5
    assert cv2.imread(str(tmp_path / "out" / "sheet.png")).shape[0] == 3 * 162
    cells = [[cell.strip() for cell in line.split("\u2502")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert [row[:1] + row[3:] for row in cells if "pictures and .pts" in row] == [
        ["mine/*", "10", "0", "1"], ["other", "2", "0", "0"]]
    assert [row[0] for row in cells if row] == ["mine/*", "other"] * 2  # in both tables
