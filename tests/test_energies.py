"""Callables as targets, conditions, combinators, and what each refuses."""

import copy
import math
import re

import pytest
import torch
from torch import nn

from gfnlite.targets import (
    GMM,
    Funnel,
    Gaussian,
    LogGaussianCox,
    LogisticRegression,
    Rings,
    Target,
    TwoMoons,
    as_target,
    check_condition,
    gmm9,
    gmm25,
    gmm40,
    tempered,
    weighted_sum,
)

X = torch.tensor([[1.0, 2.0], [-3.0, 0.5], [0.0, 1.0]])
C = torch.tensor([[0.0, 1.0], [2.0, 2.0], [5.0, -1.0]])


def bowl(x):
    return x.square().sum(-1)


def spring(x, c):
    return 0.5 * (x - c).square().sum(-1)


conditional = as_target(spring, dim=2, condition_dim=2)


def test_a_callable_is_an_energy():
    target = as_target(bowl, dim=2)
    assert torch.equal(target.energy(X), bowl(X)) and torch.equal(target.log_reward(X), -bowl(X))
    assert torch.equal(target.score(X), -2 * X)
    log_r, score = target.log_reward_and_score(X)
    assert torch.equal(log_r, -bowl(X)) and torch.equal(score, -2 * X)
    assert not log_r.requires_grad and not score.requires_grad
    assert target.log_z is target.sample is target.mode_mass is target.sample_condition is None
    assert (target.dim, target.condition_dim, target.name) == (2, 0, "bowl")


def test_a_target_stays_itself():
    assert as_target(gmm9) is gmm9 and as_target(gmm9, dim=2) is gmm9
    assert as_target(conditional, condition_dim=2) is conditional


def test_score_of_a_callable_can_be_differentiated_again():
    target = as_target(lambda x: (x.prod(-1).sin() + x.pow(4).sum(-1)).exp().log1p(), dim=2)
    x = (0.3 * X).double().requires_grad_()
    assert torch.autograd.gradcheck(target.score, x)
    assert torch.autograd.gradgradcheck(target.log_reward, x)
    assert torch.autograd.gradcheck(target.log_reward_and_score, x)


def test_score_through_the_path_that_made_x():
    # Reverse KL differentiates score(x(theta)) with respect to theta: here -2 x, x = theta X.
    theta = torch.tensor(3.0, requires_grad=True)
    for target in (as_target(bowl, dim=2), Gaussian([0.0, 0.0], math.sqrt(0.5))):
        (slope,) = torch.autograd.grad(target.score(theta * X).sum(), theta)
        torch.testing.assert_close(slope, -2 * X.sum())


def test_score_ignores_the_parameters_of_an_energy():
    net = nn.Linear(2, 1)
    target = as_target(lambda x: net(x)[:, 0].square(), dim=2)
    assert not target.score(X).requires_grad and net.weight.grad is None
    assert target.log_reward(X).requires_grad  # so that a decoder can be trained through it


def test_nan_passes_through():
    target = as_target(lambda x: torch.where(x[:, 0] > 0, torch.nan, bowl(x)), dim=2)
    assert target.log_reward(X).isnan().tolist() == [True, False, False]
    for mixture in (gmm9, GMM(gmm9.means, 0.3, weights=range(1, 10))):
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
    target, n = as_target(spring, dim=2, conditions=C), 9000
    drawn = target.sample_condition(n, generator)
    assert (target.condition_dim, drawn.shape) == (2, (n, 2))
    share = (drawn[:, None] == C).all(-1).double().mean(0)
    assert share.sum() == 1
    assert ((share - 1 / 3).abs() < 4 * math.sqrt(2 / 9 / n)).all()
    assert torch.equal(drawn, target.sample_condition(n, torch.Generator().manual_seed(0)))
    moved = target.to("meta")
    assert moved.conditions.is_meta and moved.sample_condition(4).is_meta


