"""Find faces: boxes, scores and five points each.

boxes, scores, points = FaceModel().detect(image)
"""

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from graph import Detections, Frame, Input, Node, Output, setting
from nodes._backend import MODELS, check_picture, load, locate
from nodes._boxes import STRIDES, decode, letterbox, merge, to_frame
from nodes._geometry import to_input

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]

RELEASED = MODELS / "faces"
OVERLAP = 0.4
"""Two boxes that overlap by more (intersection over union) are one face."""
OVERVIEW = 320
"""Longer side, pixels, of the search for large faces: a network trained on scenes of 256 px knows none above 250 px
(a face of 380 px was missed at 640 px and found at 320)."""
THUMBNAIL = (32, 18)
"""Width and height to which frames are averaged before they are compared: too coarse for noise or small movements.

Measured on three clips: at most 7 grey levels from frame to frame in a crowded street, 1 to 6 with one face; cuts from
one clip to another give 49 and more.
"""


class FaceModel:
    """The face detector without a graph."""

    def __init__(
        self, path: str | Path | None = None, backend: str = "onnxruntime", threads: int = 1, device: str = "cpu"
    ) -> None:
        """Load the network at `path`, or the released one. Raises as `nodes._backend.load` does."""
        self._network = load(path or RELEASED, backend, threads, device)

    def detect(
        self, image: Image, threshold: float = 0.5, size: int = 320, min_face: float = 0.0, max_faces: int | None = None
    ) -> tuple[Floats, Floats, Floats]:
        """Find the faces in a BGR picture (H, W, 3), best first.

        Returns boxes (F, 4) as x0, y0, x1, y1, scores (F,) of at least `threshold`, and points (F, 5, 2): eyes, nose
        tip, mouth corners, image left first; all float32, in pixels of `image`. Boxes may reach beyond the picture.
        `size` is the longer side, in pixels, at which the picture is searched, its proportions kept; where that is much
        more than OVERVIEW, it is searched at OVERVIEW as well. `min_face` is the least longer side of a box in pixels
        of `image`. Raises ValueError unless the picture is uint8 (H, W, 3).
        """
        check_picture(image)
        sizes = [size] if size < 1.5 * OVERVIEW else [size, OVERVIEW]
        searched = [self._search(image, longer_side, threshold) for longer_side in sizes]
        boxes, scores, points = (np.concatenate(parts) for parts in zip(*searched, strict=True))
        boxes, scores, points = merge(boxes, scores, points, OVERLAP)
        kept = np.flatnonzero((boxes[:, 2:] - boxes[:, :2]).max(1, initial=0) >= min_face)[:max_faces]
        return boxes[kept], scores[kept], points[kept]

    def _search(self, image: Image, size: int, threshold: float) -> tuple[Floats, Floats, Floats]:
        """Return boxes, scores and points at one size, overlapping ones included, in pixels of `image`."""
        picture, scale, offset = letterbox(image, (size, size))
        outputs = self._network.run(to_input(picture[None]))
        maps = sorted(outputs.values(), key=lambda level: -level.shape[-1])  # finest first, as STRIDES
        boxes, scores, points = decode(maps, STRIDES, threshold)
        return to_frame(boxes, scale, offset), scores, to_frame(points, scale, offset)


class FaceDetector(Node):
    """Find faces in every N-th frame, and at once where the scene changes.

    Frames in between give nothing: `Landmarks` follows the faces by itself.
    """

    frame = Input(Frame)
    faces = Output(Detections)

    every: int = setting(5, minimum=1, changeable=True)  # frames from one search to the next
    scene: float = setting(10.0, minimum=0.0, changeable=True)  # grey levels; a change that starts a search; 0: off
    threshold: float = setting(0.5, minimum=0.0, maximum=1.0, changeable=True)  # least score of a face
    size: int = setting(320, minimum=64, changeable=True)  # pixels, longer side searched; larger finds smaller faces
    min_face: float = setting(0.0, minimum=0.0, changeable=True)  # pixels of the frame; smaller faces are left out
    max_faces: int = setting(20, minimum=1, changeable=True)  # only the best so many are kept
    model: str = ""  # path of the network file, with or without suffix; empty: the released one
    backend: Literal["onnxruntime", "mnn", "torch"] = "onnxruntime"  # what runs the network
    device: Literal["cpu", "cuda"] = "cpu"  # cuda needs a GPU and onnxruntime-gpu or torch
    threads: int = setting(1, minimum=1)  # CPU threads

    def __post_init__(self) -> None:
        """Refuse settings for which there is no network file, before the graph starts."""
        locate(self.model or RELEASED, self.backend)

    def open(self) -> None:
        """Load the network."""
        cv2.setNumThreads(self.threads)
        self._model = FaceModel(self.model or None, self.backend, self.threads, self.device)
        self._waited = self.every
        self._thumbnail: Image | None = None

    def process(self, frame: Frame) -> Detections | None:
        """Search the frame if it is its turn."""
        self._waited += 1
        if not self._changed(frame.image) and self._waited < self.every:
            return None
        self._waited = 0
        boxes, scores, points = self._model.detect(
            frame.image, self.threshold, self.size, self.min_face, self.max_faces
        )
        return Detections(boxes=boxes, scores=scores, points=points)

    def _changed(self, image: Image) -> bool:
        if not self.scene:
            return False
        before, self._thumbnail = self._thumbnail, thumbnail(image)
        return before is None or float(cv2.absdiff(before, self._thumbnail).mean()) > self.scene


def thumbnail(image: Image) -> Image:
    """Return the picture averaged to `THUMBNAIL`; of large ones, a sample of sixteen or more pixels per cell."""
    step = max(1, min(image.shape[0] // (4 * THUMBNAIL[1]), image.shape[1] // (4 * THUMBNAIL[0])))
    small = cv2.resize(image[::step, ::step], THUMBNAIL, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)
