"""The parts of landmark networks: layers, a head that votes per cell of a map, and one that reads channel means.

The networks themselves, by name, are in `training.networks`.

Shapes: B batch, N 68 points, C channels, H W map height and width, K = H * W cells.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POINTS = 68
POSE_UNIT = 90.0
"""Degrees of head pose per unit of a network's output."""
EYE_LEFT, EYE_RIGHT, MOUTH = range(36, 42), range(42, 48), range(48, 68)


def convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return convolution, batch norm and ReLU, which export folds into one node."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Separable(nn.Module):
    """Depthwise then pointwise convolution, each with batch norm and ReLU; optionally a shortcut around both.

    The shortcut is added before the last ReLU: onnxruntime then adds it inside the convolution at no cost, whereas a
    sum after the ReLU is a separate pass (10 % of the whole trunk, measured).
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, kernel: int = 3, shortcut: bool = True) -> None:
        super().__init__()
        self.depthwise = convolution(inputs, inputs, kernel, stride, groups=inputs)
        self.pointwise = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = shortcut and stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        out = self.pointwise(self.depthwise(x))
        return self.relu(x + out if self.shortcut else out)


class VoteNet(nn.Module):
    """Landmarks as votes: every cell of a map has a probability and an offset for each point.

    A point is the mean of the votes (cell centre + offset) under the softmax of its scores, so the decode is
    differentiable and needs no top-k; the spread of the votes is the point's uncertainty. Eye and mouth states
    are read from features pooled under the same probabilities, presence from the whole map.
    `trunk` maps the crop (B, 3, size, size) to features (B, width, size / stride, size / stride).
    """

    def __init__(self, size: int, trunk: nn.Module, width: int, stride: int = 16) -> None:
        super().__init__()
        self.middle, self.stride = (size - 1) / 2, stride
        self.trunk = trunk
        self.head = nn.Conv2d(width, 3 * POINTS, 1)
        self.state_features = convolution(width, 32, kernel=1)
        self.states = nn.ModuleList([nn.Linear(32, 1), nn.Linear(32, 1), nn.Linear(32, 2)])
        self.presence = nn.Sequential(
            Separable(width, width, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1)
        )
        centres_K2 = cell_centres(size // stride, stride) - self.middle
        self.register_buffer("centres_21K", centres_K2.T[:, None].contiguous(), persistent=False)
        pools = torch.zeros(3, POINTS)
        for row, points in zip(pools, (EYE_LEFT, EYE_RIGHT, MOUTH), strict=True):
            row[list(points)] = 1 / len(points)
        self.register_buffer("pools_3N", pools, persistent=False)

    def forward(self, image_B3HW: Tensor) -> dict[str, Tensor]:
        """Return landmarks (B, N, 2), spread (B, N) in crop pixels; states (B, 4), presence (B,) as logits; scores."""
        features_BCHW = self.trunk(image_B3HW)
        head_BCHW = self.head(features_BCHW).float()  # bfloat16 would round offsets to a tenth of a pixel
        head_B3NK = head_BCHW.reshape(-1, 3, POINTS, self.centres_21K.shape[-1])
        p_B1NK = head_B3NK[:, :1].softmax(-1)
        votes_B2NK = head_B3NK[:, 1:] * self.stride + self.centres_21K  # from the middle of the crop
        weighted_B2NK = p_B1NK * votes_B2NK
        points_B2N = weighted_B2NK.sum(-1)
        variance_BN = (weighted_B2NK * votes_B2NK).sum((1, 3)) - points_B2N.square().sum(1)
        pooled_B3C = (self.pools_3N @ p_B1NK[:, 0]) @ self.state_features(features_BCHW).flatten(2).transpose(1, 2)
        states = [linear(pooled_B3C[:, i]) for i, linear in enumerate(self.states)]
        return {
            "landmarks": points_B2N.transpose(1, 2) + self.middle,
            "spread": (variance_BN.clamp(min=0) + 1e-2).sqrt(),
            "states": torch.cat(states, 1),
            "presence": self.presence(features_BCHW)[:, 0],
            "scores": head_B3NK[:, 0],
        }


class MeanNet(nn.Module):
    """Landmarks from channel means: one linear layer on the averaged maps of the last strides of a backbone.

    `stages` follow each other; each gives a map with the number of channels in `widths`. The outputs are 136 numbers
    for the points, 3 for the head pose and 4 for the states. States that exclude each other, a mouth both closed and
    wide open, mean that the crop shows no face.
    """

    def __init__(self, size: int, stages: nn.ModuleList, widths: Sequence[int]) -> None:
        super().__init__()
        self.size = size
        self.stages = stages
        self.head = nn.Linear(sum(widths), POINTS * 2 + 3 + 4)

    def forward(self, image_B3HW: Tensor) -> dict[str, Tensor]:
        """Return landmarks (B, N, 2) in crop pixels, pose (B, 3) in `POSE_UNIT`; logits of states (B, 4), presence."""
        x, means = image_B3HW, []
        for stage in self.stages:
            x = stage(x)
            means.append(x.mean((2, 3)))
        out = self.head(torch.cat(means, 1))
        points, pose, states = out.split((POINTS * 2, 3, 4), dim=1)
        landmarks = (points.unflatten(1, (POINTS, 2)) + 0.5) * self.size
        return {"landmarks": landmarks, "pose": pose, "states": states, "presence": _consistent(states)}


def _consistent(states_B4: Tensor) -> Tensor:
    """Return (B,) the logit that the mouth is not both closed and wide open."""
    both_B = F.logsigmoid(states_B4[:, 2:]).sum(1).clamp(max=-1e-3)
    return (1 - both_B.exp()).log() - both_B


class Deployed(nn.Module):
    """A landmark network for the run time: states and presence as probabilities, pose in degrees, no scores."""

    def __init__(self, network: nn.Module, spread_scale: float) -> None:
        super().__init__()
        self.network, self.spread_scale = network, spread_scale

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Map image (B, 3, size, size) to the outputs that the card describes."""
        out = self.network(image)
        found = {"landmarks": out["landmarks"]}
        if "spread" in out:
            found["spread"] = out["spread"] * self.spread_scale
        if "pose" in out:
            found["pose"] = out["pose"] * POSE_UNIT
        return found | {"states": out["states"].sigmoid(), "presence": out["presence"].sigmoid()}


def cell_centres(cells: int, stride: int) -> Tensor:
    """Return (cells ** 2, 2) x, y of the cell centres in pixels; the centre of pixel (0, 0) is (0.0, 0.0)."""
    line = (torch.arange(cells) + 0.5) * stride - 0.5
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack((x.flatten(), y.flatten()), 1)


def macs(network: nn.Module, image: Tensor) -> int:
    """Count the multiply-adds of the convolutions and linear layers for one image."""
    total = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        total += module.weight[0].numel() * output[0].numel()

    handles = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    network(image)
    for handle in handles:
        handle.remove()
    return total
