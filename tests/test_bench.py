"""The plain baseline of the benchmark computes what gfnlite computes, and is right on its own."""

import math

import pytest
import torch

import gfnlite as gl
from gfnlite.step import objective as loss_of
from reproduce.bench import plain

TARGETS = {"25gmm": gl.gmm25, "manywell8": gl.ManyWell(8)}
STEPS, BATCH = 7, 12


def copy_weights(trainer, policy):
    """The weights of a gfnlite policy, by name; the shapes may differ by axes of size 1."""
    theirs = dict(policy.named_parameters())
    mine = dict(trainer.policy.named_parameters())
    assert mine.keys() == theirs.keys()
    for name, p in mine.items():
        p.data.copy_(theirs[name].reshape(p.shape))


def pair(task, objective="tb", langevin=False, **settings):
    """A gfnlite sampler of random weights, and a plain trainer with the same."""
    sampler = gl.GFNDiffusion(
        TARGETS[task], objective=objective, langevin=langevin, hidden=16, steps=STEPS,
        forward_looking=objective == "subtb", sigma2={"25gmm": 5.0, "manywell8": 1.0}[task],
    )  # fmt: skip
    trainer = plain.Trainer(task, objective, langevin, steps=STEPS, hidden=16, **settings)
    torch.manual_seed(1)
    for name, p in sampler.policy.named_parameters():
        if "out" in name:  # which start at zero
            torch.nn.init.normal_(p, std=0.2)
    torch.nn.init.constant_(sampler.policy.log_z_value, 0.7)
    copy_weights(trainer, sampler.policy)
    return sampler, trainer


def both(sampler, trainer, exploration, differentiable=False, destroy=False):
    """The same batch of both, generated or destroyed: gfnlite's trajectory, and the plain path."""
    generator = torch.Generator().manual_seed(0)
    end = torch.randn((BATCH, trainer.dim), generator=generator) * 3 if destroy else None
    options = {} if destroy else {"exploration": exploration, "differentiable": differentiable}
    tr = sampler.rollout(gl.time_grid(STEPS), BATCH, x=end, generator=generator, **options)
    x, noise = tr.x.detach(), []
    for i in range(STEPS):  # what must have driven it
        if destroy:
            mean, variance = i / (i + 1) * x[i + 1], trainer.sigma2 / STEPS * i / (i + 1)
            noise.append((x[i] - mean) / math.sqrt(variance) if i else torch.zeros_like(x[0]))
        else:
            mean, variance = trainer._mean(x[i], i).detach(), (trainer.sigma2 + exploration) / STEPS
            noise.append((x[i + 1] - mean) / math.sqrt(variance))
    if destroy:
        return tr, trainer.destroy(x[-1], trainer.log_reward(x[-1]), noise=noise)
    return tr, trainer.generate(BATCH, exploration, noise=noise)


def worst(sampler, trainer):
    """Largest relative difference of the gradients, parameter by parameter."""
    theirs, largest = dict(sampler.policy.named_parameters()), 0.0
    for name, p in trainer.policy.named_parameters():
        if p.grad is None:
            assert theirs[name].grad is None or not theirs[name].grad.any(), name
            continue
        assert p.grad.any(), name
        difference = (theirs[name].grad.reshape(p.shape) - p.grad).norm() / p.grad.norm()
        largest = max(largest, difference.item())
    return largest


