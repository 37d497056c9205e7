"""The port at which a graph can be reached over tcp: `listen: tcp://127.0.0.1:5555` in its file.

A thread of the supervisor relays between remote clients and the graph's own ipc sockets, so that nodes need not know of
it and no encryption slows them down. Credits pass through, so the sending node drops messages for a slow client as for
any other consumer. Protocol: graph/README.md, with `port: "node.port"` in the hello and all bytes inline.
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
from reprlib import repr as brief  # a client may send values that are long and deep
from typing import Any

import zmq
from zmq.utils import z85

from graph import wire
from graph.errors import ConfigError, GraphError, WireError
from graph.link import error_in
from graph.network import HEARTBEAT_MS, SILENT_S, Keys, allowed, listening, parse
from graph.rundir import RunDir

logger = logging.getLogger("facegraph")

MAX_CREDITS = 64  # messages in transit to a client: those that it does not read stay in our memory
START_S = 30.0  # how much longer than SILENT_S a node may be silent at first: it may still be loading its models
ABSENT_S = 60.0  # a client that connects again after so long is logged again
SHOWN = 100  # characters of the name that a client gives itself
OPEN_REQUESTS = 1000  # whose clients are remembered
MAX_UNREAD = OPEN_REQUESTS + MAX_CREDITS  # messages; a client that does not read them is disconnected
ZAP = "inproc://zeromq.zap.01"  # where ZeroMQ asks whether to admit a client (RFC 27)


@dataclass
class Relay:
    """One client that reads a port."""

    socket: "zmq.Socket[bytes]"  # DEALER to the node
    last_heard: float  # CLOCK_MONOTONIC seconds of the node's last message
    credits: int  # messages that may still be sent to the client

    def limited(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return a client's message, with its credits limited; the node refuses what is invalid in it."""
        number = message.get("n")
        if message["k"] != "credit" or not isinstance(number, int) or number < 0:
            return message
        granted = min(number, MAX_CREDITS - self.credits)
        self.credits += granted
        return {**message, "n": granted}


