"""Trunks of landmark networks: our own, and published backbones for comparison.

A backbone consists of consecutive stages, up to strides 8, 16 and 32, and the widths of their maps.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.landmark_net import Separable, convolution

Backbone = tuple[nn.ModuleList, tuple[int, ...]]


def small_trunk() -> nn.Sequential:
    """Return our small trunk, to stride 16; its last kernels are 5 x 5, so that a cell sees most of the face."""
    return nn.Sequential(
        convolution(3, 16, stride=2),
        Separable(16, 32, stride=2),
        Separable(32, 64, stride=2),
        *(Separable(64, 64) for _ in range(2)),
        Separable(64, 128, stride=2),
        *(Separable(128, 128, kernel=5) for _ in range(6)),
    )


class LargeTrunk(nn.Module):
    """Our large trunk: features at stride 16 are upsampled and added to those at stride 8, where the cells vote.

    Source of the upsampling path: Lin et al. 2017, "Feature Pyramid Networks", figure 3.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            convolution(3, 32, stride=2),
            Separable(32, 64, stride=2),
            Separable(64, 64),
            Separable(64, 128, stride=2),
            *(Separable(128, 128) for _ in range(4)),
        )
        self.coarse = nn.Sequential(
            Separable(128, 256, stride=2),
            *(Separable(256, 256, kernel=5) for _ in range(8)),
            convolution(256, 128, kernel=1),
        )
        self.up = nn.Upsample(scale_factor=2)
        self.merge = Separable(128, 128, kernel=5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 128, H / 8, W / 8)."""
        fine = self.fine(x)
        return self.merge(fine + self.up(self.coarse(fine)))


def slim() -> Backbone:
    """Return the 13 layers of Slim, the network of the project that this one is based on.

    Source: Slim in 610265158/Peppa_Pig_Face_Engine, which is the trunk of Linzaer's Ultra-Light slim detector.
    """
    plan = (
        (16, 32, 1), (32, 32, 2), (32, 32, 1), (32, 64, 2), *((64, 64, 1),) * 3,
        (64, 128, 2), *((128, 128, 1),) * 2, (128, 256, 2), (256, 256, 1),
    )
    layers = [Separable(inputs, outputs, stride, shortcut=False) for inputs, outputs, stride in plan]
    first = nn.Sequential(convolution(3, 16, stride=2), *layers[:7])
    return nn.ModuleList([first, nn.Sequential(*layers[7:10]), nn.Sequential(*layers[10:])]), (64, 128, 256)


MOBILENET_LARGE = (
    (16, 16, 1), (24, 64, 2), (24, 72, 1), (40, 72, 2), (40, 120, 1), (40, 120, 1), (80, 240, 2), (80, 200, 1),
    (80, 184, 1), (80, 184, 1), (112, 480, 1), (112, 672, 1), (160, 672, 2), (160, 960, 1), (160, 960, 1),
)
MOBILENET_SMALL = (
    (16, 16, 2), (24, 72, 2), (24, 88, 1), (40, 96, 2), (40, 240, 1), (40, 240, 1), (48, 120, 1), (48, 144, 1),
    (96, 288, 2), (96, 576, 1), (96, 576, 1),
)
"""Output width, inner width and stride of each block. Source: Howard et al. 2019, "Searching for MobileNetV3", tables 1
and 2; minimal: without squeeze and excite, hard swish and 5 x 5 kernels, which are not worth their time here."""


class Inverted(nn.Module):
    """Inverted residual: a widening pointwise convolution, a depthwise one, and a narrowing linear one."""

    def __init__(self, inputs: int, outputs: int, inner: int, stride: int) -> None:
        super().__init__()
        widen = [convolution(inputs, inner, kernel=1)] if inner != inputs else []
        self.block = nn.Sequential(
            *widen, convolution(inner, inner, stride=stride, groups=inner),
            nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        return x + self.block(x) if self.shortcut else self.block(x)


def mobilenet(plan: Sequence[tuple[int, int, int]]) -> Backbone:
    """Return MobileNetV3 in its minimal form, with its last pointwise layer at stride 32."""
    layers: list[nn.Module] = [convolution(3, 16, stride=2)]
    width, stride, ends, widths = 16, 2, list[int](), list[int]()
    for outputs, inner, step in plan:
        if step == 2 and stride >= 8:
            ends.append(len(layers))
            widths.append(width)
        layers.append(Inverted(width, outputs, inner, step))
        width, stride = outputs, stride * step
    layers.append(convolution(width, plan[-1][1], kernel=1))
    parts = zip([0, *ends], [*ends, len(layers)], strict=True)
    return nn.ModuleList(nn.Sequential(*layers[a:b]) for a, b in parts), (*widths, plan[-1][1])


class Shuffled(nn.Module):
    """Unit of ShuffleNetV2: half of the channels are passed on (or shrunk, at stride 2), then both are shuffled."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.stride = stride
        own = inputs if stride == 2 else half
        self.own = nn.Sequential(convolution(own, half, kernel=1), *_spread(half, half, stride))
        self.beside = nn.Sequential(*_spread(inputs, half, stride)) if stride == 2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        beside, own = (x, x) if self.stride == 2 else x.chunk(2, 1)
        both = torch.stack((self.beside(beside), self.own(own)), 2)  # (B, half, 2, H, W): channels alternate
        return both.flatten(1, 2)


def _spread(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    """Return a depthwise convolution without ReLU, then a pointwise one with it."""
    depthwise = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
    return [depthwise, nn.BatchNorm2d(inputs), convolution(inputs, outputs, kernel=1)]


def shufflenet(width: int) -> Backbone:
    """Return ShuffleNetV2 with this many channels in its first stage: 48 (50 %), 96 (75 %), 116; each next has twice.

    Source: Ma et al. 2018, "ShuffleNet V2", table 5; 75 % as in 610265158/face_landmark.
    """
    stem = nn.Sequential(convolution(3, 24, stride=2), nn.MaxPool2d(3, 2, 1))
    stages, inputs = list[nn.Sequential](), 24
    for outputs, units in ((width, 4), (2 * width, 8), (4 * width, 4)):
        others = (Shuffled(outputs, outputs, 1) for _ in range(units - 1))
        stages.append(nn.Sequential(Shuffled(inputs, outputs, 2), *others))
        inputs = outputs
    stages[0].insert(0, stem)
    return nn.ModuleList(stages), (width, 2 * width, 4 * width)
