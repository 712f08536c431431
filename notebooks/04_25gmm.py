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
# # Twenty-five modes: training, and why it collapses
#
# Twenty-five narrow Gaussians, five units apart, and a sampler that starts at the origin and is
# told nothing but the energy at the points it visits. Does it find all twenty-five, and how would
# you know if it had not?
#
# ![Points start at one place, spread, and gather in twenty-five rings on a grid of five by five.](../reproduce/results/emblem.svg)
#
# *Five hundred trajectories of the sampler that this chapter trains, in one unit of time. Rings are
# the modes at two standard deviations; a colour says how far out a point will end. It plays once;
# load the page again to see it again.*
#
# :::{admonition} At a glance
# **You will** train a diffusion sampler with `gfnlite`, measure it against the truth, and switch
# off the one setting that decides whether it collapses.
#
# **You will be able to** read ELBO, EUBO, effective sample size and mode weights together, and to
# run the same notebook in batch for any seed, profile or setting.
#
# **You need** [From scratch](01_from_scratch) or its five-line summary.
# **Time**: 15 minutes to read; about a minute and a half to run on one CPU core in the `quick` profile;
# `full`, the paper's setting, takes a quarter of an hour a seed on one core.
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
import os
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from IPython.display import Markdown

import gfnlite as gl
from gfnlite.evaluation import draw
from gfnlite.film import film

# Matrices this small gain nothing from a second thread.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
gl.plots.style()

# %% [markdown]
# ## Parameters
#
# Everything that can be changed stands in this cell, so `papermill` can run the same notebook with
# other values (`python -m reproduce run` does so). The method and the profile choose a preset; a
# setting that is not `None` overrides it.

# %% tags=["parameters"]
task: str = "25gmm"  # or 9gmm, funnel, easy_funnel, lgcp
method: str = "TB+Expl"  # a row of the paper's table: see gl.METHODS
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
print(f"{task}, {method}, profile {profile}, seeds {seeds}")

# What this run sets or what the cell above can set; the rest is default.
Markdown(config.markdown(always=changes))

# %% [markdown]
# ## The target
#
# $$R(x) = \frac1K \sum_{k=1}^{K} \mathcal N(x; \mu_k, 0.3\, I), \qquad \log Z = 0,$$ (eq-04-target)
#
# with means on a grid: $K = 25$ at $\{-10, -5, 0, 5, 10\}^2$. A mode's standard deviation is
# $\sqrt{0.3} \approx 0.55$ and its neighbours are nine of those away: between modes the density is
# practically zero, so no local move leads from one to the next. The reference process reaches a standard deviation of
# $\sigma = \sqrt 5 \approx 2.2$ at $t = 1$; the outermost modes are more than four times as far.
#
# The other tasks of this notebook are nine such modes, Neal's funnel in ten dimensions (hard and
# easy) and a log-Gaussian Cox process in 1,600: `help(gl.targets)` leads to what they are. The cells
# below serve them all, and leave out what a task does not have.

# %% [markdown]
# ## Training
#
# Each iteration simulates a batch of trajectories, and trajectory balance asks that all their
# log-weights be equal (see [Notation](../book/notation)):
#
# $$
# \begin{aligned}
# \mathcal L_{\mathrm{TB}} &= \tfrac12\,\mathbb E\big[(\log Z_\theta - \log w)^2\big], \\
# \log w &= \log R(x_1) + \sum_i \log P_B - \sum_i \log P_F .
# \end{aligned}
# $$ (eq-04-tb)
#
# With `Expl`, the noise that draws a trajectory has the variance $\sigma^2 + e$ per unit time,
# where $e$ fades to zero over the first half of the training, while the densities in $\log w$ stay
# those of $P_F$. The `quick` profile also trains first on *random* grids of few time steps and
# only then on the full grid of $T = 100$: the drift is a function of continuous time, and learns
# most of what it needs from cheap coarse trajectories {cite:p}`berner2025discrete`.
#
# By hand, for one seed, a training is
#
# ```python
# sampler = gl.GFNDiffusion(gl.gmm25, config=config)
# sampler.fit()
# sampler.evaluate()
# ```
#
# The next cell does the same with the settings of the table above, for as many seeds as asked, and
# keeps what a batch run needs.
#
# :::{dropdown} The methods `DIS` and `DDS`
# These names in `gl.METHODS` are this package's own versions of {cite:t}`berner2024dis` and
# {cite:t}`vargas2023dds`. As in those papers the process is the variance-preserving one, the loss
# reverse KL, and the drift has a learned multiple of $\nabla \log R$; network, $\sigma^2$, steps and
# batch are those of the other rows, and the noise schedules (linear for `DIS`, cosine for `DDS`)
# those of diffusion models, not of their code.
# :::

