"""Settings in graph files and on the command line: valid values, and errors of wrong ones."""

import datetime
from pathlib import Path

import msgpack
import pytest

from graph import wire
from graph.settings import settings_of
from graph.spec import NodeSpec, build
from tests.config_toys import SHOW, Camera, Colour, Odd, errors, good


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_list_from_the_wire_becomes_a_tuple() -> None:
    camera = build(NodeSpec("camera", f"{Camera.__module__}:Camera", {"crop": [1, 2]}))
    assert isinstance(camera, Camera)
    assert camera.crop == (1, 2)


TYPES = """\
nodes:
  odd:
    type: "@Odd"
    settings:
      %s
"""


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("path: b/c", Path("b/c")),
        ("colour: blue", Colour.BLUE),
        ("numbers: [1, 2, 1]", {1, 2}),
        ("day: 2026-11-23", datetime.date(2026, 11, 23)),
        ("day: null", None),
        ("by_number: {1: one}", {1: "one"}),
        ("names: [a]", ["a"]),
        ("area: [[1, 2], [3, 4]]", ((1, 2), (3, 4))),
    ],
)
def test_settings_of_any_type_arrive_in_the_node(line: str, value: object) -> None:
    spec = good(TYPES % line).nodes["odd"]
    travelled = msgpack.unpackb(wire.pack([spec.name, spec.type, dict(spec.settings)]))
    found = getattr(build(NodeSpec(*travelled)), line.partition(":")[0])
    assert (found, type(found)) == (value, type(value))


def test_keys_are_strings_on_the_command_line_and_in_files() -> None:
    settings = good(TYPES % "path: b/c", "odd.by_number={1: one, 2: two}").nodes["odd"].settings
    assert settings["by_number"] == good(TYPES % "by_number: {1: one, 2: two}").nodes["odd"].settings["by_number"]
    assert wire.unpack(wire.pack({"k": "settings", "v": wire.VERSION, **settings}))["by_number"]


def test_defaults_of_any_type_are_written_as_in_yaml() -> None:
    settings, names = settings_of(Odd), ("path", "colour", "numbers", "names", "area")
    assert {name: settings[name].json_schema("")["default"] for name in names} == {
        "path": "a",
        "colour": "red",
        "numbers": None,
        "names": [],
        "area": [],
    }
    assert settings["colour"].choices() == ["red", "blue"]


def test_wrong_settings_of_any_type() -> None:
    found = errors(TYPES % "colour: green")
    assert found == ["g.yaml:5: nodes.odd.settings.colour: is 'green', expected 'red' or 'blue'"]


def test_a_setting_whose_type_yaml_cannot_hold() -> None:
    found = errors(TYPES.replace("@Odd", "@Unfit") % "tool: hammer")
    assert found == ["g.yaml:5: nodes.odd.settings.tool: has the type Tool, which a YAML file cannot hold"]


def test_the_json_schema_of_a_setting() -> None:
    settings = settings_of(Camera)
    schema = {"type": "number", "description": "pixels", "maximum": 64.0, "default": 0.0}
    assert settings["noise"].json_schema("pixels") == schema  # a minimum of null would be invalid
    assert (settings["mode"].choices(), settings["width"].choices()) == (["fast", "slow"], None)


