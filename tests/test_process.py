"""Reference processes, both kernels, and the log-weight that is left of them."""

import dataclasses
import math

import pytest
import torch

import gfnlite as gl

GRIDS = ["uniform", "random", "cosine"]
PROCESSES = {
    "pinned": gl.process.PinnedBrownian(1.3),
    "linear": gl.process.VariancePreserving(1.3),
    "cosine": gl.process.VariancePreserving(1.3, "cosine"),
}
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


def constant_drift(drift):
    """A policy with u(x, t) = m everywhere."""
    policy = gl.policy.Policy(len(drift), hidden=4)
    with torch.no_grad():
        policy.forward_net.out.bias.copy_(torch.tensor(drift))
    return policy


def random_policy(dim, seed=0, **parts):
    torch.manual_seed(seed)
    policy = gl.policy.Policy(dim, hidden=16, **parts)
    torch.nn.init.normal_(policy.forward_net.out.weight, std=0.5)
    if policy.backward_net is not None:
        torch.nn.init.normal_(policy.backward_net.out.weight, std=0.5)
    return policy


def both_ways(policy, process, target, t, n=2000, **noise):
    """Generated and destroyed trajectories."""
    generator = torch.Generator().manual_seed(0)
    forward = gl.rollout.forward_rollout(
        policy, process, target, t, n, generator=generator, **noise
    )
    exact = target.sample(n, generator)
    return forward, gl.rollout.backward_rollout(
        policy, process, target, t, exact, generator=generator
    )


@pytest.mark.equation("eq-03-gaussian")
@pytest.mark.parametrize("exploration", [0.0, 3.0])
@pytest.mark.parametrize("kind", GRIDS)
def test_optimal_kernels_of_a_gaussian_give_constant_log_weights(kind, exploration, generator):
    # Target N(m, s^2) with s = sigma: the optimal kernel from t to t' has mean x + (t' - t) m and
    # variance sigma^2 (t' - t), so the drift u = m is exact on every grid, for every trajectory.
    mean, sigma, log_z = [1.5, -2.0, 0.3], 1.7, 4.2
    target = gl.Gaussian(mean, sigma, log_z)
    process, t = gl.process.PinnedBrownian(sigma**2), gl.time_grid(20, kind, generator)
    for trajectory in both_ways(constant_drift(mean), process, target, t, exploration=exploration):
        torch.testing.assert_close(
            trajectory.log_weight, torch.full((2000,), log_z), rtol=0, atol=2e-4
        )
        trajectory.log_z = torch.tensor(log_z)
        assert gl.objectives.tb(trajectory).item() < 1e-8
        assert gl.objectives.vargrad(trajectory).item() < 1e-8
        assert gl.log_z_is(trajectory.log_weight) == pytest.approx(log_z, abs=1e-4)
        assert gl.ess(trajectory.log_weight) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("change", ["drift", "variance"])
def test_kernels_that_are_not_optimal_do_not(change):
    target = gl.Gaussian([1.5], 1.7, 4.2)
    policy = constant_drift([1.4 if change == "drift" else 1.5])
    process = gl.process.PinnedBrownian(1.7**2 * (1.05 if change == "variance" else 1))
    for trajectory in both_ways(policy, process, target, gl.time_grid(20)):
        assert trajectory.log_weight.std() > 0.02
        trajectory.log_z = torch.tensor(4.2)
        assert gl.objectives.tb(trajectory).item() > 1e-4


PARTS = {
    "fixed": {},
    "langevin": {"langevin": True},
    "variance": {"learn_variance": True},
    "backward": {"learn_backward": True},
}


