"""Sender and consumers over real sockets: credits, the four policies, shared memory, and strangers."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import psutil
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graph import Detections, Frame, GraphError, Header, Mark, Message, WireError, array, sender, slots, wire
from graph.inputs import Inputs
from graph.receiver import Receiver, find_type, type_names
from tests.conftest import eventually
from tests.pair import Context, Pair, frame

EDGE = "n.out -> r.in"


@pytest.fixture
def pair(context: Context, run_dir: Path) -> Iterator[Pair]:
    pair = Pair(context, run_dir)
    yield pair
    pair.close()


@pytest.mark.parametrize(
    ("policy", "queue", "delivered", "dropped"),
    [
        ("drop_newest", 4, [*range(8)], 12),  # 4 under way by credit, 4 in the queue
        ("drop_oldest", 4, [0, 1, 2, 3, 16, 17, 18, 19], 12),
        ("drop_oldest", 1, [0, 19], 18),
        ("latest", 1, [0, 19], 18),
    ],
)
def test_policies_of_a_reader_that_stalls(
    pair: Pair, policy: str, queue: int, delivered: list[int], dropped: int
) -> None:
    receiver = pair.receiver(policy, queue)
    pair.publish(*range(20))
    assert pair.drops == {EDGE: dropped}
    assert pair.sender.depths() == {EDGE: queue}
    assert pair.take(receiver, len(delivered)) == delivered
    pair.publish(20)
    assert pair.take(receiver, 1) == [20]
    assert pair.drops == {EDGE: dropped}


def test_a_mark_takes_nothing_from_who_wants_no_marks(pair: Pair) -> None:
    receiver = pair.receiver("latest", 1, marks=False)
    pair.publish(0, 1)
    pair.sender.publish("out", Mark(header=Header("test", 2)))
    assert not pair.drops
    assert pair.take(receiver, 2) == [0, 1]


class Publishing(threading.Thread):
    """Publishes from a thread of its own, as a node whose edge may block."""

    def __init__(self, pair: Pair, count: int) -> None:
        super().__init__()
        self.pair = pair
        self.count = count
        self.published = 0
        self.start()

    def run(self) -> None:
        for seq in range(self.count):
            self.pair.publish(seq)
            self.published += 1


def test_block_waits_and_loses_nothing(pair: Pair) -> None:
    receiver = pair.receiver("block", 4)
    publishing = Publishing(pair, 50)
    assert eventually(lambda: pair.blocked == [True])
    assert publishing.published == 12  # eight under way, four waiting
    assert pair.take(receiver, 50) == [*range(50)]
    publishing.join()
    assert pair.drops == {}
    assert pair.blocked.count(True) == pair.blocked.count(False)


@pytest.mark.parametrize("how", ["gone", "bye", "forget"])
def test_block_goes_on_without_its_consumer(pair: Pair, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "PING_S", 0.05)
    receiver = pair.receiver("block", 2)
    publishing = Publishing(pair, 10)
    assert eventually(lambda: pair.blocked == [True])
    if how == "gone":
        receiver.socket.close(linger=0)
    elif how == "bye":
        receiver.close()
    else:
        pair.sender.forget("r")  # from another thread than the one that is blocked
    publishing.join(20)
    assert not publishing.is_alive()
    assert pair.sender.idle()
    assert pair.leases() == 0


def test_credits_bound_what_is_under_way(pair: Pair) -> None:
    receiver = pair.receiver("drop_oldest", 3)
    pair.publish(*range(10))
    got: list[int] = []

    def receive() -> bool:
        while arrived := receiver.receive():
            got.append(arrived.message.seq)
        return len(got) >= 3

    pair.until(receive)
    pair.publish(*range(10, 20))
    receive()
    assert got == [0, 1, 2]  # the rest waits in the sender, where it can be dropped
    receiver.consumed()
    receiver.flush(idle=True)
    pair.until(lambda: receive() and len(got) == 4)
    assert got == [0, 1, 2, 17]


def test_credits_go_back_in_half_windows(pair: Pair) -> None:
    receiver = pair.receiver("drop_newest", 4)
    pair.publish(*range(8))
    pair.arrived(receiver)
    assert receiver.receive() is not None
    receiver.consumed()
    receiver.flush(idle=False)  # one of four: not worth a packet
    assert receiver._owed == 1
    pair.arrived(receiver)
    assert receiver.receive() is not None
    receiver.consumed()
    receiver.flush(idle=False)
    assert receiver._owed == 0
    assert len(pair.take(receiver, 6)) == 6


def test_one_that_stalls_does_not_hold_up_the_others(pair: Pair) -> None:
    stalled = pair.receiver("drop_oldest", 2, name="stalled.in")
    quick = [pair.receiver("block", 4, name=f"quick{i}.in") for i in range(3)]
    for seq in range(100):
        pair.publish(seq)
        for receiver in quick:
            assert pair.take(receiver, 1) == [seq]
    assert pair.drops == {"n.out -> stalled.in": 96}
    assert pair.take(stalled, 4) == [0, 1, 98, 99]


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


def test_born_in_shared_memory(pair: Pair) -> None:
    """The array that the node filled is the very memory that is sent, and cannot be changed any more."""
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


def test_slots_are_used_again(pair: Pair) -> None:
    receivers = [pair.receiver("block", 2, name=f"r{i}.in") for i in range(3)]
    for seq in range(60):
        pair.publish(seq)
        for receiver in receivers:
            pair.take(receiver, 1)
    pair.until(lambda: pair.leases() == 0)
    assert len(pair.pool._slots) <= 4


def test_frames_that_are_kept_stay_what_they_are(pair: Pair) -> None:
    """A consumer that keeps frames gets new ones all the same, and nobody writes into the old ones."""
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


def test_sizes_that_change(pair: Pair) -> None:
    receiver = pair.receiver("block", 4)
    for seq in range(40):
        pair.sender.publish("out", frame(seq, 1 + seq * 7 % 120))
        assert pair.take(receiver, 1) == [seq]
    pair.until(lambda: pair.leases() == 0)


@pytest.mark.parametrize("how", ["bye", "gone"])
def test_leases_of_one_that_leaves_come_back(pair: Pair, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
    pair.until(lambda: pair.leases() == 0)
    assert pair.sender.idle()


def test_end_comes_after_all_that_waits(pair: Pair) -> None:
    receiver = pair.receiver("block", 2)
    pair.publish(*range(4))
    pair.sender.end()
    assert pair.take(receiver, 99) == [0, 1, 2, 3]
    assert receiver.ended
    assert not pair.sender.idle()
    late = pair.receiver(name="late.in")
    pair.until(lambda: late.receive() is None and late.ended)
    receiver.close()
    late.close()
    pair.until(pair.sender.idle)


def test_marks_travel(pair: Pair) -> None:
    receiver = pair.receiver()
    pair.sender.publish("out", Mark(header=Header("test", 3)))
    pair.arrived(receiver)
    arrived = receiver.receive()
    assert arrived is not None and isinstance(arrived.message, Mark) and arrived.message.seq == 3


def test_expired_edge_still_gives_what_has_arrived(pair: Pair) -> None:
    receiver = pair.receiver("block", 4)
    pair.publish(0, 1)
    pair.arrived(receiver)
    receiver.expire()
    assert pair.take(receiver, 99)[:1] == [0]
    assert receiver.ended


def test_sender_that_is_gone_is_noticed(pair: Pair) -> None:
    receiver = pair.receiver()
    assert not receiver.lost()
    assert pair.serving is not None
    pair.serving.stop()
    assert eventually(receiver.lost)


@pytest.mark.skipif(not slots.AVAILABLE, reason="needs memfd")
@pytest.mark.parametrize("expired", [False, True])
def test_memory_of_a_dead_sender_ends_nothing(pair: Pair, expired: bool) -> None:
    """What lies in memory that was never mapped here is lost with the sender; the edge waits for the next one."""
    receiver = pair.receiver("block", 4)
    pair.publish(0)
    assert pair.take(receiver, 1) == [0]
    pair.publish(1, 2)  # 1 in the slot that is mapped already, 2 in another one
    pair.arrived(receiver)
    assert pair.serving is not None
    pair.serving.stop()
    if expired:
        receiver.expire()
    pair.until(lambda: receiver.receive() is None and (receiver.ended or not expired))
    assert (receiver.ended, receiver.malformed) == (expired, 0)
    assert receiver.lost() is not expired


@dataclass(frozen=True, kw_only=True, eq=False)
class Depth(Frame):
    """What a newer sender may send to a consumer that knows Frame only."""

    depth: Any = array(np.float32, "H", "W")


def test_derived_type_is_read_as_its_base(context: Context, run_dir: Path) -> None:
    pair = Pair(context, run_dir, type_=Depth)
    receiver = pair.receiver()
    own = pair.receiver(type_=None, name="own.in")
    assert own.type is Depth
    pair.sender.publish("out", Depth(image=frame(1).image, depth=np.ones((64, 64), np.float32), header=Header("t", 1)))
    assert pair.take(receiver, 1) == [1]
    pair.close()


def test_other_type_is_an_error(pair: Pair) -> None:
    with pytest.raises(
        GraphError, match=r"r\.in: reads graph\.messages:Detections, but .*/n out gives graph\.messages:F"
    ):
        pair.receiver(type_=Detections)


def test_unknown_type_is_an_error() -> None:
    with pytest.raises(GraphError, match="message type other:Gaze is not known here: import it"):
        find_type(["other:Gaze"])
    assert find_type(["other:Gaze", "graph.messages:Frame"]) is Frame


def said(kind: str, **content: Any) -> bytes:
    data: bytes = msgpack.packb({"v": wire.VERSION, "k": kind, **content})
    return data


HELLO = {"port": "out", "name": "stranger", "policy": "latest", "queue": 1, "credits": 1, "shm": False}


def hello(**changes: Any) -> bytes:
    return said("hello", **(HELLO | changes))


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ([b""], "not a msgpack header"),
        ([b"\xc1\xc1"], "not a msgpack header"),
        ([b"\x91" * 60_000], "not a msgpack header"),
        ([hello(), b"more"], "2 parts; a consumer sends one"),
        ([msgpack.packb({"v": 99, "k": "hello"})], "protocol version 99; this side speaks 1"),
        ([msgpack.packb({"k": "hello"})], "protocol version None"),
        ([said("gimme")], "a consumer said 'gimme'; it may say hello, credit, bye"),
        ([hello(port="image")], "n has no output 'image'; outputs: ['out']"),
        ([hello(port=["out"])], "n has no output ['out']"),
        ([hello(port=None)], "n has no output None"),
        ([hello(policy="newest")], "no policy 'newest'; policies: ['block'"),
        ([hello(policy=[])], "no policy []"),
        ([hello(queue=0)], "queue of 0; 1..1024 are allowed"),
        ([hello(queue=1025)], "queue of 1025"),
        ([hello(queue="4")], "queue of '4'"),
        ([hello(credits=-1)], "credits of -1"),
        ([hello(credits=None)], "credits of None"),
        ([said("credit", n=-1)], "credit of -1; 0..1024 are allowed"),
        ([said("credit", n=1025)], "credit of 1025"),
        ([said("credit", n="1")], "credit of '1'"),
        ([said("credit")], "credit of None"),
        ([said("credit", n=1, release=5)], "release of 5; it is a list of slot numbers"),
        ([said("credit", n=1, release=[[5]])], "release of [[5]]; it is a list"),
        ([said("credit", n=1, release=["5"])], "release of ['5']; it is a list"),
        ([said("credit", n=1, release=[99])], "release of slot 99, on which it has no lease"),
        ([said("credit", n=1, release=[-1])], "release of slot -1, on which it has no lease"),
        ([said("credit", n=1, release=[0])], "release of slot 0, on which it has no lease"),  # another's
    ],
)
def test_strangers_are_refused_and_the_others_served(pair: Pair, parts: list[bytes], why: str) -> None:
    honest = pair.receiver("block", 4)
    pair.publish(0)
    assert slots.AVAILABLE is False or pair.leases() == 1
    stranger = pair.stranger()
    greets = parts[0] != b"" and b"\xa5hello" in parts[0]
    if not greets:
        stranger.send(hello())
        assert pair.answer(stranger)["k"] == "welcome"
    stranger.send_multipart(parts)
    answer = pair.answer(stranger)
    assert answer["k"] == "refused" and answer["why"].startswith(why)
    assert pair.sender.malformed == 1
    assert [*pair.sender.depths()] == [EDGE]
    stranger.send(hello())  # not listened to any more
    stranger.close()
    pair.publish(1)
    assert pair.take(honest, 2) == [0, 1]
    assert pair.sender.malformed == 1
    again = pair.stranger()
    again.send(hello())
    assert pair.answer(again)["k"] == "welcome"
    again.close()


def test_too_large_a_request_is_cut_off(pair: Pair) -> None:
    honest = pair.receiver("block", 4)
    stranger = pair.stranger()
    stranger.send(hello(name="x" * 70_000))
    for seq in range(20):
        pair.publish(seq)
        assert pair.take(honest, 1) == [seq]
    assert not stranger.poll(0)
    assert len(pair.sender.depths()) == 1
    stranger.close(linger=0)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=3), st.booleans())
def test_any_bytes_harm_nobody(pair: Pair, parts: list[bytes], greet: bool) -> None:
    stranger = pair.stranger()
    if greet:
        stranger.send(hello(name=None))
    stranger.send_multipart(parts)
    pair.until(lambda: bool(stranger.poll(0)))
    stranger.close(linger=0)
    if not pair.receivers:
        pair.receiver("latest", 1)
    pair.publish(9)
    assert pair.take(pair.receivers[0], 1) == [9]


def test_second_hello_takes_the_place_of_the_first(pair: Pair) -> None:
    stranger = pair.stranger()
    for name in ("first", "second"):
        stranger.send(hello(name=name, shm=False))
        assert pair.answer(stranger)["k"] == "welcome"
    assert [*pair.sender.depths()] == ["n.out -> second"]
    pair.publish(0, 1)
    assert pair.answer(stranger)["seq"] == 0
    assert not stranger.poll(200)  # one credit, one message
    stranger.close()


def test_same_edge_of_a_node_that_was_started_again(pair: Pair) -> None:
    first = pair.receiver("drop_oldest", 2)
    pair.publish(*range(9))
    second = pair.receiver("drop_oldest", 2)
    assert len(pair.sender.depths()) == 1
    pair.until(lambda: pair.leases() == 0)
    pair.publish(9)
    assert pair.take(second, 1) == [9]
    first.close()


def test_credit_from_nobody_is_ignored(pair: Pair) -> None:
    stranger = pair.stranger()
    stranger.send(said("credit", n=5, release=[1]))
    stranger.send(said("bye"))
    stranger.send(hello())
    assert pair.answer(stranger)["k"] == "welcome"
    assert pair.sender.malformed == 0
    stranger.close()


class FakeSender:
    """A node that says what it likes."""

    def __init__(self, context: Context, folder: Path) -> None:
        self.path = folder / "fake"
        self.socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        self.socket.bind(f"ipc://{self.path}")
        self.receiver = Receiver(context, f"ipc://{self.path}", "out", Frame, name="r.in")
        self.identity, greeting = self.socket.recv_multipart()
        assert msgpack.unpackb(greeting) == {
            "v": 1, "k": "hello", "port": "out", "name": "r.in", "policy": "latest", "queue": 1, "credits": 1,
            "shm": slots.AVAILABLE, "marks": True,
        }  # fmt: skip

    def say(self, *parts: bytes) -> None:
        self.socket.send_multipart([self.identity, *parts])
        assert self.receiver.socket.poll(10_000)

    def close(self) -> None:
        self.receiver.close()
        self.socket.close(linger=0)
        self.path.unlink()


@pytest.fixture
def fake(context: Context, run_dir: Path) -> Iterator[FakeSender]:
    fake = FakeSender(context, run_dir)
    yield fake
    fake.close()


WELCOME = said("welcome", node="n", port="out", types=type_names(Frame), shm=None)


def data(place: Any = 3, **changes: Any) -> bytes:
    arrays = [["image", "|u1", [1, 1, 3], place]]
    content: dict[str, Any] = {"type": "Frame", "stream": "s", "seq": 0, "epoch": 0, "pts": 0.0, "t": 0, "hops": []}
    return said("data", **(content | {"body": {}, "arrays": arrays} | changes))


@pytest.mark.parametrize(
    "parts",
    [
        [b""],
        [b"garbage"],
        [said("credit", n=1)],
        [said("hello")],
        [msgpack.packb({"v": 2, "k": "end"})],
        [WELCOME],  # the second
        [data()],  # without the buffer
        [data(), b"abcd"],
        [data(), b"ab"],
        [data(-1), b"abc"],
        [data([0, 0, 3]), b"abc"],  # shared memory that it has not
        [data([]), b"abc"],
        [data(seq="x"), b"abc"],
        [data(seq="x", type="Mark")],
        [data(arrays=[["image", "|u1", [1, 1, -3], 3]]), b"abc"],
        [data(arrays=[["image", "<f4", [1, 1, 3], 3]]), b"abc"],
        [data(arrays=[]), b"abc"],
    ],
)
def test_sender_that_breaks_the_protocol_is_disconnected(
    fake: FakeSender, parts: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    fake.say(WELCOME)
    assert fake.receiver.receive() is None and fake.receiver.welcomed
    fake.say(data(), b"abc")
    arrived = fake.receiver.receive()
    assert arrived is not None and isinstance(arrived.message, Frame)
    fake.say(*parts)
    assert fake.receiver.receive() is None
    assert fake.receiver.ended and fake.receiver.malformed == 1
    assert "r.in: ipc://" in caplog.text and "broke the protocol and is disconnected" in caplog.text


@pytest.mark.parametrize(
    "changes", [{"types": []}, {"types": "Frame"}, {"types": [5]}, {"types": None}, {"shm": 5}, {"shm": "/nowhere"}]
)
def test_odd_welcome(fake: FakeSender, changes: dict[str, Any]) -> None:
    fake.say(said("welcome", **({"types": type_names(Frame), "shm": None} | changes)))
    assert fake.receiver.receive() is None
    assert fake.receiver.ended and fake.receiver.malformed == 1 and not fake.receiver.welcomed


def test_refusal_is_told(fake: FakeSender) -> None:
    fake.say(said("refused", why="no output 'out'"))
    with pytest.raises(GraphError, match=r"r\.in: refused by ipc://.* out: no output 'out'"):
        fake.receiver.receive()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=3))
def test_any_bytes_from_a_sender(context: Context, run_dir: Path, parts: list[bytes]) -> None:
    fake = FakeSender(context, run_dir)
    fake.say(WELCOME)
    assert fake.receiver.receive() is None
    fake.say(*parts)
    assert fake.receiver.receive() is None
    assert fake.receiver.malformed == 1
    fake.close()


def test_array_that_is_too_large_names_itself(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
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
    """A consumer in a process of its own."""

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
    publishing = Publishing(pair, 50)  # nothing holds it up for long
    publishing.join(30)
    assert not publishing.is_alive()
    pair.until(lambda: pair.leases() == 0 and pair.sender.idle())


@pytest.mark.slow
def test_consumer_that_is_stopped_and_goes_on(pair: Pair) -> None:
    """SIGSTOP: its own edge drops, the other one misses nothing, and afterwards it goes on."""
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


def test_an_ended_input_with_something_unread_is_not_waited_for(pair: Pair) -> None:
    receivers = {name: pair.receiver(name=f"r.{name}") for name in ("a", "b")}
    inputs = Inputs(receivers, dict.fromkeys(receivers, "seq"), newest=False)
    pair.publish(0)
    for receiver in receivers.values():
        pair.arrived(receiver)
    receivers["a"].ended = True  # as after a packet that broke the protocol
    assert receivers["b"].receive() is not None
    assert not inputs.wait(50), "a cannot give anything any more: whoever waits must notice that b is dead"
    assert receivers["a"].socket.poll(0)
    pair.publish(1)
    pair.arrived(receivers["b"])
    assert inputs.wait(50)


def test_what_came_before_all_were_linked_is_not_lost(pair: Pair) -> None:
    """A node that is started again gets frames while it waits for the word to play; their credits must come back."""
    receiver = pair.receiver(queue=2)
    inputs = Inputs({"a": receiver}, {"a": "seq"}, newest=False)
    pair.publish(0, 1)
    pair.arrived(receiver)
    inputs.receive()
    got = []

    def took() -> bool:
        taken = inputs.take()
        if taken is not None:
            got.extend(arrived.message.header.seq for arrived in taken.values() if arrived)
            inputs.done()
        inputs.wait(0)
        return len(got) >= 2

    pair.until(took)
    pair.publish(2, 3)
    pair.until(lambda: took() and len(got) == 4)
    assert got == [0, 1, 2, 3]
