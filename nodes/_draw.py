"""Draw faces on a picture: smooth contours, points and head axes that are visible on light and dark backgrounds."""

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[Any]  # (H, W, 3) uint8 BGR, drawn on in place
Points = NDArray[np.float32]
Color = tuple[int, int, int]  # BGR

SHIFT = 4
"""OpenCV's fixed-point bits: everything is placed to 1/16 pixel, so that drawings move smoothly."""

PALETTE: tuple[Color, ...] = (
    (214, 236, 70), (80, 222, 255), (255, 156, 214), (110, 240, 140), (255, 196, 96),
    (92, 170, 255), (250, 250, 250), (190, 130, 255), (120, 255, 220), (255, 140, 150),
)  # fmt: skip
"""Light, clearly different colours (turquoise, yellow, violet, green, ...) that contrast with skin and black."""

DARK: Color = (24, 20, 18)

AXES: tuple[Color, Color, Color] = ((80, 80, 255), (90, 220, 90), (255, 150, 60))
"""The usual colours: x red, y green, z blue."""

CONTOURS: tuple[tuple[tuple[int, ...], bool], ...] = (
    (tuple(range(17)), False),
    (tuple(range(17, 22)), False),
    (tuple(range(22, 27)), False),
    (tuple(range(27, 31)), False),
    (tuple(range(31, 36)), False),
    (tuple(range(36, 42)), True),
    (tuple(range(42, 48)), True),
    ((48, 49, 50, 51, 52, 53, 54), False),
    ((54, 55, 56, 57, 58, 59, 48), False),
    ((60, 61, 62, 63, 64), False),
    ((64, 65, 66, 67, 60), False),
)
"""Lines through iBUG's 68 points, and whether they are closed. Lips are four open arcs, so that corners stay sharp."""


def track_color(id_: int) -> Color:
    """Return the colour of a track id; ten ids in a row have different ones."""
    return PALETTE[id_ % len(PALETTE)]


