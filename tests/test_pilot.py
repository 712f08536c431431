"""The pilot: widths that are known, or known to train well."""

import time

import pytest
import torch

import gfnlite as gl
from gfnlite.pilot import Scale, suggest_scale


def within(value, truth, factor):
    return truth / factor < value < truth * factor


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("dim", [1, 2, 16])
@pytest.mark.parametrize("std", [0.1, 1.0, 10.0])
def test_variance_of_a_gaussian_is_found(std, dim, seed):
    """For N(0, s^2 I) the exact optimum is sigma2 = s^2, with nothing to explore."""
    found = suggest_scale(gl.Gaussian([0.0] * dim, std), seed=seed)
    assert within(found.sigma2, std**2, 1.1) and within(found.spread, std, 1.2)
    assert found.exploration == 0 and found.warning is None
    assert within(found.radius, 2.6 * std, 1.3)
    # The twin: of another target the same criterion does not hold.
    wrong = suggest_scale(gl.Gaussian([0.0] * dim, 1.3 * std), seed=seed)
    assert not within(wrong.sigma2, std**2, 1.1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_shifted_gaussian_is_wide_about_the_origin(seed):
    found = suggest_scale(gl.Gaussian([6.0, -8.0], 1.0), seed=seed)
    assert within(found.spread, 51**0.5, 1.05)
    assert within(found.sigma2, (37**0.5 + 65**0.5) / 2, 1.25)
    assert within(found.sigma2 + found.exploration, 65 / 2, 1.25)
    assert within(found.radius, 10.3, 1.15)


# Target; E[x_i^2]^(1/2) over coordinates; and total variance, sigma2 + exploration, that trained
# best: 5 + 16 to 20, 5 + 4, and 1 + 1.
KNOWN = [
    (gl.gmm25, 50.3**0.5, 23), (gl.gmm9, 16.97**0.5, 9),
    (gl.ManyWell(8), 1.40, 2), (gl.ManyWell(32), 1.40, 2),
]  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("target, spread, total", KNOWN, ids=lambda v: getattr(v, "name", ""))
def test_settings_known_to_train_well_are_suggested(target, spread, total, seed):
    found = suggest_scale(target, seed=seed)
    exact = target.sample(50_000, torch.Generator().manual_seed(1))
    assert within(exact.square().mean().sqrt().item(), spread, 1.02)
    assert within(found.spread, spread, 1.15)
    assert within(found.sigma2 + found.exploration, total, 1.4)
    assert found.warning is None
    assert found.reaches(found.sigma2, found.exploration) is None


def test_warns_where_a_sigma2_cannot_reach():
    """25GMM with sigma2 = 5 needs exploration: with 1 alone training finds 12 modes of 25."""
    for seed in range(3):
        found = suggest_scale(gl.gmm25, seed=seed)
        message = found.reaches(5.0)
        assert "sigma2=5 " in message and "exploration=" in message
        assert found.reaches(5.0, 18.0) is None
        assert suggest_scale(gl.ManyWell(32), seed=seed).reaches(1.0) is None
    scale = Scale(sigma2=1.0, exploration=0.0, spread=1.0, radius=4.1, energy_calls=0)
    assert scale.reaches(1.0) is not None and scale.reaches(1.1) is None


@pytest.mark.parametrize("bad", [(0.0,), (-1.0,), (float("nan"),), (1.0, -1.0)])
def test_no_variance_at_all_is_refused(bad):
    scale = Scale(sigma2=1.0, exploration=0.0, spread=1.0, radius=4.1, energy_calls=0)
    with pytest.raises(ValueError, match="must be positive and exploration=.* at least 0"):
        scale.reaches(*bad)


def test_cheap_and_the_same_by_seed():
    for target in (gl.gmm25, gl.ManyWell(32)):
        state, start = torch.get_rng_state(), time.process_time()
        found = suggest_scale(target)
        assert time.process_time() - start < 2
        assert found.energy_calls < 200_000
        assert found == suggest_scale(target) != suggest_scale(target, seed=1)
        assert torch.equal(torch.get_rng_state(), state)


def test_calls_are_counted():
    points = 0

    def energy(x):
        nonlocal points
        points += len(x)
        return 0.5 * x.square().sum(-1)

    assert suggest_scale(energy, dim=3).energy_calls == points


def test_a_conditional_target_is_measured_at_one_condition():
    def energy(x, c):
        return 0.5 * (x / c).square().sum(-1)

    assert within(suggest_scale(energy, 2, condition=torch.tensor([3.0])).sigma2, 9, 1.1)
    target = gl.targets.as_target(energy, 2, conditions=[[0.5]])
    assert within(suggest_scale(target).sigma2, 0.25, 1.1)
    for condition in ([3.0], (3,), torch.tensor([3.0], dtype=torch.float64)):
        assert within(suggest_scale(energy, 2, condition=condition).sigma2, 9, 1.1)
    for condition in ([[3.0], [1.0]], 3.0):
        with pytest.raises(ValueError, match=r"condition must be one, of shape \(c,\), got"):
            suggest_scale(energy, 2, condition=condition)
    with pytest.raises(ValueError, match=r"needs condition \(B, c\) = \(1, 1\), got \(1, 2\)"):
        suggest_scale(target, condition=[1.0, 2.0])
    with pytest.raises(ValueError, match="'9gmm' takes none"):
        suggest_scale(gl.gmm9, condition=[1.0])
    with pytest.raises(ValueError, match="needs a condition"):
        suggest_scale(gl.targets.as_target(energy, 2, condition_dim=1))


def test_energies_that_are_not_finite_far_out_are_measured_all_the_same():
    def energy(x):
        r2 = x.square().sum(-1)
        return torch.where(r2 < 25, 0.5 * r2, torch.nan)

    assert within(suggest_scale(energy, dim=2).sigma2, 1, 1.1)
    with pytest.raises(ValueError, match="no start of the pilot came to an end"):
        suggest_scale(lambda x: x.sum(-1) * torch.nan, dim=2)


def test_warns_when_wider_than_the_pilot_sees():
    assert "rescale" in suggest_scale(gl.Gaussian([0.0, 0.0], 500.0)).warning


def test_a_flat_energy_has_no_scale():
    with pytest.raises(ValueError, match="energy of target .* is flat .* choose sigma2 by hand"):
        suggest_scale(lambda x: 0 * x.sum(-1), dim=2)


def test_an_energy_of_another_type_has_the_same_scale():
    def energy(x):
        return 0.5 * x.double().square().sum(-1)

    assert within(suggest_scale(energy, dim=2).sigma2, 1, 1.1)
