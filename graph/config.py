"""Read a graph from a YAML file and check all of it before anything starts.

    name: webcam
    nodes:
      camera: {type: nodes.capture:Capture, settings: {uri: 0}}
      window: {type: nodes.window:Window, inputs: {frame: camera.frame}}
    edges:                                    # only what differs from the default
      camera.frame -> window.frame: {policy: drop_oldest, queue: 2}

All errors of a file are reported together, each with file, line, place, what was found and what would be valid.
"""

import logging
import re
from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

from graph.document import Document, parse_value
from graph.errors import ConfigError
from graph.messages import Message
from graph.network import is_remote, listening, parse
from graph.node import Node, Output
from graph.receiver import type_names
from graph.rundir import CONTROL, LOCK
from graph.schema import NAME, NAME_LENGTH, EdgeModel, GraphModel, read_shape
from graph.settings import Setting, settings_of, type_name
from graph.spec import EdgeSpec, GraphSpec, NodeSpec, Policy, build, choices, load_class

logger = logging.getLogger(__name__)

QUEUE = 4
"""Depth of a `block` edge: enough to absorb the jitter of two processes; more would only add latency."""

JOIN_DEPTH = 16
"""Depth of a live edge into a node that joins several inputs: the frame waits there while slower nodes (detector,
landmarks) work on it, half a second at 30 fps. With `latest` it would be dropped before its partner arrives."""

_SOURCE = re.compile(rf"(?:(?P<graph>{NAME})/)?(?P<node>{NAME})\.(?P<port>\w+)")


def load(path: str | Path, overrides: Sequence[str] = ()) -> GraphSpec:
    """Return the graph in the file, with overrides "node.setting=value" applied (the value is YAML).

    Raises ConfigError with one line per error. Logs a warning for each node whose outputs no node reads, unless the
    graph has `listen`.
    """
    return read(Document(Path(path)), overrides)


def read(document: Document, overrides: Sequence[str] = (), warn: bool = True) -> GraphSpec:
    """Return the graph in a document, as `load` does; `warn` False: do not warn about unread outputs."""
    for override in overrides:
        _override(document, override)
    model, broken = read_shape(document)
    check = _Check(document, model, broken)
    check.nodes()
    check.inputs()
    check.cycles()
    check.options()
    check.joins()
    check.files()
    _check_listening(document, model)
    _check_address(document, model)
    document.raise_problems()
    if warn and not model.listen:
        check.warn_of_unread()
    return GraphSpec(
        listen=model.listen,
        keys=model.keys,
        name=model.name or _stem(document.path),
        attach=model.attach,
        nodes=check.specs,
        edges=tuple(check.edges.spec(source, target, check.live()) for source, target in check.edges.pairs),
        path=str(document.path),
    )


def _check_listening(document: Document, model: GraphModel) -> None:
    if model.listen is None:
        if model.keys is not None:
            document.add(("keys",), "has no effect without `listen: tcp://...`")
        return
    try:
        listening(model.listen, model.keys)
    except ConfigError as exc:
        document.add(("listen",), str(exc))


def _check_address(document: Document, model: GraphModel) -> None:
    if model.attach is not None and is_remote(model.attach):
        try:
            parse(model.attach)
        except ConfigError as exc:
            document.add(("attach",), str(exc))


def _stem(path: Path) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]", "_", path.stem)[:NAME_LENGTH]
    return name if re.fullmatch(NAME, name) else f"_{name}"[:NAME_LENGTH]


def _override(document: Document, text: str) -> None:
    place = f"--set {text}"
    target, equals, value = text.partition("=")
    node, dot, setting = target.strip().partition(".")
    if not (equals and dot and setting):
        document.fail(place, "is not of the form node.setting=value")
        return
    nodes = document.data.get("nodes") if isinstance(document.data, dict) else None
    if not isinstance(nodes, dict):
        return  # an error, reported elsewhere
    if node not in nodes:
        document.fail(place, f"there is no node {node!r}; {choices(node, nodes, 'nodes')}")
        return
    try:
        document.override(("nodes", node, "settings", setting), parse_value(value), place)
    except ConfigError as exc:
        document.fail(place, str(exc))


