"""The mean of checkpoints' weights."""

from pathlib import Path

import pytest
import torch

from training import average, checkpoint


def written(path: Path, value: float, width: int = 3) -> Path:
    weights = {"layer.weight": torch.full((2, width), float(value)), "norm.count": torch.tensor(7)}
    checkpoint.save(path, {"ema": weights, "model": weights, "step": int(value)})
    return path


def test_shares_weigh_and_the_rest_is_the_firsts(tmp_path: Path) -> None:
    first, second = written(tmp_path / "a.pt", 4), written(tmp_path / "b.pt", 1)
    out = tmp_path / "mean.pt"
    assert average.main([str(first), str(second), "--shares", "2", "1", "--out", str(out)]) == 0
    mean = checkpoint.load(out)
    torch.testing.assert_close(mean["ema"]["layer.weight"], torch.full((2, 3), 3.0))
    assert (mean["ema"]["norm.count"], mean["step"]) == (7, 4)
    assert average.main([str(first), str(second), "--out", str(out)]) == 0
    assert checkpoint.load(out)["ema"]["layer.weight"].unique().tolist() == [2.5]


@pytest.mark.parametrize(("shares", "why"), [
    (["1"], "shares: 2 of at least 0 are needed, and not all 0; found [1.0]"),
    (["0", "0"], "shares: 2 of at least 0 are needed"),
    (["1", "1"], "b.pt: weights of another network than those of"),
])
def test_what_cannot_be_averaged_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, shares: list[str], why: str
) -> None:
    first, second = written(tmp_path / "a.pt", 4), written(tmp_path / "b.pt", 1, width=5)
    command = [str(first), str(second), "--shares", *shares, "--out", str(tmp_path / "mean.pt")]
    assert average.main(command) == 2
    assert why in caplog.text
    assert not (tmp_path / "mean.pt").exists()
