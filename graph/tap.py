"""Listen in on a port of a running graph: `run_graph.py tap smooth.faces`."""

import json
import math
import os
import time
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graph.attached import RunningGraph
from graph.errors import ConfigError
from graph.messages import Frame, Message

SHOWN = 12  # numbers of an array in a line; longer ones are summed up
SHOWN_FULL = 65_536  # the same when all is asked for; nobody reads a picture
DECIMALS = 3
EVERY_S = 1.0  # between two lines of `rates` and `bandwidth`
WINDOW = 1000  # messages
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tiff")
QUEUE = 64  # in the graph, so that a burst is seen whole


def messages(g: RunningGraph, port: str, count: int | None = None) -> Iterator[Message]:
    """Give the messages of a port as views of the sender's memory, valid until the next one.

    Those of a graph that may be on another host bear no time of capture: it is of another clock.
    Imports the module of a node's own message type. Raises ConfigError for a port that does not exist.
    """
    stream = g.subscribe(port, policy="drop_oldest", queue=QUEUE, type_=g.type_of(port), copy=False)
    try:
        for message in islice(stream, count):
            yield message.with_header(message.header._replace(t_capture_ns=0)) if g.far else message
    finally:
        stream.close()


def line(message: Message, full: bool = False) -> str:
    """Return one message as a line of JSON; long arrays as type, shape, least and greatest unless `full`."""
    header = message.header
    fields: dict[str, Any] = {
        "type": type(message).__name__,
        "seq": header.seq,
        "epoch": header.epoch,
        "pts": _short(header.pts),
        "age_ms": _short((time.monotonic_ns() - header.t_capture_ns) / 1e6) if header.t_capture_ns else None,
        "hops": [hop.node for hop in header.hops],
    }
    for name, value in vars(message).items():
        if name != "header":
            fields[name] = _array(value, full) if isinstance(value, np.ndarray) else value
    return json.dumps(fields, default=str, ensure_ascii=False)


def _array(value: NDArray[Any], full: bool) -> Any:
    if value.size <= (SHOWN_FULL if full else SHOWN):
        return _shorter(value.tolist())
    about = f"{value.dtype}{list(value.shape)}"
    return f"{about} {_short(float(value.min()))}..{_short(float(value.max()))}"


def _shorter(value: Any) -> Any:
    return [_shorter(item) for item in value] if isinstance(value, list) else _short(value)


def _short(value: Any) -> Any:
    """Round; what JSON has no number for becomes null."""
    if not isinstance(value, float):
        return value
    return round(value, DECIMALS) if math.isfinite(value) else None


def rates(stream: Iterator[Message]) -> Iterator[str]:
    """Give a line per second: the rate at which messages come, and how evenly."""
    for came, _sizes in _windows(stream):
        gaps = [(after - before) * 1e3 for before, after in zip(came, list(came)[1:], strict=False)]
        if gaps:
            yield (
                f"{1e3 / fmean(gaps):.2f} Hz   from one to the next: {fmean(gaps):.2f} ms, "
                f"{min(gaps):.2f} to {max(gaps):.2f}, deviation {pstdev(gaps):.2f} ms   ({len(came)} messages)"
            )


def bandwidth(stream: Iterator[Message]) -> Iterator[str]:
    """Give a line per second: how many bytes the messages hold."""
    for came, sizes in _windows(stream):
        if len(came) > 1:
            per_s = sum(list(sizes)[1:]) / (came[-1] - came[0])
            yield (
                f"{_bytes(per_s)}/s   a message: {_bytes(fmean(sizes))}, "
                f"{_bytes(min(sizes))} to {_bytes(max(sizes))}   ({len(came)} messages)"
            )


def _windows(stream: Iterator[Message]) -> Iterator[tuple[deque[float], deque[int]]]:
    """Give the times (s) and sizes (bytes) of the last messages, once a second and at the end."""
    came: deque[float] = deque(maxlen=WINDOW)
    sizes: deque[int] = deque(maxlen=WINDOW)
    told = time.monotonic()
    for message in stream:
        came.append(time.monotonic())
        sizes.append(sum(value.nbytes for value in vars(message).values() if isinstance(value, np.ndarray)))
        if came[-1] - told >= EVERY_S:
            told = came[-1]
            yield came, sizes
    if came and came[-1] != told:
        yield came, sizes


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} GB"


def save_picture(g: RunningGraph, port: str, path: Path) -> None:
    """Write the next picture of a port. The file appears whole or not at all.

    Raises ConfigError unless the port carries pictures and the name of the file says which kind to write.
    """
    pictures = [name for name, type_ in g.ports.items() if type_ == "graph.messages:Frame"]
    if port in g.ports and port not in pictures:
        carries = g.ports[port].rpartition(":")[2]
        raise ConfigError(f"{port} carries {carries}, no pictures; pictures: {', '.join(pictures) or 'none'}")
    if path.suffix.lower() not in PICTURES:
        raise ConfigError(f"{path}: the name of a picture ends in {', '.join(PICTURES)}")
    for frame in messages(g, port, count=1):
        assert isinstance(frame, Frame)
        _write(frame.image, path)


def _write(image: NDArray[np.uint8], path: Path) -> None:
    from matplotlib.image import imsave  # no OpenCV in the runtime

    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        imsave(temporary, np.ascontiguousarray(image[:, :, ::-1]))
        temporary.replace(path)
    except OSError as exc:
        raise ConfigError(f"{path} cannot be written: {exc.strerror}") from exc
    finally:
        temporary.unlink(missing_ok=True)
