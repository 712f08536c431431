"""Why it is fast: the ratio of a step with its slope, and the way back, against autograd."""

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal

from gfnlite.process import log_ratio, ratio_slope

F64 = torch.float64


def normals(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.equation("eq-ratio-slope")
def test_a_steps_ratio_and_slope_are_those_of_the_densities():
    sigma2, h = 1.7, torch.tensor([0.1, 0.03, 0.5], dtype=F64)
    u, moved = normals(3, 20, 2), normals(3, 20, 2, seed=1)
    u.requires_grad_()
    std = (sigma2 * h).sqrt()[:, None, None]
    log_pf = Normal(h[:, None, None] * u, std).log_prob(moved).sum(-1)
    reference = Normal(torch.zeros_like(std), std).log_prob(moved).sum(-1)
    (slope,) = torch.autograd.grad(log_pf.sum(), u)
    by_hand = ((u * moved).sum(-1) - 0.5 * h[:, None] * u.square().sum(-1)) / sigma2
    torch.testing.assert_close(log_pf - reference, by_hand)
    torch.testing.assert_close(slope, (moved - h[:, None, None] * u.detach()) / sigma2)
    torch.testing.assert_close(log_ratio(moved, h, sigma2, u), log_pf - reference)
    torch.testing.assert_close(ratio_slope(moved, h, sigma2, u.detach())[0], slope)
    assert (slope - moved / sigma2).abs().max() > 0.1  # the twin: without the drift's own square


@pytest.mark.equation("eq-pull")
def test_the_way_back_is_autograds():
    """Three layers, written out row by row as the equations are; g' by its own formula."""
    widths, x = (3, 5, 4, 2), normals(7, 3)
    weights = [normals(b, a, seed=b) for a, b in zip(widths, widths[1:], strict=False)]
    for w in weights:
        w.requires_grad_()
    z = [x @ weights[0].T + 0.3]  # g is not applied to the input
    for w in weights[1:]:
        z.append(F.gelu(z[-1]) @ w.T + 0.3)
    cotangent = normals(7, 2, seed=9)
    wanted = torch.autograd.grad(z[-1], weights, cotangent)
    unit = Normal(torch.tensor(0.0, dtype=F64), 1.0)
    with torch.no_grad():
        back, found = cotangent, []
        for k in (2, 1):
            found.insert(0, back.T @ F.gelu(z[k - 1]))
            slope = unit.cdf(z[k - 1]) + z[k - 1] * unit.log_prob(z[k - 1]).exp()
            twin = (back @ weights[k]) * F.gelu(z[k - 1])
            back = (back @ weights[k]) * slope
        found.insert(0, back.T @ x)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    assert (twin.T @ x - wanted[0]).abs().max() > 0.1
