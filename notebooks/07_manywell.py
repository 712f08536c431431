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
# # Manywell: the collapse that the numbers hide
#
# Sixteen double wells side by side, each with a large mode on the right and a small one on the
# left. A sampler that *never* goes left has sharp samples, log-weights that are almost constant,
# and an error of under three nats on a $\log Z$ of 165. Six rows of a published table have just
# that error. Would you have noticed?
#
# :::{admonition} At a glance
# **You will** derive what each metric says when a sampler keeps one mode of each well, find that
# number in a published table, train a sampler that keeps both, and one that does not.
#
# **You will be able to** tell a collapse from an inaccuracy when the modes are too many to count,
# and to say in advance what wrong weights of modes cost in $d$ dimensions.
#
# **You need** [Twenty-five modes](04_25gmm). **Time**: 10 minutes to read; about a minute and a half
# to run on one CPU core in the `quick` profile; `full`, the paper's setting, is for a GPU.
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

# %%
import json
import math
import os
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from IPython.display import Markdown

import gfnlite as gl
from gfnlite.plots import BLUE, GREY, ORANGE

# Matrices this small gain nothing from a second thread.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
gl.plots.style()

# %% [markdown]
# ## Parameters
#
# As in every experiment, `papermill` can put other values here; a setting that is not `None`
# overrides the preset of method and profile.

# %% tags=["parameters"]
task: str = "manywell32"  # manywell32, manywell64 or manywell128
method: str = "TB+Expl+LP+LS"  # a row of the paper's table: gl.METHODS
# smoke (seconds), quick (a minute or two) or full (the paper's setting)
profile: str = os.environ.get("GFNLITE_PROFILE", "quick")
seeds: list = [0]  # one independent training run each
out_dir: str | None = None  # where everything is kept; None: nothing is
track: str | None = None  # tensorboard or wandb: also log there
steps: int | None = None  # transitions T of a trajectory
iterations: int | None = None  # training steps
batch_size: int | None = None  # trajectories in a training batch
sigma2: float | None = None  # the reference process's variance, per time
exploration: float | None = None  # added sampling variance, per time; fades
lr: float | None = None  # learning rate of the drift network
hidden: int | None = None  # width of the drift network
settings: dict = {}  # any others of gl.Config, such as {"layers": 3}

# %%
changes = {
    "steps": steps,
    "iterations": iterations,
    "batch_size": batch_size,
    "sigma2": sigma2,
    "exploration": exploration,
    "lr": lr,
    "hidden": hidden,
}
config = gl.preset(task, method, profile, settings, **changes)
target = gl.named_target(task)
n_samples = gl.presets.SAMPLES[profile]  # of an evaluation
minor = target.mode_mass[0].item()  # exact share of a left well
wells = target.dim // 2
print(f"{task}, {method}, profile {profile}, seeds {seeds}")

# What this run sets or what the cell above can set; the rest is default.
Markdown(config.markdown(always=changes))

# %% [markdown]
# ## Six rows of one table share an error
#
# This is a column of the paper's table {cite:p}`sendera2024` for $d = 32$, *Δ log Z (RW)*: the error of
# the estimate of $\log Z$ from reweighted samples, which should be near zero for any sampler that covers
# the target. The dashed line is derived below, in {eq}`eq-07-collapse`.

# %% tags=["lesson", "hide-input"] mystnb={"figure": {"name": "fig-manywell-published", "caption": "The published error of the importance-weighted log Z on Manywell, d = 32 (mean and standard deviation of five runs); orange rows lie on the dashed line. It is not fitted to anything: it is what a sampler loses that never visits the smaller mode of any well."}, "image": {"alt": "Horizontal dot plot of published errors by method. Several methods lie on a dashed vertical line labelled as all minor modes lost, the others are spread on either side of it."}}
here = Path.cwd()
root = next(
    folder
    for folder in (here, *here.parents)
    if (folder / "reproduce" / "published.json").exists()
)
published = json.loads((root / "reproduce/published.json").read_text())
rows = {
    name: row["delta_log_z_rw"]
    for name, row in published["tasks"]["manywell"]["rows"].items()
    if row["delta_log_z_rw"]
}
collapsed = -16 * math.log(1 - minor)
on_line = [n for n, r in rows.items() if abs(r["mean"] - collapsed) < 0.1]
figure, ax = plt.subplots(figsize=(7, 4.4))
for y, (name, row) in enumerate(reversed(rows.items())):
    colour = ORANGE if name in on_line else BLUE
    ax.errorbar(
        row["mean"], y, xerr=row["std"], fmt="o", color=colour, capsize=3
    )
