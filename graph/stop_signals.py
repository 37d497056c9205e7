"""The signals by which a user, a service manager or a closed terminal requests an orderly end."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def on_stop_signals(callback: Callable[[], None]) -> Iterator[None]:
    """Call `callback` for each of these signals within the context.

    SIGHUP only counts as the first signal, because both the shell and the kernel send it, and not under `nohup`.
    """
    received = False

    def handle(number: int, frame: Any) -> None:
        nonlocal received
        if number != signal.SIGHUP or not received:
            received = True
            callback()

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number, handler in before.items():
        if number != signal.SIGHUP or handler is not signal.SIG_IGN:
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
