"""Chapter 13: the likelihood of destroyed particles, and a destruction that is learned."""

import math
from dataclasses import replace

import pytest
import torch

import gfnlite as gl
from gfnlite import step
from gfnlite.team import Team

LOG_Z, MEAN, STD = 0.4, 0.6, 0.4
N = 40_000


def kl(p, q):
    """KL of two Gaussians (mean, deviation)."""
    ratio = q[1] / p[1]
    return math.log(ratio) + (ratio**-2 + ((p[0] - q[0]) / q[1]) ** 2 - 1) / 2


@pytest.mark.equation("eq-13-mle")
def test_the_eubo_is_log_z_and_the_divergence():
    """One step from 0 has one Gaussian kernel, and so a divergence in closed form."""
    target = gl.Gaussian([MEAN], STD, log_z=LOG_Z)
    sampler = gl.GFNDiffusion(target, steps=1, learn_variance=True, device="cpu")
    policy = sampler.policy
    with torch.no_grad():
        for p in policy.parameters():
            p += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
        context = policy.context(policy.forward_net, torch.zeros(1), torch.ones(1), None)
        u, s = (part.item() for part in policy.forward_kernel(torch.zeros(1, 1, 1), context))
        exact = target.sample(N, torch.Generator().manual_seed(3))
        log_w = sampler.rollout(gl.time_grid(1), x=exact).log_weight.double()
    kernel = u, math.exp(s / 2)
    assert kernel != (0.0, 1.0)
    error = 5 * log_w.std().item() / math.sqrt(N)
    expected = LOG_Z + kl((MEAN, STD), kernel)
    assert log_w.mean().item() == pytest.approx(expected, abs=error)
    # the twins: a mean that is off, and the divergence the other way round, which is the ELBO's
    off = LOG_Z + kl((MEAN, STD), (u + kernel[1] / 2, kernel[1]))
    assert abs(log_w.mean().item() - off) > 2 * error
    other = LOG_Z + kl(kernel, (MEAN, STD))
    assert abs(log_w.mean().item() - other) > 2 * error


LEARNED = {
    "steps": 4, "learn_backward": True, "learn_variance": True, "hidden": 16, "batch_size": 400,
    "replay_ratio": 1.0, "prefill": 400, "replay_objective": "mle", "replay_priority": "uniform",
    "device": "cpu",
}  # fmt: skip


def away():
    """A sampler with a learned destruction, every weight of it away from its start."""
    sampler = gl.GFNDiffusion(gl.gmm9, **LEARNED)
    with torch.no_grad():
        for p in sampler.policy.parameters():
            p += 0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    return sampler


def gradients(sampler):
    return torch.cat([
        torch.zeros(p.numel()) if p.grad is None else p.grad.flatten()
        for p in sampler.policy.parameters()
    ])  # fmt: skip


@pytest.mark.equation("eq-13-both")
@pytest.mark.parametrize("follow", [True, False])
def test_a_training_step_goes_through_the_states_that_destruction_draws(follow):
    """The gradient it leaves is that of a rollout with its graph; the twin holds the states."""
    sampler, x = away(), gl.gmm9.sample(400, torch.Generator().manual_seed(2))
    steps = sampler.process.steps(gl.time_grid(4))
    inputs = vars(steps) | {"x": x, "log_reward": gl.gmm9.log_reward(x)}
    before = sampler.generators["train"].get_state()
    step.update(Team([sampler]), "replayed", inputs)
    left, again = gradients(sampler), away()
    generator = torch.Generator()
    generator.set_state(before)
    again.policy.zero_grad()
    if follow:
        tr = again.rollout(gl.time_grid(4), x=x, generator=generator, differentiable=True)
        gl.objectives.mle(tr).backward()
    else:
        tr = again.rollout(gl.time_grid(4), x=x, generator=generator)
        gl.rollout.gradient(again.policy, tr, gl.objectives.mle)
    found = gradients(again)
    assert torch.allclose(left, found, rtol=1e-3, atol=1e-4 * left.abs().max()) == follow
    learned = sum(p.grad is not None and p.grad.abs().max() > 0
                  for p in again.policy.backward_net.parameters())  # fmt: skip
    assert (learned > 0) == follow  # held, P_B learns nothing, rather than something wrong


@pytest.mark.equation("eq-13-learned")
@pytest.mark.parametrize("factor", [1.0, 1.06])
def test_the_states_have_the_law_of_the_learned_destruction(factor):
    """The noise of each transition is standard normal; not if its deviation were 6% larger."""
    sampler, rows = away(), 20_000
    policy, t = sampler.policy, gl.time_grid(4)
    x1 = gl.gmm9.sample(rows, torch.Generator().manual_seed(4))
    with torch.no_grad():
        x = sampler.rollout(t, x=x1, generator=torch.Generator().manual_seed(5)).x
        steps = sampler.process.steps(t)
        noise = []
        for i in range(1, 4):
            at = policy.context(policy.backward_net, t[i + 1 : i + 2], steps.g[i : i + 1], None)
            v, s = policy.backward_kernel(x[i + 1 : i + 2], at)
            mean = steps.b[i] * x[i + 1] + steps.g[i] * v[0]
            deviation = factor * (sampler.process.sigma2 * steps.g[i] * s[0].exp()).sqrt()
            noise.append((x[i] - mean) / deviation)
    noise = torch.stack(noise)
    off = (noise.square().mean() - 1).abs() / (2 / noise.numel()) ** 0.5
    assert noise.mean().abs() < 5 / noise.numel() ** 0.5
    assert (off < 5) == (factor == 1)


@pytest.mark.equation("eq-13-part")
def test_trajectory_balance_of_destroyed_particles_does_not_see_where_else_samples_go():
    """Without a drift P_F is right for N(0, 1), and for its right half right but for c = 1/2."""

    def right_half(x):  # Z = e^0.4
        energy = 0.5 * x[:, 0].square() + 0.5 * math.log(2 * math.pi) - math.log(2) - LOG_Z
        return energy.where(x[:, 0] > 0, math.inf)

    sampler = gl.GFNDiffusion(right_half, dim=1, sigma2=1.0, steps=10, objective="tb")
    ends = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0))
    seen = sampler.rollout(gl.time_grid(10), x=ends.abs())
    expected = torch.full((2000,), LOG_Z + math.log(2))
    assert torch.allclose(seen.log_weight, expected, atol=1e-4)
    losses = [
        gl.objectives.tb(replace(seen, log_z=torch.tensor(z))) for z in (expected[0].item(), LOG_Z)
    ]
    assert losses[0] < 1e-8 and losses[1] == pytest.approx(0.5 * math.log(2) ** 2, rel=1e-3)
    # its own trajectories know: half of them end where there is nothing
    unseen = sampler.rollout(gl.time_grid(10), 2000).log_weight.isneginf().float().mean()
    assert unseen.item() == pytest.approx(0.5, abs=5 * 0.5 / 2000**0.5)
