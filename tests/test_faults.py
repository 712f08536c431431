"""Whatever kills a run: nothing half is taken for whole, and the next command goes on."""

import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

import gfnlite as gl
from reproduce import experiments, papers, pool, report, runner, state, stopping

# A training that is over in a second, and saves its state all the time.
BODY = """
from pathlib import Path
import gfnlite as gl
from gfnlite import train
train.CHECKPOINT_SECONDS = 0.05
with open(Path(out_dir) / "begun", "a") as file:
    file.write("x")
small = {"steps": 5, "batch_size": 32, "iterations": iterations or 150, "hidden": 16}
config = gl.preset(task, method, profile, **small)
ensemble = gl.Ensemble(gl.gmm9, config=config, seeds=seeds)
ensemble.fit(folder=out_dir, progress=False)
for sampler in ensemble:
    gl.record(sampler, Path(out_dir) / f"seed-{sampler.seed}", n_samples=50, paper_samples=20)
(Path(out_dir) / "samples.png").write_bytes(b"picture")
"""
EXPERIMENT = {
    "task": "9gmm",
    "notebook": "fake",
    "methods": ["TB", "TB+Expl", "VarGrad+Expl"],
    "seeds": {"quick": [0, 1]},
}


@pytest.fixture
def house(build_house):
    return build_house(EXPERIMENT, BODY)


def grid():
    return experiments.load("quick")


def numbers(rows):
    """What rows say, without what time it took."""
    return {
        row["method"]: {k: v for k, v in row["metrics"].items() if k != "seconds"} for row in rows
    }


@pytest.fixture
def reference(house):
    """The numbers of the grid when nothing happens."""
    assert set(pool.run_all(grid(), 2).values()) == {"done"}
    rows = numbers(report.collect([]))
    assert len(rows) == 3
    shutil.rmtree(experiments.RUNS)
    return rows


class Grid:
    """A process that works on the grid, and what is seen of it from outside."""

    def __init__(self):
        self.process, self.finished = None, {}

    def start(self):
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=pool.run_all, args=(grid(), 2))
        self.process.start()

    def kill_one(self, rng):
        """SIGKILL to the process, to a worker of it or to a kernel, whichever it is."""
        try:
            mine = psutil.Process(self.process.pid)
            victim = rng.choice([mine, *mine.children(recursive=True)])
            victim.kill()
        except psutil.NoSuchProcess:
            return
        if victim.pid == self.process.pid:
            self.process.join()

    def check(self, reference):
        """Only whole runs are done, and none of these has been begun again."""
        for method, found in numbers(report.collect([])).items():
            assert found == reference[method]
        for run in grid():
            if runner.finished(run):
                begun = (run.folder / "begun").read_text()
                assert self.finished.setdefault(run.name, begun) == begun


@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.full)])
def test_kills_at_any_moment_lose_nothing(house, reference, injected, kills):
    injected("kill -9 of a command, a worker or a kernel", kills)
    rng, grids, at_work, killed, lives = random.Random(kills), [Grid()], 0, 0, 0
    while killed < kills:
        now = grids[-1]
        if now.process is None or not now.process.is_alive():
            if all(runner.finished(run) for run in grid()):  # a whole grid, in spite of all
                lives += 1
                shutil.rmtree(experiments.RUNS)
                grids.append(Grid())
            grids[-1].start()
            continue
        time.sleep(rng.uniform(0, 8))
        at_work += any(runner.status(run) == "running" for run in grid())
        now.kill_one(rng)
        killed += 1
        now.check(reference)
    last = grids[-1]
    last.process.join()
    for _ in range(3):  # a run that a dying kernel still holds is left for the next command
        pool.run_all(grid(), 2)
    last.check(reference)
    assert numbers(report.collect([])) == reference
    assert at_work > kills / 3  # most of the kills hit something that was at work
    print(f"{killed} kills, {at_work} of them while runs were at work, {lives} grids finished")


