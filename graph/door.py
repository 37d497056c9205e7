"""The one port at which a graph can be reached over tcp: `listen: tcp://127.0.0.1:5555` in its file.

Relays between clients elsewhere and the graph's own ipc sockets, in a thread of the supervisor: nodes know nothing of
it, and no encryption slows them down. Credits pass through, so a slow client is dropped for by the node that sends, as
any other consumer is. Protocol: graph/README.md, with `port: "node.port"` in the hello and all bytes inline.
"""

import contextlib
import itertools
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as brief  # what a stranger says may be long and deep
from typing import Any

import zmq
from zmq.utils import z85

from graph import wire
from graph.errors import ConfigError, GraphError, WireError
from graph.link import error_in
from graph.network import HEARTBEAT_MS, SILENT_S, Keys, allowed, listening, parse
from graph.rundir import RunDir

logger = logging.getLogger("facegraph")

MAX_CREDITS = 64  # messages that may be under way to a client: what it does not read lies in our memory
START_S = 30.0  # seconds more than SILENT_S until a node's first word: it may load its models yet
ABSENT_S = 60.0  # whoever comes again after so long is told of again
SHOWN = 100  # characters of the name that a client gives itself
OPEN_REQUESTS = 1000  # whose answers are still known whom to give to
MAX_UNREAD = OPEN_REQUESTS + MAX_CREDITS  # by a client that grants credits, or asks, without ever reading: it is left
ZAP = "inproc://zeromq.zap.01"  # where ZeroMQ asks whom to let in (RFC 27)


@dataclass
class Relay:
    """One client that reads a port."""

    socket: "zmq.Socket[bytes]"  # DEALER to the node
    heard: float  # CLOCK_MONOTONIC seconds of the node's last word
    credits: int  # messages that may still be sent to the client

    def grant(self, said: dict[str, Any]) -> dict[str, Any]:
        """Return what a client says, with no more credits than it may have; what it must not say the node refuses."""
        number = said.get("n")
        if said["k"] != "credit" or not isinstance(number, int) or number < 0:
            return said
        taken = min(number, MAX_CREDITS - self.credits)
        self.credits += taken
        return {**said, "n": taken}


