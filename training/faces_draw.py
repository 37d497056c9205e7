"""Draws training pictures for the face detector: windows at many scales, with pasted faces, rotation, light and blur.

All randomness comes from the generator passed in. Images are (H, W, 3) uint8 BGR; boxes x0, y0, x1, y1; coordinates as
in `nodes._geometry`. Faces have a `kind`: FACE must be found, IGNORED counts neither way.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from nodes._geometry import BORDER, Floats, Image
from training.augment import blur, noise, relight
from training.faces_data import Cutouts, Ovals, Picture
from training.faces_loss import FACE, IGNORED

Chances = NDArray[np.float64] | None

SMALLEST = 7.0
"""Faces lower than this, in pixels, are ignored: they are too small to be recognised."""
MOST_HIDDEN = 0.5
"""A face is ignored if more than this share of it lies outside the picture."""
FITTED = 320, 240
"""Width and height to which pictures are fitted in plain scenes."""
SWAP = [1, 0, 2, 4, 3]
"""The five points in the mirrored picture."""


@dataclass(frozen=True)
class Scene:
    """A training picture: image, boxes (F, 4), five points (F, 5, 2) that are NaN if unknown, kinds (F,)."""

    image: Image
    boxes: Floats
    points: Floats
    kinds: NDArray[np.int64]


def draw_scene(
    rng: np.random.Generator, pictures: Sequence[Picture], cutouts: Cutouts | None, size: int, chances: Chances = None
) -> Scene:
    """Draw one picture of `size` x `size`: one window or a mosaic of four, a pasted face, mirror, rotation, light.

    `chances` (P,) of the pictures to be drawn; None: all the same.
    Only one scene in twelve has a pasted face: with more, the network learns their seams instead of faces.
    """
    if rng.random() < 0.12:
        scene = mosaic(rng, [pick(rng, pictures, cutouts, chances) for _ in range(4)], size)
    else:
        scene = window(rng, pick(rng, pictures, cutouts, chances), size, size)
    if cutouts is not None and rng.random() < 0.08:
        scene = put_face(rng, scene, cutouts)
    if rng.random() < 0.5:
        scene = mirror(scene)
    scene = turn(scene, _draw_turn(rng))
    return settle(Scene(_degrade(rng, scene.image), scene.boxes, scene.points, scene.kinds))


def pick(
    rng: np.random.Generator, pictures: Sequence[Picture], cutouts: Cutouts | None, chances: Chances = None
) -> Picture:
    """Draw a picture: one in six is the crop of a face with points, a third of which are rotated."""
    if cutouts is None or rng.random() >= 0.16:
        return pictures[int(rng.choice(len(pictures), p=chances))]
    face = int(rng.choice(len(cutouts.chances), p=cutouts.chances))
    return cutouts.picture(face, _draw_roll(rng) if rng.random() < 0.33 else 0.0)


def window(rng: np.random.Generator, picture: Picture, width: int, height: int, shrink: float = 1.0) -> Scene:
    """Cut a window from a picture at a random scale.

    Two in three windows show the picture at about the scale at which it is fitted to a small input. In the others, one
    of its faces gets a height between 12 px and most of the window, uniform on a logarithmic scale.
    """
    sides = picture.image().shape[:2]
    scale = np.exp(rng.uniform(np.log(0.6), np.log(1.25))) * 400 / max(sides)
    face = _draw_face(rng, picture)
    if face is not None and (rng.random() < 0.35 or not picture.name):  # the crop of a face has no name
        wanted = np.exp(rng.uniform(np.log(12), np.log(0.85 * height)))
        least = 0.7 * min(width, height) / max(sides)  # the picture fills most of the window
        scale = np.clip(wanted / (face[3] - face[1]), least, 2.0)
    stretch = np.exp(rng.normal(0, 0.04)) ** np.array([1, -1])
    return cut_window(rng, picture, face, np.array([width, height]), scale * shrink / stretch)


def draw_plain(
    rng: np.random.Generator, pictures: Sequence[Picture], cutouts: Cutouts | None, size: int, chances: Chances = None
) -> Scene:
    """Draw a part of one picture at about the scale used at run time, half of them mirrored, some relit.

    A small network learns hard scenes at the cost of these. One in ten has a pasted face: without them, heads on other
    backgrounds were found 3 frames later (tests.bench.tracks).
    """
    picture = pictures[int(rng.choice(len(pictures), p=chances))]
    height, width = picture.image().shape[:2]
    scale = min(FITTED[0] / width, FITTED[1] / height) * np.exp(rng.uniform(np.log(0.85), np.log(1.2)))
    scene = cut_window(rng, picture, _draw_face(rng, picture), np.array([size, size]), np.full(2, scale))
    if cutouts is not None and rng.random() < 0.1:
        scene = put_face(rng, scene, cutouts)
    scene = mirror(scene) if rng.random() < 0.5 else scene
    image = relight(rng, scene.image) if rng.random() < 0.2 else scene.image
    return settle(Scene(image, scene.boxes, scene.points, scene.kinds))


def _draw_face(rng: np.random.Generator, picture: Picture) -> Floats | None:
    known = np.flatnonzero(~picture.ignored)
    return picture.boxes[rng.choice(known)] if len(known) else None


def cut_window(rng: np.random.Generator, picture: Picture, face: Floats | None, sides: NDArray[np.int64],
               scale: NDArray[np.float64]) -> Scene:
    """Cut a window of `sides` (width, height) that shows the picture at `scale` (x, y), near the face if any."""
    image = picture.image()
    w, h = np.maximum(4, (sides / scale).round()).astype(int).tolist()
    middle = np.array(image.shape[1::-1]) * rng.uniform(0.2, 0.8, 2)
    if face is not None:
        middle = (face[:2] + face[2:]) / 2 + rng.uniform(-0.4, 0.4, 2) * (w, h)
    x, y = _keep_inside(middle, (w, h), image.shape)
    area = scale.max() < 1 and rng.random() < 0.7
    way = cv2.INTER_AREA if area else cv2.INTER_LINEAR
    out = cv2.resize(cut(image, x, y, w, h), sides.tolist(), interpolation=way)
    factor = np.tile(sides / (w, h), 2).astype(np.float32)
    boxes = (picture.boxes - np.array([x, y] * 2, np.float32) + 0.5) * factor - 0.5
    if picture.points is None:
        points = np.full((len(boxes), 5, 2), np.nan, np.float32)
    else:
        points = (picture.points - np.array([x, y], np.float32) + 0.5) * factor[:2] - 0.5
    return _within(Scene(np.asarray(out, np.uint8), boxes, points, np.where(picture.ignored, IGNORED, FACE)))


def _keep_inside(middle: NDArray[np.float64], sides: tuple[int, int], shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the top left corner that keeps the window inside the picture, or the picture inside a larger window."""
    corner = []
    for at, side, whole in zip(middle, sides, shape[1::-1], strict=True):
        low, high = sorted((0, whole - side))
        corner.append(int(np.clip(at - side / 2, low, high)))
    return corner[0], corner[1]


