"""One test for each defect of the public reference code, so that none is repeated here.

Most are tested where the code at fault would live, and `ELSEWHERE` says where; the others follow.
"""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import gfnlite as gl
from gfnlite import step

ELSEWHERE = {
    "the seeds of one job are the same run": (
        "test_sampler::test_the_same_seed_repeats_and_seeds_differ"
    ),
    "replay draws from a list made before the newest samples": (
        "test_replay::test_what_was_added_can_be_drawn_at_once"
    ),
    "the first batch is stored twice": "test_replay::test_first_batch_is_stored_once",
    "every add sorts the whole buffer": "test_replay::test_cost_does_not_grow_with_the_buffer",
    "latents are paired with another image": (
        "test_training::test_replay_keeps_each_condition_with_its_sample"
    ),
    "partial energies are off by one state backward": (
        "test_known_answers::test_objectives_are_exact_at_the_optimum_of_a_gaussian"
    ),
    "samples of 25GMM are sorted by mode": "test_targets::test_samples_are_in_no_order",
    "exploration depends on T": (
        "test_process::test_exploration_adds_its_variance_for_every_number_of_steps"
    ),
    "local search asks thrice a step": "test_local_search::test_one_call_a_step",
    "only accepted moves are kept": (
        "test_local_search::test_keeps_states_not_accepted_moves_only"
    ),
    "the rank weight does nothing": "test_replay::test_rank_weight_changes_the_law",
    "beta does nothing": "test_replay::test_tempering_reaches_the_effective_sample_size",
    "training does not resume": (
        "test_training::test_every_way_of_training_trains_and_resumes_bit_for_bit"
    ),
}
SMALL = {"iterations": 12, "batch_size": 32, "steps": 6, "coarse_steps": None, "hidden": 16}


@pytest.mark.parametrize("place", ELSEWHERE.values(), ids=ELSEWHERE)
def test_the_test_that_guards_it_exists(place):
    module, name = place.split("::")
    tree = ast.parse((Path(__file__).parent / f"{module}.py").read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_training_ends_with_an_evaluation_and_a_saved_model(tmp_path):
    # The public script crashes in its last evaluation, and never saves the final model.
    sampler = gl.GFNDiffusion(gl.gmm9, **SMALL).fit(folder=tmp_path, progress=False)
    loaded = gl.GFNDiffusion.load(tmp_path / "checkpoint.pt")
    assert loaded.iteration == 12
    assert loaded.evaluate(200) == sampler.evaluate(200)


@pytest.mark.parametrize("priority", ["uniform", "rank", "reward", "weight"])
@pytest.mark.parametrize("objective", ["tb", "vargrad", "db", "subtb"])
def test_every_objective_replays_by_every_priority(objective, priority):
    # DB and SubTB with replay, and priorities other than rank, crash in the public code.
    sampler = gl.GFNDiffusion(
        gl.gmm9, objective=objective, replay_priority=priority, replay_ratio=0.5, **SMALL
    ).fit(progress=False)
    assert sampler.iteration == 12


@pytest.mark.parametrize("langevin", [False, True])
def test_the_path_integral_sampler_runs_and_learns(langevin):
    # The README's commands for it crash in the public code.
    target = gl.Gaussian([1.0, -1.0], 1.0, log_z=0.5)
    sampler = gl.GFNDiffusion(
        target, sigma2=1.0, objective="reverse_kl", langevin=langevin, lr=1e-2,
        **SMALL | {"iterations": 150},
    )  # fmt: skip
    before = gl.elbo(sampler.log_weight(4000))
    sampler.fit(progress=False)
    assert before < -0.3  # KL from N(0, I) is 1, log Z 0.5
    assert gl.elbo(sampler.log_weight(4000)) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("objective", ["tb", "db", "subtb", "vargrad"])
def test_the_loss_is_a_mean_over_the_batch(objective):
    # The public SubTB sums over it, so that its learning rate depends on the batch size.
    sampler = gl.GFNDiffusion(gl.gmm9, objective=objective, **SMALL)
    tr = sampler.rollout(gl.time_grid(6), 16, generator=torch.Generator().manual_seed(0))
    loss = step.objective(objective, sampler.config)
    twice = {
        name: torch.cat((value, value), -1)
        for name, value in vars(tr).items()
        if name in ("log_reward", "log_terminal", "log_z", "ratio_pf", "ratio_pb")
    }
    twice["flow"] = None if tr.flow is None else torch.cat((tr.flow, tr.flow), 1)
    doubled = gl.Trajectory(**vars(tr) | twice)
    torch.testing.assert_close(loss(doubled), loss(tr))
    # The twin, a sum over the batch, is found out.
    summed = [loss(batch) * len(batch.log_reward) for batch in (doubled, tr)]
    assert not torch.allclose(*summed)


# Trains until it is killed, and writes a checkpoint at every step, as a preempted job would.
JOB = """
import sys
import time
import gfnlite as gl
from gfnlite import train
train.CHECKPOINT_SECONDS = 0
train.LOGS = 400
gl.GFNDiffusion(
    gl.gmm9, iterations=400, batch_size=32, steps=8, coarse_steps=4, hidden=16, replay_ratio=0.5,
    ls_every=5, ls_steps=6, ls_burn_in=3, replay_priority="weight", exploration=2.0,
).fit(folder=sys.argv[1], progress=False)
"""


def test_ten_kills_at_random_moments_change_nothing(tmp_path):
    def job(folder):
        return subprocess.Popen([sys.executable, "-I", "-c", JOB, str(folder)])

    assert job(tmp_path / "whole").wait() == 0
    rng, killed = torch.Generator().manual_seed(0), 0
    path = tmp_path / "killed" / "checkpoint.pt"
    while killed < 10:
        running, seen = job(tmp_path / "killed"), path.stat().st_mtime_ns if path.exists() else 0
        # Once it is under way again, after a moment that no schedule of its own decides.
        while running.poll() is None and (not path.exists() or path.stat().st_mtime_ns == seen):
            time.sleep(0.005)
        time.sleep(0.15 * torch.rand((), generator=rng).item())
        running.kill()
        if running.wait() == 0:
            break  # it got to the end first: fewer kills than asked for
        killed += 1
    assert killed == 10, f"done after {killed} kills"
    assert job(tmp_path / "killed").wait() == 0
    whole, resumed = (
        gl.GFNDiffusion.load(tmp_path / name / "checkpoint.pt") for name in ("whole", "killed")
    )
    for mine, theirs in zip(resumed.policy.parameters(), whole.policy.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert resumed.energy_calls == whole.energy_calls
    strip = [[entry | {"seconds": 0} for entry in s.history] for s in (resumed, whole)]
    assert strip[0] == strip[1] and len(strip[0]) == 400
