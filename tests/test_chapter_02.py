"""Diffusion models: the equations of its chapter that tests/test_diffusion.py does not check."""

import math
from functools import partial

import pytest
import torch
from torch.distributions import Normal

import gfnlite as gl
from gfnlite.denoiser import Denoiser
from gfnlite.diffusion import Noising, ddim, exact_predictor, step_mean

F64 = torch.float64
SIGMA2, SIGMA = 1.7, math.sqrt(1.7)
BAR = [1.0, 0.9, 0.7, 0.4, 0.05]  # alpha_bar_0 to alpha_bar_4
NOISING = Noising(4, BAR[1:], SIGMA2)


def test_a_step_keeps_the_share_that_the_schedule_says():
    """Numbers by hand: a_3 = 0.4 / 0.7."""
    mean, std = NOISING.step(torch.tensor([[2.0]]), 3)
    assert mean.item() == pytest.approx(2 * math.sqrt(4 / 7))
    assert std.item() == pytest.approx(math.sqrt(1.7 * 3 / 7))


@pytest.mark.equation("eq-02-mean")
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_the_ancestral_mean_is_the_posteriors_at_the_guessed_data(k):
    generator = torch.Generator().manual_seed(0)
    x, eps = torch.randn(2, 20, 3, generator=generator)
    found = step_mean(lambda x, k: eps, NOISING, x, k)
    guess = (x - SIGMA * math.sqrt(1 - BAR[k]) * eps) / math.sqrt(BAR[k])
    a, before, here = BAR[k] / BAR[k - 1], 1 - BAR[k - 1], 1 - BAR[k]
    posterior = (math.sqrt(BAR[k - 1]) * (1 - a) * guess + math.sqrt(a) * before * x) / here
    torch.testing.assert_close(found, posterior, rtol=1e-4, atol=1e-5)
    formula = (x - SIGMA * (1 - a) / math.sqrt(here) * eps) / math.sqrt(a)
    torch.testing.assert_close(found, formula, rtol=1e-4, atol=1e-5)
    twin = (x - SIGMA * (1 - a) / math.sqrt(a) * eps) / math.sqrt(a)
    assert (found - twin).abs().max() > 0.02


def moments(predict):
    """Cross-entropy of each step, and E|eps - predict|^2, for data N(0.7, 0.6^2): exactly.

    `predict` is (slope, offset) of a linear predictor; all is a quadratic of Gaussian variables.
    """
    mean, variance, costs, errors = 0.7, 0.36, [], []
    slope, offset = predict
    for k in range(1, len(BAR)):
        a, left = BAR[k] / BAR[k - 1], 1 - BAR[k]
        b, before = 1 - a, BAR[k - 1] * variance + SIGMA2 * (1 - BAR[k - 1])
        # x_k = sqrt(a) x_{k-1} + noise, so Cov = sqrt(a) before; x_k = ... + sigma sqrt(left) eps
        here = a * before + SIGMA2 * b
        middle, end = math.sqrt(BAR[k - 1]) * mean, math.sqrt(BAR[k]) * mean
        gain = (1 - SIGMA * b / math.sqrt(left) * slope) / math.sqrt(a)  # mu_theta is linear too
        shift = -SIGMA * b / math.sqrt(left) * offset / math.sqrt(a)
        bias = middle - gain * end - shift
        squared = before - 2 * gain * math.sqrt(a) * before + gain**2 * here + bias**2
        costs.append(squared / (2 * SIGMA2 * b))
        bias = slope * end + offset
        errors.append(1 - 2 * slope * SIGMA * math.sqrt(left) + slope**2 * here + bias**2)
    return torch.tensor(costs, dtype=F64), torch.tensor(errors, dtype=F64)


@pytest.mark.equation("eq-02-elbo")
def test_the_likelihood_weighs_the_errors_of_the_noise():
    """Between any two predictors, each step's cost differs by its weight times the errors'."""
    (cost, error), (other, wrong) = moments((0.5, -0.2)), moments((-0.3, 0.6))
    bar = torch.tensor(BAR, dtype=F64)
    a, left = bar[1:] / bar[:-1], 1 - bar[1:]
    weight = (1 - a) / (2 * a * left)
    torch.testing.assert_close(cost - other, weight * (error - wrong))
    assert ((cost - other) - a * weight * (error - wrong)).abs().max() > 0.01  # the twin


