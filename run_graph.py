"""Run a graph of nodes, each in a process of its own.

    python run_graph.py CONFIG [--set node.setting=value] [--duration S] [--profile DIR] [--log LEVEL]
    python run_graph.py check | nodes | draw | schema | attach, each with --help

Nothing is imported at the top: the process of every node imports this file again.
"""


def main() -> None:
    """Run the command line and exit with 0 (done), 1 (a node failed) or 2 (wrong config or arguments)."""
    import sys

    for name, file in shadows():
        sys.stderr.write(f"error: {file} hides the package {name!r} of facegraph; see PYTHONPATH\n")
        sys.exit(2)
    from graph.passwords import hide_arguments

    hide_arguments()
    from graph.cli import main as command_line

    sys.exit(command_line())


def shadows() -> list[tuple[str, str]]:
    """Return which of our packages another one hides, and its file: graph and nodes are common names."""
    from importlib.util import find_spec
    from pathlib import Path

    specs = {name: find_spec(name) for name in ("graph", "nodes")}
    files = {name: spec.origin or "a folder" if spec else "nothing" for name, spec in specs.items()}
    here = Path(__file__).resolve().parent
    return [(name, file) for name, file in files.items() if Path(file).resolve().parent.parent != here]


if __name__ == "__main__":
    main()
