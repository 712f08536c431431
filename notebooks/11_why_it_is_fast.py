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
# # Why it is fast
#
# A training step of a diffusion sampler is a hundred small steps of a small network. Written the
# usual way, it computes for every point what is needed once, and pays for thousands of small operations.
# Where does its time go, and how much of it can be had back *without changing a single gradient*?
#
# :::{admonition} At a glance
# **You will** see what a step does with its time, take the ideas of `gfnlite` one by one with the
# effect of each, and see what did not help.
#
# **You will be able to** write a two-phase step yourself, and to say when few-step training,
# several seeds at once, compiling or a GPU pay.
#
# **You need** [Notation](../book/notation) and [From scratch](01_from_scratch). **Time**: 20
# minutes to read, seconds to run: measurements take an hour, and are read from files that
# `python -m reproduce bench` writes.
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

# %% tags=["hide-input", "helpers"]
import json
import math
import statistics
from html import escape
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from IPython.display import Markdown

import gfnlite as gl

gl.plots.style()
here = Path.cwd()
FOLDER = next(
    folder / "reproduce" / "results" / "bench"
    for folder in (here, *here.parents)
    if (folder / "reproduce" / "published.json").exists()
)
NAMES = {"25gmm": "25GMM", "manywell32": "Manywell-32"}
POSTERIOR = {"vae": "VAE posterior", "vae_whitened": "VAE posterior"}
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"


def measured(part, threads=1):
    """Entries of a part, on a CPU, with so many threads."""
    runs = json.loads((FOLDER / f"{part}.json").read_text())["runs"]
    return next(
        run["entries"]
        for run in runs
        if run["environment"]["threads"] == threads
        and run["environment"]["device"] == "cpu"
    )


def pick(entries, **wanted):
    return [
        entry
        for entry in entries
        if all(entry.get(key) == value for key, value in wanted.items())
    ]


def plain_log(ax, axis, ticks):
    """A logarithmic axis with plain numbers."""
    getattr(ax, f"set_{axis}scale")("log")
    low, high = getattr(ax, f"get_{axis}lim")()
    ticks = [tick for tick in ticks if low <= tick <= high]
    getattr(ax, f"set_{axis}ticks")(ticks, [f"{tick:g}" for tick in ticks])
    getattr(ax, f"{axis}axis").minorticks_off()


def table(columns, rows):
    """Rows of cells as a table; the cells are escaped."""
    rows = [[escape(cell, quote=False) for cell in row] for row in rows]
    lines = [columns, ["---"] * len(columns), *rows]
    return Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))


def compared(entries, twins):
    """Names and ratios of entries, with one thread and with two."""
    for entry in entries:
        same = {"task": entry["task"], "step": entry["step"]}
        ratios = [e["ratio"] for e in (entry, pick(twins, **same)[0])]
        yield (
            entry,
            [entry["step"], (NAMES | POSTERIOR)[entry["task"]]],
            list(map(times, ratios)),
        )


def times(ratio):
    """A ratio with its interval."""
    return (
        f"{ratio['value']:.1f} ({ratio['low']:.1f} to {ratio['high']:.1f})"
    )


where = json.loads((FOLDER / "steps.json").read_text())["runs"][0]
where = where["environment"]
torch_version = escape(where["versions"]["torch"])
cpu = escape(where["cpu"])
Markdown(
    f"Measured on {where['cores']} cores of a shared {cpu}, "
    f"PyTorch {torch_version}, at $T = 100$, a batch of 300, networks of "
    "width 64 and one thread unless said otherwise. All variants of a "
    "comparison run in turn in one loop, so that a slow spell of the "
    "machine falls on all; times with one thread are CPU times; a ratio is "
    "of medians, with a 95% interval from resampling rounds."
)

