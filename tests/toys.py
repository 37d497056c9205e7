"""Small nodes for the graphs in tests of the runtime."""

import ctypes
import importlib
import json
import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graph import EndOfStream, Frame, Header, Input, Message, Node, Output, array, setting, slots

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Numbers(Message):
    """A message type that graph/ does not define."""

    word: str = ""
    values: NDArray[np.float64] = array(np.float64, "N")


def picture(seq: int, size: int = 64) -> NDArray[np.uint8]:
    """A picture with its number in every pixel."""
    return np.full((size, size, 3), seq % 251, np.uint8)


class Source(Node):
    """Counts frames; each is filled with its number."""

    frame = Output(Frame)

    frames: int = 100
    size: int = 64  # pixels; 64 is above the inline limit
    pause: float = 0.0  # seconds between frames
    is_live: bool = False
    born: bool = False  # in shared memory
    pause_after: int = -1  # frame after which to hang
    sizes: bool = False  # another picture size every 10 frames

    def live(self) -> bool:
        return self.is_live

    def process(self) -> Iterator[Frame]:
        for seq in range(self.frames):
            size = self.size + (seq // 10) * 8 if self.sizes else self.size
            image = self.empty((size, size, 3)) if self.born else np.empty((size, size, 3), np.uint8)
            image[:] = seq % 251
            if self.pause:
                time.sleep(self.pause)
            yield Frame(image=image, header=Header(pts=seq / 25))
            if seq == self.pause_after:
                time.sleep(1000)


class Shrink(Node):
    """Yields ten large frames, then small ones without end, and frees idle memory soon."""

    frame = Output(Frame)

    def open(self) -> None:
        slots.IDLE_S = 0.1

    def process(self) -> Iterator[Frame]:
        for seq in count():
            yield Frame(image=picture(seq, 1000 if seq < 10 else 64))
            time.sleep(0.01)


class Camera(Node):
    """Alternates between a frame and nothing, like a camera with an unstable connection; or never yields a frame."""

    frame = Output(Frame)

    comes: bool = True

    def live(self) -> bool:
        return True

    def process(self) -> Iterator[Frame | None]:
        for turn in range(40):
            time.sleep(0.05)
            yield Frame(image=picture(turn)) if self.comes and turn % 4 == 0 else None


class Copy(Node):
    """Copies frames, after a pause if that is set."""

    frame = Input(Frame)
    copied = Output(Frame)

    pause: float = setting(0.0, minimum=0.0, changeable=True)
    every: int = 1  # copies only every n-th frame
    load: float = 0.0  # seconds that it takes to open

    def open(self) -> None:
        time.sleep(self.load)

    def process(self, frame: Frame) -> Frame | None:
        time.sleep(self.pause)
        return Frame(image=frame.image) if frame.seq % self.every == 0 else None


class Fail(Node):
    """Fails at the set frame in the set way."""

    frame = Input(Frame)
    copied = Output(Frame)

    at: int = 5
    how: str = "raise"  # raise, interrupt, exit, crash, sys.exit, nonsense, open, import, close, hang

    def open(self) -> None:
        if self.how == "import":
            importlib.import_module("no_such_package")
        if self.how == "open":
            raise RuntimeError("no such model")

    def process(self, frame: Frame) -> Any:
        print("frame", frame.seq, "came")
        if frame.seq == self.at and self.how == "raise":
            raise ZeroDivisionError("seven by zero")
        if frame.seq == self.at and self.how == "interrupt":
            raise KeyboardInterrupt
        if frame.seq == self.at and self.how == "exit":
            os._exit(7)
        if frame.seq == self.at and self.how == "crash":
            ctypes.string_at(0)
        if frame.seq == self.at and self.how == "sys.exit":
            sys.exit("bye")
        if frame.seq == self.at and self.how == "nonsense":
            return "text"
        return Frame(image=frame.image)

    def close(self) -> None:
        if self.how == "close":
            raise RuntimeError("disk full")
        if self.how == "hang":
            time.sleep(1000)


class Linger(Node):
    """Leaves a thread behind that does not end."""

    frame = Input(Frame)

    def open(self) -> None:
        threading.Thread(target=time.sleep, args=(1000,), name="lingers").start()

    def process(self, frame: Frame) -> None:
        pass


class FailOnce(Node):
    """Fails on its first start, when the file `mark` does not exist yet."""

    frame = Input(Frame)
    copied = Output(Frame)

    mark: str = ""

    def process(self, frame: Frame) -> Frame:
        if frame.seq >= 5 and not os.path.exists(self.mark):
            with open(self.mark, "w", encoding="utf-8"):
                pass
            raise ZeroDivisionError("the first time")
        return Frame(image=frame.image)


class Talk(Node):
    """Logs a long text for every frame."""

    frame = Input(Frame)

    length: int = 100_000  # characters

    def process(self, frame: Frame) -> None:
        logger.warning("frame %d: %s. The end.", frame.seq, "x" * self.length)


class Keep(Node):
    """Keeps the last frames, like a node that delays."""

    frame = Input(Frame)
    copied = Output(Frame)

    count: int = 40

    def open(self) -> None:
        self.kept: list[Frame] = []

    def process(self, frame: Frame) -> Frame:
        self.kept = [*self.kept[-self.count :], frame]
        assert all((kept.image == kept.seq % 251).all() for kept in self.kept)
        return Frame(image=frame.image)


class Pair(Node):
    """Joins two inputs."""

    a = Input(Frame)
    b = Input(Frame, optional=True)
    paired = Output(Numbers)

    def process(self, a: Frame, b: Frame | None) -> Numbers:
        values = [a.seq, a.image[0, 0, 0], -1 if b is None else b.seq]
        return Numbers(word="pair", values=np.array(values, np.float64))


class Ahead(Node):
    """Joins two inputs, and says of each frame how often it prepared it; AfterAhead waits for that."""

    a = Input(Frame)
    b = Input(Frame)
    numbers = Output(Numbers)

    def open(self) -> None:
        self.prepared: Counter[int] = Counter()

    def prepare(self, a: Frame | None, b: Frame | None) -> None:
        if a is not None and b is None:
            assert a.image[0, 0, 0] == a.seq % 251
            self.prepared[a.seq] += 1
            Path(f"prepared-{a.seq}").touch()

    def process(self, a: Frame, b: Frame) -> Numbers:
        return Numbers(values=np.array([self.prepared[a.seq]], np.float64))


class AfterAhead(Node):
    """Hands a frame on once Ahead has prepared it."""

    frame = Input(Frame)
    copied = Output(Frame)

    def process(self, frame: Frame) -> Frame:
        while not Path(f"prepared-{frame.seq}").exists():
            time.sleep(0.01)
        return Frame(image=frame.image)


class Untimed(Node):
    """A source that sets no times."""

    frame = Output(Frame)

    def process(self) -> Iterator[Frame]:
        for seq in range(5):
            yield Frame(image=picture(seq))
            time.sleep(0.002)


class Times(Node):
    """Outputs the pts of every frame."""

    frame = Input(Frame)
    times = Output(Numbers)

    def process(self, frame: Frame) -> Numbers:
        return Numbers(values=np.array([frame.pts]))


class Write(Node):
    """Writes a line for every frame: seq, epoch, first pixel, pts, nodes on the way."""

    frame = Input(Frame)

    path: str = "out.jsonl"
    pause: float = 0.0
    stop_after: int = -1
    load: float = 0.0  # seconds that it takes to open

    def open(self) -> None:
        time.sleep(self.load)
        self.file = open(self.path, "w", encoding="utf-8")  # noqa: SIM115 - closed by close()

    def process(self, frame: Frame) -> None:
        time.sleep(self.pause)
        same = bool((frame.image == frame.image[0, 0, 0]).all())
        row = [frame.seq, frame.epoch, int(frame.image[0, 0, 0]), same, [hop.node for hop in frame.header.hops]]
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()
        if frame.seq == self.stop_after:
            raise EndOfStream

    def close(self) -> None:
        self.file.write("closed\n")
        self.file.close()
        logger.info("closed in order")


class WriteNumbers(Node):
    """Writes the values of every message."""

    numbers = Input(Numbers)

    path: str = "numbers.jsonl"

    def open(self) -> None:
        self.file = open(self.path, "w", encoding="utf-8")  # noqa: SIM115 - closed by close()

    def process(self, numbers: Numbers) -> None:
        self.file.write(json.dumps([numbers.seq, numbers.values.tolist()]) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()


class Patient(Node):
    """Ends the graph when nothing has come for a while."""

    frame = Input(Frame)

    def open(self) -> None:
        self.quiet = 0

    def process(self, frame: Frame) -> None:
        self.quiet = 0

    def idle(self) -> None:
        self.quiet += 1
        if self.quiet > 5:
            raise EndOfStream


class Picky(Node):
    """Refuses some values of its setting; outputs its value and the name of its graph."""

    frame = Input(Frame)
    numbers = Output(Numbers)

    even: int = setting(2, minimum=0, maximum=100, changeable=True)  # apples
    token: str = setting("open sesame", changeable=True, secret=True)
    ripe: bool = setting(False, changeable=True)
    uri: str = "rtsp://user:wonder@host/stream"
    folder: Path = setting(Path("here"), changeable=True)

    def changed(self, name: str) -> None:
        assert isinstance(self.folder, Path)
        if self.even % 2:
            raise ValueError(f"{self.even} is odd")

    def process(self, frame: Frame) -> Numbers:
        return Numbers(word=self.graph_name, values=np.array([self.even], np.float64))
