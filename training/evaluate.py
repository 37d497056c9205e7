"""Measure an exported network as the run time would use it: landmarks on folders of pictures with .pts, faces on WIDER.

python -m training.evaluate nodes/models/landmarks ../data/landmarks/AFW/afw --out runs/evaluation
python -m training.evaluate nodes/models/faces ../data --out runs/evaluation
"""

import argparse
import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nodes import _backend
from nodes._geometry import apply, crop, crop_matrix, invert, landmark_box, landmark_roll, to_input
from training import faces_evaluate, landmark_data, metrics
from training.landmark_data import MIRROR, Sample
from training.settings import SettingsError

logger = logging.getLogger("training")

BOX_ERROR = 0.05
"""Standard deviation of the position and the size of a jittered box, in shares of its side: as behind a detector."""
SMALL_BOX_ERROR, NOISE = 0.02, 4.0
"""Disturbances whose response is measured: box error of 2 %, pixel noise of 4 grey levels."""


@dataclass(frozen=True)
class Found:
    """What a network says of faces: points (F, 68, 2) and spread (F, 68) in picture pixels, probabilities."""

    points: NDArray[np.float32]
    spread: NDArray[np.float32]
    states: NDArray[np.float32]
    presence: NDArray[np.float32]


class Predictor:
    """An exported network with its card's crop rule, for one face per picture."""

    def __init__(self, path: Path, backend: str = "onnxruntime") -> None:
        card_path = path.with_suffix(".json")
        try:
            card = json.loads(card_path.read_text())
        except OSError as exc:
            raise SettingsError(f"{card_path}: {exc.strerror}; a network is measured with its card beside it") from exc
        if "landmarks" not in card["outputs"]:
            raise SettingsError(f"{card_path}: outputs {sorted(card['outputs'])}, none is 'landmarks'")
        self.size, self.margin = card["input"]["shape"][-1], card["input"]["margin"]
        try:
            self.model = _backend.load(path, backend)
        except (ValueError, FileNotFoundError, ModuleNotFoundError) as exc:
            raise SettingsError(str(exc)) from exc

    def __call__(self, images: list[NDArray[np.uint8]], boxes: NDArray[np.float32],
                 roll: NDArray[np.float32] | float = 0.0) -> Found:
        """Find the points of one face per picture in its landmark box (F, 4), turned upright by roll (F,)."""
        matrices = crop_matrix(boxes, self.size, self.margin, roll)
        crops = np.concatenate([crop(i, m[None], self.size) for i, m in zip(images, matrices, strict=True)])
        chunks = [self.model.run(to_input(crops[i : i + 32])) for i in range(0, len(crops), 32)]
        out = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
        scale = np.sqrt(np.abs(np.linalg.det(matrices[:, :, :2])))[:, None]
        spread = out.get("spread", np.full(out["landmarks"].shape[:2], np.nan, np.float32)) / scale
        return Found(apply(invert(matrices), out["landmarks"]), spread, out["states"], out["presence"])


