"""Classical diffusion: each formula against simulation, Bayes' rule, autograd or a known flow."""

import math
from functools import partial

import pytest
import torch

import gfnlite as gl
from gfnlite.data_loss import DataLoss, noise_of
from gfnlite.denoiser import Denoiser
from gfnlite.diffusion import Noising, ancestral, ddim, exact_predictor, heun
from gfnlite.policy import Policy
from gfnlite.process import VariancePreserving

SCHEDULES = ("linear", "cosine")
OWN = [0.9, 0.7, 0.4, 0.05]  # a schedule of one's own: alpha_bar_1 to alpha_bar_4
MEAN, STD, SIGMA2 = 0.7, 0.6, 1.7
GAUSSIAN = gl.GMM([[MEAN]], STD**2)  # as a mixture of one
MIXTURE = gl.GMM([[-2.0, 0.5], [1.0, 1.0], [0.5, -1.5]], [0.2, 0.5, 0.1], weights=[1, 2, 3])


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def noised_mixture(data, noising, k):
    """The density of x_k, put together by hand."""
    share = noising.alpha_bar[k]
    variance = share * data.variance + noising.sigma2 * (1 - share)
    return gl.GMM(share.sqrt() * data.means, variance, weights=data.weights)


# the noising


@pytest.mark.equation("eq-02-step", "eq-02-marginal")
@pytest.mark.parametrize("schedule", [*SCHEDULES, OWN])
def test_marginal_is_what_single_steps_lead_to(schedule, generator):
    steps, n, x0 = 4, 200_000, 1.5
    noising = Noising(steps, schedule, SIGMA2)
    twin = Noising(steps, [0.8, 0.6, 0.3, 0.01], SIGMA2)
    x, wrong = torch.full((n, 1), x0), 0.0
    for k in range(1, steps + 1):
        mean, std = noising.step(x, k)
        x = mean + std * torch.randn(n, 1, generator=generator)
        z = []
        for one in (noising, twin):
            mean, std = (part.flatten()[0] for part in one.marginal(torch.full((1, 1), x0), k))
            # standard errors of a mean and of a variance, of n normal numbers
            z += [(x.mean() - mean) / (std / n**0.5)]
            z += [(x.var() / std.square() - 1) / (2 / n) ** 0.5]
        assert max(map(abs, z[:2])) < 4.5
        wrong = max(wrong, *map(abs, z[2:]))
    assert wrong > 20


def test_schedules_are_the_published_ones():
    part = torch.arange(1, 101, dtype=torch.float64) / 100
    cosine = torch.cos(0.97 * part * math.pi / 2).square()
    linear = (-(0.1 * part + 9.95 * part.square())).exp()
    for name, wanted in (("cosine", cosine), ("linear", linear)):
        noising = Noising(100, name, SIGMA2)
        assert noising.alpha_bar[0] == noising.signal[0] == 1 and noising.noise[0] == 0
        torch.testing.assert_close(noising.alpha_bar[1:].double(), wanted, rtol=1e-5, atol=0)
        torch.testing.assert_close(
            noising.noise[1:].double(), (SIGMA2 * (1 - wanted)).sqrt(), rtol=1e-5, atol=0
        )
    # Ho et al.: beta_k from 1e-4 to 0.02 in 1000 steps, in continuous time
    beta = 1 - Noising(1000, "linear").alpha[1:]
    assert beta[0] == pytest.approx(1e-4, rel=0.15) and beta[-1] == pytest.approx(0.02, rel=0.02)


@pytest.mark.equation("eq-02-kernels")
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_noising_is_the_destruction_of_the_variance_preserving_process(schedule):
    noising, process = Noising(50, schedule, SIGMA2), VariancePreserving(SIGMA2, schedule)
    steps = process.steps(gl.time_grid(50))
    a, b = noising.alpha.flip(0)[:-1].sqrt(), (1 - noising.alpha).flip(0)[:-1]
    for mine, theirs in ((a, steps.a), (b, steps.h), (a, steps.b), (b, steps.g)):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.equation("eq-02-posterior")
