# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From one notebook to the paper's tables
#
# The paper's tables have a dozen rows each, on several targets, with five seeds a row. You have a
# laptop, or an account on a cluster that kills jobs at their time limit. How do you get all of these
# numbers, and how do you know afterwards that none of them is half of a run?
#
# :::{admonition} At a glance
# **You will** run the chapters of this book in batch, on one machine and on a Slurm cluster, stop a
# training in its middle and find that nothing is lost.
#
# **You will be able to** fill rows of the tables yourself, say beforehand what they will cost, and
# compare what came out with what is committed here.
#
# **You need** [Twenty-five modes](04_25gmm), and a shell. **Time**: 15 minutes to read; half a minute
# to run on one CPU core. What the rows themselves take is {ref}`below <cost-of-rows>`.
# :::

# %% tags=["remove-cell"]
# Where the package is not installed, as on Colab: fetch the book, install.
import importlib.util
import os

book = "gfn-diffusion-samplers"
if importlib.util.find_spec("gfnlite") is None:
    os.system(f"git clone -q --depth 1 https://github.com/vincehass/{book}")
    os.system(f"pip install -q './{book}/gfnlite[all]'")
if os.path.isdir(book):  # also when the kernel is started again
    os.chdir(f"{book}/notebooks")

# %% tags=["hide-input"]
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections import defaultdict
from html import escape
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from IPython.display import HTML, Markdown

import gfnlite as gl
from gfnlite.plots import BLUE, GREY, ORANGE

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
gl.plots.style()
here = Path.cwd()
ROOT = next(
    folder
    for folder in (here, *here.parents)
    if (folder / "reproduce" / "published.json").exists()
)


def shell(command):
    """What a command says in the repository, its paths cut."""
    words = [sys.executable, *shlex.split(command)[1:]]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.replace(f"{ROOT}/", "").replace(str(ROOT), ".")


def say(command):
    """Print it in lines that fit."""
    wrap = textwrap.TextWrapper(
        76, subsequent_indent="    ", break_on_hyphens=False
    )
    print(
        *(wrap.fill(line) for line in shell(command).splitlines()), sep="\n"
    )


def table(head, rows):
    """An HTML table of words, escaped."""

    def line(tag, cells):
        made = [
            f'<{tag} class="text">{escape(str(c))}</{tag}>' for c in cells
        ]
        return f"<tr>{''.join(made)}</tr>"

    lines = "".join(line("td", row) for row in rows)
    return HTML(f'<table class="ledger">{line("th", head)}{lines}</table>')


# %% [markdown]
# ## Cut in two, a training is the same training
#
# The promise first, since all that follows rests on it. Here one training runs to its end; another with
# the same settings gets a Ctrl-C from inside at iteration 200, and a third goes on from what that one
# left in its folder.

# %%
config = gl.Config(
    steps=20,
    batch_size=64,
    hidden=32,
    iterations=500,
    sigma2=5.0,
    exploration=4.0,
)


def ctrl_c(sampler, entry):
    if entry["iteration"] >= 200:
        signal.raise_signal(signal.SIGINT)


whole = gl.GFNDiffusion(gl.gmm9, config=config).fit(progress=False)
with tempfile.TemporaryDirectory() as folder:
    cut = gl.GFNDiffusion(gl.gmm9, config=config)
    try:
        cut.fit(folder=folder, progress=False, callbacks=ctrl_c)
    except KeyboardInterrupt:
        print(f"interrupted at iteration {cut.iteration}, which left")
        print(*sorted(path.name for path in Path(folder).iterdir()))
    again = gl.GFNDiffusion(gl.gmm9, config=config)  # another process
    again.fit(folder=folder, progress=False)
pairs = zip(
    whole.policy.parameters(), again.policy.parameters(), strict=True
)
identical = all(torch.equal(a, b) for a, b in pairs)
print("weights are identical:", identical)

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-reproduce-resume", "caption": "The ELBO of a training that nothing disturbed (line), and of one that was interrupted and gone on with (dots). They are the same numbers, to the last bit."}, "image": {"alt": "A grey rising curve with dots on it, blue before the interruption at iteration 200 and orange after it, all of them exactly on the curve."}}
figure, ax = plt.subplots(figsize=(6.4, 3.4))
t, y = zip(
    *((e["iteration"], e["elbo"]) for e in whole.history), strict=True
)
ax.plot(t, y, color=GREY, lw=3, label="undisturbed")
for color, label, chosen in (
    (BLUE, "before Ctrl-C", lambda i: i <= cut.iteration),
    (ORANGE, "after it", lambda i: i > cut.iteration),
):
    dots = [e for e in again.history if chosen(e["iteration"])]
    ax.plot(
        [e["iteration"] for e in dots],
        [e["elbo"] for e in dots],
        ".",
        color=color,
        label=label,
    )
