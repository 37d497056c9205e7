"""Shared memory for arrays: slots that a sender fills and its consumers map. Slots have no name in any file system.

A slot is one memfd, fully allocated (so that a lack of memory fails at once, not with SIGBUS later) and sealed: nobody
can shrink it, and only its creator can write. Consumers get the file descriptor through a unix socket and keep the
mapping; afterwards only the slot's number is sent. The kernel frees the memory when the last process that maps it ends,
so nothing can be left behind.

A slot is free again when no consumer holds a lease on it and no array of this process lies in it.
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
"""Beyond this a sender sends bytes inline: some consumer keeps more frames than any queue holds."""
F_SEAL_FUTURE_WRITE = 0x10  # linux/fcntl.h; named in Python only from 3.12 on
REQUEST = struct.Struct("<q")  # slot number
REPLY = struct.Struct("<q")  # size in bytes, with the descriptor as ancillary data; 0: no such slot
BYTE = np.dtype(np.uint8)
IDLE_S = 10.0  # memory unused for one to two times as long is freed: frames of that size, or a burst, are over
FULL_S = 0.01  # how long to wait when no file descriptor is left for a new connection
TIMEOUT_S = 10.0  # how long a consumer waits for a descriptor; a separate thread of the sender's process replies


@lru_cache  # a stream has few sizes
def slot_size(nbytes: int) -> int:
    """Round up to a quarter of a power of two, in pages, so that similar sizes share slots."""
    step = max(mmap.PAGESIZE, 1 << max(0, (nbytes - 1).bit_length() - 3))
    return -(-nbytes // step) * step


class Slot:
    """One piece of shared memory of the sender."""

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self.size = size
        self.leases = 0  # of consumers, and of packets that are being published
        self.born: weakref.ref[NDArray[Any]] | None = None  # the array that was created in it
        self.fd = os.memfd_create(f"facegraph-{number}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.posix_fallocate(self.fd, 0, size)
            self.memory = mmap.mmap(self.fd, size, mmap.MAP_SHARED | mmap.MAP_POPULATE)
            _seal(self.fd)
        except OSError:
            os.close(self.fd)
            raise

    def close(self) -> None:
        """Free the memory once the last array in it is gone: arrays keep the mapping alive, so it is not closed."""
        os.close(self.fd)


def _seal(fd: int) -> None:
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals | F_SEAL_FUTURE_WRITE)
    except OSError:  # kernels before 5.1 lack F_SEAL_FUTURE_WRITE
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)


class SlotPool:
    """The slots of one sender process."""

    def __init__(self, limit: int = POOL_BYTES) -> None:
        self._limit = limit
        self._max_slots = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4  # two files each, half for the rest
        self._bytes = 0
        self._slots: dict[int, Slot] = {}
        self._free: dict[int, list[Slot]] = defaultdict(list)  # by size
        self._idle: dict[int, list[Slot]] = defaultdict(list)  # by size, free since before the last `tend`
        self._tend_at = 0.0
        self._by_array: dict[int, Slot] = {}  # by id of the array that was created in a slot
        self._numbers = itertools.count()  # never reused: consumers keep their mappings
        self._lock = threading.RLock()  # any thread may drop an array or release a lease

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return a writable array in a slot, or an ordinary one if the pool is exhausted."""
        slot = self._take(prod(shape) * dtype.itemsize)
        if slot is None:
            return np.empty(shape, dtype)
        array: NDArray[Any] = np.ndarray(shape, dtype, slot.memory)
        key = id(array)
        slot.born = weakref.ref(array, lambda _: self._array_died(key))
        self._by_array[key] = slot
        return array

    def find(self, array: NDArray[Any]) -> tuple[Slot, int] | None:
        """Return slot and byte offset of an array that lies contiguously in a slot of this pool; else None."""
        whole = array if id(array) in self._by_array else array.base
        slot = self._by_array.get(id(whole))
        if slot is None or not array.flags.c_contiguous:
            return None
        assert isinstance(whole, np.ndarray)
        if array.nbytes == whole.nbytes:
            return slot, 0
        return slot, array.ctypes.data - whole.ctypes.data

    def copy_in(self, array: NDArray[Any]) -> Slot | None:
        """Copy an array into a free slot and take one lease on it; return None if the pool is exhausted."""
        slot = self._take(array.nbytes)
        if slot is not None:
            slot.leases = 1
            np.copyto(np.frombuffer(slot.memory, array.dtype, array.size).reshape(array.shape), array)
        return slot

    def lease(self, number: int) -> None:
        """Take one more lease on a slot that is in use."""
        with self._lock:
            self._slots[number].leases += 1

    def release(self, number: int) -> None:
        """Release one lease. Raises WireError if the slot has none."""
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
        """Close slots that were not needed for IDLE_S; call this regularly."""
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
            free = self._free[size] or self._idle[size]
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
        return self._bytes + size > self._limit or len(self._slots) >= self._max_slots

    def _discard(self, free: dict[int, list[Slot]]) -> None:
        """Close free slots."""
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
        """Handle one of `sockets` that is readable; connections that open or close change `sockets`."""
        if fd == self._listener.fileno():
            self._accept()
            return
        connection = self.sockets[fd]
        try:
            request = connection.recv(REQUEST.size + 1)
            if len(request) != REQUEST.size:
                raise ConnectionError("closed, or not a slot number")
        except BlockingIOError:
            return
        except OSError:
            self._disconnect(connection)
            return
        slot_fd, size = self.pool.descriptor(REQUEST.unpack(request)[0])
        try:
            socket.send_fds(connection, [REPLY.pack(size)], [slot_fd] if size else [])
        except OSError:  # it is gone, or does not read the replies
            self._disconnect(connection)

    def _disconnect(self, connection: socket.socket) -> None:
        del self.sockets[connection.fileno()]
        connection.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # no file descriptor is left: the consumer has to wait
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

    The open connection also shows that the sender is alive.
    """

    def __init__(self, path: str, limit: int = POOL_BYTES) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(TIMEOUT_S)
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
        self.released: list[int] = []  # numbers of slots whose arrays are gone, to be sent to the sender

    def array(self, number: int, offset: int, shape: int | Sequence[int], dtype: np.dtype[Any] = BYTE) -> NDArray[Any]:
        """Return a read-only array in a slot; the slot is released when the array and all its views are gone."""
        memory = self._memories.get(number) or self._map(number)
        try:
            if offset < 0:
                raise ValueError("a negative offset, which numpy would accept")
            array: NDArray[Any] = np.ndarray(shape, dtype, memory, offset)
        except (TypeError, ValueError) as exc:
            wanted = f"{dtype}{brief(shape)} at byte {offset}"
            raise WireError(f"{wanted} of slot {number}, which has {len(memory)} bytes") from exc
        lease = weakref.ref(array, self._array_died)
        self._leased[id(lease)] = lease, number
        return array

    def _array_died(self, lease: "weakref.ref[NDArray[Any]]") -> None:
        self.released.append(self._leased.pop(id(lease))[1])

    def tend(self) -> None:
        """Drop mappings that were not needed for IDLE_S; each is unmapped when the last array in it is gone."""
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
        if size and not fds:  # this process has no file descriptor left for the one that was sent
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if not fds:
            raise WireError(f"the sender has no slot {number}")
        if sum(map(len, (self._memories | self._idle).values())) + size > self._limit:
            self._memories.clear()
            self._idle.clear()
        try:
            self._memories[number] = mmap.mmap(fds[0], size, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ)
        except ValueError as exc:
            raise WireError(f"slot {number} is smaller than its {size} bytes") from exc
        finally:
            os.close(fds[0])
        return self._memories[number]

    def alive(self) -> bool:
        """Say whether the sender's process still has its end of the connection open."""
        poller = select.poll()  # select.select cannot handle descriptors above 1023
        poller.register(self._socket, select.POLLIN)
        return not poller.poll(0)  # the sender only sends replies: readable means closed

    def close(self) -> None:
        """Close the connection; memory is unmapped when the last array in it is gone."""
        self._socket.close()
        self._memories.clear()
        self._idle.clear()
