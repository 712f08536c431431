"""Is it right: what metrics say of samplers whose faults are known, against exact answers."""

import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import jupytext
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import gfnlite as gl
from gfnlite.distances import mmd
from gfnlite.ensemble import half_width
from gfnlite.floor import best_elbo
from gfnlite.metrics import ess_forward
from gfnlite.posterior import importance_bound

F64 = torch.float64
SOURCE = Path(__file__).parent.parent / "notebooks" / "06_is_it_right.py"


@pytest.fixture(scope="module")
def chapter():
    """The chapter's cells that build samplers, ranks and runs."""
    names = {"gl": gl, "torch": torch, "math": math, "stats": stats, "pd": pd, "mmd": mmd}
    for cell in jupytext.read(SOURCE).cells:
        if {"samplers", "ranks", "intervals"} & set(cell.metadata.get("tags", [])):
            exec(cell.source, names)
    return SimpleNamespace(**names)


@pytest.fixture
def draw():
    return torch.Generator().manual_seed(0)


@pytest.mark.equation("eq-06-reversal")
def test_reversed_destruction_weighs_its_end_alone():
    """Pinned Brownian motion destroyed from N(m, s^2), reversed by Gaussian conditioning."""
    m, s2, sigma2 = 0.7, 0.4, 1.5
    t = [0.25, 0.5, 0.8, 1.0]
    rng = np.random.default_rng(0)
    x = m + math.sqrt(s2) * rng.standard_normal(50)
    log_q = stats.norm.logpdf(x, m, math.sqrt(s2))

    def variance(t):
        return t * t * s2 + sigma2 * t * (1 - t)

    total, path = np.zeros(50), [x]
    for low, high in reversed(list(itertools.pairwise(t))):  # destroy
        mean, std = low / high * path[0], math.sqrt(sigma2 * low / high * (high - low))
        path.insert(0, mean + std * rng.standard_normal(50))
        total -= stats.norm.logpdf(path[0], mean, std)
    total += stats.norm.logpdf(path[0], t[0] * m, math.sqrt(variance(t[0])))  # from the origin
    twin = total.copy()
    for k, (low, high) in enumerate(itertools.pairwise(t)):  # generate
        c = low * high * s2 + sigma2 * low * (1 - high)
        mean = high * m + c / variance(low) * (path[k] - low * m)
        v = variance(high) - c * c / variance(low)
        total += stats.norm.logpdf(path[k + 1], mean, math.sqrt(v))
        twin += stats.norm.logpdf(path[k + 1], mean, math.sqrt(sigma2 * (high - low)))
    np.testing.assert_allclose(total, log_q, atol=1e-12)
    assert np.abs(twin - log_q).max() > 0.01  # with the reference's variance it is no reversal


@pytest.mark.equation("eq-06-gaps")
@pytest.mark.parametrize("name", ["control", "wrong weights", "too wide", "shifted", "too narrow"])
def test_gaps_of_the_bounds_are_divergences(chapter, name, draw):
    q, target, n = chapter.SAMPLERS[name], chapter.target, 50_000
    exact = chapter.by_quadrature(q)
    generated = chapter.log_weight(q, q.sample(n, draw))
    destroyed = chapter.log_weight(q, target.sample(n, draw))
    for gap, log_w, key in (
        (-gl.elbo(generated), generated, "log Z − ELBO"),
        (gl.eubo(destroyed), destroyed, "EUBO − log Z"),
    ):
        error = 4 * log_w.std().item() / math.sqrt(n)
        assert gap == pytest.approx(exact[key], abs=error + 1e-3)
    if name in ("too wide", "too narrow"):  # closed form, modes apart; and the twin: exchanged
        v = {"too wide": 2.0, "too narrow": 0.4}[name]
        lower, upper = v - 1 - math.log(v), 1 / v - 1 + math.log(v)
        assert exact["log Z − ELBO"] == pytest.approx(lower, rel=0.01)
        assert exact["EUBO − log Z"] == pytest.approx(upper, rel=0.01)
        assert exact["log Z − ELBO"] != pytest.approx(upper, rel=0.1)


