"""Restarted nodes: meanwhile they are slow consumers for their senders, and the policies of their edges apply."""

import contextlib
import json
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq

from graph import ConfigError, Frame, attach
from graph.receiver import Receiver
from graph.spec import EdgeSpec
from tests.conftest import PATIENCE_S, eventually
from tests.graphs import Graph, node, rows, wait_for_rows
from tests.pair import Pair, Publishing

EDGE = "n.out -> r.in"


def next_process(pair: Pair, policy: str, queue: int) -> Receiver:
    """The reader of the same edge in another process, which has received nothing yet."""
    options = {"name": "r.in", "run": "run", "restarts": 1, "policy": policy, "queue": queue}
    pair.receivers.append(Receiver(pair.context, pair.endpoint, "out", Frame, **options))  # type: ignore[arg-type]
    return pair.receivers[-1]


def away(pair: Pair) -> bool:
    """Whether the sender waits for the next process of its reader."""
    return any(link.away for link in pair.sender._links.values())


def test_block_waits_for_the_next_process_of_the_reader(pair: Pair) -> None:
    first = pair.receiver("block", 2)
    assert pair.take(first, 0) == []
    pair.publish(0, 1, 2, 3, 4)  # four in transit, one queued
    first.close(again=True)
    pair.until(lambda: pair.sender.depths() == {EDGE: 1} and away(pair))
    publishing = Publishing(pair, 4, first=5)
    assert eventually(lambda: pair.blocked == [True])
    publishing.join(0.25)
    assert publishing.is_alive()
    second = next_process(pair, "block", 2)
    assert pair.take(second, 5) == [4, 5, 6, 7, 8]
    publishing.join()
    second.close()
    pair.until(pair.sender.idle)
    assert not pair.drops and pair.leases() == 0


def test_messages_dropped_during_a_restart_are_counted(pair: Pair) -> None:
    first = pair.receiver("latest", 1)
    first.close(again=True)
    pair.until(lambda: away(pair))
    pair.publish(*range(10))
    assert pair.drops == {EDGE: 9}
    assert pair.take(next_process(pair, "latest", 1), 1) == [9]


def test_message_to_a_process_that_has_just_died_waits_for_the_next_one(pair: Pair) -> None:
    first = pair.receiver("block", 4)
    (identity,) = pair.sender._links
    first.socket.close(linger=0)

    def noticed() -> bool:
        try:
            pair.sender._router.send_multipart([identity, b""])
        except zmq.ZMQError:
            return True
        return False

    assert eventually(noticed)
    pair.publish(0)
    assert pair.sender.depths() == {EDGE: 1} and pair.leases() == 1
    second = next_process(pair, "block", 4)
    assert pair.take(second, 1) == [0]
    pair.until(lambda: pair.leases() == 0)


def test_death_reported_after_the_next_process_has_connected_does_not_disconnect_it(pair: Pair) -> None:
    """For instance because the sender was suspended for some seconds; the queue is kept, too."""
    first = pair.receiver("block", 2)
    assert pair.take(first, 0) == []
    pair.publish(0, 1, 2, 3, 4)  # four in transit, one queued
    second = next_process(pair, "block", 2)
    pair.until(lambda: second.socket.poll(0) != 0)
    assert len(pair.sender.depths()) == 1
    pair.sender.forget("r", restarts=0)
    assert not away(pair)
    assert pair.take(second, 1) == [4]
    pair.publish(5)
    assert pair.take(second, 1) == [5]
    pair.until(lambda: pair.leases() == 0)
    pair.sender.forget("r", restarts=1)
    assert away(pair)


def test_block_does_not_wait_for_a_node_that_has_ended_for_good(pair: Pair) -> None:
    pair.receiver("block", 2).close(again=True)
    pair.until(lambda: away(pair))
    publishing = Publishing(pair, 10)
    assert eventually(lambda: pair.blocked == [True])
    publishing.join(0.25)
    assert publishing.is_alive()
    pair.sender.forget("r")
    publishing.join(20)
    assert not publishing.is_alive() and pair.sender.idle() and pair.leases() == 0


