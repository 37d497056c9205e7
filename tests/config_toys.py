"""Small nodes and graphs for tests of graph files; @Camera stands for the Camera of this file."""

import datetime
import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from graph import ConfigError, Detections, Faces, Frame, Input, Node, Output, array, setting
from graph.config import load
from graph.spec import GraphSpec

if TYPE_CHECKING:
    from fractions import Fraction


@dataclass(frozen=True, kw_only=True, eq=False)
class Depth(Frame):
    """A subclass of Frame."""

    metres: NDArray[np.float32] = array(np.float32, "H", "W")


class Camera(Node):
    """A source, live if it has a number."""

    frame = Output(Frame)
    uri: str | int = "clip.mp4"
    width: int = setting(640, minimum=16, maximum=7680)
    fps: float = setting(30.0, minimum=0.1)
    noise: float = setting(0.0, maximum=64.0)
    mode: Literal["fast", "slow"] = "fast"
    crop: tuple[int, int] = (0, 0)
    mirror: bool = False
    title: str | None = None

    def live(self) -> bool:
        return isinstance(self.uri, int)

    def process(self) -> Any:
        yield None


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Odd(Node):
    """A source with settings of types that YAML and msgpack lack."""

    frame = Output(Frame)
    path: Path = Path("a")
    colour: Colour = Colour.RED
    numbers: set[int] = setting(None)
    day: datetime.date | None = None
    by_number: dict[int, str] = setting(None)
    names: list[str] = field(default_factory=list)
    area: tuple[tuple[int, int], ...] = ()

    def process(self) -> Any:
        yield None


class Tool:
    """A type that YAML cannot hold."""


class Unfit(Node):
    """A source with a setting of such a type."""

    frame = Output(Frame)
    tool: Tool = setting(None)

    def process(self) -> Any:
        yield None


class Missing(Node):
    """A source with a setting whose type is only imported for the type checker."""

    frame = Output(Frame)
    ratio: "Fraction | None" = None

    def process(self) -> Any:
        yield None


class DepthCamera(Node):
    """A source of a subclass of Frame."""

    frame = Output(Depth)

    def process(self) -> Any:
        yield None


class Detect(Node):
    frame = Input(Frame)
    faces = Output(Detections)

    def process(self, frame: Frame) -> None: ...


class Landmarks(Node):
    frame = Input(Frame)
    found = Input(Detections)
    faces = Output(Faces)

    def process(self, frame: Frame, found: Detections) -> None: ...


class Filter(Node):
    frame = Input(Frame)
    picture = Output(Frame)

    def process(self, frame: Frame) -> None: ...


class Render(Node):
    frame = Input(Frame)
    faces = Input(Faces, optional=True)

    def process(self, frame: Frame, faces: Faces | None) -> None: ...


class Three(Node):
    frame = Input(Frame)
    faces = Input(Faces)
    found = Input(Detections)

    def process(self, frame: Frame, faces: Faces, found: Detections) -> None: ...


class Either(Node):
    left = Input(Frame, optional=True)
    right = Input(Frame, optional=True)

    def process(self, left: Frame | None, right: Frame | None) -> None: ...


class Show(Node):
    frame = Input(Frame)

    def process(self, frame: Frame) -> None: ...


class Writer(Node):
    """A sink that checks its settings itself."""

    frame = Input(Frame)
    path: str
    fps: float = 0.0

    def __post_init__(self) -> None:
        if self.path.endswith(".txt"):
            raise ValueError("a .txt holds no pictures; write .mp4")

    def process(self, frame: Frame) -> None: ...


SHOW = """\
name: g
nodes:
  camera: {type: "@Camera"}
  show: {type: "@Show", inputs: {frame: camera.frame}}
"""

FACES = """\
name: g
nodes:
  camera: {type: "@Camera"}
  detect: {type: "@Detect", inputs: {frame: camera.frame}}
  landmarks: {type: "@Landmarks", inputs: {frame: camera.frame, found: detect.faces}}
  render: {type: "@Render", inputs: {frame: camera.frame, faces: landmarks.faces}}
"""


def write(text: str, name: str = "g.yaml") -> str:
    """Write a graph; @Camera stands for the Camera of this file."""
    Path(name).write_text(text.replace("@", f"{Camera.__module__}:"), encoding="utf-8")
    return name


def errors(text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(write(text), overrides)
    return str(caught.value).replace(Camera.__module__, "@").splitlines()


def good(text: str, *overrides: str) -> GraphSpec:
    return load(write(text), overrides)