# %%
ensemble = gl.Ensemble(target, config=config, seeds=seeds)
on_gpu = ensemble[0].device.type == "cuda"
logs = gl.callbacks.named(track, out_dir)
snapshots = {}


def keep(sampler, entry):
    """Samples on the way, for the slider below."""
    if sampler is ensemble[0] and out_dir is None:
        snapshots[entry["iteration"]] = sampler.sample(600).cpu(), entry


# All seeds as one program; on a GPU each step is one CUDA graph.
ensemble.fit(folder=out_dir, callbacks=[*logs, keep], compile=on_gpu)
evaluations = {}
for sampler in ensemble:
    folder = Path(out_dir) / f"seed-{sampler.seed}" if out_dir else None
    # Kept in its folder, with the cells that the paper's tables have.
    evaluations[sampler.seed] = gl.record(sampler, folder, n_samples)

sampler, evaluation = ensemble[0], evaluations[seeds[0]]
calls = f"{sampler.energy_calls:,} energy calls"
print(f"{sampler.seconds:.0f} s and {calls} a seed")
pd.DataFrame({f"seed {s}": dict(e.rows()) for s, e in evaluations.items()})

# %% [markdown]
# How to read this table:
#
# - **ELBO $\le \log Z \le$ EUBO**, and $\log Z = 0$. Their distance from zero is the error in nats,
#   seen from the sampler's side and from the target's side. With a *fixed* variance no drift
#   brings the ELBO to zero; [Is it right?](06_is_it_right) computes the best that one can do.
# - The **importance-sampled $\log Z$** is the estimate of $\log Z$ to use. The **learned**
#   $\log Z_\theta$ is not one: at the end of the training, on the sampler's own trajectories and
#   with a fixed variance, it tracks their mean log-weight, which is the ELBO.
# - **Effective sample size**: weighting each sample by its $w$ corrects the sampler's errors, at a
#   price. This fraction of as many exact samples would be as accurate. Seen from the target, with
#   exact samples, the same fraction falls to zero when a mode is missed.
# - **W2** is the exact Wasserstein distance between 2,000 samples and 2,000 exact ones, not the
#   20,000 of the other rows, since its cost grows with the cube of their number. It is not zero
#   even for a perfect sampler: the row below it says what exact samples score against exact
#   samples. Such a score is itself random ([Is it right?](06_is_it_right) measures by how much), so
#   that one W2 may fall below the floor by luck.
# - A mode is **found** when it has at least a fifth of its exact mass, among 20,000 samples. Mode
#   **coverage** says how evenly the modes are filled: one if all have their exact mass, zero if all
#   samples are in one of them.