def test_restarted_sender_with_block_waits_for_its_readers(pair: Pair) -> None:
    pair.sender.expect([EdgeSpec("n.out", "r.in", "block", 2, "seq")])
    publishing = Publishing(pair, 5)
    assert eventually(lambda: pair.blocked == [True])
    publishing.join(0.25)
    assert publishing.is_alive() and pair.sender.depths() == {EDGE: 2}
    assert pair.take(next_process(pair, "block", 2), 5) == [0, 1, 2, 3, 4]
    publishing.join()
    pair.until(lambda: pair.leases() == 0)


def test_restarted_sender_counts_what_its_readers_miss(pair: Pair) -> None:
    pair.sender.expect([EdgeSpec("n.out", "r.in", "latest", 1, "seq")])
    pair.publish(*range(10))
    assert pair.drops == {EDGE: 9}
    pair.sender.forget("r")
    assert pair.sender.idle() and pair.leases() == 0


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_restart_with_block_only_loses_the_frames_of_the_process(tmp_path: Path, killed: bool) -> None:
    """Of 400 frames per second, at most those in the node's queues are lost."""
    copy: dict[str, Any] = node("Copy", {"frame": "source.frame"}) | {"restart": "on_failure"}
    config = {
        "name": "line",
        "nodes": {
            "source": node("Source", frames=1500, pause=0.0025),
            "copy": copy,
            "write": node("Write", {"frame": "copy.copied"}),
        },
    }
    out = tmp_path / "out.jsonl"
    with Graph(tmp_path, config, "run", "--profile", str(tmp_path / "profile")) as graph:
        with attach("line", wait=PATIENCE_S) as g:
            wait_for_rows(out, 100)
            if killed:
                graph.node("copy").kill()
            else:
                g.restart("copy")
        assert graph.wait() == 0, graph.text()
    seqs = [row[0] for row in rows(out)]
    assert seqs == sorted(set(seqs)) and seqs[-1] == 1499
    assert 1500 - len(seqs) <= 8 + 4 + 8  # in transit to it, in its own queue, in transit from it
    profile = json.loads((tmp_path / "profile" / "latency.json").read_text())
    assert profile["nodes"]["copy"]["restarts"] == 1


@pytest.mark.slow
def test_node_that_dies_after_all_nodes_before_it_have_ended(tmp_path: Path) -> None:
    """Its next process has no sender, and ends the stream for the nodes after it."""
    copy: dict[str, Any] = node("Copy", {"frame": "source.frame"}) | {"restart": "on_failure"}
    write = node("Write", {"frame": "copy.copied"}, pause=0.3)
    config = {"name": "tail", "nodes": {"source": node("Source", frames=20), "copy": copy, "write": write}}
    with Graph(tmp_path, config) as graph:
        with attach("tail", wait=PATIENCE_S) as g:
            assert eventually(lambda: g.stats()["nodes"]["source"]["state"] == "DONE")
            graph.node("copy").kill()
        assert graph.wait() == 0, graph.text()
    assert "copy: restarting" in graph.text()
    assert (tmp_path / "out.jsonl").read_text().endswith("closed\n")


@pytest.mark.slow
def test_two_neighbours_that_die_together_only_lose_their_frames(tmp_path: Path) -> None:
    """The first one is back long before the second, and has no consumer yet."""
    copy: dict[str, Any] = node("Copy", {"frame": "source.frame"}) | {"restart": "on_failure"}
    slow: dict[str, Any] = node("Copy", {"frame": "copy.copied"}, load=3.0) | {"restart": "on_failure"}
    config = {
        "name": "two",
        "nodes": {
            "source": node("Source", frames=1000, pause=0.0025),
            "copy": copy,
            "slow": slow,
            "write": node("Write", {"frame": "slow.copied"}),
        },
    }
    out = tmp_path / "out.jsonl"
    with Graph(tmp_path, config) as graph:
        wait_for_rows(out, 100)
        for name in ("slow", "copy"):
            graph.node(name).kill()
        assert graph.wait() == 0, graph.text()
    seqs = [row[0] for row in rows(out)]
    assert seqs == sorted(set(seqs)) and seqs[-1] == 999
    assert 1000 - len(seqs) <= 2 * (8 + 4) + 8  # in transit to each of them, and in its queue


