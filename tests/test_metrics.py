"""Metrics of log-weights and modes against closed forms, with tolerance from the sample size."""

import json
import math
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import gfnlite as gl
from gfnlite import evaluation, metrics
from gfnlite.metrics import STATISTICS, bootstrap, ess_forward, evaluate, mode_coverage

# An untrained sampler is the reference process: log w depends on x_1 ~ N(0, sigma^2 I) alone.
SIGMA2, S2, DIM, LOG_Z, N = 2.0, 3.0, 2, 1.3, 20_000


def kl(p2, q2):
    """KL(N(0, p2 I) || N(0, q2 I)) in DIM dimensions."""
    return 0.5 * DIM * (p2 / q2 - 1 - math.log(p2 / q2))


def fraction(sigma2, s2):
    """Exact ESS: w = Z N(x; 0, s^2) / N(x; 0, sigma^2), so E[w^2] / Z^2 = (r^2 / (2 r - 1))^(d/2).

    r is sigma^2 / s^2, and it must be above 1/2.
    """
    r = sigma2 / s2
    return ((2 * r - 1) / r**2) ** (DIM / 2)


def untrained(sigma2, s2):
    """Log-weights of generated and of destroyed trajectories."""
    target = gl.Gaussian([0.0] * DIM, math.sqrt(s2), LOG_Z)
    sampler = gl.GFNDiffusion(target, sigma2=sigma2, iterations=1, steps=10)
    exact = target.sample(N, torch.Generator().manual_seed(0))
    return sampler.log_weight(N), sampler.log_weight(x=exact)


@pytest.fixture(scope="module")
def log_weights():
    return untrained(SIGMA2, S2)


@pytest.mark.equation("eq-bounds", "eq-03-bounds")
def test_elbo_and_eubo_are_log_z_minus_and_plus_the_divergences(log_weights):
    forward, backward = log_weights
    tolerance = 4 * max(forward.std(), backward.std()).item() / math.sqrt(N)
    assert tolerance < 0.02  # so that the two divergences, 0.095 and 0.083, are told apart from 0
    assert gl.elbo(forward) == pytest.approx(LOG_Z - kl(SIGMA2, S2), abs=tolerance)
    assert gl.eubo(backward) == pytest.approx(LOG_Z + kl(S2, SIGMA2), abs=tolerance)
    assert gl.elbo(forward) != pytest.approx(LOG_Z, abs=tolerance)


def test_importance_sampling_finds_log_z_and_its_sample_size(log_weights):
    forward, _ = log_weights
    exact = fraction(SIGMA2, S2)
    error = math.sqrt((1 / exact - 1) / N)
    assert gl.log_z_is(forward) == pytest.approx(LOG_Z, abs=4 * error)
    assert gl.ess(forward) == pytest.approx(exact, abs=0.03)
    assert gl.log_z_is(forward + 0.2) != pytest.approx(LOG_Z, abs=4 * error)


def test_ess_seen_from_either_side_is_the_same_closed_form():
    # A process wider than the target: all moments of w that both estimates need are finite.
    generated, destroyed = untrained(3.0, 2.0)
    exact = fraction(3.0, 2.0)
    assert gl.ess(generated) == pytest.approx(exact, abs=0.02)
    assert ess_forward(destroyed) == pytest.approx(exact, abs=0.02)
    # From the wrong trajectories, either formula gives something else.
    assert ess_forward(generated) != pytest.approx(exact, abs=0.02)
    assert gl.ess(destroyed) != pytest.approx(exact, abs=0.02)


def test_only_the_forward_ess_sees_a_missing_mode(generator):
    # Half of the target has 20 nats more weight than all that is generated, where w = Z / 2.
    generated = torch.zeros(1000)
    destroyed = 20.0 * (torch.rand(1000, generator=generator) < 0.5)
    assert gl.ess(generated) == pytest.approx(1)
    assert ess_forward(destroyed) < 1e-7


def test_ess_of_equal_and_of_one_weight():
    one = torch.tensor([0.0] + [-200.0] * 49)
    for effective in (gl.ess, ess_forward):
        assert effective(torch.full((50,), -700.0)) == pytest.approx(1)
    assert gl.ess(one) == pytest.approx(1 / 50)
    assert ess_forward(one) == pytest.approx(0, abs=1e-50)


def test_metrics_do_not_depend_on_order(log_weights, generator):
    forward, _ = log_weights
    shuffled = forward[torch.randperm(N, generator=generator)]
    for metric in (gl.elbo, gl.log_z_is, gl.ess, ess_forward):
        assert metric(shuffled) == pytest.approx(metric(forward), rel=1e-5)


