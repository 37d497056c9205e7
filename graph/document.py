"""Read a YAML file and keep the line of every value, so that an error can name it.

Scalars are read by the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema): `no` and `on` are
texts, not truth values, `1e-3` is a number, and a date is a text. A key that stands twice is an error.
"""

import re
from collections.abc import Callable
from pathlib import Path
from reprlib import repr as brief  # a number may have thousands of digits, and a text of brackets as many levels
from typing import Any, ClassVar

import yaml

from graph.errors import ConfigError
from graph.spec import did_you_mean

Keys = tuple[str | int, ...]
"""Where a value is: ("nodes", "smooth", "settings", "slack")."""


class _CoreLoader(yaml.SafeLoader):
    """A loader with the scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (the name and type that PyYAML looks for)
    yaml_constructors: ClassVar[dict[str | None, Any]] = {  # no dates, bytes or sets, which cannot travel to a node
        f"tag:yaml.org,2002:{kind}": yaml.SafeLoader.yaml_constructors[f"tag:yaml.org,2002:{kind}"]
        for kind in ("str", "seq", "map")
    } | {None: yaml.SafeLoader.construct_undefined}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping of the command line: as in a file, its keys are texts, also `1`, and none stands twice."""
        names: set[str] = set()
        for key in [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]:
            if key.value in names:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            key.tag = "tag:yaml.org,2002:str"
            names.add(key.value)
        return super().construct_mapping(node, deep)


_SCALARS = {
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    "null": r"~|null|Null|NULL|",
    "merge": r"<<",
}
for _tag, _pattern in _SCALARS.items():
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), None)


def _whole_number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    base = {"0o": 8, "0x": 16}.get(node.value[:2], 10)
    return int(node.value, base)