ax.axvline(collapsed, color="black", linewidth=0.8, linestyle="--")
ax.annotate(
    f"all minor modes lost: {collapsed:.3f} ",
    (collapsed, len(rows) - 0.45),
    fontsize=9,
    ha="right",
)
ax.set_yticks(range(len(rows)), reversed(rows))
ax.set(xlabel="published Δ log Z (RW), nats", ylim=(-0.6, len(rows)))
ax.set_title(f"{len(on_line)} of {len(rows)} published rows are a collapse")
plt.show()

# %% [markdown]
# ## The target, and its exact normaliser
#
# The coordinates come in $d/2$ independent pairs $(a_i, b_i)$. Each pair is a double well in $a$ and
# a standard Gaussian in $b$ {cite:p}`noe2019,midgley2023`:
#
# $$
# \log R(x) = \sum_{i=1}^{d/2} \Big({-a_i^4} + 6 a_i^2 + \tfrac12 a_i - \tfrac12 b_i^2\Big).
# $$ (eq-07-target)
#
# Since the pairs are independent, the normaliser is a product, and one integral over a line says
# all:
#
# $$
# \log Z = \frac d2 \Big( \log \int e^{-a^4 + 6a^2 + a/2}\, da + \tfrac12 \log 2\pi \Big).
# $$ (eq-07-logz)
#
# The term $a/2$ tilts the wells: the left one has the share $m$ of the mass, the right one the share
# $1 - m$. Together the wells have $2^{d/2}$ modes, too many to count one by one; but counting *well
# by well* is enough, because what a sampler must get right is the share $m$ in each.

# %% tags=["lesson"]
a = torch.linspace(-4, 4, 80_001, dtype=torch.float64)
density = torch.exp(-(a**4) + 6 * a**2 + a / 2)
integral = torch.trapezoid(density, a)
left = torch.trapezoid(density * (a < 0), a) / integral
log_z = wells * (integral.log() + 0.5 * math.log(2 * math.pi))
print(f"integral {integral:.3f}, share of the left well {left:.5f}")
print(f"log Z of {wells} wells: {log_z:.6f}")
print(f"as gfnlite has it: {target.log_z:.6f}, share {minor:.5f}")

# %% [markdown]
# ## What a collapse says of itself
#
# Let a sampler be perfect but for its modes: inside each mode it draws exactly, but it puts the share
# $q$, not $m$, into the left well of every pair.
#
# :::{prf:theorem} What wrong shares cost
# :label: thm-07-shares
# Let $x_1$ have the density $R/Z$ but for the shares: in each of $d/2$ independent pairs $q$ in the
# left well, $0 < q < 1$, and exact given the well. Let the path to $x_1$ be that of destruction.
# Then
#
# $$
# \begin{aligned}
# \log Z &- \text{ELBO} \\
# &= \tfrac d2 \Big( q \log\tfrac qm + (1-q) \log\tfrac{1-q}{1-m} \Big), \\
# \text{EUBO} &- \log Z \\
# &= \tfrac d2 \Big( m \log\tfrac mq + (1-m) \log\tfrac{1-m}{1-q} \Big), \\
# \text{ESS} &= \Big( \tfrac{m^2}q + \tfrac{(1-m)^2}{1-q} \Big)^{-d/2} .
# \end{aligned}
# $$ (eq-07-shares)
# :::
#
# :::{dropdown} Proof
# The law of a path is $q(x_1) \prod P_B$, where the density $q(x_1)$ is $R(x_1)/Z$ times a factor for
# each pair: $\frac qm$ if its point is on the left, $\frac{1-q}{1-m}$ if on the right. So $P_B$ cancels
# in the log-weight, and $\log w - \log Z$ is a sum over the pairs of $\log\frac mq$ or
# $\log\frac{1-m}{1-q}$. The first line is minus its mean with the shares $q$ and $1 - q$, which the
# sampler has, the second its mean with $m$ and $1 - m$, which exact samples have. The effective
# sample size of many samples is $(\mathbb E\, w)^2 / \mathbb E\, w^2$, where
# $\mathbb E\, w = Z$ and $\mathbb E\, w^2 / Z^2$ is a product over the pairs of
# $q \frac{m^2}{q^2} + (1-q) \frac{(1-m)^2}{(1-q)^2}$.
# :::
#
# For $0 < q < 1$ the importance-weighted estimate of $\log Z$ is consistent, but needs
# $n \gg 1/\text{ESS}$ samples; for a $q$ so small that none of fewer samples is on the left, it reads
# as at $q = 0$. There it changes its nature.
#
# :::{prf:theorem} The signature of a collapse
# :label: thm-07-collapse
# With $q = 0$ all log-weights are *equal*. The ELBO and the importance-weighted estimate, for every
# number of samples, are both off by the mass that is never visited:
#
# $$
# \begin{aligned}
# \log Z - \text{ELBO} &= \log Z - \widehat{\log Z}_{\text{IS}} \\
# &= -\tfrac d2 \log(1 - m), \\
# \text{EUBO} &= \infty .
# \end{aligned}
# $$ (eq-07-collapse)
# :::
#
# :::{dropdown} Proof
# All pairs are on the right, so every log-weight is $\log Z + \frac d2 \log(1 - m)$, and so are their
# mean and the logarithm of the mean of their exponentials. Exact samples are on the left somewhere
# with positive probability, where the sampler has the density zero and $\log w = \infty$.
# :::
#
# The samples' own effective sample size would be one. Of all these numbers only the EUBO, which
# starts from the target's side, and the shares themselves say that anything is wrong.


