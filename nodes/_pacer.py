"""Pictures that lie ready, given in real time."""

import time
from collections.abc import Callable

LONG_GAP_S = 10.0  # a longer wait for the next picture is taken for broken timestamps
LATE_S = 1.0  # what is later is not made up for: the graph was paused, or a clip begins anew that was joined to another


class Pacer:
    """Waits until the moment of a picture has come; `sleep` may end early, as where a camera is being left."""

    def __init__(self, sleep: Callable[[float], object] = time.sleep, fps: float = 0.0) -> None:
        """`fps` is how many pictures a second were asked for, 0: any; of fewer than one in 10 s each is waited for."""
        self._sleep = sleep
        self._longest = max(LONG_GAP_S, 2 / fps) if fps else LONG_GAP_S
        self._origin = float("-inf")  # CLOCK_MONOTONIC seconds of pts 0

    def wait(self, pts: float) -> int:
        """Sleep until `pts` is due and return CLOCK_MONOTONIC ns; where it is far off, the count starts anew."""
        now = time.monotonic()
        if not -LATE_S <= self._origin + pts - now <= self._longest:
            self._origin = now - pts
        self._sleep(max(0.0, self._origin + pts - now))
        return time.monotonic_ns()
