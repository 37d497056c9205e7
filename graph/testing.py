"""Run one node, or a whole graph, in this process, without sockets.

faces = run_node(Smooth(strength=2.0), frame=frames, raw=detections)["faces"]
faces = run_graph(load("configs/demo.yaml"), limit=10)["smooth.faces"]
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from graph import wire
from graph.errors import EndOfStream
from graph.join import first_header
from graph.messages import Header, Mark, Message
from graph.node import Node, as_outputs
from graph.spec import GraphSpec, build

Outputs = dict[str, Message | None]
"""The messages of a node about one frame, by output; None: nothing to say."""


def run_node(node: Node, limit: int | None = None, **inputs: Sequence[Message | None]) -> dict[str, list[Message]]:
    """Open `node`, process the given messages, close it, and return its messages by output.

    `inputs` has one list per connected input port, all of the same length; messages without a `seq` get their index in
    the list, and 30 frames per second as `pts`. None stands for "nothing to say". `limit` ends a source after that
    many yields. As in a running graph, inputs are read-only and outputs get the header of the inputs.
    Raises ValueError or TypeError for inputs that are unknown, missing or of another type.
    """
    _check(node, inputs)
    sent: dict[str, list[Message]] = {name: [] for name in node.outputs}
    with ExitStack() as stack:
        _open(node, stack)
        for outputs in _steps(node, inputs) if node.inputs else _frames(node, "test", limit):
            for name, message in outputs.items():
                if message is not None:
                    sent[name].append(message)
    return sent


def run_graph(
    spec: GraphSpec, limit: int | None = None, nodes: Mapping[str, Node] | None = None
) -> dict[str, list[Message]]:
    """Run a whole graph frame by frame, and return all messages by "node.output".

    `limit` ends each source after that many frames. `nodes` replaces nodes of the graph by instances.
    """
    running = {name: build(node) for name, node in spec.nodes.items()} | dict(nodes or {})
    order = spec.flow_order()
    sent: dict[str, list[Message]] = {f"{name}.{port}": [] for name in order for port in running[name].outputs}
    with ExitStack() as stack:
        for name in order:
            _open(running[name], stack)
        sources = {name: _frames(running[name], spec.name, limit) for name in order if not running[name].inputs}
        for now in _frames_of_graph(spec, running, order, sources, sent):
            for port, message in now.items():
                if message is not None:
                    sent[port].append(message)
    return sent


def _frames_of_graph(
    spec: GraphSpec,
    running: Mapping[str, Node],
    order: list[str],
    sources: Mapping[str, Iterator[Outputs]],
    sent: Mapping[str, list[Message]],
) -> Iterator[Outputs]:
    """Yield the messages of all nodes about each frame, by "node.output", until one of them ends the stream."""
    while True:
        now: Outputs = {}
        for name in order:
            if name in sources:
                outputs = next(sources[name], None)
                if outputs is None:
                    return
            else:
                try:
                    outputs = _process(running[name], _inputs(spec, name, now, sent))
                except EndOfStream:
                    yield now
                    return
            now.update({f"{name}.{port}": message for port, message in outputs.items()})
        yield now


def _inputs(spec: GraphSpec, name: str, now: Outputs, sent: Mapping[str, list[Message]]) -> dict[str, Message | None]:
    """Return the inputs of a node: of this frame, or the last ones on edges with `hold`."""
    given: dict[str, Message | None] = {}
    for edge in spec.edges_into(name):
        message = now[edge.source]
        if message is None and edge.join == "hold" and sent[edge.source]:
            message = sent[edge.source][-1]
        given[edge.target_port] = message
    return given


def _check(node: Node, inputs: Mapping[str, Sequence[Message | None]]) -> None:
    class_ = type(node).__name__
    needed = {name for name, port in node.inputs.items() if not port.optional}
    if not needed <= set(inputs) <= set(node.inputs):
        raise ValueError(f"{class_} has inputs {list(node.inputs)}, given {list(inputs)}")
    lengths = {name: len(messages) for name, messages in inputs.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{class_} takes lists of the same length, with None for nothing to say; given {lengths}")
    for name, messages in inputs.items():
        type_ = node.inputs[name].type
        for message in messages:
            if message is not None and not isinstance(message, type_):
                raise TypeError(f"{class_}.{name} takes {type_.__name__}, given {type(message).__name__}")


def _open(node: Node, stack: ExitStack) -> None:
    stack.callback(node.close)
    node.open()


def _steps(node: Node, inputs: Mapping[str, Sequence[Message | None]]) -> Iterator[Outputs]:
    for index, row in enumerate(zip(*inputs.values(), strict=True)):
        given = {name: _numbered(message, index) for name, message in zip(inputs, row, strict=True)}
        try:
            yield _process(node, given)
        except EndOfStream:
            return


def _process(node: Node, given: Mapping[str, Message | None]) -> Outputs:
    """Call `process` as a worker does, and give its outputs the header of the frame."""
    arguments = {name: _read_only(given.get(name)) for name in node.inputs}
    header = next((message.header for message in arguments.values() if message is not None), Mark().header)
    missing = [name for name, message in arguments.items() if message is None and not node.inputs[name].optional]
    outputs = as_outputs(node, None if missing else node.process(**arguments))
    return {name: None if message is None else _sent(message, header) for name, message in outputs.items()}


def _read_only(message: Message | None) -> Message | None:
    if message is None:
        return None
    views = {name: array.view() for name, array in wire.arrays_of(message).items()}
    for view in views.values():
        view.flags.writeable = False
    return message.restore(message.header, {**message.__dict__, **views})


def _frames(node: Node, stream: str, limit: int | None) -> Iterator[Outputs]:
    frames: Any = node.process()
    seq = -1
    try:
        for count, result in enumerate(frames):
            if count == limit:
                return
            if result is None:  # no frame yet
                continue
            outputs = as_outputs(node, result)
            seq = max(seq + 1, first_header(outputs).seq)
            yield {name: _stamp(message, stream, seq) for name, message in outputs.items()}
    except EndOfStream:
        return
    finally:
        frames.close()


def _stamp(message: Message | None, stream: str, seq: int) -> Message | None:
    if message is None or isinstance(message, Mark):
        return None
    now = _header(seq)
    return _sent(message, message.header.numbered(stream, seq, now.t_capture_ns, pts=now.pts))


def _sent(message: Message, header: Header) -> Message:
    """Return the message as readers get it. Raises WireError if a running graph could not send it."""
    arrays = wire.arrays_of(message)
    wire.encode(message, header, arrays, [array.nbytes for array in arrays.values()])
    return message.with_header(header)


def _numbered(message: Message | None, index: int) -> Message | None:
    if message is None:
        return None
    return message if message.seq >= 0 else message.with_header(_header(index))


def _header(index: int) -> Header:
    return Header(stream="test", seq=index, pts=index / 30, t_capture_ns=index * 33_333_333)
