"""The commands that inspect and change a running graph."""

import contextlib
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from graph.cli import Name, app, out, print_table, running, seconds, split
from graph.errors import ConfigError


@app.command()
def top(
    name: Name = None,
    once: Annotated[bool, typer.Option("--once", help="Print the table once and exit.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print everything once as JSON; see graph/README.md.")] = False,
    every: Annotated[
        float, typer.Option(metavar="S", min=0.1, callback=seconds, help="Seconds between updates.")
    ] = 1.0,
) -> None:
    """Show the rates, queues, times, drops, CPU and memory of every node of a running graph."""
    from graph.top import problems, view, watch

    with running(name) as g:
        if json:
            typer.echo(dumps(g.stats(), indent=2))
        elif once or not out.is_terminal:
            print_table(lambda width: view(g.stats(), problems(g), width))
        else:
            watch(g, out, every)


@app.command()
def tap(
    port: Annotated[str, typer.Argument(metavar="[NAME/]NODE.PORT", help="An output of a running graph.")],
    count: Annotated[int | None, typer.Option(metavar="N", min=1, help="Stop after this many messages.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Print long arrays in full.")] = False,
    hz: Annotated[bool, typer.Option("--hz", help="Print the rate instead, once a second.")] = False,
    bw: Annotated[bool, typer.Option("--bw", help="Print bytes per second instead.")] = False,
    image: Annotated[Path | None, typer.Option(metavar="FILE", help="Save one picture instead.")] = None,
) -> None:
    """Print the messages of a port as JSON lines until Ctrl-C."""
    from graph import tap as tap_

    name, port = split(port)
    with running(name) as g, contextlib.suppress(KeyboardInterrupt):
        if image:
            tap_.save_picture(g, port, image)
            return
        stream = tap_.messages(g, port, count)
        if hz or bw:
            lines = tap_.rates(stream) if hz else tap_.bandwidth(stream)
        else:
            lines = (tap_.line(message, full) for message in stream)
        for line in lines:
            typer.echo(line)


@app.command("set")
def set_(
    setting: Annotated[str, typer.Argument(metavar="[NAME/]NODE.SETTING=VALUE", help="The value is YAML.")],
) -> None:
    """Change a setting of a running node; `nodes TYPE` shows which can be changed."""
    from graph.document import parse_value

    target, equals, value = setting.partition("=")
    name, place = split(target)
    if not equals:
        raise ConfigError(f"{setting!r} is not of the form node.setting=value")
    with running(name) as g:
        now = g.set(place, parse_value(value))
        shown = now if isinstance(now, str) else dumps(now)  # true and null as in YAML
        out.print(f"{g.name}/{place} = {shown}", markup=False)


@app.command()
def pause(name: Name = None) -> None:
    """Pause the sources of a running graph."""
    with running(name) as g:
        g.pause()


@app.command()
def resume(name: Name = None) -> None:
    """Resume the sources of a paused graph."""
    with running(name) as g:
        g.resume()


@app.command()
def restart(node: Annotated[str, typer.Argument(metavar="[NAME/]NODE", help="A node of a running graph.")]) -> None:
    """Restart the process of one node, and wait until it plays."""
    name, node = split(node)
    with running(name) as g:
        g.restart(node)
