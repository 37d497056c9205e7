"""Streams of a handle as used in a notebook: opened twice, discarded, taken into another process."""

import copy
import math
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import pytest

import graph
from graph import ConfigError, GraphError
from graph.attached import RunningGraph
from tests.attached import running, take, untouched
from tests.conftest import PATIENCE_S
from tests.graphs import Graph, wait_for_rows

pytestmark = pytest.mark.slow


def test_a_port_may_be_named_twice(tmp_path: Path) -> None:
    with Graph(tmp_path, running()) as main:
        wait_for_rows(tmp_path / "out.jsonl", 5)
        with graph.attach("main") as g:
            for first, second in take(g.subscribe("source.frame", "source.frame"), 3):
                assert first.seq == second.seq and first.image is not second.image
            for a, b, c in take(g.subscribe("copy.copied", "source.frame", "copy.copied"), 3):
                assert a.seq == b.seq == c.seq and [len(m.header.hops) for m in (a, b, c)] == [2, 1, 2]
        main.interrupt()
        assert main.wait() == 0, main.text()
    assert untouched(tmp_path)


def test_discarded_stream_does_not_block_the_graph(tmp_path: Path) -> None:
    with Graph(tmp_path, running()) as main:
        wait_for_rows(tmp_path / "out.jsonl", 5)
        with graph.attach("main") as g:
            g.subscribe("source.frame", policy="block")  # discarded at once
            wait_for_rows(tmp_path / "out.jsonl", next(g.subscribe("copy.copied")).seq + 50)
        main.interrupt()
        assert main.wait() == 0, main.text()
    assert untouched(tmp_path)


def test_handle_cannot_be_pickled_or_copied(tmp_path: Path) -> None:
    """A copy would share the sockets, and its close() would wait for ever for them."""
    with Graph(tmp_path, running()) as main:
        wait_for_rows(tmp_path / "out.jsonl", 5)
        with graph.attach("main") as g:
            for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
                with pytest.raises(TypeError, match=r"'main' cannot be pickled or copied; attach\(\) again"):
                    duplicate(g)
        main.interrupt()
        assert main.wait() == 0, main.text()


@pytest.mark.parametrize("name", [5, b"main", Path("main")])
def test_invalid_names_of_graphs(name: Any) -> None:
    with pytest.raises(ConfigError, match="expected its name as a str, an address tcp://HOST:PORT, or None"):
        graph.attach(name)


def test_invalid_waits_and_folders_of_keys() -> None:
    wrong: Any
    for wrong in ("5", math.nan):
        with pytest.raises(ConfigError, match=rf"^wait={wrong!r}: expected a number of seconds$"):
            graph.attach("main", wrong)
    keys: Any = ["keys"]
    with pytest.raises(ConfigError, match=r"^keys=\['keys'\]: expected the folder of a client's keys"):
        graph.attach("tcp://127.0.0.1:5555", keys=keys)


def test_invalid_settings_ports_and_message_types(tmp_path: Path) -> None:
    ports: Any = ["source.frame", "copy.copied"]
    number: Any = 5
    there = "outputs: source.frame, copy.copied, pair.paired"
    no_type = "type_=5: expected a message type, like graph.Frame"
    with Graph(tmp_path, running()) as main:
        with graph.attach("main", wait=PATIENCE_S) as g:
            for ask, why in (
                (lambda: g.set(number, 5), "5 is not of the form node.setting"),
                (lambda: g.subscribe(ports), f"main has no output {ports}; {there}"),
                (lambda: g.listen(number), f"main has no output 5; {there}"),
                (lambda: g.subscribe("source.frame", type_=number), no_type),
            ):
                with pytest.raises(ConfigError) as told:
                    ask()
                assert str(told.value) == why
        main.interrupt()
        assert main.wait() == 0, main.text()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # which is what this tests
def test_forked_process_is_told_to_attach_anew(tmp_path: Path) -> None:
    def child(g: RunningGraph, stream: Any, said: Any) -> None:
        for use in (g.stats, lambda: g.subscribe("source.frame"), lambda: next(stream)):
            with pytest.raises(GraphError) as told:
                use()
            said.put(str(told.value))
        with graph.attach("main") as own:
            said.put(type(next(own.subscribe("source.frame"))).__name__)

    fork = multiprocessing.get_context("fork")
    with Graph(tmp_path, running()) as main:
        wait_for_rows(tmp_path / "out.jsonl", 5)
        with graph.attach("main") as g:
            stream, said = g.subscribe("source.frame"), fork.Queue()
            next(stream)
            process = fork.Process(target=child, args=(g, stream, said))
            process.start()
            why = "this handle on the graph 'main' is another process's; attach() in this one"
            assert [said.get(timeout=PATIENCE_S) for _ in range(4)] == [why, why, why, "Frame"]
            process.join()
            assert process.exitcode == 0
            assert next(stream).seq < next(stream).seq  # here it continues
        main.interrupt()
        assert main.wait() == 0, main.text()
