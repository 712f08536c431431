"""Posteriors one by one: importance sampling, bounds, ranks, and what may not be pooled."""

import math

import pytest
import torch

import gfnlite as gl
from gfnlite import posterior
from gfnlite.conditional import LinearGaussian, ObservedMixture
from gfnlite.importance import Truth, adaptive_importance_sampling
from gfnlite.posterior import (
    evaluate_posteriors,
    importance_bound,
    log_weights_each,
    pooled_log_z,
    ranks,
)

A = [[1.0, 0.5, -0.3], [0.0, 1.2, 0.8]]
linear = LinearGaussian(A, noise=0.6)


class Shifted(gl.Target):
    """log R(x; c) = level(c) + log N(x; shift, I): an untrained sampler is exact if shift is 0."""

    name, dim, condition_dim = "shifted", 2, 1
    shift = 0.0

    def log_reward(self, x, condition=None):
        away = (x - self.shift).square().sum(-1)
        return 7 * condition[:, 0] - 0.5 * away - math.log(2 * math.pi)

    def log_z(self, condition):
        return 7 * condition[:, 0]

    def sample(self, n, generator=None, condition=None):
        return self.shift + torch.randn(n, 2, generator=generator)

    def sample_condition(self, n, generator=None):
        return torch.rand(n, 1, generator=generator)


def untrained(shift=0.0, **settings):
    target = Shifted()
    target.shift = shift
    settings = {"sigma2": 1.0, "steps": 4, "exploration": 0.0, "iterations": 10} | settings
    return gl.GFNDiffusion(target, config=gl.Config(**settings), device="cpu")


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


# ---------------------------------------------------------------- the truth


@pytest.mark.parametrize("name", ["linear", "mixture"])
def test_adaptive_importance_sampling_finds_log_z_and_the_posterior(name, generator):
    """Within 5 of the errors that it states; the mixture's posteriors have up to three modes."""
    mixture = ObservedMixture([[-1.5, 0.0], [1.5, 0.5], [0.0, 2.0]], 0.3, 1.2)
    target = {"linear": linear, "mixture": mixture}[name]
    conditions = target.sample_condition(6, generator)
    n, kept = 8000, 2000
    found = adaptive_importance_sampling(
        target, conditions, n=n, kept=kept, rounds=4, adapted=1000, generator=generator
    )
    truth = target.log_z(conditions)
    assert ((found.log_z - truth).abs() < 5 * found.error + 1e-4).all()
    assert (found.ess > (0.85 if name == "linear" else 0.3)).all()
    torch.testing.assert_close(found.error, ((1 / found.ess - 1) / n).sqrt())
    exact = target.sample(6 * 20_000, generator, conditions.repeat_interleave(20_000, 0))
    exact = exact.view(6, 20_000, -1)
    error = 5 * exact.std(1) / (kept * found.ess.float()[:, None]).sqrt()
    assert ((found.samples.mean(1) - exact.mean(1)).abs() < error).all()
    # the twin: another noise
    wrong = LinearGaussian(A, noise=0.7) if name == "linear" else None
    if wrong:
        assert ((found.log_z - wrong.log_z(conditions)).abs() > 5 * found.error).any()
    assert found.energy_calls > 6 * (n + 4 * 1000)
    some = found[:2]
    assert torch.equal(some.log_z, found.log_z[:2]) and some.samples.shape == (2, kept, target.dim)


def test_a_posterior_that_is_not_reached_is_one_clear_error():
    class Nowhere(Shifted):
        def log_reward(self, x, condition=None):
            return super().log_reward(x, condition) - torch.inf * (x[:, 0] < 1e6)

    with pytest.raises(FloatingPointError, match="did not arrive at the posterior of condition 0"):
        adaptive_importance_sampling(Nowhere(), torch.zeros(1, 1))


# ---------------------------------------------------------------- the sampler


