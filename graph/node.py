"""What a node is: ports and settings as class attributes, three moments `open`, `process`, `close`.

An unannotated attribute is a port, an annotated one a setting:

    class Smooth(Node):
        frame = Input(Frame)
        raw = Input(Faces)
        faces = Output(Faces)

        slack: float = setting(1.5, minimum=0.0, changeable=True)  # pixels at a 100-px face

        def process(self, frame: Frame, raw: Faces) -> Faces: ...
"""

import inspect
import time
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, dataclass_transform

import numpy as np
from numpy.typing import DTypeLike, NDArray

from graph.finding import Finding
from graph.messages import Mark, Message

PAUSE_S = 0.5  # how often a waiting source lets the graph check for a request to stop

_SCALARS = (str, int, float, bool, type(None))


class Input:
    """An input port: `process` gets an argument of the same name.

    `optional`: process is also called when there is nothing for this frame, with None in this place.
    """

    def __init__(self, type_: type[Message], *, optional: bool = False) -> None:
        self.type = _message_type(type_)
        self.optional = optional


class Output:
    """An output port."""

    def __init__(self, type_: type[Message]) -> None:
        self.type = _message_type(type_)


def _message_type(type_: Any) -> type[Message]:
    if isinstance(type_, type) and issubclass(type_, Message):
        return type_
    raise TypeError(f"a port takes a type of message, as in Input(Frame), not {type_!r}")


def setting(
    default: Any,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    changeable: bool = False,
    secret: bool = False,
) -> Any:
    """Declare a setting with its range (inclusive).

    `changeable` ones may be set while the graph runs. The value of a `secret` one is never shown; in others only
    passwords within addresses are hidden.
    """
    metadata = {"minimum": minimum, "maximum": maximum, "changeable": changeable, "secret": secret}
    return field(default=default, metadata=metadata)


@dataclass_transform(kw_only_default=True)
class Node:
    """Base class of all nodes.

    `process` takes one argument per input and returns a message, a dict of messages by output name, or None
    ("nothing to say"). A node without inputs is a source: its `process` is a generator of the same, and it ends
    by raising EndOfStream (or by returning). Any other node raises EndOfStream to ask the whole graph to finish.
    Arrays that come in are read-only; copy before drawing.
    """

    inputs: ClassVar[dict[str, Input]] = {}
    outputs: ClassVar[dict[str, Output]] = {}  # of an instance: others where they depend on its settings (graph.replay)

    process: Callable[..., Any]  # declared as a value, as torch.nn.Module does for forward (mypy issue 8795)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        annotations = inspect.get_annotations(cls)
        for name, value in vars(cls).items():
            if isinstance(value, Input | Output) and name in annotations:
                raise TypeError(f"{cls.__name__}.{name}: write a port without annotation: {name} = Input(...)")
            if isinstance(value, Field) and name not in annotations:
                raise TypeError(f"{cls.__name__}.{name}: write a setting with its type: {name}: float = setting(...)")
        inherited = {name: value for base in reversed(cls.__mro__) for name, value in vars(base).items()}
        ports = {name: value for name, value in inherited.items() if isinstance(value, Input | Output)}
        cls.inputs = {name: port for name, port in ports.items() if isinstance(port, Input)}
        cls.outputs = {name: port for name, port in ports.items() if isinstance(port, Output)}
        dataclass(kw_only=True, eq=False)(cls)
        _check_process(cls)

    def open(self) -> None:
        """Load models, open devices and files. Runs in the node's own process, before anything plays."""

    def close(self) -> None:
        """Release what open acquired. Always called if open was."""

    def idle(self) -> None:
        """Do what must go on while no input arrives (a window's events). Called about 20 times a second then."""

    def prepare(self, *args: Any, **given: Any) -> None:
        """Start on the next frame while some of its inputs are still on their way, so that `process` takes less time.

        Takes the same arguments as `process`: None for inputs that have not arrived, and for those that are held. The
        graph may or may not call it before `process`, and may drop the frame afterwards, so it must only save time:
        what `process` returns must not depend on it.
        """

    @classmethod
    def check(cls, node: Self | None) -> Iterable[Finding]:
        """Try out briefly what the node needs of this machine, and yield what was found, for `run_graph.py doctor`.

        `node` has the settings of a graph and is not opened; what it lacks is a problem. With None no graph asks for
        the node, and a missing device is a note. Runs in a process of its own, which may crash or hang.
        """
        return ()

    def live(self) -> bool:
        """Return whether this source delivers in real time, as a camera does, and must never be held up."""
        return False

    def reads(self) -> Iterable[Path]:
        """Return the files or folders that its settings make it read: no node of the graph may write them."""
        return ()

    def writes(self) -> Iterable[Path]:
        """Return the files or folders that its settings make it write: no other node may use them."""
        return ()

    def changed(self, name: str) -> None:
        """Apply the new value of the changeable setting `name`. Called between two calls of process.

        Raise ValueError with the reason to refuse it; the old value is then restored.
        """

    @property
    def graph_name(self) -> str:
        """The name of the running graph that this node is part of, as `graph.attach` takes it; empty in tests."""
        return str(self.__dict__.get("_graph_name", ""))  # set by the worker

    @property
    def restarted(self) -> bool:
        """Whether this process replaces one that has processed frames in this run, whose files must be kept."""
        return bool(self.__dict__.get("_restarted"))  # set by the worker

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike = np.uint8) -> NDArray[Any]:
        """Return a new array for an output, uninitialised and writable.

        In a running graph it lies in shared memory: fill it, put it into a message, and it is published without a
        copy. From then on it is read-only.
        """
        allocate: Callable[..., NDArray[Any]] = self.__dict__.get("_allocate", np.empty)  # set by the worker
        return allocate(shape, np.dtype(dtype))


