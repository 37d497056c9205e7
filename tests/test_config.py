"""Graph files: what they may say, and every kind of mistake in them, by the exact text of its error."""


import copy
import datetime
import logging
from pathlib import Path
from typing import Any

import msgpack
import pytest
import yaml

from graph import ConfigError, spec, wire
from graph.config import JOIN_DEPTH, load
from graph.settings import settings_of
from graph.spec import EdgeSpec, GraphSpec, NodeSpec, build
from tests.config_mistakes import CASES
from tests.config_toys import FACES, SHOW, Camera, Colour, Odd

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "g.yaml") -> str:
    """Write a graph; @Camera stands for the Camera of tests/config_toys.py."""
    Path(name).write_text(text.replace("@", f"{Camera.__module__}:"), encoding="utf-8")
    return name


def errors(text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(write(text), overrides)
    return str(caught.value).replace(Camera.__module__, "@").splitlines()


def good(text: str, *overrides: str) -> GraphSpec:
    return load(write(text), overrides)


def test_a_graph() -> None:
    spec = good(SHOW + "edges: {camera.frame -> show.frame: {policy: drop_newest, queue: 2}}", "camera.uri=a.mp4")
    assert (spec.name, spec.attach, spec.path) == ("g", None, "g.yaml")
    assert spec.nodes["camera"].settings == {"uri": "a.mp4"}
    assert spec.nodes["show"].restart == "never"
    assert spec.edges == (EdgeSpec("camera.frame", "show.frame", "drop_newest", 2, "seq"),)
    assert spec.edges_into("show") == spec.edges_from("camera") == spec.edges
    assert (spec.sources(), spec.sinks()) == (("camera",), ("show",))
    camera = build(spec.nodes["camera"])
    assert isinstance(camera, Camera)
    assert (camera.uri, camera.width) == ("a.mp4", 640)


def test_a_tuple_that_became_a_list_on_its_way_to_the_process() -> None:
    camera = build(NodeSpec("camera", f"{Camera.__module__}:Camera", {"crop": [1, 2]}))
    assert isinstance(camera, Camera)
    assert camera.crop == (1, 2)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_of_ours(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = load(path)
    assert spec.name == path.stem
    assert not caplog.messages
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert f"python run_graph.py configs/{path.name}" in text
    for node in spec.nodes.values():
        for value in node.settings.values():
            written = isinstance(value, str) and value.startswith("out/")
            assert not written or text.count(value) == 2, f"{value} is not told at the top of {path.name}"


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


def test_numbers_as_keys_are_texts_on_the_command_line_as_in_a_file() -> None:
    settings = good(TYPES % "path: b/c", "odd.by_number={1: one, 2: two}").nodes["odd"].settings
    assert settings["by_number"] == good(TYPES % "by_number: {1: one, 2: two}").nodes["odd"].settings["by_number"]
    assert wire.unpack(wire.pack({"k": "settings", "v": wire.VERSION, **settings}))["by_number"]


def test_defaults_of_any_type_are_told_as_yaml_would_have_them() -> None:
    settings = settings_of(Odd)
    told = {name: settings[name].json_schema("")["default"] for name in ("path", "colour", "numbers", "area")}
    assert told == {"path": "a", "colour": "red", "numbers": None, "area": []}
    assert settings["colour"].choices() == ["red", "blue"]


def test_wrong_settings_of_any_type() -> None:
    found = errors(TYPES % "colour: green")
    assert found == ["g.yaml:5: nodes.odd.settings.colour: is 'green', expected 'red' or 'blue'"]


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
        ("width:", "width: is empty, expected int from 16 to 7680"),
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
        ("camera.width=", "is empty, expected int from 16 to 7680"),
        ("camera.width", "is not of the form node.setting=value"),
        ("camera.crop=[!!int x, 1]", "'[!!int x, 1]' is not YAML: 'x' is no int"),
        ("camera.crop={a: 1, a: 2}", "'{a: 1, a: 2}' is not YAML: 'a' stands twice"),
        (
            "camera.crop=[1",
            "'[1' is not YAML: expected ',' or ']', but got '<stream end>', while parsing a flow sequence",
        ),
    ],
)
def test_wrong_override(override: str, error: str) -> None:
    assert errors(SHOW, override) == [f"--set {override}: {error}"]


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
        ("''", ""),
    ],
)
def test_overrides_that_look_like_yaml_but_are_texts(text: str, value: object) -> None:
    assert good(SHOW, f"camera.uri={text}").nodes["camera"].settings == {"uri": value}