# %% mystnb={"figure": {"name": "fig-25gmm-samples", "caption": "What the sampler draws, and how its mass is spread: 2,000 samples on the target's contours (left), and the share of 20,000 samples in each mode over the share it should have (right)."}, "image": {"alt": "Left: scatter of samples on a grid of contour circles. Right: bars of relative mode weight, one for each mode, against a dashed line at one."}}
# In batches that fit into memory, whatever the dimension.
generated, x, _ = draw(sampler, min(5000, n_samples))
figure, (left, right) = plt.subplots(
    1, 2, figsize=(9.5, 4.2), width_ratios=[1, 1.15]
)
gl.plots.overview(target, x[:2000], left)
if target.mode_mass is None:
    left.set_title(f"What {task} looks like to the sampler")
    gl.plots.marginal(target, x, right)
    right.set_title("One coordinate of it")
else:
    shares, mass = evaluation["mode_weights"], target.mode_mass
    left.set_title(f"{evaluation['modes']} of {len(mass)} modes found")
    gl.plots.mode_weights(shares, mass, right)
    relative = torch.tensor(shares) / mass
    low, high = relative.min(), relative.max()
    right.set_title(
        f"Weights are {low:.2f} to {high:.2f} of the exact mass"
    )
if out_dir:
    figure.savefig(Path(out_dir) / "samples.png", dpi=120)
    if isinstance(target, gl.GMM):
        path = sampler.trajectory(500)
        film(out_dir, target, path.x, limit=12.5, name="emblem")
plt.show()

# %% [markdown]
# How it came to be, at a dozen moments of the training (the first ones close together). While
# exploration is strong the samples spread over the whole grid, between the modes and often beyond
# their share on the outside; as it fades they gather in all of them.

# %% tags=["lesson"]
if not snapshots:  # a run that keeps its results takes none on the way
    snapshots[sampler.iteration] = x[:600], sampler.history[-1]
moments = list(snapshots)
early = [int(len(moments) * (i / 12) ** 2) for i in range(12)]
moments = [moments[i] for i in dict.fromkeys(early)] + moments[-1:]


def at_moment(iteration):
    seen, entry = snapshots[iteration]
    figure, ax = plt.subplots(figsize=(5, 4.9))
    gl.plots.overview(target, seen, ax)
    ax.set_title(moment_in_words(iteration))
    return figure


def moment_in_words(iteration):
    entry = snapshots[iteration][1]
    words = f"Iteration {iteration}: ELBO {entry['elbo']:.2f}"
    if entry["eubo"] is not None:
        words += f", EUBO {entry['eubo']:.2f}"
    return words


gl.explore(at_moment, moment_in_words, iteration=dict.fromkeys(moments))

# %% mystnb={"figure": {"name": "fig-25gmm-history", "caption": "The two bounds close in on log Z during training (the vertical axis is linear within a tenth of a nat and logarithmic beyond); they step together where the training goes from coarse grids of time to the fine one. A sampler that misses modes shows in the EUBO, not in the ELBO."}, "image": {"alt": "ELBO rising from below and EUBO falling from above toward the dashed line of the true log Z, over training iterations."}}
axes = gl.plots.history(sampler.history, target.log_z)
lower, upper = evaluation["elbo"], evaluation["eubo"]
if upper is None:
    axes.set_title(f"The ELBO ends at {lower:.2f} nats")
else:
    axes.set_title(f"ELBO and EUBO end {upper - lower:.2f} nats apart")
plt.show()

# %% mystnb={"figure": {"name": "fig-25gmm-weights", "caption": "Log-weights of 5,000 generated and of 5,000 destroyed trajectories; the effective fraction is that of the table. For a perfect sampler both are a spike at log Z; a tail on the right is mass that the sampler makes too rarely."}, "image": {"alt": "Two overlapping histograms of log-weights around the dashed line of the true log Z."}}
destroyed = None  # that needs exact samples
if target.sample is not None:
    destroyed, *_ = draw(sampler, len(generated), ends=target.sample)
axes = gl.plots.log_weights(generated, destroyed, target.log_z)
axes.set_title(f"{evaluation['ess']:.1%} of the samples are effective")
plt.show()

