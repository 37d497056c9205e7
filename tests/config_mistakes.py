"""Mistakes in graph files by name: the file and the lines of its error."""

# ruff: noqa: E501 (an error is one line)

from tests.config_toys import FACES, SHOW

CASES = {
    "tab": ("nodes:\n\tcamera: 1", ["g.yaml:2: not YAML: found character '\\t' that cannot start any token, while scanning for the next token; indent with spaces, not tabs"]),
    "bracket": ("nodes:\n  a: {type: x\n  b: 1\n", ["g.yaml:3: not YAML: expected ',' or '}', but got ':', while parsing a flow mapping"]),
    "tag": ("nodes: !!python/name:os.system 1", ["g.yaml:1: not YAML: could not determine a constructor for the tag 'tag:yaml.org,2002:python/name:os.system'"]),
    "date": (SHOW + "live: !!timestamp 2026-11-23", ["g.yaml:5: not YAML: could not determine a constructor for the tag 'tag:yaml.org,2002:timestamp'"]),
    "no int": (SHOW + "live: !!int abc", ["g.yaml:5: not YAML: 'abc' is not a valid int"]),
    "too many digits": (SHOW + f"live: {5000 * '9'}", ["g.yaml:5: not YAML: '999999999999...9999999999999' is not a valid int"]),
    "control character": (SHOW + 'live: "\x07"', ["g.yaml:5: not YAML: invalid character '\\x07'"]),
    "two documents": ("a: 1\n---\nb: 1\n", ["g.yaml:2: not YAML: but found another document, expected a single document in the stream"]),
    "contains itself": (SHOW + "edges: &e {x: *e}", ["g.yaml:5: edges.x: this value contains itself", "g.yaml:5: edges.x: there is no such edge; edges: camera.frame -> show.frame"]),
    "contains what contains it": ("nodes: &n\n  a:\n    settings: {all: [*n]}", ["g.yaml:1: nodes.a.settings.all.0: this value contains itself", "g.yaml:2: nodes.a: needs a `type:`, like nodes.smooth:Smooth"]),
    "empty file": ("# nothing\n", ["g.yaml:1: is empty, expected `nodes:`"]),
    "not a mapping": ("- a\n", ["g.yaml:1: is ['a'], expected `nodes:`"]),
    "no nodes": ("name: g\n", ["g.yaml:1: needs `nodes:`"]),
    "empty nodes": ("name: g\nnodes: {}\n", ["g.yaml:2: nodes: is empty, expected at least one node"]),
    "nodes is a list": ("nodes: [a]\n", ["g.yaml:1: nodes: is ['a'], expected a mapping (key: value)"]),
    "unknown key": (SHOW + "egdes: {}", ["g.yaml:5: egdes: unknown key; did you mean 'edges'?"]),
    "far unknown key": (SHOW + "x: {}", ["g.yaml:5: x: unknown key; valid: name, attach, live, listen, keys, nodes, edges"]),
    "unknown key of a node": (
        SHOW + '  more: {type: "@Show", input: {frame: camera.frame}}',
        ["g.yaml:5: nodes.more.input: unknown key; did you mean 'inputs'?"],
    ),
    "unknown key of an edge": (
        SHOW + "edges:\n  camera.frame -> show.frame: {polcy: latest}",
        ["g.yaml:6: edges.camera.frame -> show.frame.polcy: unknown key; did you mean 'policy'?"],
    ),
    "name": (SHOW.replace("g", "2 g", 1), ["g.yaml:1: name: is '2 g', expected a name: letters, digits, _ and -, no digit first, at most 40 characters"]),
    "name of another graph": ("attach: 2 g\n" + SHOW, ["g.yaml:1: attach: is '2 g', expected a name: letters, digits, _ and -, no digit first, at most 40 characters"]),
    "long name": (SHOW.replace("g", 41 * "g", 1), [f"g.yaml:1: name: is '{41 * 'g'}', expected a name: letters, digits, _ and -, no digit first, at most 40 characters"]),
    "node name": (SHOW + '  a.b: {type: "@Camera"}', ["g.yaml:5: nodes.a.b: is 'a.b', expected a name: letters, digits, _ and -, no digit first, at most 40 characters"]),
    "name of the runtime": (SHOW.replace("camera", "lock"), ["g.yaml:3: nodes.lock: is a reserved name; reserved: control, lock"]),
    "node twice": (SHOW + '  camera: {type: "@Camera"}', ["g.yaml:5: nodes.camera: appears twice, first on line 3"]),
    "merge twice": (SHOW + '  more: &m {type: "@Camera"}\n  again:\n    <<: *m\n    <<: *m', ["g.yaml:8: nodes.again.<<: appears twice, first on line 7"]),
    "key that is a list": (SHOW + "  [a, b]: 1", ["g.yaml:5: nodes: a key must be a string"]),
    "no type": (SHOW + "  more: {settings: {a: 1}}", ["g.yaml:5: nodes.more: needs a `type:`, like nodes.smooth:Smooth"]),
    "keys for nobody": (SHOW + "keys: keys", ["g.yaml:5: keys: has no effect without `listen: tcp://...`"]),
    "no address": (SHOW + "attach: tcp://webcam", ["g.yaml:5: attach: 'tcp://webcam' is not an address, expected like tcp://192.0.2.7:5555"]),
    "no address to listen at": (SHOW + "listen: tcp://webcam", ["g.yaml:5: listen: 'tcp://webcam' is not an address, expected like tcp://192.0.2.7:5555"]),
    "required setting that is wrong": (
        SHOW + '  more: {type: "@Writer", inputs: {frame: camera.frame}, settings: {path: 5}}',
        ["g.yaml:5: nodes.more.settings.path: is 5, expected str"],
    ),
    "input that only its own node gives": (
        SHOW + '  more: {type: "@Filter"}',
        ["g.yaml:5: nodes.more: input 'frame' is not connected; outputs that carry Frame: camera.frame"],
    ),
    "edge into inputs that are none": (
        SHOW.replace("{frame: camera.frame}", "5") + "edges: {camera.frame -> show.frame: {queue: 2}}",
        ["g.yaml:4: nodes.show.inputs: is 5, expected a mapping (key: value)"],
    ),
    "outputs that wrong settings hide": (
        SHOW.replace('type: "@Camera"', "type: graph.replay:Replay, settings: {path: 5}"),
        ["g.yaml:3: nodes.camera.settings.path: is 5, expected str"],
    ),
    "empty type": (SHOW + "  more: {type: }", ["g.yaml:5: nodes.more: needs a `type:`, like nodes.smooth:Smooth"]),
    "nodes without any": ("name: g\nnodes:\n", ["g.yaml:1: needs `nodes:`"]),
    "empty node": (SHOW + "  more:", ["g.yaml:5: nodes.more: needs a `type:`, like nodes.smooth:Smooth"]),
    "node that is false": (SHOW + "  more: false", ["g.yaml:5: nodes.more: is false, expected a mapping (key: value)"]),
    "edge that is a list": (SHOW + "edges: {camera.frame -> show.frame: []}", ["g.yaml:5: edges.camera.frame -> show.frame: is [], expected a mapping (key: value)"]),
    "form of the type": (SHOW + "  more: {type: Camera}", ["g.yaml:5: nodes.more.type: type 'Camera' is not of the form module:Class, like nodes.smooth:Smooth"]),
    "type is a number": (SHOW + "  more: {type: 5}", ["g.yaml:5: nodes.more.type: is 5, expected a string"]),
    "module": (SHOW + "  more: {type: 'nodes.smoth:Smooth'}", ["g.yaml:5: nodes.more.type: no module nodes.smoth; did you mean 'nodes.smooth'?"]),
    "package": (SHOW + "  more: {type: 'acme.smooth:Smooth'}", ["g.yaml:5: nodes.more.type: no module acme; is it installed, in the working directory, or on PYTHONPATH?"]),
    "file": (SHOW + "  more: {type: 'calendar.py:Blur'}", ["g.yaml:5: nodes.more.type: no module calendar.py; did you mean 'calendar'?"]),
    "class": (SHOW + '  more: {type: "@Camra"}', ["g.yaml:5: nodes.more.type: Camra does not exist in @; did you mean 'Camera'?"]),
    "no node": (SHOW + '  more: {type: "@Depth"}', ["g.yaml:5: nodes.more.type: Depth is not a node in @; did you mean 'DepthCamera'?"]),
    "module of Python's of that name": (SHOW + "  more: {type: 'time:Blur'}", ["g.yaml:5: nodes.more.type: Blur does not exist in time; it has no nodes (built into Python)"]),
    "type of a setting that is not there": (
        SHOW + '  more: {type: "@Missing"}',
        ["g.yaml:5: nodes.more.type: Missing: name 'Fraction' is not defined; the types of settings must exist at run time: import them outside of `if TYPE_CHECKING:`"],
    ),
    "required setting": (
        SHOW + '  more: {type: "@Writer", inputs: {frame: camera.frame}}',
        ["g.yaml:5: nodes.more: setting 'path' (str) is missing"],
    ),
    "settings that are none": (
        SHOW + '  more: {type: "@Writer", inputs: {frame: camera.frame}, settings: 5}',
        ["g.yaml:5: nodes.more.settings: is 5, expected a mapping (key: value)"],
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
    "input is a list": (SHOW.replace("camera.frame", "[camera.frame]"), ["g.yaml:4: nodes.show.inputs.frame: is ['camera.frame'], expected a string"]),
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
    "queue of more than the protocol allows": (
        SHOW + "edges:\n  camera.frame -> show.frame: {queue: 2000}",
        ["g.yaml:6: edges.camera.frame -> show.frame.queue: is 2000, expected at most 1024"],
    ),
    "edge twice": (
        SHOW + "edges:\n  camera.frame->show.frame: {queue: 1}\n  camera.frame -> show.frame: {queue: 2}",
        ["g.yaml:7: edges.camera.frame -> show.frame: appears twice, first as 'camera.frame->show.frame'"],
    ),
    "queue is no number": (
        SHOW + "edges:\n  camera.frame -> show.frame: {queue: long}",
        ["g.yaml:6: edges.camera.frame -> show.frame.queue: is 'long', expected a whole number"],
    ),
    "queue of latest": (
        SHOW + "edges:\n  camera.frame -> show.frame: {policy: latest, queue: 3}",
        ["g.yaml:6: edges.camera.frame -> show.frame.queue: is 3, but `latest` keeps 1; use drop_oldest"],
    ),
    "join": (
        SHOW + "edges:\n  camera.frame -> show.frame: {join: held}",
        ["g.yaml:6: edges.camera.frame -> show.frame.join: is 'held'; did you mean 'hold'?"],
    ),
    "only hold": (
        SHOW + "edges:\n  camera.frame -> show.frame: {join: hold}",
        ["g.yaml:4: nodes.show.inputs: all have `join: hold`; one must be `seq` to set the pace"],
    ),
    "hold beside an input that is none": (
        FACES.replace("render: {type: \"@Render\", inputs: {frame: camera.frame", "render: {type: \"@Render\", inputs: {frame: 5")
        + "edges: {landmarks.faces -> render.faces: {join: hold}}",
        ["g.yaml:6: nodes.render.inputs.frame: is 5, expected a string"],
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
