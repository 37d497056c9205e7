"""The commands that only read and write files."""

from pathlib import Path
from typing import Annotated

import typer

from graph.cli import PACKAGE, app, print_table


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="The folder of a run with --profile.")],
    after: Annotated[Path, typer.Argument(help="The folder of another one.")],
) -> None:
    """Compare two runs: what got slower, what faster."""
    from graph.compare import load as load_summary
    from graph.compare import report

    summaries = load_summary(before), load_summary(after)
    print_table(lambda width: report(*summaries, width))


@app.command()
def keys(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Of the graph's own keys; made if need be.")],
    clients: Annotated[list[str] | None, typer.Argument(metavar="[CLIENT]...", help="Names of new clients.")] = None,
) -> None:
    """Make the keys with which a graph listens beyond this machine, and those with which clients attach."""
    from graph.network import make_keys

    for path in make_keys(folder, clients or ["client"]):
        typer.echo(f"made {path}" + (": take this folder to the client" if path.is_dir() else ", which stays here"))


@app.command()
def schema() -> None:
    """Print the JSON Schema of graph files, with which editors complete and check them."""
    import json

    from graph.catalog import find_nodes
    from graph.schema import json_schema

    typer.echo(json.dumps(json_schema(find_nodes(PACKAGE)[0]), indent=2))