def test_override_of_one_node_leaves_the_other_that_shares_its_settings() -> None:
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


def test_merged_settings() -> None:
    text = """\
nodes:
  left: {type: "@Camera", settings: &same {width: 320, fps: 5}}
  right: {type: "@Camera", settings: {<<: *same, width: 640}}
  show: {type: "@Show", inputs: {frame: left.frame}}
  show2: {type: "@Show", inputs: {frame: right.frame}}
"""
    assert good(text).nodes["right"].settings == {"width": 640, "fps": 5.0}


@pytest.mark.parametrize("case", CASES)
def test_error(case: str) -> None:
    text, expected = CASES[case]
    assert errors(text) == expected


def test_all_errors_at_once_in_the_order_of_the_file() -> None:
    text = """\
name: 1
nodes:
  camera: {type: "@Camera", settings: {width: 1, mirrored: true}}
  detect: {type: "@Detect", inputs: {frame: camera.image}}
  show: {type: "@Shwo", inputs: {frame: camera.frame}}
edges:
  camera.frame -> detect.fram: {policy: latest}
"""
    assert [line.split(": ")[:2] for line in errors(text, "show.x=1", "camera.fps=0")] == [
        ["g.yaml:1", "name"],
        ["g.yaml:3", "nodes.camera.settings.width"],
        ["g.yaml:3", "nodes.camera.settings.mirrored"],
        ["g.yaml:4", "nodes.detect.inputs.frame"],
        ["g.yaml:5", "nodes.show.type"],
        ["g.yaml:7", "edges.camera.frame -> detect.fram"],
        ["--set camera.fps=0", "is 0, expected float of at least 0.1"],
    ]


def test_no_such_file(tmp_path: Path) -> None:
    write(SHOW, "webcam.yaml")
    with pytest.raises(ConfigError, match=f"^no file {tmp_path}/webcm.yaml; did you mean 'webcam.yaml'\\?$"):
        load("webcm.yaml")


