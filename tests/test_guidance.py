"""Guidance, classifier-free guidance, the joint objective, relative balance and preferences."""

import math

import pytest
import torch

import gfnlite as gl
from gfnlite.data_loss import DataLoss
from gfnlite.denoiser import Denoiser
from gfnlite.diffusion import Noising, ancestral, exact_predictor
from gfnlite.guidance import STRENGTHS, classifier_free, guided, strength
from gfnlite.preference import Preference
from gfnlite.relative import RelativeSampler
from gfnlite.step import train_step
from gfnlite.team import Team

NOISING = Noising(40, "cosine", sigma2=2.0)
PRIOR = gl.GMM([[1.0, -0.5]], 0.6)  # one Gaussian: all that is linear stays exact
CENTRE, WIDTH = torch.tensor([-1.0, 1.0]), 1.5


def bowl(x):
    """A quadratic energy, whose gradient is (x - centre) / width^2."""
    return (x - CENTRE).square().sum(-1) / (2 * WIDTH**2)


def weights_of(sampler):
    return torch.cat([p.flatten() for p in sampler.policy.parameters()]).detach().clone()


# ---------------------------------------------------------------- guidance by an energy


@pytest.mark.equation("eq-09-guidance")
def test_guidance_adds_the_energys_gradient_to_the_score(generator):
    x, exact = torch.randn(50, 2, generator=generator), exact_predictor(PRIOR, NOISING)
    for k in (1, 20, 40):
        bent = guided(exact, NOISING, bowl, scale=0.7)
        wanted = NOISING.score(exact(x, k), k) - 0.7 * (x - CENTRE) / WIDTH**2
        torch.testing.assert_close(NOISING.score(bent(x, k), k), wanted, atol=1e-4, rtol=1e-4)
        wrong = guided(exact, NOISING, bowl, scale=-0.7)
        assert not torch.allclose(NOISING.score(wrong(x, k), k), wanted, atol=1e-2)


def chain(scale):
    """Mean (2,) and variance of the guided chain: linear in x, so they have a recursion."""
    mean, variance = torch.zeros(2).double(), NOISING.sigma2
    alpha, bar = NOISING.alpha.double(), NOISING.alpha_bar.double()
    for k in range(NOISING.steps, 0, -1):
        total = bar[k] * 0.6 + (1 - bar[k]) * NOISING.sigma2
        # score = A x + c; the mean of x_{k-1} is (x + sigma^2 b_k score) / sqrt(a_k)
        slope = -1 / total - scale / WIDTH**2
        offset = bar[k].sqrt() * PRIOR.means[0].double() / total + scale * CENTRE / WIDTH**2
        step = NOISING.sigma2 * (1 - alpha[k])
        mean = ((1 + step * slope) * mean + step * offset) / alpha[k].sqrt()
        variance = ((1 + step * slope) ** 2 * variance) / alpha[k] + (step if k > 1 else 0)
    return mean.float(), float(variance)


@pytest.mark.parametrize("scale", [0.0, 1.0, -0.4])
def test_a_guided_gaussian_follows_the_known_drift(scale, generator):
    n = 40_000
    predict = guided(exact_predictor(PRIOR, NOISING), NOISING, bowl, scale)
    x = ancestral(predict, NOISING, NOISING.start(n, 2, generator), generator)
    mean, variance = chain(scale)
    error = 4 * math.sqrt(variance / n)
    assert (x.mean(0) - mean).abs().max() < error
    assert abs(x.var(0).mean() / variance - 1) < 4 * math.sqrt(1 / n)  # of 2 n squares
    other, _ = chain(scale + 0.5)
    assert (x.mean(0) - other).abs().max() > error


def test_guidance_does_not_sample_the_tilted_density():
    """With the exact score of a Gaussian and a quadratic energy, the bias is known."""
    variance = 1 / (1 / 0.6 + 1 / WIDTH**2)
    mean = variance * (PRIOR.means[0] / 0.6 + CENTRE / WIDTH**2)
    by_guidance, spread = chain(1.0)
    assert (by_guidance - mean).norm() > 0.1 and abs(spread / variance - 1) > 0.05
    n, twin = 20_000, torch.Generator().manual_seed(5)
    bent = guided(exact_predictor(PRIOR, NOISING), NOISING, bowl)
    x = ancestral(bent, NOISING, NOISING.start(n, 2, twin), twin)
    assert (x.mean(0) - mean).norm() > 0.1 + 4 * math.sqrt(2 * variance / n)
    plain, _ = chain(0.0)  # while what is left of the discretisation alone is small
    assert (plain - PRIOR.means[0]).norm() < 0.1


