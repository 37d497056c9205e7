"""Watches the senders of a running graph, so that its readers continue when a node of it is restarted."""

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import zmq

from graph import wire
from graph.errors import ConfigError, GraphError, WireError
from graph.network import Remote
from graph.receiver import QUIET_S, Receiver
from graph.rundir import RunDir

logger = logging.getLogger(__name__)

CHECK_S = 1.0
ANSWER_S = 2.0  # the reader waits meanwhile; a busy supervisor is asked again at the next check
GREET_S = 5.0  # a node that runs but has sent nothing for so long has lost our hello or our connection

Fate = Literal["again", "ended", "died", "gap"]
"""Of a sender. again: it was restarted, connect again; ended: it has ended for good; died: its graph is gone; gap: a
node before it was restarted, and frames that were lost there will never come."""


class Lookout:
    """Finds out once a second why senders are silent, and whether nodes before them were restarted."""

    def __init__(
        self, context: "zmq.Context[Any]", place: RunDir | Remote, graph: str, nodes: Mapping[str, str], joined: bool
    ) -> None:
        """Watch the graph `graph` at `place`; `nodes` maps the name of each receiver to its sending node.

        `joined` says that the messages are matched by frame: then a frame that is lost before one sender can stop all,
        because a reader that waits for it takes no more from the others.
        """
        self.died = place.died
        self._context = context
        self._place = place
        self._graph = graph
        self._nodes = nodes
        self._joined = joined
        self._missed = False  # the graph has not answered the last request
        self._restarts: dict[str, int] | None = None  # of all nodes, when the graph was last asked
        self._next = time.monotonic() if joined else time.monotonic() + CHECK_S

    def due(self) -> bool:
        """Say whether it is time to `look`."""
        return time.monotonic() >= self._next

    def look(self, receivers: Mapping[str, Receiver]) -> dict[str, Fate]:
        """Return the fates of receivers by name, without those whose senders are alive or may come back."""
        fates: dict[str, Fate] = {}
        silent = {name: receiver for name, receiver in receivers.items() if receiver.lost()}
        if silent or (self._joined and self._may_have_gaps(receivers.values())):
            try:
                graph = ask(self._context, self._place, self._graph, "describe", ANSWER_S)
            except GraphError:
                if silent and not self._place.runs(min(receiver.silence_s for receiver in silent.values())):
                    fates = dict.fromkeys(silent, "died")
                elif silent and not self._missed:
                    self._missed = True
                    logger.warning("the graph %r does not answer; trying again", self._graph)
            else:
                self._missed = False
                found = {name: self._fate(receiver, graph, self._nodes[name]) for name, receiver in silent.items()}
                fates = self._gaps(graph) | {name: fate for name, fate in found.items() if fate is not None}
        self._next = time.monotonic() + CHECK_S
        return fates

    def _fate(self, receiver: Receiver, graph: dict[str, Any], node: str) -> Fate | None:
        about = graph["nodes"].get(node)
        if about is None or (receiver.welcomed and receiver.run != graph.get("run")):
            return "died"  # another graph has its name now
        if about["state"] in ("DONE", "FAILED"):
            return "ended"
        if receiver.welcomed and about.get("restarts", 0) > receiver.restarts:
            logger.warning("%s of the graph %r was restarted; continuing", node, self._graph)
            return "again"
        unheard = receiver.silence_s > GREET_S and about["state"] != "NULL"
        return "again" if unheard or receiver.must_reconnect else None

    def _may_have_gaps(self, receivers: Iterable[Receiver]) -> bool:
        return self._restarts is None or any(receiver.idle_s > QUIET_S for receiver in receivers)

    def _gaps(self, graph: dict[str, Any]) -> dict[str, Fate]:
        """Return the receivers before whose senders a node was restarted since the graph was last asked."""
        now = {node: about.get("restarts", 0) for node, about in graph["nodes"].items()}
        before, self._restarts = (now if self._restarts is None else self._restarts), now
        again = {node for node, restarts in now.items() if restarts > before.get(node, restarts)}
        gaps = [name for name, node in self._nodes.items() if again & _before(node, graph["edges"])]
        if not (self._joined and gaps):
            return {}
        logger.warning("%s of the graph %r was restarted; continuing", ", ".join(sorted(again)), self._graph)
        return dict.fromkeys(gaps, "gap")


def _before(node: str, edges: Iterable[list[Any]]) -> set[str]:
    """Return the nodes from which frames reach `node`, over any number of edges; `edges` are those of `describe`."""
    inner = [(source.partition(".")[0], target.partition(".")[0]) for source, target, *_ in edges]
    found: set[str] = set()
    while more := {source for source, target in inner if target in found | {node}} - found:
        found |= more
    return found


def ask(
    context: "zmq.Context[Any]", place: RunDir | Remote, graph: str, kind: str, seconds: float, **content: Any
) -> dict[str, Any]:
    """Return the answer of a running graph to a request. Any thread may call this: each call has its own socket.

    Raises ConfigError with the reason if the request is refused or cannot be sent, GraphError if the graph has ended
    or does not answer in time.
    """
    request = _packed(kind, content)
    socket = context.socket(zmq.DEALER)
    until = time.monotonic() + seconds
    try:
        socket.set(zmq.LINGER, 0)
        place.secure(socket)
        socket.connect(place.control)
        socket.send(request)
        while not socket.poll(200):
            if not place.runs(silence_s=0.0):
                raise GraphError(f"the graph {graph!r} has ended")
            if time.monotonic() >= until:
                raise GraphError(f"the graph {graph!r} has not answered for {seconds:.0f} s")
        answer = wire.unpack(socket.recv())
    finally:
        socket.close()
    if answer["k"] == "refused":
        raise ConfigError(str(answer.get("why")))
    return {key: value for key, value in answer.items() if key not in ("v", "k", "id")}


def _packed(kind: str, content: dict[str, Any]) -> bytes:
    """Return a request as bytes. Raises ConfigError for one that a graph could not read and would never answer."""
    try:
        data = wire.pack({"v": wire.VERSION, "k": kind, **content})
        wire.unpack(data)
    except (TypeError, ValueError, OverflowError, WireError) as exc:
        raise ConfigError(f"{content} cannot be sent to a graph: {exc}; valid: {wire.SENDABLE}") from exc
    return data
