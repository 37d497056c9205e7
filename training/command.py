"""How the commands of the training end: in one line that says why, and an exit code."""

import logging
import signal
import sys
from collections.abc import Callable

from training.settings import SettingsError

logger = logging.getLogger("training")

STOPPED = 130
"""Exit code of what Ctrl-C has stopped, as of the shell's own commands: a script does not go on to its next line."""


def exit_code(work: Callable[[], object], stopped: str = "stopped; nothing is written") -> int:
    """Do what a command asks for; return 0, 2 where settings or files are wrong, `STOPPED` after Ctrl-C or SIGTERM.

    The reason is logged in one line: `stopped`, where a KeyboardInterrupt does not say it itself. SIGTERM raises one
    too, for by itself it would end the process and leave what is half written. File names that are printed may be in
    any encoding.
    """
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