# %% [markdown]
# ## What the usual way takes
#
# The baseline is kept in the repository (`reproduce/bench/plain.py`), written as research code
# usually is: one loop over time with its graph kept; the time network evaluated at every step, for
# every row of the batch; both kernels' densities written out; the target as a list of
# distributions. It computes the right thing: tests compare its gradients with the package's.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-fast-ideas", "caption": "One training step of trajectory balance with exploration, from the plain loop (top) to gfnlite (bottom), with one idea more in each row. All rows compute the same gradient."}, "image": {"alt": "Two panels of horizontal bars, one for each target, that shrink from the plain step at the top to gfnlite's at the bottom."}}
ideas = measured("ideas")
figure, axes = plt.subplots(1, 2, figsize=(9.8, 4.6), sharey=True)
for ax, task in zip(axes, NAMES, strict=True):
    rows = pick(ideas, task=task)
    medians = [row["step"]["median"] for row in rows]
    colours = [GREY, *[BLUE] * (len(rows) - 1)]
    ax.barh(range(len(rows)), medians, color=colours)
    for y, row in enumerate(rows):
        ax.text(
            medians[y] + 1,
            y,
            f"{row['total']['value']:.1f} ×",
            va="center",
            fontsize=9,
        )
    ax.set_yticks(range(len(rows)), [row["stage"] for row in rows])
    ax.set_xlim(0, 1.15 * max(medians))
    ax.set_xlabel("milliseconds a step")
    ax.set_title(
        f"{NAMES[task]}: {rows[-1]['total']['value']:.1f} times as fast"
    )
axes[0].invert_yaxis()
plt.show()

# %% [markdown]
# Not every idea pays alone. On a CPU two phases with autograd are slower than a good sequential loop:
# the second phase evaluates the network once more, on arrays that are too large for the cache and
# that the system's allocator gives back each time. It pays with what comes after it: chunks, a
# gradient by hand that evaluates nothing twice, the faster library, and memory that is kept.
#
# The baseline of this figure has none of these; in the table further below it runs in the process
# of `gfnlite`, whose allocator keeps memory for it too.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-fast-profile", "caption": "What the time of one step goes into, by PyTorch's profiler, which slows what consists of many small operations."}, "image": {"alt": "Stacked horizontal bars of milliseconds by kind of operation, for the plain step and gfnlite's, on both targets."}}
profile = measured("profile")
kinds = list(profile[0]["milliseconds"])
shades = ["#0072B2", "#56B4E9", "#E69F00", "#F0E442", "#009E73", "#CC79A7"]
shades += ["#D55E00", "#BBBBBB"]
figure, ax = plt.subplots(figsize=(9.5, 3.2))
labels = []
for y, entry in enumerate(profile):
    left = 0.0
    for kind, shade in zip(kinds, shades, strict=True):
        value = entry["milliseconds"][kind]
        ax.barh(
            y, value, left=left, color=shade, label=kind if y == 0 else None
        )
        left += value
    labels.append(f"{NAMES[entry['task']]}, {entry['variant']}")
ax.set_yticks(range(len(labels)), labels)
ax.invert_yaxis()
ax.set_xlabel("milliseconds a step")
ax.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.45, -0.22))
operations = [entry["operations"] for entry in profile]
ax.set_title(
    f"Plain steps call {max(operations):,} operations, "
    f"gfnlite's {min(operations):,}"
)
plt.show()

