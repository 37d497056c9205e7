"""The face detector's loss: which cell learns which face, and the losses of scores, boxes and points.

Shapes: B batch, A cells of all strides, G faces of a picture (padded in a batch), P five points.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

FACE, IGNORED = 1, -1
"""Kinds of boxes in a batch; 0 is padding."""
REACH = 0.9
"""A cell can learn faces whose centres are within this many strides of its own on both axes: one to four cells each."""
SPAN = 1.8, 5.5
"""Heights, in strides, of the faces that a stride learns; the finest also learns lower, the coarsest higher ones."""
USELESS, GOOD = 0.25, 0.75
"""Overlaps of a cell's box with its face for which the target of its score is `LEAST` and 1. In between, the target is
about the chance that the overlap is at least a half. The square root of the overlap ranks worse."""
LEAST = 0.1
"""Least target of a cell that learns a face: one whose box does not overlap it yet must still learn it."""
FULL_WEIGHT = 16.0
"""Height in pixels from which a face has full weight; lower ones weigh in proportion, or crowds would dominate."""


def detection_loss(
    outputs_BAC: Tensor, boxes_BA4: Tensor, centres_A2: Tensor, strides_A: Tensor, batch: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return the losses of scores, boxes and points, each averaged over the cells that learn a face.

    Scores: varifocal loss (Zhang et al. 2021, eq. 2): cells without a face are weighted by the square of their score,
    so that the many easy ones do not dominate; the target of a cell with a face grows with the overlap of its box, so
    that accurate boxes rank above inaccurate ones.
    Boxes: generalised overlap (Rezatofighi et al. 2019), not weighted by the score's target as in quality focal losses:
    with that, the narrow boxes of profiles were never learnt. Points: smooth L1 in box sides, only for faces with
    labelled points.
    Cells whose centre lies in an ignored box learn nothing about their score.
    """
    owner_BA = assign(batch["boxes"], batch["kinds"], centres_A2, strides_A)
    ignored_BA = in_ignored(batch["boxes"], batch["kinds"], centres_A2, strides_A / 4)
    positive_BA = owner_BA >= 0
    image_N, cell_N = positive_BA.nonzero(as_tuple=True)
    face_N = owner_BA[image_N, cell_N]
    true_N4, found_N4 = batch["boxes"][image_N, face_N], boxes_BA4[image_N, cell_N]
    overlap_N, generalised_N = overlaps(found_N4, true_N4)
    target_N = ((overlap_N.detach() - USELESS) / (GOOD - USELESS)).clamp(min=LEAST, max=1.0)
    target_BA = torch.zeros_like(strides_A.expand_as(owner_BA)).index_put((image_N, cell_N), target_N)
    weight_N = ((true_N4[:, 3] - true_N4[:, 1]) / FULL_WEIGHT).clamp(0.3, 1.0)
    weight_BA = torch.ones_like(target_BA).index_put((image_N, cell_N), weight_N)
    total = (target_N * weight_N).sum().clamp(min=1.0)

    logits_BA = outputs_BAC[..., 0]
    entropy_BA = F.binary_cross_entropy_with_logits(logits_BA, target_BA, reduction="none")
    focus_BA = torch.where(positive_BA, 0.5, 0.75 * logits_BA.detach().sigmoid().square())
    score = (entropy_BA * focus_BA * weight_BA * (positive_BA | ~ignored_BA)).sum() / total
    box = ((1 - generalised_N) * weight_N).sum() / weight_N.sum().clamp(min=1.0)
    points = points_loss(outputs_BAC[image_N, cell_N, 5:], found_N4, batch["points"][image_N, face_N])
    return {"score": score, "box": box, "points": points}


def points_loss(offsets_NC: Tensor, boxes_N4: Tensor, true_NP2: Tensor) -> Tensor:
    """Return the mean smooth L1 of the points in box sides over the labelled ones; unlabelled points are NaN.

    The box gets no gradient.
    """
    labelled_N = true_NP2.isfinite().all(-1).all(-1)
    if not labelled_N.any():
        return offsets_NC.sum() * 0
    boxes_N4, true_NP2 = boxes_N4[labelled_N].detach(), true_NP2[labelled_N]
    centre_N12 = ((boxes_N4[:, :2] + boxes_N4[:, 2:]) / 2)[:, None]
    side_N12 = (boxes_N4[:, 2:] - boxes_N4[:, :2])[:, None]
    target_NP2 = (true_NP2 - centre_N12) / side_N12
    return F.smooth_l1_loss(offsets_NC[labelled_N].view_as(target_NP2), target_NP2, beta=0.05)