def test_the_variances_strength_is_right_to_first_order():
    """Of data N(0, sigma^2 I) and a weak quadratic energy around their mean; others are not.

    Around another centre c the pull to it takes the strength sqrt(alpha_bar): no one will do.
    """
    weak, bar = 1e4, NOISING.alpha_bar[1:].double()
    tilted = 1 / (1 / NOISING.sigma2 + 1 / weak)
    noised = bar * tilted + (1 - bar) * NOISING.sigma2
    exact = weak * (1 / noised - 1 / NOISING.sigma2)  # the strength that it would take
    torch.testing.assert_close(
        strength(NOISING, "variance")[1:].double(), exact, rtol=1e-3, atol=1e-6
    )
    to_centre = bar.sqrt() * tilted / noised
    torch.testing.assert_close(to_centre, bar.sqrt(), rtol=1e-3, atol=1e-6)
    assert (to_centre - exact).max() > 0.2
    for kind in set(STRENGTHS) - {"variance"}:
        assert not torch.allclose(strength(NOISING, kind)[1:].double(), exact, rtol=0.05)


def test_strengths_have_their_scale_at_the_data_and_do_not_grow_with_noise():
    for kind in STRENGTHS:
        values = strength(NOISING, kind, 2.5)
        assert values.shape == (41,) and values[0] == 2.5 and (values.diff() <= 1e-6).all()
    assert strength(NOISING, "linear")[-1] == strength(NOISING, "cosine")[-1].round(decimals=6) == 0


def test_clipping_shortens_gradients_and_keeps_their_direction(generator):
    x, k = 30 * torch.randn(200, 2, generator=generator), 10
    zero = torch.zeros_like(x)
    free, held = (guided(lambda x, k: zero, NOISING, bowl, clip=clip)(x, k) for clip in (None, 3.0))
    factor = NOISING.noise[k]
    longest = (free / factor).norm(dim=1)
    torch.testing.assert_close((held / factor).norm(dim=1), longest.clamp(max=3.0))
    cosine = torch.nn.functional.cosine_similarity(free, held)
    assert (cosine > 1 - 1e-5).all() and (longest > 3).any() and (longest < 3).any()


@pytest.mark.equation("eq-09-cfg")
def test_classifier_free_guidance_is_between_and_beyond_its_parts(generator):
    x = torch.randn(9, 2, generator=generator)
    one, other = (lambda x, k: x * k), (lambda x, k: x - k)
    torch.testing.assert_close(classifier_free(one, other, 0.0)(x, 3), one(x, 3))
    torch.testing.assert_close(classifier_free(one, other, -1.0)(x, 3), other(x, 3))
    wanted = one(x, 3) + 2 * (one(x, 3) - other(x, 3))
    torch.testing.assert_close(classifier_free(one, other, 2.0)(x, 3), wanted)


def test_guidance_by_labels_makes_overlapping_classes_surer(generator):
    """Fidelity by Bayes' rule rises with the strength, and falls with one of the wrong sign."""
    clouds = gl.GMM([[0.0, 1.2], [-1.1, -0.6], [1.1, -0.6]], 0.8)

    def right(x):
        return (-torch.cdist(x, clouds.means).square() / 1.6).softmax(1)

    x = clouds.sample(6000, generator)
    labels = right(x).multinomial(1, generator=generator)[:, 0]
    model = Denoiser(2, Noising(25, "cosine", 1.6), classes=3, hidden=32)
    model.fit(x, labels, iterations=700, progress=False)
    n, sure = 2000, {}
    for scale in (-0.7, 0.0, 1.0):
        sure[scale] = right(model.sample(n, label=0, scale=scale))[:, 0].mean().item()
    error = 4 * 0.5 / math.sqrt(n)  # a probability has a standard deviation of at most a half
    exact = right(x[labels == 0])[:, 0].mean().item()
    assert abs(sure[0.0] - exact) < 2 * error
    assert sure[-0.7] + error < sure[0.0] < sure[1.0] - error


# ---------------------------------------------------------------- data and energy together


def joint(seed=0, gfn=0.5, **changes):
    settings = {"steps": 8, "coarse_steps": None, "batch_size": 16, "hidden": 8, "iterations": 20}
    config = gl.Config(process="vp", sigma2=4.0, **settings | changes)
    sampler = gl.GFNDiffusion(gl.gmm9, config=config, seed=seed, device="cpu")
    data = gl.gmm9.sample(300, torch.Generator().manual_seed(9))
    return sampler, DataLoss(data, Noising(8, "linear", 4.0), batch_size=10, gfn=gfn)


