"""Every objective x parametrisation: exact on a Gaussian, and its gradient by finite differences.

In float64, so that a wrong factor cannot hide in rounding.
"""

import math
from dataclasses import replace

import pytest
import torch

import gfnlite as gl
from gfnlite.policy import Context

LOG_Z, MEAN, STD = 1.3, 0.7, 0.6
OBJECTIVES = {
    "tb": gl.objectives.tb,
    "vargrad": gl.objectives.vargrad,
    "db": gl.objectives.db,
    "subtb": lambda tr: gl.objectives.subtb(tr, 0.9),
    "reverse_kl": gl.objectives.reverse_kl,
    "mle": gl.objectives.mle,
}
PROCESSES = {
    "pinned": gl.process.PinnedBrownian(1.7),
    "vp": gl.process.VariancePreserving(1.7),
    "vp cosine": gl.process.VariancePreserving(1.7, "cosine"),
}
# What the network has; "fixed" is exact on the Gaussian only where s^2 is the reference's own.
KERNELS = {
    "fixed": {},
    "langevin": {"langevin": True},
    "variance": {"learn_variance": True},
    "backward": {"learn_variance": True, "learn_backward": True},
    "looking forward": {"learn_variance": True, "forward_looking": True},
}
# Gradients alone: on a Gaussian it has no closed form here.
ALL = KERNELS | {
    "backward, langevin": {"learn_variance": True, "learn_backward": True, "langevin": True}
}


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def gaussian(std, dim=2):
    """A Gaussian energy with autograd's score, in whatever dtype it is asked."""

    def energy(x):
        log_norm = dim * (math.log(std) + 0.5 * math.log(2 * math.pi))
        return 0.5 * ((x - MEAN) / std).square().sum(-1) + log_norm - LOG_Z

    return gl.GFNDiffusion(energy, dim=dim).target


class Optimal(gl.policy.Policy):
    """The kernels and flows that are exact for N(MEAN, std^2) on one grid, in closed form.

    Destruction is x = B x' + c + N(0, q): the reference's reversal or, if `learn_backward`, one
    that is tilted by a drift 0.3 x' - 0.2 and a log-variance 0.4. From the end down it gives the
    Gaussian marginals N(m_i, V_i), and Bayes' rule gives the generation kernels.
    """

    def __init__(self, process, t, std, dim=2, off=1.0, wrong=0.0, **kernels):
        looking = kernels.pop("forward_looking", False)
        super().__init__(dim, 4, 1, flow=True, **kernels)
        self.wrong = wrong
        steps = process.steps(t)
        self.process, self.grid, self.looking = process, steps, looking
        tilt = (0.3, -0.2, 0.4) if self.backward_net is not None else (0.0, 0.0, 0.0)
        b, c = steps.b + tilt[0] * steps.g, tilt[1] * steps.g
        q = process.sigma2 * steps.g * math.exp(tilt[2])
        if process.pinned:
            b[0] = c[0] = q[0] = 0
        m, v = [torch.tensor(MEAN)], [torch.tensor(std**2)]
        for i in reversed(range(len(steps))):
            m.insert(0, b[i] * m[0] + c[i])
            v.insert(0, b[i] ** 2 * v[0] + q[i])
        self.m, self.v, self.tilt = torch.stack(m), torch.stack(v), tilt
        gain = self.v[1:] * b / self.v[:-1].clamp(min=1e-300)
        self.slope, self.shift = gain, self.m[1:] - gain * self.m[:-1]
        self.variance = off * (self.v[1:] - gain**2 * self.v[:-1])

    def context(self, net, t, length, condition, repeats):
        index = torch.searchsorted(self.grid.t, t - 1e-9)[:, None, None]
        return Context([net], index, None, None, length[:, None, None])

    def values(self, x, context):
        """States stand for the network's values, from which each head has its closed form."""
        return [x if context.layers[0] is not self.flow_net else self.log_flow(x, context.time)]

    def step(self, x, context, out=None):
        return self.values(x, context)[-1]

    def forward_head(self, x, context, score=None):
        i = context.time
        a, h = self.grid.a[i], self.grid.h[i]
        u = ((self.slope[i] - a) * x + self.shift[i]) / h + self.wrong
        if self.langevin is not None:  # the real head adds scale times score to a net of zeros
            zeros = torch.zeros_like(x)[:, None]
            (langevin,) = super().forward_head(zeros, context._replace(scale=torch.ones(1)), score)
            u = (u - score.clamp(-1e2, 1e2)) + langevin
        if self.forward_net.widths[-1] == self.dim:
            return (u,)
        return u, (self.variance[i] / (self.process.sigma2 * h)).log().expand_as(x)

    def backward_head(self, x, context):
        k, c, s = self.tilt
        return k * x + c, torch.full_like(x, s)

    def log_flow(self, x, i):
        t, m, v = self.grid.t[i], self.m[i], self.v[i]
        log_p = torch.distributions.Normal(m, v.sqrt()).log_prob(x).sum(-1)
        reference = self.process.log_marginal(x, t.flatten())
        log_f = LOG_Z + log_p - reference
        if self.looking:
            log_r = gaussian(STD).log_reward(x.flatten(0, 1)).view(x.shape[:2])
            log_f = log_f - t[..., 0] * (log_r - reference)
        return log_f[:, None, :, None]


