"""Callables as targets, conditions, combinators, and what each refuses."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from gfnlite import targets
from gfnlite.local_search import mala
from gfnlite.smc import annealed_smc

X = torch.tensor([[1.0, 2.0], [-3.0, 0.5], [0.0, 1.0]])
C = torch.tensor([[0.0, 1.0], [2.0, 2.0], [5.0, -1.0]])


def bowl(x):
    return x.square().sum(-1)


def spring(x, c):
    return 0.5 * (x - c).square().sum(-1)


conditional = targets.as_target(spring, dim=2, condition_dim=2)


def test_a_callable_is_an_energy():
    target = targets.as_target(bowl, dim=2)
    assert torch.equal(target.energy(X), bowl(X)) and torch.equal(target.log_reward(X), -bowl(X))
    assert torch.equal(target.score(X), -2 * X)
    log_r, score = target.log_reward_and_score(X)
    assert torch.equal(log_r, -bowl(X)) and torch.equal(score, -2 * X)
    assert not log_r.requires_grad and not score.requires_grad
    assert target.log_z is target.sample is target.mode_mass is target.sample_condition is None
    assert (target.dim, target.condition_dim, target.name) == (2, 0, "bowl(x)")


def test_a_target_stays_itself():
    assert (
        targets.as_target(targets.gmm9) is targets.gmm9
        and targets.as_target(targets.gmm9, dim=2) is targets.gmm9
    )
    assert targets.as_target(conditional, condition_dim=2) is conditional


def test_score_of_a_callable_can_be_differentiated_again():
    target = targets.as_target(lambda x: (x.prod(-1).sin() + x.pow(4).sum(-1)).exp().log1p(), dim=2)
    x = (0.3 * X).double().requires_grad_()
    assert torch.autograd.gradcheck(target.score, x)
    assert torch.autograd.gradgradcheck(target.log_reward, x)
    assert torch.autograd.gradcheck(target.log_reward_and_score, x)


def test_score_through_the_path_that_made_x():
    # Reverse KL differentiates score(x(theta)) with respect to theta: here -2 x, x = theta X.
    theta = torch.tensor(3.0, requires_grad=True)
    for target in (targets.as_target(bowl, dim=2), targets.Gaussian([0.0, 0.0], math.sqrt(0.5))):
        (slope,) = torch.autograd.grad(target.score(theta * X).sum(), theta)
        torch.testing.assert_close(slope, -2 * X.sum())


def test_score_ignores_the_parameters_of_an_energy():
    net = nn.Linear(2, 1)
    target = targets.as_target(lambda x: net(x)[:, 0].square(), dim=2)
    assert not target.score(X).requires_grad and net.weight.grad is None
    assert target.log_reward(X).requires_grad  # so that a decoder can be trained through it


def test_nan_passes_through():
    target = targets.as_target(lambda x: torch.where(x[:, 0] > 0, torch.nan, bowl(x)), dim=2)
    assert target.log_reward(X).isnan().tolist() == [True, False, False]
    for mixture in (targets.gmm9, targets.GMM(targets.gmm9.means, 0.3, weights=range(1, 10))):
        log_r, score = mixture.log_reward_and_score(torch.where(X > 1, torch.nan, X))
        assert log_r.isnan().tolist() == [True, False, False]
        assert score.isnan().any(1).tolist() == [True, False, False]


def test_a_conditional_energy():
    assert torch.equal(conditional.log_reward(X, C), -spring(X, C))
    assert torch.equal(conditional.energy(X, C), spring(X, C))
    torch.testing.assert_close(conditional.score(X, C), C - X)
    assert conditional.sample_condition is None
    alone = torch.cat([conditional.score(x[None], c[None]) for x, c in zip(X, C, strict=True)])
    torch.testing.assert_close(conditional.score(X, C), alone)  # no condition meets another's x


def test_conditions_are_drawn_uniformly(generator):
    target, n = targets.as_target(spring, dim=2, conditions=C), 9000
    drawn = target.sample_condition(n, generator)
    assert (target.condition_dim, drawn.shape) == (2, (n, 2))
    share = (drawn[:, None] == C).all(-1).double().mean(0)
    assert share.sum() == 1
    assert ((share - 1 / 3).abs() < 4 * math.sqrt(2 / 9 / n)).all()
    assert torch.equal(drawn, target.sample_condition(n, torch.Generator().manual_seed(0)))
    moved = target.to("meta")
    assert moved.conditions.is_meta and moved.sample_condition(4).is_meta


def test_a_network_moves_as_a_copy():
    target = targets.as_target(bowl, dim=2)
    target.decoder = nn.Linear(2, 1)
    assert target.to("cpu").decoder is target.decoder
    assert target.to("meta").decoder.weight.is_meta and not target.decoder.weight.is_meta


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_tempered(temperature):
    hot = targets.tempered(targets.gmm25, temperature)
    torch.testing.assert_close(hot.log_reward(X), targets.gmm25.log_reward(X) / temperature)
    torch.testing.assert_close(hot.score(X), targets.gmm25.score(X) / temperature)
    assert hot.log_z is hot.sample is hot.mode_mass is None
    # N(m, s^2)^(1/T) is N(m, T s^2) up to a constant.
    bell = targets.Gaussian([1.0, 2.0], math.sqrt(temperature))
    torch.testing.assert_close(
        targets.tempered(targets.Gaussian([1.0, 2.0]), temperature).score(X), bell.score(X)
    )
    assert targets.tempered(targets.gmm25, 1) is targets.gmm25
    cold = targets.tempered(targets.as_target(spring, dim=2, conditions=C), temperature)
    torch.testing.assert_close(cold.score(X, C), (C - X) / temperature)
    assert cold.condition_dim == 2 and cold.sample_condition(7).shape == (7, 2)


def test_weighted_sum():
    a, b = targets.Gaussian([1.0, 0.0], 0.5), targets.Gaussian([-2.0, 3.0], 2.0)
    both = targets.weighted_sum([a, b], [2.0, 3.0])
    log_r, score = both.log_reward_and_score(X)
    torch.testing.assert_close(log_r, 2 * a.log_reward(X) + 3 * b.log_reward(X))
    torch.testing.assert_close(score, targets.Target.log_reward_and_score(both, X)[1])
    # A product of Gaussians is one: precisions add, and means weighted by them.
    precision = 2 / 0.25 + 3 / 4
    mean = (2 / 0.25 * a.mean + 3 / 4 * b.mean) / precision
    torch.testing.assert_close(score, targets.Gaussian(mean, precision**-0.5).score(X))
    assert both.log_z is both.sample is both.mode_mass is both.sample_condition is None
    x = X.clone().requires_grad_()
    assert both.score(x).requires_grad
    assert both.to("meta").log_reward(X.to("meta")).is_meta and both.log_reward(X).is_cpu


def test_weighted_sum_of_few():
    assert targets.weighted_sum([targets.gmm9, targets.gmm25], [1.0, 0.0]) is targets.gmm9
    part = targets.weighted_sum([targets.gmm9, targets.gmm25], [0.0, 0.5])
    assert torch.equal(part.log_reward(X), targets.tempered(targets.gmm25, 2.0).log_reward(X))


def test_weighted_sum_shares_the_condition():
    mixed = targets.weighted_sum(
        [targets.gmm9, targets.as_target(spring, dim=2, conditions=C)], [1.0, 2.0]
    )
    assert mixed.condition_dim == 2 and mixed.sample_condition(3).shape == (3, 2)
    expected = targets.gmm9.log_reward(X) - 2 * spring(X, C)
    torch.testing.assert_close(mixed.log_reward(X, C), expected)
    torch.testing.assert_close(mixed.score(X, C), targets.gmm9.score(X) + 2 * (C - X))


def test_targets_are_copied_and_shown():
    assert copy.copy(targets.gmm9).log_reward(X).shape == (3,)
    assert repr(targets.gmm9) == "GMM(name='9gmm', dim=2, log_z=0.0)"
    assert "condition_dim=2" in repr(conditional)


KINDS = [torch.float64, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_an_energy_of_another_type_has_that_of_x(kind):
    target = targets.as_target(lambda x: bowl(x).to(kind), dim=2)
    log_r, score = target.log_reward_and_score(X)
    assert log_r.dtype == score.dtype == target.log_reward(X).dtype == torch.float32
    torch.testing.assert_close((log_r, score), (-bowl(X), -2 * X), rtol=0.01, atol=0.01)
    x = X.clone().requires_grad_()
    assert target.log_reward(x).requires_grad
    assert target.log_reward(X.double()).dtype == torch.float64


def test_an_energy_that_counts_is_an_energy():
    for kind in (torch.int64, torch.bool):
        target = targets.as_target(lambda x, kind=kind: (x[:, 0] > 0).to(kind), dim=2)
        assert target.log_reward(X).tolist() == [-1.0, 0.0, 0.0]


class Plain(targets.Target):
    """The bowl, its log reward without the condition that it does not take."""

    dim = 2

    def log_reward(self, x):
        return -bowl(x)


class Full(Plain):
    def log_reward(self, x, condition=None):
        return -bowl(x)


def test_the_condition_may_be_left_out():
    def everything(target):
        generator = torch.Generator().manual_seed(0)
        particles = annealed_smc(target, 50, 2.0, generator=generator)
        mixed = targets.weighted_sum([target, conditional], [1.0, 2.0])
        return [
            target.energy(X), target.score(X), *target.log_reward_and_score(X),
            targets.tempered(target, 2.0).score(X),
            targets.weighted_sum([target, targets.gmm9], [1.0, 2.0]).energy(X),
            mixed.score(X, C), mala(target, X, steps=3, burn_in=1, generator=generator).x,
            particles.x, particles.log_reward, particles.score,
        ]  # fmt: skip

    targets.check_target(Plain(), X)
    for found, expected in zip(everything(Plain()), everything(Full()), strict=True):
        assert torch.equal(found, expected)


def of(**methods):
    return type("Custom", (Full,), methods)()


def draws(n, generator=None):
    return torch.randn(n, 2, generator=generator)


def test_a_good_target_passes():
    for target in (
        targets.gmm25,
        targets.ManyWell(2),
        conditional,
        targets.tempered(targets.gmm9, 2.0),
        of(sample=staticmethod(draws)),
    ):
        targets.check_target(target, X, C if target.condition_dim else None)
    targets.check_target(targets.breast_cancer(), torch.zeros(8, 31))
    # One without gradient is fine where none is needed.
    targets.check_target(targets.tempered(targets.as_target(no_gradient, 2), 2.0), X)
    state = torch.get_rng_state()
    targets.check_target(of(sample=staticmethod(draws)), X)
    assert torch.equal(torch.get_rng_state(), state)


BROKEN = {
    "no dim": (
        type("Custom", (targets.Target,), {})(),
        "target 'custom' has dim=None, must be a positive",
    ),
    "dim": (of(dim=2.0), "has dim=2.0, must be a positive integer"),
    "condition_dim": (of(condition_dim=-1), "condition_dim=-1, must be a non-negative integer"),
    "abstract": (type("Custom", (targets.Target,), {"dim": 2})(), "Custom must define log_reward"),
    "number": (
        of(log_reward=lambda self, x: 1.0),
        r"log_reward of target 'custom' must return .* \(B,\) = \(3,\) .*, got float",
    ),
    "column": (of(log_reward=lambda self, x: -x[:, :1]), r"\(3,\) for .*got shape \(3, 1\)"),
    "double": (of(log_reward=lambda self, x: -bowl(x).double()), "torch.float32, the .*float64"),
    "no x": (of(log_reward=lambda self: 1.0), r"log_reward .* must take \(x\): too many pos"),
    "score": (of(score=lambda self, x: x[:, 0]), r"score .*\(B, d\) = \(3, 2\).*got shape \(3,\)"),
    "sample": (of(sample=lambda self, n: X), r"sample .* must take \(n, generator\): too many"),
    "samples": (of(sample=lambda self, n, generator: X[0]), r"\(3, 2\) .*got shape \(2,\)"),
}


@pytest.mark.parametrize("target, message", BROKEN.values(), ids=BROKEN)
def test_a_broken_target_is_one_clear_error(target, message):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        targets.check_target(target, X)
    assert "\n" not in str(caught.value)


def test_a_broken_target_is_noticed_where_it_is_used():
    for broken in (of(log_reward=lambda self, x: -x.square()), BROKEN["double"][0]):
        for call in (broken.score, lambda x, broken=broken: mala(broken, x, steps=2, burn_in=0)):
            with pytest.raises(ValueError, match="log_reward of target 'custom' must return"):
                call(X)
    wrong = of(log_reward_and_score=lambda self, x: (-bowl(x), x[:, 0]))
    for call in (wrong.score, lambda x: mala(wrong, x, steps=2, burn_in=0)):
        with pytest.raises(ValueError, match="score of target 'custom' must return"):
            call(X)
    with pytest.raises(ValueError, match="has dim=2.0, must be"):
        targets.as_target(of(dim=2.0))


def test_callables_in_combinators():
    assert torch.equal(targets.tempered(bowl, 2.0, dim=2).energy(X), bowl(X) / 2)
    both = targets.weighted_sum([bowl, targets.gmm9], [2.0, 1.0], dim=2)
    torch.testing.assert_close(both.energy(X), 2 * bowl(X) + targets.gmm9.energy(X))


def test_integers_of_numpy_are_integers():
    for two in (np.int64(2), np.int32(2), np.uint8(2)):
        for target in (
            targets.as_target(bowl, two),
            targets.ManyWell(two),
            targets.Funnel(two),
            targets.gmm40_in(two),
        ):
            assert type(target.dim) is int and target.log_reward(X).shape == (3,)
        assert (
            targets.as_target(targets.gmm9, two) is targets.gmm9
            and targets.LogGaussianCox(X.sigmoid(), two).dim == 4
        )
        assert (targets.ManyWell(two).name, targets.gmm40_in(two).name) == ("manywell2", "40gmm")


def no_gradient(x):
    return x.detach().square().sum(-1)


line = targets.as_target(lambda x: x[:, 0], dim=1)
LABELS = torch.tensor([0, 1, 1])
CASES = {
    "dim": (
        lambda: targets.as_target(bowl),
        "dim=None: a callable energy needs dim, a positive integer",
    ),
    "callable": (lambda: targets.as_target(3), "energy_fn=3 must be a Target or a callable"),
    "condition_dim": (
        lambda: targets.as_target(spring, 2, -1),
        "condition_dim=-1 must be a non-negative",
    ),
    "true": (
        lambda: targets.as_target(spring, 2, True),
        "condition_dim=True must be a non-negative",
    ),
    "float": (
        lambda: targets.as_target(spring, 2, 1.5),
        "condition_dim=1.5 must be a non-negative int",
    ),
    "conditions": (
        lambda: targets.as_target(spring, 2, conditions=[1.0, 2.0]),
        r"conditions must have shape \(N, c\), got \(2,\)",
    ),
    "both": (
        lambda: targets.as_target(spring, 2, 3, C),
        r"condition_dim=3 but conditions have shape \(3, 2\)",
    ),
    "own": (
        lambda: targets.as_target(targets.gmm9, conditions=C),
        "conditions is for callables; target '9gmm'",
    ),
    "other": (
        lambda: targets.as_target(conditional, condition_dim=3),
        "spring.* has its own .*dim=2",
    ),
    "taken": (lambda: targets.gmm9.score(X, C), "condition given, but target '9gmm' takes none"),
    "taken by callable": (
        lambda: targets.as_target(bowl, 2).energy(X, C),
        r"target 'bowl\(x\)' takes none",
    ),
    "taken by sum": (
        lambda: targets.tempered(targets.gmm9, 2.0).energy(X, C),
        "'9gmm at T=2' takes none",
    ),
    "missing": (
        lambda: conditional.energy(X),
        r"'spring\(x, c\)' needs condition \(B, c\) = \(3, 2\), got None",
    ),
    "rows": (lambda: conditional.score(X, C[:2]), r"\(B, c\) = \(3, 2\), got \(2, 2\)"),
    "columns": (lambda: targets.check_condition(conditional, X, C[:, :1]), r"got \(3, 1\)"),
    "list": (lambda: targets.check_condition(conditional, X, [1, 2]), r"\(3, 2\), got \[1, 2\]"),
    "shape": (
        lambda: targets.as_target(lambda x: x, 2).score(X),
        r"\(B,\) = \(3,\).*got shape \(3, 2\)",
    ),
    "type": (
        lambda: targets.as_target(lambda x: 1.0, 2).energy(X),
        "must return a tensor.*got float",
    ),
    "gradient": (
        lambda: targets.as_target(no_gradient, 2).score(X),
        r"'no_gradient\(x\)' has no gradient with",
    ),
    "no x": (
        lambda: targets.as_target(lambda x: torch.ones(3, requires_grad=True), 2).score(X),
        "has no gradient with respect to x",
    ),
    "modes": (
        lambda: targets.tempered(targets.gmm9, 2.0).modes_of(X),
        "'9gmm at T=2' does not know its modes",
    ),
    "abstract": (lambda: targets.Target().log_reward(X), "Target must define log_reward"),
    "temperature": (
        lambda: targets.tempered(targets.gmm9, 0.0),
        "temperature=0.0 must be positive and finite",
    ),
    "infinite": (
        lambda: targets.tempered(targets.gmm9, math.inf),
        "temperature=inf must be positive and finite",
    ),
    "too few": (
        lambda: targets.weighted_sum([targets.gmm9], []),
        r"weights=\[\] must be one for each of 1",
    ),
    "negative": (
        lambda: targets.weighted_sum([targets.gmm9], [-1]),
        r"weights=\[-1.0\] must be .* at least 0",
    ),
    "zero": (lambda: targets.weighted_sum([targets.gmm9], [0]), "and not all 0"),
    "nan": (
        lambda: targets.weighted_sum([targets.gmm9], [math.nan]),
        r"weights=\[nan\] must be .* finite",
    ),
    "dims": (
        lambda: targets.weighted_sum([targets.gmm9, line], [1, 1]),
        r"the same dim, got \[1, 2\]",
    ),
    "conditions differ": (
        lambda: targets.weighted_sum([conditional, targets.as_target(spring, 2, 5)], [1, 1]),
        r"the same condition_dim, got \[2, 5\]",
    ),
    "variance": (lambda: targets.GMM([[0.0]], [-1.0]), r"variance=\[-1.0\] must be positive"),
    "weights": (
        lambda: targets.GMM([[0.0]], 1.0, weights=[1, 2]),
        r"weights must be .*\(1,\), got \(2,",
    ),
    "mean": (lambda: targets.Gaussian(0.0), r"mean must have shape \(d,\), got \(\)"),
    "40": (lambda: targets.gmm40_in(0), "dim=0 must be a positive integer"),
    "funnel": (lambda: targets.Funnel(1), "dim=1 of Funnel must be an integer of at least 2"),
    "funnel variance": (lambda: targets.Funnel(2, 0.0), "variance=0.0 must be positive"),
    "radii": (lambda: targets.Rings([1.0, 0.0], 0.1), r"radii=.* must be positive and finite"),
    "ring std": (lambda: targets.Rings([1.0], -0.1), "std=-0.1 must be positive"),
    "moons": (lambda: targets.TwoMoons(1.0, 0.0), "noise=0.0 must be positive"),
    "points": (lambda: targets.LogGaussianCox(X), r"points must be \(N, 2\) in \[0, 1\]\^2"),
    "grid": (lambda: targets.LogGaussianCox(grid=0), "grid=0 must be a positive integer"),
    "features": (
        lambda: targets.LogisticRegression(X, LABELS[:2]),
        r"\(N,\), got \(3, 2\) and \(2,\)",
    ),
    "labels": (
        lambda: targets.LogisticRegression(X, 2 * LABELS),
        r"labels must be 0 or 1, got \[0, 2\]",
    ),
    "constant": (
        lambda: targets.LogisticRegression(X * 0, LABELS),
        "features must vary, got a constant",
    ),
    "makes": (
        lambda: targets.as_target(targets.gmm40_in, 2),
        "energy_fn=gmm40_in makes a Target: call it",
    ),
    "makes some": (
        lambda: targets.as_target(lambda x: targets.gmm9, 2).score(X),
        "got a Target: call it first",
    ),
    "bare": (lambda: targets.tempered(bowl, 2.0), "dim=None: a callable energy needs dim"),
    "bare sum": (
        lambda: targets.weighted_sum([bowl], [1]),
        "dim=None: a callable energy needs dim",
    ),
    "bare sum dim": (
        lambda: targets.weighted_sum([bowl, targets.gmm9], [1, 1], 3),
        "dim=3 but target '9gmm' has",
    ),
    "mala": (
        lambda: mala(bowl, X),
        r"target=bowl must be a Target: wrap a .* with gl.targets.as_target\(fn, dim\)",
    ),
    "smc": (lambda: annealed_smc(bowl, 9, 1.0), "target=bowl must be a Target"),
    "x of funnel": (
        lambda: targets.Funnel(10).log_reward(torch.zeros(3, 5)),
        r"needs x of shape \(B, d\) = \(B, 10\), got \(3, 5\)",
    ),
    "x of wells": (
        lambda: targets.ManyWell(4).score(torch.zeros(3, 6)),
        r"'manywell4' .* got \(3, 6\)",
    ),
    "x of bell": (
        lambda: targets.Gaussian([0.0] * 3).energy(torch.zeros(3, 1)),
        r"3\), got \(3, 1\)",
    ),
    "one x": (lambda: targets.gmm9.log_reward(X[0]), r"needs x .* got \(2,\)"),
    "no mean": (lambda: targets.Gaussian([]), r"mean must have shape \(d,\), got \(0,\)"),
    "nan mean": (lambda: targets.Gaussian([0, math.nan]), "mean must be finite, got 1 not so"),
    "stds": (
        lambda: targets.Gaussian([0, 0], [1, 2, 3]),
        r"std must be .* shape \(2,\), got \(3,\)",
    ),
    "infinite std": (
        lambda: targets.Gaussian([0.0], math.inf),
        "std=inf must be positive and finite",
    ),
    "no means": (
        lambda: targets.GMM(torch.zeros(0, 2), 1),
        r"means must have shape .*got \(0, 2\)",
    ),
    "nan means": (lambda: targets.GMM([[math.nan]], 1), "means must be finite, got 1 not so"),
    "no radii": (lambda: targets.Rings([], 1.0), r"radii must have shape \(K,\), got \(0,\)"),
    "infinite funnel": (
        lambda: targets.Funnel(2, math.inf),
        "variance=inf must be positive and finite",
    ),
    "moon points": (lambda: targets.TwoMoons(1.0, 0.1, 0), "points=0 must be a positive integer"),
    "no points": (lambda: targets.LogGaussianCox(torch.zeros(0, 2)), r"N at least 1, got \(0, 2\)"),
    "nan features": (
        lambda: targets.LogisticRegression(X / 0, LABELS),
        "features must be finite, got",
    ),
    "name list": (lambda: targets.named_target(["a"]), r"task=\['a'\] is unknown; known: 9gmm"),
    "squared": (lambda: targets.named_target("manywell²"), "task='manywell²' is unknown"),
    "prior": (
        lambda: targets.LogisticRegression(X, LABELS, -1.0),
        "variance=-1.0 must be positive",
    ),
}


@pytest.mark.parametrize("call, message", CASES.values(), ids=CASES)
def test_one_clear_error(call, message, one_clear_error):
    one_clear_error(call, message)
