"""YAML scalars by the core schema of YAML 1.2."""

import math
from pathlib import Path

import pytest

from graph import ConfigError
from graph.document import Document, parse_value, to_yaml

WORDS = {
    True: ["true", "True", "TRUE"],
    False: ["false", "False", "FALSE"],
    None: ["null", "Null", "NULL", "~", "", " "],
    17: ["17", "+17", "017", "0o21", "0x11"],
    -17: ["-17"],
    0xFA: ["0xfa", "0xFA"],
    2.0: ["2.", "2.0", "+2.0", "2e0", "2E+0", "20e-1"],
    0.5: [".5", "+.5", "0.5", "5e-1"],
    -0.5: ["-.5"],
    math.inf: [".inf", ".Inf", ".INF", "+.inf"],
    -math.inf: ["-.inf", "-.Inf", "-.INF"],
}
TEXTS = ["tRUE", "yes", "no", "on", "nULL", "0b1", "0o8", "0xg", "1_000", ".Nan", "-.nan", "e1", "."]


@pytest.mark.parametrize(("word", "value"), [(word, value) for value, words in WORDS.items() for word in words])
def test_scalars_that_are_not_strings(word: str, value: object) -> None:
    found = parse_value(word)
    assert (found, type(found)) == (value, type(value))
    assert not word.strip() or parse_value(f"[{word}]") == [value]


@pytest.mark.parametrize("word", [".nan", ".NaN", ".NAN"])
def test_nan(word: str) -> None:
    assert math.isnan(parse_value(word))


@pytest.mark.parametrize("word", TEXTS)
def test_scalars_that_are_strings(word: str) -> None:
    assert parse_value(word) == parse_value(f"[{word}]")[0] == word


@pytest.mark.parametrize("brackets", ["[\n", "{a:\n"])
def test_input_that_is_nested_too_deeply(brackets: str) -> None:
    with pytest.raises(ConfigError, match=r"g\.yaml: nested too deeply"):
        Document(Path("g.yaml"), brackets * 5000)
    with pytest.raises(ConfigError, match="value: nested too deeply"):
        parse_value(brackets * 5000)


def test_to_yaml_is_readable_and_loads_as_the_same() -> None:
    settings = {"uri": "für/alle.mp4", "title": "no", "number": "017", "ids": [*range(25)]}
    data = {"nodes": {"camera": {"type": "a:B", "settings": settings}}, "live": None}
    text = to_yaml(data)
    assert text == (
        "nodes:\n  camera:\n    type: a:B\n    settings:\n"
        "      uri: für/alle.mp4\n      title: no\n      number: '017'\n"
        f"      ids: [{', '.join(map(str, range(25)))}]\n"
        "live: null\n"
    )
    assert Document(Path("g.yaml"), text).data == data


def test_override_replaces_values_but_leaves_what_is_not_a_mapping() -> None:
    document = Document(Path("g.yaml"), "a: &a {b: 1}\nalso: *a\nempty:\nwrong: 5")
    for name in ("a", "empty", "new", "wrong"):
        document.override((name, "b"), 2, "--set")
    assert document.data == {"a": {"b": 2}, "also": {"b": 1}, "empty": {"b": 2}, "new": {"b": 2}, "wrong": 5}


def test_an_error_in_an_empty_document_has_a_line() -> None:
    document = Document(Path("g.yaml"), "")
    document.override(("name",), "g", "--name")
    document.add(("nodes",), "is missing")
    with pytest.raises(ConfigError, match=r"^g\.yaml:1: is missing$"):
        document.raise_problems()
