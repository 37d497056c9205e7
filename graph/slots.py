"""Shared memory for arrays: slots that a sender fills and its consumers map, without a name anywhere.

A slot is one memfd, allocated whole (a full memory fails at once, not with SIGBUS later) and sealed: nobody can
shrink it, and nobody but its maker can write. Consumers get the file descriptor through a unix socket and
keep the mapping; from then on only the slot's number travels. The kernel frees the memory when the last
process that maps it dies, so nothing can be left behind (measured: notes on memfd in graph/README.md).

A slot is free again when no consumer has a lease on it and no array of this process lies in it.
"""

import errno
import fcntl
import itertools
import logging
import mmap
import os
import resource
import select
import socket
import struct
import sys
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from math import prod
from reprlib import repr as brief
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graph.errors import WireError

logger = logging.getLogger(__name__)

AVAILABLE = sys.platform == "linux" and hasattr(os, "memfd_create")
POOL_BYTES = 1 << 30
"""Beyond this a sender sends bytes inline: somebody keeps more frames than any queue holds."""
F_SEAL_FUTURE_WRITE = 0x10  # linux/fcntl.h; Python has the name only from 3.12 on
REQUEST = struct.Struct("<q")  # slot number
REPLY = struct.Struct("<q")  # size in bytes, with the descriptor as ancillary data; 0: no such slot
BYTE = np.dtype(np.uint8)
IDLE_S = 10.0  # what was not needed for so long, at most twice, is given back: its size, or a burst, is over
FULL_S = 0.01  # seconds to wait where no file descriptor is left for who connects
TIMEOUT = 10.0  # seconds a consumer waits for a descriptor; the sender answers from a thread of its own


@lru_cache  # a stream has few sizes
def slot_size(nbytes: int) -> int:
    """Round up to a quarter of a power of two, in pages: streams that change size then still share slots."""
    step = max(mmap.PAGESIZE, 1 << max(0, (nbytes - 1).bit_length() - 3))
    return -(-nbytes // step) * step


class Slot:
    """One piece of shared memory of the sender."""

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self.size = size
        self.leases = 0  # of consumers, and of packets that wait for one
        self.born: weakref.ref[NDArray[Any]] | None = None  # the array that spans it
        self.fd = os.memfd_create(f"facegraph-{number}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.posix_fallocate(self.fd, 0, size)
            self.memory = mmap.mmap(self.fd, size, mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0))
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | F_SEAL_FUTURE_WRITE
            _seal(self.fd, seals)
        except OSError:
            os.close(self.fd)
            raise

    def close(self) -> None:
        """Give the memory back as soon as the last array in it is gone; they keep the mapping, which is not closed."""
        os.close(self.fd)


def _seal(fd: int, seals: int) -> None:
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except OSError:  # kernels before 5.1 do not know F_SEAL_FUTURE_WRITE
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals & ~F_SEAL_FUTURE_WRITE)


