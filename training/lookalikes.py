"""What the face detector takes for faces in photographs without people: faces of animals, mostly.

Crops without a face that are drawn at random teach little about these, and behind the detector there are no others.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nodes import _boxes
from nodes._backend import MODELS
from nodes._geometry import MARGIN, crop, crop_matrix, detector_to_landmark_box, landmark_box
from training import augment
from training.faces_data import read_backgrounds, split
from training.faces_evaluate import exported, find
from training.faces_settings import FaceSettings
from training.files import read_image
from training.landmark_data import cut_face
from training.settings import SettingsError, checked, load_settings

logger = logging.getLogger("training")

SIZES = (320, 240), (640, 480)
"""Width and height that pictures are fitted to, as the run time does near and far."""
THRESHOLD = 0.05
"""Least score of what is taken: a tenth of what is shown, for the released detector is a little different each time."""
UPRIGHT = np.full((68, 2), 0.5, np.float32)
"""A face in the unit square as far as views need one: corners of its box, eyes and mouth that say where up is."""
UPRIGHT[[0, 16]], UPRIGHT[36:42], UPRIGHT[42:48], UPRIGHT[48:] = ((0, 0), (1, 1)), (0.3, 0.4), (0.7, 0.4), (0.5, 0.8)


@dataclass(frozen=True)
class Lookalikes:
    """Crops (L, 256, 256, 3) uint8 BGR, and where a face would have its points in them, (L, 68, 2)."""

    images: NDArray[np.uint8]
    points: NDArray[np.float32]

    def draw(self, rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
        """Return one of them as faces are seen, half of them in mild views; (size, size, 3)."""
        row = rng.integers(len(self.images))
        view = augment.draw_view(rng, self.points[row], size, mild=bool(rng.random() < 0.5))
        return augment.look(rng, self.images[row], view.matrix, size)

    def crops(self, size: int) -> NDArray[np.uint8]:
        """Return all of them as the run time crops them, (L, size, size, 3)."""
        matrices = crop_matrix(landmark_box(self.points), size, MARGIN)
        pairs = zip(self.images, matrices, strict=True)
        return np.stack([crop(image, matrix[None], size)[0] for image, matrix in pairs])


def find_lookalikes(config: Path, data: Path, held_out: bool) -> Lookalikes:
    """Return what the released detector finds in the backgrounds of its training `config`.

    `held_out`: from those that the detector is measured on, in place of those it trains with. Raises SettingsError when
    it finds nothing.
    """
    try:
        settings = checked(FaceSettings, load_settings(config).settings | {"data": data}, str(config))
        if not settings.backgrounds:
            raise SettingsError(f"{config}: backgrounds: expected a folder of pictures without faces, found none")
        pictures = read_backgrounds(data / settings.backgrounds, set(settings.not_backgrounds))
    except SettingsError as exc:
        raise SettingsError(f"settings.lookalikes: {exc}") from exc
    maps = exported(MODELS / "faces")
    images, points = [], []
    for picture in split(pictures, settings.background_hold_out, "name")[held_out]:
        image = read_image(picture.path)
        if image is None:
            logger.warning("%s: picture cannot be read", picture.path)
            continue
        for size in SIZES:
            boxes, _, _ = find(maps, image, size, THRESHOLD)
            _, scale, offset = _boxes.letterbox(image, size)
            for box in detector_to_landmark_box(_boxes.to_frame(boxes, scale, offset)):
                cut, inside = cut_face(image, box[:2] + UPRIGHT * (box[2:] - box[:2]))
                images.append(cut)
                points.append(inside)
    if not images:
        raise SettingsError(f"settings.lookalikes: {config}: nothing found in {len(pictures)} backgrounds of {data}")
    return Lookalikes(np.stack(images), np.stack(points))
