"""Check this machine for a user whose graph does not work: `run_graph.py doctor [CONFIG]`.

graph.machine checks what the runtime needs, Node.check what a node needs. The nodes of each module are checked in a
process of their own, so that a library that crashes or hangs becomes a finding.
"""

import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from graph import machine
from graph.errors import ConfigError
from graph.finding import Finding
from graph.passwords import redact
from graph.spec import GraphSpec, NodeSpec, build, import_module, node_classes

PATIENCE_S = 90.0  # for one module; importing torch alone may take ten seconds
CHILD = (
    "import os, sys; sys.path[:] = os.environ['FACEGRAPH_PATH'].split(os.pathsep); "
    "from graph.doctor import check_module; check_module()"
)
_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}

Findings = list[tuple[str, Finding]]  # each with its heading


def examine(package: str, spec: GraphSpec | None) -> Findings:
    """Check the machine, and the nodes of `spec`, or all nodes of `package` without one."""
    if spec is None:
        modules = [info.name for info in pkgutil.iter_modules(importlib.import_module(package).__path__)]
        nodes = [NodeSpec("", f"{package}.{name}") for name in modules if not name.startswith("_")]
    else:
        nodes = list(spec.nodes.values())
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        checks = pool.map(_check_in_process, nodes)
        found = list(machine.check())
        headings: dict[Finding, str] = {}  # several nodes may report the same finding
        for heading, finding in chain.from_iterable(checks):
            headings.setdefault(finding, heading)
    return found + [(heading, finding) for finding, heading in headings.items()]


def _check_in_process(node: NodeSpec) -> Findings:
    """Check one node of a graph, or (without a name) all classes of a module, in a process of its own."""
    heading = node.name or node.type
    path = os.pathsep.join([str(machine.ROOT), *sys.path])
    try:
        done = subprocess.run(
            [sys.executable, "-c", CHILD],
            input=json.dumps({"name": node.name, "type": node.type, "settings": dict(node.settings)}),
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
        return f"crashes with {signal.Signals(-done.returncode).name} in a library"
    lines = done.stderr.strip().splitlines()
    return redact(lines[-1]) if lines else f"exits with code {done.returncode}"


def check_module() -> None:
    """Check the node that standard input names, and write the findings to standard output."""
    spec = NodeSpec(**json.load(sys.stdin))
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)  # what libraries print must not mix with the findings
        json.dump(list(_checks(spec)), out)


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
    """Return the findings as JSON: the numbers of `problems` and `notes`, and the `findings`."""
    lines = [{"under": heading, **finding._asdict()} for heading, finding in findings]
    return json.dumps({**_counts(findings), "findings": lines}, indent=2, ensure_ascii=False)


def _counts(findings: Findings) -> Mapping[str, int]:
    verdicts = [finding.verdict for _, finding in findings]
    return {"problems": verdicts.count("problem"), "notes": verdicts.count("note")}


def report(findings: Findings) -> RenderableType:
    """Return a table of the findings with their remedies, and the number of problems and notes."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    under = ""
    for heading, finding in findings:
        if heading != under:
            table.add_row("", Text(f"\n{heading}" if under else heading, "bold"), "")
            under = heading
        text = Text(finding.found)
        if finding.remedy:
            text.append(f"\n→ {finding.remedy}", style="cyan")
        table.add_row(Text(finding.verdict, _STYLES[finding.verdict]), Text(finding.about), text)
    return Group(table, "", _summary(findings))


def _summary(findings: Findings) -> Text:
    counts = _counts(findings)
    if not any(counts.values()):
        return Text("no problems", "green")
    words = [f"{count} {name if count > 1 else name[:-1]}" for name, count in counts.items() if count]
    return Text(", ".join(words), "bold red" if counts["problems"] else "yellow")
