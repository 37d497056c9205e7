"""Deliver pictures in real time by their pts."""

import time

LONG_GAP_S = 10.0  # a longer gap counts as broken timestamps and is not waited for
LATE_S = 1.0  # a longer delay is not caught up: the graph was paused, or the timestamps start anew in a joined clip


class Pacer:
    """Says how long to wait until a picture is due."""

    def __init__(self, fps: float = 0.0) -> None:
        """`fps` is the requested frame rate (0: any); below 0.1, gaps of more than LONG_GAP_S are waited for."""
        self._longest = max(LONG_GAP_S, 2 / fps) if fps else LONG_GAP_S
        self._origin = float("-inf")  # CLOCK_MONOTONIC seconds of pts 0

    def left_s(self, pts: float) -> float:
        """Return in how many seconds `pts` is due, at least 0. After a jump, this pts is due now."""
        now = time.monotonic()
        if not -LATE_S <= self._origin + pts - now <= self._longest:
            self._origin = now - pts
        return max(0.0, self._origin + pts - now)
