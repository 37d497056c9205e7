"""The face detector as a task of `training.train`: its data, its batches, its loss and its validation."""

import logging

import numpy as np
import torch
from torch import Tensor, nn

from nodes import _boxes
from nodes._geometry import BORDER, Image
from training.exported import read_exported, unfold
from training.faces_calibrate import calibrate
from training.faces_data import Cutouts, Picture, chances, read_backgrounds, split
from training.faces_draw import SWAP, Scene, draw_plain, draw_scene
from training.faces_evaluate import Maps, detect, maps_of
from training.faces_loss import detection_loss
from training.faces_metric import curve
from training.faces_net import NETWORKS, boxes_of, cells
from training.faces_points import with_points
from training.faces_settings import SIZES, FaceSettings
from training.faces_sources import read_pictures, terms_of
from training.landmark_data import cache_crops, read_folder
from training.task import Batch, Deployment, network_input, relit

logger = logging.getLogger("training")

OUTPUT = (
    "(B, 15, H / {stride}, W / {stride}) float32 per cell: logit of the score; centre of the box as offset from the "
    "cell's centre, x, y, in strides; logarithms of its width and height in strides; five points x, y as offsets from "
    "the centre of the box in its widths and heights"
)
UNFOLDING_SCENES = 64
"""Scenes over which the batch norms of `init` are measured."""
CALIBRATION_PICTURES = 300
"""Training pictures on which the scores are calibrated."""