def known_answer(objective, process, kernel, kind="random", steps=12, **wrong):
    """Largest distance of the loss, over both directions, from its value at the optimum."""
    parts = dict(KERNELS[kernel])
    fixed = not parts.get("learn_variance")
    std = math.sqrt(process.end_variance()) if fixed else STD
    t = gl.time_grid(steps, kind, torch.Generator().manual_seed(1))
    target = gaussian(std)
    looking = parts.get("forward_looking", False)
    policy = Optimal(process, t, std, **wrong, **parts)
    torch.nn.init.constant_(policy.log_z_value, LOG_Z)
    exact = {"reverse_kl": -LOG_Z, "mle": LOG_Z}.get(objective, 0.0)
    x1 = MEAN + std * torch.randn(64, 2, generator=torch.Generator().manual_seed(2))
    common = (policy, process, target, t)
    forward = gl.rollout.forward_rollout(
        *common, 64, exploration=0.5, generator=torch.Generator().manual_seed(3),
        forward_looking=looking,
    )  # fmt: skip
    backward = gl.rollout.backward_rollout(
        *common, x1, generator=torch.Generator().manual_seed(3), forward_looking=looking
    )
    for tr in (forward, backward):
        if not process.pinned:
            # A last trace of the target is left at t = 0, where P_F starts from the reference's
            # own marginal: every flow and log w is off by exactly this.
            start = torch.distributions.Normal(policy.m[0], policy.v[0].sqrt())
            trace = start.log_prob(tr.x[0]).sum(-1) - tr.log_p0
            tr.flow, tr.log_terminal = tr.flow - trace, tr.log_terminal - trace
    loss = OBJECTIVES[objective]
    return max(abs(loss(trajectory).item() - exact) for trajectory in (forward, backward))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_objectives_are_exact_at_the_optimum_of_a_gaussian(objective, process, kernel):
    assert known_answer(objective, PROCESSES[process], kernel) < 1e-9
    # The twins: a drift that is 0.1 too large, and a variance that is 5% too large.
    assert known_answer(objective, PROCESSES[process], kernel, wrong=0.1) > 1e-4
    if KERNELS[kernel].get("learn_variance"):
        assert known_answer(objective, PROCESSES[process], kernel, off=1.05) > 1e-4


def quartic(x, c=None):
    """An energy with two wells in each coordinate, moved by the condition if there is one."""
    y = x if c is None else x - 0.3 * c
    return (0.25 * y**4 - y.square() + 0.2 * y).sum(-1)