# %% tags=["lesson", "shares"]
def price_of_shares(q, m, wells):
    """Errors of ELBO and EUBO, and ESS, if left wells get q, not m."""
    q, m = (torch.as_tensor(v, dtype=torch.float64) for v in (q, m))
    lower = torch.xlogy(q, q / m) + torch.xlogy(1 - q, (1 - q) / (1 - m))
    upper = torch.xlogy(m, m / q) + torch.xlogy(1 - m, (1 - m) / (1 - q))
    second = m**2 / q + (1 - m) ** 2 / (1 - q)
    return wells * lower, wells * upper, second**-wells


# %% [markdown]
# Back to the rows on the dashed line. Here is all that the paper says of them {cite:p}`sendera2024`
# (*Δ log Z* is $\log Z - \text{ELBO}$), and below, a sampler that is exact but for its left wells:

# %% tags=["lesson", "hide-input"]
names = ("delta_log_z", "delta_log_z_rw", "w2")
table = published["tasks"]["manywell"]["rows"]
lines = ["| row | Δ log Z | Δ log Z (RW) | W2 |", "|:---|---:|---:|---:|"]
for row in on_line:
    cells = [
        f"{table[row][n]['mean']:.2f} ± {table[row][n]['std']:.2f}"
        for n in names
    ]
    lines.append(f"| {row} | {' | '.join(cells)} |")
# Exact samples, each left well of which is drawn anew from the right.
generator = torch.Generator().manual_seed(0)
exact, blind, spare = (
    gl.ManyWell(32).sample(n, generator) for n in (2000, 2000, 4000)
)
floor = gl.w2(exact, blind)
for i in range(0, 32, 2):
    blind[:, i] = spare[spare[:, i] > 0, i][: len(blind)]
far = gl.w2(exact, blind)
lines.append(f"| no left well at all | | {collapsed:.3f} | {far:.2f} |")
lines.append(f"| exact samples | 0 | 0 | {floor:.2f} |")
Markdown("\n".join(lines))

# %% [markdown]
# The last column is a second witness, of samples alone: exact samples whose left wells are taken away
# are about as far from exact ones as the published samples are.
#
# The first column hides it: an error of four nats looks like an inaccuracy that longer training
# would mend. With a *fixed* variance even a sampler with all the right modes would show about one
# of these four nats, because no drift reaches $\log Z$ at $T = 100$ (`tests/test_floor.py` computes
# by how much); the collapse is most of the rest.

# %% [markdown]
# ## Training one that keeps both modes
#
# The method here is trajectory balance with exploration, a drift that sees the target's gradient
# (`LP`), and local search (`LS`): every hundred iterations Langevin chains walk on from the samples
# found so far, and half of the training steps *destroy* what these chains found instead of generating.
# The chains keep what early exploration has seen, which a sampler alone soon forgets.

