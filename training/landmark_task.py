"""The landmark task: how its batches are drawn, its loss, its validation and its export.

Shapes: B batch, N 68 points.
"""

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nodes._geometry import MARGIN, crop, crop_matrix, to_input
from training import augment, landmark_data, landmark_net, metrics
from training.augment import View
from training.cover import cover
from training.exported import read_exported, terms_with_init, unfold
from training.landmark_data import MIRROR
from training.landmark_loss import landmark_loss
from training.landmark_net import POSE_UNIT, Deployed
from training.landmark_settings import LandmarkSettings
from training.landmark_sources import read_backgrounds, read_sources
from training.landmark_validation import Validation, crop_pose
from training.lookalikes import find_lookalikes
from training.networks import has_pose
from training.task import Batch, Deployment, network_input, relit
from training.teacher import relabelled
from training.tutor import Tutored, build, first_rows, pupil_of, split_outputs, tutor_distance, tutor_of

logger = logging.getLogger("training")

OUTPUTS = {
    "landmarks": "(faces, 68, 2) x, y in crop pixels, iBUG order",
    "spread": "(faces, 68) expected distance of each point from the true one, crop pixels",
    "states": f"(faces, 4) probabilities: {', '.join(landmark_data.STATES)}; left as seen in the image",
    "presence": "(faces,) probability that the crop shows a face about where its box says",
    "pose": "(faces, 3) pitch, yaw, roll of the head in degrees, as seen in the crop; see graph.messages.POSE",
}
UNFOLDING_CROPS = 256
"""Crops over which the batch norms of `init` are measured."""
CALIBRATION_FACES = 100
"""Training faces whose activations set the scales of int8 versions."""
PORTRAIT_BOX = np.array([[178, 165, 358, 332]], np.float32)
"""Box of the 68 points in the portrait of Grace Hopper that comes with matplotlib, set by eye."""


