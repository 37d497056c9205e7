"""Clips of the portrait moved along known paths, and the smoothing rules compared on them (see stability).

Detections are the true points with noise like that of landmark networks (see `detections`), so no network is needed.
All lengths are per cent of the distance between the outer eye corners, all times frames at 30 fps.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from graph import Faces, Frame, Header, Node
from nodes.smooth import Smooth
from nodes.source import TestSource
from tests.portrait import EYE_DISTANCE, faces, true_points

Points = NDArray[np.float32]
AnyNode = TypeVar("AnyNode", bound=Node)
Rule = Callable[[NDArray[Any], NDArray[Any], float], NDArray[Any]]  # raw (T, 68, 2), true, fps -> smoothed

OWN, COMMON = 0.007, 0.003
"""Detection noise, standard deviation in eye distances: of each point, and of all points together (box jitter). The raw
jitter is 1.1 % per frame, a little above the 0.85 to 0.96 % of trained networks on a talking face."""


class Scene(NamedTuple):
    """One clip with its truth and its detections."""

    frames: Callable[[], Iterator[NDArray[Any]]]
    true: NDArray[np.float32]  # (T, 68, 2)
    raw: NDArray[np.float32]  # (T, 68, 2)
    fps: float
    eye: float  # mean eye distance, pixels
    truth_at: Callable[[float], NDArray[np.float32]]  # seconds to true points (68, 2)


def detections(true: NDArray[np.float32], eye: float, seed: int = 1) -> NDArray[np.float32]:
    """Return noisy detections of the true points (T, 68, 2)."""
    random = np.random.default_rng(seed)
    own = random.normal(0, OWN * eye, true.shape)
    common = random.normal(0, COMMON * eye, (len(true), 1, 2))
    return (true + own + common).astype(np.float32)


def scene(**settings: Any) -> Scene:
    """Return a clip of the portrait (default: 720p, 30 fps, 2 s, sensor noise of 3 grey levels)."""
    source = TestSource(**({"width": 1280, "height": 720, "frames": 60, "noise": 3.0} | settings))
    source.open()

    def at(pts: float) -> NDArray[np.float32]:
        transform = source.transforms(max(0.0, pts))
        return true_points(type("T", (), {"transforms": transform}))[0]  # type: ignore[arg-type]

    def frames() -> Iterator[NDArray[Any]]:
        source.open()
        return (message["frame"].image for message in source.process() if message)  # type: ignore[attr-defined]

    true = np.stack([at(i / source.fps) for i in range(source.frames)])
    scale = np.mean([np.linalg.norm(p[36] - p[45]) for p in true]) / EYE_DISTANCE
    eye = float(scale * EYE_DISTANCE)
    return Scene(frames, true, detections(true, eye), source.fps, eye, at)


def spoilt(clip: Scene, spoil: Callable[[NDArray[Any]], NDArray[Any]]) -> Scene:
    """Return the clip with every picture degraded; truth and detections stay the same."""
    return clip._replace(frames=lambda: map(spoil, clip.frames()))


def out_of_focus(image: NDArray[Any]) -> NDArray[Any]:
    """Blur by 2 px (standard deviation), like a lens that is not focused on the face."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 2.0))


def compressed(image: NDArray[Any]) -> NDArray[Any]:
    """Encode as JPEG of quality 25, like a webcam that sends MJPEG over a slow bus, and decode."""
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 25])[1], cv2.IMREAD_COLOR))


def ours(clip: Scene, **settings: Any) -> NDArray[np.float32]:
    """Run the Smooth node over a clip, (T, 68, 2)."""
    return np.stack([out.landmarks[0] for out in ours_faces(clip, **settings)])


def ours_faces(clip: Scene, **settings: Any) -> list[Faces]:
    """Run the Smooth node over a clip."""
    return [out for _, out in steps(opened(Smooth(**settings)), clip)]


