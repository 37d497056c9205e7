"""Draw latency.png: when each node is at work on a frame, counted from its capture."""

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from graph.metrics import short_ms

if TYPE_CHECKING:
    from graph.profile import NodeProfile, Profile

COLOURS = {"wait": "#c3cad5", "process": "#2b6cb0", "publish": "#ed8936"}
SINK = "#c53030"
INK = "#2d3748"
ROW_INCHES = 0.5
TOP_INCHES, BOTTOM_INCHES = 1.55, 1.5
EXPLAINED = (
    "Each bar is one node at work on one frame, and ends at the median age of the frame when the node is done with it. "
    "The whisker: 95 % of the frames are done by there.\n"
    "wait: all inputs are there, the node is not free yet.    process: the node's own work.    "
    "publish: handing over, and being held up by a full queue.\n"
    "busy: share of the time in process.    CPU: 100 is one core.    dropped: frames that this node was too slow for."
)


def draw(profile: "Profile", path: Path) -> None:
    """Write the picture as PNG."""
    nodes = [node for node in profile.nodes.values() if node.frames]
    sinks = profile.sinks()
    height = TOP_INCHES + BOTTOM_INCHES + ROW_INCHES * max(len(nodes) + len(sinks), 2)
    figure = Figure(figsize=(14, height), dpi=100)
    box = (0.135, BOTTOM_INCHES / height, 0.465, 1 - (TOP_INCHES + BOTTOM_INCHES) / height)
    axes = figure.add_axes(box)
    _headings(figure, profile, height)
    _bars(axes, nodes)
    _columns(axes, profile, nodes)
    _sinks(axes, profile, len(nodes))
    _rows(axes, [node.name for node in nodes], [sink.name for sink in sinks])
    figure.savefig(path, format="png", facecolor="white")


def _rows(axes: Axes, nodes: list[str], sinks: list[str]) -> None:
    labels = [*nodes, *(f"capture \u2192 {sink}" for sink in sinks)]
    axes.set_yticks(range(len(labels)), labels, fontsize=12, color=INK)
    for label in axes.get_yticklabels()[len(nodes) :]:
        label.set_color(SINK)
    axes.axhline(len(nodes) - 0.5, color="#cbd5e0", linewidth=1)
    axes.set_ylim(len(labels) - 0.4, -0.6)


def _headings(figure: Figure, profile: "Profile", height: float) -> None:
    summary = profile.summary()
    where = summary["machine"]
    figure.text(0.02, 1 - 0.42 / height, f"{profile.spec.name}: where the time of a frame goes", fontsize=16, color=INK)
    facts = [where["cpu"], f"{where['cores']} cores", where["system"], f"Python {where['python']}"]
    run = [
        f"{max(node.frames for node in profile.nodes.values()):,} frames in {summary['duration_s']:.1f} s",
        f"{profile.started:%Y-%m-%d %H:%M} UTC",
    ]
    figure.text(0.02, 1 - 0.75 / height, "   ".join([*run, ", ".join(facts)]), fontsize=9.5, color="#718096")
    figure.text(0.02, 0.2 / height, EXPLAINED, fontsize=9, color="#4a5568", linespacing=1.5)


def _bars(axes: Axes, nodes: "list[NodeProfile]") -> None:
    left, right = _limits(nodes)
    for row, node in enumerate(nodes):
        done, late = (node.times("age").percentile(p) / 1e6 for p in (50, 95))
        parts = {name: node.times(name).percentile(50) / 1e6 for name in COLOURS}
        start = done - sum(parts.values())
        for name, length in parts.items():
            axes.barh(row, length, left=start, height=0.55, color=COLOURS[name], zorder=2)
            start += length
        _whisker(axes, row, done, late, INK, linewidth=1.2)
    axes.set_xlim(left, right)
    axes.set_xlabel("milliseconds since the capture of the frame", fontsize=10, color=INK)
    axes.grid(axis="x", color="#e2e8f0", zorder=0)
    axes.axvline(0, color=INK, linewidth=1, zorder=1)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    handles = [Patch(color=colour, label=name) for name, colour in COLOURS.items()]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3, frameon=False, fontsize=10)


def _limits(nodes: "list[NodeProfile]") -> tuple[float, float]:
    """Return the range of the axis: what a source did before the capture gets at most a quarter of it."""
    ages = [node.times("age") for node in nodes]
    right = 1.05 * max((age.percentile(95) / 1e6 for age in ages), default=1.0) or 1.0
    starts = [
        age.percentile(50) - sum(node.times(name).percentile(50) for name in COLOURS)
        for node, age in zip(nodes, ages, strict=True)
    ]
    return max(1.05 * min([0.0, *starts]) / 1e6, -right / 3), right


def _sinks(axes: Axes, profile: "Profile", first_row: int) -> None:
    """Draw the whole way to each end of the graph, one row each below the nodes."""
    for row, sink in enumerate(profile.sinks(), start=first_row):
        p50, p95, p99 = (sink.times("age").percentile(p) / 1e6 for p in (50, 95, 99))
        _whisker(axes, row, 0, p50, SINK, linewidth=2.5)
        _whisker(axes, row, p50, p95, SINK, linewidth=1.2)
        text = f"p50 {short_ms(p50)}   p95 {short_ms(p95)}   p99 {short_ms(p99)} ms"
        axes.text(1.03, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=11, color=SINK)


def _whisker(axes: Axes, row: int, start: float, end: float, colour: str, linewidth: float) -> None:
    axes.plot([start, end], [row, row], color=colour, linewidth=linewidth, solid_capstyle="butt", zorder=3)
    axes.plot([end, end], [row - 0.16, row + 0.16], color=colour, linewidth=linewidth, zorder=3)


def _columns(axes: Axes, profile: "Profile", nodes: "list[NodeProfile]") -> None:
    """Write the numbers to the right of the bars, as a table with one row per node."""
    columns = ("age ms\np50 / p95", "process ms\np50 / p95", "wait ms\np50", "fps", "busy\n%", "CPU\n%", "dropped")
    right_edges = (1.17, 1.35, 1.45, 1.55, 1.62, 1.69, 1.80)
    for heading, x in zip(columns, right_edges, strict=True):
        axes.text(x, 1.02, heading, transform=axes.transAxes, ha="right", va="bottom", fontsize=9.5, color=INK)
    for row, node in enumerate(nodes):
        for text, x in zip(_row(profile, node), right_edges, strict=True):
            axes.text(x, row, text, transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=10.5)


def _row(profile: "Profile", node: "NodeProfile") -> tuple[str, ...]:
    def milliseconds(name: str, *percentiles: int) -> str:
        return " / ".join(short_ms(node.times(name).percentile(p) / 1e6) for p in percentiles)

    shares = (f"{node.fps:.1f}", f"{node.busy_percent:.0f}", f"{node.cpu_percent:.0f}")
    times = (milliseconds("age", 50, 95), milliseconds("process", 50, 95), milliseconds("wait", 50))
    return (*times, *shares, f"{profile.dropped_before(node.name):,}")