@pytest.mark.equation("eq-06-chain")
def test_divergence_of_paths_is_that_of_ends_and_that_of_paths_given_ends(draw):
    made, wanted = torch.rand(2, 4, 5, generator=draw, dtype=F64)  # (before, end)
    made, wanted = made / made.sum(), wanted / wanted.sum()
    q, p = made.sum(0), wanted.sum(0)
    whole = (made * (made / wanted).log()).sum()
    ends = (q * (q / p).log()).sum()
    inside = (made / q * ((made / q) / (wanted / p)).log()).sum(0)
    torch.testing.assert_close(whole, ends + (q * inside).sum())
    assert not torch.isclose(whole, ends + (p * inside).sum(), rtol=1e-3)
    assert whole > ends


def weights(v, shape, draw):
    """Log-weights of N(0, v) for N(0, 1)."""
    x = math.sqrt(v) * torch.randn(shape, generator=draw, dtype=F64)
    return 0.5 * x.square() / v + 0.5 * math.log(v) - 0.5 * x.square()


@pytest.mark.equation("eq-06-is", "eq-06-bias")
def test_bias_of_the_importance_weighted_estimate(draw):
    n, tries, v = 50, 40_000, 2.0
    fraction = math.sqrt(2 * v - 1) / v
    log_w = weights(v, (tries, n), draw)
    estimate = importance_bound(log_w, n)  # a row is one estimate
    assert gl.log_z_is(log_w[0]) == pytest.approx(math.log(log_w[0].exp().mean()))
    # The mean of weights is 1 on average: without its noise, the bias is left.
    low = estimate - (log_w.exp().mean(1) - 1)
    error = 4 * low.std().item() / math.sqrt(tries)
    bias = -(1 / fraction - 1) / (2 * n)
    rest = abs(bias) / n  # of the expansion, of the next order in 1 / n
    assert error + rest < 0.1 * abs(bias)
    assert low.mean().item() == pytest.approx(bias, abs=error + rest)
    for twin in (2 * bias, -(1 / fraction) / (2 * n), -(1 - fraction) / (2 * n)):
        assert low.mean().item() != pytest.approx(twin, abs=error + rest)
    assert estimate.std().item() == pytest.approx(math.sqrt((1 / fraction - 1) / n), rel=0.05)


@pytest.mark.equation("eq-06-ksample")
def test_ladder_rises_from_the_elbo_to_the_mass_that_is_reached(chapter, draw):
    log_w = weights(2.0, 2**18, draw)
    ladder = [importance_bound(log_w, k).item() for k in (1, 2, 4, 16, 256)]
    assert ladder[0] == pytest.approx(gl.elbo(log_w))
    assert all(a < b for a, b in itertools.pairwise(ladder))
    assert ladder[-1] == pytest.approx(0, abs=0.005)
    blind = chapter.SAMPLERS["missing modes"]
    log_w = chapter.log_weight(blind, blind.sample(4096, draw)).double()
    for k in (1, 16, 4096):
        assert importance_bound(log_w, k).item() == pytest.approx(math.log(9 / 25), abs=1e-5)


