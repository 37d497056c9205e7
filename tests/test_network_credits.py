"""Messages that a client over tcp does not read use memory of the supervisor; their number is limited."""

from pathlib import Path
from typing import Any

import pytest
import zmq

import graph
from graph import wire
from graph.attached import RunningGraph
from graph.gateway import MAX_CREDITS
from tests.conftest import PATIENCE_S, eventually
from tests.listening import listening

pytestmark = pytest.mark.slow
EDGE = "copy.copied -> attached"


def say(client: "zmq.Socket[bytes]", **words: Any) -> None:
    client.send(wire.pack({"v": wire.VERSION, **words}))


def kinds(client: "zmq.Socket[bytes]", count: int) -> list[str]:
    """Read `count` messages other than pings; return their kinds."""
    found: list[str] = []
    while len(found) < count:
        assert client.poll(PATIENCE_S * 1000), found
        found += [kind for kind in [wire.unpack(client.recv_multipart()[0])["k"]] if kind != "ping"]
    return found


def kinds_there(client: "zmq.Socket[bytes]") -> set[str]:
    found = set()
    while client.poll(0):
        found.add(wire.unpack(client.recv_multipart()[0])["k"])
    return found


def edge(g: RunningGraph) -> dict[str, Any]:
    found: dict[str, Any] = g.stats()["edges"].get(EDGE, {"dropped": 0})
    return found


def test_unread_messages_of_a_client_are_limited(tmp_path: Path, context: "zmq.Context[Any]") -> None:
    with listening(tmp_path) as (_, address), context.socket(zmq.DEALER) as client, graph.attach("main") as g:
        client.connect(address)
        say(client, k="hello", port="copy.copied", policy="latest", queue=1, credits=MAX_CREDITS)
        for _ in range(5):
            say(client, k="credit", n=1000, release=[])
        assert eventually(lambda: edge(g)["dropped"] > 0)
        assert kinds(client, 1 + MAX_CREDITS) == ["welcome"] + ["data"] * MAX_CREDITS
        assert not kinds_there(client) - {"ping"}
        say(client, k="credit", n=5, release=[])
        assert kinds(client, 5) == ["data"] * 5


def test_client_that_grants_credits_without_reading_is_disconnected(
    tmp_path: Path, context: "zmq.Context[Any]"
) -> None:
    with listening(tmp_path) as (_, address), context.socket(zmq.DEALER) as client, graph.attach("main") as g:
        client.set(zmq.RCVHWM, 1)
        client.connect(address)
        say(client, k="hello", port="copy.copied", policy="latest", queue=1, credits=MAX_CREDITS)
        assert eventually(lambda: EDGE in g.stats()["edges"])

        def left() -> bool:
            say(client, k="credit", n=MAX_CREDITS, release=[])
            return EDGE not in g.stats()["edges"]

        assert eventually(left)


def test_many_requests_at_once_are_all_answered(tmp_path: Path, context: "zmq.Context[Any]") -> None:
    with listening(tmp_path) as (_, address), context.socket(zmq.DEALER) as client:
        client.connect(address)
        for number in range(900):
            say(client, k="describe", id=number)
        numbers = []
        while len(numbers) < 900:
            assert client.poll(PATIENCE_S * 1000), len(numbers)
            numbers.append(wire.unpack(client.recv())["id"])
        assert numbers == [*range(900)]
