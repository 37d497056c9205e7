"""Augmentation of face crops: one projective map, then light, blur, noise, compression and occlusions.

All randomness comes from the generator passed in. Images are (H, W, 3) uint8 BGR, points (68, 2) float32 pixels.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from nodes._geometry import BORDER, MARGIN, Floats, Image, crop_matrix, landmark_box, landmark_roll
from training.landmark_data import MIRROR


@dataclass(frozen=True)
class View:
    """A view of a cached face: the projective map (3, 3) to the crop, and whether it is mirrored."""

    matrix: Floats
    mirrored: bool

    def points(self, points: Floats) -> Floats:
        """Map the points; if mirrored, left and right ones also swap names."""
        mapped = project(self.matrix, points)
        return (mapped[MIRROR] if self.mirrored else mapped).astype(np.float32)


def project(matrix: Floats, points: Floats) -> Floats:
    """Map points (N, 2) by a projective map (3, 3)."""
    mapped = points @ matrix[:, :2].T + matrix[:, 2]
    return (mapped[:, :2] / mapped[:, 2:]).astype(np.float32)


def draw_view(rng: np.random.Generator, points: Floats, size: int, mild: bool = False) -> View:
    """Draw perspective, rotation, shear, stretch and mirror, then a box of the result with errors like a detector's.

    A mild view is like that of a tracked face: rotated upright, not stretched, in a box with half the errors.

    Errors of the box: 5 % of its side in position and 7 % in size (one standard deviation), somewhat more than those
    measured for detectors (3.5 to 5 %); every tenth box has twice the errors.
    """
    mirrored = bool(rng.random() < 0.5)
    roll = float(landmark_roll(points[None])[0]) * (-1 if mirrored else 1)
    angle = _draw_upright(rng, roll) if mild else _draw_angle(rng, roll)
    linear = _turn(angle) @ (np.eye(2) if mild else _stretch(rng)) @ np.diag([-1.0 if mirrored else 1.0, 1.0])
    onto = np.eye(3) if mild or rng.random() < 0.5 else _lean(rng, points)
    onto[:2] = linear @ onto[:2]
    box = landmark_box(project(onto, points)[None])
    side = float((box[0, 2:] - box[0, :2]).max())
    poor = 0.5 if mild else 2 if rng.random() < 0.1 else 1
    shift = rng.normal(0, 0.05 * poor, 2).clip(-0.2, 0.2) * side
    grow = float(np.exp(np.clip(rng.normal(0, 0.07 * poor), -0.2, 0.2)))
    return View(_crop(box, shift, grow, size) @ onto.astype(np.float32), mirrored)


def draw_near(rng: np.random.Generator, view: View, size: int) -> tuple[View, Floats]:
    """Draw a second view near a first one; also return the affine map (2, 3) from the first crop to the second.

    Half of them are mirrored. The box differs as between two frames or two detections of a tracked face: 3 % of its
    side in position, 3 % in size and 4 degrees (one standard deviation each).
    """
    mirrored = bool(rng.random() < 0.5)
    grow = float(np.exp(rng.normal(0, 0.03)))
    linear = grow * _turn(np.radians(rng.normal(0, 4))) @ np.diag([-1.0 if mirrored else 1.0, 1.0])
    middle = np.full(2, (size - 1) / 2)
    onto = np.column_stack((linear, middle - linear @ middle + rng.normal(0, 0.03, 2) * size / MARGIN))
    matrix = np.vstack((onto, (0, 0, 1))) @ view.matrix
    return View(matrix.astype(np.float32), view.mirrored != mirrored), onto.astype(np.float32)


def draw_miss(rng: np.random.Generator, points: Floats, size: int) -> View:
    """Draw a crop that misses the face: beside it, far inside it or far too wide; IoU with the true box below 0.2."""
    box = landmark_box(points[None])
    side = float((box[0, 2:] - box[0, :2]).max())
    kind = rng.integers(4)
    angle = rng.uniform(0, 2 * np.pi)
    away = np.array([np.cos(angle), np.sin(angle)])
    away /= np.abs(away).max()
    shift = away * side * (rng.uniform(0.7, 1.1) if kind < 2 else rng.uniform(0, 0.2))
    grow = (rng.uniform(0.8, 1.25), rng.uniform(0.8, 1.25), rng.uniform(0.25, 0.42), rng.uniform(2.4, 3.5))[kind]
    turn, centre = np.eye(3), (box[0, :2] + box[0, 2:]) / 2 + shift
    turn[:2, :2] = _turn(_draw_angle(rng, roll=0.0))
    turn[:2, 2] = centre - turn[:2, :2] @ centre
    return View(_crop(box, shift, grow, size) @ turn.astype(np.float32), mirrored=False)


def _draw_angle(rng: np.random.Generator, roll: float) -> float:
    """Draw an angle: upright crops of tracked faces (half), tilted heads in unrotated crops, rarely any angle."""
    kind = rng.random()
    if kind < 0.5:
        return _draw_upright(rng, roll)
    if kind < 0.96:
        return float(np.radians(rng.uniform(-45, 45)))
    return float(rng.uniform(-np.pi, np.pi))


def _draw_upright(rng: np.random.Generator, roll: float) -> float:
    """Draw the angle that rotates a face upright, with the error of a measured roll."""
    return float(np.radians(rng.normal(0, 10))) - roll


def _turn(angle: float) -> NDArray[np.float64]:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def _stretch(rng: np.random.Generator) -> NDArray[np.float64]:
    aspect, shear = np.exp(rng.normal(0, 0.05)), rng.normal(0, 0.05)
    return np.array([[aspect, shear], [0, 1 / aspect]])


def _lean(rng: np.random.Generator, points: Floats) -> NDArray[np.float64]:
    """Return the projective map (3, 3) of the plane of a face that tilts away from a near camera.

    The scale changes by a tenth from the middle of the face to its sides (one standard deviation), as with 45 degrees
    at a distance of seven times its half width; at most by a quarter.
    """
    low, high = points.min(0), points.max(0)
    middle, half = (low + high) / 2, (high - low).max() / 2
    there, lean, back = np.eye(3), np.eye(3), np.eye(3)
    there[:2, 2], back[:2, 2] = middle, -middle
    lean[2, :2] = rng.normal(0, 0.1, 2).clip(-0.25, 0.25) / half
    return there @ lean @ back


def _crop(box: Floats, shift: NDArray[np.float64], grow: float, size: int) -> Floats:
    """Return the map (3, 3) to the crop of the box, shifted and scaled."""
    centre = (box[0, :2] + box[0, 2:]) / 2 + shift
    half = (box[0, 2:] - box[0, :2]).max() / 2 * grow
    moved = np.concatenate((centre - half, centre + half))[None].astype(np.float32)
    return np.vstack((crop_matrix(moved, size, MARGIN)[0], np.array([[0, 0, 1]], np.float32)))


def cut_view(rng: np.random.Generator, image: Image, matrix: Floats, size: int) -> Image:
    """Cut the crop; beyond the cached surroundings it is grey, as beyond a frame, or repeats the edge pixels."""
    border = cv2.BORDER_CONSTANT if rng.random() < 0.5 else cv2.BORDER_REPLICATE
    if matrix[2, :2].any():
        return cv2.warpPerspective(image, matrix, (size, size), borderMode=border, borderValue=(BORDER,) * 3)
    return cv2.warpAffine(image, matrix[:2], (size, size), borderMode=border, borderValue=(BORDER,) * 3)


def degrade(rng: np.random.Generator, image: Image, other: Image) -> Image:
    """Apply occlusion, light, blur, low resolution, noise and compression, each at random; `other` fills occlusions."""
    if rng.random() < 0.25:
        image = occlude(rng, image, other)
    image = relight(rng, image)
    if rng.random() < 0.2:
        image = blur(rng, image)
    if rng.random() < 0.2:
        side = int(image.shape[0] * np.exp(rng.uniform(np.log(0.2), 0)))
        small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        image = cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.25:
        image = noise(rng, image)
    if rng.random() < 0.2:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 80))]
        image = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR)
    return image


def relight(rng: np.random.Generator, image: Image) -> Image:
    """Change colour, contrast and brightness by one 3 x 4 map; sometimes to grey, low light or another gamma."""
    mix = np.eye(3)
    grey = np.tile([0.114, 0.587, 0.299], (3, 1))
    if rng.random() < 0.1:
        mix = grey
    elif rng.random() < 0.6:
        keep = rng.uniform(0.6, 1.4)
        mix = (keep * mix + (1 - keep) * grey) * rng.uniform(0.88, 1.12, (3, 1))
    gain, offset = 1.0, 0.0
    if rng.random() < 0.6:
        gain = rng.uniform(0.7, 1.3)
        offset = float(image[::8, ::8].mean()) * (1 - gain) + rng.uniform(-30, 30)
    if rng.random() < 0.08:
        gain, offset = rng.uniform(0.12, 0.5), rng.uniform(0, 15)
    image = cv2.transform(image, np.hstack((mix * gain, np.full((3, 1), offset))))
    if rng.random() < 0.2:
        curve = 255 * (np.arange(256) / 255) ** np.exp(rng.uniform(-0.6, 0.6))
        image = cv2.LUT(image, curve.astype(np.uint8))
    return image


def blur(rng: np.random.Generator, image: Image) -> Image:
    """Blur out of focus, or along a line as in motion."""
    if rng.random() < 0.5:
        return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 2.5))
    length = int(rng.integers(3, 13)) | 1
    line = np.zeros((length, length), np.float32)
    line[length // 2] = 1
    turn = cv2.getRotationMatrix2D(((length - 1) / 2,) * 2, rng.uniform(0, 180), 1)
    line = cv2.warpAffine(line, turn, (length, length))
    return cv2.filter2D(image, -1, line / line.sum())


def noise(rng: np.random.Generator, image: Image) -> Image:
    """Add Gaussian noise of up to 14 grey levels, the same in all channels or one per channel."""
    channels = 3 if rng.random() < 0.5 else 1
    grain = rng.standard_normal((*image.shape[:2], channels), np.float32) * rng.uniform(2, 14)
    return (image + grain).clip(0, 255).astype(np.uint8)


def occlude(rng: np.random.Generator, image: Image, other: Image) -> Image:
    """Cover one or two places, each up to a fifth of the crop, with another picture's pixels, a colour or skin."""
    size = image.shape[0]
    mask = np.zeros((size, size), np.uint8)
    for _ in range(rng.integers(1, 3)):
        centre = rng.uniform(0, size, 2)
        axes = rng.uniform(0.04, 0.22, 2) * size
        corners = cv2.boxPoints((centre.tolist(), (2 * axes).tolist(), rng.uniform(0, 180)))
        if rng.random() < 0.5:
            cv2.fillConvexPoly(mask, corners.astype(np.int32), 255)
        else:
            cv2.ellipse(mask, (centre.tolist(), (2 * axes).tolist(), rng.uniform(0, 180)), 255, -1)
    kind = rng.random()
    if kind < 0.4:
        fill = other
    elif kind < 0.6:
        fill = np.broadcast_to(rng.integers(0, 256, 3, np.uint8), image.shape)
    else:  # the colour of the face's skin, as of a hand before it
        y, x = (rng.uniform(0.4, 0.7, 2) * size).astype(int)
        fill = np.broadcast_to(image[y, x], image.shape)
    soft = cv2.blur(mask, (3, 3))[..., None].astype(np.float32) / 255
    return (image * (1 - soft) + fill * soft).astype(np.uint8)
