"""Readers that are killed, and many that come and go: the graph neither waits for them nor leaks anything."""

import contextlib
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import pytest

import graph
from tests.attached import running, take, untouched
from tests.conftest import eventually
from tests.graphs import Graph, rows, wait_for_rows

pytestmark = pytest.mark.slow

CONSUMER = """
import sys, time, graph
kept = []
with graph.attach("main") as g:
    for frame in g.subscribe("copy.copied", policy=sys.argv[1], queue=4):
        kept.append(frame)
        print(frame.seq, flush=True)
"""


@pytest.mark.parametrize("policy", ["block", "drop_oldest"])
def test_killed_consumer_is_forgotten(tmp_path: Path, policy: str) -> None:
    """It holds frames, and its edge may even block, but the graph continues."""
    with Graph(tmp_path, running()) as main:
        wait_for_rows(tmp_path / "out.jsonl", 5)
        consumer = subprocess.Popen([sys.executable, "-c", CONSUMER, policy], stdout=subprocess.PIPE, text=True)
        assert consumer.stdout is not None
        assert [int(consumer.stdout.readline()) > 0 for _ in range(10)] == [True] * 10
        consumer.kill()
        consumer.communicate()
        wait_for_rows(tmp_path / "out.jsonl", len(rows(tmp_path / "out.jsonl")) + 100)
        assert eventually(lambda: "is gone" in main.text())
        main.interrupt()
        assert main.wait() == 0, main.text()
    assert untouched(tmp_path)


def held(main: Graph, but: str = "nothing") -> dict[str, tuple[Counter[str], int]]:
    """What the processes of a graph hold: open files by kind (slots are memfds) except one kind, and threads."""
    processes = [psutil.Process(main.process.pid), *main.nodes()]
    return {process.cmdline()[-1]: (open_files(process, but), process.num_threads()) for process in processes}


def open_files(process: psutil.Process, but: str) -> Counter[str]:
    kinds: Counter[str] = Counter()
    for path in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            kinds[re.sub(r"\d+", "N", str(path.readlink()))] += but not in str(path.readlink())
    return +kinds


def megabytes(main: Graph) -> float:
    return sum(child.memory_info().rss for child in main.nodes()) / 1e6


def test_a_hundred_readers_come_and_go_and_some_are_killed(tmp_path: Path) -> None:
    with Graph(tmp_path, running()) as main:
        wait_for_rows(tmp_path / "out.jsonl", 5)
        at_first = held(main, "memfd")
        crowd(tmp_path)
        assert eventually(lambda: held(main, "memfd") == at_first), (at_first, held(main))
        before, memory = held(main), megabytes(main)
        come_and_go(100)
        kill_some(3)
        assert eventually(lambda: not attached_edges())
        assert eventually(lambda: held(main) == before), (before, held(main))
        assert megabytes(main) < memory + 30  # leaked links or slots would take far more than allocators keep
        wait_for_rows(tmp_path / "out.jsonl", len(rows(tmp_path / "out.jsonl")) + 50)
        main.interrupt()
        assert main.wait() == 0, main.text()
    assert untouched(tmp_path)


def crowd(folder: Path) -> None:
    """Let three readers at once take frames until their queues are full.

    The senders then have all the slots that one reader after the other needs: they make one when none is free,
    and keep it. A hundred readers that leave one slot behind need more.
    """
    with graph.attach("main") as g:
        streams = [g.subscribe("source.frame", "copy.copied", policy="drop_oldest", queue=16) for _ in range(3)]
        for stream in streams:
            next(stream)
            wait_for_rows(folder / "out.jsonl", len(rows(folder / "out.jsonl")) + 50)
    assert eventually(lambda: not attached_edges())


def kill_some(count: int) -> None:
    command = [sys.executable, "-c", CONSUMER, "block"]
    consumers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    for consumer in consumers:
        assert consumer.stdout is not None and consumer.stdout.readline()
        consumer.kill()
        consumer.communicate()


def come_and_go(times: int) -> None:
    for number in range(times):
        with graph.attach("main") as g:
            g.stats()
            take(g.subscribe("copy.copied", shm=number % 3 > 0), 1)
            if number % 5 == 0:
                take(g.subscribe("source.frame", "copy.copied"), 1)


def attached_edges() -> list[str]:
    with graph.attach("main") as g:
        return [name for name in g.stats()["edges"] if name.endswith("attached")]