def test_each_worker_has_a_device_and_many_share_one(house, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert pool.gpus() == ["3", "5"]
    for jobs, devices, seen in ((3, ["3", "5"], {"3", "5"}), (2, ["7"], {"7"})):
        assert set(pool.run_all(grid(), jobs, devices).values()) == {"done"}
        machines = [runner.record_of(run.folder)["machine"] for run in grid()]
        assert {machine["visible_devices"] for machine in machines} == seen
        shutil.rmtree(experiments.RUNS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert pool.gpus() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_where_it_comes(house, injected, number):
    injected(number.name)
    (run, *_) = experiments.load("quick", overrides={"iterations": 100_000})
    process = multiprocessing.get_context("fork").Process(target=pool.run_all, args=([run], 1))
    process.start()
    history = run.folder / "seed-0" / "history.jsonl"
    try:
        wait_for(lambda: history.exists() and history.read_text())
        os.kill(process.pid, number)
        process.join(60)
        assert process.exitcode == 1 and runner.status(run) == "interrupted"
    finally:
        process.kill()  # which ends what it has begun
    record = runner.record_of(run.folder)
    assert record["cause"] == "told to terminate" and record["wall_seconds"] > 0
    saved = gl.GFNDiffusion.load(run.folder / "seed-0" / "checkpoint.pt").iteration
    written = json.loads(history.read_text().splitlines()[-1])["iteration"]
    assert saved >= written > 0


def test_a_run_that_was_done_is_not_if_more_seeds_of_it_were_stopped(house, monkeypatch):
    (run, *_) = experiments.load("quick", seeds=[0])
    assert pool.run_all([run], 1) == {run.name: "done"}
    (more, *_) = experiments.load("quick", seeds=[0, 1])
    execute = runner.execute
    monkeypatch.setattr(runner, "execute", lambda *words: os.kill(os.getpid(), signal.SIGTERM))
    assert pool.run_all([more], 1) == {run.name: "interrupted"}
    assert runner.record_of(run.folder)["cause"] == "its process was killed by SIGTERM"
    monkeypatch.setattr(runner, "execute", execute)
    assert pool.run_all([more], 1) == {run.name: "done"} and runner.finished(more)


@pytest.mark.parametrize("begun", [False, True])
def test_a_kernel_that_has_not_begun_is_killed_at_once(begun):
    """Amid its start it may not hear an interrupt; this one never does."""
    deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", deaf], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        start_new_session=True,
    ) as kernel:  # fmt: skip
        kernel.stdout.readline()
        with stopping.stoppable(grace=60) as stop:
            stop.kernel = kernel.pid
            if begun:
                stop.check()
            stop.ask("told to terminate")
            if begun:
                with pytest.raises(subprocess.TimeoutExpired):
                    kernel.wait(0.5)
                stop.ask("told to terminate")
            assert kernel.wait(20) == -signal.SIGKILL


def test_a_signal_while_a_worker_starts_reaches_it(house, monkeypatch, injected):
    injected("SIGTERM")
    (run, *_) = experiments.load("quick", overrides={"iterations": 10_000_000})
    start = pool._start

    def interrupted_start(*words):
        os.kill(os.getpid(), signal.SIGTERM)
        return start(*words)

    monkeypatch.setattr(pool, "_start", interrupted_start)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        pool.run_all([run], 1)
    assert time.monotonic() - began < 60 and runner.status(run) == "interrupted"


@pytest.mark.parametrize("place", ["code_label", "now"])  # before the kernel and after it
def test_a_signal_without_a_kernel_is_no_traceback(house, monkeypatch, place):
    (run, *_) = grid()
    function = getattr(runner, place)

    def with_signal(*words):
        signal.raise_signal(signal.SIGUSR1)
        return function(*words)

    monkeypatch.setattr(runner, place, with_signal)
    state = runner.execute(run)
    assert state == runner.status(run) == ("interrupted" if place == "code_label" else "done")
    cause = runner.record_of(run.folder)["cause"]
    assert cause == ("told that its time is nearly up" if state == "interrupted" else None)


def test_what_a_killed_writer_left_is_removed_and_files_are_for_all(house):
    (run, *_) = grid()
    left = run.folder / "seed-0" / ".checkpoint.pt.ab3_x9zq"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    assert pool.run_all([run], 1) == {run.name: "done"} and not left.exists()
    umask = os.umask(0)
    os.umask(umask)
    assert (run.folder / "run.json").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_time_limit_ends_a_run_and_the_next_goes_on(house, reference, injected):
    injected("a time limit")
    (run, *_) = grid()
    states = []
    for limit in (1.0, 3.0, 60.0, 60.0):
        states.append(pool.run_all([run], 1, limit=limit)[run.name])
        if states[-1] == "done":
            break
        assert f"its time limit of {limit:g} s is over" == runner.record_of(run.folder)["cause"]
    assert states[0] == "interrupted" and states[-1] == "done"
    (row,) = report.collect([])
    assert numbers([row])[run.method] == reference[run.method]


def test_a_cell_that_ignores_interrupts_is_killed(house, injected):
    injected("a kernel that hangs")
    deaf = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(600)"
    (house / "notebooks/fake.py").write_text(
        (house / "notebooks/fake.py").read_text().replace("import gfnlite as gl", deaf, 1)
    )
    began = time.monotonic()
    assert runner.execute(grid()[0], limit=4, grace=1) == "interrupted"
    assert time.monotonic() - began < 60


def test_only_one_works_in_a_folder_at_a_time(house, injected):
    injected("two commands on one run")
    runs = grid()[:1]
    processes = [multiprocessing.get_context("fork").Process(target=pool.run_all, args=(runs, 1))
                 for _ in range(2)]  # fmt: skip
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert runner.finished(runs[0])
    # The second waited a little, and then left it alone or found it done.
    assert len((runs[0].folder / "begun").read_text()) == 1


@pytest.fixture
def small_disk(house):
    """The run folders on a disk of eight megabytes."""
    experiments.RUNS.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(experiments.RUNS)],
        capture_output=True, text=True,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"needs to mount a small disk: {mounted.stderr.strip()}")
    yield experiments.RUNS
    subprocess.run(["umount", "-l", str(experiments.RUNS)], check=True)