class Gateway(threading.Thread):
    """The thread. `address` is where it listens."""

    def __init__(self, listen: str, keys: str | None, rundir: RunDir, nodes: Collection[str]) -> None:
        """Bind to `listen`. Raises ConfigError if that is impossible, and like `network.listening`."""
        super().__init__(name="gateway", daemon=True)
        secret = listening(listen, keys)
        self._folder = Path(keys) if keys else None
        self._rundir = rundir
        self._nodes = nodes
        self._relays: dict[bytes, Relay] = {}
        self._requests: OrderedDict[int, tuple[bytes, Any]] = OrderedDict()  # client, its id of the request
        self._logged: dict[tuple[str | None, str], float] = {}  # last visit by name and address, CLOCK_MONOTONIC s
        self._numbers = itertools.count(1)  # of requests and of readers
        self._stopping = threading.Event()
        self._zmq: zmq.Context[Any] = zmq.Context()
        self._zap = self._zmq.socket(zmq.REP)
        self._zap.bind(ZAP)
        self._front = self._front_socket(secret)
        self._front.set(zmq.IPV6, ":" in parse(listen)[0])  # not for IPv4, whose addresses would be shown as IPv6
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
                self._authenticate()
            if self._front in ready:
                self._handle_client(*self._front.recv_multipart())
            if self._control in ready:
                self._forward_answer()
            for identity, relay in list(self._relays.items()):
                if relay.socket in ready:
                    self._forward_output(identity, relay)
                elif time.monotonic() - relay.last_heard > SILENT_S:
                    self._refuse(identity, "its node is gone, or hangs", again=True)
        for identity in list(self._relays):
            self._close_relay(identity)
        for socket in (self._zap, self._control, self._front):
            socket.close()
        self._zmq.term()

    def close(self) -> None:
        """Disconnect all clients and end the thread."""
        self._stopping.set()
        if self.is_alive():
            self.join()

    def _authenticate(self) -> None:
        """Tell ZeroMQ whether to admit a client with this key."""
        version, request, _domain, address, _identity, _mechanism, *credentials = self._zap.recv_multipart()
        known = allowed(self._folder) if self._folder else {}
        name = known.get(z85.encode(credentials[0])) if credentials else None
        self._log_visit(name, address.decode())
        code, text = (b"200", b"OK") if name else (b"400", b"unknown key")
        self._zap.send_multipart([version, request, code, text, (name or "").encode(), b""])

    def _log_visit(self, name: str | None, address: str) -> None:
        """Log a client (None: unknown key), but not if it connected recently: each request is a connection."""
        now = time.monotonic()
        self._logged = {client: visit_s for client, visit_s in self._logged.items() if now - visit_s < ABSENT_S}
        is_logged = (name, address) in self._logged
        self._logged[name, address] = now
        if is_logged:
            return
        if name is None:
            logger.warning("a client at %s has a key that is not in %s/clients", address, self._folder)
        else:
            logger.info("client %s connected from %s", name, address)

    @contextlib.contextmanager
    def _disconnecting_on_error(self, identity: bytes) -> Iterator[None]:
        """Disconnect this client if something goes wrong with it; the others are not affected."""
        try:
            yield
        except (GraphError, zmq.ZMQError) as exc:
            what = "broke the protocol and is disconnected" if isinstance(exc, WireError) else "is disconnected"
            logger.warning("a client at %s %s: %s", self.address, what, exc)
            self._refuse(identity, str(exc))

    def _handle_client(self, identity: bytes, *parts: bytes) -> None:
        with self._disconnecting_on_error(identity):
            message = wire.unpack(parts[0] if len(parts) == 1 else b"")
            relay = self._relays.get(identity)
            if message["k"] == "hello":
                self._open_relay(identity, message)
            elif relay is not None:
                _forward(relay.socket, wire.pack(relay.limited(message)), "the node")
                if message["k"] == "bye":
                    self._close_relay(identity, said_bye=True)
            elif message["k"] not in ("credit", "bye"):  # which a disconnected client may still send
                self._forward_request(identity, message)

    def _open_relay(self, identity: bytes, hello: dict[str, Any]) -> None:
        """Connect to the node for a client."""
        wanted = hello.get("port")
        node, _, port = wanted.partition(".") if isinstance(wanted, str) else ("", "", "")
        if node not in self._nodes or not port:
            raise WireError(f"port {brief(wanted)}; it is node.output, nodes: {', '.join(self._nodes)}")
        queue, credits = hello.get("queue", 1), hello.get("credits", 1)
        if error := error_in(hello.get("policy", "latest"), queue, credits):
            raise WireError(error)
        if queue > MAX_CREDITS:
            raise WireError(f"queue of {queue}; 1..{MAX_CREDITS} are allowed over tcp")
        self._close_relay(identity)
        socket = self._zmq.socket(zmq.DEALER)
        socket.set(zmq.LINGER, 500)
        socket.set(zmq.RCVHWM, 0)  # bounded by the credits
        socket.connect(self._rundir.data(node))
        credits = min(credits, MAX_CREDITS)  # with policy block, a consumer requests twice its queue
        name = self._unique_name(hello.get("name"))
        own = {"port": port, "shm": False, "credits": credits, "name": name, "run": ""}
        socket.send(wire.pack(hello | own), zmq.NOBLOCK)
        self._relays[identity] = Relay(socket, time.monotonic() + START_S, credits)
        self._poller.register(socket, zmq.POLLIN)

    def _unique_name(self, given: Any) -> str:
        """Return a name for a reader that no other reader of the graph has."""
        return f"attached/tcp{next(self._numbers)}" + (f"/{given[:SHOWN]}" if isinstance(given, str) else "")

    def _forward_output(self, identity: bytes, relay: Relay) -> None:
        """Send a node's message to its client."""
        relay.last_heard = time.monotonic()
        with self._disconnecting_on_error(identity):
            parts = relay.socket.recv_multipart(copy=False)
            relay.credits -= wire.unpack(parts[0].buffer)["k"] == "data"
            if not self._send(identity, parts):
                self._close_relay(identity)

    def _close_relay(self, identity: bytes, said_bye: bool = False) -> None:
        """Disconnect from the node that a client reads, if any."""
        relay = self._relays.pop(identity, None)
        if relay is None:
            return
        if not said_bye:
            with contextlib.suppress(zmq.Again):  # the node is gone
                relay.socket.send(wire.pack({"v": wire.VERSION, "k": "bye"}), zmq.NOBLOCK)
        self._poller.unregister(relay.socket)
        relay.socket.close()

    def _forward_request(self, identity: bytes, request: dict[str, Any]) -> None:
        """Send a request to the supervisor, with an id of ours."""
        number = next(self._numbers)
        self._requests[number] = (identity, request.get("id"))
        if len(self._requests) > OPEN_REQUESTS:
            self._requests.popitem(last=False)
        _forward(self._control, wire.pack({**request, "id": number}), "the graph")

    def _forward_answer(self) -> None:
        try:
            answer = wire.unpack(self._control.recv())
        except WireError as exc:
            logger.warning("an answer to a client at %s is lost: %s", self.address, exc)
            return
        identity, number = self._requests.get(answer["id"], (b"", None))  # kept: some are answered twice
        if identity:
            self._send(identity, [wire.pack({**answer, "id": number})])

    def _refuse(self, identity: bytes, why: str, again: bool = False) -> None:
        """Disconnect a client; `again` says that it may say hello again."""
        self._close_relay(identity)
        refusal = {"v": wire.VERSION, "k": "refused", "why": why, "again": again}
        self._send(identity, [wire.pack(refusal)])

    def _send(self, identity: bytes, parts: list[Any]) -> bool:
        """Send to a client; say whether it is still connected."""
        try:
            self._front.send_multipart([identity, *parts], zmq.NOBLOCK, copy=False)
        except zmq.ZMQError:
            return False
        return True


def _forward(socket: "zmq.Socket[bytes]", data: bytes, receiver: str) -> None:
    """Send a client's message. Raises GraphError if the receiver's queue is full."""
    try:
        socket.send(data, zmq.NOBLOCK)
    except zmq.Again as exc:
        raise GraphError(f"{receiver} does not accept your messages: it has ended, or is too busy") from exc
