"""Measures a landmark network on labelled faces: its errors, and how much points move when they should not.

Errors are in per cent of the distance of the outer eye corners unless stated otherwise.
"""

import json
import logging
import os
import zlib
from collections.abc import Container
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.progress import track

from nodes import _boxes
from nodes._geometry import Floats, apply, crop, crop_matrix, landmark_box, landmark_roll
from nodes.detect import RELEASED, FaceModel
from nodes.landmarks import landmark_boxes, roll_of_points
from training import landmark_data, metrics, prepared
from training.contact_sheet import draw_points, grid, save_picture
from training.landmark_data import MIRROR, Sample
from training.predictor import Predictor
from training.settings import SettingsError

logger = logging.getLogger("training")


BOX_ERROR = 0.05
"""Standard deviation of the position and the size of a jittered box, in shares of its side: like a detector's."""
SMALL_BOX_ERROR, NOISE = 0.02, 4.0
"""Disturbances whose effect is measured: box error of 2 %, pixel noise of 4 grey levels."""
SAME_FACE = 0.3
"""A detection belongs to a face if the landmark boxes overlap by this much (intersection over union)."""
LIMITS = (8, 10)
"""Errors, in per cent, above which a face counts as a failure and up to which the area under the curve is taken."""


@dataclass(frozen=True)
class Predictions:
    """All predictions for faces, one row each: points (F, 68, 2) in picture pixels for every kind of input."""

    true: Floats
    plain: Floats
    spread: Floats
    states: Floats
    presence: Floats
    jittered: Floats
    again: Floats
    mirrored: Floats
    nudged: Floats
    nudged_again: Floats
    """After the second look, as in a graph."""
    noisy: Floats
    detected: Floats
    """Behind the face detector, NaN if it did not find the face."""

    def only(self, rows: NDArray[np.bool_]) -> "Predictions":
        """Return the selected rows."""
        return Predictions(*(getattr(self, field.name)[rows] for field in fields(self)))


