"""Compute the shape of a rigid head from labelled faces: the numbers in nodes/_pose.py.

python -m training.head_shape data/landmarks/{LFPW/trainset,HELEN/trainset,AFW/afw}
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nodes._pose import RIGID
from training import command
from training.landmark_data import MIRROR, read_points

# Shapes: F faces, K = 51 points without the jaw, whose contour slides over the head as it turns.

Doubles = NDArray[np.float64]

FIRST = 17
"""The first point that is not on the jaw."""
EYE_CORNERS = 90.0
"""Millimetres between the outer eye corners, about those of an adult; pictures do not show the size."""
FRONTAL = {
    17: (-6.825897, -6.760612, -4.402142), 21: (-1.330353, -7.122144, -6.903745),
    22: (1.330353, -7.122144, -6.903745), 26: (6.825897, -6.760612, -4.402142),
    36: (-5.311432, -5.485328, -3.987654), 39: (-1.789930, -5.393625, -4.413414),
    42: (1.789930, -5.393625, -4.413414), 45: (5.311432, -5.485328, -3.987654),
    31: (-2.005628, -1.409845, -6.165652), 35: (2.005628, -1.409845, -6.165652),
}  # fmt: skip
"""The head of the seed project (utils/headpose.py), x right, y down, z away: it defines the frontal direction."""


def head_shape(faces: Doubles) -> Doubles:
    """Return the (51, 3) head in millimetres, x right, y down, z away, of which faces (F, 68, 2) are rotated views.

    Method: the faces and their mirror images, centred and scaled to one size, are factored into one shape and a scaled-
    orthographic camera each: rank 3 (Tomasi and Kanade 1992), metric constraints on the cameras' rows, then alternating
    least squares over cameras and shape, in which faces that fit badly (expressions) weigh less. Orthography does not
    determine the sign of the depth or the rotation of the head: both are taken from `FRONTAL`.
    """
    mirrored = faces[:, MIRROR] * [-1.0, 1.0]
    views = np.concatenate((faces, mirrored))[:, FIRST:]
    views = views - views.mean(1, keepdims=True)
    views /= np.sqrt(np.square(views).sum((1, 2), keepdims=True) / views.shape[1])
    shape = metric_factor(views)
    for _ in range(60):
        cameras = fit_cameras(shape, views)
        shape = fit_shape(cameras, views)
    return symmetric(frontal(shape.T))


def metric_factor(views: Doubles) -> Doubles:
    """Return an initial (3, K) shape for views (F, K, 2), correct up to a rotation and a reflection."""
    measured = views.transpose(0, 2, 1).reshape(-1, views.shape[1])
    u, singular, vt = np.linalg.svd(measured, full_matrices=False)
    motion, shape = u[:, :3] * singular[:3], vt[:3]
    x, y = motion[0::2], motion[1::2]
    constraints = np.concatenate((products(x, x) - products(y, y), products(x, y)))
    a, b, c, d, e, f = np.linalg.svd(constraints, full_matrices=False)[2][-1]
    gram = np.array([[a, b, c], [b, d, e], [c, e, f]])
    values, vectors = np.linalg.eigh(gram * np.sign(np.trace(gram)))
    upgrade = vectors * np.sqrt(np.maximum(values, 1e-6))
    return np.linalg.solve(upgrade, shape)


def products(x: Doubles, y: Doubles) -> Doubles:
    """Return (F, 6) so that products(x, y) @ q = x.T Q y for the symmetric (3, 3) Q of upper triangle q."""
    both = x[:, :, None] * y[:, None]
    both = both + both.transpose(0, 2, 1)
    rows, columns = np.triu_indices(3)
    return both[:, rows, columns] * np.where(rows == columns, 0.5, 1.0)


def fit_cameras(shape: Doubles, views: Doubles) -> Doubles:
    """Return (F, 2, 3) scaled rows of rotations that map the shape (3, K) onto the views best."""
    centred = shape - shape.mean(1, keepdims=True)
    maps = views.transpose(0, 2, 1) @ np.linalg.pinv(centred)
    u, singular, vt = np.linalg.svd(maps, full_matrices=False)
    rows, scale = u @ vt, singular.mean(1)[:, None, None]
    for _ in range(5):  # with the unseen depth from the last camera, the rotation is a Procrustes problem
        turn = np.concatenate((rows, np.cross(rows[:, 0], rows[:, 1])[:, None]), 1)
        depth = (turn @ centred)[:, 2:] * scale
        u, _, vt = np.linalg.svd(np.concatenate((views.transpose(0, 2, 1), depth), 1) @ centred.T)
        u[:, :, 2] *= np.linalg.det(u @ vt)[:, None]
        rows = (u @ vt)[:, :2]
        flat = rows @ centred
        scale = ((flat * views.transpose(0, 2, 1)).sum((1, 2)) / np.square(flat).sum((1, 2)))[:, None, None]
    return rows * scale


def fit_shape(cameras: Doubles, views: Doubles) -> Doubles:
    """Return the (3, K) shape that fits the views of these cameras best, by weighted least squares."""
    normal = np.einsum("fik,fil->kl", cameras, cameras)
    shape = np.linalg.solve(normal, np.einsum("fik,fni->kn", cameras, views))
    errors = np.square(views - (cameras @ shape).transpose(0, 2, 1)).sum(2).mean(1)
    weights = 1 / (1 + errors / np.median(errors))
    normal = np.einsum("f,fik,fil->kl", weights, cameras, cameras)
    return np.linalg.solve(normal, np.einsum("f,fik,fni->kn", weights, cameras, views))


def frontal(shape: Doubles) -> Doubles:
    """Return the shape (K, 3), or its reflection in depth, rotated and scaled to `FRONTAL`, in millimetres."""
    wanted = np.array(list(FRONTAL.values()))
    fits = []
    for depth in (1.0, -1.0):
        points = shape * [1.0, 1.0, depth]
        anchors = points[np.array(list(FRONTAL)) - FIRST]
        centred, target = anchors - anchors.mean(0), wanted - wanted.mean(0)
        u, singular, vt = np.linalg.svd(target.T @ centred)
        sign = np.array([1.0, 1.0, np.linalg.det(u @ vt)])
        scale = (singular * sign).sum() / np.square(centred).sum()
        turned = scale * (points - anchors.mean(0)) @ (u * sign @ vt).T + wanted.mean(0)
        error = np.square(turned[np.array(list(FRONTAL)) - FIRST] - wanted).sum()
        fits.append((error, turned))
    best = min(fits, key=lambda fit: fit[0])[1]
    return best * EYE_CORNERS / np.linalg.norm(best[45 - FIRST] - best[36 - FIRST])


def symmetric(shape: Doubles) -> Doubles:
    """Return the mean of the shape (K, 3) and its mirror image."""
    return (shape + shape[MIRROR[FIRST:] - FIRST] * [-1.0, 1.0, 1.0]) / 2


def main(arguments: list[str] | None = None) -> int:
    """Print the rigid points in the form of nodes/_pose.py."""
    parser = command.parser("head_shape", __doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of .pts files, at any depth")
    files = [file for folder in parser.parse_args(arguments).folders for file in sorted(folder.rglob("*.pts"))]
    if not files:
        parser.error("no .pts files there")
    faces = []
    for file in files:
        try:
            faces.append(read_points(file))
        except ValueError as exc:
            parser.error(f"{file}: {exc}")
    shape = head_shape(np.array(faces, np.float64))
    print(f"# {len(faces)} faces")
    for index in RIGID:
        x, y, z = shape[index - FIRST]
        print(f"{index}: ({x + 0.0:.1f}, {y:.1f}, {z:.1f}),")
    return 0


if __name__ == "__main__":
    sys.exit(main())
