"""Detect faces: a box, a score and five points each.

boxes, scores, points = FaceModel().detect(image)
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

import cv2
import numpy as np

from graph import Detections, Finding, Frame, Input, Node, Output, setting
from nodes._backend import MODELS, check_gives, check_picture, load, locate, whole_number
from nodes._boxes import STRIDES, decode, letterbox, merge, nested, nms, overlaps, to_frame
from nodes._geometry import Floats, Image, to_input
from nodes._scene import thumbnail
from nodes._watch import Watch
from nodes._windows import (
    Window,
    around,
    boxes_turned_back,
    centred_in,
    region_of,
    tile,
    turned,
    turned_back,
    whole,
    within,
)

Found = tuple[Floats, Floats, Floats]
"""Boxes (F, 4), scores (F,) and points (F, 5, 2)."""

RELEASED = MODELS / "faces"
NESTED = 0.8
"""In a search at several scales, a face with a larger share of its area inside the box of a better one is dropped."""
OVERVIEW = 320
"""Pixels, longer side in the search for large faces: the network is trained on scenes of 256 px and knows no face above
250 px (a face of 380 px was missed at 640 px and found at 320)."""
CLOSE, FILLS = 160, 0.6
"""Pixels, longer side in another search for a face that fills the picture, and the least share of the longer side of
such a face. At 320 px it is too large for the network: of 180 faces as high as an upright picture (3:4), 49 % were
found; of faces with eight tenths of that height, 88 %. With this search, 100 and 99 %."""
LARGE = 0.45
"""Share of the longer side. For a face that fills the picture, the network gives no box, or one this large on a part of
it."""
SAME_FACE = 0.3
"""A detected box that overlaps a followed face by more than this is the same face."""
STAYS = 0.2
"""When there are more than `max_faces`, a known face is kept unless a new one scores higher by this. Otherwise two
people with similar scores would alternate, and each would get landmarks. A pattern with a low score still gives way."""


class FaceModel:
    """The face detector without a graph."""

    def __init__(
        self, path: str | Path | None = None, backend: str = "onnxruntime", threads: int = 1, device: str = "cpu"
    ) -> None:
        """Load the network at `path`, or the released one. Raises the errors of `nodes._backend.load`."""
        check_gives(path or RELEASED, "stride8")
        self._network = load(path or RELEASED, backend, threads, device)

    def detect(
        self, image: Image, threshold: float = 0.5, size: int = 320, min_face: float = 0.0,
        max_faces: int | None = None, *, max_face: float = math.inf, window: Window | None = None, tiles: int = 1,
        sideways: bool = False,
    ) -> tuple[Floats, Floats, Floats]:
        """Find the faces in a BGR picture (H, W, 3), best first.

        Returns boxes (F, 4) as x0, y0, x1, y1, scores (F,) of at least `threshold`, and points (F, 5, 2): eyes, nose
        tip, mouth corners, image left first if the head is upright. All are float32, in pixels of `image`. Boxes may
        extend beyond the picture.

        The picture is searched at a longer side of `size` pixels; if that is much more than OVERVIEW, at OVERVIEW as
        well, and if a face may fill the picture, at CLOSE. `min_face` and `max_face` limit the longer side of a box in
        pixels of `image`. `window` (x0, y0, x1, y1 in pixels) is the part to search. `tiles` cuts it into this many
        overlapping parts per side, each searched at `size`, to find small faces in large pictures. `sideways` also
        searches it turned by 90 degrees both ways, to find people lying down, at three times the cost.

        Raises ValueError unless the picture is uint8 (H, W, 3), the window lies in it, and `size`, `tiles` and
        `max_faces` are whole numbers that are large enough.
        """
        check_picture(image)
        size, tiles = whole_number(size, "size", 1), whole_number(tiles, "tiles", 1)
        max_faces = None if max_faces is None else whole_number(max_faces, "max_faces", 0)
        everything = (0, 0, image.shape[1], image.shape[0])
        window = everything if window is None else within(window, everything)
        parts = [(part, size) for part in tile(window, tiles)] if tiles > 1 else [(window, size)]
        if tiles > 1 or size >= 1.5 * OVERVIEW:
            parts.append((window, OVERVIEW))
        found = [self._search_all(image, parts, threshold, turn) for turn in ((0, 1, -1) if sideways else (0,))]
        boxes, scores, points = most_upright(found) if sideways else found[0]
        side = _sides(boxes)
        if len(parts) > 1 or side.max(initial=0) > FILLS * _longer(window):
            alone = ~nested(boxes, NESTED)  # an apparent small face inside a large one is part of it
            boxes, scores, points, side = boxes[alone], scores[alone], points[alone], side[alone]
        kept = np.flatnonzero((side >= min_face) & (side <= max_face))[:max_faces]
        return boxes[kept], scores[kept], points[kept]

    def _search_all(self, image: Image, parts: list[tuple[Window, int]], threshold: float, quarter: int) -> Found:
        """Return the faces in all `parts`, windows with the size at which each is searched; the last is the whole."""
        window, coarsest = parts[-1]
        found = _joined([self._search(image, part, window, size, threshold, quarter) for part, size in parts])
        largest = _sides(found[0]).max(initial=0)
        if coarsest <= CLOSE or (len(parts) == 1 and 0 < largest < LARGE * _longer(window)):
            return found
        close = self._search(image, window, window, CLOSE, threshold, quarter)
        filling = _sides(close[0]) > FILLS * _longer(window)
        return _joined([found, (close[0][filling], close[1][filling], close[2][filling])])

    def _search(
        self, image: Image, part: Window, window: Window, size: int, threshold: float, quarter: int
    ) -> Found:
        """Return boxes, scores and points in a part of the window, in pixels of `image`, duplicates included."""
        x0, y0, x1, y1 = part
        fitted, scale, offset = letterbox(image[y0:y1, x0:x1], (size, size))
        height, width = fitted.shape[:2]
        outputs = self._network.run(to_input(turned(fitted, quarter)[None]))
        maps = sorted(outputs.values(), key=lambda level: -level.shape[-1])  # finest first, as STRIDES
        boxes, scores, points = decode(maps, STRIDES, threshold)
        if quarter:
            boxes = boxes_turned_back(boxes, quarter, width, height)
            points = turned_back(points, quarter, width, height)
        corner = np.array((x0, y0), np.float32)
        boxes = to_frame(boxes, scale, offset) + np.tile(corner, 2)
        points = to_frame(points, scale, offset) + corner
        kept = whole(boxes, part, window)
        return boxes[kept], scores[kept], points[kept]


def _joined(found: list[Found]) -> Found:
    """Return everything that was found without duplicates, best first."""
    boxes, scores, points = (np.concatenate(values) for values in zip(*found, strict=True))
    return merge(boxes, scores, points)


def _longer(window: Window) -> int:
    return max(window[2] - window[0], window[3] - window[1])


def _sides(boxes: Floats) -> Floats:
    """Return the longer sides (F,) of boxes (F, 4)."""
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).max(1, initial=0), np.float32)


def most_upright(found: list[Found]) -> Found:
    """Join the faces found in a picture as it is, turned clockwise and counterclockwise; best first, no duplicates.

    The points of a face are best in the search in which it is upright; the points themselves show which one that is.
    """
    boxes, scores, points = (np.concatenate(values) for values in zip(*found, strict=True))
    down = points[:, 3:].mean(1) - points[:, :2].mean(1)  # from the eyes to the mouth, in the unturned picture
    turn = np.repeat((0, 1, -1), [len(one[1]) for one in found])
    along = np.where(turn == 0, down[:, 1], turn * down[:, 0])
    upright = along / np.maximum(np.linalg.norm(down, axis=1), 1e-6)
    kept = nms(boxes, scores * (1 + upright) / 2)
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    return boxes[kept], scores[kept], points[kept]


class FaceDetector(Node):
    """Find faces in every N-th frame, and as soon as the scene changes or a known face is lost.

    The frames between give no output: `Landmarks` follows the faces by itself. With a `region`, new faces are only
    accepted inside it; known ones are followed out of it.
    """

    frame = Input(Frame)
    faces = Output(Detections)

    every: int = setting(5, minimum=1, changeable=True)  # search every N-th frame
    scene: float = setting(10.0, minimum=0.0, changeable=True)  # search if grey levels change more on average; 0: off
    lost: float = setting(0.5, minimum=-1.0, maximum=1.0, changeable=True)  # search if a face is less similar; -1: off
    threshold: float = setting(0.5, minimum=0.0, maximum=1.0, changeable=True)  # minimum score of a face
    size: int = setting(320, minimum=64, changeable=True)  # longer side at search, pixels; larger finds smaller faces
    tiles: int = setting(1, minimum=1, maximum=16, changeable=True)  # tiles per side, each searched at size; for 4K: 3
    sideways: bool = setting(False, changeable=True)  # also find faces turned by 90 degrees; three times the cost
    region: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)  # part to search: x0, y0, x1, y1 from 0 to 1
    min_face: float = setting(0.0, minimum=0.0, changeable=True)  # pixels; smaller faces are ignored
    max_face: float = setting(0.0, minimum=0.0, changeable=True)  # pixels; larger faces are ignored; 0: no limit
    max_faces: int = setting(20, minimum=1, changeable=True)  # maximum number; known faces first, then the best
    model: str = ""  # network file, suffix optional; empty: the released one
    backend: Literal["onnxruntime", "mnn", "torch"] = "onnxruntime"  # runtime of the network
    device: Literal["cpu", "cuda"] = "cpu"  # cuda needs a GPU and onnxruntime-gpu or torch
    threads: int = setting(1, minimum=1)  # CPU threads

    def __post_init__(self) -> None:
        """Refuse an empty region and a missing or wrong network before the graph starts."""
        locate(self.model or RELEASED, self.backend)
        check_gives(self.model or RELEASED, "stride8")
        x0, y0, x1, y1 = self.region
        if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
            raise ValueError(f"region: expected 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1, found {list(self.region)}")

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
        self._model = FaceModel(self.model or None, self.backend, self.threads, self.device)
        self._waited = self.every
        self._watch = Watch()
        self._thumbnail: Image | None = None
        self._stream: tuple[int, tuple[int, ...]] | None = None

    def process(self, frame: Frame) -> Detections | None:
        """Search the frame if a search is due."""
        stream = (frame.epoch, frame.image.shape)
        if stream != self._stream:
            self._stream, self._watch, self._waited = stream, Watch(), self.every
        self._waited += 1
        due = self._waited >= self.every
        lost = self.lost > -1 and self._watch.follow(frame.image) < self.lost
        if not self._changed(frame.image) and not lost and not due:
            return None
        self._waited = 0
        found = self._search(frame.image)
        self._watch.take(frame.image, found.boxes)
        return found

    def _search(self, image: Image) -> Detections:
        """Search the region, and around the known faces."""
        height, width = image.shape[:2]
        region = region_of(self.region, width, height)
        known = self._watch.boxes
        boxes, scores, points = self._model.detect(
            image, self.threshold, self.size, self.min_face, max_face=self.max_face or math.inf,
            window=around(known, region, (0, 0, width, height)), tiles=self.tiles, sideways=self.sideways,
        )
        again = (overlaps(boxes, known) > SAME_FACE).any(1)
        wanted = np.flatnonzero(centred_in(boxes, region) | again)
        best = np.argsort(-(scores + STAYS * again)[wanted], kind="stable")[: self.max_faces]
        kept = np.sort(wanted[best])
        return Detections(boxes=boxes[kept], scores=scores[kept], points=points[kept])

    def _changed(self, image: Image) -> bool:
        if not self.scene:
            return False
        before, self._thumbnail = self._thumbnail, thumbnail(image)
        return before is None or float(cv2.absdiff(before, self._thumbnail).mean()) > self.scene