def darker(color: Color) -> Color:
    """Return a dark shade of a colour, for its outline."""
    return (color[0] // 4, color[1] // 4, color[2] // 4)


def splines(contours: Sequence[tuple[Sequence[int], bool]]) -> list[NDArray[np.float32]]:
    """Return for each contour the matrix (D, 68) that maps 68 points to a smooth line through some of them.

    Source: Catmull and Rom 1974, the uniform spline with tension 0.5; it continues straight beyond the ends.
    """
    return [_spline(indices, closed) for indices, closed in contours]


def _spline(indices: Sequence[int], closed: bool) -> NDArray[np.float32]:
    count = len(indices)
    rows = []
    for start in range(count if closed else count - 1):
        for t in (0, 0.25, 0.5, 0.75):
            weights = (
                (-t + 2 * t**2 - t**3) / 2,
                (2 - 5 * t**2 + 3 * t**3) / 2,
                (t + 4 * t**2 - 3 * t**3) / 2,
                (t**3 - t**2) / 2,
            )
            rows.append(_row(indices, closed, range(start - 1, start + 3), weights))
    if not closed:
        rows.append(_row(indices, closed, [count - 1], [1.0]))
    return np.stack(rows).astype(np.float32)


def _row(indices: Sequence[int], closed: bool, places: Sequence[int], weights: Sequence[float]) -> NDArray[np.float64]:
    row = np.zeros(68)
    last = len(indices) - 1
    for place, weight in zip(places, weights, strict=True):
        if closed or 0 <= place <= last:
            row[indices[place % len(indices)]] += weight
        else:  # beyond the end: the neighbour mirrored at the end
            end, inner = (0, 1) if place < 0 else (last, last - 1)
            row[indices[end]] += 2 * weight
            row[indices[inner]] -= weight
    return row


SPLINES = splines(CONTOURS)


def fixed(points: NDArray[Any]) -> NDArray[np.int32]:
    """Return points in OpenCV's fixed-point pixels, clipped far outside the picture."""
    return np.asarray(np.rint(np.clip(points, -8000, 16000) * (1 << SHIFT)), np.int32)


def draw_contours(image: Image, landmarks: Points, color: Color, thickness: int, outline: int) -> None:
    """Draw the smooth lines of one face (68, 2) over dark lines that are `outline` pixels wider."""
    lines = [fixed(matrix @ landmarks) for matrix in SPLINES]
    closed = [is_closed for _, is_closed in CONTOURS]
    for shade, width in ((darker(color), thickness + outline), (color, thickness)):
        if shade is color or outline:
            for is_closed in (False, True):
                chosen = [line for line, c in zip(lines, closed, strict=True) if c is is_closed]
                cv2.polylines(image, chosen, is_closed, shade, width, cv2.LINE_AA, SHIFT)


def draw_points(image: Image, landmarks: Points, color: Color, radius: float, rim: float) -> None:
    """Draw one face's points (68, 2) as anti-aliased discs with a dark rim of `rim` pixels.

    (OpenCV's own small discs look like crosses.)
    """
    _discs(image, landmarks, darker(color), radius + rim)
    _discs(image, landmarks, color, radius)


def _discs(image: Image, centres: Points, color: Color, radius: float) -> None:
    height, width = image.shape[:2]
    reach = math.ceil(radius + 0.5)
    offsets = np.arange(-reach, reach + 1)
    middle = np.rint(np.clip(centres, -8000, 16000)).astype(np.int32)
    x, y = (np.add.outer(middle[:, axis], offsets) for axis in (0, 1))  # (N, K) each
    across, down = np.square(x - centres[:, :1]), np.square(y - centres[:, 1:])
    cover = np.clip(radius + 0.5 - np.sqrt(across[:, None] + down[:, :, None]), 0, 1)  # (N, K, K)
    cover[(y < 0) | (y >= height), :] = 0
    cover = cover * ((x >= 0) & (x < width))[:, None]
    disc, row, column = np.nonzero(cover)
    rows, columns = y[disc, row], x[disc, column]
    weight = cover[disc, row, column, None]
    image[rows, columns] = image[rows, columns] * (1 - weight) + np.array(color) * weight + 0.5


def draw_spread(image: Image, landmarks: Points, spread: NDArray[Any], color: Color) -> None:
    """Draw a thin circle of twice its spread around each point of one face."""
    radii = np.rint(np.clip(2 * spread, 0.5, 500) * (1 << SHIFT)).astype(int).tolist()
    for (x, y), radius in zip(fixed(landmarks).tolist(), radii, strict=True):
        cv2.circle(image, (x, y), radius, color, 1, cv2.LINE_AA, SHIFT)


def draw_brackets(image: Image, box: Sequence[float], color: Color, thickness: int, outline: int) -> None:
    """Draw the four corners of a box x0, y0, x1, y1."""
    x0, y0, x1, y1 = box
    arm = 0.16 * min(x1 - x0, y1 - y0)
    corners = [
        fixed(np.array([(x, y + sy * arm), (x, y), (x + sx * arm, y)]))
        for x, sx in ((x0, 1), (x1, -1))
        for y, sy in ((y0, 1), (y1, -1))
    ]
    for shade, width in ((darker(color), thickness + outline), (color, thickness)):
        if shade is color or outline:
            cv2.polylines(image, corners, False, shade, width, cv2.LINE_AA, SHIFT)


def rotation(pose: NDArray[Any]) -> NDArray[np.float64]:
    """Return the (3, 3) rotation of a head with `pose` pitch, yaw, roll in degrees: Rz(roll) Ry(yaw) Rx(pitch).

    Camera axes x right, y down, z forward; a frontal head looks along -z (graph.messages.POSE has the signs).
    """
    (cp, cy, cr), (sp, sy, sr) = np.cos(np.radians(pose)), np.sin(np.radians(pose))
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x)


def draw_axes(
    image: Image, origin: NDArray[Any], pose: NDArray[Any], length: float, thickness: int, outline: int
) -> None:
    """Draw the head's axes from `origin`, the farthest first: x to the image's right, y down, and the line of sight.

    The line of sight is twice as long as the others.
    """
    ends = rotation(pose) @ np.diag([0.5, 0.5, -1.0])  # columns: x, y, and the line of sight
    start = fixed(origin[None])[0].tolist()
    for axis in np.argsort(-ends[2]):
        end = fixed(origin[None] + length * ends[:2, axis])[0].tolist()
        if outline:
            cv2.line(image, start, end, DARK, thickness + outline, cv2.LINE_AA, SHIFT)
        cv2.line(image, start, end, AXES[axis], thickness, cv2.LINE_AA, SHIFT)


CUBE = np.array([(x, y, z) for z in (-1, 1) for y in (-1, 1) for x in (-1, 1)], np.float64)
EDGES = [(a, b) for a in range(8) for b in range(a + 1, 8) if np.abs(CUBE[a] - CUBE[b]).sum() == 2]


def draw_cube(
    image: Image, centre: NDArray[Any], pose: NDArray[Any], size: float, color: Color, thickness: int
) -> None:
    """Draw a cube with sides of `size` pixels that turns with the head; its front is bright."""
    corners = CUBE @ rotation(pose).T * (size / 2)
    flat = fixed(centre + corners[:, :2])
    for front in (False, True):
        lines = [flat[[a, b]] for a, b in EDGES if bool(CUBE[a, 2] < 0 and CUBE[b, 2] < 0) == front]
        cv2.polylines(image, lines, False, color if front else darker(color), thickness, cv2.LINE_AA, SHIFT)


def stroke(face: float) -> int:
    """Return the line thickness for a face of this many pixels: 1 below 150, then one more per 120."""
    return max(1, round(face / 120 + 0.25))
