"""Find the 68 landmarks of faces, and follow the faces from frame to frame.

faces = LandmarkModel().predict(image, boxes, kind="detector")
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from graph import Detections, Faces, Finding, Frame, Input, Node, Output, setting
from nodes._backend import MODELS, card, check_gives, check_picture, load, locate, one_of
from nodes._expression import eyes_in, openness
from nodes._geometry import (
    MARGIN,
    Floats,
    Image,
    apply,
    centres,
    crop,
    crop_matrix,
    detector_to_landmark_box,
    invert,
    landmark_box,
    landmark_roll,
    to_input,
)
from nodes._pose import WIDEST_FOV, camera_matrix, head_pose
from nodes._scene import Scene
from nodes._tracks import Look, Tracks, apart

RELEASED = MODELS / "landmarks"
FOV = 60.0
"""Default field of view across the longer side, degrees: webcams and phones have 55 to 75."""

VAGUE = 0.08
"""Points with a larger mean uncertainty, in face sides, are not a face, whatever the presence.

Measured: this drops none of the 337 faces of AFW (median 0.025, largest under 0.05) and one of 208 infants. Of 151
places in photographs without people where the detector finds a face at 0.3, a fifth have presence, mostly faces of
animals; of those 28 it drops 11 (0.10 dropped 4).
"""
OFF_CENTRE = 0.2
"""If a face is further than this from the given box (see `nodes._tracks.apart`), the network runs again where it is.

Measured on 85 faces of AFW with early weights: boxes shifted by 0.1, 0.2, 0.3, 0.4 face sides give 5.6, 6.4, 8.4 and
15.6 % error, the true box 5.4 %; presence still recognises the face.
"""
LEANING = np.radians(15)
"""If a face is tilted by this much more than the given roll, the network runs again on the upright face.

Measured on the 210 infants, who lie in every direction, with the weights of the previous release: 6.68 % error at the
first look, 5.86 with the second. On faces of AFW turned by 45, 90 and 180 degrees, with weights trained on few such
faces: 6.3, 10.6, 10.2, and 5.3, 6.2, 5.4 with the second.
"""
LOOKS = 3
"""Maximum number of looks (runs of the network) at a face: after a quarter turn, the second is not quite upright yet.

