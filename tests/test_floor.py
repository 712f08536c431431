"""The best ELBO that any drift reaches with a fixed variance, by dynamic programming."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import gfnlite as gl
from gfnlite.floor import best_elbo, floor, has_floor
from reproduce.table import bound_by_floor

RESULTS = Path(__file__).parent.parent / "reproduce" / "results"


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


def best_mixture(steps, spacing=0.0025):
    return best_elbo(log_mixture, steps, 5.0, 14.0, spacing)


def best_well(steps, spacing=0.0025):
    """The floor of one double well: off by spacing^2 on one grid, so two of them are extrapolated.

    Moves end on grid points, which costs up to (spacing T)^2 / 24 sigma^2 in all: too much here.
    """
    coarse, fine = (best_elbo(log_well, steps, 1.0, 4.0, h) for h in (spacing, spacing / 2))
    return (4 * fine - coarse) / 3


@pytest.mark.parametrize("steps, gap", [(100, 0.125), (20, 0.641)])
def test_floor_of_25gmm_is_the_one_the_book_states(steps, gap):
    # Two independent coordinates; log Z = 0.
    assert -2 * best_mixture(steps) == pytest.approx(gap, abs=0.002)


@pytest.mark.parametrize("steps, gap", [(100, 0.956), (20, 5.28)])
def test_floor_of_manywell_is_the_one_the_book_states(steps, gap):
    # Sixteen independent wells; the sixteen Gaussian coordinates are the reference's own.
    assert -16 * best_well(steps) == pytest.approx(gap, rel=0.003)


def test_floor_of_a_target_is_the_sum_over_its_coordinates():
    assert floor(gl.gmm25, 20, 5.0) == pytest.approx(-2 * best_mixture(20), abs=5e-4)
    assert floor(gl.ManyWell(8), 20, 1.0) == pytest.approx(-4 * best_well(20), rel=1e-3)
    # Axes that differ: five means by one, whose single Gaussian has a floor of its own.
    line = gl.GMM([[10.0 - 5 * k, 0.0] for k in range(5)], 0.3)
    point = gl.GMM([[0.0]], 0.3)
    assert floor(line, 20, 5.0) == pytest.approx(
        -best_mixture(20) + floor(point, 20, 5.0), abs=5e-4
    )
    # Beside the wells lie Gaussians N(0, 1), which are free at sigma^2 = 1 only.
    gaussian = floor(gl.GMM([[0.0]], 1.0), 20, 4.0)
    assert floor(gl.GMM([[0.0]], 1.0), 20, 1.0) == pytest.approx(0, abs=1e-3)
    well = -best_elbo(log_well, 20, 4.0, 4.0, 0.00125)
    assert gaussian > 0.01
    assert floor(gl.ManyWell(2), 20, 4.0) == pytest.approx(well + gaussian, abs=3e-3)


def test_targets_that_are_no_known_product_have_no_floor():
    diagonal = gl.GMM([[0.0, 0.0], [1.0, 1.0]], 0.3)
    twice = gl.GMM([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]], 0.3)
    uneven = gl.GMM([[0.0], [1.0]], 0.3, weights=torch.tensor([0.3, 0.7]))
    wide = gl.GMM([[0.0], [1.0]], [0.3, 0.4])
    for target in (diagonal, twice, uneven, wide, gl.gmm40, gl.named_target("funnel")):
        assert floor(target, 20, 1.0) is None


def test_a_finer_grid_does_not_move_the_floor():
    assert best_mixture(20, 0.005) == pytest.approx(best_mixture(20), abs=2e-4)
    assert best_well(20, 0.005) == pytest.approx(best_well(20), abs=2e-3)


def test_without_modes_to_choose_from_there_is_no_floor():
    # Target N(0, sigma^2) is the reference process itself: u = 0 is perfect on any grid.
    assert best_elbo(log_reference, 10, 5.0, 14.0) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("steps", [20, pytest.param(50, marks=pytest.mark.full)])
@pytest.mark.parametrize("name", ["25gmm", "manywell2"])
def test_no_trained_fixed_variance_beats_its_floor(name, steps):
    task = name.replace("manywell2", "manywell32")
    target = gl.named_target(name)
    config = gl.preset(task, "TB+Expl", "quick").replace(
        coarse_steps=None, steps=steps, iterations=20 * steps, langevin=True
    )
    sampler = gl.GFNDiffusion(target, config=config).fit(progress=False)
    log_weight = sampler.log_weight(20_000)
    error = (log_weight.std() / math.sqrt(20_000)).item()
    gap = target.log_z - gl.elbo(log_weight)
    least = floor(target, steps, config.sigma2)
    assert gap > least - 4 * error
    assert gap < 3 * least  # and it came near


def test_a_learned_variance_goes_below_the_floor_of_a_fixed_one():
    config = gl.preset("manywell32", "TB", "quick").replace(
        coarse_steps=None, steps=10, iterations=1500, learn_variance=True, langevin=True,
        exploration=0.3,
    )  # fmt: skip
    sampler = gl.GFNDiffusion(gl.ManyWell(2), config=config).fit(progress=False)
    log_weight = sampler.log_weight(20_000)
    error = (log_weight.std() / math.sqrt(20_000)).item()
    assert sampler.target.log_z - gl.elbo(log_weight) < -best_well(10) - 4 * error


def beats_floor(task, row, least):
    """Whether a seed of a row that the floor binds is above it by more than chance allows."""
    if not bound_by_floor(task, row) or not row["metrics"].get("ess"):
        return False
    truth = gl.named_target(task).log_z
    elbos, fractions = (row["metrics"][name]["values"] for name in ("elbo", "ess"))
    # Var[log w] is about log(1 / ESS) for a good sampler; 4 standard errors of 20,000.
    errors = [4 * math.sqrt(math.log(1 / fraction) / 20_000) for fraction in fractions]
    return any(e > truth - least + error for e, error in zip(elbos, errors, strict=True))


def test_no_committed_run_beats_the_floor():
    checked = 0
    for path in RESULTS.glob("*.json"):
        result = json.loads(path.read_text())
        if "floor" not in result:
            continue
        for row in result["rows"]:
            if row["seeds"]:
                assert not beats_floor(path.stem, row, result["floor"]["delta_log_z"]), row[
                    "method"
                ]
                checked += bound_by_floor(path.stem, row)
    assert checked > 10


@pytest.mark.parametrize("method, elbo, ess, beats", [
    ("TB", -0.05, 0.95, True), ("TB", -0.13, 0.95, False), ("TB+Expl+LV", -0.05, 0.95, False),
    ("DIS", -0.05, 0.95, False), ("SMC+MALA", -0.05, 0.95, False), ("TB", -0.05, None, False),
])  # fmt: skip
def test_the_floor_is_of_rows_that_it_binds_and_of_no_others(method, elbo, ess, beats):
    metrics = {"elbo": {"values": [elbo]}, "ess": ess and {"values": [ess]}}
    row = {"method": method, "profile": "full", "metrics": metrics}
    assert beats_floor("25gmm", row, floor(gl.gmm25, 100, 5.0)) == beats


@pytest.mark.parametrize("change", [
    {}, {"learn_variance": True}, {"learn_backward": True}, {"process": "vp"}, {"grid": "cosine"},
])  # fmt: skip
def test_the_floor_binds_the_reference_process_alone(change):
    assert has_floor(gl.preset("25gmm", "TB+Expl", "full", **change)) == (not change)


def test_one_step_costs_the_divergence_of_two_gaussians():
    m, s2, sigma2 = 1.5, 0.5, 1.0

    def log_r(x):
        return -((x - m) ** 2) / (2 * s2) - 0.5 * math.log(2 * math.pi * s2)

    ratio = sigma2 / s2
    divergence = 0.5 * (ratio - 1 - math.log(ratio))
    assert best_elbo(log_r, 1, sigma2, 8.0) == pytest.approx(-divergence, abs=1e-3)
