"""A graph out of one line: capture uri=clip.mp4 ! detect ! landmarks ! smooth ! render ! record path=out.mp4

`!` leads from one element to the next. An element is a node: its short name or module:Class, then settings, `name=`,
`restart=`, and where it matters what an input reads (`frame=cam.frame`) and how (`frame.policy=latest`). Every other
input takes the nearest output before it that carries its type. `cam. ! ...` branches off behind the node `cam`; an
element that follows another without `!` begins on its own.
"""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from graph.config import is_a
from graph.document import parse_value
from graph.errors import ConfigError
from graph.node import Input, Node, Output
from graph.schema import EdgeModel, choices
from graph.settings import settings_of
from graph.spec import NodeSpec, build, did_you_mean, load_class

Types = Mapping[str, type[Node]]
"""Node classes by module:Class."""


class Port(NamedTuple):
    """An output that a later input may take."""

    node: str
    port: str
    output: Output

    def __str__(self) -> str:
        return f"{self.node}.{self.port}"


@dataclass
class Element:
    """One node of the line, not linked yet."""

    text: str  # as it stands in the line
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


def short_names(types: Types) -> dict[str, str]:
    """Return the types by the names that elements may have: detect, face_detector, FaceDetector.

    A module's own name is that of its only node, or of the one that is called like it (record: Record).
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


def graph_of(words: Sequence[str], types: Types, name: str) -> dict[str, Any]:
    """Return the graph that a line says, as a graph file would hold it.

    `words` is one line, or what a shell has made of one. Raises ConfigError that names the element.
    """
    chains = _chains(_split(words), short_names(types))
    elements = [[_element(part, types) if not _is_reference(part) else part for part in chain] for chain in chains]
    flat = [element for chain in elements for element in chain if isinstance(element, Element)]
    _name(flat)
    _link(elements, types)
    edges = {f"{e.inputs[port]} -> {e.name}.{port}": said for e in flat for port, said in e.edges.items()}
    return {"name": name, "nodes": {e.name: _as_node(e) for e in flat}, **({"edges": edges} if edges else {})}


def _split(words: Sequence[str]) -> list[str]:
    if len(words) != 1:
        return list(words)
    try:
        return shlex.split(words[0])
    except ValueError as exc:
        raise ConfigError(f"launch: {words[0]}: {str(exc).lower()}") from exc


def _chains(words: Sequence[str], short: Mapping[str, str]) -> list[list[list[str]]]:
    """Return the words of each element, in lists of those that `!` connects; `short` are the names of elements."""
    chains: list[list[list[str]]] = []
    before = "begin"
    for word in words:
        if word != "!" and "!" in word and word.rpartition("!")[2] in ("", *short):
            raise ConfigError(f"launch: {word}: '!' stands alone, with spaces around it")
        if word == "!":
            if before in ("begin", "!"):
                raise ConfigError("launch: nothing stands before a '!'; expected like: capture uri=0 ! window")
        elif before == "!":
            chains[-1].append([word])
        elif before == "word" and "=" in word:
            chains[-1][-1].append(word)
        else:
            chains.append([[word]])
        before = "!" if word == "!" else "word"
    if before != "word":
        raise ConfigError("launch: nothing stands after the last '!'; expected like: capture uri=0 ! window")
    return chains


def _is_reference(words: Sequence[str]) -> bool:
    """Say whether this is `cam.` or `cam.frame`, and no element."""
    return len(words) == 1 and re.fullmatch(r"[A-Za-z_][\w-]*\.\w*", words[0]) is not None


def _element(words: Sequence[str], types: Types) -> Element:
    """Return an element with what was said of it. Raises ConfigError for what its class does not have."""
    first, short = words[0], short_names(types)
    type_ = first if ":" in first else short.get(first.replace("-", "_"), "")
    if not type_:
        raise ConfigError(f"launch: no element {first!r}; {_meant(first, short, types)}")
    class_ = types.get(type_) or load_class(type_)
    name = _snake(class_.__name__) if ":" in first or first == class_.__name__ else first
    element = Element(shlex.join(words), type_, class_, name)
    for word in words[1:]:
        key, _, text = word.partition("=")
        _say(element, key, text)
    return element


def _meant(word: str, short: Mapping[str, str], types: Types) -> str:
    if near := did_you_mean(word, short):
        return near
    names = ", ".join(sorted(_shortest(short, type_) for type_ in types))
    return f"elements: {names}, or module:Class; settings are written name=value"


def _shortest(short: Mapping[str, str], type_: str) -> str:
    return min((name for name, found in short.items() if found == type_ and name.islower()), key=len)


def _say(element: Element, key: str, text: str) -> None:
    """Put one `key=value` where it belongs."""
    settings, inputs = settings_of(element.class_), element.class_.inputs
    port, dot, of_edge = key.partition(".")
    if key in ("name", "restart"):
        setattr(element, key, text)
    elif key in settings:
        element.settings[key] = parse_value(text)
    elif key in inputs:
        element.inputs[key] = text
    elif dot and port in inputs:
        if of_edge not in EdgeModel.model_fields:
            raise element.fail(f"{key} is nothing of an edge; {choices(of_edge, EdgeModel.model_fields, 'valid')}")
        element.edges.setdefault(port, {})[of_edge] = parse_value(text)
    else:
        there = [*settings, *inputs, "name", "restart"]
        raise element.fail(f"no setting or input {key!r}; {choices(key, there, 'there are')}")


def _name(elements: Sequence[Element]) -> None:
    """Give every element a name of its own: the one it asks for, or its short one, numbered from 2."""
    taken: set[str] = set()
    for element in elements:
        if element.name in taken:
            raise element.fail(f"another element is named {element.name!r} already")
        taken |= {element.name} - {""}
    for element in elements:
        number = 1
        while not element.name:
            name = element.short if number == 1 else f"{element.short}{number}"
            element.name = "" if name in taken else name
            number += 1
        taken.add(element.name)


def _link(chains: Sequence[Sequence[Any]], types: Types) -> None:
    """Fill in what the elements' inputs read."""
    behind: dict[str, list[Port]] = {}  # what an element after a node may read, the nearest last
    for chain in chains:
        before: list[Port] = []
        for place, part in enumerate(chain):
            if not isinstance(part, Element):
                before = _branch(part[0], behind, first=place == 0)
                continue
            for name, port in part.class_.inputs.items():
                if name not in part.inputs:
                    _link_input(part, name, port, before, types)
            before = [*before, *(Port(part.name, name, output) for name, output in _outputs(part).items())]
            behind[part.name] = before