class LandmarkTask:
    """Learns 68 points, their uncertainty, eye and mouth states, and whether there is a face at all."""

    Settings = LandmarkSettings
    higher_is_better = False

    def __init__(self, settings: LandmarkSettings) -> None:
        self.settings = settings
        training, validation = read_sources(settings)
        self.crops, faults = landmark_data.cache_crops(training, settings.cache)
        for fault in faults:
            logger.warning("%s", fault)
        self.crops = relabelled(self.crops, settings)
        self.validation = Validation(validation, settings)
        self.backgrounds = read_backgrounds(settings, held_out=False)
        self.lookalikes = find_lookalikes(settings, held_out=False)
        self.states = landmark_data.states(self.crops.points)
        self.chances = self._chances()
        sources = [settings.sources[name] for name in self.crops.sources]
        self.jaw_weights = np.array([source.jaw_weight for source in sources], np.float32)
        self.states_known = np.array([source.states for source in sources])
        self.mild = np.array([settings.mild if source.mild is None else source.mild for source in sources])
        self.region_weights = np.ones(landmark_net.POINTS, np.float32)
        for name, weight in settings.region_weights.items():
            self.region_weights[metrics.REGIONS[name]] = weight

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the held-out crops, which are in memory: tasks are pickled for workers, which only draw batches."""
        return vars(self) | {"validation": None}

    def _chances(self) -> np.ndarray:
        weights = np.array([self.settings.sources[name].weight for name in self.crops.sources])
        known = np.array([self.settings.sources[name].states for name in self.crops.sources])
        closed, wide_open = self.states[:, :2].any(1) & known, self.states[:, 3].astype(bool) & known
        for rare in (closed, wide_open, half_profile(self.crops.points)):
            weights = np.where(rare, weights * self.settings.rare, weights)
        return weights / weights.sum()

    def network(self) -> nn.Module:
        """Return the network that the settings name, with its tutor if they name one."""
        return build(self.settings)

    def begin(self, network: nn.Module) -> None:
        """Load the weights of `init` into the network, and those of `tutor_init` into its tutor."""
        for name, part in (("init", pupil_of), ("tutor_init", tutor_of)):
            path, setting = getattr(self.settings, name), f"settings.{name}"
            if path is not None:
                images = self.batch(np.random.default_rng(0), UNFOLDING_CROPS)["image"]
                unfold(part(network), read_exported(path, setting), network_input(images), setting)

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        """Draw and augment faces, and some crops without one, from which only presence is learnt.

        The first rows are pairs of views of the same face; `pair_map` (P, 2, 3) maps the first crop to the second.
        """
        side, pairs = self.settings.size, int(size * self.settings.pairs / 2)
        single = size - 2 * pairs
        face = np.repeat(np.arange(pairs + single), [2] * pairs + [1] * single)
        present = (rng.random(pairs + single) >= self.settings.negatives)[face]
        indices = rng.choice(len(self.crops), pairs + single, p=self.chances)[face]
        images = np.empty((size, side, side, 3), np.uint8)
        points = np.zeros((size, landmark_net.POINTS, 2), np.float32)
        batch = {}
        if pairs:
            drawn = self._draw_pairs(rng, indices[: 2 * pairs], present[: 2 * pairs], images, points)
            batch = {name: torch.from_numpy(values) for name, values in drawn.items()}
        for i in range(2 * pairs, size):
            images[i], points[i] = self._single(rng, indices[i], bool(present[i]))
        return batch | self._targets(images, points, present, indices)

    def _draw_pairs(self, rng: np.random.Generator, indices: np.ndarray, present: np.ndarray, images: np.ndarray,
                    points: np.ndarray) -> dict[str, np.ndarray]:
        """Fill the first rows of images and points with pairs of views; return the maps from first to second views."""
        maps, mirrored = np.zeros((len(indices) // 2, 2, 3), np.float32), np.zeros(len(indices) // 2, bool)
        for pair, i in enumerate(range(0, len(indices), 2)):
            if not present[i]:
                images[i], images[i + 1] = self._no_face(rng, indices[i]), self._no_face(rng, indices[i])
                continue
            first, mild = self._draw_view(rng, indices[i])
            second, maps[pair] = augment.draw_near(rng, first, self.settings.size)
            mirrored[pair] = second.mirrored != first.mirrored
            images[i], points[i] = self._face(rng, indices[i], first, mild)
            images[i + 1], points[i + 1] = self._face(rng, indices[i], second, mild)
        return {"pair_map": maps, "pair_mirrored": mirrored}

    def _single(self, rng: np.random.Generator, index: int, present: bool) -> tuple[np.ndarray, np.ndarray | int]:
        return self._face(rng, index, *self._draw_view(rng, index)) if present else (self._no_face(rng, index), 0)

    def _draw_view(self, rng: np.random.Generator, index: int) -> tuple[View, bool]:
        mild = bool(rng.random() < self.mild[index])
        return augment.draw_view(rng, self.crops.points[index], self.settings.size, mild), mild

    def _targets(self, images: np.ndarray, points: np.ndarray, present: np.ndarray, indices: np.ndarray) -> Batch:
        """Return the tensors of a batch, except those of pairs."""
        weights = np.ones(points.shape[:2], np.float32)
        weights[:, metrics.REGIONS["jaw"]] = self.jaw_weights[indices, None]
        weights *= self.region_weights
        batch = {
            "image": torch.from_numpy(images).permute(0, 3, 1, 2),
            "points": torch.from_numpy(points),
            "weights": torch.from_numpy(weights * present[:, None]),
            "states": torch.from_numpy(landmark_data.states(points) * present[:, None]),
            "states_weight": torch.from_numpy((self.states_known[indices] & present).astype(np.float32)),
            "presence": torch.from_numpy(present.astype(np.float32)),
        }
        if has_pose(self.settings.network):
            pose = crop_pose(points, self.settings.size)
            known = np.isfinite(pose).all(1)
            batch["pose"] = torch.from_numpy(np.where(known[:, None], pose / POSE_UNIT, 0).astype(np.float32))
            batch["pose_weight"] = torch.from_numpy(known.astype(np.float32))
        return batch

    def _face(self, rng: np.random.Generator, index: int, view: View, mild: bool) -> tuple[np.ndarray, np.ndarray]:
        image = augment.cut_view(rng, self.crops.images[index], view.matrix, self.settings.size)
        points = view.points(self.crops.points[index])
        if not mild and rng.random() < self.settings.covered:
            image = cover(rng, image, points)
        return augment.relight(rng, image) if mild else augment.degrade(rng, image, self._other(rng)), points

    def _no_face(self, rng: np.random.Generator, index: int) -> np.ndarray:
        if self.lookalikes and rng.random() < 0.33:
            image = self.lookalikes.draw(rng, self.settings.size)
        elif len(self.backgrounds) and rng.random() < 0.6:
            image = self._other(rng)
        else:
            view = augment.draw_miss(rng, self.crops.points[index], self.settings.size)
            image = augment.cut_view(rng, self.crops.images[index], view.matrix, self.settings.size)
        return augment.degrade(rng, image, self._other(rng))

    def _other(self, rng: np.random.Generator) -> np.ndarray:
        size = self.settings.size
        pictures = self.backgrounds if len(self.backgrounds) else self.crops.images
        picture = pictures[rng.integers(len(pictures))]
        x, y = rng.integers(0, landmark_data.CACHE_SIDE - size + 1, 2)
        cut = picture[y : y + size, x : x + size]
        return cut[:, ::-1] if rng.random() < 0.5 else cut

    def again(self, rng: torch.Generator, batch: Batch, look: int) -> Batch:
        """Return the faces relit, and mirrored every other time."""
        image = relit(rng, batch["image"])
        return mirrored(batch, image) if look % 2 else batch | {"image": image}

    def loss(self, network: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of the losses, and each of them."""
        out, tutor = split_outputs(network(network_input(batch["image"])))
        total, parts = landmark_loss(out, batch, self.settings)
        if not tutor:
            return total, parts
        tutor_total, tutor_parts = landmark_loss(tutor, first_rows(batch, len(tutor["landmarks"])), self.settings)
        distance = tutor_distance(out["landmarks"].float(), tutor["landmarks"].float(), batch["presence"])
        parts |= {"from_tutor": distance.detach(), **{f"tutor_{name}": value for name, value in tutor_parts.items()}}
        return total + tutor_total + self.settings.tutor_weight * distance, parts

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Measure the mean error per set with true boxes, the F1 of the states, and the accuracy of presence."""
        measured = self.validation(pupil_of(network))
        if isinstance(network, Tutored):
            measured |= {f"tutor_{name}": value for name, value in self.validation(network.tutor).items()}
        return measured

    def _calibration(self) -> np.ndarray:
        every = max(1, len(self.crops) // CALIBRATION_FACES)
        cuts = [landmark_data.cut_face(self.crops.images[i], self.crops.points[i], self.settings.size, MARGIN)[0]
                for i in range(0, len(self.crops), every)]
        return np.stack(cuts)

    def _terms(self) -> list[str]:
        s = self.settings
        by = {"file": "", "teacher": "; points by a teacher network", "mean": "; points: mean with a teacher network's"}
        used = {name: source for name, source in s.sources.items() if source.weight > 0}
        terms = [f"{name}: {source.terms}{by[source.labels]}" for name, source in used.items()]
        terms += [f"no faces: {s.background_terms}"] if s.backgrounds or s.wider else []
        return terms_with_init(terms, s.init, s.tutor_init)

    def deploy(self, network: nn.Module, portrait: np.ndarray) -> Deployment:
        """Return the network with probabilities instead of logits; the reference is the crop of the portrait's face."""
        size, network = self.settings.size, pupil_of(network)
        reference = crop(portrait, crop_matrix(PORTRAIT_BOX, size), size)
        module = Deployed(network, self.validation.spread_scale(network)).eval()
        with torch.inference_mode():
            outputs = {name: OUTPUTS[name] for name in module(torch.from_numpy(to_input(reference)))}
        return Deployment(
            module=module,
            images=np.concatenate((reference, self.validation.images[:: max(1, len(self.validation.images) // 7)])),
            dynamic={0: "faces"},
            outputs=outputs,
            contract={
                "crop": f"square of side {MARGIN} x the longer side of the box of the 68 points, centred on it, turned "
                        "upright if the roll is known; bilinear; outside the frame 127; nodes._geometry.crop_matrix",
                "margin": MARGIN,
                "pixels": "the centre of pixel (0, 0) is (0.0, 0.0)",
                "portrait_box": PORTRAIT_BOX[0].tolist(),
            },
            calibration=self._calibration(),
            measure=self.validation.errors,
            terms=self._terms(),
        )


def mirrored(batch: Batch, image: Tensor) -> Batch:
    """Return a batch mirrored left to right, with these images (B, 3, H, W), which are given unmirrored.

    Points change their names, eyes swap their states, yaw and roll change sign; a map M between two views becomes
    F M F, where F is the mirror.
    """
    last = image.shape[-1] - 1
    other = {"image": image.flip(-1), "states": batch["states"][:, [1, 0, 2, 3]]}
    points = batch["points"][:, MIRROR]
    other["points"] = torch.stack((last - points[..., 0], points[..., 1]), -1)
    other["weights"] = batch["weights"][:, MIRROR]
    if "pose" in batch:
        other["pose"] = batch["pose"] * batch["pose"].new_tensor([1, -1, -1])
    if "pair_map" in batch:
        along, across, shift = batch["pair_map"].unbind(-1)
        sign = along.new_tensor([-1, 1])
        there = shift + along * last
        there = torch.stack((last - there[:, 0], there[:, 1]), -1)
        other["pair_map"] = torch.stack((along * sign * -1, across * sign, there), -1)
    return batch | other


def half_profile(points: np.ndarray) -> np.ndarray:
    """Say which faces (F, 68, 2) are turned so far that one side of the nose appears twice as wide as the other."""
    left = np.linalg.norm(points[:, 30] - points[:, 2], axis=-1)
    right = np.linalg.norm(points[:, 30] - points[:, 14], axis=-1)
    return np.maximum(left, right) > 2.0 * np.minimum(left, right)