class Door(threading.Thread):
    """The thread. `address` is where it listens."""

    def __init__(self, listen: str, keys: str | None, rundir: RunDir, nodes: Collection[str]) -> None:
        """Listen. Raises ConfigError if nobody can listen there, or as `network.listening`."""
        super().__init__(name="door", daemon=True)
        secret = listening(listen, keys)
        self._folder = Path(keys) if keys else None
        self._rundir = rundir
        self._nodes = nodes
        self._relays: dict[bytes, Relay] = {}
        self._asked: OrderedDict[int, tuple[bytes, Any]] = OrderedDict()
        self._came: dict[tuple[str | None, str], float] = {}  # by name and address, CLOCK_MONOTONIC s
        self._numbers = itertools.count(1)  # of requests and of readers
        self._stopping = threading.Event()
        self._zmq: zmq.Context[Any] = zmq.Context()
        self._zap = self._zmq.socket(zmq.REP)
        self._zap.bind(ZAP)
        self._front = self._front_socket(secret)
        self._front.set(zmq.IPV6, ":" in parse(listen)[0])  # without need, it writes all addresses in its way
        try:
            self._front.bind(listen)
        except zmq.ZMQError as exc:
            self._zmq.destroy(linger=0)
            raise ConfigError(f"cannot listen at {listen}: {exc.strerror}") from exc
        self.address = self._front.get_string(zmq.LAST_ENDPOINT).rstrip("\0")
        self._control = self._zmq.socket(zmq.DEALER)
        self._control.set(zmq.LINGER, 0)
        self._control.connect(rundir.control)
        self._poller = zmq.Poller()
        for socket in (self._zap, self._front, self._control):
            self._poller.register(socket, zmq.POLLIN)

    def _front_socket(self, keys: Keys | None) -> "zmq.Socket[bytes]":
        front: zmq.Socket[bytes] = self._zmq.socket(zmq.ROUTER)
        front.set(zmq.ROUTER_MANDATORY, 1)
        front.set(zmq.SNDHWM, MAX_UNREAD)
        front.set(zmq.LINGER, 1000)
        front.set(zmq.MAXMSGSIZE, wire.MAX_REQUEST)
        front.set(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        front.set(zmq.HEARTBEAT_TIMEOUT, 3 * HEARTBEAT_MS)
        if keys:
            front.curve_server, front.curve_secretkey, front.curve_publickey = True, keys.secret, keys.public
        return front

    def run(self) -> None:
        """Relay until `close`."""
        while not self._stopping.is_set():
            ready = dict(self._poller.poll(100))
            if self._zap in ready:
                self._let_in()
            if self._front in ready:
                self._hear_client(*self._front.recv_multipart())
            if self._control in ready:
                self._answer()
            for identity, relay in list(self._relays.items()):
                if relay.socket in ready:
                    self._pass_on(identity, relay)
                elif time.monotonic() - relay.heard > SILENT_S:
                    self._refuse(identity, "its node is gone, or hangs", again=True)
        for identity in list(self._relays):
            self._leave(identity)
        for socket in (self._zap, self._control, self._front):
            socket.close()
        self._zmq.term()

    def close(self) -> None:
        """Take leave of all clients."""
        self._stopping.set()
        if self.is_alive():
            self.join()

    def _let_in(self) -> None:
        """Say to ZeroMQ whether a client with this key may come."""
        version, request, _domain, address, _identity, _mechanism, *credentials = self._zap.recv_multipart()
        known = allowed(self._folder) if self._folder else {}
        name = known.get(z85.encode(credentials[0])) if credentials else None
        self._tell_of(name, address.decode())
        code, text = (b"200", b"OK") if name else (b"400", b"unknown key")
        self._zap.send_multipart([version, request, code, text, (name or "").encode(), b""])

    def _tell_of(self, name: str | None, address: str) -> None:
        """Log who comes, None for an unknown key, unless he was here just now: each request is a connection."""
        now = time.monotonic()
        self._came = {who: came_s for who, came_s in self._came.items() if now - came_s < ABSENT_S}
        is_told = (name, address) in self._came
        self._came[name, address] = now
        if is_told:
            return
        if name is None:
            logger.warning("a client at %s has a key that is not in %s/clients", address, self._folder)
        else:
            logger.info("client %s comes from %s", name, address)

    @contextlib.contextmanager
    def _only_with(self, identity: bytes) -> Iterator[None]:
        """Leave this client if anything goes wrong with it; the others stay."""
        try:
            yield
        except (GraphError, zmq.ZMQError) as exc:
            what = "broke the protocol and is left" if isinstance(exc, WireError) else "is left"
            logger.warning("a client at %s %s: %s", self.address, what, exc)
            self._refuse(identity, str(exc))

    def _hear_client(self, identity: bytes, *parts: bytes) -> None:
        with self._only_with(identity):
            said = wire.unpack(parts[0] if len(parts) == 1 else b"")
            relay = self._relays.get(identity)
            if said["k"] == "hello":
                self._open(identity, said)
            elif relay is not None:
                _hand_on(relay.socket, wire.pack(relay.grant(said)), "the node")
                if said["k"] == "bye":
                    self._leave(identity, said_bye=True)
            elif said["k"] not in ("credit", "bye"):  # of a client that was left
                self._ask(identity, said)

    def _open(self, identity: bytes, said: dict[str, Any]) -> None:
        """Greet the node for a client."""
        wanted = said.get("port")
        node, _, port = wanted.partition(".") if isinstance(wanted, str) else ("", "", "")
        if node not in self._nodes or not port:
            raise WireError(f"port {brief(wanted)}; it is node.output, nodes: {', '.join(self._nodes)}")
        queue, credits = said.get("queue", 1), said.get("credits", 1)
        if why := error_in(said.get("policy", "latest"), queue, credits):
            raise WireError(why)
        if queue > MAX_CREDITS:
            raise WireError(f"queue of {queue}; 1..{MAX_CREDITS} are allowed over tcp")
        self._leave(identity)
        socket = self._zmq.socket(zmq.DEALER)
        socket.set(zmq.LINGER, 500)
        socket.set(zmq.RCVHWM, 0)  # bounded by the credits
        socket.connect(self._rundir.data(node))
        credits = min(credits, MAX_CREDITS)  # a block edge asks for twice its queue
        name = self._reader(said.get("name"))
        hello = {**said, "port": port, "shm": False, "credits": credits, "name": name, "run": ""}
        socket.send(wire.pack(hello), zmq.NOBLOCK)
        self._relays[identity] = Relay(socket, time.monotonic() + START_S, credits)
        self._poller.register(socket, zmq.POLLIN)

    def _reader(self, told: Any) -> str:
        """Return the name of a reader in the graph: one that nobody else has, whatever he calls himself."""
        return f"attached/tcp{next(self._numbers)}" + (f"/{told[:SHOWN]}" if isinstance(told, str) else "")

    def _pass_on(self, identity: bytes, relay: Relay) -> None:
        """Hand what a node has said to its client."""
        relay.heard = time.monotonic()
        with self._only_with(identity):
            parts = relay.socket.recv_multipart(copy=False)
            relay.credits -= wire.unpack(parts[0].buffer)["k"] == "data"
            if not self._send(identity, parts):
                self._leave(identity)

    def _leave(self, identity: bytes, said_bye: bool = False) -> None:
        """Close what was opened for a client."""
        relay = self._relays.pop(identity, None)
        if relay is None:
            return
        if not said_bye:
            with contextlib.suppress(zmq.Again):  # a node that is gone needs none
                relay.socket.send(wire.pack({"v": wire.VERSION, "k": "bye"}), zmq.NOBLOCK)
        self._poller.unregister(relay.socket)
        relay.socket.close()

    def _ask(self, identity: bytes, said: dict[str, Any]) -> None:
        """Hand a request to the supervisor, under a number of ours."""
        number = next(self._numbers)
        self._asked[number] = (identity, said.get("id"))
        if len(self._asked) > OPEN_REQUESTS:
            self._asked.popitem(last=False)
        _hand_on(self._control, wire.pack({**said, "id": number}), "the graph")

    def _answer(self) -> None:
        try:
            answer = wire.unpack(self._control.recv())
        except WireError as exc:
            logger.warning("an answer to a client at %s is lost: %s", self.address, exc)
            return
        identity, number = self._asked.get(answer["id"], (b"", None))  # stays: some are answered once more
        if identity:
            self._tell(identity, {**answer, "id": number})

    def _refuse(self, identity: bytes, why: str, again: bool = False) -> None:
        """Leave a client; `again` tells that it may say hello again."""
        self._leave(identity)
        self._tell(identity, {"k": "refused", "why": why, "again": again})

    def _tell(self, identity: bytes, words: dict[str, Any]) -> None:
        self._send(identity, [wire.pack({"v": wire.VERSION, **words})])

    def _send(self, identity: bytes, parts: list[Any]) -> bool:
        """Send to a client; say whether it is still there."""
        try:
            self._front.send_multipart([identity, *parts], zmq.NOBLOCK, copy=False)
        except zmq.ZMQError:
            return False
        return True


def _hand_on(socket: "zmq.Socket[bytes]", data: bytes, whom: str) -> None:
    """Send what a client says. Raises GraphError if so much waits there already that nothing more is taken."""
    try:
        socket.send(data, zmq.NOBLOCK)
    except zmq.Again as exc:
        raise GraphError(f"{whom} does not take what you say: it has ended, or is too busy") from exc
