"""The command that runs a graph written in one line."""

from pathlib import Path
from typing import Annotated

import typer

from graph.cli import (
    PACKAGE,
    Dot,
    Duration,
    Log,
    Metrics,
    Overrides,
    Profile,
    app,
    log_to_terminal,
    run_spec,
)


@app.command()
def launch(
    line: Annotated[
        list[str], typer.Argument(metavar="LINE", help='For example "capture uri=clip.mp4 ! detect ! ...".')
    ],
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

    Elements are the nodes listed by `nodes` (detect: nodes.detect:FaceDetector), or module:Class. Each input reads the
    nearest earlier output of its type. NAME. ! ... branches off after the element with name=NAME.
    """
    from graph.catalog import find_nodes
    from graph.config import read
    from graph.document import Document, to_yaml
    from graph.launch import graph_of
    from graph.passwords import redact

    log_to_terminal(log)
    data = graph_of(line, find_nodes(PACKAGE)[0], name)
    document = Document(Path("launch"), to_yaml(data))
    for node, body in data["nodes"].items():
        document.override(("nodes", node), body, f"launch: {node}")
        for part in ("inputs", "settings"):
            for key, value in body.get(part, {}).items():
                document.override(("nodes", node, part, key), value, f"launch: {node} {key}={value}")
    spec = read(document, overrides or [])
    text = to_yaml(document.data)
    typer.echo(text if only_print else redact(text), nl=False)
    if not only_print:
        run_spec(spec, duration, profile, log, dot, metrics)