@pytest.mark.equation("eq-02-elbo")
def test_the_eubo_of_two_predictors_differs_by_the_weighted_errors():
    """The same of a sampler's log-weights, on the same destroyed paths of a mixture."""
    n, data = 20_000, gl.GMM([[-1.0], [1.5]], 0.2)
    noising = Noising(10, "cosine", SIGMA2)
    exact = exact_predictor(data, noising)
    generator, path = torch.Generator().manual_seed(0), []
    path.append(data.sample(n, generator))
    for k in range(1, 11):
        mean, std = noising.step(path[-1], k)
        path.append(mean + std * torch.randn(n, 1, generator=generator))

    def log_pf(predict):
        total = 0.0
        for k in range(1, 11):
            std = noising.step(path[k], k)[1]
            mean = step_mean(predict, noising, path[k], k)
            total = total + Normal(mean, std).log_prob(path[k - 1]).sum(1)
        return total

    def bent(x, k):
        return exact(x, k) + 0.3 * torch.sin(2 * x)

    gap = log_pf(exact) - log_pf(bent)
    a, left = noising.alpha, 1 - noising.alpha_bar
    cost = sum((1 - a[k]) / (2 * a[k] * left[k]) * (0.3 * torch.sin(2 * path[k])).square().sum(1)
               for k in range(1, 11))  # fmt: skip
    off = gap - cost  # its mean is zero: the exact guess is the mean given x_k
    assert abs(off.mean()) < 4.5 * off.std() / n**0.5
    assert abs((gap - 1.2 * cost).mean()) > 4.5 * off.std() / n**0.5


def noised(x, s):
    """Log-density of x at level s of a mixture of two, alpha_bar = exp(-3 s - s^2)."""
    share = (-3 * s - s**2).exp()
    parts = [w * Normal(share.sqrt() * m, (share * 0.3 + SIGMA2 * (1 - share)).sqrt())
             .log_prob(x).exp() for m, w in ((-1.0, 0.3), (1.5, 0.7))]  # fmt: skip
    return sum(parts).log()


@pytest.mark.equation("eq-02-sde")
def test_the_noised_densities_solve_the_equations_of_all_three_processes():
    """Fokker and Planck: dq = -(drift q)' + (noise^2 / 2) q'', whichever way time runs."""
    x = torch.linspace(-3, 3, 61, dtype=F64, requires_grad=True)
    s = torch.full_like(x, 0.4, requires_grad=True)
    slope = partial(torch.autograd.grad, create_graph=True)
    log_q, beta = noised(x, s), 3 + 2 * s  # beta = -d log alpha_bar / ds
    q = log_q.exp()
    (score,) = slope(log_q.sum(), x)
    (grown,) = slope(q.sum(), s)

    def residual(drift, spread, direction):
        (flux,) = slope((drift * q).sum(), x)
        (first,) = slope(q.sum(), x)
        (second,) = slope(first.sum(), x)
        return (direction * grown + flux - 0.5 * spread * second).abs().max().item()

    spread = SIGMA2 * beta
    assert residual(-0.5 * beta * x, spread, 1) < 1e-12
    assert residual(0.5 * beta * x + spread * score, spread, -1) < 1e-12
    assert residual(0.5 * beta * x + 0.5 * spread * score, 0.0, -1) < 1e-12
    # The twins: the drift of the one with the noise of the other.
    assert residual(0.5 * beta * x + 0.5 * spread * score, spread, -1) > 0.1
    assert residual(0.5 * beta * x + spread * score, 0.0, -1) > 0.1


