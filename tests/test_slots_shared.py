"""Arrays sent in shared memory: leases, and consumers and senders that die with them."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from graph import Frame, GraphError, Header, Message, WireError, sender, slots, wire
from graph.slots import slot_size
from tests.conftest import eventually
from tests.graphs import Graph, node, wait_for_rows
from tests.pair import Context, Pair, Publishing, frame


@pytest.mark.parametrize("size", [16, 64, 200])
def test_inline_equals_shared(pair: Pair, size: int) -> None:
    shared = pair.receiver(name="a.in")
    inline = pair.receiver(name="b.in", shm=False)
    assert (shared._map is not None) is slots.AVAILABLE
    assert inline._map is None
    sent = frame(7, size)
    sent.image[::3, 1::2] = 99
    pair.sender.publish("out", sent)
    got: list[Message] = []
    for receiver in (shared, inline):
        pair.arrived(receiver)
        arrived = receiver.receive()
        assert arrived is not None
        got.append(arrived.message)
    for message in got:
        assert isinstance(message, Frame) and message.header == sent.header
        assert np.array_equal(message.image, sent.image)
        assert not message.image.flags.writeable
    del got, arrived, message
    for receiver in (shared, inline):
        receiver.consumed()
        receiver.flush(idle=True)
    pair.until(lambda: pair.leases() == 0)


def test_array_created_in_shared_memory(pair: Pair) -> None:
    """The array that the node filled is itself shared, and cannot be changed any more."""
    receiver = pair.receiver()
    image = pair.pool.empty((64, 64, 3), np.dtype(np.uint8))
    image[:] = 5
    pair.sender.publish("out", Frame(image=image, header=Header("test", 5)))
    assert not image.flags.writeable
    assert len(pair.pool._slots) == 1
    del image
    assert pair.take(receiver, 1) == [5]
    pair.until(lambda: pair.leases() == 0)
    pair.publish(*range(4))
    pair.take(receiver, 4)
    assert len(pair.pool._slots) <= 4


def test_slots_are_reused(pair: Pair) -> None:
    receivers = [pair.receiver("block", 2, name=f"r{i}.in") for i in range(3)]
    for seq in range(60):
        pair.publish(seq)
        for receiver in receivers:
            pair.take(receiver, 1)
    pair.until(lambda: pair.leases() == 0)
    assert len(pair.pool._slots) <= 4


def test_frames_that_are_kept_are_not_overwritten(pair: Pair) -> None:
    """A consumer that keeps frames still gets new ones, and the old ones do not change."""
    receiver = pair.receiver("block", 2)
    kept: list[Any] = []

    def take() -> bool:
        arrived = receiver.receive()
        if arrived is not None:
            kept.append(arrived.message)
            receiver.consumed()
            receiver.flush(idle=True)
        return arrived is not None

    for seq in range(40):
        pair.publish(seq)
        pair.until(take)
    assert all((message.image == message.seq % 251).all() for message in kept)
    kept.clear()
    receiver.flush(idle=True)
    pair.until(lambda: pair.leases() == 0)


def test_exhausted_pool_sends_inline(context: Context, run_dir: Path) -> None:
    pair = Pair(context, run_dir, limit=50_000)  # four slots of 64 x 64 pixels
    receiver = pair.receiver("block", 8)
    pair.publish(*range(8))
    assert pair.take(receiver, 8) == [*range(8)]
    assert 0 < len(pair.pool._slots) <= 4
    pair.until(lambda: pair.leases() == 0)
    pair.close()


def test_changing_sizes(pair: Pair) -> None:
    receiver = pair.receiver("block", 4)
    for seq in range(40):
        pair.sender.publish("out", frame(seq, 1 + seq * 7 % 120))
        assert pair.take(receiver, 1) == [seq]
    pair.until(lambda: pair.leases() == 0)


def test_consumer_drops_mappings_of_an_unused_size(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "IDLE_S", 0.0)
    receiver = pair.receiver("block", 4)
    for seq in range(4):
        pair.sender.publish("out", frame(seq, 120 if seq == 0 else 64))
        assert pair.take(receiver, 1) == [seq]
    assert receiver._map is not None
    mapped = receiver._map._memories | receiver._map._idle
    assert {len(memory) for memory in mapped.values()} == {slot_size(64 * 64 * 3)}


@pytest.mark.slow
def test_running_node_frees_memory_of_an_unused_size(tmp_path: Path) -> None:
    nodes = {"source": node("Shrink"), "write": node("Write", {"frame": "source.frame"}, path=str(tmp_path / "out"))}
    with Graph(tmp_path, {"name": "shrinking", "nodes": nodes}) as graph:
        wait_for_rows(tmp_path / "out", 20)
        source = graph.node("source")

        def sizes() -> list[int]:
            return [found.rss for found in source.memory_maps(grouped=False) if "memfd:facegraph" in found.path]

        assert eventually(lambda: 0 < sum(sizes()) < 1000 * 1000 * 3), sizes()
        graph.interrupt()
        assert graph.wait() == 0, graph.text()


@pytest.mark.parametrize("how", ["bye", "gone"])
def test_leases_of_a_disconnected_consumer_are_released(pair: Pair, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "PING_S", 0.05)
    receiver = pair.receiver("drop_oldest", 4)
    pair.publish(*range(20))
    pair.arrived(receiver)
    kept = receiver.receive()
    assert kept is not None and pair.leases() == 8
    if how == "bye":
        receiver.close()
    else:
        receiver.socket.close(linger=0)
        pair.until(lambda: pair.leases() == 4)  # the queue is kept for its next process
        pair.sender.forget("r")
    pair.until(lambda: pair.leases() == 0)
    assert pair.sender.idle()


@pytest.mark.skipif(not slots.AVAILABLE, reason="needs memfd")
@pytest.mark.parametrize("expired", [False, True])
def test_memory_of_a_dead_sender_does_not_end_the_edge(
    pair: Pair, expired: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Arrays in memory that was not mapped here are lost with the sender; the edge waits for the next one."""
    receiver = pair.receiver("block", 4)
    pair.publish(0)
    assert pair.take(receiver, 1) == [0]
    pair.publish(1, 2)  # 1 in the slot that is already mapped, 2 in another one
    pair.arrived(receiver)
    assert pair.serving is not None
    pair.serving.stop()
    if expired:
        receiver.expire()
    pair.until(lambda: receiver.receive() is None and (receiver.ended or not expired))
    assert receiver.ended is expired and not caplog.records
    assert receiver.lost() is not expired


