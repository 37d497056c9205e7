"""Reads from a running graph in any Python process.

with graph.attach("webcam") as g:
    for faces in g.subscribe("smooth.faces"):
        print(faces.seq, faces.landmarks)

To inspect and control it: g.stats(), g.spec(), g.log(), g.set("detector.every", 3), g.pause(), g.restart("smooth").
"""

import logging
import math
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from weakref import ref

import zmq

from graph import rundir
from graph.errors import ConfigError, GraphError
from graph.inputs import Inputs, Set
from graph.link import error_in
from graph.lookout import Fate, Lookout, ask
from graph.messages import Mark, Message
from graph.network import Remote, is_remote
from graph.receiver import Receiver, ahead_ns, find_type, is_other_clock, known_types, wait_for_any
from graph.rundir import RunDir
from graph.spec import GraphSpec, did_you_mean, import_module

logger = logging.getLogger(__name__)

ANSWER_S = 10.0  # timeout of a request: the supervisor itself waits for busy nodes
RESTART_S = 40.0  # the same for the restart of a node
POLL_S = 0.1
CLOSE_S = 5.0  # how long to wait for streams in other threads

Connect = Callable[[str], Receiver]
"""Connects to a port."""
Stream = Generator[Any, None, None]


def attach(name: str | None = None, wait: float = 0.0, keys: str | Path | None = None) -> "RunningGraph":
    """Return a handle on the graph `name` that this user runs on this host; None: on the only one that runs.

    `name` may also be the address at which a graph listens, "tcp://192.0.2.7:5555"; `keys` is then the folder of this
    client's keys, by default $FACEGRAPH_KEYS. `wait` is how many seconds to wait for the graph to start. Raises
    ConfigError if there is none, naming those that run, and GraphError with the reason if an address does not admit us.
    """
    if not isinstance(name, str | None):
        raise ConfigError(f"a graph named {name!r}: expected its name as a str, an address tcp://HOST:PORT, or None")
    if not isinstance(wait, int | float) or math.isnan(wait):
        raise ConfigError(f"wait={wait!r}: expected a number of seconds")
    until = time.monotonic() + wait
    while True:
        try:
            if name is not None and is_remote(name):
                return RunningGraph(name, Remote(name, keys))
            return RunningGraph(*_find(name))
        except GraphError:
            if time.monotonic() >= until:
                raise
        time.sleep(POLL_S)


def _find(name: str | None) -> tuple[str, RunDir]:
    there = rundir.running()
    if name is not None and name in there:
        return name, RunDir.of(name)
    if name is not None:
        hint = did_you_mean(name, there) or f"running now: {', '.join(there) or 'none'}"
        raise ConfigError(f"no graph named {name!r} is running; {hint}")
    if not there:
        raise ConfigError("no graph is running; start one: run_graph.py CONFIG")
    if len(there) > 1:
        raise ConfigError(f"{len(there)} graphs are running, say which: {', '.join(there)}")
    return there[0], RunDir.of(there[0])


