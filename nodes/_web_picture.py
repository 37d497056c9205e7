"""What a browser gets for each frame: a JPEG, and the faces as numbers, which it draws itself."""

import json
import struct
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from graph import Faces, Frame

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Picture:
    """One frame as it is sent: u32 length of the JSON (little-endian), the JSON, the JPEG."""

    data: bytes
    seq: int
    t_capture_ns: int  # CLOCK_MONOTONIC


class Newest:
    """Keeps the newest frame, and compresses it on request, once for all browsers."""

    def __init__(self) -> None:
        self._frame: tuple[Frame, Faces | None] | None = None
        self._made: tuple[Frame, Picture] | None = None

    def put(self, frame: Frame, faces: Faces | None) -> None:
        """Keep a frame. Any thread may call this."""
        self._frame = (frame, faces)

    def picture(self, width: int, quality: int) -> Picture | None:
        """Return the newest picture, the same object until a newer frame comes; None before the first.

        Only one thread may call this at a time.
        """
        if self._frame is None:
            return None
        frame, faces = self._frame
        if self._made is None or self._made[0] is not frame:
            self._made = (frame, make_picture(frame, faces, width, quality))
        return self._made[1]


def make_picture(frame: Frame, faces: Faces | None, width: int, quality: int) -> Picture:
    """Compress a frame, at most `width` pixels wide, with JPEG `quality` 1..100."""
    header = frame.header
    height, full_width = frame.image.shape[:2]
    about = {
        "stream": header.stream,
        "seq": header.seq,
        "epoch": header.epoch,
        "pts": round(header.pts, 3),
        "width": full_width,  # of the frame, whose pixels the faces refer to, not of the JPEG
        "height": height,
        "faces": [] if faces is None else describe_faces(faces),
    }
    text = json.dumps(about, separators=(",", ":"), allow_nan=False).encode()
    data = b"".join((_LENGTH.pack(len(text)), text, encode_jpeg(frame.image, width, quality)))
    return Picture(data, header.seq, header.t_capture_ns)


def encode_jpeg(image: NDArray[np.uint8], width: int, quality: int) -> bytes:
    """Return a BGR picture (H, W, 3) as JPEG, scaled down to `width` if it is wider."""
    if image.shape[1] > width:
        height = max(1, round(image.shape[0] * width / image.shape[1]))
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    done, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"OpenCV cannot write a picture of {image.shape} as JPEG")
    return jpeg.tobytes()


def describe_faces(faces: Faces) -> list[dict[str, Any]]:
    """Return the faces as plain values; None for what is unknown (NaN)."""
    return [
        {
            "id": int(faces.ids[row]),
            "score": _plain(faces.scores[row], 3),
            "box": _plain(faces.boxes[row], 1),
            "landmarks": _plain(faces.landmarks[row].ravel(), 1),  # x0, y0, x1, y1, ...
            "pose": _plain(faces.pose[row], 1),
            "states": _plain(faces.states[row], 2),
            "openness": _plain(faces.openness[row], 3),
            "blinks": int(faces.blinks[row]),
        }
        for row in range(len(faces))
    ]


def _plain(values: NDArray[Any] | np.floating[Any], digits: int) -> Any:
    if not np.isfinite(values).all():
        return None
    return np.round(np.asarray(values, np.float64), digits).tolist()
