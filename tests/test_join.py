"""Joins under any loss and any order of arrival: nothing mismatched, nothing twice, nothing unaccounted for."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graph.join import Arrived, Join, first_header, merge
from graph.messages import Header, Hop, Mark, Message
from graph.spec import EdgeSpec, GraphSpec, NodeSpec

EDGES = ("a", "b", "c")


class Number(Message):
    """A message, not a mark."""


def arrived(seq: int, type_: type[Message] = Number) -> Arrived:
    return Arrived(type_(header=Header("test", seq)), received_ns=seq)


class Run:
    """Drives a join as a node does, and counts."""

    def __init__(self, join: Join, *names: str) -> None:
        self.join = join
        self.names = names
        self.pushed: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()
        self.out: list[int] = []

    def push(self, name: str, seq: int) -> None:
        self.pushed[name] += 1
        self.finished.update(self.join.push(name, arrived(seq)))

    def take(self) -> None:
        """Process every set that is complete now."""
        while True:
            self.finished.update(self.join.settle())
            taken = self.join.pop()
            if taken is None:
                return
            seqs = {given.message.seq for given in taken.values() if given is not None}
            assert len(seqs) == 1, f"mixed frames {seqs}"
            self.finished.update(name for name in taken if self.join.waits_for(name))
            self.out += seqs

    def end(self) -> None:
        for name in self.names:
            self.join.end(name)
        self.take()


seqs = st.lists(st.integers(0, 30), unique=True, max_size=25).map(sorted)
edges = st.tuples(seqs, seqs, seqs)


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[list[list[int]], list[tuple[str, int] | None]]:
    """Any subset of frames on each edge, in any interleaving; None: the node looks for complete sets."""
    kept = draw(edges)[: draw(st.integers(2, 3))]
    order = draw(st.permutations([name for name, seqs in zip(EDGES, kept, strict=False) for _ in seqs]))
    left = {name: iter(seqs) for name, seqs in zip(EDGES, kept, strict=False)}
    events: list[tuple[str, int] | None] = []
    for name in order:
        events.append((name, next(left[name])))
        if draw(st.booleans()):
            events.append(None)
    return [list(seqs) for seqs in kept], events


def drive(kept: list[list[int]], events: list[tuple[str, int] | None], newest: bool) -> Run:
    names = EDGES[: len(kept)]
    run = Run(Join(dict.fromkeys(names, "seq"), newest=newest), *names)
    for event in events:
        if event is None:
            run.take()
        else:
            run.push(*event)
    run.end()
    return run


@given(arrivals())
def test_every_complete_set_is_returned_in_order(case: tuple[list[list[int]], list[tuple[str, int] | None]]) -> None:
    kept, events = case
    run = drive(kept, events, newest=False)
    assert run.out == sorted(set(kept[0]).intersection(*kept[1:]))
    assert run.finished == run.pushed  # every credit goes back
    assert run.join.finished
    for name, seqs in zip(run.names, kept, strict=True):
        assert run.join.dropped[name] == len(seqs) - len(run.out)


@given(arrivals())
def test_newest_gives_rising_complete_sets_up_to_the_last(
    case: tuple[list[list[int]], list[tuple[str, int] | None]],
) -> None:
    kept, events = case
    run = drive(kept, events, newest=True)
    complete = sorted(set(kept[0]).intersection(*kept[1:]))
    assert set(run.out) <= set(complete)
    assert run.out == sorted(set(run.out))
    assert run.out[-1:] == complete[-1:]
    assert run.finished == run.pushed


def test_rest_after_a_set_is_matched_again() -> None:
    run = Run(Join({"a": "seq", "b": "seq"}, newest=True), "a", "b")
    for name, seq in (("a", 1), ("b", 1), ("a", 3), ("b", 2)):
        run.push(name, seq)
    run.take()  # nothing arrives in between: 3 must not be given with 2
    assert run.out == [1]
    run.push("b", 3)
    run.take()
    assert run.out == [1, 3]


def test_newest_drops_older_sets() -> None:
    run = Run(Join({"a": "seq", "b": "seq"}, newest=True), "a", "b")
    for seq in range(5):
        run.push("a", seq)
        run.push("b", seq)
    run.take()
    assert run.out == [4]
    assert run.join.dropped == {"a": 4, "b": 4}


def test_what_has_arrived_of_the_next_frame_is_known() -> None:
    run = Run(Join({"a": "seq", "b": "seq", "c": "hold"}, newest=True), "a", "b")
    assert run.join.partial() == {}
    for name, seq in (("a", 1), ("c", 2), ("a", 2)):
        run.push(name, seq)
    run.take()
    assert {name: message.seq for name, message in run.join.partial().items()} == {"a": 1}
    run.push("b", 2)  # so 1 can never be complete
    run.take()
    assert run.out == [2] and run.join.partial() == {}


def test_single_input_is_never_skipped() -> None:
    run = Run(Join({"a": "seq"}, newest=True), "a")
    for seq in range(5):
        run.push("a", seq)
    run.take()
    assert run.out == [0, 1, 2, 3, 4]


def test_messages_that_arrive_late_or_twice_are_dropped() -> None:
    run = Run(Join({"a": "seq"}), "a")
    for seq in (3, 3, 2, 4):
        run.push("a", seq)
    run.take()
    assert run.out == [3, 4]
    assert run.join.dropped["a"] == 2


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), max_size=40))
def test_hold_gives_the_last_value(events: list[tuple[str, bool]]) -> None:
    """`a` is matched, `b` is held; a mark on `b` does not clear its value."""
    join = Join({"a": "seq", "b": "hold"})
    last: int | None = None
    for number, (name, mark) in enumerate(events):
        finished = join.push(name, arrived(number, Mark if mark else Number))
        assert finished == (["b"] if name == "b" else [])  # a held message never holds a credit
        if name == "b" and not mark:
            last = number
        if name == "a":
            taken = join.pop()
            assert taken is not None
            assert taken["a"] is not None and taken["a"].message.seq == number
            assert (taken["b"].message.seq if taken["b"] else None) == last
            assert join.pop() is None


def test_held_input_may_be_newer_than_the_frame() -> None:
    join = Join({"a": "seq", "b": "hold"})
    join.push("b", arrived(7))
    join.push("a", arrived(3))
    join.settle()
    taken = join.pop()
    assert taken is not None and taken["b"] is not None and taken["b"].message.seq == 7


@pytest.mark.parametrize("ends", ["a", "b", "ab", "held"])
def test_ends(ends: str) -> None:
    """What has arrived is still returned; the end of a held input ends nothing."""
    join = Join({"a": "seq", "b": "seq", "held": "hold"})
    join.push("a", arrived(0))
    join.push("b", arrived(0))
    for name in ["held"] if ends == "held" else ends:
        join.end(name)
    assert not join.finished
    assert join.settle() == []
    assert join.pop() is not None
    assert join.finished is (ends != "held")


def test_the_end_of_an_input_drops_what_the_others_hold() -> None:
    join = Join({"a": "seq", "b": "seq"})
    for seq in range(3):
        join.push("a", arrived(seq))
    join.push("b", arrived(1))
    join.end("b")
    assert join.settle() == ["a"]
    assert join.pop() is not None
    assert join.finished
    assert join.settle() == ["a"]
    assert join.dropped == {"a": 2, "b": 0}


def test_input_that_ends_before_anything_came() -> None:
    join = Join({"a": "seq", "b": "seq"})
    join.end("a")
    assert join.finished
    join.push("b", arrived(0))
    assert join.settle() == ["b"]


def test_messages_of_frames_lost_with_a_sender_are_dropped() -> None:
    """`b` is restarted: the credits of messages whose frames it never answered must be given back."""
    run = Run(Join({"a": "seq", "b": "seq", "c": "seq"}), "a", "b", "c")
    for name, seqs in (("a", range(4)), ("b", range(2)), ("c", range(3))):
        for seq in seqs:
            run.push(name, seq)
    run.take()
    assert run.out == [0, 1]
    run.join.restarted("b")
    run.take()
    assert run.join.dropped == {"a": 2, "b": 0, "c": 1}
    run.push("a", 4)
    run.take()
    assert run.join.dropped["a"] == 3
    run.push("b", 4)  # speaks again: from here on all is waited for
    for name in "abc":
        run.push(name, 5)
    run.take()
    assert run.out == [0, 1, 5]
    assert run.finished == run.pushed


def test_answers_from_before_a_restart_are_still_matched() -> None:
    run = Run(Join({"a": "seq", "b": "seq"}), "a", "b")
    for seq in range(3):
        run.push("b", seq)
    run.join.restarted("b")
    run.take()
    for seq in range(5):
        run.push("a", seq)
    run.take()
    assert run.out == [0, 1, 2]
    assert run.join.dropped == {"a": 2, "b": 0}


def test_restart_of_a_held_input_changes_nothing() -> None:
    run = Run(Join({"a": "seq", "b": "hold"}), "a", "b")
    run.join.restarted("b")
    run.push("a", 0)
    run.take()
    assert run.out == [0]


def test_messages_of_frames_lost_far_upstream_are_dropped_until_later_ones_arrive() -> None:
    """It had frames up to 3; some of them arrive after the news of its restart."""
    run = Run(Join({"a": "seq", "b": "seq"}), "a", "b")
    for seq in range(6):
        run.push("a", seq)
    run.join.restarted("b", 3)
    run.take()
    assert run.join.dropped["a"] == 6
    run.push("b", 3)
    run.push("a", 6)
    run.take()
    assert run.join.dropped["a"] == 7  # 3 is older than the restart
    run.push("b", 7)
    run.push("a", 7)
    run.push("a", 8)
    run.take()
    assert run.out == [7] and run.join.dropped["a"] == 7
    assert run.finished["a"] == run.pushed["a"] - 1  # frame 8 is waited for


def test_the_header_of_a_join_has_the_hops_of_all_inputs() -> None:
    source, left, right = (Hop(name, 1, 2, 3) for name in ("source", "left", "right"))
    header = Header("s", 5, 1, 0.5, 99, (source, left))
    assert merge([header, Header("s", 5, hops=(source, right))]) == header._replace(hops=(source, left, right))
    assert merge([header]) == header


def test_the_header_of_a_source_is_that_of_its_first_message() -> None:
    said = arrived(5).message
    assert first_header({"picture": None, "depth": said}) == said.header
    assert first_header({"picture": None}) == Header()


def test_edges_that_rejoin() -> None:
    """source -> a -> b -> join <- source; end <- a; the loop is closed by b's edge alone."""
    edges = [("source.x", "a.x"), ("a.x", "b.x"), ("b.x", "join.b"), ("source.x", "join.s"), ("a.x", "end.x")]
    specs = tuple(EdgeSpec(*edge) for edge in edges)
    names = ("source", "a", "b", "join", "end")
    graph = GraphSpec("g", None, {name: NodeSpec(name, "x:X") for name in names}, specs, "x.yaml")
    assert [edge.name for edge in graph.rejoining("a")] == ["b.x -> join.b"]
    assert graph.rejoining("b") == ()  # its own edge is linked anew
    assert [edge.name for edge in graph.rejoining("b", own=True)] == ["b.x -> join.b"]
    assert graph.rejoining("source") == ()  # nothing passes it
