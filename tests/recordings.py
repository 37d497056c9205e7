"""Recordings of a short stream."""

from pathlib import Path
from typing import Any

import numpy as np

from graph import Frame, Header, Hop, Mark
from graph.recorder import Recorder
from tests.toys import Numbers, picture


def header(seq: int, epoch: int = 0) -> Header:
    """The header of a frame of a 25 fps stream, sent 2 ms after its capture."""
    captured = 5_000_000_000 + seq * 40_000_000
    return Header("main", seq, epoch, seq / 25, captured, (Hop("camera", captured, captured, captured + 2_000_000),))


def write(path: Path, seqs: Any = range(100, 140), **options: Any) -> Path:
    """Write a recording of camera.frame, and of count.numbers for every second frame, with marks for the others."""
    types = {"camera.frame": Frame, "count.numbers": Numbers}
    with Recorder(path, types, "main", options.get("compression", "lz4")) as recorder:
        for seq in seqs:
            recorder.write("camera.frame", Frame(header=header(seq), image=picture(seq)))
            numbers = Numbers(header=header(seq), word="a", values=np.array([seq], np.float64))
            recorder.write("count.numbers", Mark(header=header(seq)) if seq % 2 else numbers)
            recorder._writer.flush()  # as after FLUSH_S
    return path