def make(process, kernel, objective, conditions=None):
    """A sampler with every weight away from its start, and one batch on a short grid."""
    parts = dict(ALL[kernel])
    looking = parts.pop("forward_looking", False)
    name = "subtb" if objective == "mle" else objective
    sampler = gl.GFNDiffusion(
        quartic, dim=2, objective=name if name != "reverse_kl" else "tb", hidden=8,
        process=process.split()[0], schedule="cosine" if "cosine" in process else "linear",
        sigma2=1.7, conditions=conditions, repeats=3 if conditions is not None else None,
        forward_looking=looking and name in ("db", "subtb"), **parts,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in sampler.policy.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator)
    return sampler


def rollout(sampler, objective, differentiable=False):
    generator = torch.Generator().manual_seed(5)
    t = gl.time_grid(7, "random", torch.Generator().manual_seed(6))
    condition = None
    if sampler.target.condition_dim:
        condition = torch.randn(4, 2, generator=generator).repeat_interleave(3, 0)
    if objective == "mle":
        x = torch.randn(12, 2, generator=generator)
        options = {"differentiable": differentiable, "condition": condition}
        trajectory = sampler.rollout(t, x=x, generator=generator, **options)
    else:
        options = {"differentiable": differentiable}
        options |= {} if objective == "reverse_kl" else {"exploration": 0.8}
        trajectory = sampler.rollout(t, 12, condition=condition, generator=generator, **options)
    trajectory.repeats = 3 if condition is not None else 1
    return trajectory


def plain_terms(sampler, tr):
    """log_pf, log_pb, log_flow of the states of a trajectory: one step at a time, written out."""
    policy, target, x, t = sampler.policy, sampler.target, tr.x, tr.t
    sigma2, pinned = sampler.config.sigma2, sampler.process.pinned

    def normal(value, mean, variance):
        return torch.distributions.Normal(mean, variance.sqrt()).log_prob(value).sum(-1)

    def reference(i):
        return sigma2 * (t[i] if pinned else torch.ones(()))

    log_pf, log_pb, log_flow = [], [], [policy.log_z(tr.condition).expand(len(x[0])) + tr.log_p0]
    for i in range(len(t) - 1):
        if pinned:
            a, forward = torch.ones(()), sigma2 * (t[i + 1] - t[i])
            b, backward = t[i] / t[i + 1], sigma2 * (t[i + 1] - t[i]) * t[i] / t[i + 1]
        else:
            log_alpha = sampler.process.log_alpha_bar(t)
            a = b = ((log_alpha[i] - log_alpha[i + 1]) / 2).exp()
            forward = backward = sigma2 * (1 - a * a)
        score = None
        if policy.langevin is not None:
            extra = () if tr.condition is None else (tr.condition,)
            score = target.score(x[i], *extra)
        context = policy.context(
            policy.forward_net, t[i : i + 1], forward[None] / sigma2, tr.condition
        )
        u, *s = (part[0] for part in policy.forward_kernel(x[i : i + 1], context, score))
        s = s[0] if s else torch.zeros_like(u)
        log_pf.append(normal(x[i + 1], a * x[i] + u * forward / sigma2, forward * s.exp()))
        if i == 0 and pinned:
            log_pb.append(torch.zeros(len(x[0])))
        else:
            v, s = torch.zeros_like(u), torch.zeros_like(u)
            if policy.backward_net is not None:
                context = policy.context(
                    policy.backward_net, t[i + 1 : i + 2], backward[None] / sigma2, tr.condition
                )
                v, s = (part[0] for part in policy.backward_kernel(x[i + 1 : i + 2], context))
            mean = b * x[i + 1] + v * backward / sigma2
            log_pb.append(normal(x[i], mean, backward * s.exp()))
        if policy.flow_net is not None and i > 0:
            context = policy.context(policy.flow_net, t[i : i + 1], t[:1], tr.condition)
            log_n = normal(x[i], torch.zeros(()), reference(i))
            log_f = policy.flow(x[i : i + 1], context)[0] + log_n
            if sampler.config.forward_looking:
                extra = () if tr.condition is None else (tr.condition,)
                log_f = log_f + t[i] * (target.log_reward(x[i], *extra) - log_n)
            log_flow.append(log_f)
    return torch.stack(log_pf), torch.stack(log_pb), torch.stack([*log_flow, tr.log_reward])