# Log-weights N(-1, 0.5^2): log E[w] = -1 + 0.125; ESS = exp(-0.5^2), from either side.
STD = 0.5
TRUTH = {"elbo": -1, "log_z_is": -1 + STD**2 / 2, "ess": math.exp(-(STD**2)),
         "ess_forward": math.exp(-(STD**2))}  # fmt: skip


@pytest.mark.parametrize("key", TRUTH)
def test_intervals_cover_the_truth_as_often_as_they_say(key, generator):
    repeats, n = 200, 400
    values = -1 + STD * torch.randn(repeats, n, generator=generator, dtype=torch.float64)

    def coverage(level, rows):
        bounds = [bootstrap(STATISTICS[key], row, level, 300) for row in rows]
        return sum(low <= TRUTH[key] <= high for low, high in bounds) / repeats

    for level in (0.95, 0.5):
        tolerance = 4 * math.sqrt(level * (1 - level) / repeats)
        # A percentile interval is exact as n -> infinity only: allow it two percent at n = 400.
        assert coverage(level, values) == pytest.approx(level, abs=tolerance + 0.02)
    # The twin: each value four times, as if there were four times as many: half the width.
    assert coverage(0.5, values.repeat(1, 4)) < 0.5 - 4 * math.sqrt(0.25 / repeats)


def test_an_interval_repeats_and_narrows_as_it_should(generator):
    values = torch.randn(N, generator=generator)
    low, high = bootstrap(STATISTICS["elbo"], values)
    assert bootstrap(STATISTICS["elbo"], values) == (low, high)
    # Width 2 x 1.96 / sqrt(n); 500 resamples know each end to about 8% of the half-width.
    assert high - low == pytest.approx(2 * 1.96 / math.sqrt(N), rel=0.2)
    with pytest.raises(ValueError, match="n >= 2"):
        bootstrap(STATISTICS["elbo"], values[:1])
    with pytest.raises(ValueError, match="level=95"):
        bootstrap(STATISTICS["elbo"], values, level=95)


def test_a_mode_counts_from_a_fifth_of_its_mass():
    mass = torch.tensor([0.5, 0.5])
    assert gl.modes_found(torch.tensor([0.9, 0.1]), mass) == 2
    assert gl.modes_found(torch.tensor([0.901, 0.099]), mass) == 1


def test_mode_coverage_of_equal_modes_is_the_entropy_over_its_maximum():
    mass = torch.full((4,), 0.25)
    share = torch.tensor([0.5, 0.25, 0.25, 0.0])
    assert mode_coverage(share, mass) == pytest.approx(1.5 * math.log(2) / math.log(4))
    assert mode_coverage(share.flip(0), mass) == pytest.approx(0.75)
    assert mode_coverage(mass, mass) == pytest.approx(1)
    assert mode_coverage(torch.tensor([0.0, 1, 0, 0]), mass) == 0


def test_mode_coverage_of_unequal_modes_is_one_for_exact_shares_alone():
    mass = torch.tensor([0.84, 0.1, 0.06])
    assert mode_coverage(mass, mass) == pytest.approx(1)
    assert mode_coverage(torch.tensor([1.0, 0, 0]), mass) == 0
    assert mode_coverage(torch.full((3,), 1 / 3), mass) < 0.9  # plain entropy would call this 1
    order = torch.tensor([2, 0, 1])
    share = torch.tensor([0.7, 0.2, 0.1])
    assert mode_coverage(share[order], mass[order]) == pytest.approx(mode_coverage(share, mass))
    assert mode_coverage(torch.ones(1), torch.ones(1)) == 1
    with pytest.raises(ValueError, match="weights and mass must be"):
        mode_coverage(share, mass[:2])