# %% [markdown]
# ## Idea 1: two phases
#
# Trajectory balance is $\mathcal L = \tfrac12 \mathbb E\,(\log Z_\theta - \log w)^2$, and does not
# differentiate through the states: they are data.
#
# :::{prf:proposition} The gradient is a sum over transitions
# :label: thm-11-two-phase
# Let states and $P_B$ be held fixed, and $\delta = \log Z_\theta - \log w$. The sum is over the
# transitions from $x$ to $x'$ of a trajectory, each of which only needs to know the one number
# $\delta$:
#
# $$
# \begin{aligned}
# \nabla_\theta \mathcal L
#   ={}& \mathbb E\Big[ \delta \sum_i
#     \nabla_\theta \log P_F(x' \mid x) \Big] \\
#   &+ \mathbb E[\delta]\, \nabla_\theta \log Z_\theta .
# \end{aligned}
# $$ (eq-two-phase)
# :::
#
# :::{dropdown} Proof
# $\nabla_\theta \tfrac12 \delta^2 = \delta\, \nabla_\theta \delta$, and in $\delta$ only
# $\log Z_\theta$ and $\sum_i \log P_F(x' \mid x)$, both with the sign $+$, depend on $\theta$. A learned $P_B$ adds $-\delta\, \nabla_\theta \log P_B(x \mid x')$ to
# each transition.
# :::
#
# **Phase 1** walks $T$ small steps with no graph. **Phase 2** takes all $T \times B$ transitions as
# one batch. There is no reason to go through them in order, so the $T$ small products of the
# backward pass become a few large ones. The same holds for VarGrad, detailed and sub-trajectory
# balance and maximum likelihood, whose residuals differ from transition to transition; only the
# reverse KL divergence differentiates through the states.
#
# What depends on time alone is computed once for the grid, not once a step, and certainly not once
# for each row of the batch.
#
# ## Idea 2: only ratios
#
# With $u$ the drift, $\Delta x$ the move and $h$ the step's length, the two densities of a step
# differ from those of the reference process by little, and what they share telescopes to the two
# ends (see [Notation](../book/notation)). Per step only
#
# $$
# \begin{aligned}
# \log \frac{P_F}{P_{\mathrm{ref}}}
#   &= \frac{u \cdot \Delta x - \tfrac h2 |u|^2}{\sigma^2}, \\
# \frac{\partial}{\partial u} \log P_F &= \frac{\Delta x - h\,u}{\sigma^2}
# \end{aligned}
# $$ (eq-ratio-slope)
#
# is left: three passes over the drift, and a slope that needs no graph. As no large constants
# cancel, float32 is enough.
#
# ## Idea 3: what was computed is kept
#
# Phase 1 has evaluated the network at every state already. If it keeps its pre-activations $z_k$,
# phase 2 need not evaluate it again. The network is $f = W_L\,g(z_{L-1}) + b_L$, with
# $z_k = W_k\,g(z_{k-1}) + b_k$ and $g$ the GELU, so the cotangent $\bar f$ goes back by
#
# $$
# \begin{aligned}
# \bar z_L &= \bar f, \\
# \bar W_k &= \bar z_k^{\top} g(z_{k-1}), \\
# \bar z_{k-1} &= (\bar z_k W_k) \odot g'(z_{k-1}) .
# \end{aligned}
# $$ (eq-pull)
#
# That is autograd's own result, written out: six lines instead of a graph of thousands of nodes.
# All three ideas fit into one cell:

# %%
torch.manual_seed(0)
T, B, d, H, sigma2 = 100, 300, 2, 64, 5.0
dt = 1 / T
W = [torch.randn(a, b) / math.sqrt(a) for a, b in [(d, H), (H, H), (H, d)]]
time_code = torch.randn(T, 1, H)  # stands for the time network, once a grid


def two_phase(log_z):
    # phase 1: walk, and keep the pre-activations
    x, z1, z2 = (
        torch.zeros(B, d),
        torch.empty(T, B, H),
        torch.empty(T, B, H),
    )
    states, residual = [], math.sqrt(sigma2 * dt) * torch.randn(T, B, d)
    ratio = torch.zeros(B)
    for i in range(T):
        states.append(x)
        torch.addmm(time_code[i].expand(B, H), x, W[0], out=z1[i])
        torch.mm(F.gelu(z1[i]), W[1], out=z2[i])
        u = F.gelu(z2[i]) @ W[2]
        # residual is the move less dt u, hence the plus
        ratio += (u * (residual[i] + 0.5 * dt * u)).sum(1) / sigma2
        x = x + dt * u + residual[i]
    log_terminal = (
        gl.gmm25.log_reward(x)
        + x.square().sum(1) / (2 * sigma2)
        + math.log(2 * math.pi * sigma2)
    )
    delta = log_z - (log_terminal - ratio)
    # phase 2: from delta back to the weights, all transitions at once
    g = (delta[None, :, None] * residual / (sigma2 * B)).flatten(0, 1)
    z1, z2, states = (
        part.flatten(0, 1) for part in (z1, z2, torch.stack(states))
    )
    gradient = [F.gelu(z2).T @ g]
    g = torch.ops.aten.gelu_backward(g @ W[2].T, z2)
    gradient.insert(0, F.gelu(z1).T @ g)
    g = torch.ops.aten.gelu_backward(g @ W[1].T, z1)
    gradient.insert(0, states.T @ g)
    return gradient