def test_a_full_disk_is_said_and_harms_nothing(small_disk, injected):
    injected("a full disk")
    first, second, _ = grid()
    assert pool.run_all([first], 1)[first.name] == "done"
    before = {p: p.read_bytes() for p in first.folder.rglob("*") if p.is_file()}
    ballast = small_disk / ".ballast"
    with pytest.raises(OSError, match="No space"), open(ballast, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    said = pool.run_all([second], 1)[second.name]
    assert "No space left on device" in said + (runner.record_of(second.folder).get("cause") or "")
    assert not runner.finished(second)
    assert {p: p.read_bytes() for p in before} == before
    assert [row["method"] for row in report.collect([])] == [first.method]
    ballast.unlink()
    assert pool.run_all([second], 1)[second.name] == "done"


def test_damaged_files_are_made_anew(house, reference, injected):
    injected("a damaged file", 4)
    (run, *_) = grid()
    assert pool.run_all([run], 1) == {run.name: "done"}
    metrics, checkpoint = (run.folder / f"seed-{seed}" for seed in (0, 1))
    metrics, checkpoint = metrics / "metrics.json", checkpoint / "checkpoint.pt"
    (run.folder / "seed-1/metrics.json").unlink()
    metrics.write_text(metrics.read_text().replace("7", "8"))
    data = bytearray(checkpoint.read_bytes())
    data[len(data) // 2] ^= 1
    checkpoint.write_bytes(data)
    assert state.standing(run).state == "missing" and not runner.finished(run)
    assert pool.run_all([run], 1) == {run.name: "done"}
    damaged = runner.record_of(run.folder)["damaged"]
    assert damaged == ["seed-0/metrics.json", "seed-1/checkpoint.pt"]
    (row,) = report.collect([])
    assert numbers([row])[run.method] == reference[run.method]
    for name in ("run.json", "config.json"):
        path = run.folder / name
        path.write_text(path.read_text().replace("9gmm", "8gmm").replace("done", "dome"))
        assert runner.status(run) == "unreadable" and report.collect([]) == []
        assert pool.run_all([run], 1) == {run.name: "done"}
        (row,) = report.collect([])
        assert numbers([row])[run.method] == reference[run.method]


def break_once(house, code):
    """Have the notebook do this at its first entry of the history, unless it did before."""
    path = house / "notebooks/fake.py"
    once = f"""
def once(sampler, entry):
    if not (Path(out_dir) / "broke").exists():
        (Path(out_dir) / "broke").touch()
        sampler.save(Path(out_dir) / f"seed-{{sampler.seed}}" / "checkpoint.pt")
        {code}
ensemble.fit(folder=out_dir, progress=False, callbacks=once)
"""
    path.write_text(path.read_text().replace("ensemble.fit(folder=out_dir, progress=False)", once))


BREAKS = {
    "a dead kernel": ("import os; os.kill(os.getpid(), 9)", "DeadKernelError: Kernel died"),
    "no memory": (
        "import resource, torch; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**40)); "
        "torch.empty(2**32)",
        "(RuntimeError|MemoryError): .*allocate",
    ),
}


@pytest.mark.parametrize("what", BREAKS)
def test_what_breaks_a_cell_is_named_and_the_next_command_goes_on(house, reference, injected, what):
    injected(what)
    code, cause = BREAKS[what]
    break_once(house, code)
    (run, *_) = grid()
    assert pool.run_all([run], 1) == {run.name: "failed"}
    assert re.match(cause, runner.record_of(run.folder)["cause"])
    assert report.collect([]) == [] and runner.why_not(run) is None
    assert pool.run_all([run], 1) == {run.name: "done"}
    (row,) = report.collect([])
    assert numbers([row])[run.method] == reference[run.method]


def test_a_kernel_without_memory_says_so_and_the_next_command_goes_on(
    house, reference, injected, monkeypatch
):
    """It has enough to start, and not for PyTorch."""
    injected("no memory")
    (run, *_) = grid()
    with monkeypatch.context() as patch:

        def limited(*words, prepare=papers._prepare_kernel):
            prepare(*words)
            resource.setrlimit(resource.RLIMIT_AS, (10**9,) * 2)

        patch.setattr(papers, "_prepare_kernel", limited)
        assert pool.run_all([run], 1) == {run.name: "failed"}
    cause = runner.record_of(run.folder)["cause"]
    assert re.match("DeadKernelError: Kernel died|(Import|OS|Memory)Error: .*(map|memory)", cause)
    assert report.collect([]) == []
    assert pool.run_all([run], 1) == {run.name: "done"}
    (row,) = report.collect([])
    assert numbers([row])[run.method] == reference[run.method]


@pytest.mark.parametrize("days", [-1, 1])
def test_a_clock_that_jumps_while_runs_are_at_work_changes_nothing(
    house, reference, injected, monkeypatch, days
):
    injected("a clock that jumps")
    jump = f"import time; now = time.time; time.time = lambda: now() + {86400 * days}"
    break_once(house, jump)
    stamps = iter(f"20{26 + place * days}-01-01T00:00:00+00:00" for place in range(9))
    monkeypatch.setattr("reproduce.provenance.now", lambda: next(stamps))
    monkeypatch.setattr(runner, "now", lambda: next(stamps))
    (run, *_) = grid()
    real, broke = time.time, run.folder / "broke"
    monkeypatch.setattr(time, "time", lambda: real() + 86400 * days * broke.exists())
    assert runner.execute(run) == "done"
    record = runner.record_of(run.folder)
    assert (record["finished"] > record["started"]) == (days > 0)
    assert 0 < record["wall_seconds"] < 600 and broke.exists()
    (row,) = report.collect([])
    assert numbers([row])[run.method] == reference[run.method]
    assert all(0 < seconds < 600 for seconds in row["metrics"]["seconds"]["values"])


def test_a_read_only_folder_is_said_and_harms_nothing(small_disk, injected):
    injected("a read-only folder")
    first, second, _ = grid()
    assert pool.run_all([first], 1)[first.name] == "done"

    def remount(how):
        subprocess.run(["mount", "-o", f"remount,{how}", str(small_disk)], check=True)

    remount("ro")
    said = pool.run_all([second], 1)[second.name]
    assert said.startswith("failed, Read-only file system")
    assert [row["method"] for row in report.collect([])] == [first.method]
    assert runner.finished(first) and runner.status(second) == "missing"
    remount("rw")
    assert pool.run_all([second], 1)[second.name] == "done"


def wait_for(condition, seconds=90):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)
