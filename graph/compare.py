"""Compare two runs by their latency.json (`run --profile DIR`): what got slower, what got faster."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Group
from rich.table import Table
from rich.text import Text

from graph.columns import Column, fitting
from graph.errors import ConfigError
from graph.metrics import short_ms
from graph.profile import FORMAT

NOISE = 0.10  # of the value: two runs of the same graph differ by this much
NOISE_MS = 0.05  # the same for times
NOISE_PERCENT = 5.0  # the same for shares of a core
SHOWN = (  # with the rank of their columns
    ("process_ms", "p50", 1),
    ("process_ms", "p95", 4),
    ("wait_ms", "p50", 3),
    ("age_ms", "p50", 2),
    ("age_ms", "p95", 6),
)

_STYLES = {"worse": "red", "better": "green", "": ""}


class Change(NamedTuple):
    """One number in both runs."""

    before: float
    after: float
    least: float  # a smaller difference is noise
    more_is_worse: bool = True

    @property
    def verdict(self) -> str:
        """Return "worse", "better", or "" if the difference is noise."""
        difference = self.after - self.before
        if abs(difference) <= max(self.least, NOISE * abs(self.before)):
            return ""
        return "worse" if (difference > 0) == self.more_is_worse else "better"

    @property
    def percent(self) -> str:
        """Return the change as text: +52 %."""
        return f"{100 * (self.after - self.before) / self.before:+.0f} %" if self.before else "new"


def load(folder: Path) -> dict[str, Any]:
    """Return the summary of a run (graph/profile.py) from a --profile folder or its latency.json.

    Raises ConfigError if there is none, or one that this version cannot read.
    """
    path = folder if os.path.isfile(folder) else folder / "latency.json"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise ConfigError(f"no {path}; create it: run_graph.py CONFIG --profile {folder}") from exc
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{path}: cannot be read: {getattr(exc, 'strerror', exc)}") from exc
    if not isinstance(summary, dict) or "format" not in summary or "nodes" not in summary:
        raise ConfigError(f"{path}: is not the latency.json of a run")
    if summary["format"] != FORMAT:
        found, again = summary["format"], "create it again: run_graph.py CONFIG --profile DIR"
        raise ConfigError(f"{path}: has format {found}, but this version reads format {FORMAT}; {again}")
    return summary


def report(before: dict[str, Any], after: dict[str, Any], width: int) -> Group:
    """Return a table of both runs, at most `width` characters wide, and the changes in words, the largest first."""
    return Group(_table(before, after, width), *_warnings(before, after), "", *_sentences(before, after))


def _changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, dict[str, Change]]:
    """Return the changes of the nodes that have frames in both runs."""
    found: dict[str, dict[str, Change]] = {}
    for name, old in before["nodes"].items():
        new = after["nodes"].get(name)
        if new is None or not old["frames"] or not new["frames"]:
            continue
        found[name] = {"fps": Change(old["fps"], new["fps"], 0.1, more_is_worse=False)}
        for kind, p, _ in SHOWN:
            found[name][f"{kind.removesuffix('_ms')} {p}"] = Change(old[kind][p], new[kind][p], NOISE_MS)
        found[name]["CPU"] = Change(old["cpu_percent"], new["cpu_percent"], NOISE_PERCENT)
        found[name]["memory"] = Change(old["memory_mb"], new["memory_mb"], 5.0)
        found[name]["dropped"] = Change(_dropped(before, name), _dropped(after, name), 0.01)
    return found


def _dropped(summary: dict[str, Any], node: str) -> float:
    """Return the share of the messages to a node that were dropped; it must have had frames."""
    lost = [float(edge["dropped"]) for name, edge in summary["edges"].items() if _target(name) == node]
    return sum(lost) / (sum(lost) + float(summary["nodes"][node]["frames"]))


def _target(edge: str) -> str:
    return edge.rpartition(" -> ")[2].partition(".")[0]


def _sinks(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Change]:
    """Return the change of the p50 age at each sink that is in both runs."""
    old, new = before["capture_to_sink"], after["capture_to_sink"]
    return {name: Change(old[name]["p50"], new[name]["p50"], NOISE_MS) for name in old if name in new}


def _table(before: dict[str, Any], after: dict[str, Any], width: int) -> Table:
    def column(heading: str, what: str, rank: int, text: Callable[[float], str] = short_ms) -> Column:
        return Column(heading, lambda row: _cell(row[1][what], text), rank)

    node = Column("node", lambda row: Text(row[0]), 0, "left", "cyan")
    fps, cpu = column("fps", "fps", 0, "{:.1f}".format), column("CPU\n%", "CPU", 5, "{:.0f}".format)
    names = [(kind.removesuffix("_ms"), p, rank) for kind, p, rank in SHOWN]
    times = [column(f"{kind} ms\n{p}", f"{kind} {p}", rank) for kind, p, rank in names]
    return fitting([node, fps, *times, cpu], list(_changes(before, after).items()), width)


def _cell(change: Change, text: Callable[[float], str]) -> Text:
    style = _STYLES[change.verdict] or "dim"
    return Text(f"{text(change.before)} → {text(change.after)}", style=style)


def _warnings(before: dict[str, Any], after: dict[str, Any]) -> Iterator[Text]:
    """Yield what makes the two runs hard to compare."""
    for what in ("cpu", "cores", "system", "python"):
        old, new = before["machine"].get(what), after["machine"].get(what)
        if old != new:
            yield Text(f"different {what}: {old}, {new}", style="yellow")
    for summary, other, which in ((before, after, "first"), (after, before, "second")):
        alone = [name for name in summary["nodes"] if name not in other["nodes"]]
        if alone:
            yield Text(f"only in the {which} run: {', '.join(alone)}", style="yellow")
        still = [name for name, node in summary["nodes"].items() if not node["frames"]]
        if still:
            yield Text(f"no frames in the {which} run: {', '.join(still)}", style="yellow")


def _sentences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[Text]:
    """Yield what got worse and better: first at the sinks, then the nodes' own work, then drops and memory."""
    nodes = _changes(before, after)
    if not nodes:
        yield Text("no node has frames in both runs")
    for name, change in _sinks(before, after).items():
        word = {"worse": "slower", "better": "faster", "": "as fast as before"}[change.verdict]
        yield _sentence(f"capture → {name} is {word}", "p50", change)
        if (fps := nodes[name]["fps"]).verdict:
            text = f"{name} runs at {fps.after:.1f} fps, was {fps.before:.1f}"
            yield Text(text, style=_STYLES[fps.verdict])
    for verdict, word in (("worse", "slower"), ("better", "faster")):
        own = [(name, changes["process p50"]) for name, changes in nodes.items()]
        own = [(name, change) for name, change in own if change.verdict == verdict]
        for name, change in sorted(own, key=lambda item: -abs(item[1].after - item[1].before)):
            yield _sentence(f"{name} itself is {word}", "process p50", change)
    for name, changes in nodes.items():
        if changes["dropped"].verdict:
            old, new = changes["dropped"].before, changes["dropped"].after
            style = _STYLES[changes["dropped"].verdict]
            yield Text(f"{name} misses {100 * new:.1f} % of its frames, was {100 * old:.1f} %", style=style)
        if changes["memory"].verdict == "worse":
            old, new = changes["memory"].before, changes["memory"].after
            yield Text(f"{name} uses more memory: {old:.0f} → {new:.0f} MB", style="red")


def _sentence(what: str, which: str, change: Change) -> Text:
    numbers = f"{which} {short_ms(change.before)} → {short_ms(change.after)} ms ({change.percent})"
    return Text(f"{what}: {numbers}", style=_STYLES[change.verdict])
