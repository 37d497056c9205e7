"""Every kind of mistake in a graph file, by the exact text of its error."""

# ruff: noqa: E501 (an error is one line)

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from graph import ConfigError, Detections, Faces, Frame, Input, Node, Output, array, setting
from graph.config import JOIN_DEPTH, load
from graph.spec import EdgeSpec, GraphSpec, NodeSpec, build

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


@dataclass(frozen=True, kw_only=True, eq=False)
class Depth(Frame):
    """A frame with more in it."""

    metres: NDArray[np.float32] = array(np.float32, "H", "W")


class Camera(Node):
    """A source, live if it has a number."""

    frame = Output(Frame)
    uri: str | int = "clip.mp4"
    width: int = setting(640, minimum=16, maximum=7680)
    fps: float = setting(30.0, minimum=0.1)
    noise: float = setting(0.0, maximum=64.0)
    mode: Literal["fast", "slow"] = "fast"
    crop: tuple[int, int] = (0, 0)
    mirror: bool = False
    title: str | None = None

    def live(self) -> bool:
        return isinstance(self.uri, int)

    def process(self) -> Any:
        yield None


class DepthCamera(Node):
    """A source of a subclass of Frame."""

    frame = Output(Depth)

    def process(self) -> Any:
        yield None


class Detect(Node):
    frame = Input(Frame)
    faces = Output(Detections)

    def process(self, frame: Frame) -> None: ...


class Landmarks(Node):
    frame = Input(Frame)
    found = Input(Detections)
    faces = Output(Faces)

    def process(self, frame: Frame, found: Detections) -> None: ...


class Filter(Node):
    frame = Input(Frame)
    picture = Output(Frame)

    def process(self, frame: Frame) -> None: ...


class Render(Node):
    frame = Input(Frame)
    faces = Input(Faces, optional=True)

    def process(self, frame: Frame, faces: Faces | None) -> None: ...


class Either(Node):
    left = Input(Frame, optional=True)
    right = Input(Frame, optional=True)

    def process(self, left: Frame | None, right: Frame | None) -> None: ...


class Show(Node):
    frame = Input(Frame)

    def process(self, frame: Frame) -> None: ...


class Writer(Node):
    """A sink that checks its settings itself."""

    frame = Input(Frame)
    path: str
    fps: float = 0.0

    def __post_init__(self) -> None:
        if self.path.endswith(".txt"):
            raise ValueError("a .txt holds no pictures; write .mp4")

    def process(self, frame: Frame) -> None: ...


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "g.yaml") -> str:
    """Write a graph; @Camera stands for the Camera of this file."""
    Path(name).write_text(text.replace("@", f"{__name__}:"), encoding="utf-8")
    return name


