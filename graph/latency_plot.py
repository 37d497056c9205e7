"""Draw latency.png: when each node works on a frame, relative to its capture."""

from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.transforms import blended_transform_factory

from graph.metrics import short_ms

if TYPE_CHECKING:
    from graph.profile import NodeProfile, Profile

COLOURS = {"wait": "#b3bcc9", "process": "#2b6cb0", "publish": "#ed8936"}
SINK = "#c53030"
INK = "#2d3748"
WIDTH, TOP, BOTTOM, ROW = 14.0, 1.55, 1.5, 0.5  # inches
RIGHT = 0.605  # share of the width: the bars end and the numbers begin here
LABEL_LETTERS = 28  # the middle of longer names is omitted
LINE_LETTERS = 150  # fit in a line of small print
EXPLAINED = (
    "Each bar is one node working on one frame, and ends at the median age of the frame when the node is done. "
    "The whisker ends at the 95th percentile.\n"
    "wait: since the last input was made: in queues, in transit, and until the node is free.    "
    "process: the node's own work.\n"
    "publish: queueing the output, and waiting while a queue is full.    "
    "busy: share of the time at work.    CPU: 100 is one core.    dropped: frames that this node was too slow for."
)


def draw(profile: "Profile", path: Path) -> None:
    """Write the picture as PNG."""
    figure_of(profile).savefig(path, format="png", facecolor="white")


def figure_of(profile: "Profile") -> Figure:
    """Return the picture."""
    nodes = [node for node in profile.nodes.values() if node.frames]
    sinks = profile.sinks()
    labels = [_short(node.name) for node in nodes] + [f"capture \u2192 {_short(sink.name)}" for sink in sinks]
    height = TOP + BOTTOM + ROW * max(len(labels), 2)
    left = 0.035 + 0.0072 * max(map(len, labels), default=0)
    figure = Figure(figsize=(WIDTH, height), dpi=100)
    axes = figure.add_axes((left, BOTTOM / height, RIGHT - left, 1 - (TOP + BOTTOM) / height))
    _headings(figure, profile, height)
    _frame(axes, labels, len(nodes))
    _bars(axes, nodes)
    _sinks(axes, sinks, len(nodes))
    _columns(axes, profile, nodes)
    return figure


def _short(name: str) -> str:
    half = LABEL_LETTERS // 2
    return name if len(name) <= LABEL_LETTERS else f"{name[: half - 1]}\u2026{name[-half:]}"


def _headings(figure: Figure, profile: "Profile", height: float) -> None:
    summary = profile.summary()
    where = summary["machine"]
    title = f"{profile.spec.name}: where the time of a frame goes"
    figure.text(0.02, 1 - 0.42 / height, title, fontsize=16, color=INK)
    frames = max((node.frames for node in profile.nodes.values()), default=0)
    facts = (
        f"{frames:,} frames in {summary['duration_s']:.1f} s",
        f"{profile.started:%Y-%m-%d %H:%M} UTC",
        f"{where['cpu']}, {where['cores']} cores, {where['system']}, Python {where['python']}",
    )
    figure.text(0.02, 1 - 0.75 / height, "    ".join(facts), fontsize=9.5, color="#718096")
    figure.text(0.02, 1 - 0.98 / height, _without_frames(profile), fontsize=9.5, color=INK)
    figure.text(0.02, 0.2 / height, EXPLAINED, fontsize=9, color="#4a5568", linespacing=1.5)


def _without_frames(profile: "Profile") -> str:
    names = ", ".join(node.name for node in profile.nodes.values() if not node.frames)
    return shorten(f"no frames: {names}", LINE_LETTERS, placeholder=" \u2026") if names else ""


def _frame(axes: Axes, labels: list[str], nodes: int) -> None:
    axes.set_yticks(range(len(labels)), labels, fontsize=12, color=INK)
    for label in axes.get_yticklabels()[nodes:]:
        label.set_color(SINK)
    axes.set_ylim(max(len(labels), 1) - 0.4, -0.6)
    axes.set_xlabel("milliseconds since the capture of the frame", fontsize=10, color=INK)
    axes.axhline(nodes - 0.5, color="#cbd5e0", linewidth=1)
    axes.axvline(0, color=INK, linewidth=1, zorder=1)
    axes.grid(axis="x", color="#e2e8f0", zorder=0)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    handles = [Patch(color=colour, label=name) for name, colour in COLOURS.items()]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=4, frameon=False, fontsize=10)


