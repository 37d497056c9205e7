"""Measures an exported face detector: average precision, points, false alarms, and its boxes against landmark boxes.

python -m training.evaluate nodes/models/faces ../data --out runs/faces-evaluation
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure

from nodes import _backend, _boxes
from nodes._geometry import Floats, Image, crop, crop_matrix, landmark_box, landmark_roll, to_input
from nodes.landmarks import LandmarkModel, certain
from training.contact_sheet import grid, save_picture
from training.faces_data import Picture, face_ovals, five_points, read_backgrounds, split
from training.faces_metric import IOU, Curve, Detected, curve, match, operating_point
from training.faces_settings import SIZES, FaceSettings
from training.faces_sources import read_pictures
from training.files import read_image
from training.landmark_data import Sample, read_folder
from training.predictor import read_card
from training.settings import SettingsError, checked

logger = logging.getLogger("training")

Maps = Callable[[Floats], list[Floats]]
"""From an input (1, 3, H, W) to the network's maps (15, H / stride, W / stride), finest first."""

LOWEST = 0.02
"""Detections that score less are left out: they are too low in the ranking to change an average precision."""
UPRIGHT = np.radians(15)
"""Faces tilted by less than this are used to compare boxes with landmark boxes."""


def exported(path: Path, backend: str = "onnxruntime") -> Maps:
    """Load an exported detector. Raises SettingsError if it cannot be loaded."""
    try:
        return maps_of(_backend.load(path, backend).run)
    except (ValueError, FileNotFoundError, ModuleNotFoundError) as exc:
        raise SettingsError(str(exc)) from exc


def maps_of(run: Callable[[Floats], dict[str, Floats]]) -> Maps:
    """Return the maps of a function from inputs to the outputs of an exported detector by name."""

    def maps(batch: Floats) -> list[Floats]:
        found = run(batch)
        return [found[f"stride{stride}"][0] for stride in _boxes.STRIDES]

    return maps


def find(maps: Maps, image: Image, size: tuple[int, int], threshold: float) -> tuple[Floats, Floats, Floats]:
    """Return boxes (F, 4), scores (F,) and points (F, 5, 2) in pixels of the picture fitted to `size`, best first."""
    fitted = _boxes.letterbox(image, size)[0]
    return _boxes.merge(*_boxes.decode(maps(to_input(fitted[None])), threshold=threshold))


def detect(maps: Maps, picture: Picture, size: tuple[int, int], threshold: float = LOWEST) -> Detected:
    """Return the detections in one picture, fitted to `size`, and its true faces; their sizes are heights."""
    _, scale, offset = _boxes.letterbox(picture.image(), size)
    boxes, scores, _ = find(maps, picture.image(), size, threshold)
    truth = picture.boxes * np.tile(scale, 2) + np.tile(offset, 2)
    return Detected(boxes, scores, truth, truth[:, 3] - truth[:, 1], picture.ignored)


def measure_points(maps: Maps, samples: list[Sample], size: tuple[int, int]) -> tuple[dict[str, float], Floats]:
    """Measure the five points on faces with 68, and the edges (F, 4) of landmark boxes relative to detected boxes.

    Edges are (landmark edge - the same edge of the face box) over the box's width (x) or height (y), of upright faces.
    """
    errors, edges, count = [], [], 0
    for sample in samples:
        image = read_image(sample.path)
        if image is None:
            logger.warning("%s: picture cannot be read", sample.path)
            continue
        count += 1
        boxes, _, points = find(maps, image, size, 0.5)
        _, scale, offset = _boxes.letterbox(image, size)
        landmarks = (sample.points * scale + offset).astype(np.float32)[None]
        overlap = _boxes.overlaps(face_ovals(landmarks).boxes(), boxes)[0]
        if not len(boxes) or overlap.max() < IOU:
            continue
        best = int(overlap.argmax())
        true = five_points(landmarks)[0]
        errors.append(100 * np.linalg.norm(points[best] - true, axis=-1) / np.linalg.norm(true[0] - true[1]))
        if abs(landmark_roll(landmarks)[0]) < UPRIGHT:
            sides = np.tile(boxes[best, 2:] - boxes[best, :2], 2)
            edges.append((landmark_box(landmarks)[0] - boxes[best]) / sides)
    table = {"faces found, %": 100 * len(errors) / max(1, count)}
    for name, value in zip(_boxes.POINTS, np.mean(errors, 0) if errors else [], strict=False):
        table[f"error of {name}, % of eye distance"] = float(value)
    return table, np.array(edges, np.float32).reshape(-1, 4)


def edge_rows(name: str, edges: Floats) -> dict[str, float]:
    """Return mean and deviation of each of the landmark boxes' edges (F, 4); nothing if no upright face was found."""
    table: dict[str, float] = {}
    for edge, column in zip(("x0", "y0", "x1", "y1"), edges.T if len(edges) else (), strict=False):
        table |= {f"{name}: landmark box {edge}": float(column.mean()),
                  f"{name}: its deviation {edge}": float(column.std())}
    return table


def landmarked(model: LandmarkModel, picture: Picture, boxes: Floats, size: tuple[int, int]) -> int:
    """Return for how many boxes (F, 4) of the picture fitted to `size` the landmark network confirms a face."""
    if not len(boxes):
        return 0
    _, scale, offset = _boxes.letterbox(picture.image(), size)
    faces = model.predict(picture.image(), _boxes.to_frame(boxes, scale, offset))
    return int(((faces.scores >= 0.5) & certain(faces)).sum())


