"""From scratch: the kernels, the balance and the log-weight that its cells are written by."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

F64 = torch.float64
SIGMA2, STEPS, LOG_Z = 1.4, 6, 2.0
MEAN = torch.tensor([0.8, -0.5], dtype=F64)


def log_reward(x):
    """Z N(m, sigma^2 I), on which the drift u = m is exact."""
    return Normal(MEAN, math.sqrt(SIGMA2)).log_prob(x).sum(-1) + LOG_Z


def noise(seed=0, n=200):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(STEPS, n, 2, dtype=F64, generator=generator)


@pytest.mark.equation("eq-01-balance", "eq-01-log-weight")
@pytest.mark.parametrize("way", ["generate", "destroy"])
def test_balance_holds_where_generation_is_perfect(oracle, way):
    def log_weight(off):
        def u(x, t):
            return (MEAN + off).expand_as(x)

        if way == "generate":  # with noise that is not P_F's: for every path
            return oracle.generate(u, log_reward, noise(), SIGMA2, exploration=2.0)[1]
        ends = MEAN + 2 * noise(1)[0]
        return oracle.destroy(u, log_reward, ends, noise(), SIGMA2)

    torch.testing.assert_close(log_weight(0.0), torch.full((200,), LOG_Z, dtype=F64))
    assert log_weight(0.2).std() > 0.1  # the twin


@pytest.mark.equation("eq-01-generation", "eq-01-destruction", "eq-01-log-weight")
def test_log_weight_is_that_of_the_joint_densities(oracle):
    """A drift m makes generation N(t m, sigma^2 min(s, t)); destruction is it, given its end."""
    t = torch.arange(1, STEPS + 1, dtype=F64) / STEPS
    covariance = SIGMA2 * torch.minimum(t[:, None], t)
    drift = torch.tensor([0.5, 1.0], dtype=F64)
    end, log_w = oracle.generate(
        lambda x, _: drift.expand_as(x), log_reward, noise(), SIGMA2, exploration=1.0
    )
    spread = math.sqrt((SIGMA2 + 1.0) / STEPS)
    path = (drift / STEPS + spread * noise()).cumsum(0)  # (T, n, 2)
    torch.testing.assert_close(path[-1], end)
    by_hand = log_reward(end)
    for i in range(2):
        forward = MultivariateNormal(drift[i] * t, covariance).log_prob(path[..., i].T)
        brownian = MultivariateNormal(0 * t, covariance).log_prob(path[..., i].T)
        last = Normal(0 * t[0], math.sqrt(SIGMA2)).log_prob(end[:, i])
        by_hand = by_hand + (brownian - last) - forward
    torch.testing.assert_close(log_w, by_hand)
    # The twin: densities with the noise that explored.
    wide = MultivariateNormal(drift[0] * t, covariance * (SIGMA2 + 1) / SIGMA2)
    wrong = by_hand + forward - wide.log_prob(path[..., 0].T)
    assert (log_w - wrong).abs().median() > 0.1


@pytest.mark.equation("eq-01-generation", "eq-01-destruction")
def test_destroyed_paths_are_scored_as_generated_ones(oracle):
    """One path, walked up and walked down again with the noise that leads along it."""

    def u(x, t):
        return torch.sin(x.flip(-1)) + t

    dt, x, states = 1 / STEPS, torch.zeros(200, 2, dtype=F64), []
    for i, eps in enumerate(noise()):
        states.append(x)
        x = x + u(x, i * dt) * dt + math.sqrt(SIGMA2 * dt) * eps
    end, up = oracle.generate(u, log_reward, noise(), SIGMA2)
    torch.testing.assert_close(end, x)
    back = noise()
    for i in range(1, STEPS):
        share = i / (i + 1)
        after = states[i + 1] if i + 1 < STEPS else x
        back[i] = (states[i] - share * after) / math.sqrt(SIGMA2 * dt * share)
    torch.testing.assert_close(oracle.destroy(u, log_reward, x, back, SIGMA2), up)