def plain_loss(objective, sampler, tr):
    """Each objective in the words of its definition."""
    log_pf, log_pb, log_flow = plain_terms(sampler, tr)
    log_w = tr.log_reward + log_pb.sum(0) - log_pf.sum(0) - tr.log_p0
    if objective == "tb":
        return ((sampler.policy.log_z(tr.condition) - log_w) ** 2).mean() / 2
    if objective == "vargrad":
        groups = log_w.view(-1, len(log_w) if tr.condition is None else tr.repeats)
        return groups.var(1, unbiased=False).mean() / 2
    if objective == "reverse_kl":
        return -log_w.mean()
    if objective == "mle":
        return log_w.mean()
    total, weights = 0.0, 0.0
    for i in range(len(log_pf)):
        for j in range(i + 1, len(log_pf) + 1):
            weight = float(j == i + 1) if objective == "db" else 0.9 ** (j - i)
            part = log_pf[i:j].sum(0) - log_pb[i:j].sum(0)
            total = total + weight * (log_flow[i] + part - log_flow[j]) ** 2
            weights += weight
    return (total / weights).mean() / 2


def path_wise(objective, sampler):
    """Whether the states are differentiated too: those that a learned kernel draws, on-policy."""
    return objective == "reverse_kl" or (objective == "mle" and sampler.config.learn_backward)


def flat_gradient(parameters):
    return torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten()
                      for p in parameters])  # fmt: skip


def cases():
    for objective in OBJECTIVES:
        for process in ("pinned", "vp"):
            for kernel in KERNELS:
                if kernel != "looking forward" or objective in ("db", "subtb"):
                    yield objective, process, kernel, False
        yield objective, "pinned", "langevin", True  # with a condition
    for process in ("pinned", "vp"):
        yield "mle", process, "backward, langevin", False
    yield "mle", "pinned", "backward", True


def analytic(objective, process, kernel, conditional):
    """The sampler, its batch, the loss, and the gradient as training finds it."""
    conditions = torch.randn(5, 2) if conditional else None
    sampler = make(process, kernel, objective, conditions)
    tr = rollout(sampler, objective, differentiable=path_wise(objective, sampler))
    if path_wise(objective, sampler):
        loss = OBJECTIVES[objective](tr)
        loss.backward()
    else:
        loss = gl.rollout.gradient(sampler.policy, tr, OBJECTIVES[objective])
    return sampler, tr, loss.item(), flat_gradient(sampler.policy.parameters())


def slope(objective, sampler, tr, direction, eps=1e-5):
    """The loss's derivative along a direction in weight space, by central differences.

    States are held, or, where the gradient is path-wise, the noise is and the states follow.
    """
    values = []
    with torch.no_grad():
        torch.nn.utils.vector_to_parameters(
            vector := torch.nn.utils.parameters_to_vector(sampler.policy.parameters()),
            sampler.policy.parameters(),
        )
        for sign in (1, -1):
            moved = vector + sign * eps * direction
            torch.nn.utils.vector_to_parameters(moved, sampler.policy.parameters())
            again = rollout(sampler, objective) if path_wise(objective, sampler) else tr
            values.append(plain_loss(objective, sampler, again).item())
        torch.nn.utils.vector_to_parameters(vector, sampler.policy.parameters())
    return (values[0] - values[1]) / (2 * eps)


