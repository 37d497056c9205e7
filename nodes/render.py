"""Draw faces into the picture: contours or points, box, id, score, head pose, eyes and mouth."""

import math
import time
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from graph import STATES, Faces, Frame, Input, Node, Output, setting
from nodes._draw import (
    Color,
    draw_axes,
    draw_brackets,
    draw_contours,
    draw_cube,
    draw_points,
    draw_spread,
    stroke,
    track_color,
)
from nodes._labels import Box, Label, Writer, text_size

SHOWN = 0.5
"""Minimum probability of a state that is shown."""

SURE = 0.75
"""The mouth is called open if the probability that it is not closed is higher; lips that just part are neither."""

MARGIN = 0.14
"""Distance of the box from the landmarks, as a share of their size: jaw and brows stay visible."""

SMALL = 45
"""Pixels. On a smaller face, points would hide the contours, and states are unreliable: its eyes are 8 px wide."""

HYSTERESIS = 0.1
"""Share by which a face must grow or shrink before lines and text do. Otherwise they would flicker: lines on a talking
face of 390 px changed their thickness 21 times in 12 s, text next to a face of 170 px its size 48 times in 9 s."""

WHITE: Color = (250, 250, 250)


def state_words(states: NDArray[Any]) -> list[str]:
    """Return the states (4,) of eyes and mouth in words; open eyes and a closed mouth are not mentioned."""
    probable = {name for name, value in zip(STATES, states, strict=True) if value >= SHOWN}
    words = []
    if {"left_eye_closed", "right_eye_closed"} <= probable:
        words.append("eyes closed")
    elif "left_eye_closed" in probable:
        words.append("left eye closed")
    elif "right_eye_closed" in probable:
        words.append("right eye closed")
    if "mouth_wide_open" in probable:
        words.append("mouth wide open")
    elif states[STATES.index("mouth_closed")] < 1 - SURE:
        words.append("mouth open")
    return words


def size_of(landmarks: NDArray[Any]) -> float:
    """Return the side of the square with the same area as the tight box around one face's points."""
    width, height = np.ptp(landmarks, axis=0)
    return float(max(1.0, np.sqrt(width * height)))


