"""The page's view of the graph, and its commands, through the same connection that any other process would use."""

import json
import logging
import math
from typing import Any

from graph import ConfigError, GraphError, attach

logger = logging.getLogger(__name__)

PAGE_TYPE = "nodes.web:WebView"


def as_json(content: dict[str, Any]) -> str:
    """Return a message for the page as JSON; infinity and NaN, which JSON lacks, become strings."""
    return json.dumps(_finite(content), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class GraphView:
    """A view of the graph `name`, or, with `follow`, of the one it is attached to. Empty: there is no graph.

    `update` is called by one thread at a time, `execute` by any.
    """

    def __init__(self, name: str, follow: bool, control: bool) -> None:
        self.control = control
        self.latest: dict[str, str] = {}  # the newest text of each kind, for browsers that connect
        self._name = name
        self._follow = follow
        self._graph: Any = None

    def update(self) -> dict[str, str]:
        """Return what has changed as JSON texts by kind, "graph" and "stats"."""
        if not self._name:
            return {}
        try:
            news = self._query()
        except GraphError as exc:
            self.close()
            news = {"stats": {"error": str(exc)}}
        texts = {kind: as_json({"k": kind, **content}) for kind, content in news.items()}
        changed = {kind: text for kind, text in texts.items() if text != self.latest.get(kind)}
        self.latest = {**self.latest, **texts}
        return changed

    def _query(self) -> dict[str, dict[str, Any]]:
        if self._graph is None:
            self._graph = attach(self._name)
            above = self._graph.spec().get("attach") if self._follow else None
            if above:
                self.close()
                self._name, self._follow = above, False
                self._graph = attach(above)
        spec = {key: value for key, value in self._graph.spec().items() if key not in ("pid", "path")}
        return {"graph": {**spec, "control": self.control}, "stats": self._graph.stats()}

    def execute(self, command: dict[str, Any]) -> dict[str, Any]:
        """Execute a command of a browser: set (setting "node.name", value), pause, resume, restart (node).

        Returns value, or error with the reason. Raises KeyError or TypeError for an invalid command.
        """
        if not self.control or not self._name:
            return {"error": "this page is read-only (its node has control: false)"}
        try:
            with attach(self._name) as graph:
                return {"value": self._do(graph, command)}
        except GraphError as exc:
            return {"error": str(exc)}

    def _do(self, graph: Any, command: dict[str, Any]) -> Any:
        kind = command["k"]
        if kind == "set":
            value = graph.set(str(command["setting"]), command["value"])
            logger.info("from the page: set %s=%s", command["setting"], value)
            return value
        logger.info("from the page: %.20s %.60s", kind, command.get("node", ""))
        if kind == "pause":
            return graph.pause()
        if kind == "resume":
            return graph.resume()
        if kind != "restart":
            raise KeyError(kind)
        node = str(command["node"])
        if graph.spec()["nodes"].get(node, {}).get("type") == PAGE_TYPE:
            raise ConfigError(f"{node} serves this page and cannot restart itself: use run_graph.py restart {node}")
        return graph.restart(node)

    def close(self) -> None:
        """Disconnect from the graph."""
        if self._graph is not None:
            self._graph.close()
            self._graph = None