@pytest.mark.parametrize("k", [1, 2, 4])
def test_posterior_is_bayes_rule_on_a_grid(k):
    noising = Noising(4, OWN, SIGMA2)
    x0, xk = torch.tensor([[[0.8]], [[-0.5]]], dtype=torch.float64)
    before = torch.linspace(-12, 12, 20_001, dtype=torch.float64)[:, None]

    def log_density(x, mean, std):
        return torch.distributions.Normal(mean, std).log_prob(x)[:, 0]

    if k == 1:  # x_0 itself, with no doubt
        mean, std = noising.posterior(xk, x0, 1)
        assert mean.item() == pytest.approx(0.8, rel=1e-6) and std == 0
        return
    joint = log_density(xk, *noising.step(before, k)) + log_density(
        before, *noising.marginal(x0, k - 1)
    )
    joint -= joint.logsumexp(0) + (before[1] - before[0]).log()
    found = log_density(before, *noising.posterior(xk, x0, k))
    near = found > -20
    assert near.sum() > 1000
    torch.testing.assert_close(found[near], joint[near], atol=1e-4, rtol=0)
    wrong = log_density(before, *noising.posterior(xk, x0, k - 1 if k > 2 else k + 1))
    assert (wrong - joint)[near].abs().max() > 0.1


