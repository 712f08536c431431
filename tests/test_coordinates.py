"""Training in coordinates in which a pilot sees mean 0, no correlation and a unit that fits."""

import math

import pytest
import torch

import gfnlite as gl
from gfnlite import checkpoint, diagnosis
from gfnlite.coordinates import Standardised, standardised
from reproduce.bench.suite import Correlated

STEPS = 10
SMALL = {
    "steps": STEPS, "coarse_steps": 4, "standardise": True, "learn_variance": True,
    "replay_ratio": 1.0, "prefill": 500, "replay_objective": "mle", "replay_priority": "uniform",
    "batch_size": 32, "iterations": 8,
}  # fmt: skip


def far(dim=3, log_z=0.7):
    """A Gaussian that is far off, of very unequal widths, and strongly correlated."""
    width = torch.logspace(-1, 1, dim)
    covariance = 0.9 ** (torch.arange(dim)[:, None] - torch.arange(dim)).abs().float()
    return Correlated(covariance * width * width[:, None], 20 + torch.arange(dim).float(), log_z)


def seeded():
    """A fresh random state, always the same."""
    return torch.Generator().manual_seed(0)


def known(dim=3):
    """The exact map of `far`."""
    target = far(dim)
    return Standardised(target, target.mean, target.root)


def test_a_gaussian_is_solved_before_training():
    target = far()
    sampler = gl.GFNDiffusion(target, config=gl.Config(standardise=True, sigma2=2.0, steps=STEPS))
    log_weight = sampler.trajectory(5000).log_weight
    # Of 5,000 particles: a moment is off by 1/sqrt(5000), and there are 9 of them; log w is off by
    # the first power in each, its mean by the second.
    assert log_weight.std() < 4 * math.sqrt(9 / 5000)
    assert abs(log_weight.mean() - target.log_z) < 4 * 9 / 5000 + 4 * log_weight.std() / 5000**0.5
    plain = gl.GFNDiffusion(target, config=gl.Config(sigma2=2.0, steps=STEPS))
    assert plain.trajectory(5000).log_weight.mean() < -100  # the twin


def test_samples_of_it_have_its_moments():
    target = far()
    sampler = gl.GFNDiffusion(target, config=gl.Config(standardise=True, steps=STEPS))
    x = sampler.sample(20_000)
    u = torch.linalg.solve_triangular(target.root, (x - target.mean).T, upper=False)
    bound = 4 * (1 / 5000 + 1 / 20_000) ** 0.5
    assert u.mean(1).abs().max() < bound
    assert (torch.cov(u) - torch.eye(3)).abs().max() < math.sqrt(2) * bound


@pytest.mark.equation("eq-13-coordinates")
@pytest.mark.parametrize("process", ["pinned", "vp"])
def test_densities_in_the_targets_coordinates_make_the_weight(process):
    sampler = gl.GFNDiffusion(
        far(), config=gl.Config(standardise=True, steps=STEPS, process=process)
    )
    for made in (sampler.trajectory(50), sampler.trajectory(x=sampler.target.sample(50, seeded()))):
        assert torch.allclose(made.log_reward, sampler.target.log_reward(made.x[-1]), atol=1e-4)
        log_weight = made.log_reward + made.log_pb.sum(0) - made.log_pf.sum(0) - made.log_p0
        assert torch.allclose(log_weight, made.log_weight, atol=1e-3)
        naked = made.__class__(**vars(made) | {"seen": None})
        wrong = made.log_reward + naked.log_pb.sum(0) - naked.log_pf.sum(0) - naked.log_p0
        assert not torch.allclose(wrong, made.log_weight, atol=1.0)  # the twin


def test_log_pf_is_the_density_of_a_move():
    sampler = gl.GFNDiffusion(
        far(), config=gl.Config(standardise=True, steps=4, sigma2=3.0), device="cpu"
    )
    made, seen = sampler.trajectory(20), sampler.seen
    covariance = 3.0 / 4 * seen.factor @ seen.factor.T
    for k in range(4):  # untrained: a Brownian motion
        law = torch.distributions.MultivariateNormal(made.x[k], covariance)
        assert torch.allclose(law.log_prob(made.x[k + 1]), made.log_pf[k], atol=2e-3)


def test_coordinates_and_back():
    seen = known()
    x = seen.original.sample(100, seeded())
    e = seen.encode(x)
    assert torch.allclose(seen.decode(e), x, rtol=1e-4, atol=1e-3)
    log_reward, score = seen.log_reward_and_score(e)
    assert torch.allclose(log_reward, seen.log_reward(e), atol=1e-4)
    assert torch.allclose(score, -e, atol=1e-2)
    standard = torch.distributions.Normal(0.0, 1.0).log_prob(e).sum(-1)
    assert torch.allclose(log_reward, seen.log_z + standard, atol=1e-2)


@pytest.mark.equation("eq-13-unit")
def test_sigma2_is_between_the_whole_and_the_finest():
    target = gl.GMM(1000 + 30 * gl.gmm25.means, 900 * 0.3)
    seen = standardised(target, 1.7, "cpu")
    e = seen.encode(target.sample(20_000, seeded()))
    finest = seen.log_reward_and_score(e)[1].square().mean(0)
    assert (e.square().mean(0) / finest).sqrt().tolist() == pytest.approx([1.7] * 2, rel=0.05)
    assert e.std(0).max().item() == pytest.approx(seen.spread, rel=0.05)
    assert seen.spread > 1.5  # a narrower process than the target, which has fine structure
    modes = seen.modes_of(e)
    assert torch.equal(modes, target.modes_of(seen.decode(e)))


