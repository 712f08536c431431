"""One sampler for every image: the bound of K weights, against exact integrals."""

import math

import pytest
import torch

from gfnlite.posterior import importance_bound

F64 = torch.float64
LOG_Z, STD = 1.3, 0.9


def exact(k, nodes, weights):
    """L_K of log w ~ N(log Z - std^2 / 2, std^2), by quadrature over K normal numbers."""
    log_w = LOG_Z - STD**2 / 2 + STD * torch.cartesian_prod(*[nodes] * k).view(-1, k)
    law = torch.cartesian_prod(*[weights] * k).view(-1, k).prod(1)
    return (law * (log_w.logsumexp(1) - math.log(k))).sum().item()


@pytest.mark.equation("eq-08-bound")
def test_the_bound_of_k_weights_is_its_expectation_and_grows_to_log_z(gauss_hermite):
    known = [exact(k, *gauss_hermite) for k in (1, 2, 3)]
    assert known[0] == pytest.approx(LOG_Z - STD**2 / 2) and known == sorted(known)
    n = 240_000
    log_w = (
        LOG_Z
        - STD**2 / 2
        + STD * torch.randn(1, n, dtype=F64, generator=torch.Generator().manual_seed(0))
    )
    for k, bound in enumerate(known, 1):
        error = 4.5 * STD / math.sqrt(n)  # a mean of K weights varies less than one
        found = importance_bound(log_w, k).item()
        assert abs(found - bound) < error < 0.02
        # The twins: the bounds of other numbers of weights, of which each is told from the next.
        assert all(abs(found - other) > 2 * error for other in known if other != bound)
    many = [importance_bound(log_w, k).item() for k in (10, 100, 1000)]
    assert known[2] < many[0] < many[1] < many[2] < LOG_Z + 0.01
    # For many weights the gap is half the variance of their mean over Z^2 (delta method).
    gap = (math.exp(STD**2) - 1) / 2 / 100
    assert LOG_Z - many[1] == pytest.approx(gap, rel=0.15)