def assign(boxes_BG4: Tensor, kinds_BG: Tensor, centres_A2: Tensor, strides_A: Tensor) -> Tensor:
    """Choose the face that each cell learns (B, A), -1 for none.

    A cell learns the nearest face within `REACH` whose height is in its stride's `SPAN`; spans overlap, so a face
    between two strides is learnt by both. The choice depends on the labels alone. Choosing cells by their current
    predictions (as SimOTA does) left scores below 0.5 after 60,000 pictures, because the network cannot learn which of
    several equal cells is chosen.
    """
    faces = kinds_BG.shape[1]
    image_N, face_N = (kinds_BG == FACE).nonzero(as_tuple=True)  # of all pictures: most slots are padding
    boxes_N4 = boxes_BG4[image_N, face_N]
    middle_N2 = (boxes_N4[:, :2] + boxes_N4[:, 2:]) / 2
    height_NA = (boxes_N4[:, 3] - boxes_N4[:, 1])[:, None] / strides_A
    away_NA = (middle_N2[:, None] - centres_A2).abs().amax(-1)
    tall_enough_NA = (height_NA >= SPAN[0]) | (strides_A == strides_A.min())
    low_enough_NA = (height_NA < SPAN[1]) | (strides_A == strides_A.max())
    allowed_NA = (away_NA < REACH * strides_A) & tall_enough_NA & low_enough_NA
    away_NA = away_NA.masked_fill(~allowed_NA, torch.inf)
    row_NA = image_N[:, None].expand_as(away_NA)
    none_BA = away_NA.new_full((len(kinds_BG), len(centres_A2)), torch.inf)
    nearest_BA = none_BA.scatter_reduce(0, row_NA, away_NA, "amin")
    claim_NA = torch.where(allowed_NA & (away_NA == nearest_BA[image_N]), face_N[:, None], faces)
    owner_BA = torch.full_like(none_BA, faces, dtype=torch.long).scatter_reduce(0, row_NA, claim_NA, "amin")
    return torch.where(owner_BA < faces, owner_BA, -1)


def in_ignored(boxes_BG4: Tensor, kinds_BG: Tensor, centres_A2: Tensor, slack_A: Tensor) -> Tensor:
    """Return (B, A): which centres lie in an ignored box enlarged by `slack_A` pixels on all sides."""
    image_N, box_N = (kinds_BG == IGNORED).nonzero(as_tuple=True)
    x, y = centres_A2[:, 0], centres_A2[:, 1]
    x0, y0, x1, y1 = boxes_BG4[image_N, box_N].T[:, :, None]
    inside_NA = (x > x0 - slack_A) & (y > y0 - slack_A) & (x < x1 + slack_A) & (y < y1 + slack_A)
    return torch.zeros(len(kinds_BG), len(centres_A2), device=x.device).index_add(0, image_N, inside_NA.float()) > 0


def overlaps(a_N4: Tensor, b_N4: Tensor) -> tuple[Tensor, Tensor]:
    """Return (N,) intersection over union, and the same minus the share of the hull that neither box covers."""
    inside = (torch.minimum(a_N4[:, 2:], b_N4[:, 2:]) - torch.maximum(a_N4[:, :2], b_N4[:, :2])).clamp(min=0).prod(-1)
    area_a, area_b = (a_N4[:, 2:] - a_N4[:, :2]).prod(-1), (b_N4[:, 2:] - b_N4[:, :2]).prod(-1)
    both = (area_a + area_b - inside).clamp(min=1e-6)
    hull = (torch.maximum(a_N4[:, 2:], b_N4[:, 2:]) - torch.minimum(a_N4[:, :2], b_N4[:, :2])).prod(-1).clamp(min=1e-6)
    return inside / both, inside / both - (hull - both) / hull