def cut(image: Image, x: int, y: int, w: int, h: int) -> Image:
    """Return the (h, w) window at x, y; pixels outside the picture are `BORDER`."""
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, image.shape[1]), min(y + h, image.shape[0])
    inside = image[y0:y1, x0:x1]
    if inside.shape[:2] == (h, w):
        return inside
    out = np.full((h, w, 3), BORDER, np.uint8)
    out[y0 - y : y1 - y, x0 - x : x1 - x] = inside
    return out


def mosaic(rng: np.random.Generator, pictures: list[Picture], size: int) -> Scene:
    """Arrange windows of four pictures around a random point."""
    x, y = (int(v) for v in rng.uniform(0.35, 0.65, 2) * size)
    corners = ((0, 0, x, y), (x, 0, size - x, y), (0, y, x, size - y), (x, y, size - x, size - y))
    out = np.empty((size, size, 3), np.uint8)
    parts = []
    for picture, (left, top, w, h) in zip(pictures, corners, strict=True):
        part = window(rng, picture, w, h, shrink=0.7)
        part = settle(part)
        out[top : top + h, left : left + w] = part.image
        corner = np.array([left, top], np.float32)
        parts.append((part.boxes + np.tile(corner, 2), part.points + corner, part.kinds))
    return Scene(out, *(np.concatenate(values) for values in zip(*parts, strict=True)))


