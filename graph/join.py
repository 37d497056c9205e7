"""Joins the messages of one frame that arrive on different edges. Pure: no sockets, no clock."""

from collections import deque
from typing import Literal, NamedTuple

from graph.messages import Header, Mark, Message

JoinKind = Literal["seq", "hold"]


class Arrived(NamedTuple):
    """A message and when it was read from its socket (CLOCK_MONOTONIC ns)."""

    message: Message
    received_ns: int

    @property
    def made_ns(self) -> int:
        """When its sender's process() returned; since then it has waited in queues and sockets."""
        hops = self.message.header.hops
        return min(hops[-1].end_ns, self.received_ns) if hops else self.received_ns


class Join:
    """Matches messages of equal `seq`; a `hold` input contributes its last value instead.

    Sequence numbers rise on every edge, so a message that is older than one on another edge can never be matched: it
    is dropped and counted. With `newest` (for edges that may drop) only the newest complete set is returned and older
    ones are dropped; without, all sets are returned in order.
    """

    def __init__(self, kinds: dict[str, JoinKind], newest: bool = False) -> None:
        self._waiting: dict[str, deque[Arrived]] = {name: deque() for name, kind in kinds.items() if kind == "seq"}
        self._last_seq = dict.fromkeys(self._waiting, -1)
        self._held: dict[str, Arrived | None] = {name: None for name, kind in kinds.items() if kind == "hold"}
        self._ended: set[str] = set()
        self._restarted: dict[str, int] = {}  # input to the last frame that its sender had answered
        self._newest = newest
        self.dropped: dict[str, int] = dict.fromkeys(kinds, 0)

    def waits_for(self, name: str) -> bool:
        """Return whether input `name` is matched by seq (and not held)."""
        return name in self._waiting

    def push(self, name: str, arrived: Arrived) -> list[str]:
        """Take a message from input `name`; return `[name]` if the join is already done with it."""
        if name in self._held:
            if not isinstance(arrived.message, Mark):  # "nothing to say" keeps the held value
                self._held[name] = arrived
            return [name]
        if not self.is_new(name, arrived):
            return [name]
        self._waiting[name].append(arrived)
        if arrived.message.header.seq > self._restarted.get(name, 1 << 62):
            del self._restarted[name]
        return []

    def is_new(self, name: str, arrived: Arrived) -> bool:
        """Return whether a message is newer than all before on input `name`; if not, count it as dropped."""
        seq = arrived.message.header.seq
        if seq <= self._last_seq[name]:
            self.dropped[name] += 1
            return False
        self._last_seq[name] = seq
        return True

    def settle(self) -> list[str]:
        """Drop what can no longer be matched, and with `newest` all but the newest complete set.

        Returns the input of each dropped message. Call it before `pop`.
        """
        if len(self._waiting) < 2:
            return []
        return self._evict() + self._drop_lost() + self._skip_to_newest()

    def pop(self) -> dict[str, Arrived | None] | None:
        """Return the next complete set, with None for a held input without a value; None if no set is complete.

        Call `settle` first.
        """
        queues = self._waiting.values()
        if not all(queues):
            return None
        taken: dict[str, Arrived | None] = {name: queue.popleft() for name, queue in self._waiting.items()}
        assert len({arrived.message.header.seq for arrived in taken.values() if arrived}) == 1, "not settled"
        taken.update(self._held)
        return taken

    def partial(self) -> dict[str, Message]:
        """Return the messages that have arrived of the next frame, by input. Call `settle` first."""
        return {name: queue[0].message for name, queue in self._waiting.items() if queue}

    def _skip_to_newest(self) -> list[str]:
        if not self._newest:
            return []
        common = set.intersection(*({a.message.header.seq for a in queue} for queue in self._waiting.values()))
        return self._drop_below(max(common)) if common else []

    def end(self, name: str) -> None:
        """Note that the stream of input `name` has ended."""
        self._ended.add(name)
        if name in self._waiting:
            self._last_seq[name] = 1 << 62

    def restarted(self, name: str, seq: int = -1) -> None:
        """Note that the sender of input `name`, or a node upstream of it, was restarted after frame `seq`.

        The frames that it had not answered are lost. Their messages on other edges are dropped until `name` delivers a
        later frame: if they were kept, a sender blocked by them could never give that node a new frame.
        """
        if name in self._waiting:
            self._restarted[name] = seq

    @property
    def newest(self) -> int:
        """The seq of the newest frame of which anything has arrived, -1 before the first."""
        return max((seq for name, seq in self._last_seq.items() if name not in self._ended), default=-1)

    @property
    def finished(self) -> bool:
        """Whether no further set can come."""
        return any(name in self._ended and not queue for name, queue in self._waiting.items())

    def _evict(self) -> list[str]:
        """Drop what is older than the oldest message that another input can still deliver."""
        gone: list[str] = []
        while True:
            oldest = max(
                queue[0].message.header.seq if queue else self._last_seq[name] + 1
                for name, queue in self._waiting.items()
            )
            dropped = self._drop_below(oldest)
            if not dropped:
                return gone
            gone += dropped

    def _drop_lost(self) -> list[str]:
        gone: list[str] = []
        for silent in self._restarted:
            for name, queue in self._waiting.items():
                while queue and queue[-1].message.header.seq > self._last_seq[silent]:
                    queue.pop()
                    self.dropped[name] += 1
                    gone.append(name)
        return gone

    def _drop_below(self, seq: int) -> list[str]:
        gone: list[str] = []
        for name, queue in self._waiting.items():
            while queue and queue[0].message.header.seq < seq:
                queue.popleft()
                self.dropped[name] += 1
                gone.append(name)
        return gone


def merge(headers: list[Header]) -> Header:
    """Return the header for the output made from these messages of one frame: the first one's, with all hops so far."""
    if len(headers) == 1:
        return headers[0]
    hops = dict.fromkeys(hop for header in headers for hop in header.hops)
    return headers[0]._replace(hops=tuple(hops))


def first_header(outputs: dict[str, Message | None]) -> Header:
    """Return the header of the first message in the output of a source, or an empty one."""
    for message in outputs.values():
        if message is not None:
            return message.header
    return Header()