def test_a_network_moves_as_a_copy():
    target = as_target(bowl, dim=2)
    target.decoder = nn.Linear(2, 1)
    assert target.to("cpu").decoder is target.decoder
    assert target.to("meta").decoder.weight.is_meta and not target.decoder.weight.is_meta


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_tempered(temperature):
    hot = tempered(gmm25, temperature)
    torch.testing.assert_close(hot.log_reward(X), gmm25.log_reward(X) / temperature)
    torch.testing.assert_close(hot.score(X), gmm25.score(X) / temperature)
    assert hot.log_z is hot.sample is hot.mode_mass is None
    # N(m, s^2)^(1/T) is N(m, T s^2) up to a constant.
    bell = Gaussian([1.0, 2.0], math.sqrt(temperature))
    torch.testing.assert_close(tempered(Gaussian([1.0, 2.0]), temperature).score(X), bell.score(X))
    assert tempered(gmm25, 1) is gmm25
    cold = tempered(as_target(spring, dim=2, conditions=C), temperature)
    torch.testing.assert_close(cold.score(X, C), (C - X) / temperature)
    assert cold.condition_dim == 2 and cold.sample_condition(7).shape == (7, 2)


def test_weighted_sum():
    a, b = Gaussian([1.0, 0.0], 0.5), Gaussian([-2.0, 3.0], 2.0)
    both = weighted_sum([a, b], [2.0, 3.0])
    log_r, score = both.log_reward_and_score(X)
    torch.testing.assert_close(log_r, 2 * a.log_reward(X) + 3 * b.log_reward(X))
    torch.testing.assert_close(score, Target.log_reward_and_score(both, X)[1])
    # A product of Gaussians is one: precisions add, and means weighted by them.
    precision = 2 / 0.25 + 3 / 4
    mean = (2 / 0.25 * a.mean + 3 / 4 * b.mean) / precision
    torch.testing.assert_close(score, Gaussian(mean, precision**-0.5).score(X))
    assert both.log_z is both.sample is both.mode_mass is both.sample_condition is None
    x = X.clone().requires_grad_()
    assert both.score(x).requires_grad
    assert both.to("meta").log_reward(X.to("meta")).is_meta and both.log_reward(X).is_cpu


def test_weighted_sum_of_few():
    assert weighted_sum([gmm9, gmm25], [1.0, 0.0]) is gmm9
    part = weighted_sum([gmm9, gmm25], [0.0, 0.5])
    assert torch.equal(part.log_reward(X), tempered(gmm25, 2.0).log_reward(X))


def test_weighted_sum_shares_the_condition():
    mixed = weighted_sum([gmm9, as_target(spring, dim=2, conditions=C)], [1.0, 2.0])
    assert mixed.condition_dim == 2 and mixed.sample_condition(3).shape == (3, 2)
    expected = gmm9.log_reward(X) - 2 * spring(X, C)
    torch.testing.assert_close(mixed.log_reward(X, C), expected)
    torch.testing.assert_close(mixed.score(X, C), gmm9.score(X) + 2 * (C - X))


def test_targets_are_copied_and_shown():
    assert copy.copy(gmm9).log_reward(X).shape == (3,)
    assert repr(gmm9) == "GMM(name='9gmm', dim=2, log_z=0.0)"
    assert "condition_dim=2" in repr(conditional)


def no_gradient(x):
    return x.detach().square().sum(-1)