def put_face(rng: np.random.Generator, scene: Scene, cutouts: Cutouts) -> Scene:
    """Paste one face with known points into the scene, rotated and at any size, where it hides no other face."""
    size = scene.image.shape[0]
    face = int(rng.choice(len(cutouts.chances), p=cutouts.chances))
    oval = cutouts.ovals.only(face)
    scale = np.exp(rng.uniform(np.log(8), np.log(0.6 * size))) / (2 * oval.halves[0, 1])
    angle = _draw_roll(rng)
    reach = oval.halves[0].max() * scale * 1.4
    taken = scene.boxes
    for _ in range(5):
        middle = rng.uniform(0.5 * reach, size - 0.5 * reach, 2)
        around = np.concatenate((middle - reach, middle + reach))
        if not _meet(around, taken):
            break
    else:
        return scene
    image, matrix = _paste(rng, scene.image, cutouts.crops.images[face], oval, scale, angle, middle)
    half = (oval.boxes(angle)[0, 2:] - oval.centres[0]) * scale
    box = np.concatenate((middle - half, middle + half)).astype(np.float32)
    points = (cutouts.points[face] @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
    return Scene(
        image,
        np.concatenate((scene.boxes, box[None])),
        np.concatenate((scene.points, points[None])),
        np.append(scene.kinds, FACE),
    )


def _paste(rng: np.random.Generator, image: Image, crop: Image, oval: Ovals, scale: float, angle: float,
           middle: NDArray[np.float64]) -> tuple[Image, Floats]:
    """Blend the head of a crop into the image with a soft oval mask; also return the map from crop to image pixels."""
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.column_stack((linear, middle - linear @ oval.centres[0])).astype(np.float32)
    reach = float(oval.halves[0].max() * scale * 1.6)
    x0, y0 = (max(0, int(v - reach)) for v in middle)
    x1, y1 = (min(image.shape[0], int(v + reach) + 2) for v in middle)
    shrink, source = 1.0, crop
    while scale / shrink < 0.6 and shrink > 0.1:  # the warp is bilinear: average first, or it would skip pixels
        source, shrink = cv2.resize(source, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), shrink / 2
    back = np.array([[1 / shrink, 0, 0.5 / shrink - 0.5], [0, 1 / shrink, 0.5 / shrink - 0.5], [0, 0, 1]])
    onto = matrix @ back - np.array([[0, 0, x0], [0, 0, y0]])
    patch = cv2.warpAffine(source, onto, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    if rng.random() < 0.5:
        patch = relight(rng, patch)
    head = np.float32(oval.angles[0] + angle)
    y, x = np.mgrid[y0:y1, x0:x1].astype(np.float32)
    along = (x - middle[0]) * np.cos(head) + (y - middle[1]) * np.sin(head)
    down = (y - middle[1]) * np.cos(head) - (x - middle[0]) * np.sin(head)
    half = oval.halves[0] * scale * rng.uniform(1.15, 1.5)
    distance = np.sqrt((along / half[0]) ** 2 + (down / half[1]) ** 2)
    soft = np.clip((1.08 - distance) / 0.16, 0, 1).astype(np.float32)[..., None]
    out = image.copy()
    out[y0:y1, x0:x1] = image[y0:y1, x0:x1] * (1 - soft) + patch * soft
    return out, matrix


def _draw_roll(rng: np.random.Generator) -> float:
    """Draw the roll of a head: most are tilted a little, some far, a few in any direction."""
    kind = rng.random()
    if kind < 0.6:
        return float(np.radians(rng.normal(0, 12)))
    return float(rng.uniform(-1, 1) * (np.pi / 3 if kind < 0.85 else np.pi))


def _draw_turn(rng: np.random.Generator) -> float:
    """Draw the rotation of a picture: one in ten is from a tilted camera, or from one lying on its side."""
    kind = rng.random()
    if kind < 0.9:
        return 0.0
    return float(np.radians(rng.normal(0, 15))) if kind < 0.97 else float(rng.choice((-0.5, 0.5, 1.0)) * np.pi)


def mirror(scene: Scene) -> Scene:
    """Mirror the scene left to right; left and right points swap."""
    last = scene.image.shape[1] - 1
    boxes = scene.boxes.copy()
    boxes[:, [0, 2]] = last - scene.boxes[:, [2, 0]]
    points = scene.points[:, SWAP]
    points[..., 0] = last - points[..., 0]
    return Scene(cv2.flip(scene.image, 1), boxes, points, scene.kinds)


def turn(scene: Scene, angle: float) -> Scene:
    """Rotate the scene about its centre by `angle` radians, clockwise; boxes become those of the rotated ovals."""
    if not angle:
        return scene
    size = scene.image.shape[0]
    middle = (size - 1) / 2
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = middle - linear @ (middle, middle)
    image = cv2.warpAffine(scene.image, np.column_stack((linear, shift)), (size, size), borderValue=(BORDER,) * 3)
    centres = (scene.boxes[:, :2] + scene.boxes[:, 2:]) / 2
    ovals = Ovals(centres @ linear.T + shift, (scene.boxes[:, 2:] - scene.boxes[:, :2]) / 2, np.zeros(len(centres)))
    return Scene(image, ovals.boxes(angle), (scene.points @ linear.T + shift).astype(np.float32), scene.kinds)


def settle(scene: Scene) -> Scene:
    """Clip boxes to the picture, drop faces outside it, and ignore those that are too small or mostly outside."""
    height, width = scene.image.shape[:2]
    limits = np.array([width - 0.5, height - 0.5] * 2, np.float32)
    boxes = scene.boxes.clip(-0.5, limits)
    sides, whole = boxes[:, 2:] - boxes[:, :2], scene.boxes[:, 2:] - scene.boxes[:, :2]
    seen = sides.prod(1) / np.maximum(whole.prod(1), 1e-6)
    poor = (sides[:, 1] < SMALLEST) | (sides[:, 0] < SMALLEST / 2) | (seen < 1 - MOST_HIDDEN)
    kinds = np.where(poor, IGNORED, scene.kinds)
    kept = sides.min(1) > 0
    return Scene(scene.image, boxes[kept], scene.points[kept], kinds[kept])


def _within(scene: Scene) -> Scene:
    """Drop the faces that lie completely outside."""
    height, width = scene.image.shape[:2]
    kept = (scene.boxes[:, :2] < (width, height)).all(1) & (scene.boxes[:, 2:] > 0).all(1)
    return Scene(scene.image, scene.boxes[kept], scene.points[kept], scene.kinds[kept])


def _meet(box: NDArray[np.float64], others: Floats) -> bool:
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return bool((sides > 0).all(1).any())


def _degrade(rng: np.random.Generator, image: Image) -> Image:
    """Apply light, blur, noise and compression, each at random."""
    if rng.random() < 0.7:
        image = relight(rng, image)
    if rng.random() < 0.1:
        image = blur(rng, image)
    if rng.random() < 0.1:
        image = noise(rng, image)
    if rng.random() < 0.1:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 85))]
        image = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR)
    return image