def _bars(axes: Axes, nodes: "list[NodeProfile]") -> None:
    first, last = 0.0, 0.0
    for row, node in enumerate(nodes):
        parts = {name: _ms(node, name, 50) for name in COLOURS}
        end = _ms(node, "age", 50)
        start = end - sum(parts.values())
        first = min(first, start)
        for name, length in parts.items():
            axes.barh(row, length, left=start, height=0.55, color=COLOURS[name], zorder=2)
            start += length
        late = _ms(node, "age", 95)
        _whisker(axes, row, end, late, INK, linewidth=1.2)
        last = max(last, late, end)
    last = 1.05 * last or 1.0
    axes.set_xlim(max(1.05 * first, -last / 3), last)  # a source may wait a long time before the capture


def _sinks(axes: Axes, sinks: "list[NodeProfile]", first_row: int) -> None:
    """Draw the age at each sink, one row each below the nodes."""
    for row, sink in enumerate(sinks, start=first_row):
        p50, p95, p99 = (_ms(sink, "age", p) for p in (50, 95, 99))
        _whisker(axes, row, 0, p50, SINK, linewidth=2.5)
        _whisker(axes, row, p50, p95, SINK, linewidth=1.2)
        text = f"p50 {short_ms(p50)}    p95 {short_ms(p95)}    p99 {short_ms(p99)}    ms"
        _write(axes, RIGHT + 0.02, row, text, colour=SINK, align="left")


def _whisker(axes: Axes, row: int, start: float, end: float, colour: str, linewidth: float) -> None:
    axes.plot([start, end], [row, row], color=colour, linewidth=linewidth, solid_capstyle="butt", zorder=3)
    axes.plot([end, end], [row - 0.16, row + 0.16], color=colour, linewidth=linewidth, zorder=3)


def _columns(axes: Axes, profile: "Profile", nodes: "list[NodeProfile]") -> None:
    """Write the numbers to the right of the bars, as a table with one row per node."""
    columns = ("age ms\np50 / p95", "process ms\np50 / p95", "wait ms\np50", "fps", "busy\n%", "CPU\n%", "dropped")
    right_edges = (0.69, 0.77, 0.815, 0.86, 0.888, 0.92, 0.985)
    for heading, x in zip(columns, right_edges, strict=True):
        _write(axes, x, -0.8, heading, size=9.5, vertical="bottom")
    for row, node in enumerate(nodes):
        dropped = profile.dropped_before(node.name)
        values = (
            f"{short_ms(_ms(node, 'age', 50))} / {short_ms(_ms(node, 'age', 95))}",
            f"{short_ms(_ms(node, 'process', 50))} / {short_ms(_ms(node, 'process', 95))}",
            short_ms(_ms(node, "wait", 50)),
            f"{fps:,.1f}" if (fps := profile.fps(node)) < 1000 else f"{fps:,.0f}",
            f"{profile.busy_percent(node):.0f}",
            f"{node.cpu_percent:.0f}",
            "-" if dropped is None else f"{dropped:,}",
        )
        for value, x in zip(values, right_edges, strict=True):
            _write(axes, x, row, value)


def _write(
    axes: Axes,
    x: float,
    row: float,
    text: str,
    colour: str = INK,
    align: str = "right",
    size: float = 10.5,
    vertical: str = "center",
) -> None:
    """Write to the right of the bars; x is a fraction of the picture's width."""
    place = blended_transform_factory(axes.figure.transFigure, axes.transData)
    axes.text(x, row, text, transform=place, ha=align, va=vertical, fontsize=size, color=colour)


def _ms(node: "NodeProfile", name: str, percentile: float) -> float:
    return node.times(name).percentile(percentile) / 1e6
