"""The receiving side of one edge: a DEALER that says hello, grants credits and returns typed messages."""

import errno
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from reprlib import repr as brief  # a peer may send values that are long and deep
from typing import Any

import zmq

from graph import slots, wire
from graph.errors import GraphError, WireError
from graph.join import Arrived
from graph.link import MAX_CREDIT
from graph.messages import Message
from graph.slots import SlotMap

logger = logging.getLogger(__name__)

# As plain numbers: operations on enum flags take a microsecond each.
_RCVMORE, _NOBLOCK, _POLLIN = int(zmq.RCVMORE), int(zmq.NOBLOCK), int(zmq.POLLIN)

QUIET_S = 2.5
"""Longer than a live sender is ever silent: it sends at least a `ping` every two seconds."""
SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors for want of something in this process or on this machine, not caused by the sender."""
OTHER_CLOCK_NS = 60_000_000_000
"""A clock that differs by more is another one (on this host, that of a container); a smaller difference is delay."""
MADE = "__made__"
"""Attribute of message types that were rebuilt from a recording, not to be confused with the real ones."""


class Receiver:
    """One consumer of one output port. Not thread-safe."""

    def __init__(
        self,
        context: "zmq.Context[Any]",
        endpoint: str,
        port: str,
        type_: type[Message] | None,
        *,
        name: str,
        run: str = "",
        restarts: int = 0,
        policy: str = "latest",
        queue: int = 1,
        shm: bool = True,
        marks: bool = True,
        secure: Callable[["zmq.Socket[bytes]"], None] | None = None,
        far: bool | None = False,
    ) -> None:
        """Connect and say hello; `welcomed` becomes true when the answer has come (see receive).

        `type_` None means the type that the sender names, if this process knows it. `name` is the edge's name, for the
        sender's counts; if the edge is the graph's own, `run` is the id of the graph's run, and `restarts` how often
        the reading node has been restarted in it. `secure` prepares the socket. With `shm` False all bytes come inline,
        with `marks` False no marks come: only a join by seq needs them. `far` says that the sender has another clock
        (None: its welcome shows whether it has): its frames then count as captured when they arrive here, like those of
        a network camera, and their hops start anew.
        """
        self.name = name
        self.far = far
        self.type = type_
        self.welcomed = False
        self.ended = False
        self.must_reconnect = False  # the sender asked for a new hello
        self.run, self.restarts = "", 0  # of the sender: id of its graph's run, how often it has been restarted in it
        self.expired = False  # ended, or about to end, without an `end` from the sender
        self._heard = self._fed = time.monotonic()  # when the sender last sent anything, and a message
        self._owed = 0  # credits to return
        self._window = min(2 * queue, MAX_CREDIT) if policy == "block" else queue  # block: half of them are in transit
        self._source = f"{endpoint} {port}"
        self._map: SlotMap | None = None
        self.socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        self.socket.set(zmq.LINGER, 500)
        self.socket.set(zmq.RCVHWM, 0)  # bounded by the credits
        self.socket.set(zmq.RECONNECT_IVL, 20)
        self.socket.set(zmq.MAXMSGSIZE, wire.MAX_BUFFER)
        if secure:
            secure(self.socket)
        self.socket.connect(endpoint)
        self._send(
            k="hello",
            port=port,
            name=name,
            policy=policy,
            queue=queue,
            credits=self._window,
            shm=shm and slots.AVAILABLE,
            marks=marks,
            **({"run": run, "restarts": restarts} if run else {}),
        )

    def receive(self) -> Arrived | None:
        """Return the next message that has arrived, or None. Handles the protocol, and sets `welcomed` and `ended`.

        Call `consumed` once for every message returned, when it has been processed or dropped. A packet that breaks
        the protocol is logged and ends the edge. Raises GraphError if the sender refuses to serve, provides another
        type, or shares memory that cannot be mapped here for want of memory or file descriptors.
        """
        while not self.ended:
            try:
                data = self.socket.recv(_NOBLOCK)
            except zmq.Again:
                self.ended = self.expired
                return None
            received_ns = time.monotonic_ns()
            try:
                message = self._handle(data)
            except (WireError, OSError) as exc:
                self._handle_failure(exc)
                continue
            if message is None:
                continue
            if self.far:
                message = message.with_header(message.header._replace(t_capture_ns=received_ns, hops=()))
            return Arrived(message, received_ns)
        return None

    def expire(self) -> None:
        """End after what has arrived: the sender is known to be dead, or no longer needed."""
        self.expired = True

    def consumed(self) -> None:
        """Count one message as processed; the next `flush` returns its credit."""
        self._owed += 1

    def flush(self, idle: bool) -> None:
        """Return credits and leases: all if `idle`, else only once half the window is owed (fewer, larger packets)."""
        released = self._map.released if self._map else []
        if not self._owed and not released:
            return
        if (idle or self._owed * 2 >= self._window) and not self.ended:
            count = len(released)
            self._send(k="credit", n=self._owed, release=released[:count])
            self._owed = 0
            del released[:count]
            if self._map:
                self._map.tend()

    def lost(self) -> bool:
        """Say whether the sender may have died without sending `end`, and all that it sent has been read."""
        if self.ended or self.expired or self.socket.poll(0):
            return False
        if self._map is not None:
            return not self._map.alive()
        return self.must_reconnect or self.silence_s > QUIET_S

    @property
    def silence_s(self) -> float:
        """Seconds since the sender last sent anything."""
        return 0.0 if self.socket.poll(0) else time.monotonic() - self._heard

    @property
    def idle_s(self) -> float:
        """Seconds since the sender last sent a message of its node."""
        return 0.0 if self.socket.poll(0) else time.monotonic() - self._fed

    def close(self, again: bool = False) -> None:
        """Disconnect and close; `again` if another process of this node will connect to the sender."""
        if not self.socket.closed:
            self._send(k="bye", again=again)
            self.socket.close(linger=500 if self.welcomed else 0)  # a late hello would displace the next process
        if self._map:
            self._map.close()

    def _send(self, **header: Any) -> None:
        self.socket.send(wire.pack({"v": wire.VERSION, **header}), zmq.NOBLOCK)

    def _handle(self, data: bytes) -> Message | None:
        self._heard = time.monotonic()
        packet = wire.unpack(data)
        kind = packet["k"]
        if kind == "data":
            if self.type is None:
                raise WireError("data before welcome")
            self._fed = self._heard
            return wire.decode(packet, self.type, self._buffers(), self._map)
        if kind == "welcome":
            self._welcome(packet)
        elif kind == "end":
            self.ended, self.expired = True, False
        elif kind == "refused" and packet.get("again") is True:
            self.must_reconnect = True
        elif kind == "refused":
            raise GraphError(f"{self.name}: refused by {self._source}: {packet.get('why')}")
        elif kind != "ping":
            raise WireError(f"a sender said {brief(kind)}")
        return None

    def _buffers(self) -> Iterator[bytes]:
        """Yield the parts that follow the first one of a message."""
        while self.socket.getsockopt(_RCVMORE):
            yield self.socket.recv(_NOBLOCK)

    def _welcome(self, packet: dict[str, Any]) -> None:
        types, path = packet.get("types"), packet.get("shm")
        run, restarts = packet.get("run", ""), packet.get("restarts", 0)
        if self.welcomed or not isinstance(path, str | None):
            raise WireError(f"a welcome with shm {brief(path)}, or a second one")
        if not isinstance(types, list) or not types or not all(isinstance(name, str) for name in types):
            raise WireError(f"a welcome with types {brief(types)}")
        if not isinstance(run, str) or not isinstance(restarts, int):
            raise WireError(f"a welcome with run {brief(run)}, restarts {brief(restarts)}")
        if self.type is None:
            self.type = find_type(types)
        elif type_name(self.type) not in types:
            raise GraphError(f"{self.name}: reads {type_name(self.type)}, but {self._source} gives {types[0]}")
        self.run, self.restarts = run, restarts
        if self.far is None:
            self.far = is_other_clock(ahead_ns(packet))
        if path:
            self._map = SlotMap(path)
        self.welcomed = True

    def _handle_failure(self, exc: WireError | OSError) -> None:
        if isinstance(exc, OSError) and exc.errno in SHORT:
            raise GraphError(f"{self.name}: memory of {self._source} cannot be mapped here: {exc.strerror}") from exc
        if isinstance(exc, OSError) and self._map is not None and not self._map.alive():
            return  # memory of a dead sender that was not mapped yet; another sender may take its place
        self.ended = True
        logger.error("%s: %s broke the protocol and is disconnected: %s", self.name, self._source, exc)


def wait_for_any(receivers: Iterable[Receiver], timeout_ms: int, wake_fd: int = -1) -> bool:
    """Wait until one of `receivers` has data or `wake_fd` is readable; return False on timeout."""
    polled: list[tuple[Any, int]] = [(wake_fd, _POLLIN)] if wake_fd >= 0 else []
    for receiver in receivers:
        if not receiver.ended:  # an ended one may keep unread data for ever
            receiver.flush(idle=True)
            polled.append((receiver.socket, _POLLIN))
    return bool(zmq.zmq_poll(polled, timeout_ms))


def ahead_ns(packet: dict[str, Any]) -> int:
    """Return by how much the clock of a packet's sender (`now`) is ahead of ours, less the time in transit."""
    now = packet.get("now")
    return now - time.monotonic_ns() if isinstance(now, int) else 0


