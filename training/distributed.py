"""Training in the processes that torchrun started; without torchrun, a group of one."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from training.settings import SettingsError

PATIENCE = timedelta(days=1)
"""Timeout of processes that wait for each other. The first one writes the caches and validates while the others wait;
with large data this takes longer than torch's default (10 minutes on GPUs, 30 on CPUs). If a process dies, the others
do not wait for it: torchrun ends them."""


@dataclass(frozen=True)
class Group:
    """The processes that train one network together: their number, and the rank and device of this one."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this is the process that validates, logs and saves."""
        return self.rank == 0

    @contextlib.contextmanager
    def leader_first(self) -> Iterator[None]:
        """Run the block in the leader, then in all others; these raise SettingsError if it failed in the leader."""
        if not self.leads and not self.from_leader(0.0):
            raise SettingsError("the first process could not start; its own message says why")
        try:
            yield
        except Exception:
            if self.leads:
                self.from_leader(0.0)
            raise
        if self.leads:
            self.from_leader(1.0)

    def share(self, network: nn.Module) -> nn.Module:
        """Return the network with gradients averaged over the group; the parameters stay the same objects."""
        if self.size == 1:
            return network
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=devices)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean of a tensor over the group."""
        if self.size > 1:
            dist.all_reduce(values)
        return values / self.size

    def from_leader(self, value: float) -> float:
        """Return the leader's value in all processes."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.broadcast(shared, src=0)
        return float(shared)

    def any(self, flag: bool) -> bool:
        """Say whether the flag is set in any process."""
        return flag if self.size == 1 else bool(self.mean(torch.tensor(float(flag), device=self.device)) > 0)


@contextlib.contextmanager
def joined(device: str) -> Iterator[Group]:
    """Join the group described by torchrun's environment, with nccl on GPUs and gloo on CPUs; leave it at the end.

    Raises SettingsError if `device` is cuda and there is no GPU, or if there are fewer GPUs than processes.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device: 'cuda', but torch finds no usable GPU here; use 'cpu' or 'auto'")
    chosen = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    size, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    if size == 1:
        yield Group(0, 1, chosen)
        return
    if chosen.type == "cuda":
        if local >= torch.cuda.device_count():
            raise SettingsError(f"torchrun started more processes than the {torch.cuda.device_count()} GPUs here; "
                                "start fewer, or set device=cpu")
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Group(dist.get_rank(), size, chosen)
    finally:
        dist.destroy_process_group()
