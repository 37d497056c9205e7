"""One consumer of an output, as its sender sees it: what its hello requested, and its queue."""

import time
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass, field
from reprlib import repr as brief  # a peer may send values that are long and deep
from typing import Any, get_args

from graph.errors import WireError
from graph.spec import EdgeSpec, Policy

MAX_CREDIT = 1024
MAX_NAME = 200  # characters
POLICIES = get_args(Policy)


@dataclass(frozen=True)
class Home:
    """The graph that a sender belongs to."""

    run: str = ""  # id of this run of the graph: tells its own nodes from other consumers that use their names
    restarts: int = 0  # how often the sender's node has been restarted in this run
    readers: frozenset[str] = frozenset()  # the targets of the graph's own edges from here: "render.frame"


class Waiting:
    """A packet in the queue of one consumer. If `parts` is None, it is the end of the stream."""

    __slots__ = ("is_mark", "parts", "slots")

    def __init__(self, parts: list[bytes] | None, slots: list[int], is_mark: bool = False) -> None:
        self.parts = parts
        self.slots = slots
        self.is_mark = is_mark


@dataclass(eq=False)
class Link:
    """One consumer of one port."""

    identity: bytes
    name: str
    own: bool  # an edge of the graph itself, not an attached consumer
    port: str
    policy: str
    capacity: int
    shm: bool
    marks: bool
    credits: int
    window: int  # the initial credits, which it has when nothing is in transit
    queue: deque[Waiting] = field(default_factory=deque)
    leases: Counter[int] = field(default_factory=Counter)  # by slot: of packets in transit or in the queue
    heard_ns: int = 0
    restarts: int = 0  # of the graph's own edges: how often its node had been restarted when its process started
    away: bool = False  # its process has died or left, and its successor will take over the queue

    @property
    def counted_as(self) -> str:
        """The name under which it is counted: all readers by graph.attach and over tcp count as one."""
        return "attached" if self.name.startswith("attached/") else self.name

    def detach(self) -> Counter[int]:
        """Wait for the successor of a process that is gone; return the leases of what was in transit to it."""
        queued = Counter(number for packet in self.queue for number in packet.slots)
        lost = self.leases - queued
        self.leases, self.credits, self.away = queued, 0, True
        return lost

    def take_over(self, other: "Link") -> None:
        """Continue with a new process of the node, whose hello is `other`."""
        self.identity, self.shm, self.away = other.identity, other.shm, False
        self.credits, self.window, self.heard_ns = other.credits, other.window, other.heard_ns
        self.restarts = other.restarts


def admit(identity: bytes, hello: dict[str, Any], node: str, ports: Collection[str], home: Home) -> Link:
    """Return the link that a hello requests from `node`. Raises WireError if the request is invalid."""
    port, policy = hello.get("port"), hello.get("policy", "latest")
    queue, credits = hello.get("queue", 1), hello.get("credits", 1)
    if not isinstance(port, str) or port not in ports:
        raise WireError(f"{node} has no output {brief(port)}; outputs: {list(ports)}")
    if error := error_in(policy, queue, credits):
        raise WireError(error)
    name, own = _name(identity, hello, home)
    shm, marks = bool(hello.get("shm")), hello.get("marks") is not False
    restarts, now = hello["restarts"] if own else 0, time.monotonic_ns()
    return Link(identity, name, own, port, policy, queue, shm, marks, credits, credits, heard_ns=now, restarts=restarts)


def absent(edge: EdgeSpec, shm: bool) -> Link:
    """Return the link of an edge of the graph itself whose consumer has not said hello yet."""
    # No consumer can have this identity: of those that begin with 0, which only ZeroMQ assigns, all have 5 bytes.
    identity = f"\0 {edge.target}".encode()
    marks = edge.join == "seq"
    return Link(identity, edge.target, True, edge.source_port, edge.policy, edge.queue, shm, marks, 0, 0, away=True)


def error_in(policy: Any, queue: Any, credits: Any = 1) -> str:
    """Return what is wrong with a consumer's request, and what would be valid; empty if it is valid."""
    if policy not in POLICIES:
        return f"no policy {brief(policy)}; policies: {list(POLICIES)}"
    for what, value in (("queue", queue), ("credits", credits)):
        if not isinstance(value, int) or not 1 <= value <= MAX_CREDIT:
            return f"{what} of {brief(value)}; 1..{MAX_CREDIT} are allowed"
    return ""


def _name(identity: bytes, hello: dict[str, Any], home: Home) -> tuple[str, bool]:
    """Return the name of a consumer, and whether it is an edge of the graph itself, which only its nodes may claim."""
    name = hello.get("name")
    if not isinstance(name, str):
        return f"?{identity.hex()}", False
    own = name in home.readers
    if own and (hello.get("run") != home.run or not isinstance(hello.get("restarts"), int)):
        raise WireError(f"{name!r} is an edge of the graph itself; take another name")
    if len(name) > MAX_NAME and not own:
        raise WireError(f"a name of {len(name)} characters; at most {MAX_NAME} are allowed")
    return name, own
