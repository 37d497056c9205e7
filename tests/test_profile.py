import json
from itertools import combinations, pairwise

import msgpack
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from matplotlib.text import Text
from rich.console import Console

from graph import chrome_trace, latency_plot
from graph.metrics import Meter
from graph.profile import TRACE_FRAMES, Profile, format_report
from graph.spec import EdgeSpec, GraphSpec, NodeSpec

MS = 1_000_000
T0 = 5 * 10**12
EDGES = (
    EdgeSpec("camera.frame", "slow.frame", policy="latest", queue=1),
    EdgeSpec("camera.frame", "window.frame"),
    EdgeSpec("slow.faces", "window.faces"),
    EdgeSpec("camera.frame", "logger.frame", join="hold"),
)


def graph_spec(edges=EDGES):
    names = ("window", "slow", "logger", "camera")  # not in flow order
    return GraphSpec("webcam", None, {name: NodeSpec(name, f"nodes.{name}:Node") for name in names}, edges, "x.yaml")


def meters(trace=True):
    return {name: Meter(trace) for name in ("camera", "slow", "window", "logger")}


def work(meter, seq, ready, start, end, published, captured):
    meter.state("PROCESSING", start)
    meter.frame(seq, ready, start, end, published, captured)
    meter.state("WAITING", published)


def play(meters, frames=50, first=0):
    """Every frame: captured, 1 ms to publish, slow takes 6 ms (3 ms after the capture), window 1 ms."""
    for seq in range(first, first + frames):
        t = T0 + seq * 10 * MS
        meters["camera"].frame(seq, t - 3 * MS, t - 3 * MS, t, t + MS, t)
        work(meters["slow"], seq, t, t + 3 * MS, t + 9 * MS, t + 9 * MS, t)
        meters["window"].frame(seq, t + 9 * MS, t + 9 * MS, t + 10 * MS, t + 10 * MS, t)
        meters["logger"].frame(seq, t + MS, t + MS, t + 2 * MS, t + 2 * MS, t)


def played(trace=True, **options):
    profile, all_meters = Profile(graph_spec()), meters(trace)
    take(profile, all_meters)
    play(all_meters, **options)
    take(profile, all_meters)
    return profile


def take(profile, all_meters):
    for name, meter in all_meters.items():
        profile.take(name, msgpack.unpackb(msgpack.packb(meter.snapshot())))


def shown(profile, width=120):
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(format_report(profile, width))
    return capture.get()


def row(text, name):
    return next(line for line in text.splitlines() if line.split()[:1] == [name]).split()


def test_nodes_are_in_flow_order():
    order = graph_spec().flow_order()
    assert sorted(order) == ["camera", "logger", "slow", "window"]
    assert order.index("camera") < order.index("slow") < order.index("window")


def test_edges_from_another_graph_are_ignored():
    edges = (EdgeSpec("other/smooth.faces", "window.faces"),)
    profile = Profile(graph_spec(edges))
    take(profile, all_meters := meters())
    play(all_meters)
    take(profile, all_meters)
    assert not [event for event in chrome_trace.events(profile) if event["ph"] in "sf"]
    assert not [edge for edge in profile.edges() if edge.startswith("other/")]  # that graph counts them
    assert row(shown(profile), "window")[-1] == "-"


def test_report_without_measurements():
    text = shown(Profile(graph_spec()))
    assert row(text, "slow") == ["slow", "0", "0.0", "-", "-", "-", "0", "0", "0"]
    assert "restarts" not in text and "unmatched" not in text
    assert "capture ->" not in text and "busiest" not in text, "no frame has arrived"


def test_report_has_the_latency_of_each_sink_and_the_busiest_node():
    text = shown(played(), width=80)
    assert "capture -> window: p50 10.0 ms, p95 10.0 ms, p99 10.0 ms" in text
    assert "capture -> logger: p50 2.0 ms" in text
    assert "capture -> slow" not in text
    assert "busiest node: slow, 60 % of the time" in text
    assert "dropped " not in text.replace("dropped\n", "").split("capture")[1]
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("width", [24, 40, 60, 100])
def test_a_narrow_terminal_gets_fewer_columns_and_whole_names(width):
    names = ("second_reader_of_the_camera", "second_reader") if width > 40 else ("camera", "logger")
    spec = GraphSpec("g", None, {name: NodeSpec(name, "nodes.x:Node") for name in names}, (), "x.yaml")
    text = shown(Profile(spec), width)
    assert all(row(text, name)[:2] == [name, "0"] for name in names)
    assert "\u2026" not in text
    assert ("wait ms" in text) == (width == 100)


