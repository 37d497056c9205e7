"""The edges into a node: connects to their senders, and again to those that are restarted."""

import logging
from collections.abc import Mapping
from typing import Any

import zmq

from graph.inputs import Inputs
from graph.job import Job
from graph.lookout import Lookout
from graph.messages import Message
from graph.network import Remote
from graph.receiver import Receiver
from graph.spec import EdgeSpec

logger = logging.getLogger(__name__)


class Upstream:
    """Connects a node's inputs. The supervisor reports dead senders of its graph; those of another must be polled."""

    def __init__(self, context: "zmq.Context[Any]", job: Job, types: Mapping[str, type[Message]]) -> None:
        """`types` are the message types of the inputs."""
        self._context = context
        self._job = job
        self._types = types
        self._foreign = {edge.target_port: edge for edge in job.edges if edge.source_graph}
        self._lookout: Lookout | None = None

    def connect(self) -> Inputs:
        """Connect to all senders."""
        edges = self._job.edges
        matched = [edge for edge in edges if edge.join == "seq"]
        may_drop = any(edge.policy != "block" for edge in matched)
        receivers = {edge.target_port: self._receiver(edge) for edge in edges}
        foreign = next(iter(self._foreign.values()), None)  # all are from one graph
        if foreign is not None:
            nodes = {name: edge.source_node for name, edge in self._foreign.items()}
            place, graph = self._job.place_of(foreign), str(foreign.source_graph)
            self._lookout = Lookout(self._context, place, graph, nodes, joined=True)  # if not here, then further on
        kinds = {edge.target_port: edge.join for edge in edges}
        return Inputs(receivers, kinds, newest=len(matched) > 1 and may_drop)

    def relink(self, inputs: Inputs, node: str, missed: bool) -> None:
        """Reconnect to a restarted node of this graph, on the inputs that were connected to it.

        `missed`: frames may have been lost with its old process.
        """
        for edge in self._job.edges_from(node):
            if edge.target_port in inputs.receivers:
                inputs.replace(edge.target_port, self._receiver(edge), missed)

    def look(self, inputs: Inputs) -> bool:
        """Reconnect to restarted nodes of another graph; end the inputs whose senders are gone.

        Returns whether a sender, or a node upstream of one, was restarted: frames may then be missing here.
        """
        if self._lookout is None or not self._lookout.due():
            return False
        fates = self._lookout.look({name: inputs.receivers[name] for name in self._foreign})
        for name, fate in fates.items():
            if fate == "again":
                inputs.replace(name, self._receiver(self._foreign[name]))
            elif fate == "gap":
                inputs.restarted(name)
            else:
                why = self._lookout.died if fate == "died" else "has ended"
                logger.warning("%s %s; its stream ends here", self._foreign[name].source, why)
                inputs.expire([name])
        return not {"again", "gap"}.isdisjoint(fates.values())

    def _receiver(self, edge: EdgeSpec) -> Receiver:
        place = self._job.place_of(edge)
        return Receiver(
            self._context,
            place.data(edge.source_node),
            place.port(edge.source_node, edge.source_port),
            self._types[edge.target_port],
            name=f"{self._job.graph}/{edge.target}" if edge.source_graph else edge.target,
            run="" if edge.source_graph else self._job.run,
            restarts=self._job.epoch,
            policy=edge.policy,
            queue=edge.queue,
            marks=edge.join == "seq",  # a held value stays until there is a new one
            secure=place.secure,
            far=isinstance(place, Remote) or (None if edge.source_graph else False),
        )
