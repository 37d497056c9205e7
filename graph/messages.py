"""What travels along the edges of a graph.

Conventions: pixel coordinates are (x, y) float32, x to the right and y down; (0.0, 0.0) is the centre of the top left
pixel. Boxes are (x0, y0, x1, y1) in the same coordinates. Angles are in degrees. Times named `*_ns` are
CLOCK_MONOTONIC nanoseconds of the host that took them; `pts` is in seconds on the stream's own time axis. A frame
without a face gives `Faces()` with zero rows.

Your own message type is a frozen dataclass, written like the ones below:

    @dataclass(frozen=True, kw_only=True, eq=False)
    class Gaze(Message):
        direction: NDArray[np.float32] = array(np.float32, "F", 3)  # unit vector per face
"""

from dataclasses import Field, dataclass, field, fields
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from graph.errors import WireError

Dimension = int | str
"""A fixed length, or the name of a variable one; equal names within a message mean equal lengths."""


class Hop(NamedTuple):
    """One node that a frame has passed: received, process() started, process() ended (CLOCK_MONOTONIC ns)."""

    node: str
    received_ns: int
    start_ns: int
    end_ns: int


class Header(NamedTuple):
    """What every message carries; the runtime fills it in.

    `seq` counts the frames of a stream and never decreases. `epoch` increases when the stream starts afresh (a camera
    has reconnected): nodes then reset their state.
    """

    stream: str = ""
    seq: int = -1
    epoch: int = 0
    pts: float = 0.0
    t_capture_ns: int = 0
    hops: tuple[Hop, ...] = ()

    def numbered(
        self, stream: str, seq: int, now_ns: int, epoch: int = 0, hops: tuple[Hop, ...] = (), pts: float = 0.0
    ) -> "Header":
        """Return the header of a source's message, with what the source left out filled in.

        A source sets `pts`, `t_capture_ns` and `epoch` where it knows them: `Frame(header=Header(pts=1.5), ...)`.
        The `pts` given here is used if it sets nothing at all.
        """
        pts = pts if self == Header() else self.pts
        return Header(stream, seq, self.epoch + epoch, pts, self.t_capture_ns or now_ns, self.hops + hops)

    def after(self, hop: Hop) -> "Header":
        """Return the header with one more hop."""
        return Header(self.stream, self.seq, self.epoch, self.pts, self.t_capture_ns, (*self.hops, hop))


DTYPES = {np.dtype(code).str: np.dtype(code) for code in "?bBhHiIqQefd"}
"""What an array may consist of: numbers that every language has, in this machine's byte order."""


class ArraySpec(NamedTuple):
    """The declared dtype and shape of an array field."""

    dtype: np.dtype[Any]
    shape: tuple[Dimension, ...]

    def matches(self, value: Any, lengths: dict[str, int]) -> bool:
        """Say whether `value` is as declared; `lengths` collects the variable dimensions."""
        if not isinstance(value, np.ndarray) or value.dtype != self.dtype or len(value.shape) != len(self.shape):
            return False
        for expected, found in zip(self.shape, value.shape, strict=True):
            if isinstance(expected, str):
                expected = lengths.setdefault(expected, found)
            if expected != found:
                return False
        return True

    def __str__(self) -> str:
        return f"{self.dtype}({', '.join(map(str, self.shape))})"


def describe(value: Any) -> str:
    """Return dtype and shape of an array, or the type of anything else."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}"
    return type(value).__name__


def array(dtype: DTypeLike, *shape: Dimension) -> Any:
    """Declare an array field. If only the first dimension is variable, the default has zero rows.

    Raises TypeError for a dtype that cannot be sent.
    """
    spec = ArraySpec(np.dtype(dtype), shape)
    if spec.dtype.str not in DTYPES:
        raise TypeError(f"arrays of {spec.dtype} cannot be sent; valid: {', '.join(map(str, DTYPES.values()))}")
    if shape and isinstance(shape[0], str) and all(isinstance(length, int) for length in shape[1:]):
        zero_rows = (0, *(int(length) for length in shape[1:]))
        return field(default_factory=lambda: np.zeros(zero_rows, spec.dtype), metadata={"array": spec})
    return field(metadata={"array": spec})


_array_specs: dict[type, dict[str, ArraySpec]] = {}
_body_fields: dict[type, dict[str, Field[Any]]] = {}


def array_specs(type_: type["Message"]) -> dict[str, ArraySpec]:
    """Return the declared array fields of a message type by name."""
    if type_ not in _array_specs:
        _array_specs[type_] = {f.name: f.metadata["array"] for f in fields(type_) if "array" in f.metadata}
    return _array_specs[type_]


def body_fields(type_: type["Message"]) -> dict[str, Field[Any]]:
    """Return the fields of a message type by name, without the header."""
    if type_ not in _body_fields:
        _body_fields[type_] = {f.name: f for f in fields(type_) if f.name != "header"}
    return _body_fields[type_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Message:
    """Base of all messages.

    Fields are arrays, or values that msgpack can encode: str, bytes, 64-bit int, float, bool, None, lists, and dicts
    with str keys; all of these together take at most 1 MiB.
    """

    header: Header = field(default=Header(), repr=False)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        type.__setattr__(cls, "__repr__", cls.__repr__)  # else dataclass generates one that prints every pixel

    def __post_init__(self) -> None:
        """Check the declared arrays."""
        check_arrays(type(self), self.__dict__)

    def __repr__(self) -> str:
        values = {name: self.__dict__[name] for name in body_fields(type(self))}
        shown = [f"{name}={describe(v) if isinstance(v, np.ndarray) else repr(v)}" for name, v in values.items()]
        return f"{type(self).__name__}({', '.join([f'seq={self.seq}', *shown])})"

    def __bool__(self) -> bool:
        """Return True even with zero rows: an empty message is not the same as no message."""
        return True

    @property
    def seq(self) -> int:
        """The number of the frame within its stream."""
        return self.header.seq

    @property
    def epoch(self) -> int:
        """A number that increases when the stream starts afresh."""
        return self.header.epoch

    @property
    def pts(self) -> float:
        """Seconds on the stream's time axis."""
        return self.header.pts

    def with_header(self, header: Header) -> Self:
        """Return the same content under another header; arrays are shared, not copied."""
        return self.restore(header, self.__dict__)

    def copy(self) -> Self:
        """Return the message with copies of its arrays, which may be kept and written to."""
        arrays = {name: self.__dict__[name].copy() for name in array_specs(type(self))}
        return self.restore(self.header, {**self.__dict__, **arrays})

    @classmethod
    def restore(cls, header: Header, values: dict[str, Any]) -> Self:
        """Build a message from all its fields without checking them (see check_arrays)."""
        message = object.__new__(cls)
        message.__dict__.update(values)
        message.__dict__["header"] = header
        return message