def test_shortened_names_stay_distinct():
    first, second = (latency_plot._short(f"the_name_of_a_node_with_number_{number}") for number in (1, 2))
    assert first != second and len(first) == len(second) == latency_plot.LABEL_LETTERS


def test_the_busiest_node_is_no_source_whose_frames_are_dropped():
    all_meters = meters()
    for seq in range(20):
        t = T0 + seq * 30 * MS
        work(all_meters["camera"], seq, t - 29 * MS, t - 29 * MS, t, t, t)
        work(all_meters["slow"], seq, t, t, t + 6 * MS, t + 6 * MS, t)
    profile = Profile(graph_spec((EdgeSpec("camera.frame", "slow.frame", "latest", 1),)))
    take(profile, all_meters)
    assert profile.busiest().name == "camera"
    all_meters["camera"].drop("camera.frame -> viewer.frame")  # an attached reader
    take(profile, all_meters)
    assert profile.busiest().name == "camera"
    all_meters["camera"].drop("camera.frame -> slow.frame")
    take(profile, all_meters)
    assert profile.busiest().name == "slow", "the file is faster than slow"


def test_the_busiest_node_may_be_one_whose_output_is_dropped():
    profile, all_meters = Profile(graph_spec()), meters()
    play(all_meters)
    all_meters["slow"].drop("slow.faces -> window.faces")
    take(profile, all_meters)
    assert profile.busiest().name == "slow"


def test_busy_is_at_most_100_percent():
    profile, meter = Profile(graph_spec()), Meter(trace=False)
    work(meter, 0, T0, T0, T0 + MS, T0 + MS, T0)
    meter.state("PROCESSING", T0 + MS)
    meter.state("DRAINING", T0 + 9 * MS)
    profile.take("slow", meter.snapshot())
    assert profile.busy_percent(profile.nodes["slow"]) == 100


def test_publishing_is_busy_and_being_blocked_is_not():
    meter = Meter(trace=False)
    for t in range(T0, T0 + 1000 * MS, 10 * MS):  # 1 ms in process(), 2 ms held up, 5 ms of copying
        meter.state("PROCESSING", t)
        meter.state("BLOCKED", t + MS)
        meter.state("PROCESSING", t + 3 * MS)
        meter.frame(0, t, t, t + MS, t + 8 * MS, t)
        meter.state("WAITING", t + 8 * MS)
    profile = Profile(graph_spec())
    profile.take("slow", meter.snapshot())
    assert profile.summary()["nodes"]["slow"]["busy_percent"] == pytest.approx(60, abs=0.2)
    assert row(shown(profile), "slow")[2:9] == ["100.2", "1.00", "/", "1.00", "0.00", "7.00", "60"]


def test_drops_are_counted_for_the_receiver():
    profile, all_meters = Profile(graph_spec()), meters()
    play(all_meters)
    all_meters["camera"].drop("camera.frame -> slow.frame", 7)
    all_meters["camera"].drop("camera.frame -> viewer.frame", 2)  # an attached reader
    all_meters["camera"].queued("camera.frame -> reader.frame", 4)  # another one
    take(profile, all_meters)
    assert row(shown(profile), "slow")[-1] == "7"
    assert row(shown(profile), "camera")[-1] == "0"
    all_meters["logger"].drop("logger.x -> viewer.x", 9)
    take(profile, all_meters)
    told = [line for line in shown(profile).splitlines() if line.startswith("dropped ")]
    edges = ("logger.x -> viewer.x", "camera.frame -> slow.frame", "camera.frame -> viewer.frame")
    assert told == [f"dropped {count} on {edge}" for count, edge in zip((9, 7, 2), edges, strict=True)]
    assert "unmatched" not in shown(profile)
    edges = profile.summary()["edges"]
    assert edges["camera.frame -> slow.frame"] == {"dropped": 7, "queue_peak": 0}
    assert edges["camera.frame -> viewer.frame"] == {"dropped": 2, "queue_peak": 0}
    assert edges["camera.frame -> reader.frame"] == {"dropped": 0, "queue_peak": 4}
    assert edges["slow.faces -> window.faces"]["dropped"] == 0


def test_unmatched_inputs_are_reported():
    profile, all_meters = Profile(graph_spec()), meters()
    play(all_meters)
    all_meters["slow"].unmatched(3)
    take(profile, all_meters)
    assert "unmatched 3 inputs of slow: another input of the same frame never arrived" in shown(profile)
    assert profile.summary()["nodes"]["slow"]["unmatched"] == 3


