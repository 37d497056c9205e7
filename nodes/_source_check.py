"""Check for `doctor` whether the source of a Capture works: webcams, a network camera, files."""

import errno
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from graph import ConfigError, Finding, NodeError, redact
from nodes import _video, _webcam
from nodes._camera import NetworkCamera, Transport

VIDEO_GROUP = "sudo usermod -aG video $USER, then log in again"


def webcams(wanted: str | int | None) -> Iterator[Finding]:
    """Yield one line per webcam, and a problem if the one that a graph uses is missing."""
    found = _webcam.devices()
    for address, name in found:
        yield _webcam_finding(address, name)
    if wanted is None and not found:
        yield Finding("webcam", "note", "none found", "plug one in, or use a file or a network camera")
    if wanted is not None and sys.platform == "linux":
        name = _webcam.device(wanted).name
        if str(Path(name).resolve()) not in dict(found):  # /dev/v4l/by-id/... is a link
            others = ", ".join(dict(found)) or "none"
            yield Finding(name, "problem", f"no such webcam; available: {others}", "--set camera.uri=FILE or 1")


def _webcam_finding(address: str, name: str) -> Finding:
    if sys.platform != "linux":
        return Finding(address, "ok", name)
    try:
        formats = _webcam.formats(address)
    except OSError as exc:
        remedy = VIDEO_GROUP if exc.errno == errno.EACCES else f"fuser -v {address} shows who uses it"
        return Finding(address, "problem", f"{name}: {exc.strerror}", remedy)
    return Finding(address, "ok", f"{name}: {', '.join(formats) or 'no pictures (second device of a camera)'}")


def camera(uri: str, transport: Transport, patience_s: float) -> Finding:
    """Connect to a camera once and wait for a picture."""
    began = time.monotonic()
    try:
        about = NetworkCamera(uri, transport, patience_s, 0.0).probe()
    except (ConfigError, NodeError) as exc:
        return Finding("camera", "problem", str(exc), "try the same address in VLC or ffplay")
    return Finding("camera", "ok", f"{redact(uri)}: {about}; first picture after {time.monotonic() - began:.1f} s")


def files(uri: str, find: Callable[[str], Path | list[Path]]) -> Finding:
    """Open the video file, or read the first picture."""
    try:
        paths = find(uri)
        if isinstance(paths, list):
            shot = next(_video.PictureFiles(paths, 0.0).shots())
            size = f"{shot.picture.width} x {shot.picture.height}"
            return Finding("file", "ok", f"{len(paths)} pictures, the first {size}")
        reader = _video.VideoFile(paths)
        picture = next(reader.shots()).picture
        reader.close()
    except (ConfigError, NodeError) as exc:
        return Finding("file", "problem", str(exc), "--set NODE.uri=FILE to another file")
    return Finding("file", "ok", f"{paths}, {picture.width} x {picture.height}")
