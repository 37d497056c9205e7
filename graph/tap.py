"""Print what a port of a running graph sends: `run_graph.py tap smooth.faces`."""

import json
import math
import os
import time
from collections import deque
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graph.attached import RunningGraph
from graph.errors import ConfigError
from graph.messages import Frame, Message

SHOWN = 12  # numbers; longer arrays are summarized
SHOWN_FULL = 65_536  # the same with --full; pictures are longer
DECIMALS = 3
EVERY_S = 1.0  # between two lines of `rates` or `bandwidth`
WINDOW = 1000  # messages
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tiff")
QUEUE = 64  # in the sender, so that bursts are seen whole


def messages(g: RunningGraph, port: str, count: int | None = None) -> Iterator[Message]:
    """Yield the messages of a port as views of the sender's memory, valid until the next one.

    Messages over tcp have no capture time, because the clock of the other host differs.
    Imports the module of a node's own message type. Raises ConfigError for a port that does not exist.
    """
    stream = g.subscribe(port, policy="drop_oldest", queue=QUEUE, type_=g.type_of(port), copy=False)
    try:
        for message in islice(stream, count):
            yield message.with_header(message.header._replace(t_capture_ns=0)) if g.far else message
    finally:
        stream.close()


def line(message: Message, full: bool = False) -> str:
    """Return one message as a line of JSON; unless `full`, long arrays as type, shape, minimum and maximum."""
    header = message.header
    fields: dict[str, Any] = {
        "type": type(message).__name__,
        "seq": header.seq,
        "epoch": header.epoch,
        "pts": _rounded(header.pts),
        "age_ms": _rounded((time.monotonic_ns() - header.t_capture_ns) / 1e6) if header.t_capture_ns else None,
        "hops": [hop.node for hop in header.hops],
    }
    for name, value in vars(message).items():
        if name != "header":
            fields[name] = _array(value, full) if isinstance(value, np.ndarray) else value
    return json.dumps(fields, default=str, ensure_ascii=False)


def _array(value: NDArray[Any], full: bool) -> Any:
    if value.size <= (SHOWN_FULL if full else SHOWN):
        return _rounded(value.tolist())
    about = f"{value.dtype}{list(value.shape)}"
    return f"{about} {_rounded(float(value.min()))}..{_rounded(float(value.max()))}"


def _rounded(value: Any) -> Any:
    """Round numbers, also in lists; nan and inf become None, as JSON lacks them."""
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if not isinstance(value, float):
        return value
    return round(value, DECIMALS) if math.isfinite(value) else None


def rates(stream: Iterator[Message]) -> Iterator[str]:
    """Yield a line per second: the rate of the messages and the intervals between them."""
    for arrivals, _sizes in _windows(stream):
        gaps = [(after - before) * 1e3 for before, after in pairwise(arrivals)]
        if gaps:
            yield (
                f"{1e3 / fmean(gaps):.2f} Hz   interval {fmean(gaps):.2f} ms, "
                f"{min(gaps):.2f} to {max(gaps):.2f}, std dev {pstdev(gaps):.2f} ms   ({len(arrivals)} messages)"
            )


def bandwidth(stream: Iterator[Message]) -> Iterator[str]:
    """Yield a line per second: bytes per second and message sizes."""
    for arrivals, sizes in _windows(stream):
        if len(arrivals) > 1:
            per_s = sum(list(sizes)[1:]) / (arrivals[-1] - arrivals[0])
            yield (
                f"{_bytes(per_s)}/s   message size {_bytes(fmean(sizes))}, "
                f"{_bytes(min(sizes))} to {_bytes(max(sizes))}   ({len(arrivals)} messages)"
            )


def _windows(stream: Iterator[Message]) -> Iterator[tuple[deque[float], deque[int]]]:
    """Yield the arrival times (s) and sizes (bytes) of the last WINDOW messages, once a second and at the end."""
    arrivals: deque[float] = deque(maxlen=WINDOW)
    sizes: deque[int] = deque(maxlen=WINDOW)
    shown = time.monotonic()
    for message in stream:
        arrivals.append(time.monotonic())
        sizes.append(sum(value.nbytes for value in vars(message).values() if isinstance(value, np.ndarray)))
        if arrivals[-1] - shown >= EVERY_S:
            shown = arrivals[-1]
            yield arrivals, sizes
    if arrivals and arrivals[-1] != shown:
        yield arrivals, sizes


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} GB"


def save_picture(g: RunningGraph, port: str, path: Path) -> None:
    """Write the next picture of a port to a file, in one step.

    Raises ConfigError if the port has no pictures, or if the file name has another ending than PICTURES.
    """
    pictures = [name for name, type_ in g.ports.items() if type_ == "graph.messages:Frame"]
    if port in g.ports and port not in pictures:
        carries = g.ports[port].rpartition(":")[2]
        raise ConfigError(
            f"{port} carries {carries}, not pictures; pictures: {', '.join(pictures) or 'none'}"
        )
    if path.suffix.lower() not in PICTURES:
        raise ConfigError(f"{path}: the name of a picture must end in {', '.join(PICTURES)}")
    for frame in messages(g, port, count=1):
        assert isinstance(frame, Frame)
        _write(frame.image, path)


def _write(image: NDArray[np.uint8], path: Path) -> None:
    from matplotlib.image import imsave  # the runtime does not use OpenCV

    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        imsave(temporary, np.ascontiguousarray(image[:, :, ::-1]))
        temporary.replace(path)
    except OSError as exc:
        raise ConfigError(f"{path} cannot be written: {exc.strerror}") from exc
    finally:
        temporary.unlink(missing_ok=True)
