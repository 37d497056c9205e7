"""Draw a graph as text that Graphviz or Mermaid turns into a picture."""

from graph.spec import EdgeSpec, GraphSpec

_STYLES = {"block": "solid", "drop_oldest": "dashed", "drop_newest": "dashed", "latest": "dashed"}


def to_dot(spec: GraphSpec) -> str:
    """Return the graph in Graphviz's language; lossless edges are solid, the others dashed.

    Source: https://graphviz.org/doc/info/lang.html
    """
    lines = [
        f'digraph "{spec.name}" {{',
        f'  graph [rankdir=LR, label="{spec.name}", labelloc=t, fontname="Helvetica"];',
        '  node [shape=box, style="rounded,filled", fillcolor="#eef2f7", color="#5b6b7f", fontname="Helvetica"];',
        '  edge [color="#5b6b7f", fontname="Helvetica", fontsize=10];',
    ]
    lines += [f'  "{name}" [label="{name}\\n{_class(spec, name)}"];' for name in spec.nodes]
    lines += [f'  "{name}" [style="rounded,dashed"];' for name in _foreign(spec)]
    for edge in spec.edges:
        style = _STYLES[edge.policy]
        lines.append(
            f'  "{_from(edge)}" -> "{edge.target_node}" [label="{_label(edge, chr(92) + "n")}", style={style}];'
        )
    return "\n".join([*lines, "}", ""])


def to_mermaid(spec: GraphSpec) -> str:
    """Return the graph as a Mermaid flowchart, which GitHub draws in a README; lossless edges are solid.

    Source: https://mermaid.js.org/syntax/flowchart.html
    """
    ids = {name: f"n{index}" for index, name in enumerate([*spec.nodes, *_foreign(spec)])}  # "end" is a reserved word
    lines = ["flowchart LR"]
    lines += [f'  {ids[name]}["{name}<br/><small>{_class(spec, name)}</small>"]' for name in spec.nodes]
    lines += [f'  {ids[name]}(["{name}"])' for name in _foreign(spec)]
    for edge in spec.edges:
        arrow = "-->" if _STYLES[edge.policy] == "solid" else "-.->"
        lines.append(f'  {ids[_from(edge)]} {arrow}|"{_label(edge, "<br/>")}"| {ids[edge.target_node]}')
    return "\n".join([*lines, ""])


def _foreign(spec: GraphSpec) -> list[str]:
    """Return the nodes of another graph that this one reads, in the order of their edges."""
    return list(dict.fromkeys(_from(edge) for edge in spec.edges if edge.source_graph))


def _from(edge: EdgeSpec) -> str:
    return edge.source.rpartition(".")[0]


def _class(spec: GraphSpec, name: str) -> str:
    return spec.nodes[name].type.partition(":")[2]


def _label(edge: EdgeSpec, line_break: str) -> str:
    ports = edge.source_port if edge.source_port == edge.target_port else f"{edge.source_port} → {edge.target_port}"
    hold = ", hold" if edge.join == "hold" else ""
    depth = "" if edge.policy == "latest" else f" {edge.queue}"
    return f"{ports}{line_break}{edge.policy}{depth}{hold}"