@pytest.mark.equation("eq-03-losses", "eq-03-fl", "eq-conditional-tb", "eq-04-tb")
@pytest.mark.parametrize("objective, process, kernel, conditional", list(cases()))
def test_gradients_are_those_of_the_definition(objective, process, kernel, conditional):
    sampler, tr, loss, gradient = analytic(objective, process, kernel, conditional)
    plain = plain_loss(objective, sampler, tr)
    assert loss == pytest.approx(plain.item(), rel=1e-9)
    generator = torch.Generator().manual_seed(7)
    for _ in range(2):
        direction = torch.randn(len(gradient), generator=generator)
        expected = slope(objective, sampler, tr, direction)
        assert (gradient @ direction).item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
        # The twin: a gradient that is one percent off is noticed.
        assert (1.01 * gradient @ direction).item() != pytest.approx(expected, rel=1e-5, abs=1e-6)
    if not path_wise(objective, sampler):  # and every single entry, by automatic differentiation
        sampler.policy.zero_grad()
        plain.backward()
        torch.testing.assert_close(
            gradient, flat_gradient(sampler.policy.parameters()), rtol=1e-7, atol=1e-9
        )


@pytest.mark.full
def test_the_table_of_all_residuals(capsys):
    """Prints it; each entry is asserted above. In float64, as everything in this file."""
    lines = ["", "objective    kernels          residual pinned   vp   gradient error pinned   vp"]
    for objective in OBJECTIVES:
        for kernel in KERNELS:
            known = [known_answer(objective, PROCESSES[p], kernel) for p in ("pinned", "vp")]
            errors = []
            for process in ("pinned", "vp"):
                if kernel == "looking forward" and objective not in ("db", "subtb"):
                    errors.append(math.nan)
                    continue
                sampler, tr, _, gradient = analytic(objective, process, kernel, False)
                direction = torch.randn(len(gradient), generator=torch.Generator().manual_seed(7))
                expected = slope(objective, sampler, tr, direction)
                errors.append(abs((gradient @ direction).item() / expected - 1))
            assert max(known) < 1e-9 and not any(error > 1e-4 for error in errors)
            cells = "  ".join(f"{v:10.1e}" if v == v else " " * 9 + "-" for v in (*known, *errors))
            lines.append(f"{objective:<12} {kernel:<16} {cells}")
    with capsys.disabled():
        print("\n".join(lines))


@pytest.mark.parametrize("kernel", ["fixed", "backward"])
def test_the_limits_of_sub_trajectory_balance(kernel):
    tr = rollout(make("pinned", kernel, "subtb"), "subtb")
    few, many = gl.objectives.subtb(tr, 1e-300), gl.objectives.subtb(tr, 1e300)
    torch.testing.assert_close(few, gl.objectives.db(tr))
    torch.testing.assert_close(many, gl.objectives.tb(tr))
    middle = gl.objectives.subtb(tr, 2.0)
    assert abs(middle - few) > 0.1 * few and abs(middle - many) > 1e-3 * many


@pytest.mark.equation("eq-imbalance")
@pytest.mark.parametrize("lam", [0.5, 2.0])
def test_sub_trajectory_balance_weighs_parts_by_their_length(lam):
    sampler = make("pinned", "variance", "subtb")
    tr = rollout(sampler, "subtb")
    log_pf, log_pb, log_flow = plain_terms(sampler, tr)
    total, weights = 0.0, 0.0
    for i in range(len(log_pf)):
        for j in range(i + 1, len(log_pf) + 1):
            part = log_flow[i] + (log_pf[i:j] - log_pb[i:j]).sum(0) - log_flow[j]
            total, weights = total + lam ** (j - i) * part.square().mean(), weights + lam ** (j - i)
    torch.testing.assert_close(gl.objectives.subtb(tr, lam), total / weights / 2)


def test_sub_trajectory_balance_loses_no_digits_to_a_large_log_z():
    tr = rollout(make("pinned", "variance", "subtb"), "subtb")
    # lambda is 2 unless something else is said (arXiv:2402.05098)
    exact = gl.objectives.subtb(tr, 2.0)
    assert torch.equal(gl.objectives.subtb(tr), exact)
    # The same constant in all flows cancels. Of 4096, float32 keeps 2^-12 in each of the flows.
    large = {name: getattr(tr, name) + 4096 for name in ("log_z", "flow", "log_terminal")}
    large |= {name: getattr(tr, name) for name in ("ratio_pf", "ratio_pb")}
    far = replace(tr, **{name: value.detach().float() for name, value in large.items()})
    root = exact.detach().sqrt().item()
    assert abs(gl.objectives.subtb(far).sqrt().item() - root) < 2**-10