def test_a_restarted_node_keeps_what_its_first_process_measured():
    profile, first = Profile(graph_spec()), meters()
    play(first, frames=10)
    first["slow"].drop("slow.faces -> window.faces", 1)
    first["slow"].queued("slow.faces -> window.faces", 3)
    first["slow"].unmatched(4)
    take(profile, first)
    take(profile, first)
    second = meters()
    play(second, frames=5, first=30)
    second["slow"].drop("slow.faces -> window.faces", 2)
    second["slow"].queued("slow.faces -> window.faces", 2)
    second["slow"].unmatched(5)
    profile.nodes["slow"].restarts += 1
    profile.take("slow", second["slow"].snapshot())
    third = meters()["slow"].snapshot() | {"rss_bytes": 7_000_000, "cpu_s": 0.0}  # without frames
    profile.take("slow", third)
    node = profile.nodes["slow"]
    assert profile.edges()["slow.faces -> window.faces"]["queue_peak"] == 3
    assert (node.rss_mb, node.unmatched) == (7.0, 9)
    assert node.cpu_s > third["cpu_s"], "the time of all processes"
    assert (node.frames, node.restarts, node.times("process").count) == (15, 1, 15)
    assert profile.dropped()["slow.faces -> window.faces"] == 3
    assert (profile.duration_s, profile.fps(node)) == (pytest.approx(0.352), pytest.approx(15 / 0.352))
    assert "restarts of slow: 1" in shown(profile)
    assert profile.summary()["nodes"]["slow"]["restarts"] == 1


def test_only_the_newest_frames_are_traced():
    profile, meter, half = Profile(graph_spec()), Meter(trace=True), TRACE_FRAMES // 2
    for seq in range(8 * half):
        meter.frame(seq, T0, T0, T0, T0, T0)
        if seq % half == half - 1:
            profile.take("camera", meter.snapshot())
    node = profile.nodes["camera"]
    assert node.trace()[:, 0].tolist() == [*range(6 * half, 8 * half)]
    assert sum(map(len, node._trace)) < 2 * TRACE_FRAMES


def test_cpu_counts_from_when_the_node_was_ready():
    def snapshot(seconds, cpu_s, frames):
        return Meter(trace=False).snapshot() | {
            "started_ns": T0,
            "time_ns": T0 + seconds * 10**9,
            "cpu_s": cpu_s,
            "frames": frames,
        }

    profile = Profile(graph_spec())
    for values in ((2, 1.9, 0), (4, 2.0, 0), (6, 2.5, 20), (8, 3.0, 40)):
        profile.take("slow", snapshot(*values))
    assert profile.nodes["slow"].cpu_percent == pytest.approx(25)  # without the 1.9 s of loading a model


def test_rates_and_shares_refer_to_the_whole_run():
    """A node that processes its only frame fast has neither thousands of fps nor 100 % busy."""
    profile, all_meters = Profile(graph_spec()), meters()
    play(all_meters, frames=1)
    take(profile, all_meters)
    found = profile.summary()
    assert found["duration_s"] == pytest.approx(0.013)
    assert {node["fps"] for node in found["nodes"].values()} == {76.92}
    assert profile.busiest().name == "slow"
    assert found["nodes"]["slow"]["busy_percent"] == pytest.approx(46.2)


def test_summary():
    summary = json.loads(json.dumps(played().summary()))
    assert (summary["format"], summary["graph"]) == (2, "webcam")
    assert summary["duration_s"] == pytest.approx(0.5, abs=0.01)
    assert summary["capture_to_sink"]["window"]["p95"] == pytest.approx(10, rel=0.02)
    slow = summary["nodes"]["slow"]
    assert slow["fps"] == pytest.approx(100, rel=0.01)
    for name, expected in {"wait_ms": 3, "process_ms": 6, "publish_ms": 0, "age_ms": 9}.items():
        assert slow[name]["mean"] == slow[name]["max"] == pytest.approx(expected)
    assert summary["machine"]["cores"] >= 1


def test_times_of_a_node_in_numbers():
    profile, meter = Profile(graph_spec()), Meter(trace=False)
    for seq in range(100):
        end = T0 + (1 if seq < 90 else 3 if seq < 97 else 5 if seq < 99 else 8) * MS
        meter.frame(seq, T0, T0, end, end, T0)
    profile.take("slow", meter.snapshot())
    found = profile.summary()["nodes"]["slow"]["process_ms"]
    assert found == pytest.approx({"p50": 1, "p95": 3, "p99": 5, "mean": 1.29, "max": 8}, rel=1 / 60)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return played().write(tmp_path_factory.mktemp("profile") / "deep" / "profile")


