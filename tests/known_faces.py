"""A source of frames with known faces, for tests of what shows or forwards them."""

import time
from collections.abc import Iterator
from typing import Literal

import numpy as np

from graph import Faces, Frame, Message, Node, Output, setting
from tests import portrait


class KnownFaces(Node):
    """Plain frames of 512 x 384 pixels with `count` copies of one face, 200 px apart."""

    frame = Output(Frame)
    faces = Output(Faces)

    frames: int = setting(0, minimum=0)  # end after this many; 0: never
    pause: float = setting(0.03, minimum=0.0, changeable=True)  # seconds between frames
    grey: int = setting(60, minimum=0, maximum=255, changeable=True)  # level of the picture
    count: int = setting(1, minimum=0, maximum=2, changeable=True)  # faces
    mood: Literal["awake", "asleep"] = setting("awake", changeable=True)  # of the faces
    region: tuple[float, float] | None = setting(None, changeable=True)  # unused
    secret: str = "not to be changed"

    def live(self) -> bool:
        return True

    def changed(self, name: str) -> None:
        if name == "grey" and self.grey == 13:
            raise ValueError("13 is bad luck")

    def process(self) -> Iterator[dict[str, Message]]:
        seq = 0
        while not self.frames or seq < self.frames:
            image = self.empty((384, 512, 3))
            image[:] = self.grey
            image[:, :64] = (250, 20, 20)  # blue on the left
            yield {"frame": Frame(image=image), "faces": known(self.count, asleep=self.mood == "asleep")}
            time.sleep(self.pause)
            seq += 1


def known(count: int, asleep: bool = False) -> Faces:
    """The faces of a frame: ids 3 and 4, as large as in the portrait, the first 64 px left of it."""
    points = portrait.LANDMARKS + np.float32([[[-64, 0]], [[136, 0]]])
    faces = portrait.faces(points[:count], first_id=3)
    faces.states[:, :2] = 0.9 if asleep else 0.02
    faces.pose[:] = (5, -20, 10)
    faces.openness[:] = (0.3, 0.2, 0.1)
    faces.blinks[:] = range(1, count + 1)
    return faces
