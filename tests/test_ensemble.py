"""Seeds trained together: each exactly as if alone, and mean and interval over them."""

import math

import pytest
import torch

import gfnlite as gl
from gfnlite import train
from gfnlite.ensemble import half_width

SMALL = {"iterations": 30, "batch_size": 24, "steps": 8, "coarse_steps": 4, "hidden": 16}
# Everything that a step may hold apart for each run.
WAYS = {
    "tb": {"exploration": 2.0},
    "vargrad, langevin": {"objective": "vargrad", "langevin": True},
    "subtb, forward looking": {"objective": "subtb", "forward_looking": True},
    "learned variances, vp": {"process": "vp", "learn_variance": True, "learn_backward": True},
    "replay": {"replay_ratio": 0.5, "exploration": 1.0},
    "search": {"replay_ratio": 0.5, "ls_every": 5, "ls_steps": 6, "ls_burn_in": 3},
    "particles": {
        "replay_ratio": 1.0,
        "prefill": 60,
        "replay_objective": "mle",
        "replay_priority": "uniform",
    },
    "learned destruction": {
        "replay_ratio": 1.0,
        "prefill": 60,
        "replay_objective": "mle",
        "replay_priority": "uniform",
        "learn_backward": True,
    },
    "reverse kl": {"objective": "reverse_kl", "grad_clip": 0.1},
    "clipped": {"grad_clip": 0.1},
}


def conditional(x, c):
    return 0.5 * ((x - c) ** 2).sum(-1)


def target_of(way):
    if way != "conditions":
        return {"energy_fn": gl.gmm9}
    conditions = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    return {"energy_fn": conditional, "dim": 2, "conditions": conditions}


def parameters(sampler):
    return torch.cat([p.flatten() for p in sampler.policy.parameters()]).detach().clone()


@pytest.mark.parametrize("way", [*WAYS, "conditions"])
def test_each_step_of_a_team_equals_single_steps(way):
    """To 1e-5 of the step taken, at every step: from the single runs' own state, so that no
    difference grows."""
    settings = SMALL | WAYS.get(way, {"objective": "vargrad", "repeats": 4})
    seeds = (3, 0, 7)
    team = gl.Ensemble(**target_of(way), seeds=seeds, **settings)
    alone = [gl.GFNDiffusion(**target_of(way), seed=seed, **settings) for seed in seeds]
    for _ in range(8):
        before = [parameters(sampler) for sampler in alone]
        for sampler in alone:
            sampler.fit(1, progress=False)
        team.fit(1, progress=False)
        for one, other, start in zip(team, alone, before, strict=True):
            moved = (parameters(other) - start).norm()
            assert moved > 0
            # Adam divides by the root of the second moment: where a gradient is rounding error, so
            # is its sign, hence the comparison of all weights at once.
            assert (parameters(one) - parameters(other)).norm() <= 1e-4 * moved
            assert one.energy_calls == other.energy_calls and one.iteration == other.iteration
            for name, buffer in one.buffers.items():
                assert len(buffer) == len(other.buffers[name])
            one.policy.load_state_dict(other.policy.state_dict())
    assert (parameters(team[0]) - parameters(team[1])).norm() > 0.1  # the twin: other seeds


def gradients(policy):
    return torch.cat(
        [p.grad.view(len(p), -1) for p in policy.parameters() if p.grad is not None], 1
    )


@pytest.mark.parametrize("objective", ["tb", "vargrad", "subtb"])
def test_gradients_of_a_team_equal_single_ones_to_1e_5(objective):
    settings = SMALL | {"objective": objective, "langevin": True, "exploration": 1.0}
    samplers = gl.Ensemble(gl.gmm25, seeds=4, **settings).samplers
    loss = getattr(gl.objectives, objective)
    t, single = gl.time_grid(8), []
    for sampler in samplers:
        torch.nn.init.normal_(sampler.policy.forward_net.out.weight, std=0.3)
        tr = sampler.rollout(t, 24, generator=torch.Generator().manual_seed(sampler.seed))
        gl.rollout.gradient(sampler.policy, tr, loss)
        single.append(gradients(sampler.policy))
        sampler.policy.zero_grad()
    team = train.Team(samplers)
    tr = gl.rollout.forward_rollout(
        team.policy, team.process, team.target, t, 24,
        generator=[torch.Generator().manual_seed(sampler.seed) for sampler in samplers],
        record=True,
    )  # fmt: skip
    losses = gl.rollout.gradient(team.policy, tr, loss)
    assert losses.shape == (4,)
    together, single = gradients(team.policy), torch.cat(single)
    size = single.norm(dim=1)
    assert (size > 0).all()
    assert ((together - single).norm(dim=1) <= 1e-5 * size).all()
    assert ((together.roll(1, 0) - single).norm(dim=1) > 0.1 * size).all()  # the twin


