"""The benchmark: its plain baseline is right, and it measures what it says that it does."""

import json
import math
import sys
import time
from dataclasses import replace
from functools import partial
from importlib.metadata import version

import pytest
import torch

import gfnlite as gl
from gfnlite.step import objective as loss_of
from reproduce import provenance, report
from reproduce.__main__ import entry as reproduce
from reproduce.bench import (
    floor,
    gpu,
    ideas,
    measure,
    plain,
    plain_vae,
    quality,
    schedule,
    sizes,
    worker,
)
from reproduce.experiments import BadInput

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
            other = theirs.get(name)  # of conditions the package has no one log Z
            assert other is None or other.grad is None or not other.grad.any(), name
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


@pytest.mark.parametrize("destroy", [False, True])
@pytest.mark.parametrize("langevin", [False, True])
def test_steps_for_a_posterior_are_those_of_the_package(langevin, destroy):
    images = torch.rand(3, 784, generator=torch.Generator().manual_seed(0))
    image = images.repeat_interleave(4, 0)
    sampler = gl.GFNDiffusion(
        gl.VAEPosterior(images=images), objective="vargrad", langevin=langevin, hidden=16,
        steps=STEPS, sigma2=5.0, repeats=4, exploration=0.0, device="cpu",
    )  # fmt: skip
    trainer = plain_vae.Trainer(images, 4, langevin, STEPS, BATCH, 16)
    torch.manual_seed(1)
    for name, p in sampler.policy.named_parameters():
        if "out" in name:
            torch.nn.init.normal_(p, std=0.2)
    theirs = dict(sampler.policy.named_parameters())
    for name, p in trainer.policy.named_parameters():
        if name != "log_z_value":
            p.data.copy_(theirs[name].reshape(p.shape))
    trainer.see(image)
    sampler.rollout = partial(sampler.rollout, condition=image, repeats=4)
    tr, path = both(sampler, trainer, 2.0, destroy=destroy)
    torch.testing.assert_close(path.log_reward, tr.log_reward, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(path.log_weight, tr.log_weight, rtol=1e-4, atol=2e-2)
    theirs = gl.rollout.gradient(sampler.policy, tr, gl.objectives.vargrad)
    mine = trainer.loss(path)
    mine.backward()
    torch.testing.assert_close(mine, theirs.reshape(()), rtol=1e-3, atol=1e-3)
    assert worst(sampler, trainer) < 1e-3
    trainer.policy.zero_grad()
    trainer.see(image.roll(1, 0))  # the twin: latents with another image
    trainer.loss(both(sampler, trainer, 2.0, destroy=destroy)[1]).backward()
    assert worst(sampler, trainer) > 1e-2


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


# ---------------------------------------------------------------- what is measured, and how


def test_quartiles_and_ratios_of_known_numbers():
    values = [4.0, 1.0, 2.0, 3.0, 5.0]
    known = {"median": 3.0, "low": 2.0, "high": 4.0, "n": 5, "unit": "ms"}
    assert measure.summary(values) == known
    one = {"median": 7.0, "low": 7.0, "high": 7.0, "n": 1, "unit": "MiB"}
    assert measure.summary([7.0], "MiB") == one
    # Twice as slow in every round, however the rounds differ: there is no doubt about it.
    assert measure.ratio([2 * v for v in values], values) == {"value": 2.0, "low": 2.0, "high": 2.0}
    found = measure.ratio([6.0, 6.0, 6.0, 6.0, 6.0], values)
    assert found["value"] == 2.0 and found["low"] < 2.0 < found["high"]


def test_rounds_hold_every_variant_once_in_changing_order():
    calls, shown = [], []
    variants = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    times = measure.interleaved(variants, 20, warm=1, progress=lambda *at: shown.append(at))
    rounds = [tuple(calls[i : i + 3]) for i in range(0, len(calls), 3)]
    assert len(rounds) == 21 and all(sorted(one) == list("abc") for one in rounds)
    assert len(set(rounds[1:])) > 1 and shown == [(i, 20) for i in range(1, 21)]
    assert list(times) == list("abc") and all(len(t) == 20 and min(t) >= 0 for t in times.values())


def test_waiting_counts_by_the_wall_clock_alone(monkeypatch):
    def work():
        end = time.process_time() + 0.03
        while time.process_time() < end:
            pass

    variants = {"wait": lambda: time.sleep(0.2), "work": work}
    assert measure.clock_name() == "cpu"
    times = measure.interleaved(variants, 2, warm=0)
    assert max(times["wait"]) < 20 and min(times["work"]) >= 30
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert measure.clock_name() == "wall"
    assert min(measure.interleaved(variants, 2, warm=0)["wait"]) >= 200


@pytest.mark.parametrize("task", sizes.TASKS)
def test_all_ideas_give_the_same_gradient(task):
    # 45 times are three chunks, the last of them a short one.
    rig = ideas.Rig(task, replace(sizes.SMALL, steps=45))
    torch.manual_seed(0)
    for name, p in rig.sampler.policy.named_parameters():
        if "out" in name:
            torch.nn.init.normal_(p, std=0.2)
    rig.match()

    def gradient(name, seed=0):
        stage, owner, _ = ideas.STAGES[name]
        policy = rig.sampler.policy if owner == "ours" else rig.policy
        policy.zero_grad()
        loss = stage(rig, torch.Generator().manual_seed(seed))
        parts = {name: p.grad.flatten() for name, p in policy.named_parameters()}
        return loss.detach(), torch.cat([parts[name] for name in sorted(parts)])

    def difference(found):
        return ((found - expected).norm() / expected.norm()).item()

    loss, expected = gradient("plain")
    assert list(ideas.STAGES)[0] == "plain" and expected.norm() > 1
    for name in ideas.STAGES:
        found = gradient(name)
        torch.testing.assert_close(found[0].reshape(()), loss, rtol=1e-4, atol=1e-4)
        assert difference(found[1]) < 1e-4, name
    assert difference(gradient("plain", seed=1)[1]) > 0.01


def test_a_stage_is_a_whole_training_step():
    rig = ideas.Rig("25gmm", sizes.SMALL)
    for name, (_, owner, _) in ideas.STAGES.items():
        if name == "compiled":
            continue
        weights = (rig.sampler.policy if owner == "ours" else rig.policy).forward_net.out.weight
        before = weights.detach().clone()
        ideas.step(rig, name)()
        assert not torch.equal(weights, before), name


def test_the_floor_counts_its_operations():
    kernels = floor.Kernels(2, replace(sizes.SMALL, steps=45, batch=300, hidden=8))
    assert kernels.chunks == [20, 20, 5]
    # Forth 2 rows a b of a layer a x b; back the same for its weights, and for its input.
    layers = 2 * 8 + 8 * 8 + 8 * 8 + 8 * 2
    assert kernels.operations == 2 * 45 * 300 * (3 * layers - 2 * 8)


EXPECTED = {
    "steps": ({"ours"}, 12),
    "vae": ({"ours", "plain", "ratio"}, 5),
    "scaling": ({"ours"}, 4 + 4),
    "seeds": ({"one_by_one", "together", "ratio"}, 2),
    "floor": ({"step", "floor", "products", "activations", "ratio", "gflops"}, 1),
    "memory": ({"ours", "plain"}, 1),
    "profile": ({"milliseconds", "operations"}, 2),
    "dead_ends": ({"without", "with", "ratio"}, 5),
    "ideas": ({"step", "gain", "total"}, len(ideas.STAGES) - 1),
}


@pytest.mark.parametrize("part", EXPECTED)
def test_each_part_runs_and_writes_what_it_says(part, tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "git", lambda *a: "0123abc" if a[0] == "rev-parse" else "")
    printed = list(worker.run(part, sizes.SMALL, tmp_path, tmp_path / "state"))
    result = json.loads((tmp_path / f"{part}.json").read_text())
    (made,) = result["runs"]
    where, (keys, count) = made["environment"], EXPECTED[part]
    assert result["part"] == part and where["threads"] == 1 and where["cpu"]
    assert where["commit"] == "0123abc" and where["versions"]["torch"] == version("torch")
    assert len(made["entries"]) == len(printed) == count
    for entry in made["entries"]:
        assert keys <= set(entry) and ("task" in entry or "axis" in entry)
        for value in entry.values():
            if isinstance(value, dict) and "median" in value:
                assert value["low"] <= value["median"] <= value["high"] and value["n"] >= 1
                assert value["unit"] == ("MiB" if part == "memory" else "ms")
    if part == "steps":
        both = {entry["step"] for entry in made["entries"] if "ratio" in entry}
        ours_alone = {entry["step"] for entry in made["entries"]} - both
        assert (
            ours_alone == {"DB+Expl forward", "TB+Expl+LV forward", "MLE replay"} and len(both) == 9
        )
        search = next(entry for entry in made["entries"] if entry["step"] == "MALA 4 x 20")
        assert search["energy_calls"] == {"ours": 5 * 20, "plain": 3 * 4 * 20}


def test_quality_is_counted_kept_and_gone_on_from(tmp_path, monkeypatch):
    monkeypatch.setattr(quality, "EVERY", 2)
    notes = measure.Progress("quality")
    small = quality._shortened(quality.GOALS["manywell32"])
    first = quality.recipe_run("manywell32", small, 0, 100)
    assert first["iterations"] == 4 and first["cpu_seconds"] > 0 and first["energy_calls"] > 20
    assert not first["met"]

    def run(goal, limit, folder):
        return quality.plain_run("manywell32", goal, limit, 100, tmp_path / folder, notes)

    whole = run(small, math.inf, "whole")
    assert [at["iteration"] for at in whole["trace"]] == [2, 4] and not whole["met"]
    # Stopped by its time after two iterations, it goes on to the same end; and then is done.
    half = run(small, 1e-9, "half")
    assert [at["iteration"] for at in half["trace"]] == [2]
    again = run(small, math.inf, "half")
    for name in ("elbo", "log_z_error", "modes"):
        assert [at[name] for at in again["trace"]] == [at[name] for at in whole["trace"]]
    assert again["cpu_seconds"] > half["cpu_seconds"] > 0
    assert run(small, math.inf, "half")["trace"] == again["trace"]
    # Good enough at its first measurement, it stops there.
    easy = run(replace(small, elbo=-math.inf, log_z_error=None), math.inf, "easy")
    assert easy["met"] and len(easy["trace"]) == 1
    assert json.loads((tmp_path / "easy/trace.json").read_text()) == easy["trace"]
    with pytest.raises(BadInput, match="other settings"):
        run(replace(small, usual=small.usual.replace(lr=1e-2)), math.inf, "half")


def test_quality_writes_a_file_for_each_task(tmp_path):
    (line,) = worker.run("quality", sizes.SMALL, tmp_path, tmp_path / "state")
    entry = json.loads((tmp_path / "quality-25gmm.json").read_text())["runs"][0]["entries"][0]
    assert entry["goal"] == {"elbo": -0.21, "log_z_error": None, "modes": 25}
    assert entry["ratio"]["at_least"] and "at least" in line and "not good enough" in line
    ours, usual = entry["ours"], entry["plain"]
    assert entry["ratio"]["value"] == usual["cpu_seconds"] / ours["cpu_seconds"]
    assert usual["trace"][-1]["cpu_seconds"] == usual["cpu_seconds"]
    assert ours["settings"]["steps"] == 4 and [run["seed"] for run in ours["runs"]] == [0]


def test_goals_are_the_presets_and_what_was_asked():
    mixture, wells = quality.GOALS["25gmm"], quality.GOALS["manywell32"]
    assert mixture.usual == gl.preset("25gmm", "TB+Expl", "full")
    assert (mixture.usual.lr, mixture.usual.lr_log_z, mixture.usual.exploration) == (1e-3, 0.1, 4)
    assert wells.usual == gl.preset("manywell32", "TB+Expl+LP+LS", "full")
    for goal in (mixture, wells):
        assert goal.recipe.steps == goal.usual.steps == 100
        assert goal.recipe.hidden == goal.usual.hidden == 64
    found = {"elbo": -0.21, "log_z_error": 9.0, "modes": 25}
    assert mixture.met(found) and not mixture.met(found | {"modes": 24})
    assert not mixture.met(found | {"elbo": -0.22})
    found = {"elbo": 160.1, "log_z_error": -0.49, "modes": 1}
    assert wells.met(found) and not wells.met(found | {"log_z_error": 0.5})


# ---------------------------------------------------------------- the command


def commanded(monkeypatch, *words):
    """Exit code of the command, run in this process."""
    monkeypatch.setattr(sys, "argv", ["reproduce", "bench", *words])
    with pytest.raises(SystemExit) as ended:
        reproduce()
        raise SystemExit(0)
    return ended.value.code


BAD = {
    "part": (["--only", "steps,stepz"], "--only stepz: no such part; allowed: steps, vae, ideas"),
    "threads": (["--threads", "0"], "--threads 0: must be from 1 to"),
    "too many": (["--threads", "1", "4096"], "--threads 4096: must be from 1 to"),
    "text": (["--threads", "two"], "'two' is not a valid integer"),
    "repeats": (["--repeats", "1"], "1 is not in the range"),
}


@pytest.mark.parametrize("words, message", BAD.values(), ids=BAD)
def test_a_bad_command_is_one_line_and_exit_code_2(words, message, capsys, monkeypatch):
    monkeypatch.setattr(schedule, "execute", lambda *a: pytest.fail("something ran"))
    assert commanded(monkeypatch, *words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("reproduce: ") and err.count("\n") == 1 and message in err


def test_what_is_asked_for_is_what_runs(capsys, monkeypatch):
    ran = []

    def execute(job, quick):
        ran.append((*job[:2], job[2].repeats, quick))
        return job[0] == "floor"

    monkeypatch.setattr(schedule, "execute", execute)
    monkeypatch.setattr(schedule.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert commanded(monkeypatch, "--only", "seeds,quality", "steps", "--repeats", "7") == 0
    assert ran == [(p, n, 7, False) for p, n in zip(
        ["seeds", "seeds", "quality", "steps", "steps"], [1, 2, 1, 1, 2], strict=True
    )]  # fmt: skip
    # A part that fails does not stop the rest.
    ran.clear()
    assert commanded(monkeypatch, "--quick", "--threads", "1") == 1
    assert [job[0] for job in ran] == [part for part in schedule.PARTS if part != "gpu"]
    assert list(schedule.PARTS) == list(worker.PARTS)
    assert all(job[1:] == (1, 2, True) for job in ran)
    assert capsys.readouterr().err == "failed: floor with 1 thread\n"
    monkeypatch.setattr(schedule.os, "cpu_count", lambda: 1)
    ran.clear()
    assert commanded(monkeypatch, "--only", "seeds") == 0 and ran == [("seeds", 1, 30, False)]


def test_a_gpu_is_measured_where_there_is_one(capsys, monkeypatch):
    monkeypatch.setattr(schedule, "execute", lambda job, quick: print(job[0]) or 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert commanded(monkeypatch, "--only", "gpu") == 2
    assert "--only gpu: needs an NVIDIA GPU" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert commanded(monkeypatch) == 0 and "gpu" in capsys.readouterr().out


def test_the_part_gpu_measures_both_implementations_on_its_device():
    made, entries = [], gpu.measure(sizes.SMALL, measure.Progress("gpu"), "cpu")
    for entry in entries:
        made.append(entry["step"])
        assert entry["graph"]["median"] > 0 and entry["graph of 5 seeds"]["n"] == 2
        for slow in ("plain", "eager"):
            of_medians = entry[slow]["median"] / entry["graph"]["median"]
            assert entry[f"{slow} over graph"]["value"] == pytest.approx(of_medians)
    assert made == list(gpu.NAMES)


def test_quick_never_replaces_full_results(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(report, "FOLDER", tmp_path)
    kept = tmp_path / "bench" / "floor.json"
    kept.parent.mkdir()
    kept.write_text("measured for an hour")
    assert commanded(monkeypatch, "--quick", "--only", "floor", "--threads", "1") == 0
    assert kept.read_text() == "measured for an hour" and list(kept.parent.iterdir()) == [kept]
    made = json.loads((tmp_path / "local/bench/floor.json").read_text())
    assert made["runs"][0]["environment"]["threads"] == 1
    out, err = capfd.readouterr()
    assert "25gmm; step" in out and "ratio" in out
    assert "floor, 1 thread: 25gmm" in err and "\r" not in err


def test_runs_of_other_threads_stay(tmp_path):
    def keep(threads, value, device="cpu"):
        where = {"threads": threads, "device": device}
        worker.save(tmp_path / "steps.json", where, [{"value": value}])
        runs = json.loads((tmp_path / "steps.json").read_text())["runs"]
        return [(run["environment"]["threads"], run["entries"][0]["value"]) for run in runs]

    assert keep(2, 1.0) == [(2, 1.0)]
    assert keep(1, 2.0) == [(1, 2.0), (2, 1.0)]
    assert keep(2, 3.0) == [(1, 2.0), (2, 3.0)]
    assert keep(2, 4.0, "a GPU") == [(1, 2.0), (2, 4.0), (2, 3.0)]
