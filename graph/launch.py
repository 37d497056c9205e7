"""A graph written in one line: capture uri=clip.mp4 ! detect ! landmarks ! smooth ! render ! record path=out.mp4

`!` connects an element to the next. An element is a node: its short name or module:Class, then settings, `name=`,
`restart=`, and optionally the source of an input (`frame=cam.frame`) and options of its edge (`frame.policy=latest`).
Every other input reads the nearest earlier output of its type. `cam. ! ...` branches off after the node `cam`; an
element without `!` before it starts a new branch.
"""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

from graph.config import is_a
from graph.document import Document, parse_value
from graph.errors import ConfigError
from graph.node import Input, Node, Output
from graph.schema import EdgeModel
from graph.settings import settings_of, type_name
from graph.spec import NodeSpec, build, choices, did_you_mean, load_class

Types = Mapping[str, type[Node]]
"""Node classes by module:Class."""


class Port(NamedTuple):
    """An output that later inputs may read."""

    node: str
    port: str
    output: Output

    def __str__(self) -> str:
        return f"{self.node}.{self.port}"


@dataclass
class Element:
    """One node of the line, not connected yet."""

    text: str  # as written in the line
    type_: str
    class_: type[Node]
    short: str
    name: str = ""
    restart: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    edges: dict[str, dict[str, Any]] = field(default_factory=dict)  # by input

    def fail(self, why: str) -> ConfigError:
        """Return an error that names the element."""
        return ConfigError(f"launch: {self.text}: {why}")


def document_of(words: Sequence[str], types: Types, name: str) -> Document:
    """Return the graph of a line as a document whose errors name the element.

    `words` is one line, or the words into which a shell has split it. Raises ConfigError that names the element.
    """
    data = _graph(words, types, name)
    document = Document(Path("launch"), "")
    document.override((), data, "launch")
    for node, body in data["nodes"].items():
        document.override(("nodes", node), body, f"launch: {node}")
        for part in ("inputs", "settings"):
            for key, value in body.get(part, {}).items():
                document.override(("nodes", node, part, key), value, f"launch: {node} {key}={value}")
    return document


def _graph(words: Sequence[str], types: Types, name: str) -> dict[str, Any]:
    """Return the graph of a line, as the data of a graph file."""
    chains = _chains(_split(words), _short_names(types))
    elements = [[_element(part, types) if not _is_reference(part) else part for part in parts] for parts in chains]
    flat = [element for element in chain.from_iterable(elements) if isinstance(element, Element)]
    _name(flat)
    _link(elements, types)
    edges = {f"{e.inputs[port]} -> {e.name}.{port}": edge for e in flat for port, edge in e.edges.items()}
    return {"name": name, "nodes": {e.name: _as_node(e) for e in flat}, **({"edges": edges} if edges else {})}


def _split(words: Sequence[str]) -> list[str]:
    if len(words) != 1:
        return list(words)
    try:
        return shlex.split(words[0])
    except ValueError as exc:
        raise ConfigError(f"launch: {words[0]}: {str(exc).lower()}") from exc


def _chains(words: Sequence[str], short: Mapping[str, str]) -> list[list[list[str]]]:
    """Return the words of each element, in chains connected by `!`; `short` has the names of elements."""
    chains: list[list[list[str]]] = []
    before = "begin"
    for word in words:
        if word != "!" and "!" in word and word.rpartition("!")[2] in ("", *short):
            raise ConfigError(f"launch: {word}: '!' needs spaces around it")
        if word == "!":
            if before in ("begin", "!"):
                raise ConfigError("launch: no element before '!'; expected for example: capture uri=0 ! window")
        elif before == "!":
            chains[-1].append([word])
        elif before == "word" and "=" in word:
            chains[-1][-1].append(word)
        else:
            chains.append([[word]])
        before = "!" if word == "!" else "word"
    if before != "word":
        raise ConfigError("launch: no element at the end of the line; expected for example: capture uri=0 ! window")
    return chains


def _is_reference(words: Sequence[str]) -> bool:
    """Say whether this is a reference such as `cam.` or `cam.frame`, not an element."""
    return len(words) == 1 and re.fullmatch(r"[A-Za-z_][\w-]*\.\w*", words[0]) is not None


def _element(words: Sequence[str], types: Types) -> Element:
    """Return an element with its settings and inputs. Raises ConfigError for those that its class does not have."""
    first, short = words[0], _short_names(types)
    type_ = first if ":" in first else short.get(first.replace("-", "_"), "")
    if not type_:
        raise ConfigError(f"launch: no element {first!r}; {_suggestion(first, short, types)}")
    class_ = types.get(type_) or load_class(type_)
    name = _snake(class_.__name__) if ":" in first or first == class_.__name__ else first
    element = Element(shlex.join(words), type_, class_, name)
    for word in words[1:]:
        key, _, text = word.partition("=")
        _set(element, key, text)
    return element


def _short_names(types: Types) -> dict[str, str]:
    """Return the types by the names that elements may have: detect, face_detector, FaceDetector.

    The name of a module stands for its only node, or for the node of the same name (record: Record).
    """
    found: dict[str, str] = {}
    modules = [type_.partition(":")[0] for type_ in types]
    for type_ in types:
        module, _, class_ = type_.partition(":")
        snake, stem = _snake(class_), module.rpartition(".")[2]
        names = [snake, class_, *([stem] if modules.count(module) == 1 or stem == snake else [])]
        for name in names:
            found.setdefault(name, type_)
    return found


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _suggestion(word: str, short: Mapping[str, str], types: Types) -> str:
    if near := did_you_mean(word, short):
        return near
    names = ", ".join(sorted(_shortest(short, type_) for type_ in types))
    return f"elements: {names}, or module:Class; settings are written name=value"


