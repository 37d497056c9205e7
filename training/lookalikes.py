"""What the face detector takes for faces in photographs without people, mostly faces of animals.

Behind the detector, all crops without a face are of this kind, and random crops without a face teach little about them.
"""

import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from nodes import _backend, _boxes
from nodes._geometry import MARGIN, crop, crop_matrix, detector_to_landmark_box, landmark_box
from training import augment
from training.faces_data import Picture, read_backgrounds, split
from training.faces_evaluate import exported, find
from training.faces_settings import FaceSettings
from training.files import read_image, whole
from training.landmark_data import CropFile, cut_face
from training.landmark_settings import LandmarkSettings
from training.settings import SettingsError, checked, load_settings

logger = logging.getLogger("training")

DETECTOR = _backend.MODELS / "faces"
VERSION = b"1"
"""Change it whenever other lookalikes are found, so that cached ones are not used."""
SIZES = (320, 240), (640, 480)
"""Width and height that pictures are fitted to, as at run time for near and far faces."""
THRESHOLD = 0.05
"""Least score, a tenth of that used at run time, because each released detector scores differently."""
UPRIGHT = np.full((68, 2), 0.5, np.float32)
"""The points of a face in the unit square that views depend on: its box, and eyes and mouth for its roll."""
UPRIGHT[[0, 16]], UPRIGHT[36:42], UPRIGHT[42:48], UPRIGHT[48:] = ((0, 0), (1, 1)), (0.3, 0.4), (0.7, 0.4), (0.5, 0.8)


@dataclass(frozen=True)
class Lookalikes:
    """Crops (L, 256, 256, 3) uint8 BGR, and the points (L, 68, 2) that a face would have in them."""

    images: CropFile
    points: NDArray[np.float32]

    def draw(self, rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
        """Return one of them in a view like those of faces, half of them mild; (size, size, 3)."""
        row = rng.integers(len(self.images))
        view = augment.draw_view(rng, self.points[row], size, mild=bool(rng.random() < 0.5))
        return augment.cut_view(rng, self.images[row], view.matrix, size)

    def crops(self, size: int) -> NDArray[np.uint8]:
        """Return all of them, cropped as at run time, (L, size, size, 3)."""
        matrices = crop_matrix(landmark_box(self.points), size, MARGIN)
        pairs = zip(self.images, matrices, strict=True)
        return np.stack([crop(image, matrix[None], size)[0] for image, matrix in pairs])


def find_lookalikes(own: LandmarkSettings, held_out: bool) -> Lookalikes | None:
    """Return what the released detector finds in the backgrounds of its training's config; cached after the first call.

    `held_out`: in the backgrounds that the detector is measured on, not in those it trains with. None if the settings
    name no config. Raises SettingsError if it finds nothing.
    """
    config, data = own.lookalikes, own.data
    if config is None:
        return None
    try:
        settings = checked(FaceSettings, load_settings(config).settings | {"data": data}, str(config))
        if not settings.backgrounds:
            raise SettingsError(f"{config}: backgrounds: expected a folder of pictures without faces, found none")
        pictures = read_backgrounds(data / settings.backgrounds, set(settings.not_backgrounds))
    except SettingsError as exc:
        raise SettingsError(f"settings.lookalikes: {exc}") from exc
    pictures = split(pictures, settings.background_hold_out, "name")[held_out]
    key = hashlib.sha256(VERSION + _backend.locate(DETECTOR, "onnxruntime").read_bytes())
    for picture in pictures:
        key.update(os.fsencode(f"{picture.path} {picture.path.stat().st_mtime_ns}"))
    base = own.cache / f"lookalikes-{key.hexdigest()[:16]}"
    file, index = base.with_suffix(".u8"), base.with_suffix(".npy")
    if not (file.exists() and index.exists()):
        own.cache.mkdir(parents=True, exist_ok=True)
        cuts = list(_cut(pictures))
        if not cuts:
            raise SettingsError(f"settings.lookalikes: {config}: nothing found in {len(pictures)} "
                                f"backgrounds of {data}")
        with whole(file) as images:
            images.writelines(cut for cut, _ in cuts)
        with whole(index) as points:
            np.save(points, np.stack([inside for _, inside in cuts]))
    return Lookalikes(CropFile(file), np.load(index))


def _cut(pictures: list[Picture]) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Yield a crop and its points for each detection in the pictures."""
    maps = exported(DETECTOR)
    for picture in track(pictures, "looking for lookalikes"):
        image = read_image(picture.path)
        if image is None:
            logger.warning("%s: picture cannot be read", picture.path)
            continue
        for size in SIZES:
            boxes, _, _ = find(maps, image, size, THRESHOLD)
            _, scale, offset = _boxes.letterbox(image, size)
            for box in detector_to_landmark_box(_boxes.to_frame(boxes, scale, offset)):
                yield cut_face(image, box[:2] + UPRIGHT * (box[2:] - box[:2]))
