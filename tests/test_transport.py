"""Sender and consumers over real sockets: credits, the four policies, types, and the end of a stream."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graph import Detections, Frame, GraphError, Header, Mark, array, sender
from graph.inputs import Inputs
from graph.messages import Hop
from graph.receiver import find_type
from tests.conftest import eventually
from tests.pair import Context, Pair, Publishing, frame

EDGE = "n.out -> r.in"


@pytest.mark.parametrize(
    ("policy", "queue", "delivered", "dropped"),
    [
        ("drop_newest", 4, [*range(8)], 12),  # 4 in transit by credit, 4 in the queue
        ("drop_oldest", 4, [0, 1, 2, 3, 16, 17, 18, 19], 12),
        ("drop_oldest", 1, [0, 19], 18),
        ("latest", 1, [0, 19], 18),
    ],
)
def test_policies_with_a_stalled_reader(
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


def test_mark_does_not_displace_messages_of_a_consumer_without_marks(pair: Pair) -> None:
    receiver = pair.receiver("latest", 1, marks=False)
    pair.publish(0, 1)
    pair.sender.publish("out", Mark(header=Header("test", 2)))
    assert not pair.drops
    assert pair.take(receiver, 2) == [0, 1]


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
def test_dropped_marks_are_not_counted(pair: Pair, policy: str) -> None:
    pair.receiver(policy, 4)
    pair.publish(0, 1, 2, 3)  # in transit
    for seq in range(4, 12):
        pair.sender.publish("out", Mark(header=Header("test", seq)))
    assert not pair.drops
    assert pair.sender.depths() == {EDGE: 4}


def test_block_waits_and_loses_nothing(pair: Pair) -> None:
    receiver = pair.receiver("block", 4)
    publishing = Publishing(pair, 50)
    assert eventually(lambda: pair.blocked == [True])
    assert publishing.published == 12  # eight in transit, four queued
    assert pair.take(receiver, 50) == [*range(50)]
    publishing.join()
    assert pair.drops == {}
    assert pair.blocked.count(True) == pair.blocked.count(False)


@pytest.mark.parametrize("far", [True, None])
def test_frames_from_another_host_count_as_captured_on_arrival(
    pair: Pair, far: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clock may be days ahead of ours, or behind, and that of a container, too."""
    monkeypatch.setattr("graph.receiver.OTHER_CLOCK_NS", -1)  # less than any difference
    receiver = pair.receiver(far=far)
    for seq, t in enumerate((1, 1 << 62)):
        pair.sender.publish("out", frame(seq), Header("test", seq, t_capture_ns=t, hops=(Hop("n", t, t, t),)))
        pair.arrived(receiver)
        arrived = receiver.receive()
        assert arrived is not None
        assert arrived.message.header.t_capture_ns == arrived.made_ns == arrived.received_ns
        receiver.consumed()
        del arrived


def test_every_queued_message_is_reported(pair: Pair) -> None:
    receiver = pair.receiver("drop_oldest", 3)
    pair.publish(*range(8))  # three in transit, the others are queued
    assert pair.queued == [(EDGE, waiting) for waiting in (1, 2, 3, 3, 3)]
    assert pair.take(receiver, 6) == [0, 1, 2, 5, 6, 7]
    pair.publish(8)
    assert len(pair.queued) == 5


@pytest.mark.parametrize("how", ["gone", "bye", "forget"])
def test_block_continues_without_its_consumer(pair: Pair, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "PING_S", 0.05)
    stranger = {"name": "attached/1", "run": ""} if how == "gone" else {}  # else the supervisor reports it
    receiver = pair.receiver("block", 2, **stranger)
    publishing = Publishing(pair, 10)
    assert eventually(lambda: pair.blocked == [True])
    if how == "gone":
        receiver.socket.close(linger=0)
    elif how == "bye":
        receiver.close()
    else:
        pair.sender.forget("r")  # from another thread than the blocked one
    publishing.join(20)
    assert not publishing.is_alive()
    assert pair.sender.idle()
    assert pair.leases() == 0


def test_end_waits_only_briefly_for_a_stalled_attached_consumer(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "FAREWELL_S", 0.05)
    stalled = pair.receiver("block", 2, name="attached/1", run="")
    publishing = Publishing(pair, 10)
    assert eventually(lambda: pair.blocked == [True])
    publishing.join(0.25)
    assert publishing.is_alive(), "the graph is not ending yet"
    pair.sender.finish()
    publishing.join(20)
    assert not publishing.is_alive()
    assert pair.sender.idle()
    assert pair.take(stalled, 4) == [0, 1, 2, 3], "messages in transit to it are not overwritten"


def test_end_waits_for_a_slow_node_of_the_graph(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "FAREWELL_S", 0.02)
    slow = pair.receiver("block", 2)
    publishing = Publishing(pair, 10)
    assert eventually(lambda: pair.blocked == [True])
    pair.sender.finish()
    publishing.join(0.25)
    assert publishing.is_alive()
    assert pair.take(slow, 10) == list(range(10))
    publishing.join()


def test_credits_limit_messages_in_transit(pair: Pair) -> None:
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
    assert got == [0, 1, 2]  # the rest is queued in the sender, where it can be dropped
    receiver.consumed()
    receiver.flush(idle=True)
    pair.until(lambda: receive() and len(got) == 4)
    assert got == [0, 1, 2, 17]


def test_credits_are_returned_in_half_windows(pair: Pair) -> None:
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


def test_stalled_consumer_does_not_delay_the_others(pair: Pair) -> None:
    stalled = pair.receiver("drop_oldest", 2, name="stalled.in")
    quick = [pair.receiver("block", 4, name=f"quick{i}.in") for i in range(3)]
    for seq in range(100):
        pair.publish(seq)
        for receiver in quick:
            assert pair.take(receiver, 1) == [seq]
    assert pair.drops == {"n.out -> stalled.in": 96}
    assert pair.take(stalled, 4) == [0, 1, 98, 99]


def test_end_comes_after_all_queued_messages(pair: Pair) -> None:
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


def test_marks_are_sent(pair: Pair) -> None:
    receiver = pair.receiver()
    pair.sender.publish("out", Mark(header=Header("test", 3)))
    pair.arrived(receiver)
    arrived = receiver.receive()
    assert arrived is not None and isinstance(arrived.message, Mark) and arrived.message.seq == 3


def test_expired_edge_still_returns_what_has_arrived(pair: Pair) -> None:
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Depth(Frame):
    """What a newer sender may send to a consumer that only knows Frame."""

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


def test_ended_input_with_unread_data_does_not_end_the_wait(pair: Pair) -> None:
    receivers = {name: pair.receiver(name=f"r.{name}") for name in ("a", "b")}
    inputs = Inputs(receivers, dict.fromkeys(receivers, "seq"), newest=False)
    pair.publish(0)
    for receiver in receivers.values():
        pair.arrived(receiver)
    receivers["a"].ended = True  # as after a packet that broke the protocol
    assert receivers["b"].receive() is not None
    assert not inputs.wait(50), "nothing more comes from a, so the wait is for b alone"
    assert receivers["a"].socket.poll(0)
    pair.publish(1)
    pair.arrived(receivers["b"])
    assert inputs.wait(50)


def test_messages_received_while_linking_are_not_lost(pair: Pair) -> None:
    """A restarted node receives frames before it is told to play; their credits must be returned."""
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
