"""Annealed SMC: log Z, moments and mode weights that are known, and what happens when it fails."""

import math

import pytest
import torch
from scipy.stats import t

import gfnlite as gl
from gfnlite import smc, step
from gfnlite.smc import annealed_smc


def run(target, n=2000, scale=3.0, seed=0, **options):
    return annealed_smc(target, n, scale, generator=torch.Generator().manual_seed(seed), **options)


def finds(log_z, mean, std, target, n=4000, **options):
    """Whether the particles of a target have this log Z, mean and standard deviation.

    Resampling, or weights that differ, leave fewer independent particles than n: at this setting a
    quarter at least (measured from the spread of the means of 40 runs), so 4 standard errors are
    taken of n / 4.
    """
    found = run(target, n, **options)
    weight, error = found.log_weight.softmax(0), 4 / math.sqrt(n / 4)
    there = weight @ found.x.double()
    wide = (weight @ (found.x - there).square()).sqrt()
    return (
        abs(found.log_z - log_z) < error
        and bool(((there - mean).abs() < error * std).all())
        and bool(((wide / std - 1).abs() < error / math.sqrt(2)).all())
    )


def says(log_z, target, n, runs=10, **options):
    """Whether the mean estimate of log Z over other seeds is this, to its measured standard error.

    It errs once in 10,000 times (t of so few runs). Half the variance of log Z-hat is its bias
    (Jensen), which is far below one standard error here.
    """
    found = torch.tensor([run(target, n, seed=10 + s, **options).log_z for s in range(runs)])
    error = t.ppf(1 - 0.5e-4, runs - 1) * found.std().item() / math.sqrt(runs)
    return abs(found.mean().item() - log_z) < error


@pytest.mark.parametrize("resample", [True, False], ids=["SMC", "AIS"])
def test_a_gaussian_is_found_with_its_normaliser(resample):
    mean, std = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 1.5])
    target = gl.Gaussian(mean.tolist(), std.tolist(), log_z=2.5)
    assert finds(2.5, mean, std, target, resample=resample)
    # The twins: another normaliser, another place, another width.
    assert not finds(2.7, mean, std, target, resample=resample)
    assert not finds(2.5, mean + 0.15, std, target, resample=resample)
    assert not finds(2.5, mean, 1.15 * std, target, resample=resample)


def mean_ratio(n, runs, **options):
    """Mean of the estimates of Z over Z, and its standard error."""
    target = gl.Gaussian([1.0], 0.5, log_z=1.0)
    found = [run(target, n, seed=s, **options).log_z for s in range(runs)]
    ratios = (torch.tensor(found) - 1).exp()
    return ratios.mean().item(), ratios.std().item() / math.sqrt(runs)


@pytest.mark.equation("eq-14-weight")
@pytest.mark.parametrize("resample", [True, False], ids=["SMC", "AIS"])
def test_the_estimate_of_z_is_nearly_unbiased(resample):
    # It would be so for a ladder fixed beforehand; one that adapts costs O(1 / n).
    for n, bias in ((64, 0.04), (512, 0.005)):
        mean, error = mean_ratio(n, 40, resample=resample)
        assert error < 0.02
        assert abs(mean - 1) < bias + 4 * error


@pytest.mark.equation("eq-14-bridge")
def test_the_bridge_is_the_one_that_is_stated():
    x = 2 * torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    bridge, start = smc._Bridge(gl.gmm9, 3.0), torch.distributions.Normal(0, 3.0)
    for beta in (0.0, 0.3, 1.0):
        bridge.beta = beta
        log_r, score = bridge.log_reward_and_score(x)
        by_hand = beta * gl.gmm9.log_reward(x) + (1 - beta) * start.log_prob(x).sum(1)
        torch.testing.assert_close(log_r, by_hand)
        by_hand = beta * gl.gmm9.score(x) - (1 - beta) * x / 9
        torch.testing.assert_close(score, by_hand)


def test_without_resampling_no_particle_is_copied_and_weights_differ():
    weighted, equal = run(gl.gmm9, 500, resample=False), run(gl.gmm9, 500)
    assert len(weighted.x.unique(dim=0)) == len(weighted.log_weight.unique()) == 500
    assert len(equal.log_weight.unique()) == 1 and equal.log_weight[0] == pytest.approx(equal.log_z)
    # The mean of log w is a lower bound, and the weights are worth fewer than they are.
    assert gl.elbo(weighted.log_weight) < weighted.log_z - 0.05
    assert gl.ess(weighted.log_weight) < 0.9


def test_draws_are_in_proportion_to_the_weights():
    x = torch.arange(3.0)[:, None]
    log_w = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).log() + 800  # exp overflows
    found = smc.Particles(x, x[:, 0], x, log_w, 0)
    drawn = found.draw(1000, torch.Generator().manual_seed(0))[:, 0]
    assert (drawn.long().bincount() - torch.tensor([200, 300, 500])).abs().max() <= 1
    assert not torch.equal(drawn, drawn.sort().values)
    assert found.log_z == pytest.approx(800 - math.log(3))


