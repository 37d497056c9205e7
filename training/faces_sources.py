"""Reads the pictures with boxes that the settings of the face detector name, and collects the terms of its data."""

from training import prepared
from training.exported import terms_with_init
from training.faces_data import Picture, split
from training.faces_settings import FaceSettings
from training.read_boxes import read_wider
from training.settings import SettingsError


def read_pictures(settings: FaceSettings) -> tuple[list[Picture], list[Picture], list[str]]:
    """Return the pictures with boxes to train with and those held out, and one line per fault.

    Raises SettingsError if there are none of either.
    """
    pictures, faults = read_wider(settings.data / settings.wider) if settings.wider else ([], [])
    training, aside = split(pictures, settings.hold_out, settings.hold_out_by)
    for folder, sets in settings.prepared.items():
        more, kept = prepared.read_pictures(folder, settings.data, sets)
        training += more
        aside += kept
    if not training or not aside:
        raise SettingsError(f"settings: {len(training)} pictures to train with, {len(aside)} held out; both are needed "
                            "(WIDER's by hold_out, prepared ones by training.prepare --held-out or --hold-out-sets)")
    return training, aside, faults


def terms_of(settings: FaceSettings) -> list[str]:
    """Return the lines of the card on the sets trained with, and on those behind the weights of `init`."""
    boxes = [*(["wider"] if settings.wider else []), *map(str, settings.prepared)]
    by = f"; points by {settings.point_teacher.name}" if settings.point_teacher else ""
    names = [*boxes, *settings.points, *(["backgrounds"] if settings.backgrounds else [])]
    terms = [f"{name}: {settings.terms.get(name, 'terms not stated')}{by if name in boxes else ''}" for name in names]
    return terms_with_init(terms, settings.init)
