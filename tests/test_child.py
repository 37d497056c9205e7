"""When a node's process is restarted, without starting one."""

from collections import deque

import pytest

from graph.child import BACK_OFF_S, BACK_OFF_WINDOW_S, Child
from graph.spec import NodeSpec


@pytest.fixture
def child() -> Child:
    return Child(NodeSpec("copy", "tests.toys:Copy"))


def test_back_off_grows_and_then_gives_up(child: Child) -> None:
    assert [child.back_off() for _ in range(7)] == [0.1, 0.5, 1.0, 2.0, 5.0, None, None]


def test_back_off_starts_over_after_a_long_run(child: Child) -> None:
    for _ in BACK_OFF_S:
        child.back_off()
    child.failures = deque(moment - BACK_OFF_WINDOW_S for moment in child.failures)
    assert [child.back_off(), child.back_off()] == [0.1, 0.5]