@pytest.mark.parametrize("target, scale, tolerance", [
    (gl.gmm25, math.sqrt(20), 0.35), (gl.ManyWell(8), 1.0, 0.25), (gl.gmm9, 3.0, 0.2),
], ids=["25gmm", "manywell8", "9gmm"])  # fmt: skip
def test_modes_get_their_mass(target, scale, tolerance):
    found = run(target, 10_000, scale)
    share = target.modes_of(found.x).mean(0) / target.mode_mass
    assert (share - 1).abs().max() < tolerance
    assert says(target.log_z, target, 1000, scale=scale)
    assert not says(target.log_z + 0.4, target, 1000, scale=scale)  # the twin
    torch.testing.assert_close(found.log_reward, target.log_reward(found.x))
    torch.testing.assert_close(found.score, target.score(found.x))


def test_calls_are_counted_and_seeds_repeat():
    calls = []

    def energy(x):
        calls.append(len(x))
        return 0.5 * x.square().sum(-1)

    target = gl.targets.as_target(energy, 2)
    first = run(target, 100)
    assert first.energy_calls == sum(calls)
    again, other = run(target, 100), run(target, 100, seed=1)
    assert torch.equal(first.x, again.x) and first.log_z == again.log_z
    assert not torch.equal(first.x, other.x)


def test_a_condition_reaches_the_energy():
    target = gl.targets.as_target(lambda x, c: 0.5 * (x - c).square().sum(-1), 2, condition_dim=2)
    held = gl.targets.conditioned(target, torch.tensor([2.0, -1.0]))
    assert (run(held).x.mean(0) - torch.tensor([2.0, -1.0])).abs().max() < 0.2
    assert says(math.log(2 * math.pi), held, 2000)
    assert not says(math.log(2 * math.pi) + 0.3, held, 2000)  # the twin


@pytest.mark.parametrize("levels", [1, 2])
def test_particles_that_do_not_arrive_are_described_as_they_are(levels):
    found = run(gl.gmm25, 60, scale=0.3, levels=levels)
    assert found.log_z == -math.inf
    log_r, score = gl.gmm25.log_reward_and_score(found.x)
    assert torch.equal(found.log_reward, log_r) and torch.equal(found.score, score)


def test_an_energy_in_double_is_sampled_as_any_other():
    def energy(x):
        return 0.5 * x.square().sum(-1)

    single, double = (
        run(gl.targets.as_target(fn, 2), 200) for fn in (energy, lambda x: energy(x.double()))
    )
    assert double.log_reward.dtype == double.score.dtype == torch.float32
    assert double.log_z == pytest.approx(single.log_z, abs=1e-3)


def test_what_is_not_finite_counts_as_nothing():
    def box(x):  # a Gaussian cut at |x_1| = 1; half of its starts lie outside
        return torch.where(x[:, 0].abs() > 1, torch.inf, 0.5 * x.square().sum(-1))

    boxed = gl.targets.as_target(box, 2)
    inside = math.erf(1 / math.sqrt(2))
    assert run(boxed, 4000).x[:, 0].abs().max() <= 1
    for resample in (True, False):
        assert says(math.log(2 * math.pi * inside), boxed, 4000, resample=resample)
        assert not says(math.log(2 * math.pi), boxed, 4000, resample=resample)  # the twin
    # Not resampled, what starts outside has the weight 0 for good, and is still counted.
    found = run(boxed, 4000, resample=False)
    outside = found.log_weight.isinf().double().mean().item()
    assert outside == pytest.approx(1 - math.erf(1 / (3 * math.sqrt(2))), abs=0.04)  # N(0, 9)
    nowhere = gl.targets.as_target(lambda x: x.square().sum(-1) + torch.inf, 2)
    assert run(nowhere, 100).log_z == -math.inf


@pytest.mark.parametrize("options, message", [
    ({"n": 1}, "n=1 must be"), ({"moves": 0}, "moves=0 must be"), ({"keep": 1.0}, "keep=1.0"),
    ({"scale": -1.0}, "scale=-1.0"), ({"levels": 2.5}, "levels=2.5"),
])  # fmt: skip
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        run(gl.gmm9, **options)


def test_prefill_is_what_training_replays():
    sampler = gl.GFNDiffusion(
        gl.gmm9, iterations=5, batch_size=32, steps=5, replay_ratio=1.0, prefill=500,
        replay_objective="mle", replay_priority="uniform",
    ).fit(progress=False)  # fmt: skip
    kept = sampler.replayed.sample(300, torch.Generator().manual_seed(0))
    assert len(sampler.replayed) == 500 and list(sampler.buffers) == ["search"]
    torch.testing.assert_close(kept.log_reward, gl.gmm9.log_reward(kept.x))
    assert sampler.log_z_learned is None  # nothing has taught it
    with_search = gl.GFNDiffusion(
        gl.gmm9, iterations=5, batch_size=32, steps=5, replay_ratio=0.5, prefill=500,
        ls_every=2, ls_steps=4, ls_burn_in=2,
    ).fit(progress=False)  # fmt: skip
    assert len(with_search.replayed) == 500 + 3 * 2 * 32


def test_a_search_that_does_not_arrive_is_said(monkeypatch):
    def far(x):
        return torch.where(x[:, 0] < 3, 1e30 * torch.ones_like(x[:, 0]), x.square().sum(-1))

    monkeypatch.setattr(step, "annealed_smc", lambda *a, **k: run(gl.gmm9, 50, levels=1))
    sampler = gl.GFNDiffusion(far, dim=2, replay_ratio=0.5, prefill=50)
    with pytest.raises(FloatingPointError, match="prefill=50: annealed SMC did not arrive"):
        sampler.fit(progress=False)
