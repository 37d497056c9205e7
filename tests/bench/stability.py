"""Compare jitter and lag of smoothing rules on known paths and on videos: python -m tests.bench.stability [VIDEO...]

Known paths: the portrait panned, stopped, turned back, cut, blinking and speaking, with sensor noise, out of focus and
compressed. Detections are the true points with noise like that of landmark networks (see `smoothing.detections`). Then
the released networks run on the same portrait.
Videos: the released networks; there is no truth, so steps from frame to frame are compared, also with optical flow.
--plot FILE draws jitter over lag for many settings of each rule.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from graph import Detections, Faces, Frame
from graph.testing import run_node
from nodes.capture import Capture
from nodes.detect import FaceDetector
from nodes.landmarks import Landmarks
from nodes.smooth import Smooth
from nodes.source import TestSource
from tests.bench._measure import console, head, table
from tests.bench.smoothing import (
    Rule,
    Scene,
    acceleration,
    amplitude,
    blink_clip,
    compressed,
    error,
    jitter,
    lag,
    one_euro,
    opened,
    ours,
    out_of_focus,
    rules,
    scene,
    seed_rule,
    speech_amplitude,
    speech_clip,
    spoilt,
    stairs,
    steps,
    worst,
)
from tests.portrait import true_points

SPOKEN = 210
"""Frames of speech: with these, the noise of the detections makes the slope uncertain by 1 %, with 60 by 2 %."""

LEGEND = """still, slow: RMS step of the error from frame to frame, standing and at 1.2 px per frame. accel: RMS of its
second difference. stairs: unevenness of the steps at 1.2 px per frame, per cent of a step.
pan: RMS error at swings of 75 px in 1.5 s, and its lag in frames of 1/30 s; soft: the same out of focus (2 px), jpeg:
as JPEG of quality 25. stop: RMS error moving, standing, turning; over: the largest. cut: the first three frames after
it. blink: per cent of the lids' travel kept in blinks of 150 ms (bare: the picture does not blink). speech: per cent of
the lips' travel kept at 4 syllables per second.
@15, @60: RMS error and lag with cameras of 15 and 60 frames per second. All others in per cent of the eye distance."""


def known_paths() -> None:
    """Print one row per rule."""
    still = scene(motion="still", frames=120)
    slow = scene(motion="triangle", pan=0.05, period=4.0, zoom=0, rotation=0)
    pan = scene(motion="sine", pan=0.25, period=1.5)
    stop = scene(motion="stop_and_go", pan=0.2, period=1.6, zoom=0.0, rotation=0.0, frames=90)
    cut = scene(motion="sine", pan=0.02, cut_every=1.0, size=0.6, frames=34)
    blink, closed = blink_clip()
    bare, _ = blink_clip(in_picture=False)
    speech = speech_clip(frames=SPOKEN)
    slow_camera, fast_camera = scene(fps=15, period=2.0, frames=45), scene(fps=60, period=2.0, frames=180)
    columns = "still accel slow stairs pan lag soft jpeg stop over cut blink bare speech @15 @60 lag@15 lag@60"
    print(f"{'':16}" + "".join(f"{name:>8}" for name in columns.split()))
    for name, rule in rules().items():
        stood, slowly, panned, stopped = rule(still), rule(slow), rule(pan), rule(stop)
        at15, at60 = rule(slow_camera), rule(fast_camera)
        numbers = (
            jitter(stood, still), acceleration(stood, still), jitter(slowly, slow), stairs(slowly, slow),
            error(panned, pan), lag(panned, pan), error(rule(spoilt(pan, out_of_focus)), pan),
            error(rule(spoilt(pan, compressed)), pan), error(stopped, stop), worst(stopped, stop),
            error(rule(cut), cut, slice(30, 33)), amplitude(rule(blink), blink, closed),
            amplitude(rule(bare), bare, closed), speech_amplitude(rule(speech), speech),
            error(at15, slow_camera), error(at60, fast_camera), lag(at15, slow_camera), lag(at60, fast_camera),
        )  # fmt: skip
        print(f"{name:16}" + "".join(f"{number:8.2f}" for number in numbers), flush=True)
    print(LEGEND)


def cost(rounds: int = 5) -> None:
    """Print milliseconds per face for several frame sizes. The frames are made before, as in a graph."""
    for label, width, height in (("480p", 640, 480), ("720p", 1280, 720), ("1080p", 1920, 1080), ("4K", 3840, 2160)):
        clip = scene(width=width, height=height, frames=12)
        images = list(clip.frames())
        clip = clip._replace(frames=lambda images=images: iter(images))
        times = [ms for _ in range(rounds) for ms, _ in list(steps(opened(Smooth()), clip))[1:]]
        print(f"{label:>6}: median {np.median(times):.2f} ms per face, p95 {np.percentile(times, 95):.2f}")


MOTIONS: dict[str, dict[str, Any]] = {
    "at rest": {"motion": "still"},
    "slowly": {"pan": 0.03, "zoom": 0.03, "rotation": 2.0},
    "panned": {"pan": 0.1},
    "turned and panned fast": {"motion": "triangle", "pan": 0.3, "period": 2.0, "rotation": 20.0},
}
"""Paths of the portrait for the released networks; a swing takes 4 seconds by default."""


def with_networks() -> None:
    """Print the error of the steps of points found by the released networks on the portrait with sensor noise."""
    rows = table("error of a step, % of the eye distance", "as found", "Smooth")
    for name, motion in MOTIONS.items():
        shown = run_node(TestSource(frames=150, size=0.6, noise=3.0, **motion))
        true = np.concatenate([true_points(truth) for truth in shown["truth"]])
        node, found, steady = opened(Smooth()), [], []
        for frame, faces in followed(shown["frame"]):
            found.append(faces.landmarks[0])
            steady.append(node.process(frame, faces).landmarks[0])
        eye = np.linalg.norm(true[1:, 36] - true[1:, 45], axis=1)[:, None]
        errors = (np.linalg.norm(np.diff(points - true, axis=0), axis=2) / eye * 100 for points in (found, steady))
        rows.add_row(name, *(f"{error.mean():.2f}" for error in errors))
    console.print(rows)


def followed(frames: Iterable[Frame]) -> Iterator[tuple[Frame, Faces]]:
    """Yield frames with the faces found by detector and landmark network."""
    detector, landmarks = opened(FaceDetector(every=5)), opened(Landmarks())
    for seq, plain in enumerate(frames):
        frame = plain.with_header(plain.header.numbered("clip", seq, 0))
        found = detector.process(frame)
        faces = landmarks.process(frame, found.with_header(frame.header) if isinstance(found, Detections) else None)
        yield frame, faces.with_header(frame.header)


def flow_step(before: NDArray[Any], now: NDArray[Any], points: NDArray[Any]) -> NDArray[Any]:
    """Return the motion of the points (68, 2) by optical flow; NaN where forward and backward flow disagree."""
    start = points.astype(np.float32)
    found, _, _ = cv2.calcOpticalFlowPyrLK(before, now, start, None, winSize=(21, 21), maxLevel=3)
    back, _, _ = cv2.calcOpticalFlowPyrLK(now, before, found, None, winSize=(21, 21), maxLevel=3)
    sure = np.linalg.norm(back - start, axis=1) < 0.5
    return np.where(sure[:, None], found - start, np.nan)


def on_video(path: Path) -> None:
    """Print the steps of the points with each rule, for the face that is visible longest."""
    with closing(opened(Capture(uri=str(path)))) as capture:
        clip = list(followed(capture.process()))
    ids = [int(id_) for _, faces in clip for id_ in faces.ids]
    if not ids:
        console.print(f"{path.name}: no face")
        return
    id_ = max(set(ids), key=ids.count)
    clip = [(frame, faces) for frame, faces in clip if id_ in faces.ids]
    raw = np.stack([faces.landmarks[list(faces.ids).index(id_)] for _, faces in clip])
    eye = np.linalg.norm(raw[:, 36] - raw[:, 45], axis=1)[1:, None, None]
    fps = 1 / float(np.median(np.diff([frame.pts for frame, _ in clip])))
    grey = [cv2.cvtColor(frame.image, cv2.COLOR_BGR2GRAY) for frame, _ in clip]
    node = opened(Smooth())
    smooth = []
    for frame, faces in clip:
        out = node.process(frame, faces)
        smooth.append(out.landmarks[list(out.ids).index(id_)])
    curves: dict[str, NDArray[Any]] = {
        "raw": raw,
        "one-euro": one_euro(1.0, 20.0)(raw, raw, fps),
        "Smooth": np.stack(smooth),
    }
    columns = ("step %", "where sure %", "flow there %", "against flow %", "accel %", "off raw %")
    rows = table(f"{path.name}, {len(clip)} frames", *columns)
    for name, points in curves.items():
        step = np.diff(points, axis=0)
        flowed = np.stack([flow_step(*pair) for pair in zip(grey[:-1], grey[1:], points[:-1], strict=True)])
        seen = np.where(np.isnan(flowed), np.nan, step)
        values = (step / eye, seen / eye, flowed / eye, (step - flowed) / eye, np.diff(step, axis=0) / eye[1:],
                  (points - raw)[1:] / eye)  # fmt: skip
        lengths = (100 * np.nanmean(np.linalg.norm(value, axis=2)) for value in values)
        rows.add_row(name, *(f"{length:.3f}" for length in lengths))
    console.print(rows)
    console.print("means over points and frames, per cent of the eye distance; steps include true motion, which is")
    console.print("`flow there` where optical flow is reliable: shorter steps lag behind")


def plot(path: Path) -> None:
    """Draw jitter of a standing face and error of a panned one over the lag, for many settings of each rule."""
    still = scene(motion="still", frames=90)
    pan = scene(motion="sine", pan=0.25, period=1.5)

    def place(rule: Callable[[Scene], NDArray[Any]]) -> tuple[float, float, float]:
        panned = rule(pan)
        return lag(panned, pan), jitter(rule(still), still), error(panned, pan)

    def plain(rule: Rule) -> Callable[[Scene], NDArray[Any]]:
        return lambda clip: rule(clip.raw, clip.true, clip.fps)

    cutoffs = ((0.5, 2.0), (0.7, 7.0), (1.0, 20.0), (1.5, 40.0), (2.0, 60.0), (4.0, 100.0), (8.0, 200.0))
    strengths = (0.25, 0.5, 1.0, 2.0, 4.0)
    curves: dict[str, list[Callable[[Scene], NDArray[Any]]]] = {
        "as found": [plain(lambda raw, true, fps: raw)],
        "the seed's rule": [plain(seed_rule)],
        "one-euro, 7 settings": [plain(one_euro(*setting)) for setting in cutoffs],
        "Smooth without flow": [lambda clip, s=s: ours(clip, flow=False, strength=s) for s in strengths],
        "Smooth, strength 0.25 to 4": [lambda clip, s=s: ours(clip, strength=s) for s in strengths],
    }
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    colors = ("0.55", "tab:brown", "tab:orange", "tab:cyan", "tab:blue")
    for color, (name, settings) in zip(colors, curves.items(), strict=True):
        places = np.array([place(rule) for rule in settings])
        for panel, column in zip(panels, (1, 2), strict=True):
            panel.plot(places[:, 0], places[:, column], "o-", color=color, label=name, markersize=5)
    for panel, title in zip(panels, ("jitter, standing", "error, panning"), strict=True):
        panel.set(xlabel="lag, frames of 1/30 s", ylabel=f"{title}, % of the eye distance", xlim=(-0.1, None))
        panel.set_ylim(0)
        panel.grid(alpha=0.3)
    panels[0].legend(frameon=False)
    figure.suptitle("Left and low is better: calm on a standing face, prompt on a moving one")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    head("Stability")
    if given.plot:
        plot(given.plot)
        return
    for video in given.videos:
        on_video(video)
    if not given.videos:
        known_paths()
        with_networks()
        cost()


if __name__ == "__main__":
    main()
