"""A larger network, the tutor, that is trained together with the released one, the pupil, and guides its points.

The tutor's points are calmer than labels made by machine, and more accurate than the pupil's.
Source: Zhang et al. 2018, "Deep Mutual Learning", except that the tutor learns from the labels alone.

Shapes: B batch, R rows that the tutor sees, N 68 points.
"""

from torch import Tensor, nn

from training.landmark_settings import LandmarkSettings
from training.networks import make_network
from training.settings import SettingsError
from training.task import Batch


class Tutored(nn.Module):
    """Both networks on the same crops; in evaluation mode, the pupil alone."""

    def __init__(self, pupil: nn.Module, tutor: nn.Module, share: float) -> None:
        super().__init__()
        self.pupil, self.tutor, self.share = pupil, tutor, share

    def forward(self, image_B3HW: Tensor) -> Batch:
        """Return the pupil's outputs; in training mode also those of the tutor for the first rows, as `tutor.NAME`."""
        out: Batch = self.pupil(image_B3HW)
        if self.training:
            rows = tutored_rows(len(image_B3HW), self.share)
            out |= {f"tutor.{name}": value for name, value in self.tutor(image_B3HW[:rows]).items()}
        return out


def tutored_rows(size: int, share: float) -> int:
    """Return how many rows of a batch the tutor sees: an even number, because the first rows are pairs."""
    return max(2, round(size * share / 2) * 2)


def split_outputs(out: Batch) -> tuple[Batch, Batch]:
    """Return the pupil's and the tutor's outputs; the latter are empty if there is no tutor."""
    pupil = {name: value for name, value in out.items() if not name.startswith("tutor.")}
    return pupil, {name.removeprefix("tutor."): value for name, value in out.items() if name not in pupil}


def first_rows(batch: Batch, rows: int) -> Batch:
    """Return the first rows of a batch, and the pairs among them."""
    return {name: value[: rows // 2] if name.startswith("pair_") else value[:rows] for name, value in batch.items()}


def tutor_distance(points_BN2: Tensor, tutor_RN2: Tensor, presence_B: Tensor) -> Tensor:
    """Return the mean distance in pixels of the pupil's points from the tutor's, which get no gradient."""
    rows = len(tutor_RN2)
    apart_R = ((points_BN2[:rows] - tutor_RN2.detach()).square().sum(-1) + 1e-4).sqrt().mean(1)
    present_R = presence_B[:rows]
    return (apart_R * present_R).sum() / present_R.sum().clamp(min=1)


def build(settings: LandmarkSettings) -> nn.Module:
    """Return the network that the settings name, with random weights, and with a tutor if they name one."""
    pupil = make_network(settings.network, settings.size)
    if not settings.tutor:
        return pupil
    return Tutored(pupil, make_network(settings.tutor, settings.size), settings.tutor_share)


def pupil_of(network: nn.Module) -> nn.Module:
    """Return the network that is released: the pupil if there is a tutor."""
    return network.pupil if isinstance(network, Tutored) else network


def tutor_of(network: nn.Module) -> nn.Module:
    """Return the tutor. Raises SettingsError if there is none."""
    if not isinstance(network, Tutored):
        raise SettingsError("this network was trained without a tutor (settings.tutor)")
    return network.tutor
