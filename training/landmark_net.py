"""Landmark networks: a small trunk to stride 16 with a head that votes per cell, and Slim.

Shapes: B batch, N 68 points, C channels, H W map height and width, K = H * W cells.
"""

import torch
from torch import Tensor, nn

POINTS = 68
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

    The shortcut joins before the last ReLU: there onnxruntime adds it inside the convolution, which costs nothing,
    while a sum after the ReLU is a pass of its own (10 % of the whole trunk, measured).
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
    """Landmarks as votes: every cell of a stride-16 map has a probability and an offset for each point.

    A point is the mean of the votes (cell centre + offset) under the softmax of its scores, so the decode is
    differentiable and needs no top-k; the spread of the votes is the point's uncertainty. Eye and mouth states
    are read from features pooled under the same probabilities, presence from the whole map.
    At stride 16 kernels are 5 x 5, so that a cell sees most of the face: 22.6 M MAC at 160 px, 172,017 parameters.
    """

    STRIDE = 16

    def __init__(
        self, size: int = 160, widths: tuple[int, int, int, int] = (16, 32, 64, 128), depths: tuple[int, int] = (2, 5)
    ) -> None:
        super().__init__()
        stem, low, middle, high = widths
        self.middle = (size - 1) / 2
        self.trunk = nn.Sequential(
            convolution(3, stem, stride=2),
            Separable(stem, low, stride=2),
            Separable(low, middle, stride=2),
            *(Separable(middle, middle) for _ in range(depths[0])),
            Separable(middle, high, stride=2),
            *(Separable(high, high, kernel=5) for _ in range(depths[1])),
        )
        self.head = nn.Conv2d(high, 3 * POINTS, 1)
        self.state_features = convolution(high, 32, kernel=1)
        self.states = nn.ModuleList([nn.Linear(32, 1), nn.Linear(32, 1), nn.Linear(32, 2)])
        self.presence = nn.Sequential(
            Separable(high, high, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(high, 1)
        )
        centres_K2 = cell_centres(size // self.STRIDE, self.STRIDE) - self.middle
        self.register_buffer("centres_21K", centres_K2.T[:, None].contiguous(), persistent=False)
        pools = torch.zeros(3, POINTS)
        for row, points in zip(pools, (EYE_LEFT, EYE_RIGHT, MOUTH), strict=True):
            row[list(points)] = 1 / len(points)
        self.register_buffer("pools_3N", pools, persistent=False)

    def forward(self, image_B3HW: Tensor) -> dict[str, Tensor]:
        """Return landmarks (B, N, 2), spread (B, N) in crop pixels; states (B, 4), presence (B,) as logits; scores."""
        features_BCHW = self.trunk(image_B3HW)
        head_B3NK = self.head(features_BCHW).reshape(-1, 3, POINTS, self.centres_21K.shape[-1])
        p_B1NK = head_B3NK[:, :1].softmax(-1)
        votes_B2NK = head_B3NK[:, 1:] * self.STRIDE + self.centres_21K  # from the middle of the crop
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


class Slim(nn.Module):
    """The plain network of this size: 13 separable layers, means of three stages, one linear layer.

    24.7 M MAC at 160 px. Points are learnt from channel means alone, which is what `VoteNet` is measured against.
    """

    def __init__(self, size: int = 160) -> None:
        super().__init__()
        self.size = size
        plan = (
            (16, 32, 1), (32, 32, 2), (32, 32, 1), (32, 64, 2), *((64, 64, 1),) * 3,
            (64, 128, 2), *((128, 128, 1),) * 2, (128, 256, 2), (256, 256, 1),
        )
        layers = [Separable(inputs, outputs, stride, shortcut=False) for inputs, outputs, stride in plan]
        first = nn.Sequential(convolution(3, 16, stride=2), *layers[:7])
        self.stages = nn.ModuleList([first, nn.Sequential(*layers[7:10]), nn.Sequential(*layers[10:])])
        self.head = nn.Linear(64 + 128 + 256, POINTS * 2 + 4 + 1)

    def forward(self, image_B3HW: Tensor) -> dict[str, Tensor]:
        """Return landmarks (B, N, 2) in crop pixels, states (B, 4) and presence (B,) as logits."""
        x, means = image_B3HW, []
        for stage in self.stages:
            x = stage(x)
            means.append(x.mean((2, 3)))
        out = self.head(torch.cat(means, 1))
        points, states, presence = out.split((POINTS * 2, 4, 1), dim=1)
        landmarks = (points.unflatten(1, (POINTS, 2)) + 0.5) * self.size
        return {"landmarks": landmarks, "states": states, "presence": presence[:, 0]}


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
