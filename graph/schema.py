"""The keys of a graph file and their types, as pydantic models and as JSON Schema."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from graph.catalog import comments
from graph.document import Document, Keys
from graph.errors import ConfigError
from graph.link import MAX_CREDIT
from graph.node import Node
from graph.settings import settings_of, show
from graph.spec import Join, Policy, Restart, choices

NAME = r"[A-Za-z_][A-Za-z0-9_-]*"
NAME_LENGTH = 40
"""Maximum length of a name: names become parts of socket paths, which have at most 107 bytes on Linux (unix(7))."""

_Name = Annotated[str, Field(pattern=f"^{NAME}$", max_length=NAME_LENGTH)]
_Place = Annotated[str, Field(pattern=rf"^({NAME}|tcp://\S+)$", max_length=300)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class NodeModel(_Part):
    """One node."""

    type: str = Field(description="The node's class, module:Class", examples=["nodes.smooth:Smooth"])
    inputs: dict[str, str] = Field(default={}, description="input: node.output, one line per input of the class")
    settings: dict[str, Any] = Field(default={}, description="Settings that differ from the defaults of the class")
    restart: Restart = Field(default="never", description="Whether to restart the node after it has ended")


class EdgeModel(_Part):
    """One edge, as far as it differs from the default."""

    policy: Policy | None = Field(default=None, description="What happens if the receiver is slower than the sender")
    queue: int | None = Field(default=None, ge=1, le=MAX_CREDIT, description="How many messages may wait in the sender")
    join: Join = Field(
        default="seq", description="seq: wait for the message of the same frame; hold: reuse the last message"
    )


class GraphModel(_Part):
    """A graph of nodes, for run_graph.py."""

    name: _Name | None = Field(default=None, description="Name of the graph; default: the name of the file")
    attach: _Place | None = Field(
        default=None, description="Running graph to add these nodes to: its name, or its address tcp://HOST:PORT"
    )
    live: bool | None = Field(default=None, description="Whether the source is a camera, not a file; default: ask it")
    listen: str | None = Field(
        default=None, description="Where other hosts may attach, as tcp://127.0.0.1:5555; needs keys off this machine"
    )
    keys: str | None = Field(default=None, description="Folder created by run_graph.py keys, for listen")
    nodes: dict[_Name, NodeModel] = Field(description="The nodes by name")
    edges: dict[str, EdgeModel] = Field(
        default={}, description='"node.output -> node.input": what differs from the default'
    )


def read_shape(document: Document) -> tuple[GraphModel, set[str]]:
    """Return the valid part of a document, and the names of the nodes from which invalid parts were removed.

    Records the errors in the document. Raises ConfigError if it is not a mapping.
    """
    if document.data is None:
        raise ConfigError(f"{document.path}:1: is empty, expected `nodes:`")
    if not isinstance(document.data, dict):
        raise ConfigError(f"{document.path}:1: is {show(document.data)}, expected `nodes:`")
    data = _without_null(document.data)
    broken: set[str] = set()
    while True:
        try:
            return GraphModel.model_validate(data), broken
        except ValidationError as exc:
            for error in exc.errors():
                keys: Keys = tuple(key for key in error["loc"] if key != "[key]")
                missing = error["type"] == "missing"
                document.add(keys[:-1] if missing else keys, _message(keys, error))
                broken |= {str(name) for name in keys[1:2] if keys[0] == "nodes"}
                _remove(data, keys[:2] if keys[2:] == ("type",) else keys)  # a node needs a type


def json_schema(nodes: Mapping[str, type[Node]]) -> dict[str, Any]:
    """Return the JSON Schema of a graph file for editors, with the settings and inputs of the given node types."""
    schema: dict[str, Any] = GraphModel.model_json_schema()
    schema["properties"]["nodes"]["additionalProperties"] = False  # pydantic only covers nodes with valid names
    edges, node = schema["properties"]["edges"], schema["$defs"]["NodeModel"]
    edges["additionalProperties"] = {"anyOf": [edges["additionalProperties"], {"type": "null"}]}
    for part in (schema, *schema["$defs"].values()):
        for name in part["properties"].keys() - part.get("required", ()):
            _allow_null(part["properties"][name])
    node["properties"]["type"]["anyOf"] = [{"enum": sorted(nodes)}, {"pattern": "^.+:.+$"}]
    node["allOf"] = [
        {"if": {"properties": {"type": {"const": type_}}}, "then": {"properties": _node_schema(nodes[type_])}}
        for type_ in sorted(nodes)
    ]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _node_schema(node: type[Node]) -> dict[str, Any]:
    descriptions = comments(node)
    settings = {name: setting.json_schema(descriptions.get(name, "")) for name, setting in settings_of(node).items()}
    inputs = {name: {"type": "string", "description": port.type.__name__} for name, port in node.inputs.items()}
    return {
        "settings": {"properties": settings, "additionalProperties": False},
        "inputs": {"properties": inputs, "additionalProperties": False},
    }


def _allow_null(schema: dict[str, Any]) -> None:
    """Allow null for a key, which `_without_null` removes."""
    if "type" in schema:  # without it, null is allowed already
        schema["type"] = [schema["type"], "null"]
    if "enum" in schema:
        schema["enum"] = [*schema["enum"], None]


def _without_null(data: dict[str, Any]) -> dict[str, Any]:
    """Return a copy without null values, so that `settings:` with all its lines commented out is no error."""
    found: dict[str, Any] = _filled(data)
    for key in ("nodes", "edges"):
        if isinstance(found.get(key), dict):
            found[key] = {name: _filled({} if body is None else body) for name, body in found[key].items()}
    return found


def _filled(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    return {key: value for key, value in part.items() if value is not None}


def _remove(data: dict[str, Any], keys: Keys) -> None:
    if keys == ("nodes",):
        data["nodes"] = {}
        return
    inner: Any = data
    for key in keys[:-1]:
        inner = inner.get(key, {})  # an earlier error may have removed it
    inner.pop(keys[-1], None)


_EXPECTED = {
    "string_type": "a string",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "greater_than_equal": "at least 1",
    "less_than_equal": f"at most {MAX_CREDIT}",
}


def _message(keys: Keys, error: Any) -> str:
    """Return the message for one pydantic error, in terms of the YAML file."""
    kind, found, last = error["type"], error["input"], str(keys[-1])
    if kind == "extra_forbidden":
        model = GraphModel if len(keys) == 1 else NodeModel if keys[0] == "nodes" else EdgeModel
        return f"unknown key; {choices(last, model.model_fields, 'valid')}"
    if kind == "missing":
        return "needs `nodes:`" if last == "nodes" else "needs a `type:`, like nodes.smooth:Smooth"
    if kind in ("string_pattern_mismatch", "string_too_long"):
        rule = f"letters, digits, _ and -, no digit first, at most {NAME_LENGTH} characters"
        return f"is {show(found)}, expected a name: {rule}"
    if kind == "literal_error":
        words = error["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return f"is {show(found)}; {choices(str(found), words, 'valid')}"
    return f"is {show(found)}, expected {_EXPECTED.get(kind, error['msg'])}"
