"""The face detector's loss: which cells answer for which face, and how wrong they are.

Shapes: B batch, A cells of all strides, G faces of a picture (padded in a batch), P five points.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

FACE, IGNORED = 1, -1
"""Kinds of boxes in a batch; 0 is padding."""
CANDIDATES = 10
"""Cells of best overlap whose overlaps, added and rounded, are the number of cells that learn a face."""
NEAR = 1.5
"""Distance in strides from a face's centre within which a cell may learn it, on either axis."""
LEAST = 0.3
"""Least target of a cell that learns a face: one whose box does not overlap it yet must still be taught."""


def detection_loss(
    outputs_BAC: Tensor, boxes_BA4: Tensor, centres_A2: Tensor, strides_A: Tensor, batch: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return the losses of scores, boxes and points, each averaged over the cells that learn a face.

    Scores: quality focal loss (Li et al. 2020, eq. 2), the target of a cell being the square root of its overlap with
    its face (at least `LEAST`), so that a well-found face tends to a score near 1 and ranks above a badly found one.
    Boxes: generalised overlap (Rezatofighi et al. 2019). Points: smooth L1 in box sides, only where a face has labelled
    points.
    Cells whose centre lies in an ignored box learn nothing about their score.
    """
    targets, weights, chosen = [], [], []
    for image in range(len(outputs_BAC)):
        face = batch["kinds"][image] == FACE
        faces_G4, ignored_I4 = batch["boxes"][image][face], batch["boxes"][image][batch["kinds"][image] == IGNORED]
        guess_A4, logits_A = boxes_BA4[image].detach(), outputs_BAC[image, :, 0].detach()
        owner_A, overlap_A = assign(faces_G4, guess_A4, logits_A, centres_A2, strides_A)
        positive_A = owner_A >= 0
        inside_A = in_boxes(centres_A2, ignored_I4, strides_A / 4).any(0)
        targets.append(torch.where(positive_A, overlap_A.sqrt().clamp(min=LEAST), 0.0))
        weights.append((positive_A | ~inside_A).float())
        chosen.append((positive_A, faces_G4[owner_A[positive_A]], batch["points"][image][face][owner_A[positive_A]]))
    target_BA, weight_BA = torch.stack(targets), torch.stack(weights)
    positive_BA = torch.stack([positive for positive, _, _ in chosen])
    total = target_BA.sum().clamp(min=1.0)

    logits_BA = outputs_BAC[..., 0]
    entropy_BA = F.binary_cross_entropy_with_logits(logits_BA, target_BA, reduction="none")
    focus_BA = (target_BA - logits_BA.detach().sigmoid()).square()
    score = (entropy_BA * focus_BA * weight_BA).sum() / total

    true_N4 = torch.cat([boxes for _, boxes, _ in chosen])
    box = (1 - generalised_overlap(boxes_BA4[positive_BA], true_N4)) * target_BA[positive_BA]
    true_NP2 = torch.cat([points for _, _, points in chosen])
    points = points_loss(outputs_BAC[positive_BA][:, 5:], boxes_BA4[positive_BA], true_NP2)
    return {"score": score, "box": box.sum() / total, "points": points}


def points_loss(offsets_NC: Tensor, boxes_N4: Tensor, true_NP2: Tensor) -> Tensor:
    """Return the mean smooth L1 of the points in box sides over the labelled ones; unlabelled points are NaN.

    The box is taken as given: no gradient of the points moves it.
    """
    labelled_N = true_NP2.isfinite().all(-1).all(-1)
    if not labelled_N.any():
        return offsets_NC.sum() * 0
    boxes_N4, true_NP2 = boxes_N4[labelled_N].detach(), true_NP2[labelled_N]
    centre_N12 = ((boxes_N4[:, :2] + boxes_N4[:, 2:]) / 2)[:, None]
    side_N12 = (boxes_N4[:, 2:] - boxes_N4[:, :2])[:, None]
    target_NP2 = (true_NP2 - centre_N12) / side_N12
    return F.smooth_l1_loss(offsets_NC[labelled_N].view_as(target_NP2), target_NP2, beta=0.05)


@torch.no_grad()
def assign(
    faces_G4: Tensor, boxes_A4: Tensor, logits_A: Tensor, centres_A2: Tensor, strides_A: Tensor
) -> tuple[Tensor, Tensor]:
    """Choose the cells that learn each face: owner (A,), -1 for none, and overlap with the owner (A,).

    Dynamic assignment: a face takes the cells near it that now predict it best at the least cost, as many as their
    overlaps add up to, at least one; a cell wanted by two goes to the cheaper. Cost and the soft centre prior are
    those of RTMDet (Lyu et al. 2022, 3.3), the count that of OTA (Ge et al. 2021, 3.3).
    """
    owner_A = torch.full((len(centres_A2),), -1)
    overlap_A = torch.zeros(len(centres_A2))
    if not len(faces_G4):
        return owner_A, overlap_A
    middle_G2 = (faces_G4[:, :2] + faces_G4[:, 2:]) / 2
    away_GA = ((middle_G2[:, None] - centres_A2).abs().amax(-1)) / strides_A
    allowed_GA = (away_GA < NEAR) | in_boxes(centres_A2, faces_G4)
    candidates = allowed_GA.any(0).nonzero()[:, 0]
    allowed_GK, away_GK = allowed_GA[:, candidates], away_GA[:, candidates]
    overlap_GK = pairwise_overlap(faces_G4, boxes_A4[candidates]) * allowed_GK

    quality_GK = overlap_GK.sqrt()
    logits_GK = logits_A[candidates].expand_as(quality_GK)
    entropy_GK = F.binary_cross_entropy_with_logits(logits_GK, quality_GK, reduction="none")
    score_GK = entropy_GK * (quality_GK - logits_GK.sigmoid()).square()
    cost_GK = score_GK - 3 * (overlap_GK + 1e-7).log() + 10 ** (away_GK - 3).clamp(max=3.0)
    cost_GK = cost_GK.masked_fill(~allowed_GK, torch.inf)

    count = min(CANDIDATES, len(candidates))
    wanted_G = overlap_GK.topk(count, 1).values.sum(1).int().clamp(min=1)
    cheapest_GK = cost_GK.topk(count, 1, largest=False)
    taken_GN = (torch.arange(count) < wanted_G[:, None]) & cheapest_GK.values.isfinite()
    price_GK = torch.full_like(cost_GK, torch.inf)
    price_GK.scatter_(1, cheapest_GK.indices, torch.where(taken_GN, cheapest_GK.values, torch.inf))
    price_K, owner_K = price_GK.min(0)
    owner_A[candidates] = torch.where(price_K.isfinite(), owner_K, -1)
    overlap_A[candidates] = overlap_GK.gather(0, owner_K[None])[0]
    return owner_A, overlap_A


def in_boxes(centres_A2: Tensor, boxes_G4: Tensor, slack_A: Tensor | float = 0.0) -> Tensor:
    """Return (G, A): which centres lie in which boxes grown by `slack_A` pixels on all sides."""
    x, y = centres_A2[:, 0], centres_A2[:, 1]
    x0, y0, x1, y1 = boxes_G4.T[:, :, None]
    return (x > x0 - slack_A) & (y > y0 - slack_A) & (x < x1 + slack_A) & (y < y1 + slack_A)


def pairwise_overlap(a_G4: Tensor, b_A4: Tensor) -> Tensor:
    """Return (G, A) intersection over union."""
    low = torch.maximum(a_G4[:, None, :2], b_A4[:, :2])
    high = torch.minimum(a_G4[:, None, 2:], b_A4[:, 2:])
    inside = (high - low).clamp(min=0).prod(-1)
    area_G, area_A = (a_G4[:, 2:] - a_G4[:, :2]).prod(-1), (b_A4[:, 2:] - b_A4[:, :2]).prod(-1)
    return inside / (area_G[:, None] + area_A - inside).clamp(min=1e-6)


def generalised_overlap(a_N4: Tensor, b_N4: Tensor) -> Tensor:
    """Return (N,) intersection over union less the share of the hull that neither box covers."""
    inside = (torch.minimum(a_N4[:, 2:], b_N4[:, 2:]) - torch.maximum(a_N4[:, :2], b_N4[:, :2])).clamp(min=0).prod(-1)
    area_a, area_b = (a_N4[:, 2:] - a_N4[:, :2]).prod(-1), (b_N4[:, 2:] - b_N4[:, :2]).prod(-1)
    both = (area_a + area_b - inside).clamp(min=1e-6)
    hull = (torch.maximum(a_N4[:, 2:], b_N4[:, 2:]) - torch.minimum(a_N4[:, :2], b_N4[:, :2])).prod(-1).clamp(min=1e-6)
    return inside / both - (hull - both) / hull
