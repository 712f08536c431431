"""Guidance: the tilted density of its chapter and the score that guidance stands in for."""

import math
from pathlib import Path
from types import SimpleNamespace

import jupytext
import pytest
import torch

import gfnlite as gl
from gfnlite.diffusion import Noising, exact_predictor
from gfnlite.guidance import guided

F64 = torch.float64


@pytest.fixture(scope="module")
def chapter():
    """The chapter's cell tagged `tilted`: the wish and its exact mixture."""
    source = Path(__file__).parent.parent / "notebooks" / "09_guidance_and_hybrids.py"
    namespace = {"gl": gl, "torch": torch, "N": 5, "generator": torch.Generator().manual_seed(0)}
    for cell in jupytext.read(source).cells:
        if "tilted" in cell.metadata.get("tags", []):
            exec(cell.source, namespace)
    return SimpleNamespace(**namespace)


@pytest.mark.equation("eq-09-tilted")
def test_the_tilted_mixture_is_data_times_reward_over_z(chapter):
    axis = torch.linspace(-9, 9, 1201, dtype=F64)
    x = torch.cartesian_prod(axis, axis)
    away = (x - torch.tensor([4.0, 2.0])).square().sum(1)
    unnormalised = gl.gmm9.log_reward(x.float()).double() - away / 18
    log_z = unnormalised.logsumexp(0) + 2 * (axis[1] - axis[0]).log()
    assert chapter.log_z == pytest.approx(log_z.item(), abs=1e-5)
    some = x[::997].float()
    wanted = (unnormalised - log_z)[::997]
    torch.testing.assert_close(
        chapter.tilted.log_reward(some).double(), wanted, rtol=1e-4, atol=1e-3
    )
    # The twins: the data's own weights, and half the energy.
    assert (gl.gmm9.log_reward(some) - wanted).abs().max() > 1
    data = gl.gmm9.sample(200_000, torch.Generator().manual_seed(1))
    rewards = (-chapter.wish(data)).exp()
    error = 4.5 * rewards.std().item() / math.sqrt(len(data))
    assert abs(rewards.mean().item() - math.exp(chapter.log_z)) < error  # Z is E_p[exp(-E)]
    assert abs((-chapter.wish(data) / 2).exp().mean().item() - math.exp(chapter.log_z)) > error


MEAN, VARIANCE, SIGMA2 = 0.8, 0.6, 2.0
NOISING = Noising(20, "cosine", SIGMA2)


def pull(x, k, energy, quadrature, mean=MEAN, variance=VARIANCE):
    """grad log E[exp(-E(x_0)) | x_k] for data N(mean, variance): x_0 given x_k is Gaussian."""
    bar, (nodes, weights) = NOISING.alpha_bar[k].double(), quadrature
    total = bar * variance + SIGMA2 * (1 - bar)
    gain = bar.sqrt() * variance / total
    x = x.clone().requires_grad_()
    centre, spread = mean + gain * (x - bar.sqrt() * mean), variance * SIGMA2 * (1 - bar) / total
    there = centre[:, None] + spread.sqrt() * nodes
    log_mean = (weights.log() - energy(there)).logsumexp(1)
    return torch.autograd.grad(log_mean.sum(), x)[0]


@pytest.mark.equation("eq-09-exact")
@pytest.mark.parametrize("k", [1, 8, 20])
def test_the_score_of_the_noised_tilted_density(k, gauss_hermite):
    """Data N(m, v) and a quadratic energy: the tilted density is Gaussian, and so is its noised."""
    centre, width = -1.0, 1.5
    x = torch.linspace(-3, 3, 13, dtype=F64)
    bar = NOISING.alpha_bar[k].double()

    def energy(x):
        return (x - centre).square() / (2 * width)

    def score(mean, variance):
        return -(x - bar.sqrt() * mean) / (bar * variance + SIGMA2 * (1 - bar))

    variance = 1 / (1 / VARIANCE + 1 / width)
    mean = variance * (MEAN / VARIANCE + centre / width)
    exact = score(mean, variance)
    torch.testing.assert_close(score(MEAN, VARIANCE) + pull(x, k, energy, gauss_hermite), exact)
    # What guidance adds instead is another thing, but where there is no noise.
    data = gl.GMM([[MEAN]], VARIANCE)
    states = x.float()[:, None]
    bent = guided(exact_predictor(data, NOISING), NOISING, lambda x: energy(x[:, 0]))
    added = NOISING.score(bent(states, k), k)[:, 0].double()
    assert ((added - exact).abs().max() < 0.2) == (k == 1)


def test_the_pull_of_a_weak_energy_to_first_order(gauss_hermite):
    """-sqrt(alpha_bar) E[grad E(x_0) | x_k] for data N(0, sigma^2), not that at the mean."""
    k, small, x = 8, 1e-4, torch.linspace(-2, 2, 9, dtype=F64)
    bar = NOISING.alpha_bar[k].double()
    found = pull(x, k, lambda x: small * x**4, gauss_hermite, 0.0, SIGMA2) / small
    mean, variance = bar.sqrt() * x, SIGMA2 * (1 - bar)
    averaged = -bar.sqrt() * 4 * (mean**3 + 3 * mean * variance)
    torch.testing.assert_close(found, averaged, rtol=0.02, atol=1e-6)
    at_the_mean = -bar.sqrt() * 4 * mean**3
    assert (found - at_the_mean).abs().max() > 1


@pytest.mark.equation("eq-09-classifier")
def test_two_predictions_differ_by_a_classifiers_gradient():
    """Of the exact predictors of one class and of all: against autograd of Bayes' rule."""
    clouds = gl.GMM([[0.0, 1.2], [-1.1, -0.6], [1.1, -0.6]], [0.8, 0.4, 0.5], weights=[1, 2, 3])
    x, k = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)), 8
    bar = NOISING.alpha_bar[k]
    seen = x.clone().requires_grad_()
    total = bar * clouds.variance + SIGMA2 * (1 - bar)
    square = (seen[:, None] - bar.sqrt() * clouds.means).square().sum(-1)
    log_class = (clouds.weights.log() - total.log() - square / (2 * total)).log_softmax(1)
    (gradient,) = torch.autograd.grad(log_class[:, 0].sum(), seen)
    one = gl.GMM(clouds.means[:1], clouds.variance[:1])
    found = exact_predictor(one, NOISING)(x, k) - exact_predictor(clouds, NOISING)(x, k)
    wanted = -(SIGMA2 * (1 - bar)).sqrt() * gradient
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    assert (found + wanted).abs().max() > 0.1  # the twin: the other sign
