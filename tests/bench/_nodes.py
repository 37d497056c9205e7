"""The two ends of a measured hop as nodes."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graph import Frame, Input, Node, Output
from tests.bench._traffic import STAMP, Arrivals, Plan, numbers, picture


class Sender(Node):
    """Sends stamped pictures."""

    frame = Output(Frame)

    plan: dict[str, Any]  # see tests.bench._traffic.Plan
    copy: bool = True  # true: an ordinary array that the runtime copies; false: an array in shared memory
    report: str = ""  # file for the number of pictures sent

    def process(self) -> Iterator[Frame]:
        plan = Plan(**self.plan)
        sent = 0
        source = picture(plan)
        for seq in numbers(plan):
            image = source if self.copy else self.empty(plan.shape)
            STAMP.pack_into(image, 0, seq, time.monotonic_ns())
            yield Frame(image=image)
            sent += 1
        Path(self.report).write_text(json.dumps({"sent": sent}), encoding="utf-8")


class Receiver(Node):
    """Counts and times them."""

    frame = Input(Frame)

    plan: dict[str, Any]  # see tests.bench._traffic.Plan
    report: str = ""  # file for the results

    def open(self) -> None:
        self.arrivals = Arrivals(Plan(**self.plan))

    def process(self, frame: Frame) -> None:
        self.arrivals.take(frame.image)

    def close(self) -> None:
        Path(self.report).write_text(json.dumps(self.arrivals.result()), encoding="utf-8")
