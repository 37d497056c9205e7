"""Shared by the benchmarks: interleaved repetitions, ratios, tables, the state of the machine."""

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

console = Console(width=110, highlight=False, soft_wrap=True)

Run = Callable[[], Mapping[str, float]]


def interleave(runs: Mapping[str, Run], repeats: int) -> dict[str, list[Mapping[str, float]]]:
    """Run everything `repeats` times in turns, so that changes in the machine's speed affect all alike."""
    results: dict[str, list[Mapping[str, float]]] = {name: [] for name in runs}
    order = list(runs)
    for repeat in range(repeats):
        for name in order if repeat % 2 == 0 else reversed(order):  # the order alternates, too
            results[name].append(runs[name]())
    return results


def median(results: Sequence[Mapping[str, float]], key: str) -> float:
    return float(np.median([result[key] for result in results]))


def ratio(ours: Sequence[Mapping[str, float]], floor: Sequence[Mapping[str, float]], key: str) -> float:
    """Return the median ratio of runs that were made one after the other."""
    return float(np.median([a[key] / b[key] for a, b in zip(ours, floor, strict=True) if b[key]]))


def load() -> float:
    """Return the load average of the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def machine() -> dict[str, Any]:
    """Return the properties of the machine on which the results depend."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load": round(load(), 2),
    }


def cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def head(title: str) -> dict[str, Any]:
    """Print and return the state of the machine, with a warning if it is busy."""
    about = machine()
    console.print(f"[bold]{title}[/]  {about['cpu']}, {about['cores']} cores, load {about['load']}")
    if about["load"] > 0.5:
        console.print("[yellow]the machine is busy: only ratios within this run are meaningful[/]")
    return about


def table(*titles: str) -> Table:
    made = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for index, title in enumerate(titles):
        made.add_column(title, justify="left" if index == 0 else "right")
    return made


def verdict(found: float, goal: float, at_most: bool) -> str:
    good = found <= goal if at_most else found >= goal
    return f"[green]meets {goal:g}[/]" if good else f"[red]misses {goal:g}[/]"


def save(path: Path | None, results: Mapping[str, Any]) -> None:
    """Write the results to a file, if there is one."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
