"""Play a recording in the place of the nodes that were recorded: a source whose outputs are recorded ports."""

import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from graph.errors import ConfigError
from graph.mcap_reader import Recording
from graph.messages import Header, Message
from graph.node import Node, Output, setting, waiting
from graph.recorder import Span, sent_ns
from graph.spec import did_you_mean

PAUSE_NS = 1_000_000_000  # a frame that takes longer to be given was not slow: the graph was paused


class Replay(Node):
    """Play ports of a recording as they were: the same messages, numbers and times, at any speed, in a loop.

    Its outputs are the recorded ports, under their own names (`frame` for camera.frame) or yours
    (`picture=camera.frame`).
    `seq`, `epoch` and `pts` are the recorded ones, and grow on from pass to pass of a loop; capture times are moved
    to now, so that a frame is as old as it was; hops begin anew. Several of these in one graph keep in step.
    """

    path: str  # a file of run_graph.py record; one that is cut off is played up to the cut
    ports: tuple[str, ...] = ()  # node.port, or output=node.port; empty: all recorded ports
    speed: float = setting(1.0, minimum=0.0, maximum=1000.0)  # times as fast as recorded; 0: as fast as possible
    loop: bool = False  # start again at the end

    def __post_init__(self) -> None:
        """Look what is in the file. Raises ConfigError if it is no recording, or lacks a port."""
        self._recording = Recording(self.path)
        self._topics = _named(self.ports or tuple(self._recording.ports), self._recording)
        outputs = {name: Output(self._recording.ports[topic]) for name, topic in self._topics.items()}
        vars(self)["outputs"] = outputs  # of this one, in the place of the class's

    def reads(self) -> list[Path]:
        """Return the recording."""
        return [self._recording.path]

    def live(self) -> bool:
        """Return whether it has a speed of its own."""
        return self.speed > 0

    def process(self) -> Iterator[dict[str, Message] | None]:
        """Yield what was said about one frame after the other, each when its time has come."""
        timeline = _Timeline(self._recording.span, self.speed)
        for said in self._frames(timeline):
            given_ns = time.monotonic_ns()
            yield said
            timeline.rest(time.monotonic_ns() - given_ns)

    def _frames(self, timeline: "_Timeline") -> Iterator[dict[str, Message] | None]:
        for number in count() if self.loop else range(1):
            for said in self._recording.frames(self._topics.values()):
                header = next(iter(said.values())).header
                while (left_s := timeline.left_s(header, number)) > 0:
                    yield from waiting(left_s)
                header = timeline.moved(header, number)
                yield {name: said[topic].with_header(header) for name, topic in self._topics.items() if topic in said}


class _Timeline:
    """Says what a recorded number or moment is now."""

    def __init__(self, span: Span, speed: float) -> None:
        self._span = span
        self._speed = speed
        self._start_ns = time.monotonic_ns()
        self._frames = span.seq[1] - span.seq[0] + 1
        lasting = 1 + 1 / max(1, self._frames - 1)  # the last frame has its time, too
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
        """Return in how many seconds the message is to be sent in pass `number`."""
        return (self._now(sent_ns(header), number) - time.monotonic_ns()) / 1e9 if self._speed else 0.0

    def _captured_ns(self, header: Header, number: int) -> int:
        if not self._speed:
            return 0  # now, which the runtime fills in
        return min(self._now(header.t_capture_ns, number), time.monotonic_ns())

    def rest(self, lasted_ns: int) -> None:
        """Go on where it was after a pause of the graph, rather than rush to where it would be without."""
        if lasted_ns > PAUSE_NS:
            self._start_ns += lasted_ns

    def _now(self, recorded_ns: int, number: int) -> int:
        since_ns = recorded_ns - self._span.sent_ns[0] + number * self._pass_ns
        return self._start_ns + round(since_ns / self._speed)


def _named(ports: tuple[str, ...], recording: Recording) -> dict[str, str]:
    """Return the recorded ports by the names of the outputs that give them."""
    topics: dict[str, str] = {}
    for port in ports:
        name, equals, topic = port.rpartition("=")
        name = name if equals else topic.rpartition(".")[2]
        if topic not in recording.ports:
            there = did_you_mean(topic, recording.ports) or f"recorded: {', '.join(recording.ports)}"
            raise ConfigError(f"{recording.path} has no port {topic!r}; {there}")
        if not name.isidentifier():
            raise ConfigError(f"{name!r} in {port!r} is no name for an output; expected like picture={topic}")
        if name in topics:
            raise ConfigError(
                f"{topics[name]} and {topic} would both be {name!r}; name one, or take one only: "
                f"ports: [{topics[name]}, {name}2={topic}]"
            )
        topics[name] = topic
    return topics
