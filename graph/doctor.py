"""What this machine can do, for a user whose graph does not work: `run_graph.py doctor [CONFIG]`.

The runtime looks at what it needs itself (graph.machine); what the nodes need they know themselves (Node.check).
Each of their modules is looked at in a process of its own: a library that crashes or hangs is then a finding.
"""

import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from graph import machine
from graph.errors import ConfigError
from graph.finding import Finding
from graph.passwords import redact
from graph.spec import GraphSpec, NodeSpec, build, import_module, node_classes

PATIENCE_S = 90.0  # for the checks of one module; torch alone may take ten seconds to load
CHILD = (
    "import os, sys; sys.path[:] = os.environ['FACEGRAPH_PATH'].split(os.pathsep); "
    "from graph.doctor import check_module; check_module()"
)
_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}

Findings = list[tuple[str, Finding]]  # with the heading that each belongs under


def examine(package: str, spec: GraphSpec | None) -> Findings:
    """Look at the machine, and at what the nodes of `spec` need, else at what all nodes of `package` might."""
    if spec is None:
        modules = [info.name for info in pkgutil.iter_modules(importlib.import_module(package).__path__)]
        asked = [NodeSpec("", f"{package}.{name}") for name in modules if not name.startswith("_")]
    else:
        asked = list(spec.nodes.values())
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        looks = pool.map(_look_at, asked)
        found = list(machine.look())
        return [*found, *_once(finding for look in looks for finding in look)]


def _once(findings: Iterable[tuple[str, Finding]]) -> Iterator[tuple[str, Finding]]:
    """Leave out what two nodes say in the same words."""
    said: set[Finding] = set()
    for heading, finding in findings:
        if finding not in said:
            said.add(finding)
            yield heading, finding


def _look_at(node: NodeSpec) -> Findings:
    """Have one node of a graph, or (without a name) all classes of a module, checked in a process of its own."""
    heading = node.name or node.type
    path = os.pathsep.join([str(machine.ROOT), *sys.path])
    asked = json.dumps({"name": node.name, "type": node.type, "settings": dict(node.settings)})
    try:
        done = subprocess.run(
            [sys.executable, "-c", CHILD],
            input=asked,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env={**os.environ, "FACEGRAPH_PATH": path},
        )
    except subprocess.TimeoutExpired:
        return [(heading, Finding("check", "problem", f"hangs: no answer in {PATIENCE_S:.0f} s"))]
    if done.returncode:
        return [(heading, Finding("check", "problem", _death(done)))]
    return [(title, Finding(*finding)) for title, finding in json.loads(done.stdout)]


def _death(done: "subprocess.CompletedProcess[str]") -> str:
    if done.returncode < 0:
        return f"crashes with {signal.Signals(-done.returncode).name}, in a library that it uses"
    lines = done.stderr.strip().splitlines()
    return redact(lines[-1]) if lines else f"ended with exit code {done.returncode}"


def check_module() -> None:
    """Check what standard input names, and write the findings to standard output, which libraries may not use."""
    asked = json.load(sys.stdin)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with out:
        json.dump([(heading, list(finding)) for heading, finding in _checks(NodeSpec(**asked))], out)


def _checks(spec: NodeSpec) -> Iterator[tuple[str, Finding]]:
    try:
        if spec.name:
            node = build(spec)
            for finding in type(node).check(node):
                yield spec.name, finding._replace(found=redact(finding.found), remedy=redact(finding.remedy))
            return
        for name, class_ in node_classes(import_module(spec.type)).items():
            for finding in class_.check(None):
                yield name, finding
    except ConfigError as exc:
        yield spec.name or spec.type, Finding("import", "problem", str(exc))


def exit_code(findings: Findings) -> int:
    """Return 1 if there is a problem."""
    return int(any(finding.verdict == "problem" for _, finding in findings))


def as_json(findings: Findings) -> str:
    """Return the findings as JSON: `problems` and `notes` counted, and `findings`."""
    lines = [{"under": heading, **finding._asdict()} for heading, finding in findings]
    return json.dumps({**_counts(findings), "findings": lines}, indent=2, ensure_ascii=False)


def _counts(findings: Findings) -> Mapping[str, int]:
    verdicts = [finding.verdict for _, finding in findings]
    return {"problems": verdicts.count("problem"), "notes": verdicts.count("note")}


def report(findings: Findings) -> RenderableType:
    """Return a table with a line for each finding, what to do beneath it, and the sum at the end."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    under = ""
    for heading, finding in findings:
        if heading != under:
            table.add_row("", Text(f"\n{heading}" if under else heading, "bold"), "")
            under = heading
        said = Text(finding.found)
        if finding.remedy:
            said.append(f"\n→ {finding.remedy}", style="cyan")
        table.add_row(Text(finding.verdict, _STYLES[finding.verdict]), Text(finding.about), said)
    return Group(table, "", _sum(findings))


def _sum(findings: Findings) -> Text:
    counts = _counts(findings)
    if not any(counts.values()):
        return Text("all well", "green")
    said = [f"{count} {name if count > 1 else name[:-1]}" for name, count in counts.items() if count]
    return Text(", ".join(said), "bold red" if counts["problems"] else "yellow")
