"""All inputs of one consumer: its receivers, and the join that brings their messages together."""

import select
from collections.abc import Iterable, Mapping

from graph.join import Arrived, Join, JoinKind
from graph.receiver import Receiver

Set = dict[str, Arrived | None]
"""The messages of one frame by input; None where a held input has nothing yet."""


class Inputs:
    """Gives the messages of one frame after the other, and returns credits as they are done with."""

    def __init__(self, receivers: Mapping[str, Receiver], kinds: Mapping[str, JoinKind], newest: bool) -> None:
        """Join `receivers` by name; `kinds` and `newest` as for `Join`."""
        self._receivers = dict(receivers)
        self._join = Join(dict(kinds), newest)

    @property
    def welcomed(self) -> bool:
        """True once every sender has answered."""
        return all(receiver.welcomed or receiver.ended for receiver in self._receivers.values())

    @property
    def finished(self) -> bool:
        """True once no further frame can come."""
        return self._join.finished

    @property
    def let_go(self) -> int:
        """How many messages could not be matched."""
        return sum(self._join.let_go.values())

    def matched(self, taken: Set) -> dict[str, Arrived]:
        """Return the part of a set that is of this very frame, without held values."""
        return {name: arrived for name, arrived in taken.items() if arrived and self._join.waits_for(name)}

    def receive(self) -> None:
        """Take in what has come: messages, welcomes, ends; of a single input one message, to process it at once."""
        for name, receiver in self._receivers.items():
            while arrived := receiver.receive():
                self._return_credits(self._join.push(name, arrived))
                if len(self._receivers) == 1:
                    return
            if receiver.ended:
                self._join.end(name)

    def take(self) -> Set | None:
        """Return the messages of the next frame if they are all there. Each set must be followed by `done`."""
        self.receive()
        self._return_credits(self._join.settle())
        return self._join.pop()

    def done(self) -> None:
        """Note that the set taken last has been processed, and no reference to it is left."""
        self._return_credits(name for name in self._receivers if self._join.waits_for(name))

    def wait(self, timeout_ms: int, wake_fd: int = -1) -> bool:
        """Wait until something has come, or `wake_fd` is readable; say whether it was so in time."""
        poller = select.poll()
        if wake_fd >= 0:
            poller.register(wake_fd, select.POLLIN)
        open_ = [receiver for receiver in self._receivers.values() if not receiver.ended]
        for receiver in open_:  # one that ended may have left something unread for ever
            receiver.flush(idle=True)
            poller.register(receiver.fd, select.POLLIN)
        return any(receiver.readable() for receiver in open_) or bool(poller.poll(timeout_ms))

    def lost(self) -> list[str]:
        """Return the inputs whose senders have died without a word."""
        return [name for name, receiver in self._receivers.items() if receiver.lost()]

    def expire(self, names: Iterable[str]) -> None:
        """End these inputs after what has arrived."""
        for name in self._receivers.keys() & set(names):  # none yet if a sender failed before all were linked
            self._receivers[name].expire()

    def replace(self, name: str, receiver: Receiver) -> None:
        """Go on with another receiver: the sender was started again."""
        self._receivers[name].close()
        self._receivers[name] = receiver
        self._join.restarted(name)

    def close(self) -> None:
        """Take leave of all senders."""
        for receiver in self._receivers.values():
            receiver.close()

    def _return_credits(self, names: Iterable[str]) -> None:
        for name in names:
            self._receivers[name].consumed()
            self._receivers[name].flush(idle=False)
