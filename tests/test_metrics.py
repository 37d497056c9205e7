import subprocess
import sys
import time
from threading import Thread

import msgpack
import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graph import wire
from graph.metrics import BATCH, BUCKETS, MAX_EDGES, TRACE_LIMIT, Histogram, Meter, short_ms, trace_rows

DURATIONS = st.lists(st.integers(0, 10**12), min_size=1, max_size=200)
OR_NONE = st.lists(st.integers(0, 10**12), max_size=200)


def histogram_of(values):
    histogram = Histogram()
    histogram.add_many(np.array(values, np.int64))
    return histogram


@given(DURATIONS, st.sampled_from([0, 1, 50, 90, 95, 99, 100]))
def test_percentile_is_off_by_at_most_a_sixtieth(values, p):
    exact = np.percentile(values, p, method="inverted_cdf")
    found = histogram_of(values).percentile(p)
    assert abs(found - exact) <= max(exact / 60, 16)
    assert min(values) <= found <= max(values)


@given(DURATIONS)
def test_count_mean_and_extremes_are_exact(values):
    histogram = histogram_of(values)
    assert histogram.count == len(values)
    assert histogram.mean == pytest.approx(np.mean(values))
    assert (histogram.min_ns, histogram.max_ns) == (min(values), max(values))


@given(OR_NONE, OR_NONE)
def test_merging_equals_adding_at_once(first, second):
    merged, added = histogram_of(first), histogram_of(first)
    merged.merge(histogram_of(second))
    added.add_many(np.array(second, np.int64))
    assert merged.to_wire() == added.to_wire() == histogram_of(first + second).to_wire()


@given(DURATIONS)
def test_wire_round_trip(values):
    wire = msgpack.unpackb(msgpack.packb(histogram_of(values).to_wire()))
    assert Histogram.from_wire(wire).to_wire() == histogram_of(values).to_wire()


def test_empty_and_out_of_range():
    empty = Histogram()
    empty.merge(Histogram())
    assert (empty.count, empty.mean, empty.percentile(99)) == (0, 0, 0)
    assert Histogram.from_wire(empty.to_wire()).count == 0
    extreme = histogram_of([-5, 10**16])
    assert extreme.counts[0] == 1
    assert extreme.counts[BUCKETS - 1] == 1


@pytest.mark.parametrize("bucket", [-1, BUCKETS])
def test_a_bucket_that_does_not_exist_is_refused(bucket):
    wire = histogram_of([1000]).to_wire() | {"buckets": [bucket, 1]}
    with pytest.raises(ValueError, match=r"bucket out of range 0\.\.991"):
        Histogram.from_wire(wire)


def give_frames(meter, count, first_seq=0):
    for seq in range(first_seq, first_seq + count):
        t = 10**9 + seq * 10_000_000
        meter.frame(seq, t, t + 1_000_000, t + 4_000_000, t + 4_500_000, t - 2_000_000)


def test_times_of_a_frame():
    meter = Meter(trace=False)
    give_frames(meter, 3)
    snapshot = meter.snapshot()
    totals = {name: times["total"] / 3e6 for name, times in snapshot["times"].items()}
    assert totals == {"wait": 1.0, "process": 3.0, "publish": 0.5, "age": 6.5}
    assert (snapshot["frames"], snapshot["last_seq"]) == (3, 2)
    assert snapshot["last_ns"] - snapshot["first_ns"] == 20_000_000 + 3_500_000
    assert "trace" not in snapshot
    assert msgpack.unpackb(msgpack.packb(snapshot)) == snapshot


def test_an_unknown_capture_gives_no_age():
    meter = Meter(trace=False)
    meter.frame(0, 10, 20, 30, 40, 0)
    times = meter.snapshot()["times"]
    assert Histogram.from_wire(times["process"]).count == 1
    assert Histogram.from_wire(times["age"]).count == 0


def test_counts_are_cumulative_and_the_trace_is_not():
    meter = Meter(trace=True)
    give_frames(meter, 2)
    first = meter.snapshot()
    assert trace_rows(first)[:, 0].tolist() == [0, 1]
    give_frames(meter, BATCH + 1, first_seq=2)
    snapshot = meter.snapshot()
    assert snapshot["first_ns"] == first["first_ns"]
    assert snapshot["frames"] == Histogram.from_wire(snapshot["times"]["wait"]).count == BATCH + 3
    rows = trace_rows(msgpack.unpackb(msgpack.packb(snapshot)))
    assert rows[:, 0].tolist() == list(range(2, BATCH + 3))
    assert rows[0].tolist() == [2, 1_020_000_000, 1_021_000_000, 1_024_000_000, 1_024_500_000]
    assert trace_rows(meter.snapshot()).shape == (0, 5)


