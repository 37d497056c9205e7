"""The signals with which a user, a service manager or a terminal that is closed ask for an orderly end."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def heeding(ask: Callable[[], None]) -> Iterator[None]:
    """Call `ask` for each of them meanwhile.

    SIGHUP counts only where it comes first, for both the shell and the kernel send it; and not under `nohup`.
    """
    asked = False

    def heed(number: int, frame: Any) -> None:
        nonlocal asked
        if number != signal.SIGHUP or not asked:
            asked = True
            ask()

    before = {number: signal.getsignal(number) for number in ENDINGS}
    for number, handler in before.items():
        if number != signal.SIGHUP or handler is not signal.SIG_IGN:
            signal.signal(number, heed)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
