"""What a look at this machine has found: `run_graph.py doctor` shows it."""

from typing import Literal, NamedTuple

Verdict = Literal["ok", "note", "problem"]
"""note: something is missing or unusual, which only some graphs need. problem: it must be mended."""


class Finding(NamedTuple):
    """One line of the doctor's table."""

    about: str  # what was looked at, in a word or two: "H.264", "/dev/video0"
    verdict: Verdict
    found: str
    remedy: str = ""  # what to do or to type; nothing where all is well
