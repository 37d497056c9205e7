from pathlib import Path

import cv2
import numpy as np
import pytest

from graph import ConfigError, Frame, Header, NodeError
from graph.testing import run_node
from nodes.record_images import RecordImages
from tests.accidents import full_disk


def frames(count: int) -> list[Frame]:
    return [Frame(image=np.full((8, 12, 3), 10 * i, np.uint8), header=Header(seq=i + 5)) for i in range(count)]


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_every_third_frame_by_its_number(tmp_path: Path, kind: str) -> None:
    run_node(RecordImages(folder=str(tmp_path / "a/b"), format=kind, every=3), frame=frames(7))
    written = sorted((tmp_path / "a/b").iterdir())
    assert [path.name for path in written] == [f"0000000{n}.{kind}" for n in (5, 8)] + [f"00000011.{kind}"]
    image = cv2.imread(str(written[1]))
    assert image is not None and image.shape == (8, 12, 3) and abs(int(image.mean()) - 30) < 4


@pytest.mark.parametrize("kind", ["jpg", "webp"])
def test_lower_quality_is_smaller_and_a_tilde_is_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    noise = Frame(image=np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    for quality in (20, 90):
        run_node(RecordImages(folder=f"~/{quality}", format=kind, quality=quality), frame=[noise])
    low, high = ((tmp_path / f"{quality}/00000000.{kind}").stat().st_size for quality in (20, 90))
    assert low < 0.7 * high


@pytest.mark.parametrize("folder", ["a", "a/b/c", "nowhere", "nowhere/b"])
def test_a_file_in_place_of_the_folder_is_reported(tmp_path: Path, folder: str) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "nowhere").symlink_to("what/is/not/there")
    in_the_way = tmp_path / folder.partition("/")[0]
    with pytest.raises(ConfigError, match=f"^cannot write to {tmp_path / folder}: {in_the_way} is not a folder$"):
        run_node(RecordImages(folder=str(tmp_path / folder)), frame=frames(1))


def test_a_folder_that_cannot_be_made_or_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^cannot write to .*/aaa+: File name too long$"):
        run_node(RecordImages(folder=str(tmp_path / ("a" * 300))), frame=[])
    with pytest.raises(ConfigError, match=r"^cannot write to /proc/self: No such file or directory$"):
        run_node(RecordImages(folder="/proc/self"), frame=[])


def test_a_full_disk_is_an_error_that_names_the_picture_and_leaves_no_part_of_it(tmp_path: Path) -> None:
    with full_disk(100), pytest.raises(NodeError, match=r"/00000005\.jpg: File too large$"):
        run_node(RecordImages(folder=str(tmp_path)), frame=frames(1))
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "00000005.part").mkdir()
    with pytest.raises(NodeError, match=r"/00000005\.jpg: Is a directory$"):
        run_node(RecordImages(folder=str(tmp_path)), frame=frames(1))


def test_a_picture_that_the_format_does_not_support_is_reported(tmp_path: Path) -> None:
    wide = Frame(image=np.zeros((2, 17_000, 3), np.uint8))
    with pytest.raises(NodeError, match=r"\.webp: webp does not support a picture of 17000 x 2$"):
        run_node(RecordImages(folder=str(tmp_path), format="webp"), frame=[wide])
