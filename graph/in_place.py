"""Replace nodes of a graph file by a recording of their outputs."""

from collections.abc import Mapping, Sequence
from typing import Any

from graph.catalog import REPLAY
from graph.config import is_a
from graph.document import Document
from graph.errors import ConfigError
from graph.mcap_reader import Recording
from graph.node import Output
from graph.spec import choices, load_class

Settings = Mapping[str, Any]


def as_graph(recording: Recording, settings: Settings, name: str | None) -> dict[str, Any]:
    """Return a graph of the recorded nodes, to which others can attach as to the original one."""
    nodes = dict.fromkeys(port.partition(".")[0] for port in recording.ports)
    return {
        "name": name or recording.graph,
        "nodes": {
            node: _replay(recording, [port for port in recording.ports if port.startswith(f"{node}.")], settings)
            for node in nodes
        },
    }


def put_in_place(document: Document, recording: Recording, wanted: Sequence[str], settings: Settings) -> list[str]:
    """Replace nodes of a graph by a recording of their outputs, and return the changes in words.

    `wanted` are nodes, or "node=recorded node" or "node=recorded.port" if the names differ; none: the sources.
    Nodes that only the replaced ones read are removed. Raises ConfigError if no recorded port fits.
    """
    nodes = document.data.get("nodes") if isinstance(document.data, dict) else None
    if not isinstance(nodes, dict) or not all(isinstance(node, dict) for node in nodes.values()):
        return []  # an error, reported elsewhere
    asked = dict(_asked(document, text, nodes) for text in wanted)
    sources = {name: "" for name, node in nodes.items() if not node.get("inputs")}
    given = {name: _given(nodes[name], name, recorded, recording) for name, recorded in (asked or sources).items()}
    for name, ports in given.items():
        if not ports and (asked or not any(given.values())):
            raise ConfigError(_nothing_fits(document, name, nodes[name], recording))
    read_before = _read(nodes)
    for name, ports in given.items():
        if ports:
            document.override(("nodes", name), _replay(recording, ports, settings), f"replay in place of {name}")
    removed = _remove_unread(document, read_before)
    replayed = [f"{name} is replayed ({', '.join(ports)})" for name, ports in given.items() if ports]
    return replayed + [f"{name} is removed: no node reads it now" for name in removed]


def _asked(document: Document, text: str, nodes: Mapping[str, Any]) -> tuple[str, str]:
    name, _, recorded = text.partition("=")
    if name not in nodes:
        near = choices(name, nodes, "nodes")
        raise ConfigError(f"--in-place-of {text}: {document.path} has no node {name!r}; {near}")
    return name, recorded


def _replay(recording: Recording, ports: Sequence[str], settings: Settings) -> dict[str, Any]:
    return {"type": REPLAY, "settings": {"path": str(recording.path), "ports": list(ports), **settings}}


def _given(node: Mapping[str, Any], name: str, recorded: str, recording: Recording) -> list[str]:
    """Return the recorded ports for the outputs of a node: those of its name, or else the only ones of their types."""
    found = []
    for output, port in _outputs(node).items():
        among = [topic for topic in recording.ports if not recorded or f"{topic}.".startswith(f"{recorded}.")]
        same = f"{recorded or name}.{output}"
        fitting = [topic for topic in among if is_a(recording.ports[topic], port.type)]
        if same in fitting:
            found.append(same)
        elif len(fitting) == 1 and (recorded or not any(topic.startswith(f"{name}.") for topic in recording.ports)):
            found.append(f"{output}={fitting[0]}")
    return found


def _outputs(node: Mapping[str, Any]) -> Mapping[str, Output]:
    try:
        return load_class(str(node.get("type"))).outputs
    except ConfigError:
        return {}  # reported when the file is checked


def _nothing_fits(document: Document, name: str, node: Mapping[str, Any], recording: Recording) -> str:
    gives = ", ".join(f"{output}: {port.type.__name__}" for output, port in _outputs(node).items()) or "nothing"
    there = ", ".join(f"{topic}: {type_.__name__}" for topic, type_ in recording.ports.items())
    return (
        f"{document.place(('nodes', name))}: nothing to replay in place of {name}, which gives {gives}; "
        f"recorded: {there}; choose with --in-place-of NODE=RECORDED.PORT"
    )


def _read(nodes: Mapping[str, Any]) -> set[str]:
    """Return the nodes that other nodes read."""
    return {str(source).partition(".")[0] for node in nodes.values() for _, source in _inputs(node)}


def _remove_unread(document: Document, read_before: set[str]) -> list[str]:
    """Remove the nodes that were read before and are not any more, and the options of removed edges."""
    nodes = document.data["nodes"]
    gone: list[str] = []
    while idle := [name for name in nodes if name in read_before - _read(nodes)]:
        gone += idle
        nodes = {name: node for name, node in nodes.items() if name not in idle}
    edges = document.data.get("edges")
    kept = {"nodes": nodes}
    if isinstance(edges, dict):
        there = {f"{source}->{name}.{port}" for name, node in nodes.items() for port, source in _inputs(node)}
        kept["edges"] = {key: edge for key, edge in edges.items() if str(key).replace(" ", "") in there}
    document.data = {**document.data, **kept}
    return gone


def _inputs(node: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    given = node.get("inputs")
    return list(given.items()) if isinstance(given, dict) else []
