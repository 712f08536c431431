"""Chapter 13: the likelihood of destroyed particles, and what a learned destruction is worth."""

import math

import pytest
import torch

import gfnlite as gl

LOG_Z, MEAN, STD = 0.4, 0.6, 0.7
N = 40_000


def one_step(sigma2=1.0):
    """A sampler of one step for Z N(MEAN, STD^2), and the (mean, deviation) of its only kernel."""
    target = gl.Gaussian([MEAN], STD, log_z=LOG_Z)
    sampler = gl.GFNDiffusion(
        target, steps=1, sigma2=sigma2, learn_variance=True, coarse_steps=None, device="cpu"
    )
    with torch.no_grad():
        for p in sampler.policy.parameters():
            p += 0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
        step = sampler.rollout(gl.time_grid(1), N, generator=torch.Generator().manual_seed(2))
    return sampler, step.x[1].mean().item(), step.x[1].std().item()


def kl(p, q):
    """KL of two Gaussians (mean, deviation)."""
    ratio = p[1] / q[1]
    return -math.log(ratio) + (ratio**2 + ((p[0] - q[0]) / q[1]) ** 2 - 1) / 2


@pytest.mark.equation("eq-13-mle")
def test_the_likelihood_is_the_eubo_is_the_divergence():
    sampler, *kernel = one_step()
    exact = sampler.target.sample(N, torch.Generator().manual_seed(3))
    with torch.no_grad():
        tr = sampler.rollout(gl.time_grid(1), x=exact)
    log_w, expected = tr.log_weight, LOG_Z + kl((MEAN, STD), kernel)
    # five errors of the mean, and what N samples leave open of the kernel's mean and deviation
    error = 5 * log_w.std().item() / math.sqrt(N) + 0.02
    assert log_w.mean().item() == pytest.approx(expected, abs=error)
    assert gl.objectives.mle(tr).item() == pytest.approx(log_w.mean().item(), abs=1e-5)
    assert sampler.evaluate(N)["eubo"] == pytest.approx(expected, abs=error)
    # the twin: the divergence the other way round, which is the ELBO's
    other = LOG_Z + kl(kernel, (MEAN, STD))
    assert abs(log_w.mean().item() - other) > 2 * error


FEW = {
    "steps": 4, "coarse_steps": None, "iterations": 800, "hidden": 32, "batch_size": 200,
    "prefill": 4000, "device": "cpu",
}  # fmt: skip


@pytest.mark.equation("eq-13-both")
def test_a_learned_destruction_brings_both_gaps_down():
    gaps = {}
    for name in ("MLE+LV+Std", "MLE+LV+LB+Std"):
        settings = dict(FEW)
        device = settings.pop("device")
        config = gl.preset("9gmm", name, "quick", settings)
        found = gl.GFNDiffusion(gl.gmm9, config=config, device=device).fit(progress=False)
        found = found.evaluate(20_000)
        gaps[name] = -found["elbo"], found["eubo"]
    fixed, learned = gaps.values()
    assert learned[0] < 0.7 * fixed[0] and learned[1] < 0.7 * fixed[1], gaps
