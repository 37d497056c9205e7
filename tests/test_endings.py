"""Which signals ask for an orderly end, and how often they count."""

import os
import signal

import pytest

from graph.endings import ENDINGS, heeding

pytestmark = pytest.mark.usefixtures("hangs_up")


@pytest.mark.parametrize(
    ("sent", "count"),
    [
        ([signal.SIGINT, signal.SIGINT], 2),
        ([signal.SIGTERM, signal.SIGINT], 2),
        ([signal.SIGHUP, signal.SIGHUP], 1),  # a terminal that is closed: the shell's and the kernel's
        ([signal.SIGINT, signal.SIGHUP], 1),
        ([signal.SIGHUP, signal.SIGINT], 2),
    ],
)
def test_how_often_they_count(sent: list[signal.Signals], count: int) -> None:
    asked: list[None] = []
    with heeding(lambda: asked.append(None)):
        for number in sent:
            os.kill(os.getpid(), number)
    assert len(asked) == count


def test_a_closed_terminal_is_nothing_to_what_runs_under_nohup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with heeding(lambda: pytest.fail("heard")):
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_the_handlers_before_come_back() -> None:
    before = [signal.getsignal(number) for number in ENDINGS]
    with heeding(lambda: None):
        assert not {signal.getsignal(number) for number in ENDINGS} & {*before}
    assert [signal.getsignal(number) for number in ENDINGS] == before
