"""Slots of shared memory in the consumer: what it can do, who is served, and processes that die."""

import contextlib
import gc
import mmap
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from numpy.typing import NDArray

from graph import WireError, slots
from graph.slots import SlotMap, SlotPool
from tests.conftest import eventually
from tests.pair import SHAPE, Serving, filled

pytestmark = pytest.mark.skipif(not slots.AVAILABLE, reason="needs memfd")

U8 = np.dtype(np.uint8)


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory, run_dir: Path) -> Iterator[Path]:
    path = run_dir / "s"
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def serving(path: Path, pool: SlotPool) -> Iterator[Serving]:
    serving = Serving(path, pool)
    yield serving
    serving.stop()


@pytest.fixture
def mapped(serving: Serving, path: Path) -> Iterator[SlotMap]:
    mapped = SlotMap(str(path))
    yield mapped
    mapped.close()


def test_consumer_reads_what_was_written_and_releases_it(pool: SlotPool, mapped: SlotMap) -> None:
    number = filled(pool, 42)
    flat = mapped.array(number, 0, 3600)
    picture = flat.view(np.uint8).reshape(SHAPE)
    assert (picture == 42).all()
    del flat
    gc.collect()
    assert mapped.released == []  # a view of it still exists
    part = picture[3]
    del picture
    assert mapped.released == []
    del part
    assert mapped.released == [number]


def test_parts_of_a_slot(pool: SlotPool, mapped: SlotMap) -> None:
    slot = pool.copy_in(np.arange(100, dtype=np.uint8))
    assert slot is not None
    assert mapped.array(slot.number, 10, 5).tolist() == [10, 11, 12, 13, 14]
    assert len(mapped.array(slot.number, slot.size - 1, 1)) == 1
    for offset, nbytes in ((0, slot.size + 1), (slot.size, 1), (-1, 5), (slot.size + 1, 0)):
        with pytest.raises(WireError, match=f"of slot {slot.number}, which has {slot.size}"):
            mapped.array(slot.number, offset, nbytes)
    with pytest.raises(WireError, match="the sender has no slot 99"):
        mapped.array(99, 0, 1)


