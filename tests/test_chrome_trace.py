"""The trace of a run, read as Perfetto reads it."""

import json
from collections import defaultdict
from itertools import pairwise

from graph import chrome_trace
from graph.profile import TRACE_FRAMES, Profile
from tests.test_profile import MS, T0, graph_spec, meters, played, take


def replay(events):
    """Import a trace as Perfetto does; return the slices by track, and (edge, slice left, slice entered)."""
    processes_of_thread = defaultdict(set)
    for event in events:
        processes_of_thread[event["tid"]].add(event["pid"])
    assert all(len(pids) == 1 for pids in processes_of_thread.values())  # thread ids are global
    open_slices, slices, left, flows = defaultdict(list), defaultdict(list), {}, []
    for event in sorted((e for e in events if e["ph"] != "M"), key=lambda e: e["ts"]):
        track = open_slices[event["tid"]]
        if event["ph"] == "X":
            while track and track[-1]["ts"] + track[-1]["dur"] <= event["ts"]:
                track.pop()
            assert not track, f"{event} overlaps {track[-1]}"
            track.append(event)
            slices[event["pid"]].append(event)
            continue
        enclosing = track[-1]
        assert enclosing["ts"] <= event["ts"] <= enclosing["ts"] + enclosing["dur"]
        key = (event["id"], event["cat"], event["name"])
        if event["ph"] == "s":
            assert key not in left
            left[key] = enclosing["name"]
        else:
            assert event["ph"] == "f" and event["bp"] == "e"
            flows.append((event["name"], left.pop(key), enclosing["name"]))
    assert not left, "arrows that end nowhere"
    return slices, flows


def names_of(events):
    return {e["pid"]: e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "process_name"}


def test_trace_has_every_part_of_every_frame_and_follows_it():
    events = list(chrome_trace.events(played(frames=20)))
    slices, flows = replay(events)
    by_name = {name: slices[pid] for pid, name in names_of(events).items()}
    camera = [(e["name"], e["ts"], e["dur"]) for e in by_name["camera"][:2]]
    assert camera == [("process 0", 0, 3000), ("publish 0", 3000, 1000)]
    assert {e["name"]: e["dur"] for e in by_name["slow"]}["wait 19"] == 3000
    for edge in ("camera.frame -> slow.frame", "camera.frame -> window.frame"):
        followed = [flow[1:] for flow in flows if flow[0] == edge]
        assert followed == [(f"publish {seq}", f"process {seq}") for seq in range(20)]
    assert ("slow.faces -> window.faces", "process 3", "process 3") in flows  # publishing took no time
    assert not [flow for flow in flows if flow[0] == "camera.frame -> logger.frame"]  # hold
    assert len({event["id"] for event in events if event["ph"] == "s"}) == len(flows)


def test_processes_have_names_and_classes_in_flow_order():
    said = defaultdict(list)
    for event in chrome_trace.events(played(frames=1)):
        if event["ph"] == "M":
            said[event["name"]].append(next(iter(event["args"].values())))
    assert said["process_name"][0] == "camera" and said["process_name"][-1] == "window"
    assert said["process_labels"] == [f"nodes.{name}:Node" for name in said["process_name"]]
    assert said["process_sort_index"] == sorted(said["process_sort_index"])
    assert said["thread_name"].count("process") == len(said["process_name"]) == 4


def test_an_arrow_starts_before_it_ends_while_publishing_continues():
    profile, all_meters = Profile(graph_spec()), meters()
    all_meters["camera"].frame(0, T0, T0, T0 + MS, T0 + 5 * MS, T0)
    all_meters["slow"].frame(0, T0 + MS, T0 + MS, T0 + 2 * MS, T0 + 2 * MS, T0)
    take(profile, all_meters)
    assert replay(list(chrome_trace.events(profile)))[1] == [("camera.frame -> slow.frame", "publish 0", "process 0")]


def test_frames_that_wait_together_have_separate_tracks():
    profile, all_meters = Profile(graph_spec()), meters()
    for seq in range(chrome_trace.TRACKS + 9):  # all arrive at once, more than there are tracks
        all_meters["slow"].frame(seq, T0, T0 + seq * MS, T0 + (seq + 1) * MS, T0 + (seq + 1) * MS, T0)
    take(profile, all_meters)
    events = list(chrome_trace.events(profile))
    slices, flows = replay(events)
    waits = [e for group in slices.values() for e in group if e["cat"] == "wait"]
    assert [e["dur"] for e in waits] == [1000 * (1 + place) for place in range(chrome_trace.TRACKS - 1)]
    assert {e["tid"] - e["pid"] for e in waits} == {*range(1, chrome_trace.TRACKS)}
    assert flows == []


def test_slices_with_fractional_microseconds_do_not_overlap():
    profile, all_meters = Profile(graph_spec()), meters()
    times = [T0 + 1001 * index + index * index % 7 for index in range(400)]
    for seq, (start, end) in enumerate(pairwise(times)):
        all_meters["camera"].frame(seq, start, start, (start + end) // 2, end, start)
        all_meters["slow"].frame(seq, end, end, end, end, start)
    take(profile, all_meters)
    _, flows = replay(list(chrome_trace.events(profile)))
    assert len(flows) == 399
    assert all(left.split()[1] == entered.split()[1] for _, left, entered in flows)


def test_the_trace_says_how_many_frames_it_leaves_out(tmp_path):
    profile, all_meters = Profile(graph_spec()), meters()
    for start in range(0, 4 * TRACE_FRAMES, 1000):
        for seq in range(start, start + 1000):
            t = T0 + seq * 1000
            all_meters["slow"].frame(seq, t, t, t + 500, t + 500, t)
        take(profile, all_meters)
    path = tmp_path / "trace.json"
    chrome_trace.write(profile, path)
    assert json.loads(path.read_text())["otherData"]["frames_left_out"]["slow"] == 3 * TRACE_FRAMES
