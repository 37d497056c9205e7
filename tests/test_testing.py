"""graph.testing runs nodes and graphs without processes, with the same rules as the real runtime."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from graph import EndOfStream, Frame, Header, Input, Message, Node, Output, WireError
from graph.spec import EdgeSpec, GraphSpec, NodeSpec
from graph.testing import run_graph, run_node
from tests.toys import Copy, Pair, Source, picture


class Trace(Node):
    """Records its calls; ends after three frames."""

    frame = Input(Frame)
    extra = Input(Frame, optional=True)
    copied = Output(Frame)

    fail: str = ""

    def open(self) -> None:
        self.calls = ["open"]
        if self.fail == "open":
            raise RuntimeError("no camera")

    def process(self, frame: Frame, extra: Frame | None) -> Frame:
        if frame.seq == 3:
            raise EndOfStream
        if self.fail == "process":
            raise ZeroDivisionError
        self.calls.append(f"{frame.seq} {extra.seq if extra else None}")
        return Frame(image=frame.image)

    def close(self) -> None:
        self.calls.append("close")


class Camera(Node):
    """Sets its own header."""

    frame = Output(Frame)

    def process(self) -> Iterator[Frame]:
        for seq in range(5):
            yield Frame(image=picture(seq, 4), header=Header(pts=seq * 0.5, t_capture_ns=seq + 1000, epoch=seq // 3))
        raise EndOfStream


def frames(count: int) -> list[Frame]:
    return [Frame(image=picture(seq, 4)) for seq in range(count)]


def test_frames_are_numbered_and_stamped() -> None:
    copied = run_node(Copy(), frame=frames(4))["copied"]
    assert [message.seq for message in copied] == [0, 1, 2, 3]
    assert [message.pts for message in copied] == [0, 1 / 30, 2 / 30, 3 / 30]
    assert all(isinstance(message, Frame) and (message.image == message.seq).all() for message in copied)


def test_given_headers_are_kept() -> None:
    given = [Frame(image=picture(0), header=Header("cam", seq, 1, seq * 2.0)) for seq in (10, 20)]
    assert [message.header for message in run_node(Copy(), frame=given)["copied"]] == [m.header for m in given]


def test_nothing_to_say_is_left_out() -> None:
    copied = run_node(Copy(every=2), frame=frames(5))["copied"]
    assert [message.seq for message in copied] == [0, 2, 4]


def test_none_skips_the_frame_unless_optional() -> None:
    node = Trace()
    first, second, third = frames(3)
    run_node(node, frame=[first, None, third], extra=[None, second, third])
    assert node.calls == ["open", "0 None", "2 2", "close"]


def test_optional_input_need_not_be_given() -> None:
    node = Trace()
    said = run_node(node, frame=frames(6))
    assert node.calls == ["open", "0 None", "1 None", "2 None", "close"]  # it ended the stream on frame 3
    assert len(said["copied"]) == 3


@pytest.mark.parametrize(("fail", "error"), [("open", RuntimeError), ("process", ZeroDivisionError)])
def test_close_is_always_called(fail: str, error: type[Exception]) -> None:
    node = Trace(fail=fail)
    with pytest.raises(error):
        run_node(node, frame=frames(1))
    assert node.calls == ["open", "close"]


def test_inputs_are_checked() -> None:
    with pytest.raises(ValueError, match=r"Pair has inputs \['a', 'b'\], given \['b'\]"):
        run_node(Pair(), b=frames(1))
    with pytest.raises(ValueError, match=r"given \['a', 'c'\]"):
        run_node(Pair(), a=frames(1), c=frames(1))
    with pytest.raises(ValueError, match=r"Pair takes lists of the same length, .*; given \{'a': 1, 'b': 2\}"):
        run_node(Pair(), a=frames(1), b=frames(2))
    with pytest.raises(TypeError, match=r"Pair\.b takes Frame, given ndarray"):
        run_node(Pair(), a=frames(1), b=[frames(1)[0].image])  # type: ignore[list-item]


def test_inputs_are_read_only() -> None:
    class Draws(Node):
        frame = Input(Frame)
        drawn = Output(Frame)

        def process(self, frame: Frame) -> Frame:
            frame.image[:] = 255
            return frame

    given = frames(1)
    for messages in (given, [frame.with_header(Header(seq=5)) for frame in given]):
        with pytest.raises(ValueError, match="read-only"):
            run_node(Draws(), frame=messages)
    assert given[0].image.flags.writeable


def test_a_source_runs_to_its_end_or_limit() -> None:
    said = run_node(Camera())["frame"]
    assert [(m.seq, m.epoch, m.pts, m.header.t_capture_ns) for m in said][:4] == [
        (0, 0, 0.0, 1000),
        (1, 0, 0.5, 1001),
        (2, 0, 1.0, 1002),
        (3, 1, 1.5, 1003),
    ]
    assert len(said) == 5
    assert len(run_node(Camera(), limit=2)["frame"]) == 2
    assert run_node(Camera(), limit=0)["frame"] == []


def test_wrong_messages_are_refused() -> None:
    class Wrong(Node):
        frame = Input(Frame)
        copied = Output(Frame)

        def process(self, frame: Frame) -> str:
            return "text"

    with pytest.raises(TypeError, match=r"Wrong\.process\(\) gave str, expected Frame or None$"):
        run_node(Wrong(), frame=frames(1))


def graph_of(join: str = "seq", every: int = 1, count: int = 10) -> GraphSpec:
    """source -> copy -> pair, source -> pair"""
    nodes = {
        "pair": NodeSpec("pair", "tests.toys:Pair"),
        "copy": NodeSpec("copy", "tests.toys:Copy", {"every": every}),
        "source": NodeSpec("source", "tests.toys:Source", {"frames": count}),
    }
    edges = (
        EdgeSpec("source.frame", "copy.frame"),
        EdgeSpec("source.frame", "pair.a"),
        EdgeSpec("copy.copied", "pair.b", join=join),  # type: ignore[arg-type]
    )
    return GraphSpec("test", None, nodes, edges, "test.yaml")


@pytest.mark.parametrize(("join", "partners"), [("seq", [0, -1, -1, 3, -1, -1]), ("hold", [0, 0, 0, 3, 3, 3])])
def test_a_graph_runs_frame_by_frame(join: str, partners: list[int]) -> None:
    said = run_graph(graph_of(join, every=3, count=6))
    assert [*said] == ["source.frame", "copy.copied", "pair.paired"]
    assert [message.seq for message in said["copy.copied"]] == [0, 3]
    paired = [np.asarray(message.__dict__["values"]).tolist() for message in said["pair.paired"]]
    assert paired == [[seq, seq, partner] for seq, partner in enumerate(partners)]
    assert {message.header.stream for message in said["pair.paired"]} == {"test"}


def test_a_graph_takes_other_nodes_and_a_limit() -> None:
    said = run_graph(graph_of(count=1000), limit=4, nodes={"source": Source(frames=1000, size=8)})
    assert len(said["pair.paired"]) == 4
    assert said["source.frame"][0].__dict__["image"].shape == (8, 8, 3)


def test_a_node_may_end_the_graph() -> None:
    nodes = {name: node for name, node in graph_of(count=1000).nodes.items() if name != "pair"}
    spec = GraphSpec("test", None, nodes, (EdgeSpec("source.frame", "copy.frame"),), "test.yaml")
    traced = Trace()
    said = run_graph(spec, limit=50, nodes={"copy": traced})
    assert [message.seq for message in said["copy.copied"]] == [0, 1, 2]
    assert [message.seq for message in said["source.frame"]] == [0, 1, 2, 3]
    assert traced.calls[-1] == "close"


@dataclass(frozen=True, kw_only=True, eq=False)
class Brightness(Message):
    mean: float


class Measure(Node):
    """Sends a numpy number in a field for a Python number."""

    frame = Input(Frame)
    brightness = Output(Brightness)

    def process(self, frame: Frame) -> Brightness:
        return Brightness(mean=frame.image.mean(dtype=np.float32))


def test_messages_that_cannot_be_sent_are_refused() -> None:
    with pytest.raises(WireError, match=r"Brightness\.mean is float32: can not serialize"):
        run_node(Measure(), frame=[Frame(image=picture(0))])
