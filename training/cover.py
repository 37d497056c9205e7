"""Draws glasses, masks and hands on a crop of a face, placed by its points.

All randomness comes from the generator passed in. Images are (H, W, 3) uint8 BGR, points (68, 2) float32 pixels, iBUG
order. The points do not change: the network learns to guess the covered ones.
"""

from collections.abc import Callable

import cv2
import numpy as np

from nodes._geometry import Floats, Image

SHIFT = 4
"""Fractional bits of the coordinates passed to OpenCV."""


def cover(rng: np.random.Generator, image: Image, points: Floats) -> Image:
    """Cover a part of the face with glasses, a mask or a hand."""
    draw: Callable[[np.random.Generator, Image, Floats], Image] = (glasses, mask, hand)[rng.integers(3)]
    return draw(rng, image, points)


def glasses(rng: np.random.Generator, image: Image, points: Floats) -> Image:
    """Draw glasses: thin frames, or dark lenses that let some light through, with a bridge and temples."""
    left, right = points[36:42].mean(0), points[42:48].mean(0)
    across = right - left
    distance = float(np.linalg.norm(across))
    angle = float(np.degrees(np.arctan2(across[1], across[0])))
    axes = distance * rng.uniform(0.26, 0.42), distance * rng.uniform(0.18, 0.38)
    lens, frame = np.zeros(image.shape[:2], np.uint8), np.zeros(image.shape[:2], np.uint8)
    thick = max(1, round(distance * rng.uniform(0.02, 0.08)))
    for eye in (left, right):
        for layer, width in ((lens, -1), (frame, thick)):
            cv2.ellipse(layer, (eye.tolist(), (2 * axes[0], 2 * axes[1]), angle), 255, width, cv2.LINE_AA)
    inner = across / distance * axes[0]
    for start, end in ((left + inner, right - inner), (left - inner, points[0]), (right + inner, points[16])):
        cv2.line(frame, _fixed(start), _fixed(end), 255, thick, cv2.LINE_AA, SHIFT)
    dark = rng.random() < 0.6
    image = _blend(image, lens, rng.uniform(0, 60, 3), rng.uniform(0.7, 1.0) if dark else rng.uniform(0.0, 0.2))
    return _blend(image, frame, rng.uniform(0, 90, 3), 1.0)


def mask(rng: np.random.Generator, image: Image, points: Floats) -> Image:
    """Draw a mask over nose, mouth and chin, or one that has slipped below the nose; it is shaded to one side."""
    top = points[rng.integers(28, 31)] if rng.random() < 0.8 else points[33]
    sides = int(rng.integers(1, 4))
    jaw = points[sides : 17 - sides]
    outline = np.concatenate((jaw + (jaw - points[30]) * 0.04, top[None]))
    layer = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(layer, [np.rint(outline * 2**SHIFT).astype(np.int32)], 255, cv2.LINE_AA, SHIFT)
    colour = rng.uniform(180, 250, 3) if rng.random() < 0.5 else rng.uniform(10, 220, 3)
    shade = np.linspace(*rng.uniform(0.6, 1.1, 2), image.shape[1])[None, :, None]
    return _blend(image, layer, (colour * shade).clip(0, 255), 1.0)


def hand(rng: np.random.Generator, image: Image, points: Floats) -> Image:
    """Draw fingers in the colour of the cheek, from beside or below the face to somewhere on it."""
    side = float((points.max(0) - points.min(0)).max())
    aim = points[rng.choice((31, 35, 48, 54, 57, 8, 4, 12))] + rng.normal(0, 0.08, 2) * side
    way = np.radians(rng.uniform(20, 160))  # direction of the arm: the hand comes from below or a side
    out = np.array((np.cos(way), np.sin(way))) * side
    beside = np.array((-out[1], out[0])) * rng.uniform(0.08, 0.11)
    cheek = points[rng.choice((2, 14))] * 0.5 + points[30] * 0.5
    x, y = cheek.round().astype(int).clip(0, np.array(image.shape[1::-1]) - 1)
    skin = image[y, x].astype(np.float64) * rng.uniform(0.75, 1.15)
    for finger in range(int(rng.integers(2, 5))):
        tip = aim + beside * (finger - 1.5) + out * rng.uniform(-0.15, 0.1)
        root = aim + beside * (finger - 1.5) * 1.2 + out
        thick = max(2, round(side * rng.uniform(0.09, 0.13)))
        for width, light in ((thick, 0.7), (round(thick * 0.8), 1.0)):  # a dark rim separates the fingers
            layer = np.zeros(image.shape[:2], np.uint8)
            cv2.line(layer, _fixed(tip), _fixed(root), 255, width, cv2.LINE_AA, SHIFT)
            image = _blend(image, layer, (skin * light).clip(0, 255), 1.0)
    return image


def _fixed(point: np.ndarray) -> tuple[int, int]:
    x, y = np.rint(point * 2**SHIFT).astype(int).tolist()
    return x, y


def _blend(image: Image, layer: np.ndarray, colour: np.ndarray, opacity: float) -> Image:
    weight = layer[..., None].astype(np.float32) / 255 * opacity
    return (image * (1 - weight) + colour * weight).astype(np.uint8)
