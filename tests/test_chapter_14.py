"""Annealing: the mean weight on a space so small that every expectation is a matrix product."""

import pytest
import torch

F64 = torch.float64
REWARD = torch.tensor([0.1, 4.0, 0.5, 7.0, 0.02], dtype=F64)
START = torch.tensor([0.3, 0.1, 0.3, 0.1, 0.2], dtype=F64)


def moves(target):
    """Metropolis's kernel on a ring of states, which leaves the target invariant."""
    n = len(target)
    kernel = torch.zeros(n, n, dtype=F64)
    for i in range(n):
        for j in ((i - 1) % n, (i + 1) % n):
            kernel[i, j] = 0.5 * (target[j] / target[i]).clamp(max=1)
        kernel[i, i] = 1 - kernel[i].sum()
    return kernel


def annealed(levels, wrong=False):
    """E[w; x = i] at the end, from the definition: a row vector through all levels."""
    bridge = [REWARD**b * START ** (1 - b) for b in levels]
    weighted = START
    for before, after in zip(bridge, bridge[1:], strict=False):
        weighted = weighted * after / before
        weighted = weighted @ moves(before if wrong else after)
    return weighted


@pytest.mark.equation("eq-14-weight", "eq-14-bridge")
@pytest.mark.parametrize("levels", [(0.0, 1.0), (0.0, 0.2, 0.7, 1.0)])
def test_the_mean_weight_is_z_at_every_state_whatever_the_levels(levels):
    torch.testing.assert_close(START.sum(), torch.ones((), dtype=F64))
    torch.testing.assert_close(annealed(levels), REWARD)
    # The twin: moves that leave the level before invariant.
    assert (annealed(levels, wrong=True) - REWARD).abs().max() > 0.1