SETTINGS = """\
name: g
nodes:
  camera:
    type: "@Camera"
    settings:
      %s
  show: {type: "@Show", inputs: {frame: camera.frame}}
"""


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("uri: 0", 0),
        ("uri: '0'", "0"),
        ("uri: no", "no"),
        ("uri: 2026-11-23", "2026-11-23"),
        ("width: 0x20", 32),
        ("width: 017", 17),
        ("fps: 25", 25.0),
        ("fps: 1e+3", 1000.0),
        ("noise: 1e-3", 0.001),
        ("noise: -.5", -0.5),
        ("mode: slow", "slow"),
        ("crop: [1, 2]", (1, 2)),
        ("mirror: true", True),
        ("title: null", None),
        ("title: ~", None),
    ],
)
def test_settings(line: str, value: object) -> None:
    found = good(SETTINGS % line).nodes["camera"].settings[line.partition(":")[0]]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("widht: 5", "widht: Camera has no such setting; did you mean 'width'?"),
        ("x: 5", "x: Camera has no such setting; settings: uri, width, fps, noise, mode, crop, mirror, title"),
        ("width: wide", "width: is 'wide', expected int from 16 to 7680"),
        ("width: '640'", "width: is '640', expected int from 16 to 7680"),
        ("width: 640.5", "width: is 640.5, expected int from 16 to 7680"),
        ("width: true", "width: is true, expected int from 16 to 7680"),
        ("width: false", "width: is false, expected int from 16 to 7680"),
        ("width:", "width: is empty, expected int from 16 to 7680"),
        ("title: 5", "title: is 5, expected str or null"),
        ("width: 8", "width: is 8, expected int from 16 to 7680"),
        ("width: 7681", "width: is 7681, expected int from 16 to 7680"),
        ("fps: 0", "fps: is 0, expected float of at least 0.1"),
        ("fps: .nan", "fps: is nan, expected float of at least 0.1"),
        ("noise: 65", "noise: is 65, expected float of at most 64.0"),
        ("mode: fats", "mode: is 'fats', expected 'fast' or 'slow'; did you mean 'fast'?"),
        ("mode: 3", "mode: is 3, expected 'fast' or 'slow'"),
        ("crop: [1, 2, 3]", "crop: is [1, 2, 3], expected tuple[int, int]"),
        ("mirror: yes", "mirror: is 'yes', expected true or false"),
        ("uri: 1.5", "uri: is 1.5, expected str or int"),
        ("uri: 99999999999999999999", "uri: is 99999999999999999999, expected a whole number of at most 64 bits"),
    ],
)
def test_wrong_setting(line: str, error: str) -> None:
    assert errors(SETTINGS % line) == [f"g.yaml:6: nodes.camera.settings.{error}"]


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("camera.widht=5", "Camera has no such setting; did you mean 'width'?"),
        ("camera.width=5", "is 5, expected int from 16 to 7680"),
        ("camra.width=5", "there is no node 'camra'; did you mean 'camera'?"),
        ("camera=5", "is not of the form node.setting=value"),
        ("camera.=5", "is not of the form node.setting=value"),
        ("camera.width=", "is empty, expected int from 16 to 7680"),
        ("camera.width", "is not of the form node.setting=value"),
        ("camera.crop=[!!int x, 1]", "value:1: not YAML: 'x' is not a valid int"),
        ("camera.crop={a: 1, a: 2}", "value:1: a: appears twice, first on line 1"),
        ("camera.crop={[a]: 1}", "value:1: top level: a key must be a string"),
        ("camera.uri=\udce4.mp4", r"'\udce4.mp4' is not YAML: invalid character '\udce4'"),
        (
            "camera.crop=[1",
            "value:1: not YAML: expected ',' or ']', but got '<stream end>', while parsing a flow sequence",
        ),
    ],
)
def test_wrong_override(override: str, error: str) -> None:
    assert errors(SHOW, override) == [f"--set {override}: {error}"]


@pytest.mark.parametrize("text", ["- a", "nodes: [a]", "nodes:", "# nothing"])
def test_an_override_of_an_invalid_file_adds_no_error(text: str) -> None:
    assert errors(text, "camera.width=640") == errors(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("*.png", "*.png"),
        ("#1 clip.mp4", "#1 clip.mp4"),
        ("a: b", "a: b"),
        ("C:\\clips\\a.mp4", "C:\\clips\\a.mp4"),
        ("rtsp://me:word@host/1", "rtsp://me:word@host/1"),
        ("%08d.png", "%08d.png"),
        ('"7"', "7"),
        ("'7'", "7"),
        ("7", 7),
        ("-1", -1),
        ("0o17", 15),
        ("''", ""),
    ],
)
def test_overrides_that_look_like_yaml_but_are_plain_scalars(text: str, value: object) -> None:
    assert good(SHOW, f"camera.uri={text}").nodes["camera"].settings == {"uri": value}


def test_merged_settings_may_be_used_twice() -> None:
    text = """\
nodes:
  left: &left {type: "@Camera", settings: &same {width: 320, mirror: true}}
  right: &right {<<: *left, settings: {<<: *same, width: 160}}
  again: *right
  show: {type: "@Show", inputs: {frame: again.frame}}
"""
    assert good(text).nodes["again"].settings == {"width": 160, "mirror": True}


def test_an_error_without_a_line_names_the_enclosing_one() -> None:
    text = SHOW + '  more:\n    type: "@Writer"\n    inputs: {frame: camera.frame}'
    expected = ["g.yaml:5: nodes.more: Writer: a .txt holds no pictures; write .mp4"]
    assert errors(text, "more.path=a.txt") == expected


def test_an_override_does_not_change_a_node_that_shares_the_settings() -> None:
    text = """\
nodes:
  left: {type: "@Camera", settings: &same {width: 320}}
  right: {type: "@Camera", settings: *same}
  show: {type: "@Show", inputs: {frame: left.frame}}
  show2: {type: "@Show", inputs: {frame: right.frame}}
"""
    spec = good(text, "left.width=160", "left.mirror=true")
    assert spec.nodes["left"].settings == {"width": 160, "mirror": True}
    assert spec.nodes["right"].settings == {"width": 320}
