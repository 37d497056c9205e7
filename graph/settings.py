"""The settings of a node class: types, ranges, and validation of values."""

import dataclasses
import enum
import json
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

from graph import wire
from graph.errors import ConfigError
from graph.node import Node, is_plain
from graph.spec import did_you_mean


@dataclass(frozen=True)
class Setting:
    """One setting of a node class."""

    name: str
    type: Any  # the annotation
    default: Any  # dataclasses.MISSING if required
    minimum: float | None = None
    maximum: float | None = None
    changeable: bool = False
    secret: bool = False

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is dataclasses.MISSING

    def check(self, value: Any) -> Any:
        """Validate `value` from YAML and return it as plain data that msgpack can send to the node's process.

        Raises ConfigError saying what was found and what would be valid. Strings are not converted to numbers.
        """
        try:
            typed = self.typed(value)
        except ValidationError as exc:
            raise ConfigError(f"is {show(value)}, expected {self.expected()}{_near(value, self.type)}") from exc
        if isinstance(typed, int | float) and not isinstance(typed, bool) and not self._within(typed):
            raise ConfigError(f"is {show(value)}, expected {self.expected()}")
        plain = typed if is_plain(self.type) else value
        try:
            wire.pack(plain)
        except OverflowError as exc:
            raise ConfigError(f"is {show(value)}, expected a whole number of at most 64 bits") from exc
        return plain

    def typed(self, value: Any) -> Any:
        """Convert a value from YAML or msgpack to the setting's type. Raises ValueError if it is invalid."""
        return self._adapter().validate_json(json.dumps(value), strict=True)

    def expected(self) -> str:
        """Return the type and the range in words."""
        return " ".join(part for part in (type_name(self.type), self.range()) if part)

    def range(self) -> str:
        """Return the range in words, "" without one."""
        if self.minimum is not None and self.maximum is not None:
            return f"from {self.minimum} to {self.maximum}"
        if self.minimum is not None:
            return f"of at least {self.minimum}"
        return f"of at most {self.maximum}" if self.maximum is not None else ""

    def choices(self) -> list[Any] | None:
        """Return the values of a Literal or Enum, None for other types."""
        if isinstance(self.type, enum.EnumType):
            return [member.value for member in list[enum.Enum](self.type)]
        return list(typing.get_args(self.type)) if typing.get_origin(self.type) is Literal else None

    def json_schema(self, description: str) -> dict[str, Any]:
        """Return the JSON Schema of the setting."""
        schema = self._adapter().json_schema() | {"description": description}
        bounds = {"minimum": self.minimum, "maximum": self.maximum}
        schema |= {key: bound for key, bound in bounds.items() if bound is not None}
        return schema if self.required else schema | {"default": json.loads(json.dumps(self.written_default()))}

    def written_default(self) -> Any:
        """Return the default as YAML writes it: an enum as its value, a path as a string."""
        if is_plain(self.type):
            return self.default
        return self._adapter().dump_python(self.default, mode="json", warnings=False, fallback=str)

    def _within(self, value: float) -> bool:
        above = self.minimum is None or value >= self.minimum
        return above and (self.maximum is None or value <= self.maximum)

    def _adapter(self) -> TypeAdapter[Any]:
        try:
            return TypeAdapter(self.type)
        except PydanticSchemaGenerationError as exc:
            raise ConfigError(f"has the type {type_name(self.type)}, which a YAML file cannot hold") from exc


def settings_of(node: type[Node]) -> dict[str, Setting]:
    """Return the settings of a node class by name, in the order of its source.

    Raises ConfigError if their types do not exist at run time.
    """
    try:
        hints = typing.get_type_hints(node)
    except NameError as exc:
        why = f"{exc}; the types of settings must exist at run time: import them outside of `if TYPE_CHECKING:`"
        raise ConfigError(f"{node.__name__}: {why}") from exc
    return {
        field.name: Setting(field.name, hints[field.name], _default(field), **field.metadata)
        for field in dataclasses.fields(node)  # type: ignore[arg-type]  # Node makes its subclasses dataclasses
        if field.init
    }


def type_name(annotation: Any) -> str:
    """Return a type as an error message names it: `int`, `str or null`, `'a' or 'b'`."""
    if typing.get_origin(annotation) is Literal:
        return " or ".join(repr(choice) for choice in typing.get_args(annotation))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return " or ".join(type_name(part) for part in typing.get_args(annotation))
    if annotation is bool:
        return "true or false"
    if annotation is type(None):
        return "null"
    if isinstance(annotation, enum.EnumType):
        return " or ".join(repr(member.value) for member in list[enum.Enum](annotation))
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    return str(annotation).replace("typing.", "")


def show(value: Any) -> str:
    """Return a value from YAML as an error message shows it, at most 60 characters."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _near(value: Any, annotation: Any) -> str:
    choices = [choice for choice in typing.get_args(annotation) if isinstance(choice, str)]
    near = did_you_mean(value, choices) if isinstance(value, str) else ""
    return f"; {near}" if near else ""
