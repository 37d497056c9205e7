"""What the training commands share: how they parse arguments, log and exit."""

import argparse
import logging
import signal
import sys
from collections.abc import Callable

from training.settings import SettingsError

logger = logging.getLogger("training")

PLAIN, TIMED = "%(message)s", "%(asctime)s %(message)s"
"""Formats of log lines."""
STOPPED = 130
"""Exit code after Ctrl-C, the same as for the shell's own commands, so that a script does not continue."""


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of `python -m training.NAME`; its help keeps the line breaks of the description."""
    return argparse.ArgumentParser(prog=f"python -m training.{name}", description=description,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)


def share(text: str) -> float:
    """Parse a share on a command line. Raises argparse's error unless it is a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, found {text!r}")
    return value


def pixels(text: str) -> int:
    """Parse the side of a picture on a command line. Raises argparse's error unless it is a whole number from 32."""
    if not text.isdecimal() or int(text) < 32:
        raise argparse.ArgumentTypeError(f"expected a whole number of pixels, 32 or more, found {text!r}")
    return int(text)


def run(work: Callable[[], object], stopped: str = "stopped; nothing was written", log: str = PLAIN) -> int:
    """Do the work of a command; return 0, 2 if a setting or file is wrong, `STOPPED` after Ctrl-C or SIGTERM.

    The last log line says what was wrong; after a stop it is the message of the KeyboardInterrupt, or `stopped` if that
    is empty. SIGTERM raises KeyboardInterrupt too: its default would end the process and leave half-written files. File
    names in any encoding can be printed.
    """
    logging.basicConfig(format=log, datefmt="%H:%M:%S", stream=sys.stdout)
    logger.setLevel(logging.INFO)
    sys.stdout.reconfigure(errors="backslashreplace")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        work()
    except (SettingsError, FloatingPointError, OSError) as exc:
        logger.error("%s", exc)
        return 2
    except KeyboardInterrupt as exc:
        logger.warning("%s", exc.args[0] if exc.args else stopped)
        return STOPPED
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0
