"""Head pose from 68 landmarks: a rigid head, a pinhole camera, and the angles between them."""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

RIGID = {
    27: (0.0, -51.9, -60.3),
    28: (0.0, -38.9, -65.1),
    29: (0.0, -26.0, -70.6),
    30: (0.0, -12.7, -75.8),
    31: (-14.8, -6.3, -57.1),
    32: (-7.7, -3.5, -59.9),
    33: (0.0, -1.0, -61.5),
    34: (7.7, -3.5, -59.9),
    35: (14.8, -6.3, -57.1),
    36: (-45.0, -52.3, -39.7),
    39: (-19.4, -50.1, -44.7),
    40: (-28.2, -48.3, -44.4),
    41: (-37.7, -48.6, -42.9),
    42: (19.4, -50.1, -44.7),
    45: (45.0, -52.3, -39.7),
    46: (37.7, -48.6, -42.9),
    47: (28.2, -48.3, -44.4),
    51: (0.0, 12.3, -54.9),
}
"""Points of a head in millimetres by landmark index: x to the image's right, y down, z away from the camera.

Nose, eye corners, lower lids and the middle of the upper lip: what neither a blink, a raised brow, an open mouth nor
the sliding contour of the jaw moves much.

Source: `python -m training.head_shape` on the hand-labelled points of 2,012 faces (LFPW, HELEN and AFW parts of 300-W):
one shape factored out of all of them, frontal as in the seed's head, scaled to 90 mm between the outer eye corners.
"""

_INDICES = np.array(list(RIGID))
_HEAD = np.array(list(RIGID.values()))
_HEAD -= _HEAD.mean(0)
_FROM_HEAD = np.linalg.pinv(_HEAD)  # (3, 18)
_CROSS = np.cross(np.eye(3)[:, None], np.eye(3)[None]).swapaxes(1, 2).reshape(3, 9)
"""a @ _CROSS, as (3, 3), is the matrix of the cross product with a."""

ROUNDS = 3
"""Gauss-Newton steps from the scaled orthographic pose: then 300 heads at any roll, 60 degrees of yaw and 35 to 200 cm,
with 1 % of the eye distance as noise, are within 0.02 degrees of where OpenCV's Levenberg-Marquardt ends; after 2
within 0.9."""

NEAREST, WIDEST = 150.0, 10.0
"""No head is taken to be nearer than its own size, in millimetres, where a camera does not see the whole of it; points
so many focal lengths apart are no head's."""

WIDEST_FOV = 120.0
"""Largest angle of view in degrees: up to it, poses of true points are right to 3. Beyond, a flat picture draws heads
near its rim out so far that the steps below end elsewhere (at 160 one in five is off by over 5)."""


def camera_matrix(width: int, height: int, fov: float) -> NDArray[np.float64]:
    """Return the (3, 3) matrix of a pinhole camera with square pixels that looks at the centre of the picture.

    `fov` is the angle of view across the longer side, in degrees.
    """
    focal = max(width, height) / 2 / math.tan(math.radians(fov) / 2)
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


def head_pose(landmarks: Floats, camera: NDArray[np.float64]) -> Floats:
    """Return (F, 3) pitch, yaw, roll in degrees (see graph.messages.POSE) of faces (F, 68, 2) in frame pixels.

    The angles are those of R = Rz(roll) @ Ry(yaw) @ Rx(pitch), which turns a head that looks into the camera, in axes x
    right, y down, z forward; they are relative to the camera's axes wherever the face is in the picture. Each face is
    in front of the camera. NaN where the points fall together, are not finite or lie apart as those of no face do.

    Method: the pose under scaled orthography in closed form (DeMenthon and Davis 1995, the first step of POSIT), then
    Gauss-Newton on the true projection, all faces at once: two fifths of the time of OpenCV's solver for five faces.
    Measured on this head with 1 % of the eye distance as noise, any roll, 60 degrees of yaw: median error 0.8 degrees,
    worst of 300 3.7; the same as SQPnP, which however refuses faces of 25 pixels in a 4K picture, while OpenCV's
    iterative default puts some faces behind the camera.
    """
    points = (landmarks[:, _INDICES] - camera[:2, 2]) / camera[0, 0]
    poses = np.full((len(points), 3), np.nan, np.float32)
    extents = np.ptp(points, axis=1)
    usable = (extents.min(1) * camera[0, 0] > 1e-3) & (extents.max(1) < WIDEST)  # false for NaN and inf
    poses[usable] = angles(_refined(points[usable], *_orthographic(points[usable])))
    return poses


def _orthographic(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return rotations (F, 3, 3) and middles (F, 3) of heads seen at points (F, 18, 2), perspective left out.

    Points are on the plane at a distance of 1, middles in millimetres.
    """
    centres = points.mean(1, keepdims=True)
    u, singular, vt = np.linalg.svd(_FROM_HEAD @ (points - centres), full_matrices=False)
    turns = np.empty((len(points), 3, 3))
    turns[:, :2] = (u @ vt).swapaxes(1, 2)
    turns[:, 2] = _cross(turns[:, 0], turns[:, 1])
    depths = np.maximum(2 / singular.sum(1), NEAREST)[:, None]
    return turns, np.concatenate((centres[:, 0] * depths, depths), 1)


def _refined(
    points: NDArray[np.float64], turns: NDArray[np.float64], middles: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the rotations whose heads project nearest to points (F, 18, 2), from where `_orthographic` starts.

    The unknowns of a step are a small turn about the head's middle, applied by Cayley's formula, so that rotations stay
    rotations, and a shift.
    """
    faces, heads = len(points), len(_HEAD)
    moves = np.zeros((faces, heads, 3, 6))  # of a point of the head, by turn and shift
    moves[..., 3:] = np.eye(3)
    for _ in range(ROUNDS):
        arms = _HEAD @ turns.swapaxes(1, 2)
        moves[..., :3] = -(arms @ _CROSS).reshape(faces, heads, 3, 3)
        at = arms + middles[:, None]
        depths = at[..., 2:]
        seen = at[..., :2] / depths
        slopes = (moves[:, :, :2] - seen[..., None] * moves[:, :, 2:]) / depths[..., None]
        slopes = slopes.reshape(faces, 2 * heads, 6)
        across = slopes.swapaxes(1, 2)
        step = np.linalg.solve(across @ slopes, across @ (points - seen).reshape(faces, 2 * heads, 1))[..., 0]
        middles = middles + step[:, 3:]
        half = (step[:, :3] @ _CROSS / 2).reshape(faces, 3, 3)
        turns = turns + (2 / (1 + np.square(step[:, :3] / 2).sum(1)))[:, None, None] * ((half + half @ half) @ turns)
    return turns


def _cross(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cross products (F, 3): a quarter of the time of numpy's, which takes any axes."""
    return np.asarray((a[:, None] @ (b @ _CROSS).reshape(-1, 3, 3))[:, 0])


def angles(rotations: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return (F, 3) pitch, yaw, roll in degrees of R = Rz(roll) @ Ry(yaw) @ Rx(pitch) (F, 3, 3); yaw within 90 of 0."""
    pitch = np.arctan2(rotations[:, 2, 1], rotations[:, 2, 2])
    yaw = -np.arcsin(rotations[:, 2, 0].clip(-1, 1))
    roll = np.arctan2(rotations[:, 1, 0], rotations[:, 0, 0])
    degrees: NDArray[np.float32] = np.degrees(np.stack((pitch, yaw, roll), 1)).astype(np.float32)
    return degrees
