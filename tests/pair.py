"""A sender and its consumers in one process, for tests of the transport."""

import select
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import zmq

from graph import Frame, Header, Message, slots
from graph.link import Home
from graph.receiver import Receiver, type_names
from graph.sender import Sender
from graph.slots import SlotPool, SlotServer
from tests.conftest import PATIENCE_S

Context = zmq.Context[zmq.Socket[bytes]]
SHAPE = (40, 30, 3)


class Serving:
    """A slot server in a thread, driven as by a node's control thread."""

    def __init__(self, path: Path, pool: SlotPool) -> None:
        self.server = SlotServer(str(path), pool)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stop.is_set():
            poller = select.poll()
            for fd in self.server.sockets:
                poller.register(fd, select.POLLIN)
            for fd, _event in poller.poll(10):
                if fd in self.server.sockets:
                    self.server.serve(fd)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self.server.close()


def frame(seq: int, size: int = 64) -> Frame:
    """A picture with its number in every pixel; of 64 pixels it is above the inline limit."""
    image = np.full((size, size, 3), seq % 251, np.uint8)
    return Frame(image=image, header=Header("test", seq))


class Pair:
    """One sender with its shared memory, its consumers, and what it reported."""

    def __init__(
        self, context: Context, folder: Path, limit: int = slots.POOL_BYTES, type_: type[Message] = Frame
    ) -> None:
        self.context = context
        self.endpoint = f"ipc://{folder}/n"
        self.slots_path = folder / "n.shm"
        self.pool = SlotPool(limit)
        self.serving = Serving(self.slots_path, self.pool) if slots.AVAILABLE else None
        self.drops: Counter[str] = Counter()
        self.queued: list[tuple[str, int]] = []
        self.blocked: list[bool] = []
        self.receivers: list[Receiver] = []
        self.sender = Sender(
            context,
            "n",
            self.endpoint,
            {"out": type_names(type_)},
            self.pool,
            str(self.slots_path) if self.serving else None,
            Home("run", readers=frozenset({"r.in"})),
            on_drop=self._drop,
            on_queued=lambda edge, waiting: self.queued.append((edge, waiting)),
            on_blocked=self.blocked.append,
        )

    def _drop(self, edge: str) -> None:
        self.drops[edge] += 1

    def receiver(self, policy: str = "block", queue: int = 4, name: str = "r.in", **kwargs: Any) -> Receiver:
        """Connect a consumer, and wait for its welcome."""
        kwargs = {"type_": Frame, "run": "run", "name": name, "policy": policy, "queue": queue} | kwargs
        receiver = Receiver(self.context, self.endpoint, "out", **kwargs)
        self.receivers.append(receiver)
        self.until(lambda: receiver.receive() is None and (receiver.welcomed or receiver.ended))
        return receiver

    def until(self, condition: Callable[[], bool]) -> None:
        """Let the sender work until a condition is true."""

        end = time.monotonic() + PATIENCE_S
        while True:
            if self.sender.lock.acquire(timeout=0.001):  # unless a thread that publishes is blocked with it
                try:
                    self.sender.wait(1)
                finally:
                    self.sender.lock.release()
            if condition():
                return
            assert time.monotonic() < end

    def arrived(self, receiver: Receiver) -> None:
        """Wait until something has arrived at a consumer."""
        self.until(lambda: bool(receiver.socket.poll(0)))

    def publish(self, *seqs: int) -> None:
        for seq in seqs:
            self.sender.publish("out", frame(seq))

    def take(self, receiver: Receiver, count: int) -> list[int]:
        """Let a consumer process `count` frames, each compared with what was sent; return their numbers."""
        got: list[int] = []

        def one_more() -> bool:
            arrived = receiver.receive()
            if arrived is not None:
                image = arrived.message.__dict__["image"]
                assert (image == arrived.message.seq % 251).all()
                got.append(arrived.message.seq)
                del image, arrived
                receiver.consumed()
            receiver.flush(idle=True)
            return len(got) >= count or receiver.ended

        if count:
            self.until(one_more)
        return got

    def leases(self) -> int:
        """Return the number of leases on all slots."""
        return sum(slot.leases for slot in self.pool._slots.values())

    def stranger(self) -> "zmq.Socket[bytes]":
        """A consumer that sends what the test wants."""
        socket: zmq.Socket[bytes] = self.context.socket(zmq.DEALER)
        socket.connect(self.endpoint)
        return socket

    def answer(self, socket: "zmq.Socket[bytes]") -> dict[str, Any]:
        """What the sender sends to a stranger next."""
        self.until(lambda: bool(socket.poll(0)))
        answer: dict[str, Any] = msgpack.unpackb(socket.recv_multipart()[0])
        return answer

    def close(self) -> None:
        for receiver in self.receivers:
            receiver.close()
        self.sender.close()
        if self.serving:
            self.serving.stop()
        self.pool.close()
        for path in self.slots_path.parent.iterdir():
            path.unlink()


class Publishing(threading.Thread):
    """Publishes in its own thread, like a node whose edge may block."""

    def __init__(self, pair: Pair, count: int, first: int = 0) -> None:
        super().__init__()
        self.pair = pair
        self.seqs = range(first, first + count)
        self.published = 0
        self.start()

    def run(self) -> None:
        for seq in self.seqs:
            self.pair.publish(seq)
            self.published += 1


def filled(pool: SlotPool, value: int, shape: tuple[int, ...] = SHAPE) -> int:
    """Copy an array of one value into a slot, and return its number."""
    slot = pool.copy_in(np.full(shape, value, np.uint8))
    assert slot is not None
    return slot.number
