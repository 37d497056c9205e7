"""The command line: run and draw graphs; cli_*.py have the other commands."""

import errno
import io
import logging
import math
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from reprlib import repr as brief
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console, RenderableType
from rich.text import Text

from graph.config import load, read
from graph.errors import ConfigError, GraphError
from graph.network import is_remote
from graph.schema import NAME
from graph.spec import GraphSpec, choices, did_you_mean
from graph.terminal import Terminal

if TYPE_CHECKING:
    from graph.attached import RunningGraph

ROOT = Path(__file__).resolve().parent.parent
"""The checkout, or site-packages."""

PACKAGE = "nodes"
"""The package whose nodes `nodes` and `schema` list. Nodes of other packages are given as module:Class."""

CONFIGS = ROOT / "configs" if (ROOT / "pyproject.toml").is_file() else ROOT / PACKAGE / "configs"
"""Configs are also searched here, so that commands work from any folder; an installed package has its own copy."""

WIDTH_WITHOUT_TERMINAL = 120  # characters

Level = Literal["debug", "info", "warning", "error"]

app = typer.Typer(
    help="Run a graph of nodes, each in a process of its own.",
    epilog="CONFIG alone is the same as run CONFIG. Exit codes: 0 done, 1 a node failed, 2 wrong config or arguments.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

out = Console(highlight=False)
err = Terminal(stderr=True, highlight=False, soft_wrap=True)


def folder(name: str) -> Path:
    """Return the folder of an option. An empty name is refused: it comes from an unset shell variable."""
    if not name:
        raise typer.BadParameter("is empty; expected the name of a folder (. is the current one)")
    return Path(name)


def seconds(number: float | None) -> float | None:
    """Return the seconds of an option. Infinity is refused, and NaN, which older versions of typer accept."""
    if number is not None and not math.isfinite(number):
        raise typer.BadParameter(f"{number} is not a finite number of seconds")
    return number


Config = Annotated[str, typer.Argument(help="A YAML file, or the name of one in configs/, such as demo.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NODE.SETTING=VALUE", help="Override a setting; may be repeated."),
]
Duration = Annotated[
    float | None, typer.Option(metavar="S", min=0.0, callback=seconds, help="Stop after this many seconds.")
]
Profile = Annotated[
    Path | None,
    typer.Option(metavar="DIR", parser=folder, help="Write latency.json, latency.png and trace.json (Perfetto) there."),
]
Dot = Annotated[
    Path | None,
    typer.Option(metavar="DIR", parser=folder, help="Draw the graph there (DOT) whenever a state changes."),
]
Metrics = Annotated[
    int | None,
    typer.Option(
        metavar="PORT", min=0, max=65535, help="Serve Prometheus at 127.0.0.1:PORT/metrics; 0: any free port."
    ),
]
Name = Annotated[
    str | None,
    typer.Argument(metavar="NAME", help="A running graph; needed if several are running.", show_default=False),
]
Log = Annotated[Level, typer.Option(case_sensitive=False, help="Lowest level that is logged.")]


@app.command()
def run(
    config: Config,
    overrides: Overrides = None,
    duration: Duration = None,
    profile: Profile = None,
    dot: Dot = None,
    metrics: Metrics = None,
    log: Log = "info",
) -> None:
    """Run a graph until its sources end, its window is closed, or Ctrl-C."""
    run_spec(load_config(config, overrides, log), duration, profile, log, dot, metrics)


@app.command()
def attach(
    config: Config,
    overrides: Overrides = None,
    duration: Duration = None,
    profile: Profile = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the graph to start.")] = False,
    log: Log = "info",
) -> None:
    """Add the nodes of a config with `attach: NAME` to the running graph of that name or address."""
    spec = load_config(config, overrides, log)
    if spec.attach is None:
        raise ConfigError(f"{spec.path}: has no `attach: NAME` to name the running graph")
    if wait:
        running(spec.attach, wait=math.inf).close()
    run_spec(spec, duration, profile, log)


@app.command()
def launch(
    line: Annotated[list[str], typer.Argument(metavar="LINE", help='For example "capture uri=0 ! window".')],
    only_print: Annotated[bool, typer.Option("--print", help="Only print the graph as YAML.")] = False,
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the graph.")] = "launch",
    overrides: Overrides = None,
    duration: Duration = None,
    profile: Profile = None,
    dot: Dot = None,
    metrics: Metrics = None,
    log: Log = "info",
) -> None:
    """Run a graph written in one line: "capture uri=clip.mp4 ! detect ! landmarks ! smooth ! render ! window".

    Elements are the nodes listed by `nodes` (detect: nodes.detect:FaceDetector), or module:Class.
    Each input reads the nearest earlier output of its type. NAME. ! ... branches off after the element name=NAME.
    """
    from graph.catalog import find_nodes
    from graph.document import to_yaml
    from graph.launch import document_of
    from graph.passwords import redact

    log_to_terminal(log)
    document = document_of(line, find_nodes(PACKAGE)[0], name)
    spec = read(document, overrides or [])
    text = to_yaml(document.data)
    typer.echo(text if only_print else redact(text), nl=False)
    if not only_print:
        run_spec(spec, duration, profile, log, dot, metrics)


@app.command()
def draw(
    config: Annotated[str, typer.Argument(help="A YAML file, or a running graph, which is drawn with its rates.")],
    overrides: Overrides = None,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Mermaid, which GitHub draws, instead of DOT.")] = False,
) -> None:
    """Print a graph for Graphviz: draw CONFIG | dot -Tsvg > graph.svg."""
    from graph import rundir
    from graph.draw import spec_of, to_dot, to_mermaid

    to_text = to_mermaid if mermaid else to_dot
    names = rundir.running() if re.fullmatch(NAME, config) else None  # a path needs no run folder
    if is_remote(config) or config in (names or []):
        with running(config) as g:
            typer.echo(to_text(spec_of(g.description), g.stats()), nl=False)
    elif names is None or _candidates(config):
        typer.echo(to_text(load_config(config, overrides)), nl=False)
    else:
        raise ConfigError(f"{_not_found(config)}; running graphs: {', '.join(names) or 'none'}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    sys.path.append(os.getcwd())  # for the user's own nodes; last, so that they do not shadow ours
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # without UTF-8, some characters of our tables cannot be printed
    try:
        app(_with_command(sys.argv[1:] if arguments is None else arguments), prog_name="run_graph.py")
        return 0
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else 1
    except GraphError as exc:
        for line in str(exc).splitlines():
            _say("error", line)
        return 2 if isinstance(exc, ConfigError) else 1
    except OSError as exc:
        if exc.errno != errno.ENOSPC:
            raise
        _say("error", f"cannot write the output: {exc.strerror}")
        Terminal().on_broken_pipe()
        return 1


def _with_command(arguments: list[str]) -> list[str]:
    """Insert `run` before a config without a command."""
    commands = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    first = arguments[0] if arguments else "--help"
    if first in commands or first == "--help":
        return arguments
    near = did_you_mean(first, commands)
    if near and not first.startswith("-") and "." not in first and not _candidates(first):
        raise ConfigError(f"no command and no config {first!r}; {near}")
    return ["run", *arguments]


def _candidates(config: str) -> list[Path]:
    try:
        return [path for path in _places(config) if path.is_file()]
    except OSError as exc:  # a name of more than 255 characters, another user's folder
        raise ConfigError(f"no config {brief(config)}: {exc.strerror}") from exc


def _places(config: str) -> Iterable[Path]:
    yield Path(config)
    yield CONFIGS.parent / config
    yield CONFIGS / config
    yield CONFIGS / f"{config}.yaml"


def load_config(config: str, overrides: list[str] | None, log: Level = "warning") -> GraphSpec:
    """Set up logging, read a config and check it."""
    log_to_terminal(log)
    return load(find_config(config), overrides or [])


def log_to_terminal(level: Level) -> None:
    """Print log messages from here on."""
    logging.basicConfig(level=level.upper(), handlers=[_TerminalHandler()])
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it logs about its fonts


def find_config(config: str) -> Path:
    """Return the file of a config. Raises ConfigError with similar names."""
    found = _candidates(config)
    if not found:
        raise ConfigError(_not_found(config))
    return found[0]


def _not_found(config: str) -> str:
    names = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    near = choices(Path(config).stem, names, "configs there")
    return f"no config {config!r}: neither {Path(config).absolute()} nor in {CONFIGS}; {near}"


def run_spec(
    spec: GraphSpec,
    duration: float | None,
    profile: Path | None,
    log: Level,
    dot: Path | None = None,
    metrics: int | None = None,
) -> None:
    """Run a checked graph and exit with its code."""
    from graph import supervisor

    raise typer.Exit(supervisor.run(spec, duration, profile, log.upper(), dot, metrics))


def print_table(table: Callable[[int], RenderableType]) -> None:
    """Print the table for the width of the terminal, or for a large width if the output is a file or pipe."""
    width = out.width if out.is_terminal or "COLUMNS" in os.environ else max(out.width, WIDTH_WITHOUT_TERMINAL)
    Console(highlight=False, width=width).print(table(width))


def running(name: str | None, wait: float = 0.0) -> "RunningGraph":
    """Attach to a running graph; `wait` is in seconds."""
    from graph.attached import attach

    log_to_terminal("warning")
    return attach(name, wait)


def split(place: str) -> tuple[str | None, str]:
    """Split [NAME/]PLACE into the name or address of a graph, None without one, and the place in it."""
    name, slash, rest = place.rpartition("/") if is_remote(place) else place.partition("/")
    return (name, rest) if slash else (None, place)


class _TerminalHandler(logging.Handler):
    """Logs to stderr with the name of the node; lines are not wrapped to the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        graph, _, node = record.name.partition(".")
        prefix = f"{node}: " if graph == "facegraph" and node else ""
        _say(record.levelname.lower(), prefix + record.getMessage())


_COLOURS = {"debug": "dim", "info": "cyan", "warning": "yellow", "error": "bold red"}


def _say(level: str, text: str) -> None:
    err.print(Text.assemble((f"{level}: ", _COLOURS.get(level, "bold red")), text))


from graph import cli_files, cli_recording, cli_running  # noqa: E402, F401 - they add commands to `app`