@pytest.mark.equation("eq-log-weight", "eq-03-logw-rd")
@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
@every_process
@pytest.mark.parametrize("kind", GRIDS)
def test_log_weight_equals_that_of_the_densities(kind, process, parts, generator):
    target, t = gl.ManyWell(4), gl.time_grid(30, kind, generator)
    policy = random_policy(4, **parts)
    for trajectory in both_ways(policy, process, target, t, n=300, exploration=2.0):
        plain = trajectory.log_reward + trajectory.log_pb.sum(0) - trajectory.log_pf.sum(0)
        plain = plain - trajectory.log_p0
        torch.testing.assert_close(trajectory.log_weight, plain, rtol=1e-5, atol=4e-3)
        if process.pinned:
            assert (trajectory.log_pb[0] == 0).all() and (trajectory.log_p0 == 0).all()
        # The twin: the kernels of another variance do not cancel.
        other = dataclasses.replace(process, sigma2=1.5)
        wrong = dataclasses.replace(trajectory, process=other)
        wrong = wrong.log_reward + wrong.log_pb.sum(0) - trajectory.log_pf.sum(0)
        assert (wrong - trajectory.log_weight).abs().median() > 0.1


def test_forward_path_rescored_backward_has_the_same_log_weight(oracle, generator):
    target, process, t = gl.gmm9, gl.process.PinnedBrownian(5.0), gl.time_grid(40)
    policy = random_policy(2)
    forward = gl.rollout.forward_rollout(
        policy, process, target, t, 200, exploration=4.0, generator=generator
    )

    def u(x, time):
        context = policy.context(policy.forward_net, torch.tensor([time]), torch.ones(1), None)
        return policy.forward_kernel(x[None], context)[0][0]

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


def looks_standard_normal(z):
    """Whether each time's values z (n, ...) have mean 0 and variance 1, to 4.5 standard errors."""
    count = z[0].numel()
    mean, variance = z.flatten(1).mean(1), z.flatten(1).square().mean(1)
    return bool(
        (mean.abs() < 4.5 / math.sqrt(count)).all()
        and ((variance - 1).abs() < 4.5 * math.sqrt(2 / count)).all()
    )


def bridge_fits(sigma2, t, n=4000, d=3):
    """Whether bridges of variance 2 have the marginals and steps of one of variance sigma2."""
    x1 = torch.tensor([1.0, -2.0, 3.0]).expand(n, d)
    policy, generator = gl.policy.Policy(d, hidden=4), torch.Generator().manual_seed(3)
    process, target = gl.process.PinnedBrownian(2.0), gl.Gaussian([0.0] * d)
    x = gl.rollout.backward_rollout(policy, process, target, t, x1, generator=generator).x
    assert (x[0] == 0).all() and torch.equal(x[-1], x1)
    inner = t[1:-1, None, None]
    z = (x[1:-1] - inner * x1) / (sigma2 * inner * (1 - inner)).sqrt()
    back = (t[:-1] / t[1:])[1:, None, None]
    step = (x[1:-1] - back * x[2:]) / (sigma2 * back * t.diff()[1:, None, None]).sqrt()
    return looks_standard_normal(z) and looks_standard_normal(step)


@pytest.mark.equation("eq-kernels", "eq-01-destruction")
@pytest.mark.parametrize("kind", GRIDS)
def test_bridge_has_its_marginals_and_its_steps(kind, generator):
    t = gl.time_grid(12, kind, generator)
    assert bridge_fits(2.0, t)
    assert not bridge_fits(2.2, t)


@every_process
def test_without_drift_generation_has_the_marginals_that_destruction_assumes(process, generator):
    t, n = gl.time_grid(15), 6000
    policy = gl.policy.Policy(2, hidden=4)
    x = gl.rollout.forward_rollout(policy, process, gl.gmm9, t, n, generator=generator).x
    # log_marginal is that of N(0, V): read V off its value at the origin, V = exp(-2 l) / 2 pi.
    zero = torch.zeros(len(t), 1, 1)
    variance = (-2 * process.log_marginal(zero, t)).exp() / (2 * math.pi)
    first = int(process.pinned)
    z = x[first:] / variance[first:, :, None].sqrt()
    assert looks_standard_normal(z) and not looks_standard_normal(1.06 * z)
    assert process.pinned == bool((x[0] == 0).all())