# %%
ensemble = gl.Ensemble(target, config=config, seeds=seeds)
on_gpu = ensemble[0].device.type == "cuda"
# All seeds as one program; on a GPU each step is one CUDA graph.
logs = gl.callbacks.named(track, out_dir)
ensemble.fit(folder=out_dir, callbacks=logs, compile=on_gpu)
folders = [out_dir and Path(out_dir) / f"seed-{seed}" for seed in seeds]
evaluations = [
    gl.record(sampler, folder, n_samples)
    for sampler, folder in zip(ensemble, folders, strict=True)
]

sampler, evaluation = ensemble[0], evaluations[0]
calls = f"{sampler.energy_calls:,} energy calls"
print(f"{sampler.seconds:.0f} s and {calls} a seed")
columns = zip(seeds, evaluations, strict=True)
pd.DataFrame({f"seed {s}": dict(e.rows()) for s, e in columns})

# %% [markdown]
# A mode of this table is one side of one well, so that there are $d$ of them, and it is found if it
# has a fifth of its exact share. How even the shares are is in the figure.

# %% mystnb={"figure": {"name": "fig-manywell-samples", "caption": "Samples of the first two wells on the contours of the exact density, and the share of the left mode in each of the wells among 20,000 samples; the dashed line is exact."}, "image": {"alt": "Two scatter plots of samples around two modes each, and a bar chart of the left mode's share by well against a dashed line."}}
x = sampler.sample(2000).cpu()
shares = torch.tensor(evaluation["mode_weights"])[0::2]
figure, axes = plt.subplots(
    1, 3, figsize=(10.5, 3.6), width_ratios=[1, 1, 1.6]
)
well = gl.ManyWell(2)
for i, ax in enumerate(axes[:2]):
    gl.plots.samples(well, x[:, 2 * i : 2 * i + 2], 3.4, ax)
    ax.set(xlabel=f"$x_{{{2 * i + 1}}}$", ylabel=f"$x_{{{2 * i + 2}}}$")
    ax.set_title(f"well {i + 1}: {shares[i]:.1%} on the left")
axes[2].bar(range(1, wells + 1), shares, color=BLUE)
axes[2].axhline(minor, color="black", linewidth=0.8, linestyle="--")
axes[2].set(xlabel="well", ylabel="share of the left mode")
axes[2].xaxis.get_major_locator().set_params(integer=True)
low, high = shares.min(), shares.max()
axes[2].set_title(f"{low:.1%} to {high:.1%} on the left; exact {minor:.1%}")
if out_dir:
    figure.savefig(Path(out_dir) / "samples.png", dpi=120)
plt.show()

# %% mystnb={"figure": {"name": "fig-manywell-history", "caption": "The two bounds during training (the vertical axis is linear within a tenth of a nat of log Z and logarithmic beyond)."}, "image": {"alt": "ELBO below and EUBO above the dashed line of the true log Z, over training iterations."}}
axes = gl.plots.history(sampler.history, target.log_z)
gap = evaluation["eubo"] - evaluation["elbo"]
axes.set_title(f"ELBO and EUBO end {gap:.1f} nats apart")
plt.show()

# %% [markdown]
# ## Making the collapse
#
# The same target, and another row of the table: `PIS`, which minimises the reverse Kullback–Leibler
# divergence and so learns from the sampler's own trajectories alone. To be fair to it, the variance
# is learned, so that few steps are enough and the floor of a fixed variance is gone: inside the modes
# that it knows, this sampler is the *better* one of the two.

# %% tags=["lesson"]
short = gl.preset(task, "PIS", "quick", lr=1e-2).replace(
    learn_variance=True,
    steps=min(10, config.steps),
    coarse_steps=None,
    iterations=min(1000, config.iterations),
)
lost = gl.GFNDiffusion(target, config=short).fit(compile=on_gpu)
lost_evaluation = lost.evaluate(n_samples)
lost_shares = torch.tensor(lost_evaluation["mode_weights"])[0::2]

# %% tags=["lesson", "hide-input"]
expected = target.log_z + wells * math.log(1 - minor)
lines = [
    f"| | {method} | PIS, collapsed | never left | exact |",
    "|:---|---:|---:|---:|---:|",
]
ideal = {"elbo": expected, "log_z_is": expected, "eubo": math.inf}
labels = {"elbo": "ELBO", "log_z_is": "IS log Z", "eubo": "EUBO"}
for key, label in labels.items():
    both = f"{evaluation[key]:.2f} | {lost_evaluation[key]:.2f}"
    lines.append(
        f"| {label} | {both} | {ideal[key]:.2f} | {target.log_z:.2f} |"
    )