def steps(node: Smooth, clip: Scene) -> Iterator[tuple[float, Faces]]:
    """Yield the milliseconds and the output of each call of the node."""
    spread = np.hypot(OWN, COMMON) * clip.eye
    for index, (image, raw) in enumerate(zip(clip.frames(), clip.raw, strict=True)):
        header = Header(seq=index, pts=index / clip.fps)
        found = faces(raw[None], spread).with_header(header)
        frame = Frame(header=header, image=image)
        start = time.perf_counter()
        out = node.process(frame, found)
        yield (time.perf_counter() - start) * 1e3, out


def seed_rule(raw: NDArray[Any], true: NDArray[Any], _: float) -> NDArray[Any]:
    """The rule of the original project (flow blend, dead band, fixed average), with perfect flow."""
    eyes = np.zeros(68, bool)
    eyes[36:48] = True
    limit = np.where(eyes, 1.0, 10.0)
    blended, out = raw[0], [raw[0]]
    for index in range(1, len(raw)):
        flowed = blended + true[index] - true[index - 1]
        far = np.square(raw[index] - blended).sum(axis=1) >= limit
        weight = np.where(far, 0.85, 0.2)[:, None]
        blended = weight * raw[index] + (1 - weight) * flowed
        still = np.linalg.norm(blended - out[-1], axis=1) < 1.0
        out.append(np.where(still[:, None], out[-1], 0.8627 * blended + 0.1373 * out[-1]))
    return np.stack(out)


def one_euro(cutoff: float, beta: float) -> Rule:
    """The 1 euro filter (Casiez et al. 2012) per coordinate; speeds in eye distances per second."""

    def rule(raw: NDArray[Any], true: NDArray[Any], fps: float) -> NDArray[Any]:
        def alpha(hertz: Any) -> Any:
            return 1 / (1 + fps / (2 * np.pi * hertz))

        eye = np.linalg.norm(true[:, 36] - true[:, 45], axis=1).mean()
        value, speed, out = raw[0], np.zeros_like(raw[0]), [raw[0]]
        for now in raw[1:]:
            speed = speed + alpha(1.0) * ((now - value) * fps / eye - speed)
            value = value + alpha(cutoff + beta * np.abs(speed)) * (now - value)
            out.append(value)
        return np.stack(out)

    return rule


def jitter(out: NDArray[Any], clip: Scene, skip: int = 15) -> float:
    """Return the RMS of the error's step over frames and points, per cent of the eye distance."""
    error = (out - clip.true)[skip:]
    return float(np.sqrt(np.square(np.diff(error, axis=0)).sum(axis=2).mean()) / clip.eye * 100)


def error(out: NDArray[Any], clip: Scene, frames: Any = slice(15, None)) -> float:
    """Return the RMS distance from the truth, per cent of the eye distance."""
    return float(np.sqrt(np.square(out - clip.true)[frames].sum(axis=2).mean()) / clip.eye * 100)


def lag(out: NDArray[Any], clip: Scene, skip: int = 10) -> float:
    """Return the delay in frames (1 / 30 s) for which the truth best fits the mean over the points."""
    delays = np.linspace(-1, 3, 41)
    seen = out[skip:].mean(axis=1)

    def misfit(delay: float) -> float:
        times = (np.arange(skip, len(out)) / clip.fps) - delay / 30
        return float(np.square(seen - np.stack([clip.truth_at(t).mean(axis=0) for t in times])).sum())

    costs = np.array([misfit(delay) for delay in delays])
    best = int(np.clip(costs.argmin(), 1, len(delays) - 2))
    a, b, c = costs[best - 1 : best + 2]
    return float(delays[best] + 0.5 * (a - c) / max(a - 2 * b + c, 1e-12) * (delays[1] - delays[0]))


LIDS = {37: 41, 38: 40, 43: 47, 44: 46}
"""Points of the upper lids, and the points of the lower lids that they meet."""