ax.set_xlabel("iteration")
ax.set_ylabel("ELBO, nats")
furthest = max(
    abs(a["elbo"] - b["elbo"])
    for a, b in zip(whole.history, again.history, strict=True)
)
ax.set_title(f"Cut in two, and {furthest:g} nats apart")
ax.legend()
plt.show()

# %% [markdown]
# ## One machine
#
# An **experiment** is a file in `reproduce/experiments/`: a task, its methods, the seeds of each
# profile. A **run** is one method on one task in one profile, with all its seeds; it is the task's
# notebook, the very chapter you have read, executed by
# [papermill](https://papermill.readthedocs.io) with other parameters and without the cells that only
# teach. So what you saw train is what fills the table.
#
# ```bash
# source reproduce/environment.sh   # makes .venv, once, and enters it
# python -m reproduce list --only task=25gmm
# python -m reproduce run --profile quick --only task=25gmm
# python -m reproduce status --watch
# python -m reproduce show 25gmm-TB+Expl-quick --open
# python -m reproduce collect
# ```
#
# `--only` selects by task and method, `--seeds 0,1,2` replaces the seeds, and `--set steps=50
# lr=1e-3` changes settings: the run then has a folder of its own. A misspelt name, a wrong type or a
# value out of range is one line that says what is allowed, before anything starts. `--dry-run`
# checks all that, and says what each run would cost:

# %%
command = "python -m reproduce run --profile full --dry-run"
what = "--only task=manywell32 method=TB+Expl+LP --set hidden=128"
say(f"{command} {what}")

# %% [markdown]
# ### What survives
#
# | what happens | what the run does | what you do |
# |:---|:---|:---|
# | Ctrl-C, `kill`, `--limit 2h` | ends its training step, saves a checkpoint, is *interrupted* | the same command again |
# | Ctrl-C once more, `kill -9`, a power cut | nothing; the last checkpoint, if there is one yet, is half a minute old at most | the same command again |
# | an error in a cell | is *failed*, keeps traceback and notebook; the other runs go on | look with `show`, mend it, again |
# | the disk is full | one line says so; every file is still the old or the new one, whole | make room, again |
# | two commands at once | the second leaves the runs of the first alone | nothing |
#
# The command that starts is the command that goes on: finished runs are skipped, and others begin
# at their checkpoint. This is no approximation. A checkpoint has the networks, the optimiser, the
# random states and the replay buffers, so that a training which was cut in two is *the same*
# training: the figure above. The rows of annealing train nothing and have no checkpoints: each of their
# seeds is done or begins anew.

# %% [markdown]
# ### Several at once, and one GPU for many
#
# `--jobs 4` runs four at a time, each in a process of its own. Without it there is one for each GPU,
# or for each core where there is none. Several GPUs need no option: the k-th process sees the k-th of
# them, in the order of `CUDA_VISIBLE_DEVICES`, and every run trains all its seeds as one program.
#
# These networks are small: one run leaves most of a large GPU idle. More jobs than GPUs share them,
# and NVIDIA's Multi-Process Service lets them run side by side instead of in turn:
#
# ```bash
# nvidia-cuda-mps-control -d
# python -m reproduce run --profile full --only task=manywell32 --jobs 7
# echo quit | nvidia-cuda-mps-control
# ```
#
# (cost-of-rows)=
# ## What the rows cost
#
# Every committed row keeps how long its training took and on what. A row whose training moved, say
# from a GPU to a CPU after an interruption, names both.

# %% tags=["hide-input"]
ASKED = """
import json
import gfnlite as gl
from reproduce import cost, experiments, seed_names

def hours(run, gpu):
    try:
        return cost.estimated(run, gpu)[0] * len(run.seeds) / 3600
    except cost.Unknown:
        return None

runs = experiments.load("full")
runs = [r for r in runs if isinstance(r.config, gl.Config)]
rows = [
    [r.task, r.method, hours(r, False), hours(r, True), len(r.seeds)]
    for r in runs
]
print(json.dumps({"rows": rows, "names": seed_names.table()}))
"""
asked = json.loads(shell(f"python -c {shlex.quote(ASKED)}"))