both = f"{evaluation['ess']:.2g} | {lost_evaluation['ess']:.2g}"
lines.append(f"| effective sample size | {both} | 1 | 1 |")
both = f"{shares.mean():.1%} | {lost_shares.mean():.1%}"
lines.append(
    f"| on the left, mean over wells | {both} | 0% | {minor:.1%} |"
)
Markdown("\n".join(lines))

# %% [markdown]
# Compare the second column with the third, which is equation {eq}`eq-07-collapse` and no fit: the
# importance-weighted estimate is that of a sampler that never goes left. In the `quick` profile its
# effective sample size is by far the larger one of the two trained samplers, and its ELBO is hardly
# worse. The sampler that does go left pays for it with a few heavy weights, so that its own weighted
# estimate is noisy. Of this table, the EUBO and the shares rank the two rightly.

# %% [markdown]
# Choose a method, and see where the mass of a well goes: the double-well coordinates of all wells
# pooled. Two more rows of the table join the two above, trained for a few seconds each on coarse
# grids.

# %% tags=["lesson"]
models = {method: (sampler, evaluation), "PIS": (lost, lost_evaluation)}
smoke_or_quick = "smoke" if profile == "smoke" else "quick"
for name in ("TB+Expl", "TB+Expl+LP"):
    brief = gl.preset(task, name, smoke_or_quick).replace(
        coarse_steps=min(10, config.steps),
        coarse_fraction=1.0,
        iterations=min(800, config.iterations),
    )
    model = gl.GFNDiffusion(target, config=brief)
    model.fit(compile=on_gpu, progress=False)
    models[f"{name}, brief"] = model, model.evaluate(min(2000, n_samples))

grid = torch.linspace(-3, 3, 601, dtype=torch.float64)
curve = torch.exp(-(grid**4) + 6 * grid**2 + grid / 2) / integral


def pooled(method):
    model, made = models[method]
    drawn = model.sample(2000).cpu()[:, 0::2].flatten().numpy()
    figure, ax = plt.subplots(figsize=(6.2, 4))
    style = {"bins": 120, "range": (-3, 3), "density": True}
    ax.hist(drawn, color=BLUE, alpha=0.5, label="samples", **style)
    ax.plot(grid, curve, color="black", linestyle="--", label="exact")
    ax.set(xlabel="double-well coordinate", ylabel="density", ylim=(0, 1.7))
    ax.legend()
    ax.set_title(pooled_in_words(method))
    return figure


def pooled_in_words(method):
    made = models[method][1]
    left = sum(made["mode_weights"][0::2]) / wells
    words = f"{method}: {left:.1%} on the left, not {minor:.1%};"
    return f"{words}\nELBO {made['elbo']:.1f}, EUBO {made['eubo']:.1f}"


gl.explore(pooled, pooled_in_words, method=models)

# %% [markdown]
# ## What wrong shares cost
#
# Equation {eq}`eq-07-shares` says what a share $q \ne m$ costs before anything is trained, and that
# the price grows with the number of wells: the bounds linearly, the effective sample size
# *exponentially*.

