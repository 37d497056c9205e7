"""One consumer of an output, as its sender sees it: what its hello asked for, and what waits for it."""

import time
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass, field
from reprlib import repr as brief  # what a stranger sent may be long and deep
from typing import Any

from graph.errors import WireError
from graph.spec import EdgeSpec

MAX_CREDIT = 1024
MAX_NAME = 200  # characters
POLICIES = ("block", "drop_oldest", "drop_newest", "latest")


@dataclass(frozen=True)
class Home:
    """The graph that a sender belongs to."""

    run: str = ""  # which run of the graph: tells its own nodes from whoever happens to bear the name of one
    restarts: int = 0  # how often the sender's node was started again in this run
    readers: frozenset[str] = frozenset()  # the targets of the graph's own edges from here: "render.frame"


class Waiting:
    """A packet in the queue of one consumer. None as parts: the end of the stream."""

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
    own: bool  # an edge of the graph itself, not of somebody attached
    port: str
    policy: str
    capacity: int
    shm: bool
    marks: bool
    credits: int
    window: int  # the credits at the beginning: as many as when nothing is under way
    queue: deque[Waiting] = field(default_factory=deque)
    leases: Counter[int] = field(default_factory=Counter)
    heard_ns: int = 0
    restarts: int = 0  # of the graph's own edges: how often its node had been started again when its process began
    away: bool = False  # its process has died or left, and another one is to take over what waits

    @property
    def shown(self) -> str:
        """The name under which it is counted: all readers by graph.attach, and all over tcp, are one."""
        return "attached" if self.name.startswith("attached/") else self.name

    def part(self) -> Counter[int]:
        """Note that its process is gone and another one will come; return the leases of what was under way to it."""
        waiting = Counter(number for packet in self.queue for number in packet.slots)
        lost = self.leases - waiting
        self.leases, self.credits, self.away = waiting, 0, True
        return lost

    def take_over(self, other: "Link") -> None:
        """Go on with a new process of the node, which has just said hello as `other`."""
        self.identity, self.shm, self.away = other.identity, other.shm, False
        self.credits, self.window, self.heard_ns = other.credits, other.window, other.heard_ns
        self.restarts = other.restarts


def admit(identity: bytes, said: dict[str, Any], node: str, ports: Collection[str], home: Home) -> Link:
    """Return the link that a hello asks `node` for. Raises WireError if it asks for what is not to be had."""
    port, policy = said.get("port"), said.get("policy", "latest")
    queue, credits = said.get("queue", 1), said.get("credits", 1)
    if not isinstance(port, str) or port not in ports:
        raise WireError(f"{node} has no output {brief(port)}; outputs: {list(ports)}")
    if why := unfit(policy, queue, credits):
        raise WireError(why)
    name, own = _name(identity, said, home)
    shm, marks = bool(said.get("shm")), said.get("marks") is not False
    restarts, now = said["restarts"] if own else 0, time.monotonic_ns()
    return Link(identity, name, own, port, policy, queue, shm, marks, credits, credits, heard_ns=now, restarts=restarts)


def expected(edge: EdgeSpec, shm: bool) -> Link:
    """Return the link of an edge of the graph itself whose consumer has yet to say hello."""
    identity = f"\0 {edge.target}".encode()  # no consumer can have it: with 0 begin those that ZeroMQ gives, of 5 bytes
    marks = edge.join == "seq"
    return Link(identity, edge.target, True, edge.source_port, edge.policy, edge.queue, shm, marks, 0, 0, away=True)


def unfit(policy: Any, queue: Any, credits: Any = 1) -> str:
    """Say what a consumer cannot ask for, and what it could; empty if all is well."""
    if policy not in POLICIES:
        return f"no policy {brief(policy)}; policies: {list(POLICIES)}"
    for what, value in (("queue", queue), ("credits", credits)):
        if not isinstance(value, int) or not 1 <= value <= MAX_CREDIT:
            return f"{what} of {brief(value)}; 1..{MAX_CREDIT} are allowed"
    return ""


def _name(identity: bytes, said: dict[str, Any], home: Home) -> tuple[str, bool]:
    """Return the name of a consumer, and whether it is an edge of the graph itself; only its nodes may say so."""
    name = said.get("name")
    if not isinstance(name, str):
        return f"?{identity.hex()}", False
    own = name in home.readers
    if own and (said.get("run") != home.run or not isinstance(said.get("restarts"), int)):
        raise WireError(f"{name!r} is an edge of the graph itself; take another name")
    if len(name) > MAX_NAME and not own:
        raise WireError(f"a name of {len(name)} characters; at most {MAX_NAME} are allowed")
    return name, own
