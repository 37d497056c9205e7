"""The table of `run_graph.py top`: what a running graph does now."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from graph.attached import RunningGraph
from graph.errors import GraphError
from graph.metrics import short_ms

BUSY_PERCENT = 90.0  # a node that works so much of the time sets the pace
WIDE = 100  # characters
TROUBLE = 3  # newest warnings and errors shown
_STATES = {
    "PROCESSING": "green",
    "WAITING": "dim",
    "IDLE": "dim",
    "DONE": "dim",
    "BLOCKED": "magenta",
    "PAUSED": "yellow",
    "FAILED": "bold red",
}


def watch(g: RunningGraph, console: Console, every: float) -> None:
    """Show the table anew every so many seconds, until the graph ends or Ctrl-C."""
    with Live(console=console, auto_refresh=False) as live:
        try:
            while True:
                live.update(view(g.stats(), trouble(g), console.width), refresh=True)
                time.sleep(every)
        except GraphError as exc:
            live.console.print(str(exc))
        except KeyboardInterrupt:
            pass


def trouble(g: RunningGraph) -> list[dict[str, Any]]:
    """Return the newest warnings and errors of the graph."""
    return [line for line in g.log() if line["level"] in ("WARNING", "ERROR", "CRITICAL")][-TROUBLE:]


def as_json(stats: dict[str, Any]) -> str:
    """Return everything that is known as JSON."""
    return json.dumps(stats, indent=2)


def view(stats: dict[str, Any], lines: list[dict[str, Any]] | None = None, width: int = WIDE) -> RenderableType:
    """Return what the graph does as a table of its nodes, and the whole way to each of its ends.

    `width` is that of the terminal: a narrow one gets fewer columns.
    """
    state = stats["state"]
    title = Text.assemble(
        (stats["graph"], "bold"),
        "  ",
        (state.lower(), _STATES.get(state, "green")),
        (f"  for {_duration(stats['playing_s'])}, seen over the last {stats['window_s']:.0f} s", "dim"),
    )
    return Group(title, _nodes(stats, width), *_ways(stats), *_drops(stats), *_lines(lines or []))


def _nodes(stats: dict[str, Any], width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("node", style="cyan", overflow="ellipsis", min_width=8)
    table.add_column("state", no_wrap=True, min_width=10)
    wide = width >= WIDE
    wait = ("p50", "p95", "p99") if wide else ("p50", "p95")
    columns: list[tuple[str, Callable[[dict[str, Any]], Text | str]]] = [
        ("fps", lambda node: f"{node['fps']:.1f}"),
        ("queue", lambda node: str(node["queue"])),
        (f"wait ms\n{' / '.join(wait)}", lambda node: _times(node["wait_ms"], *wait)),
        ("process ms\np50 / p95 / p99", lambda node: _times(node["process_ms"])),
        ("drops\nper s", lambda node: _alarm(f"{node['dropped_per_s']:.1f}", node["dropped_per_s"] > 0, "yellow")),
        ("CPU\n%", lambda node: f"{node['cpu_percent']:.0f}"),
        ("MB", lambda node: f"{node['memory_mb']:.0f}"),
    ]
    if wide:
        columns[4:4] = [("publish\np50", lambda node: _times(node["publish_ms"], "p50")), ("busy\n%", _busy)]
    for heading, _ in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, node in stats["nodes"].items():
        state = Text(node["state"].lower(), style=_STATES.get(node["state"], ""))
        table.add_row(Text(name), state, *(cell(node) for _, cell in columns))
    return table


def _busy(node: dict[str, Any]) -> Text:
    return _alarm(f"{node['busy_percent']:.0f}", node["busy_percent"] >= BUSY_PERCENT, "bold red")


def _alarm(text: str, raised: bool, style: str) -> Text:
    return Text(text, style=style if raised else "")


def _ways(stats: dict[str, Any]) -> Iterator[Text]:
    width = max(map(len, stats["paths"]), default=0)
    for sink, age in stats["paths"].items():
        times = "no frames" if age is None else ", ".join(f"{name} {short_ms(ms)}" for name, ms in age.items()) + " ms"
        yield Text.assemble(f"capture → {sink:<{width}}  ", (times, "bold"))


def _drops(stats: dict[str, Any]) -> Iterator[Text]:
    for name, edge in stats["edges"].items():
        if edge["dropped"]:
            yield Text(f"dropped {edge['dropped']:,} on {name} ({edge['dropped_per_s']:.1f} per s)", style="yellow")
    for name, node in stats["nodes"].items():
        if node["restarts"]:
            yield Text(f"restarts of {name}: {node['restarts']}", style="yellow")


def _lines(lines: list[dict[str, Any]]) -> Iterator[Text]:
    for line in lines:
        at, who = time.strftime("%H:%M:%S", time.localtime(line["time"])), line["node"] and f"{line['node']}: "
        text = f"{at} {who}{line['text'].partition(chr(10))[0]}"
        yield Text(text, style="yellow" if line["level"] == "WARNING" else "red", overflow="ellipsis", no_wrap=True)


def _times(times: dict[str, float] | None, *names: str) -> str:
    if times is None:
        return "-"
    return " / ".join(short_ms(times[name]) for name in names or times)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}" if minutes else f"{seconds} s"
