"""A whole graph in this process gives what the same graph gives in processes."""

from graph import Faces, Input, Node, Output
from graph.spec import EdgeSpec, GraphSpec, NodeSpec
from graph.testing import run_graph, run_node
from tests.toys import Source


class Nobody(Node):
    """Finds no face, which is a value."""

    frame = Input(Source.outputs["frame"].type)
    faces = Output(Faces)

    def process(self, frame: object) -> Faces:
        return Faces()


def graph(*, hold: bool) -> GraphSpec:
    nodes = {
        "source": NodeSpec("source", "tests.toys:Source", {"frames": 20}),
        "slow": NodeSpec("slow", "tests.toys:Copy", {"every": 5}),
        "pair": NodeSpec("pair", "tests.toys:Pair"),
    }
    edges = (
        EdgeSpec("source.frame", "slow.frame"),
        EdgeSpec("source.frame", "pair.a"),
        EdgeSpec("slow.copied", "pair.b", join="hold" if hold else "seq"),
    )
    return GraphSpec("small", None, nodes, edges, "test")


def test_nothing_to_say_is_none_downstream() -> None:
    said = run_graph(graph(hold=False))
    assert [m.seq for m in said["source.frame"]] == list(range(20))
    assert [m.seq for m in said["slow.copied"]] == [0, 5, 10, 15]
    assert [m.values.tolist()[2] for m in said["pair.paired"]][:7] == [0, -1, -1, -1, -1, 5, -1]


def test_hold_gives_the_last_value() -> None:
    said = run_graph(graph(hold=True), limit=8)
    assert [m.values.tolist()[2] for m in said["pair.paired"]] == [0, 0, 0, 0, 0, 5, 5, 5]


def test_empty_is_a_value_and_bears_the_header_of_its_frame() -> None:
    frames = run_node(Source(frames=3))["frame"]
    faces = run_node(Nobody(), frame=frames)["faces"]
    assert [f.seq for f in faces] == [0, 1, 2]
    assert faces[2].pts == frames[2].pts
