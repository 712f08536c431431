"""Conditional targets of known answer, and samplers that learn all their posteriors at once."""

import math

import pytest
import torch

import gfnlite as gl
from gfnlite.conditional import LinearGaussian, ObservedMixture

N = 200_000
A = torch.tensor([[1.0, 0.5, -0.3], [0.0, 1.2, 0.8]])
linear = LinearGaussian(A, noise=0.6)
mixture = ObservedMixture([[-2.0, 0.0], [2.0, 0.5], [0.0, 2.5]], 0.4, 1.3, [0.5, 0.3, 0.2])
TARGETS = {"linear": linear, "mixture": mixture}


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("name", TARGETS)
def test_scores_are_the_gradients_of_log_r(name, generator):
    target = TARGETS[name]
    c = target.sample_condition(50, generator)
    x = torch.randn(50, target.dim, generator=generator)
    wanted = gl.Target.log_reward_and_score(target, x, c)
    for got, want in zip(target.log_reward_and_score(x, c), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    gl.targets.check_target(target, x, c)


@pytest.mark.parametrize("name", TARGETS)
def test_log_z_is_the_integral_at_every_condition(name, generator):
    """By importance sampling from the exact posterior made wider: log w has no heavy tail."""
    target = TARGETS[name]
    for c in target.sample_condition(5, generator):
        c = c.expand(N, -1)
        exact = target.sample(N, generator, c)
        mean, std = exact.mean(0), 1.3 * exact.std(0)
        proposal = torch.distributions.Normal(mean, std)
        x = mean + std * torch.randn(N, target.dim, generator=generator)
        log_w = target.log_reward(x, c) - proposal.log_prob(x).sum(-1)
        error = 5 * math.sqrt((1 / gl.ess(log_w) - 1) / N)
        assert gl.log_z_is(log_w) == pytest.approx(target.log_z(c[:1]).item(), abs=error)


@pytest.mark.parametrize("name", TARGETS)
def test_exact_samples_have_the_density(name, generator):
    """E over samples of p of q / p is 1 for any density q; the twin has another condition."""
    target = TARGETS[name]
    c = target.sample_condition(1, generator)
    x = target.sample(N, generator, c.expand(N, -1))
    q = torch.distributions.Normal(x.mean(0), 0.7 * x.std(0))  # lighter than p
    log_p = target.log_reward(x, c.expand(N, -1)) - target.log_z(c)
    ratio = (q.log_prob(x).sum(-1) - log_p).exp()
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / N**0.5
    moved = (c + 1).expand(N, -1)
    log_p = target.log_reward(x, moved) - target.log_z(moved[:1])
    assert abs((q.log_prob(x).sum(-1) - log_p).exp().mean() - 1) > 0.1


@pytest.mark.parametrize("name", TARGETS)
def test_conditions_are_drawn_from_the_evidence(name, generator):
    """So that (c, a posterior sample) has the prior as marginal of x: its mean and covariance."""
    target = TARGETS[name]
    c = target.sample_condition(N, generator)
    x = target.sample(N, generator, c)
    prior = torch.randn(N, 3) if name == "linear" else mixture.prior.sample(N, generator)
    error = 5 * (2 * prior.var(0).max() / N).sqrt()
    torch.testing.assert_close(x.mean(0), prior.mean(0), rtol=0, atol=error.item())
    error = 5 * (4 * prior.var(0).max() ** 2 / N).sqrt()
    torch.testing.assert_close(x.T.cov(), prior.T.cov(), rtol=0, atol=error.item())


def test_the_linear_posterior_is_the_textbooks():
    c = torch.tensor([[0.4, -1.0]])
    precision = torch.eye(3) + A.T @ A / 0.36
    mean = torch.linalg.solve(precision, A.T @ c[0] / 0.36)
    torch.testing.assert_close(linear.mean(c)[0], mean)
    torch.testing.assert_close(linear.factor @ linear.factor.T, torch.linalg.inv(precision))


def test_modes_come_and_go_with_the_observation(generator):
    near = mixture.weights(torch.tensor([[-6.0, 0.0]]))[0]
    between = mixture.weights(torch.tensor([[0.0, 0.8]]))[0]
    assert near[0] > 0.99 and between.max() < 0.6
    x = mixture.sample(N, generator, torch.tensor([[0.0, 0.8]]).expand(N, -1))
    share = mixture.modes_of(x).mean(0)  # components overlap a little
    torch.testing.assert_close(share, between, rtol=0, atol=0.05)


@pytest.mark.parametrize("make, message", [
    (lambda: LinearGaussian([1.0]), r"matrix must be finite, of shape \(c, d\), got \(1,\)"),
    (lambda: LinearGaussian([[math.nan]]), "matrix must be finite"),
    (lambda: LinearGaussian(A, 0.0), "noise=0.0 must be positive"),
    (lambda: ObservedMixture([[0.0]], 1.0, -1.0), "noise=-1.0 must be positive"),
    (lambda: ObservedMixture([[0.0]], 0.0, 1.0), "variance"),
    (lambda: linear.log_reward(torch.zeros(4, 3), torch.zeros(4, 3)), r"\(4, 2\), got \(4, 3\)"),
    (lambda: linear.log_reward(torch.zeros(4, 3)), "got None"),
])  # fmt: skip
def test_bad_input_is_one_clear_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()
