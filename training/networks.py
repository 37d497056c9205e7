"""The landmark networks by name, and a table of their costs.

python -m training.networks
"""

import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from training import backbones, command
from training.backbones import MOBILENET_LARGE, MOBILENET_SMALL, Backbone
from training.landmark_net import MeanNet, VoteNet, macs

PLAIN: dict[str, Callable[[], Backbone]] = {
    "slim": backbones.slim,
    "mobilenetv3-small": partial(backbones.mobilenet, MOBILENET_SMALL),
    "mobilenetv3-large": partial(backbones.mobilenet, MOBILENET_LARGE),
    "shufflenetv2-50": partial(backbones.shufflenet, 48),
    "shufflenetv2-75": partial(backbones.shufflenet, 96),
    "shufflenetv2-100": partial(backbones.shufflenet, 116),
}
"""Published backbones. NAME reads channel means of the last three strides; NAME-vote votes at stride 16."""


def mean_network(backbone: Callable[[], Backbone], size: int) -> MeanNet:
    """Return a backbone with the head that reads channel means."""
    return MeanNet(size, *backbone())


def vote_network(backbone: Callable[[], Backbone], size: int) -> VoteNet:
    """Return a backbone up to stride 16 with the head that votes."""
    stages, widths = backbone()
    return VoteNet(size, nn.Sequential(*list(stages)[:2]), widths[1])


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "vote": lambda size: VoteNet(size, backbones.small_trunk(), 128),
    "large": lambda size: VoteNet(size, backbones.LargeTrunk(), 128, stride=8),
    **{name: partial(mean_network, backbone) for name, backbone in PLAIN.items()},
    **{f"{name}-vote": partial(vote_network, backbone) for name, backbone in PLAIN.items()},
}
"""The values of `network:`, as functions of the side of the crop."""


def has_pose(name: str) -> bool:
    """Say whether the named network outputs a head pose; for the others it is computed from the points."""
    return name in PLAIN


def make_network(name: str, size: int) -> nn.Module:
    """Return the named network for crops of side `size`, with random weights."""
    return NETWORKS[name](size)


def cost(name: str, size: int = 160) -> tuple[int, int]:
    """Return multiply-adds for one crop, and parameters."""
    network = make_network(name, size).eval()
    with torch.inference_mode():
        return macs(network, torch.zeros(1, 3, size, size)), sum(p.numel() for p in network.parameters())


def table(size: int = 160) -> str:
    """Return the costs of all networks as a table in Markdown."""
    rows = [f"| {name} | {total / 1e6:.2f} | {count:,} |" for name in NETWORKS for total, count in [cost(name, size)]]
    return "\n".join([f"| network | M MAC at {size} px | parameters |", "|---|---|---|", *rows])


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    parser = command.parser("networks", __doc__)
    parser.add_argument("--size", type=int, default=160, choices=range(32, 257, 32), metavar="PIXELS",
                        help="side of the crop, a multiple of 32 (default: %(default)s)")
    print(table(parser.parse_args(arguments).size))
    return 0


if __name__ == "__main__":
    sys.exit(main())
