"""The two-phase step: simulate trajectories without gradient, then differentiate all at once.

Balance objectives do not differentiate through the simulated states. So phase 1 walks T small
steps with no graph, and keeps what the networks computed on its way; phase 2 starts from the
gradient that the objective sends back to each transition's log-densities, and pulls it back
through all T x B transitions in a few large products.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .arguments import floats, shown
from .checks import given
from .config import integer
from .cpu import large_matmuls
from .energy import Target
from .policy import Policy
from .process import Steps, normal
from .terms import BackwardTerm, FlowTerm, ForwardTerm
from .trajectory import Trajectory

__all__ = ["backward_rollout", "forward_rollout", "gradient", "rollout"]

Generators = torch.Generator | Sequence[torch.Generator] | None  # one, or one for each run


def rollout(
    policy: Policy, process, target: Target, t: Tensor | Steps, batch_size: int | None,
    x1: Tensor | None, **options,
) -> Trajectory:  # fmt: skip
    """`forward_rollout`, or `backward_rollout` where the ends `x1` are given.

    Raises:
        ValueError: if the times, the number of trajectories or the ends cannot be used.
    """
    if not isinstance(t, Steps):
        t = floats("t", t)
        if t.ndim != 1 or len(t) < 2 or t[0] != 0 or t[-1] != 1 or not (t.diff() > 0).all():
            raise ValueError(f"t={shown(t)} must be times (T + 1,) that rise from 0 to 1")
    if x1 is None:
        integer("batch_size", batch_size, 1)
        return forward_rollout(policy, process, target, t, batch_size, **options)
    x1 = floats("x", x1, policy.forward_net.state.weight.device)
    if x1.ndim != 2 or x1.shape[1] != policy.dim or not len(x1):
        raise ValueError(f"x must be (B, {policy.dim}) with B >= 1, got {tuple(x1.shape)}")
    return backward_rollout(policy, process, target, t, x1, **options)


def forward_rollout(
    policy: Policy,
    process,
    target: Target,
    t: Tensor | Steps,
    batch_size: int,
    condition: Tensor | None = None,
    exploration: float | Tensor = 0.0,
    generator: Generators = None,
    differentiable: bool = False,
    forward_looking: bool = False,
    record: bool = False,
    repeats: int = 1,
    detach_score: bool = False,
) -> Trajectory:
    """Generate `batch_size` trajectories of each run by P_F on the times t (T + 1,).

    These are a CPU tensor, or the process's `Steps` where they are at hand.
    `exploration` is variance added per unit of the reference's own (per unit time, if pinned) to
    the sampling noise alone: the densities in log w stay those of P_F itself, which is what makes
    the trajectories off-policy. `record` keeps what `gradient` would have to compute again;
    `differentiable` keeps the graph through states and energy, as reverse KL needs it, and, unless
    `detach_score`, through the score in the drift. Of the conditions (S B, c) `repeats` neighbours
    each are the same, and are encoded once.
    """
    device, rows = policy.forward_net.state.weight.device, policy.runs * batch_size
    steps = t if isinstance(t, Steps) else process.steps(t, device)
    sigma2, explores = process.sigma2, isinstance(exploration, Tensor) or exploration > 0
    x = process.start((1, rows, policy.dim), device, generator)
    noise = normal((len(steps), rows, policy.dim), device, generator)
    log_proposal, learned = 0.0, policy.learns_variance
    if not learned:
        if explores:
            ratio = torch.as_tensor(1 + exploration / sigma2, device=device)
            log_proposal = _proposal(noise, ratio)
        noise *= ((sigma2 + exploration) * steps.h).sqrt()[:, None, None]
    term = ForwardTerm(policy, process, steps, condition, repeats)
    contexts, rooms = term.context().split(), [None] * len(steps)
    if record:
        rooms = term.rooms(rows)
    states, moves, kernels, scores = [x], [], [], []
    into = [(None, None)] * len(steps)
    if not differentiable:  # each move overwrites the noise that it came from
        path = x.new_empty((len(steps) + 1, *x.shape[1:]))
        path[0] = x
        into = list(zip(noise.split(1), path[1:].split(1), strict=True))
    with torch.set_grad_enabled(differentiable), large_matmuls(rows, device):
        for i, (a, h) in enumerate(zip(steps.a, steps.h, strict=True)):
            score, step = None, noise[i : i + 1]
            if policy.langevin is not None:
                place = x[0].detach() if detach_score else x[0]
                score = target.score(place, *given(condition))[None]
                scores.append(score)
            u, *s = policy.forward_head(policy.step(x, contexts[i], rooms[i]), contexts[i], score)
            if learned:
                variance, added = (sigma2 * h) * s[0].exp(), exploration * h
                if explores:
                    log_proposal = log_proposal + _proposal(step, 1 + added / variance)
                step = (variance + added).sqrt() * step
            moves.append(torch.addcmul(step, u, h, out=into[i][0]))
            x = torch.addcmul(moves[-1], x, a, out=into[i][1])
            states.append(x)
            kernels.append((u, *s))
        x, moved = map(torch.cat, (states, moves)) if differentiable else (path, noise)
        term.at(x, torch.cat(scores) if scores else None, moved)
        # In a graph the derivative of each slice would be as large as the whole.
        chunks = [slice(None)] if differentiable else term.chunks(rows)
        ratio_pf = torch.cat([
            term.value([torch.cat(parts) for parts in zip(*kernels[where], strict=True)], where)
            for where in chunks
        ])  # fmt: skip
        return _trajectory(term, x, ratio_pf, target, forward_looking, record, log_proposal)


def _proposal(noise: Tensor, ratio: Tensor) -> Tensor:
    """log N(sqrt(r) e; 0, r) - log N(sqrt(r) e; 0, 1) of all noise e (n, S B, d): (S B,)."""
    if ratio.ndim == 0:
        n, _, d = noise.shape
        square = torch.linalg.vector_norm(noise, dim=2).square().sum(0)
        return 0.5 * ((ratio - 1) * square - n * d * ratio.log())
    return 0.5 * (noise.square() * (ratio - 1) - ratio.log()).sum((0, 2))


def backward_rollout(
    policy: Policy,
    process,
    target: Target,
    t: Tensor | Steps,
    x1: Tensor,
    condition: Tensor | None = None,
    generator: Generators = None,
    differentiable: bool = False,
    forward_looking: bool = False,
    log_reward: Tensor | None = None,
    record: bool = False,
    repeats: int = 1,
) -> Trajectory:
    """Destroy the points `x1` (S B, d) by P_B, and weigh the trajectories as if P_F had made them.

    `log_reward` (S B,) spares the energy calls at `x1` where it is known; `differentiable` keeps
    the graph through the states, as maximum likelihood needs it to learn P_B; `record` and
    `repeats` as above.
    """
    steps, sigma2 = t if isinstance(t, Steps) else process.steps(t, x1.device), process.sigma2
    eps = normal((len(steps), *x1.shape), x1.device, generator)
    eps *= (sigma2 * steps.g).sqrt()[:, None, None]
    x, states, context = x1[None], [x1[None]], None
    with torch.set_grad_enabled(differentiable):
        if policy.backward_net is not None:
            context = BackwardTerm(policy, process, steps, condition, repeats).context()
        for i in reversed(range(len(steps))):
            step, back = eps[i], x
            if context is not None and (i > 0 or not process.pinned):
                at = context.at(slice(i, i + 1))
                v, s = policy.backward_head(policy.step(x, at), at)
                step = torch.addcmul((0.5 * s).exp() * step, v, steps.g[i])
            x = torch.addcmul(step, back, steps.b[i])
            states.append(x)
        x = torch.cat(states[::-1])
        score = None
        if policy.langevin is not None:
            score = _at_all(target.score, x[:-1], condition)
        term = ForwardTerm(policy, process, steps, condition, repeats).at(x, score)
        return _trajectory(
            term, x, term.evaluate(record), target, forward_looking, record, log_reward=log_reward
        )


def _trajectory(
    term: ForwardTerm, x: Tensor, ratio_pf: Tensor, target: Target, forward_looking: bool,
    record: bool, log_proposal: Tensor | float = 0.0, log_reward: Tensor | None = None,
) -> Trajectory:  # fmt: skip
    """The record of the states x: what both rollouts still have to compute."""
    policy, process, steps, condition = term.policy, term.process, term.steps, term.condition
    parts, terms = (policy, process, steps, condition, term.repeats), [term]
    end, calls = x[-1], 0 if term.score is None else term.score[..., 0].numel()
    if log_reward is None:
        # A copy, since a user's energy may change what it is given.
        log_reward, calls = target.log_reward(end.clone(), *given(condition)), calls + len(end)
    log_terminal = log_reward - process.log_marginal(end[None], steps.t[-1:])[0]
    ratio_pb, flow = torch.zeros_like(ratio_pf), None
    if policy.backward_net is not None:
        terms.append(BackwardTerm(*parts).at(x))
        ratio_pb = torch.cat((ratio_pb[: terms[-1].first], terms[-1].evaluate(record)))
    if policy.flow_net is not None:
        terms.append(FlowTerm(*parts).at(x))
        flow = terms[-1].evaluate(record)
        if forward_looking and len(flow):  # t log R + (1 - t) log reference, over the reference
            log_r = _at_all(target.log_reward, x[1:-1], condition)
            inner, calls = steps.t[1:-1], calls + log_r.numel()
            flow = flow + inner[:, None] * (log_r - process.log_marginal(x[1:-1], inner))
    log_z = _log_z(policy, x, condition, term.repeats)
    return Trajectory(
        process, steps, x, log_reward, log_terminal, log_z, ratio_pf, ratio_pb, flow, term.score,
        condition, log_proposal, calls, term.repeats, policy.runs, terms,
    )  # fmt: skip


def _log_z(policy: Policy, x: Tensor, condition: Tensor | None, repeats: int) -> Tensor:
    """log Z_theta of each trajectory x (T + 1, S B, d): (S B,)."""
    if condition is not None:
        return policy.log_z(condition, repeats)
    return policy.log_z().repeat_interleave(x.shape[1] // policy.runs)


def _at_all(function: Callable, x: Tensor, condition: Tensor | None) -> Tensor:
    """`function` at all states x (n, B, d) in one call, as (n, B) or (n, B, d)."""
    rows = x.reshape(-1, x.shape[-1])
    if condition is not None:
        condition = condition.expand(len(x), -1, -1).reshape(len(rows), -1)
    values = function(rows, *given(condition))
    return values.view(*x.shape[:2], *values.shape[1:])


def gradient(policy: Policy, trajectory: Trajectory, objective: Callable) -> Tensor:
    """Phase 2: add the gradients of the runs' losses to those of the parameters; the losses (S,).

    The states are constants, so a loss depends on the networks through the ratios, the flow and
    log Z_theta alone: their cotangents are found first, and then pulled back term by term.
    """
    fields = {term.name: getattr(trajectory, term.name) for term in trajectory.terms}
    for leaf in fields.values():
        leaf.requires_grad_().grad = None  # of an earlier call
    condition, repeats = trajectory.condition, trajectory.repeats
    trajectory.log_z = _log_z(policy, trajectory.x, condition, repeats)
    losses = torch.stack([objective(run) for run in trajectory.split()])
    losses.sum().backward()
    for term in trajectory.terms:
        cotangent = fields[term.name].grad
        if cotangent is not None and len(cotangent):
            term.pull(cotangent)
    return losses.detach()