class _Edges:
    """The edges of a graph, as the file declares them or by default."""

    def __init__(self, model: GraphModel) -> None:
        self.model = model
        self.pairs = [
            (source, f"{name}.{port}") for name, node in model.nodes.items() for port, source in node.inputs.items()
        ]
        self._declared = {_edge_name(key): edge for key, edge in model.edges.items()}

    def declared(self, source: str, target: str) -> EdgeModel:
        """Return one edge as the file declares it."""
        return self._declared.get(f"{source} -> {target}", EdgeModel())

    def joins(self, node: str) -> list[str]:
        """Return how the connected inputs of a node join."""
        return [self.declared(source, f"{node}.{port}").join for port, source in self.model.nodes[node].inputs.items()]

    def spec(self, source: str, target: str, live: set[str]) -> EdgeSpec:
        """Return one edge with its defaults; `live` names the sources that deliver in real time."""
        edge = self.declared(source, target)
        policy, queue = edge.policy, edge.queue
        if policy is None:
            policy, queue = self._default(source, target, live)
        return EdgeSpec(source, target, policy, 1 if policy == "latest" else queue or QUEUE, edge.join)

    def _default(self, source: str, target: str, live: set[str]) -> tuple[Policy, int | None]:
        edge = self.declared(source, target)
        if not self._is_live(source, live):
            return "block", edge.queue
        if edge.join == "seq" and self.joins(target.partition(".")[0]).count("seq") > 1:
            return "drop_oldest", edge.queue or JOIN_DEPTH
        return ("latest", 1) if edge.queue is None else ("drop_oldest", edge.queue)

    def _is_live(self, source: str, live: set[str]) -> bool:
        """Say whether an output depends on a live source or on another graph, which must never be blocked."""
        if self.model.live is not None:
            return self.model.live
        node = source.partition(".")[0]
        if "/" in node or node in live:
            return True
        return any(self._is_live(origin, live) for origin in self.model.nodes[node].inputs.values())