@pytest.mark.parametrize("k", [1, 3, torch.tensor([1, 2, 3, 4, 4])])
def test_data_and_noise_give_each_other(k):
    noising, x0, eps = Noising(4, OWN, SIGMA2), normals(5, 3), normals(5, 3, seed=1)
    x = noising.noised(x0, k, eps)
    torch.testing.assert_close(noising.x0(x, eps, k), x0, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(noising.eps(x, x0, k), eps, atol=1e-5, rtol=1e-5)


def test_one_level_for_all_is_that_level_for_each_row():
    noising, x, x0 = Noising(4, OWN, SIGMA2), normals(5, 3), normals(5, 3, seed=1)
    each = torch.full((5,), 3)
    for name in ("x0", "eps", "posterior"):
        one, rows = (getattr(noising, name)(x, x0, k) for k in (3, each))
        for a, b in zip(one, rows, strict=True):
            torch.testing.assert_close(a.expand_as(b), b)
    for name in ("marginal", "step"):
        one, rows = (getattr(noising, name)(x, k) for k in (3, each))
        for a, b in zip(one, rows, strict=True):
            torch.testing.assert_close(a.expand_as(b), b)


@pytest.mark.equation("eq-02-x0", "eq-02-tweedie")
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("k", [2, 30, 100])
def test_exact_prediction_is_the_score_of_the_noised_density(schedule, k):
    noising, x = Noising(100, schedule, SIGMA2), 2 * normals(50, 2)
    predict = exact_predictor(MIXTURE, noising)
    seen = x.clone().requires_grad_()
    log_q = noised_mixture(MIXTURE, noising, k).log_reward(seen)
    (score,) = torch.autograd.grad(log_q.sum(), seen)
    eps = predict(x, k)
    torch.testing.assert_close(noising.score(eps, k), score, atol=2e-3, rtol=2e-3)
    # Tweedie: the guess of the data is the mean of the posterior over the mixture's components
    share, noise = noising.alpha_bar[k], noising.noise[k].square()
    total = share * MIXTURE.variance + noise
    away = x[:, None] - share.sqrt() * MIXTURE.means
    logits = MIXTURE.weights.log() - total.log() - away.square().sum(-1) / (2 * total)
    gain = (share.sqrt() * MIXTURE.variance / total)[:, None]
    guess = (logits.softmax(1)[..., None] * (MIXTURE.means + gain * away)).sum(1)
    torch.testing.assert_close(noising.x0(x, eps, k), guess, atol=3e-3, rtol=3e-3)


# samplers


def gaussian_flow(noising, x):
    """Where the exact flow takes x_K: it keeps the place in units of the standard deviation."""
    share = noising.alpha_bar[-1]
    std = (share * STD**2 + noising.sigma2 * (1 - share)).sqrt()
    return MEAN + STD / std * (x - share.sqrt() * MEAN)


@pytest.mark.equation("eq-02-flow")
@pytest.mark.parametrize(("method", "order"), [(ddim, 1), (heun, 2)])
def test_flow_of_a_gaussian_is_followed_to_the_order_of_the_method(method, order):
    noising = Noising(256, "cosine", SIGMA2)
    predict, x = exact_predictor(GAUSSIAN, noising), torch.linspace(-3, 3, 21)[:, None]
    counts = (32, 64, 128)
    errors = [
        (method(predict, noising, x, n) - gaussian_flow(noising, x)).abs().max() for n in counts
    ]
    falls = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert errors[-1] < {1: 0.02, 2: 1e-3}[order]
    assert all(abs(fall - order) < 0.3 for fall in falls), falls


def test_all_steps_of_ddim_are_its_default():
    noising, x = Noising(16, "linear", SIGMA2), normals(10, 1)
    predict = exact_predictor(GAUSSIAN, noising)
    for method in (ddim, heun):
        assert torch.equal(method(predict, noising, x), method(predict, noising, x, 16))


@pytest.mark.parametrize("method", [ddim, heun])
@pytest.mark.parametrize("total", [1, 2, 3, 7, 10, 100])
def test_levels_fall_from_noise_to_data_for_any_number_of_steps(method, total):
    for steps in range(1, total + 1):
        asked = []

        def watch(x, k, asked=asked):
            asked.append(k)
            return x

        method(watch, Noising(total), torch.zeros(1, 1), steps)
        levels = asked if method is ddim else asked[:1] + asked[1::2]
        assert levels[0] == total and min(levels) >= 1 and len(levels) == steps
        assert all(a > b for a, b in zip(levels, levels[1:], strict=False))
        assert len(asked) == (steps if method is ddim else 2 * steps - 1)


def affine_end(noising, kind):
    """Mean and variance of the sample in closed form: every step of a Gaussian's is affine."""
    mean, variance = 0.0, noising.sigma2
    predict = exact_predictor(GAUSSIAN, noising)
    for k in range(noising.steps, 0, -1):
        x = torch.tensor([[0.0], [1.0]])
        eps = predict(x, k)
        if kind == "ancestral":
            a, left = noising.alpha[k], 1 - noising.alpha_bar[k]
            y = (x - (1 - a) * (noising.sigma2 / left).sqrt() * eps) / a.sqrt()
            added = noising.sigma2 * (1 - a) if k > 1 else 0.0
        else:
            y, std = noising.posterior(x, noising.x0(x, eps, k), k)
            added = std.square()
        slope = (y[1] - y[0]).item()
        mean = y[0].item() + slope * mean
        variance = slope**2 * variance + float(added)
    return mean, variance


@pytest.mark.parametrize(
    ("kind", "sample"), [("ancestral", ancestral), ("posterior", partial(ddim, eta=1.0))]
)
def test_random_samplers_give_a_gaussian_back(kind, sample, generator):
    n, noising = 100_000, Noising(50, "cosine", SIGMA2)
    x = noising.start(n, 1, generator)
    x = sample(exact_predictor(GAUSSIAN, noising), noising, x, generator=generator)
    mean, variance = affine_end(noising, kind)
    # what is drawn is what the steps' algebra says, within 4.5 standard errors
    assert abs(x.mean() - mean) < 4.5 * (variance / n) ** 0.5
    assert abs(x.var() / variance - 1) < 4.5 * (2 / n) ** 0.5
    # and what is left to the target is the error of the steps, of first order in 1 / K
    errors = []
    for steps in (50, 100, 200):
        found, spread = affine_end(Noising(steps, "cosine", SIGMA2), kind)
        errors.append(abs(found - MEAN) + abs(spread**0.5 - STD))
    assert errors[0] < 0.1 and errors[2] < 0.6 * errors[1] < 0.36 * errors[0] + 0.01


@pytest.mark.equation("eq-02-ddim")
def test_a_step_of_ddim_with_eta_1_draws_from_the_posterior(generator):
    noising, n = Noising(2, [0.8, 0.3], SIGMA2), 200_000
    x = torch.tensor([[0.4]]).expand(n, 1)
    states = []

    def predict(x, k):  # some prediction; the state after the first step is what is looked at
        states.append(x)
        return 0.3 * x - 0.2

    ddim(predict, noising, x, eta=1.0, generator=generator)
    x0 = noising.x0(x[:1], 0.3 * x[:1] - 0.2, 2)
    mean, std = noising.posterior(x[:1], x0, 2)
    assert abs(states[1].mean() - mean) < 4.5 * std / n**0.5
    assert abs(states[1].std() / std - 1) < 4.5 / (2 * n) ** 0.5


@pytest.mark.equation("eq-02-ddim")
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_keeps_the_marginals_of_the_noising_where_the_noise_is_known(eta, generator):
    noising, n = Noising(3, [0.8, 0.5, 0.1], SIGMA2), 200_000
    x0 = torch.full((n, 1), 1.3)
    states = {}

    def predict(x, k):
        states[k] = x
        return noising.eps(x, x0, k)

    x = noising.noised(x0, 3, torch.randn(n, 1, generator=generator))
    end = ddim(predict, noising, x, eta=eta, generator=generator)
    torch.testing.assert_close(end, x0, atol=1e-5, rtol=1e-5)
    for k in (1, 2):
        mean, std = noising.marginal(x0[:1], k)
        assert abs(states[k].mean() - mean) < 4.5 * std / n**0.5
        assert abs(states[k].std() / std - 1) < 4.5 / (2 * n) ** 0.5


def test_samplers_repeat_with_their_generator_and_leave_the_start_alone():
    noising = Noising(10, "cosine", SIGMA2)
    predict, x = exact_predictor(MIXTURE, noising), normals(5, 2)
    kept = x.clone()
    for sample in (ancestral, partial(ddim, eta=1.0)):
        a, b, c = (
            sample(predict, noising, x, generator=torch.Generator().manual_seed(s))
            for s in (1, 1, 2)
        )
        assert torch.equal(a, b) and not torch.equal(a, c) and torch.equal(x, kept)
    assert torch.equal(ddim(predict, noising, x), ddim(predict, noising, x))


# the loss


def small(dim=2, classes=0, seed=0, hidden=8):
    """A policy whose drift is not zero."""
    torch.manual_seed(seed)
    policy = Policy(dim, hidden, 1, classes)
    for parameter in policy.forward_net.out.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return policy


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def plain_loss(policies, loss, seeds, level_seed):
    """L_simple of each policy written out, level by level, with the numbers that `loss` draws."""
    noising, size, mine = loss.noising, loss.batch_size, generators(*seeds)
    levels = min(16, noising.steps)
    offset = torch.rand(levels, generator=generators(level_seed)[0])
    k = ((torch.arange(levels) + offset) * (noising.steps / levels)).long() + 1
    chosen = [torch.randint(len(loss.data), (size,), generator=g) for g in mine]
    codes = [None] * len(seeds)
    if loss.codes is not None:
        kept = [torch.rand(size, generator=g) >= loss.dropout for g in mine]
        codes = [loss.codes[c] * m[:, None] for c, m in zip(chosen, kept, strict=True)]
    eps = [torch.randn(levels, size, loss.data.shape[1], generator=g) for g in mine]
    losses = []
    for policy, rows, code, noise in zip(policies, chosen, codes, eps, strict=True):
        total = 0.0
        for i, level in enumerate(k.tolist()):
            share, a = noising.alpha_bar[level], noising.alpha[level]
            x0 = loss.data[rows]
            x = share.sqrt() * x0 + (noising.sigma2 * (1 - share)).sqrt() * noise[i]
            t, length = torch.tensor([1 - level / noising.steps]), (1 - a)[None]
            context = policy.context(policy.forward_net, t, length, code)
            (u,) = policy.forward_kernel(x[None], context)
            mean = a.sqrt() * x + (1 - a) * u[0]  # of P_F: what this noise leads to
            found = (x - a.sqrt() * mean) * ((1 - share) / noising.sigma2).sqrt() / (1 - a)
            if loss.predict == "noise":
                total = total + (found - noise[i]).square().mean()
            else:
                guess = (x - (noising.sigma2 * (1 - share)).sqrt() * found) / share.sqrt()
                total = total + (guess - x0).square().mean()
        losses.append(total / levels)
    return torch.stack(losses)


@pytest.mark.parametrize("predict", ["noise", "x0"])
@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("runs", [1, 2])
def test_loss_and_gradient_are_those_of_a_plain_loop(predict, classes, runs):
    policies = [small(classes=classes, seed=s) for s in range(runs)]
    labels = torch.arange(40) % 3 if classes else None
    noising = Noising(20, "cosine", SIGMA2)
    loss = DataLoss(normals(40, 2), noising, labels, classes, 8, 0.3, predict)
    seeds = range(7, 7 + runs)
    plain = plain_loss(policies, loss, seeds, 3)
    wanted = [torch.autograd.grad(one, list(p.forward_net.parameters()))
              for one, p in zip(plain, policies, strict=True)]  # fmt: skip
    together = Policy.stack(policies)
    found = loss(together, generators(*seeds), generators(*[3] * runs))
    torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-5)
    found.sum().backward()
    for run in range(runs):
        for parameter, gradient in zip(together.forward_net.parameters(), wanted[run], strict=True):
            mine = parameter.grad[run : run + 1]
            torch.testing.assert_close(mine, gradient, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("classes", [0, 3])
def test_runs_of_a_stacked_policy_are_as_alone(classes):
    policies = [small(classes=classes, seed=s) for s in range(3)]
    labels = torch.arange(40) % 3 if classes else None
    loss = DataLoss(normals(40, 2), Noising(20), labels, classes, 8, 0.3)
    alone = [loss(p, generators(s), generators(5)) for s, p in enumerate(policies)]
    together = loss(Policy.stack(policies), generators(0, 1, 2), generators(5, 5, 5))
    torch.testing.assert_close(together, torch.cat(alone))


def test_levels_of_a_batch_are_uniform_on_1_to_k():
    counts, noising = torch.zeros(8), Noising(7)
    loss, generator = DataLoss(torch.zeros(3, 1), noising, batch_size=1), torch.Generator()
    policy = small(1)
    context = policy.context
    policy.context = lambda net, t, *rest: (seen.append(t), context(net, t, *rest))[1]
    for seed in range(200):
        seen = []
        loss(policy, [generator.manual_seed(seed)])
        counts += torch.bincount((7 * (1 - seen[0])).round().long(), minlength=8)
    assert counts[0] == 0 and (counts[1:] == 200).all()  # K below 16: each level once
    loss = DataLoss(torch.zeros(3, 1), Noising(100), batch_size=1)
    counts = torch.zeros(101)
    for seed in range(500):
        seen = []
        loss(policy, [generator.manual_seed(seed)])
        counts += torch.bincount((100 * (1 - seen[0])).round().long(), minlength=101)
    assert counts[0] == 0 and counts.sum() == 8000
    assert ((counts[1:] - 80).abs() < 5 * 80**0.5).all()


class Predicting(Policy):
    """A policy whose drift stands for the exact noise in a Gaussian's states, times a factor."""

    def __init__(self, noising, factor=1.0, shift=0.0):
        super().__init__(1, 4, 1)
        self.noising, self.factor, self.shift = noising, factor, shift
        self.exact = exact_predictor(GAUSSIAN, noising)

    def context(self, net, t, length, condition, repeats=1):
        return ((1 - t) * self.noising.steps).round().long()

    def forward_kernel(self, x, context, score=None):
        u = []
        for state, k in zip(x, context.tolist(), strict=True):
            eps = self.factor * self.exact(state, k) + self.shift
            left = ((1 - self.noising.alpha_bar[k]) / self.noising.sigma2).sqrt()
            u.append((state - eps / left) / self.noising.alpha[k].sqrt())
        return (torch.stack(u),)


@pytest.mark.equation("eq-02-simple")
@pytest.mark.parametrize("predict", ["noise", "x0"])
def test_the_exact_predictor_has_the_least_loss_and_it_is_known(predict):
    noising, n = Noising(10, "cosine", SIGMA2), 100_000
    data = MEAN + STD * normals(n, 1, seed=5)
    loss = DataLoss(data, noising, batch_size=n // 4, predict=predict)

    def value(**changes):
        return loss(Predicting(noising, **changes), [torch.Generator().manual_seed(0)]).item()

    # E|eps - E[eps | x_k]|^2 of normal data: the share of the variance of x_k that is data
    share = noising.alpha_bar[1:]
    least = share * STD**2 / (share * STD**2 + SIGMA2 * (1 - share))
    if predict == "x0":
        least = least * SIGMA2 * (1 / share - 1)
    assert value() == pytest.approx(least.mean().item(), rel=0.02)
    for changes in ({"factor": 0.8}, {"factor": 1.2}, {"shift": 0.2}, {"shift": -0.2}):
        assert value(**changes) > value() + 0.005


@pytest.mark.parametrize("dropout", [0.0, 0.5, 1.0])
def test_dropout_withholds_that_share_of_the_labels(dropout, generator):
    loss = DataLoss(torch.zeros(300, 1), Noising(4), torch.arange(300) % 3, 3, 2000, dropout)
    policy, seen = small(1, 3), []
    context = policy.context

    def watch(net, t, length, condition, *rest):
        seen.append(condition)
        return context(net, t, length, condition, *rest)

    policy.context = watch
    loss(policy, [generator])
    (codes,) = seen
    assert codes.shape == (2000, 3) and ((codes == 0) | (codes == 1)).all()
    withheld = (codes.sum(1) == 0).double().mean().item()
    assert abs(withheld - dropout) <= 4.5 * (dropout * (1 - dropout) / 2000) ** 0.5
    assert codes.sum(1).max() <= 1


# the network


@pytest.mark.equation("eq-02-kernels", "eq-02-bridge")
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_step_of_the_samplers_kernel_is_the_ancestral_step(schedule):
    noising = Noising(10, schedule, SIGMA2)
    model = Denoiser(2, noising, hidden=8, layers=1, seed=3)
    model.policy = small(seed=3)
    sampler = model.sampler(MIXTURE)
    assert (sampler.config.process, sampler.config.steps) == ("vp", 10)
    t = gl.time_grid(10)
    steps, x, predict = sampler.process.steps(t), normals(6, 2), model.predictor()
    net = sampler.policy.forward_net
    for i in range(10):
        k = 10 - i
        context = sampler.policy.context(net, t[i : i + 1], steps.h[i : i + 1], None)
        (u,) = sampler.policy.forward_kernel(x[None], context)
        mean = steps.a[i] * x + steps.h[i] * u[0]
        a, left = noising.alpha[k], 1 - noising.alpha_bar[k]
        wanted = x - (1 - a) * (SIGMA2 / left).sqrt() * predict(x, k)
        torch.testing.assert_close(mean, wanted / a.sqrt(), rtol=1e-4, atol=1e-5)
        assert (SIGMA2 * steps.h[i]).item() == pytest.approx((SIGMA2 * (1 - a)).item(), rel=1e-4)


def test_sampler_samples_as_the_model_and_learns_apart_from_it(generator):
    noising = Noising(20, "cosine", 1.0)
    model = Denoiser(1, noising, hidden=16, layers=1, seed=1)
    model.fit(MEAN + STD * normals(2000, 1), iterations=300, lr=1e-2, progress=False)
    sampler = model.sampler(gl.Gaussian([MEAN], STD), iterations=3)
    x, y = model.sample(20_000), sampler.sample(20_000)
    last = noising.step(x, 1)[1].square()  # P_F's last noise, which ancestral sampling leaves out
    assert abs(x.mean() - y.mean()) < 4.5 * STD * (2 / 20_000) ** 0.5
    assert abs((x.var() + last) / y.var() - 1) < 4.5 * (4 / 20_000) ** 0.5
    lower = gl.elbo(sampler.log_weight(5000))
    upper = gl.eubo(sampler.log_weight(x=MEAN + STD * normals(5000, 1, seed=2)))
    assert -0.3 < lower < 0.01 and -0.01 < upper < 0.3
    before = [p.clone() for p in model.policy.parameters()]
    sampler.fit(progress=False)
    assert all(map(torch.equal, before, model.policy.parameters()))
    own, theirs = sampler.policy.forward_net.out.weight, model.policy.forward_net.out.weight
    assert not torch.equal(own, theirs)


def test_trained_on_a_gaussian_it_predicts_the_noise():
    noising = Noising(20, "cosine", 1.0)
    data = MEAN + STD * normals(5000, 1)
    model = Denoiser(1, noising, hidden=32, layers=1)
    model.fit(data, iterations=800, lr=1e-2, progress=False)
    exact, learned = exact_predictor(GAUSSIAN, noising), model.predictor()
    untrained = Denoiser(1, noising, hidden=32, layers=1).predictor()
    errors = {"learned": [], "untrained": []}
    for k in range(1, 21):
        x = noising.noised(data[:1000], k, normals(1000, 1, seed=k))
        for name, predict in (("learned", learned), ("untrained", untrained)):
            errors[name].append((predict(x, k) - exact(x, k)).square().mean().item())
    learned, untrained = (sum(values) / 20 for values in errors.values())
    assert learned < 0.005 < 0.02 < untrained
    assert len(model.losses) == 800
    for method in ("ancestral", "ddim", "flow"):
        x = model.sample(5000, method=method)
        assert abs(x.mean() - MEAN) < 0.07 and abs(x.std() - STD) < 0.07


def test_classes_are_told_apart_and_withheld_labels_give_all():
    labels = torch.arange(2000) % 2
    data = torch.where(labels == 1, 2.0, -2.0)[:, None] + 0.3 * normals(2000, 1)
    model = Denoiser(1, Noising(20, "cosine", 4.0), classes=2, hidden=16, layers=1)
    model.fit(data, labels, iterations=400, lr=1e-2, progress=False, dropout=0.2)
    for label, sign in ((0, -1), (1, 1)):
        assert (model.sample(500, label=label) * sign > 0).double().mean() > 0.95
    assert abs((model.sample(2000) > 0).double().mean() - 0.5) < 0.15
    # guided, by a predictor that is bent towards one class
    assert (model.sample(500, label=1, scale=1.0) > 0).double().mean() > 0.95


def test_same_seed_same_model_and_other_seed_another():
    data = normals(100, 2)

    def samples(seed):
        model = Denoiser(2, Noising(5), hidden=8, layers=1, seed=seed)
        return model.fit(data, iterations=5, progress=False).sample(4)

    assert torch.equal(samples(0), samples(0)) and not torch.equal(samples(0), samples(1))


def test_a_predictor_of_ones_own_takes_the_networks_place():
    noising = Noising(50, "cosine", SIGMA2)
    model, exact = Denoiser(2, noising, seed=4), exact_predictor(MIXTURE, noising)
    x = model.sample(10, predictor=exact, method="ddim", steps=7)
    start = noising.start(10, 2, torch.Generator().manual_seed(4))
    assert torch.equal(x, ddim(exact, noising, start, 7))


def test_noise_of_a_batch_of_levels_is_that_of_each():
    noising, policy, x = Noising(9, "linear", SIGMA2), small(), normals(3, 4, 2)
    k = torch.tensor([1, 4, 9])
    together = noise_of(policy, noising, x, k)
    for i in range(3):
        alone = noise_of(policy, noising, x[i : i + 1], k[i : i + 1])
        torch.testing.assert_close(together[i], alone[0])


# bad input

DATA, STEPS = torch.zeros(6, 2), Noising(4)
predict_nothing = lambda x, k: x  # noqa: E731


def model(classes=0, schedule="cosine"):
    return Denoiser(2, Noising(4, schedule), classes, hidden=4, layers=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Noising(0), "steps=0 must be"),
        (lambda: Noising(2.5), "steps=2.5 must be"),
        (lambda: Noising(4, "quadratic"), "schedule='quadratic' is unknown"),
        (lambda: Noising(4, sigma2=0.0), "sigma2=0.0 must be positive"),
        (lambda: Noising(4, sigma2=math.nan), "sigma2=nan must be positive"),
        (lambda: Noising(4, [0.9, 0.7, 0.4]), "schedule must be 4 values"),
        (lambda: Noising(4, [1.0, 0.7, 0.4, 0.1]), "within"),
        (lambda: Noising(4, [0.9, 0.7, 0.4, 0.0]), "within"),
        (lambda: Noising(4, [0.9, 0.7, 0.7, 0.1]), "fall"),
        (lambda: Noising(4, [0.9, 0.4, 0.7, 0.1]), "fall"),
        (lambda: Noising(4, [0.9, math.nan, 0.4, 0.1]), "within"),
        (lambda: ddim(predict_nothing, STEPS, DATA, 0), "steps=0 must be an integer from 1 to 4"),
        (lambda: ddim(predict_nothing, STEPS, DATA, 5), "steps=5 must be an integer from 1 to 4"),
        (lambda: ddim(predict_nothing, STEPS, DATA, eta=-0.1), "eta=-0.1 must be from 0 to 1"),
        (lambda: ddim(predict_nothing, STEPS, DATA, eta=1.5), "eta=1.5 must be from 0 to 1"),
        (lambda: ddim(predict_nothing, STEPS, DATA, eta=math.nan), "eta=nan must be"),
        (lambda: heun(predict_nothing, STEPS, DATA, 5), "steps=5 must be an integer from 1 to 4"),
        (lambda: DataLoss(torch.zeros(6), STEPS), r"data must have shape \(N, d\), got \(6,\)"),
        (lambda: DataLoss(torch.zeros(0, 2), STEPS), r"data must have shape"),
        (lambda: DataLoss(DATA.index_fill(0, torch.tensor([1, 4]), math.nan), STEPS),
         "not finite in 2 of 6"),
        (lambda: DataLoss(DATA, STEPS, dropout=-0.1), "dropout=-0.1 must be from 0 to 1"),
        (lambda: DataLoss(DATA, STEPS, dropout=1.1), "dropout=1.1 must be from 0 to 1"),
        (lambda: DataLoss(DATA, STEPS, predict="v"), "predict='v' is unknown"),
        (lambda: DataLoss(DATA, STEPS, gfn=-1.0), "gfn=-1.0 must be finite"),
        (lambda: DataLoss(DATA, STEPS, batch_size=0), "batch_size=0 must be"),
        (lambda: DataLoss(DATA, STEPS, torch.zeros(6).long()), "must be given together"),
        (lambda: DataLoss(DATA, STEPS, classes=3), "must be given together"),
        (lambda: DataLoss(DATA, STEPS, torch.zeros(5).long(), 3), r"labels must be 6, got \(5,\)"),
        (lambda: DataLoss(DATA, STEPS, torch.full((6,), 3), 3), "integers from 0 to 2"),
        (lambda: DataLoss(DATA, STEPS, torch.full((6,), -1), 3), "integers from 0 to 2"),
        (lambda: DataLoss(DATA, STEPS, torch.zeros(6), 3), "integers from 0 to 2"),
        (lambda: Denoiser(0, STEPS), "dim=0 must be"),
        (lambda: Denoiser(2, STEPS, classes=-1), "classes=-1 must be"),
        (lambda: model().fit(torch.zeros(6, 3), progress=False), "3 columns, not dim=2"),
        (lambda: model().fit(DATA, iterations=-1, progress=False), "iterations=-1 must be"),
        (lambda: model(3).fit(DATA, progress=False), "must be given together"),
        (lambda: model().sample(0), "n=0 must be"),
        (lambda: model().sample(5, method="euler"), "method='euler' is unknown"),
        (lambda: model(3).sample(5, label=3), "label=3 must be below classes=3"),
        (lambda: model(3).sample(5, label=-1), "label=-1 must be"),
        (lambda: model().sample(5, label=0), "label=0 must be below classes=0"),
        (lambda: model(3).sample(5, scale=1.0), "scale=1.0 is for one label"),
        (lambda: model(3).sample(5, 1, scale=math.nan), "scale=nan must be finite"),
        (lambda: model().sample(5, method="ddim", steps=5), "steps=5 must be"),
        (lambda: model(3).sampler(MIXTURE), "without classes"),
        (lambda: model(schedule=OWN).sampler(MIXTURE), "a named schedule"),
        (lambda: model().sampler(MIXTURE, iterations=0), "iterations=0 must be"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_error(call, message, one_clear_error):
    one_clear_error(call, message)


# ---------------------------------------------------------------- at the edges


def test_the_last_level_is_the_last_whatever_rounding_does(monkeypatch):
    """15 + (1 - 2^-24) is 16 in float32: no level beyond K."""
    loss = DataLoss(torch.randn(20, 2), Noising(100, "cosine", 1.0), batch_size=4)
    rand, most = torch.rand, torch.tensor(1.0).nextafter(torch.tensor(0.0))
    monkeypatch.setattr(torch, "rand", lambda *a, **k: torch.full_like(rand(*a, **k), most.item()))
    assert loss(Denoiser(2, loss.noising).policy, [torch.Generator()]).isfinite().all()


@pytest.mark.parametrize("steps", [100, 512, 1000])
def test_little_noise_keeps_its_digits(steps):
    noising = Noising(steps, "cosine", sigma2=3.0)
    t = 1 - torch.arange(1, steps + 1, dtype=torch.float64) / steps
    left = -torch.expm1(VariancePreserving(3.0, "cosine").log_alpha_bar(t))
    torch.testing.assert_close(noising.left[1:].double(), left, rtol=1e-6, atol=0)
    tiny = Noising(2, torch.tensor([1 - 1e-9, 0.5], dtype=torch.float64))
    x = torch.ones(3, 2)
    assert ancestral(lambda x, k: x, tiny, x).isfinite().all()
    assert ddim(lambda x, k: x, tiny, x).isfinite().all()


def test_a_sampler_with_learned_variances_starts_as_the_model(generator):
    model = Denoiser(2, Noising(12, "cosine", 1.0), hidden=8)
    for p in model.policy.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=generator)
    x, grid = torch.randn(30, 2, generator=generator), gl.time_grid(12)
    ways = [model.sampler(gl.gmm9, learn_variance=learned) for learned in (False, True)]
    fixed, learned = (s.rollout(grid, x=x, generator=torch.Generator()) for s in ways)
    torch.testing.assert_close(fixed.log_weight, learned.log_weight, rtol=1e-4, atol=1e-4)


EDGES = {
    "level": (lambda: Noising(5).posterior(torch.ones(1, 2), torch.ones(1, 2), 0), "within 0 and"),
    "beyond": (lambda: Noising(5).marginal(torch.ones(1, 2), 6), "k from 6 to 6 must be within"),
    "no schedule": (lambda: Noising(4, None), "must be 4 values of alpha_bar"),
    "classes": (lambda: DataLoss(torch.ones(3, 2), Noising(4), [0, 1, 1], 3.0), "classes=3.0"),
    "negative": (lambda: DataLoss(torch.ones(3, 2), Noising(4), [0, 1, 1], -3), "classes=-3"),
    "dimension": (lambda: Denoiser(2, Noising(4)).sampler(gl.ManyWell(4)), "dim=2 but target"),
    "steps": (lambda: Denoiser(2, Noising(4)).sampler(gl.gmm9, steps=9), "steps cannot be changed"),
    "ancestral": (lambda: Denoiser(2, Noising(4)).sample(3, steps=2), "do not go with"),
    "flow": (lambda: Denoiser(2, Noising(4)).sample(3, method="flow", eta=1.0), "do not go with"),
}


@pytest.mark.parametrize("call, message", EDGES.values(), ids=EDGES)
def test_a_mistake_at_the_edge_is_one_clear_error(call, message, one_clear_error):
    one_clear_error(call, message)