def predict(predictor: Predictor, detector: FaceModel, sample: Sample) -> list[Floats]:
    """Return a row of `Predictions` for one face. Its random numbers depend on the name of its file alone."""
    image, true = picture(sample), sample.points[None]
    box = landmark_box(true)
    rng = np.random.default_rng([zlib.crc32(os.fsencode(sample.path.name)), sample.row or 0])
    noisy = (image + rng.normal(0, NOISE, image.shape)).clip(0, 255).astype(np.uint8)
    last = image.shape[1] - 1
    mirrored_box = box[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + np.array([last, 0, last, 0])
    boxes = np.concatenate((box, shake(rng, box, BOX_ERROR), shake(rng, box, SMALL_BOX_ERROR), box, mirrored_box))
    prediction = predictor([image, image, image, noisy, np.ascontiguousarray(image[:, ::-1])], boxes.astype(np.float32))
    found, jittered, nudged, noised, mirrored = prediction.points
    mirrored = mirrored[MIRROR] * [-1, 1] + [last, 0]
    first = np.stack((found, nudged))
    rolls = landmark_roll(first)
    again, nudged_again = predictor([image, image], landmark_box(first, rolls), rolls).points
    detected = behind(detector, predictor, image, box[0])
    return [true[0], found, prediction.spread[0], prediction.states[0], prediction.presence[0], jittered, again,
            mirrored, nudged, nudged_again, noised, detected]


def behind(detector: FaceModel, predictor: Predictor, image: NDArray[np.uint8], box: Floats) -> Floats:
    """Return the points (68, 2) of the second look if the detector finds the face with this landmark box, else NaN."""
    boxes, _, points = detector.detect(image)
    rolls = roll_of_points(points)
    mapped = landmark_boxes(boxes, rolls)
    overlap = _boxes.overlaps(box[None], mapped)[0]
    if not len(boxes) or overlap.max() < SAME_FACE:
        return np.full((68, 2), np.nan, np.float32)
    best = [int(overlap.argmax())]
    first = predictor([image], mapped[best], rolls[best]).points
    roll = landmark_roll(first)
    return predictor([image], landmark_box(first, roll), roll).points[0]


def measure(found: Predictions) -> tuple[dict[str, float], NDArray[np.float64]]:
    """Return the measures, and the mean error of each face (F,) with true boxes."""
    true = found.true
    corners = metrics.eye_corners(true)
    per_point = metrics.normalised_errors(found.plain, true)
    errors = per_point.mean(1)

    def mean(points: Floats, other: Floats = true) -> float:
        return float((100 * np.linalg.norm(points - other, axis=-1) / corners[:, None]).mean())

    seen = np.isfinite(found.detected).all((1, 2))
    behind_it = found.only(seen)
    detected = metrics.normalised_errors(behind_it.detected, behind_it.true).mean(1)
    table = {
        "faces": len(true),
        "nme": errors.mean(),
        "nme median": np.median(errors),
        "nme 90th percentile": np.percentile(errors, 90),
        "nme by pupils": metrics.normalised_errors(found.plain, true, metrics.pupils(true)).mean(),
        "nme by box": metrics.normalised_errors(found.plain, true, metrics.box_side(true)).mean(),
        **{f"failures over {limit} %": metrics.failure_rate(errors, limit) for limit in LIMITS},
        **{f"area under curve to {limit} %": metrics.area_under_curve(errors, limit) for limit in LIMITS},
        **{f"nme {name}": per_point[:, part].mean() for name, part in metrics.REGIONS.items()},
        "nme, jittered boxes": mean(found.jittered),
        "nme, second pass on its own upright box": mean(found.again),
        "found by the detector": 100 * seen.mean(),
        "nme, behind the detector": detected.mean() if len(detected) else np.nan,
        "the same faces, true boxes": errors[seen].mean() if len(detected) else np.nan,
        "failures over 8 % with the missed": metrics.failure_rate(
            np.concatenate((detected, np.full((~seen).sum(), np.inf))), LIMITS[0]),
        "response to a mirror": mean(found.mirrored, found.plain),
        "response to box errors of 2 %": mean(found.nudged, found.plain),
        "response to box errors of 2 %, second pass": mean(found.nudged_again, found.again),
        "response to noise of 4 levels": mean(found.noisy, found.plain),
        **states_f1(found.states, true),
        "present": 100 * (found.presence > 0.5).mean(),
    }
    if np.isfinite(found.spread).all():
        away = np.linalg.norm(found.plain - true, axis=-1)
        table["spread over error"] = found.spread.mean() / away.mean()
        logs = np.log(found.spread.ravel()), np.log(away.ravel() + 0.1)
        table["correlation of spread and error"] = np.corrcoef(*logs)[0, 1]
    return {name: float(value) for name, value in table.items() if np.isfinite(value)}, errors


def states_f1(states: Floats, true: Floats) -> dict[str, float]:
    """Return F1 in per cent of both eyes together and of each mouth state."""
    labels, found = landmark_data.states(true) > 0.5, states > 0.5
    return {
        "f1 eyes closed": 100 * metrics.f1(found[:, :2], labels[:, :2]),
        "f1 mouth closed": 100 * metrics.f1(found[:, 2], labels[:, 2]),
        "f1 mouth wide open": 100 * metrics.f1(found[:, 3], labels[:, 3]),
    }


def shake(rng: np.random.Generator, boxes: Floats, error: float) -> Floats:
    """Move and scale boxes (F, 4) by normally distributed errors of this share of their side."""
    centres, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    centres = centres + rng.normal(0, error, centres.shape) * 2 * half.max(1, keepdims=True)
    half = half * np.exp(rng.normal(0, error, (len(boxes), 1)))
    return np.concatenate((centres - half, centres + half), 1).astype(np.float32)


def picture(sample: Sample) -> NDArray[np.uint8]:
    """Read a face's picture in BGR. Raises SettingsError if it cannot be read."""
    image = landmark_data.read_picture(sample)
    if image is None:
        raise SettingsError(f"{sample.path}: cannot be read as a picture")
    return image


def draw_curves(curves: dict[str, NDArray[np.float64]], path: Path) -> None:
    """Plot the cumulative distribution of the errors of each data set as a staircase with one step per face."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="mean error, % of outer eye distance", ylabel="share of faces")
    axes.set(xlim=(0, 12), ylim=(0, 1.01))
    for name, errors in curves.items():
        steps = np.concatenate(([0], np.sort(errors), [max(12, errors.max())]))
        shares = np.arange(len(errors) + 2).clip(max=len(errors)) / len(errors)
        axes.step(steps, shares, where="post", label=f"{name}: {errors.mean():.2f} %")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    figure.savefig(path, dpi=120)


def draw_worst(samples: list[Sample], found: Floats, errors: NDArray[np.float64], path: Path, count: int = 20) -> None:
    """Draw the faces with the largest errors: true points green, predicted ones red, the error in per cent."""
    tiles = []
    for i in np.argsort(-errors)[:count]:
        true = samples[i].points
        matrix = crop_matrix(landmark_box(true[None]), 240, 1.6)
        tile = np.ascontiguousarray(crop(picture(samples[i]), matrix, 240)[0])
        for points, colour in ((true, (0, 220, 0)), (found[i], (0, 0, 255))):
            draw_points(tile, apply(matrix, points[None])[0], colour)
        cv2.putText(tile, f"{errors[i]:.1f}", (5, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (255, 255, 255), 1, cv2.LINE_AA)
        tiles.append(tile)
    save_picture(path, grid(tiles, 5))


def evaluate(options: Any) -> dict[str, dict[str, float]]:
    """Measure every data set and its parts, log the tables and write the results to `options.out`."""
    predictor, detector = Predictor(options.model, options.backend), FaceModel(options.detector or RELEASED)
    tables, curves = {}, {}
    for folder in options.data:
        samples = usable(folder, options)
        rows = [predict(predictor, detector, sample) for sample in track(samples, str(folder))]
        found = Predictions(*(np.stack(column) for column in zip(*rows, strict=True)))
        name = name_of(folder, tables)
        tables[name], curves[name] = measure(found)
        parts = np.array([part_of(sample, folder) for sample in samples])
        for part in sorted(set(parts.tolist())) if len(set(parts.tolist())) > 1 else []:
            tables[f"{name}: {part}"], curves[f"{name}: {part}"] = measure(found.only(parts == part))
        if options.out:
            worst = options.out / f"worst-{name.replace('/', '-')}.png"
            draw_worst(samples, found.plain, curves[name], worst)
    for name, table in tables.items():
        logger.info("%s", "\n".join([name, *(f"  {key:<42}{value:9.3f}" for key, value in table.items())]))
    if options.out:
        draw_curves(curves, options.out / "errors.png")
        (options.out / "evaluation.json").write_text(json.dumps(tables, indent=1) + "\n")
    return tables


def name_of(folder: Path, taken: Container[str]) -> str:
    """Return the name of a measured folder: the last two parts of its path, or all if another folder has these."""
    parts = folder.resolve().parts[1:]
    short = "/".join(parts[-2:])
    return "/".join(parts) if short in taken else short


def part_of(sample: Sample, folder: Path) -> str:
    """Return the subset of a face: its folder below the measured one, or its prepared set."""
    return sample.source if sample.row is not None else sample.path.parent.relative_to(folder).as_posix()


def usable(folder: Path, options: Any) -> list[Sample]:
    """Read the usable faces of a folder, and log faults; of a prepared folder, those held out if there are any."""
    if (folder / prepared.FACES).is_file():
        samples = prepared.read_by_set(folder, options.sets)
        return [sample for sample in samples if sample.held_out] or samples
    person = landmark_data.person_of(options.person)
    samples, faults = landmark_data.read_folder(folder, options.source or folder.name, person)
    chosen, kept = [s for s in samples if landmark_data.held_out(s.person, options.held_out)], []
    for sample in chosen:
        if fault := landmark_data.unusable(sample.points, landmark_data.read_picture(sample)):
            faults.append(f"{sample.path}: {fault}")
        else:
            kept.append(sample)
    landmark_data.log_faults(folder, faults)
    if not kept:
        raise SettingsError(f"{folder}: no face to measure: {len(samples)} pictures have a .pts file, --held-out "
                            f"selects {len(chosen)} of them, of which none can be used")
    return kept
