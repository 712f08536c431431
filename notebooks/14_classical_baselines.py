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
# # What annealing does with the same energy
#
# Before anyone trains a network: give the same energy to a few thousand particles, start them in a
# wide Gaussian, and turn the target on slowly. How far does that get, counted in calls of the energy?
# Often further than one would like to admit, as the first figure shows.
#
# :::{admonition} At a glance
# **You will** run annealed importance sampling and annealed sequential Monte Carlo on the book's
# targets, with the metrics and the ledger of the trained samplers.
#
# **You will be able to** say what a trained sampler must offer beyond them, and to read a
# comparison of both without being fooled by either.
#
# **You need** [Twenty-five modes](04_25gmm). **Time**: 10 minutes to read; about a minute to run on
# one CPU core.
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
import os
from html import escape
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from IPython.display import Markdown

import gfnlite as gl
from gfnlite.plots import BLUE, GREY, ORANGE

# Energies this small gain nothing from a second thread.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
gl.plots.style()

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
task: str = "25gmm"  # or 9gmm, funnel, easy_funnel, lgcp, manywell32, ...
method: str = "SMC+MALA"  # or AIS+MALA
# smoke (seconds), quick (some seconds) or full (many more particles)
profile: str = os.environ.get("GFNLITE_PROFILE", "quick")
seeds: list = [0]  # one independent population each
out_dir: str | None = None  # where everything is kept; None: nothing is
particles: int | None = None  # annealed side by side
scale: float | None = None  # standard deviation of the start
keep: float | None = None  # effective fraction that a level leaves
moves: int | None = None  # MALA transitions a level

# %%
changes = {
    "particles": particles,
    "scale": scale,
    "keep": keep,
    "moves": moves,
}
config = gl.annealing.preset(task, method, profile, **changes)
target = gl.named_target(task)
print(f"{task}, {method}, profile {profile}, seeds {seeds}")

Markdown(config.markdown(always=config.describe()))

# %% [markdown]
# ## How far it gets
#
# One question for both: how wrong is $\log Z$ after so many calls of the energy? The lines are
# populations annealed here, more slowly from left to right: annealed importance sampling (AIS) gives
# each particle a weight, sequential Monte Carlo (SMC) resamples by the weights on the way. The points
# are trained samplers, read from `reproduce/results`, their calls those of the training, without the
# 20,000 of the estimate.

# %% tags=["lesson"]
here = Path.cwd()
results = next(
    folder / "reproduce" / "results"
    for folder in (here, *here.parents)
    if (folder / "reproduce" / "published.json").exists()
)
LADDER = (0.5, 0.8, 0.9, 0.95) if profile != "smoke" else (0.3, 0.5)
REPEATS = 3 if profile != "smoke" else 1
shown = ("25gmm", "manywell32")
annealed = {}
for name in shown:
    for row in gl.annealing.METHODS:
        points = annealed[name, row] = []
        for level in LADDER:
            tried = gl.annealing.preset(name, row, profile, keep=level)
            runs = [
                gl.annealing.anneal(gl.named_target(name), tried, seed)[0]
                for seed in range(REPEATS)
            ]
            truth = gl.named_target(name).log_z
            error = sum(abs(run.log_z - truth) for run in runs) / REPEATS
            calls = sum(run.energy_calls for run in runs) / REPEATS
            points.append((calls, error))

