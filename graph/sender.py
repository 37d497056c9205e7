"""The sending side of a node: one ROUTER, one bounded queue per consumer, and that consumer's policy.

ZeroMQ's own high-water mark drops the newest message, which is wrong for video, and cannot be counted; so the
consumers grant credits, and everything that waits for a credit waits here. Thread safety: every method takes
`lock`; the socket is only used by the thread that holds it (a full fence, as ZeroMQ requires).
"""

import logging
import math
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from reprlib import repr as brief  # what a stranger sent may be long and deep
from typing import Any

import zmq

from graph import wire
from graph.errors import WireError
from graph.link import MAX_CREDIT, Home, Link, Waiting, admit, expected
from graph.messages import Header, Message
from graph.packet import Packet
from graph.slots import SlotPool
from graph.spec import EdgeSpec

logger = logging.getLogger(__name__)

FAREWELL_S = 2.0  # when the graph ends, consumers of other graphs and tools get so long to take what is left
PING_S = 1.0  # a consumer that hears nothing for so long is pinged, to notice that it is gone
_POLLIN, _NOBLOCK, _MORE = int(zmq.POLLIN), int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
"""As plain numbers: the arithmetic of enum flags costs a microsecond each time."""
_give_way: Callable[[], None] = getattr(os, "sched_yield", lambda: None)


