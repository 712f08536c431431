"""The quick profile, in one or two minutes on one thread, is good: at T = 100, for three seeds."""

import time

import pytest
import torch

import gfnlite as gl

# task, method: CPU seconds, ELBO and EUBO gaps, importance-sampled error, modes as a fraction of
# their exact mass.
GOALS = {
    ("25gmm", "TB+Expl"): (75, 0.22, 0.30, 0.05, 0.6),
    ("9gmm", "TB+Expl"): (30, 0.13, 0.20, 0.05, 0.8),
    ("9gmm", "TB+Expl+LV"): (40, 0.03, 0.03, 0.05, 0.8),
    ("manywell32", "MLE+LP+LV"): (120, 1.9, 2.3, 0.25, 0.7),
}


@pytest.mark.full
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("task, method", GOALS)
def test_quick_profile_reaches_its_goal(task, method, seed, capsys, slowdown):
    target, started = gl.named_target(task), time.process_time()
    sampler = gl.GFNDiffusion(target, config=gl.preset(task, method, "quick"), seed=seed)
    sampler.fit(progress=False)
    seconds, result = time.process_time() - started, sampler.evaluate()
    weights = torch.tensor(result["mode_weights"]) / target.mode_mass
    below, above = target.log_z - result["elbo"], result["eubo"] - target.log_z
    error = abs(result["log_z_is"] - target.log_z)
    with capsys.disabled():
        print(
            f"\n{task} {method} seed {seed}: {seconds:.0f} s, ELBO -{below:.3f}, EUBO "
            f"+{above:.3f}, IS log Z off by {error:.3f}, {result['modes']} of {len(weights)} "
            f"modes, {weights.min():.2f} to {weights.max():.2f} of their mass, "
            f"{result['energy_calls'] / 1e6:.1f}M energy calls"
        )
    limit, elbo, eubo, log_z, mode = GOALS[task, method]
    assert result["modes"] == len(weights) and mode < weights.min()
    assert weights.max() < 2 - mode
    assert below < elbo and above < eubo and error < log_z
    assert seconds < limit * slowdown()
