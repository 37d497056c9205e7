import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.accidents import full_disk
from training import augmentation_page, contact_sheet
from training.files import read_image
from training.settings import SettingsError


@pytest.mark.parametrize(("name", "why"), [
    ("no/such/page.png", "No such file or directory"),
    ("page.none", "could not find encoder for the specified extension"),
])
def test_a_page_that_cannot_be_written_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture,
                                                monkeypatch: pytest.MonkeyPatch, name: str, why: str) -> None:
    monkeypatch.setattr(augmentation_page, "page", lambda: np.zeros((4, 4, 3), np.uint8))
    assert augmentation_page.main([str(tmp_path / name)]) == 2
    assert f"{name}: cannot be written: {why}" in caplog.text


def test_a_picture_can_be_written_into_a_folder_whose_name_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9") / "page.png"
    path.parent.mkdir()
    contact_sheet.save_picture(path, np.full((4, 4, 3), 7, np.uint8))
    assert read_image(path).tolist() == np.full((4, 4, 3), 7).tolist()


def test_no_half_of_a_picture_is_left_on_a_full_disk(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    with full_disk(1000), pytest.raises(SettingsError, match=r"page\.png: cannot be written: File too large"):
        contact_sheet.save_picture(tmp_path / "page.png", noise)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_page_has_a_row_that_varies_for_every_augmentation(tmp_path: Path) -> None:
    assert augmentation_page.main([str(tmp_path / "page.png")]) == 0
    page = cv2.imread(str(tmp_path / "page.png"))
    height = contact_sheet.BAR + contact_sheet.TILE
    assert page.shape == (11 * height, augmentation_page.COLUMNS * contact_sheet.TILE, 3)
    for row in range(11):
        strip = page[row * height + contact_sheet.BAR : (row + 1) * height]
        tiles = np.stack(np.split(strip, augmentation_page.COLUMNS, axis=1)).astype(int)
        assert np.abs(tiles - tiles[0]).mean() > 1
