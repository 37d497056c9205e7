"""Synthetic faces with 68 points for tests of the training: drawn here, no photographs needed."""

from pathlib import Path

import cv2
import numpy as np


def points68() -> np.ndarray:
    """Points of a frontal, symmetric face in units of half its width, y down: (68, 2)."""
    turn = np.linspace(np.pi, 0, 17)
    jaw = np.stack((np.cos(turn), 1.1 * np.sin(turn)), 1)
    brows = np.stack((np.concatenate((np.linspace(-0.8, -0.2, 5), np.linspace(0.2, 0.8, 5))), np.full(10, -0.35)), 1)
    nose = np.concatenate((np.stack((np.zeros(4), np.linspace(-0.1, 0.3, 4)), 1),
                           np.stack((np.linspace(-0.18, 0.18, 5), np.full(5, 0.4)), 1)))
    eye = np.array([[-0.16, 0], [-0.06, -0.07], [0.06, -0.07], [0.16, 0], [0.06, 0.07], [-0.06, 0.07]])
    outer = np.array([[-0.35, 0.65], [-0.2, 0.58], [-0.08, 0.55], [0, 0.57], [0.08, 0.55], [0.2, 0.58], [0.35, 0.65],
                      [0.2, 0.75], [0.08, 0.78], [0, 0.79], [-0.08, 0.78], [-0.2, 0.75]])
    inner = np.array([[-0.28, 0.65], [-0.08, 0.62], [0, 0.62], [0.08, 0.62], [0.28, 0.65], [0.08, 0.7], [0, 0.7],
                      [-0.08, 0.7]])
    left, right = np.array([-0.45, -0.1]), np.array([0.45, -0.1])
    return np.concatenate((jaw, brows, nose, eye + left, eye + right, outer, inner))


def draw(rng: np.random.Generator, side: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Draw one face on a coloured ground; return the picture (side, side, 3) and its points (68, 2)."""
    points = points68() * side * rng.uniform(0.2, 0.3) + side / 2 + rng.uniform(-0.1, 0.1, 2) * side
    image = np.empty((side, side, 3), np.uint8)
    image[:] = rng.integers(0, 120, 3)
    whole = points.round().astype(np.int32)
    skin = tuple(int(c) for c in rng.integers(150, 255, 3))
    cv2.fillConvexPoly(image, cv2.convexHull(whole[:27]), skin, cv2.LINE_AA)
    for part, colour in ((slice(36, 42), (20, 20, 20)), (slice(42, 48), (20, 20, 20)), (slice(48, 60), (60, 60, 200))):
        cv2.fillPoly(image, [whole[part]], colour, cv2.LINE_AA)
    return image, points.astype(np.float32)


def write_set(folder: Path, count: int, seed: int = 0) -> Path:
    """Write pictures with .pts partners, the layout of the iBUG sets."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        image, points = draw(rng)
        cv2.imwrite(str(folder / f"p{i // 2}_{i}.png"), image)
        write_points(folder / f"p{i // 2}_{i}.pts", points)
    return folder


def write_points(path: Path, points: np.ndarray) -> None:
    """Write a .pts file, which counts pixels from 1."""
    rows = "\n".join(f"{x:.3f} {y:.3f}" for x, y in points + 1)
    path.write_text(f"version: 1\nn_points: {len(points)}\n{{\n{rows}\n}}\n")


def write_two_sets(folder: Path) -> dict[str, dict[str, object]]:
    """Write six faces to train with and four held out below a folder; return the sources of a config for them."""
    write_set(folder / "train", 6)
    write_set(folder / "held", 4, seed=1)
    return {"held": {"folder": "held", "weight": 0, "held_out": 1}, "train": {"folder": "train"}}
