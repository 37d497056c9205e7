"""Run a graph of nodes, each in a process of its own.

    python run_graph.py CONFIG [--set node.setting=value] [--duration S] [--profile DIR] [--log LEVEL]
    python run_graph.py check | nodes | doctor | draw | schema | attach | ..., each with --help

Nothing is imported at the top: the process of every node imports this file again.
"""


def main() -> None:
    """Run the command line and exit with 0 (done), 1 (a node failed), 2 (wrong config or arguments) or 130 (Ctrl-C).

    If Ctrl-C stops a running graph in order, the exit code is 0.
    """
    import sys

    try:
        sys.exit(run())
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT, as shells report it


def run() -> int:
    """Run the command line and return the exit code."""
    import signal
    import sys

    if sys.version_info < (3, 11):  # noqa: UP036 - it may run without being installed
        sys.stderr.write(f"error: this is Python {sys.version.split()[0]}; facegraph needs 3.11 or newer\n")
        return 2
    for name, file in shadows():
        sys.stderr.write(f"error: {file} hides the package {name!r} of facegraph; see PYTHONPATH\n")
        return 2
    from graph.passwords import hide_arguments

    hide_arguments()
    reopen_standard_files()
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # imports may swallow a KeyboardInterrupt
    try:
        from graph.cli import main as command_line
    except ModuleNotFoundError as exc:
        sys.stderr.write(f"error: the package {exc.name} is not installed for {sys.executable}: pip install .\n")
        return 2
    signal.signal(signal.SIGINT, before)
    return command_line()


def reopen_standard_files() -> None:
    """Open closed standard files as /dev/null: else the next file that is opened would get what libraries print."""
    import os

    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)


def shadows() -> list[tuple[str, str]]:
    """Return which of our packages is shadowed by another one of that name, and by which file."""
    from importlib.util import find_spec
    from pathlib import Path

    specs = {name: find_spec(name) for name in ("graph", "nodes")}
    files = {name: spec.origin or "a folder" if spec else "nothing" for name, spec in specs.items()}
    here = Path(__file__).resolve().parent
    return [(name, file) for name, file in files.items() if Path(file).resolve().parent.parent != here]


if __name__ == "__main__":
    main()
