"""Messages are what they declare and what their documentation says."""

import pkgutil
from dataclasses import FrozenInstanceError, dataclass, fields
from typing import Any

import numpy as np
import pytest

import graph
from graph import OPENNESS, POSE, STATES, Detections, Faces, Frame, Header, Hop, Mark, Message, WireError, array
from graph.messages import ArraySpec, array_specs, body_fields, from_fields
from tests import portrait


@dataclass(frozen=True, kw_only=True, eq=False)
class Tracked(Message):
    """Two arrays that share a variable length, one of fixed size, and a plain field."""

    name: str
    ids: Any = array(np.int64, "F")
    corners: Any = array(np.float32, "F", 4, 2)
    matrix: Any = array(np.float64, 3, 3)
    note: str = "none"


MATRIX = np.eye(3)


def tracked(**changes: Any) -> Tracked:
    return Tracked(**({"name": "t", "matrix": MATRIX} | changes))


def test_public_names_exist() -> None:
    assert graph.__all__ == sorted(graph.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name))
    for name in graph.__all__:
        assert getattr(graph, name) is not None
    with pytest.raises(AttributeError, match="module 'graph' has no attribute 'nonsense'"):
        graph.nonsense  # noqa: B018


def test_no_module_has_a_public_name() -> None:
    """Importing it would replace what `graph` exports under that name by the module."""
    assert not {info.name for info in pkgutil.iter_modules(graph.__path__)} & set(graph.__all__)


def test_empty_messages() -> None:
    faces = Faces()
    assert len(faces) == 0
    assert {name: getattr(faces, name).shape for name in array_specs(Faces)} == {
        "ids": (0,),
        "boxes": (0, 4),
        "scores": (0,),
        "landmarks": (0, 68, 2),
        "spread": (0, 68),
        "pose": (0, len(POSE)),
        "states": (0, len(STATES)),
        "openness": (0, len(OPENNESS)),
        "blinks": (0,),
    }
    assert Detections().points.shape == (0, 5, 2)
    assert Faces().ids is not Faces().ids  # no two messages share a default


def test_measures_of_faces_that_are_missing_are_unknown() -> None:
    faces = portrait.faces(portrait.LANDMARKS[None])
    assert np.isnan(faces.openness).all() and faces.openness.shape == (1, 3)
    assert faces.blinks.tolist() == [0]


