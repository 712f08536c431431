"""Twenty-five modes: the target of its chapter, by the formula and by quadrature."""

import math

import pytest
import torch
from scipy.integrate import quad

import gfnlite as gl


@pytest.mark.equation("eq-04-target")
@pytest.mark.parametrize("name, levels", [
    ("25gmm", (-10, -5, 0, 5, 10)), ("9gmm", (-5, 0, 5)),
])  # fmt: skip
def test_the_target_is_a_mean_of_gaussians_on_a_grid(name, levels):
    target, x = gl.named_target(name), torch.tensor([[-5.3, 4.1], [0.2, 0.1], [2.5, -2.5]])

    def line(v):  # the mixture is a product over the two coordinates
        parts = [math.exp(-((v - m) ** 2) / 0.6) / math.sqrt(0.6 * math.pi) for m in levels]
        return sum(parts) / len(levels)

    by_hand = [math.log(line(a) * line(b)) for a, b in x.tolist()]
    assert target.log_reward(x).tolist() == pytest.approx(by_hand, rel=1e-4)
    assert 2 * math.log(quad(line, -15, 15, points=levels, limit=200)[0]) == pytest.approx(
        target.log_z, abs=1e-8
    )
    assert len(target.means) == len(levels) ** 2 and target.log_z == 0
    wide = target.log_reward(1.1 * x)  # the twin
    assert wide.tolist() != pytest.approx(by_hand, rel=0.05)
