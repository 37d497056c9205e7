"""One result of a check of this machine, as `run_graph.py doctor` shows it."""

from typing import Literal, NamedTuple

Verdict = Literal["ok", "note", "problem"]
"""note: missing or unusual, matters only to some graphs. problem: must be fixed."""


class Finding(NamedTuple):
    """One line of the doctor's table."""

    about: str  # what was checked, in a word or two: "H.264", "/dev/video0"
    verdict: Verdict
    found: str
    remedy: str = ""  # what to do or to type; "" if ok