made = []  # of committed rows of the full profile
for path in sorted((ROOT / "reproduce" / "results").glob("*.json")):
    result = json.loads(path.read_text())
    for row in result.get("rows", []):
        if row["seeds"] and row["profile"] == "full":
            made.append(row | {"task": result["task"]})

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-reproduce-cost", "caption": "Minutes that the training of a committed row took, all its seeds together, in the full profile, on the device that its record names."}, "image": {"alt": "Horizontal bars of training minutes, one for each committed row, coloured by device."}}
kinds = list(dict.fromkeys(row["device"] for row in made))
minutes = [
    row["metrics"]["seconds"]["mean"] * len(row["seeds"]) / 60
    for row in made
]
figure, ax = plt.subplots(figsize=(8.4, 0.29 * len(made) + 1))
for kind, color in zip(kinds, cycle((GREY, BLUE, ORANGE))):
    at = [i for i, row in enumerate(made) if row["device"] == kind]
    ax.barh(
        at,
        [minutes[i] for i in at],
        color=color,
        label=kind.replace("$", r"\$"),  # no mathematics
    )
ax.set_yticks(range(len(made)))
ax.set_yticklabels([f"{row['task']}  {row['method']}" for row in made])
ax.invert_yaxis()
ax.set_xlabel("minutes for all seeds of the row")
ax.legend(fontsize="small")
ax.set_title(f"{len(made)} rows took {sum(minutes) / 60:.1f} hours in all")
plt.show()

# %% tags=["hide-input"]
alone = [
    (spent, row["device"])
    for spent, row in zip(minutes, made, strict=True)
    if row["device"] != "cpu" and " then " not in row["device"]
]
shared = ""
if alone:
    short, long = min(alone)[0], max(alone)[0]
    where = escape(", ".join(sorted({device for _, device in alone})))
    shared = (
        f"{len(alone)} of these were on the {where} alone, up to seven at "
        "a time sharing the one card as above: they took between "
        f"{short:.0f} and {long:.0f} minutes each, for all seeds."
    )
Markdown(shared)

# %% [markdown]
# For what has not been run there are estimates: the benchmark's time of a single training step, by
# the number of steps, for one core; and for a GPU where other rows of the task were run on both. The
# Cox process, of far more dimensions than anything in the benchmark, goes by its own short run.

# %% tags=["hide-input"]
run_already = {(row["task"], row["method"]) for row in made}
by_task = defaultdict(list)
for task, method, on_cpu, on_gpu, _ in asked["rows"]:
    by_task[task].append(((task, method) in run_already, on_cpu, on_gpu))


def total(hours):
    """Their sum; how many of them are unknown."""
    known = [h for h in hours if h is not None]
    missing = len(hours) - len(known)
    words = f"{sum(known):.1f}" if known else ""
    unknown = f"{missing} unknown" if missing else ""
    return ", ".join(filter(None, (words, unknown))) or "–"


lines = []
for task, rows in by_task.items():
    left = [row for row in rows if not row[0]]
    lines.append(
        [
            task,
            len(rows) - len(left),
            len(left),
            total([row[1] for row in left]),
            total([row[2] for row in left]),
        ]
    )
head = ["task", "rows run", "rows left", "hours of one core", "of a GPU"]
table(head, lines)

# %% [markdown]
# Row by row, with its own number of seeds:


# %% tags=["hide-input"]
def minutes_of(hours):
    """As minutes; a dash if nothing is known."""
    return "–" if hours is None else f"{60 * hours:.0f}"


took = {
    (row["task"], row["method"]): f"{spent:.0f} ({row['device']})"
    for spent, row in zip(minutes, made, strict=True)
}
lines = [
    [task, method, seeds, minutes_of(on_cpu), minutes_of(on_gpu),
     took.get((task, method), "")]
    for task, method, on_cpu, on_gpu, seeds in asked["rows"]
]  # fmt: skip
head = ["task", "method", "seeds", "min of a core", "of a GPU", "took"]
every = table(head, lines)
summary = f"<summary>The {len(lines)} rows that train</summary>"
HTML(f"<details>{summary}{every.data}</details>")