# %% tags=["lesson", "hide-input"] mystnb={"figure": {"name": "fig-classical-calls", "caption": "Mean absolute error of the estimate of log Z against energy calls. Lines: annealed particles, mean of three populations. Points: the trained samplers whose results are committed, each named in a table further down."}, "image": {"alt": "Two log-log panels, one for each target: lines for AIS and SMC at few energy calls, and points for trained samplers, most of them far to the right."}}
trained = {name: [] for name in shown}
figure, axes = plt.subplots(1, len(shown), figsize=(9.5, 4), squeeze=False)
for ax, name in zip(axes[0], shown, strict=True):
    lines = zip(gl.annealing.METHODS, (ORANGE, BLUE), strict=True)
    for row, colour in lines:
        calls, errors = zip(*annealed[name, row], strict=True)
        ax.loglog(calls, errors, "o-", color=colour, label=row)
    file = results / f"{name}.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    for row in rows:
        if row["seeds"] and row["method"] in gl.METHODS:
            truth = gl.named_target(name).log_z
            values = row["metrics"]["log_z_is"]["values"]
            error = sum(abs(v - truth) for v in values) / len(values)
            calls = row["metrics"]["energy_calls"]["mean"]
            marker = "^" if "LP" in row["method"].split("+") else "x"
            ax.loglog(calls, max(error, 1e-4), marker, color=GREY)
            label = f"{row['method']} ({row['profile']})"
            trained[name].append((calls, error, label))
    least = [
        min(e for _, e in annealed[name, m]) for m in gl.annealing.METHODS
    ]
    ax.set(xlabel="energy calls", ylabel="error of log Z (nats)")
    ax.set_title(f"{name}: {min(least):.2g} nats without training")
axes[0, 0].plot([], [], "x", color=GREY, label="trained")
axes[0, 0].plot([], [], "^", color=GREY, label="trained, with LP")
axes[0, 0].legend()
plt.show()

# %% [markdown]
# ## A bridge of densities
#
# From the Gaussian $\pi_0 = \mathcal N(0, s^2 I)$ to the target leads a bridge,
#
# $$
# \begin{aligned}
# R_\beta(x) &= R(x)^{\beta}\, \pi_0(x)^{1 - \beta}, \\
# 0 &= \beta_0 < \beta_1 < \dots < \beta_K = 1 .
# \end{aligned}
# $$ (eq-14-bridge)
#
# Each particle goes from level to level. At a new level it first takes on a weight, and is then moved
# by Langevin steps that leave $R_{\beta_k}$ invariant. That is *annealed importance sampling*
# {cite:p}`neal2001`.
#
# :::{prf:theorem} The mean weight is the normaliser
# :label: thm-14-weight
# Let the levels and the moves be fixed beforehand, the particle start at $x \sim \pi_0$ with $w = 1$,
# and the moves at level $k$ leave $R_{\beta_k}$ invariant. With the weight that it takes on at each
# level,
#
# $$
# \begin{aligned}
# w &\leftarrow w\; \frac{R_{\beta_k}(x)}{R_{\beta_{k-1}}(x)}, \\
# \mathbb E[w] &= Z \ \text{ at the end}.
# \end{aligned}
# $$ (eq-14-weight)
# :::
#
# :::{dropdown} Proof
# We show that after level $k$ every function $g$ has $\mathbb E[w\, g(x)] = \int R_{\beta_k}(x)\, g(x)\,
# dx$. At $k = 0$ that is so, as $R_0 = \pi_0$ and $w = 1$. If it is so after level $k - 1$, put $g$ times
# the new factor in the place of $g$: the new weight gives $\int R_{\beta_k}\, g$. Moves that leave
# $R_{\beta_k}$ invariant leave this as it is, since they take $g$ to its mean after the move, which has
# the same integral. After the last level, $g = 1$ gives $\int R = Z$.
# :::
#
# *Sequential Monte Carlo* {cite:p}`delmoral2006` resamples the particles by their weights at each level,
# so that none is carried along for nothing. The levels are chosen on the way: the next $\beta$ is the one that leaves a given effective fraction of the particles.
#
# The weight plays the role of a trajectory's: its mean estimates $Z$, and the mean of its logarithm is
# a lower bound of $\log Z$ in expectation. Both are so for levels and step sizes that are fixed
# beforehand; as they adapt to the particles here, both hold only up to what that costs, which falls with
# the number of particles. Resampling makes all weights equal, so that `SMC+MALA` has an estimate of
# $\log Z$, but no ELBO and no effective sample size.
#
# There is no EUBO, because we do not run the ladder backwards: started from exact samples, it would give
# an upper bound, *bidirectional Monte Carlo* {cite:p}`grosse2015`.
#
# The paper's cells are of 2,000 samples for a trained sampler, as everywhere in this book; for annealed
# particles, of which no others can be drawn without annealing again, they are of the whole population
# (but W2 is of 2,000).