class FaceTask:
    """Learns to find faces: a box, a score and five points each."""

    Settings = FaceSettings
    higher_is_better = True

    def __init__(self, settings: FaceSettings) -> None:
        self.settings = settings
        self.training, self.held_out, faults = read_pictures(settings)
        self.chances = chances(self.training)
        if settings.point_teacher is not None:
            self.training = with_points(self.training, settings.point_teacher, settings.cache)
        self.backgrounds: list[Picture] = []
        if settings.backgrounds:
            empty = read_backgrounds(settings.data / settings.backgrounds, set(settings.not_backgrounds))
            self.backgrounds = split(empty, settings.background_hold_out, "name")[0]
        samples = []
        for name, folder in settings.points.items():
            more, missing = read_folder(settings.data / folder, name)
            samples += more
            faults += missing
        self.cutouts = None
        if samples:
            crops, unusable = cache_crops(samples, settings.cache)
            self.cutouts = Cutouts(crops)
            faults += unusable
        for fault in faults:
            logger.warning("%s", fault)
        logger.info("faces: %d pictures to train with, %d held out, %d backgrounds, %d faces with points, %d faults",
                    len(self.training), len(self.held_out), len(self.backgrounds), len(samples), len(faults))

    def network(self) -> nn.Module:
        """Return a detector with random weights."""
        return NETWORKS[self.settings.network]()

    def begin(self, network: nn.Module) -> None:
        """Load the weights of `init`."""
        if self.settings.init is not None:
            images = self.batch(np.random.default_rng(0), UNFOLDING_SCENES)["image"]
            unfold(network, read_exported(self.settings.init), network_input(images))

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        """Draw scenes; images are uint8, boxes, points and kinds padded to the most faces of a scene."""
        scenes = []
        for _ in range(size):
            empty = self.backgrounds and rng.random() < self.settings.background_share
            pictures, likely = (self.backgrounds, None) if empty else (self.training, self.chances)
            if rng.random() < self.settings.plain:
                scenes.append(draw_plain(rng, pictures, self.cutouts, self.settings.size, likely))
            else:
                scenes.append(draw_scene(rng, pictures, self.cutouts, self.settings.size, likely))
        return collate(scenes)

    def again(self, rng: torch.Generator, batch: Batch, look: int) -> Batch:
        """Return the scenes relit, and mirrored every other time."""
        image = relit(rng, batch["image"])
        return mirrored(batch, image) if look % 2 else batch | {"image": image}

    def loss(self, network: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum and the parts `score`, `box` and `points`."""
        image = network_input(batch["image"])
        bfloat16 = self.settings.bfloat16
        enabled = has_bfloat16(image.device) if bfloat16 is None else bfloat16
        with torch.autocast(image.device.type, torch.bfloat16, enabled=enabled):
            maps = network(image)
        outputs, centres, strides = cells([level.float() for level in maps])
        parts = detection_loss(outputs, boxes_of(outputs, centres, strides), centres, strides, batch)
        total = parts["score"] + self.settings.box_weight * parts["box"] + self.settings.point_weight * parts["points"]
        return total, {name: value.detach() for name, value in parts.items()}

    def deploy(self, network: nn.Module, portrait: np.ndarray) -> Deployment:
        """Calibrate the network's scores in place, and return it with named maps.

        The reference is the portrait fitted to 320 x 240 in 320 x 256.
        """
        every = max(1, len(self.training) // CALIBRATION_PICTURES)
        scores = calibrate(network, torch_maps(network), self.training[::every], self.settings.validation_size)
        fitted = np.stack([fit(portrait), fit(np.ascontiguousarray(portrait[::-1]))])
        return Deployment(
            module=Deployed(network).eval(),
            images=fitted,
            dynamic={0: "pictures", 2: "height", 3: "width"},
            outputs={f"stride{stride}": OUTPUT.format(stride=stride) for stride in _boxes.STRIDES},
            contract={
                "letterbox": "fitted to the wanted size with its proportions kept, at the top left; right and bottom "
                             "filled with 127 to multiples of 32; nodes._boxes.letterbox",
                "pixels": "the centre of pixel (0, 0) is (0.0, 0.0)",
                "points": list(_boxes.POINTS),
                "decode": "nodes._boxes.decode, then nodes._boxes.merge",
                "threshold": 0.5,
                "scores": "calibrated on training pictures: about the share of detections of this score and size that "
                          "overlap a face by at least a half",
                "calibration": {f"stride{stride}": {name: round(value, 3) for name, value in vars(score).items()}
                                for stride, score in zip(_boxes.STRIDES, scores, strict=True)},
            },
            calibration=np.stack([fit(picture.image()) for picture in self.training[::every]][:100]),
            measure=lambda run: {f"1 - {name}": 1 - value for name, value in self._precision(maps_of(run)).items()},
            terms=terms_of(self.settings),
        )

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Return the average precision for held-out faces of at least 16, 32 and 8 px in the input."""
        return self._precision(torch_maps(network))

    def _precision(self, maps: Maps) -> dict[str, float]:
        found = [detect(maps, picture, self.settings.validation_size) for picture in self.held_out]
        return {f"ap{size}": curve(found, size).average for size in SIZES}


def has_bfloat16(device: torch.device) -> bool:
    """Say whether a device has instructions for bfloat16."""
    return device.type == "cuda" or bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def fit(image: Image) -> Image:
    """Return a picture fitted to 320 x 240, in 320 x 256."""
    canvas = np.full((256, 320, 3), BORDER, np.uint8)
    small = _boxes.letterbox(image, (320, 240))[0]
    canvas[: small.shape[0], : small.shape[1]] = small
    return canvas


class Deployed(nn.Module):
    """The detector with its maps by name."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Map image (B, 3, H, W) to one map per stride."""
        maps = self.network(image)
        return {f"stride{stride}": level for stride, level in zip(_boxes.STRIDES, maps, strict=True)}


def collate(scenes: list[Scene]) -> Batch:
    """Stack scenes into tensors, padded with faces of kind 0."""
    most = max(1, *(len(scene.kinds) for scene in scenes))
    boxes = np.zeros((len(scenes), most, 4), np.float32)
    points = np.full((len(scenes), most, 5, 2), np.nan, np.float32)
    kinds = np.zeros((len(scenes), most), np.int64)
    for i, scene in enumerate(scenes):
        faces = len(scene.kinds)
        boxes[i, :faces], points[i, :faces], kinds[i, :faces] = scene.boxes, scene.points, scene.kinds
    image = np.stack([scene.image for scene in scenes])
    return {
        "image": torch.from_numpy(image).permute(0, 3, 1, 2),
        "boxes": torch.from_numpy(boxes),
        "points": torch.from_numpy(points),
        "kinds": torch.from_numpy(kinds),
    }


def mirrored(batch: Batch, image: Tensor) -> Batch:
    """Return a batch mirrored left to right, with these images (B, 3, H, W), which are given unmirrored."""
    last = image.shape[-1] - 1
    boxes = batch["boxes"]
    points = batch["points"][:, :, SWAP]
    return batch | {
        "image": image.flip(-1),
        "boxes": torch.stack((last - boxes[..., 2], boxes[..., 1], last - boxes[..., 0], boxes[..., 3]), -1),
        "points": torch.stack((last - points[..., 0], points[..., 1]), -1),
    }


def torch_maps(network: nn.Module) -> Maps:
    """Return the maps of the network, which is in evaluation mode."""
    device = next(network.parameters()).device

    @torch.no_grad()
    def run(batch: np.ndarray) -> list[np.ndarray]:
        image = torch.from_numpy(batch).to(device, memory_format=torch.channels_last)
        return [level[0].float().cpu().numpy() for level in network(image)]

    return run
