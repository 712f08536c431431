"""GFNDiffusion as a user meets it: fit, sample, evaluate, save, load, resume."""

import dataclasses
import json
import random
import subprocess
import sys

import pytest
import torch

import gfnlite as gl
from gfnlite import train

KEYS = (
    "elbo eubo log_z_is log_z_learned ess w2 w2_floor modes mode_weights energy_calls n_samples"
).split()


def small(target=gl.gmm9, **changes):
    settings = {"iterations": 40, "batch_size": 32, "steps": 8, "coarse_steps": 4, "hidden": 16}
    return gl.GFNDiffusion(target, **settings | changes)


def fit(sampler, **kwargs):
    return sampler.fit(progress=False, **kwargs)


def weights_of(sampler):
    return torch.cat([p.flatten() for p in (*sampler.net.parameters(), sampler.log_z)]).detach()


def test_first_thing_a_user_tries_has_the_default_preset():
    sampler = gl.GFNDiffusion(energy_fn=gl.gmm25)
    assert sampler.config == gl.preset("25gmm", "TB+Expl", "quick")
    assert sampler.sample(batch_size=16, steps=7).shape == (16, 2)


def test_evaluate_has_its_keys_and_none_where_there_is_no_truth():
    known = fit(small()).evaluate(n_samples=500)
    assert list(known) == KEYS
    assert all(known[key] is not None for key in KEYS)
    assert known["energy_calls"] == 40 * 32 and known["n_samples"] == 500
    assert known["elbo"] <= known["log_z_is"] and known["elbo"] < 0 < known["eubo"]
    assert "modes found" in repr(known) and "of 9" in known._repr_html_()

    unknown = fit(small(lambda x: x.square().sum(-1), dim=2)).evaluate(n_samples=500)
    assert list(unknown) == KEYS
    absent = {key for key in KEYS if unknown[key] is None}
    assert absent == {"eubo", "w2", "w2_floor", "modes", "mode_weights"}
    assert fit(small(objective="vargrad")).evaluate(500)["log_z_learned"] is None


def test_evaluation_repeats_and_looking_leaves_training_alone():
    sampler, other = fit(small(), iterations=20), fit(small(), iterations=20)
    assert sampler.evaluate(300) == sampler.evaluate(300)
    assert sampler.evaluate(300) != sampler.evaluate(300, seed=1)
    sampler.sample(10)
    assert torch.equal(weights_of(fit(sampler)), weights_of(fit(other)))