def test_consumer_cannot_write(pool: SlotPool, mapped: SlotMap) -> None:
    array = mapped.array(filled(pool, 1), 0, 100)
    assert not array.flags.writeable
    with pytest.raises(ValueError, match="cannot set WRITEABLE"):
        array.flags.writeable = True
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def descriptor(path: Path, number: int) -> tuple[int, int]:
    """Request a slot like a program in another language."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(str(path))
        client.send(struct.pack("<q", number))
        reply, fds, _flags, _address = socket.recv_fds(client, 8, 1)
        return (fds[0] if fds else -1), struct.unpack("<q", reply)[0]


def test_descriptor_is_sealed(pool: SlotPool, serving: Serving, path: Path) -> None:
    number = filled(pool, 5)
    fd, size = descriptor(path, number)
    try:
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size * 2)
        with pytest.raises(PermissionError):
            os.write(fd, b"x")
        with pytest.raises(PermissionError):
            mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        with mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ) as memory:
            assert memory[:100] == b"\x05" * 100
    finally:
        os.close(fd)
    assert descriptor(path, 99) == (-1, 0)


def test_memory_outlives_a_sender_that_is_gone(pool: SlotPool, serving: Serving, mapped: SlotMap) -> None:
    array = mapped.array(filled(pool, 8), 0, 100)
    assert mapped.alive()
    serving.stop()
    pool.close()
    assert not mapped.alive()
    assert (mapped.array(0, 100, 100) == 8).all()  # already mapped: no request
    mapped.close()
    assert (array == 8).all()


@pytest.mark.parametrize(
    ("size", "error"),
    [(None, ConnectionResetError), (0, WireError), (5000, WireError)],
    ids=["dies", "has none", "has a smaller one"],
)
def test_sender_that_provides_no_slot(path: Path, size: int | None, error: type[Exception]) -> None:
    """One that dies meanwhile has not broken the protocol: its next process may replace it."""

    def answer() -> None:
        connection, _ = listener.accept()
        with connection, open(os.memfd_create("small"), "wb", buffering=0) as small:
            small.truncate(1)
            connection.recv(8)
            if size is not None:
                socket.send_fds(connection, [struct.pack("<q", size)], [small.fileno()] if size else [])

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        sender = Thread(target=answer)
        sender.start()
        with contextlib.closing(SlotMap(str(path))) as mapped, pytest.raises(error):
            mapped.array(0, 0, 1)
        sender.join()


def test_only_this_user_is_served(
    pool: SlotPool, serving: Serving, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    own = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: own + 1)  # the server takes us for another user
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(10)
        client.connect(str(path))
        assert client.recv(8) == b""


@pytest.mark.parametrize("request_", [b"x", b"", b"123456789"])
def test_malformed_request_is_disconnected(
    serving: Serving, path: Path, mapped: SlotMap, pool: SlotPool, request_: bytes
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(10)
        client.connect(str(path))
        client.send(request_)
        assert client.recv(8) == b""
    assert mapped.array(filled(pool, 3), 0, 1)[0] == 3  # the others are served


def test_client_that_never_reads_the_replies_is_disconnected(
    serving: Serving, path: Path, mapped: SlotMap, pool: SlotPool
) -> None:
    number = filled(pool, 3)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(10)
        client.connect(str(path))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for _ in range(10_000):
                client.send(struct.pack("<q", number))
    assert mapped.array(number, 0, 1)[0] == 3


def test_closed_connections_are_forgotten(serving: Serving, path: Path) -> None:
    for _ in range(5):
        SlotMap(str(path)).close()
    assert eventually(lambda: len(serving.server.sockets) == 1)


def test_mappings_beyond_the_limit_are_dropped(pool: SlotPool, serving: Serving, path: Path) -> None:
    mapped = SlotMap(str(path), limit=100_000)
    kept = mapped.array(filled(pool, 250), 0, 3600)
    for value in range(50):
        array: NDArray[np.uint8] = mapped.array(filled(pool, value, (100, 200)), 0, 20_000)
        assert (array == value).all()
        del array
        assert sum(map(len, mapped._memories.values())) <= 100_000
    assert (kept == 250).all()
    assert (mapped.array(3, 0, 20_000) == 2).all()  # mapped again
    assert len(mapped.released) == 51
    mapped.close()


def test_mappings_that_are_not_needed_any_more_are_dropped(
    pool: SlotPool, serving: Serving, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "IDLE_S", 0.0)
    mapped = SlotMap(str(path))
    once, often = filled(pool, 1), filled(pool, 2)
    mapped.array(once, 0, 3600)
    for _ in range(3):
        assert (mapped.array(often, 0, 3600) == 2).all()
        memory = mapped._memories[often]
        mapped.tend()
        assert mapped.array(often, 0, 3600) is not None and mapped._memories[often] is memory, "not mapped again"
    assert set(mapped._memories | mapped._idle) == {often}
    assert (mapped.array(once, 0, 3600) == 1).all()
    mapped.close()


def test_no_sender_at_all(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        SlotMap(str(path))


def test_connection_waits_while_no_file_descriptor_is_left(
    pool: SlotPool, serving: Serving, path: Path, descriptors: Callable[[int], None]
) -> None:
    number = filled(pool, 3)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(30)
        descriptors(client.fileno() + 1)
        client.connect(str(path))
        client.send(struct.pack("<q", number))
        time.sleep(0.1)
        descriptors(400)
        data, fds, _, _ = socket.recv_fds(client, 8, 1)
    assert int.from_bytes(data, "little") == 4096
    os.close(fds[0])


def test_sender_is_alive_for_a_consumer_with_many_open_files(
    serving: Serving, path: Path, descriptors: Callable[[int], None]
) -> None:
    descriptors(2000)
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    mapped = SlotMap(str(path))
    assert mapped._socket.fileno() > 1023 and mapped.alive()
    mapped.close()
    for file in files:
        os.close(file)


LEASE = """
import sys, time
from graph.slots import SlotMap
mapped = SlotMap(sys.argv[1])
array = mapped.array(int(sys.argv[2]), 0, 3600)
print(int(array[0]), flush=True)
time.sleep(1000)
"""


@pytest.mark.slow
def test_nothing_is_left_when_processes_are_killed(pool: SlotPool, serving: Serving, path: Path) -> None:
    """The descriptor goes with the consumer, the memory with the last process that maps it."""
    number = filled(pool, 77)
    consumer = subprocess.Popen(
        [sys.executable, "-c", LEASE, str(path), str(number)], stdout=subprocess.PIPE, text=True
    )
    assert consumer.stdout is not None
    assert consumer.stdout.readline() == "77\n"
    assert eventually(lambda: len(serving.server.sockets) == 2)
    consumer.kill()
    consumer.wait()
    consumer.stdout.close()
    assert eventually(lambda: len(serving.server.sockets) == 1)
