"""Nodes for the tests of recordings."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graph import Faces, Frame, Input, Message, Node
from nodes.source import TestSource
from tests.toys import Source


class GatedSource(TestSource):
    """The test source, which starts when the file `gate` appears, so that the recorder is ready."""

    gate: str = "go"

    def process(self) -> Iterator[dict[str, Message]]:
        while not Path(self.gate).exists():
            time.sleep(0.02)
        yield from super().process()


class GatedNumbers(Source):
    """The source of the toys, with a gate as well."""

    gate: str = "go"

    def process(self) -> Iterator[Frame]:
        while not Path(self.gate).exists():
            time.sleep(0.02)
        yield from super().process()


class Keep(Node):
    """Writes the faces of every frame as bytes."""

    faces = Input(Faces)

    path: str = "faces.bin"

    def open(self) -> None:
        self.file: Any = open(self.path, "wb")  # noqa: SIM115 - closed by close()

    def process(self, faces: Faces) -> None:
        for array in (faces.ids, faces.boxes, faces.landmarks, faces.pose, faces.states, faces.blinks):
            self.file.write(array.tobytes())

    def close(self) -> None:
        self.file.close()
