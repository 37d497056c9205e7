"""What senders and consumers reply to unknown peers, to protocol errors, and to arbitrary bytes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graph import Frame, GraphError, sender, slots, wire
from graph.receiver import Receiver, type_names
from tests.pair import Context, Pair

EDGE = "n.out -> r.in"


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
        ([msgpack.packb({"v": 99, "k": "hello"})], "protocol version 99; this side speaks version 1"),
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
        ([hello(name="r.in")], "'r.in' is an edge of the graph itself; take another name"),
        ([hello(name="r.in", run="")], "'r.in' is an edge of the graph itself"),
        ([hello(name="x" * 201)], "a name of 201 characters; at most 200 are allowed"),
        ([said("credit", n=-1)], "credit of -1; 0..1024 are allowed"),
        ([said("credit", n=1025)], "credit of 1025"),
        ([said("credit", n="1")], "credit of '1'"),
        ([said("credit")], "credit of None"),
        ([said("credit", n=1, release=5)], "release of 5; expected a list of slot numbers"),
        ([said("credit", n=1, release=[[5]])], "release of [[5]]; expected a list"),
        ([said("credit", n=1, release=["5"])], "release of ['5']; expected a list"),
        ([said("credit", n=1, release=[99])], "release of slot 99, on which it has no lease"),
        ([said("credit", n=1, release=[-1])], "release of slot -1, on which it has no lease"),
        ([said("credit", n=1, release=[0])], "release of slot 0, on which it has no lease"),  # another's
    ],
)
def test_faulty_consumer_is_refused_and_the_others_served(pair: Pair, parts: list[bytes], why: str) -> None:
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
    assert [*pair.sender.depths()] == [EDGE]
    stranger.send(hello())  # ignored from now on
    stranger.close()
    pair.publish(1)
    assert pair.take(honest, 2) == [0, 1]
    assert [*pair.sender.depths()] == [EDGE]
    again = pair.stranger()
    again.send(hello())
    assert pair.answer(again)["k"] == "welcome"
    again.close()


def test_too_large_a_message_is_not_received(pair: Pair) -> None:
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
def test_any_bytes_from_a_consumer(pair: Pair, parts: list[bytes], greet: bool) -> None:
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


def test_second_hello_replaces_the_first(pair: Pair) -> None:
    stranger = pair.stranger()
    for name in ("first", "second"):
        stranger.send(hello(name=name, shm=False))
        assert pair.answer(stranger)["k"] == "welcome"
    assert [*pair.sender.depths()] == ["n.out -> second"]
    pair.publish(0, 1)
    assert pair.answer(stranger)["seq"] == 0
    assert not stranger.poll(50)  # one credit, one message
    stranger.close()


def test_replaced_consumer_is_told_why(pair: Pair) -> None:
    first, second, own = pair.stranger(), pair.stranger(), pair.receiver()
    for stranger in (first, second):
        stranger.send(hello())
        assert pair.answer(stranger)["k"] == "welcome"
    assert pair.answer(first) == {"v": 1, "k": "refused", "why": "another consumer has said hello as 'stranger'"}
    pair.publish(0)
    assert pair.answer(second)["seq"] == 0
    assert pair.take(own, 1) == [0]
    first.close()
    second.close()


def test_only_edges_of_the_graph_itself_delay_its_end(pair: Pair) -> None:
    stranger = pair.stranger()
    stranger.send(hello(name="mine"))
    assert pair.answer(stranger)["k"] == "welcome"
    assert not pair.sender.has_consumers_of_this_graph()
    own = pair.receiver()
    assert pair.sender.has_consumers_of_this_graph()
    own.close()
    pair.until(lambda: not pair.sender.has_consumers_of_this_graph())
    stranger.close()


def test_credit_before_hello_is_ignored(pair: Pair) -> None:
    stranger = pair.stranger()
    stranger.send(said("credit", n=5, release=[1]))
    stranger.send(said("bye"))
    stranger.send(hello())
    assert pair.answer(stranger)["k"] == "welcome"
    stranger.close()


def test_quiet_consumer_is_pinged_once(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "PING_S", 600)
    stranger = pair.stranger()
    stranger.send(hello())
    assert pair.answer(stranger)["k"] == "welcome"
    pair.sender.ping()
    assert not stranger.poll(50)
    [link] = pair.sender._links.values()
    link.heard_ns -= 601 * 10**9
    for _ in range(3):
        pair.sender.ping()
    assert pair.answer(stranger) == {"v": 1, "k": "ping"}
    assert not stranger.poll(50)
    stranger.close()


class FakeSender:
    """A node that sends what the test wants."""

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
        [data([0, 0, 3]), b"abc"],  # shared memory without any
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
    assert fake.receiver.ended
    assert "r.in: ipc://" in caplog.text and "broke the protocol and is disconnected" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"types": []},
        {"types": "Frame"},
        {"types": [5]},
        {"types": None},
        {"shm": 5},
        {"shm": "/nowhere"},
        {"run": 5},
        {"restarts": "x"},
    ],
)
def test_odd_welcome(fake: FakeSender, changes: dict[str, Any]) -> None:
    fake.say(said("welcome", **({"types": type_names(Frame), "shm": None} | changes)))
    assert fake.receiver.receive() is None
    assert fake.receiver.ended and not fake.receiver.welcomed


def test_refusal_with_again_does_not_end_the_edge(fake: FakeSender) -> None:
    fake.say(said("refused", why="its node is gone, or hangs", again=True))
    assert fake.receiver.receive() is None
    assert fake.receiver.lost() and not fake.receiver.ended


def test_refusal_is_raised(fake: FakeSender) -> None:
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
    assert fake.receiver.ended
    fake.close()
