"""What a user may do to a sampler without harm: odd inputs, other devices, damaged files."""

import warnings

import numpy as np
import pytest
import torch

import gfnlite as gl

SMALL = {"iterations": 12, "batch_size": 32, "steps": 5, "coarse_steps": None, "hidden": 8}
SEARCH = {"replay_ratio": 0.5, "ls_every": 3, "ls_steps": 4, "ls_burn_in": 2}


def small(target=gl.gmm9, **changes):
    return gl.GFNDiffusion(target, **SMALL | changes)


def fit(sampler, **kwargs):
    return sampler.fit(progress=False, **kwargs)


def weights_of(sampler):
    return torch.cat([p.flatten() for p in sampler.policy.parameters()]).detach().clone()


def bowl(x):
    return x.square().sum(-1)


def test_a_checkpoint_of_a_gpu_is_resumed_on_a_cpu(tmp_path):
    path = tmp_path / "checkpoint.pt"
    sampler = fit(small(**SEARCH), folder=tmp_path, iterations=6)
    state = torch.load(path, weights_only=True)
    state["device"] = "cuda"  # whose random states are 16 bytes long
    for name in ("train", "sample"):
        state["generators"][name] = torch.zeros(16, dtype=torch.uint8)
    torch.save(state, path)
    loaded = gl.GFNDiffusion.load(path, device="cpu")
    assert torch.equal(weights_of(loaded), weights_of(sampler)) and loaded.iteration == 6
    assert fit(small(**SEARCH), folder=tmp_path).iteration == 12


def test_an_energy_is_known_by_the_same_points_on_every_device(monkeypatch):
    """A device's own random numbers, here those of another seed, decide nothing of it."""
    known, own = small().fingerprint, torch.Generator

    class OfADevice(own):
        def manual_seed(self, seed):
            return super().manual_seed(seed + 1)

    monkeypatch.setattr(torch, "Generator", lambda *device: (OfADevice if device else own)())
    assert small().fingerprint == known
    conditional = gl.targets.LinearGaussian([[1.0, 0.5]], noise=1.0)
    there = small(conditional).fingerprint
    monkeypatch.undo()
    assert small(conditional).fingerprint == there


def test_a_checkpoint_moves_between_a_real_gpu_and_a_cpu(tmp_path):
    if not torch.cuda.is_available():
        warnings.warn("NO GPU: moving a checkpoint is NOT TESTED here", stacklevel=1)
        pytest.skip("NO GPU: moving a checkpoint from one is not tested here")
    for first, second in (("cuda", "cpu"), ("cpu", "cuda")):
        folder = tmp_path / first
        begun = fit(small(device=first, **SEARCH), folder=folder, iterations=6)
        ended = fit(small(device=second, **SEARCH), folder=folder)
        assert (begun.iteration, ended.iteration) == (6, 12) and ended.device.type == second


def cut(state, key):
    return {name: value for name, value in state.items() if name != key}


def other(state, **changes):
    return state | changes


