"""Write frames to a folder of pictures."""

import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

import cv2

from graph import ConfigError, Frame, Input, Node, NodeError, setting


class RecordImages(Node):
    """Write frames as pictures named by their number: 00000042.jpg is frame 42."""

    frame = Input(Frame)

    folder: str  # created if missing; pictures of the same number are overwritten
    format: Literal["jpg", "png", "webp"] = "jpg"  # of the files
    quality: int = setting(92, minimum=1, maximum=100)  # of jpg and webp; png is lossless
    every: int = setting(1, minimum=1, changeable=True)  # write the first and then every N-th frame

    def writes(self) -> list[Path]:
        """Return the folder."""
        return [Path(self.folder).expanduser()]

    def open(self) -> None:
        """Create the folder. Raises ConfigError if that fails or it is not writable."""
        self._count = -1
        self._folder = Path(self.folder).expanduser().absolute()
        self._flags = {
            "jpg": [cv2.IMWRITE_JPEG_QUALITY, self.quality],
            "webp": [cv2.IMWRITE_WEBP_QUALITY, self.quality],
            "png": [cv2.IMWRITE_PNG_COMPRESSION, 1],
        }[self.format]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=self._folder).close()
        except (FileExistsError, NotADirectoryError) as exc:
            in_the_way = next(path for path in (self._folder, *self._folder.parents) if os.path.lexists(path))
            raise ConfigError(f"cannot write to {self._folder}: {in_the_way} is not a folder") from exc
        except OSError as exc:
            raise ConfigError(f"cannot write to {self._folder}: {exc.strerror}") from exc

    def process(self, frame: Frame) -> None:
        """Write one picture, under a temporary name first, so that no incomplete one has its final name."""
        self._count += 1
        if self._count % self.every:
            return
        path = self._folder / f"{frame.seq:08d}.{self.format}"
        unfinished = path.with_suffix(".part")
        done, data = cv2.imencode(f".{self.format}", frame.image, self._flags)
        if not done:
            height, width = frame.image.shape[:2]
            raise NodeError(f"{path}: {self.format} does not support a picture of {width} x {height}")
        try:
            unfinished.write_bytes(data.tobytes())
            unfinished.replace(path)
        except OSError as exc:
            with suppress(OSError):  # it may not exist, for instance on a disk that has become read-only
                unfinished.unlink()
            raise NodeError(f"{path}: {exc.strerror}") from exc
