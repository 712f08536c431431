"""Distances between samples against known answers, and their floors."""

import itertools
import math

import pytest
import torch

import gfnlite as gl
from gfnlite import distances
from gfnlite.distances import mmd, mmd_floor, sinkhorn, sinkhorn_floor, w2, w2_floor


def normal(n, d, generator, scale=1.0):
    return scale * torch.randn(n, d, generator=generator)


@pytest.mark.parametrize("distance", [w2, sinkhorn, mmd])
def test_order_does_not_matter_nor_which_sample_is_first(distance, generator):
    x, y = normal(60, 2, generator), normal(50, 2, generator) + 1
    value, settings = distance(x, y), {"reg": 1.0} if distance is sinkhorn else {}
    shuffled = x[torch.randperm(60, generator=generator)], y[torch.randperm(50)]
    assert distance(*shuffled) == pytest.approx(value, rel=1e-4)
    assert distance(y, x, **settings) == pytest.approx(distance(x, y, **settings), rel=1e-4)


@pytest.mark.parametrize("distance", [w2, sinkhorn, mmd])
def test_samples_of_two_dimensions_are_refused(distance):
    with pytest.raises(ValueError, match=r"must be \(n, d\)"):
        distance(torch.zeros(5, 2), torch.zeros(5, 3))


@pytest.mark.parametrize("distance", [w2, sinkhorn, mmd])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_samples_that_are_empty_or_not_finite_are_refused(distance, bad):
    x, broken = torch.zeros(5, 2), torch.zeros(5, 2)
    broken[3] = bad
    with pytest.raises(ValueError, match="must be finite: 1 points of x and 0 of y are not"):
        distance(broken, x)
    with pytest.raises(ValueError, match="0 points of x and 1 of y are not"):
        distance(x, broken)
    with pytest.raises(ValueError, match=r"none empty, got \(0, 2\) and \(5, 2\)"):
        distance(x[:0], x)


@pytest.mark.parametrize("distance", [w2, sinkhorn, mmd])
def test_lists_arrays_and_tensors_with_a_gradient_are_taken(distance, generator):
    x, y = normal(20, 2, generator), normal(20, 2, generator) + 1
    value = distance(x, y)
    assert distance(x.tolist(), y.numpy()) == pytest.approx(value, rel=1e-4)
    assert distance(x.clone().requires_grad_(), y) == value


@pytest.mark.parametrize("reg", [0.5, 5.0, 500.0, None])
def test_a_shift_has_its_length_as_w2_and_as_sinkhorn_for_any_reg(generator, reg):
    # |x - (y + s)|^2 is |x - y|^2 + |s|^2 plus terms of x and of y alone, which the potentials
    # absorb. The two self-terms are needed for that: OT alone is off by their mean.
    x, shift = normal(200, 2, generator), torch.tensor([3.0, -4.0])
    assert w2(x, x) == pytest.approx(0, abs=1e-6)
    assert w2(x, x + shift) == pytest.approx(5, rel=1e-5)
    assert sinkhorn(x, x, reg) == pytest.approx(0, abs=1e-3)
    assert sinkhorn(x, x + shift, reg) == pytest.approx(5, rel=1e-3)


def test_w2_matches_sorting_in_one_dimension(generator):
    x, y = normal(300, 1, generator), normal(300, 1, generator, 2.0) + 1
    exact = (x.sort(0).values - y.sort(0).values).square().mean().sqrt().item()
    assert w2(x, y) == pytest.approx(exact, rel=1e-5)


def test_sinkhorn_lies_between_its_two_limits(generator):
    # reg -> 0: W2. reg -> infinity: the distance of the means (half the energy distance of |.|^2).
    x, y = normal(100, 2, generator, 0.5), normal(100, 2, generator, 2.0) + 1
    means = (x.mean(0) - y.mean(0)).norm().item()
    assert sinkhorn(x, y, 1e5) == pytest.approx(means, rel=1e-3)
    assert sinkhorn(x, y, 0.02) == pytest.approx(w2(x, y), rel=0.02)
    assert means < 0.9 * w2(x, y)


def test_both_iterations_of_sinkhorn_agree_and_far_samples_stay_finite(generator, monkeypatch):
    x, y = normal(80, 2, generator), normal(80, 2, generator) + 1
    plain = sinkhorn(x, y, 1.0)
    monkeypatch.setattr(distances, "LARGEST_EXPONENT", 0.0)
    assert sinkhorn(x, y, 1.0) == pytest.approx(plain, rel=1e-3)
    monkeypatch.undo()
    assert sinkhorn(y + 1e4, y) == pytest.approx(1e4 * math.sqrt(2), rel=1e-3)
    with pytest.raises(ValueError, match="reg=0 must be positive"):
        sinkhorn(x, y, 0)
    with pytest.warns(UserWarning, match="has not converged, reg=0.0001 is too small"):
        sinkhorn(x, y, 1e-4)


