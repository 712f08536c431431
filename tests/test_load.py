"""Much of everything: ten thousand runs, ten million samples, hundreds of thousands of steps."""

import json
import random
import subprocess
import sys
import time

import pytest

from reproduce import experiments, state
from reproduce.bench import endurance, grid, load, process

COMMANDS = ("list", "status", "collect", "report")


def test_where_runs_stand_takes_time_in_proportion_to_them(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "RUNS", tmp_path)

    def seconds(count):
        runs = [
            experiments.Run("25gmm", "TB", "quick", (0,), "04_25gmm", {"lr": 1e-3 + 1e-6 * i})
            for i in range(count)
        ]
        for run in runs:
            if not run.folder.exists():
                grid.finish(run, run.folder, random.Random(0))
        start = time.process_time()
        assert {one.state for one in state.standings(runs)} == {"done"}
        return time.process_time() - start

    few, many = seconds(50), seconds(400)
    assert many < 8 * 2.5 * few + 0.1
    assert many < 400 * 2e-3  # of which 10,000 take seconds


@pytest.fixture(scope="module")
def many_runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("grid") / "root"
    made = grid.build(root, 10_000)
    assert len({run.name for run in made}) >= 10_000
    return root


@pytest.mark.full
@pytest.mark.parametrize("command", COMMANDS)
def test_ten_thousand_runs_are_told_of_in_seconds(many_runs, command, slowdown):
    """Of the CPU: waiting for others on a busy machine is not counted."""
    wall, cpu, mb = grid.cost(many_runs, command)
    print(f"{command}: {wall:.2f} s, of the CPU {cpu:.2f} s, {mb:.0f} MB")
    assert cpu < 5 * slowdown() and mb < 500


@pytest.mark.full
@pytest.mark.parametrize("dim", [2, 32])
def test_ten_million_samples_cost_their_memory_and_little_time(dim, slowdown):
    small, large = (load.buffer(size, dim) for size in (100_000, 10_000_000))
    print(small, large)
    # x and log R, the rank law's key and order, and what a rebuild needs beside them
    assert large["bytes_per_sample"] < 4 * (dim + 2) + 40
    assert large["add_ms"] < 4 * small["add_ms"] + 0.2
    # a sort of all every hundred draws, which is most of it: as the root of their number
    assert large["draw_ms"] < 16 * small["draw_ms"] and large["draw_ms"] < 16 * slowdown()


def grown(steps, folder, *words):
    command = process.command("endurance", str(steps), str(folder), *words)
    done = subprocess.run(command, cwd=process.ROOT, capture_output=True, text=True, check=True)
    return endurance.grown(json.loads(done.stdout))


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what is resident")
def test_memory_does_not_grow_with_the_steps_of_a_training(tmp_path):
    found = grown(20_000, tmp_path / "sound")
    print(f"{found:.3f} MB in 10,000 steps")
    assert found < 1
    assert grown(2000, tmp_path / "leaking", "keep") > 10  # the twin: a MB at each of 60 moments
