"""Your own density: its energies, maps and truths, against quadrature and closed forms."""

import itertools
import math
import re
from pathlib import Path
from types import SimpleNamespace

import jupytext
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_breast_cancer

import gfnlite as gl
from gfnlite.bayes import LogisticRegression

F64 = torch.float64
SOURCE = Path(__file__).parent.parent / "notebooks" / "12_your_own_density.py"
TAGS = {"logistic", "check", "laplace", "weighted", "chain"}


@pytest.fixture(scope="module")
def chapter():
    """The chapter's cells with definitions."""
    names = {"gl": gl, "torch": torch, "math": math, "F": F}
    names["load_breast_cancer"] = load_breast_cancer
    for cell in jupytext.read(SOURCE).cells:
        if TAGS & set(cell.metadata.get("tags", [])):
            exec(cell.source, names)
    return SimpleNamespace(**names)


@pytest.fixture
def draw():
    return torch.Generator().manual_seed(0)


@pytest.mark.equation("eq-12-posterior")
def test_energy_by_hand_is_the_packages_posterior(chapter, draw):
    features, labels = load_breast_cancer(return_X_y=True)
    known = LogisticRegression(features[:, :10], labels)
    w = torch.randn(20, 11, generator=draw)
    torch.testing.assert_close(chapter.energy(w), -known.log_reward(w), rtol=1e-4, atol=1e-2)
    # Row by row, as the formula stands, with the labels the other way as the twin.
    x, y = chapter.signed.double(), w.double()
    prior = (y**2 / 2 + 0.5 * math.log(2 * math.pi)).sum(1)
    formula = [sum(math.log1p(math.exp(-float(row @ v))) for row in x) for v in y[:3]]
    found = chapter.energy(y[:3]) - prior[:3]
    torch.testing.assert_close(found, torch.tensor(formula, dtype=F64))
    assert (chapter.energy(-y[:3]) - chapter.energy(y[:3])).abs().min() > 1
    assert chapter.energy(1e4 * w).isfinite().all()


def test_check_passes_good_energies_and_names_the_fault(chapter):
    assert chapter.check(chapter.energy, 11) == []
    assert chapter.check(chapter.chain_energy, 12) == []
    twins = {
        "shape": lambda x: x.square(),
        "other rows": lambda x: (x - x.mean(0)).square().sum(1) + x.square().sum(1),
        "not finite": lambda x: x.log().sum(1),
        "gradient": lambda x: (2 * x - x.detach()).square().sum(1),
        "outwards": lambda x: -x.square().sum(1),
    }
    for words, energy in twins.items():
        assert words in "; ".join(chapter.check(energy, 2)), words
    assert chapter.check(lambda x: (x / 1e4).square().sum(1), 2) != []
    assert chapter.check(lambda x: (x / 1e4).square().sum(1), 2, scale=1e4) == []


@pytest.mark.equation("eq-12-jacobian")
def test_normaliser_and_means_survive_a_change_of_coordinates():
    """x = sinh(z) and a skewed density on the line, by quadrature on both sides."""

    def log_r(x):
        return -0.5 * x.square() + 0.7 * torch.sin(x)

    x, z = torch.linspace(-12, 12, 40_001, dtype=F64), torch.linspace(-4, 4, 40_001, dtype=F64)
    log_rz = log_r(torch.sinh(z)) + torch.cosh(z).log()
    want = torch.trapezoid(log_r(x).exp(), x)
    torch.testing.assert_close(torch.trapezoid(log_rz.exp(), z), want, rtol=1e-6, atol=0)
    means = (
        torch.trapezoid(x * log_r(x).exp(), x),
        torch.trapezoid(torch.sinh(z) * log_rz.exp(), z),
    )
    torch.testing.assert_close(*means, rtol=1e-6, atol=0)
    twin = torch.trapezoid(log_r(torch.sinh(z)).exp(), z)
    assert abs(twin - want) > 0.1 * want


@pytest.mark.equation("eq-12-laplace")
def test_laplace_is_exact_for_a_gaussian_and_its_coordinates_are_standard(chapter, draw):
    a = torch.randn(3, 3, generator=draw, dtype=F64)
    precision, centre = a @ a.T + torch.eye(3), torch.tensor([1.0, -2.0, 0.5], dtype=F64)

    def energy(x):
        away = x - centre.to(x)
        return 0.5 * ((away @ precision.to(x)) * away).sum(1) + 3.0

    m, factor = chapter.laplace(energy, 3)
    torch.testing.assert_close(m, centre, rtol=0, atol=1e-5)
    torch.testing.assert_close(factor @ factor.T, torch.linalg.inv(precision))
    log_z = -3.0 + 1.5 * math.log(2 * math.pi) - 0.5 * torch.logdet(precision)
    z = torch.randn(5, 3, generator=draw, dtype=F64)
    whitened = chapter.in_coordinates(energy, m, factor)
    standard = 0.5 * z.square().sum(1) + 1.5 * math.log(2 * math.pi)
    torch.testing.assert_close(whitened(z), standard - log_z, rtol=0, atol=1e-4)
    # The estimate itself, from its formula; twins: without the volume, or with it the other way.
    estimate = -energy(m[None]) + 1.5 * math.log(2 * math.pi) + factor.diagonal().log().sum()
    torch.testing.assert_close(estimate, log_z[None], rtol=0, atol=1e-4)
    assert abs(factor.diagonal().log().sum()) > 0.1