def biased_mmd(x, y, h):
    def mean(a, b):
        return (-torch.cdist(a, b).square() / (2 * h**2)).exp().mean()

    return (mean(x, x) + mean(y, y) - 2 * mean(x, y)).item()


@pytest.mark.parametrize("bandwidth", [0.7, None])
def test_mmd_averages_to_zero_over_all_ways_to_split_a_sample(generator, bandwidth):
    # An exact form of "expectation zero": each pair is equally often within as between.
    points, splits = normal(8, 2, generator), [*itertools.combinations(range(8), 3)]

    def average(estimate):
        total = 0.0
        for first in splits:
            mask = torch.zeros(8, dtype=torch.bool)
            mask[list(first)] = True
            total += estimate(points[mask], points[~mask])
        return total / len(splits)

    assert average(lambda x, y: mmd(x, y, bandwidth)) == pytest.approx(0, abs=1e-12)
    assert average(lambda x, y: biased_mmd(x, y, bandwidth or 1.0)) > 0.05


def test_mmd_has_expectation_zero_for_equal_densities_and_not_for_others(generator):
    def repeats(shift):
        pairs = [(normal(30, 2, generator), normal(40, 2, generator)) for _ in range(300)]
        values = torch.tensor([mmd(x, y + shift) for x, y in pairs])
        return values.mean().item(), 4 * values.std().item() / math.sqrt(300)

    mean, error = repeats(0.0)
    assert abs(mean) < error
    mean, error = repeats(0.5)
    assert mean > error


def test_mmd_of_two_gaussians_is_the_closed_form(generator):
    # E k(x, y) for x - y ~ N(m, v) in 1-D is sqrt(h^2 / (h^2 + v)) exp(-m^2 / 2 (h^2 + v)).
    def mean_kernel(m, v, h=1.0):
        return math.sqrt(h**2 / (h**2 + v)) * math.exp(-(m**2) / (2 * (h**2 + v)))

    exact = 2 * mean_kernel(0, 2) - 2 * mean_kernel(1.5, 2)
    pairs = [(normal(200, 1, generator), normal(200, 1, generator) + 1.5) for _ in range(50)]
    values = torch.tensor([mmd(x, y, 1.0) for x, y in pairs])
    error = 4 * values.std().item() / math.sqrt(50)
    assert error < 0.03
    assert values.mean().item() == pytest.approx(exact, abs=error)
    assert values.mean().item() != pytest.approx(exact / 2, abs=error)


def test_mmd_of_bad_input():
    x = torch.zeros(3, 2)
    assert mmd(x, x) == 0  # all distances are zero, and so is their median
    with pytest.raises(ValueError, match="at least 2 samples of each, got 3 and 1"):
        mmd(x, x[:1])
    with pytest.raises(ValueError, match="bandwidth=0 must be positive"):
        mmd(x, x, 0)


def test_w2_floor_of_25gmm_is_the_known_one():
    # 1.20 +- 0.13 for 2000 against 2000 (computed independently), here the mean of three.
    assert w2_floor(gl.gmm25, 2000) == pytest.approx(1.20, abs=4 * 0.13 / math.sqrt(3))


@pytest.mark.parametrize("distance, floor", [(w2, w2_floor), (sinkhorn, sinkhorn_floor),
                                             (mmd, mmd_floor)])  # fmt: skip
def test_exact_samples_are_at_the_floor_and_a_lost_mode_is_above(distance, floor, generator):
    n = 1000
    exact, other = gl.gmm9.sample(2 * n, generator), gl.gmm9.sample(n, generator)
    lost = exact[gl.gmm9.modes_of(exact)[:, 0] == 0][:n]
    floor = floor(gl.gmm9, n)
    # For mmd the floor is the size of noise about zero, for the others a mean with little of it.
    assert distance(exact[:n], other) < (4 if distance is mmd else 1.5) * floor
    assert distance(lost, other) > (4 if distance is mmd else 1.5) * floor


def test_floors_are_remembered_for_equal_targets_and_not_across_targets(monkeypatch):
    first = w2_floor(gl.gmm9, 100)

    def never(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(distances, "_mean", never)
    assert w2_floor(gl.gmm9.to("cpu"), 100) == first
    with pytest.raises(AssertionError, match="computed again"):
        w2_floor(gl.gmm25, 100)


@pytest.mark.parametrize(
    "floor", [distances.w2_floor, distances.sinkhorn_floor, distances.mmd_floor]
)
def test_a_floor_needs_exact_samples(floor):
    with pytest.raises(ValueError, match="target 'bowl\\(x\\)' has no exact samples"):
        floor(gl.targets.as_target(bowl, 2), 100)


def bowl(x):
    return x.square().sum(-1)
