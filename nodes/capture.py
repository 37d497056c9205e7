"""The source of a graph's frames: a video file, picture files, a webcam or a network camera."""

import re
import time
from collections.abc import Iterator
from glob import glob, has_magic
from os.path import exists, expanduser
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, Self

from graph import ConfigError, Finding, Frame, Header, Node, Output, setting, waiting
from nodes._pacer import Pacer

if TYPE_CHECKING:
    from nodes._video import Shot

SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "tcp", "udp", "srt")
"""Addresses with these schemes are network cameras."""


class Reader(Protocol):
    """A source of pictures. The constructor opens it; the end of `shots`, or `close`, closes it."""

    end: float
    """The pts at which the next picture would be due after `shots` has ended."""

    def shots(self) -> "Iterator[Shot | None]":
        """Yield the pictures from the start; None while a camera has no new one."""

    def close(self) -> None:
        """Close files and devices."""


class Capture(Node):
    """Read a video file, pictures, a webcam or a network camera, with the time at which each picture was taken."""

    frame = Output(Frame)

    uri: str | int  # video, picture, folder or "pattern*.png"; webcam: 0, 1 or /dev/video0; camera: rtsp:// or http://
    width: int = setting(0, minimum=0, maximum=16384)  # pixels to scale to (webcams: to request); 0: unchanged
    height: int = setting(0, minimum=0, maximum=16384)  # likewise; the picture keeps its shape and fits into both
    fps: float = setting(0.0, minimum=0.0, maximum=1000.0)  # frames/s at most; 0: all (picture files 30, snapshots 5)
    loop: bool = False  # restart a file when it ends
    paced: bool = False  # play a file in real time; otherwise as fast as possible
    transport: Literal["tcp", "udp"] = "tcp"  # for RTSP; tcp waits for lost packets, udp does without them
    patience: float = setting(5.0, minimum=0.5, maximum=120.0)  # seconds without a picture before a camera reconnects

    def live(self) -> bool:
        """Return whether pictures come in real time: from a camera, or from a paced file."""
        return self.paced or self._is_device()

    @classmethod
    def check(cls, node: Self | None) -> "Iterator[Finding]":
        """Test codecs and look for webcams; for a graph, open its file, webcam or camera."""
        from nodes import _codecs, _source_check

        yield _codecs.ffmpeg()
        yield from _codecs.check_codecs(_codecs.CODECS)
        if node is None or is_webcam(node.uri):
            yield from _source_check.webcams(None if node is None else node.uri)
        elif is_camera(node.uri):
            yield _source_check.camera(str(node.uri), node.transport, node.patience)
        else:
            yield _source_check.files(str(node.uri), find)

    def reads(self) -> list[Path]:
        """Return the file, or the folder of the pictures."""
        if self._is_device():
            return []
        path = Path(expanduser(str(self.uri)))
        return [path.parent if has_magic(path.name) and not exists(path) else path]

    def open(self) -> None:
        """Open the file or webcam; a network camera connects later. Raises ConfigError if the source is unusable."""
        from nodes._video import Converter

        self._reader = self._open_reader()
        size_is_requested = is_webcam(self.uri) and self.width and self.height
        self._converter = Converter(0, 0) if size_is_requested else Converter(self.width, self.height)

    def _open_reader(self) -> Reader:
        from nodes import _camera, _video, _webcam

        if is_camera(self.uri):
            return _camera.NetworkCamera(str(self.uri), self.transport, self.patience, self.fps)
        if is_webcam(self.uri):
            return _webcam.Webcam(_webcam.device(self.uri), self.width, self.height, self.fps)
        paths = find(str(self.uri))
        return _video.VideoFile(paths, self.fps) if isinstance(paths, Path) else _video.PictureFiles(paths, self.fps)

    def process(self) -> Iterator[Frame | None]:
        """Yield the frames, and None in pauses.

        `t_capture_ns` is when the picture arrived or was decoded, or, if `clock` says so, the time of the camera.
        """
        pacer = Pacer(fps=self.fps) if self.paced and not self._is_device() else None
        for shot, epoch in self._passes():
            if shot is None:
                yield None
                continue
            image = self._converter.convert(shot.picture, self.empty, shot.pixel_aspect)
            arrived_ns = shot.arrived_ns
            if pacer:
                yield from waiting(pacer.left_s(shot.pts))
                arrived_ns = time.monotonic_ns()
            header = Header(seq=shot.place, pts=shot.pts, t_capture_ns=arrived_ns, epoch=epoch + shot.epoch)
            yield Frame(image=image, clock=shot.clock, header=header)

    def _is_device(self) -> bool:
        return is_webcam(self.uri) or is_camera(self.uri)

    def _passes(self) -> "Iterator[tuple[Shot | None, int]]":
        """Yield the pictures with their epoch, repeatedly if `loop`: `pts` keeps growing, each pass is a new epoch."""
        epoch, offset = 0, 0.0
        while True:
            count, first = 0, 0.0
            for shot in self._reader.shots():
                if shot is None:
                    yield None, epoch
                    continue
                count += 1
                first = shot.pts if count == 1 else first
                yield shot._replace(pts=offset + shot.pts), epoch
            if not self.loop:
                return
            offset += self._reader.end - first
            epoch += count > 1  # a single picture shown again is not a new scene

    def close(self) -> None:
        """Close the file, the webcam or the connection."""
        if "_reader" in self.__dict__:
            self._reader.close()


