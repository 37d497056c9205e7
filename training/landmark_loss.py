"""The loss of the landmark networks.

Shapes: B batch, N 68 points, K cells of the vote map, P pairs of views of the same face.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from training.landmark_data import MIRROR
from training.landmark_settings import LandmarkSettings
from training.task import Batch

RARE_STATES = (3.0, 3.0, 1.0, 3.0)
"""Weights of states that are true, relative to false ones: one in ten or fewer eyes are closed or mouths wide open."""


def landmark_loss(out: Batch, batch: Batch, settings: LandmarkSettings) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted sum of the losses for the outputs that a network has, and each of them."""
    weights_BN = batch["weights"] / batch["weights"].sum().clamp(min=1)
    apart_BN2 = out["landmarks"].float() - batch["points"]
    away_BN = (apart_BN2.square().sum(-1) + 1e-4).sqrt()
    parts = {"pixels": (away_BN * weights_BN).sum()}
    if settings.point_loss == "wing":
        parts["wing"] = (wing(apart_BN2, settings.wing_width, settings.wing_curvature) * weights_BN).sum()
    total = settings.coordinate_weight * parts.get("wing", parts["pixels"])
    if "pair_map" in batch:
        parts["apart"] = equivariance(out["landmarks"].float(), batch)
        total = total + settings.equivariance_weight * parts["apart"]
    if "scores" in out:
        cells = math.isqrt(out["scores"].shape[-1])
        target_BNK = bilinear_targets(batch["points"], cells, settings.size // cells)
        entropy_BN = -(target_BNK * out["scores"].float().log_softmax(-1)).sum(-1)
        parts["scores"] = (entropy_BN * weights_BN).sum()
        # Likelihood as of a Laplace distribution: minimal if the spread is the expected error.
        spread_BN = out["spread"].float()
        parts["spread"] = ((spread_BN.log() + away_BN.detach() / spread_BN) * weights_BN).sum()
        total = total + parts["scores"] + settings.spread_weight * parts["spread"]
    if "pose" in out:
        parts["pose"] = pose_loss(out["pose"].float(), batch["pose"], batch["pose_weight"])
        total = total + settings.pose_weight * parts["pose"]
    rare_4 = torch.tensor(RARE_STATES, device=out["states"].device)
    wrong_B4 = F.binary_cross_entropy_with_logits(
        out["states"].float(), batch["states"], pos_weight=rare_4, reduction="none"
    )
    known_B = batch["states_weight"]
    parts["states"] = (wrong_B4.mean(1) * known_B).sum() / known_B.sum().clamp(min=1)
    parts["presence"] = F.binary_cross_entropy_with_logits(out["presence"].float(), batch["presence"])
    total = total + settings.states_weight * parts["states"] + settings.presence_weight * parts["presence"]
    return total, {name: value.detach() for name, value in parts.items()}


def equivariance(points_BN2: Tensor, batch: Batch) -> Tensor:
    """Return the mean distance in pixels between the points of two views of a face, both mapped to the second crop.

    The first rows of a batch are such pairs, one after the other. Points that move with the crop, the mirror or the
    noise, and not with the face, shake in a video.
    Source: Honari et al. 2018, "Improving Landmark Localization with Semi-Supervised Learning", equation 5 (the
    equivariant landmark transformation).
    """
    map_P23, mirrored_P = batch["pair_map"], batch["pair_mirrored"]
    pairs_P2N2 = points_BN2[: 2 * len(map_P23)].unflatten(0, (-1, 2))
    moved_PN2 = pairs_P2N2[:, 0] @ map_P23[:, :, :2].transpose(1, 2) + map_P23[:, None, :, 2]
    moved_PN2 = torch.where(mirrored_P[:, None, None], moved_PN2[:, MIRROR], moved_PN2)
    apart_P = ((moved_PN2 - pairs_P2N2[:, 1]).square().sum(-1) + 1e-4).sqrt().mean(1)
    present_P = batch["presence"][: 2 * len(map_P23) : 2]
    return (apart_P * present_P).sum() / present_P.sum().clamp(min=1)


def wing(apart_BN2: Tensor, width: float, curvature: float) -> Tensor:
    """Return (B, N) wing losses, x and y summed, of errors in pixels of the crop; they are steep for small errors.

    Source: Feng et al. 2018, "Wing Loss for Robust Facial Landmark Localisation with Convolutional Neural Networks",
    equation 5; its w and epsilon are `width` and `curvature`, in pixels. With coordinates from 0 to 1, nearly every
    error would be far below epsilon, where the loss is linear.
    """
    away_BN2 = apart_BN2.abs()
    offset = width - width * math.log(1 + width / curvature)
    return torch.where(away_BN2 < width, width * (away_BN2 / curvature).log1p(), away_BN2 - offset).sum(-1)


def pose_loss(pose_B3: Tensor, true_B3: Tensor, weight_B: Tensor) -> Tensor:
    """Return the mean absolute error of pitch, yaw and roll in degrees / 90, the shorter way round."""
    apart_B3 = torch.remainder(pose_B3 - true_B3 + 2, 4) - 2
    return (apart_B3.abs().mean(1) * weight_B).sum() / weight_B.sum().clamp(min=1)


def bilinear_targets(points_BN2: Tensor, cells: int, stride: int) -> Tensor:
    """Return (B, N, K) probabilities that divide each point among the four nearest cells; clamp points outside."""
    grid = ((points_BN2 + 0.5) / stride - 0.5).clamp(0, cells - 1)
    line = torch.arange(cells, device=grid.device)
    near_BN2L = (1 - (grid[..., None] - line).abs()).clamp(min=0)
    return (near_BN2L[:, :, 1, :, None] * near_BN2L[:, :, 0, None, :]).flatten(2)