def alarms_of(found: list[Detected], threshold: float) -> list[tuple[int, int]]:
    """Return (picture, detection) of the false alarms that score at least `threshold`, best first."""
    alarms = []
    for i, picture in enumerate(found):
        hits, counts = match(picture, picture.at_least(0))
        alarms += [(i, j) for j in np.flatnonzero((hits < 0) & counts & (picture.scores >= threshold))]
    return sorted(alarms, key=lambda place: -found[place[0]].scores[place[1]])


def misses_of(found: list[Detected], threshold: float, size: float) -> list[tuple[int, int]]:
    """Return (picture, face) of the faces of at least `size` not found at `threshold`, largest first."""
    misses = []
    for i, picture in enumerate(found):
        counted = picture.at_least(size)
        hits, _ = match(picture, counted)
        seen = set(hits[picture.scores >= threshold].tolist())
        misses += [(i, j) for j in np.flatnonzero(counted) if j not in seen]
    return sorted(misses, key=lambda place: -found[place[0]].sizes[place[1]])


def draw_curves(curves: dict[int, Curve], path: Path) -> None:
    """Plot precision over recall for each least size."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.01))
    for size, found in sorted(curves.items()):
        axes.plot(found.recall, found.precision, label=f"at least {size} px: AP {found.average:.3f}")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    figure.savefig(path, dpi=120)


def draw_places(pictures: list[Picture], boxes: list[Floats], labels: list[str], path: Path, columns: int = 8) -> None:
    """Draw one tile per box (4,) in picture pixels, with the box in the middle."""
    tiles = []
    for picture, box, label in zip(pictures, boxes, labels, strict=True):
        matrix = crop_matrix(box[None], 140, 2.5)
        tile = np.ascontiguousarray(crop(picture.image(), matrix, 140)[0])
        corners = box.reshape(2, 2) @ matrix[0, :, :2].T + matrix[0, :, 2]
        (x0, y0), (x1, y1) = corners.round().astype(int).tolist()
        cv2.rectangle(tile, (x0, y0), (x1, y1), (0, 255, 255), 1)
        cv2.putText(tile, label, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 255, 0), 1, cv2.LINE_AA)
        tiles.append(tile)
    save_picture(path, grid(tiles or [np.zeros((140, 140, 3), np.uint8)], columns))


def measure(options: Any) -> dict[str, float]:
    """Measure a detector on the data that its card lists as held out; log the table and write pictures."""
    if len(options.data) > 1:
        raise SettingsError("a face detector is measured on one folder, the one with all sets of its card; found "
                            + ", ".join(map(str, options.data)))
    card = read_card(options.model)
    settings = checked(FaceSettings, card["training"]["settings"] | {"data": str(options.data[0])}, str(options.model))
    maps = exported(options.model, options.backend)
    size, threshold = settings.validation_size, card["input"]["threshold"]
    pictures = read_pictures(settings)[1]
    found = [detect(maps, picture, size) for picture in pictures]
    curves = {least: curve(found, least) for least in SIZES}
    table: dict[str, float] = {"pictures held out": len(pictures)}
    for least in sorted(SIZES):
        precision, recall = operating_point(found, least, threshold)
        table |= {
            f"ap, faces of at least {least} px": curves[least].average,
            f"precision at {threshold}, {least} px": precision,
            f"recall at {threshold}, {least} px": recall,
        }
    empty: list[Picture] = []
    if settings.backgrounds:
        empty = read_backgrounds(settings.data / settings.backgrounds, set(settings.not_backgrounds))
        empty = split(empty, settings.background_hold_out, "name")[1]
    on_empty = [detect(maps, picture, size, threshold) for picture in empty]
    if empty:
        table["backgrounds"] = len(empty)
        table["false alarms per background"] = sum(len(one.scores) for one in on_empty) / len(empty)
        model = LandmarkModel()
        kept = sum(landmarked(model, picture, one.boxes, size) for picture, one in zip(empty, on_empty, strict=True))
        table["of them given landmarks"] = kept / len(empty)
    for name, folder in settings.points_held_out.items():
        more, edges = measure_points(maps, read_folder(settings.data / folder, name)[0], size)
        table |= {f"{name}: {key}": value for key, value in more.items()}
        table |= edge_rows(name, edges)
    logger.info("%s", "\n".join(f"  {key:<52}{value:9.4f}" for key, value in table.items()))
    if options.out:
        draw_curves(curves, options.out / "precision-recall.png")
        misses = misses_of(found, threshold, 16)[:64]
        draw_places([pictures[i] for i, _ in misses], [pictures[i].boxes[j] for i, j in misses],
                    [f"{found[i].sizes[j]:.0f} px" for i, j in misses], options.out / "misses.png")
        draw_alarms(pictures, found, threshold, size, options.out / "alarms.png")
        draw_alarms(empty, on_empty, threshold, size, options.out / "alarms-backgrounds.png")
        (options.out / "evaluation.json").write_text(json.dumps(table, indent=1) + "\n")
    return table


def draw_alarms(pictures: list[Picture], found: list[Detected], threshold: float, size: tuple[int, int],
                path: Path) -> None:
    """Draw the 64 false alarms with the highest scores."""
    alarms = alarms_of(found, threshold)[:64]
    draw_places([pictures[i] for i, _ in alarms], [in_picture(found[i].boxes[j], pictures[i], size) for i, j in alarms],
                [f"{found[i].scores[j]:.2f}" for i, j in alarms], path)


def in_picture(box: Floats, picture: Picture, size: tuple[int, int]) -> Floats:
    """Map a box (4,) of the fitted picture back to the picture's pixels."""
    _, scale, offset = _boxes.letterbox(picture.image(), size)
    return _boxes.to_frame(box[None], scale, offset)[0]