# %%
folders = {s: out_dir and Path(out_dir) / f"seed-{s}" for s in seeds}
# Seeds that have their metrics are done, but the figure needs one.
todo = [
    seed
    for seed, folder in folders.items()
    if not (folder and (folder / "metrics.json").exists())
]
todo = todo or seeds[:1]
found, evaluations = [], []
for seed in todo:
    population, evaluation = gl.annealing.anneal(
        target, config, seed, folders[seed]
    )
    found.append(population)
    evaluations.append(evaluation)
columns = zip(todo, evaluations, strict=True)
pd.DataFrame({f"seed {s}": dict(e.rows()) for s, e in columns})

# %% mystnb={"figure": {"name": "fig-classical-samples", "caption": "2,000 particles, drawn by their weights (left), and how their mass is spread over the modes, or over one coordinate where no modes are known (right)."}, "image": {"alt": "Left: scatter of particles in two coordinates. Right: bars of relative mode weight, or a histogram of one coordinate against exact samples."}}
x = found[0].draw(2000).cpu()
figure, (left, right) = plt.subplots(
    1, 2, figsize=(9.5, 4.2), width_ratios=[1, 1.15]
)
gl.plots.overview(target, x, left)
left.set_title(
    f"{evaluations[0]['energy_calls']:,} energy calls, no training"
)
if target.mode_mass is None:
    gl.plots.marginal(target, x, right)
    right.set_title("One coordinate of it")
else:
    shares = evaluations[0]["mode_weights"]
    gl.plots.mode_weights(shares, target.mode_mass, right)
    modes = len(target.mode_mass)
    right.set_title(f"{evaluations[0]['modes']} of {modes} modes found")
if out_dir:
    figure.savefig(Path(out_dir) / "samples.png", dpi=120)
plt.show()

# %% [markdown]
# ## Against trained samplers
#
# Back to the first figure, whose points have names: method and profile. A row is *beaten* if some
# population has no more error for no more calls.

# %% tags=["lesson", "hide-input"]
lines = ["| target | beaten | not beaten |", "|:---|:---|:---|"]
for name in shown:
    points = [
        p for row in gl.annealing.METHODS for p in annealed[name, row]
    ]
    beaten, others = [], []
    for calls, error, label in trained[name]:
        better = any(c <= calls and e <= error for c, e in points)
        (beaten if better else others).append(label)
    words = [escape(", ".join(some)) or "none" for some in (beaten, others)]
    lines.append(f"| {name} | {words[0]} | {words[1]} |")
Markdown("\n".join(lines))

