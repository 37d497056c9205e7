"""The table of `run_graph.py top`."""

import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from graph.attached import RunningGraph
from graph.columns import Column, fitting
from graph.errors import GraphError
from graph.metrics import UNMATCHED, short_ms

BUSY_PERCENT = 90.0  # from here on a node is shown in red: it can hardly do more
PROBLEMS = 3  # newest warnings and errors shown
_STATES = {
    "PROCESSING": "green",
    "WAITING": "dim",
    "DRAINING": "dim",
    "DONE": "dim",
    "BLOCKED": "magenta",
    "PAUSED": "yellow",
    "FAILED": "bold red",
}


def watch(g: RunningGraph, console: Console, every: float) -> None:
    """Show the table, updated every `every` seconds, until the graph ends or Ctrl-C."""
    with Live(console=console, auto_refresh=False) as live:
        try:
            while True:
                live.update(view(g.stats(), problems(g), console.width), refresh=True)
                time.sleep(every)
        except GraphError as exc:
            live.console.print(str(exc))
        except KeyboardInterrupt:
            pass


def problems(g: RunningGraph) -> list[dict[str, Any]]:
    """Return the newest warnings and errors of the graph."""
    return [line for line in g.log() if line["level"] in ("WARNING", "ERROR", "CRITICAL")][-PROBLEMS:]


def view(stats: dict[str, Any], lines: list[dict[str, Any]], width: int) -> RenderableType:
    """Return a table of the nodes, the latency to each sink, drops, restarts, and the newest log `lines`.

    `width` is in characters: a narrow terminal gets fewer columns.
    """
    state = stats["state"]
    title = Text.assemble(
        (stats["graph"], "bold"),
        "  ",
        (state.lower(), _STATES.get(state, "green")),
        (f"  for {_duration(stats['playing_s'])}, averaged over the last {stats['window_s']:.0f} s", "dim"),
    )
    table = fitting(_COLUMNS, list(stats["nodes"].items()), width)
    return Group(title, table, *_latencies(stats), *_drops(stats), *_lines(lines))


_COLUMNS = (  # a row is a node's name and its stats
    Column("node", lambda row: Text(row[0]), 0, "left", "cyan"),
    Column("state", lambda row: Text(row[1]["state"].lower(), _STATES.get(row[1]["state"], "")), 1, "left", least=10),
    Column("fps", lambda row: f"{row[1]['fps']:.1f}", 0, least=5),
    Column("queue", lambda row: "-" if row[1]["queue"] is None else str(row[1]["queue"]), 8),
    Column("wait ms\np50 / p95", lambda row: _times(row[1]["wait_ms"], "p50", "p95"), 7, least=11),
    Column("process ms\np50 / p95 / p99", lambda row: _times(row[1]["process_ms"]), 2, least=18),
    Column("publish\np50", lambda row: _times(row[1]["publish_ms"], "p50"), 9),
    Column("busy\n%", lambda row: _busy(row[1]["busy_percent"]), 5),
    Column("drops\nper s", lambda row: _per_s(row[1]["dropped_per_s"]), 3),
    Column("CPU\n%", lambda row: f"{row[1]['cpu_percent']:.0f}", 4, least=3),
    Column("MB", lambda row: f"{row[1]['memory_mb']:.0f}", 6, least=4),
)


def _busy(percent: float) -> Text:
    return _alarm(f"{percent:.0f}", percent >= BUSY_PERCENT, "bold red")


def _per_s(rate: float | None) -> Text:
    return Text("-") if rate is None else _alarm(f"{rate:.1f}", rate > 0, "yellow")


def _alarm(text: str, raised: bool, style: str) -> Text:
    return Text(text, style=style if raised else "")


def _latencies(stats: dict[str, Any]) -> Iterator[Text]:
    width = max(map(len, stats["paths"]), default=0)
    for sink, age in stats["paths"].items():
        times = "no frames" if age is None else ", ".join(f"{name} {short_ms(ms)}" for name, ms in age.items()) + " ms"
        yield Text.assemble(f"capture → {sink:<{width}}  ", (times, "bold"))


def _drops(stats: dict[str, Any]) -> Iterator[Text]:
    for name, edge in stats["edges"].items():
        if edge["dropped"]:
            yield Text(f"dropped {edge['dropped']:,} on {name} ({edge['dropped_per_s']:.1f} per s)", style="yellow")
    for name, node in stats["nodes"].items():
        if node["unmatched"]:
            yield Text(f"unmatched {node['unmatched']:,} inputs of {name}: {UNMATCHED}", style="yellow")
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
