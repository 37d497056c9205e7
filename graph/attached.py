"""Read from a running graph out of any Python process.

with graph.attach("webcam") as g:
    for faces in g.subscribe("smooth.faces"):
        print(faces.seq, faces.landmarks)

Look inside and change: g.stats(), g.spec(), g.log(), g.set("detector.every", 3), g.pause(), g.restart("smooth").
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

ANSWER_S = 10.0  # how long a supervisor may take to answer: it waits itself for nodes that are busy
RESTART_S = 40.0  # the same for a node that is started again
POLL_S = 0.1
CLOSE_S = 5.0  # how long streams in other threads are waited for

Connect = Callable[[str], Receiver]
"""Says hello for a port."""
Stream = Generator[Any, None, None]


def attach(name: str | None = None, wait: float = 0.0, keys: str | Path | None = None) -> "RunningGraph":
    """Return a handle on the graph `name` that this user runs on this host; None: on the only one that runs.

    `name` may be the address at which one elsewhere listens, "tcp://192.0.2.7:5555"; `keys` is then the folder that
    lets us in, $FACEGRAPH_KEYS if left out. `wait` is how many seconds to wait for the graph to start. Raises
    ConfigError if there is none, naming those that run, and GraphError if an address does not let us in, saying why.
    """
    if not isinstance(name, str | None):
        raise ConfigError(f"a graph named {name!r}: expected its name as a str, an address tcp://HOST:PORT, or None")
    if not isinstance(wait, int | float) or math.isnan(wait):
        raise ConfigError(f"wait={wait!r}: expected a number of seconds")
    if name is not None and is_remote(name):
        return _attach(lambda: RunningGraph(name, Remote(name, keys)), wait)
    return _attach(lambda: RunningGraph(*_find(name)), wait)


def _attach(look: "Callable[[], RunningGraph]", wait: float) -> "RunningGraph":
    until = time.monotonic() + wait
    while True:
        try:
            return look()
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
    """A graph that runs in other processes. It does not notice us: our queues are our own, and may drop."""

    def __init__(self, name: str, place: RunDir | Remote) -> None:
        self.name = name
        self._place = place
        self._context: zmq.Context[Any] = zmq.Context()
        self._streams: dict[int, tuple[ref[Stream], dict[str, Receiver]]] = {}  # weak: leaving a loop ends its stream
        self._closed = False
        self._pid = os.getpid()
        try:
            if isinstance(place, Remote):
                place.check(self._context)
            self.description = self.spec()
            self.name = self.description["name"]
            ahead = ahead_ns(self.description)
            self.far = isinstance(place, Remote) or is_other_clock(ahead)  # the times in messages are of another clock,
            self.ahead_ns = ahead if self.far else 0  # and that is ahead of ours by so much
        except GraphError:
            self.close()
            raise

    @property
    def ports(self) -> dict[str, str]:
        """All outputs as "node.port", with the wire name of their message type."""
        nodes = self.description["nodes"]
        return {f"{node}.{port}": type_ for node in nodes for port, type_ in nodes[node]["outputs"].items()}

    def spec(self) -> dict[str, Any]:
        """Return what the graph is: state, nodes with type, state, ports and settings, edges; see graph/README.md.

        A setting has `value`, `default`, `type`, `choices`, `minimum`, `maximum`, `changeable` and `about` (its unit
        and effect). Passwords in values are hidden.
        """
        return self._ask("describe")

    def stats(self) -> dict[str, Any]:
        """Return what the graph did in the last seconds, by node, edge and end of the graph; see graph/README.md."""
        return self._ask("stats")

    def log(self, since: int = 0) -> list[dict[str, Any]]:
        """Return the newest lines of the graph's log after line `since`: number, time, level, node, text."""
        names = ("number", "time", "level", "node", "text")
        return [dict(zip(names, line, strict=True)) for line in self._ask("log", since=since)["lines"]]

    def set(self, setting: str, value: Any) -> Any:
        """Set "node.setting" and return the value that the node has now.

        Raises ConfigError with the reason if there is no such setting, it may not change while the graph runs, or
        the value does not fit.
        """
        node, dot, name = setting.partition(".") if isinstance(setting, str) else ("", "", "")
        if not (dot and name):
            raise ConfigError(f"{setting!r} is not of the form node.setting")
        return self._ask("set", node=node, setting=name, value=value)["value"]

    def pause(self) -> None:
        """Hold the sources; what is on its way is still processed. Returns when they have stopped."""
        self._ask("pause")

    def resume(self) -> None:
        """Let the sources go on."""
        self._ask("resume")

    def restart(self, node: str) -> None:
        """Start the process of a node again; returns when it plays. The frames that it had are lost."""
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
        """Give the messages of a port as they come, until the stream ends.

        The messages are yours: copies, which you may keep and write to. With several ports, tuples of messages of
        the same frame. `policy` and `queue` say what happens while you are slow: with "latest" you miss frames, with
        "block" the graph waits for you. Several ports get a queue of at least 16, so that fast ports can wait for
        slow ones. `shm=False` has all bytes sent. `type_` is needed for message types that this process has not
        imported. `copy=False` gives read-only views of the sender's memory: faster, but what you keep it cannot reuse,
        and it writes over them once the stream is closed, also by leaving its loop.
        When a node is started again its messages go on, after a gap. Raises ConfigError for a port, policy or queue
        that does not exist, GraphError if the graph dies, or a node ends for good before the stream did.
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
        """Return the message type of a port; imports the module that defines it.

        Raises ConfigError for a port that does not exist, or a module that cannot be imported here.
        """
        self._check_ports([port])
        name = self.ports[port]
        if name not in known_types():
            import_module(name.partition(":")[0])
        return find_type([name])

    def listen(
        self, *ports: str, policy: str = "latest", queue: int = 1
    ) -> Generator[tuple[str, Message] | None, None, None]:
        """Give the messages of some ports one by one in the order in which they come; of types as `type_of` finds.

        Unlike `subscribe` this matches nothing, gives the marks too (graph.Mark), and gives None ten times a second
        while nothing comes, the first time when all senders have answered. The messages are views of the senders'
        memory, valid until the next one. Raises as `subscribe` does.
        """
        self._check(ports, policy, queue)
        types = {port: self.type_of(port) for port in ports}

        def connect(port: str) -> Receiver:
            return self._receiver(port, types[port], policy=policy, queue=queue, shm=True, marks=True)

        receivers = {port: connect(port) for port in types}
        return self._known(self._each(receivers, connect), receivers)

    def _known(self, stream: Stream, receivers: dict[str, Receiver]) -> Stream:
        def dropped(_: ref[Stream]) -> None:
            """Take leave for a stream that never began: it has no `finally` yet, and with "block" the graph waits."""
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
                    if arrived := receiver.receive():  # one of each in turn: a fast one never hides the others
                        came = True
                        yield port, arrived.message
                        del arrived
                        receiver.consumed()
                        receiver.flush(idle=False)
                self._greet_again(lookout, receivers, connect)
                answered |= all(receiver.welcomed or receiver.ended for receiver in receivers.values())
                if not came and answered:
                    yield None
                if not came:
                    wait_for_any(receivers.values(), 100)
            self._tell_of_ended(receivers)
        finally:
            for receiver in receivers.values():
                receiver.close()
            self._streams.pop(id(receivers), None)

    def _lookout(self, receivers: Iterable[str], joined: bool) -> Lookout:
        nodes = {port: port.partition(".")[0] for port in receivers}
        return Lookout(self._context, self._place, self.name, nodes, joined)

    def _greet_again(self, lookout: Lookout, receivers: dict[str, Receiver], connect: Connect) -> dict[str, Fate]:
        """Put new receivers in the place of those whose nodes were started again; return the fates of all by port.

        Those whose nodes have ended expire. Raises GraphError if the graph is gone.
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

    def _tell_of_ended(self, receivers: dict[str, Receiver]) -> None:
        """Raise GraphError if nodes have ended without our having all that they said."""
        ended = [port for port, receiver in receivers.items() if receiver.expired]
        if ended:
            nodes = dict.fromkeys(port.partition(".")[0] for port in ended)
            raise GraphError(f"{', '.join(nodes)} of the graph {self.name!r} has ended; nothing more comes of it")

    def _check(self, ports: Iterable[str], policy: str, queue: int) -> None:
        """Raise ConfigError unless this can be asked of a sender: said here, where it was asked."""
        self._check_ports(ports)
        if why := error_in(policy, queue):
            raise ConfigError(why)

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
                for port, fate in self._greet_again(lookout, receivers, connect).items():
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
            self._tell_of_ended(receivers)
        finally:
            inputs.close()
            self._streams.pop(id(receivers), None)

    def _ask(self, kind: str, seconds: float = ANSWER_S, **content: Any) -> dict[str, Any]:
        self._check_open()
        return ask(self._context, self._place, self.name, kind, seconds, **content)

    def _check_open(self) -> None:
        if self._closed:
            raise GraphError(f"this handle on the graph {self.name!r} is closed")
        if self._pid != os.getpid():  # sockets of ZeroMQ do not work behind a fork: they would wait for ever
            raise GraphError(f"this handle on the graph {self.name!r} is another process's; attach() in this one")

    def close(self) -> None:
        """Take leave. Streams end; those that wait in other threads raise GraphError."""
        self._closed = True
        until = time.monotonic() + CLOSE_S
        for stream, receivers in list(self._streams.values()):
            while not _ended(stream()) and time.monotonic() < until:
                time.sleep(POLL_S)  # its sockets belong to the thread that it runs in
            for receiver in receivers.values():
                receiver.close()  # of a stream that never began
        self._context.term()

    def __reduce__(self) -> Any:
        """Refuse to be pickled or copied: sockets, and streams that are read, are this handle's and this process's."""
        raise TypeError(f"a handle on the graph {self.name!r} cannot be pickled or copied; attach() again instead")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _ended(stream: Stream | None) -> bool:
    """End a stream, if it is still there; say whether that is done, for it may be running in another thread."""
    try:
        if stream is not None:
            stream.close()
    except ValueError:
        return False
    return True


def check_inputs(spec: GraphSpec, place: str) -> None:
    """Raise ConfigError unless the graph at `place` runs and has what the extra nodes of `spec` read from it."""
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
    """Give what is in one set: a message, a tuple of messages by port, or nothing if one of them is a mark."""
    messages = tuple(arrived.message for port in ports if (arrived := taken[port]) is not None)
    if not any(isinstance(message, Mark) for message in messages):
        given = tuple(message.copy() for message in messages) if copy else messages
        yield given[0] if len(given) == 1 else given