# %% [markdown]
# ## All of it on one GPU
#
# From nothing, on a machine with one GPU and a network. The rows are small, so seven at a time share
# it; each command can be stopped and given again, and goes on where it was. First the table that is
# cheapest, and the classical rows, which want cores:
#
# ```bash
# git clone https://github.com/vincehass/gfn-diffusion-samplers
# cd gfn-diffusion-samplers
# source reproduce/environment.sh
# python -m reproduce prepare
# nvidia-cuda-mps-control -d
# export OMP_NUM_THREADS=1
# python -m reproduce run --profile full --jobs 7 --only task=25gmm
# python -m reproduce run --profile full --jobs 7 --only task=manywell32
# python -m reproduce run --profile full --jobs 7 --only task=funnel
# python -m reproduce run --profile full --jobs 7 --only task=vae
# python -m reproduce run --profile full --jobs 7
# echo quit | nvidia-cuda-mps-control
# python -m reproduce report
# ```
#
# The last `run` takes what is left: the targets that the paper has no table of, and the Cox process,
# whose two buffers take several gigabytes. A run of uncommitted code is left out of the report; on a
# machine without the repository's history say `report --allow-dirty`.

# %% [markdown]
# ## A Slurm cluster, in five steps
#
# [Slurm](https://slurm.schedmd.com) already is a scheduler: it queues, places, limits and restarts.
# `submit` only says to it what there is to do.
#
# **1. Get it there.** On the login node, which has a network, into a file system that all nodes see:
# ```bash
# git clone https://github.com/vincehass/gfn-diffusion-samplers
# cd gfn-diffusion-samplers
# source reproduce/environment.sh   # .venv, once
# python -m reproduce prepare       # MNIST, for the rows of the autoencoder
# ```
#
# **2. Look at what would be submitted**, with the partition, account or memory that your cluster
# asks for:
# ```bash
# python -m reproduce submit --profile full --partition gpu --dry-run
# ```
#
# **3. Submit**: an array with a task for each run, at most four at a time; or on cores, without a GPU.
# ```bash
# python -m reproduce submit --profile full --time 8h --cap 4
# python -m reproduce submit --only task=25gmm --gres none --mem 2G
# ```
#
# **4. Watch.** `status` shows folders and queue in one table. `cancel` takes all of it back, or some.
# ```bash
# python -m reproduce status --profile full --watch
# python -m reproduce cancel --only method=TB+Expl
# ```
#
# **5. Collect.** A last job does it once all runs have ended, however they did; you can, any time.
# ```bash
# python -m reproduce collect
# python -m reproduce report
# ```
#
# This is all that Slurm is given for one run: the array, the job that collects after it, and the
# script of both.

# %%
asking = "--time 8h --cap 4 --dry-run"
command = f"python -m reproduce submit --profile full {asking}"
say(f"{command} {what}")

# %% [markdown]
# | what happens | what Slurm does | what the run does |
# |:---|:---|:---|
# | its time limit is near | sends a warning, two minutes before | saves a checkpoint, queues again, goes on |
# | it is preempted | sends SIGTERM, queues it again | saves a checkpoint, goes on when it is started |
# | its node fails | queues it again | goes on from its last checkpoint |
# | it fails | nothing: the others of the array go on | keeps its traceback; `submit` tries it again |
# | `cancel` | removes it from the queue | saves a checkpoint; `submit` goes on from there |
# | `submit` twice | nothing: what runs, waits or is done is left out | |
#
# A row that takes eight hours thus fits into a partition that allows two: it is queued four times.
#
# ### Why plain arrays
#
# Two other ways were tried on a real Slurm of one node with the same task: four small runs, of which
# one raises an error and one is warned of its time limit and has to be queued again.
#
# | | arrays, as here | [submitit](https://github.com/facebookincubator/submitit) | [Snakemake](https://snakemake.github.io) with its Slurm plugin |
# |:---|:---|:---|:---|
# | to install | nothing | 3 packages, where the jobs run too | about 60, in an environment of their own |
# | must stay alive on the login node | nothing | the client, or results are fetched later | the client: without it jobs are orphans |
# | accounting | not needed | without it, a job that leaves no result is waited for without end | asked by default; the queue serves too |
# | a run fails | the others go on | the others go on | the others go on, and it is tried again |
# | time limit | saved and queued again | the same, if the kernel is kept from the signal that goes to all processes | a killed job is a failed one; a retry is a new job |
# | cancelled in mid-training | all save a checkpoint | the same | the same |
# | dependencies | `afterok`, `afterany` | passed on to Slurm by hand | from files: what it is best at |
#
# In time, arrays and submitit did not differ: most of what four small runs take is Python's start.
# Snakemake took twice as long, without a requeue. What decides is the rest. Prepare, run and collect are
# no graph that needs an engine, and the runner itself already skips what is finished and goes on from
# checkpoints. Once a study has many stages that hand files to each other, take Snakemake; for sweeps in
# Python whose jobs are functions, submitit.