def by_autograd(log_z):
    weights = [w.clone().requires_grad_() for w in W]
    x, ratio = torch.zeros(B, d), torch.zeros(B)
    noise = math.sqrt(sigma2 * dt) * torch.randn(T, B, d)
    for i in range(T):
        h = F.gelu(F.gelu(x @ weights[0] + time_code[i]) @ weights[1])
        u = h @ weights[2]
        move = (dt * u + noise[i]).detach()
        ratio = ratio + (u * (move - 0.5 * dt * u)).sum(1) / sigma2
        x = x + move
    log_terminal = (
        gl.gmm25.log_reward(x)
        + x.square().sum(1) / (2 * sigma2)
        + math.log(2 * math.pi * sigma2)
    )
    loss = 0.5 * (log_z - (log_terminal - ratio)).square().mean()
    return torch.autograd.grad(loss, weights)


torch.manual_seed(1)
fast = two_phase(log_z=0.0)
torch.manual_seed(1)
slow = by_autograd(log_z=0.0)
for k, (one, other) in enumerate(zip(fast, slow, strict=True)):
    error = ((one - other).norm() / other.norm()).item()
    print(f"weights of layer {k}: relative difference {error:.0e}")
    assert error < 1e-4

# %% [markdown]
# ## Idea 4: the machine's side
#
# - Phase 2 goes in **chunks of about 6000 rows**: what a layer reads and writes then stays in the
#   processor's cache.
# - On many CPUs PyTorch has **two libraries** for matrix products, and for thousands of rows oneDNN
#   is nearly twice as fast as the default. `gfnlite` uses it there after it has checked, by
#   computing, that it does not round.
# - In a fresh process the system's allocator gives every large array back to the kernel at once,
#   and **page faults** are paid to get it again. One call tells it not to.
# - The noise of a walk is drawn at once, and nothing in a step waits for a value to be read. Adam
#   updates all parameters in one call, which on a CPU makes no difference that can be told.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-fast-steps", "caption": "How many times as fast as the plain baseline each kind of training step is, with one thread and with two; bars are medians, lines 95% intervals."}, "image": {"alt": "Horizontal bars of speed-up factors for each kind of step, on a logarithmic axis, for both targets, one and two threads."}}
figure, axes = plt.subplots(1, 2, figsize=(9.8, 5.2), sharey=True)
for ax, task in zip(axes, NAMES, strict=True):
    names = [
        e["step"]
        for e in pick(measured("steps"), task=task)
        if "ratio" in e
    ]
    for threads, colour, shift in ((1, BLUE, -0.2), (2, ORANGE, 0.2)):
        found = {
            e["step"]: e
            for e in pick(measured("steps", threads), task=task)
        }
        for y, name in enumerate(names):
            ratio = found[name]["ratio"]
            ax.barh(
                y + shift,
                ratio["value"],
                0.36,
                color=colour,
                label=f"{threads} thread{'s' * (threads > 1)}"
                if y == 0
                else None,
            )
            ax.plot(
                [ratio["low"], ratio["high"]],
                [y + shift] * 2,
                color="black",
                linewidth=1,
            )
            ax.text(
                1.06 * ratio["high"],
                y + shift,
                f"{ratio['value']:.1f}",
                va="center",
                fontsize=8,
            )
    ax.set_yticks(range(len(names)), [name.split(",")[0] for name in names])
    ax.set_xlim(1, 120)
    plain_log(ax, "x", (1, 2, 5, 10, 20, 50, 100))
    ax.set_xlabel("times as fast as plain")
    ax.set_title(NAMES[task])