class SlotPool:
    """The slots of one sender process."""

    def __init__(self, limit: int = POOL_BYTES) -> None:
        self._limit = limit
        self._most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4  # a slot has two, half are for all the rest
        self._bytes = 0
        self._slots: dict[int, Slot] = {}
        self._free: dict[int, list[Slot]] = defaultdict(list)
        self._idle: dict[int, list[Slot]] = defaultdict(list)  # free since before the last `tend`
        self._tend_at = 0.0
        self._by_array: dict[int, Slot] = {}  # id of the array that was born in a slot
        self._numbers = itertools.count()  # never used twice: consumers keep their mappings
        self._lock = threading.RLock()  # an array may die, and a lease come back, in any thread

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return a writable array born in a slot, or an ordinary one when the pool is exhausted."""
        nbytes = prod(shape) * dtype.itemsize
        slot = self._take(nbytes)
        if slot is None:
            return np.empty(shape, dtype)
        array: NDArray[Any] = np.ndarray(shape, dtype, slot.memory)
        key = id(array)
        slot.born = weakref.ref(array, lambda _: self._array_died(key))
        self._by_array[key] = slot
        return array

    def find(self, array: NDArray[Any]) -> tuple[Slot, int] | None:
        """Return slot and byte offset of an array that lies in a slot of this pool, contiguously; else None."""
        whole = array if id(array) in self._by_array else array.base
        slot = self._by_array.get(id(whole))
        if slot is None or not array.flags.c_contiguous:
            return None
        assert isinstance(whole, np.ndarray)
        if array.nbytes == whole.nbytes:
            return slot, 0
        return slot, array.ctypes.data - whole.ctypes.data

    def copy_in(self, array: NDArray[Any]) -> Slot | None:
        """Copy an array into a free slot, which gets one lease for it; None when the pool is exhausted."""
        slot = self._take(array.nbytes)
        if slot is not None:
            slot.leases = 1
            np.copyto(np.frombuffer(slot.memory, array.dtype, array.size).reshape(array.shape), array)
        return slot

    def lease(self, number: int) -> None:
        """Count one more lease on a slot that has one already."""
        with self._lock:
            self._slots[number].leases += 1

    def release(self, number: int) -> None:
        """Take back one lease. Raises WireError for a lease that nobody has."""
        with self._lock:
            slot = self._slots.get(number)
            if slot is None or slot.leases <= 0:
                raise WireError(f"release of slot {number}, which is not leased")
            slot.leases -= 1
            if slot.leases == 0 and slot.born is None:
                self._free[slot.size].append(slot)

    def descriptor(self, number: int) -> tuple[int, int]:
        """Return file descriptor and size of a slot, or (-1, 0)."""
        slot = self._slots.get(number)
        return (slot.fd, slot.size) if slot else (-1, 0)

    def tend(self) -> None:
        """Close what was not needed for IDLE_S; to be called now and then."""
        with self._lock:
            if time.monotonic() >= self._tend_at:
                self._tend_at = time.monotonic() + IDLE_S
                self._discard(self._idle)
                self._idle, self._free = self._free, self._idle

    def close(self) -> None:
        """Close all slots."""
        for slot in self._slots.values():
            slot.close()
        self._slots.clear()
        self._free.clear()
        self._idle.clear()

    def _take(self, nbytes: int) -> Slot | None:
        if not AVAILABLE or nbytes == 0:
            return None
        size = slot_size(nbytes)
        with self._lock:
            free = self._free[size]
            free = free or self._idle[size]
            return free.pop() if free else self._create(size)

    def _create(self, size: int) -> Slot | None:
        if self._full(size):
            self._discard(self._idle)
            self._discard(self._free)
        if self._full(size):
            return None
        try:
            slot = Slot(next(self._numbers), size)
        except OSError as exc:
            logger.warning("no shared memory (%s); sending bytes instead", exc)
            self._limit = self._bytes
            return None
        self._slots[slot.number] = slot
        self._bytes += size
        return slot

    def _full(self, size: int) -> bool:
        return self._bytes + size > self._limit or len(self._slots) >= self._most

    def _discard(self, free: dict[int, list[Slot]]) -> None:
        """Close free slots, as those of a size that the stream no longer has."""
        for slot in itertools.chain.from_iterable(free.values()):
            del self._slots[slot.number]
            self._bytes -= slot.size
            slot.close()
        free.clear()

    def _array_died(self, key: int) -> None:
        with self._lock:
            slot = self._by_array.pop(key)
            slot.born = None
            if slot.leases == 0 and slot.number in self._slots:
                self._free[slot.size].append(slot)


class SlotServer:
    """Hands the descriptors of a pool to processes of the same user."""

    def __init__(self, path: str, pool: SlotPool) -> None:
        self.pool = pool
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self._listener.bind(path)
        os.chmod(path, 0o600)
        self._listener.listen(64)
        self.sockets: dict[int, socket.socket] = {self._listener.fileno(): self._listener}

    def serve(self, fd: int) -> None:
        """Answer what is waiting on one of `sockets`; new and closed connections change `sockets`."""
        if fd == self._listener.fileno():
            self._accept()
            return
        connection = self.sockets[fd]
        try:
            request = connection.recv(REQUEST.size + 1)
            if len(request) != REQUEST.size:
                raise ConnectionError("closed, or not our protocol")
        except BlockingIOError:
            return
        except OSError:
            self._disconnect(connection)
            return
        slot_fd, size = self.pool.descriptor(REQUEST.unpack(request)[0])
        try:
            socket.send_fds(connection, [REPLY.pack(size)], [slot_fd] if size else [])
        except OSError:  # gone, or asks without ever reading the answers
            self._disconnect(connection)

    def _disconnect(self, connection: socket.socket) -> None:
        del self.sockets[connection.fileno()]
        connection.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # no file descriptor is left: whoever comes has to wait, and the node goes on
            time.sleep(FULL_S)
            return
        connection.setblocking(False)
        _pid, uid, _gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != os.getuid():
            logger.warning("refused user %d on the shared memory socket", uid)
            connection.close()
            return
        self.sockets[connection.fileno()] = connection

    def close(self) -> None:
        """Close the listener and all connections."""
        for connection in self.sockets.values():
            connection.close()
        self.sockets.clear()


class SlotMap:
    """The consumer's side: the slots of one sender, mapped read-only when first needed.

    The open connection also tells that the sender lives: see `alive`.
    """

    def __init__(self, path: str, limit: int = POOL_BYTES) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(TIMEOUT)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise
        self._limit = limit
        self._memories: dict[int, mmap.mmap] = {}
        self._idle: dict[int, mmap.mmap] = {}  # not needed since the last `tend`
        self._tend_at = 0.0
        self._leased: dict[int, tuple[weakref.ref[NDArray[Any]], int]] = {}  # by the id of the reference
        self.released: list[int] = []  # slot numbers whose arrays are gone, to be told to the sender

    def array(self, number: int, offset: int, shape: int | Sequence[int], dtype: np.dtype[Any] = BYTE) -> NDArray[Any]:
        """Return a read-only array that lies in a slot; when it and all views of it are gone, it is released."""
        memory = self._memories.get(number) or self._map(number)
        try:
            if offset < 0:
                raise ValueError("a negative offset, which numpy would take")
            array: NDArray[Any] = np.ndarray(shape, dtype, memory, offset)
        except (TypeError, ValueError) as exc:
            wanted = f"{dtype}{brief(shape)} at byte {offset}"
            raise WireError(f"{wanted} of slot {number}, which has {len(memory)} bytes") from exc
        lease = weakref.ref(array, self._give_back)
        self._leased[id(lease)] = lease, number
        return array

    def _give_back(self, lease: "weakref.ref[NDArray[Any]]") -> None:
        self.released.append(self._leased.pop(id(lease))[1])

    def tend(self) -> None:
        """Let go of what was not needed for IDLE_S; its pages go with the last array in it."""
        if time.monotonic() >= self._tend_at:
            self._tend_at = time.monotonic() + IDLE_S
            self._idle, self._memories = self._memories, {}

    def _map(self, number: int) -> mmap.mmap:
        if number in self._idle:
            return self._memories.setdefault(number, self._idle.pop(number))
        self._socket.send(REQUEST.pack(number))
        reply, fds, _flags, _address = socket.recv_fds(self._socket, REPLY.size, 1)
        if not reply:
            raise ConnectionResetError("the sender has closed its shared memory")
        size = int.from_bytes(reply, "little")
        if size and not fds:  # the kernel had no number left here for the one that came
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if not fds:
            raise WireError(f"the sender has no slot {number}")
        if sum(map(len, (self._memories | self._idle).values())) + size > self._limit:
            self._memories.clear()
            self._idle.clear()
        try:
            flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
            self._memories[number] = mmap.mmap(fds[0], size, flags, mmap.PROT_READ)
        except ValueError as exc:
            raise WireError(f"slot {number} has not the {size} bytes that it should have") from exc
        finally:
            os.close(fds[0])
        return self._memories[number]

    def alive(self) -> bool:
        """Say whether the sender's process still has its end open."""
        poller = select.poll()  # select itself knows no descriptor above 1023
        poller.register(self._socket, select.POLLIN)
        return not poller.poll(0)  # the sender says nothing unasked: readable means closed

    def close(self) -> None:
        """Close the connection; the memory goes with the last array in it."""
        self._socket.close()
        self._memories.clear()
        self._idle.clear()
