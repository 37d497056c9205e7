"""Pictures that lie ready, given in real time."""

import time

LONG_GAP_S = 10.0  # a longer wait for the next picture is taken for broken timestamps
LATE_S = 1.0  # what is later is not made up for: the graph was paused, or a clip begins anew that was joined to another


class Pacer:
    """Says how long it is until the moment of a picture."""

    def __init__(self, fps: float = 0.0) -> None:
        """`fps` is how many pictures a second were asked for, 0: any; of fewer than one in 10 s each is waited for."""
        self._longest = max(LONG_GAP_S, 2 / fps) if fps else LONG_GAP_S
        self._origin = float("-inf")  # CLOCK_MONOTONIC seconds of pts 0

    def left_s(self, pts: float) -> float:
        """Return in how many seconds `pts` is due, at least 0; where it is far off, the count starts anew."""
        now = time.monotonic()
        if not -LATE_S <= self._origin + pts - now <= self._longest:
            self._origin = now - pts
        return max(0.0, self._origin + pts - now)