axes[0].invert_yaxis()
axes[0].legend(loc="lower right")
plt.show()

# %% [markdown]
# Where a step needs the target's gradient (LP) or many energies (MALA, forward-looking SubTB) the
# gain is largest: the score is a formula that shares its work with the energy, MALA asks once a
# step instead of three times, and replay neither concatenates nor sorts when it adds. Reverse KL
# gains least: it must keep its graph.

# %% tags=["hide-input"]
one, two = (
    measured("steps", threads) + measured("vae", threads)
    for threads in (1, 2)
)
steps = [entry for entry in one if "ratio" in entry]
rows = [
    names
    + [f"{e[who]['median']:.1f}" for who in ("plain", "ours")]
    + ratios
    for e, names, ratios in compared(steps, two)
]
columns = ["step", "target", "plain, ms", "gfnlite, ms"]
table([*columns, "ratio, 1 thread", "2 threads"], rows)

# %% [markdown]
# ## How near is it to the floor?
#
# The matrix products and activations of a step cannot be left out. Timed alone, at the same sizes
# and in the same rounds, they are the floor. (1 GFLOP/s is $10^9$ additions or multiplications a second.)

# %% tags=["hide-input"]
lines = []
for threads in (1, 2):
    for entry in measured("floor", threads):
        lines.append(
            f"- {NAMES[entry['task']]}, threads: {threads}; "
            f"the step takes {times(entry['ratio'])} times its floor of "
            f"{entry['floor']['median']:.1f} ms. Its products run at "
            f"{entry['gflops']['products']:.0f} GFLOP/s, "
            "one large product at "
            f"{entry['gflops']['large_product']:.0f}."
        )
Markdown("\n".join(lines))

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-fast-roofline", "caption": "Speed of the step's matrix products against that of one large product on the same thread, and the step's own speed, counting all of its time."}, "image": {"alt": "Bars of GFLOP per second for the step, its products alone, and one large matrix product, for both targets."}}
figure, ax = plt.subplots(figsize=(7.2, 3.4))
for x0, entry in enumerate(measured("floor")):
    flops = entry["gflops"]["products"] * entry["products"]["median"]
    bars = [
        ("whole step", flops / entry["step"]["median"], GREEN),
        ("its products alone", entry["gflops"]["products"], BLUE),
        ("one large product", entry["gflops"]["large_product"], GREY),
    ]
    for k, (label, value, colour) in enumerate(bars):
        ax.bar(
            x0 + 0.27 * (k - 1),
            value,
            0.25,
            color=colour,
            label=label if x0 == 0 else None,
        )
        ax.text(
            x0 + 0.27 * (k - 1),
            value,
            f"{value:.0f}",
            ha="center",
            va="bottom",
        )
ax.set_xticks([0, 1], NAMES.values())
ax.margins(y=0.12)
ax.set_ylabel("GFLOP/s, one thread")
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
entries = measured("floor")
shares = [
    e["gflops"]["products"] * e["products"]["median"]
    / e["step"]["median"] / e["gflops"]["large_product"]
    for e in entries
]  # fmt: skip
reached = f"{min(shares):.0%} to {max(shares):.0%}"
ax.set_title(f"A step runs at {reached} of the speed of one large product")
plt.show()

