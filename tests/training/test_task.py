import numpy as np
import pytest
import torch

from nodes._geometry import to_input
from training.task import network_input, relit


def test_training_and_run_time_use_the_same_input_range() -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    shown = network_input(torch.from_numpy(image).permute(0, 3, 1, 2)).numpy()
    assert shown == pytest.approx(to_input(image), abs=1e-6)


def test_relit_pictures_have_at_most_a_third_more_contrast_and_do_not_wrap() -> None:
    image = torch.full((200, 3, 4, 4), 127, dtype=torch.uint8)
    image[:, :, 0], image[:, :, 3] = 87, 167
    seen = relit(torch.Generator().manual_seed(0), image).float()
    contrast, middle = (seen[:, 1, 3, 0] - seen[:, 1, 0, 0]) / 80, seen[:, 1, 1, 0] - 127
    assert 0.64 < contrast.min() < 0.75 and 1.25 < contrast.max() < 1.36
    assert middle.abs().max() <= 26 and middle.std() == pytest.approx(50 / 12**0.5, rel=0.15)
    assert relit(torch.Generator().manual_seed(0), torch.full((50, 3, 4, 4), 255, dtype=torch.uint8)).min() > 180
