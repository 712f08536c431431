"""The two kernels, the telescoped log-weight, and the target whose optimal drift is known."""

import dataclasses
import math

import pytest
import torch

import gfnlite as gl
from gfnlite.rollout import backward_rollout, forward_rollout

GRIDS = ["uniform", "random"]


class ConstantDrift(gl.DriftNet):
    """u(x, t) = m everywhere."""

    def __init__(self, drift):
        super().__init__(len(drift), hidden=4)
        with torch.no_grad():
            self.out.bias.copy_(torch.tensor(drift))


def random_net(dim, seed=0):
    torch.manual_seed(seed)
    net = gl.DriftNet(dim, hidden=16)
    torch.nn.init.normal_(net.out.weight, std=0.5)
    return net


def both_ways(net, process, target, t, n=2000, **noise):
    """Log-weights of generated and of destroyed trajectories."""
    generator = torch.Generator().manual_seed(0)
    forward = forward_rollout(net, process, target, t, n, generator=generator, **noise)
    exact = target.sample(n, generator)
    return forward, backward_rollout(net, process, target, t, exact, generator)


@pytest.mark.parametrize("exploration", [0.0, 3.0])
@pytest.mark.parametrize("kind", GRIDS)
def test_optimal_kernels_of_a_gaussian_give_constant_log_weights(kind, exploration, generator):
    # Target N(m, s^2) with s = sigma: the optimal kernel from t to t' has mean x + (t' - t) m and
    # variance sigma^2 (t' - t), so the drift u = m is exact on every grid, for every trajectory.
    mean, sigma, log_z = [1.5, -2.0, 0.3], 1.7, 4.2
    target = gl.Gaussian(mean, sigma, log_z)
    process, t = gl.PinnedBrownian(sigma**2), gl.time_grid(20, kind, generator)
    for trajectory in both_ways(ConstantDrift(mean), process, target, t, exploration=exploration):
        torch.testing.assert_close(
            trajectory.log_weight, torch.full((2000,), log_z), rtol=0, atol=2e-4
        )
        assert gl.tb(trajectory, torch.tensor(log_z)).item() < 1e-8
        assert gl.vargrad(trajectory).item() < 1e-8
        assert gl.log_z_is(trajectory.log_weight) == pytest.approx(log_z, abs=1e-4)
        assert gl.ess(trajectory.log_weight) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("change", ["drift", "variance"])
def test_kernels_that_are_not_optimal_do_not(change):
    target = gl.Gaussian([1.5], 1.7, 4.2)
    net = ConstantDrift([1.4 if change == "drift" else 1.5])
    process = gl.PinnedBrownian(1.7**2 * (1.05 if change == "variance" else 1))
    for trajectory in both_ways(net, process, target, gl.time_grid(20)):
        assert trajectory.log_weight.std() > 0.02
        assert gl.tb(trajectory, torch.tensor(4.2)).item() > 1e-4


@pytest.mark.parametrize("kind", GRIDS)
def test_telescoped_log_weight_equals_the_densities(kind, generator):
    target, process = gl.ManyWell(4), gl.PinnedBrownian(1.3)
    t = gl.time_grid(30, kind, generator)
    for trajectory in both_ways(random_net(4), process, target, t, n=300, exploration=2.0):
        plain = trajectory.log_reward + trajectory.log_pb.sum(0) - trajectory.log_pf.sum(0)
        torch.testing.assert_close(trajectory.log_weight, plain, rtol=1e-5, atol=2e-3)
        assert (trajectory.log_pb[0] == 0).all()
        # The twin: another bridge is not the one that telescopes.
        other = dataclasses.replace(trajectory, process=gl.PinnedBrownian(1.5))
        wrong = other.log_reward + other.log_pb.sum(0) - trajectory.log_pf.sum(0)
        assert (wrong - trajectory.log_weight).abs().median() > 0.1


def test_forward_path_rescored_backward_has_the_same_log_weight(oracle, generator):
    target, process, t = gl.gmm9, gl.PinnedBrownian(5.0), gl.time_grid(40)
    net = random_net(2)
    forward = forward_rollout(net, process, target, t, 200, 4.0, generator)

    def u(x, time):
        return net(x, net.embed(torch.tensor([time])))

    # The bridge noise that walks the very same states back from x_1 to the origin.
    back, dt = (t[:-1] / t[1:])[:, None, None], 1 / 40
    noise = (forward.x[:-1] - back * forward.x[1:]) / (5.0 * dt * back).sqrt()
    noise[0] = 0
    with torch.no_grad():
        backward = oracle.destroy(u, target.log_reward, forward.x[-1], noise, 5.0)
        assert not torch.allclose(
            oracle.destroy(u, target.log_reward, forward.x[-1], noise, 5.5),
            forward.log_weight, atol=0.1,
        )  # fmt: skip
    torch.testing.assert_close(backward, forward.log_weight, rtol=1e-5, atol=2e-3)


def bridge_fits(sigma2, t, n=4000, d=3):
    """Whether bridges of variance 2 have the marginals and steps of one of variance sigma2."""
    x1 = torch.tensor([1.0, -2.0, 3.0]).expand(n, d)
    x = gl.PinnedBrownian(2.0).bridge(x1, t, torch.Generator().manual_seed(3))
    assert (x[0] == 0).all() and torch.equal(x[-1], x1)
    inner, count = t[1:-1, None, None], n * d
    z = (x[1:-1] - inner * x1) / (sigma2 * inner * (1 - inner)).sqrt()
    back = (t[:-1] / t[1:])[1:, None, None]
    step = (x[1:-1] - back * x[2:]) / (sigma2 * back * t.diff()[1:, None, None]).sqrt()
    # 4.5 standard errors of a mean (1 / sqrt(count)) and of a variance (sqrt(2 / count)).
    means = max(v.mean((1, 2)).abs().max().item() for v in (z, step))
    variances = max((v.square().mean((1, 2)) - 1).abs().max().item() for v in (z, step))
    return means < 4.5 / math.sqrt(count) and variances < 4.5 * math.sqrt(2 / count)


@pytest.mark.parametrize("kind", GRIDS)
def test_bridge_has_its_marginals_and_its_steps(kind, generator):
    t = gl.time_grid(12, kind, generator)
    assert bridge_fits(2.0, t)
    assert not bridge_fits(2.2, t)


def test_exploration_adds_its_variance_for_every_number_of_steps(generator):
    n = 20_000
    for steps in (5, 50):
        trajectory = forward_rollout(
            ConstantDrift([0.0]), gl.PinnedBrownian(1.0), gl.Gaussian([0.0]),
            gl.time_grid(steps), n, 3.0, generator,
        )  # fmt: skip
        assert trajectory.x[-1].var().item() == pytest.approx(4, abs=4.5 * 4 * math.sqrt(2 / n))


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("steps", [1, 2, 20, 100])
def test_time_grids_run_from_0_to_1(kind, steps, generator):
    t = gl.time_grid(steps, kind, generator)
    assert len(t) == steps + 1 and t[0] == 0 and t[-1] == 1
    assert t.diff().min() >= 0.099 / steps and t.diff().max() <= 1.901 / steps
    assert (kind == "random" and steps > 1) != torch.equal(t, gl.time_grid(steps))
