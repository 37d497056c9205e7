"""Keeps passwords out of everything that is shown: logs, traces, drawings, the list of processes."""

import json
import os
import re
import sys
from typing import Any

HIDDEN = "***"
ARGUMENTS = "FACEGRAPH_ARGUMENTS"
"""Environment variable with the real arguments of a process whose visible ones have their passwords hidden."""

_LOGIN = re.compile(r"(://[^/\s:@]*:)\S*@")
"""From the colon to the last @, because people also write passwords that contain / and @."""
_PARAMETER = re.compile(r"([?&][^=&\s]*(?:token|pas|pwd|secret|key|auth)[^=&\s]*=)[^&\s]+", re.IGNORECASE)
"""Also matches passphrase (SRT), access_token, api_key, loginpas; it may hide a harmless value."""


def redact(value: Any) -> Any:
    """Return a value with the passwords in its addresses hidden: rtsp://user:***@host/stream."""
    if isinstance(value, str):
        return _PARAMETER.sub(rf"\1{HIDDEN}", _LOGIN.sub(rf"\1{HIDDEN}@", value))
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    if isinstance(value, dict):
        return {key: redact(item) for key, item in value.items()}
    return value


def hide_arguments() -> None:
    """Remove the passwords from this process's command line, which every user of the machine can read.

    If there are any, the process replaces itself by one with the arguments in its environment, which only its own user
    can read. This is not possible on Windows, where they stay.
    """
    given = os.environ.pop(ARGUMENTS, None)
    if given is not None:
        sys.argv[1:] = json.loads(given)
    elif os.name == "posix" and redact(sys.argv) != sys.argv:
        os.environ[ARGUMENTS] = json.dumps(sys.argv[1:])
        os.execv(sys.executable, redact(sys.orig_argv))