def test_mode_coverage_of_many_wells_is_the_mean_over_wells(generator):
    target = gl.ManyWell(32)
    assert metrics.mode_groups(target.mode_mass).tolist() == [k // 2 for k in range(32)]
    x = target.sample(N, generator)
    assert mode_coverage(target.modes_of(x).mean(0), target.mode_mass) == pytest.approx(1, abs=1e-3)
    x[:, 0::2] = x[:, 0::2].abs()  # all on the right: collapsed in each well
    assert mode_coverage(target.modes_of(x).mean(0), target.mode_mass) == 0
    x[:, 0:16:2] = target.sample(N, generator)[:, 0:16:2]  # and half of the wells whole again
    assert mode_coverage(target.modes_of(x).mean(0), target.mode_mass) == pytest.approx(
        0.5, abs=1e-3
    )


@pytest.mark.parametrize("distances", [False, True])
def test_evaluation_has_its_keys_intervals_and_table(distances):
    sampler = gl.GFNDiffusion(gl.gmm9, iterations=1, steps=10)
    result = evaluate(sampler, 1000, None, 0, distances)
    keys = "elbo eubo log_z_is log_z_learned ess w2 w2_floor modes mode_weights energy_calls "
    keys += "n_samples ess_forward mode_coverage log_z"
    extra = "sinkhorn sinkhorn_floor mmd mmd_floor"
    assert list(result) == (f"{keys} {extra}" if distances else keys).split()
    assert set(result.intervals) == {"elbo", "eubo", "log_z_is", "ess", "ess_forward"}
    for key, (low, high) in result.intervals.items():
        assert low < result[key] < high
    assert json.loads(json.dumps([result, result.intervals]))[0] == result
    assert pickle.loads(pickle.dumps(result)).intervals == result.intervals
    low, high = result.intervals["elbo"]
    assert f"{low:.3f} to {high:.3f}" in repr(result)
    assert f"{low:.3f} to {high:.3f}" in result._repr_html_()
    assert ("MMD" in repr(result)) == distances
    assert all(len(row) == 2 for row in result.rows())
    assert result["log_z"] == 0 and ("true log Z", "0.000") in result.rows()


def test_evaluation_of_a_target_without_truth_says_none():
    sampler = gl.GFNDiffusion(lambda x: x.square().sum(-1), 2, iterations=1, steps=5)
    result = evaluate(sampler, 200, None, 0, True)
    absent = {key for key, value in result.items() if value is None}
    assert absent == set(
        "eubo ess_forward w2 w2_floor sinkhorn sinkhorn_floor mmd mmd_floor modes mode_weights "
        "mode_coverage log_z".split()
    )
    assert set(result.intervals) == {"elbo", "log_z_is", "ess"}
    assert "unknown" in repr(result)


def test_lists_and_arrays_are_taken_as_tensors(log_weights):
    for metric in (gl.elbo, gl.eubo, gl.log_z_is, gl.ess, ess_forward):
        value = metric(log_weights[0])
        for other in (log_weights[0].tolist(), log_weights[0].numpy()):
            assert metric(other) == pytest.approx(value, rel=1e-5)
        with pytest.raises(ValueError, match="log_weight must have shape"):
            metric([])
    share, mass = torch.tensor([0.9, 0.1, 0.0]), torch.tensor([0.45, 0.5, 0.05])
    for count in (gl.modes_found, mode_coverage):
        for other in (share.tolist(), share.numpy()):
            assert count(other, mass) == count(share, mass) == count(other, mass.numpy())
    assert gl.modes_found(share, mass) == 2  # 0.1 of 0.5 is a fifth in each precision


def test_mode_coverage_is_its_formula():
    w, m = [0.5, 0.3, 0.2], [0.2, 0.3, 0.5]
    q = [2.5 / 3.9, 1 / 3.9, 0.4 / 3.9]
    entropy = -sum(share * math.log(share) for share in q)
    assert mode_coverage(w, m) == pytest.approx(entropy / math.log(3))


@pytest.mark.parametrize("seed", [None, -1, 2**32, 1.0, True, "0"])
def test_a_bad_seed_is_one_clear_error(seed):
    sampler = gl.GFNDiffusion(gl.gmm9, iterations=1, steps=5)
    with pytest.raises(ValueError, match=r"seed=.* must be an integer from 0 to 4294967295"):
        evaluate(sampler, 100, None, seed)


@pytest.mark.parametrize("n", [None, 1, 100.0, True])
def test_a_bad_number_of_samples_is_one_clear_error(n):
    sampler = gl.GFNDiffusion(gl.gmm9, iterations=1, steps=5)
    with pytest.raises(ValueError, match=r"n_samples=.* must be an integer of at least 2"):
        evaluate(sampler, n, None, 0)
    with pytest.raises(ValueError, match="steps=0 must be a positive integer"):
        evaluate(sampler, 100, 0, 0)


def test_numpy_integers_are_integers():
    sampler = gl.GFNDiffusion(gl.gmm9, iterations=1, steps=5)
    result = evaluate(sampler, np.int64(100), None, np.int32(3))
    assert result == evaluate(sampler, 100, None, 3)
    assert json.loads(json.dumps(result))["n_samples"] == 100


def test_samples_that_are_not_finite_have_no_evaluation(monkeypatch):
    sampler = gl.GFNDiffusion(gl.gmm9, iterations=1, steps=5)
    broken = sampler.trajectory(10)
    broken.x[-1, :3] = math.nan
    monkeypatch.setattr(sampler, "trajectory", lambda *_, **__: broken)
    with pytest.raises(ValueError, match="x and y must be finite: 3 points of x"):
        evaluate(sampler, 10, None, 0)


def test_batches_hold_so_many_numbers_and_5000_at_most():
    def sizes(n, dim, steps=None):
        sampler = SimpleNamespace(config=gl.Config(steps=100), target=SimpleNamespace(dim=dim))
        return evaluation.batches(sampler, n, steps)

    assert sizes(12_000, 2) == [5000, 5000, 2000]
    assert sizes(5000, 32) == [5000]
    forest = sizes(1000, 1600)
    assert sum(forest) == 1000 and max(forest) == evaluation.NUMBERS // 160_000 > 100
    assert max(sizes(1000, 1600, 200)) == max(forest) // 2
    assert sizes(2, 10**6, 100) == [1, 1]
    with pytest.raises(ValueError, match="steps=0"):
        sizes(10, 2, 0)


def test_evaluation_and_diagnosis_never_hold_more_than_a_batch(monkeypatch):
    sampler = gl.GFNDiffusion(gl.gmm9, iterations=1, steps=10)
    whole, held, trajectory = evaluate(sampler, 4000, None, 0), [], sampler.trajectory

    def watched(batch_size=None, x=None, **options):
        held.append(batch_size or len(x))
        return trajectory(batch_size, x, **options)

    monkeypatch.setattr(evaluation, "NUMBERS", 300 * 10 * 2)
    monkeypatch.setattr(sampler, "trajectory", watched)
    parts = evaluate(sampler, 4000, None, 0)
    assert max(held) == 300 and sum(held) == 8000
    assert parts["elbo"] == pytest.approx(whole["elbo"], abs=0.2 * abs(whole["elbo"]))
    held.clear()
    gl.diagnose(sampler, 1000)
    assert max(held) == 300 and sum(held) == 2000


class Shifted(gl.Target):
    """N(x; c, I) times 2 pi exp(c) in two dimensions."""

    name, dim, condition_dim = "shifted", 2, 1

    def log_reward(self, x, condition=None):
        gl.targets.check_condition(self, x, condition)
        return condition[:, 0] - 0.5 * (x - condition).square().sum(-1)

    def log_z(self, condition):
        return condition[:, 0] + math.log(2 * math.pi)

    def sample(self, n, generator=None, condition=None):
        return condition + torch.randn(n, 2, generator=generator)

    def sample_condition(self, n, generator=None):
        return torch.rand(n, 1, generator=generator)


@pytest.mark.parametrize("c", [0.5, -1.0])
def test_a_posterior_is_evaluated_at_its_condition(c):
    sampler = gl.GFNDiffusion(Shifted(), sigma2=SIGMA2, iterations=1, steps=10, device="cpu")
    result = evaluate(sampler, N, None, 0, condition=torch.tensor([c]))
    assert result == evaluate(sampler, N, None, 0, condition=[c])
    log_z = c + math.log(2 * math.pi)
    assert result["log_z"] == pytest.approx(log_z)
    # The means differ by c in both coordinates: c^2 over the variance of the second density.
    assert result["elbo"] == pytest.approx(log_z - kl(SIGMA2, 1) - c**2, abs=0.1)
    assert result["eubo"] == pytest.approx(log_z + kl(1, SIGMA2) + c**2 / SIGMA2, abs=0.05)
    assert result["log_z_is"] == pytest.approx(log_z, abs=0.05)
    assert result["log_z_learned"] == sampler.log_z(torch.tensor([[c]])).item()
    assert 0 < result["w2_floor"] < result["w2"]
    vargrad = gl.GFNDiffusion(Shifted(), objective="vargrad", repeats=2, iterations=1, device="cpu")
    assert evaluate(vargrad, 50, None, 0, condition=[c])["log_z_learned"] is None


@pytest.mark.parametrize("look", [lambda s, c: evaluate(s, 50, None, 0, condition=c),
                                  lambda s, c: gl.diagnose(s, 50, condition=c)])  # fmt: skip
def test_a_condition_that_is_missing_unasked_for_or_misshapen_is_one_clear_error(look):
    sampler = gl.GFNDiffusion(Shifted(), iterations=1, steps=5)
    with pytest.raises(ValueError, match=r"'shifted' takes a condition: pass condition=, one vect"):
        look(sampler, None)
    with pytest.raises(ValueError, match=r"one vector of shape \(1,\), got shape \(50, 1\)"):
        look(sampler, torch.zeros(50, 1))
    with pytest.raises(ValueError, match="'9gmm' takes none"):
        look(gl.GFNDiffusion(gl.gmm9, iterations=1, steps=5), [0.5])


def test_contours_of_a_bare_energy_are_one_clear_error():
    with pytest.raises(TypeError, match="contours need a Target, got function"):
        gl.plots.density(lambda x: x.square().sum(-1), 3.0)
