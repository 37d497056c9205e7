"""The same pictures through plain pyzmq: PUSH/PULL over ipc, header and pixels as two parts, no copy in Python.

This is the usual way to send images between processes without shared memory.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from typing import Any

import msgpack
import zmq

from tests.bench._traffic import END, STAMP, Arrivals, Plan, numbers, picture

IN_FLIGHT = 4  # messages that each side queues
RING = 2 * IN_FLIGHT + 2  # pictures to write in turn: one that is still being sent must not be overwritten


def measure_zmq(plan: Plan) -> dict[str, float]:
    """Run sender (here) and receiver (a new process)."""
    with tempfile.TemporaryDirectory(prefix="fg-") as folder:
        command = [sys.executable, "-m", "tests.bench._peers", folder, json.dumps(asdict(plan))]
        receiver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        sent = _send(plan, folder)
        output, _ = receiver.communicate(timeout=30)
    return json.loads(output) | {"sent": sent}


def _send(plan: Plan, folder: str) -> int:
    context: zmq.Context[Any] = zmq.Context()
    ready, there = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    there.set_hwm(IN_FLIGHT)
    there.bind(f"ipc://{folder}/there")
    ready.bind(f"ipc://{folder}/ready")
    ready.recv()
    pictures = [picture(plan) for _ in range(RING)]
    count = 0
    for seq in numbers(plan):
        image = pictures[seq % RING]
        STAMP.pack_into(image, 0, seq, time.monotonic_ns())
        there.send_multipart([msgpack.packb({"seq": seq, "shape": plan.shape, "dtype": "|u1"}), image], copy=False)
        count += 1
    STAMP.pack_into(pictures[count % RING], 0, END, 0)
    there.send_multipart([b"", pictures[count % RING]], copy=False)
    context.destroy(linger=5000)
    return count


def _receive(folder: str, plan: Plan) -> None:
    context: zmq.Context[Any] = zmq.Context()
    ready, there = context.socket(zmq.PUSH), context.socket(zmq.PULL)
    there.set_hwm(IN_FLIGHT)
    there.connect(f"ipc://{folder}/there")
    ready.connect(f"ipc://{folder}/ready")
    ready.send(b"!")
    arrivals = Arrivals(plan)
    going = True
    while going:
        header, image = there.recv_multipart(copy=False)
        if header.buffer:
            msgpack.unpackb(header.buffer)
        going = arrivals.take(image.buffer)
    print(json.dumps(arrivals.result()))
    context.destroy(linger=0)


if __name__ == "__main__":
    _receive(sys.argv[1], Plan(**json.loads(sys.argv[2])))
