"""Run one node in this process, without sockets, on given messages.

faces = run_node(Smooth(slack=2.0), frame=frames, raw=detections)["faces"]
"""

from collections.abc import Mapping, Sequence
from typing import Any

from graph.errors import EndOfStream
from graph.messages import Header, Mark, Message
from graph.node import Node, as_outputs


def run_node(node: Node, limit: int | None = None, **inputs: Sequence[Message | None]) -> dict[str, list[Message]]:
    """Open `node`, feed it the given messages in step, close it, and return what it said by output.

    `inputs` holds one list per input port, all of one length; messages without a `seq` get their place in the
    list, with 30 frames per second as `pts`. None stands for "nothing to say". `limit` ends a source after so
    many yields. Messages come out with the header of their inputs, as in a running graph.
    """
    if set(inputs) != set(node.inputs):
        raise ValueError(f"{type(node).__name__} has inputs {list(node.inputs)}, given {list(inputs)}")
    said: dict[str, list[Message]] = {name: [] for name in node.outputs}
    node.open()
    try:
        steps = _drive(node, inputs) if inputs else _drain(node, limit)
        for header, result in steps:
            for name, message in as_outputs(type(node), result).items():
                if message is not None:
                    said[name].append(message.with_header(_stamp(node, message.header, header)))
    except EndOfStream:
        pass
    finally:
        node.close()
    return said


def _drive(node: Node, inputs: Mapping[str, Sequence[Message | None]]) -> Any:
    for index, row in enumerate(zip(*inputs.values(), strict=True)):
        given = {name: _numbered(message, index) for name, message in zip(inputs, row, strict=True)}
        missing = [name for name, message in given.items() if message is None and not node.inputs[name].optional]
        header = next((message.header for message in given.values() if message), Mark(header=_header(index)).header)
        yield header, None if missing else node.process(**given)


def _drain(node: Node, limit: int | None) -> Any:
    for index, result in enumerate(node.process()):
        if index == limit:
            return
        yield _header(index), result


def _numbered(message: Message | None, index: int) -> Message | None:
    if message is None:
        return None
    return message if message.seq >= 0 else message.with_header(_header(index))


def _stamp(node: Node, own: Header, given: Header) -> Header:
    return given if node.inputs else own.numbered("test", given.seq, given.t_capture_ns)


def _header(index: int) -> Header:
    return Header(stream="test", seq=index, pts=index / 30, t_capture_ns=index * 33_333_333)