@pytest.mark.parametrize("task", TARGETS)
def test_densities_and_scores_are_those_of_the_package(task, generator):
    target, trainer = TARGETS[task], plain.Trainer(task)
    x = 4 * torch.randn((200, target.dim), generator=generator)
    torch.testing.assert_close(trainer.log_reward(x), target.log_reward(x), rtol=1e-5, atol=1e-3)
    found, expected = plain.score(trainer.log_reward, x), target.score(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    assert not torch.allclose(trainer.log_reward(x), TARGETS[task].log_reward(x + 0.01))


@pytest.mark.parametrize("destroy", [False, True])
@pytest.mark.parametrize(
    "objective, langevin",
    [("tb", False), ("tb", True), ("vargrad", False), ("subtb", False), ("subtb", True)],
)
@pytest.mark.parametrize("task", TARGETS)
def test_off_policy_steps_are_those_of_the_package(task, objective, langevin, destroy):
    sampler, trainer = pair(task, objective, langevin)
    tr, path = both(sampler, trainer, 2.0, destroy=destroy)
    torch.testing.assert_close(path.x, tr.x[-1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(path.log_reward, tr.log_reward, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(path.log_weight, tr.log_weight, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(path.log_pf, tr.log_pf.T, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(path.log_pb, tr.log_pb.T, rtol=1e-4, atol=1e-3)
    if objective == "subtb":
        torch.testing.assert_close(path.log_flow, tr.log_flow.T, rtol=1e-4, atol=1e-3)
    theirs = gl.rollout.gradient(sampler.policy, tr, loss_of(objective, sampler.config))
    mine = trainer.loss(path)
    mine.backward()
    torch.testing.assert_close(mine, theirs.reshape(()), rtol=1e-4, atol=1e-5)
    assert worst(sampler, trainer) < 1e-4
    # The twin: the same step under another reference process.
    trainer.policy.zero_grad()
    trainer.sigma2 *= 1.01
    trainer.loss(both(sampler, trainer, 2.0, destroy=destroy)[1]).backward()
    assert worst(sampler, trainer) > 1e-3


@pytest.mark.filterwarnings("ignore:samples of '25gmm' reach")
@pytest.mark.parametrize("langevin", [False, True])
@pytest.mark.parametrize("task", TARGETS)
def test_reverse_kl_is_differentiated_through_states_and_energy(task, langevin):
    sampler, trainer = pair(task, "reverse_kl", langevin)
    tr, path = both(sampler, trainer, 0.0, differentiable=True)
    theirs, mine = gl.objectives.reverse_kl(tr), trainer.loss(path)
    torch.testing.assert_close(mine, theirs.reshape(()), rtol=1e-4, atol=1e-4)
    theirs.backward()
    mine.backward()
    assert worst(sampler, trainer) < 1e-4
    # The twin: states that are cut off.
    trainer.policy.zero_grad()
    detached = plain.Trainer(task, "tb", langevin, steps=STEPS, hidden=16)
    detached.policy = trainer.policy
    (-both(sampler, detached, 0.0)[1].log_weight.mean()).backward()
    assert worst(sampler, trainer) > 0.01


@pytest.mark.parametrize("objective", ["tb", "subtb"])
def test_rates_are_those_of_the_package(objective):
    sampler, trainer = pair("25gmm", objective, True, lr=1e-3, lr_log_z=0.1, lr_flow=1e-2)
    config = gl.Config(objective=objective, langevin=True, lr=1e-3, lr_log_z=0.1, lr_flow=1e-2)

    def rates(optimiser, policy):
        names = {id(p): name for name, p in policy.named_parameters()}
        groups = optimiser.param_groups
        return {names[id(p)]: group["lr"] for group in groups for p in group["params"]}

    theirs = rates(gl.build.optimiser(config, sampler.policy), sampler.policy)
    assert rates(trainer.optimiser, trainer.policy) == theirs
    assert len(set(theirs.values())) == (3 if objective == "subtb" else 2)


def test_untrained_it_is_the_reference_process():
    """log w = log R(x) - log N(x; 0, sigma^2 I); exploration widens the ends alone."""
    trainer = plain.Trainer("manywell8", batch_size=4000, steps=5, sigma2=2.0, replay=True)
    x, log_weight = trainer.sample_log_weight(4000)
    for end, found in ((x, log_weight), (3 * x, trainer.destroy_log_weight(3 * x))):
        expected = trainer.log_reward(end) - plain.log_normal(end, 0.0, 2.0)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)
    spread = 4.5 * math.sqrt(2 / x.numel())
    assert x.var().item() == pytest.approx(2.0, rel=spread)
    trainer.forward_step(exploration=3.0)
    assert trainer.buffer.x.var().item() == pytest.approx(5.0, rel=spread)


@pytest.mark.parametrize("objective", ["tb", "vargrad", "subtb", "reverse_kl"])
@pytest.mark.parametrize("langevin", [False, True])
def test_it_learns(objective, langevin):
    trainer = plain.Trainer(
        "manywell2", objective, langevin, steps=5, batch_size=100, hidden=16, lr=1e-2
    )
    before = trainer.sample_log_weight(2000)[1].mean()
    for _ in range(150):
        trainer.forward_step()
    after = trainer.sample_log_weight(2000)[1].mean()
    assert after > before + 1
    assert after < 10.2935  # log Z


def test_it_searches_and_replays():
    trainer = plain.Trainer("25gmm", steps=5, batch_size=20, hidden=16, replay=True)
    trainer.forward_step(exploration=4.0)
    assert math.isfinite(trainer.replay_step())  # from what was generated, before a search
    trainer.local_search()
    assert len(trainer.buffer.x) == 20 and len(trainer.search_buffer.x) == 100 * 20
    found = trainer.search_buffer
    torch.testing.assert_close(found.log_reward, gl.gmm25.log_reward(found.x), atol=1e-3, rtol=1e-4)
    assert found.log_reward.mean() > trainer.buffer.log_reward.mean() + 1
    before = trainer.policy.forward_net.out.weight.clone()
    trainer.buffer = None  # nothing is drawn from it now
    assert math.isfinite(trainer.replay_step())
    assert not torch.equal(trainer.policy.forward_net.out.weight, before)


def test_mala_leaves_a_gaussian_invariant(generator):
    torch.manual_seed(1)  # not the start's
    target, chains, calls = gl.Gaussian([1.0, -2.0], [0.5, 1.5]), 4000, []

    def log_reward(x):
        calls.append(len(x))
        return target.log_reward(x)

    def worst_z(x, mean):  # of mean and variance; the chains are independent of each other
        a = (x - mean) / target.std
        parts = torch.cat((a, a.square() - 1), -1).mean(0)  # (B, 2 d)
        return (parts.mean(0) / parts.std(0) * math.sqrt(chains)).abs().max().item()

    start = target.sample(chains, generator)
    x, log_r = plain.mala(log_reward, start, steps=40, burn_in=0, step_size=0.2)
    assert x.shape == (40, chains, 2) and len(calls) == 3 * 40
    torch.testing.assert_close(log_r, target.log_reward(x.flatten(0, 1)).view(40, chains))
    stays = (x[1:] == x[:-1]).all(-1).float().mean()
    assert 0.05 < stays < 0.8  # rejected proposals repeat the state
    assert worst_z(x, target.mean) < 4.5
    # The twins: the truth of another target, and a chain of another.
    assert worst_z(x, target.mean + 0.1) > 6
    wrong, _ = plain.mala(
        gl.Gaussian([1.1, -2.0], [0.5, 1.5]).log_reward, start, 40, burn_in=0, step_size=0.2
    )
    assert worst_z(wrong, target.mean) > 6


def test_mala_finds_its_step_size():
    torch.manual_seed(0)
    target = gl.Gaussian([0.0] * 4, 0.1)
    for first in (1e-5, 1.0):
        x, _ = plain.mala(target.log_reward, torch.zeros(500, 4), step_size=first)
        moved = (x[1:] != x[:-1]).any(-1).float().mean().item()
        assert moved == pytest.approx(0.574, abs=0.1)


def test_buffer_draws_by_the_rank_law_and_forgets_the_oldest():
    torch.manual_seed(0)
    buffer, n = plain.Buffer(capacity=50, rank_weight=0.02), 200_000
    log_reward = torch.randn(80)
    for part in torch.arange(80).split(16):
        buffer.add(part[:, None].float(), log_reward[part])
    x, drawn = buffer.sample(n)
    x = x[:, 0].long()
    assert torch.equal(drawn, log_reward[x]) and len(buffer.x) == 50

    def z(weight):  # of chi^2 with 49 degrees of freedom
        rank = torch.empty(50).scatter_(0, (-log_reward[30:]).argsort(), torch.arange(50.0))
        p = 1 / (weight * 50 + rank)
        expected = n * p / p.sum()
        counts = torch.bincount(x, minlength=80)[30:]
        return ((counts - expected).square() / expected).sum().sub(49).item() / math.sqrt(98)

    assert x.min() >= 30  # the last 50 of 80
    assert abs(z(0.02)) < 4
    assert z(0.03) > 20