# %% [markdown]
# ## Watching a training, and its time
#
# Both are off unless you ask for them. `--track tensorboard` and `--track wandb` log every seed
# while it trains, below the run's folder; Weights & Biases does what its own variables say, so that
# `WANDB_MODE=offline` sends nothing.
#
# ```bash
# python -m reproduce run --profile full --only task=25gmm --track tensorboard
# tensorboard --logdir reproduce/runs
# python -m reproduce run --only task=25gmm method=TB+Expl --profile-step
# ```
#
# `--profile-step` trains nothing to its end: it takes twenty steps of each selected run under
# PyTorch's profiler, prints where their time goes, by kind of operation and by operation, and leaves
# `trace.json` in the run's folder for [Perfetto](https://ui.perfetto.dev) or `chrome://tracing`.
# [Why it is fast](11_why_it_is_fast) tells what one sees there.
#
# ## What a run leaves
#
# ```text
# reproduce/runs/25gmm-TB+Expl-full-cd3f826a/
#   config.json          every setting: the folder's name ends in their hash
#   run.json             status and cause; commit, versions, device, Slurm job
#   notebook.ipynb       the chapter, as it was executed
#   log.txt              what `run` printed; of Slurm's jobs in .slurm/
#   samples.png          what its samples look like
#   seed-0/ seed-1/ …
#     metrics.json       the evaluation; when it is there the seed is done
#     history.jsonl      ELBO, EUBO, loss, … during the training
#     checkpoint.pt      all that is needed to go on, or to sample
# ```
#
# Its files say their own digest, or are checked as archives: one that is not whole any more is set aside
# as `….damaged`, made anew by the next `run`, and named in `run.json`.
#
# Seeds share the folder and not the hash, so that more of them can be added to a finished run:
# `--seeds 0,1,2,3,4` trains those that are missing. And the samplers in it are yours:
# `gl.GFNDiffusion.load` takes the path of a `checkpoint.pt`.
#
# ## From runs to tables
#
# - **`collect`** reads `metrics.json` of every finished run and prints their table; the
#   [results page](15_results) shows it too when you build the book.
# - **`drift`** asks whether your numbers are those committed here, by a test over the seeds with a
#   correction for their number. Exit code 1: some metric has moved.
# - **`report`** merges finished runs into `reproduce/results/`, from which every table and figure of
#   this book is made. It leaves out runs of uncommitted code and runs with fewer seeds than are
#   there, and gives each cell its verdict against the paper.
# - **`report --format latex`** (or `markdown`, `csv`) prints the committed tables for a paper of
#   yours.
#
# ## What is promised, and how it is tested
#
# | promise | test |
# |:---|:---|
# | once a training has a checkpoint, no kill loses more than half a minute; none leaves half a result | processes, workers and kernels of a grid are killed with `kill -9` at random moments until all is done; the tables are those of an undisturbed grid |
# | a resumed training is the undisturbed one | weights compared bit by bit, as above |
# | the same seed on the same machine gives the same bytes of `metrics.json`, its time and the digest apart | three processes compared, one of them killed and resumed; a second thread may change what rounding changes, and the test says how much that is |
# | `drift` seldom cries wolf | hundreds of short trainings that differ in their seed alone, five against five, and the same seeds dealt again and again: no more alarms than its level allows (`results/bench/false_alarms.json`) |
# | a signal or a time limit saves a checkpoint first | signals sent in the middle of cells, also of a cell that ignores them |
# | a full disk harms nothing that is there | runs on a disk of eight megabytes |
# | Slurm's limits, preemption and requeues lose nothing | a real Slurm of one node, which warns, requeues and cancels |
# | the same settings are the same folder, others another | hashes compared, with settings written in other ways and other orders |
# | what is in a table came from code that is committed | `report` leaves out dirty runs, and says so |
# | hostile values stay values | options and settings with blanks, `;` and `$(…)` are given to a real Slurm: each is refused as the value it is, and none is executed |

