"""Average precision of face detection, as WIDER FACE measures it, by size of face.

Source: Yang et al. 2016, "WIDER FACE: A Face Detection Benchmark", and its evaluation protocol: a detection belongs
to the true face it overlaps most; overlaps of at least 0.5 count; one with an ignored face counts neither way, a second
one with the same face is a false alarm; 1,000 thresholds over the scores scaled to [0, 1]; area under precision made
monotone. One difference: a side is the difference of its ends, to which WIDER's code adds a pixel.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nodes._boxes import overlaps
from nodes._geometry import Floats

IOU = 0.5
THRESHOLDS = 1000


@dataclass(frozen=True)
class Detected:
    """The detections in one picture and its true faces.

    Detections: boxes (D, 4) and scores (D,), best first. True faces: boxes (F, 4), sizes (F,) in pixels of the
    network's input, and which count neither way (F,).
    """

    boxes: Floats
    scores: Floats
    truth: Floats
    sizes: Floats
    ignored: NDArray[np.bool_]

    def at_least(self, size: float) -> NDArray[np.bool_]:
        """Return which faces (F,) count when only those of at least `size` do."""
        return ~self.ignored & (self.sizes >= size)


@dataclass(frozen=True)
class Curve:
    """Precision and recall at falling score thresholds, and the average precision."""

    thresholds: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    average: float


def match(detected: Detected, counted: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return per detection the face that it is the first to find (D,), else -1, and whether it counts at all (D,)."""
    hits = np.full(len(detected.boxes), -1)
    counts = np.ones(len(detected.boxes), bool)
    if not len(detected.truth) or not len(detected.boxes):
        return hits, counts
    overlap = overlaps(detected.boxes, detected.truth)
    nearest = overlap.argmax(1)
    found = set()
    for i, face in enumerate(nearest.tolist()):
        if overlap[i, face] < IOU:
            continue
        if not counted[face]:
            counts[i] = False
        elif face not in found:
            found.add(face)
            hits[i] = face
    return hits, counts


def curve(pictures: list[Detected], size: float) -> Curve:
    """Return precision and recall for faces of at least `size`; recall is 0 throughout if there are none."""
    scores, true, counts, faces = [], [], [], 0
    for picture in pictures:
        counted = picture.at_least(size)
        hits, kept = match(picture, counted)
        faces += int(counted.sum())
        scores.append(picture.scores)
        true.append(hits >= 0)
        counts.append(kept)
    score = np.concatenate(scores) if scores else np.zeros(0)
    order = np.argsort(-score)
    score = score[order].astype(np.float64)
    found = np.concatenate(([0], np.concatenate(true)[order].cumsum())) if len(score) else np.zeros(1)
    tried = np.concatenate(([0], np.concatenate(counts)[order].cumsum())) if len(score) else np.zeros(1)
    low, high = (score[-1], score[0]) if len(score) else (0.0, 1.0)
    thresholds = low + (high - low) * (1 - np.arange(1, THRESHOLDS + 1) / THRESHOLDS)
    upto = np.searchsorted(-score, -thresholds, side="right")
    recall = found[upto] / max(faces, 1)
    precision = np.divide(found[upto], tried[upto], out=np.zeros(THRESHOLDS), where=tried[upto] > 0)
    return Curve(thresholds, precision, recall, _area(recall, precision))


def _area(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """Return the area under precision made monotone, as Pascal VOC has done since 2010."""
    recall = np.concatenate(([0.0], recall, [1.0]))
    precision = np.concatenate(([0.0], precision, [0.0]))
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.flatnonzero(recall[1:] != recall[:-1])
    return float(((recall[steps + 1] - recall[steps]) * precision[steps + 1]).sum())


def operating_point(pictures: list[Detected], size: float, threshold: float) -> tuple[float, float]:
    """Return precision and recall at one score threshold for faces of at least `size`."""
    true = tried = faces = 0
    for picture in pictures:
        counted = picture.at_least(size)
        hits, kept = match(picture, counted)
        shown = picture.scores >= threshold
        true += int((hits[shown] >= 0).sum())
        tried += int(kept[shown].sum())
        faces += int(counted.sum())
    return true / max(tried, 1), true / max(faces, 1)
