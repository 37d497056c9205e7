"""Which signals request an orderly end, and how often they count."""

import os
import signal

import pytest

from graph.stop_signals import STOP_SIGNALS, on_stop_signals

pytestmark = pytest.mark.usefixtures("hangs_up")


@pytest.mark.parametrize(
    ("sent", "count"),
    [
        ([signal.SIGINT, signal.SIGINT], 2),
        ([signal.SIGTERM, signal.SIGINT], 2),
        ([signal.SIGHUP, signal.SIGHUP], 1),  # a closed terminal: one from the shell and one from the kernel
        ([signal.SIGINT, signal.SIGHUP], 1),
        ([signal.SIGHUP, signal.SIGINT], 2),
    ],
)
def test_how_often_they_count(sent: list[signal.Signals], count: int) -> None:
    asked: list[None] = []
    with on_stop_signals(lambda: asked.append(None)):
        for number in sent:
            os.kill(os.getpid(), number)
    assert len(asked) == count


def test_sighup_is_ignored_under_nohup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with on_stop_signals(lambda: pytest.fail("heard")):
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_previous_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with on_stop_signals(lambda: None):
        assert not {signal.getsignal(number) for number in STOP_SIGNALS} & {*before}
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
