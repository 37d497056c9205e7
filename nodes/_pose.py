"""Head pose from 68 landmarks, with a rigid head and a pinhole camera."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from nodes._geometry import Floats

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

They are nose, eye corners, lower lids and the middle of the upper lip, which blinks, raised brows, an open mouth and
the sliding contour of the jaw hardly move.

Source: `python -m training.head_shape` on the hand-labelled points of 2,012 faces (LFPW, HELEN and AFW parts of 300-W):
one shape factored out of all of them, frontal as in the seed's head, scaled to 90 mm between the outer eye corners.
"""

_INDICES = np.array(list(RIGID))
_HEAD = np.array(list(RIGID.values()))

SMALLEST, WIDEST = 0.0033, 10.0
"""Limits of the standard deviation of a head's points, in focal lengths. A smaller head is enlarged to SMALLEST, as if
it were nearer, because OpenCV refuses less than 0.00316 (the root of POINT_VARIANCE_THRESHOLD in its sqpnp.cpp). At
such distances there is hardly any perspective: the error is 0.32 degrees at most for 1,200 heads in any pose at 8 to
300 m. Points with more than WIDEST do not belong to a head."""

WIDEST_FOV = 170.0
"""Largest field of view in degrees. Poses of true points are right for any; a flat picture of 180 would be infinite."""


def camera_matrix(width: int, height: int, fov: float) -> NDArray[np.float64]:
    """Return the matrix (3, 3) of a pinhole camera with square pixels, with its axis at the centre of the picture.

    `fov` is the field of view across the longer side, in degrees.
    """
    focal = max(width, height) / 2 / math.tan(math.radians(fov) / 2)
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


def head_pose(landmarks: Floats, camera: NDArray[np.float64]) -> Floats:
    """Return pitch, yaw, roll (F, 3) in degrees (see graph.messages.POSE) of faces (F, 68, 2) in frame pixels.

    The angles are those of R = Rz(roll) @ Ry(yaw) @ Rx(pitch), which turns a head that looks into the camera; axes: x
    right, y down, z forward. They are relative to the camera's axes wherever the face is in the picture. NaN if the
    points coincide, are not finite, or are spread as in no face.

    Method: SQPnP (Terzakis and Lourakis 2020), which finds the global minimum; OpenCV's iterative default puts some
    faces behind the camera. Measured on this head with 1 % of the eye distance as noise, any roll, 60 degrees of yaw,
    30 cm to 6 m: median error 1.0 degrees, worst of 1,200 4.3. It takes 0.05 ms per face.
    """
    points = (landmarks[:, _INDICES] - camera[:2, 2]) / camera[0, 0]
    middles, spread = points.mean(1, keepdims=True), points.std(1)
    usable = (spread.min(1) * camera[0, 0] > 1e-3) & (spread.max(1) < WIDEST)  # false for NaN and inf
    turns = np.full((len(points), 3, 3), np.nan)
    for row in np.flatnonzero(usable).tolist():
        nearer = max(1.0, SMALLEST / math.hypot(*spread[row]))
        seen = np.ascontiguousarray(middles[row] + nearer * (points[row] - middles[row]))
        found, turn, _ = cv2.solvePnP(_HEAD, seen, np.eye(3), None, flags=cv2.SOLVEPNP_SQPNP)
        if found:
            turns[row] = cv2.Rodrigues(turn)[0]
    return angles(turns)


def angles(rotations: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return pitch, yaw, roll (F, 3) in degrees of R = Rz(roll) @ Ry(yaw) @ Rx(pitch) (F, 3, 3); yaw from -90 to 90."""
    pitch = np.arctan2(rotations[:, 2, 1], rotations[:, 2, 2])
    yaw = -np.arcsin(rotations[:, 2, 0].clip(-1, 1))
    roll = np.arctan2(rotations[:, 1, 0], rotations[:, 0, 0])
    degrees: NDArray[np.float32] = np.degrees(np.stack((pitch, yaw, roll), 1)).astype(np.float32)
    return degrees
