"""Slots of shared memory in the sender: leases, sizes, and exhaustion."""

import mmap
import os
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graph import WireError, slots
from graph.slots import SlotPool, slot_size
from tests.pair import SHAPE, filled

pytestmark = pytest.mark.skipif(not slots.AVAILABLE, reason="needs memfd")

U8 = np.dtype(np.uint8)


@given(st.integers(1, 1 << 28))
def test_slot_size_wastes_at_most_a_quarter(nbytes: int) -> None:
    size = slot_size(nbytes)
    assert size % mmap.PAGESIZE == 0
    assert nbytes <= size < max(nbytes * 1.25, nbytes + mmap.PAGESIZE)


def test_a_slot_is_free_again_when_leases_and_array_are_gone(pool: SlotPool) -> None:
    array = pool.empty(SHAPE, U8)
    found = pool.find(array)
    assert found is not None
    slot, offset = found
    assert offset == 0 and slot.fd >= 0
    slot.leases += 1  # as by a packet
    pool.lease(slot.number)
    del array
    other = pool.empty(SHAPE, U8)
    assert pool.find(other) != (slot, 0)
    pool.release(slot.number)
    pool.release(slot.number)
    third = pool.empty(SHAPE, U8)
    assert pool.find(third) == (slot, 0)


def test_slot_of_an_array_that_is_kept_is_not_reused(pool: SlotPool) -> None:
    array = pool.empty(SHAPE, U8)
    found = pool.find(array)
    assert found is not None
    number = found[0].number
    found[0].leases = 1
    pool.release(number)
    array[:] = 7
    others = [pool.empty(SHAPE, U8) for _ in range(5)]
    for other in others:
        other[:] = 9
    assert (array == 7).all()


def test_views_are_found(pool: SlotPool) -> None:
    array = pool.empty((50, 30, 3), U8)
    found = pool.find(array[10:20])
    assert found is not None and found[1] == 10 * 90
    assert pool.find(array[:, ::2]) is None  # not contiguous: to be copied
    assert pool.find(np.zeros(SHAPE, np.uint8)) is None
    assert pool.find(array.copy()) is None


def test_arrays_in_slots_have_any_dtype_and_shape(pool: SlotPool) -> None:
    points = pool.empty((5, 68, 2), np.dtype(np.float32))
    points[:] = 1.5
    assert points.flags.c_contiguous and points.dtype == np.float32
    assert pool.empty((0, 68, 2), np.dtype(np.float32)).shape == (0, 68, 2)
    assert pool.empty((), np.dtype(np.int64)).shape == ()


@pytest.mark.parametrize("view", [np.s_[:], np.s_[::-1], np.s_[:, ::2], np.s_[:0]])
def test_copies_are_contiguous(pool: SlotPool, view: slice) -> None:
    array = np.arange(60 * 40, dtype=np.uint16).reshape(60, 40)[view]
    slot = pool.copy_in(array)
    if array.size == 0:
        assert slot is None
        return
    assert slot is not None
    assert bytes(slot.memory[: array.nbytes]) == array.tobytes()


def test_release_without_lease(pool: SlotPool) -> None:
    number = filled(pool, 1)
    pool.release(number)
    for wrong in (number, 99, -1):
        with pytest.raises(WireError, match=f"release of slot {wrong}, which is not leased"):
            pool.release(wrong)


def test_changing_sizes_share_slots_and_memory_stays_bounded() -> None:
    """Memory that a stream with changing picture sizes no longer needs is freed."""
    before = len(os.listdir("/proc/self/fd"))
    pool = SlotPool(limit=400_000)
    for step in (*range(200), *range(200)):
        number = filled(pool, step % 251, (100 + step, 100, 3))
        pool.release(number)
    assert pool._bytes == sum(slot.size for slot in pool._slots.values()) <= 400_000
    assert len(os.listdir("/proc/self/fd")) == before + 2 * len(pool._slots)  # each mapping has a descriptor of its own
    pool.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_slots_that_are_not_needed_any_more_are_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "IDLE_S", 0.0)
    pool = SlotPool()
    burst = [filled(pool, value) for value in range(5)]
    large = filled(pool, 0, (100, 100, 3))
    kept = pool.empty(SHAPE, U8)
    for number in (*burst, large):
        pool.release(number)
    for _ in range(3):  # from here on one slot is enough
        pool.tend()
        assert filled(pool, 1) == burst[-1]
        pool.release(burst[-1])
    found = pool.find(kept)
    assert found is not None and set(pool._slots) == {burst[-1], found[0].number}
    assert pool._bytes == sum(slot.size for slot in pool._slots.values())
    monkeypatch.setattr(slots, "IDLE_S", 1000.0)
    for _ in range(4):
        pool.tend()
    assert burst[-1] in pool._slots, "not before its time"
    pool.close()


def test_exhausted_pool_gives_ordinary_arrays() -> None:
    pool = SlotPool(limit=100_000)
    kept = [pool.empty((100, 100, 3), U8) for _ in range(6)]
    assert [pool.find(array) is not None for array in kept] == [True, True, True, False, False, False]
    assert pool.copy_in(kept[0]) is None
    for value, array in enumerate(kept):
        array[:] = value
    assert all((array == value).all() for value, array in enumerate(kept))
    kept.clear()
    del array
    assert pool.copy_in(np.zeros((100, 100, 3), np.uint8)) is not None
    pool.close()


def test_frames_that_are_kept_leave_half_of_the_file_descriptors(descriptors: Callable[[int], None]) -> None:
    descriptors(400)
    pool = SlotPool()
    before = len(os.listdir("/proc/self/fd"))
    kept = [pool.empty(SHAPE, U8) for _ in range(400)]
    assert sum(pool.find(array) is not None for array in kept) == 100
    assert len(os.listdir("/proc/self/fd")) <= before + 200
    kept.clear()
    assert filled(pool, 3, (100, 100, 3)) == 100  # of another size, in place of free ones
    pool.close()


def test_full_memory_falls_back_to_ordinary_arrays(monkeypatch: pytest.MonkeyPatch, pool: SlotPool) -> None:
    def full(fd: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "posix_fallocate", full)
    assert pool.copy_in(np.zeros(SHAPE, np.uint8)) is None
    assert pool.find(pool.empty(SHAPE, U8)) is None
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_pool_without_memfd_gives_ordinary_arrays(monkeypatch: pytest.MonkeyPatch, pool: SlotPool) -> None:
    monkeypatch.setattr(slots, "AVAILABLE", False)
    assert pool.copy_in(np.zeros(SHAPE, np.uint8)) is None
    assert pool.find(pool.empty(SHAPE, U8)) is None
