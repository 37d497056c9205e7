"""The commands that need no running graph."""

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from graph.cli import PACKAGE, Config, Overrides, app, folder, load_config, out, print_table
from graph.errors import ConfigError
from graph.spec import choices, load_class


@app.command()
def check(config: Config, overrides: Overrides = None) -> None:
    """Check a graph without starting it, and show its edges."""
    spec = load_config(config, overrides)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0))
    for title in ("from", "to", "policy", "queue", "join"):
        table.add_column(title, justify="right" if title == "queue" else "left", overflow="fold")
    for edge in spec.edges:
        table.add_row(edge.source, edge.target, edge.policy, str(edge.queue), edge.join)
    out.print(table)
    out.print()
    out.print(f"[green]ok[/]  {spec.path}: {spec.name}, {len(spec.nodes)} nodes, {len(spec.edges)} edges")


@app.command()
def nodes(
    type_: Annotated[
        str | None, typer.Argument(metavar="TYPE", help="One node in detail: nodes.smooth:Smooth, or just Smooth.")
    ] = None,
) -> None:
    """List the nodes, or show the ports and settings of one."""
    from graph.catalog import details, find_nodes, overview

    if type_ and ":" in type_:
        out.print(details(type_, load_class(type_)))
        return
    found, failed = find_nodes(PACKAGE)
    if type_ is None:
        out.print(overview(found, failed))
        out.print("Settings of one node with units and ranges: [bold]nodes TYPE[/]")
        return
    classes = {name.partition(":")[2]: name for name in found}
    if type_ not in classes:
        raise ConfigError(f"no node {type_!r} in {PACKAGE}; {choices(type_, classes, 'nodes')}")
    out.print(details(classes[type_], found[classes[type_]]))


@app.command()
def doctor(
    config: Annotated[str | None, typer.Argument(help="Check what this graph needs, cameras and files too.")] = None,
    overrides: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Check this machine, and say how to fix what is wrong; exit code 1 if something must be fixed."""
    from graph.doctor import as_json, examine, exit_code, report

    found = examine(PACKAGE, None if config is None else load_config(config, overrides))
    typer.echo(as_json(found)) if json else out.print(report(found))
    raise typer.Exit(exit_code(found))


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="The folder of a run with --profile.")],
    after: Annotated[Path, typer.Argument(help="The folder of another such run.")],
) -> None:
    """Compare two runs: what got slower, what got faster."""
    from graph.compare import load as load_summary
    from graph.compare import report

    summaries = load_summary(before), load_summary(after)
    print_table(lambda width: report(*summaries, width))


@app.command()
def keys(
    into: Annotated[
        Path, typer.Argument(metavar="DIR", parser=folder, help="Folder of the graph's own keys; created if missing.")
    ],
    clients: Annotated[list[str] | None, typer.Argument(metavar="CLIENT", help="Names of new clients.")] = None,
) -> None:
    """Create the keys of a graph that listens to other machines, and those of its clients."""
    from graph.network import make_keys

    for path in make_keys(into, clients or ["client"]):
        typer.echo(f"created {path}: {'copy this folder to the client' if path.is_dir() else 'stays here'}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of graph files, for completion and checks in editors."""
    import json

    from graph.catalog import find_nodes
    from graph.schema import json_schema

    typer.echo(json.dumps(json_schema(find_nodes(PACKAGE)[0]), indent=2))