_valid: set[tuple[Any, ...]] = set()  # types, dtypes and shapes that check_arrays has accepted; streams repeat them
MAX_VALID = 4096


def check_arrays(type_: type[Message], values: dict[str, Any]) -> None:
    """Raise ValueError unless the arrays in `values` are what the type declares."""
    specs = array_specs(type_)
    try:
        like = (type_, *[(type(value := values[name]), value.dtype, value.shape) for name in specs])
        if like in _valid:
            return
    except AttributeError:  # not an array: reported below
        like = ()
    lengths: dict[str, int] = {}
    for name, spec in specs.items():
        if not spec.matches(values[name], lengths):
            found = f"{type_.__name__}.{name} is {describe(values[name])}"
            raise ValueError(f"{found}, expected {spec}{f' with {lengths}' if lengths else ''}")
    if len(_valid) >= MAX_VALID:
        _valid.clear()
    _valid.add(like)


def from_fields(type_: type[Message], header: Header, values: dict[str, Any]) -> Message:
    """Build a message from what was received. Unknown fields are ignored: a newer sender may have more.

    Raises WireError if a field without a default is missing or an array is not what the type declares.
    """
    known = body_fields(type_)
    if values.keys() != known.keys():
        try:
            return type_(header=header, **{name: value for name, value in values.items() if name in known})
        except (TypeError, ValueError) as exc:
            raise WireError(f"{type_.__name__}: {exc}") from exc
    try:
        check_arrays(type_, values)
    except ValueError as exc:
        raise WireError(str(exc)) from exc
    return type_.restore(header, values)


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame(Message):
    """One picture."""

    image: NDArray[np.uint8] = array(np.uint8, "H", "W", 3)  # BGR
    clock: str = "arrival"  # source of t_capture_ns: "arrival" on this host, or the wall clock of the "camera"


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections(Message):
    """What a face detector found, best score first."""

    boxes: NDArray[np.float32] = array(np.float32, "F", 4)  # x0, y0, x1, y1
    scores: NDArray[np.float32] = array(np.float32, "F")  # 0..1
    points: NDArray[np.float32] = array(np.float32, "F", 5, 2)  # eyes, nose tip, mouth corners; image left first


POSE = ("pitch", "yaw", "roll")
"""Head pose, degrees, zero for a frontal face. Pitch > 0 looks down, yaw > 0 turns towards the image's left,
roll > 0 tilts clockwise in the image."""

STATES = ("left_eye_closed", "right_eye_closed", "mouth_closed", "mouth_wide_open")
"""Order of `Faces.states`, probabilities 0..1; left and right are the image's. An eye that the edge of the picture
cuts off never counts as closed."""

OPENNESS = ("left_eye_openness", "right_eye_openness", "mouth_openness")
"""Order of `Faces.openness`: height of the opening over its width; an open eye has about 0.3, a closed mouth 0."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Faces(Message):
    """The faces in one frame, one row per tracked face."""

    ids: NDArray[np.int64] = array(np.int64, "F")  # track id, kept while the same face stays in view
    boxes: NDArray[np.float32] = array(np.float32, "F", 4)  # x0, y0, x1, y1, tight around the landmarks
    scores: NDArray[np.float32] = array(np.float32, "F")  # probability that this is a face, 0..1
    landmarks: NDArray[np.float32] = array(np.float32, "F", 68, 2)  # iBUG 68 order
    spread: NDArray[np.float32] = array(np.float32, "F", 68)  # expected distance from the true point, pixels
    pose: NDArray[np.float32] = array(np.float32, "F", 3)  # degrees, order of POSE
    states: NDArray[np.float32] = array(np.float32, "F", 4)  # probabilities, order of STATES
    openness: NDArray[np.float32] = array(np.float32, "F", 3)  # order of OPENNESS; NaN where not measured
    blinks: NDArray[np.int64] = array(np.int64, "F")  # counted since the track began

    def __post_init__(self) -> None:
        """Fill in what was not measured, and check the arrays."""
        if not len(self.openness):
            object.__setattr__(self, "openness", np.full((len(self.ids), 3), np.nan, np.float32))
        if not len(self.blinks):
            object.__setattr__(self, "blinks", np.zeros(len(self.ids), np.int64))
        super().__post_init__()

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True, eq=False)
class Mark(Message):
    """Says that a node has no output for this frame, so that a join downstream does not wait for it."""
