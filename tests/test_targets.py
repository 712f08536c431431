"""Each target against quadrature, automatic differentiation, plain loops, and its own samples."""

import math

import pytest
import torch
from sklearn.datasets import make_moons
from torch.distributions import MultivariateNormal, Normal

from gfnlite.targets import (
    GMM,
    Funnel,
    Gaussian,
    LogGaussianCox,
    LogisticRegression,
    ManyWell,
    Rings,
    Target,
    TwoMoons,
    breast_cancer,
    easy_funnel,
    finnish_pines,
    funnel,
    gmm9,
    gmm25,
    gmm40,
    gmm40_in,
    named_target,
    rings,
    two_moons,
)

UNEQUAL = GMM([[-3.0, 0.0], [2.0, 1.0], [4.0, -5.0]], [0.2, 1.5, 0.6], weights=[3.0, 1.0, 2.0])
PLANE = {
    "gaussian": Gaussian([1.0, -2.0], [0.5, 2.0], log_z=1.7),
    "9gmm": gmm9,
    "25gmm": gmm25,
    "40gmm": gmm40,
    "unequal": UNEQUAL,
    "manywell2": ManyWell(2),
    "rings": rings,
    "two_moons": two_moons,
}
SAMPLED = PLANE | {
    "manywell32": ManyWell(32),
    "funnel": funnel,
    "easy_funnel": easy_funnel,
    "40gmm-50d": gmm40_in(50),
}
POINTS = torch.rand(30, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
SMALL = SAMPLED | {
    "lgcp 4x4": LogGaussianCox(POINTS, grid=4),
    "whitened 4x4": LogGaussianCox(POINTS, grid=4, whitened=True),
    "logistic": breast_cancer(),
}
EVERY = SMALL | {"lgcp": LogGaussianCox(), "lgcp_whitened": LogGaussianCox(whitened=True)}


def each(targets):
    return pytest.mark.parametrize("target", targets.values(), ids=targets)


def double(target):
    return target.to(torch.float64)  # tensors move to a type as they do to a device


def points(target, n, spread=2.0, seed=0):
    noise = torch.randn(n, target.dim, generator=torch.Generator().manual_seed(seed))
    return spread * noise.double()


def statistics(target, x):
    """log R, the coordinates, and their products: (n, 2) -> (n, 6)."""
    a, b = x.unbind(-1)
    return torch.stack((target.log_reward(x), a, b, a * a, b * b, a * b), -1)


def quadrature(target, n=481):
    """log Z, and mean and variance (6,) of the statistics of a target in the plane, on a grid."""
    # The trapezoid rule is exact for smooth functions once its step is below their width.
    limit = 50.0 if target.name == "40gmm" else 16.0
    axis = torch.linspace(-limit, limit, n, dtype=torch.float64)
    x, target = torch.cartesian_prod(axis, axis), double(target)
    log_r = target.log_reward(x)
    total = log_r.logsumexp(0)
    p = (log_r - total).exp()
    f = statistics(target, x)
    mean = p @ f
    return (total + 2 * math.log(2 * limit / (n - 1))).item(), mean, p @ (f - mean).square()


@each(PLANE)
def test_log_z_is_that_of_quadrature(target):
    # The constants of a mixture, up to |mean|^2 / 2 variance, are held to float32 rounding.
    assert target.log_z == pytest.approx(quadrature(target)[0], abs=2e-5)


def samples_fit(target, truth, n=20_000, seed=1):
    """Whether the statistics of `target`'s samples have their means under `truth`, to 4 s.e."""
    _, mean, variance = quadrature(truth)
    x = target.sample(n, torch.Generator().manual_seed(seed)).double()
    error = (statistics(double(truth), x).mean(0) - mean).abs()
    return bool((error < 4 * (variance / n).sqrt()).all())


@each(PLANE)
def test_samples_come_from_the_target(target):
    assert samples_fit(target, target)


WRONG = {
    "gaussian": (Gaussian([1.0, -2.0], [0.52, 2.0]), PLANE["gaussian"]),
    "variance": (GMM(gmm25.means, 0.32), gmm25),
    "weights": (GMM(UNEQUAL.means, UNEQUAL.variance, weights=[2.8, 1.2, 2.0]), UNEQUAL),
    "std": (Rings([2.0, 4.0, 6.0], 0.22), rings),
    "radius": (Rings([2.0, 4.0, 6.1], 0.2), rings),
    "moons": (TwoMoons(3.1, 0.3), two_moons),
}


@pytest.mark.parametrize("target, truth", WRONG.values(), ids=WRONG)
def test_samples_of_a_wrong_target_are_noticed(target, truth):
    assert not samples_fit(target, truth)


def stein_fits(target, truth, n=20_000, seed=1):
    """Whether E[s_i] = 0 and E[x_i s_i] = -1 for the score s of `truth`, to 4.5 s.e."""
    # Integration by parts; it ties samples to log R in any dimension, whatever the masses.
    x = target.sample(n, torch.Generator().manual_seed(seed)).double()
    score = double(truth).score(x)
    terms = torch.cat((score, x * score + 1), 1)
    return bool((terms.mean(0).abs() < 4.5 * terms.std(0) / math.sqrt(n)).all())


@each(SAMPLED)
def test_samples_obey_integration_by_parts(target):
    assert stein_fits(target, target)


@pytest.mark.parametrize(
    "target, truth",
    [
        (Funnel(10, 5.0), funnel),
        (ManyWell(4), Gaussian([0.0] * 4)),
        (Gaussian([0.0] * 4), ManyWell(4)),
        (Gaussian([1.0, -2.0], [0.52, 2.0]), PLANE["gaussian"]),
    ],
)
def test_integration_by_parts_notices_a_wrong_target(target, truth):
    assert not stein_fits(target, truth)


@each(EVERY)
def test_score_is_the_gradient_of_log_reward(target):
    target = double(target)
    x = points(target, 5, 1.0) if target.dim == 1600 else points(target, 50)
    log_r, score = target.log_reward_and_score(x)
    by_autograd = Target.log_reward_and_score(target, x)
    torch.testing.assert_close((log_r, score), by_autograd, rtol=1e-8, atol=1e-8)
    assert torch.equal(log_r, target.log_reward(x)) and torch.equal(score, target.score(x))
    assert torch.equal(-log_r, target.energy(x))
    assert score.shape == x.shape and log_r.shape == x.shape[:1] and not score.requires_grad


@each(SMALL)
def test_score_can_be_differentiated_again(target):
    target = double(target)
    x = points(target, 2, 1.0, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(target.score, x, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert not target.score(x).requires_grad


@each(EVERY)
def test_every_tensor_moves_to_the_device(target):
    x = torch.zeros(3, target.dim, device="meta")  # checks devices and shapes, computes nothing
    moved = target.to("meta")
    log_r, score = moved.log_reward_and_score(x)
    assert (log_r.is_meta, log_r.shape, score.shape) == (True, (3,), x.shape)
    assert log_r.dtype == score.dtype == torch.float32
    if target.sample is not None:
        assert moved.sample(3).is_meta and moved.sample(3).dtype == torch.float32
    assert target.log_reward(torch.zeros(3, target.dim)).is_cpu  # a copy moved, not the target


def test_a_tensor_left_behind_is_noticed():
    with pytest.raises(ValueError, match="on meta"):
        gmm9.log_reward(torch.zeros(3, 2, device="meta"))


@pytest.mark.parametrize("target", [gmm25, UNEQUAL, gmm40_in(50)], ids=["25gmm", "unequal", "50d"])
def test_mixture_equals_the_plain_formula(target):
    x = points(target, 100, 8.0)
    naive = []
    for mean, variance in zip(target.means.double(), target.variance.double(), strict=True):
        naive.append(Normal(mean, variance.sqrt()).log_prob(x).sum(-1))
    naive = (torch.stack(naive, -1) + target.weights.log()).logsumexp(-1)
    torch.testing.assert_close(target.log_reward(x.float()).double(), naive, rtol=1e-5, atol=1e-4)


def test_forty_gaussians():
    target = gmm40_in(5)
    assert target.means.shape == (40, 5) and target.means.abs().max() < 40
    assert target.variance.sqrt()[0].item() == pytest.approx(1.3133, abs=5e-5)
    assert torch.equal(gmm40_in(5).means, target.means)
    assert not torch.equal(gmm40_in(5, seed=1).means, target.means)
    assert len({gmm40_in(*which).name for which in [(2, 0), (2, 1), (5, 0)]}) == 3
    assert torch.equal(gmm40_in(2).means, gmm40.means) and gmm40_in(2).name == gmm40.name


def test_two_moons_are_those_of_scikit_learn():
    x, moon = make_moons(64, shuffle=False)
    means = 3 * (torch.tensor(x) - torch.tensor([0.5, 0.25])).float()
    torch.testing.assert_close(two_moons.means, means, rtol=0, atol=1e-5)
    assert two_moons.modes_of(means).argmax(1).tolist() == moon.tolist()


def test_rings_are_smooth_at_the_centre():
    target = Rings([0.3], 0.5)
    x = torch.zeros(1, 2)
    for log_r, score in (target.log_reward_and_score(x), Target.log_reward_and_score(target, x)):
        # The density at the centre is that of the noise at the ring: log N((a, 0); 0, s^2 I).
        truth = Normal(0.0, 0.5).log_prob(torch.tensor([0.3, 0.0])).sum()
        torch.testing.assert_close(log_r[0], truth)
        assert score.tolist() == [[0, 0]]


@pytest.mark.parametrize("target, variance", [(funnel, 9.0), (easy_funnel, 1.0)])
def test_funnel_equals_the_plain_formula(target, variance):
    x = points(target, 50)
    naive = Normal(0.0, math.sqrt(variance)).log_prob(x[:, 0])
    for i in range(1, 10):
        naive += Normal(0.0, (0.5 * x[:, 0]).exp()).log_prob(x[:, i])
    torch.testing.assert_close(double(target).log_reward(x), naive, rtol=1e-6, atol=1e-6)
    z = target.sample(20_000, torch.Generator().manual_seed(2)).double()
    z = torch.cat((z[:, :1] / math.sqrt(variance), z[:, 1:] * (-0.5 * z[:, :1]).exp()), 1)
    assert (z.mean(0).abs() < 4 / math.sqrt(20_000)).all()
    assert ((z.square().mean(0) - 1).abs() < 4 * math.sqrt(2 / 20_000)).all()


def test_many_well_equals_the_plain_loop():
    x = points(ManyWell(8), 50)
    naive = torch.zeros(50, dtype=torch.float64)
    for i in range(0, 8, 2):
        a, b = x[:, i], x[:, i + 1]
        naive += -(a**4) + 6 * a**2 + 0.5 * a - 0.5 * b**2
    torch.testing.assert_close(double(ManyWell(8)).log_reward(x), naive)


def test_many_well_truth():
    target = ManyWell(32)
    assert target.log_z == pytest.approx(164.695675, abs=1e-5)
    assert target.mode_mass[1].item() == pytest.approx(0.84431, abs=5e-5)


MODES = {"25gmm": gmm25, "unequal": UNEQUAL, "manywell8": ManyWell(8), "rings": rings}
MODES |= {"two_moons": two_moons}


@each(MODES)
def test_exact_samples_have_the_exact_mode_weights(target, generator):
    n = 20_000
    weights = target.modes_of(target.sample(n, generator)).mean(0)
    error = (target.mode_mass * (1 - target.mode_mass) / n).sqrt()
    # The unequal mixture's nearest means are not quite its modes: they overlap by some 0.2%.
    overlap = 0.004 if target is UNEQUAL else 0.0
    assert ((weights - target.mode_mass).abs() < 4.5 * error + overlap).all()
    collapsed = target.modes_of(target.sample(1, generator).expand(n, -1)).mean(0)
    assert ((collapsed - target.mode_mass).abs() > 4.5 * error + overlap).any()


@each({"25gmm": gmm25, "rings": rings})
def test_samples_are_in_no_order(target, generator):
    modes = target.modes_of(target.sample(4000, generator)).argmax(1).double()
    correlation = torch.corrcoef(torch.stack((modes, torch.arange(4000).double())))[0, 1].abs()
    assert correlation < 4 / math.sqrt(4000)


def field_and_likelihood(target, points, x, grid):
    """log N(x; mean, covariance), and the Poisson likelihood, cell by cell and point by point."""
    centre = [((i + 0.5) / grid, (j + 0.5) / grid) for i in range(grid) for j in range(grid)]
    centre = torch.tensor(centre, dtype=torch.float64)
    distance = (centre[:, None] - centre).square().sum(-1).sqrt()
    mean = torch.full((grid**2,), math.log(len(points)) - 1.91 / 2, dtype=torch.float64)
    field = MultivariateNormal(mean, 1.91 * torch.exp(-33 * distance))
    likelihood = torch.zeros(len(x), dtype=torch.float64)
    for row, column in points.tolist():
        likelihood += x[:, int(row * grid) * grid + int(column * grid)]
    for i in range(grid**2):
        likelihood -= x[:, i].exp() / grid**2
    return field, likelihood


@pytest.mark.parametrize("grid", [4, 40])
def test_cox_process_equals_the_plain_formula(grid):
    data = POINTS if grid == 4 else finnish_pines()
    target = double(LogGaussianCox(data, grid))
    x = target.mean + points(target, 4, 1.3)
    field, likelihood = field_and_likelihood(target, data, x, grid)
    torch.testing.assert_close(
        target.log_reward(x), field.log_prob(x) + likelihood, rtol=1e-6, atol=1e-5
    )
    # Whitened: x = mean + L z, R(z) = R(x) |L|, so that both have the same normaliser.
    whitened = double(LogGaussianCox(data, grid, whitened=True))
    z = points(target, 4, 1.0, seed=5)
    x = whitened.field(z)
    log_det = field.scale_tril.diagonal().log().sum()
    torch.testing.assert_close(
        whitened.log_reward(z), target.log_reward(x) + log_det, rtol=1e-5, atol=1e-4
    )


def test_pines():
    pines, target = finnish_pines(), named_target("lgcp")
    assert pines.shape == (126, 2) and 0 <= pines.min() and pines.max() <= 1
    assert len(pines.unique(dim=0)) == 126
    assert target.counts.sum() == 126 and target.dim == 1600
    assert target.mean == pytest.approx(math.log(126) - 1.91 / 2)


def test_logistic_regression_equals_the_plain_loop():
    x, y = torch.tensor([[1.0, 5.0], [2.0, 4.0], [6.0, 6.0]]), torch.tensor([0, 1, 1])
    target, w = double(LogisticRegression(x, y, variance=2.0)), points(Gaussian([0.0] * 3), 20)
    naive = Normal(0.0, math.sqrt(2.0)).log_prob(w).sum(-1)
    for i in range(3):
        logit = w[:, 0].clone()
        for j in range(2):
            column = x[:, j].double()
            z = (column[i] - column.mean()) / column.std(correction=0)
            logit += w[:, j + 1] * z
        p = 1 / (1 + (-logit).exp())
        naive += (p if y[i] else 1 - p).log()
    torch.testing.assert_close(target.log_reward(w), naive, rtol=1e-6, atol=1e-6)


def test_a_better_classifier_is_more_probable():
    target = breast_cancer()
    assert (target.dim, target.signed.shape) == (31, (569, 31))
    w = torch.zeros(1, 31)
    for _ in range(200):
        w += 1e-3 * target.score(w)
    margin = w @ target.signed.T
    assert (margin > 0).double().mean() > 0.95
    assert target.log_reward(w) > target.log_reward(torch.zeros(1, 31)) + 300


NAMES = "9gmm 25gmm 40gmm funnel easy_funnel lgcp lgcp_whitened rings two_moons logistic manywell32"


@pytest.mark.parametrize("name", NAMES.split())
def test_a_named_target_has_its_name(name):
    assert named_target(name).name == name  # by which a checkpoint finds it again


def test_an_unknown_name_is_told_those_there_are():
    with pytest.raises(ValueError, match="task='gmm' is unknown; known: 9gmm") as caught:
        named_target("gmm")
    assert all(name in str(caught.value) for name in NAMES.split())
    custom = [Funnel(10, 9.0), Rings([1.0], 0.1), TwoMoons(1.0, 0.1), LogGaussianCox(POINTS, 2)]
    assert not {target.name for target in custom} & set(NAMES.split())


def test_a_mixture_of_narrow_far_modes_keeps_its_digits(generator):
    target = GMM([[40.0, -40.0], [10.0, 0.0]], [1e-2, 1e-3])
    x = target.sample(200, generator)
    squared = (x.double()[:, None] - target.means.double()).square().sum(-1)
    variance = target.variance.double()
    exact = -0.5 * squared / variance - math.log(2) - (2 * math.pi * variance).log()
    torch.testing.assert_close(
        target.log_reward(x).double(), exact.logsumexp(1), rtol=1e-4, atol=2e-3
    )
    torch.testing.assert_close(
        target.score(x).double(), double(target).score(x.double()), rtol=1e-4, atol=1e-2
    )


def test_labels_of_any_type_are_the_same_labels():
    features, labels = points(gmm9, 30), torch.arange(30) % 2
    w = points(Gaussian([0.0] * 3), 4).float()
    expected = LogisticRegression(features, labels).log_reward(w)
    for kind in (torch.uint8, torch.bool, torch.float32):
        same = LogisticRegression(features, labels.to(kind)).log_reward(w)
        torch.testing.assert_close(same, expected)
