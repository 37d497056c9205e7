"""The command line: run a graph, check it, draw it, see what nodes there are."""

import enum
import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from graph.config import load
from graph.errors import ConfigError
from graph.spec import GraphSpec, did_you_mean, load_class

ROOT = Path(__file__).resolve().parent.parent
"""The checkout, or site-packages: configs are also looked for here, so that commands work from any folder."""

PACKAGE = "nodes"
"""The package whose nodes `nodes` and `schema` list. Nodes of other packages are used by their type."""

app = typer.Typer(
    help="Run a graph of nodes, each in a process of its own.",
    epilog="CONFIG alone is the same as run CONFIG. Exit codes: 0 done, 1 a node failed, 2 wrong config or arguments.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

out = Console(highlight=False)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class Level(enum.StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


Config = Annotated[
    str,
    typer.Argument(help="A YAML file; also by its name in configs/, like demo."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NODE.SETTING=VALUE", help="Put a setting over the file's; may be repeated."),
]
Duration = Annotated[float | None, typer.Option(metavar="S", min=0.0, help="End the graph after so many seconds.")]
Profile = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Write latency.json, latency.png and trace.json (Perfetto) there.")
]
Log = Annotated[Level, typer.Option(case_sensitive=False, help="How much is logged.")]


@app.command()
def run(
    config: Config,
    overrides: Overrides = None,
    duration: Duration = None,
    profile: Profile = None,
    log: Log = Level.INFO,
) -> None:
    """Run a graph until its sources end, a window is closed, or Ctrl-C."""
    _run(_load(config, overrides, log), duration, profile, log)


@app.command()
def attach(
    config: Config,
    overrides: Overrides = None,
    duration: Duration = None,
    profile: Profile = None,
    log: Log = Level.INFO,
) -> None:
    """Add the nodes of a config with `attach: NAME` to the running graph of that name."""
    spec = _load(config, overrides, log)
    if spec.attach is None:
        raise ConfigError(f"{spec.path}: has no `attach: NAME`, the running graph that its nodes are added to")
    _run(spec, duration, profile, log)


@app.command()
def check(config: Config, overrides: Overrides = None) -> None:
    """Check a graph without starting it; shows what its edges do."""
    spec = _load(config, overrides)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0))
    for title in ("from", "to", "policy", "queue", "join"):
        table.add_column(title, justify="right" if title == "queue" else "left")
    for edge in spec.edges:
        table.add_row(edge.source, edge.target, edge.policy, str(edge.queue), edge.join)
    out.print(table)
    out.print()
    out.print(f"[green]ok[/]  {spec.path}: {spec.name}, {len(spec.nodes)} nodes, {len(spec.edges)} edges")


@app.command()
def nodes(
    type_: Annotated[
        str | None, typer.Argument(metavar="TYPE", help="One node in detail, like nodes.smooth:Smooth, or just Smooth.")
    ] = None,
) -> None:
    """Show what nodes there are, their ports and settings."""
    from graph.catalog import details, find_nodes, overview

    if type_ and ":" in type_:
        out.print(details(type_, load_class(type_)))
        return
    found, failed = find_nodes(PACKAGE)
    if type_ is None:
        out.print(overview(found, failed))
        out.print("All settings of one with their units and ranges: [bold]nodes TYPE[/]")
        return
    named = {name.partition(":")[2]: name for name in found}
    if type_ not in named:
        raise ConfigError(f"no node {type_!r} in {PACKAGE}; {did_you_mean(type_, named) or f'nodes: {_join(named)}'}")
    out.print(details(named[type_], found[named[type_]]))


@app.command()
def draw(
    config: Config,
    overrides: Overrides = None,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Mermaid, which GitHub draws, instead of DOT.")] = False,
) -> None:
    """Print a graph for Graphviz: draw CONFIG | dot -Tsvg > graph.svg."""
    from graph.draw import to_dot, to_mermaid

    spec = _load(config, overrides)
    typer.echo((to_mermaid if mermaid else to_dot)(spec), nl=False)


@app.command()
def schema() -> None:
    """Print the JSON Schema of graph files, with which editors complete and check them."""
    import json

    from graph.catalog import find_nodes
    from graph.schema import json_schema

    typer.echo(json.dumps(json_schema(find_nodes(PACKAGE)[0]), indent=2))


def main(arguments: list[str] | None = None) -> int:
    """Do what the arguments say and return the exit code."""
    sys.path.append(os.getcwd())  # for a user's own nodes; last, so that nothing there hides ours
    try:
        return _call(_with_command(sys.argv[1:] if arguments is None else arguments))
    except ConfigError as exc:
        for line in str(exc).splitlines():
            _say("error", line)
        return 2


def _call(arguments: list[str]) -> int:
    try:
        app(arguments, prog_name="run_graph.py")
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else 1
    return 0


def _with_command(arguments: list[str]) -> list[str]:
    """Put `run` in front of a config that stands alone."""
    commands = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    first = arguments[0] if arguments else "--help"
    if first in commands or first == "--help":
        return arguments
    near = did_you_mean(first, commands)
    if near and not first.startswith("-") and "." not in first and not _candidates(first):
        raise ConfigError(f"no command and no config {first!r}; {near}")
    return ["run", *arguments]


def _candidates(config: str) -> list[Path]:
    return [path for path in _places(config) if path.is_file()]


def _places(config: str) -> Iterable[Path]:
    yield Path(config)
    yield ROOT / config
    yield ROOT / "configs" / config
    yield ROOT / "configs" / f"{config}.yaml"


def _load(config: str, overrides: list[str] | None, log: Level = Level.WARNING) -> GraphSpec:
    logging.basicConfig(level=log.name, handlers=[_TerminalHandler()])
    found = _candidates(config)
    if not found:
        there = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
        near = did_you_mean(Path(config).stem, there) or f"configs there: {_join(there)}"
        raise ConfigError(f"no config {config!r}: neither {Path(config).absolute()} nor in {ROOT / 'configs'}; {near}")
    return load(found[0], overrides or [])


def _run(spec: GraphSpec, duration: float | None, profile: Path | None, log: Level) -> None:
    from graph import supervisor

    raise typer.Exit(supervisor.run(spec, duration, str(profile) if profile else None, log.name))


class _TerminalHandler(logging.Handler):
    """Logs to stderr, one line per message however narrow the terminal, with the name of the node."""

    def emit(self, record: logging.LogRecord) -> None:
        graph, _, node = record.name.partition(".")
        prefix = f"{node}: " if graph == "facegraph" and node else ""
        _say(record.levelname.lower(), prefix + record.getMessage())


_COLOURS = {"debug": "dim", "info": "cyan", "warning": "yellow", "error": "bold red"}


def _say(level: str, text: str) -> None:
    err.print(Text.assemble((f"{level}: ", _COLOURS.get(level, "bold red")), text))


def _join(words: Iterable[str]) -> str:
    return ", ".join(words) or "none"
