"""Run a hop, or any graph, through this project's runtime."""

import contextlib
import io
import json
import tempfile
from pathlib import Path

from graph.profile import Profile
from graph.reports import Wanted
from graph.spec import EdgeSpec, GraphSpec, NodeSpec
from graph.supervisor import Supervisor
from tests.bench._traffic import Plan


def hop_spec(plan: Plan, copy: bool, folder: Path, queue: int = 4) -> GraphSpec:
    """Return a graph of a sender and a receiver, connected by a `block` edge."""
    sent = {"plan": plan.settings(), "copy": copy, "report": str(folder / "sent.json")}
    received = {"plan": plan.settings(), "report": str(folder / "received.json")}
    nodes = {
        "sender": NodeSpec("sender", "tests.bench._nodes:Sender", sent),
        "receiver": NodeSpec("receiver", "tests.bench._nodes:Receiver", received),
    }
    edges = (EdgeSpec("sender.frame", "receiver.frame", policy="block", queue=queue),)
    return GraphSpec(f"hop-{folder.name}", None, nodes, edges, "made in code")


def run_quietly(spec: GraphSpec, folder: Path | None = None, duration: float | None = None) -> Profile:
    """Run a graph without its report, and write a profile if there is a folder; return the profile.

    Raises RuntimeError if the graph fails.
    """
    running = Supervisor(spec, duration, "WARNING", Wanted(profile=folder))
    with contextlib.redirect_stdout(io.StringIO()):
        code = running.run()
    if code:
        raise RuntimeError(f"the graph {spec.name} failed with exit code {code}")
    return running.reports.profile


def measure(plan: Plan, copy: bool, queue: int = 4, profile: bool = False) -> dict[str, float]:
    """Run a hop and return the results of both ends."""
    with tempfile.TemporaryDirectory(prefix="fg") as name:
        folder = Path(name)
        run_quietly(hop_spec(plan, copy, folder, queue), folder / "profile" if profile else None)
        return received(folder)


def received(folder: Path) -> dict[str, float]:
    """Return what both ends of a hop wrote into `folder`."""
    result: dict[str, float] = {}
    for name in ("sent.json", "received.json"):
        result |= json.loads((folder / name).read_text(encoding="utf-8"))
    return result
