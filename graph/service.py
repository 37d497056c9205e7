"""Answers the requests that processes of this user send to a running graph: the supervisor's side.

The requests are described in graph/README.md.
"""

import dataclasses
import itertools
import logging
import math
import os
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from reprlib import repr as brief  # a client may send values that are long and deep
from typing import TYPE_CHECKING, Any

from graph.catalog import comments
from graph.errors import ConfigError
from graph.passwords import HIDDEN, redact
from graph.receiver import type_names
from graph.settings import Setting, settings_of, type_name
from graph.spec import did_you_mean, load_class

if TYPE_CHECKING:
    from graph.child import Child
    from graph.supervisor import Supervisor

logger = logging.getLogger("facegraph")

ANSWER_S = 5.0  # how long a node may be busy with one frame before the request is refused
PLAY_S = 30.0  # how long a restarted node may load its models
LOG_LINES = 500  # number of lines that are kept
LOG_BYTES = 1 << 18  # of their texts in one answer
TEXT_BYTES = 1 << 14  # of one text
Request = dict[str, Any]
Answer = dict[str, Any]
Reply = Callable[[Answer], None]


@dataclass
class Pending:
    """A request that nodes have not answered yet."""

    reply: Reply
    awaited: set[str]  # nodes
    late: str  # what to reply about these nodes at the deadline
    deadline: float
    restart: bool  # done when the nodes play again, not when they answer


