"""Draw examples of every augmentation of the landmark training, made from the portrait that comes with matplotlib.

python -m training.augmentation_page augmentations.png
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from nodes._geometry import MARGIN, Floats, Image
from nodes.landmarks import LandmarkModel
from training import augment, command, contact_sheet, cover
from training.export import portrait
from training.landmark_data import cut_face
from training.landmark_task import PORTRAIT_BOX

SIZE = 160
COLUMNS = 10
SEEDS = range(COLUMNS)


def page() -> Image:
    """Return one row of ten examples per augmentation, titled with the first line of its docstring."""
    whole = portrait()
    found = LandmarkModel().predict(whole, PORTRAIT_BOX, kind="landmarks").landmarks[0]
    image, points = cut_face(whole, found)
    views = ((augment.draw_view, augment.draw_view), (augment.draw_near, near), (augment.draw_miss, augment.draw_miss))
    rows = [(title(shown), [seen(image, points, draw, seed) for seed in SEEDS]) for shown, draw in views]
    cut, inside = cut_face(whole, found, SIZE, MARGIN)
    other = cv2.resize(whole[380:, :220], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    effects: list[tuple[Callable[..., Image], list[Any]]] = [
        *((function, [inside]) for function in (cover.glasses, cover.mask, cover.hand)),
        *((function, []) for function in (augment.relight, augment.blur, augment.noise)),
        *((function, [other]) for function in (augment.occlude, augment.degrade)),
    ]
    for function, further in effects:
        tiles = [function(np.random.default_rng(seed), cut, *further) for seed in SEEDS]
        rows.append((title(function), [cv2.resize(tile, (contact_sheet.TILE,) * 2) for tile in tiles]))
    return contact_sheet.sheet(rows, COLUMNS)


def near(rng: np.random.Generator, points: Floats, size: int) -> augment.View:
    """Return a view near the first example of a view."""
    first = augment.draw_view(np.random.default_rng(SEEDS[0]), points, size)
    return augment.draw_near(rng, first, size)[0]


def seen(image: Image, points: Floats, draw: Callable[..., augment.View], seed: int) -> Image:
    """Return a tile of the cached crop in one drawn view, with its points unless it shows no face."""
    rng = np.random.default_rng(seed)
    view = draw(rng, points, SIZE)
    crop = augment.cut_view(rng, image, view.matrix, SIZE)
    shown = points[:0] if draw is augment.draw_miss else view.points(points)
    return contact_sheet.with_points(crop, shown)


def title(function: Callable[..., object]) -> str:
    """Return a row's title."""
    return f"{function.__name__.removeprefix('draw_')}: {(function.__doc__ or '').partition(chr(10))[0]}"


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and draw the page; return 0, 2 if it cannot be written, 130 if stopped."""
    parser = command.parser("augmentation_page", __doc__)
    parser.add_argument("out", type=Path, help="picture to write")
    options = parser.parse_args(arguments)
    return command.run(lambda: contact_sheet.save_picture(options.out, page()))


if __name__ == "__main__":
    sys.exit(main())
