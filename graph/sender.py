"""The sending side of a node: one ROUTER, and for each consumer a bounded queue with that consumer's policy.

ZeroMQ's own high-water mark would drop the newest message, which is wrong for video, and would not count it. So
consumers grant credits, and messages without a credit wait here. Thread safety: only the thread that holds `lock` uses
the socket (a full fence, as ZeroMQ requires).
"""

import contextlib
import logging
import math
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from reprlib import repr as brief  # a peer may send values that are long and deep
from typing import Any

import zmq

from graph import wire
from graph.errors import WireError
from graph.link import MAX_CREDIT, Home, Link, Waiting, absent, admit
from graph.messages import Header, Message
from graph.packet import Packet
from graph.slots import SlotPool
from graph.spec import EdgeSpec

logger = logging.getLogger(__name__)

FAREWELL_S = 2.0  # how long the end of the graph waits for attached consumers to take what is left
PING_S = 1.0  # a consumer that has sent nothing for so long is pinged, to notice that it is gone
_POLLIN, _NOBLOCK, _MORE = int(zmq.POLLIN), int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
"""As plain numbers: operations on enum flags take a microsecond each."""
_yield_cpu: Callable[[], None] = getattr(os, "sched_yield", lambda: None)


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
        *,
        on_drop: Callable[[str], None],
        on_queued: Callable[[str, int], None],
        on_blocked: Callable[[bool], None],
    ) -> None:
        """Bind to `endpoint`. `ports` maps each output to the names of its message type and that type's bases.

        `on_drop` gets the edge of a dropped message, `on_queued` an edge and its number of queued messages.
        """
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
        """Send or queue a message for every consumer of `port`; wait for those with policy `block` and a full queue.

        `header` replaces the message's own.
        """
        with self.lock:
            links = self._by_port[port]
            if links:
                packet = Packet(message, header or message.header, self._pool)
                for link in list(links):
                    if link.marks or not packet.is_mark:
                        self._offer(link, packet)
                packet.release()
            self.service()

    def finish(self) -> None:
        """Limit how long attached consumers may block, because the graph is ending. Any thread may call this."""
        self._finishing_since = time.monotonic()

    def end(self) -> None:
        """Send every consumer the end of the stream, after what is in its queue."""
        with self.lock:
            self._ended = True
            for link in list(self._links.values()):
                link.queue.append(Waiting(None, []))
                self._flush(link)

    def idle(self) -> bool:
        """Say whether every consumer has disconnected."""
        return not self._links

    def has_consumers_of_this_graph(self) -> bool:
        """Say whether an edge of the graph itself is still open."""
        return any(link.own for link in list(self._links.values()))

    def owed(self) -> int:
        """Return how many messages attached consumers with policy `block` have not processed yet."""
        links = [link for link in list(self._links.values()) if link.policy == "block" and not link.own]
        return sum(len(link.queue) + link.window - link.credits for link in links)

    def all_taken(self) -> bool:
        """Say whether the nodes of this graph have processed all that was published for them."""
        return not any(link.own and (link.queue or link.credits < link.window) for link in list(self._links.values()))

    def expect(self, edges: Iterable[EdgeSpec]) -> None:
        """Queue messages for nodes of this graph that read from this node's previous process, until they say hello.

        They may be busy with a frame, or restarting themselves.
        """
        for edge in edges:
            self._add(absent(edge, shm=self._slots_path is not None))

    def wait(self, timeout_ms: int) -> None:
        """Wait for messages from consumers, and handle them."""
        with self.lock:
            self._router.poll(timeout_ms)
            self.service()
            self.ping()

    def service(self) -> None:
        """Handle all messages from consumers. Call it whenever `fd` is readable, and after sending."""
        while self._dead:
            self._forget(*self._dead.popleft())
        while zmq.zmq_poll(self._polled, 0):
            identity, parts = self._router.recv(_NOBLOCK), []
            while self._router.getsockopt(zmq.RCVMORE):
                parts.append(self._router.recv(_NOBLOCK))
            if identity in self._banned:
                continue
            try:
                self._handle(identity, parts)
            except WireError as exc:
                logger.warning("a consumer broke the protocol and is disconnected: %s", exc)
                self._banned.add(identity)
                self._refuse(identity, str(exc))

    def ping(self) -> None:
        """Ping quiet consumers: only sending shows whether the other side still exists."""
        now = time.monotonic_ns()
        for link in list(self._links.values()):
            if now - link.heard_ns > PING_S * 1e9 and not link.away:
                link.heard_ns = now
                self._send(link, [wire.pack({"v": wire.VERSION, "k": "ping"})])

    def forget(self, node: str, restarts: int | None = None) -> None:
        """Note that a process of a node of this graph has ended; safe while another thread is blocked in publish.

        `restarts` is how often the node had been restarted when that process started: the next one may have said hello
        already. The queue is kept for it, and its edges behave as if it were slow: they block or drop, by their
        policies. None: there will be no next process.
        """
        self._dead.append((node, restarts))
        self.unless_busy(self.service)

    def unless_busy(self, work: Callable[[], None]) -> bool:
        """Call `work` with the lock held; return False at once if another thread holds it."""
        if not self.lock.acquire(blocking=False):
            return False
        try:
            work()
        finally:
            self.lock.release()
        return True

    def depths(self) -> dict[str, int]:
        """Return the number of queued messages by edge."""
        depths: Counter[str] = Counter()
        for link in list(self._links.values()):
            depths[self._edge(link)] += len(link.queue)
        return dict(depths)

    def close(self) -> None:
        """Close the socket; messages already sent are delivered for up to a second."""
        with self.lock:
            self._router.close()

    def _edge(self, link: Link) -> str:
        return f"{self._node}.{link.port} -> {link.counted_as}"

    def _forget(self, node: str, restarts: int | None) -> None:
        for link in [link for link in self._links.values() if link.own and link.name.split(".")[0] == node]:
            if restarts is None or link.restarts <= restarts:
                self._disconnect(link, for_good=restarts is None)

    def _disconnect(self, link: Link, for_good: bool) -> None:
        """Disconnect the process of a consumer; an edge of the graph itself waits for the next one."""
        if for_good or not link.own:
            self._remove(link)
        elif not link.away:
            for number in link.detach().elements():
                self._pool.release(number)

    def _offer(self, link: Link, packet: Packet) -> None:
        if link.credits <= 0 and len(link.queue) >= link.capacity and not self._make_room(link):
            self._count_drop(link, packet.is_mark)
            return
        if link.identity not in self._links:
            return  # it disconnected while we waited
        parts, numbers = packet.parts(link.shm), packet.slots if link.shm else []
        sent = not link.queue and link.credits > 0 and self._send(link, parts)
        if link.identity not in self._links:
            return
        for number in numbers:  # in time: this thread has not read the consumer's release yet
            link.leases[number] += 1
            self._pool.lease(number)
        if sent:
            link.credits -= 1
            if link.credits == link.window - 1:
                _yield_cpu()  # the consumer is idle: let ZeroMQ's thread send before this one continues
            return
        link.queue.append(Waiting(parts, numbers, packet.is_mark))
        self._on_queued(self._edge(link), len(link.queue))
        self._flush(link)

    def _make_room(self, link: Link) -> bool:
        """Apply the policy of a full queue; return False if the new message is the one to drop."""
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
        if not is_mark:  # a mark carries no data
            self._on_drop(self._edge(link))

    def _wait_for(self, link: Link) -> None:
        """Wait until a consumer takes a message or is gone; drop an attached one that delays the end of the graph."""
        began = time.monotonic()
        while len(link.queue) >= link.capacity and link.identity in self._links:
            self._router.poll(100)
            self.service()
            self.ping()
            if not link.own and time.monotonic() > max(began, self._finishing_since) + FAREWELL_S:
                logger.warning("%s has taken nothing for %g s; the end does not wait", self._edge(link), FAREWELL_S)
                link.leases.clear()  # never released: what is in transit to it must not be overwritten
                self._remove(link)

    def _flush(self, link: Link) -> None:
        while link.queue and not link.away and (link.credits > 0 or link.queue[0].parts is None):
            parts = link.queue[0].parts
            if not self._send(link, parts or [wire.pack({"v": wire.VERSION, "k": "end"})]):
                return
            link.queue.popleft()
            link.credits -= parts is not None

    def _send(self, link: Link, parts: list[bytes]) -> bool:
        """Send a message to a consumer; say whether it is still connected."""
        try:
            self._router.send(link.identity, _MORE)
            for part in parts[:-1]:
                self._router.send(part, _MORE)
            self._router.send(parts[-1], _NOBLOCK)
        except zmq.ZMQError as exc:
            if exc.errno != zmq.EHOSTUNREACH:
                raise
            if not link.own:  # the supervisor reports on nodes of this graph, and whether they come back
                logger.info("consumer %s is gone", link.name)
            self._disconnect(link, for_good=False)
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

    def _handle(self, identity: bytes, parts: list[bytes]) -> None:
        if len(parts) != 1:
            raise WireError(f"{len(parts)} parts; a consumer sends one")
        request = wire.unpack(parts[0])
        kind = request["k"]
        link = self._links.get(identity)
        if kind == "hello":
            self._hello(identity, request)
        elif link is None or (link.away and kind == "credit"):
            return  # a consumer that was disconnected still returns its credits
        elif kind == "credit":
            self._credit(link, request)
        elif kind == "bye":
            self._disconnect(link, for_good=request.get("again") is not True)
        else:
            raise WireError(f"a consumer said {brief(kind)}; it may say hello, credit, bye")

    def _credit(self, link: Link, request: dict[str, Any]) -> None:
        number, released = request.get("n"), request.get("release", [])
        if not isinstance(number, int) or not 0 <= number <= MAX_CREDIT:
            raise WireError(f"credit of {brief(number)}; 0..{MAX_CREDIT} are allowed")
        if not isinstance(released, list) or not all(isinstance(slot, int) for slot in released):
            raise WireError(f"release of {brief(released)}; expected a list of slot numbers")
        link.heard_ns = time.monotonic_ns()
        for slot in released:
            self._release(link, slot)
        link.credits = min(link.credits + number, MAX_CREDIT)
        self._flush(link)

    def _hello(self, identity: bytes, request: dict[str, Any]) -> None:
        link = admit(identity, request, self._node, self._ports, self._home)
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
                self._remove(other)
            elif other.name == link.name and link.own:  # its process has died; the supervisor will say so later
                self._disconnect(other, for_good=False)
            elif other.name == link.name:
                self._refuse(other.identity, f"another consumer has said hello as {brief(link.name)}")
        link = self._add(link)
        self._send(link, [wire.pack(welcome)])
        if self._ended and not (link.queue and link.queue[-1].parts is None):
            link.queue.append(Waiting(None, []))
        self._flush(link)

    def _add(self, link: Link) -> Link:
        """Add a new consumer, or let it take over the queue of its node's previous process."""
        for other in [other for other in self._links.values() if other.away and other.name == link.name]:
            del self._links[other.identity]
            other.take_over(link)
            self._links[other.identity] = other
            return other
        self._links[link.identity] = link
        self._by_port[link.port].append(link)
        return link

    def _refuse(self, identity: bytes, why: str) -> None:
        """Tell a consumer why it is disconnected."""
        with contextlib.suppress(zmq.ZMQError):  # it is gone already
            refusal = wire.pack({"v": wire.VERSION, "k": "refused", "why": why})
            self._router.send_multipart([identity, refusal], _NOBLOCK)
        if identity in self._links:
            self._remove(self._links[identity])

    def _remove(self, link: Link) -> None:
        if self._links.pop(link.identity, None) is None:
            return
        self._by_port[link.port].remove(link)
        link.queue.clear()
        for number, count in link.leases.items():
            for _ in range(count):
                self._pool.release(number)
        link.leases.clear()
