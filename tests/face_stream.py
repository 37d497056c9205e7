"""A stream of synthetic faces, and their tracks."""

import numpy as np

from nodes._geometry import landmark_box
from nodes._tracks import Look, Tracks, apart

SIZE = (640, 480)
FPS = 30


def face(x: float, y: float, side: float = 100.0) -> np.ndarray:
    """68 points whose box has its centre at x, y: a ring for the jaw, eyes above the mouth inside."""
    turn = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    points = np.stack((np.cos(turn), np.sin(turn)), 1) * 0.5
    points[36:42], points[42:48], points[48:60] = (-0.2, -0.2), (0.2, -0.2), (0, 0.3)
    return (points * side + (x, y)).astype(np.float32)


class Stream:
    """Runs Tracks over frames with a fake network that finds `faces` near each look."""

    def __init__(self, patience: float = 0.5, fps: float = FPS) -> None:
        self.tracks = Tracks(presence=0.5, patience=patience)
        self.fps = fps
        self.seq = -1
        self.looks: list[Look] = []

    def frame(
        self, *faces: np.ndarray, found: list[np.ndarray] | None = None, late: int = 0, sure: float = 0.8
    ) -> dict[int, np.ndarray]:
        """Advance one frame; `found` are the detections in the frame `late` frames ago."""
        self.seq += 1
        boxes = None if found is None else self.boxes(found)
        rolls = np.zeros(len(found or ()), np.float32)
        now = self.seq / self.fps
        self.looks = self.tracks.look(boxes, rolls, (self.seq - late) / self.fps, now)
        landmarks = np.zeros((len(self.looks), 68, 2), np.float32)
        presence = np.zeros(len(self.looks), np.float32)
        for row, look in enumerate(self.looks):
            near = apart(look.box, self.boxes(faces))
            landmarks[row] = faces[near.argmin()] if len(faces) else look.box[:2]
            presence[row] = sure if len(faces) and near.min() < 0.5 else 0.1
        pairs = self.tracks.see(self.looks, landmarks, presence, SIZE, now)
        return {track.id: landmarks[row] for track, row in pairs}

    @staticmethod
    def boxes(faces) -> np.ndarray:
        return landmark_box(np.array(list(faces), np.float32).reshape(-1, 68, 2))
