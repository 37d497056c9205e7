import numpy as np
import pytest

from training.metrics import area_under_curve, f1, failure_rate, normalised_errors


def test_measures_by_hand() -> None:
    true = np.zeros((1, 68, 2))
    true[0, 45] = (50, 0)
    assert normalised_errors(true + np.array([0, 2]), true) == pytest.approx(np.full((1, 68), 4.0))
    errors = np.array([2.0, 4.0, 12.0])
    assert failure_rate(errors, 8) == pytest.approx(100 / 3)
    assert area_under_curve(errors, 8) == pytest.approx((0.75 + 0.5 + 0) / 3)
    curve = [(errors <= limit).mean() for limit in np.arange(0, 8, 0.001)]
    assert area_under_curve(errors, 8) == pytest.approx(np.mean(curve), abs=1e-3)
    assert f1(np.array([True, True, False]), np.array([True, False, True])) == 0.5
    assert f1(np.array([True, False]), np.array([False, False])) == 0
    assert np.isnan(f1(np.array([False]), np.array([False])))
