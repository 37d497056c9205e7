"""Head pose from 68 landmarks: a rigid head, a pinhole camera, and the angles between them."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

RIGID = {
    27: (0.0, -51.9, -60.4),
    28: (0.0, -39.0, -65.1),
    29: (0.0, -26.0, -70.6),
    30: (0.0, -12.7, -75.9),
    31: (-14.8, -6.3, -57.1),
    32: (-7.6, -3.5, -59.9),
    33: (0.0, -1.0, -61.5),
    34: (7.6, -3.5, -59.9),
    35: (14.8, -6.3, -57.1),
    36: (-45.0, -52.3, -39.7),
    39: (-19.4, -50.1, -44.7),
    40: (-28.2, -48.3, -44.4),
    41: (-37.8, -48.6, -42.9),
    42: (19.4, -50.1, -44.7),
    45: (45.0, -52.3, -39.7),
    46: (37.8, -48.6, -42.9),
    47: (28.2, -48.3, -44.4),
    51: (0.0, 12.3, -55.0),
}
"""Points of a head in millimetres by landmark index: x to the image's right, y down, z away from the camera.

Nose, eye corners, lower lids and the middle of the upper lip: what neither a blink, a raised brow, an open mouth nor
the sliding contour of the jaw moves much.

Source: our factorisation of the hand-labelled points of 2,012 faces and their mirror images (LFPW, HELEN and AFW parts
of 300-W) into one shape and a scaled-orthographic camera per face (Tomasi and Kanade 1992), turned so that the ten
points of the seed's model (notes on the seed's headpose.py) are met best, and scaled to 90 mm between the outer eye
corners, which is about an adult's (only distances depend on that, no angle does).
"""

_INDICES = np.array(list(RIGID))
_HEAD = np.array(list(RIGID.values()))


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
    in front of the camera. NaN where the points do not span a plane or are not finite.

    Method: SQPnP (Terzakis and Lourakis 2020; no start value, no local minimum), then Levenberg-Marquardt. Measured on
    this head at random angles with 1 % of the eye distance as noise: median error 0.7 degrees of pitch and yaw, 0.3 of
    roll, 0.15 ms per face; OpenCV's iterative default flips some faces behind the camera.
    """
    return np.array([_pose(face, camera) for face in landmarks[:, _INDICES]], np.float32).reshape(-1, 3)


def _pose(points: Floats, camera: NDArray[np.float64]) -> tuple[float, float, float]:
    unknown = (math.nan, math.nan, math.nan)
    centred = points - points.mean(0)
    if not np.isfinite(points).all() or np.linalg.svd(centred, compute_uv=False)[1] < 1e-3:
        return unknown
    observed = points.astype(np.float64)
    found, turn, shift = cv2.solvePnP(_HEAD, observed, camera, None, flags=cv2.SOLVEPNP_SQPNP)
    if not found:
        return unknown
    turn, _ = cv2.solvePnPRefineLM(_HEAD, observed, camera, None, turn, shift)
    return angles(cv2.Rodrigues(turn)[0].astype(np.float64))


def angles(rotation: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return pitch, yaw, roll in degrees of R = Rz(roll) @ Ry(yaw) @ Rx(pitch); yaw is within 90 degrees of 0."""
    pitch = math.atan2(rotation[2, 1], rotation[2, 2])
    yaw = -math.asin(min(1.0, max(-1.0, rotation[2, 0])))
    roll = math.atan2(rotation[1, 0], rotation[0, 0])
    return math.degrees(pitch), math.degrees(yaw), math.degrees(roll)
