"""Manywell: the equations of its chapter, against quadrature and against exact samples."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import jupytext
import numpy as np
import pytest
import torch
from scipy.integrate import quad

import gfnlite as gl

ROOT = Path(__file__).parent.parent
MINOR = gl.ManyWell(2).mode_mass[0].item()


@pytest.fixture(scope="module")
def chapter():
    """The chapter's cell tagged `shares`: what wrong shares cost."""
    namespace = {"torch": torch}
    for cell in jupytext.read(ROOT / "notebooks" / "07_manywell.py").cells:
        if "shares" in cell.metadata.get("tags", []):
            exec(cell.source, namespace)
    return SimpleNamespace(**namespace)


def well(a):
    return math.exp(-(a**4) + 6 * a**2 + a / 2)


@pytest.mark.equation("eq-07-target", "eq-07-logz")
def test_the_normaliser_is_a_product_of_integrals():
    left, right = quad(well, -4, 0)[0], quad(well, 0, 4)[0]
    assert left / (left + right) == pytest.approx(MINOR, abs=1e-4)  # its grid ends at a cell
    for dim in (2, 32, 128):
        log_z = dim / 2 * (math.log(left + right) + 0.5 * math.log(2 * math.pi))
        assert gl.ManyWell(dim).log_z == pytest.approx(log_z, abs=1e-6)
        # The density itself, from the equation, at points anywhere.
        x = torch.randn(20, dim, generator=torch.Generator().manual_seed(0)).double()
        by_hand = sum(
            -(x[:, i] ** 4) + 6 * x[:, i] ** 2 + x[:, i] / 2 - x[:, i + 1] ** 2 / 2
            for i in range(0, dim, 2)
        )
        torch.testing.assert_close(gl.ManyWell(dim).log_reward(x), by_hand)


def log_weights(drawn, shares, n, wells):
    """log w - log Z of a sampler perfect but for its left share, at ends with left share `drawn`.

    By the definition log R(x) - log q(x): inside a mode the two differ by a constant.
    """
    left = np.random.default_rng(0).random((n, wells)) < drawn
    log_w = np.where(left, math.log(MINOR / shares), math.log((1 - MINOR) / (1 - shares)))
    return torch.from_numpy(log_w.sum(1))


@pytest.mark.equation("eq-07-shares")
@pytest.mark.parametrize("share", [0.05, 0.101, MINOR / 2, 0.2])
def test_price_of_wrong_shares(chapter, share):
    n, wells = 200_000, 16
    lower, upper, fraction = chapter.price_of_shares(share, MINOR, wells)
    generated = log_weights(share, share, n, wells)
    destroyed = log_weights(MINOR, share, n, wells)
    for price, log_w in ((-lower, generated), (upper, destroyed)):
        error = 4 * log_w.std().item() / math.sqrt(n)
        assert gl.elbo(log_w) == pytest.approx(price.item(), abs=error)
        assert gl.elbo(log_w) != pytest.approx(1.2 * price.item(), abs=error)  # the twin
    if share > 0.1:  # fewer of them, and the weights' second moment is rarely seen
        assert gl.ess(generated) == pytest.approx(fraction.item(), rel=0.03)
        assert abs(gl.log_z_is(generated)) < 0.02
    exact = chapter.price_of_shares(MINOR, MINOR, wells)
    assert [value.item() for value in exact] == pytest.approx([0, 0, 1], abs=1e-12)


@pytest.mark.equation("eq-07-collapse")
def test_a_full_collapse(chapter):
    lower, upper, _ = chapter.price_of_shares(0.0, MINOR, 16)
    assert (
        lower.item() == pytest.approx(-16 * math.log(1 - MINOR)) == pytest.approx(2.708, abs=1e-3)
    )
    assert upper.item() == math.inf
    # Nothing but rejection: exact samples that are right in both wells have the mass of that.
    x = gl.ManyWell(4).sample(100_000, torch.Generator().manual_seed(0))
    both = (x[:, 0::2] > 0).all(1).float().mean().item()
    assert -math.log(both) == pytest.approx(-2 * math.log(1 - MINOR), abs=4 * 0.63 / math.sqrt(1e5))


def test_six_published_rows_have_the_error_of_a_collapse():
    rows = json.loads((ROOT / "reproduce/published.json").read_text())["tasks"]["manywell"]["rows"]
    errors = {n: r["delta_log_z_rw"]["mean"] for n, r in rows.items() if r["delta_log_z_rw"]}
    near = [n for n, e in errors.items() if abs(e + 16 * math.log(1 - MINOR)) < 0.1]
    assert near == ["PIS", "TB", "TB+Expl", "VarGrad+Expl", "FL-SubTB", "FL-SubTB+LP"]
