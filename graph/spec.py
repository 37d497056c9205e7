"""A checked graph as plain data, and how to build a node from its spec.

`graph.config` makes these from a YAML file. Every node's process imports this module, so it imports very little.
"""

import dataclasses
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, Literal

from graph.errors import ConfigError
from graph.node import Node, typed

Policy = Literal["block", "drop_oldest", "drop_newest", "latest"]
Join = Literal["seq", "hold"]
Restart = Literal["never", "on_failure", "always"]


@dataclass(frozen=True)
class EdgeSpec:
    """One edge, from an output to an input."""

    source: str  # "camera.frame", or "other_graph/smooth.faces" if attached to another graph
    target: str  # "landmarks.frame"
    policy: Policy = "block"
    queue: int = 4  # messages that may wait in the sender
    join: Join = "seq"

    @property
    def name(self) -> str:
        """The edge as graph files write it."""
        return f"{self.source} -> {self.target}"

    @property
    def source_graph(self) -> str | None:
        """The running graph that this edge reads from; None: its own."""
        return self.source.split("/")[0] if "/" in self.source else None

    @property
    def source_node(self) -> str:
        """The node that sends."""
        return self.source.split("/")[-1].split(".")[0]

    @property
    def source_port(self) -> str:
        """The output that sends."""
        return self.source.split(".")[-1]

    @property
    def target_node(self) -> str:
        """The node that receives."""
        return self.target.split(".")[0]

    @property
    def target_port(self) -> str:
        """The input that receives."""
        return self.target.split(".")[-1]


@dataclass(frozen=True)
class NodeSpec:
    """One node: its class, and the settings that differ from its defaults."""

    name: str
    type: str  # "nodes.smooth:Smooth"
    settings: Mapping[str, Any] = field(default_factory=dict)
    restart: Restart = "never"


@dataclass(frozen=True)
class GraphSpec:
    """A whole graph, or with `attach` extra nodes for the running graph of that name or address."""

    name: str
    attach: str | None
    nodes: Mapping[str, NodeSpec]
    edges: tuple[EdgeSpec, ...]
    path: str  # the file it was read from
    listen: str | None = None  # "tcp://127.0.0.1:5555": where other hosts and containers may attach
    keys: str | None = None  # folder of the keys for them, see graph.network

    def edges_into(self, node: str) -> tuple[EdgeSpec, ...]:
        """Return the edges that end at `node`."""
        return tuple(edge for edge in self.edges if edge.target_node == node)

    def edges_from(self, node: str) -> tuple[EdgeSpec, ...]:
        """Return the edges within this graph that start at `node`."""
        return tuple(edge for edge in self.edges if edge.source_graph is None and edge.source_node == node)

    def rejoining(self, node: str, own: bool = False) -> tuple[EdgeSpec, ...]:
        """Return the edges on which results of `node` join frames that bypassed it; `own`: also its direct ones."""
        below = {node}
        while more := {edge.target_node for name in below for edge in self.edges_from(name)} - below:
            below |= more
        found: list[EdgeSpec] = []
        for name in below - {node}:
            edges = [edge for edge in self.edges_into(name) if edge.join == "seq"]
            passed = [edge for edge in edges if edge.source_graph is None and edge.source_node in below]
            if len(passed) < len(edges):
                found += [edge for edge in passed if own or edge.source_node != node]
        return tuple(found)

    def flow_order(self) -> list[str]:
        """Return the nodes so that each comes after those it reads from."""
        order = TopologicalSorter({name: [] for name in self.nodes})
        for edge in self.edges:
            if edge.source_graph is None:
                order.add(edge.target_node, edge.source_node)
        return list(order.static_order())

    def sources(self) -> tuple[str, ...]:
        """Return the nodes without connected inputs."""
        return tuple(name for name in self.nodes if not self.edges_into(name))

    def sinks(self) -> tuple[str, ...]:
        """Return the nodes that no other node of this graph reads."""
        return tuple(name for name in self.nodes if not self.edges_from(name))


def build(spec: NodeSpec) -> Node:
    """Return the node with its settings, which were checked before; not opened yet."""
    class_ = load_class(spec.type)
    return class_(**typed(class_, spec.settings))


def load_class(type_: str) -> type[Node]:
    """Import "module:Class" and return the class.

    Raises ConfigError if there is no such module or class, or if the module cannot be imported.
    """
    module_name, _, class_name = type_.partition(":")
    if not module_name or not class_name.isidentifier() or not all(map(str.isidentifier, module_name.split("."))):
        raise ConfigError(f"type {type_!r} is not of the form module:Class, like nodes.smooth:Smooth")
    module = import_module(module_name)
    found = getattr(module, class_name, None)
    if not isinstance(found, type) or not issubclass(found, Node) or found is Node:
        there = sorted(node_classes(module))
        what = "is not a node" if found is not None else "does not exist"
        file = getattr(module, "__file__", None) or "built into Python"  # may hide the user's module
        listed = choices(class_name, there, "nodes there") if there else f"it has no nodes ({file})"
        raise ConfigError(f"{class_name} {what} in {module_name}; {listed}")
    return found


def import_module(name: str) -> Any:
    """Import a module. Raises ConfigError saying why that fails."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and f"{name}.".startswith(f"{exc.name}."):
            raise ConfigError(_no_module(name, exc.name)) from exc
        raise ConfigError(f"module {name} needs {exc.name}, which is not installed") from exc
    except Exception as exc:
        raise ConfigError(f"module {name} cannot be imported: {_where(exc)}{type(exc).__name__}: {exc}") from exc


def node_classes(module: Any) -> dict[str, type[Node]]:
    """Return the node classes that a module defines, by name."""
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, Node) and value.__module__ == module.__name__
    }


def choices(word: str, words: Iterable[str], what: str) -> str:
    """Return "did you mean 'x'?", or else the list of valid words after `what`."""
    listed = list(words)
    return did_you_mean(word, listed) or f"{what}: {', '.join(listed) or 'none'}"


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return "did you mean 'x'?" for the closest of `words`, "" if none is close."""
    near = get_close_matches(word, list(words), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else ""


def _no_module(name: str, missing: str) -> str:
    if missing.endswith(".py"):
        return f"no module {missing}; did you mean {missing.removesuffix('.py')!r}?"
    package = sys.modules.get(missing.rpartition(".")[0])
    folders = [Path(folder) for folder in getattr(package, "__path__", [])]
    stems = {path.stem for folder in folders for path in folder.glob("*.py") if not path.name.startswith("_")}
    there = sorted(f"{missing.rpartition('.')[0]}.{stem}" for stem in stems)
    if there:
        return f"no module {missing}; {choices(name, there, 'modules there')}"
    return f"no module {missing}; is it installed, in the working directory, or on PYTHONPATH?"


def _where(exc: BaseException) -> str:
    """Return the file and line at which a module fails: the user's, not ours that detected the error."""
    checkers = (f"{Path(__file__).parent}{os.sep}", dataclasses.__file__)
    for frame in reversed(traceback.extract_tb(exc.__traceback__)):
        if not frame.filename.startswith(checkers):
            return "" if frame.filename.startswith("<") else f"{frame.filename}:{frame.lineno}: "
    return ""