def has_process(graph: Graph, name: str) -> bool:
    """Whether a node's process runs, or is starting."""
    with contextlib.suppress(AssertionError, psutil.Error, IndexError):
        return bool(graph.node(name).pid)
    return False


def line(**settings: Any) -> dict[str, Any]:
    """source -> copy -> write, all with restart: on_failure; `settings` are copy's."""
    nodes = {
        "source": node("Source", frames=100_000, pause=0.01),
        "copy": node("Copy", {"frame": "source.frame"}, **settings),
        "write": node("Write", {"frame": "copy.copied"}),
    }
    return {"name": "line", "nodes": {name: about | {"restart": "on_failure"} for name, about in nodes.items()}}


@pytest.mark.slow
def test_setting_is_kept_until_a_starting_process_can_receive_it(tmp_path: Path) -> None:
    with Graph(tmp_path, line(load=1.0)) as graph:
        with attach("line", wait=PATIENCE_S) as g:
            wait_for_rows(tmp_path / "out.jsonl", 5)
            graph.node("copy").kill()
            assert eventually(lambda: "copy: restarting" in graph.text() and has_process(graph, "copy"))
            with contextlib.suppress(ConfigError):  # it takes longer than the timeout
                g.set("copy.pause", 0.02)
            assert eventually(lambda: g.spec()["nodes"]["copy"]["settings"]["pause"]["value"] == 0.02)
        graph.interrupt()
        assert graph.wait() == 0, graph.text()


@pytest.mark.slow
def test_source_restarted_in_a_paused_graph_stays_paused(tmp_path: Path) -> None:
    def came() -> bool:
        return any(row[1] == 1 for row in rows(tmp_path / "out.jsonl"))

    with Graph(tmp_path, line()) as graph:
        with attach("line", wait=PATIENCE_S) as g:
            wait_for_rows(tmp_path / "out.jsonl", 5)
            g.pause()
            g.restart("source")
            assert not eventually(came, seconds=1.0)
            g.resume()
            assert eventually(came)
        graph.interrupt()
        assert graph.wait() == 0, graph.text()


@pytest.mark.slow
def test_node_that_dies_before_the_graph_plays_is_linked_again(tmp_path: Path) -> None:
    """Linking cannot complete before the suspended source has answered; no frame has been sent yet."""
    copy: dict[str, Any] = node("Copy", {"frame": "source.frame"}, load=2.0) | {"restart": "on_failure"}
    config = {
        "name": "early",
        "nodes": {
            "source": node("Source", frames=50),
            "copy": copy,
            "pair": node("Pair", {"a": "source.frame", "b": "copy.copied"}),
            "numbers": node("WriteNumbers", {"numbers": "pair.paired"}),
        },
    }
    with Graph(tmp_path, config) as graph:
        with attach("early", wait=PATIENCE_S) as g:

            def state(name: str) -> str:
                return str(g.spec()["nodes"][name]["state"])

            assert eventually(lambda: state("source") == "READY")
            source = graph.node("source")
            source.suspend()
            assert eventually(lambda: state("numbers") == "LINKED")
            graph.node("copy").kill()
            assert eventually(lambda: state("copy") == "NULL")
            source.resume()
        assert graph.wait() == 0, graph.text()
    lines = (tmp_path / "numbers.jsonl").read_text().splitlines()
    assert [json.loads(line)[0] for line in lines] == [*range(50)]
