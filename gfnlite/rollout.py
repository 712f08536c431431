"""The two-phase step: simulate trajectories without gradient, then differentiate all at once.

Balance objectives do not differentiate through the simulated states. So phase 1 walks T small
steps with no graph, and phase 2 passes all T x B transitions through the networks in a few large
batches, with the gradient that the objective sends back to each transition's log-densities.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .cpu import large_matmuls
from .energy import Target, given
from .nets import Context, Policy, StateNet
from .process import Steps, log_ratio, ratio_slope
from .trajectory import Trajectory

__all__ = ["backward_rollout", "forward_rollout", "gradient"]

# Time steps in one chunk of phase 2 on a CPU: its activations then stay in cache.
CPU_CHUNK = 20


def forward_rollout(
    policy: Policy,
    process,
    target: Target,
    t: Tensor,
    batch_size: int,
    condition: Tensor | None = None,
    exploration: float = 0.0,
    generator: torch.Generator | None = None,
    differentiable: bool = False,
    forward_looking: bool = False,
) -> Trajectory:
    """Generate `batch_size` trajectories by P_F on the times t (T + 1,), a CPU tensor.

    `exploration` is variance added per unit of the reference's own (per unit time, if pinned) to
    the sampling noise alone: the densities in log w stay those of P_F itself, which is what makes
    the trajectories off-policy. `differentiable` keeps the graph through states and energy, as
    reverse KL needs it.
    """
    device = policy.forward_net.state.weight.device
    steps, sigma2 = process.steps(t, device), process.sigma2
    x = process.start((batch_size, policy.dim), device, generator)
    noise = torch.randn((len(steps), *x.shape), generator=generator, device=device)
    std = ((sigma2 + exploration) * steps.h).sqrt()[:, None, None]
    states, drifts, log_variances, scores = [x], [], [], []
    log_proposal = 0.0
    with torch.set_grad_enabled(differentiable):
        context = policy.context(policy.forward_net, steps.t[:-1], steps.h, condition)
        for i in range(len(steps)):
            score = None
            if policy.langevin is not None:
                score = target.score(x, *given(condition))
                scores.append(score)
            u, s = policy.forward_kernel(x, context.at(i), score)
            if s is None:
                eps = std[i] * noise[i]
            else:
                variance, added = (sigma2 * steps.h[i]) * s.exp(), exploration * steps.h[i]
                eps = (variance + added).sqrt() * noise[i]
                log_variances.append(s)
                if exploration:
                    log_proposal = log_proposal + _proposal(noise[i], 1 + added / variance)
            x = torch.addcmul(torch.addcmul(eps, x, steps.a[i]), u, steps.h[i])
            states.append(x)
            drifts.append(u)
        if exploration and not log_variances:
            ratio = torch.full((policy.dim,), 1 + exploration / sigma2, device=device)
            log_proposal = _proposal(noise, ratio).sum(0)
        x, u = torch.stack(states), torch.stack(drifts)
        s = torch.stack(log_variances) if log_variances else None
        score = torch.stack(scores) if scores else None
        moved = x[1:] - steps.a[:, None, None] * x[:-1]
        ratio_pf = log_ratio(moved, steps.h, sigma2, u, s)
        return _trajectory(
            policy, process, target, steps, x, ratio_pf, score, condition, forward_looking,
            log_proposal,
        )  # fmt: skip


def _proposal(noise: Tensor, ratio: Tensor) -> Tensor:
    """log N(sqrt(r) e; 0, r) - log N(sqrt(r) e; 0, 1), summed over the d coordinates of e."""
    return 0.5 * (noise.square() * (ratio - 1) - ratio.log()).sum(-1)


@torch.no_grad()
def backward_rollout(
    policy: Policy,
    process,
    target: Target,
    t: Tensor,
    x1: Tensor,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
    forward_looking: bool = False,
    log_reward: Tensor | None = None,
) -> Trajectory:
    """Destroy the points `x1` (B, d) by P_B, and weigh the trajectories as if P_F had made them.

    `log_reward` (B,) spares the energy calls at `x1` where it is known.
    """
    steps, sigma2 = process.steps(t, x1.device), process.sigma2
    noise = torch.randn((len(steps), *x1.shape), generator=generator, device=x1.device)
    noise *= (sigma2 * steps.g).sqrt()[:, None, None]
    net, x, states = policy.backward_net, x1, [x1]
    context = None if net is None else policy.context(net, steps.t[1:], steps.g, condition)
    for i in reversed(range(len(steps))):
        eps, back = noise[i], x
        if net is not None and (i > 0 or not process.pinned):
            v, s = policy.backward_kernel(x, context.at(i))
            eps = torch.addcmul((0.5 * s).exp() * eps, v, steps.g[i])
        x = torch.addcmul(eps, back, steps.b[i])
        states.append(x)
    x = torch.stack(states[::-1])
    score = None
    if policy.langevin is not None:
        score = _at_all(target.score, x[:-1], condition)
    context = policy.context(policy.forward_net, steps.t[:-1], steps.h, condition)
    moved = x[1:] - steps.a[:, None, None] * x[:-1]
    ratios = []
    with large_matmuls():
        for where in _chunks(steps):
            scores = None if score is None else score[where]
            kernel = policy.forward_kernel(x[:-1][where], context.at(where), scores)
            ratios.append(log_ratio(moved[where], steps.h[where], sigma2, *kernel))
        return _trajectory(
            policy, process, target, steps, x, torch.cat(ratios), score, condition,
            forward_looking, log_reward=log_reward,
        )  # fmt: skip


def _trajectory(
    policy, process, target, steps, x, ratio_pf, score, condition, forward_looking,
    log_proposal=0.0, log_reward=None,
) -> Trajectory:  # fmt: skip
    """The record of the states x: what both rollouts still have to compute."""
    end, calls = x[-1], 0 if score is None else score[..., 0].numel()
    if log_reward is None:
        # A copy, since a user's energy may change what it is given.
        log_reward, calls = target.log_reward(end.clone(), *given(condition)), calls + len(end)
    log_terminal = log_reward - process.log_marginal(end[None], steps.t[-1:])[0]
    ratio_pb = torch.zeros_like(ratio_pf)
    if policy.backward_net is not None:
        context = policy.context(policy.backward_net, steps.t[1:], steps.g, condition)
        moved = x[:-1] - steps.b[:, None, None] * x[1:]
        first, ratios = int(process.pinned), [ratio_pb[: int(process.pinned)]]
        for where in _chunks(steps, first):
            kernel = policy.backward_kernel(x[1:][where], context.at(where))
            ratios.append(log_ratio(moved[where], steps.g[where], process.sigma2, *kernel))
        ratio_pb = torch.cat(ratios)
    flow = None
    if policy.flow_net is not None:
        context = policy.context(policy.flow_net, steps.t[:-1], steps.h, condition)
        parts = [policy.flow(x[where], context.at(where)) for where in _chunks(steps, 1)]
        flow = torch.cat(parts) if parts else x.new_zeros((0, x.shape[1]))
        if forward_looking and parts:  # t log R + (1 - t) log reference, over the reference
            log_r = _at_all(target.log_reward, x[1:-1], condition)
            inner, calls = steps.t[1:-1], calls + log_r.numel()
            flow = flow + inner[:, None] * (log_r - process.log_marginal(x[1:-1], inner))
    return Trajectory(
        process, steps, x, log_reward, log_terminal, policy.log_z(condition), ratio_pf, ratio_pb,
        flow, score, condition, log_proposal, calls,
    )  # fmt: skip


def _at_all(function: Callable, x: Tensor, condition: Tensor | None) -> Tensor:
    """`function` at all states x (n, B, d) in one call, as (n, B) or (n, B, d)."""
    flat = x.reshape(-1, x.shape[-1])
    if condition is not None:
        condition = condition.expand(len(x), -1, -1).reshape(len(flat), -1)
    values = function(flat, *given(condition))
    return values.view(*x.shape[:2], *values.shape[1:])


def gradient(policy: Policy, trajectory: Trajectory, objective: Callable) -> Tensor:
    """Phase 2: add the gradient of objective(trajectory) to that of the parameters; the loss ().

    The states are constants, so the loss depends on the networks through the ratios and the flow
    alone: their cotangents are found first, and are then pulled back chunk by chunk.
    """
    tr = trajectory
    for leaf in (tr.ratio_pf, tr.ratio_pb, tr.flow):
        if leaf is not None:
            leaf.requires_grad_()
    tr.log_z = policy.log_z(tr.condition)
    loss = objective(tr)
    loss.backward()
    moved = tr.x[1:] - tr.steps.a[:, None, None] * tr.x[:-1]
    sigma2, steps = tr.process.sigma2, tr.steps

    def forward(where, context):
        score = None if tr.score is None else tr.score[where]
        kernel = policy.forward_kernel(tr.x[:-1][where], context, score)
        return kernel, ratio_slope(moved[where], steps.h[where], sigma2, *_values(kernel))

    def backward(where, context):
        kernel = policy.backward_kernel(tr.x[1:][where], context)
        back = tr.x[:-1][where] - steps.b[where, None, None] * tr.x[1:][where]
        return kernel, ratio_slope(back, steps.g[where], sigma2, *_values(kernel))

    def flow(where, context):
        return (policy.flow(tr.x[where], context)[..., None],), (1.0,)

    def pull(
        net: StateNet, t: Tensor, length: Tensor, cotangent: Tensor, first: int, call: Callable
    ) -> None:
        context = policy.context(net, t, length, tr.condition)  # one graph for grid and batch;
        cut = Context(*(v.detach().requires_grad_() if _grows(v) else v for v in context))
        with large_matmuls():  # ... the chunks meet at its cut
            for where in _chunks(steps, first):
                outputs, slopes = call(where, cut.at(where))
                weight = cotangent[where, :, None]
                used = [(o, slope * weight) for o, slope in zip(outputs, slopes, strict=False)]
                torch.autograd.backward(*map(list, zip(*used, strict=True)))
        used = [(v, leaf.grad) for v, leaf in zip(context, cut, strict=True) if _grows(v)]
        if first < len(steps):  # there was a chunk
            torch.autograd.backward(*map(list, zip(*used, strict=True)))

    pull(policy.forward_net, tr.t[:-1], steps.h, tr.ratio_pf.grad, 0, forward)
    if policy.backward_net is not None and tr.ratio_pb.grad is not None:
        first = int(tr.process.pinned)
        pull(policy.backward_net, tr.t[1:], steps.g, tr.ratio_pb.grad, first, backward)
    if policy.flow_net is not None and tr.flow.grad is not None and len(tr.flow):
        cotangent = torch.cat((tr.flow.grad[:1], tr.flow.grad))  # nothing flows at the start
        pull(policy.flow_net, tr.t[:-1], steps.h, cotangent, 1, flow)
    return loss.detach()


def _grows(value: Tensor | None) -> bool:
    return value is not None and value.requires_grad


def _values(kernel: tuple) -> tuple:
    return tuple(part if part is None else part.detach() for part in kernel)


def _chunks(steps: Steps, first: int = 0) -> Iterator[slice]:
    """Ranges of transitions from `first` on, in the size that suits the device."""
    size = CPU_CHUNK if steps.t.device.type == "cpu" else len(steps)
    for start in range(first, len(steps), size):
        yield slice(start, min(start + size, len(steps)))