def waiting(seconds: float) -> Iterator[None]:
    """Sleep in a source's process(): `yield from waiting(10.0)`. Returns at once for 0 or less.

    Yields None, "no frame yet", every PAUSE_S, so that the graph can be stopped in the meantime.
    """
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > PAUSE_S:
        time.sleep(PAUSE_S)
        yield None
    time.sleep(max(left, 0.0))


def _check_process(cls: type[Node]) -> None:
    process = getattr(cls, "process", None)
    if process is None:
        raise TypeError(f"{cls.__name__} has no process()")
    arguments = list(inspect.signature(process).parameters)[1:]
    if arguments != list(cls.inputs):
        raise TypeError(f"{cls.__name__}.process() takes {arguments}, but its inputs are {list(cls.inputs)}")
    if not cls.inputs and not inspect.isgeneratorfunction(process):
        raise TypeError(f"{cls.__name__} has no inputs, so it is a source: its process() must yield messages")
    prepared = list(inspect.signature(cls.prepare).parameters)[1:]
    if cls.prepare is not Node.prepare and prepared != list(cls.inputs):
        raise TypeError(f"{cls.__name__}.prepare() takes {prepared}, but its inputs are {list(cls.inputs)}")
    if cls.inputs and (inspect.isgeneratorfunction(process) or inspect.iscoroutinefunction(process)):
        raise TypeError(f"{cls.__name__} has inputs, so its process() must return messages: no yield, no async")


def is_plain(annotation: Any) -> bool:
    """Return whether msgpack keeps values of this type as they are, apart from turning tuples into lists."""
    parts = [part for part in typing.get_args(annotation) if part is not ...]
    if typing.get_origin(annotation) is Literal:
        return all(type(part) in _SCALARS for part in parts)
    if typing.get_origin(annotation) is tuple:
        return all(is_plain(part) and typing.get_origin(part) is not tuple for part in parts)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return all(map(is_plain, parts))
    return annotation is Any or annotation in _SCALARS


def typed(node: type[Node], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return checked settings, sent as msgpack, in the types that the class declares: a path, an enum, a set."""
    hints = typing.get_type_hints(node)
    plain = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if is_plain(hints.get(name, Any))
    }
    if len(plain) == len(values):
        return plain
    from graph.settings import settings_of  # takes pydantic, which is slow to import and which few nodes need

    known = settings_of(node)
    return {name: plain[name] if name in plain else known[name].typed(value) for name, value in values.items()}


def change(node: Node, name: str, value: Any) -> str:
    """Give a setting a new, checked value; return the reason if the node refuses it and keeps the old one."""
    before = getattr(node, name)
    try:
        setattr(node, name, typed(type(node), {name: value})[name])
        node.changed(name)
    except ValueError as exc:
        setattr(node, name, before)
        return str(exc) or "refused"
    return ""


def as_outputs(node: Node, result: Any) -> dict[str, Message | None]:
    """Turn what `process` returned into one message or None per output.

    Raises TypeError for anything else, naming what was found and what the node declares.
    """
    found: dict[str, Any] = {}
    silence = () if node.inputs else (Mark,)  # a recording knows of which frame nothing was said
    class_ = type(node).__name__
    if isinstance(result, Message) and len(node.outputs) == 1:
        ((name, port),) = node.outputs.items()
        if isinstance(result, port.type):
            return {name: result}
        found = {name: result}
    elif isinstance(result, dict):
        found = result
    elif result is not None:
        raise TypeError(f"{class_}.process() gave {type(result).__name__}, expected {_expected(node)}")
    for name, message in found.items():
        if name not in node.outputs:
            raise TypeError(f"{class_}.process() gave output {name!r}; outputs: {list(node.outputs)}")
        if message is not None and not isinstance(message, (node.outputs[name].type, *silence)):
            expected = node.outputs[name].type.__name__
            raise TypeError(f"{class_}.{name} is a {type(message).__name__}, expected {expected}")
    return {name: found.get(name) for name in node.outputs}


def _expected(node: Node) -> str:
    types = {name: port.type.__name__ for name, port in node.outputs.items()}
    if len(types) == 1:
        return f"{types.popitem()[1]} or None"
    listed = ", ".join(f"{name!r}: {type_}" for name, type_ in types.items())
    return f"a dict of {{{listed}}} or None" if types else "None: it has no outputs"