def _branch(word: str, behind: Mapping[str, list[Port]], first: bool) -> list[Port]:
    name, _, output = word.partition(".")
    if not first:
        raise ConfigError(f"launch: {word} can only begin a branch; to read it further on, write INPUT={name}.OUTPUT")
    if name not in behind:
        there = choices(name, behind, "named")
        raise ConfigError(
            f"launch: {word}: no element before it is named {name!r}; {there}; a setting is written name=value"
        )
    own = {port.port: port for port in behind[name] if port.node == name}
    if output and output not in own:
        raise ConfigError(f"launch: {word}: {name} has no output {output!r}; {choices(output, own, 'outputs')}")
    return [*behind[name], *([own[output]] if output else [])]


def _link_input(element: Element, name: str, port: Input, before: Sequence[Port], types: Types) -> None:
    fitting = [found for found in before if is_a(found.output.type, port.type)]
    wants = port.type.__name__
    if not fitting:
        if not port.optional:
            there = ", ".join(_givers(types, port)) or "none"
            raise element.fail(f"needs {wants} ({name}), which nothing before it gives; {wants} comes from: {there}")
        if name in element.edges:
            raise element.fail(f"{name} reads nothing: {wants} comes from nothing before it")
        return
    same_type = [other for other, input_ in element.class_.inputs.items() if input_.type is port.type]
    open_ = [other for other in same_type if other not in element.inputs or other == name]
    if len(open_) > 1 and len(set(fitting)) > 1:
        raise element.fail(
            f"{' and '.join(open_)} both take {wants}; say what they read, like {open_[0]}={fitting[-1]}: "
            f"{', '.join(map(str, dict.fromkeys(fitting)))}"
        )
    element.inputs[name] = str(_nearest(element, name, fitting))


def _nearest(element: Element, name: str, fitting: Sequence[Port]) -> Port:
    """Return the last output; of several of that node the one that is called like the input."""
    last = fitting[-1]
    rivals = list(dict.fromkeys(port for port in fitting if port.node == last.node))
    if len(rivals) == 1 or fitting.count(last) > 1:  # named by the branch
        return last
    same = [port for port in rivals if port.port == name]
    if not same:
        raise element.fail(f"{name} could read {' or '.join(map(str, rivals))}; say which: {name}={last}")
    return same[0]


def _givers(types: Types, port: Input) -> Iterable[str]:
    short = short_names(types)
    for type_, class_ in types.items():
        if any(is_a(output.type, port.type) for output in class_.outputs.values()):
            yield _shortest(short, type_)


def _outputs(element: Element) -> Mapping[str, Output]:
    """Return the outputs of an element; those of some depend on their settings."""
    if element.class_.outputs or element.class_.inputs:
        return element.class_.outputs
    known = settings_of(element.class_)
    try:
        values = {name: known[name].check(value) for name, value in element.settings.items()}
        return build(NodeSpec(element.name, element.type_, values)).outputs
    except (ConfigError, TypeError) as exc:
        raise element.fail(str(exc)) from exc


def _as_node(element: Element) -> dict[str, Any]:
    said = {"type": element.type_, "inputs": element.inputs, "settings": element.settings, "restart": element.restart}
    return {key: value for key, value in said.items() if value}
