"""Read a YAML file and keep the line of every value, so that an error can name it.

Scalars follow the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema): `no`, `on` and dates are
strings, and `1e-3` is a number. A duplicate key is an error.
"""

import re
from collections.abc import Callable
from pathlib import Path
from reprlib import repr as brief  # input may have thousands of digits or brackets
from typing import Any, ClassVar

import yaml

from graph.errors import ConfigError
from graph.spec import did_you_mean

Keys = tuple[str | int, ...]
"""Where a value is: ("nodes", "smooth", "settings", "slack")."""


class _CoreLoader(yaml.SafeLoader):
    """Loads the scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (name and type are PyYAML's)
    yaml_constructors: ClassVar[dict[str | None, Any]] = {  # no dates, bytes or sets: msgpack cannot send them
        "tag:yaml.org,2002:str": yaml.SafeLoader.construct_yaml_str,
        None: yaml.SafeLoader.construct_undefined,
    }


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
    """Return a constructor that rejects values such as `!!int abc`, and integers of thousands of digits."""

    def checked(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
        try:
            if re.fullmatch(_SCALARS[kind], node.value):
                return construct(loader, node)
        except ValueError:
            pass
        reason = f"{brief(node.value)} is not a valid {kind}"
        raise yaml.constructor.ConstructorError(None, None, reason, node.start_mark)

    return checked


for _kind in ("bool", "int", "float", "null"):
    _construct = _whole_number if _kind == "int" else getattr(yaml.SafeLoader, f"construct_yaml_{_kind}")
    _CoreLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _checked(_kind, _construct))


class Document:
    """The content of one file as plain data, the line of each value, and the errors found so far.

    Raises ConfigError if the file cannot be read or is not YAML.
    """

    def __init__(self, path: Path, text: str | None = None) -> None:
        """Parse `text`, or the file if `text` is None; errors name `path`."""
        self.path = path
        self._places: dict[Keys, str] = {}
        self._problems: list[tuple[int, str]] = []
        self._lines: dict[Keys, int] = {}
        self._seen: set[int] = set()  # mappings whose keys were checked; aliases visit their anchor again
        self.data = self._parse(_read(path) if text is None else text)
        self._lines.setdefault((), 1)  # of an empty file

    def add(self, keys: Keys, text: str) -> None:
        """Record an error of the value at `keys`, or of the innermost value around it that the file has."""
        found = keys
        while found not in self._lines:  # () always is
            found = found[:-1]
        in_file = found not in self._places
        where = ".".join(map(str, found if in_file else keys[len(found) :]))
        text = f"{where}: {text}" if where else text
        if in_file:
            self._problems.append((self._lines[found], f"{self.place(found)}: {text}"))
        else:
            self.fail(self._places[found], text)

    def override(self, keys: Keys, value: Any, place: str) -> None:
        """Set the value at `keys`, whose parents are mappings or empty; its errors name `place` instead of a line."""
        self.data = _replaced(self.data, keys, value)
        self._places[keys] = place
        self._lines[keys] = 0

    def place(self, keys: Keys) -> str:
        """Return file and line of the value at `keys`."""
        return self._places.get(keys) or f"{self.path}:{self._lines[keys]}"

    def fail(self, place: str, text: str) -> None:
        """Record an error that belongs to no line."""
        self._problems.append((2**31, f"{place}: {text}"))

    def raise_problems(self) -> None:
        """Raise ConfigError with all errors in line order, if there are any."""
        if self._problems:
            raise ConfigError("\n".join(text for _, text in sorted(self._problems, key=lambda found: found[0])))

    def _parse(self, text: str) -> Any:
        try:
            loader = _CoreLoader(text)
            node = loader.get_single_node()
            return None if node is None else self._value(loader, node, (), ())
        except yaml.YAMLError as exc:
            raise ConfigError(f"{self.path}:{_line(exc, text)}: not YAML: {_reason(exc)}") from exc
        except RecursionError as exc:
            raise ConfigError(f"{self.path}: nested too deeply") from exc

    def _value(self, loader: _CoreLoader, node: yaml.Node, keys: Keys, ancestors: tuple[int, ...]) -> Any:
        self._lines.setdefault(keys, node.start_mark.line + 1)
        if id(node) in ancestors:
            self.add(keys, "this value contains itself")
            return None
        ancestors = (*ancestors, id(node))
        if isinstance(node, yaml.SequenceNode):
            return [self._value(loader, item, (*keys, index), ancestors) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(loader, node, keys, ancestors)
        return loader.construct_object(node)

    def _mapping(self, loader: _CoreLoader, node: yaml.MappingNode, keys: Keys, ancestors: tuple[int, ...]) -> Any:
        if id(node) not in self._seen:
            self._seen.add(id(node))
            self._check_keys([key for key, _ in node.value], keys)
        loader.flatten_mapping(node)  # puts the keys of `<<` first, so that the mapping's own win
        found: dict[str, Any] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                self._lines[*keys, key.value] = key.start_mark.line + 1
                found[key.value] = self._value(loader, value, (*keys, key.value), ancestors)
        return found

    def _check_keys(self, nodes: list[yaml.Node], keys: Keys) -> None:
        lines: dict[str, int] = {}
        for node in nodes:
            line = node.start_mark.line + 1
            if not isinstance(node, yaml.ScalarNode):
                where = ".".join(map(str, keys)) or "top level"
                self._problems.append((line, f"{self.path}:{line}: {where}: a key must be a string"))
            elif node.value in lines:
                self._lines[*keys, node.value] = line
                self.add((*keys, node.value), f"appears twice, first on line {lines[node.value]}")
            else:
                lines[node.value] = line


class _CoreDumper(yaml.SafeDumper):
    """Quotes the strings that the loader would otherwise read as another type."""

    yaml_implicit_resolvers = _CoreLoader.yaml_implicit_resolvers

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Put U+0085 in double quotes, which escape it: in other styles PyYAML writes what reads as a space."""
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if "\x85" in data else None)


_CoreDumper.add_representer(str, _CoreDumper.represent_str)


def to_yaml(data: Any) -> str:
    """Return plain data as YAML that `Document` reads back as the same."""
    return yaml.dump(data, Dumper=_CoreDumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110)


def parse_value(text: str) -> Any:
    """Return the value of YAML given on the command line.

    Text that does not begin a list, a mapping or a quoted string is one plain scalar, so that `*.png`, `#1.mp4` and
    `a: b` are strings. Raises ConfigError if it is not YAML.
    """
    text = text.strip()
    if text.startswith(("[", "{", '"', "'")):
        document = Document(Path("value"), text)
        document.raise_problems()
        return document.data
    try:
        loader = _CoreLoader(text)
        tag = loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
        return loader.construct_object(yaml.ScalarNode(tag, text))
    except yaml.YAMLError as exc:
        raise ConfigError(f"{text!r} is not YAML: {_reason(exc)}") from exc


def _replaced(data: Any, keys: Keys, value: Any) -> Any:
    """Return a copy of `data` with `value` at `keys`: through an anchor, nodes may share the original."""
    if not keys:
        return value
    if data is not None and not isinstance(data, dict):
        return data  # an error, reported elsewhere
    inner = data or {}
    return inner | {keys[0]: _replaced(inner.get(keys[0]), keys[1:], value)}


def _read(path: Path) -> str:
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
        return f"invalid character {chr(exc.character)!r}"
    assert isinstance(exc, yaml.MarkedYAMLError), exc
    reason = ", ".join(part for part in (exc.problem, exc.context) if part)
    return reason + ("; indent with spaces, not tabs" if "\\t" in reason else "")
