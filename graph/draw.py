"""Draw a graph as text for Graphviz or Mermaid; a running graph with its states and rates."""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from graph.metrics import short_ms
from graph.spec import EdgeSpec, GraphSpec, NodeSpec

_STYLES = {"block": "solid", "drop_oldest": "dashed", "drop_newest": "dashed", "latest": "dashed"}
_FILLS = {"BLOCKED": "#e9d8fd", "PAUSED": "#fefcbf", "FAILED": "#fed7d7", "DONE": "#e2e8f0", "NULL": "#ffffff"}
_STEPS = ("LINKED", "PLAYING")  # all nodes enter them together
_DROPPING = "#c05621"
Stats = Mapping[str, Any]


def to_dot(spec: GraphSpec, stats: Stats | None = None) -> str:
    """Return the graph in the DOT language; lossless edges are solid, the others dashed.

    `stats` (of a running graph, see graph/README.md) adds states, rates, times and attached readers.
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
        text = "\\n".join([name, *_about(spec, name, stats)])
        fill = _FILLS.get(stats["nodes"][name]["state"]) if stats else None
        colour = f', fillcolor="{fill}"' if fill else ""
        lines.append(f'  "{name}" [label="{text}"{colour}];')
    arrows = list(_arrows(spec, stats))
    lines += [f'  "{name}" [style="rounded,dashed"];' for name in _outside(spec, arrows)]
    for arrow in arrows:
        text = "\\n".join(arrow.text)
        colour = f', color="{_DROPPING}"' if arrow.drops else ""
        lines.append(f'  "{arrow.source}" -> "{arrow.target}" [label="{text}", style={arrow.style}{colour}];')
    return "\n".join([*lines, "}", ""])


def to_mermaid(spec: GraphSpec, stats: Stats | None = None) -> str:
    """Return the graph as a Mermaid flowchart, which GitHub draws in a README; `stats` as for `to_dot`.

    Source: https://mermaid.js.org/syntax/flowchart.html
    """
    arrows = list(_arrows(spec, stats))
    outside = _outside(spec, arrows)
    ids = {name: f"n{index}" for index, name in enumerate([*spec.nodes, *outside])}  # "end" is a reserved word
    lines = ["flowchart LR"]
    for name in spec.nodes:
        small = "<br/>".join(_about(spec, name, stats))
        lines.append(f'  {ids[name]}["{name}<br/><small>{small}</small>"]')
    lines += [f'  {ids[name]}(["{name}"])' for name in outside]
    for arrow in arrows:
        line = "-->" if arrow.style == "solid" else "-.->"
        text = "<br/>".join(arrow.text)
        lines.append(f'  {ids[arrow.source]} {line}|"{text}"| {ids[arrow.target]}')
    return "\n".join([*lines, ""])


def spec_of(description: Mapping[str, Any]) -> GraphSpec:
    """Return the spec of a running graph from its answer to `describe` (see graph/README.md)."""
    nodes = {name: NodeSpec(name, node["type"]) for name, node in description["nodes"].items()}
    edges = tuple(EdgeSpec(*edge) for edge in description["edges"])
    return GraphSpec(description["name"], description["attach"], nodes, edges, description["path"])


class StateDrawings:
    """Writes a drawing of the graph into an existing folder whenever a state changes."""

    def __init__(self, folder: Path, spec: GraphSpec) -> None:
        self._folder = folder
        self._spec = spec
        self._states: dict[str, str] = {}
        self._count = 0
        self._started = time.monotonic()

    def update(self, graph: str, nodes: dict[str, str], stats: Callable[[], Stats]) -> None:
        """Draw the result of `stats` if the state of the graph or of a node has changed."""
        together = "READY" if graph == "STARTING" else "PLAYING"
        states = {"": graph} | {name: together if state in _STEPS else state for name, state in nodes.items()}
        changed = [name for name, state in states.items() if self._states.get(name) != state]
        if changed:
            self._states = states
            seconds, what = time.monotonic() - self._started, changed[0] or self._spec.name
            path = self._folder / f"{self._count:03}-{seconds:.3f}s-{what}-{states[changed[0]]}.dot"
            path.write_text(to_dot(self._spec, stats()), encoding="utf-8")
            self._count += 1


class _Arrow(NamedTuple):
    source: str  # a node; of another graph "graph/node"
    target: str  # a node, or the name of an attached reader
    text: list[str]  # lines
    style: str
    drops: bool = False


def _arrows(spec: GraphSpec, stats: Stats | None) -> Iterator[_Arrow]:
    """Yield the edges of the graph, then those to attached readers, which choose their own names."""
    for edge in spec.edges:
        text = [*_label(edge), *_rate(stats, edge.name)]
        source = edge.source.rpartition(".")[0]
        yield _Arrow(source, edge.target_node, text, _STYLES[edge.policy], _drops(stats, edge.name))
    known = {edge.name for edge in spec.edges}
    for name, reader in (stats["edges"] if stats else {}).items():
        if name not in known:
            source, _, port = reader["from"].partition(".")
            target = re.sub(r"[^\w./-]", "?", reader["to"].rpartition(".")[0] or reader["to"])
            yield _Arrow(source, target, [port, *_rate(stats, name)], "dotted")


def _outside(spec: GraphSpec, arrows: Sequence[_Arrow]) -> list[str]:
    """Return the nodes of other graphs and the attached readers."""
    ends = (name for arrow in arrows for name in (arrow.source, arrow.target))
    return list(dict.fromkeys(name for name in ends if name not in spec.nodes))


def _about(spec: GraphSpec, name: str, stats: Stats | None) -> list[str]:
    """Return the lines about a node: its class, state, rate and time."""
    class_ = spec.nodes[name].type.partition(":")[2]
    if stats is None:
        return [class_]
    node = stats["nodes"][name]
    if node["process_ms"] is None:
        return [class_, node["state"].lower()]
    return [class_, f"{node['state'].lower()}, {node['fps']:.1f} fps", f"{short_ms(node['process_ms']['p50'])} ms"]


def _label(edge: EdgeSpec) -> list[str]:
    ports = edge.source_port if edge.source_port == edge.target_port else f"{edge.source_port} → {edge.target_port}"
    hold = ", hold" if edge.join == "hold" else ""
    depth = "" if edge.policy == "latest" else f" {edge.queue}"
    return [ports, f"{edge.policy}{depth}{hold}"]


def _rate(stats: Stats | None, name: str) -> list[str]:
    edge = stats["edges"].get(name) if stats else None
    if edge is None or edge["rate"] is None:
        return []
    lost = f", {edge['dropped_per_s']:.1f} dropped" if edge["dropped_per_s"] else ""
    return [f"{edge['rate']:.1f} per s{lost}"]


def _drops(stats: Stats | None, name: str) -> bool:
    return stats is not None and bool(stats["edges"].get(name, {}).get("dropped_per_s"))
