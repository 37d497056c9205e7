"""The face detector's network: a trunk to stride 32, a top-down path, and one head per stride.

Shapes: B batch, H W height and width of the input, A cells of all strides together.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nodes._boxes import CHANNELS, STRIDES
from training.landmark_net import Separable, convolution


class Down(nn.Module):
    """A separable convolution whose second half is linear, with a shortcut around both if shapes allow it.

    Under autocast on a CPU the depthwise half stays in float32, because there the backward pass of strided and of 5 x 5
    depthwise convolutions is ten times slower in bfloat16 (measured with torch 2.13: a third of the whole step).
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> None:
        super().__init__()
        self.depthwise = convolution(inputs, inputs, kernel, stride, groups=inputs)
        self.pointwise = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        out = self.pointwise(self._depthwise(x))
        return x + out if self.shortcut else out

    def _depthwise(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return self.depthwise(x)
        with torch.autocast("cpu", enabled=False):
            return self.depthwise(x.float())


class FaceNet(nn.Module):
    """Anchor-free face detector; sides of the input are multiples of 32, at training and at run time.

    It outputs one map (B, 15, H / stride, W / stride) per stride, as `nodes._boxes` describes them. The stem's second
    convolution is dense, because at stride 4 it takes less time per multiply-add than depthwise layers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            convolution(3, 16, stride=2),
            convolution(16, 32, stride=2),
            Separable(32, 32),
        )
        self.stride8 = nn.Sequential(Down(32, 64, stride=2), *(Separable(64, 64) for _ in range(3)))
        self.stride16 = nn.Sequential(Down(64, 128, stride=2), *(Separable(128, 128) for _ in range(2)))
        self.stride32 = nn.Sequential(Down(128, 128, stride=2), *(Down(128, 128, kernel=5) for _ in range(2)))
        self.side32 = convolution(128, 64, kernel=1)
        self.side16 = convolution(128, 64, kernel=1)
        self.merge16 = Separable(64, 64)
        self.merge8 = Separable(64, 64)
        self.heads = nn.ModuleList(make_head(64) for _ in STRIDES)

    def forward(self, image_B3HW: Tensor) -> list[Tensor]:
        """Return the maps of images (B, 3, H, W), finest first."""
        at8 = self.stride8(self.stem(image_B3HW))
        at16 = self.stride16(at8)
        at32 = self.side32(self.stride32(at16))
        at16 = self.merge16(self.side16(at16) + F.interpolate(at32, scale_factor=2.0))
        at8 = self.merge8(at8 + F.interpolate(at16, scale_factor=2.0))
        return [head(level) for head, level in zip(self.heads, (at8, at16, at32), strict=True)]


class SlimFaceNet(nn.Module):
    """The plain detector: separable convolutions and a head on each of the last three stages, without a top-down path.

    It has three quarters of the cost of `FaceNet`, and the same inputs and outputs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(convolution(3, 16, stride=2), Separable(16, 32, stride=2), Separable(32, 32))
        self.stages = nn.ModuleList([
            nn.Sequential(Separable(32, 64, stride=2), *(Separable(64, 64) for _ in range(3))),
            nn.Sequential(Separable(64, 128, stride=2), *(Separable(128, 128) for _ in range(2))),
            nn.Sequential(Separable(128, 128, stride=2), Separable(128, 128)),
        ])
        self.heads = nn.ModuleList(make_head(width) for width in (64, 128, 128))

    def forward(self, image_B3HW: Tensor) -> list[Tensor]:
        """Return the maps of images (B, 3, H, W), finest first."""
        level, maps = self.stem(image_B3HW), []
        for stage, head in zip(self.stages, self.heads, strict=True):
            level = stage(level)
            maps.append(head(level))
        return maps


NETWORKS: dict[str, type[nn.Module]] = {"pyramid": FaceNet, "slim": SlimFaceNet}
"""The networks by the names that training configs use."""


def make_head(width: int) -> nn.Sequential:
    """Return the head of one stride on `width` channels."""
    last = nn.Conv2d(width, CHANNELS, 1)
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.bias)
    with torch.no_grad():
        last.bias[0] = -math.log(99)  # faces are rare: start at a score of 0.01 (Lin et al. 2017, 4.1)
        last.bias[3:5] = math.log(2.5)  # a face of 2.5 strides, the middle of what a stride learns
    return nn.Sequential(Separable(width, width), last)


def cells(maps: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return outputs (B, A, 15), cell centres in pixels (A, 2) and strides (A,) of all maps concatenated."""
    outputs = torch.cat([level.flatten(2) for level in maps], 2).transpose(1, 2)
    centres, strides = [], []
    for level, stride in zip(maps, STRIDES, strict=True):
        height, width = level.shape[2:]
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centres.append((torch.stack((x.flatten(), y.flatten()), 1) + 0.5) * stride - 0.5)
        strides.append(torch.full((height * width,), float(stride)))
    return outputs, torch.cat(centres).to(outputs.device), torch.cat(strides).to(outputs.device)


def boxes_of(outputs: Tensor, centres_A2: Tensor, strides_A: Tensor) -> Tensor:
    """Return boxes (B, A, 4) in input pixels for outputs (B, A, 15), as `nodes._boxes.decode` computes them."""
    centre = centres_A2 + outputs[..., 1:3] * strides_A[:, None]
    half = outputs[..., 3:5].clamp(max=8.0).exp() * strides_A[:, None] / 2
    return torch.cat((centre - half, centre + half), -1)