@pytest.mark.parametrize("spare", [0, 1])
def test_lack_of_file_descriptors_is_no_protocol_error(
    pair: Pair, spare: int, descriptors: Callable[[int], None]
) -> None:
    """One is needed to receive, and one more to map."""
    receiver = pair.receiver()
    pair.publish(0)
    pair.arrived(receiver)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    descriptors(free + spare)
    with pytest.raises(GraphError, match=r"r\.in: memory of .* out cannot be mapped here: Too many open files"):
        receiver.receive()


def test_too_large_an_array_is_named(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_BUFFER", 1000)
    pair.receiver()
    with pytest.raises(WireError, match=r"Frame\.image has 12288 bytes; at most 1000 are allowed"):
        pair.publish(0)


CONSUMER = """
import sys, zmq
from graph import Frame
from graph.receiver import Receiver
context = zmq.Context()
receiver = Receiver(context, sys.argv[1], "out", Frame, name="far.in", policy=sys.argv[2], queue=int(sys.argv[3]))
kept = []
while not receiver.ended:
    receiver.socket.poll(1000)
    while arrived := receiver.receive():
        assert (arrived.message.image == arrived.message.seq % 251).all()
        print(arrived.message.seq, flush=True)
        if sys.argv[4] == "keep":
            kept.append(arrived)
        receiver.consumed()
    del arrived
    receiver.flush(idle=True)
receiver.close()
context.term()
print("end", flush=True)
"""


class Consumer:
    """A consumer in its own process."""

    def __init__(self, pair: Pair, policy: str, queue: int, keep: bool = False) -> None:
        script = [sys.executable, "-c", CONSUMER, pair.endpoint, policy, str(queue), "keep" if keep else ""]
        self.process = subprocess.Popen(script, stdout=subprocess.PIPE, text=True)
        pair.until(lambda: "n.out -> far.in" in pair.sender.depths())

    def read(self, count: int) -> list[int]:
        assert self.process.stdout is not None
        return [int(self.process.stdout.readline()) for _ in range(count)]

    def close(self) -> str:
        """Wait for the end, and return what was printed since."""
        rest, _ = self.process.communicate(timeout=30)
        return rest


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["block", "drop_oldest"])
def test_consumer_that_is_killed_holding_leases(pair: Pair, policy: str) -> None:
    consumer = Consumer(pair, policy, 4, keep=True)
    pair.publish(*range(4))
    pair.until(lambda: pair.leases() == 4)
    assert consumer.read(4) == [0, 1, 2, 3]
    consumer.process.send_signal(signal.SIGKILL)
    consumer.close()
    publishing = Publishing(pair, 50)  # nothing delays it for long
    publishing.join(30)
    assert not publishing.is_alive()
    pair.until(lambda: pair.leases() == 0 and pair.sender.idle())


@pytest.mark.slow
def test_consumer_that_is_suspended_and_resumed(pair: Pair) -> None:
    """Its own edge drops, the other one misses nothing, and afterwards it continues."""
    quick = pair.receiver("block", 4)
    consumer = Consumer(pair, "drop_oldest", 2)
    pair.publish(0)
    assert consumer.read(1) == [0] and pair.take(quick, 1) == [0]
    os.kill(consumer.process.pid, signal.SIGSTOP)
    assert eventually(lambda: psutil.Process(consumer.process.pid).status() == psutil.STATUS_STOPPED)
    for seq in range(1, 300):
        pair.publish(seq)
        assert pair.take(quick, 1) == [seq]
    os.kill(consumer.process.pid, signal.SIGCONT)
    pair.until(lambda: pair.sender.depths()["n.out -> far.in"] == 0)
    got = consumer.read(4)
    assert got[2:] == [298, 299] and got[:2] in ([1, 2], [2, 3])
    assert pair.drops["n.out -> far.in"] == 299 - 4
    pair.sender.end()
    pair.until(lambda: consumer.process.poll() is not None)
    assert consumer.close() == "end\n"