def evaluate(predictor: Predictor, samples: list[Sample]) -> tuple[dict[str, float], NDArray[np.float64], Found]:
    """Return the measures, the mean error per face (F,) with true boxes, and what was found with them."""
    images = [read(sample.path) for sample in samples]
    true = np.stack([sample.points for sample in samples])
    boxes = landmark_box(true)
    rng = np.random.default_rng(0)
    found = predictor(images, boxes)
    per_point = metrics.normalised_errors(found.points, true)
    errors = per_point.mean(1)
    again = predictor(images, landmark_box(found.points, landmark_roll(found.points)), landmark_roll(found.points))
    shaken = predictor(images, shake(rng, boxes, BOX_ERROR))
    table = {
        "faces": len(samples),
        "nme": errors.mean(),
        "nme median": np.median(errors),
        "nme 90th percentile": np.percentile(errors, 90),
        "failures over 8 %": metrics.failure_rate(errors, 8),
        "failures over 10 %": metrics.failure_rate(errors, 10),
        "area under curve to 8 %": metrics.area_under_curve(errors, 8),
        **{f"nme {name}": per_point[:, part].mean() for name, part in metrics.REGIONS.items()},
        "nme, jittered boxes": metrics.normalised_errors(shaken.points, true).mean(),
        "nme, second pass on its own upright box": metrics.normalised_errors(again.points, true).mean(),
        **responses(predictor, images, boxes, found, true),
        **states_f1(found, true),
        "present": 100 * (found.presence > 0.5).mean(),
    }
    if np.isfinite(found.spread).all():
        away = np.linalg.norm(found.points - true, axis=-1)
        table["spread over error"] = found.spread.mean() / away.mean()
        logs = np.log(found.spread.ravel()), np.log(away.ravel() + 0.1)
        table["correlation of spread and error"] = np.corrcoef(*logs)[0, 1]
    return {name: float(value) for name, value in table.items()}, errors, found


def responses(predictor: Predictor, images: list[NDArray[np.uint8]], boxes: NDArray[np.float32], found: Found,
              true: NDArray[np.float32]) -> dict[str, float]:
    """Return how far points move, in per cent of the outer eye distance, under changes that should not move them."""
    rng = np.random.default_rng(1)
    noisy = [(i + rng.normal(0, NOISE, i.shape)).clip(0, 255).astype(np.uint8) for i in images]
    widths = np.array([image.shape[1] for image in images], np.float32)[:, None]
    mirrored_boxes = boxes.copy()
    mirrored_boxes[:, [2, 0]] = widths - 1 - boxes[:, [0, 2]]
    mirrored = predictor([np.ascontiguousarray(image[:, ::-1]) for image in images], mirrored_boxes).points[:, MIRROR]
    mirrored[..., 0] = widths - 1 - mirrored[..., 0]
    others = {
        "response to a mirror": mirrored,
        "response to box errors of 2 %": predictor(images, shake(rng, boxes, SMALL_BOX_ERROR)).points,
        "response to noise of 4 levels": predictor(noisy, boxes).points,
    }
    apart = np.linalg.norm(true[:, 36] - true[:, 45], axis=-1)[:, None]
    return {
        name: 100 * (np.linalg.norm(points - found.points, axis=-1) / apart).mean() for name, points in others.items()
    }


def states_f1(found: Found, true: NDArray[np.float32]) -> dict[str, float]:
    """Return F1 in per cent of the eyes together and of each mouth state."""
    labels, said = landmark_data.states(true) > 0.5, found.states > 0.5
    return {
        "f1 eyes closed": 100 * metrics.f1(said[:, :2], labels[:, :2]),
        "f1 mouth closed": 100 * metrics.f1(said[:, 2], labels[:, 2]),
        "f1 mouth wide open": 100 * metrics.f1(said[:, 3], labels[:, 3]),
    }


def shake(rng: np.random.Generator, boxes: NDArray[np.float32], error: float) -> NDArray[np.float32]:
    """Move and scale boxes (F, 4) by normal errors of this share of their side."""
    centres, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    centres = centres + rng.normal(0, error, centres.shape) * 2 * half.max(1, keepdims=True)
    half = half * np.exp(rng.normal(0, error, (len(boxes), 1)))
    return np.concatenate((centres - half, centres + half), 1).astype(np.float32)


def read(path: Path) -> NDArray[np.uint8]:
    """Read a picture in BGR. Raises SettingsError when it is not one."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise SettingsError(f"{path}: cannot be read as a picture")
    return image


def draw_curves(curves: dict[str, NDArray[np.float64]], path: Path) -> None:
    """Plot the cumulative distribution of the mean error of each data set."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="mean error, % of outer eye distance", ylabel="share of faces")
    axes.set(xlim=(0, 12), ylim=(0, 1))
    for name, errors in curves.items():
        axes.plot(np.sort(errors), np.arange(1, len(errors) + 1) / len(errors), label=f"{name}: {errors.mean():.2f} %")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)