line = as_target(lambda x: x[:, 0], dim=1)
LABELS = torch.tensor([0, 1, 1])
CASES = {
    "dim": (lambda: as_target(bowl), "dim=None: a callable energy needs dim, a positive integer"),
    "callable": (lambda: as_target(3), "energy_fn=3 must be a Target or a callable"),
    "condition_dim": (lambda: as_target(spring, 2, -1), "condition_dim=-1 must be a non-negative"),
    "true": (lambda: as_target(spring, 2, True), "condition_dim=True must be a non-negative"),
    "float": (lambda: as_target(spring, 2, 1.5), "condition_dim=1.5 must be a non-negative int"),
    "conditions": (
        lambda: as_target(spring, 2, conditions=[1.0, 2.0]),
        r"conditions must have shape \(N, c\), got \(2,\)",
    ),
    "both": (
        lambda: as_target(spring, 2, 3, C),
        r"condition_dim=3 but conditions have shape \(3, 2\)",
    ),
    "own": (lambda: as_target(gmm9, conditions=C), "conditions is for callables; target '9gmm'"),
    "other": (lambda: as_target(conditional, condition_dim=3), "'spring' has its own .*dim=2"),
    "taken": (lambda: gmm9.score(X, C), "condition given, but target '9gmm' takes none"),
    "taken by callable": (lambda: as_target(bowl, 2).energy(X, C), "target 'bowl' takes none"),
    "taken by sum": (lambda: tempered(gmm9, 2.0).energy(X, C), "'9gmm at T=2' takes none"),
    "missing": (
        lambda: conditional.energy(X),
        r"'spring' needs condition \(B, c\) = \(3, 2\), got None",
    ),
    "rows": (lambda: conditional.score(X, C[:2]), r"\(B, c\) = \(3, 2\), got \(2, 2\)"),
    "columns": (lambda: check_condition(conditional, X, C[:, :1]), r"got \(3, 1\)"),
    "list": (lambda: check_condition(conditional, X, [1, 2]), r"\(3, 2\), got \[1, 2\]"),
    "shape": (lambda: as_target(lambda x: x, 2).score(X), r"\(B,\) = \(3,\).*got shape \(3, 2\)"),
    "type": (lambda: as_target(lambda x: 1.0, 2).energy(X), "must return a tensor.*got float"),
    "gradient": (lambda: as_target(no_gradient, 2).score(X), "'no_gradient' has no gradient with"),
    "no x": (
        lambda: as_target(lambda x: torch.ones(3, requires_grad=True), 2).score(X),
        "has no gradient with respect to x",
    ),
    "modes": (lambda: tempered(gmm9, 2.0).modes_of(X), "'9gmm at T=2' does not know its modes"),
    "abstract": (lambda: Target().log_reward(X), "Target must define log_reward"),
    "temperature": (lambda: tempered(gmm9, 0.0), "temperature=0.0 must be positive and finite"),
    "infinite": (lambda: tempered(gmm9, math.inf), "temperature=inf must be positive and finite"),
    "too few": (lambda: weighted_sum([gmm9], []), r"weights=\[\] must be one for each of 1"),
    "negative": (lambda: weighted_sum([gmm9], [-1]), r"weights=\[-1.0\] must be .* at least 0"),
    "zero": (lambda: weighted_sum([gmm9], [0]), "and not all 0"),
    "nan": (lambda: weighted_sum([gmm9], [math.nan]), r"weights=\[nan\] must be .* finite"),
    "dims": (lambda: weighted_sum([gmm9, line], [1, 1]), r"the same dim, got \[1, 2\]"),
    "conditions differ": (
        lambda: weighted_sum([conditional, as_target(spring, 2, 5)], [1, 1]),
        r"the same condition_dim, got \[2, 5\]",
    ),
    "variance": (lambda: GMM([[0.0]], [-1.0]), r"variance=\[-1.0\] must be positive"),
    "weights": (lambda: GMM([[0.0]], 1.0, weights=[1, 2]), r"weights must be .*\(1,\), got \(2,"),
    "mean": (lambda: Gaussian(0.0), r"mean must be one vector of length d, got \(\)"),
    "40": (lambda: gmm40(0), "dim=0 must be a positive integer"),
    "funnel": (lambda: Funnel(1), "dim=1 of Funnel must be an integer of at least 2"),
    "funnel variance": (lambda: Funnel(2, 0.0), "variance=0.0 must be positive"),
    "radii": (lambda: Rings([1.0, 0.0], 0.1), r"radii=\[1.0, 0.0\] must be a sequence of positive"),
    "ring std": (lambda: Rings([1.0], -0.1), "std=-0.1 must be positive"),
    "moons": (lambda: TwoMoons(1.0, 0.0), "radius=1.0 and noise=0.0 must be positive"),
    "points": (lambda: LogGaussianCox(X), r"points must be \(N, 2\) in \[0, 1\]\^2"),
    "grid": (lambda: LogGaussianCox(grid=0), "grid=0 must be a positive integer"),
    "features": (lambda: LogisticRegression(X, LABELS[:2]), r"\(N,\), got \(3, 2\) and \(2,\)"),
    "labels": (lambda: LogisticRegression(X, 2 * LABELS), r"labels must be 0 or 1, got \[0, 2\]"),
    "constant": (lambda: LogisticRegression(X * 0, LABELS), "features must vary, got a constant"),
    "prior": (lambda: LogisticRegression(X, LABELS, -1.0), "variance=-1.0 must be positive"),
}


@pytest.mark.parametrize("call, message", CASES.values(), ids=CASES)
def test_one_clear_error(call, message):
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)
