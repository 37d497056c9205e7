"""The traffic with which every transport is measured: the same pictures, pacing, stamps and counts.

A run has two parts: `paced` pictures at `fps` for the latency, then as many as possible for `flood_s` seconds for the
throughput. The first 16 bytes of a picture are its stamp: number and CLOCK_MONOTONIC ns.
"""

import struct
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

STAMP = struct.Struct("<qq")
END = -1  # number in the last stamp, for transports without an end of stream


@dataclass(frozen=True)
class Plan:
    """One run."""

    height: int = 1080
    width: int = 1920
    paced: int = 60
    warm_up: int = 15  # first pictures, which do not count for the latency
    fps: float = 30.0
    flood_s: float = 1.5

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, 3

    @property
    def nbytes(self) -> int:
        return self.height * self.width * 3

    def settings(self) -> dict[str, Any]:
        return asdict(self)


def picture(plan: Plan) -> NDArray[np.uint8]:
    """Random pixels: unwritten pages would all be the same zero page, which is read faster than memory."""
    return np.random.default_rng(0).integers(0, 256, plan.shape, np.uint8)


def numbers(plan: Plan) -> Iterator[int]:
    """Yield 0, 1, 2, ..., each when its picture is due."""
    due = time.monotonic()
    for seq in range(plan.paced):
        time.sleep(max(0.0, due - time.monotonic()))
        yield seq
        due += 1 / plan.fps
    seq, end = plan.paced, time.monotonic() + plan.flood_s
    while time.monotonic() < end:
        yield seq
        seq += 1


class Arrivals:
    """Counts and times the pictures on the receiving side."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.count = 0
        self.misplaced = 0  # pictures whose number is not one more than the previous one
        self.last = -1
        self.latencies_ns: list[int] = []
        self.flood_first_ns = self.flood_last_ns = self.flood_count = 0

    def take(self, view: Any) -> bool:
        """Count a picture, any C-contiguous buffer; return False if it is the end."""
        seq, sent_ns = STAMP.unpack_from(view)
        now = time.monotonic_ns()
        if seq == END:
            return False
        self.misplaced += seq != self.last + 1
        self.last = seq
        self.count += 1
        if seq < self.plan.paced:
            self.latencies_ns.append(now - sent_ns)
        else:
            self.flood_first_ns = self.flood_first_ns or now
            self.flood_last_ns = now
            self.flood_count += 1
        return True

    def result(self) -> dict[str, float]:
        """Return the latencies of the paced part in microseconds, and the pictures per second of the rest."""
        latencies = np.array(self.latencies_ns[self.plan.warm_up :] or [0]) / 1e3
        p50, p95, p99 = np.percentile(latencies, (50, 95, 99))
        elapsed_s = (self.flood_last_ns - self.flood_first_ns) / 1e9
        return {
            "p50_us": float(p50),
            "p95_us": float(p95),
            "p99_us": float(p99),
            "fps": (self.flood_count - 1) / elapsed_s if elapsed_s > 0 else 0.0,
            "received": self.count,
            "last": self.last,
            "misplaced": self.misplaced,
        }