def test_variable_lengths_of_one_name_are_equal() -> None:
    assert len(tracked(ids=np.arange(2), corners=np.zeros((2, 4, 2), np.float32)).ids) == 2
    with pytest.raises(ValueError, match=r"^Tracked\.corners is float32\(3, 4, 2\), expected float32\(F, 4, 2\) with"):
        tracked(ids=np.arange(2), corners=np.zeros((3, 4, 2), np.float32))
    with pytest.raises(ValueError, match=r"Faces\.boxes is float32\(0, 4\), expected float32\(F, 4\) with \{'F': 1\}"):
        Faces(ids=np.zeros(1, np.int64))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"matrix": np.eye(4)}, r"Tracked\.matrix is float64\(4, 4\), expected float64\(3, 3\)"),
        ({"matrix": np.eye(3, dtype=np.float32)}, r"Tracked\.matrix is float32\(3, 3\), expected float64\(3, 3\)"),
        ({"matrix": np.zeros(9)}, r"Tracked\.matrix is float64\(9,\)"),
        ({"matrix": [[1.0]]}, r"Tracked\.matrix is list, expected float64\(3, 3\)"),
        ({"matrix": None}, r"Tracked\.matrix is NoneType"),
        ({"ids": np.arange(3, dtype=np.int32)}, r"Tracked\.ids is int32\(3,\), expected int64\(F\)"),
    ],
)
def test_arrays_are_checked(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tracked(**changes)


def test_a_frame_is_colour() -> None:
    with pytest.raises(ValueError, match=r"Frame\.image is uint8\(4, 4\), expected uint8\(H, W, 3\)"):
        Frame(image=np.zeros((4, 4), np.uint8))
    with pytest.raises(TypeError, match="image"):
        Frame()  # a picture has no default


def test_messages_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        tracked().name = "other"  # type: ignore[misc]


def test_another_header_shares_the_arrays() -> None:
    message = tracked(note="kept")
    header = Header("cam", 5, 1, 0.25, 99, (Hop("a", 1, 2, 3),))
    other = message.with_header(header)
    assert type(other) is Tracked and other.matrix is message.matrix and (other.name, other.note) == ("t", "kept")
    assert (other.seq, other.epoch, other.pts) == (5, 1, 0.25)
    assert message.seq == -1


def test_a_message_is_printed_in_one_line() -> None:
    assert repr(tracked(ids=np.arange(2), corners=np.zeros((2, 4, 2), np.float32)).with_header(Header(seq=5))) == (
        "Tracked(seq=5, name='t', ids=int64(2,), corners=float32(2, 4, 2), matrix=float64(3, 3), note='none')"
    )
    assert repr(Mark()) == "Mark(seq=-1)"


def test_a_source_header_is_completed() -> None:
    now = 1234
    assert Header(pts=1.5).numbered("cam", 3, now) == Header("cam", 3, 0, 1.5, now)
    assert Header().numbered("cam", 3, now, pts=0.5) == Header("cam", 3, 0, 0.5, now)
    assert Header(t_capture_ns=7).numbered("cam", 3, now, pts=0.5) == Header("cam", 3, 0, 0.0, 7)
    assert Header(t_capture_ns=7, epoch=2).numbered("cam", 3, now) == Header("cam", 3, 2, 0.0, 7)


def test_fields_by_kind() -> None:
    assert [*array_specs(Tracked)] == ["ids", "corners", "matrix"]
    assert [*body_fields(Tracked)] == ["name", "ids", "corners", "matrix", "note"]
    assert array_specs(Mark) == {} and body_fields(Mark) == {}
    assert array_specs(Frame)["image"] == ArraySpec(np.dtype(np.uint8), ("H", "W", 3))


def test_derived_types_have_the_fields_of_their_base() -> None:
    @dataclass(frozen=True, kw_only=True, eq=False)
    class Depth(Frame):
        depth: Any = array(np.float32, "H", "W")

    assert [*array_specs(Depth)] == ["image", "depth"]
    with pytest.raises(ValueError, match=r"Depth\.depth is float32\(2, 3\)"):
        Depth(image=np.zeros((3, 2, 3), np.uint8), depth=np.zeros((2, 3), np.float32))


@pytest.mark.parametrize("dtype", [np.complex64, ">f4", "U5", object, "datetime64[ns]", np.longdouble])
def test_dtypes_that_cannot_be_sent(dtype: Any) -> None:
    with pytest.raises(TypeError, match=r"cannot be sent; valid: bool, .*float64"):
        array(dtype, "N")


def test_from_fields_takes_what_it_knows() -> None:
    values = {"name": "t", "ids": np.arange(0), "corners": np.zeros((0, 4, 2), np.float32), "matrix": MATRIX}
    full = from_fields(Tracked, Header(), values | {"note": "n"})
    assert isinstance(full, Tracked) and full.note == "n"
    older = from_fields(Tracked, Header(), values | {"newer": 1})
    assert isinstance(older, Tracked) and older.note == "none" and not hasattr(older, "newer")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ...}, "Tracked: .*missing.*'name'"),
        ({"matrix": ...}, "Tracked: .*missing.*'matrix'"),
        ({"matrix": np.zeros(2)}, r"Tracked\.matrix is float64\(2,\)"),
        ({"matrix": "text"}, r"Tracked\.matrix is str"),
        ({"matrix": "text", "note": "full"}, r"^Tracked\.matrix is str"),
        ({"ids": np.arange(2)}, r"Tracked\.corners"),
    ],
)
def test_from_fields_refuses(changes: dict[str, Any], words: str) -> None:
    values = {"name": "t", "ids": np.arange(0), "corners": np.zeros((0, 4, 2), np.float32), "matrix": MATRIX} | changes
    with pytest.raises(WireError, match=words):
        from_fields(Tracked, Header(), {name: value for name, value in values.items() if value is not ...})


@pytest.mark.parametrize("type_", [Frame, Detections, Faces, Mark])
def test_types_of_the_runtime_can_be_sent(type_: type[Message]) -> None:
    """Every field is an array, or a plain value."""
    for name, found in body_fields(type_).items():
        assert name in array_specs(type_) or found.type in (str, int, float, bool), name
    assert fields(type_)[0].name == "header"


def test_copy_does_not_share_arrays() -> None:
    frame = Frame(image=np.zeros((4, 4, 3), np.uint8), header=Header("s", 7))
    frame.image.flags.writeable = False
    copy = frame.copy()
    copy.image[:] = 9
    assert copy.seq == 7
    assert not frame.image.any()
