"""The metrics for Prometheus, read with its own parser."""

import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from graph import ConfigError
from graph.metrics import Meter
from graph.profile import Profile
from graph.prometheus import Endpoint
from graph.spec import EdgeSpec, GraphSpec, NodeSpec

MS = 10**6
NODES = {name: NodeSpec(name, f"tests.toys:{name}") for name in "ab"}
READER = 'a.x -> he said "x"\\\n'  # readers choose their own names


@pytest.fixture(scope="module")
def states() -> dict[str, str]:
    return {"a": "PLAYING", "b": "PLAYING"}


@pytest.fixture(scope="module")
def endpoint(states: dict[str, str]) -> Iterator[Endpoint]:
    profile, meter = Profile(GraphSpec("g", None, NODES, (EdgeSpec("a.x", "b.x"),), "g.yaml")), Meter(trace=False)
    meter.frame(0, MS, 3 * MS, 10 * MS, 3000 * MS, MS)
    meter.drop(READER, 2)
    profile.take("a", meter.snapshot())
    profile.take("b", Meter(trace=False).snapshot())
    served = Endpoint(0, profile, lambda: states)
    yield served
    served.close()


def scraped(endpoint: Endpoint) -> dict[tuple[str, ...], float]:
    """Return every number by its name and the values of its labels, except the graph."""
    with urllib.request.urlopen(endpoint.address, timeout=60) as answer:
        families = [*text_string_to_metric_families(answer.read().decode())]
    samples = [sample for family in families for sample in family.samples]
    assert {sample.labels.pop("graph") for sample in samples} == {"g"}
    return {(sample.name, *sample.labels.values()): sample.value for sample in samples}


def test_times_are_seconds_in_cumulative_buckets(endpoint: Endpoint) -> None:
    found = scraped(endpoint)
    assert found["facegraph_process_seconds_sum", "a"] == pytest.approx(0.007)
    bounds = {bound: found["facegraph_process_seconds_bucket", bound, "a"] for bound in ("0.005", "0.01", "+Inf")}
    assert bounds == {"0.005": 0, "0.01": 1, "+Inf": 1}
    assert found["facegraph_publish_seconds_bucket", "2.5", "a"] == 0
    assert found["facegraph_publish_seconds_bucket", "+Inf", "a"] == 1


def test_a_reader_may_have_any_name(endpoint: Endpoint) -> None:
    assert scraped(endpoint)["facegraph_dropped_total", READER] == 2


def test_a_node_without_a_process_has_no_memory(
    endpoint: Endpoint, states: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(states, "b", "DONE")
    found = scraped(endpoint)
    assert found["facegraph_resident_memory_bytes", "a"] > 10**6
    assert ("facegraph_resident_memory_bytes", "b") not in found
    assert found["facegraph_state", "b", "DONE"] == 1


def test_a_port_in_use_is_an_error(endpoint: Endpoint) -> None:
    port = int(endpoint.address.rpartition(":")[2].partition("/")[0])
    with pytest.raises(ConfigError, match=f"--metrics {port}: cannot listen on 127.0.0.1:{port}: Address already"):
        Endpoint(port, Profile(GraphSpec("h", None, NODES, (), "h.yaml")), dict)