def test_the_many_sample_bound_is_the_formula_and_grows():
    log_w = torch.tensor([[0.0, 1.0, 2.0, 3.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    pairs = [math.log((math.exp(a) + math.exp(b)) / 2) for a, b in ((0, 1), (2, 3))]
    assert importance_bound(log_w, 2)[0].item() == pytest.approx(sum(pairs) / 2)
    grown = [importance_bound(log_w, k)[0].item() for k in (1, 2, 4)]
    assert grown == sorted(grown) and grown[0] == 1.5
    assert importance_bound(log_w, 4)[1].item() == pytest.approx(1.0)
    for k in (0, 3):
        with pytest.raises(ValueError, match=f"k={k} must be positive and divide"):
            importance_bound(log_w, k)


@pytest.mark.parametrize("most", [3, 7, 1000])
def test_each_condition_keeps_its_log_weights_whatever_fits_into_memory(monkeypatch, most):
    monkeypatch.setattr(posterior, "batches", lambda *a: [most])
    sampler, conditions = untrained(), torch.tensor([[0.0], [0.5], [1.0], [0.2]])
    log_w, x = log_weights_each(sampler, conditions, 6)
    assert x.shape == (4, 6, 2)
    torch.testing.assert_close(log_w, 7 * conditions.expand(4, 6), rtol=0, atol=1e-4)
    log_w, ends = log_weights_each(sampler, conditions, ends=x)
    assert torch.equal(ends, x)
    torch.testing.assert_close(log_w, 7 * conditions.expand(4, 6), rtol=0, atol=1e-4)


def test_a_right_sampler_has_no_gap_and_a_wrong_one_the_known_one():
    conditions = torch.linspace(0, 1, 5)[:, None]
    right = evaluate_posteriors(untrained(), conditions, 200, (100,))
    for name in ("gap_elbo", "gap_bound_100", "gap_eubo"):
        assert right[name].abs().max() < 1e-4
    assert right["ess"].min() > 0.999 and set(right) >= {"log_z_is", "log_z_learned"}
    # Both KL divergences between N(0, I) and N(shift, I) are |shift|^2 / 2; sigma2 = 1 keeps both
    # ends, and between them the bridges are the same.
    n, shift = 4000, 0.7
    wrong = evaluate_posteriors(untrained(shift), conditions, n, (100,), seed=1)
    known, std = shift**2, shift * 2**0.5
    assert (wrong["gap_elbo"] - known).abs().max() < 5 * std / n**0.5
    assert (wrong["gap_eubo"] - known).abs().max() < 5 * std / 100**0.5
    assert (wrong["gap_bound_100"] < 0.1 * wrong["gap_elbo"]).all()
    mean, half = wrong.mean("gap_elbo")
    assert abs(mean - known) < 5 * std / (5 * n) ** 0.5 and 0 < half < 0.1


def test_a_truth_from_elsewhere_takes_the_place_of_the_targets_own():
    conditions = torch.tensor([[0.0], [1.0]])
    samples = torch.zeros(2, 30, 2)
    truth = Truth(torch.tensor([1.0, 2.0]), torch.zeros(2), torch.ones(2), samples)
    found = evaluate_posteriors(untrained(), conditions, 10, (5,), truth)
    torch.testing.assert_close(
        found["gap_elbo"], torch.tensor([1.0, -5.0]).double(), atol=1e-4, rtol=0
    )


def test_ranks_of_a_right_sampler_are_uniform(generator):
    """Chi-squared over 8 bins of both coordinates; the twins are shifted and too narrow."""
    n, draws = 2000, 63
    conditions = torch.rand(n, 1, generator=generator)

    def chi2(scale=1.0, shift=0.0):
        exact = shift + scale * torch.randn(n, 2, generator=generator)
        found = ranks(untrained(), conditions, exact, draws, generator=generator)
        assert found.shape == (n, 2) and found.min() >= 0 and found.max() <= draws
        counts = torch.bincount(found.flatten() // 8, minlength=8)
        return ((counts - n / 4).square() / (n / 4)).sum().item()

    assert chi2() < 32  # of 7 degrees of freedom: p = 4e-5
    assert chi2(shift=0.2) > 60 and chi2(scale=1.3) > 60


def test_pooling_measures_the_easiest_condition():
    """The pooled number of a perfect sampler is log of the mean of Z, 3.3 above the mean log Z."""
    conditions = torch.linspace(0, 1, 8)[:, None]
    pooled = pooled_log_z(untrained(), conditions)
    known = (7 * conditions).logsumexp(0).item() - math.log(8)
    assert pooled == pytest.approx(known, abs=1e-4)
    assert pooled - (7 * conditions).mean() > 1.5
    assert known == pytest.approx(7 + math.log(sum(math.exp(-i) for i in range(8)) / 8))


def test_results_show_themselves():
    found = evaluate_posteriors(untrained(), torch.rand(4, 1), 20, (10,))
    text, page = repr(found), found._repr_html_()
    for words in ("mean over 4 conditions", "10-sample bound", "EUBO", "gap of the ELBO to log Z"):
        assert words.lower() in text.lower() and words.lower() in page.lower()
    assert "100.0%" in text


@pytest.mark.parametrize("make, message", [
    (lambda s: evaluate_posteriors(s, torch.rand(4, 2)), r"\(B, c\) = \(4, 1\), got \(4, 2\)"),
    (lambda s: evaluate_posteriors(s, torch.rand(4, 1), 50, (100,)), "k=100 must be positive"),
    (lambda s: adaptive_importance_sampling(s.target, torch.rand(4, 2)), r"got \(4, 2\)"),
    (lambda s: adaptive_importance_sampling(s.target, torch.rand(4, 1), n=0), "n=0 must be"),
    (lambda s: adaptive_importance_sampling(s.target, torch.rand(4, 1), kept=1.5), "kept=1.5"),
])  # fmt: skip
def test_bad_input_is_one_clear_error(make, message):
    with pytest.raises(ValueError, match=message):
        make(untrained())


@pytest.mark.full
def test_a_sampler_learns_log_z_and_posterior_of_every_condition(generator):
    """The linear inverse problem, on 1000 observations that training never saw."""
    config = gl.Config(
        steps=100, coarse_steps=10, coarse_fraction=0.85, iterations=4000, lr=5e-3, batch_size=300,
        lr_log_z=1e-2, learn_variance=True,
    )  # fmt: skip
    sampler = gl.GFNDiffusion(linear, config=config, device="cpu").fit(progress=False)
    conditions = linear.sample_condition(1000, generator)
    with torch.no_grad():
        error = (sampler.log_z(conditions) - linear.log_z(conditions)).abs()
    assert error.mean() < 0.02 and error.quantile(0.95) < 0.02
    n = 20_000
    for c in conditions[:5]:
        x, log_w = sampler.sample(n, condition=c, return_weights=True)
        weight = log_w.softmax(0)[:, None]
        mean, exact = (weight * x).sum(0), linear.mean(c[None])[0]
        covariance = (weight * (x - mean)).T @ (x - mean)
        wanted = linear.factor @ linear.factor.T
        count = n * gl.ess(log_w)
        assert ((mean - exact).abs() < 5 * (wanted.diagonal() / count).sqrt()).all()
        scale = wanted.diagonal()
        error = 5 * ((scale[:, None] * scale + wanted.square()) / count).sqrt()
        assert ((covariance - wanted).abs() < error).all()
        # without weights: as near as the bound says, KL = 0.006
        assert ((x.mean(0) - exact) / wanted.diagonal().sqrt()).abs().max() < 0.1
