"""The available nodes, with their ports and settings."""

import ast
import importlib
import inspect
import io
import json
import pkgutil
import textwrap
import tokenize
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from graph.errors import ConfigError
from graph.node import Input, Node, Output
from graph.settings import settings_of
from graph.spec import import_module, load_class, node_classes

REPLAY = "graph.replay:Replay"
"""The node that is part of the runtime."""


def find_nodes(package: str) -> tuple[dict[str, type[Node]], dict[str, str]]:
    """Return the nodes of a package and Replay by type, and by module the errors of those that cannot be imported."""
    found: dict[str, type[Node]] = {}
    failed: dict[str, str] = {}
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
        if info.name.rpartition(".")[2].startswith("_"):
            continue
        try:
            classes = node_classes(import_module(info.name))
        except ConfigError as exc:
            failed[info.name] = str(exc)
        else:
            found |= {f"{info.name}:{name}": class_ for name, class_ in classes.items()}
    return found | {REPLAY: load_class(REPLAY)}, failed


def comments(node: type[Node]) -> dict[str, str]:
    """Return the comment on each setting in the source of a class: its unit and effect."""
    try:
        source = textwrap.dedent(inspect.getsource(node))
    except (OSError, TypeError):
        return {}  # no source file
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    by_line = {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}
    found: dict[str, str] = {}
    for statement in ast.parse(source).body[0].body:  # type: ignore[attr-defined]  # the only statement is the class
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            lines = range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
            found[statement.target.id] = " ".join(by_line[line].lstrip("# ") for line in lines if line in by_line)
    return found


def overview(nodes: Mapping[str, type[Node]], failed: Mapping[str, str]) -> RenderableType:
    """Return a list of all nodes with ports, first line of the docstring, and settings."""
    shown: list[RenderableType] = []
    for type_, node in nodes.items():
        settings = Text(", ".join(settings_of(node)), style="dim")
        about = Group(Text(f"{_ports(node.inputs)} → {_ports(node.outputs)}"), Text(_first_line(node)), settings)
        shown += [Text(type_, "bold cyan"), Padding(about, (0, 0, 1, 2))]
    lines = [Text.assemble((f"{name}: ", "bold red"), text) for name, text in failed.items()]
    return Group(*shown, *lines)


def details(type_: str, node: type[Node]) -> RenderableType:
    """Return docstring, ports and settings of one node."""
    ports = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for direction, found in (("input", node.inputs), ("output", node.outputs)):
        for name, port in found.items():
            ports.add_row(direction, Text(name, "bold"), _carries(port))
    title, words = Text(type_, "bold cyan"), Text(_words(node))
    return Group(title, words, "", ports, "", _settings_table(node))


def _settings_table(node: type[Node]) -> RenderableType:
    settings, descriptions = settings_of(node), comments(node)
    if not settings:
        return Text("no settings")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0))
    for title, ratio in (("setting", None), ("default", None), ("valid", 2), ("description", 3)):
        table.add_column(title, ratio=ratio, overflow="fold")
    for name, setting in settings.items():
        changeable = Text.assemble((name, "bold"), ("*", "green")) if setting.changeable else Text(name, "bold")
        default = "(required)" if setting.required else json.dumps(setting.written_default(), ensure_ascii=False)
        table.add_row(changeable, Text(default), Text(setting.expected()), Text(descriptions.get(name, "")))
    if any(setting.changeable for setting in settings.values()):
        return Group(table, Text.assemble(("*", "green"), " can be changed while the graph runs"))
    return table


def _words(node: type[Node]) -> str:
    """Return the docstring with one line per paragraph; the terminal wraps it."""
    paragraphs = inspect.cleandoc(node.__doc__ or "").split("\n\n")
    return "\n\n".join(text if "\n " in text else text.replace("\n", " ") for text in paragraphs)


def _first_line(node: type[Node]) -> str:
    return inspect.cleandoc(node.__doc__ or "").partition("\n")[0]


def _ports(ports: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {_carries(port)}" for name, port in ports.items()) or "-"


def _carries(port: Input | Output) -> str:
    return port.type.__name__ + (" (optional)" if isinstance(port, Input) and port.optional else "")