def test_each_coordinate_has_a_unit_of_its_own():
    seen = standardised(gl.ManyWell(4), 1.0, "cpu")
    e = seen.encode(gl.ManyWell(4).sample(20_000, seeded()))
    wells, gaussians = e.std(0)[::2], e.std(0)[1::2]
    assert gaussians.tolist() == pytest.approx([1.0] * 2, rel=0.1)  # all the process has to do
    assert (wells > 1.2).all()


def test_a_shift_and_a_unit_change_hardly_anything():
    config = gl.Config(**SMALL)
    here = gl.GFNDiffusion(gl.gmm9, config=config).fit(progress=False)
    there = gl.GMM(100 + 10 * gl.gmm9.means, 100 * 0.3, "there")
    other = gl.GFNDiffusion(there, config=config).fit(progress=False)
    # not the same numbers, as the pilot starts about 0 in steps of a half power of ten
    assert here.seen.spread == pytest.approx(other.seen.spread, rel=0.05)
    assert torch.allclose(here.seen.factor.diagonal() * 10, other.seen.factor.diagonal(), rtol=0.05)


def test_a_training_resumes_and_is_loaded_with_its_coordinates(tmp_path):
    config = gl.Config(**SMALL)
    whole = gl.GFNDiffusion(gl.gmm9, config=config).fit(progress=False)
    parts = gl.GFNDiffusion(gl.gmm9, config=config)
    parts.fit(3, tmp_path, progress=False)
    again = gl.GFNDiffusion(gl.gmm9, config=config)
    again.seen = Standardised(gl.gmm9, torch.ones(2), torch.eye(2))  # of another machine, say
    again.fit(folder=tmp_path, progress=False)
    loaded = gl.GFNDiffusion.load(tmp_path / "checkpoint.pt")
    for sampler in (again, loaded):
        assert torch.equal(sampler.seen.factor, parts.seen.factor)
        assert sampler.energy_calls == whole.energy_calls
    weights = (whole.policy.state_dict(), again.policy.state_dict(), loaded.policy.state_dict())
    for name in weights[0]:
        assert torch.equal(weights[0][name], weights[1][name])
        assert torch.equal(weights[0][name], weights[2][name])


def test_a_sampler_whose_target_has_moved_sees_the_moved_one():
    for config in (gl.Config(iterations=2, steps=4), gl.Config(**SMALL)):
        sampler = gl.GFNDiffusion(gl.gmm9, config=config)
        state = checkpoint.state_of(sampler)
        # as `fit(device=...)` does: the same, with other tensors
        sampler.target = gl.GMM(gl.gmm9.means.clone(), 0.3, "9gmm")
        checkpoint.restore(sampler, state, "in memory")
        seen = sampler.seen.original if config.standardise else sampler.seen
        assert seen.means is sampler.target.means


def test_an_ensemble_has_one_map_and_trains_as_each_alone():
    ensemble = gl.Ensemble(gl.gmm9, seeds=2, config=gl.Config(**SMALL)).fit(progress=False)
    assert ensemble[0].seen is ensemble[1].seen
    alone = gl.GFNDiffusion(gl.gmm9, config=gl.Config(**SMALL), seed=1).fit(progress=False)
    weights = ensemble[1].policy.state_dict()
    for name, value in alone.policy.state_dict().items():
        assert torch.allclose(value, weights[name], atol=1e-5)


def test_what_it_costs_is_counted():
    sampler = gl.GFNDiffusion(gl.gmm9, config=gl.Config(**SMALL))
    assert sampler.energy_calls == sampler.seen.energy_calls > 0
    assert sampler.fit(1, progress=False, seed=1).energy_calls > sampler.seen.energy_calls


def test_the_search_works_in_them():
    options = {"replay_ratio": 0.5, "ls_every": 2, "ls_steps": 20, "ls_burn_in": 10}
    config = gl.Config(standardise=True, steps=4, batch_size=20, iterations=6, **options)
    target = far()
    sampler = gl.GFNDiffusion(target, config=config).fit(progress=False)
    found = sampler.buffers["search"].sample(50, seeded())
    theirs = target.log_reward(sampler.seen.decode(found.x)) + sampler.seen.log_det
    assert torch.allclose(found.log_reward, theirs, atol=1e-3)


def test_a_diagnosis_looks_in_them():
    config = gl.Config(**SMALL).replace(iterations=300, steps=20, coarse_steps=None, lr=5e-3)
    there = gl.GMM(100 + 10 * gl.gmm9.means, 100 * 0.3, "there")
    blind = lambda x: -there.log_reward(x)  # noqa: E731
    sampler = gl.GFNDiffusion(blind, 2, config=config).fit(progress=False)
    found = gl.diagnose(sampler)
    assert "sigma too small" not in found.verdicts
    assert found.evidence.piloted
    # exploration would be no help to a sampler that learns from particles alone
    assert diagnosis._advice_to_explore(found.evidence) == (
        "set iterations=600; if that is no help, prefill=1000, to find more"
    )


def test_a_pilot_that_does_not_arrive_is_one_clear_error():
    walled = lambda x: torch.where(x.abs().amax(-1) < 1e-3, 0.0, math.inf) + 0 * x.sum(-1)  # noqa: E731
    with pytest.raises(ValueError, match="no start of the pilot came to an end|did not arrive"):
        standardised(gl.targets.as_target(walled, 40), 1.0, "cpu")


def test_where_it_cannot_be():
    conditions = torch.linspace(-1, 1, 50)[:, None]
    with pytest.raises(ValueError, match="standardise=True is for targets with no condition"):
        gl.GFNDiffusion(
            lambda x, c: (x - c).square().sum(-1), 2, conditions=conditions, standardise=True
        )
    with pytest.raises(ValueError, match="no gradient"):
        gl.GFNDiffusion(lambda x: x.detach().square().sum(-1), 2, standardise=True)
