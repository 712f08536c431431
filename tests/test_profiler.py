"""`run --profile-step`: where a training step's time goes, each operation once, and a trace."""

import json
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from torch.autograd import DeviceType

import gfnlite as gl
from reproduce import experiments, profiler
from reproduce.__main__ import main
from reproduce.experiments import Run

TINY = {"steps": 3, "batch_size": 8, "hidden": 8, "layers": 1, "iterations": 60}


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "RUNS", tmp_path)
    return tmp_path


def tiny(method="TB+Expl", **changes):
    return Run("25gmm", method, "smoke", (0, 1), "04_25gmm", TINY | changes)


def test_a_profile_is_of_the_steps_that_a_training_takes():
    run = tiny()
    found = profiler.profile_steps(run)
    assert found.last - found.first == profiler.STEPS - 1
    named = dict((name, calls) for name, _, calls in found.operations)
    assert named["Optimizer.step#Adam.step"] == 1  # of a step, whatever the seeds
    spent = [each for _, each, _ in found.operations]
    assert spent == sorted(spent, reverse=True)
    assert sum(found.kinds.values()) == pytest.approx(sum(spent))
    assert 0 < sum(spent) < 1.5 * found.profiled
    assert found.kinds["matrix products"] > 0 and found.search is None


def test_a_search_is_no_part_of_the_steps_but_is_measured():
    search = {"ls_every": 10, "ls_steps": 40, "ls_burn_in": 20, "replay_ratio": 0.5}
    long = profiler.profile_steps(tiny("TB+Expl+LS", **search | {"ls_steps": 2000}))
    assert long.search > 5 * long.plain
    calls = dict((name, calls) for name, _, calls in long.operations)
    assert calls["aten::normal_"] < 20  # a search alone draws two thousand times
    assert "every 10 steps" in "\n".join(long.lines())


def test_time_on_a_gpu_is_the_operations_and_not_their_kernels_too():
    def event(key, cpu, device, kind=DeviceType.CPU):
        names = ("key", "self_cpu_time_total", "self_device_time_total", "device_type", "count")
        return SimpleNamespace(**dict(zip(names, (key, cpu, device, kind, 4), strict=True)))

    events = [
        event("aten::mm", 100, 3000),
        event("aten::gelu", 8000, 1000),
        event("sgemm_128x32", 0, 3000, DeviceType.CUDA),
    ]
    kinds, operations = profiler.spent(events, 2, on_gpu=True)
    assert kinds["matrix products"] == 1.5 and kinds["activations"] == 0.5
    assert operations == [("aten::mm", 1.5, 2.0), ("aten::gelu", 0.5, 2.0)]
    kinds, operations = profiler.spent(events, 2, on_gpu=False)
    assert operations[0] == ("aten::gelu", 4.0, 2.0) and kinds["matrix products"] == 0.05


def test_the_command_prints_it_and_leaves_a_trace_and_nothing_else(runs, monkeypatch):
    monkeypatch.setattr(experiments, "load", lambda *a: [tiny()])
    said = CliRunner().invoke(main, ["run", "--profile-step"], catch_exceptions=False).output
    folder = tiny().folder
    assert [path.name for path in folder.iterdir()] == ["trace.json"]
    trace = json.loads((folder / "trace.json").read_text())
    assert any(event.get("name") == "aten::mm" for event in trace["traceEvents"])
    for words in ("ms a step", "matrix products", "aten::", str(folder / "trace.json")):
        assert words in said
    assert len(said.splitlines()) == 2 + 1 + 8 + 1 + profiler.TOP + 1
    # it is no run yet, and no run that went wrong
    status = CliRunner().invoke(main, ["collect"], catch_exceptions=False).output
    assert folder.name not in status


def test_what_trains_nothing_has_no_step(runs):
    words = ["--profile", "smoke", "--profile-step", "--only", "task=25gmm", "method=SMC+MALA"]
    said = CliRunner().invoke(main, ["run", *words], catch_exceptions=False).output
    assert "trains nothing" in said and len(said.splitlines()) == 1


def test_the_trace_is_whole_or_not_there(runs):
    class Failing:
        def export_chrome_trace(self, path):
            with open(path, "w") as file:
                file.write("{")
            raise OSError("no space left on device")

    path = runs / "run" / "trace.json"
    path.parent.mkdir()
    path.write_text("before")
    with pytest.raises(OSError, match="no space"):
        profiler._export(Failing(), path)
    assert path.read_text() == "before" and list(path.parent.iterdir()) == [path]


def test_steps_on_coarse_grids_are_said_to_be_so():
    coarse = profiler.profile_steps(tiny(coarse_steps=2, coarse_fraction=1.0))
    assert "T = 2 coarse" in next(coarse.lines())
    assert "T = 3" in next(profiler.profile_steps(tiny()).lines())
    assert gl.preset("25gmm", "TB+Expl", "quick").coarse_steps  # such steps are most of a quick run
