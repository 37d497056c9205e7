"""Play a recording: a source whose outputs are recorded ports."""

import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from graph.errors import ConfigError
from graph.mcap_reader import Recording
from graph.messages import Header, Message
from graph.node import Node, Output, setting, waiting
from graph.recorder import Span, sent_ns
from graph.spec import choices

PAUSE_NS = 1_000_000_000  # if a frame takes longer to be sent, the graph was paused


class Replay(Node):
    """Play ports of a recording with the same messages, numbers and times, at any speed, once or in a loop.

    Its outputs are the recorded ports, under their own names (`frame` for camera.frame) or yours
    (`picture=camera.frame`).
    `seq`, `epoch` and `pts` are as recorded, and keep growing with each pass of a loop; capture times are shifted to
    now, so that a frame is as old as it was; hops start anew. Several of these in one graph keep in step.
    """

    path: str  # a file of run_graph.py record; one that is cut off is played up to the cut
    ports: tuple[str, ...] = ()  # node.port, or output=node.port; empty: all recorded ports
    speed: float = setting(1.0, minimum=0.0, maximum=1000.0)  # factor; 0: as fast as possible
    loop: bool = False  # start again at the end

    def __post_init__(self) -> None:
        """Read the index of the file. Raises ConfigError if it is not a recording, or lacks a port."""
        self._recording = Recording(self.path)
        self._topics = _named(self.ports or tuple(self._recording.ports), self._recording)
        outputs = {name: Output(self._recording.ports[topic]) for name, topic in self._topics.items()}
        vars(self)["outputs"] = outputs  # of this instance, instead of the class's

    def reads(self) -> list[Path]:
        """Return the recording."""
        return [self._recording.path]

    def live(self) -> bool:
        """Return whether it plays at a fixed speed."""
        return self.speed > 0

    def process(self) -> Iterator[dict[str, Message] | None]:
        """Yield the messages of each frame at its time."""
        timeline = _Timeline(self._recording.span, self.speed)
        for messages in self._frames(timeline):
            yielded_ns = time.monotonic_ns()
            yield messages
            timeline.skip_pause(time.monotonic_ns() - yielded_ns)

    def _frames(self, timeline: "_Timeline") -> Iterator[dict[str, Message] | None]:
        for number in count() if self.loop else range(1):
            for messages in self._recording.frames(self._topics.values()):
                header = next(iter(messages.values())).header
                while (left_s := timeline.left_s(header, number)) > 0:
                    yield from waiting(left_s)
                header = timeline.moved(header, number)
                topics = {name: topic for name, topic in self._topics.items() if topic in messages}
                yield {name: messages[topic].with_header(header) for name, topic in topics.items()}


class _Timeline:
    """Maps recorded numbers and times to those of the replay."""

    def __init__(self, span: Span, speed: float) -> None:
        self._span = span
        self._speed = speed
        self._start_ns = time.monotonic_ns()
        self._frames = span.seq[1] - span.seq[0] + 1
        lasting = 1 + 1 / max(1, self._frames - 1)  # the last frame has a duration, too
        self._pass_pts = (span.pts[1] - span.pts[0]) * lasting
        self._pass_ns = (span.sent_ns[1] - span.sent_ns[0]) * lasting

    def moved(self, header: Header, number: int) -> Header:
        """Return the header of a frame in pass `number`."""
        return Header(
            seq=header.seq + number * self._frames,
            epoch=header.epoch + number * (self._span.epoch[1] - self._span.epoch[0] + 1),
            pts=header.pts + number * self._pass_pts,
            t_capture_ns=self._captured_ns(header, number),
        )

    def left_s(self, header: Header, number: int) -> float:
        """Return the seconds until the message is due in pass `number`."""
        return (self._now(sent_ns(header), number) - time.monotonic_ns()) / 1e9 if self._speed else 0.0

    def _captured_ns(self, header: Header, number: int) -> int:
        if not self._speed:
            return 0  # the runtime sets the current time
        return min(self._now(header.t_capture_ns, number), time.monotonic_ns())

    def skip_pause(self, duration_ns: int) -> None:
        """After a pause of the graph, continue where it was instead of catching up."""
        if duration_ns > PAUSE_NS:
            self._start_ns += duration_ns

    def _now(self, recorded_ns: int, number: int) -> int:
        since_ns = recorded_ns - self._span.sent_ns[0] + number * self._pass_ns
        return self._start_ns + round(since_ns / self._speed)


def _named(ports: tuple[str, ...], recording: Recording) -> dict[str, str]:
    """Return the recorded ports by the names of their outputs."""
    topics: dict[str, str] = {}
    for port in ports:
        name, equals, topic = port.rpartition("=")
        name = name if equals else topic.rpartition(".")[2]
        if topic not in recording.ports:
            raise ConfigError(f"{recording.path} has no port {topic!r}; {choices(topic, recording.ports, 'recorded')}")
        if not name.isidentifier():
            raise ConfigError(f"{name!r} in {port!r} is not a valid output name; use for example picture={topic}")
        if name in topics:
            raise ConfigError(
                f"{topics[name]} and {topic} would both be {name!r}; rename or remove one: "
                f"ports: [{topics[name]}, {name}2={topic}]"
            )
        topics[name] = topic
    return topics