# %% [markdown]
# What holds the rest: a walk's products have 300 rows, too few to run at full speed, and what is
# not a product, GELU and its derivative, takes a good part of the floor.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-fast-scaling", "caption": "Milliseconds of one step of TB with exploration against the number of steps T, the batch, the dimension (Manywell) and the width of the networks; crosses are the plain baseline."}, "image": {"alt": "Four panels of lines on logarithmic axes, rising with T, batch, dimension and width; the plain baseline lies above."}}
scaling = measured("scaling")
figure, axes = plt.subplots(1, 4, figsize=(11, 3.1), sharey=True)
panels = {
    "T": "steps",
    "batch": "batch",
    "dimension": "dim",
    "width": "hidden",
}
for ax, (label, axis) in zip(axes, panels.items(), strict=True):
    for task, colour in zip(
        ("25gmm", "manywell"), (BLUE, ORANGE), strict=True
    ):
        rows = [
            e
            for e in pick(scaling, axis=axis)
            if e["task"].startswith(task)
        ]
        if not rows:
            continue
        points = [(e["value"], e["ours"]["median"]) for e in rows]
        name = "25GMM" if task == "25gmm" else "Manywell"
        ax.plot(
            *zip(*points, strict=True), "o-", color=colour, ms=4, label=name
        )
        usual = [
            (e["value"], e["plain"]["median"]) for e in rows if "plain" in e
        ]
        if usual:
            ax.plot(*zip(*usual, strict=True), "x", color=colour, ms=6)
    plain_log(ax, "x", (2, 10, 32, 100, 300, 1000, 3000))
    ax.set_yscale("log")
    ax.set_xlabel(label)
plain_log(axes[0], "y", (10, 20, 50, 100, 200, 500, 1000, 2000))
axes[0].set_ylabel("milliseconds a step")
axes[0].legend()
figure.suptitle(
    "Time grows with the work, not with the number of calls", fontsize=11
)
plt.show()

# %% [markdown]
# Memory and replay, by the same benchmark: how much a training makes its process grow at its peak,
# and what it takes to add a batch of 300 to a full buffer and to draw one by rank.

# %% tags=["hide-input"]
rows = []
for entry in measured("memory"):
    what = f"peak, batch {entry['batch']}, {NAMES[entry['task']]}"
    found = [f"{entry[who]['median']:.0f} MiB" for who in ("plain", "ours")]
    rows.append([what, *found])
for entry in pick(scaling, axis="fill", priority="rank"):
    found = [f"{entry[who]['median']:.2f} ms" for who in ("plain", "ours")]
    rows.append([f"add and draw, {entry['value']:,} held", *found])
table(["", "plain", "gfnlite"], rows)

# %% [markdown]
# ## Seeds together
#
# Independent runs can share a program: every parameter of `gfnlite` has a leading axis, and
# `fit(seeds=5)` trains five samplers side by side in the batch, each with its own random stream,
# buffer and optimiser state. Each of its steps equals that of a single run to $10^{-5}$ (a test
# holds it to that). Phase 1 gains, as its products have five times the rows; phase 2 was large
# before.

# %% tags=["hide-input"]
parts = compared(measured("seeds"), measured("seeds", 2))
table(
    ["five seeds", "target", "ratio, 1 thread", "2 threads"],
    [names + ratios for _, names, ratios in parts],
)

# %% [markdown]
# What comes back has a column for the mean and one for the seeds; here after a training that is far too
# short:

# %%
ensemble = gl.Ensemble(gl.gmm9, seeds=3, iterations=50, steps=10, hidden=16)
ensemble.fit(progress=False).evaluate(n_samples=500)

