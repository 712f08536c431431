"""The two-phase step: the same gradients as the plain sequential loop, and faster."""

import statistics
import time

import pytest
import torch

import gfnlite as gl
from gfnlite import objectives
from gfnlite.rollout import forward_rollout, pull_back

CASES = [
    (gl.gmm25, 5.0, 100, 0.0),
    (gl.gmm25, 5.0, 33, 16.0),
    (gl.ManyWell(8), 1.0, 20, 1.0),
    (gl.Gaussian([1.0]), 2.0, 1, 0.0),
]


def started_net(dim, hidden=64):
    torch.manual_seed(0)
    net = gl.DriftNet(dim, hidden)
    torch.nn.init.normal_(net.out.weight, std=0.3)
    return net


def two_phase(net, process, target, steps, batch, exploration, objective, log_z, sign=1):
    generator = torch.Generator().manual_seed(0)
    grid = gl.time_grid(steps)
    trajectory = forward_rollout(net, process, target, grid, batch, exploration, generator)
    trajectory.log_weight.requires_grad_()
    loss = getattr(objectives, objective)(trajectory, log_z)
    loss.backward()
    pull_back(net, trajectory, sign * trajectory.log_weight.grad)
    return trajectory, loss


def sequential(oracle, net, trajectory, target, sigma2, exploration, objective, log_z):
    """The same step on the same noise by the from-scratch loop, with its graph kept."""
    dt = trajectory.t.diff()[:, None, None]
    moved = trajectory.x.diff(dim=0) - trajectory.drift * dt
    noise = moved / ((sigma2 + exploration) * dt).sqrt()

    def u(x, t):
        return net(x, net.embed(torch.tensor([t])))

    _, log_weight = oracle.generate(u, target.log_reward, noise, sigma2, exploration)
    centre = log_weight.mean() if objective == "vargrad" else log_z
    loss = 0.5 * (centre - log_weight).square().mean()
    loss.backward()
    return log_weight, loss


def gradients(net, log_z):
    every = [p.grad for p in net.parameters()] + ([log_z.grad] if log_z.grad is not None else [])
    flat = torch.cat([g.flatten() for g in every]).clone()
    net.zero_grad()
    log_z.grad = None
    return flat


@pytest.mark.parametrize("objective", ["tb", "vargrad"])
@pytest.mark.parametrize("target, sigma2, steps, exploration", CASES)
def test_gradients_equal_the_sequential_loop(oracle, target, sigma2, steps, exploration, objective):
    net, log_z = started_net(target.dim), torch.nn.Parameter(torch.tensor(0.7))
    args = (net, gl.PinnedBrownian(sigma2), target, steps, 64, exploration, objective, log_z)
    trajectory, loss = two_phase(*args)
    fast = gradients(net, log_z)
    log_weight, plain_loss = sequential(
        oracle, net, trajectory, target, sigma2, exploration, objective, log_z
    )
    plain = gradients(net, log_z)
    size = plain.norm()
    assert size > 0
    assert (fast - plain).norm() <= 1e-5 * size
    torch.testing.assert_close(loss, plain_loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(trajectory.log_weight, log_weight, rtol=1e-4, atol=1e-3)
    # The twin: a step with the wrong sign is far from it.
    two_phase(*args, sign=-1)
    assert (gradients(net, log_z) - plain).norm() > 0.1 * size


def test_step_is_faster_than_the_sequential_loop(oracle, capsys):
    """At the paper's size: T = 100, batch 300, hidden 64, interleaved, one thread.

    The loop is the from-scratch one, with the package's network. Research code gives each row of
    the batch its own time, so the time network runs on all rows; the ratio to a loop that spares
    itself this is printed too.
    """
    steps, batch, sigma2 = 100, 300, 5.0
    net, log_z = started_net(2), torch.nn.Parameter(torch.zeros(()))
    process = gl.PinnedBrownian(sigma2)

    def fast():
        two_phase(net, process, gl.gmm25, steps, batch, 4.0, "tb", log_z)

    def plain(rows):
        noise = torch.randn(steps, batch, 2)

        def u(x, t):
            return net(x, net.embed(torch.full((rows,), t)))

        _, log_weight = oracle.generate(u, gl.gmm25.log_reward, noise, sigma2, 4.0)
        (0.5 * (log_z - log_weight).square().mean()).backward()

    rounds = {fast: [], lambda: plain(batch): [], lambda: plain(1): []}
    for _ in range(11):
        for step, seconds in rounds.items():
            started = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - started)
            net.zero_grad()
    ours, usual, spared = (statistics.median(seconds[1:]) for seconds in rounds.values())
    with capsys.disabled():
        print(
            f"\ntwo-phase step {ours * 1e3:.0f} ms: {usual / ours:.1f} x as fast as the sequential "
            f"loop ({spared / ours:.1f} x where its time network runs once a step)"
        )
    assert usual / ours >= 2.5