def gradient_of(sampler, data):
    """What one step's gradient is; nothing is learned from it."""
    team = Team([sampler], data=data)
    for group in team.optimiser.param_groups:
        group["initial_lr"] = 0.0
    train_step(team)
    return torch.cat([
        (torch.zeros_like(p) if p.grad is None else p.grad).flatten()
        for p in sampler.policy.parameters()
    ])  # fmt: skip


@pytest.mark.equation("eq-09-joint")
def test_the_joint_gradient_is_the_sum_of_its_parts():
    plain, (sampler, data) = gradient_of(joint()[0], None), joint(gfn=0.5)
    both, simple = gradient_of(sampler, data), gradient_of(joint()[0], joint(gfn=0.0)[1])
    torch.testing.assert_close(both, simple + 0.5 * plain, rtol=1e-4, atol=1e-6)
    assert simple.norm() > 0 and plain.norm() > 0
    assert not torch.allclose(both, simple + plain, rtol=1e-2)


def test_seeds_together_learn_from_data_as_they_do_alone():
    _, data = joint()
    alone = [joint(seed)[0].fit(6, progress=False, data=data) for seed in range(3)]
    together = joint()[0].fit(6, seeds=3, progress=False, data=data)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(weights_of(one), weights_of(other), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(weights_of(alone[0]), weights_of(alone[1]), atol=1e-3)


def test_a_joint_training_is_resumed_exactly(tmp_path):
    _, data = joint()
    whole = joint()[0].fit(progress=False, data=data)
    joint()[0].fit(7, folder=tmp_path, progress=False, data=data)
    resumed = joint()[0].fit(folder=tmp_path, progress=False, data=data)
    assert torch.equal(weights_of(whole), weights_of(resumed))


def test_a_model_of_data_goes_on_as_a_sampler(generator):
    """Trained on data alone it is a sampler with bounds; energy training starts from there."""
    noising = Noising(30, "cosine", sigma2=2.0)
    model = Denoiser(2, noising, hidden=32).fit(
        PRIOR.sample(4000, generator), iterations=600, progress=False
    )
    sampler = model.sampler(PRIOR, learn_variance=False)
    untrained = gl.GFNDiffusion(PRIOR, config=sampler.config, device="cpu")
    found, before = (s.evaluate(4000) for s in (sampler, untrained))
    assert before["elbo"] < found["elbo"] - 0.2 < found["elbo"] < 0.05
    assert -0.05 < found["eubo"] < before["eubo"]
    sampler.fit(3, progress=False)
    assert sampler.iteration == 3


# ---------------------------------------------------------------- relative trajectory balance


@pytest.fixture(scope="module")
def prior():
    """A model of 9 Gaussians, good enough to be bent."""
    data = gl.gmm9.sample(8000, torch.Generator().manual_seed(1))
    return Denoiser(2, Noising(20, "cosine", 17.0), hidden=32).fit(
        data, iterations=800, progress=False
    )


def tilt(x):
    return (x - torch.tensor([4.0, 2.0])).square().sum(-1) / 18


def test_at_the_start_the_log_weight_is_the_reward_whoever_draws(prior):
    sampler = RelativeSampler(prior, tilt)
    for own in (True, False):
        drawn = sampler.trajectory(200, prior=not own)
        torch.testing.assert_close(drawn.log_weight, -tilt(drawn.x[-1]), rtol=1e-4, atol=1e-4)


@pytest.mark.equation("eq-09-rtb")
def test_relative_balance_leaves_the_prior_alone_and_its_samples_to_the_posterior(prior):
    before = weights_of(prior)
    sampler = RelativeSampler(prior, tilt)
    exact = torch.logsumexp(sampler.trajectory(20_000, prior=True).log_reward, 0)
    exact = exact.item() - math.log(20_000)
    untrained = sampler.log_weight(2000).mean()
    sampler.fit(250, batch_size=128, lr=2e-3, progress=False)
    assert torch.equal(weights_of(prior), before) and sampler.energy_calls == 250 * 128
    log_w = sampler.log_weight(8000)
    error = 4 * log_w.std().item() / math.sqrt(8000)
    assert untrained < log_w.mean() - 0.5 and log_w.mean() < exact + 0.05 + error
    assert gl.ess(log_w) > 0.5
    # Both estimate log E_prior[r]: by the prior's own samples, and by weighted ones of the sampler.
    assert abs(gl.log_z_is(log_w) - exact) < 0.05
    # The posterior's mean, by weights; the twin is the prior's.
    drawn = sampler.trajectory(20_000, prior=True)
    weight = drawn.log_reward.softmax(0)
    wanted = (weight[:, None] * drawn.x[-1]).sum(0)
    found = sampler.sample(4000).mean(0)
    assert (found - wanted).norm() < 0.5 < 2 < (drawn.x[-1].mean(0) - wanted).norm()
    near = sampler.sample(4000, oversample=5).mean(0)
    assert (near - wanted).norm() < 0.3


def test_log_weights_are_constant_where_the_reward_is(prior):
    sampler = RelativeSampler(prior, lambda x: 0 * x[:, 0] - 1.5)
    assert (sampler.log_weight(50) - 1.5).abs().max() < 1e-3
    sampler.fit(150, batch_size=16, lr=1e-6, objective="tb", progress=False)
    assert sampler.log_z == pytest.approx(1.5, abs=0.1)
    assert RelativeSampler(prior, tilt).fit(2, progress=False).log_z is None


# ---------------------------------------------------------------- several objectives


@pytest.mark.equation("eq-09-preference")
def test_a_preference_weighs_the_energies(generator):
    parts = [gl.Gaussian([0.0, 1.0], 0.5), gl.gmm9, gl.targets.rings]
    target = Preference(parts)
    x, c = torch.randn(7, 2, generator=generator), target.sample_condition(7, generator)
    wanted = sum(c[:, i] * part.log_reward(x) for i, part in enumerate(parts))
    torch.testing.assert_close(target.log_reward(x, c), wanted)
    summed = gl.weighted_sum(parts, c[0].tolist()).log_reward(x[:1])
    torch.testing.assert_close(target.log_reward(x, c)[:1], summed)
    value, score = target.log_reward_and_score(x, c)
    point = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(target.log_reward(point, c).sum(), point)
    torch.testing.assert_close(score, slope, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(value, wanted)
    corner = torch.eye(3)[1].expand(7, -1)
    torch.testing.assert_close(target.log_reward(x, corner), gl.gmm9.log_reward(x))


def test_preferences_are_uniform_on_the_simplex(generator):
    n = 20_000
    c = Preference([gl.gmm9, gl.gmm25, gl.targets.rings]).sample_condition(n, generator)
    torch.testing.assert_close(c.sum(1), torch.ones(n))
    # Dirichlet(1, 1, 1): mean 1/3, variance 1/18, and c_1 has the distribution function 1 - (1-u)^2
    assert (c.mean(0) - 1 / 3).abs().max() < 4 * math.sqrt(1 / 18 / n)
    below = (c[:, 0] < 0.3).double().mean()
    assert abs(below - 0.51) < 4 * math.sqrt(0.51 * 0.49 / n) < abs(below - 0.3)


# ---------------------------------------------------------------- bad input

EXACT = exact_predictor(PRIOR, NOISING)
BAD = {
    "kind": (lambda: strength(NOISING, "strong"), "kind='strong' .* allowed: constant, linear"),
    "scale": (lambda: strength(NOISING, scale=math.nan), "scale=nan must be finite"),
    "clip": (lambda: guided(EXACT, NOISING, bowl, clip=0.0), "clip=0.0 must be positive"),
    "no gradient": (
        lambda: guided(EXACT, NOISING, lambda x: torch.zeros(len(x)))(torch.zeros(3, 2), 4),
        "has no gradient",
    ),
    "free scale": (lambda: classifier_free(EXACT, EXACT, math.inf), "scale=inf must be finite"),
    "objective": (
        lambda: RelativeSampler(Denoiser(2, NOISING), tilt).fit(1, objective="subtb"),
        "objective='subtb' must be 'tb' or 'vargrad'",
    ),
    "classes": (lambda: RelativeSampler(Denoiser(2, NOISING, 3), tilt), "without classes"),
    "dimension": (lambda: RelativeSampler(Denoiser(2, NOISING), gl.ManyWell(4)), "dim=2 but"),
    "steps": (lambda: joint(steps=9)[0].fit(1, data=joint()[1]), "with steps=8, this has 9"),
    "process": (
        lambda: gl.GFNDiffusion(gl.gmm9, sigma2=4.0).fit(1, data=joint()[1]),
        "with process=vp, this has pinned",
    ),
    "gfn": (lambda: joint(gfn=-1.0), "gfn=-1.0 must be finite and at least 0"),
    "one objective": (lambda: Preference([gl.gmm9]), "at least two"),
    "dimensions": (lambda: Preference([gl.gmm9, gl.ManyWell(4)]), r"same dim; got dims \[2, 4\]"),
    "preference": (
        lambda: Preference([gl.gmm9, gl.gmm25]).log_reward(torch.zeros(2, 2), torch.ones(2, 3)),
        r"condition \(B, c\) = \(2, 2\), got \(2, 3\)",
    ),
}


@pytest.mark.parametrize("call, message", BAD.values(), ids=BAD)
def test_bad_input_is_one_clear_error(call, message, one_clear_error):
    one_clear_error(call, message)