class Service:
    """Answers requests. The answer to an invalid one is `refused` with the reason."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self._supervisor = supervisor
        self._pending: dict[int, Pending] = {}
        self._tickets = 0
        self.log = BusLog()

    def handle(self, request: Request, reply: Reply) -> None:
        """Answer a request now, or when the nodes that it concerns have answered."""
        requests: dict[str, Callable[[Request, Reply], None]] = {
            "describe": lambda request, reply: reply({"k": "graph", **self.describe()}),
            "stats": lambda request, reply: reply({"k": "stats", **self._supervisor.stats()}),
            "log": lambda request, reply: reply({"k": "log", "lines": self.log.since(request.get("since", 0))}),
            "set": self._set,
            "pause": self._pause,
            "resume": self._pause,
            "restart": self._restart,
        }
        kind = request["k"]
        try:
            if kind not in requests:
                raise ConfigError(f"no request {brief(kind)}; requests: {', '.join(requests)}")
            requests[kind](request, reply)
        except ConfigError as exc:
            reply({"k": "refused", "why": str(exc)})
        except Exception as exc:  # noqa: BLE001 - no request may end the graph
            logger.error("the request %s failed: %s", brief(kind), traceback.format_exc())
            reply({"k": "refused", "why": f"{type(exc).__name__}: {exc}"})

    def answered(self, node: str, answer: dict[str, Any]) -> None:
        """Handle the answer of a node to what it was sent."""
        if answer["ticket"] not in self._pending:
            return
        if answer.get("why"):
            self._pending.pop(answer["ticket"]).reply({"k": "refused", "why": answer["why"], "by": node})
        else:
            self._settle(answer["ticket"], node)

    def playing(self, node: str) -> None:
        """Note that a node plays, for those who requested its restart."""
        for ticket, pending in list(self._pending.items()):
            if pending.restart and node in pending.awaited:
                self._settle(ticket, node)

    def ended(self, node: str, for_good: bool) -> None:
        """Note that a node's process has ended and will not answer."""
        for ticket, pending in list(self._pending.items()):
            if node in pending.awaited and (for_good or not pending.restart):
                self._pending.pop(ticket).reply({"k": "refused", "why": f"{node} has ended; see its log"})

    def check_time(self) -> None:
        """Refuse requests that are overdue; they are answered again if the nodes obey after all."""
        now = time.monotonic()
        for pending in self._pending.values():
            if now >= pending.deadline:
                pending.deadline = math.inf
                pending.reply({"k": "refused", "why": f"{', '.join(sorted(pending.awaited))} {pending.late}"})

    def _settle(self, ticket: int, node: str) -> None:
        """Note that a node has done what was requested, and reply if it was the last."""
        pending = self._pending[ticket]
        pending.awaited.discard(node)
        if not pending.awaited:
            self._pending.pop(ticket).reply({"k": "done"})

    def describe(self) -> Answer:
        """Return the description of the graph; see graph/README.md."""
        supervisor = self._supervisor
        return {
            "name": supervisor.spec.name,
            "attach": supervisor.spec.attach,
            "run": supervisor.run_id,
            "pid": os.getpid(),
            "now": time.monotonic_ns(),
            "path": supervisor.spec.path,
            "state": supervisor.state,
            "nodes": {name: _describe(child) for name, child in supervisor.children.items()},
            "edges": [[edge.source, edge.target, edge.policy, edge.queue, edge.join] for edge in supervisor.spec.edges],
        }

    def _set(self, request: Request, reply: Reply) -> None:
        child, setting = self._setting(request)
        where = f"{child.spec.name}.{setting.name}"
        try:
            value = setting.check(request.get("value"))
        except (ConfigError, TypeError) as exc:
            raise ConfigError(f"{where} {exc}") from exc

        def keep(answer: Answer) -> None:
            if answer["k"] == "done":  # the value must survive a restart
                child.spec = dataclasses.replace(child.spec, settings={**child.spec.settings, setting.name: value})
                answer = {"k": "done", "value": _shown(setting.secret, value)}
            elif answer.get("by") == child.spec.name:
                answer = {"k": "refused", "why": f"{where}: {answer['why']}"}
            reply(answer)

        self._refuse_ended(child)
        late = f"is busy with one frame for {ANSWER_S:.0f} s; {where} is set when it comes back"
        self._ask([child], "set", keep, late, setting=setting.name, value=value)

    def _setting(self, request: Request) -> "tuple[Child, Setting]":
        child, name = self._child(request), request.get("setting")
        known = settings_of(load_class(child.spec.type))
        if not isinstance(name, str) or name not in known:
            there = did_you_mean(str(name), known) or f"settings: {', '.join(known) or 'none'}"
            raise ConfigError(f"{child.spec.name} has no setting {brief(name)}; {there}")
        if not known[name].changeable:
            there = ", ".join(key for key, setting in known.items() if setting.changeable) or "none"
            raise ConfigError(
                f"{child.spec.name}.{name} cannot be changed while the graph runs; changeable here: {there}"
            )
        return child, known[name]

    def _pause(self, request: Request, reply: Reply) -> None:
        """Pause or resume the nodes where frames enter the graph; frames already in the graph are processed."""
        supervisor = self._supervisor
        self._refuse_unless_playing()
        supervisor.paused = request["k"] == "pause"
        late = f"is busy with one frame for {ANSWER_S:.0f} s; it obeys when it comes back"
        self._ask([supervisor.children[name] for name in supervisor.roots()], request["k"], reply, late)

    def _restart(self, request: Request, reply: Reply) -> None:
        child = self._child(request)
        self._refuse_ended(child)
        self._refuse_unless_playing()
        self._supervisor.restart(child)
        late = f"does not play {PLAY_S:.0f} s after its restart; see its log"
        self._wait_for({child.spec.name}, reply, late, PLAY_S, restart=True)

    def _refuse_unless_playing(self) -> None:
        state = self._supervisor.state
        if state not in ("PLAYING", "PAUSED"):
            raise ConfigError(f"the graph is {state}, not PLAYING or PAUSED")

    def _child(self, request: Request) -> "Child":
        name, children = request.get("node"), self._supervisor.children
        if not isinstance(name, str) or name not in children:
            there = did_you_mean(str(name), children) or f"nodes: {', '.join(children)}"
            raise ConfigError(f"{self._supervisor.spec.name} has no node {brief(name)}; {there}")
        return children[name]

    @staticmethod
    def _refuse_ended(child: "Child") -> None:
        if child.state in ("DONE", "FAILED") and child.restart_at is None:
            raise ConfigError(f"{child.spec.name} has ended ({child.state})")

    def _ask(self, children: "list[Child]", kind: str, reply: Reply, late: str, **content: Any) -> None:
        """Send a message to some nodes, and reply when all of them have answered."""
        running = [child for child in children if child.running]
        if not running:  # they are about to be restarted
            reply({"k": "done"})
            return
        ticket = self._wait_for({child.spec.name for child in running}, reply, late, ANSWER_S)
        for child in running:
            self._supervisor.send(child, kind, ticket=ticket, **content)

    def _wait_for(self, awaited: set[str], reply: Reply, late: str, seconds: float, restart: bool = False) -> int:
        self._tickets += 1
        self._pending[self._tickets] = Pending(reply, awaited, late, time.monotonic() + seconds, restart)
        return self._tickets