DAMAGES = {
    "no policy": lambda s: cut(s, "policy"),
    "no optimiser": lambda s: cut(s, "optimiser"),
    "no generators": lambda s: cut(s, "generators"),
    "no iteration": lambda s: cut(s, "iteration"),
    "no config": lambda s: cut(s, "config"),
    "unknown setting": lambda s: other(s, config=s["config"] | {"foo": 1}),
    "no target": lambda s: cut(s, "target"),
    "optimiser of another": lambda s: other(s, optimiser={"state": {}, "param_groups": []}),
    "short random state": lambda s: other(
        s, generators=s["generators"] | {"train": torch.zeros(3, dtype=torch.uint8)}
    ),
    "other widths": lambda s: other(
        s, policy={k: v[:1] if v.ndim else v for k, v in s["policy"].items()}
    ),
    "buffers of another": lambda s: other(s, buffers={}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_changes_nothing(tmp_path, damage):
    path = tmp_path / "checkpoint.pt"
    fit(small(**SEARCH), folder=tmp_path)
    torch.save(damage(torch.load(path, weights_only=True)), path)
    sampler = fit(small(**SEARCH), iterations=2)
    before = weights_of(sampler)
    with pytest.raises(ValueError, match=r"checkpoint") as caught:
        fit(sampler, folder=tmp_path)
    assert "\n" not in str(caught.value)
    assert torch.equal(weights_of(sampler), before) and sampler.iteration == 2
    assert fit(sampler).iteration == 12


def test_a_checkpoint_that_is_behind_is_not_gone_back_to(tmp_path):
    fit(small(), iterations=4, folder=tmp_path)
    sampler = fit(small(), iterations=8)
    with pytest.raises(ValueError, match="at iteration 4, this sampler already at 8"):
        fit(sampler, folder=tmp_path)
    assert sampler.iteration == 8


def test_another_seed_for_a_folder_is_refused_before_anything_is_lost(tmp_path):
    fit(small(), folder=tmp_path)
    sampler = fit(small(), iterations=5)
    before = weights_of(sampler)
    with pytest.raises(ValueError, match="has seed=0, this sampler 7"):
        fit(sampler, seed=7, folder=tmp_path)
    assert sampler.seed == 0 and sampler.iteration == 5
    assert torch.equal(weights_of(sampler), before)


def test_a_device_that_is_not_there_changes_nothing():
    sampler = fit(small(), iterations=3)
    for device in ("gpu", "cuda:77"):
        with pytest.raises(ValueError, match=f"device='{device}' is not available here"):
            fit(sampler, device=device)
        with pytest.raises(ValueError, match=f"device='{device}' is not available here"):
            small(device=device)
    assert fit(sampler).iteration == 12


def test_another_energy_of_the_same_name_is_refused(tmp_path):
    fit(small(lambda x: bowl(x), dim=2), folder=tmp_path)
    with pytest.raises(ValueError, match="was trained on another energy"):
        fit(small(lambda x: 2 * bowl(x), dim=2), folder=tmp_path)
    assert fit(small(lambda x: bowl(x), dim=2), folder=tmp_path).iteration == 12


def test_a_function_named_like_a_task_is_not_that_task(tmp_path):
    def rings(x):
        return bowl(x)

    sampler = fit(small(rings, dim=2))
    assert sampler.config.exploration == 0  # no preset
    sampler.save(tmp_path / "a.pt")
    with pytest.raises(ValueError, match="no known task: pass its energy_fn"):
        gl.GFNDiffusion.load(tmp_path / "a.pt")


def test_numbers_of_numpy_are_numbers():
    config = gl.Config(sigma2=np.float64(2), steps=np.int64(7), lr=np.float32(0.5))
    assert (config.sigma2, config.steps, config.lr) == (2.0, 7, 0.5)
    assert type(config.steps) is int and type(config.lr) is float
    assert small(seed=np.int32(3)).seed == 3


def test_states_and_conditions_may_be_lists_and_arrays():
    sampler = small()
    expected = sampler.log_weight(x=torch.zeros(3, 2)).shape
    assert sampler.log_weight(x=np.zeros((3, 2))).shape == expected
    assert sampler.log_weight(x=[[0.0, 0.0]] * 3).shape == expected
    moved = gl.GFNDiffusion(
        lambda x, c: bowl(x - c), dim=2, conditions=torch.rand(9, 2), **SMALL
    )  # fmt: skip
    for c in ([1, 2], np.zeros(2), torch.zeros(2, dtype=torch.float64)):
        assert moved.sample(4, condition=c).shape == (4, 2)


def test_an_energy_of_another_arity_is_said():
    with pytest.raises(TypeError, match="condition"):
        gl.GFNDiffusion(bowl, dim=2, conditions=torch.rand(9, 2))
    with pytest.raises(TypeError, match="condition"):
        gl.GFNDiffusion(lambda x, c: bowl(x - c), dim=2)


@pytest.mark.parametrize("kind", [torch.float64, torch.float16])
def test_an_energy_of_another_precision_trains_and_replays(kind):
    sampler = fit(small(lambda x: bowl(x).to(kind), dim=2, replay_ratio=0.5))
    assert sampler.iteration == 12 and sampler.policy.log_z().dtype == torch.float32


def test_an_energy_that_changes_its_input_harms_nobody():
    def rude(x):
        energy = bowl(x)
        x.zero_()
        return energy

    polite, other = fit(small(lambda x: bowl(x), dim=2)), fit(small(rude, dim=2))
    assert torch.equal(weights_of(polite), weights_of(other))


def test_a_network_as_energy_gets_no_gradient():
    class Energy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, x):
            return self.scale * bowl(x)

    energy = Energy()
    fit(small(energy, dim=2, objective="reverse_kl"))
    assert energy.scale.grad is None


def test_reverse_kl_takes_a_task_as_it_is():
    assert gl.GFNDiffusion(gl.gmm25, objective="reverse_kl").config.exploration == 0
    with pytest.raises(ValueError, match="can only learn on-policy"):
        gl.GFNDiffusion(gl.gmm25, objective="reverse_kl", exploration=1.0)


def test_it_trains_where_gradients_are_off():
    with torch.no_grad():
        assert fit(small()).iteration == 12


def test_a_sampler_that_cannot_reach_its_target_warns():
    far = gl.GMM([[30.0, 0.0], [-30.0, 0.0]], 1.0)
    with pytest.warns(UserWarning, match="reach to .*gl.suggest_scale"):
        small(far, sigma2=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small(far, sigma2=100.0, exploration=200.0)


@pytest.mark.parametrize("priority", ["rank", "reward", "weight", "uniform"])
def test_a_likelihood_of_samples_that_are_preferred_warns(priority):
    config = {"replay_ratio": 1.0, "prefill": 8, "replay_objective": "mle"}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        small(**config, replay_priority=priority)
    told = [str(warning.message) for warning in caught]
    assert len(told) == (priority in ("rank", "reward"))
    assert all(f"replay_priority='{priority}' prefers high rewards" in text for text in told)


@pytest.mark.parametrize("config", [{"steps": 10}, "quick"])
def test_a_config_is_a_config(config):
    with pytest.raises(TypeError, match="must be a gl.Config; gl.preset"):
        gl.GFNDiffusion(gl.gmm9, config=config)


def test_one_callback_needs_no_list_and_must_be_callable():
    seen = []
    fit(small(), callbacks=lambda sampler, entry: seen.append(entry))
    assert len(seen) == 12
    with pytest.raises(ValueError, match="must be functions of"):
        fit(small(), callbacks=["log"])


def test_things_show_themselves_in_a_line():
    sampler = fit(small())
    assert "9gmm" in repr(sampler) and "12 of 12" in repr(sampler)
    assert repr(sampler.trajectory(7)) == "Trajectory(T=5, B=7, d=2)"