class Render(Node):
    """Draw faces on a copy of the frame. A frame without faces is passed on unchanged."""

    frame = Input(Frame)
    faces = Input(Faces, optional=True)
    image = Output(Frame)

    style: Literal["contours", "points", "both", "none"] = setting("both", changeable=True)  # how to draw landmarks
    box: bool = setting(True, changeable=True)  # mark the corners of a box around each face
    label: bool = setting(True, changeable=True)  # show track id and score
    states: bool = setting(True, changeable=True)  # show closed eyes, open mouth and blinks in words
    pose: Literal["axes", "cube", "none"] = setting("axes", changeable=True)  # how to draw the head pose
    spread: bool = setting(False, changeable=True)  # circles of twice the spread, which hold 93 % of true points
    latency: bool = setting(False, changeable=True)  # show the age of the frame, top left
    scale: float = setting(1.0, minimum=0.2, maximum=5.0, changeable=True)  # size of lines, points and text

    def open(self) -> None:
        """Load the font."""
        self._writer = Writer()
        self._sizes: dict[int, float] = {}  # by track id: the sizes with which the last faces were drawn
        self._sides: dict[int, int] = {}  # by track id: the sides of their labels
        self._copies: dict[tuple[int, int], NDArray[Any]] = {}  # by epoch and seq: the frame that was prepared

    def prepare(self, frame: Frame | None, faces: Faces | None) -> None:
        """Copy the frame while its faces are on their way, if the last frame had any."""
        if frame is not None and faces is None and self._sizes:
            self._copies = {(frame.epoch, frame.seq): self._copy(frame.image)}

    def process(self, frame: Frame, faces: Faces | None) -> Frame:
        """Return the frame with the faces drawn on it."""
        copies, self._copies = self._copies, {}
        faces = faces or Faces()
        if not len(faces) and not self.latency:
            return frame
        image = copies.get((frame.epoch, frame.seq))
        image = self._copy(frame.image) if image is None else image
        sizes = {row: self._size(faces, row) for row in range(len(faces)) if is_located(faces, row)}
        self._sizes = {int(faces.ids[row]): size for row, size in sizes.items()}
        for row, size in sizes.items():
            self._draw_face(image, faces, row, size)
        panels = [self._draw_latency(image, frame.header.t_capture_ns)] if self.latency else []
        self._draw_labels(image, faces, sizes, panels)
        return Frame(image=image)

    def _copy(self, image: NDArray[Any]) -> NDArray[Any]:
        copy = self.empty(image.shape)
        np.copyto(copy, image)
        return copy

    def _size(self, faces: Faces, row: int) -> float:
        """Return the size with which to draw a face: that of the last frame unless it has changed enough."""
        size = size_of(faces.landmarks[row])
        last = self._sizes.get(int(faces.ids[row]), size)
        return last if abs(size - last) <= HYSTERESIS * last else size

    def _draw_face(self, image: NDArray[Any], faces: Faces, row: int, size: float) -> None:
        landmarks, color = faces.landmarks[row], track_color(int(faces.ids[row]))
        thickness = max(1, round(stroke(size) * self.scale))
        outline = 1 if size >= 80 else 0  # on a small face, dark rims would cover too much
        if self.box:
            draw_brackets(image, outer_box(faces, row), color, thickness, outline)
        if self.style in ("contours", "both"):
            draw_contours(image, landmarks, color, thickness, outline)
        if self.style == "points" or (self.style == "both" and size >= SMALL):
            shade = WHITE if self.style == "both" else color
            draw_points(image, landmarks, shade, radius(size) * self.scale, 0.7 * (size >= 140))
        if self.spread and np.isfinite(faces.spread[row]).all():
            draw_spread(image, landmarks, faces.spread[row], WHITE)
        if np.isfinite(faces.pose[row]).all():
            if self.pose == "axes":
                draw_axes(image, landmarks[30], faces.pose[row], 0.45 * size_of(landmarks), thickness, outline)
            elif self.pose == "cube":
                centre = (landmarks.min(axis=0) + landmarks.max(axis=0)) / 2
                draw_cube(image, centre, faces.pose[row], 1.1 * size_of(landmarks), color, thickness)

    def _draw_labels(self, image: NDArray[Any], faces: Faces, sizes: dict[int, float], panels: list[Box]) -> None:
        """Write a label next to each face, clear of `panels`; the largest faces choose first."""
        ids, labels = [], []
        for row in sorted(sizes, key=lambda row: -sizes[row]):
            lines, id_ = self._lines(faces, row, sizes[row]), int(faces.ids[row])
            if lines:
                size = round(text_size(sizes[row], image.shape[0]) * self.scale)
                ids.append(id_)
                labels.append(Label(lines, outer_box(faces, row), size, track_color(id_), self._sides.get(id_, 0)))
        sides = self._writer.label_all(image, labels, [*panels, *(outer_box(faces, row) for row in sizes)])
        self._sides = dict(zip(ids, sides, strict=True))

    def _lines(self, faces: Faces, row: int, size: float) -> list[str]:
        lines = []
        if self.label:
            lines.append(f"#{faces.ids[row]}   {100 * faces.scores[row]:.0f} %")
        if self.states and size >= SMALL:
            lines += state_words(faces.states[row])
            if faces.blinks[row]:
                lines.append(f"{faces.blinks[row]} blink{'s' if faces.blinks[row] > 1 else ''}")
        return lines

    def _draw_latency(self, image: NDArray[Any], t_capture_ns: int) -> Box:
        age = (time.monotonic_ns() - t_capture_ns) / 1e6
        size = round(max(12, min(image.shape[:2]) / 36) * self.scale)
        lines = [f"{age:.1f} ms after capture"]
        needed = self._writer.extent(lines, size)[0] + size  # with half a line on both sides
        size = max(1, min(size, size * image.shape[1] // needed))
        wide, high = self._writer.extent(lines, size)
        corner = round(size / 2)
        panel = (corner, corner, corner + wide, corner + high)
        self._writer.panel(image, lines, panel, size, WHITE)
        return panel


def is_located(faces: Faces, row: int) -> bool:
    """Return whether the landmarks and the box of a face are known."""
    return bool(np.isfinite(faces.landmarks[row]).all() and np.isfinite(faces.boxes[row]).all())


def outer_box(faces: Faces, row: int) -> Box:
    """Return the box of a face as it is drawn: x0, y0, x1, y1, with MARGIN on all sides."""
    x0, y0, x1, y1 = faces.boxes[row].tolist()
    margin = MARGIN * math.sqrt(max(0.0, (x1 - x0) * (y1 - y0)))
    return x0 - margin, y0 - margin, x1 + margin, y1 + margin


def radius(face: float) -> float:
    """Return the radius of the points on a face of this size, pixels."""
    return max(0.5, face / 100) if face < SMALL else max(0.8, face / 100)
