"""The runtime of facegraph: nodes as processes, joined by typed messages.

Everything that a node or a consumer may use is here; see graph/README.md.
"""

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


def __getattr__(name: str) -> Any:
    """Import what a node's process has no need of when it is first used."""
    if name == "attach":
        from graph.attached import attach

        return attach
    if name == "recording":
        from graph.mcap_reader import recording

        return recording
    if name == "is_loopback":
        from graph.network import is_loopback

        return is_loopback
    raise AttributeError(f"module 'graph' has no attribute {name!r}")
