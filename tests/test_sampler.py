"""GFNDiffusion as a user meets it: fit, sample, evaluate, save, load, resume."""

import dataclasses
import time

import pytest
import torch

import gfnlite as gl

KEYS = (
    "elbo eubo log_z_is log_z_learned ess w2 w2_floor modes mode_weights energy_calls n_samples "
    "ess_forward mode_coverage log_z"
).split()


def small(target=gl.gmm9, **changes):
    settings = {"iterations": 40, "batch_size": 32, "steps": 8, "coarse_steps": 4, "hidden": 16}
    return gl.GFNDiffusion(target, **settings | changes)


def fit(sampler, **kwargs):
    return sampler.fit(progress=False, **kwargs)


def weights_of(sampler):
    return torch.cat([p.flatten() for p in sampler.policy.parameters()]).detach()


def test_first_thing_a_user_tries_has_the_default_preset():
    sampler = gl.GFNDiffusion(energy_fn=gl.gmm25)
    assert sampler.config == gl.preset("25gmm", "MLE+LV+Std", "quick")
    assert sampler.sample(batch_size=16, steps=7).shape == (16, 2)
    # settings that are given one by one are those of trajectory balance
    assert gl.GFNDiffusion(gl.gmm25, steps=7).config == gl.preset(
        "25gmm", "TB+Expl", "quick", steps=7
    )


def test_the_method_that_needs_no_tuning_is_taken_where_it_can_be():
    energies = {
        "smooth": lambda x: x.square().sum(-1),
        "without a gradient": lambda x: x.detach().square().sum(-1),
    }
    taken = {
        name: gl.GFNDiffusion(energy, 2).config.standardise for name, energy in energies.items()
    }
    assert taken == {"smooth": True, "without a gradient": False}
    conditional = gl.GFNDiffusion(
        lambda x, c: (x - c).square().sum(-1), 2, conditions=torch.rand(9, 2)
    )
    wide = gl.GFNDiffusion(lambda x: x.square().sum(-1), 501)
    assert not conditional.config.standardise and not wide.config.standardise
    with pytest.warns(UserWarning, match="the pilot .* trajectory balance"):
        rough = gl.GFNDiffusion(lambda x: (1e9 * x).sin().sum(-1) * 1e6 + x.square().sum(-1), 30)
    assert not rough.config.standardise


@pytest.mark.full
def test_untouched_it_finds_all_modes_within_a_minute(slowdown):
    started = time.process_time()
    found = gl.GFNDiffusion(gl.gmm25, device="cpu").fit(progress=False).evaluate()
    assert time.process_time() - started < 60 * slowdown()
    share = torch.tensor(found["mode_weights"]) * 25
    # 20,000 samples: 800 of each mode, so that chance alone is 0.035
    assert found["modes"] == 25 and 0.75 < share.min() and share.max() < 1.25
    assert found["log_z"] - found["elbo"] < 0.1 and found["eubo"] - found["log_z"] < 0.1


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
    assert absent == {"eubo", "w2", "w2_floor", "modes", "mode_weights", *KEYS[-3:]}
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