# %% [markdown]
# ## Fewer steps
#
# The drift is a function of continuous time. Trained on random grids of a few steps, it can be
# sampled on a fine one {cite:p}`berner2025discrete`, and a training step costs the less the
# fewer they are. What is lost is what a coarse grid cannot see: the fixed variance of its steps is
# too wide for the target, and the drift learns to make up for that. A last part of the training on
# the fine grid takes it back.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-fast-few", "caption": "CPU seconds of training per seed against what is left between ELBO and EUBO at T = 100, for samplers trained first on few random steps; each point is one setting (how many steps, for which part of how many iterations), three seeds."}, "image": {"alt": "Three scatter panels, one for each target; points trained first on 20 steps lie far to the left of those trained on 100, and as low; those on 5 lie higher."}}
cells = json.loads((FOLDER / "few_steps.json").read_text())["cells"]
cells = [cell for cell in cells if cell["study"] != "lr"]
panels = [*NAMES, "vae_whitened"]
figure, axes = plt.subplots(1, 3, figsize=(11.5, 3.9))
markers = {5: "v", 10: "o", 20: "s", 50: "D", None: "*"}
for ax, task in zip(axes, panels, strict=True):
    for steps, marker in markers.items():
        rows = [
            c
            for c in cells
            if c["task"] == task and c["coarse_steps"] == steps
        ]
        if not rows:
            continue
        ax.errorbar(
            [row["seconds"] for row in rows],
            [row["metrics"]["gap"]["mean"] for row in rows],
            [row["metrics"]["gap"]["std"] or 0 for row in rows],
            fmt=marker,
            ms=9 if steps is None else 6,
            capsize=2,
            linewidth=1,
            label="100 only" if steps is None else f"{steps} first",
        )
    plain_log(ax, "y", (0.3, 0.5, 1, 2, 3, 4, 5, 6, 10, 20))
    ax.set_xlim(left=0)
    ax.set_xlabel("CPU seconds a seed")
    same = [
        c for c in cells if c["task"] == task and c["study"] == "iterations"
    ]
    few, all_fine = (
        pick(same, coarse_steps=steps, coarse_fraction=fraction)[0][
            "seconds"
        ]
        for steps, fraction in ((20, 0.8), (None, 0.0))
    )
    ax.set_title(
        f"{(NAMES | POSTERIOR)[task]}:\n"
        f"20 first take {few / all_fine:.0%} of the time"
    )
axes[0].set_ylabel("EUBO less ELBO, nats")
axes[0].legend(title="steps in training")
plt.show()

# %% [markdown]
# Every preset has this as an option: `gl.preset("25gmm", "TB+Expl+Few", "full")` is the paper's
# setting but for the grids of its training. In tables such a row stands on its own.
#
# ## Time to quality
#
# In the end it is not the step that counts but the time until the sampler is good. The goals are
# those of the paper's own results {cite:p}`sendera2024`: on 25GMM an ELBO within 0.21 of $\log Z$
# and all 25 modes; on Manywell-32 an ELBO of 160.1 and an importance-sampled $\log Z$ within 0.5.
# Ours is the quick preset, all of it counted. The baseline has the paper's settings, and is stopped at
# twenty times our time.

# %% tags=["hide-input"]
rows = []
for task in NAMES:
    entry = measured(f"quality-{task}")[0]
    mine, usual = entry["ours"], entry["plain"]
    seconds = [run["cpu_seconds"] for run in mine["runs"]]
    met = f"{sum(run['met'] for run in mine['runs'])} of {len(seconds)}"
    mean, stopped = f"{statistics.mean(seconds):.0f}", not usual["met"]
    spent = f"{usual['cpu_seconds']:.0f}" + ", stopped" * stopped
    ratio = "at least " * stopped + f"{entry['ratio']['value']:.0f}"
    rows.append(
        [NAMES[task], mean, met, spent, f"{usual['elbo']:.2f}", ratio]
    )
columns = ["target", "gfnlite, CPU s", "seeds that meet the goal"]
table([*columns, "plain, CPU s", "its ELBO then", "ratio"], rows)

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-fast-quality", "caption": "The ELBO of the plain baseline at the paper's settings against CPU seconds, and where gfnlite's recipe ends, for three seeds; the dotted line is the goal."}, "image": {"alt": "Two panels: a grey line of the baseline's ELBO rising slowly over hundreds of seconds, and blue dots of gfnlite near the left edge above the dotted goal."}}
figure, axes = plt.subplots(1, 2, figsize=(9.8, 3.6))
for ax, task in zip(axes, NAMES, strict=True):
    entry = measured(f"quality-{task}")[0]
    trace = entry["plain"]["trace"]
    truth = gl.named_target(task).log_z
    ax.plot(
        [row["cpu_seconds"] for row in trace],
        [truth - row["elbo"] for row in trace],
        color=GREY,
        label="plain, the paper's settings",
    )
    for run in entry["ours"]["runs"]:
        label = "gfnlite" if run["seed"] == 0 else None
        ax.plot(
            run["cpu_seconds"],
            truth - run["elbo"],
            "o",
            color=BLUE,
            label=label,
        )
    ax.axhline(truth - entry["goal"]["elbo"], color="black", ls=":", lw=1)
    plain_log(ax, "x", (10, 20, 50, 100, 200, 500, 1000))
    plain_log(ax, "y", (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50))
    ax.set_xlabel("CPU seconds of training")
    ax.set_ylabel("log Z less ELBO, nats")
    ax.set_title(NAMES[task])
