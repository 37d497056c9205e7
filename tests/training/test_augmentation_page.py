from pathlib import Path

import cv2
import numpy as np
import pytest

from training import augmentation_page, contact_sheet


@pytest.mark.slow
def test_the_page_has_a_row_that_varies_for_every_augmentation(tmp_path: Path) -> None:
    assert augmentation_page.main([str(tmp_path / "page.png")]) == 0
    page = cv2.imread(str(tmp_path / "page.png"))
    effects = augmentation_page.effects()
    assert {"degrade", "relight", "blur", "noise", "occlude"} <= set(effects)
    height = contact_sheet.BAR + contact_sheet.TILE
    assert page.shape == ((6 + len(effects)) * height, augmentation_page.COLUMNS * contact_sheet.TILE, 3)
    for row in range(6 + len(effects)):
        strip = page[row * height + contact_sheet.BAR : (row + 1) * height]
        tiles = np.stack(np.split(strip, augmentation_page.COLUMNS, axis=1)).astype(int)
        assert np.abs(tiles - tiles[0]).mean() > 1
