"""The supervisor's end of the control socket: what nodes and other processes say, and what they are told."""

import logging
import os
from collections.abc import Callable, Iterable
from typing import Any

import zmq

from graph import wire
from graph.control import identity as identity_of
from graph.errors import WireError

logger = logging.getLogger("facegraph")

LINGER_MS = 200  # for what was sent last
Words = dict[str, Any]
Hear = Callable[[str, Words], None]
Serve = Callable[[Words, Callable[[Words], None]], None]


class Bus:
    """One ROUTER; nodes are known by their identity, everybody else is a stranger who asks."""

    def __init__(self, context: "zmq.Context[Any]", nodes: Iterable[str]) -> None:
        self._nodes = {identity_of(os.getpid(), name): name for name in nodes}
        self._identities = {name: identity for identity, name in self._nodes.items()}
        self.socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        self.socket.set(zmq.LINGER, LINGER_MS)

    def receive(self, hear: Hear, serve: Serve) -> None:
        """Hand on what has come: of nodes by name to `hear`, of others to `serve`. What is malformed is logged."""
        while self.socket.poll(0):
            identity, *parts = self.socket.recv_multipart()
            try:
                said = wire.unpack(parts[0] if len(parts) == 1 else b"")
            except WireError as exc:
                logger.warning("malformed control message: %s", exc)
                continue
            if identity in self._nodes:
                hear(self._nodes[identity], said)
            else:
                self._serve(identity, said, len(parts[0]), serve)

    def _serve(self, identity: bytes, said: Words, size: int, serve: Serve) -> None:
        def reply(answer: Words) -> None:
            data = _packed({"id": said.get("id"), **answer})
            if len(data) > wire.MAX_HEADER:
                why = f"the answer has {len(data)} bytes; at most {wire.MAX_HEADER} are allowed"
                data = _packed({"id": said.get("id"), "k": "refused", "why": why})
            self._send(identity, data)

        if size > wire.MAX_REQUEST:
            reply({"k": "refused", "why": f"a request of {size} bytes; at most {wire.MAX_REQUEST} are allowed"})
        else:
            serve(said, reply)

    def tell(self, node: str, kind: str, /, **content: Any) -> None:
        """Send a word to a node."""
        self._send(self._identities[node], _packed({"k": kind, **content}))

    def _send(self, identity: bytes, data: bytes) -> None:
        """Send something to whoever has this identity; one that has left misses it."""
        self.socket.send_multipart([identity, data], zmq.NOBLOCK)

    def close(self) -> None:
        """Close, when what was sent has gone out or LINGER_MS are over."""
        self.socket.close()


def _packed(words: Words) -> bytes:
    return wire.pack_words({"v": wire.VERSION, **words})