def blink_clip(in_picture: bool = True, seconds: float = 0.15, **settings: Any) -> tuple[Scene, NDArray[np.float64]]:
    """Return a still clip with a blink of `seconds` every half second, and how far the eyes are closed in each frame.

    The picture is warped with the lids; without `in_picture` it is not, and the flow contradicts the detections.
    """
    still = scene(motion="still", **settings)
    times = np.arange(len(still.true)) / still.fps
    into = (times - 0.3) % 0.5
    closed = np.where((times > 0.3) & (into < seconds), np.sin(np.pi * np.clip(into / seconds, 0, 1)), 0.0)
    true = still.true.copy()
    for upper, lower in LIDS.items():
        true[:, upper] += closed[:, None] * (still.true[:, lower] - still.true[:, upper])

    def frames() -> Iterator[NDArray[Any]]:
        for image, amount in zip(still.frames(), closed, strict=True):
            yield close_eyes(image, still.true[0], amount) if in_picture else image

    raw = true + (still.raw - still.true)
    return still._replace(frames=frames, true=true, raw=raw), closed


def close_eyes(image: NDArray[Any], points: Points, amount: float) -> NDArray[Any]:
    """Close the eyes by `amount` (0..1) by stretching the skin between brows and lids."""
    out = image.copy()
    for brow, eye in ((slice(17, 22), slice(36, 42)), (slice(22, 27), slice(42, 48))):
        corners, top = points[eye], points[brow, 1].mean()
        x0, x1 = int(corners[:, 0].min()) - 2, int(corners[:, 0].max()) + 3
        upper, lower = corners[[1, 2], 1].mean(), corners[[4, 5], 1].mean()
        y0, y1 = int(top), int(lower) + 6
        x, y = np.meshgrid(np.arange(x0, x1, dtype=np.float32), np.arange(y0, y1, dtype=np.float32))
        across = np.clip(1 - np.square((x - (x0 + x1) / 2) / ((x1 - x0) / 2)), 0, 1)
        lid = upper + 0.98 * amount * (lower - upper) * across
        above = top + (y - top) * (upper - top) / (lid - top)
        below = lower - (lower - y) * (lower - upper) / (lower - lid)
        source_y = np.where(y < lid, above, np.where(y < lower, below, y)).astype(np.float32)
        out[y0:y1, x0:x1] = cv2.remap(image, x, source_y, cv2.INTER_LINEAR)
    return out


def amplitude(out: NDArray[Any], clip: Scene, closed: NDArray[Any]) -> float:
    """Return the share of the lids' travel that is kept in the closed frames, per cent."""
    uppers, lowers = list(LIDS), list(LIDS.values())
    opening = (out[:, lowers, 1] - out[:, uppers, 1]).mean(axis=1)
    true = (clip.true[:, lowers, 1] - clip.true[:, uppers, 1]).mean(axis=1)
    peak = closed > 0.8
    rest = true[closed == 0].mean()
    return float((rest - opening[peak]).mean() / (rest - true[peak]).mean() * 100)


JAW = (6, 7, 8, 9, 10)
LOWER_LIP = (55, 56, 57, 58, 59, 65, 66, 67)
SYLLABLES = 4.0  # per second, of ordinary speech


def speech_clip(**settings: Any) -> Scene:
    """Return a still clip in which the mouth opens and closes as in speech."""
    still = scene(motion="still", **settings)
    times = np.arange(len(still.true)) / still.fps
    opened = np.where(times > 0.3, 0.5 - 0.5 * np.cos(2 * np.pi * SYLLABLES * (times - 0.3)), 0.0)
    true = still.true.copy()
    drop = 0.12 * still.eye * opened
    for point in (*LOWER_LIP, *JAW):
        across = lip_share(still.true[0], still.true[0, point, 0])
        true[:, point, 1] += drop * across

    def frames() -> Iterator[NDArray[Any]]:
        for image, amount in zip(still.frames(), drop, strict=True):
            yield open_mouth(image, still.true[0], float(amount))

    return still._replace(frames=frames, true=true, raw=true + (still.raw - still.true))


