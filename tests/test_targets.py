"""Each target against quadrature, automatic differentiation, plain loops, and its own samples."""

import math

import pytest
import torch

import gfnlite as gl

TARGETS = {
    "gaussian": gl.Gaussian([1.0, -2.0], [0.5, 2.0], log_z=1.7),
    "9gmm": gl.gmm9,
    "25gmm": gl.gmm25,
    "manywell2": gl.ManyWell(2),
}
every_target = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


def quadrature(target, limit=16.0, points=1601):
    """log Z, E[log R] and Var[log R] of a target with d = 2, on a grid."""
    axis = torch.linspace(-limit, limit, points, dtype=torch.float64)
    log_r = target.log_reward(torch.cartesian_prod(axis, axis).float()).double()
    log_z = log_r.logsumexp(0) + 2 * math.log(2 * limit / (points - 1))
    p = (log_r - log_r.logsumexp(0)).exp()
    finite = log_r.nan_to_num(neginf=0.0)
    mean = (p * finite).sum()
    return log_z.item(), mean.item(), (p * (finite - mean) ** 2).sum().item()


@every_target
def test_log_z_is_that_of_quadrature(target):
    assert target.log_z == pytest.approx(quadrature(target)[0], abs=2e-5)


def samples_fit(target, truth, n=20_000):
    """Whether the mean of log R over `target`'s samples is E[log R] of `truth`, to 4 s.e."""
    _, mean, variance = quadrature(truth)
    x = target.sample(n, torch.Generator().manual_seed(1))
    return abs(truth.log_reward(x).mean().item() - mean) < 4 * math.sqrt(variance / n)


@every_target
def test_samples_come_from_the_target(target):
    assert samples_fit(target, target)


def test_samples_of_a_wrong_target_are_noticed():
    assert not samples_fit(gl.Gaussian([1.0, -2.0], [0.52, 2.0]), TARGETS["gaussian"])
    assert not samples_fit(gl.GMM(gl.gmm25.means, 0.32), gl.gmm25)


@every_target
def test_score_is_the_gradient_of_log_reward(target, generator):
    x = 4 * torch.randn(200, target.dim, generator=generator)
    torch.testing.assert_close(target.score(x), gl.Target.score(target, x), rtol=1e-4, atol=1e-3)


def test_mixture_equals_the_plain_formula(generator):
    x = 8 * torch.randn(100, 2, generator=generator)
    modes = [torch.distributions.MultivariateNormal(m, 0.3 * torch.eye(2)) for m in gl.gmm25.means]
    naive = torch.stack([mode.log_prob(x.double()) for mode in modes]).logsumexp(0) - math.log(25)
    torch.testing.assert_close(
        gl.gmm25.log_reward(x).double(), naive.double(), rtol=1e-5, atol=1e-4
    )


def test_many_well_equals_the_plain_loop(generator):
    x = 2 * torch.randn(50, 8, generator=generator)
    naive = torch.zeros(50)
    for i in range(0, 8, 2):
        a, b = x[:, i], x[:, i + 1]
        naive += -(a**4) + 6 * a**2 + 0.5 * a - 0.5 * b**2
    torch.testing.assert_close(gl.ManyWell(8).log_reward(x), naive, rtol=1e-5, atol=1e-4)


def test_many_well_truth():
    target = gl.ManyWell(32)
    assert target.log_z == pytest.approx(164.695675, abs=1e-5)
    assert target.mode_mass[1].item() == pytest.approx(0.84431, abs=5e-5)


@pytest.mark.parametrize("target", [gl.gmm25, gl.ManyWell(8)], ids=["25gmm", "manywell8"])
def test_exact_samples_have_the_exact_mode_weights(target, generator):
    n = 20_000
    weights = target.modes_of(target.sample(n, generator)).mean(0)
    error = (target.mode_mass * (1 - target.mode_mass) / n).sqrt()
    assert ((weights - target.mode_mass).abs() < 4.5 * error).all()
    assert gl.modes_found(weights, target.mode_mass) == len(target.mode_mass)
    collapsed = target.modes_of(target.sample(1, generator).expand(n, -1)).mean(0)
    assert gl.modes_found(collapsed, target.mode_mass) < len(target.mode_mass)


def test_mixture_samples_are_in_no_order(generator):
    modes = gl.gmm25.modes_of(gl.gmm25.sample(4000, generator)).argmax(1).double()
    ranks = torch.arange(4000).double()
    correlation = torch.corrcoef(torch.stack((modes, ranks)))[0, 1].abs()
    assert correlation < 4 / math.sqrt(4000)


def test_a_callable_is_an_energy():
    target = gl.GFNDiffusion(lambda x: x.square().sum(-1), dim=3).target
    x = torch.ones(2, 3)
    assert target.log_reward(x).tolist() == [-3, -3]
    assert target.energy(x).tolist() == [3, 3]
    assert torch.equal(target.score(x), -2 * x)
    assert target.log_z is None and target.sample is None and target.mode_mass is None