def draw_worst(samples: list[Sample], found: Found, errors: NDArray[np.float64], path: Path, count: int = 20) -> None:
    """Draw the faces with the largest errors: true points green, found ones red, the error in per cent."""
    tiles = []
    for i in np.argsort(-errors)[:count]:
        true = samples[i].points
        matrix = crop_matrix(landmark_box(true[None]), 240, 1.6)
        tile = np.ascontiguousarray(crop(read(samples[i].path), matrix, 240)[0])
        for points, colour in ((true, (0, 220, 0)), (found.points[i], (0, 0, 255))):
            for x, y in apply(matrix, points[None])[0]:
                cv2.circle(tile, (round(float(x) * 8), round(float(y) * 8)), 10, colour, -1, cv2.LINE_AA, 3)
        cv2.putText(tile, f"{errors[i]:.1f}", (5, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (255, 255, 255), 1, cv2.LINE_AA)
        tiles.append(tile)
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 5)
    cv2.imwrite(str(path), np.vstack([np.hstack(tiles[i : i + 5]) for i in range(0, len(tiles), 5)]))


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and measure; 2 means a file or folder is wrong."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("model", type=Path, help="exported network, its card beside it")
    parser.add_argument("data", type=Path, nargs="+",
                        help="folders of pictures with .pts; for a face detector the folder of all sets")
    parser.add_argument("--backend", default="onnxruntime", choices=sorted(_backend.BACKENDS))
    parser.add_argument("--out", type=Path, help="folder for numbers, curve and worst faces")
    parser.add_argument("--held-out", type=float, default=1.0, metavar="SHARE",
                        help="only the people that a training with this held_out share never saw")
    parser.add_argument("--source", help="name of the data set in the training config, for --held-out")
    parser.add_argument("--person", default=".*", help="pattern of a person in file names, as in the training config")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        (faces_evaluate.measure if finds_faces(options.model) else measure)(options)
    except SettingsError as exc:
        logger.error("%s", exc)
        return 2
    return 0


def finds_faces(model: Path) -> bool:
    """Say whether the card beside a network is that of a face detector."""
    card = model.with_suffix(".json")
    return card.is_file() and "stride8" in json.loads(card.read_text()).get("outputs", {})


def measure(options: Any) -> None:
    """Measure every folder, log the tables and write what was asked for."""
    predictor = Predictor(options.model, options.backend)
    tables, curves = {}, {}
    for folder in options.data:
        samples = usable(folder, options)
        name = "/".join(folder.parts[-2:])
        tables[name], curves[name], found = evaluate(predictor, samples)
        logger.info("%s", "\n".join([name, *(f"  {key:<42}{value:9.3f}" for key, value in tables[name].items())]))
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            draw_worst(samples, found, curves[name], options.out / f"worst-{name.replace('/', '-')}.png")
    if options.out:
        draw_curves(curves, options.out / "errors.png")
        (options.out / "evaluation.json").write_text(json.dumps(tables, indent=1) + "\n")


def usable(folder: Path, options: Any) -> list[Sample]:
    """Read the faces of a folder that can be measured; faults are logged."""
    person = landmark_data.person_of(options.person)
    samples, faults = landmark_data.read_folder(folder, options.source or folder.name, person)
    samples = [s for s in samples if landmark_data.held_out(s.person, options.held_out)]
    kept = []
    for sample in samples:
        fault = landmark_data.outside(sample.points, read(sample.path).shape)
        faults += [f"{sample.path}: {fault}"] if fault else []
        kept += [] if fault else [sample]
    if faults:
        logger.warning("%d faults, the first: %s", len(faults), faults[0])
    if not kept:
        raise SettingsError(f"{folder}: no face to measure")
    return kept


if __name__ == "__main__":
    sys.exit(main())
