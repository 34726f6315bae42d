"""MAPE and Kendall's tau, against their definitions."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from shardwright_costmodel.training.metrics import kendall_tau, mape_percent

RNG = np.random.default_rng(0)


def tau_by_definition(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    """Tau-b from all pairs: (concordant - discordant) over pairs not tied in each."""
    upper = np.triu_indices(len(x), k=1)
    dx, dy = np.sign(x[upper[0]] - x[upper[1]]), np.sign(y[upper[0]] - y[upper[1]])
    return float(np.sum(dx * dy) / math.sqrt(np.sum(dx != 0) * np.sum(dy != 0)))


@pytest.mark.parametrize("size", [2, 3, 7, 64, 65, 300])
@pytest.mark.parametrize("ties", [False, True])
def test_tau_is_that_of_all_pairs(size: int, ties: bool) -> None:
    x = RNG.normal(size=size)
    y = x + RNG.normal(size=size)
    if ties:
        x, y = np.round(x), np.round(y)
        x[0], y[0] = 9.0, -9.0  # never constant
    assert kendall_tau(x, y) == pytest.approx(tau_by_definition(x, y), abs=1e-12)


def test_tau_of_the_same_and_of_the_opposite_order() -> None:
    x = RNG.normal(size=1000)
    assert kendall_tau(x, np.exp(x)) == pytest.approx(1.0)
    assert kendall_tau(x, -x) == pytest.approx(-1.0)


def test_tau_with_a_constant_is_zero() -> None:
    assert kendall_tau([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) == 0.0
    assert kendall_tau([1.0], [2.0]) == 0.0


def test_mape_is_the_mean_relative_error_in_percent() -> None:
    assert mape_percent([1.0, 2.0, 4.0], [1.1, 1.8, 4.0]) == pytest.approx(20.0 / 3.0)
