"""The portrait of the test source with its landmarks, set by hand."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graph import Faces
from graph.testing import run_node
from nodes.source import TestSource, Truth, apply

LANDMARKS = np.array(
    [
        # jaw
        (176, 190), (178, 212), (181, 234), (186, 255), (194, 276), (203, 297), (216, 314), (237, 325), (264, 331),
        (290, 327), (310, 317), (324, 303), (333, 285), (339, 262), (344, 240), (348, 216), (350, 192),
        # brows
        (190, 172), (201, 164), (215, 160), (229, 162), (243, 168),
        (284, 166), (296, 160), (310, 157), (325, 160), (338, 168),
        # nose
        (264, 187), (265, 203), (266, 219), (267, 234), (247, 245), (257, 248), (267, 252), (277, 248), (287, 243),
        # eyes
        (203, 191), (213, 184), (225, 184), (237, 193), (226, 197), (213, 197),
        (288, 191), (298, 183), (311, 182), (323, 188), (312, 193), (299, 194),
        # mouth, outer and inner rim
        (228, 281), (240, 275), (253, 271), (263, 273), (272, 272), (289, 273), (307, 279),
        (292, 286), (279, 290), (266, 291), (253, 290), (239, 286),
        (232, 280), (253, 278), (264, 279), (276, 277.5), (303, 278), (277, 279), (264, 280.5), (253, 279.5),
    ],
    np.float32,
)  # fmt: skip
"""(68, 2) float32, iBUG order, pixels of the portrait."""

EYE_DISTANCE = float(np.linalg.norm(LANDMARKS[36] - LANDMARKS[45]))  # outer corners, pixels of the portrait


def true_points(truth: Truth) -> NDArray[np.float32]:
    """Return the landmarks of each copy in frame pixels, (F, 68, 2)."""
    return np.stack([apply(transform, LANDMARKS) for transform in truth.transforms] or [np.zeros((68, 2))])[
        : len(truth.transforms)
    ].astype(np.float32)


def still_picture(height: int = 360, width: int = 640, frames: int = 1, **settings: Any) -> tuple[list[Any], Any]:
    """Return pictures of the portrait at rest, and its landmarks (68, 2) in them."""
    out = run_node(TestSource(width=width, height=height, frames=frames, motion="still", **settings))
    return [frame.image for frame in out["frame"]], true_points(out["truth"][0])[0]


def tight(landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the boxes (F, 4) around landmarks (F, 68, 2)."""
    return np.concatenate([landmarks.min(axis=1), landmarks.max(axis=1)], axis=1)


def faces(landmarks: NDArray[np.float32], spread: NDArray[np.float32] | float = 1.0, first_id: int = 0) -> Faces:
    """Return Faces with these landmarks (F, 68, 2), upright, eyes and mouth in between."""
    count = len(landmarks)
    return Faces(
        ids=np.arange(first_id, first_id + count),
        boxes=tight(landmarks) if count else np.zeros((0, 4), np.float32),
        scores=np.full(count, 0.97, np.float32),
        landmarks=landmarks.astype(np.float32),
        spread=np.broadcast_to(np.float32(spread), (count, 68)).astype(np.float32),
        pose=np.zeros((count, 3), np.float32),
        states=np.tile(np.float32([0.02, 0.03, 0.95, 0.01]), (count, 1)),
    )