@pytest.mark.equation("eq-06-ess", "eq-06-blind")
def test_a_blind_sampler_is_perfect_by_its_own_account(chapter, draw):
    blind = chapter.SAMPLERS["missing modes"]
    x = blind.sample(5000, draw)
    log_w = chapter.log_weight(blind, x)
    assert gl.ess(log_w) == pytest.approx(1, abs=1e-6)
    assert gl.elbo(log_w) == pytest.approx(math.log(9 / 25), abs=1e-5)
    assert gl.log_z_is(log_w) == pytest.approx(math.log(9 / 25), abs=1e-5)
    assert gl.eubo(chapter.log_weight(blind, chapter.target.sample(500, draw))) == math.inf
    assert chapter.by_quadrature(blind)["ESS"] == pytest.approx(1, abs=1e-3)
    # The mass of nine cells is 9/25: what leaks out of them leaks in.
    y = chapter.target.sample(100_000, draw)
    inside = blind.inside(y).float().mean().item()
    assert inside == pytest.approx(9 / 25, abs=4 * 0.48 / math.sqrt(1e5))
    # By hand; and equal weights are all that it asks for.
    w = torch.tensor([1.0, 2.0, 5.0], dtype=F64)
    assert gl.ess(w.log()) == pytest.approx(64 / (3 * 30))
    assert gl.ess(torch.full((7,), -3.0)) == pytest.approx(1)


@pytest.mark.equation("eq-06-width")
@pytest.mark.parametrize("v", [0.8, 1.1, 2.0])
def test_price_of_a_width(v, draw):
    log_w = weights(v, 400_000, draw)
    assert gl.ess(log_w) == pytest.approx(math.sqrt(2 * v - 1) / v, rel=0.02)
    assert gl.ess(log_w) != pytest.approx((2 * v - 1) / v, rel=0.02)
    # Below half the variance the second moment has no bound: the integral grows with its limits.
    x = torch.linspace(-60, 60, 200_001, dtype=F64)
    second = [
        torch.trapezoid(torch.where(x.abs() < limit, (-(x**2) + x**2 / 0.8).exp(), 0), x)
        for limit in (10, 20, 40)
    ]
    assert second[0] * 1e6 < second[1] < second[2] * 1e-6


@pytest.mark.equation("eq-06-ess-forward")
def test_both_sides_see_one_fraction_where_the_sampler_covers(draw):
    v, n = 1.5, 400_000  # below 2, or else 1/w has no variance
    x = torch.randn(n, generator=draw, dtype=F64)
    destroyed = 0.5 * x.square() / v + 0.5 * math.log(v) - 0.5 * x.square()
    w = destroyed.exp()
    error = sum((part.std() / part.mean()).item() for part in (w, 1 / w)) / math.sqrt(n)
    found, fraction = ess_forward(destroyed), math.sqrt(2 * v - 1) / v
    assert found == pytest.approx(fraction, rel=4 * error)
    for twin in (fraction**2, math.sqrt(fraction), 1 / w.square().mean().item()):
        assert found != pytest.approx(twin, rel=4 * error)
    # The first equality needs a sampler that covers the target, the second does not.
    target, z = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=F64), 2.0
    for made, covers in (([0.2, 0.3, 0.5, 0.0], True), ([0.6, 0.4, 0.0, 0.0], False)):
        made = torch.tensor(made, dtype=F64)
        w, here, there = z * target / made, made > 0, target > 0
        second, mean = (made * w**2)[here].sum(), (target * w)[there].sum()
        assert bool(torch.isclose(second, z * mean)) == covers
        assert (target / w)[there].sum().item() == pytest.approx(1 / z)
    outside = torch.tensor([0.2, 0.2, 0.2, 0.4], dtype=F64)  # goes where the target is zero
    assert (outside / z)[:3].sum().item() < 1 / z
    w = torch.tensor([1.0, 2.0, 4.0], dtype=F64)
    assert ess_forward(w.log()) == pytest.approx(1 / ((7 / 3) * (1.75 / 3)))
    assert ess_forward(torch.tensor([0.0, math.inf], dtype=F64)) == 0