def is_other_clock(ahead_ns: int) -> bool:
    """Say whether a clock that is ahead by this much, or behind, is not ours."""
    return abs(ahead_ns) > OTHER_CLOCK_NS


def type_name(type_: type[Message]) -> str:
    """Return the name of a message type on the wire: "graph.messages:Faces"."""
    return f"{type_.__module__}:{type_.__qualname__}"


def type_names(type_: type[Message]) -> list[str]:
    """Return the wire names of a message type and its bases, the most derived first."""
    return [type_name(base) for base in type_.__mro__ if issubclass(base, Message) and base is not Message]


def find_type(names: list[str]) -> type[Message]:
    """Return the first of the named message types that this process has imported.

    Nothing is imported here: a peer must not be able to run code. Raises GraphError if none is known.
    """
    known = known_types()
    for name in names:
        if name in known:
            return known[name]
    raise GraphError(f"message type {names[0]} is not known here: import it, or give it to subscribe()")


def known_types() -> dict[str, type[Message]]:
    """Return the message types that this process has imported, by wire name, without those rebuilt from recordings."""
    return {type_name(type_): type_ for type_ in _all_types(Message) if MADE not in vars(type_)}


def _all_types(type_: type[Message]) -> list[type[Message]]:
    return [type_, *(found for sub in type_.__subclasses__() for found in _all_types(sub))]
