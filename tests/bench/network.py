"""Measure the pictures per second that a reader gets over tcp on this machine, unencrypted and encrypted.

python -m tests.bench.network [WIDTH HEIGHT]
"""

import itertools
import re
import sys
import tempfile
import time
from pathlib import Path

import graph
from graph import network
from tests.conftest import eventually
from tests.graphs import Graph

SECONDS = 5.0


def measure(folder: Path, width: int, height: int, keys: Path | None) -> list[float]:
    """Return the rates with one picture in flight at a time, and with four."""
    settings = {"pattern": "plain", "width": width, "height": height}
    config = {
        "name": "network",
        "listen": "tcp://127.0.0.1:0",
        "nodes": {"source": {"type": "nodes.source:TestSource", "settings": settings}},
    }
    if keys:
        config["keys"] = str(keys)
    rates = []
    with Graph(folder, config) as running:
        assert eventually(running.playing), running.text()
        address = re.findall(r"can be attached to at (tcp://\S+)", running.text())[0]
        with graph.attach(address, keys=keys and keys / "reader") as g:
            for policy, queue in (("latest", 1), ("drop_oldest", 4)):
                stream = g.subscribe("source.frame", policy=policy, queue=queue, copy=False)
                next(stream)
                began = time.perf_counter()
                count = sum(1 for _ in itertools.takewhile(lambda _: time.perf_counter() - began < SECONDS, stream))  # noqa: B023
                rates.append(count / SECONDS)
        running.interrupt()
        running.wait()
    return rates


def main() -> None:
    width, height = map(int, sys.argv[1:3] or (1920, 1080))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network.make_keys(folder / "keys", ["reader"])
        for label, keys in (("unencrypted", None), ("encrypted", folder / "keys")):
            one, four = measure(folder, width, height, keys)
            print(f"{width} x {height} {label}: {one:.0f} fps one at a time, {four:.0f} fps with four in flight")


if __name__ == "__main__":
    main()
