"""Keep passwords out of everything that is shown: logs, traces, drawings, answers of a running graph."""

import re
from typing import Any

HIDDEN = "***"

_LOGIN = re.compile(r"(://[^/\s:@]*:)\S*@")
"""From the colon to the last @, as people write passwords with / and @ in them too."""
_PARAMETER = re.compile(r"([?&](?:token|password|passwd|pass|pwd|secret|key|auth)=)[^&\s]+", re.IGNORECASE)


def redact(value: Any) -> Any:
    """Return a value, or a text with addresses in it, without the passwords in these: rtsp://user:***@host/stream."""
    if isinstance(value, str):
        return _PARAMETER.sub(rf"\1{HIDDEN}", _LOGIN.sub(rf"\1{HIDDEN}@", value))
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    if isinstance(value, dict):
        return {key: redact(item) for key, item in value.items()}
    return value
