"""Draw a graph as text that Graphviz or Mermaid turns into a picture; one that runs, with what it does now."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from graph.metrics import short_ms
from graph.spec import EdgeSpec, GraphSpec, NodeSpec

_STYLES = {"block": "solid", "drop_oldest": "dashed", "drop_newest": "dashed", "latest": "dashed"}
_FILLS = {"BLOCKED": "#e9d8fd", "PAUSED": "#fefcbf", "FAILED": "#fed7d7", "DONE": "#e2e8f0", "NULL": "#ffffff"}
_STEPS = ("LINKED", "PLAYING")  # all nodes take them together
_DROPPING = "#c05621"
Stats = Mapping[str, Any]


def to_dot(spec: GraphSpec, stats: Stats | None = None) -> str:
    """Return the graph in Graphviz's language; lossless edges are solid, the others dashed.

    `stats` (of a running graph, see graph/README.md) adds states, rates and times, and who has attached.
    Source: https://graphviz.org/doc/info/lang.html
    """
    title = spec.name if stats is None else f"{spec.name}: {stats['state'].lower()}"
    lines = [
        f'digraph "{spec.name}" {{',
        f'  graph [rankdir=LR, label="{title}", labelloc=t, fontname="Helvetica"];',
        '  node [shape=box, style="rounded,filled", fillcolor="#eef2f7", color="#5b6b7f", fontname="Helvetica"];',
        '  edge [color="#5b6b7f", fontname="Helvetica", fontsize=10];',
    ]
    for name in spec.nodes:
        text = "\\n".join([name, _class(spec, name), *_now(stats, name)])
        fill = _FILLS.get(stats["nodes"][name]["state"]) if stats else None
        colour = f', fillcolor="{fill}"' if fill else ""
        lines.append(f'  "{name}" [label="{text}"{colour}];')
    lines += [f'  "{name}" [style="rounded,dashed"];' for name in [*_foreign(spec), *_readers(spec, stats)]]
    for edge in spec.edges:
        text = "\\n".join([*_label(edge), *_rate(stats, edge.name)])
        style = _STYLES[edge.policy] + (f', color="{_DROPPING}"' if _drops(stats, edge.name) else "")
        lines.append(f'  "{_from(edge)}" -> "{edge.target_node}" [label="{text}", style={style}];')
    for name, source, reader in _attached(spec, stats):
        node, _, port = source.partition(".")
        text = "\\n".join([port, *_rate(stats, name)])
        lines.append(f'  "{node}" -> "{reader}" [label="{text}", style=dotted];')
    return "\n".join([*lines, "}", ""])


def to_mermaid(spec: GraphSpec, stats: Stats | None = None) -> str:
    """Return the graph as a Mermaid flowchart, which GitHub draws in a README; `stats` as for `to_dot`.

    Source: https://mermaid.js.org/syntax/flowchart.html
    """
    outside = [*_foreign(spec), *_readers(spec, stats)]
    ids = {name: f"n{index}" for index, name in enumerate([*spec.nodes, *outside])}  # "end" is a reserved word
    lines = ["flowchart LR"]
    for name in spec.nodes:
        small = "<br/>".join([_class(spec, name), *_now(stats, name)])
        lines.append(f'  {ids[name]}["{name}<br/><small>{small}</small>"]')
    lines += [f'  {ids[name]}(["{name}"])' for name in outside]
    for edge in spec.edges:
        arrow = "-->" if _STYLES[edge.policy] == "solid" else "-.->"
        text = "<br/>".join([*_label(edge), *_rate(stats, edge.name)])
        lines.append(f'  {ids[_from(edge)]} {arrow}|"{text}"| {ids[edge.target_node]}')
    for name, source, reader in _attached(spec, stats):
        node, _, port = source.partition(".")
        text = "<br/>".join([port, *_rate(stats, name)])
        lines.append(f'  {ids[node]} -.->|"{text}"| {ids[reader]}')
    return "\n".join([*lines, ""])


def spec_of(description: Mapping[str, Any]) -> GraphSpec:
    """Return the plan of a running graph from what it says of itself (`describe`, see graph/README.md)."""
    nodes = {name: NodeSpec(name, node["type"]) for name, node in description["nodes"].items()}
    edges = tuple(EdgeSpec(*edge) for edge in description["edges"])
    return GraphSpec(description["name"], description["attach"], nodes, edges, description["path"])


class StateDrawings:
    """Writes a drawing of the graph into a folder, which is there, whenever a state in it changes."""

    def __init__(self, folder: Path, spec: GraphSpec) -> None:
        self._folder = folder
        self._spec = spec
        self._states: dict[str, str] = {}
        self._count = 0
        self._started = time.monotonic()

    def note(self, graph: str, nodes: dict[str, str], stats: Callable[[], Stats]) -> None:
        """Draw what `stats` gives if the state of the graph or of a node is not that of the last time."""
        together = "READY" if graph == "STARTING" else "PLAYING"
        states = {"": graph} | {name: together if state in _STEPS else state for name, state in nodes.items()}
        changed = [name for name, state in states.items() if self._states.get(name) != state]
        if changed:
            self._states = states
            seconds, what = time.monotonic() - self._started, changed[0] or self._spec.name
            path = self._folder / f"{self._count:03}-{seconds:.3f}s-{what}-{states[changed[0]]}.dot"
            path.write_text(to_dot(self._spec, stats()), encoding="utf-8")
            self._count += 1


def _foreign(spec: GraphSpec) -> list[str]:
    """Return the nodes of another graph that this one reads, in the order of their edges."""
    return list(dict.fromkeys(_from(edge) for edge in spec.edges if edge.source_graph))


def _attached(spec: GraphSpec, stats: Stats | None) -> Iterator[tuple[str, str, str]]:
    """Give the edges to those who have attached: name, output, and reader; their names are their own."""
    known = {edge.name for edge in spec.edges}
    for name, edge in (stats["edges"] if stats else {}).items():
        if name not in known:
            yield name, edge["from"], re.sub(r"[^\w./-]", "?", edge["to"].rpartition(".")[0] or edge["to"])


def _readers(spec: GraphSpec, stats: Stats | None) -> list[str]:
    return list(dict.fromkeys(reader for _, _, reader in _attached(spec, stats)))


def _from(edge: EdgeSpec) -> str:
    return edge.source.rpartition(".")[0]


def _class(spec: GraphSpec, name: str) -> str:
    return spec.nodes[name].type.partition(":")[2]


def _label(edge: EdgeSpec) -> list[str]:
    ports = edge.source_port if edge.source_port == edge.target_port else f"{edge.source_port} → {edge.target_port}"
    hold = ", hold" if edge.join == "hold" else ""
    depth = "" if edge.policy == "latest" else f" {edge.queue}"
    return [ports, f"{edge.policy}{depth}{hold}"]


def _now(stats: Stats | None, name: str) -> list[str]:
    if stats is None:
        return []
    node = stats["nodes"][name]
    if node["process_ms"] is None:
        return [node["state"].lower()]
    return [f"{node['state'].lower()}, {node['fps']:.1f} fps", f"{short_ms(node['process_ms']['p50'])} ms"]


def _rate(stats: Stats | None, name: str) -> list[str]:
    edge = stats["edges"].get(name) if stats else None
    if edge is None or edge["rate"] is None:
        return []
    lost = f", {edge['dropped_per_s']:.1f} dropped" if edge["dropped_per_s"] else ""
    return [f"{edge['rate']:.1f} per s{lost}"]


def _drops(stats: Stats | None, name: str) -> bool:
    return stats is not None and bool(stats["edges"].get(name, {}).get("dropped_per_s"))
