"""The best ELBO that any drift reaches with a fixed variance, by dynamic programming."""

import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import gfnlite as gl

RESULTS = Path(__file__).parent.parent / "reproduce" / "results" / "25gmm.json"


def log_mixture(x):
    """One coordinate of 25GMM: five Gaussians of variance 0.3, log Z = 0."""
    means = np.array([-10.0, -5.0, 0.0, 5.0, 10.0])
    log_modes = -((x[:, None] - means) ** 2) / 0.6 - 0.5 * math.log(2 * math.pi * 0.3)
    return np.logaddexp.reduce(log_modes, axis=1) - math.log(5)


def log_well(x):
    """One coordinate of Manywell with two wells, normalised (its integral is 11784.509265)."""
    return -(x**4) + 6 * x**2 + 0.5 * x - math.log(11784.509265)


def log_reference(x):
    """N(0, 5), which the reference process of variance 5 ends in without any drift."""
    return -(x**2) / 10 - 0.5 * math.log(10 * math.pi)


@cache
def best_elbo(steps, log_r=log_mixture, sigma2=5.0, limit=14.0, spacing=0.0025):
    """max over drifts of E[log w] for one coordinate, on `steps` equal steps.

    With the telescoped log-weight a step of drift u costs dt u^2 / (2 sigma^2) on average, so
    V_i(x) = max_y E[V_{i+1}(y + noise)] - (y - x)^2 / (2 sigma^2 dt), where y = x + u dt, and
    V_T = log R - log N(0, sigma^2). The answer is V_0(0).
    """
    dt = 1 / steps
    x = np.arange(-limit, limit + spacing / 2, spacing)
    value = log_r(x) + 0.5 * x**2 / sigma2 + 0.5 * math.log(2 * math.pi * sigma2)
    std = math.sqrt(sigma2 * dt)
    reach = int(6 * std / spacing)
    offsets = np.arange(-reach, reach + 1) * spacing
    kernel = np.exp(-(offsets**2) / (2 * std**2))
    kernel /= kernel.sum()
    # No drift above 30 is ever worth its price; the finer the grid, the closer each move can be.
    furthest = int((30 * dt + 0.2) / spacing)
    moves = np.arange(-furthest, furthest + 1)
    cost = (moves * spacing) ** 2 / (2 * sigma2 * dt)
    for _ in range(steps):
        # Beyond the grid the value falls like the target; a linear continuation is steep enough.
        slope = (value[1] - value[0], value[-1] - value[-2])
        k = np.arange(1, reach + 1)
        padded = np.concatenate((value[0] - slope[0] * k[::-1], value, value[-1] + slope[1] * k))
        expected = np.convolve(padded, kernel, mode="valid")
        best = np.full_like(expected, -np.inf)
        for move, price in zip(moves, cost, strict=True):
            low, high = max(0, -move), len(x) - max(0, move)
            np.maximum(best[low:high], expected[low + move : high + move] - price,
                       out=best[low:high])  # fmt: skip
        value = best
    return value[len(x) // 2]


def best_well(steps, spacing=0.0025):
    """The floor of one double well: off by spacing^2 on one grid, so two of them are extrapolated.

    Moves end on grid points, which costs up to (spacing T)^2 / 24 sigma^2 in all: too much here.
    """
    coarse, fine = (best_elbo(steps, log_well, 1.0, 4.0, h) for h in (spacing, spacing / 2))
    return (4 * fine - coarse) / 3


@pytest.mark.parametrize("steps, gap", [(100, 0.125), (20, 0.641)])
def test_floor_of_25gmm_is_the_one_the_book_states(steps, gap):
    # Two independent coordinates; log Z = 0.
    assert -2 * best_elbo(steps) == pytest.approx(gap, abs=0.002)


@pytest.mark.parametrize("steps, gap", [(100, 0.956), (20, 5.28)])
def test_floor_of_manywell_is_the_one_the_book_states(steps, gap):
    # Sixteen independent wells; the sixteen Gaussian coordinates are the reference's own.
    assert -16 * best_well(steps) == pytest.approx(gap, rel=0.003)


def test_a_finer_grid_does_not_move_the_floor():
    assert best_elbo(20, spacing=0.005) == pytest.approx(best_elbo(20), abs=2e-4)
    assert best_well(20, 0.005) == pytest.approx(best_well(20), abs=2e-3)


def test_without_modes_to_choose_from_there_is_no_floor():
    # Target N(0, sigma^2) is the reference process itself: u = 0 is perfect on any grid.
    assert best_elbo(10, log_reference) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("steps", [20, pytest.param(50, marks=pytest.mark.full)])
@pytest.mark.parametrize("name, floor", [("25gmm", best_elbo), ("manywell2", best_well)])
def test_no_trained_fixed_variance_beats_its_floor(name, floor, steps):
    task = name.replace("manywell2", "manywell32")
    coordinates = 2 if name == "25gmm" else 1
    target = gl.named_target(name)
    config = gl.preset(task, "TB+Expl", "quick").replace(
        coarse_steps=None, steps=steps, iterations=20 * steps, langevin=True
    )
    sampler = gl.GFNDiffusion(target, config=config).fit(progress=False)
    log_weight = sampler.log_weight(20_000)
    error = (log_weight.std() / math.sqrt(20_000)).item()
    gap = target.log_z - gl.elbo(log_weight)
    assert gap > -coordinates * floor(steps) - 4 * error
    assert gap < 3 * coordinates * -floor(steps)  # and it came near


def test_a_learned_variance_goes_below_the_floor_of_a_fixed_one():
    config = gl.preset("manywell32", "TB", "quick").replace(
        coarse_steps=None, steps=10, iterations=1500, learn_variance=True, langevin=True,
        exploration=0.3,
    )  # fmt: skip
    sampler = gl.GFNDiffusion(gl.ManyWell(2), config=config).fit(progress=False)
    log_weight = sampler.log_weight(20_000)
    error = (log_weight.std() / math.sqrt(20_000)).item()
    assert sampler.target.log_z - gl.elbo(log_weight) < -best_well(10) - 4 * error


def test_no_committed_run_beats_the_floor():
    rows = [row for row in json.loads(RESULTS.read_text())["rows"] if row["seeds"]]
    assert rows
    for row in rows:
        for elbo, fraction in zip(
            row["metrics"]["elbo"]["values"], row["metrics"]["ess"]["values"], strict=True
        ):
            # Var[log w] is about log(1 / ESS) for a good sampler; 4 standard errors of 20,000.
            error = 4 * math.sqrt(math.log(1 / fraction) / 20_000)
            assert elbo < 2 * best_elbo(100) + error, row["method"]