# %% tags=["lesson"] mystnb={"figure": {"name": "fig-manywell-price", "caption": "The price of a wrong share of the left mode in all wells, for a sampler that is perfect otherwise (32 and 128 dimensions): error of the two bounds, and effective sample size. The dotted line is the mean share of the trained sampler."}, "image": {"alt": "Left: curves of ELBO and EUBO errors that vanish at the exact share; the EUBO error rises without bound as the share goes to zero, the ELBO error stays finite. Right: effective sample size peaking at one at the exact share."}}
q = torch.linspace(0.002, 0.35, 400, dtype=torch.float64)
figure, (left_ax, right_ax) = plt.subplots(1, 2, figsize=(9.5, 3.6))
for dim, style in ((32, "-"), (128, "--")):
    lower, upper, fraction = price_of_shares(q, minor, dim // 2)
    left_ax.plot(q, lower, style, color=BLUE, label=f"ELBO, d = {dim}")
    left_ax.plot(q, upper, style, color=ORANGE, label=f"EUBO, d = {dim}")
    right_ax.plot(q, fraction, style, color=BLUE, label=f"d = {dim}")
for ax in (left_ax, right_ax):
    ax.axvline(shares.mean(), color=GREY, linewidth=0.8, linestyle=":")
    ax.set_xlabel("share $q$ of the left mode")
    ax.legend()
left_ax.set(ylabel="error (nats)", ylim=(0, 12))
right_ax.set(ylabel="effective sample size", ylim=(0, 1.02))
left_ax.set_title("Losing a mode costs the ELBO little")
right_ax.set_title("More wells, less room for error")
plt.show()

# %% tags=["lesson"]
lower, upper, fraction = price_of_shares(shares, minor, 1)
print("trained sampler, if its shares were its only fault:")
print(
    f"ELBO low by {lower.sum():.2f}, EUBO high by {upper.sum():.2f} nats,"
)
print(f"effective sample size {fraction.prod():.0%}")
print(f"measured: ELBO low by {target.log_z - evaluation['elbo']:.2f},")
print(f"EUBO high by {evaluation['eubo'] - target.log_z:.2f} nats,")
print(f"effective sample size {100 * evaluation['ess']:.2g}%")

# %% [markdown]
# What is left between the two is the fixed variance and a drift that is not perfect inside the modes.
#
# ## In five lines
#
# 1. Manywell has $2^{d/2}$ modes and one number to check: the share of the left well, in every well.
# 2. A sampler that never goes left errs by $-\frac d2 \log(1-m)$, in ELBO and weighted estimate alike.
# 3. Several published rows have just that error, and the W2 of samples without left wells.
# 4. The EUBO and the shares show it; ELBO, effective sample size and sharp samples do not.
# 5. Local search keeps the small modes in the training; exploration alone loses them again.
#
# ## Exercises
#
# **1.** How large is the error of a full collapse for `manywell64` and `manywell128`? Run the
# notebook with `task = "manywell64"` and compare.
#
# :::{dropdown} Solution
# Equation {eq}`eq-07-collapse` is linear in $d$:
# ```python
# for dim in (32, 64, 128):
#     left = gl.ManyWell(dim).mode_mass[0].item()
#     print(dim, -dim / 2 * math.log(1 - left))
# ```
# :::
#
# **2.** Does exploration alone keep the left wells? Train `TB+Expl` and look at the shares.
#
# :::{dropdown} Solution
# In the `quick` profile it does not: early in the training the noise takes trajectories to the left,
# but nothing brings them back once it has faded, and the share falls to zero.
# ```python
# noisy = gl.preset("manywell32", "TB+Expl", smoke_or_quick)
# trial = gl.GFNDiffusion(gl.ManyWell(32), config=noisy).fit()
# found = trial.evaluate(n_samples)
# print(found["mode_weights"][0::2])
# found
# ```
# :::
#
# **3.** A sampler has found half the left wells exactly and lost the others. What do the ELBO, the
# weighted estimate and the mean share say?
#
# :::{dropdown} Solution
# Each lost well costs $-\log(1-m)$, so that the error is half of that of a full collapse, and the
# mean share is $m/2$. A sampler with the share $m/2$ in *all* wells has the same mean share but no
# error in the weighted estimate, and a much smaller one in the ELBO: the mean alone cannot tell
# these two apart, which is why the figure has a bar for each well.
# ```python
# half_lost = -wells / 2 * math.log(1 - minor)
# print(f"half of the wells lost: ELBO and weighted estimate {half_lost:.2f}")
# lower, upper, fraction = price_of_shares(minor / 2, minor, wells)
# print(f"half of the share in all: ELBO {lower:.2f}, EUBO {upper:.2f},")
# print(f"effective sample size {fraction:.1%}")
# ```
# :::
#
# ## What went wrong on the way
#
# The gradient of the target in the drift (`LP`) without local search keeps both modes in the `quick`
# profile, but its effective sample size is next to nothing and its ELBO worse than that of the
# collapse: a good reminder that *no* single number ranks these samplers. And the stored chains are
# preferred by their rank, which over-weights the deep wells, so that the left share stays below $m$
# even where nothing is lost.
#
# ## Sources
#
# Double wells: {cite:t}`noe2019`; in many dimensions: {cite:t}`midgley2023`. Protocol and published
# rows: {cite:t}`sendera2024`, copied to `reproduce/published.json`. Why both bounds are needed:
# {cite:t}`blessing2024beyond`. The equations of this page are checked in `tests/test_chapter_07.py`.