def test_write(written):
    assert [path.name for path in written] == ["latency.json", "latency.png", "trace.json"]
    assert sorted(path.name for path in written[0].parent.iterdir()) == sorted(path.name for path in written)
    assert json.loads(written[0].read_text())["graph"] == "webcam"
    assert len(json.loads(written[2].read_text())["traceEvents"]) > 500


@pytest.fixture
def undrawn(monkeypatch):
    """Skip drawing the picture, which takes ten times as long as the rest."""
    monkeypatch.setattr(latency_plot, "draw", lambda profile, path: path.write_bytes(b"picture"))


def test_without_trace_there_is_no_trace_file(tmp_path, undrawn):
    (tmp_path / "trace.json").touch()
    assert [path.name for path in played(trace=False).write(tmp_path)] == ["latency.json", "latency.png"]
    assert not (tmp_path / "trace.json").exists(), "it was of the previous run"


def test_a_failed_write_keeps_the_old_files(tmp_path, monkeypatch, undrawn):
    before = {name: name.encode() for name in ("latency.json", "latency.png", "trace.json")}
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)

    def fail(profile, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(chrome_trace, "write", fail)
    with pytest.raises(OSError, match="disk full"):
        played(frames=5).write(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def columns_of(picture, colour):
    """Return the columns of the picture with a bar of this colour (in the axes, not in the legend)."""
    below_legend = picture[150:, :850, :3]
    matches = abs(below_legend - to_rgb(colour)).max(axis=2) < 0.01
    return [int(column) for column in matches.sum(axis=0).nonzero()[0]]


def test_the_picture_shows_the_parts_to_scale(written):
    picture = imread(written[1])
    publish = len(columns_of(picture, latency_plot.COLOURS["publish"]))  # 1 ms, of the camera
    wait = len(columns_of(picture, latency_plot.COLOURS["wait"]))  # 3 ms, of slow
    way = columns_of(picture, latency_plot.SINK)
    assert wait == pytest.approx(3 * publish, abs=4)
    assert max(way) - min(columns_of(picture, latency_plot.COLOURS["publish"])) == pytest.approx(10 * publish, rel=0.1)


def test_a_long_wait_before_the_capture_gets_at_most_a_quarter_of_the_picture():
    def limits(wait_ms):
        meter, profile = Meter(trace=False), Profile(graph_spec())
        meter.frame(0, T0 - wait_ms * MS, T0, T0 + 9 * MS, T0 + 9 * MS, T0)
        profile.take("camera", meter.snapshot())
        return latency_plot.figure_of(profile).axes[0].get_xlim()

    (left, right), (left_of_long, right_of_long) = limits(2), limits(200)
    assert -2.5 < left <= -2 and right > 9
    assert right_of_long == right and left_of_long == pytest.approx(-right / 3)


@pytest.mark.parametrize("frames", [0, 200_000])
def test_texts_of_the_picture_neither_overlap_nor_are_cut_off(frames):
    """Many nodes with long names, and a day's frames dropped before each of them."""
    names = [f"the_longest_name_of_a_node_anywhere_{number:02}" for number in range(15)]
    edges = tuple(EdgeSpec(f"{a}.x", f"{b}.x") for a, b in pairwise(names))
    profile = Profile(GraphSpec("g" * 40, None, {name: NodeSpec(name, "x:X") for name in names}, edges, "x.yaml"))
    for name in names:
        meter = Meter(trace=False)
        if frames:
            meter.frame(0, T0, T0 + 1234 * MS, T0 + 2468 * MS, T0 + 4000 * MS, T0)
            meter.drop(next((edge.name for edge in edges if edge.source_node == name), ""), 30 * frames)
        profile.take(name, meter.snapshot() | {"frames": frames})
    figure = latency_plot.figure_of(profile)
    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    boxes = {text.get_text() + str(text.get_position()): text.get_window_extent() for text in texts}
    assert [name for name, box in boxes.items() if box.x0 < 0 or box.x1 > figure.bbox.x1 or box.y0 < 0] == []
    assert [pair for pair in combinations(boxes, 2) if boxes[pair[0]].overlaps(boxes[pair[1]])] == []


@pytest.mark.parametrize("frames", [0, 1])
def test_the_picture_of_at_most_one_frame(tmp_path, frames):
    played(frames=frames).write(tmp_path)
    assert imread(tmp_path / "latency.png").shape[1] == 1400