@pytest.mark.parametrize("sigma2", [0.5, 1.0, 2.0])
def test_a_process_starts_at_a_point_or_in_its_stationary_law(sigma2, generator):
    shape = (4000, 3)
    assert (gl.process.PinnedBrownian(sigma2).start(shape, "cpu", generator) == 0).all()
    z = gl.process.VariancePreserving(sigma2).start(shape, "cpu", generator) / math.sqrt(sigma2)
    assert looks_standard_normal(z[None]) and not looks_standard_normal(1.06 * z[None])


def test_signal_left_at_the_noise_end_is_that_of_the_schedule():
    linear, cosine = PROCESSES["linear"], PROCESSES["cosine"]
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    # -log alpha_bar(s) = 0.1 s + 9.95 s^2, DDPM's betas of 1e-4 to 0.02 over 1000 steps;
    # alpha_bar(s) = cos(0.97 pi s / 2)^2.
    assert linear.log_alpha_bar(t).tolist() == pytest.approx([-10.05, -2.5375, 0])
    expected = [2 * math.log(math.cos(0.97 * s * math.pi / 2)) for s in (1, 0.5, 0)]
    assert cosine.log_alpha_bar(t).tolist() == pytest.approx(expected)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    assert torch.log1p(-betas).sum().item() == pytest.approx(-10.05, rel=0.01)
    for process in (linear, cosine):  # a step's scale is the ratio of the signals at its ends
        steps = process.steps(gl.time_grid(40))
        assert steps.a.log().sum().item() == pytest.approx(
            process.log_alpha_bar(t)[0].item() / 2, rel=1e-5
        )
        torch.testing.assert_close(steps.h, 1 - steps.a**2, rtol=1e-4, atol=1e-6)


def test_exploration_adds_its_variance_for_every_number_of_steps(generator):
    n = 20_000
    for steps in (5, 50):
        trajectory = gl.rollout.forward_rollout(
            constant_drift([0.0]), gl.process.PinnedBrownian(1.0), gl.Gaussian([0.0]),
            gl.time_grid(steps), n, exploration=3.0, generator=generator,
        )  # fmt: skip
        assert trajectory.x[-1].var().item() == pytest.approx(4, abs=4.5 * 4 * math.sqrt(2 / n))


@pytest.mark.parametrize("parts", [{}, {"learn_variance": True}])
def test_log_proposal_is_what_exploration_costs(parts, generator):
    policy, process = random_policy(2, **parts), gl.process.PinnedBrownian(1.3)
    tr = gl.rollout.forward_rollout(
        policy, process, gl.gmm9, gl.time_grid(8), 50, exploration=0.7, generator=generator
    )
    context = policy.context(policy.forward_net, tr.t[:-1], tr.steps.h, None)
    with torch.no_grad():
        u, *s = policy.forward_kernel(tr.x[:-1], context)
    variance = 1.3 * tr.steps.h[:, None, None] * (s[0].exp() if s else 1)
    drawn = torch.distributions.Normal(
        tr.x[:-1] + tr.steps.h[:, None, None] * u, (variance + 0.7 / 8).sqrt()
    )
    expected = drawn.log_prob(tr.x[1:]).sum((0, 2)) - tr.log_pf.sum(0)
    torch.testing.assert_close(tr.log_proposal, expected, rtol=1e-4, atol=2e-3)
    # Weights with it are those of the law that drew: their mean is Z, though it explored.
    assert tr.log_proposal.abs().mean() > 0.5


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("steps", [1, 2, 20, 100])
def test_time_grids_run_from_0_to_1(kind, steps, generator):
    t = gl.time_grid(steps, kind, generator)
    assert len(t) == steps + 1 and t[0] == 0 and t[-1] == 1
    assert t.diff().min() > 0
    if kind != "cosine":
        assert t.diff().min() >= 0.099 / steps and t.diff().max() <= 1.901 / steps
    elif steps > 1:
        assert (t.diff().diff() < 0).all()  # shorter and shorter
    assert (kind == "uniform" or steps == 1) == torch.equal(t, gl.time_grid(steps))


@pytest.mark.parametrize("steps", [0, -1, 2.0, True, None])
def test_a_time_grid_has_a_number_of_steps(steps):
    with pytest.raises(ValueError, match=f"steps={steps} must be a positive integer"):
        gl.time_grid(steps)
