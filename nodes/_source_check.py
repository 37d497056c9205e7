"""Whether the pictures that a Capture wants can be had: webcams, a camera on the network, files."""

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
    """Give a line per webcam, and say whether the one that a graph wants is there."""
    found = _webcam.devices()
    for address, name in found:
        yield _webcam_finding(address, name)
    if wanted is None and not found:
        yield Finding("webcam", "note", "none here", "plug one in; a file or a network camera does as well")
    if wanted is not None and sys.platform == "linux":
        asked = _webcam.device(wanted).name
        if str(Path(asked).resolve()) not in dict(found):  # /dev/v4l/by-id/... is a link
            there = ", ".join(dict(found)) or "none"
            yield Finding(
                asked, "problem", f"there is no such webcam; there are: {there}", "--set camera.uri=FILE or 1"
            )


def _webcam_finding(address: str, name: str) -> Finding:
    if sys.platform != "linux":
        return Finding(address, "ok", name)
    try:
        formats = _webcam.formats(address)
    except OSError as exc:
        remedy = VIDEO_GROUP if exc.errno == errno.EACCES else f"fuser -v {address} names who uses it"
        return Finding(address, "problem", f"{name}: {exc.strerror}", remedy)
    return Finding(address, "ok", f"{name}: {', '.join(formats) or 'gives no pictures (the second node of a camera)'}")


def camera(uri: str, transport: Transport, patience_s: float) -> Finding:
    """Connect to a camera once, and wait for a picture."""
    began = time.monotonic()
    try:
        about = NetworkCamera(uri, transport, patience_s, 0.0).probe()
    except (ConfigError, NodeError) as exc:
        return Finding("camera", "problem", str(exc), "VLC or ffplay with the same address shows whose fault it is")
    return Finding("camera", "ok", f"{redact(uri)}: {about}; first picture after {time.monotonic() - began:.1f} s")


def files(uri: str, find: Callable[[str], Path | list[Path]]) -> Finding:
    """Open the file, or read the first of the pictures."""
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
        return Finding("file", "problem", str(exc), "--set NODE.uri=FILE, another file")
    return Finding("file", "ok", f"{paths}, {picture.width} x {picture.height}")