def errors(text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(write(text), overrides)
    return str(caught.value).replace(__name__, "@").splitlines()


def good(text: str, *overrides: str) -> GraphSpec:
    return load(write(text), overrides)


SHOW = """\
name: g
nodes:
  camera: {type: "@Camera"}
  show: {type: "@Show", inputs: {frame: camera.frame}}
"""

FACES = """\
name: g
nodes:
  camera: {type: "@Camera"}
  detect: {type: "@Detect", inputs: {frame: camera.frame}}
  landmarks: {type: "@Landmarks", inputs: {frame: camera.frame, found: detect.faces}}
  render: {type: "@Render", inputs: {frame: camera.frame, faces: landmarks.faces}}
"""


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
    camera = build(NodeSpec("camera", f"{__name__}:Camera", {"crop": [1, 2]}))
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


CASES = {
    "tab": ("nodes:\n\tcamera: 1", ["g.yaml:2: not YAML: found character '\\t' that cannot start any token, while scanning for the next token; indent with spaces, not tabs"]),
    "bracket": ("nodes:\n  a: {type: x\n  b: 1\n", ["g.yaml:3: not YAML: expected ',' or '}', but got ':', while parsing a flow mapping"]),
    "tag": ("nodes: !!python/name:os.system 1", ["g.yaml:1: not YAML: could not determine a constructor for the tag 'tag:yaml.org,2002:python/name:os.system'"]),
    "two documents": ("a: 1\n---\nb: 1\n", ["g.yaml:2: not YAML: but found another document, expected a single document in the stream"]),
    "contains itself": (SHOW + "edges: &e {x: *e}", ["g.yaml:5: edges.x: this value contains itself", "g.yaml:5: edges.x: there is no such edge; edges: camera.frame -> show.frame"]),
    "empty file": ("# nothing\n", ["g.yaml:1: is empty, expected `nodes:`"]),
    "not a mapping": ("- a\n", ["g.yaml:1: is ['a'], expected `nodes:`"]),
    "no nodes": ("name: g\n", ["g.yaml:1: needs `nodes:`"]),
    "empty nodes": ("name: g\nnodes: {}\n", ["g.yaml:2: nodes: holds no nodes"]),
    "nodes is a list": ("nodes: [a]\n", ["g.yaml:1: nodes: is ['a'], expected a mapping (key: value)"]),
    "unknown key": (SHOW + "egdes: {}", ["g.yaml:5: egdes: there is no such key; did you mean 'edges'?"]),
    "far unknown key": (SHOW + "x: {}", ["g.yaml:5: x: there is no such key; valid: name, attach, live, listen, keys, nodes, edges"]),
    "unknown key of a node": (
        SHOW + '  more: {type: "@Show", input: {frame: camera.frame}}',
        ["g.yaml:5: nodes.more.input: there is no such key; did you mean 'inputs'?"],
    ),
    "unknown key of an edge": (
        SHOW + "edges:\n  camera.frame -> show.frame: {polcy: latest}",
        ["g.yaml:6: edges.camera.frame -> show.frame.polcy: there is no such key; did you mean 'policy'?"],
    ),
    "name": (SHOW.replace("g", "2 g", 1), ["g.yaml:1: name: is '2 g', which is no name; valid: letters, digits, _ and -, no digit first, at most 40 characters"]),
    "long name": (SHOW.replace("g", 41 * "g", 1), [f"g.yaml:1: name: is '{41 * 'g'}', which is no name; valid: letters, digits, _ and -, no digit first, at most 40 characters"]),
    "node name": (SHOW + '  a.b: {type: "@Camera"}', ["g.yaml:5: nodes.a.b: is no name; valid: letters, digits, _ and -, no digit first, at most 40 characters"]),
    "node twice": (SHOW + '  camera: {type: "@Camera"}', ["g.yaml:5: nodes.camera: stands twice, first on line 3"]),
    "key that is a list": (SHOW + "  [a, b]: 1", ["g.yaml:5: nodes: a key must be a text"]),
    "no type": (SHOW + "  more: {settings: {a: 1}}", ["g.yaml:5: nodes.more: needs a `type:`, like nodes.smooth:Smooth"]),
    "empty node": (SHOW + "  more:", ["g.yaml:5: nodes.more: needs a `type:`, like nodes.smooth:Smooth"]),
    "form of the type": (SHOW + "  more: {type: Camera}", ["g.yaml:5: nodes.more.type: type 'Camera' is not of the form module:Class, like nodes.smooth:Smooth"]),
    "type is a number": (SHOW + "  more: {type: 5}", ["g.yaml:5: nodes.more.type: is 5, expected a text"]),
    "module": (SHOW + "  more: {type: 'nodes.smoth:Smooth'}", ["g.yaml:5: nodes.more.type: no module nodes.smoth; did you mean 'nodes.smooth'?"]),
    "package": (SHOW + "  more: {type: 'acme.smooth:Smooth'}", ["g.yaml:5: nodes.more.type: no module acme; is it installed, in the working directory, or on PYTHONPATH?"]),
    "class": (SHOW + '  more: {type: "@Camra"}', ["g.yaml:5: nodes.more.type: Camra does not exist in @; did you mean 'Camera'?"]),
    "no node": (SHOW + '  more: {type: "@Depth"}', ["g.yaml:5: nodes.more.type: Depth is not a node in @; did you mean 'DepthCamera'?"]),
    "required setting": (
        SHOW + '  more: {type: "@Writer", inputs: {frame: camera.frame}}',
        ["g.yaml:5: nodes.more: setting 'path' (str) is missing"],
    ),
    "refused settings": (
        SHOW + '  more:\n    type: "@Writer"\n    inputs: {frame: camera.frame}\n    settings: {path: a.txt}',
        ["g.yaml:8: nodes.more.settings: Writer: a .txt holds no pictures; write .mp4"],
    ),
    "restart": (
        SHOW.replace('"@Show",', '"@Show", restart: on_failre,'),
        ["g.yaml:4: nodes.show.restart: is 'on_failre'; did you mean 'on_failure'?"],
    ),
    "input not connected": (
        SHOW + '  more: {type: "@Landmarks", inputs: {frame: camera.frame}}',
        ["g.yaml:5: nodes.more: input 'found' is not connected; outputs that carry Detections: none"],
    ),
    "no inputs": (
        SHOW + '  more: {type: "@Show"}',
        ["g.yaml:5: nodes.more: input 'frame' is not connected; outputs that carry Frame: camera.frame"],
    ),
    "no optional input": (
        SHOW + '  more: {type: "@Either"}',
        ["g.yaml:5: nodes.more: no input is connected; inputs: left, right"],
    ),
    "unknown input": (
        FACES.replace("found:", "fuond:"),
        [
            "g.yaml:5: nodes.landmarks.inputs.fuond: Landmarks has no such input; did you mean 'found'?",
            "g.yaml:5: nodes.landmarks: input 'found' is not connected; outputs that carry Detections: detect.faces",
        ],
    ),
    "input of a source": (
        SHOW.replace('"@Camera"', '"@Camera", inputs: {frame: show.frame}'),
        ["g.yaml:3: nodes.camera.inputs.frame: Camera has no such input; inputs: none", "g.yaml:4: nodes.show.inputs.frame: closes a cycle: camera -> show -> camera; frames flow one way"],
    ),
    "unknown node": (SHOW.replace("camera.frame", "camra.frame"), ["g.yaml:4: nodes.show.inputs.frame: there is no node 'camra'; did you mean 'camera'?"]),
    "unknown output": (SHOW.replace("camera.frame", "camera.image"), ["g.yaml:4: nodes.show.inputs.frame: camera has no output 'image'; outputs: frame"]),
    "node without output": (SHOW.replace("camera.frame", "camera"), ["g.yaml:4: nodes.show.inputs.frame: is 'camera', expected node.output; outputs that carry Frame: camera.frame"]),
    "input is a list": (SHOW.replace("camera.frame", "[camera.frame]"), ["g.yaml:4: nodes.show.inputs.frame: is ['camera.frame'], expected a text"]),
    "port types": (
        FACES.replace("found: detect.faces", "found: camera.frame"),
        ["g.yaml:5: nodes.landmarks.inputs.found: camera.frame carries Frame, expected Detections; outputs that carry Detections: detect.faces"],
    ),
    "cycle": (
        """\
name: g
nodes:
  a:
    type: "@Filter"
    inputs:
      frame: c.picture
  b: {type: "@Filter", inputs: {frame: a.picture}}
  c: {type: "@Filter", inputs: {frame: b.picture}}
""",
        ["g.yaml:7: nodes.b.inputs.frame: closes a cycle: a -> b -> c -> a; frames flow one way"],
    ),
    "cycle of one": (
        'nodes:\n  a: {type: "@Filter", inputs: {frame: a.picture}}\n',
        ["g.yaml:2: nodes.a.inputs.frame: closes a cycle: a -> a; frames flow one way"],
    ),
    "unknown edge": (
        SHOW + "edges:\n  camera.frame -> shw.frame: {policy: latest}",
        ["g.yaml:6: edges.camera.frame -> shw.frame: there is no such edge; did you mean 'camera.frame -> show.frame'?"],
    ),
    "empty unknown edge": (
        SHOW + "edges:\n  x:",
        ["g.yaml:6: edges.x: there is no such edge; edges: camera.frame -> show.frame"],
    ),
    "policy": (
        SHOW + "edges:\n  camera.frame -> show.frame: {policy: drop}",
        ["g.yaml:6: edges.camera.frame -> show.frame.policy: is 'drop'; valid: block, drop_oldest, drop_newest, latest"],
    ),
    "queue": (
        SHOW + "edges:\n  camera.frame -> show.frame: {queue: 0}",
        ["g.yaml:6: edges.camera.frame -> show.frame.queue: is 0, expected at least 1"],
    ),
    "queue is no number": (
        SHOW + "edges:\n  camera.frame -> show.frame: {queue: long}",
        ["g.yaml:6: edges.camera.frame -> show.frame.queue: is 'long', expected a whole number"],
    ),
    "queue of latest": (
        SHOW + "edges:\n  camera.frame -> show.frame: {policy: latest, queue: 3}",
        ["g.yaml:6: edges.camera.frame -> show.frame.queue: is 3, but `latest` keeps 1; see drop_oldest"],
    ),
    "join": (
        SHOW + "edges:\n  camera.frame -> show.frame: {join: held}",
        ["g.yaml:6: edges.camera.frame -> show.frame.join: is 'held'; did you mean 'hold'?"],
    ),
    "only hold": (
        SHOW + "edges:\n  camera.frame -> show.frame: {join: hold}",
        ["g.yaml:4: nodes.show.inputs: are all `join: hold`; one must be `seq`, to set the pace"],
    ),
    "live": (SHOW + "live: fast", ["g.yaml:5: live: is 'fast', expected true or false"]),
    "other graph": (
        SHOW.replace("camera.frame", "other/camera.frame"),
        ["g.yaml:4: nodes.show.inputs.frame: reads from the graph 'other', which needs `attach: other` at the top of the file"],
    ),
    "another graph": (
        "attach: main\n" + SHOW.replace("camera.frame", "other/camera.frame"),
        ["g.yaml:5: nodes.show.inputs.frame: reads from the graph 'other', but the file attaches to 'main'"],
    ),
    "attached to itself": ("attach: g\n" + SHOW, ["g.yaml:1: attach: is this graph's own name"]),
}  # fmt: skip


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
            "module broken cannot be imported: {graph}: TypeError: A has no process()",
        ),
    ],
)
def test_module_that_fails(source: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    [line] = errors(SHOW + "  more: {type: 'broken:A'}")
    before, _, after = error.partition("{graph}")
    assert line.startswith("g.yaml:5: nodes.more.type: " + before.format(folder=tmp_path))
    assert line.endswith(after)


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
    data = yaml.safe_load(good_text.replace("@", f"{__name__}:"))
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
