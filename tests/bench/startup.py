"""Measure how long a graph takes to start: the demo by default.

python -m tests.bench.startup [--config configs/demo.yaml] [--set node.setting=value] [--repeats 3] [--json FILE]

PLAYING: from the call of `supervisor.run` until every node plays. READY: until the process of a node has imported its
module and opened the node; all start at the same time and share the cores. import and open: the same two steps of one
node alone in a new process.
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgpack

from graph import config
from graph.spec import GraphSpec, NodeSpec
from tests.bench._measure import console, head, interleave, load, median, save, table, verdict
from tests.bench._ours import run_quietly

GOAL_S = 3.0  # for the demo
PLAYED_S = 1.0  # how long the graph plays before it is stopped
ALONE = """
import logging, sys, time
logging.disable(logging.WARNING)  # writing nodes warn that they got no frame
start = time.monotonic()
import msgpack
import graph.process
runtime = time.monotonic()
from graph.spec import NodeSpec, build
node = build(NodeSpec(*msgpack.unpackb(sys.stdin.buffer.read())))
imported = time.monotonic()
node.open()
opened = time.monotonic()
node.close()
print(runtime - start, imported - runtime, opened - imported)
"""


class States(logging.Handler):
    """Records when each node reached each state, from the supervisor's log at DEBUG."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.start = time.monotonic()
        self.reached: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg == "%s is %s" and isinstance(record.args, tuple):
            node, state = record.args
            self.reached.setdefault(f"{node} {state}", time.monotonic() - self.start)
        elif record.levelno >= logging.WARNING:
            console.print(record.getMessage(), markup=False)


def start(spec: GraphSpec) -> dict[str, float]:
    """Start the graph once; return the seconds until "node STATE" and until all were "PLAYING"."""
    logger = logging.getLogger("facegraph")
    states, level, propagate = States(), logger.level, logger.propagate
    logger.addHandler(states)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        run_quietly(spec, duration=PLAYED_S)
    finally:
        logger.removeHandler(states)
        logger.setLevel(level)
        logger.propagate = propagate
    return states.reached | {"PLAYING": max(states.reached[f"{name} PLAYING"] for name in spec.nodes)}


def writing_to(spec: GraphSpec, folder: str) -> GraphSpec:
    """Return the graph with all its output files in `folder`."""
    nodes = {}
    for name, node in spec.nodes.items():
        here = {"path": f"{folder}/{Path(node.settings['path']).name}"} if "path" in node.settings else {}
        nodes[name] = replace(node, settings={**node.settings, **here})
    return replace(spec, nodes=nodes)


def alone(node: NodeSpec) -> dict[str, float]:
    """Return the seconds that a node needs in a new process without other nodes."""
    wanted: bytes = msgpack.packb([node.name, node.type, dict(node.settings), node.restart])
    output = subprocess.run([sys.executable, "-c", ALONE], input=wanted, stdout=subprocess.PIPE, check=True).stdout
    last = output.decode().splitlines()[-1]
    return dict(zip(("runtime", "import", "open"), map(float, last.split()), strict=True))


def show(spec: GraphSpec, starts: list[Mapping[str, float]], singles: Mapping[str, list[Mapping[str, float]]]) -> None:
    shown = table("seconds", "READY together", "runtime alone", "import alone", "open alone")
    for name in spec.nodes:
        numbers = [
            median(starts, f"{name} READY"),
            *(median(singles[name], key) for key in ("runtime", "import", "open")),
        ]
        shown.add_row(name, *(f"{number:.2f}" for number in numbers))
    console.print(shown)


def measure(spec: GraphSpec, repeats: int, file: Path | None) -> None:
    """Measure, show and save."""
    about = head(f"start of {spec.name}, {len(spec.nodes)} nodes, {repeats} repetitions")
    starts = [start(spec) for _ in range(repeats)]
    singles = interleave({name: partial(alone, node) for name, node in spec.nodes.items()}, repeats)
    show(spec, starts, singles)
    playing = median(starts, "PLAYING")
    console.print(f"all PLAYING after {playing:.2f} s {verdict(playing, GOAL_S, at_most=True)}, load {load():.1f}")
    results: dict[str, Any] = {"about": about, "playing_s": playing, "starts": starts, "alone": singles}
    save(file, json.loads(json.dumps(results)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.startup", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="NODE.SETTING=VALUE")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fg") as folder:
        measure(writing_to(config.load(options.config, options.overrides), folder), options.repeats, options.json)


if __name__ == "__main__":
    main()
