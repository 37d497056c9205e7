"""Pictures into a graph: a video file, pictures, a webcam, or a camera on the network."""

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
"""Beginnings of addresses that are taken for cameras."""


class Reader(Protocol):
    """Where pictures come from; opened by its constructor, closed by the end of `shots` or by `close`."""

    end: float
    """When the next picture would be due after `shots` has ended, on the axis of its pictures' pts."""

    def shots(self) -> "Iterator[Shot | None]":
        """Yield the pictures from the beginning; None where a camera has none for the moment."""

    def close(self) -> None:
        """Give back files and devices."""


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
        return self.paced or is_webcam(self.uri) or is_camera(self.uri)

    @classmethod
    def check(cls, node: Self | None) -> "Iterator[Finding]":
        """Try codecs and look for webcams; of a graph, open the file, the webcam or the camera that it names."""
        from nodes import _codecs, _source_check

        yield _codecs.ffmpeg()
        yield from _codecs.tried(tuple(_codecs.CODECS))
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
        """Open the file or the webcam; raises ConfigError if that cannot be. A network camera is waited for."""
        from nodes._video import Converter

        self._reader = self._find_reader()
        mode_is_asked = is_webcam(self.uri) and self.width and self.height
        self._converter = Converter(0, 0) if mode_is_asked else Converter(self.width, self.height)

    def _find_reader(self) -> Reader:
        if is_camera(self.uri):
            from nodes._camera import NetworkCamera

            return NetworkCamera(str(self.uri), self.transport, self.patience, self.fps)
        return self._webcam() if is_webcam(self.uri) else self._files()

    def _webcam(self) -> Reader:
        from nodes._webcam import Webcam, device

        return Webcam(device(self.uri), self.width, self.height, self.fps)

    def _files(self) -> Reader:
        from nodes._video import PictureFiles, VideoFile

        paths = find(str(self.uri))
        return VideoFile(paths, self.fps) if isinstance(paths, Path) else PictureFiles(paths, self.fps)

    def process(self) -> Iterator[Frame | None]:
        """Yield the frames; `t_capture_ns` is their arrival from the camera or the decoder, unless `clock` says more.

        Yields None in pauses.
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
        """Yield the pictures, again and again if `loop`: `pts` goes on growing, and a new pass is a new epoch."""
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
            epoch += count > 1  # one picture shown again is no new scene

    def close(self) -> None:
        """Close the file or give the webcam back."""
        if "_reader" in self.__dict__:
            self._reader.close()


def is_webcam(uri: str | int) -> bool:
    """Return whether `uri` is a webcam's index, device or a link to one rather than a file (a file named 0 is ./0)."""
    if isinstance(uri, int) or uri.isdigit() or re.fullmatch(r"/dev/(video\d+|v4l/.+)", uri):
        return True
    return uri.startswith("/dev/") and Path(uri).is_char_device()


def is_camera(uri: str | int) -> bool:
    """Return whether `uri` is the address of a camera on the network."""
    return isinstance(uri, str) and "://" in uri and uri.partition("://")[0].lower() in SCHEMES


def find(uri: str) -> Path | list[Path]:
    """Return the video file, or the pictures in natural order, that `uri` means: frame `seq` is picture `seq`.

    Raises ConfigError if there is nothing, with the names that come near, or nothing that may be looked at.
    """
    if not uri:  # as of a shell's variable that is not set
        raise ConfigError("uri is empty; expected a file, a folder (. for this one), a webcam or an address")
    if "://" in uri:
        scheme = uri.split("://")[0]  # the rest may hold a password
        raise ConfigError(f"{scheme}:// addresses cannot be read; cameras are read from {', '.join(SCHEMES)}")
    if re.match(r"/dev/(stdin$|fd/)|/proc/(self|thread-self)/fd/", uri):  # a node's own come from the supervisor
        raise ConfigError(f"{uri} is not handed on to the nodes of a graph: name a pipe, as from 'mkfifo cam'")
    try:
        return _found(uri)
    except OSError as exc:  # a folder of somebody else, or a name that is too long
        raise ConfigError(f"{exc.filename} cannot be looked at: {exc.strerror}") from exc


def _found(uri: str) -> Path | list[Path]:
    from nodes import _video

    path = Path(expanduser(uri)).absolute()  # ~nobody stays as it is, where Path raises RuntimeError
    if not path.exists():
        if not has_magic(uri):
            raise _video.missing(path)
        matches = [Path(match).absolute() for match in glob(expanduser(uri), recursive=True) if Path(match).is_file()]
        if not matches:
            raise ConfigError(f"no file matches {path}")
        if len(matches) > 1:
            return _video.natural_order(matches)
        path = matches[0]
    if path.is_dir():
        return _video.picture_paths(path)
    return [path] if path.suffix.lower() in _video.PICTURE_SUFFIXES else path