@pytest.mark.equation("eq-06-w2", "eq-06-mmd")
def test_distances_are_their_formulas(draw):
    x, y = torch.randn(2, 6, 2, generator=draw, dtype=F64)
    plans = [
        ((x - y[list(plan)]) ** 2).sum(1).mean().item() for plan in itertools.permutations(range(6))
    ]
    assert gl.w2(x, y) == pytest.approx(math.sqrt(min(plans)))
    assert gl.w2(x, y) < math.sqrt(plans[0])
    h = 0.9

    def k(a, b):
        return math.exp(-((a - b) ** 2).sum().item() / (2 * h * h))

    within = sum(k(z[i], z[j]) for z in (x, y) for i in range(6) for j in range(6) if i != j)
    between = sum(k(a, b) for a in x for b in y)
    assert mmd(x, y, h) == pytest.approx(within / 30 - 2 * between / 36)
    assert mmd(x, y, h) != pytest.approx((within + 12) / 36 - 2 * between / 36)  # with i = j


@pytest.mark.equation("eq-06-floor")
def test_floor_of_w2_is_the_noise_of_counts(draw):
    for size in (500, 1000):
        values = torch.tensor([
            gl.w2(gl.gmm25.sample(size, draw), gl.gmm25.sample(size, draw)) ** 2 for _ in range(8)
        ])  # fmt: skip
        about = 25 * 25 / 2 * math.sqrt(4 * 0.04 * 0.96 / (math.pi * size))
        assert values.mean().item() == pytest.approx(about, rel=0.3)
        assert values.mean().item() != pytest.approx(about / 2, rel=0.3)
        # The counts by themselves, to two percent.
        x, y = np.random.default_rng(0).multinomial(size, np.full(25, 0.04), (2, 4000)) / size
        moved = 25 * 0.5 * np.abs(x - y).sum(1)
        error = 4 * moved.std() / math.sqrt(len(moved))
        assert moved.mean() == pytest.approx(about, abs=error + 0.01 * about)
        assert moved.mean() != pytest.approx(about / math.sqrt(2), abs=error + 0.01 * about)


@pytest.mark.equation("eq-06-chi2")
def test_shares_of_a_right_sampler(draw):
    n, tries, m = 2000, 400, 0.04
    counts = torch.stack([
        gl.gmm25.modes_of(gl.gmm25.sample(n, draw)).sum(0) for _ in range(tries)
    ]).double()  # fmt: skip
    held = ((counts / n - m).abs() < 1.96 * math.sqrt(m * (1 - m) / n)).double().mean()
    assert held.item() == pytest.approx(0.95, abs=0.01)
    statistic = (n * (counts / n - m).square() / m).sum(1)
    np.testing.assert_allclose(statistic, stats.chisquare(counts.T).statistic)
    assert stats.kstest(statistic, stats.chi2(24).cdf).pvalue > 0.01
    many = np.random.default_rng(0).multinomial(n, np.full(25, m), 4000)  # cheaper, for the twin
    statistic = (n * (many / n - m) ** 2 / m).sum(1)
    assert stats.kstest(statistic, stats.chi2(24).cdf).pvalue > 0.01
    assert stats.kstest(statistic, stats.chi2(25).cdf).pvalue < 0.01  # the twin


@pytest.mark.equation("eq-06-ranks")
def test_ranks_of_a_right_posterior_are_uniform(chapter, draw):
    def p(shift, scale):
        r = chapter.ranks(shift, scale, 4000, 15, draw)
        return stats.chisquare(r.bincount(minlength=16)).pvalue

    assert p(0.0, 1.0) > 0.01
    assert max(p(0.0, 0.7), p(0.0, 1.4), p(0.3, 1.0)) < 1e-6
    # What ranks are blind to: draws from the prior, whatever the condition.
    exact, made = torch.randn(4000, generator=draw), torch.randn(15, 4000, generator=draw)
    r = (made < exact).sum(0)
    assert stats.chisquare(r.bincount(minlength=16)).pvalue > 0.01