class Sender:
    """The outputs of one node process."""

    def __init__(
        self,
        context: "zmq.Context[Any]",
        node: str,
        endpoint: str,
        ports: dict[str, list[str]],
        pool: SlotPool,
        slots_path: str | None,
        home: Home,
        on_drop: Callable[[str, int], None] = lambda edge, count: None,
        on_queued: Callable[[str, int], None] = lambda edge, waiting: None,
        on_blocked: Callable[[bool], None] = lambda blocked: None,
    ) -> None:
        """Bind at `endpoint`. `ports` gives for each output the names of its message type and its bases."""
        self.lock = threading.RLock()
        self._node = node
        self._ports = ports
        self._pool = pool
        self._slots_path = slots_path
        self._home = home
        self._on_drop = on_drop
        self._on_queued = on_queued
        self._on_blocked = on_blocked
        self._links: dict[bytes, Link] = {}
        self._by_port: dict[str, list[Link]] = {port: [] for port in ports}
        self._banned: set[bytes] = set()
        self._dead: deque[tuple[str, int | None]] = deque()  # see `forget`
        self._ended = False
        self._finishing_since = math.inf  # CLOCK_MONOTONIC seconds
        self._router: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        self._router.set(zmq.ROUTER_MANDATORY, 1)
        self._router.set(zmq.SNDHWM, 0)  # bounded by the credits
        self._router.set(zmq.LINGER, 1000)
        self._router.set(zmq.MAXMSGSIZE, wire.MAX_REQUEST)
        self._router.bind(endpoint)
        self._polled = [(self._router, _POLLIN)]
        self.fd: int = self._router.get(zmq.FD)

    def publish(self, port: str, message: Message, header: Header | None = None) -> None:
        """Queue or send a message to every consumer of `port`; wait where an edge says `block` and is full.

        `header` is sent in the place of the message's own.
        """
        with self.lock:
            links = self._by_port[port]
            if links:
                packet = Packet(message, header or message.header, self._pool)
                for link in list(links):
                    if link.marks or not packet.is_mark:
                        self._offer(link, packet)
                packet.drop()
            self.service()

    def finish(self) -> None:
        """Note that the graph is to end: attached consumers that block it are not waited for long; from any thread."""
        self._finishing_since = time.monotonic()

    def end(self) -> None:
        """Tell every consumer, after all that waits for it, that the stream is over."""
        with self.lock:
            self._ended = True
            for link in list(self._links.values()):
                link.queue.append(Waiting(None, []))
                self._flush(link)

    def idle(self) -> bool:
        """Say whether every consumer has taken leave."""
        return not self._links

    def has_consumers_of_this_graph(self) -> bool:
        """Say whether an edge of the graph itself is still open."""
        return any(link.own for link in list(self._links.values()))

    def owed(self) -> int:
        """Return how many messages those who are attached, and block, have yet to take."""
        links = [link for link in list(self._links.values()) if link.policy == "block" and not link.own]
        return sum(len(link.queue) + link.window - link.credits for link in links)

    def all_taken(self) -> bool:
        """Say whether the nodes of this graph have taken all that was published for them."""
        return not any(link.own and (link.queue or link.credits < link.window) for link in list(self._links.values()))

    def expect(self, edges: Iterable[EdgeSpec]) -> None:
        """Take nodes of this graph, which read from the process before this one, for slow until they have said hello.

        They may be busy with a frame, or be started again themselves.
        """
        for edge in edges:
            self._enter(expected(edge, shm=self._slots_path is not None))

    def wait(self, timeout_ms: int) -> None:
        """Wait for something from the consumers, and see to it."""
        with self.lock:
            self._router.poll(timeout_ms)
            self.service()
            self.ping()

    def service(self) -> None:
        """See to all that the consumers have said. Call it whenever `fd` is readable, and after sending."""
        while self._dead:
            self._forget(*self._dead.popleft())
        while zmq.zmq_poll(self._polled, 0):
            identity, parts = self._router.recv(_NOBLOCK), []
            while self._router.getsockopt(zmq.RCVMORE):
                parts.append(self._router.recv(_NOBLOCK))
            if identity in self._banned:
                continue
            try:
                self._take(identity, parts)
            except WireError as exc:
                self._ban(identity, exc)

    def ping(self) -> None:
        """Say something to quiet consumers: only sending tells whether the other side is still there."""
        now = time.monotonic_ns()
        for link in list(self._links.values()):
            if now - link.heard_ns > PING_S * 1e9 and not link.away:
                link.heard_ns = now
                self._send(link, [wire.pack({"v": wire.VERSION, "k": "ping"})])

    def forget(self, node: str, restarts: int | None = None) -> None:
        """Note that a process of a node of this graph has ended; safe while another thread is blocked in publish.

        `restarts` is how often the node had been started again when that process began: the next one may have said
        hello already. What waits for the node is kept for it, and its edges go on as if it were slow: they block, or
        drop, by their policies. None: there will be no next process.
        """
        self._dead.append((node, restarts))
        if self.lock.acquire(blocking=False):
            try:
                self.service()
            finally:
                self.lock.release()

    def depths(self) -> dict[str, int]:
        """Return how many messages wait for each consumer, by edge."""
        waiting: Counter[str] = Counter()
        for link in list(self._links.values()):
            waiting[self._edge(link)] += len(link.queue)
        return dict(waiting)

    def close(self) -> None:
        """Close the socket; what was sent still goes out for a second."""
        with self.lock:
            self._router.close()

    def _edge(self, link: Link) -> str:
        return f"{self._node}.{link.port} -> {link.shown}"

    def _forget(self, node: str, restarts: int | None) -> None:
        for link in [link for link in self._links.values() if link.own and link.name.split(".")[0] == node]:
            if restarts is None or link.restarts <= restarts:
                self._leave(link, for_good=restarts is None)

    def _leave(self, link: Link, for_good: bool) -> None:
        """Part with the process of a consumer; an edge of the graph itself waits for the next one."""
        if for_good or not link.own:
            self._drop_link(link)
        elif not link.away:
            for number in link.part().elements():
                self._pool.release(number)

    def _offer(self, link: Link, packet: Packet) -> None:
        if link.credits <= 0 and len(link.queue) >= link.capacity and not self._make_room(link):
            self._count_drop(link, packet.is_mark)
            return
        if link.identity not in self._links:
            return  # it left while we waited
        parts, numbers = packet.parts(link.shm), packet.slots if link.shm else []
        sent = not link.queue and link.credits > 0 and self._send(link, parts)
        if link.identity not in self._links:
            return
        for number in numbers:  # its answer is not read before
            link.leases[number] += 1
            self._pool.lease(number)
        if sent:
            link.credits -= 1
            if link.credits == link.window - 1:
                _give_way()  # the consumer waits: ZeroMQ's thread must not wait for what this one does next
            return
        link.queue.append(Waiting(parts, numbers, packet.is_mark))
        self._on_queued(self._edge(link), len(link.queue))
        self._flush(link)

    def _make_room(self, link: Link) -> bool:
        """Apply the policy of a full queue; False: the new message is the one to drop."""
        if link.policy == "drop_newest":
            return False
        if link.policy == "block":
            self._on_blocked(True)
            self._wait_for(link)
            self._on_blocked(False)
            return True
        while len(link.queue) >= link.capacity:
            oldest = link.queue.popleft()
            self._discard(link, oldest)
            self._count_drop(link, oldest.is_mark)
        return True

    def _count_drop(self, link: Link, is_mark: bool) -> None:
        if not is_mark:  # with "nothing to say" nothing is lost
            self._on_drop(self._edge(link), 1)

    def _wait_for(self, link: Link) -> None:
        """Wait until a consumer has taken something, or is gone; an attached one that stalls does not hold the end."""
        began = time.monotonic()
        while len(link.queue) >= link.capacity and link.identity in self._links:
            self._router.poll(100)
            self.service()
            self.ping()
            if not link.own and time.monotonic() > max(began, self._finishing_since) + FAREWELL_S:
                logger.warning("%s has taken nothing for %g s; the end does not wait", self._edge(link), FAREWELL_S)
                link.leases.clear()  # never given back: what is on its way to it is not written over
                self._drop_link(link)

    def _flush(self, link: Link) -> None:
        while link.queue and not link.away and (link.credits > 0 or link.queue[0].parts is None):
            parts = link.queue[0].parts
            if not self._send(link, parts or [wire.pack({"v": wire.VERSION, "k": "end"})]):
                return
            link.queue.popleft()
            link.credits -= parts is not None

    def _send(self, link: Link, parts: list[bytes]) -> bool:
        """Send something to a consumer; say whether it is still there."""
        try:
            self._router.send(link.identity, _MORE)
            for part in parts[:-1]:
                self._router.send(part, _MORE)
            self._router.send(parts[-1], _NOBLOCK)
        except zmq.ZMQError as exc:
            if exc.errno != zmq.EHOSTUNREACH:
                raise
            if not link.own:  # of a node of this graph the supervisor tells, also whether it is for good
                logger.info("consumer %s is gone", link.name)
            self._leave(link, for_good=False)
            return False
        return True

    def _discard(self, link: Link, waiting: Waiting) -> None:
        for number in waiting.slots:
            self._release(link, number)

    def _release(self, link: Link, number: int) -> None:
        if link.leases[number] <= 0:
            raise WireError(f"release of slot {number}, on which it has no lease")
        link.leases[number] -= 1
        if not link.leases[number]:
            del link.leases[number]
        self._pool.release(number)

    def _take(self, identity: bytes, parts: list[bytes]) -> None:
        if len(parts) != 1:
            raise WireError(f"{len(parts)} parts; a consumer sends one")
        said = wire.unpack(parts[0])
        kind = said["k"]
        link = self._links.get(identity)
        if kind == "hello":
            self._hello(identity, said)
        elif link is None or (link.away and kind == "credit"):
            return  # a consumer that was dropped still returns its credits
        elif kind == "credit":
            self._credit(link, said)
        elif kind == "bye":
            self._leave(link, for_good=said.get("again") is not True)
        else:
            raise WireError(f"a consumer said {brief(kind)}; it may say hello, credit, bye")

    def _credit(self, link: Link, said: dict[str, Any]) -> None:
        number, released = said.get("n"), said.get("release", [])
        if not isinstance(number, int) or not 0 <= number <= MAX_CREDIT:
            raise WireError(f"credit of {brief(number)}; 0..{MAX_CREDIT} are allowed")
        if not isinstance(released, list) or not all(isinstance(slot, int) for slot in released):
            raise WireError(f"release of {brief(released)}; it is a list of slot numbers")
        link.heard_ns = time.monotonic_ns()
        for slot in released:
            self._release(link, slot)
        link.credits = min(link.credits + number, MAX_CREDIT)
        self._flush(link)

    def _hello(self, identity: bytes, said: dict[str, Any]) -> None:
        link = admit(identity, said, self._node, self._ports, self._home)
        link.shm &= self._slots_path is not None
        welcome = {
            "v": wire.VERSION,
            "k": "welcome",
            "node": self._node,
            "port": link.port,
            "types": self._ports[link.port],
            "shm": self._slots_path if link.shm else None,
            "run": self._home.run,
            "restarts": self._home.restarts,
            "now": time.monotonic_ns(),
        }
        for other in list(self._links.values()):
            if other.identity == identity:
                self._drop_link(other)
            elif other.name == link.name and link.own:  # of a process that has died, which is told later
                self._leave(other, for_good=False)
            elif other.name == link.name:
                self._refuse(other, f"another consumer has said hello as {brief(link.name)}")
        link = self._enter(link)
        self._send(link, [wire.pack(welcome)])
        if self._ended and not (link.queue and link.queue[-1].parts is None):
            link.queue.append(Waiting(None, []))
        self._flush(link)

    def _enter(self, link: Link) -> Link:
        """Take a new consumer in, or let it go on in the place of the process before it."""
        for other in [other for other in self._links.values() if other.away and other.name == link.name]:
            del self._links[other.identity]
            other.take_over(link)
            self._links[other.identity] = other
            return other
        self._links[link.identity] = link
        self._by_port[link.port].append(link)
        return link

    def _ban(self, identity: bytes, exc: WireError) -> None:
        logger.warning("a consumer broke the protocol and is disconnected: %s", exc)
        self._banned.add(identity)
        link = self._links.get(identity) or Link(identity, "?", False, "", "latest", 1, False, False, 0, 0)
        self._refuse(link, str(exc))

    def _refuse(self, link: Link, why: str) -> None:
        self._send(link, [wire.pack({"v": wire.VERSION, "k": "refused", "why": why})])
        self._drop_link(link)

    def _drop_link(self, link: Link) -> None:
        if self._links.pop(link.identity, None) is None:
            return
        self._by_port[link.port].remove(link)
        link.queue.clear()
        for number, count in link.leases.items():
            for _ in range(count):
                self._pool.release(number)
        link.leases.clear()