@pytest.mark.equation("eq-12-weighted")
def test_weighted_mean_and_its_error(chapter, draw):
    """N(0, 1.5) for N(0.3, 1): the error must be that of repetitions."""
    tries, n = 2000, 400
    x = math.sqrt(1.5) * torch.randn(tries, n, generator=draw, dtype=F64)
    log_w = x.square() / 3 - 0.5 * (x - 0.3).square()
    found = [chapter.weighted_mean(a[:, None], b) for a, b in zip(x, log_w, strict=True)]
    means, errors = (torch.cat(part) for part in zip(*found, strict=True))
    spread = means.std().item()
    assert means.mean().item() == pytest.approx(0.3, abs=4 * spread / math.sqrt(tries) + 1e-3)
    assert errors.mean().item() == pytest.approx(spread, rel=0.1)
    plain = (x.std(1) / math.sqrt(n)).mean().item()  # without weights in the error
    assert plain != pytest.approx(spread, rel=0.1)


@pytest.fixture(scope="module")
def ring():
    """The chapter's cells of the chain, for three sites: small enough for plain quadrature."""
    names = {"gl": gl, "torch": torch, "math": math}
    for cell in jupytext.read(SOURCE).cells:
        if "chain" in cell.metadata.get("tags", []):
            exec(re.sub(r"^(N, .*) = 12,", r"\1 = 3,", cell.source), names)
    assert names["N"] == 3
    return SimpleNamespace(**names)


@pytest.mark.equation("eq-12-chain", "eq-12-transfer")
def test_transfer_matrix_against_quadrature_over_all_sites(ring):
    a = torch.linspace(-2.8, 2.8, 113, dtype=F64)
    phi = torch.cartesian_prod(a, a, a)
    kappa, lam, field = ring.KAPPA, ring.LAM, ring.FIELD
    by_hand = sum(
        0.5 * kappa * (phi[:, (i + 1) % 3] - phi[:, i]) ** 2
        + lam * (phi[:, i] ** 2 - 1) ** 2
        - field * phi[:, i]
        for i in range(3)
    )
    torch.testing.assert_close(ring.chain_energy(phi), by_hand)
    w = torch.exp(-by_hand)
    truth = ring.Chain()
    log_z = (w.sum() * (a[1] - a[0]) ** 3).log().item()
    assert truth.log_z == pytest.approx(log_z, abs=1e-6)
    w = w / w.sum()
    for r in (0, 1, 2):
        want = (w * phi[:, 0] * phi[:, r]).sum().item()
        assert truth.correlation(r) == pytest.approx(want, abs=1e-6)
    assert truth.mean_field() == pytest.approx((w * phi[:, 0]).sum().item(), abs=1e-6)
    assert truth.correlation(0) != pytest.approx(truth.correlation(1), rel=0.05)
    # An open chain is another one: its normaliser misses a bond.
    unclosed = by_hand - 0.5 * kappa * (phi[:, 0] - phi[:, 2]) ** 2
    other = (torch.exp(-unclosed).sum() * (a[1] - a[0]) ** 3).log().item()
    assert other != pytest.approx(log_z, abs=0.1)


@pytest.mark.equation("eq-12-sites")
def test_exact_samples_of_the_ring(chapter, draw):
    truth, n = chapter.Chain(), 20_000
    x = truth.sample(n, draw)
    assert x.shape == (n, 12) and x.dtype == torch.float32
    for r in range(4):
        products = x * x.roll(-r, 1)
        for site in (0, 5, 11):  # every site is alike, also across the seam
            error = 4 * products[:, site].std().item() / math.sqrt(n)
            assert products[:, site].mean().item() == pytest.approx(
                truth.correlation(r), abs=error + 1e-3
            )
    error = 4 * x[:, 0].std().item() / math.sqrt(n)
    assert x[:, 7].mean().item() == pytest.approx(truth.mean_field(), abs=error)
    shuffled = x[:, torch.randperm(12, generator=draw)]  # the twin: sites that are no neighbours
    assert (shuffled * shuffled.roll(-1, 1)).mean().item() < truth.correlation(1) - 0.05


@pytest.mark.equation("eq-12-maps")
def test_jacobians_of_the_maps(draw):
    z = torch.randn(4, generator=draw, dtype=F64)

    def ordered(z):
        return torch.cat((z[:1], z[1:].exp())).cumsum(0)

    maps = {
        "positive": (torch.exp, z.sum()),
        "interval": (torch.sigmoid, (torch.sigmoid(z) * torch.sigmoid(-z)).log().sum()),
        "ordered": (ordered, z[1:].sum()),
    }
    for name, (g, log_det) in maps.items():
        matrix = torch.autograd.functional.jacobian(g, z)
        torch.testing.assert_close(torch.linalg.slogdet(matrix)[1], log_det, msg=name)
    assert all(a < b for a, b in itertools.pairwise(ordered(z).tolist()))
    matrix = torch.autograd.functional.jacobian(ordered, z)
    assert not torch.isclose(torch.linalg.slogdet(matrix)[1], z.sum())


@pytest.mark.equation("eq-12-forgotten")
@pytest.mark.parametrize("a, b", [(3.0, 1.5), (2.5, 0.7)])
def test_what_a_forgotten_jacobian_costs(a, b):
    z = torch.linspace(-25, 6, 200_001, dtype=F64)
    for jacobian in (1, 0):
        log_r = (a - 1) * z - b * z.exp() + jacobian * z
        mass = torch.trapezoid(log_r.exp(), z).item()
        mean = torch.trapezoid((z + log_r).exp(), z).item() / mass
        shape = a - 1 + jacobian
        assert mean == pytest.approx(shape / b, rel=1e-6)
        assert math.log(mass) == pytest.approx(math.lgamma(shape) - shape * math.log(b), abs=1e-6)