axes[0].legend()
plt.show()

# %% [markdown]
# ## What went wrong: ideas that did not help
#
# Each of these was tried with the same care as what helped. A ratio below 1 made it slower.

# %% tags=["hide-input"]
table(
    ["idea", "target", "times as fast"],
    [
        [entry["idea"], NAMES[entry["task"]], times(entry["ratio"])]
        for entry in measured("dead_ends")
    ],
)

# %% [markdown]
# - **Compiling** (`fit(compile=True)`) fuses small operations. On a CPU the gradient gains a little,
#   an evaluation or a walk loses: the library's GELU is faster than the compiled one, and each
#   compiled call has a cost of its own. So there `compile=True` compiles the gradient alone. On a
#   GPU it compiles nothing, but captures the whole step as one CUDA graph, so that Python's part
#   vanishes. What that gains on yours, `python -m reproduce bench --only gpu` measures.
# - **Keeping the activations too**, beside the pre-activations, spares phase 2 a GELU. It gains a few
#   percent of a walk and its way back, for twice the memory: not kept.
# - **Evaluating again** instead of keeping anything is slower, but less so than one would think:
#   chunks in cache are cheap.
# - **`vmap`** over seeds is slower than batched products with a leading axis.
# - **bfloat16** pays from networks of width 256 on, on processors that have it; at the width of 64
#   that samplers use there is little to gain.
# - A hand-written walk back for **reverse KL**, with the weights' gradients taken at once at the
#   end, gained nothing when it was tried: what it saves in products it pays in a second GELU. Its
#   code is not kept, so it has no row.
#
# ## In five lines
#
# 1. Balance losses take the states as data, so the gradient is a sum over transitions in any order.
# 2. Walk without a graph, keep what was computed, and pull the gradient back in large products.
# 3. What depends on time alone is computed once a grid; of the densities only ratios are needed.
# 4. Train on few random steps, finish on many, and train seeds together.
# 5. Measure in one loop, in turn, on a quiet machine; report what did not help.
#
# ## Exercises
#
# **1.** Which objective could not be trained in two phases, and why?
#
# :::{dropdown} Solution
# Reverse KL: its gradient goes through the states that the drift has led to. A balance loss asks
# about given states, whoever made them.
# :::
#
# **2.** In `two_phase`, double `delta` before phase 2. What does the comparison say?
#
# :::{dropdown} Solution
# Every gradient is twice as large, so each relative difference is 1.
# ```python
# fast = [2 * gradient for gradient in fast]  # it is linear in delta
# print([((a - b).norm() / b.norm()).item() for a, b in zip(fast, slow)])
# ```
# :::
#
# **3.** `two_phase` returns no gradient of $\log Z_\theta$. What is it by {eq}`eq-two-phase`, and
# which other number of the training does it follow?
#
# :::{dropdown} Solution
# The mean of $\delta$, which is $\log Z_\theta$ less the ELBO of the batch: a descent takes
# $\log Z_\theta$ to the ELBO. It needs the log-weights and nothing of phase 2. Checked on three
# log-weights, by autograd:
# ```python
# log_w = torch.tensor([-1.0, 0.5, 2.0])
# log_z = torch.tensor(3.0, requires_grad=True)
# loss = 0.5 * (log_z - log_w).square().mean()
# (slope,) = torch.autograd.grad(loss, log_z)
# print(slope.item(), (log_z - log_w).mean().item())
# ```
# :::
#
# ## Sources
#
# Trajectory balance that takes the states as data, and exploration as noise:
# {cite:t}`sendera2024`. Training on random grids: {cite:t}`berner2025discrete`. Reverse KL with its
# graph: {cite:t}`zhang2022pis`.