def test_the_trace_is_bounded():
    meter = Meter(trace=True)
    give_frames(meter, TRACE_LIMIT + 100)
    snapshot = meter.snapshot()
    assert len(trace_rows(snapshot)) == TRACE_LIMIT
    assert len(wire.pack(snapshot)) < wire.MAX_HEADER
    assert snapshot["frames"] == TRACE_LIMIT + 100
    assert len(trace_rows(meter.snapshot())) == 0
    give_frames(meter, 5)
    assert len(trace_rows(meter.snapshot())) == 5


def test_drops_queues_and_unmatched():
    meter = Meter(trace=False)
    for waiting in (1, 3, 2):
        meter.queued("camera.frame -> slow.frame", waiting)
    meter.depths({"camera.frame -> slow.frame": 2})
    meter.drop("camera.frame -> slow.frame")
    meter.drop("camera.frame -> slow.frame", 4)
    meter.unmatched(2)
    meter.unmatched(3)
    snapshot = meter.snapshot()
    assert snapshot["dropped"] == {"camera.frame -> slow.frame": 5}
    assert snapshot["queued"] == {"camera.frame -> slow.frame": 2}
    assert snapshot["queue_peak"] == {"camera.frame -> slow.frame": 3}
    assert snapshot["unmatched"] == 5


def test_only_the_newest_disconnected_readers_are_kept():
    meter = Meter(trace=False)
    readers = [f"camera.frame -> reader{number}" for number in range(MAX_EDGES + 3)]
    for reader in readers:
        meter.drop(reader)
        meter.queued(reader, 1)
    meter.depths({readers[0]: 0})
    snapshot = meter.snapshot()
    assert [*snapshot["dropped"]] == [*snapshot["queue_peak"]] == [readers[0], *readers[3:]]


def test_time_in_states_adds_up():
    meter = Meter(trace=False)
    start = meter.snapshot()["time_ns"]
    meter.state("WAITING", start)
    meter.state("PROCESSING", start + 300)
    meter.state("WAITING", start + 1000)
    meter.state("BLOCKED", start + 1500)
    for snapshot in (meter.snapshot(), meter.snapshot()):
        blocked = max(snapshot["time_ns"] - start - 1500, 0)
        assert snapshot["state_ns"] == {"WAITING": 800, "PROCESSING": 700, "BLOCKED": blocked}
        assert snapshot["state"] == "BLOCKED"


def test_a_state_that_starts_after_the_snapshot_has_no_duration():
    meter = Meter(trace=False)
    meter.state("WAITING", meter.snapshot()["time_ns"] + 3600 * 10**9)
    assert meter.snapshot()["state_ns"] == {"WAITING": 0}


def test_the_process_is_measured():
    began = time.process_time()
    meter = Meter(trace=False)
    before = meter.snapshot()["cpu_s"]
    sum(range(200_000))
    snapshot = meter.snapshot()
    assert before < snapshot["cpu_s"] <= time.process_time() - began
    resident = psutil.Process().memory_info().rss
    assert snapshot["rss_bytes"] == pytest.approx(resident, rel=0.2) or sys.platform != "linux"


def test_snapshots_from_another_thread_lose_nothing():
    meter = Meter(trace=True)
    rows = []
    worker = Thread(target=give_frames, args=(meter, 5_000))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # seconds: switch threads in the middle of a frame
    try:
        worker.start()
        while worker.is_alive():
            rows += trace_rows(meter.snapshot())[:, 0].tolist()
        worker.join()
    finally:
        sys.setswitchinterval(interval)
    final = meter.snapshot()
    assert rows + trace_rows(final)[:, 0].tolist() == list(range(5_000))
    assert final["frames"] == Histogram.from_wire(final["times"]["age"]).count == 5_000


def test_milliseconds_have_three_digits():
    expected = {0.0: "0.00", 0.044: "0.04", 9.999: "10.0", 31.44: "31.4", 99.96: "100", 314.2: "314"}
    assert {ms: short_ms(ms) for ms in expected} == expected


def test_importing_it_is_light():
    """It is imported in the process of every node."""
    code = "import graph.metrics, sys; print(sorted({'rich', 'matplotlib', 'pydantic', 'psutil'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
