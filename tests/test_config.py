"""Graph files: valid ones, and every kind of mistake with the exact text of its error."""

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from graph import ConfigError, spec
from graph.config import JOIN_DEPTH, load, read
from graph.document import Document
from graph.schema import json_schema
from graph.spec import EdgeSpec, GraphSpec, build
from tests.config_mistakes import CASES
from tests.config_toys import FACES, SHOW, Camera, errors, good, write

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


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
            assert not written or text.count(value) == 2, f"{value} is missing at the top of {path.name}"


@pytest.mark.parametrize("case", CASES)
def test_error(case: str) -> None:
    text, expected = CASES[case]
    assert errors(text) == expected


def test_all_errors_are_reported_in_file_order() -> None:
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


def test_restart() -> None:
    nodes = good(SHOW.replace('"@Show"', '"@Show", restart: always')).nodes
    assert (nodes["camera"].restart, nodes["show"].restart) == ("never", "always")


def test_overrides_may_contain_spaces() -> None:
    assert good(SHOW, " camera.uri = a.mp4").nodes["camera"].settings == {"uri": "a.mp4"}


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


def test_an_error_in_a_module_named_like_ours_names_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec, "__file__", str(tmp_path / "graph" / "spec.py"))
    (tmp_path / "graph_mine.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    [line] = errors(SHOW + "  more: {type: 'graph_mine:A'}")
    assert f"{tmp_path}/graph_mine.py:1: ZeroDivisionError" in line


def test_subclass_of_the_message_is_accepted() -> None:
    good(SHOW.replace("@Camera", "@DepthCamera"))


def test_an_optional_input_may_be_unconnected() -> None:
    assert len(good(SHOW.replace("@Show", "@Render")).edges) == 1


EMPTY = (
    {"name", "attach", "live", "listen", "keys", "edges"},
    {"settings", "inputs", "restart"},
    {"policy", "queue", "join"},
)


def test_empty_sections_are_ignored() -> None:
    of_graph, of_node, of_edge = ({f"{key}: " for key in sorted(keys)} for keys in EMPTY)
    text = SHOW.replace("name: g\n", "").replace('"@Camera"', f'"@Camera", {", ".join(of_node)}')
    good(text + "\n".join(of_graph))
    good(text + "edges: {camera.frame -> show.frame: }")
    good(text + f"edges: {{camera.frame -> show.frame: {{{', '.join(of_edge)}}}}}")


def test_the_schema_allows_empty_sections_too() -> None:
    schema = json_schema({})
    parts = [schema, schema["$defs"]["NodeModel"], schema["$defs"]["EdgeModel"]]
    assert tuple({key for key, said in part["properties"].items() if takes_nothing(said)} for part in parts) == EMPTY
    assert takes_nothing(schema["properties"]["edges"]["additionalProperties"])


def takes_nothing(said: dict[str, Any]) -> bool:
    if "anyOf" in said:
        return any(takes_nothing(one) for one in said["anyOf"])
    return "null" in said.get("type", "") and None in said.get("enum", [None])


@pytest.mark.parametrize(
    ("file", "name"),
    [("cams", "cams"), ("2 cams", "_2_cams"), (50 * "c", 40 * "c"), (50 * "2", "_" + 39 * "2")],
)
def test_the_default_name_is_that_of_the_file(file: str, name: str) -> None:
    assert load(write(SHOW.replace("name: g\n", ""), f"{file}.yaml")).name == name


def policies(spec: GraphSpec) -> dict[str, tuple[str, int]]:
    return {edge.target: (edge.policy, edge.queue) for edge in spec.edges}


def test_edges_after_a_file_block() -> None:
    assert set(policies(good(FACES)).values()) == {("block", 4)}


def test_edges_after_a_camera_drop() -> None:
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
    inputs = "{frame: camera.frame, faces: landmarks.faces, found: detect.faces}"
    text = FACES + f'  three: {{type: "@Three", inputs: {inputs}}}\n'
    found = policies(good(text + "edges: {detect.faces -> three.found: {join: hold}}", "camera.uri=0"))
    assert (found["three.faces"], found["three.found"]) == (("drop_oldest", JOIN_DEPTH), ("latest", 1))


def test_latest_keeps_one() -> None:
    for said in ("policy: latest", "policy: latest, queue: 1"):
        text = SHOW + f"edges: {{camera.frame -> show.frame: {{{said}}}}}"
        assert policies(good(text)) == {"show.frame": ("latest", 1)}


def test_queue_alone_keeps_the_default_policy() -> None:
    text = SHOW + "edges: {camera.frame->show.frame: {queue: 9}}"
    assert policies(good(text)) == {"show.frame": ("block", 9)}
    assert policies(good(text, "camera.uri=0")) == {"show.frame": ("drop_oldest", 9)}
    joined = good(FACES + "edges: {camera.frame -> landmarks.frame: {queue: 9}}", "camera.uri=0")
    assert policies(joined)["landmarks.frame"] == ("drop_oldest", 9)


def test_attached_nodes_never_block_the_graph() -> None:
    spec = good("attach: webcam\n" + SHOW.replace("camera.frame", "webcam/camera.frame"))
    [edge] = spec.edges
    assert (edge.source_graph, edge.source_node, edge.source_port) == ("webcam", "camera", "frame")
    assert (edge.policy, edge.queue) == ("latest", 1)
    assert spec.edges_from("camera") == ()


def test_a_graph_at_an_address_has_its_own_name() -> None:
    [edge] = good("attach: tcp://192.0.2.7:5555\n" + SHOW.replace("camera.frame", "webcam/camera.frame")).edges
    assert (edge.source_graph, edge.source_node) == ("webcam", "camera")


def test_reading_a_node_of_the_same_name_in_another_graph_is_no_cycle() -> None:
    assert len(good('attach: main\nnodes: {more: {type: "@Filter", inputs: {frame: main/more.picture}}}').edges) == 1


def test_a_warning_about_unread_outputs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        good(SHOW + '  more: {type: "@Filter", inputs: {frame: camera.frame}}')
        good(FACES)
        good("listen: tcp://127.0.0.1:5555\n" + SHOW + '  more: {type: "@Filter", inputs: {frame: camera.frame}}')
        read(Document(Path("g.yaml"), "nodes: {camera: {type: 'tests.config_toys:Camera'}}"), warn=False)
    assert caplog.messages == ["g.yaml:5: no node reads the outputs of more (picture)"]


ODD: tuple[Any, ...] = (None, -1, 1.5, "a", "camera.frame", [1], {}, {"a": None}, {5: {}})


def places(value: Any, around: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the keys of every value in nested mappings."""
    inner = value.items() if isinstance(value, dict) else ()
    return [around, *(place for key, part in inner for place in places(part, (*around, key)))]


def test_wrong_values_anywhere_give_an_error_and_no_crash() -> None:
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
