"""The errors that the runtime raises.

GraphError
├── ConfigError   wrong configuration or arguments; nothing has started (exit code 2)
├── NodeError     a node failed; the original exception is its cause (exit code 1)
└── WireError     a message breaks the protocol; one from outside is reported, and its sender heard no more

EndOfStream is not an error: a source raises it when it has nothing more to say, and any
other node raises it to ask the whole graph to finish (a window that was closed).
"""

import traceback


class GraphError(Exception):
    """Base of all errors of the runtime."""


class ConfigError(GraphError):
    """The configuration is wrong: the text names the place, what was found and what would be valid."""


class NodeError(GraphError):
    """A node failed while it opened, processed a frame or closed."""


class WireError(GraphError):
    """A message breaks the wire protocol (see graph/README.md)."""


class EndOfStream(Exception):
    """The stream is over."""


def trace(exc: BaseException, caller: str) -> str:
    """Return the traceback of an exception as text, without the frames of the file `caller` that it begins with."""
    begin = exc.__traceback__
    while begin is not None and begin.tb_frame.f_code.co_filename == caller:
        begin = begin.tb_next
    return "".join(traceback.format_exception(type(exc), exc, begin))