def _shortest(short: Mapping[str, str], type_: str) -> str:
    return min((name for name, found in short.items() if found == type_ and name.islower()), key=len)


def _set(element: Element, key: str, text: str) -> None:
    """Apply one `key=value`."""
    settings, inputs = settings_of(element.class_), element.class_.inputs
    port, dot, option = key.partition(".")
    if key in ("name", "restart"):
        setattr(element, key, text)
    elif key in settings:
        element.settings[key] = parse_value(text)
    elif key in inputs:
        element.inputs[key] = text
    elif dot and port in inputs:
        if option not in EdgeModel.model_fields:
            raise element.fail(f"{key}: unknown option of an edge; {choices(option, EdgeModel.model_fields, 'valid')}")
        element.edges.setdefault(port, {})[option] = parse_value(text)
    else:
        valid = [*settings, *inputs, "name", "restart"]
        raise element.fail(f"no setting or input {key!r}; {choices(key, valid, 'valid')}")


def _name(elements: Sequence[Element]) -> None:
    """Give every element a unique name: its `name=`, or else its short name, numbered from 2."""
    taken: set[str] = set()
    for element in elements:
        if element.name in taken:
            raise element.fail(f"another element already has the name {element.name!r}")
        taken |= {element.name} - {""}
    for element in elements:
        if not element.name:
            names = chain([element.short], (f"{element.short}{number}" for number in count(2)))
            element.name = next(name for name in names if name not in taken)
        taken.add(element.name)


def _link(chains: Sequence[Sequence[Any]], types: Types) -> None:
    """Fill in what the inputs of the elements read."""
    after: dict[str, list[Port]] = {}  # by node, the outputs that the next element may read, the nearest last
    for parts in chains:
        before: list[Port] = []
        for place, part in enumerate(parts):
            if not isinstance(part, Element):
                before = _branch(part[0], after, first=place == 0)
                continue
            for name, port in part.class_.inputs.items():
                if name not in part.inputs:
                    _link_input(part, name, port, before, types)
            before = [*before, *(Port(part.name, name, output) for name, output in _outputs(part).items())]
            after[part.name] = before


def _branch(word: str, after: Mapping[str, list[Port]], first: bool) -> list[Port]:
    name, _, output = word.partition(".")
    if not first:
        raise ConfigError(f"launch: {word} can only start a branch; to read it elsewhere, write INPUT={name}.OUTPUT")
    if name not in after:
        near = choices(name, after, "earlier elements")
        raise ConfigError(f"launch: {word}: no earlier element {name!r}; {near}; settings are written name=value")
    own = {port.port: port for port in after[name] if port.node == name}
    if output and output not in own:
        raise ConfigError(f"launch: {word}: {name} has no output {output!r}; {choices(output, own, 'outputs')}")
    return [*after[name], *([own[output]] if output else [])]


def _link_input(element: Element, name: str, port: Input, before: Sequence[Port], types: Types) -> None:
    fitting = [found for found in before if is_a(found.output.type, port.type)]
    wants = port.type.__name__
    if not fitting:
        if not port.optional:
            elements = ", ".join(_producers(types, port)) or "none"
            raise element.fail(
                f"input {name} needs {wants}, but no earlier element outputs it; those that do: {elements}"
            )
        if name in element.edges:
            raise element.fail(f"input {name} is not connected: no earlier element outputs {wants}")
        return
    same_type = [other for other, input_ in element.class_.inputs.items() if input_.type is port.type]
    open_ = [other for other in same_type if other not in element.inputs or other == name]
    if len(open_) > 1 and len(set(fitting)) > 1:
        raise element.fail(
            f"{' and '.join(open_)} both read {wants}; choose their outputs, as in {open_[0]}={fitting[-1]}: "
            f"{', '.join(map(str, dict.fromkeys(fitting)))}"
        )
    element.inputs[name] = str(_nearest(element, name, fitting))


def _nearest(element: Element, name: str, fitting: Sequence[Port]) -> Port:
    """Return the last output; if its node has several, the one with the name of the input."""
    last = fitting[-1]
    rivals = list(dict.fromkeys(port for port in fitting if port.node == last.node))
    if len(rivals) == 1 or fitting.count(last) > 1:  # named by the branch
        return last
    same = [port for port in rivals if port.port == name]
    if not same:
        raise element.fail(f"{name} could read {' or '.join(map(str, rivals))}; choose one: {name}={last}")
    return same[0]


def _producers(types: Types, port: Input) -> Iterable[str]:
    short = _short_names(types)
    for type_, class_ in types.items():
        if any(is_a(output.type, port.type) for output in class_.outputs.values()):
            yield _shortest(short, type_)


def _outputs(element: Element) -> Mapping[str, Output]:
    """Return the outputs of an element, which may depend on its settings."""
    if element.class_.outputs or element.class_.inputs:
        return element.class_.outputs
    known = settings_of(element.class_)
    for name, setting in known.items():
        if setting.required and name not in element.settings:
            raise element.fail(f"setting {name!r} ({type_name(setting.type)}) is missing")
    try:
        values = {name: known[name].check(value) for name, value in element.settings.items()}
        return build(NodeSpec(element.name, element.type_, values)).outputs
    except ConfigError as exc:
        raise element.fail(str(exc)) from exc


def _as_node(element: Element) -> dict[str, Any]:
    node = {"type": element.type_, "inputs": element.inputs, "settings": element.settings, "restart": element.restart}
    return {key: value for key, value in node.items() if value}