def test_the_same_seed_repeats_and_seeds_differ():
    first, again, other = (fit(small(seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(weights_of(first), weights_of(again))
    assert not torch.equal(weights_of(first), weights_of(other))
    assert torch.equal(first.sample(8), again.sample(8))


def test_training_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(small()).evaluate(100)
    assert torch.equal(torch.rand(3), expected)


def test_torch_and_numpy_alone_are_enough(tmp_path):
    script = """
import sys
for extra in ("ot", "tqdm", "matplotlib", "seaborn", "scipy", "pandas", "IPython"):
    sys.modules[extra] = None  # as if it were not installed
import gfnlite as gl
sampler = gl.GFNDiffusion(gl.gmm9, iterations=3, steps=4, coarse_steps=None).fit()
sampler.save("a.pt")
print(gl.GFNDiffusion.load("a.pt").sample(5).shape, sampler.evaluate(50)["w2"])
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.strip() == "torch.Size([5, 2]) None", done.stderr
    assert "w2 needs the package POT" in done.stderr


def learn_9gmm(**changes):
    config = gl.preset("9gmm", "TB+Expl", "quick")
    changes = {"iterations": 1200, "coarse_fraction": 1.0} | changes
    return fit(gl.GFNDiffusion(gl.gmm9, config=config, **changes)).evaluate(5000)


def test_training_finds_all_nine_modes():
    result = learn_9gmm()
    assert result["modes"] == 9
    assert abs(result["log_z_is"]) < 0.1
    assert -0.5 < result["elbo"] < 0 < result["eubo"] < 0.5


def test_training_without_exploration_collapses_and_the_eubo_tells():
    result = learn_9gmm(exploration=0.0, iterations=400)
    assert result["modes"] < 9
    assert result["eubo"] > 1


@pytest.mark.parametrize("objective", ["tb", "vargrad"])
def test_resume_equals_the_uninterrupted_run_bit_for_bit(tmp_path, monkeypatch, objective):
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0)
    whole = fit(small(objective=objective), folder=tmp_path / "whole")
    rng = random.Random(objective)
    for attempt in range(5):
        folder, stop, step = tmp_path / str(attempt), rng.randrange(1, 40), train.train_step

        def killed(sampler, stop=stop, step=step):
            if sampler.iteration == stop:
                raise KeyboardInterrupt
            return step(sampler)

        monkeypatch.setattr(train, "train_step", killed)
        with pytest.raises(KeyboardInterrupt):
            fit(small(objective=objective), folder=folder)
        monkeypatch.setattr(train, "train_step", step)
        resumed = fit(small(objective=objective), folder=folder)
        assert torch.equal(weights_of(resumed), weights_of(whole))
        assert torch.equal(resumed.sample(8), small_loaded(folder).sample(8))
        for mine, theirs in zip(resumed.history, whole.history, strict=True):
            assert mine | {"seconds": 0} == theirs | {"seconds": 0}
        lines = (folder / "history.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == resumed.history


def small_loaded(folder):
    return gl.GFNDiffusion.load(folder / "checkpoint.pt")


def test_resuming_a_finished_run_does_nothing(tmp_path):
    done = fit(small(), folder=tmp_path)
    again = fit(small(), folder=tmp_path)
    assert again.iteration == 40 and again.energy_calls == done.energy_calls
    assert again.seconds == done.seconds


def test_save_and_load(tmp_path):
    sampler = fit(small(), iterations=10)
    sampler.save(tmp_path / "a.pt")
    loaded = gl.GFNDiffusion.load(tmp_path / "a.pt")
    assert dataclasses.asdict(loaded.config) == dataclasses.asdict(sampler.config)
    assert torch.equal(fit(loaded).sample(8), fit(sampler).sample(8))


def test_a_custom_energy_is_loaded_with_its_function(tmp_path):
    def bowl(x):
        return x.square().sum(-1)

    fit(small(bowl, dim=2)).save(tmp_path / "a.pt")
    with pytest.raises(ValueError, match="pass its energy_fn"):
        gl.GFNDiffusion.load(tmp_path / "a.pt")
    assert gl.GFNDiffusion.load(tmp_path / "a.pt", bowl).sample(4).shape == (4, 2)


def test_log_weight_goes_both_ways():
    sampler = small()
    assert sampler.log_weight(5).shape == (5,)
    assert sampler.log_weight(x=torch.zeros(7, 2), steps=3).shape == (7,)


def test_schedules():
    config = gl.Config(exploration=16.0, exploration_decay=0.5, lr_decay=0.25)
    # The standard deviation falls linearly, so half way down the variance is a quarter.
    explored = [train.exploration_at(config, p) for p in (0, 0.25, 0.5, 1)]
    assert explored == [16, 4, 0, 0]
    factors = [train.learning_rate_factor(config, p) for p in (0, 0.75, 0.875, 1)]
    assert factors == [1, 1, 0.5, 0]
    assert train.learning_rate_factor(gl.Config(lr_decay=0.0), 1.0) == 1


def test_full_profile_is_the_paper():
    config = gl.preset("25gmm", "TB+Expl", "full")
    assert (config.steps, config.batch_size, config.iterations) == (100, 300, 25_000)
    assert (config.sigma2, config.lr, config.lr_log_z, config.hidden) == (5, 1e-3, 0.1, 64)
    assert config.exploration / config.steps == pytest.approx(0.2**2)
    assert config.coarse_steps is None and config.lr_decay == 0
    assert gl.preset("25gmm", "TB", "full") == config.replace(exploration=0.0)


@pytest.mark.full
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_quick_profile_finds_all_25_modes(seed):
    sampler = fit(gl.GFNDiffusion(gl.gmm25, seed=seed))
    result = sampler.evaluate()
    weights = torch.tensor(result["mode_weights"]) * 25
    print(f"{sampler.seconds:.0f} s, weights {weights.min():.2f} to {weights.max():.2f}\n{result}")
    assert result["modes"] == 25 and weights.min() > 0.6
    assert -0.22 < result["elbo"] < -0.125 + 0.02 and result["eubo"] < 0.30
