"""How a node's control thread wakes the main thread."""

import os
import select
from typing import Any

import pytest
import zmq

from graph import wire
from graph.control import Control


class Said:
    """A socket on which one command has come."""

    def __init__(self) -> None:
        self.left = [wire.pack({"v": wire.VERSION, "k": "pause"})]

    def get(self, _: int) -> int:
        return int(zmq.POLLIN) if self.left else 0

    def recv(self, _: int) -> bytes:
        return self.left.pop()


def test_main_thread_that_looks_between_two_steps_is_woken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Folder:
        control = "inproc://control"

    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.bind(Folder.control)
        folder: Any = Folder()
        control = Control(context, "node", folder)

        def look() -> None:
            if control.arrived.is_set():
                control.acknowledge()

        poke = control._poke

        def looked_at_before(fd: int) -> None:
            look()
            poke(fd)

        monkeypatch.setattr(control, "_poke", looked_at_before)
        with control._socket:
            monkeypatch.setattr(control, "_socket", Said())
            control._take_commands()
        assert [command["k"] for command in control.commands] == ["pause"]
        assert select.select([control.wake_fd], [], [], 0)[0]
        look()
        assert not select.select([control.wake_fd], [], [], 0)[0]
        for fd in (control.wake_fd, control._wake_out, control._nudged, control._nudge):
            os.close(fd)
