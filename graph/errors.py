"""The errors that the runtime raises.

GraphError
├── ConfigError   wrong configuration or arguments; nothing has started (exit code 2)
├── NodeError     a node failed; the original exception is its cause (exit code 1)
└── WireError     a message breaks the protocol; if it was received, it is logged and its sender disconnected

EndOfStream is not an error: a source raises it when it has no more frames, and any other node raises it to ask the
whole graph to finish (a window was closed).
"""

import traceback


class GraphError(Exception):
    """Base of all errors of the runtime."""


class ConfigError(GraphError):
    """The configuration is wrong: the message names the place, what was found and what would be valid."""


class NodeError(GraphError):
    """A node failed while it opened, processed a frame or closed."""


class WireError(GraphError):
    """A message breaks the wire protocol (see graph/README.md)."""


class EndOfStream(Exception):
    """The stream is over."""


def trace(exc: BaseException, caller: str) -> str:
    """Return the traceback of an exception as text, without its outermost frames in the file `caller`."""
    begin = exc.__traceback__
    while begin is not None and begin.tb_frame.f_code.co_filename == caller:
        begin = begin.tb_next
    return "".join(traceback.format_exception(type(exc), exc, begin))