class _Check:
    """Checks a graph whose file has the right shape. Errors are recorded in the document."""

    def __init__(self, document: Document, model: GraphModel, broken: set[str]) -> None:
        self.document = document
        self.model = model
        self.broken = broken
        self.edges = _Edges(model)
        self.specs: dict[str, NodeSpec] = {}
        self.classes: dict[str, type[Node]] = {}
        self.outputs: dict[str, dict[str, Output]] = {}  # where known
        self.probes: dict[str, _Probe] = {}  # of the nodes with valid settings
        declared = document.data.get("nodes")
        self.declared = list(declared) if isinstance(declared, dict) else []

    def nodes(self) -> None:
        """Check types and settings."""
        if self.document.data.get("nodes") == {}:
            self.document.add(("nodes",), "is empty, expected at least one node")
        for name, node in self.model.nodes.items():
            if name in (CONTROL, LOCK):
                self.document.add(("nodes", name), f"is a reserved name; reserved: {CONTROL}, {LOCK}")
            try:
                class_ = load_class(node.type)
                known = settings_of(class_)
            except ConfigError as exc:
                self.document.add(("nodes", name, "type"), str(exc))
                continue
            self.classes[name] = class_
            if class_.outputs:
                self.outputs[name] = class_.outputs
            self._settings(name, known)

    def _settings(self, name: str, known: dict[str, Setting]) -> None:
        class_, node = self.classes[name], self.model.nodes[name]
        values = {}
        valid = name not in self.broken
        for key, value in node.settings.items():
            try:
                if key not in known:
                    raise ConfigError(f"{class_.__name__} has no such setting; {choices(key, known, 'settings')}")
                values[key] = known[key].check(value)
            except ConfigError as exc:
                valid = False
                self.document.add(("nodes", name, "settings", key), str(exc))
        for key, setting in known.items():
            if setting.required and key not in node.settings and name not in self.broken:
                valid = False
                self.document.add(("nodes", name), f"setting {key!r} ({type_name(setting.type)}) is missing")
        self.specs[name] = NodeSpec(name, node.type, values, node.restart)
        if not valid:
            return
        try:
            self.probes[name] = _probe(self.specs[name])
            self.outputs[name] = self.probes[name].outputs
        except ConfigError as exc:
            self.document.add(("nodes", name, "settings"), str(exc))

    def live(self) -> set[str]:
        """Return the sources that deliver in real time."""
        return {name for name, probe in self.probes.items() if probe.live}

    def inputs(self) -> None:
        """Check that every input is connected to an output that exists and has the right type."""
        if self.model.attach and self.model.attach == self.model.name:
            self.document.add(("attach",), "is this graph's own name")
        for name, class_ in self.classes.items():
            given = self.model.nodes[name].inputs
            for port, source in given.items():
                problem = self._input(class_, port, source)
                if problem:
                    self.document.add(("nodes", name, "inputs", port), problem)
            missing = [port for port in class_.inputs if port not in given and not class_.inputs[port].optional]
            for port in missing if name not in self.broken else []:
                outputs = self._outputs_of(class_.inputs[port].type, exclude=name)
                self.document.add(("nodes", name), f"input {port!r} is not connected; {outputs}")

    def _input(self, class_: type[Node], port: str, source: str) -> str | None:
        """Return what is wrong with one connection."""
        if port not in class_.inputs:
            return f"{class_.__name__} has no such input; {choices(port, class_.inputs, 'inputs')}"
        match = _SOURCE.fullmatch(source)
        takes = class_.inputs[port].type
        if match is None:
            return f"is {source!r}, expected node.output; {self._outputs_of(takes)}"
        if match["graph"]:
            return self._foreign(match["graph"])
        node, output = match["node"], match["port"]
        if node not in self.declared:
            return f"there is no node {node!r}; {choices(node, self.declared, 'nodes')}"
        if node not in self.outputs:
            return None  # an error, reported elsewhere
        outputs = self.outputs[node]
        if output not in outputs:
            return f"{node} has no output {output!r}; {choices(output, outputs, 'outputs')}"
        if not is_a(outputs[output].type, takes):
            carries = outputs[output].type.__name__
            return f"{source} carries {carries}, expected {takes.__name__}; {self._outputs_of(takes)}"
        return None

    def _foreign(self, graph: str) -> str | None:
        if self.model.attach is None:
            return f"reads from the graph {graph!r}, which needs `attach: {graph}` at the top of the file"
        if graph != self.model.attach and not is_remote(self.model.attach):  # that graph has a name of its own
            return f"reads from the graph {graph!r}, but the file attaches to {self.model.attach!r}"
        return None

    def _outputs_of(self, type_: type[Message], exclude: str = "") -> str:
        """List the outputs that carry messages of a type."""
        fitting = [
            f"{name}.{port}"
            for name, outputs in self.outputs.items()
            for port, output in outputs.items()
            if is_a(output.type, type_) and name != exclude
        ]
        return f"outputs that carry {type_.__name__}: {', '.join(fitting) or 'none'}"

    def cycles(self) -> None:
        """Check that the graph has no cycle."""
        before: dict[str, dict[str, str]] = {name: {} for name in self.model.nodes}
        for source, target in self.edges.pairs:
            match = _SOURCE.fullmatch(source)
            if match and not match["graph"]:
                name, _, port = target.partition(".")
                before[name][match["node"]] = port
        while True:
            try:
                return TopologicalSorter(before).prepare()
            except CycleError as exc:
                cycle: list[str] = exc.args[1]
                port = before[cycle[1]].pop(cycle[0])
                found = f"closes a cycle: {' -> '.join(cycle)}; frames flow one way"
                self.document.add(("nodes", cycle[1], "inputs", port), found)

    def options(self) -> None:
        """Check that the edges in `edges:` exist, once each."""
        existing = [f"{source} -> {target}" for source, target in self.edges.pairs]
        keys: dict[str, str] = {}
        for key, edge in self.model.edges.items():
            name = _edge_name(key)
            if keys.setdefault(name, key) != key:
                self.document.add(("edges", key), f"appears twice, first as {keys[name]!r}")
            target = name.partition(" -> ")[2].partition(".")[0]
            if name not in existing and target not in self.broken:
                self.document.add(("edges", key), f"there is no such edge; {choices(name, existing, 'edges')}")
            if edge.policy == "latest" and edge.queue not in (None, 1):
                self.document.add(("edges", key, "queue"), f"is {edge.queue}, but `latest` keeps 1; use drop_oldest")

    def joins(self) -> None:
        """Check that every node has an input to wait for."""
        for name, class_ in self.classes.items():
            joins = set(self.edges.joins(name))
            if joins == {"hold"} and name not in self.broken:
                self.document.add(("nodes", name, "inputs"), "all have `join: hold`; one must be `seq` to set the pace")
            if not joins and class_.inputs and all(port.optional for port in class_.inputs.values()):
                self.document.add(("nodes", name), f"no input is connected; inputs: {', '.join(class_.inputs)}")

    def files(self) -> None:
        """Check that no node writes a file that another one reads or writes."""
        read = {path: name for name, probe in self.probes.items() for path in probe.reads}
        written: dict[Path, str] = {}
        for name, probe in self.probes.items():
            for path in probe.writes:
                if path in read:
                    self.document.add(("nodes", name, "settings"), f"would overwrite {path}, which {read[path]} reads")
                if path in written:
                    self.document.add(("nodes", name, "settings"), f"writes {path}, as does {written[path]}")
                written[path] = name

    def warn_of_unread(self) -> None:
        """Warn about nodes with outputs that no node reads."""
        read = {source.partition(".")[0] for source, _ in self.edges.pairs}
        for name, outputs in self.outputs.items():
            if outputs and name not in read:
                where = self.document.place(("nodes", name))
                logger.warning("%s: no node reads the outputs of %s (%s)", where, name, ", ".join(outputs))


def _edge_name(key: str) -> str:
    source, _, target = key.partition("->")
    return f"{source.strip()} -> {target.strip()}"


def is_a(type_: type[Message], takes: type[Message]) -> bool:
    """Say whether an input takes messages of a type. Types compare by name: a recording may not have the class."""
    names = type_names(takes)
    return not names or names[0] in type_names(type_)


class _Probe(NamedTuple):
    """What a node with its settings, not opened yet, says about itself."""

    outputs: dict[str, Output]
    live: bool
    reads: list[Path]
    writes: list[Path]


def _probe(spec: NodeSpec) -> _Probe:
    try:
        node = build(spec)
        files = ([path.resolve() for path in paths] for paths in (node.reads(), node.writes()))
        return _Probe(node.outputs, node.live(), *files)
    except Exception as exc:  # code of the node: __post_init__, live(), reads() and writes()
        raise ConfigError(f"{spec.type.partition(':')[2]}: {exc}") from exc