A face in a detector's box always gets two: on 100 faces of AFW that were not trained on, the error of the previous
release was 4.92 % at the first look, 4.78 % at the second, 4.65 % with the true box.
"""
REACH = 0.4
"""How far from its expected place, in face sides, a face that has just been lost is searched. The network recognises a
face up to about 0.3 sides off; somebody who walks past the camera moves by 0.4 between frames (measured), and in the
second frame his speed is not yet known."""
AROUND = np.array([(REACH, 0), (-REACH, 0), (0, REACH), (0, -REACH)], np.float32)
UNKNOWN_SPREAD = 0.02
"""Uncertainty of the points of networks without this output (Slim), in crop sides: about their mean error."""


PARTS = ("boxes", "scores", "landmarks", "spread", "pose", "states", "openness")
"""The fields of Faces that the model fills for each face."""


class LandmarkModel:
    """The landmark network without a graph."""

    def __init__(
        self, path: str | Path | None = None, backend: str = "onnxruntime", threads: int = 1, device: str = "cpu"
    ) -> None:
        """Load the network at `path`, or the released one. Raises the errors of `nodes._backend.load`."""
        path = Path(path or RELEASED)
        check_gives(path, "landmarks")
        self._network = load(path, backend, threads, device)
        self._size = int(card(path)["input"]["shape"][-1])

    def predict(
        self, image: Image, boxes: Floats, kind: str = "detector", roll: Floats | float = 0.0, fov: float = FOV
    ) -> Faces:
        """Find the landmarks of the faces at boxes (F, 4) in a BGR picture (H, W, 3), all in one batch.

        `kind` of box: "detector" boxes come from a face detector, "landmarks" boxes are tight around the 68 points.
        `roll` (F,), or one for all, is the tilt of each face in radians, clockwise; it may be wrong by 30 degrees
        (`roll_of_points` computes it from a detector's points). `fov` is the camera's field of view across the longer
        side in degrees, which the pose needs.

        Row i of the result belongs to box i; ids are the row numbers, scores the probability that there is a face.
        Coordinates are pixels of `image`.

        Raises ValueError for wrong shapes, an unknown kind, and a `fov` beyond `WIDEST_FOV`.
        """
        check_picture(image)
        if not 0 < fov <= WIDEST_FOV:
            raise ValueError(f"fov: expected degrees over 0 and up to {WIDEST_FOV:.0f}, found {fov}")
        boxes = as_boxes(boxes)
        rolls = as_rolls(roll, len(boxes))
        rough = one_of(kind, "kind", ("detector", "landmarks")) == "detector"
        if rough:
            boxes = landmark_boxes(boxes, rolls)
        if not len(boxes):
            return Faces()
        seen = self._look_closely(image, boxes, rolls, rough)
        landmarks = seen["landmarks"]
        return Faces(
            ids=np.arange(len(boxes)),
            boxes=landmark_box(landmarks),
            scores=seen["scores"],
            landmarks=landmarks,
            spread=seen["spread"],
            pose=head_pose(landmarks, camera_matrix(image.shape[1], image.shape[0], fov)),
            states=_open_if_cut_off(seen["states"], landmarks, (image.shape[1], image.shape[0])),
            openness=openness(landmarks),
        )

    def _look_closely(self, image: Image, boxes: Floats, rolls: Floats, rough: bool) -> dict[str, Floats]:
        """Return the result of `_look`, repeated for faces that are not where or as expected, and for rough boxes.

        See OFF_CENTRE, LEANING and LOOKS.
        """
        seen = self._look(image, boxes, rolls)
        for _ in range(LOOKS - 1):
            found_rolls = landmark_roll(seen["landmarks"])
            found = landmark_box(seen["landmarks"], found_rolls)
            off = (apart(boxes, found) > OFF_CENTRE) | (angle_between(found_rolls, rolls) > LEANING) | rough
            off &= seen["scores"] > 0.5
            rough = False
            if not off.any():
                break
            for name, values in self._look(image, found[off], found_rolls[off]).items():
                seen[name][off] = values
            boxes, rolls = np.where(off[:, None], found, boxes), np.where(off, found_rolls, rolls)
        return seen

    def _look(self, image: Image, boxes: Floats, rolls: Floats) -> dict[str, Floats]:
        """Run the network on the faces at boxes (F, 4) and return its outputs in pixels of the picture."""
        matrices = crop_matrix(boxes, self._size, MARGIN, rolls)
        outputs = self._network.run(to_input(crop(image, matrices, self._size)))
        spread = outputs.get("spread", np.full((len(boxes), 68), UNKNOWN_SPREAD * self._size, np.float32))
        scale = np.hypot(matrices[:, 0, 0], matrices[:, 0, 1])
        return {
            "scores": outputs["presence"],
            "landmarks": apply(invert(matrices), outputs["landmarks"]),
            "spread": (spread / scale[:, None]).astype(np.float32),
            "states": outputs["states"],
        }


def _open_if_cut_off(states: Floats, landmarks: Floats, size: tuple[int, int]) -> Floats:
    """Return states (F, 4) in which eyes that may be cut off by the edge of a picture (width, height) are open."""
    eyes = np.where(eyes_in(landmarks, size), states[:, :2], 0)
    return np.asarray(np.concatenate((eyes, states[:, 2:]), 1), np.float32)


def angle_between(a: Floats, b: Floats) -> Floats:
    """Return the angles (F,) from 0 to pi between directions `a` and `b` (F,) in radians."""
    return np.asarray(np.abs((a - b + np.pi) % (2 * np.pi) - np.pi), np.float32)


def as_boxes(boxes: Floats) -> Floats:
    """Return boxes as float32 (F, 4); an empty list is (0, 4). Raises ValueError for anything else."""
    boxes = np.asarray(boxes, np.float32)
    if not boxes.size:
        return np.zeros((0, 4), np.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise ValueError(f"expected finite boxes (F, 4) as x0, y0, x1, y1, found shape {boxes.shape}")
    return boxes


def as_rolls(roll: Floats | float, count: int) -> Floats:
    """Return rolls as float32 (count,); one applies to all. Raises ValueError for another number of them, and NaN."""
    rolls = np.asarray(roll, np.float32)
    if rolls.shape not in ((), (1,), (count,)) or not np.isfinite(rolls).all():
        raise ValueError(f"roll: expected finite radians, one or as many as boxes ({count}), found {roll}")
    return np.broadcast_to(rolls, (count,))


def landmark_boxes(boxes: Floats, rolls: Floats) -> Floats:
    """Estimate the boxes of the 68 points from detected boxes (F, 4) of faces tilted by `rolls` (F,) radians."""
    mapped = detector_to_landmark_box(boxes)
    old, new = centres(boxes), centres(mapped)
    x, y = (new - old).T
    cos, sin = np.cos(rolls), np.sin(rolls)
    turned = np.stack((x * cos - y * sin, x * sin + y * cos), 1)  # the shift is down the face, not down the picture
    return np.asarray(mapped + np.tile(old + turned - new, 2), np.float32)


def certain(faces: Faces) -> NDArray[np.bool_]:
    """Return for which faces (F,) the network is certain enough of the points; see VAGUE."""
    sides = (faces.boxes[:, 2:] - faces.boxes[:, :2]).max(1, initial=1)
    return np.asarray(faces.spread.mean(1) < VAGUE * sides, np.bool_)


def roll_of_points(points: Floats) -> Floats:
    """Return the roll (F,) of faces in radians, clockwise, from a detector's points (F, 5, 2); see `landmark_roll`."""
    across = points[:, 1] - points[:, 0]
    down = points[:, 3:].mean(1) - points[:, :2].mean(1)
    return np.asarray(np.arctan2(across[:, 1] - down[:, 0], across[:, 0] + down[:, 1]), np.float32)


def _side(box: Floats) -> np.float32:
    return np.float32(max(box[2] - box[0], box[3] - box[1]))


class Landmarks(Node):
    """Find the landmarks of every face, and give each face an id that it keeps while it stays in view.

    Detections start and confirm tracks. Between detections, each face is followed by its own landmarks as long as the
    network sees a face there. Detections may be late (join: hold); each is used once. A cut to another scene starts
    new ids, except for a face that is still there, as when only the background changes.
    """

    frame = Input(Frame)
    found = Input(Detections, optional=True)
    faces = Output(Faces)

    presence: float = setting(0.5, minimum=0.0, maximum=1.0)  # minimum probability of a face
    patience: float = setting(1.0, minimum=0.0)  # seconds for which a hidden or undetected face keeps its id
    fov: float = setting(FOV, minimum=1.0, maximum=WIDEST_FOV, changeable=True)  # field of view, longer side, degrees
    model: str = ""  # network file, suffix optional, or landmarks-large; empty: the released one
    backend: Literal["onnxruntime", "mnn", "torch"] = "onnxruntime"  # runtime of the network
    device: Literal["cpu", "cuda"] = "cpu"  # cuda needs a GPU and onnxruntime-gpu or torch
    threads: int = setting(1, minimum=1)  # CPU threads

    def __post_init__(self) -> None:
        """Refuse a missing or wrong network, or one without a card, before the graph starts."""
        locate(self.model or RELEASED, self.backend)
        card(self.model or RELEASED)
        check_gives(self.model or RELEASED, "landmarks")

    @classmethod
    def check(cls, node: Self | None) -> Iterator[Finding]:
        """Run the network on all installed backends, or on the one that the graph uses."""
        from nodes import _networks

        if node is None:
            return _networks.check_network(RELEASED)
        return _networks.check_network(Path(node.model or RELEASED), node.backend, node.device)

    def open(self) -> None:
        """Load the network."""
        cv2.setNumThreads(self.threads)
        self._model = LandmarkModel(self.model or None, self.backend, self.threads, self.device)
        self._tracks, self._scene = Tracks(self.presence, self.patience), Scene()
        self._stream: tuple[int, tuple[int, ...]] | None = None
        self._used = -1

    def process(self, frame: Frame, found: Detections | None) -> Faces:
        """Follow the known faces and add newly detected ones."""
        stream = (frame.epoch, frame.image.shape)
        if stream != self._stream:
            self._tracks.forget()
            self._stream = stream
        if found is not None and (found.epoch != frame.epoch or found.seq <= self._used):
            found = None  # from another stream, or used already (join: hold repeats it)
        looks = self._looks(frame, found)
        seen, presence = self._predict(frame, looks)
        if self._scene.cut(frame.image):
            self._tracks.forget_others(looks, seen.landmarks)
        self._search(frame, looks, seen, presence)
        size = (frame.image.shape[1], frame.image.shape[0])
        pairs = self._tracks.see(looks, seen.landmarks, presence, size, frame.pts)
        rows = [row for _, row in pairs]
        visible = {name: getattr(seen, name)[rows] for name in PARTS}
        return Faces(ids=np.array([track.id for track, _ in pairs], np.int64), **visible)

    def _looks(self, frame: Frame, found: Detections | None) -> list[Look]:
        if found is None:
            return self._tracks.look(None, np.zeros(0, np.float32), frame.pts, frame.pts)
        self._used = found.seq
        rolls = roll_of_points(found.points)
        return self._tracks.look(landmark_boxes(found.boxes, rolls), rolls, found.pts, frame.pts)

    def _predict(self, frame: Frame, looks: list[Look]) -> tuple[Faces, Floats]:
        """Return the faces at the looks, and the probability (F,) that each is a face."""
        boxes = np.array([look.box for look in looks], np.float32).reshape(-1, 4)
        rolls = np.array([look.roll for look in looks], np.float32)
        seen = self._model.predict(frame.image, boxes, "landmarks", rolls, self.fov)
        return seen, np.where(certain(seen), seen.scores, np.float32(0))

    def _search(self, frame: Frame, looks: list[Look], seen: Faces, presence: Floats) -> None:
        """Search around each face that was visible in the last frame and is not now; take the best match, in place."""
        lost = [
            row for row, look in enumerate(looks)
            if look.track and look.track.visible and presence[row] < self.presence
        ]  # fmt: skip
        around = [Look(looks[row].box + np.tile(step * _side(looks[row].box), 2), looks[row].roll)
                  for row in lost for step in AROUND]
        if not around:
            return
        found, chances = self._predict(frame, around)
        best = chances.reshape(-1, len(AROUND)).argmax(1) + np.arange(len(lost)) * len(AROUND)
        for row, other in zip(lost, best, strict=True):
            presence[row] = chances[other]
            for name in PARTS:
                getattr(seen, name)[row] = getattr(found, name)[other]
