"""Reads the data that the settings of the landmark task name: faces, split by person, and crops without faces."""

import logging
from pathlib import Path

import numpy as np

from training import faces_data, landmark_data, prepared, read_boxes
from training.landmark_data import CropFile, Sample
from training.landmark_settings import LandmarkSettings, Source
from training.settings import SettingsError

logger = logging.getLogger("training")


def read_sources(settings: LandmarkSettings) -> tuple[list[Sample], list[Sample]]:
    """Read every data set and split it into training and validation by person; log the faults."""
    training, validation = [], []
    for name, source in settings.sources.items():
        samples, faults = read_source(settings.data, name, source)
        landmark_data.log_faults(name, faults)
        held = [s.held_out or landmark_data.held_out(s.person, source.held_out) for s in samples]
        validation += [s for s, out in zip(samples, held, strict=True) if out]
        training += [s for s, out in zip(samples, held, strict=True) if not out and source.weight > 0]
        logger.info("%s: %d faces, %d held out", name, len(samples), sum(held))
    if not training:
        raise SettingsError("settings.sources: every source is empty, held out or of weight 0; nothing to train on")
    return training, validation


def read_source(data: Path, name: str, source: Source) -> tuple[list[Sample], list[str]]:
    """Read one data set; return its faces and one line per fault."""
    if source.prepared:
        return prepared.read_faces(source.prepared, name, source.sets), []
    return landmark_data.read_folder(data / source.folder, name, landmark_data.person_of(source.person))


def read_backgrounds(settings: LandmarkSettings, held_out: bool) -> np.ndarray | CropFile:
    """Return crops without faces for training or for validation, (0, ...) if the settings name no pictures for them."""
    pictures = []
    nobody = np.zeros((0, 4), np.float32)
    if settings.backgrounds:
        found = faces_data.read_backgrounds(settings.data / settings.backgrounds, set())
        pictures += [(picture.path, nobody) for picture in found]
    if settings.wider:
        found, faults = read_boxes.read_wider(settings.data / settings.wider)
        landmark_data.log_faults(settings.wider, [] if held_out else faults)
        pictures += [(picture.path, picture.boxes) for picture in found]
    pictures = [p for p in pictures if landmark_data.held_out(p[0].name, 0.1) == held_out]
    if not pictures:
        return np.zeros((0, landmark_data.CACHE_SIDE, landmark_data.CACHE_SIDE, 3), np.uint8)
    return landmark_data.cache_backgrounds(pictures, settings.cache, 400 if held_out else 3000)