# %% [markdown]
# That is what the figure says of these two targets, with a few populations each, and no more. (Where a
# line does not fall, the error is that of a few populations of this size, and not of their haste.)
#
# Three things keep that from being the end of the story.
#
# 1. **Every new sample costs the whole ladder again.** A trained sampler draws the next million for
#    $T$ passes of a network each, and no call of the energy at all, unless its drift sees the
#    target's gradient (`LP`): then it is one call a step.
# 2. **Conditions.** A sampler that is trained once serves all conditions
#    ([One sampler for every image](08_vae_conditional)); annealing starts anew for each.
# 3. **The start has to cover the target, and the moves have to mix at each level.** Where they do not,
#    the estimate is quietly too low, exactly as a collapsed sampler's is; and without a run backwards
#    there is no EUBO to tell.
#
# What it does say is where the bar lies. A trained sampler that needs a hundred times the calls for a
# worse $\log Z$ has to be worth it for one of these three reasons.
#
# ## In five lines
#
# 1. Annealing carries particles along $R^\beta \pi_0^{1-\beta}$; their weights estimate $Z$.
# 2. AIS keeps the weights, SMC resamples by them; both are unbiased but for levels and step sizes that
#    adapt on the way.
# 3. Both go in the same ledger as trained samplers: `AIS+MALA` and `SMC+MALA` are rows of it.
# 4. For one target, once, compare with them first: many trained samplers are beaten on the two above.
# 5. Training pays by what comes after: cheap samples, conditions, and bounds from both sides without a
#    second ladder.
#
# ## Exercises
#
# **1.** Start too narrow: `scale = 0.5` on `25gmm`. What do the modes, the effective sample size and
# $\log Z$ say? And at `scale = 1.0`?
#
# :::{dropdown} Solution
# ```python
# for scale in (0.5, 1.0, 4.6):
#     narrow = gl.annealing.preset("25gmm", "AIS+MALA", profile, scale=scale)
#     print(scale)
#     print(gl.annealing.anneal(gl.gmm25, narrow)[1])
# ```
# At the smallest, all particles end in the mode at the origin: $\log Z$ is low by $\log 25$, the
# effective sample size is nearly one, and only the modes tell. At the next, a few particles reach the next modes with weights
# that make up for their rarity, so that the effective sample size warns, for once.
# :::
#
# **2.** In `manywell128`, which fails first when `keep` is lowered, AIS or SMC? Why?
#
# :::{dropdown} Solution
# AIS: the variance of its log-weights adds up over the levels and over the wells, and the mean of $w$
# is soon dominated by a single particle. SMC forgets bad histories at each level, but pays with
# particles that share their ancestors.
# ```python
# for row in gl.annealing.METHODS:
#     for keep in (0.5, 0.9, 0.95):
#         tried = gl.annealing.preset(
#             "manywell128", row, profile, keep=keep
#         )
#         ends, _ = gl.annealing.anneal(gl.ManyWell(128), tried)
#         print(row, keep, ends.log_z - gl.ManyWell(128).log_z)
# ```
# :::
#
# **3.** {prf:ref}`thm-14-weight` does not ask the moves to mix. Take none at all that matter, one level
# from $\pi_0$ straight to the target: what is AIS then, and how far does it get on 25GMM and on
# Manywell?
#
# :::{dropdown} Solution
# Plain importance sampling with the proposal $\pi_0$. Its weights have the mean $Z$, as the theorem says;
# but few particles start in a mode, and of those the lucky ones carry it all.
# ```python
# for name in ("25gmm", "manywell32"):
#     s = gl.annealing.preset(name, "AIS+MALA", profile).scale
#     goal, start = gl.named_target(name), torch.distributions.Normal(0.0, s)
#     x = start.sample((20_000, goal.dim))
#     log_w = goal.log_reward(x) - start.log_prob(x).sum(1)
#     error = gl.log_z_is(log_w) - goal.log_z
#     print(f"{name}: log Z off by {error:.2f}, ESS {gl.ess(log_w):.2%}")
# ```
# In two dimensions so many draws are enough for $\log Z$. In 32 they are not, and the estimate is too
# low: that is what the ladder is for.
# :::
#
# ## What went wrong on the way
#
# A particle of AIS that leaves the support of the target has the weight zero for ever, and nowhere to
# take a Langevin step from. It must still be counted in the mean, or $Z$ comes out too large.
#
# ## Sources
#
# Annealed importance sampling: {cite:t}`neal2001`. Sequential Monte Carlo samplers:
# {cite:t}`delmoral2006`. Bounds from both sides by annealing: {cite:t}`grosse2015`. The equations are checked in `tests/test_smc.py`, against targets whose
# normaliser is known.