@pytest.mark.equation("eq-06-interval")
def test_interval_over_seeds_and_the_two_variances(chapter, draw):
    values = [1.0, 2.0, 4.0]
    by_hand = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) / math.sqrt(3)
    assert half_width(values) == pytest.approx(by_hand, rel=1e-4)
    assert half_width(values) != pytest.approx(1.96 * np.std(values, ddof=1) / math.sqrt(3))
    normal = torch.randn(2000, 5, generator=draw, dtype=F64)
    held = np.mean([abs(sum(row) / 5) <= half_width(row) for row in normal.tolist()])
    assert held == pytest.approx(0.95, abs=4 * math.sqrt(0.05 * 0.95 / 2000))
    # ELBOs of n samples: the variance over seeds, and that of samples over n.
    n = 20
    log_w = chapter.elbos(40_000, n, draw).double()
    samples = log_w.var(1).mean().item()
    v = torch.exp(0.3 * torch.randn(400_000, generator=draw, dtype=F64))
    seeds = (0.5 * (1 + v.log() - v)).var().item()
    assert log_w.mean(1).var().item() == pytest.approx(seeds + samples / n, rel=0.1)
    assert log_w.mean(1).var().item() != pytest.approx(samples / n, rel=0.1)
    assert log_w.mean().item() == pytest.approx(0.5 * (1 - math.exp(0.045)), abs=0.002)


@pytest.mark.equation("eq-06-best")
@pytest.mark.parametrize("m, s2, sigma2", [(0.0, 0.5, 1.0), (0.8, 1.0, 1.0), (-0.5, 1.6, 1.2)])
def test_best_elbo_of_one_step(m, s2, sigma2):
    """One step can reach N(m, sigma^2) and no other density, which costs a divergence."""

    def log_r(x):
        return stats.norm.logpdf(x, m, math.sqrt(s2))

    gap = 0.5 * (sigma2 / s2 - 1 - math.log(sigma2 / s2))
    assert -best_elbo(log_r, 1, sigma2, 16.0, 0.005) == pytest.approx(gap, abs=1e-3)
    if s2 == sigma2:  # the reference's own width: nothing is lost, in any number of steps
        assert best_elbo(log_r, 4, sigma2, 9.0, 0.005) == pytest.approx(0, abs=1e-3)


def test_a_judgement_holds_each_value_under_its_name(chapter, draw):
    n = 1000
    got = chapter.judge(chapter.SAMPLERS["too wide"], n, draw)
    exact = chapter.by_quadrature(chapter.SAMPLERS["too wide"])
    error = 4 / math.sqrt(n)  # the log-weights' standard deviation is 1 from q, less from p
    assert got["log Z − ELBO"] == pytest.approx(exact["log Z − ELBO"], abs=error)
    assert got["EUBO − log Z"] == pytest.approx(exact["EUBO − log Z"], abs=error)
    assert got["IS log Z − ELBO"] == pytest.approx(exact["log Z − ELBO"], abs=error)
    assert got["ESS"] == pytest.approx(0.75, abs=0.05) == got["forward ESS"]
    assert 0 <= got["log Z − IS log Z"] < error
    blind = chapter.judge(chapter.SAMPLERS["missing modes"], n, draw)
    assert blind["log Z − IS log Z"] == pytest.approx(math.log(25 / 9), abs=1e-5)
    assert (blind["modes found"], got["modes found"]) == (9, 25)
    # Nine of 25 cells hold all n: X^2 is n (25/9 - 1) and the noise of nine counts.
    assert blind["χ² of shares"] == pytest.approx(n * 16 / 9 + 25 / 9 * 8, abs=4 * 25 / 9 * 4)
    assert blind["W2"] > 1.5 * got["W2"] and blind["MMD²"] > 0.03 > got["MMD²"]


def test_what_rings_is_worse_than_the_control(chapter, draw):
    names = list(chapter.NEEDS)
    control = pd.DataFrame([dict.fromkeys(names, 0.1 * i) for i in range(21)])
    worse = pd.DataFrame([dict.fromkeys(names, 5.0)])
    rung = chapter.alarms(worse, control)
    assert {name for name in names if rung[name] == 0} == set(chapter.LOW_IS_BAD)
    assert chapter.alarms(control, control).max() < 0.1