def is_webcam(uri: str | int) -> bool:
    """Return whether `uri` is the index or device of a webcam, or a link to a device. (A file named 0 is ./0.)"""
    if isinstance(uri, int) or uri.isdigit() or re.fullmatch(r"/dev/(video\d+|v4l/.+)", uri):
        return True
    return uri.startswith("/dev/") and Path(uri).is_char_device()


def is_camera(uri: str | int) -> bool:
    """Return whether `uri` is the address of a network camera."""
    scheme, separator, _ = str(uri).partition("://")
    return bool(separator) and scheme.lower() in SCHEMES


def find(uri: str) -> Path | list[Path]:
    """Return the video file, or the pictures in natural order, that `uri` names: frame `seq` is picture `seq`.

    Raises ConfigError if there is nothing, with similar names, or if it is not accessible.
    """
    if not uri:  # for instance from an unset shell variable
        raise ConfigError("uri is empty; expected a file, a folder (. for this one), a webcam or an address")
    if "://" in uri:
        scheme = uri.split("://")[0]  # the rest may contain a password
        raise ConfigError(f"{scheme}:// addresses are not supported; cameras: {', '.join(SCHEMES)}")
    if re.match(r"/dev/(stdin$|fd/)|/proc/(self|thread-self)/fd/", uri):  # a node's own belong to the supervisor
        raise ConfigError(f"{uri} is not passed on to the nodes of a graph: use a named pipe, as from 'mkfifo cam'")
    try:
        return _find_path(uri)
    except OSError as exc:  # a folder of another user, or a name that is too long
        raise ConfigError(f"{exc.filename} cannot be accessed: {exc.strerror}") from exc


def _find_path(uri: str) -> Path | list[Path]:
    from nodes import _picture_files

    path = Path(expanduser(uri)).absolute()  # Path.expanduser would raise RuntimeError for ~nobody
    if not path.exists():
        if not has_magic(uri):
            raise _picture_files.missing(path)
        matches = [Path(match).absolute() for match in glob(expanduser(uri), recursive=True) if Path(match).is_file()]
        if not matches:
            raise ConfigError(f"no file matches {path}")
        if len(matches) > 1:
            return _picture_files.natural_order(matches)
        path = matches[0]
    if path.is_dir():
        return _picture_files.picture_paths(path)
    return [path] if path.suffix.lower() in _picture_files.PICTURE_SUFFIXES else path
