"""The supervisor's end of the control socket: messages to and from nodes, and requests of other processes."""

import logging
import os
from collections.abc import Callable, Iterable
from typing import Any

import zmq

from graph import wire
from graph.control import identity as identity_of
from graph.errors import WireError

logger = logging.getLogger("facegraph")

LINGER_MS = 200  # for the messages sent last
Content = dict[str, Any]
Handle = Callable[[str, Content], None]
Serve = Callable[[Content, Callable[[Content], None]], None]


class Bus:
    """One ROUTER. Nodes are known by their identities; all other peers are clients that send requests."""

    def __init__(self, context: "zmq.Context[Any]", nodes: Iterable[str]) -> None:
        self._nodes = {identity_of(os.getpid(), name): name for name in nodes}
        self._identities = {name: identity for identity, name in self._nodes.items()}
        self.socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        self.socket.set(zmq.LINGER, LINGER_MS)

    def receive(self, handle: Handle, serve: Serve) -> None:
        """Pass what has arrived from nodes to `handle`, by name, and requests to `serve`. Log what is malformed."""
        while self.socket.poll(0):
            identity, *parts = self.socket.recv_multipart()
            try:
                message = wire.unpack(parts[0] if len(parts) == 1 else b"")
            except WireError as exc:
                logger.warning("malformed control message: %s", exc)
                continue
            if identity in self._nodes:
                handle(self._nodes[identity], message)
            else:
                self._serve(identity, message, len(parts[0]), serve)

    def _serve(self, identity: bytes, request: Content, size: int, serve: Serve) -> None:
        def reply(answer: Content) -> None:
            data = _packed({"id": request.get("id"), **answer})
            if len(data) > wire.MAX_HEADER:
                why = f"the answer has {len(data)} bytes; at most {wire.MAX_HEADER} are allowed"
                data = _packed({"id": request.get("id"), "k": "refused", "why": why})
            self._send(identity, data)

        if size > wire.MAX_REQUEST:
            reply({"k": "refused", "why": f"a request of {size} bytes; at most {wire.MAX_REQUEST} are allowed"})
        else:
            serve(request, reply)

    def send(self, node: str, kind: str, /, **content: Any) -> None:
        """Send a message to a node."""
        self._send(self._identities[node], _packed({"k": kind, **content}))

    def _send(self, identity: bytes, data: bytes) -> None:
        """Send data to a peer; it is lost if the peer has disconnected."""
        self.socket.send_multipart([identity, data], zmq.NOBLOCK)

    def close(self) -> None:
        """Close once the last messages have been sent, or after LINGER_MS."""
        self.socket.close()


def _packed(content: Content) -> bytes:
    return wire.pack_words({"v": wire.VERSION, **content})
