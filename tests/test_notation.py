"""The page of symbols: its kernels, log-weight, telescoped sum and bounds, in float64 by hand."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

import gfnlite as gl

F64 = torch.float64
SIGMA2 = 1.7


def times(steps=9):
    return gl.time_grid(steps, "random", torch.Generator().manual_seed(1)).double()


def some_drift(x, t):
    return torch.sin(2 * x.flip(-1)) - 0.5 * x + t


def generated(t, n=50, d=3, u=some_drift, seed=0):
    """States (T + 1, n, d), drawn step by step."""
    noise = torch.randn(len(t) - 1, n, d, dtype=F64, generator=torch.Generator().manual_seed(seed))
    x = [torch.zeros(n, d, dtype=F64)]
    for i, eps in enumerate(noise):
        dt = t[i + 1] - t[i]
        x.append(x[-1] + u(x[-1], t[i]) * dt + (SIGMA2 * dt).sqrt() * eps)
    return torch.stack(x)


def densities(x, t, u=some_drift):
    """Sums of log P_F and of log P_B, each kernel written out: (n,) each."""
    log_pf = log_pb = 0.0
    for i in range(len(t) - 1):
        dt = t[i + 1] - t[i]
        mean = x[i] + u(x[i], t[i]) * dt
        log_pf = log_pf + Normal(mean, (SIGMA2 * dt).sqrt()).log_prob(x[i + 1]).sum(-1)
        if i:  # the last step of destruction is certain
            back = t[i] / t[i + 1]
            law = Normal(back * x[i + 1], (SIGMA2 * back * dt).sqrt())
            log_pb = log_pb + law.log_prob(x[i]).sum(-1)
    return log_pf, log_pb


@pytest.mark.equation("eq-telescoped", "eq-kernels")
def test_most_of_the_sum_cancels():
    t, x = times(), generated(times())
    log_pf, log_pb = densities(x, t)
    ratio = 0.0
    for i, dt in enumerate(t.diff()):
        u, moved = some_drift(x[i], t[i]), x[i + 1] - x[i]
        ratio = ratio + ((u * moved).sum(-1) - 0.5 * dt * u.square().sum(-1)) / SIGMA2
    end = Normal(0.0, math.sqrt(SIGMA2)).log_prob(x[-1]).sum(-1)
    torch.testing.assert_close(log_pf - log_pb, ratio + end)
    # The twin: the square without its half.
    wrong = ratio - 0.5 * sum(dt * some_drift(x[i], t[i]).square().sum(-1) / SIGMA2
                              for i, dt in enumerate(t.diff()))  # fmt: skip
    assert (log_pf - log_pb - wrong - end).abs().median() > 0.1


@pytest.mark.equation("eq-kernels")
def test_without_a_drift_both_kernels_are_brownian_motion():
    """Their joint density is that of N(0, sigma^2 min(s, t)), from either end."""
    t, x = times(), generated(times(), d=1, u=lambda x, t: 0 * x)
    log_pf, log_pb = densities(x, t, lambda x, t: 0 * x)
    covariance = SIGMA2 * torch.minimum(t[1:, None], t[None, 1:])
    joint = MultivariateNormal(torch.zeros(len(t) - 1, dtype=F64), covariance)
    exact = joint.log_prob(x[1:, :, 0].T)
    torch.testing.assert_close(log_pf, exact)
    end = Normal(0.0, math.sqrt(SIGMA2)).log_prob(x[-1, :, 0])
    torch.testing.assert_close(log_pb + end, exact)
    assert (log_pb - exact).abs().median() > 0.1  # the twin: without its end


@pytest.mark.equation("eq-log-weight", "eq-telescoped")
def test_the_packages_log_weight_is_that_of_the_page():
    """Of a network with weights of any size, on paths that were drawn with other noise."""
    torch.manual_seed(0)
    target, t = gl.gmm9, gl.time_grid(12, "random")
    sampler = gl.GFNDiffusion(target, sigma2=SIGMA2, hidden=8, exploration=20.0)
    torch.nn.init.normal_(sampler.policy.forward_net.out.weight, std=0.5)
    tr = sampler.rollout(t, 40, exploration=2.0)
    x, t = tr.x.double(), tr.t.double()

    def u(state, time):
        context = sampler.policy.context(
            sampler.policy.forward_net, time.float()[None], torch.ones(1), None
        )
        return sampler.policy.forward_kernel(state.float()[None], context)[0][0].double()

    with torch.no_grad():
        log_pf, log_pb = densities(x, t, u)
    by_hand = target.log_reward(x[-1].float()).double() + log_pb - log_pf
    torch.testing.assert_close(tr.log_weight.double(), by_hand, rtol=1e-4, atol=2e-3)
    assert (tr.log_weight + log_pb - by_hand).abs().median() > 0.1


@pytest.mark.equation("eq-bounds")
def test_the_bounds_and_their_gaps_by_quadrature():
    """Two steps in one dimension: path space is a plane, and all three means are sums over it."""
    axis = torch.linspace(-7, 7, 701, dtype=F64)
    middle, end = torch.meshgrid(axis, axis, indexing="ij")
    t = torch.tensor([0.0, 0.4, 1.0], dtype=F64)
    x = torch.stack((torch.zeros_like(middle), middle, end)).flatten(1)[..., None]
    log_pf, log_pb = densities(x, t)
    log_r = 0.7 + torch.logsumexp(
        torch.stack([Normal(m, 0.6).log_prob(x[-1, :, 0]) for m in (-1.0, 1.5)]), 0
    )
    log_w, area = log_r + log_pb - log_pf, float(axis[1] - axis[0]) ** 2
    z = area * (log_r + log_pb).exp().sum()
    assert z.log().item() == pytest.approx(0.7 + math.log(2), abs=1e-6)
    p, q = area * log_pf.exp(), area * (log_r + log_pb).exp() / z
    assert (p * log_w.exp()).sum().item() == pytest.approx(z.item())  # the mean of w
    elbo, eubo = (p * log_w).sum(), (q * log_w).sum()
    kl = (p * (p / q).log()).nansum(), (q * (q / p).log()).nansum()
    assert elbo.item() == pytest.approx((z.log() - kl[0]).item(), abs=1e-6)
    assert eubo.item() == pytest.approx((z.log() + kl[1]).item(), abs=1e-6)
    assert elbo < z.log() - 0.1 and eubo > z.log() + 0.1  # the gaps are there to be seen
