"""The runtime of facegraph: nodes are processes that exchange typed messages.

This module exports everything that nodes and consumers may use; see graph/README.md.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from graph.errors import ConfigError, EndOfStream, GraphError, NodeError, WireError
from graph.finding import Finding
from graph.messages import OPENNESS, POSE, STATES, Detections, Faces, Frame, Header, Hop, Mark, Message, array
from graph.node import Input, Node, Output, setting, waiting
from graph.passwords import redact

if TYPE_CHECKING:
    from graph.attached import attach
    from graph.mcap_reader import recording
    from graph.network import is_loopback

__all__ = [
    "OPENNESS",
    "POSE",
    "STATES",
    "ConfigError",
    "Detections",
    "EndOfStream",
    "Faces",
    "Finding",
    "Frame",
    "GraphError",
    "Header",
    "Hop",
    "Input",
    "Mark",
    "Message",
    "Node",
    "NodeError",
    "Output",
    "WireError",
    "array",
    "attach",
    "is_loopback",
    "recording",
    "redact",
    "setting",
    "waiting",
]


_LAZY = {"attach": "graph.attached", "recording": "graph.mcap_reader", "is_loopback": "graph.network"}
"""What a node's process does not need, imported when it is first used."""


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'graph' has no attribute {name!r}")
