"""One message in transit to the consumers of an output."""

from typing import Any

from graph import wire
from graph.messages import Header, Mark, Message
from graph.slots import SlotPool

INLINE_BELOW = 8192
"""Bytes up to which an array is sent inside the packet: so small a copy costs less than a lease (it fits the landmarks
of a dozen faces; other systems use 4 KiB)."""


class Packet:
    """One message for several consumers, encoded once with shared memory and once inline, as they need it."""

    __slots__ = ("_arrays", "_header", "_message", "_parts", "_pool", "is_mark", "slots")

    def __init__(self, message: Message, header: Header, pool: SlotPool) -> None:
        self._message = message
        self._header = header
        self._pool = pool
        self._arrays = wire.arrays_of(message)
        self._parts: dict[bool, list[bytes]] = {}
        self.slots: list[int] = []
        self.is_mark = isinstance(message, Mark)

    def parts(self, shm: bool) -> list[bytes]:
        """Return header and inline buffers."""
        if shm not in self._parts:
            self._parts[shm] = self._encode(shm)
        return self._parts[shm]

    def _encode(self, shm: bool) -> list[bytes]:
        places: list[wire.Place] = []
        buffers: list[bytes] = []
        for array in self._arrays.values():
            place = self._place(array) if shm and array.nbytes > INLINE_BELOW else None
            if place is None:
                buffers.append(array.tobytes())
            places.append(place or array.nbytes)
        return [wire.encode(self._message, self._header, self._arrays, places), *buffers]

    def _place(self, array: Any) -> tuple[int, int, int] | None:
        """Find the array in a slot or copy it into one; this packet holds a lease on the slot until `release`."""
        found = self._pool.find(array)
        if found is not None:
            slot, offset = found
            self._pool.lease(slot.number)
            array.flags.writeable = False
        else:
            copied = self._pool.copy_in(array)
            if copied is None:
                return None
            slot, offset = copied, 0
        self.slots.append(slot.number)
        return slot.number, offset, array.nbytes

    def release(self) -> None:
        """Release this packet's own leases, once every consumer that gets it has its own."""
        for number in self.slots:
            self._pool.release(number)