# %% tags=["lesson"] mystnb={"figure": {"name": "fig-25gmm-paths", "caption": "One coordinate of sixty generated trajectories. They fan out early; the outer levels part from the rest near t = 0.4, the inner ones later."}, "image": {"alt": "Sixty noisy paths from zero at time zero, fanning out to five levels at time one."}}
path = sampler.trajectory(200)
axes = gl.plots.trajectories(path.t, path.x)
axes.set_title("From one point to all levels in one unit of time")
plt.show()

# %% [markdown]
# ## Fewer steps, or more
#
# The drift is a function of time, so that the trained sampler can take any number of steps without
# being trained again. What is lost with few is what a long Gaussian step cannot follow.

# %% tags=["lesson"]
evaluated = {}
for count in (2, 5, 10, 20, 50, 100, 200):
    evaluated[count] = sampler.evaluate(min(2000, n_samples), steps=count)


def with_steps(steps):
    figure, ax = plt.subplots(figsize=(5, 4.9))
    gl.plots.overview(target, sampler.sample(800, steps=steps), ax)
    ax.set_title(steps_in_words(steps))
    return figure


def steps_in_words(steps):
    made = evaluated[steps]
    words = f"T = {steps}: ELBO {made['elbo']:.2f}"
    return words + f"\n{made['ess']:.1%} of the samples are effective"


gl.explore(with_steps, steps_in_words, steps=evaluated)

# %% [markdown]
# ## Why it collapses: exploration decides
#
# Trajectory balance is right for *any* distribution of training trajectories that covers the space.
# On-policy trajectories do not: a mode that is never visited sends no error back. Here are two
# short trainings on grids of ten random steps, ten seconds each, that differ in one number.

# %% tags=["lesson"] mystnb={"figure": {"name": "fig-25gmm-exploration", "caption": "The same short training without exploration and with it. Without, the outer modes are never seen and the loss cannot know of them; only the EUBO does."}, "image": {"alt": "Two scatter plots of samples on the target's contours: without exploration they fill the inner modes only, with it nearly all."}}
smoke_or_quick = "smoke" if profile == "smoke" else "quick"
short = gl.preset("25gmm", "TB+Expl", smoke_or_quick).replace(
    coarse_steps=min(10, config.steps),
    coarse_fraction=1.0,
    iterations=min(2000, config.iterations),
)
figure, axes = plt.subplots(1, 2, figsize=(8.4, 4.2), sharey=True)
for ax, amount in zip(axes, (0.0, 16.0), strict=True):
    trial = gl.GFNDiffusion(gl.gmm25, config=short, exploration=amount)
    trial.fit(compile=on_gpu)
    seen = trial.evaluate(n_samples)
    found, upper = seen["modes"], seen["eubo"]
    gl.plots.overview(gl.gmm25, trial.sample(1500), ax)
    ax.set_title(f"exploration {amount:g}: {found} modes, EUBO {upper:.1f}")
plt.show()