@pytest.mark.equation("eq-02-flow")
def test_in_noise_to_signal_the_flows_velocity_is_the_predicted_noise():
    x, s = torch.linspace(-3, 3, 31, dtype=F64, requires_grad=True), torch.tensor(0.4, dtype=F64)
    (score,) = torch.autograd.grad(noised(x, s).sum(), x)

    def level(s):
        share = (-3 * s - s**2).exp()
        return share, SIGMA * (1 / share - 1).sqrt()

    beta, h = 3 + 2 * s, 1e-6
    moved = x - h * (0.5 * beta * x + 0.5 * SIGMA2 * beta * score)  # s rises by h along the flow
    (share, r), (share_after, r_after) = level(s), level(s + h)
    velocity = (moved / share_after.sqrt() - x / share.sqrt()) / (r_after - r)
    noise = -SIGMA * (1 - share).sqrt() * score
    torch.testing.assert_close(velocity, noise, rtol=0, atol=1e-5)
    assert (velocity - noise / SIGMA).abs().max() > 0.1  # the twin


@pytest.mark.equation("eq-02-logw")
def test_log_weight_from_predicted_noise_and_schedule_alone():
    """Of a model that a few steps have trained, on generated and on destroyed paths."""
    data, noising = gl.GMM([[-1.0, 0.5], [1.0, 1.0]], 0.3), Noising(12, "cosine", SIGMA2)
    model = Denoiser(2, noising, hidden=8, layers=1, seed=0)
    generator = torch.Generator().manual_seed(0)
    model.fit(data.sample(500, generator), iterations=20, lr=1e-2, progress=False)
    sampler, predict = model.sampler(data), model.predictor()
    t = gl.time_grid(12)
    for options in ({"batch_size": 30}, {"x": data.sample(30, generator)}):
        tr = sampler.rollout(t, **options)
        path = tr.x.flip(0)  # x_0 is the data
        log_w = data.log_reward(path[0]) - Normal(0.0, SIGMA).log_prob(path[-1]).sum(1)
        for k in range(1, 13):
            mean, std = noising.step(path[k - 1], k)
            log_w = log_w + Normal(mean, std).log_prob(path[k]).sum(1)
            mean = step_mean(predict, noising, path[k], k)
            log_w = log_w - Normal(mean, std).log_prob(path[k - 1]).sum(1)
        torch.testing.assert_close(tr.log_weight, log_w, rtol=1e-3, atol=5e-3)
        assert (tr.log_weight - log_w + data.log_reward(path[0])).abs().median() > 0.1


@pytest.mark.equation("eq-02-ddim")
@pytest.mark.parametrize("eta", [0.0, 0.5, 0.8, 1.0])
def test_a_step_of_ddim_has_its_mean_and_its_fresh_noise(eta):
    """From level 3 to level 1 at one state: what is left random has the variance f^2."""
    n, states = 100_000, {}

    def predict(x, k):
        states[k] = x
        return 0.4 * x - 0.3

    noising = Noising(3, [0.9, 0.6, 0.2], SIGMA2)
    x = torch.full((n, 1), 0.8)
    ddim(predict, noising, x, steps=2, eta=eta, generator=torch.Generator().manual_seed(0))
    reached = min(states)  # the level between 3 and 0
    bar = {1: 0.9, 2: 0.6}[reached]
    eps = 0.4 * 0.8 - 0.3
    data = (0.8 - SIGMA * math.sqrt(0.8) * eps) / math.sqrt(0.2)

    def law(eta):
        fresh = eta**2 * SIGMA2 * (1 - bar) / 0.8 * (1 - 0.2 / bar)
        return math.sqrt(bar) * data + math.sqrt(SIGMA2 * (1 - bar) - fresh) * eps, fresh

    mean, fresh = law(eta)
    found = states[reached].double()
    assert abs(found.mean().item() - mean) < 4.5 * math.sqrt(fresh / n) + 1e-5
    assert abs(found.var().item() - fresh) < 4.5 * fresh * math.sqrt(2 / n) + 1e-9
    if 0 < eta < 1:  # the twin: eta in the place of its square
        _, wrong = law(math.sqrt(eta))
        assert abs(found.var().item() - wrong) > 0.1 * fresh