class BusLog(logging.Handler):
    """The last lines of the graph's log, numbered from 1."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[list[Any]] = deque(maxlen=LOG_LINES)
        self._count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Store one line: number, seconds since 1970, level, node (empty: the graph itself), text."""
        self._count += 1
        node = record.name.partition(".")[2]
        self._lines.append([self._count, record.created, record.levelname, node, _cut(redact(record.getMessage()))])

    def since(self, number: Any) -> list[list[Any]]:
        """Return the newest lines after `number`, at most LOG_BYTES. Raises ConfigError if it is not a number."""
        if not isinstance(number, int):
            raise ConfigError(f"since is {brief(number)}, expected the number of a line")
        lines = [line for line in list(self._lines) if line[0] > number]  # a copy: other threads log meanwhile
        sizes = itertools.accumulate(len(line[-1].encode()) for line in reversed(lines))
        fit = sum(size <= LOG_BYTES for size in sizes)
        return lines[len(lines) - fit :]


def _cut(text: str) -> str:
    """Shorten a text to about TEXT_BYTES: its beginning and its end, where a traceback names the error."""
    data = text.encode(errors="replace")
    left_out = len(data) - TEXT_BYTES
    if left_out <= 0:
        return data.decode()
    begin, end = data[: TEXT_BYTES // 2], data[-TEXT_BYTES // 2 :]
    return f"{begin.decode(errors='ignore')}\n... {left_out} bytes left out ...\n{end.decode(errors='ignore')}"


def _describe(child: "Child") -> Answer:
    static, values = _describe_class(child.spec.type), child.spec.settings
    settings = {
        name: {"value": _shown(secret, values[name]) if name in values else about["default"], **about}
        for name, (secret, about) in static["settings"].items()
    }
    outputs = {port: type_names(output.type)[0] for port, output in child.outputs.items()}
    about = {"type": child.spec.type, "state": child.state, "restarts": child.epoch}
    return {**static, **about, "outputs": outputs, "settings": settings}


@cache
def _describe_class(type_: str) -> Answer:
    class_ = load_class(type_)
    about = comments(class_)
    return {
        "inputs": {port: type_names(input_.type)[0] for port, input_ in class_.inputs.items()},
        "settings": {
            name: (
                setting.secret,
                {
                    "default": None if setting.required else _shown(setting.secret, setting.written_default()),
                    "type": type_name(setting.type),
                    "choices": setting.choices(),
                    "minimum": setting.minimum,
                    "maximum": setting.maximum,
                    "changeable": setting.changeable,
                    "about": about.get(name, ""),
                },
            )
            for name, setting in settings_of(class_).items()
        },
    }


def _shown(secret: bool, value: Any) -> Any:
    return HIDDEN if secret and value else redact(_plain(value))


def _plain(value: Any) -> Any:
    """Return a setting's value as msgpack can encode it."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