def test_likelihood_of_a_path_that_was_only_recorded_teaches_destruction_nothing():
    sampler = make("pinned", "backward", "mle")
    for differentiable in (False, True):
        tr = rollout(sampler, "mle", differentiable)
        pf, pb = (ratio.detach().requires_grad_() for ratio in (tr.ratio_pf, tr.ratio_pb))
        gl.objectives.mle(replace(tr, ratio_pf=pf, ratio_pb=pb)).backward()
        assert pf.grad is not None and (pb.grad is not None) == differentiable


def test_a_learned_log_variance_goes_with_the_length_of_the_step():
    policy = make("pinned", "variance", "tb").policy
    x, t = torch.randn(5, 2), torch.full((1,), 0.3)

    def log_variance(length):
        context = policy.context(policy.forward_net, t, torch.full((1,), length), None)
        return policy.forward_kernel(x[None], context)[1].detach()

    torch.testing.assert_close(log_variance(1e-4), 10 * log_variance(1e-5), rtol=1e-4, atol=0)
    assert log_variance(1e-4).abs().min() > 0
    assert log_variance(100.0).abs().max() <= 4  # and is bounded


@pytest.mark.parametrize("parts", [{"learn_backward": True}, {"objective": "subtb"}])
def test_one_step_is_enough(parts):
    torch.set_default_dtype(torch.float32)
    sampler = gl.GFNDiffusion(gl.gmm9, steps=1, coarse_steps=1, iterations=3, **parts)
    assert sampler.fit(progress=False).iteration == 3


def test_log_densities_can_be_differentiated():
    sampler = make("pinned", "backward", "reverse_kl")
    tr = rollout(sampler, "reverse_kl", differentiable=True)
    (tr.log_pf.sum() + tr.log_pb.sum()).backward()
    assert flat_gradient(sampler.policy.parameters()).isfinite().all()


class Frozen(gl.Target):
    """The quartic, whose score is a constant wherever it is asked for."""

    dim = 2

    def log_reward(self, x, condition=None):
        return -quartic(x)

    def score(self, x, condition=None):
        return super().score(x.detach())


def test_a_detached_score_is_a_constant_of_the_path_gradient():
    config = gl.Config(objective="reverse_kl", langevin=True, hidden=8, detach_score=True)
    gradients = {}
    for name, energy, detach in (
        ("detached", quartic, True), ("frozen", Frozen(), False), ("whole", quartic, False),
    ):  # fmt: skip
        sampler = gl.GFNDiffusion(energy, 2, config=config)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in sampler.policy.parameters():
                p += 0.3 * torch.randn(p.shape, generator=generator)
        options = {"differentiable": True, "detach_score": detach, "generator": generator}
        tr = sampler.rollout(gl.time_grid(5), 12, **options)
        gradients[name] = torch.autograd.grad(
            gl.objectives.reverse_kl(tr), sampler.policy.forward_net.state.weight
        )[0]
    assert torch.allclose(gradients["detached"], gradients["frozen"], atol=1e-6)
    assert not torch.allclose(gradients["detached"], gradients["whole"], rtol=0.05)  # the twin


def test_training_detaches_the_score_where_it_is_told_to():
    ends = {}
    for detach in (True, False):
        config = gl.Config(
            objective="reverse_kl", langevin=True, hidden=8, steps=5, batch_size=16, iterations=5,
            coarse_steps=None, detach_score=detach,
        )  # fmt: skip
        ends[detach] = gl.GFNDiffusion(quartic, 2, config=config).fit(progress=False).sample(3)
    assert not torch.equal(ends[True], ends[False])
    with pytest.raises(ValueError, match="detach_score=True with objective='tb', langevin=True"):
        gl.Config(langevin=True, detach_score=True)
