"""What the words of a YAML file are, by the core schema of YAML 1.2."""

import math

import pytest

from graph.document import parse_value

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
def test_words_that_stand_for_something_else(word: str, value: object) -> None:
    found = parse_value(word)
    assert (found, type(found)) == (value, type(value))
    assert not word.strip() or parse_value(f"[{word}]") == [value]


@pytest.mark.parametrize("word", [".nan", ".NaN", ".NAN"])
def test_no_number(word: str) -> None:
    assert math.isnan(parse_value(word))


@pytest.mark.parametrize("word", TEXTS)
def test_words_that_are_texts(word: str) -> None:
    assert parse_value(word) == parse_value(f"[{word}]")[0] == word
