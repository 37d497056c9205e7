"""Draw the faces into the picture: contours or points, box, id, score, head pose, eyes and mouth."""

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
"""Probability from which a state is named."""

SURE = 0.75
"""Probability against a closed mouth from which it is called open: lips that just part are neither."""

ROOM = 0.14
"""How far the box is drawn outside the landmarks, of their size: it then leaves the jaw and the brows free."""

SMALL = 45
"""Pixels: a face below has no points on its contours, which would hide it, and no states: its eyes are 8 px wide."""

HELD = 0.1
"""Share by which a face has to grow or shrink before lines and text do, which would flicker between whole pixels: on a
talking face of 390 px lines were thicker or thinner 21 times in 12 s, text beside one of 170 px 48 times in 9 s."""

WHITE: Color = (250, 250, 250)


def state_words(states: NDArray[Any]) -> list[str]:
    """Return what eyes and mouth (4,) do, in words; open eyes and a closed mouth go without saying."""
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
    """Return the side of the square as large as the tight box around one face's points."""
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
        self._sizes: dict[int, float] = {}  # of the faces in the last frame, as they were drawn, by track id
        self._sides: dict[int, int] = {}  # of their labels
        self._copies: dict[tuple[int, int], NDArray[Any]] = {}  # of the prepared frame, by epoch and seq

    def prepare(self, frame: Frame | None, faces: Faces | None) -> None:
        """Copy the frame while its faces are on their way, if the last frame had any."""
        if frame is not None and faces is None and self._sizes:
            self._copies = {(frame.epoch, frame.seq): self._copy(frame.image)}

    def process(self, frame: Frame, faces: Faces | None) -> Frame:
        """Return the frame with the faces drawn on it."""
        copies, self._copies = self._copies, {}
        found = faces is not None and len(faces) > 0
        if not found and not self.latency:
            return frame
        image = copies.get((frame.epoch, frame.seq))
        image = self._copy(frame.image) if image is None else image
        faces = faces or Faces()
        seen = [row for row in range(len(faces)) if is_known(faces, row)]
        sizes = {row: self._size(faces, row) for row in seen}
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
        """Return the size by which a face is drawn: as in the last frame, unless it has become another."""
        size = size_of(faces.landmarks[row])
        last = self._sizes.get(int(faces.ids[row]), size)
        return last if abs(size - last) <= HELD * last else size

    def _draw_face(self, image: NDArray[Any], faces: Faces, row: int, size: float) -> None:
        landmarks, color = faces.landmarks[row], track_color(int(faces.ids[row]))
        thickness = max(1, round(stroke(size) * self.scale))
        outline = 1 if size >= 80 else 0  # on a small face dark rims would cover what they frame
        if self.box:
            draw_brackets(image, frame_of(faces, row), color, thickness, outline)
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
        """Write beside each face, off the `panels` that are there; the largest faces have the first choice."""
        ids, labels = [], []
        for row in sorted(sizes, key=lambda row: -sizes[row]):
            lines, id_ = self._lines(faces, row, sizes[row]), int(faces.ids[row])
            if lines:
                size = round(text_size(sizes[row], image.shape[0]) * self.scale)
                ids.append(id_)
                labels.append(Label(lines, frame_of(faces, row), size, track_color(id_), self._sides.get(id_, 0)))
        sides = self._writer.label_all(image, labels, [*panels, *(frame_of(faces, row) for row in sizes)])
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
        needed = self._writer.extent(lines, size)[0] + size  # with half a line's room on both sides
        size = max(1, min(size, size * image.shape[1] // needed))
        wide, high = self._writer.extent(lines, size)
        corner = round(size / 2)
        panel = (corner, corner, corner + wide, corner + high)
        self._writer.panel(image, lines, panel, size, WHITE)
        return panel


def is_known(faces: Faces, row: int) -> bool:
    """Return whether it is said where a face is."""
    return bool(np.isfinite(faces.landmarks[row]).all() and np.isfinite(faces.boxes[row]).all())


def frame_of(faces: Faces, row: int) -> Box:
    """Return where the box of a face is drawn: x0, y0, x1, y1, with ROOM on all sides."""
    x0, y0, x1, y1 = faces.boxes[row].tolist()
    room = ROOM * math.sqrt(max(0.0, (x1 - x0) * (y1 - y0)))
    return x0 - room, y0 - room, x1 + room, y1 + room


def radius(face: float) -> float:
    """Return the radius of the points on a face of that size, pixels."""
    return max(0.5, face / 100) if face < SMALL else max(0.8, face / 100)
