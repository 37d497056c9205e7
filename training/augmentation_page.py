"""Draw examples of every augmentation of the landmark training, made from the portrait that comes with matplotlib.

python -m training.augmentation_page augmentations.png
"""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path

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


def effects() -> dict[str, Callable[..., Image]]:
    """Return the augmentations of pixels by name: the public functions of (rng, image) or (rng, image, other)."""
    found = {}
    for name, function in inspect.getmembers(augment, inspect.isfunction):
        if name.startswith("_") or function.__module__ != augment.__name__:
            continue
        if list(inspect.signature(function).parameters)[:3] in (["rng", "image"], ["rng", "image", "other"]):
            found[name] = function
    return found


def page() -> Image:
    """Return one row of ten examples per augmentation, titled with the first line of its docstring."""
    whole = portrait()
    found = LandmarkModel().predict(whole, PORTRAIT_BOX, kind="landmarks").landmarks[0]
    image, points = cut_face(whole, found)
    plain, _ = cut_face(whole, found, SIZE, MARGIN)
    other = cv2.resize(whole[380:, :220], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    rows = [
        (title("view", augment.draw_view), [seen(image, points, augment.draw_view, seed) for seed in SEEDS]),
        (title("near", augment.draw_near), [seen(image, points, near, seed) for seed in SEEDS]),
        (title("miss", augment.draw_miss), [seen(image, points, augment.draw_miss, seed) for seed in SEEDS]),
    ]
    cut, inside = cut_face(whole, found, contact_sheet.TILE, MARGIN)
    for function in (cover.glasses, cover.mask, cover.hand):
        tiles = [function(np.random.default_rng(seed), cut, inside) for seed in SEEDS]
        rows.append((title(function.__name__, function), tiles))
    for name, function in effects().items():
        further = [other] if "other" in inspect.signature(function).parameters else []
        tiles = [function(np.random.default_rng(seed), plain, *further) for seed in SEEDS]
        rows.append((title(name, function), [cv2.resize(tile, (contact_sheet.TILE,) * 2) for tile in tiles]))
    return contact_sheet.sheet(rows, COLUMNS)


def near(rng: np.random.Generator, points: Floats, size: int) -> augment.View:
    """Return a view near the first example of a view."""
    first = augment.draw_view(np.random.default_rng(SEEDS[0]), points, size)
    return augment.draw_near(rng, first, size)[0]


def seen(image: Image, points: Floats, draw: Callable[..., augment.View], seed: int) -> Image:
    """Return a tile of the cached crop in one drawn view, with its points unless it shows no face."""
    rng = np.random.default_rng(seed)
    view = draw(rng, points, SIZE)
    crop = augment.look(rng, image, view.matrix, SIZE)
    shown = points[:0] if draw is augment.draw_miss else view.points(points)
    return contact_sheet.with_points(crop, shown)


def title(name: str, function: Callable[..., object]) -> str:
    """Return a row's title."""
    return f"{name}: {(inspect.getdoc(function) or '').partition(chr(10))[0]}"


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and draw the page; return 0, 2 if it cannot be written, 130 if stopped."""
    parser = command.parser("augmentation_page", __doc__)
    parser.add_argument("out", type=Path, help="picture to write")
    options = parser.parse_args(arguments)
    return command.run(lambda: contact_sheet.save_picture(options.out, page()))


if __name__ == "__main__":
    sys.exit(main())
