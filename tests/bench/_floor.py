"""The minimum cost of a hop between two Python processes, for comparison with ours.

A ring of slots in shared memory, one small msgpack message over ZeroMQ for each picture, and the slot's number back: no
types, joins, policies or metrics, one consumer, and no fault tolerance. The time of a hop includes that in which the
sender takes back free slots.
"""

import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from typing import Any

import msgpack
import numpy as np
import zmq

from tests.bench._traffic import END, STAMP, Arrivals, Plan, numbers, picture

SLOTS = 8  # as many as ours has in flight with the default queue: four waiting, four granted


class Ring:
    """Shared memory cut into slots."""

    def __init__(self, fd: int, nbytes: int) -> None:
        self.memory = mmap.mmap(fd, SLOTS * nbytes, mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0))
        self.slots = np.frombuffer(self.memory, np.uint8).reshape(SLOTS, nbytes)


def measure(plan: Plan, copy: bool) -> dict[str, float]:
    """Run sender (here) and receiver (a new process).

    With `copy`, each picture is copied into its slot, as ours does with an ordinary array; otherwise it is in the slot
    already, and only stamped.
    """
    fd = os.memfd_create("floor", os.MFD_CLOEXEC)
    os.posix_fallocate(fd, 0, SLOTS * plan.nbytes)
    with tempfile.TemporaryDirectory(prefix="fg-") as folder:
        command = [sys.executable, "-m", "tests.bench._floor", str(fd), folder, json.dumps(asdict(plan))]
        receiver = subprocess.Popen(command, pass_fds=[fd], stdout=subprocess.PIPE, text=True)
        sent = _send(plan, copy, Ring(fd, plan.nbytes), folder)
        output, _ = receiver.communicate(timeout=30)
    os.close(fd)
    return json.loads(output) | {"sent": sent}


def _sockets(folder: str) -> tuple["zmq.Context[Any]", "zmq.Socket[bytes]", "zmq.Socket[bytes]"]:
    context: zmq.Context[Any] = zmq.Context()
    return context, context.socket(zmq.PUSH), context.socket(zmq.PULL)


def _send(plan: Plan, copy: bool, ring: Ring, folder: str) -> int:
    context, there, back = _sockets(folder)
    there.bind(f"ipc://{folder}/there")
    back.bind(f"ipc://{folder}/back")
    back.recv()  # the receiver is ready
    source = picture(plan).ravel()
    ring.slots[:] = source
    free = list(range(SLOTS))
    count = 0

    def send(seq: int) -> None:
        stamp = STAMP.pack(seq, time.monotonic_ns())
        while not free or back.poll(0):
            free.append(back.recv()[0])
        number = free.pop(0)
        if copy:
            ring.slots[number] = source
        ring.slots[number, : STAMP.size] = np.frombuffer(stamp, np.uint8)
        there.send(msgpack.packb([number, seq]))

    for seq in numbers(plan):
        send(seq)
        count += 1
    send(END)
    context.destroy(linger=2000)
    return count


def _receive(fd: int, folder: str, plan: Plan) -> None:
    context, back, there = _sockets(folder)
    there.connect(f"ipc://{folder}/there")
    back.connect(f"ipc://{folder}/back")
    ring = Ring(fd, plan.nbytes)
    arrivals = Arrivals(plan)
    back.send(b"!")
    while True:
        number, _seq = msgpack.unpackb(there.recv())
        if not arrivals.take(ring.slots[number]):
            break
        back.send(bytes([number]))
    print(json.dumps(arrivals.result()))
    context.destroy(linger=0)


if __name__ == "__main__":
    _receive(int(sys.argv[1]), sys.argv[2], Plan(**json.loads(sys.argv[3])))