def lip_share(points: Points, x: Any) -> Any:
    """Return the share of the mouth's opening at column x: 1 in its middle, 0 beyond its corners."""
    left, right = points[48, 0], points[54, 0]
    return np.clip(1 - np.square((x - (left + right) / 2) / ((right - left) / 2 * 1.15)), 0, 1)


def open_mouth(image: NDArray[Any], points: Points, drop: float) -> NDArray[Any]:
    """Move lower lip and chin down by `drop` pixels; the open mouth is dark, the neck is compressed."""
    out = image.copy()
    line, chin = points[[61, 62, 63, 65, 66, 67], 1].mean(), points[8, 1]
    end = chin + 0.5 * (chin - line)
    x0, x1 = int(points[48, 0]) - 8, int(points[54, 0]) + 9
    y0, y1 = int(line), int(end)
    x, y = np.meshgrid(np.arange(x0, x1, dtype=np.float32), np.arange(y0, y1, dtype=np.float32))
    down = drop * lip_share(points, x)
    neck = chin + (y - chin - down) * (end - chin) / (end - chin - down)
    source_y = np.where(y < chin + down, y - down, neck).astype(np.float32)
    moved = cv2.remap(image, x, source_y, cv2.INTER_LINEAR)
    moved[y < line + down] = (20, 15, 40)
    out[y0:y1, x0:x1] = moved
    return out


def speech_amplitude(out: NDArray[Any], clip: Scene) -> float:
    """Return the share of the lips' travel that is kept, per cent: the slope of the found opening over the true one."""

    def gap(points: NDArray[Any]) -> NDArray[Any]:
        return np.asarray((points[10:, 65:68, 1] - points[10:, [63, 62, 61], 1]).mean(axis=1))

    return float(np.polyfit(gap(clip.true), gap(out), 1)[0] * 100)


def acceleration(out: NDArray[Any], clip: Scene, skip: int = 15) -> float:
    """Return the RMS second difference of the error, per cent of the eye distance (energy at high frequencies)."""
    error = (out - clip.true)[skip:]
    return float(np.sqrt(np.square(np.diff(error, 2, axis=0)).sum(axis=2).mean()) / clip.eye * 100)


def worst(out: NDArray[Any], clip: Scene, skip: int = 10) -> float:
    """Return the largest error of the whole face, per cent of the eye distance: its overshoot when it stops."""
    off = (out - clip.true)[skip:].mean(axis=1)
    return float(np.linalg.norm(off, axis=1).max() / clip.eye * 100)


def stairs(out: NDArray[Any], clip: Scene, skip: int = 15) -> float:
    """Return how much the face's steps differ from the true ones, RMS in per cent of the true step."""
    step = np.diff(out[skip:].mean(axis=1), axis=0)
    true = np.diff(clip.true[skip:].mean(axis=1), axis=0)
    return float(np.sqrt(np.square(step - true).sum(axis=1).mean() / np.square(true).sum(axis=1).mean()) * 100)


def rules() -> dict[str, Callable[[Scene], NDArray[Any]]]:
    """Return all rules to compare by name."""
    plain: dict[str, Rule] = {
        "raw": lambda raw, true, fps: raw,
        "seed": seed_rule,
        "one-euro calm": one_euro(0.5, 2.0),
        "one-euro": one_euro(1.0, 20.0),
        "one-euro prompt": one_euro(2.0, 60.0),
    }
    table: dict[str, Callable[[Scene], NDArray[Any]]] = {
        name: (lambda clip, rule=rule: rule(clip.raw, clip.true, clip.fps)) for name, rule in plain.items()
    }
    return table | {"Smooth, no flow": lambda clip: ours(clip, flow=False), "Smooth": ours}


def opened(node: AnyNode) -> AnyNode:
    """Open a node and return it."""
    node.open()
    return node
