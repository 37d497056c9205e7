"""A larger network that learns beside the one that is released, and shows it its own points.

One pass makes both. The tutor's points are calmer than labels made by machine, and closer than the pupil's.
Source: Zhang et al. 2018, "Deep Mutual Learning", with the larger one taught by labels alone.

Shapes: B batch, R rows that the tutor sees, N 68 points.
"""

from torch import Tensor, nn

from training.landmark_settings import LandmarkSettings
from training.networks import make_network
from training.settings import SettingsError
from training.task import Batch


class Tutored(nn.Module):
    """Two networks on the same crops; evaluated, it is the pupil alone."""

    def __init__(self, pupil: nn.Module, tutor: nn.Module, share: float) -> None:
        super().__init__()
        self.pupil, self.tutor, self.share = pupil, tutor, share

    def forward(self, image_B3HW: Tensor) -> Batch:
        """Return the pupil's outputs; while training also the tutor's, of the first rows, under names `tutor.NAME`."""
        out: Batch = self.pupil(image_B3HW)
        if self.training:
            rows = tutored_rows(len(image_B3HW), self.share)
            out |= {f"tutor.{name}": value for name, value in self.tutor(image_B3HW[:rows]).items()}
        return out


def tutored_rows(size: int, share: float) -> int:
    """Return how many rows of a batch the tutor sees: an even number, for pairs come first."""
    return max(2, round(size * share / 2) * 2)


def part_outputs(out: Batch) -> tuple[Batch, Batch]:
    """Return the pupil's and the tutor's outputs; the latter is empty when there is none."""
    pupil = {name: value for name, value in out.items() if not name.startswith("tutor.")}
    return pupil, {name.removeprefix("tutor."): value for name, value in out.items() if name not in pupil}


def first_rows(batch: Batch, rows: int) -> Batch:
    """Return the batch of the first rows alone, with the pairs among them."""
    return {name: value[: rows // 2] if name.startswith("pair_") else value[:rows] for name, value in batch.items()}


def away_from_tutor(points_BN2: Tensor, tutor_RN2: Tensor, presence_B: Tensor) -> Tensor:
    """Return the mean distance in pixels of the pupil's points from the tutor's, which it does not move."""
    rows = len(tutor_RN2)
    apart_R = ((points_BN2[:rows] - tutor_RN2.detach()).square().sum(-1) + 1e-4).sqrt().mean(1)
    present_R = presence_B[:rows]
    return (apart_R * present_R).sum() / present_R.sum().clamp(min=1)


def assembled(settings: LandmarkSettings) -> nn.Module:
    """Return the network that the settings name, freshly initialised, with its tutor where they name one."""
    pupil = make_network(settings.network, settings.size)
    if not settings.tutor:
        return pupil
    return Tutored(pupil, make_network(settings.tutor, settings.size), settings.tutor_share)


def taught(network: nn.Module) -> nn.Module:
    """Return the network that is released: the pupil where there is a tutor."""
    return network.pupil if isinstance(network, Tutored) else network


def tutor_of(network: nn.Module) -> nn.Module:
    """Return the tutor, to export it. Raises SettingsError when there is none."""
    if not isinstance(network, Tutored):
        raise SettingsError("this network was trained without a tutor (settings.tutor)")
    return network.tutor