def test_not_text() -> None:
    Path("g.yaml").write_bytes(b"name: \xff\n")
    with pytest.raises(ConfigError, match=r"^g.yaml: not a text file in UTF-8: invalid start byte at byte 6$"):
        load("g.yaml")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^{tmp_path}: cannot be read: Is a directory$"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import no_such_package_at_all", "module broken needs no_such_package_at_all, which is not installed"),
        ("1 / 0", "module broken cannot be imported: {folder}/broken.py:1: ZeroDivisionError: division by zero"),
        (
            "from graph import Node\nclass A(Node):\n    pass",
            "module broken cannot be imported: {folder}/broken.py:2: TypeError: A has no process()",
        ),
        (
            "from graph import Node\nclass A(Node):\n    names: list[str] = []",
            "module broken cannot be imported: {folder}/broken.py:2: ValueError: mutable default",
        ),
        ("class A", "module broken cannot be imported: SyntaxError: expected ':' (broken.py, line 1)"),
    ],
)
def test_module_that_fails(source: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    [line] = errors(SHOW + "  more: {type: 'broken:A'}")
    assert line.startswith("g.yaml:5: nodes.more.type: " + error.format(folder=tmp_path))


def test_a_module_that_is_named_like_ours_is_told_with_its_own_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spec, "__file__", str(tmp_path / "graph" / "spec.py"))
    (tmp_path / "graph_mine.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    [line] = errors(SHOW + "  more: {type: 'graph_mine:A'}")
    assert f"{tmp_path}/graph_mine.py:1: ZeroDivisionError" in line


def test_subclass_of_the_message_is_accepted() -> None:
    good(SHOW.replace("@Camera", "@DepthCamera"))


def test_optional_input_may_be_left_out() -> None:
    assert len(good(SHOW.replace("@Show", "@Render")).edges) == 1


def test_empty_sections_are_none() -> None:
    good(SHOW.replace('{type: "@Camera"}', '{type: "@Camera", settings: , inputs: }') + "edges:\nlive:\n")


def test_a_graph_without_name_has_the_name_of_its_file() -> None:
    assert load(write(SHOW.replace("name: g\n", ""), "2 cams.yaml")).name == "_2_cams"


def policies(spec: GraphSpec) -> dict[str, tuple[str, int]]:
    return {edge.target: (edge.policy, edge.queue) for edge in spec.edges}


def test_a_file_is_waited_for() -> None:
    assert set(policies(good(FACES)).values()) == {("block", 4)}


def test_a_camera_is_not_waited_for() -> None:
    assert policies(good(FACES, "camera.uri=0")) == {
        "detect.frame": ("latest", 1),
        "landmarks.frame": ("drop_oldest", JOIN_DEPTH),
        "landmarks.found": ("drop_oldest", JOIN_DEPTH),
        "render.frame": ("drop_oldest", JOIN_DEPTH),
        "render.faces": ("drop_oldest", JOIN_DEPTH),
    }


def test_live_overrides_for_the_graph() -> None:
    assert policies(good(FACES + "live: true")) == policies(good(FACES, "camera.uri=0"))
    assert policies(good(FACES + "live: false", "camera.uri=0")) == policies(good(FACES))


def test_hold_needs_no_depth() -> None:
    found = policies(good(FACES + "edges: {detect.faces -> landmarks.found: {join: hold}}", "camera.uri=0"))
    assert (found["landmarks.frame"], found["landmarks.found"]) == (("latest", 1), ("latest", 1))


def test_queue_alone_keeps_the_default_policy() -> None:
    text = SHOW + "edges: {camera.frame->show.frame: {queue: 9}}"
    assert policies(good(text)) == {"show.frame": ("block", 9)}
    assert policies(good(text, "camera.uri=0")) == {"show.frame": ("drop_oldest", 9)}


def test_attached_nodes_never_hold_up_the_graph() -> None:
    spec = good("attach: webcam\n" + SHOW.replace("camera.frame", "webcam/camera.frame"))
    [edge] = spec.edges
    assert (edge.source_graph, edge.source_node, edge.source_port) == ("webcam", "camera", "frame")
    assert (edge.policy, edge.queue) == ("latest", 1)
    assert spec.edges_from("camera") == ()


def test_warning_of_a_node_that_nobody_reads(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        good(SHOW + '  more: {type: "@Filter", inputs: {frame: camera.frame}}')
        good(FACES)
    assert caplog.messages == ["g.yaml:5: nobody reads what more gives (picture)"]


ODD: tuple[Any, ...] = (None, -1, 1.5, "a", "camera.frame", [1], {}, {"a": None}, {5: {}})


def places(value: Any, around: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the keys of every value within a mapping."""
    inner = value.items() if isinstance(value, dict) else ()
    return [around, *(place for key, part in inner for place in places(part, (*around, key)))]


def test_whatever_stands_anywhere_is_an_error_and_not_a_crash() -> None:
    good_text = FACES + "edges: {detect.faces -> landmarks.found: {join: hold, policy: block, queue: 3}}"
    data = yaml.safe_load(good_text.replace("@", f"{Camera.__module__}:"))
    refused = 0
    for place in places(data):
        for odd in ODD:
            changed = copy.deepcopy({"": data})
            inner = changed
            for key in ("", *place)[:-1]:
                inner = inner[key]
            inner[("", *place)[-1]] = odd
            Path("g.yaml").write_text(yaml.safe_dump(changed[""]), encoding="utf-8")
            try:
                load("g.yaml")
            except ConfigError as exc:
                refused += 1
                assert all(line.startswith("g.yaml:") for line in str(exc).splitlines()), exc
    assert refused > 200