# %% [markdown]
# ## By the names of the code before
#
# Whoever comes from the repository that this book grew from, or from the paper's code, has scripts
# with its flags. They work, as flags, as a YAML file, or as variables under Slurm:
#
# ```bash
# python -m reproduce train --energy many_well --T 50 --local_search
# python -m reproduce train --from-yaml manywell.yaml
# ENERGY=many_well T=50 LOCAL_SEARCH=1 sbatch reproduce/slurm/run_gfn.sh
# ```
#
# Each name means one setting here, or is refused with the reason. A variable is called as its flag,
# in capitals; a switch such as `LOCAL_SEARCH` is on if it says `1`, and off if it is empty or not set.
# A key of YAML is called as its flag too, except where the table, which the program itself reads,
# says otherwise.

# %% tags=["hide-input"]
lines = []
for name in asked["names"]:
    other = "" if name["key"] == name["flag"][2:] else name["key"]
    lines.append([name["flag"], name["option"], name["meaning"], other])
names = table(["flag", "here", "meaning", "in YAML, if other"], lines)
summary = f"<summary>{len(lines)} names, one by one</summary>"
HTML(f"<details>{summary}{names.data}</details>")

# %% [markdown]
# ## In five lines
#
# 1. A run is a chapter of this book, executed with other parameters; the command that starts it is
#    the command that goes on.
# 2. A checkpoint has *all* the state, so that being interrupted changes no number.
# 3. `--dry-run` before anything long: it checks every setting and says what it will cost.
# 4. Slurm schedules; `submit` writes an array, warns runs before their limit, and queues them again.
# 5. A number counts when it says which code, which seeds and which machine it came from.
#
# ## Exercises
#
# **1.** Run two seeds of `TB+Expl` on 25GMM in the smoke profile. While they train, press Ctrl-C, look
# at `status`, and start the command again. What does `run.json` say of the interruption in the end?
#
# :::{dropdown} Solution
# ```bash
# select="--profile smoke --seeds 0,1 --only task=25gmm method=TB+Expl"
# python -m reproduce run $select --set iterations=3000   # Ctrl-C
# python -m reproduce show 25gmm-TB+Expl-smoke
# python -m reproduce run $select --set iterations=3000
# python -m reproduce show 25gmm-TB+Expl-smoke
# ```
# First its state is *interrupted* and its cause "told to terminate", for the command passes Ctrl-C on
# to its workers; in the end it is *done*, and `wall_seconds` has the time of both parts. With `--set`
# it is a run of its own, and none of those that `status` lists: `show` finds it by its name, of which
# more is needed if the row's own run is there too; `run` says it in full.
# :::
#
# **2.** How much of the training is lost, at worst and on average, when a node fails once a day and a
# checkpoint is written every half minute? What would change if it were written every hour?
#
# :::{dropdown} Solution
# At worst half a minute, on average a quarter: next to nothing of a day. With a checkpoint an hour
# it is half an hour on average, $1/48$ of the day, and a preemption every hour would mean that nothing is ever finished.
# :::
#
# **3.** Cut the training above at iteration 200, but give the second sampler another seed. What
# happens, and why is that right?
#
# :::{dropdown} Solution
# It is refused in one line: the checkpoint belongs to another seed. To go on with it would give a
# sampler that is neither of the two seeds, and a row with one independent run less than it says.
# ```python
# with tempfile.TemporaryDirectory() as folder:
#     whole.save(Path(folder) / "checkpoint.pt")
#     other = gl.GFNDiffusion(gl.gmm9, config=config, seed=1)
#     try:
#         other.fit(folder=folder, progress=False)
#     except ValueError as error:
#         print(error)
# ```
# :::
#
# ## What went wrong on the way
#
# Python's process pools break when one of their workers is killed, and take the others with them: so
# each run has a process of its own. Kernels that start together can be given the same port: so they
# talk through sockets in folders of their own. Slurm's warning can come a minute early, a script that
# ends with an error is not queued again by itself, and a shell that waits for Python does not pass on
# signals: so the script replaces itself with Python, which asks to be queued again. And papermill
# takes a parameter that the notebook does not have with a mere warning: so all are checked before.
#
# ## Sources
#
# The protocol of the rows: {cite:t}`sendera2024`. Names of flags: its public code, and
# {cite:t}`hassen2024foundations`. [Slurm](https://slurm.schedmd.com/documentation.html) on job arrays,
# signals and preemption; [papermill](https://papermill.readthedocs.io) on parameters;
# [NVIDIA](https://docs.nvidia.com/deploy/mps/) on the Multi-Process Service.
