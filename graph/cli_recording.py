"""The commands that record a running graph and play recordings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich import box
from rich.table import Table

from graph.cli import (
    Dot,
    Duration,
    Log,
    Metrics,
    Overrides,
    Profile,
    app,
    err,
    find_config,
    log_to_terminal,
    out,
    run_spec,
    running,
    split,
)
from graph.errors import ConfigError

if TYPE_CHECKING:
    from graph.document import Document
    from graph.mcap_reader import Recording
    from graph.recorder import Recorder


@app.command()
def record(
    ports: Annotated[list[str], typer.Argument(metavar="[NAME/]NODE.PORT", help="Outputs of one running graph.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="An .mcap file; it is overwritten.")],
    duration: Duration = None,
    block: Annotated[
        bool, typer.Option("--block", help="If the disk is too slow, make the graph wait instead of dropping messages.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the graph to start; record its first frame.")] = False,
    compression: Annotated[Literal["lz4", "zstd", "none"], typer.Option(help="zstd: smaller and slower.")] = "lz4",
) -> None:
    """Record ports of a running graph into an MCAP file until Ctrl-C or the end of the graph, without slowing it."""
    from graph import recorder

    places = [split(port) for port in ports]
    names = {name for name, _ in places if name is not None}
    if len(names) > 1:
        raise ConfigError(f"cannot record several graphs into one file: {', '.join(sorted(names))}")
    unique = list(dict.fromkeys(port for _, port in places))
    with running(names.pop() if names else None, float("inf") if wait else 0.0) as g:

        def started() -> None:
            err.print(f"recording {', '.join(unique)} of {g.name}; Ctrl-C stops it", markup=False)

        done = recorder.record(g, unique, output, duration, block, compression, started)
    report(done)


def report(done: "Recorder") -> None:
    """Print the number of recorded and missing messages of each port."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0))
    for title in ("port", "messages", "missing"):
        table.add_column(title, justify="left" if title == "port" else "right")
    for port, count in done.counts.items():
        table.add_row(port, str(count.messages), str(count.missing) if count.messages else "no messages")
    out.print(table)
    seconds = max(0, done.span.sent_ns[1] - done.span.sent_ns[0]) / 1e9
    megabytes = done.path.stat().st_size / 1e6
    out.print(f"\n{done.path}: {seconds:.1f} s, {megabytes:.1f} MB", markup=False)
    if any(count.missing for count in done.counts.values()):
        out.print("missing: frames dropped before they were recorded; --block makes the graph wait for the disk")


@app.command()
def replay(
    recording: Annotated[Path, typer.Argument(metavar="FILE", help="A file written by run_graph.py record.")],
    config: Annotated[
        str | None,
        typer.Argument(metavar="CONFIG", help="A graph to play into (default: a graph of the recorded nodes)."),
    ] = None,
    in_place_of: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NODE[=RECORDED]", help="A node of CONFIG to replace (default: the sources); may be repeated."
        ),
    ] = None,
    speed: Annotated[
        float, typer.Option(metavar="X", min=0.0, help="Speed factor; 0: every frame, as fast as possible.")
    ] = 1.0,
    loop: Annotated[bool, typer.Option("--loop", help="Start again at the end.")] = False,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the graph (default: that of CONFIG or FILE).")
    ] = None,
    overrides: Overrides = None,
    duration: Duration = None,
    profile: Profile = None,
    dot: Dot = None,
    metrics: Metrics = None,
    log: Log = "info",
) -> None:
    """Play a recording in place of the sources of a graph, or as the graph that was recorded."""
    from graph.config import read
    from graph.mcap_reader import Recording

    log_to_terminal(log)
    found = Recording(recording)
    if found.cut:
        err.print(f"{recording} is incomplete or still being written: it is played up to there", markup=False)
    document, changes = _plan(found, config, in_place_of or [], {"speed": speed, "loop": loop}, name)
    spec = read(document, overrides or [], warn=config is not None)
    for line in changes:
        err.print(line, markup=False)
    run_spec(spec, duration, profile, log, dot, metrics)


def _plan(
    found: "Recording", config: str | None, in_place_of: list[str], settings: dict[str, Any], name: str | None
) -> "tuple[Document, list[str]]":
    """Return the graph to run, and in words what the recording replaces in it."""
    from graph.document import Document
    from graph.in_place import as_graph, put_in_place

    if config is None:
        if in_place_of:
            raise ConfigError("--in-place-of needs a CONFIG with the node to replace")
        document = Document(found.path, "")
        document.override((), as_graph(found, settings, name), str(found.path))
        return document, []
    document = Document(find_config(config))
    changes = put_in_place(document, found, in_place_of, settings)
    if name:
        document.override(("name",), name, "--name")
    return document, changes
