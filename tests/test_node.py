"""What a class must be to be a node, and what `process` may return."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from graph import Detections, Faces, Frame, Input, Mark, Node, Output, setting
from graph.node import as_outputs


class Blur(Node):
    """A usual node."""

    frame = Input(Frame)
    found = Input(Faces, optional=True)
    blurred = Output(Frame)
    faces = Output(Faces)

    sigma: float = setting(3.0, minimum=0.1, changeable=True)  # pixels
    name: str = "blur"

    def process(self, frame: Frame, found: Faces | None) -> Frame:
        return frame


class Sink(Node):
    """No outputs."""

    frame = Input(Frame)

    def process(self, frame: Frame) -> None: ...


FRAME = Frame(image=np.zeros((2, 2, 3), np.uint8))


def test_ports_and_settings() -> None:
    assert [*Blur.inputs] == ["frame", "found"] and [*Blur.outputs] == ["blurred", "faces"]
    assert (Blur.inputs["frame"].optional, Blur.inputs["found"].optional) == (False, True)
    assert Blur.outputs["faces"].type is Faces
    assert (Blur().sigma, Blur(sigma=1.0, name="x").sigma) == (3.0, 1.0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'sgima'"):
        Blur(sgima=1.0)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Blur(1.0)  # type: ignore[misc]  # by name only


def test_nodes_are_ordinary_objects() -> None:
    node = Blur()
    assert node != Blur() and node in {node}
    node.open()
    node.changed("sigma")
    assert node.live() is False
    node.close()
    array = node.empty((2, 3, 3))
    assert array.shape == (2, 3, 3) and array.dtype == np.uint8 and array.flags.writeable
    assert node.empty((0, 68, 2), np.float32).dtype == np.float32


def test_a_port_with_annotation_is_no_setting() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.frame: write a port without annotation: frame = Input\(\.\.\.\)"):

        class Wrong(Node):
            frame: Any = Input(Frame)

            def process(self, frame: Frame) -> None: ...


def test_a_setting_without_annotation_is_none() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.gain: write a setting with its type: gain: float = setting\(\.\.\.\)"):

        class Wrong(Node):
            frame = Input(Frame)
            gain = setting(1.0)

            def process(self, frame: Frame) -> None: ...


@pytest.mark.parametrize("port", [Input, Output])
@pytest.mark.parametrize("type_", ["Frame", np.ndarray, Frame(image=np.zeros((2, 2, 3), np.uint8))])
def test_a_port_takes_a_type_of_message(port: Any, type_: Any) -> None:
    with pytest.raises(TypeError, match=r"a port takes a type of message, as in Input\(Frame\), not "):
        port(type_)


def test_process_is_checked_when_the_class_is_made() -> None:
    with pytest.raises(TypeError, match=r"Missing has no process\(\)"):

        class Missing(Node):
            frame = Input(Frame)

    with pytest.raises(TypeError, match=r"Other\.process\(\) takes \['image'\], but its inputs are \['frame'\]"):

        class Other(Node):
            frame = Input(Frame)

            def process(self, image: Frame) -> None: ...

    with pytest.raises(TypeError, match=r"Few\.process\(\) takes \['a'\], but its inputs are \['a', 'b'\]"):

        class Few(Node):
            a = Input(Frame)
            b = Input(Frame)

            def process(self, a: Frame) -> None: ...

    with pytest.raises(TypeError, match=r"Source has no inputs, so it is a source: its process\(\) must yield"):

        class Source(Node):
            frame = Output(Frame)

            def process(self) -> Frame:
                return FRAME

    with pytest.raises(TypeError, match=r"Yields has inputs, so its process\(\) must return"):

        class Yields(Node):
            frame = Input(Frame)

            def process(self, frame: Frame) -> Iterator[Frame]:
                yield frame

    with pytest.raises(TypeError, match=r"Ahead\.prepare\(\) takes \['a'\], but its inputs are \['a', 'b'\]"):

        class Ahead(Node):
            a = Input(Frame)
            b = Input(Frame)

            def prepare(self, a: Frame | None) -> None: ...

            def process(self, a: Frame, b: Frame) -> None: ...

    with pytest.raises(TypeError, match="Waits has inputs"):

        class Waits(Node):
            frame = Input(Frame)

            async def process(self, frame: Frame) -> None: ...


def test_a_source_yields() -> None:
    class Source(Node):
        frame = Output(Frame)

        def process(self) -> Iterator[Frame]:
            yield FRAME

    assert Source.inputs == {}


def test_a_derived_node_has_the_ports_of_its_base() -> None:
    class Stronger(Blur):
        strength: int = 2

    assert [*Stronger.inputs] == ["frame", "found"] and [*Stronger.outputs] == ["blurred", "faces"]
    assert Stronger(sigma=2.0).strength == 2


def test_a_derived_node_adds_ports() -> None:
    class WithDetections(Blur):
        found_before = Input(Detections)
        detections = Output(Detections)

        def process(self, frame: Frame, found: Faces | None, found_before: Detections) -> Frame:  # type: ignore[override]
            return frame

    assert [*WithDetections.inputs] == ["frame", "found", "found_before"]
    assert [*WithDetections.outputs] == ["blurred", "faces", "detections"]
    assert [*Blur.inputs] == ["frame", "found"]


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (None, {"blurred": None, "faces": None}),
        ({}, {"blurred": None, "faces": None}),
        ({"blurred": FRAME}, {"blurred": FRAME, "faces": None}),
        ({"blurred": FRAME, "faces": None}, {"blurred": FRAME, "faces": None}),
    ],
)
def test_outputs(result: Any, expected: dict[str, Any]) -> None:
    assert as_outputs(Blur(), result) == expected


def test_one_output_needs_no_name() -> None:
    class One(Node):
        frame = Input(Frame)
        copied = Output(Frame)

        def process(self, frame: Frame) -> Frame:
            return frame

    assert as_outputs(One(), FRAME) == {"copied": FRAME}
    assert as_outputs(Sink(), None) == {}
    with pytest.raises(TypeError, match=r"One\.process\(\) gave ndarray, expected Frame or None$"):
        as_outputs(One(), FRAME.image)


@pytest.mark.parametrize(
    ("class_", "result", "words"),
    [
        (Blur, "text", r"Blur\.process\(\) gave str, expected a dict of {'blurred': Frame, 'faces': Faces} or None$"),
        (Blur, FRAME, r"Blur\.process\(\) gave Frame, expected a dict of"),
        (Blur, (FRAME, Faces()), r"Blur\.process\(\) gave tuple"),
        (Blur, {"blured": FRAME}, r"Blur\.process\(\) gave output 'blured'; outputs: \['blurred', 'faces'\]"),
        (Blur, {"blurred": Faces()}, r"Blur\.blurred is a Faces, expected Frame"),
        (Blur, {"blurred": FRAME.image}, r"Blur\.blurred is a ndarray, expected Frame"),
        (Blur, {"blurred": Mark()}, r"Blur\.blurred is a Mark, expected Frame"),
        (Sink, FRAME, r"Sink\.process\(\) gave Frame, expected None: it has no outputs$"),
        (Sink, {"frame": FRAME}, r"Sink\.process\(\) gave output 'frame'; outputs: \[\]"),
    ],
)
def test_nonsense_is_named(class_: type[Node], result: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        as_outputs(class_(), result)
