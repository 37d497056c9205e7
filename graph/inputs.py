"""All inputs of one consumer: its receivers, and the join that matches their messages."""

from collections.abc import Iterable, Mapping

from graph.join import Arrived, Join, JoinKind
from graph.messages import Message
from graph.receiver import Receiver, wait_for_any

Set = dict[str, Arrived | None]
"""The messages of one frame by input; None where a held input has nothing yet."""


class Inputs:
    """Returns the messages of one frame after another, and gives credits back as they are processed."""

    def __init__(self, receivers: Mapping[str, Receiver], kinds: Mapping[str, JoinKind], newest: bool) -> None:
        """Join `receivers` by name; `kinds` and `newest` as for `Join`."""
        self.receivers = dict(receivers)
        self._join = Join(dict(kinds), newest)
        self._only = next(iter(kinds)) if list(kinds.values()) == ["seq"] else None  # nothing to join
        self._early = False  # messages that arrived while other inputs were being linked wait in the join

    @property
    def welcomed(self) -> bool:
        """Whether every sender has answered."""
        return all(receiver.welcomed or receiver.ended for receiver in self.receivers.values())

    @property
    def finished(self) -> bool:
        """Whether no further frame can come."""
        return self._join.finished

    @property
    def dropped(self) -> int:
        """How many messages were dropped because they could not be matched."""
        return sum(self._join.dropped.values())

    def matched(self, taken: Set) -> list[Arrived]:
        """Return the messages of a set without the held values: those of the frame itself."""
        return [arrived for name, arrived in taken.items() if arrived and self._join.waits_for(name)]

    def receive(self) -> None:
        """Read everything that has arrived: messages, welcomes, ends."""
        self._early = True
        for name, receiver in self.receivers.items():
            while arrived := receiver.receive():
                self._return_credits(self._join.push(name, arrived))
            if receiver.ended:
                self._join.end(name)

    def take(self) -> Set | None:
        """Return the messages of the next frame if all have arrived. Call `done` after processing each set."""
        if self._only is not None:
            return (self._take_early() if self._early else None) or self._take_only(self._only)
        self.receive()
        self._return_credits(self._join.settle())
        return self._join.pop()

    def partial(self) -> dict[str, Message]:
        """Return the messages that have arrived of the next frame, by input, after `take` found it incomplete."""
        return {} if self._only is not None else self._join.partial()

    def _take_early(self) -> Set | None:
        taken = self._join.pop()
        self._early = taken is not None
        return taken

    def _take_only(self, name: str) -> Set | None:
        """Return the next message of a single input, to be processed at once."""
        receiver = self.receivers[name]
        while arrived := receiver.receive():
            if self._join.is_new(name, arrived):
                return {name: arrived}
            self._return_credits([name])
        if receiver.ended:
            self._join.end(name)
        return None

    def done(self) -> None:
        """Return the credits of the last set: it has been processed, and no reference to it is left."""
        self._return_credits(name for name in self.receivers if self._join.waits_for(name))

    def wait(self, timeout_ms: int, wake_fd: int = -1) -> bool:
        """Wait until something arrives or `wake_fd` is readable; return False on timeout."""
        return wait_for_any(self.receivers.values(), timeout_ms, wake_fd)

    def expire(self, names: Iterable[str]) -> None:
        """End these inputs after the messages that have already arrived."""
        for name in self.receivers.keys() & set(names):  # none yet if a sender failed before all were linked
            self.receivers[name].expire()

    def replace(self, name: str, receiver: Receiver, missed: bool = True) -> None:
        """Continue with another receiver, to a restarted sender. `missed`: frames may have been lost with the old."""
        self.receivers[name].close()
        self.receivers[name] = receiver
        if missed:
            self._join.restarted(name)

    def restarted(self, name: str, seq: int | None = None) -> None:
        """Note that a node upstream of this input was restarted after frame `seq`.

        None: unknown, but not newer than the newest message here.
        """
        self._join.restarted(name, self._join.newest if seq is None else seq)

    def close(self, again: bool = False) -> None:
        """Disconnect from all senders; `again` if another process of this node will reconnect."""
        for receiver in self.receivers.values():
            receiver.close(again)

    def _return_credits(self, names: Iterable[str]) -> None:
        for name in names:
            self.receivers[name].consumed()
            self.receivers[name].flush(idle=False)
