"""Requests to a running graph."""

from pathlib import Path
from typing import Any

import pytest
import zmq

from graph import ConfigError
from graph.lookout import ask
from graph.rundir import RunDir


@pytest.mark.parametrize(
    ("value", "words"),
    [(object(), "can not serialize 'object'"), (1 << 80, "value out of range"), ({1: 2}, "int is not allowed")],
)
def test_request_that_a_graph_cannot_read_is_refused_at_once(
    context: "zmq.Context[Any]", tmp_path: Path, value: Any, words: str
) -> None:
    with pytest.raises(ConfigError, match=f"cannot be sent to a graph: .*{words}.*; valid: str, "):
        ask(context, RunDir(tmp_path), "none", "set", 0.1, node="a", setting="b", value=value)