def _checked(kind: str, construct: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return a constructor that refuses what is written `!!int abc`, and a number of thousands of digits."""

    def checked(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
        try:
            if re.fullmatch(_SCALARS[kind], node.value):
                return construct(loader, node)
        except ValueError:
            pass
        raise yaml.constructor.ConstructorError(None, None, f"{brief(node.value)} is no {kind}", node.start_mark)

    return checked


for _kind in ("bool", "int", "float", "null"):
    _construct = _whole_number if _kind == "int" else getattr(yaml.SafeLoader, f"construct_yaml_{_kind}")
    _CoreLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _checked(_kind, _construct))


class Document:
    """The content of one file as plain data, its lines, and the errors found so far.

    Raises ConfigError if the file cannot be read or is not YAML.
    """

    def __init__(self, path: Path, text: str | None = None) -> None:
        """Read the file, or else `text`, which `path` names in errors."""
        self.path = path
        self._places: dict[Keys, str] = {}
        self._problems: list[tuple[int, str]] = []
        self._lines: dict[Keys, int] = {}
        self._seen: set[int] = set()  # mappings whose keys were checked: an anchor is visited again by its aliases
        self.data = self._parse(_text(path) if text is None else text)

    def add(self, keys: Keys, text: str) -> None:
        """Note an error of the value at `keys`."""
        while keys not in self._lines:  # the whole file always is
            keys = keys[:-1]
        self._note(keys, text)

    def override(self, keys: Keys, value: Any, place: str) -> None:
        """Put `value` at `keys`; errors there name `place` instead of a line. What is around is a mapping, or empty."""
        self.data = _replaced(self.data, keys, value)
        self._places[keys] = place
        self._lines[keys] = 0

    def place(self, keys: Keys) -> str:
        """Return file and line of the value at `keys`."""
        if keys in self._places:
            return self._places[keys]
        return f"{self.path}:{self._lines[keys]}"

    def fail(self, place: str, text: str) -> None:
        """Note an error that belongs to no line."""
        self._problems.append((2**31, f"{place}: {text}"))

    def raise_problems(self) -> None:
        """Raise ConfigError with all errors in the order of the lines, if there are any."""
        if self._problems:
            raise ConfigError("\n".join(text for _, text in sorted(self._problems, key=lambda found: found[0])))

    def _note(self, keys: Keys, text: str) -> None:
        if keys in self._places:
            self.fail(self._places[keys], text)
            return
        where = f"{'.'.join(map(str, keys))}: " if keys else ""
        self._problems.append((self._lines[keys], f"{self.place(keys)}: {where}{text}"))

    def _parse(self, text: str) -> Any:
        try:
            loader = _CoreLoader(text)
            node = loader.get_single_node()
            return None if node is None else self._value(loader, node, (), ())
        except yaml.YAMLError as exc:
            raise ConfigError(f"{self.path}:{_line(exc, text)}: not YAML: {_reason(exc)}") from exc
        except RecursionError as exc:
            raise ConfigError(f"{self.path}: not a graph: it is nested too deeply to be read") from exc

    def _value(self, loader: _CoreLoader, node: yaml.Node, keys: Keys, around: tuple[int, ...]) -> Any:
        self._lines.setdefault(keys, node.start_mark.line + 1)
        if id(node) in around:
            self._note(keys, "this value contains itself")
            return None
        around = (*around, id(node))
        if isinstance(node, yaml.SequenceNode):
            return [self._value(loader, item, (*keys, index), around) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(loader, node, keys, around)
        return loader.construct_object(node)

    def _mapping(self, loader: _CoreLoader, node: yaml.MappingNode, keys: Keys, around: tuple[int, ...]) -> Any:
        if id(node) not in self._seen:
            self._seen.add(id(node))
            self._check_keys([key for key, _ in node.value], keys)
        loader.flatten_mapping(node)  # puts what `<<` brings in front, so that own keys win
        found: dict[str, Any] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                self._lines[*keys, key.value] = key.start_mark.line + 1
                found[key.value] = self._value(loader, value, (*keys, key.value), around)
        return found

    def _check_keys(self, nodes: list[yaml.Node], keys: Keys) -> None:
        lines: dict[str, int] = {}
        for node in nodes:
            line = node.start_mark.line + 1
            if not isinstance(node, yaml.ScalarNode):
                self._problems.append((line, f"{self.path}:{line}: {'.'.join(map(str, keys))}: a key must be a text"))
            elif node.value in lines:
                self._lines[*keys, node.value] = line
                self._note((*keys, node.value), f"stands twice, first on line {lines[node.value]}")
            else:
                lines[node.value] = line


class _CoreDumper(yaml.SafeDumper):
    """A dumper that puts quotes where the loader above would take a text for something else."""

    yaml_implicit_resolvers = _CoreLoader.yaml_implicit_resolvers


def to_yaml(data: Any) -> str:
    """Return plain data as YAML, which reads as the same."""
    return yaml.dump(data, Dumper=_CoreDumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110)


def parse_value(text: str) -> Any:
    """Return the value of a piece of YAML from the command line.

    What does not open a list, a mapping or a quoted text is one plain value, so that `*.png`, `#1.mp4` and
    `a: b` are the texts they look like. Raises ConfigError if it is not YAML.
    """
    text = text.strip()
    try:
        loader = _CoreLoader(text)
        if text.startswith(("[", "{", '"', "'")):
            return loader.get_single_data()
        tag = loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
        return loader.construct_object(yaml.ScalarNode(tag, text))
    except yaml.YAMLError as exc:
        raise ConfigError(f"{text!r} is not YAML: {_reason(exc)}") from exc
    except RecursionError as exc:
        raise ConfigError(f"{brief(text)} is nested too deeply to be read") from exc


def _replaced(data: Any, keys: Keys, value: Any) -> Any:
    """Return a copy of `data` with `value` at `keys`: an anchor may share the original between nodes."""
    if not keys:
        return value
    if data is not None and not isinstance(data, dict):
        return data  # wrong in the file, which is reported
    inner = data or {}
    return inner | {keys[0]: _replaced(inner.get(keys[0]), keys[1:], value)}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as exc:
        near = did_you_mean(path.name, (other.name for other in path.parent.glob("*.yaml")))
        raise ConfigError(f"no file {path.absolute()}{f'; {near}' if near else ''}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: not a text file in UTF-8: {exc.reason} at byte {exc.start}") from exc
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc


def _line(exc: yaml.YAMLError, text: str) -> int:
    if isinstance(exc, yaml.reader.ReaderError):
        return text.count("\n", 0, exc.position) + 1
    assert isinstance(exc, yaml.MarkedYAMLError) and exc.problem_mark, exc
    return exc.problem_mark.line + 1


def _reason(exc: yaml.YAMLError) -> str:
    if isinstance(exc, yaml.reader.ReaderError):
        return f"it holds {chr(exc.character)!r}, which is no character of a text"
    assert isinstance(exc, yaml.MarkedYAMLError), exc
    reason = ", ".join(part for part in (exc.problem, exc.context) if part)
    return reason + ("; indent with spaces, not tabs" if "\\t" in reason else "")