def test_fit_with_seeds_gives_as_many_samplers_and_leaves_this_one():
    sampler = gl.GFNDiffusion(gl.gmm9, **SMALL)
    start = parameters(sampler)
    ensemble = sampler.fit(seeds=3, progress=False)
    assert [one.seed for one in ensemble] == [0, 1, 2] and len(ensemble) == 3
    assert all(one.iteration == 30 and len(one.history) >= 30 for one in ensemble)
    assert torch.equal(parameters(sampler), start) and sampler.iteration == 0
    assert ensemble[1].sample(5).shape == (5, 2)
    # Each stands alone: training one on leaves the others as they are.
    other = parameters(ensemble[0])
    ensemble[1].fit(2, progress=False)
    assert torch.equal(parameters(ensemble[0]), other)
    storage = ensemble[1].policy.forward_net.out.weight.untyped_storage()
    assert storage.nbytes() == ensemble[1].policy.forward_net.out.weight.numel() * 4


def test_an_interrupted_team_catches_up_and_ends_where_it_would_have(tmp_path, monkeypatch):
    settings = SMALL | WAYS["search"]
    whole = gl.Ensemble(gl.gmm9, seeds=3, **settings).fit(progress=False)
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0)
    real, written = train.save, []

    def save(sampler, folder):
        if len(written) == 10:  # between the seeds of one checkpoint
            raise KeyboardInterrupt
        written.append(sampler.seed)
        real(sampler, folder)

    monkeypatch.setattr(train, "save", save)
    with pytest.raises(KeyboardInterrupt):
        gl.Ensemble(gl.gmm9, seeds=3, **settings).fit(folder=tmp_path, progress=False)
    monkeypatch.setattr(train, "save", real)
    again = gl.Ensemble(gl.gmm9, seeds=3, **settings)
    again.fit(folder=tmp_path, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed-0", "seed-1", "seed-2"]
    for one, other in zip(again, whole, strict=True):
        assert one.iteration == 30
        assert (parameters(one) - parameters(other)).norm() <= 1e-3 * parameters(other).norm()
        assert [e["iteration"] for e in one.history] == [e["iteration"] for e in other.history]


def test_a_seed_that_diverges_is_named():
    def energy(x):
        square = x.square().sum(-1)
        return torch.where(square > 60, math.nan, 0.5 * square)

    ensemble = gl.Ensemble(energy, 2, seeds=3, **SMALL)
    with torch.no_grad():
        ensemble[2].policy.forward_net.out.bias += 100.0
    with pytest.raises(FloatingPointError, match="seed 2, iteration 0"):
        ensemble.fit(progress=False)


def test_summary_has_mean_deviation_and_values():
    ensemble = gl.Ensemble(gl.gmm9, seeds=3, **SMALL).fit(progress=False)
    summary = ensemble.evaluate(n_samples=300)
    values = [evaluation["elbo"] for evaluation in summary.evaluations]
    assert summary["elbo"]["values"] == values
    assert summary["elbo"]["mean"] == pytest.approx(sum(values) / 3)
    text = repr(summary)
    assert "ELBO" in text and "±" in text and text.count("\n") >= 8
    assert "±" in summary._repr_html_()


@pytest.mark.parametrize("n, t", [(2, 12.7062), (3, 4.3027), (5, 2.7764), (30, 2.0452)])
def test_half_width_is_that_of_students_interval(n, t):
    values = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = t * values.std().item() / math.sqrt(n)
    assert half_width(values.tolist()) == pytest.approx(expected, rel=2e-4)


def test_the_interval_of_few_seeds_covers():
    draws = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)).tolist()
    covered = sum(abs(sum(row) / 3) <= half_width(row) for row in draws[:500])
    assert abs(covered / 500 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 500)


@pytest.mark.parametrize("seeds", [0, -1, [], [1, 1], 2.5, [0.5], True])
def test_bad_seeds_are_refused(seeds, one_clear_error):
    one_clear_error(lambda: gl.Ensemble(gl.gmm9, seeds=seeds, **SMALL), "seeds=")


def test_seed_and_seeds_exclude_each_other(one_clear_error):
    sampler = gl.GFNDiffusion(gl.gmm9, **SMALL)
    one_clear_error(lambda: sampler.fit(seed=1, seeds=2), "not both")


@pytest.mark.full
def test_final_metrics_of_teams_and_single_runs_have_one_distribution():
    """Welch's t of ELBO and EUBO over 8 seeds against 8 others; the twin trains half as long."""
    config = gl.preset("9gmm", "TB+Expl", "quick").replace(iterations=600)

    def bounds(samplers):
        found = [sampler.evaluate(n_samples=5000) for sampler in samplers]
        return {key: torch.tensor([e[key] for e in found]) for key in ("elbo", "eubo")}

    def distance(one, other):
        """Largest |t| of the two metrics."""
        error = {k: (one[k].var() / 8 + other[k].var() / 8).sqrt() for k in one}
        return max(abs((one[k].mean() - other[k].mean()) / error[k]).item() for k in one)

    team = bounds(gl.Ensemble(gl.gmm9, seeds=range(8), config=config).fit(progress=False))
    short = config.replace(iterations=300)
    twin = bounds(gl.Ensemble(gl.gmm9, seeds=range(8), config=short).fit(progress=False))
    single = bounds(
        gl.GFNDiffusion(gl.gmm9, config=config, seed=seed).fit(progress=False)
        for seed in range(8, 16)
    )
    # |t| with at least 7 degrees of freedom exceeds 5 in one of 600 pairs, of two metrics
    assert distance(team, single) < 5
    assert distance(team, twin) > 5