# %% [markdown]
# How much is right? The scale is what is missing between the process's own variance $\sigma^2 = 5$ and
# the mean square of the target's coordinates, $m_2 = 50.3$; a training that is not too short does with
# a third of it ([Which cures what](05_exploration_and_credit) derives the one and measures the other).
# The noise of {cite:t}`sendera2024`, 0.2 in each of 100 steps, is a variance of
# $100 \times 0.2^2 = 4$ in all. That is too little here: in our runs of the paper's setting
# {result}`25gmm TB+Expl modes` of the modes are found with it, and {result}`25gmm TB modes`
# without. `gfnlite` states exploration as variance per unit time, so that the
# setting means the same for every number of steps; in the reference code the same setting explores
# twice as much when $T$ is doubled.
#
# ## In five lines
#
# 1. `gl.GFNDiffusion(energy_fn=…)`, `.fit()`, `.sample()`, `.evaluate()` are the whole interface.
# 2. Trajectory balance needs trajectories that cover the target; on-policy ones need not.
# 3. Exploration noise changes which trajectories are drawn, never the densities in $\log w$.
# 4. A collapsed sampler has a harmless ELBO, a large EUBO, and too few modes. Look at all three.
# 5. Coarse random time grids first, the fine grid last: the same quality for a fraction of the time.
#
# ## Exercises
#
# **1.** Set `method = "TB"` in the parameters and run all. What do ELBO, EUBO and learned
# $\log Z_\theta$ say now? Compare $\log(\text{found}/25)$ with the learned value.
#
# :::{dropdown} Solution
# A sampler that draws perfectly from $m$ of the 25 equal modes has $\log w = \log(m / 25)$ on all
# its own trajectories. Ours does nearly that: $\log Z_\theta$ and the ELBO are $\log(m/25)$, less
# what the fixed variance costs, and the loss is small, though not zero. Only the EUBO,
# which starts from the missing modes too, is far off.
# ```python
# on_policy = gl.preset("25gmm", "TB", smoke_or_quick)
# trial = gl.GFNDiffusion(gl.gmm25, config=on_policy).fit()
# trial.evaluate(n_samples)
# ```
# :::
#
# **2.** Sample with `steps=20` and `steps=200` from the trained sampler. Which metrics change most?
#
# :::{dropdown} Solution
# Both bounds and the effective sample size get much worse from 100 steps to 20, while all modes
# stay found: with fewer, longer steps a fixed variance cannot follow the posterior of the next
# state. The drift is the same function of time, so nothing needs to be trained again.
# ```python
# for steps in (20, 50, 100, 200):
#     print(steps, sampler.evaluate(n_samples, steps=steps))
# ```
# :::
#
# **3.** Write your own energy, say two rings, as a function of a `(B, 2)` tensor, and train on it.
# In polar coordinates $Z$ is one integral over the radius: what does it say of your sampler?
#
# :::{dropdown} Solution
# ```python
# def ring_energy(radius):  # rings of radius 2 and 5, variance 0.1
#     inner, outer = (radius - 2).square(), (radius - 5).square()
#     return torch.minimum(inner, outer) / (2 * 0.1)
#
# def rings(x):  # energy: (B, 2) -> (B,)
#     return ring_energy(x.norm(dim=1))
#
# ringed = gl.GFNDiffusion(
#     rings, dim=2, sigma2=4.0, exploration=3.0, coarse_steps=20, lr=5e-3,
#     iterations=min(3000, config.iterations),
# ).fit()
#
# r = torch.linspace(0, 10, 10_001)
# mass = 2 * torch.pi * r * (-ring_energy(r)).exp()
# log_z = torch.trapezoid(mass, r).log()
# exact = mass[r > 3.5].sum() / mass.sum()
# share = (ringed.sample(n_samples).norm(dim=1) > 3.5).float().mean()
# print(f"true log Z {log_z:.3f}")
# print(f"outer ring {share:.1%} of the samples, exactly {exact:.1%}")
# ringed.evaluate(n_samples)  # what needs a known truth is "unknown"
# ```
# It trains in about a minute. Too many of its samples are on the outer ring, and the ELBO is well
# below $\log Z$; importance sampling corrects it. Without the integral, the small effective sample
# size is the warning: the weights differ, and the samples need them. Had the inner ring been lost
# altogether, it would not warn.
# :::
#
# ## What went wrong on the way
#
# Too much exploration hurts as well: at a variance of 50 most trajectories end where the density
# is nothing, and the loss is dominated by them. And training on coarse grids alone stops at a
# lower ELBO: the last fifth of the training on the fine grid is what closes the gap.
#
# ## Sources
#
# Target, protocol and the paper's rows: {cite:t}`sendera2024`. Random time grids:
# {cite:t}`berner2025discrete`. The network: {cite:t}`zhang2022pis`. The best possible ELBO with
# fixed variance is computed by dynamic programming on one coordinate, in `tests/test_floor.py`.