class RunningGraph:
    """A graph that runs in other processes. It is not affected: we have our own queues, which may drop messages."""

    def __init__(self, name: str, place: RunDir | Remote) -> None:
        self.name = name
        self._place = place
        self._context: zmq.Context[Any] = zmq.Context()
        self._streams: dict[int, tuple[ref[Stream], dict[str, Receiver]]] = {}  # weak: a stream ends with its loop
        self._closed = False
        self._pid = os.getpid()
        try:
            if isinstance(place, Remote):
                place.check(self._context)
            self.description = self.spec()
            self.name = self.description["name"]
            ahead = ahead_ns(self.description)
            self.far = isinstance(place, Remote) or is_other_clock(ahead)  # its messages have times of another clock,
            self.ahead_ns = ahead if self.far else 0  # which is ahead of ours by so much
        except GraphError:
            self.close()
            raise

    @property
    def ports(self) -> dict[str, str]:
        """All outputs as "node.port", with the wire name of their message type."""
        nodes = self.description["nodes"]
        return {f"{node}.{port}": type_ for node in nodes for port, type_ in nodes[node]["outputs"].items()}

    def spec(self) -> dict[str, Any]:
        """Describe the graph: its state, its edges, and its nodes with type, state, ports and settings.

        See graph/README.md.

        A setting has `value`, `default`, `type`, `choices`, `minimum`, `maximum`, `changeable` and `about` (its unit
        and effect). Passwords in values are hidden.
        """
        return self._ask("describe")

    def stats(self) -> dict[str, Any]:
        """Return the statistics of the last seconds, by node, edge and end of the graph; see graph/README.md."""
        return self._ask("stats")

    def log(self, since: int = 0) -> list[dict[str, Any]]:
        """Return the newest lines of the graph's log after line `since`: number, time, level, node, text."""
        names = ("number", "time", "level", "node", "text")
        return [dict(zip(names, line, strict=True)) for line in self._ask("log", since=since)["lines"]]

    def set(self, setting: str, value: Any) -> Any:
        """Set "node.setting" and return its new value.

        Raises ConfigError with the reason if there is no such setting, it cannot be changed while the graph runs, or
        the value is invalid.
        """
        node, dot, name = setting.partition(".") if isinstance(setting, str) else ("", "", "")
        if not (dot and name):
            raise ConfigError(f"{setting!r} is not of the form node.setting")
        return self._ask("set", node=node, setting=name, value=value)["value"]

    def pause(self) -> None:
        """Pause the sources; returns when they have stopped. Frames already in the graph are still processed."""
        self._ask("pause")

    def resume(self) -> None:
        """Let the sources continue."""
        self._ask("resume")

    def restart(self, node: str) -> None:
        """Restart the process of a node; returns when it plays. The frames that it had are lost."""
        self._ask("restart", RESTART_S, node=node)

    def subscribe(
        self,
        *ports: str,
        policy: str = "latest",
        queue: int = 1,
        shm: bool = True,
        type_: type[Message] | None = None,
        copy: bool = True,
    ) -> Generator[Any, None, None]:
        """Yield the messages of a port as they arrive, until the stream ends.

        The messages are copies, which you may keep and write to. Several ports give tuples of messages of the same
        frame. `policy` and `queue` say what happens while you are slow: with "latest" you miss frames, with "block" the
        graph waits for you. With several ports the queue is at least 16, so that fast ports can wait for slow ones.
        `shm=False` avoids shared memory. `type_` is needed for message types that this process has not imported.
        `copy=False` gives read-only views of the sender's memory: faster, but the sender cannot reuse what you keep,
        and overwrites it once the stream is closed, which leaving its loop does too.
        When a node is restarted, its messages continue after a gap. Raises ConfigError for an invalid port, policy or
        queue, GraphError if the graph dies or a node ends for good before its stream has ended.
        """
        if not ports:
            raise ConfigError(f"subscribe needs a port; outputs: {', '.join(self.ports)}")
        if type_ is not None and not (isinstance(type_, type) and issubclass(type_, Message)):
            raise ConfigError(f"type_={type_!r}: expected a message type, like graph.Frame")
        self._check(ports, policy, queue)
        several = len(set(ports)) > 1
        if several:
            policy, queue = ("drop_oldest" if policy == "latest" else policy), max(queue, 16)

        def connect(port: str) -> Receiver:
            return self._receiver(port, type_, policy=policy, queue=queue, shm=shm, marks=several)

        receivers = {port: connect(port) for port in dict.fromkeys(ports)}
        newest = several and policy != "block"
        return self._known(self._stream(receivers, connect, newest, ports, copy), receivers)

    def type_of(self, port: str) -> type[Message]:
        """Return the message type of a port, importing the module that defines it.

        Raises ConfigError if the port does not exist or the module cannot be imported here.
        """
        self._check_ports([port])
        name = self.ports[port]
        if name not in known_types():
            import_module(name.partition(":")[0])
        return find_type([name])

    def listen(
        self, *ports: str, policy: str = "latest", queue: int = 1
    ) -> Generator[tuple[str, Message] | None, None, None]:
        """Yield (port, message) for the messages of some ports, in the order in which they arrive.

        Unlike `subscribe`, this imports their types, does not match frames, yields marks too (graph.Mark), and yields
        None ten times a second while nothing arrives, the first time once all senders have answered. The messages are
        views of the senders' memory, valid until the next one. Raises the same errors as `subscribe`.
        """
        self._check(ports, policy, queue)
        types = {port: self.type_of(port) for port in ports}

        def connect(port: str) -> Receiver:
            return self._receiver(port, types[port], policy=policy, queue=queue)

        receivers = {port: connect(port) for port in types}
        return self._known(self._each(receivers, connect), receivers)

    def _known(self, stream: Stream, receivers: dict[str, Receiver]) -> Stream:
        def dropped(_: ref[Stream]) -> None:
            """Disconnect a stream that was never iterated: its `finally` does not run, and "block" stops the graph."""
            for receiver in receivers.values():
                receiver.close()

        self._streams[id(receivers)] = ref(stream, dropped), receivers
        return stream

    def _each(
        self, receivers: dict[str, Receiver], connect: Connect
    ) -> Generator[tuple[str, Message] | None, None, None]:
        lookout, answered = self._lookout(receivers, joined=False), False
        try:
            while not all(receiver.ended for receiver in receivers.values()):
                self._check_open()
                came = False
                for port, receiver in receivers.items():
                    if arrived := receiver.receive():  # one of each in turn, so that a fast one does not starve others
                        came = True
                        yield port, arrived.message
                        del arrived
                        receiver.consumed()
                        receiver.flush(idle=False)
                self._reconnect(lookout, receivers, connect)
                answered |= all(receiver.welcomed or receiver.ended for receiver in receivers.values())
                if not came and answered:
                    yield None
                if not came:
                    wait_for_any(receivers.values(), 100)
            self._check_complete(receivers)
        finally:
            for receiver in receivers.values():
                receiver.close()
            self._streams.pop(id(receivers), None)

    def _lookout(self, receivers: Iterable[str], joined: bool) -> Lookout:
        nodes = {port: port.partition(".")[0] for port in receivers}
        return Lookout(self._context, self._place, self.name, nodes, joined)

    def _reconnect(self, lookout: Lookout, receivers: dict[str, Receiver], connect: Connect) -> dict[str, Fate]:
        """Replace the receivers whose nodes were restarted, and expire those whose nodes have ended.

        Returns the fates of their senders by port. Raises GraphError if the graph is gone.
        """
        fates = lookout.look(receivers) if lookout.due() else {}
        if "died" in fates.values():
            raise GraphError(f"the graph {self.name!r} {lookout.died}")
        for port, fate in fates.items():
            if fate == "ended":
                receivers[port].expire()
            elif fate == "again":
                receivers[port].close()
                receivers[port] = connect(port)
        return fates

    def _check_complete(self, receivers: dict[str, Receiver]) -> None:
        """Raise GraphError if nodes have ended before we got all their messages."""
        nodes = dict.fromkeys(port.partition(".")[0] for port, receiver in receivers.items() if receiver.expired)
        if nodes:
            raise GraphError(f"{', '.join(nodes)} of the graph {self.name!r} has ended; nothing more comes from it")

    def _check(self, ports: Iterable[str], policy: str, queue: int) -> None:
        """Raise ConfigError for what a sender would refuse, at once and not only in the stream."""
        self._check_ports(ports)
        if error := error_in(policy, queue):
            raise ConfigError(error)

    def _check_ports(self, ports: Iterable[str]) -> None:
        for port in ports:
            if not isinstance(port, str) or port not in self.ports:
                there = did_you_mean(str(port), self.ports) or f"outputs: {', '.join(self.ports) or 'none'}"
                raise ConfigError(f"{self.name} has no output {port!r}; {there}")

    def _receiver(self, port: str, type_: type[Message] | None, **options: Any) -> Receiver:
        node, output = port.split(".")
        name = f"attached/{time.monotonic_ns()}.{port}"
        endpoint, on_wire = self._place.data(node), self._place.port(node, output)
        secure = self._place.secure
        self._check_open()
        return Receiver(self._context, endpoint, on_wire, type_, name=name, secure=secure, **options)

    def _stream(
        self, receivers: dict[str, Receiver], connect: Connect, newest: bool, ports: tuple[str, ...], copy: bool
    ) -> Generator[Any, None, None]:
        inputs = Inputs(receivers, dict.fromkeys(receivers, "seq"), newest)
        lookout = self._lookout(receivers, joined=len(receivers) > 1 and not newest)
        try:
            while not inputs.finished:
                self._check_open()
                for port, fate in self._reconnect(lookout, receivers, connect).items():
                    if fate == "again":
                        inputs.replace(port, receivers[port])
                    elif fate == "gap":
                        inputs.restarted(port)
                taken = inputs.take()
                if taken is not None:
                    yield from _messages(taken, ports, copy)
                    del taken
                    inputs.done()
                else:
                    inputs.wait(500)
            self._check_complete(receivers)
        finally:
            inputs.close()
            self._streams.pop(id(receivers), None)

    def _ask(self, kind: str, seconds: float = ANSWER_S, **content: Any) -> dict[str, Any]:
        self._check_open()
        return ask(self._context, self._place, self.name, kind, seconds, **content)

    def _check_open(self) -> None:
        if self._closed:
            raise GraphError(f"this handle on the graph {self.name!r} is closed")
        if self._pid != os.getpid():  # ZeroMQ's sockets do not work after a fork: they would wait for ever
            raise GraphError(f"this handle on the graph {self.name!r} is another process's; attach() in this one")

    def close(self) -> None:
        """Disconnect. Streams end; those that wait in other threads raise GraphError."""
        self._closed = True
        until = time.monotonic() + CLOSE_S
        for stream, receivers in list(self._streams.values()):
            while not _closed(stream()) and time.monotonic() < until:
                time.sleep(POLL_S)  # its sockets belong to the thread that iterates it
            for receiver in receivers.values():
                receiver.close()  # if the stream was never iterated
        self._context.term()

    def __reduce__(self) -> Any:
        """Refuse to be pickled or copied: sockets and streams belong to this handle and this process."""
        raise TypeError(f"a handle on the graph {self.name!r} cannot be pickled or copied; attach() again instead")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _closed(stream: Stream | None) -> bool:
    """Close a stream that still exists; return False if it is running in another thread."""
    try:
        if stream is not None:
            stream.close()
    except ValueError:
        return False
    return True


def check_inputs(spec: GraphSpec, place: str) -> None:
    """Raise ConfigError unless the graph at `place` runs and has the outputs that the extra nodes of `spec` read."""
    with attach(place) as running:
        for edge in spec.edges:
            if edge.source_graph is None:
                continue
            if edge.source_graph != running.name:
                raise ConfigError(f"{spec.path}: {edge.target} reads from {edge.source}, but the graph at {place} is "
                                  f"{running.name!r}; write {running.name}/{edge.source.partition('/')[2]}")
            port = edge.source.partition("/")[2]
            if port not in running.ports:
                there = did_you_mean(port, running.ports) or f"outputs: {', '.join(running.ports)}"
                raise ConfigError(f"{spec.path}: the graph {running.name!r} has no output {port!r}; {there}")


def _messages(taken: Set, ports: tuple[str, ...], copy: bool) -> Iterator[Any]:
    """Yield the content of one set: a message, a tuple of messages by port, or nothing if one of them is a mark."""
    messages = tuple(arrived.message for port in ports if (arrived := taken[port]) is not None)
    if not any(isinstance(message, Mark) for message in messages):
        given = tuple(message.copy() for message in messages) if copy else messages
        yield given[0] if len(given) == 1 else given
