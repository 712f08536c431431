"""The densities that nothing was tuned on: their truths are true, and all of them are judged."""

import json
import math

import pytest
import torch
from scipy.stats import multivariate_t

import gfnlite as gl
from gfnlite.smc import annealed_smc
from reproduce.bench import suite

EXACT = [name for name, make in suite.DENSITIES.items() if make().sample is not None]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_new_densities_are_normalised():
    x = 3 * torch.randn(200, 5, generator=seeded())
    t = torch.as_tensor(multivariate_t(df=3, shape=torch.eye(5).numpy()).logpdf(x.numpy()))
    assert torch.allclose(suite.StudentT(5, 3).log_reward(x).double(), t, atol=1e-4)

    covariance = 0.95 ** (torch.arange(5)[:, None] - torch.arange(5)).abs().float()
    law = torch.distributions.MultivariateNormal(torch.zeros(5), covariance)
    assert torch.allclose(suite.Correlated(covariance).log_reward(x), law.log_prob(x), rtol=1e-4)

    u, v = torch.arange(-18, 18, 0.05), torch.arange(-25, 120, 0.05)
    grid = torch.cartesian_prod(u, v)
    mass = suite.Banana().log_reward(grid).double().exp().sum().item() * 0.05**2
    assert mass == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", EXACT)
def test_samples_and_scores_belong_to_the_density(name):
    """Stein's identity, E[x_i s_i] = -1 and E[s_i] = 0 under the target; its twin is a shift."""
    target = suite.DENSITIES[name]()
    x = target.sample(40_000, seeded())
    for moved, holds in ((x, True), (x + 0.7 * x.std(0), False)):
        score = target.score(moved)
        values = torch.cat((score, moved * score + 1), 1).double()
        z = values.mean(0) / values.std(0) * math.sqrt(len(x))
        # of at most 100 averages the largest is below 4.5 but once in a thousand times
        assert (z.abs().max() < 4.5) == holds, (name, z)


@pytest.mark.parametrize("name", suite.DENSITIES)
def test_scores_are_the_slopes_of_the_energy(name):
    target = suite.DENSITIES[name]()
    x = torch.randn(20, target.dim, generator=seeded(), dtype=torch.float64).float()
    _, score = target.log_reward_and_score(x)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(target.log_reward(x).sum(), x)
    assert torch.allclose(score, slope, rtol=1e-3, atol=1e-3 * slope.abs().max().item())


def test_there_are_those_that_were_asked_for():
    assert len(suite.DENSITIES) >= 12
    masses = suite.DENSITIES["unequal 1:100"]().mode_mass
    assert (masses.max() / masses.min()).item() == pytest.approx(100, rel=1e-5)
    assert {make().dim for make in suite.DENSITIES.values()} >= {2, 5, 10, 31, 50}
    for make in suite.DENSITIES.values():
        assert make().name not in gl.TASKS  # no settings of its own


def test_an_unknown_normaliser_is_found_by_importance_sampling():
    covariance = 0.95 ** (torch.arange(5)[:, None] - torch.arange(5)).abs().float()
    known = suite.Correlated(covariance)
    known.log_z = None
    log_z, error = suite.true_log_z(known)
    assert 0 < error < 0.01 and abs(log_z) < 4 * error
    # the regression's, by a way with no code in common
    target = suite.DENSITIES["logistic regression"]()
    log_z, error = suite.true_log_z(target)
    runs = [annealed_smc(target, 1000, 1.0, generator=seeded(seed)).log_z for seed in range(4)]
    spread = torch.tensor(runs).std().item() / 2
    assert error < 0.01 and spread < 0.1
    assert log_z == pytest.approx(sum(runs) / 4, abs=5 * (spread + error))  # t with 3 degrees


@pytest.mark.parametrize("way", suite.WAYS)
def test_a_cell_says_how_good_it_is(way):
    cell = suite.measure("shifted", way, 0, iterations=3)
    assert cell["elbo_gap"] > 0 and cell["eubo_gap"] > 0 and cell["energy_calls"] > 0
    assert 0 <= cell["least_share"] <= 1.2 and "failed" not in cell


def test_what_fails_is_reported(monkeypatch):
    def refuse(target, seed):
        raise ValueError("no start of the pilot came to an end")

    monkeypatch.setitem(suite.WAYS, "default", refuse)
    assert "no start" in suite.measure("banana", "default", 0)["failed"]


def test_cells_are_kept_as_they_come_and_not_made_again(tmp_path, monkeypatch):
    made = []

    def one(name, way, seed):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append((name, way, seed))
        return {"density": name, "way": way, "seed": seed}

    monkeypatch.setattr(suite, "RESULTS", tmp_path / "suite.json")
    monkeypatch.setattr(suite, "measure", one)
    with pytest.raises(KeyboardInterrupt):
        suite.run()
    first = [
        (c["density"], c["way"], c["seed"]) for c in json.loads(suite.RESULTS.read_text())["cells"]
    ]
    assert first == made
    made.clear()
    with pytest.raises(KeyboardInterrupt):
        suite.run()
    assert not set(made) & set(first)
