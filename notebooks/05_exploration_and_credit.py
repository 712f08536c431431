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
# # Two diseases, five remedies: what cures what
#
# Twelve short trainings of one network on one target, the twenty-five Gaussians. They differ in one
# ingredient each: added noise, a replay buffer, a local search, the energy's gradient in the drift,
# another loss. Some find most of the modes and some find few. Every one of these ingredients has
# been called a cure. Which of them is one, and for which disease?
#
# :::{admonition} At a glance
# **You will** measure exploration, replay, local search, the Langevin drift and sub-trajectory
# balance one by one, without and with each other, and derive what each of them can and cannot do.
#
# **You will be able to** tell a sampler that never visits a mode from one that learns slowly,
# choose the amount of exploration before training, and say what a replay buffer does to the weights
# of the modes.
#
# **You need** [Twenty-five modes](04_25gmm), and the losses of [Trajectory balance,
# derived](03_trajectory_balance). **Time**: 40 minutes to read; about two minutes to run on one
# CPU core in the `quick` profile, some minutes in `full`.
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
import time
import warnings
from collections import Counter
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
import torch
from IPython.display import Markdown, display

import gfnlite as gl
from gfnlite.evaluation import draw
from gfnlite.floor import floor
from gfnlite.local_search import mala
from gfnlite.plots import BLUE, GREEN, GREY, ORANGE
from gfnlite.replay import ReplayBuffer

torch.set_num_threads(1)  # matrices this small need no second thread
gl.plots.style()
# It says that modes may never be found, which is this chapter's subject.
warnings.filterwarnings("ignore", message="samples of")

# %% tags=["parameters"]
# smoke (seconds), quick (a minute or two) or full (some minutes)
profile: str = os.environ.get("GFNLITE_PROFILE", "quick")
seed: int = 0  # of every random number in this chapter
iterations: int | None = None  # training steps on 25GMM
samples: int | None = None  # trajectories of an evaluation
batches: int | None = None  # batches that a gradient is averaged over
amount: float = 32.0  # exploration in the rows that have it

# %%
PROFILES = {  # iterations, samples, batches
    "smoke": (12, 500, 4),
    "quick": (800, 20_000, 60),
    "full": (4000, 20_000, 200),
}
chosen = (iterations, samples, batches)
iterations, samples, batches = (
    default if given is None else given
    for given, default in zip(chosen, PROFILES[profile], strict=True)
)

# %% [markdown]
# ## 1. Two diseases
#
# Trajectory balance asks that the log-weights of all trajectories be equal,
# $\log w(\tau) = \log Z_\theta$, and it corrects those trajectories that it is shown (see
# [Notation](../book/notation)). So a training can fail in two ways.
#
# 1. **A mode is never visited.** No trajectory ends there, so no error comes from there. The loss
#    cannot know. The ELBO, a mean over the sampler's *own* trajectories, cannot know either: a
#    sampler that is perfect on $m$ of $K$ equal modes has an ELBO of $\log Z - \log(K/m)$, a
#    harmless number. The EUBO starts from the target's samples and sees the loss at once.
# 2. **Credit comes late.** All modes are visited, but a whole trajectory is judged by the one
#    number at its end, and which of its steps was to blame has to be averaged out of noise. Such a
#    sampler is *slow*: both bounds are far from $\log Z$, and both still move.
#
# Call them *blindness* and *slowness*. Five remedies are on offer:
#
# | remedy | what it changes |
# |:---|:---|
# | exploration | the noise that draws a trajectory, from $\sigma^2$ to $\sigma^2 + e$ per unit time |
# | replay | ends of earlier trajectories are kept, and destroyed again |
# | local search (LS) | Langevin chains walk on from those ends, and theirs are kept |
# | Langevin parametrisation (LP) | the drift sees the gradient of $\log R$ |
# | FL-SubTB, VarGrad | the loss: parts of trajectories; or no learned $\log Z_\theta$ |
#
# The first three change *where* the loss is asked. The last two rows change what is learned from
# there. If that is all they do, the first three should cure blindness and the others slowness. Here
# is the experiment: each ingredient without exploration, and with it.


# %% tags=["lesson"]
SHORT = {  # coarse and narrow, so that a training takes seconds
    "iterations": iterations,
    "batch_size": 128,
    "hidden": 32,
    "lr": 1e-2,
    "steps": 20,
    "coarse_steps": 10,
    "coarse_fraction": 1.0,
    "exploration_decay": 0.8,
}
target = gl.gmm25
INGREDIENTS = {  # a method of gl.METHODS, and what else is changed
    "TB": ("TB+Expl", {}),
    "TB + replay": ("TB+Expl", {"replay_ratio": 0.5}),
    "TB + LS": ("TB+Expl+LS", {}),
    "TB + LP": ("TB+Expl+LP", {}),
    "FL-SubTB": ("FL-SubTB", {}),
    "VarGrad": ("VarGrad+Expl", {}),
}


def train(method, task="25gmm", on=None, seeds=(seed,), **changes):
    """Samplers of one setting, one for each seed, and CPU seconds each."""
    config = gl.preset(task, method, "quick").replace(**SHORT | changes)
    start = time.process_time()
    team = gl.Ensemble(
        on or gl.named_target(task), config=config, seeds=seeds
    )
    team.fit(progress=False)
    return list(team), (time.process_time() - start) / len(seeds)


def judge(sampler):
    """Modes found, and how far both bounds are from log Z."""
    on = sampler.target
    log_w, x, _ = draw(sampler, samples)
    upper, *_ = draw(sampler, samples, ends=on.sample)
    shares = on.modes_of(x).mean(0)
    return {
        "modes": gl.modes_found(shares, on.mode_mass),
        "ELBO gap": on.log_z - gl.elbo(log_w),
        "EUBO gap": gl.eubo(upper) - on.log_z,
        "calls": sampler.energy_calls,
    }


measured, trained = {}, {}
for name, (method, extra) in INGREDIENTS.items():
    for e in (0.0, amount):
        (sampler,), seconds = train(method, exploration=e, **extra)
        trained[name, e] = sampler
        measured[name, e] = judge(sampler) | {"seconds": seconds}

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-05-matrix", "caption": "Six methods on 25GMM, each without (no) and with (yes) exploration: modes found, distance of both bounds from log Z in nats, calls of the energy in thousands, and CPU seconds of training. Darker is worse within its column. Compare the two rows of each pair: where exploration finds modes and brings the EUBO down, the ELBO's gap need not get smaller. One seed for each row."}, "image": {"alt": "A table of twelve rows and five columns shaded by quality. In most pairs the row with exploration is lighter in the columns of modes and EUBO and darker in that of the ELBO."}}
rows = pd.DataFrame(
    {
        f"{name}, {'yes' if e else 'no'}": values
        for (name, e), values in measured.items()
    }
).T
rows["calls"] /= 1000
words = rows.copy().astype(object)
for column, digits in zip(rows, (0, 2, 2, 0, 1), strict=True):
    words[column] = [f"{value:,.{digits}f}" for value in rows[column]]
shade = rows.rank(method="max")
shade["modes"] = rows["modes"].rank(ascending=False, method="max")
figure, ax = plt.subplots(figsize=(6.4, 5.4))
sns.heatmap(
    shade / len(rows),
    annot=words,
    fmt="",
    cmap="Oranges",
    vmin=0,
    vmax=1.6,
    cbar=False,
    linewidths=1,
    annot_kws={"fontsize": 11, "color": "black"},
    ax=ax,
)
for y in range(2, len(rows), 2):
    ax.axhline(y, color="black", linewidth=1)
labels = ["modes\nof 25", "ELBO\ngap", "EUBO\ngap", "1000\ncalls", "CPU\ns"]
ax.set_xticklabels(labels, rotation=0)
ax.xaxis.tick_top()
ax.tick_params(length=0)
ax.set_ylabel("method, exploration")
without = [m["modes"] for (_, e), m in measured.items() if not e]
explored = [m["modes"] for (_, e), m in measured.items() if e]
ax.set_title(
    f"Without exploration {min(without)} to {max(without)} modes,"
    f" with it {min(explored)} to {max(explored)}",
    pad=12,
)
plt.show()

# %% [markdown]
# One seed each is an anecdote, so here is what a seed alone does to the row *TB, yes*, and the
# floor that no training at these settings can pass: with a fixed variance and few steps the ELBO
# keeps a distance from $\log Z$, which `gfnlite.floor` computes.

# %% tags=["lesson"]
others, _ = train("TB+Expl", exploration=amount, seeds=(seed + 1, seed + 2))
spread = [measured["TB", amount], *map(judge, others)]


def between(key, digits=2):
    """Least and largest of the seeds."""
    values = [m[key] for m in spread]
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


least = floor(target, SHORT["steps"], trained["TB", 0.0].config.sigma2)
display(
    Markdown(
        f"Over three seeds *TB, yes* finds {between('modes', 0)} modes, "
        f"with an ELBO gap of {between('ELBO gap')} and an EUBO gap of "
        f"{between('EUBO gap')} nats. Differences between rows that are no "
        f"larger mean nothing. The floor of the ELBO gap is {least:.2f}."
    )
)

# %% tags=["hide-input"]
by_name = {
    name: (measured[name, 0.0], measured[name, amount])
    for name in INGREDIENTS
}
plain = by_name["TB"][0]
gained = {
    n: off["modes"] - plain["modes"] for n, (off, _) in by_name.items()
}
alone = by_name["TB"][1]["modes"] - plain["modes"]
costs = {n: on["calls"] / plain["calls"] for n, (_, on) in by_name.items()}
cheap = {n: on["ELBO gap"] for n, (_, on) in by_name.items()}
closest = min(cheap, key=cheap.get)
display(
    Markdown(
        f"Exploration alone adds {alone} modes to TB. Of the other "
        "ingredients alone, "
        + ", ".join(
            f"{n} adds {g:+d}" for n, g in gained.items() if n != "TB"
        )
        + f". Together with exploration, {closest} has the smallest ELBO "
        f"gap, {cheap[closest]:.2f}, for {costs[closest]:.1f} times the "
        "energy calls of TB."
    )
)


# %% tags=["hide-input"]
def count(better, names):
    """In how many pairs of rows the one with exploration is better."""
    return f"{sum(map(better, names))} of {len(names)}"


every_row = list(INGREDIENTS)
no_lp = [name for name in every_row if "LP" not in name]


def gap_fell(key):
    """Whether a method's gap is smaller with exploration."""
    return lambda n: by_name[n][1][key] < by_name[n][0][key]


finds = count(
    lambda n: by_name[n][1]["modes"] > by_name[n][0]["modes"], every_row
)
most = max(v for n, v in gained.items() if n != "TB")
(lp_off, lp_on), steps = by_name["TB + LP"], SHORT["coarse_steps"]
tb_on = by_name["TB"][1]
upper_fell = count(gap_fell("EUBO gap"), every_row)
lower_fell = count(gap_fell("ELBO gap"), no_lp)
display(
    Markdown(
        f"- **Blindness.** Exploration finds more modes in {finds} pairs "
        f"of rows. No other ingredient alone adds more than {most}.\n"
        "- **What shows it.** With exploration the EUBO gap is smaller in "
        f"{upper_fell} pairs. Leaving LP aside, the ELBO gap is smaller in "
        f"{lower_fell}: a sampler of a few modes is an easier thing to get "
        "right, and has less to be wrong about.\n"
        f"- **The Langevin drift** alone finds {lp_off['modes']} modes "
        f"with an ELBO gap of {lp_off['ELBO gap']:.2f}, and "
        f"{lp_on['modes']} with {lp_on['ELBO gap']:.2f} when exploration "
        f"is added; TB finds {plain['modes']} with "
        f"{plain['ELBO gap']:.2f}, and {tb_on['modes']} with "
        f"{tb_on['ELBO gap']:.2f}. With LP a path of {steps} steps asks "
        f"for {steps + 1} energy calls."
    )
)

# %% [markdown]
# Whoever watches the ELBO alone would switch exploration off.
#
# The rest of the chapter takes the ingredients one by one, asks why, and ends with the paper's own
# rows at full size, where some of this changes.

# %% [markdown]
# ## 2. Exploration: how much?
#
# Exploration adds the variance $e$ per unit time to the noise that *draws* a trajectory. It never
# enters the densities in $\log w$, so it moves no optimum. How much is enough? Two facts bound it
# from both sides.
#
# An untrained sampler has no drift. Its end is a sum of independent steps of variance
# $(\sigma^2 + e)\,\Delta t$, so for every number of steps
#
# $$
# \mathbb E\,|x_1|^2 / d = \sigma^2 + e .
# $$ (eq-05-untrained)
#
# If the ends should spread as far as the target does, whose mean square per coordinate is
# $m_2 = \mathbb E_\pi |x|^2 / d$ with $\pi = R/Z$, this asks for
#
# $$
# e^* = m_2 - \sigma^2 .
# $$ (eq-05-amount)
#
# That is what is *missing* between the reference process and the target. A sampler that has learnt
# something already carries its paths outwards by itself, and needs less:
#
# :::{prf:proposition} Exploration multiplies what has been learnt
# :label: prp-05-explored
#
# Let the target be $\mathcal N(0, s^2 I)$ and the drift be the optimal one of the pinned process
# with variance $\sigma^2$, in the limit of many steps. If paths are drawn with variance
# $\sigma^2 + e$ per unit time, then
#
# $$
# \mathbb E\,|x_1|^2 / d = s^2 \Big( 1 + \frac e{\sigma^2} \Big).
# $$ (eq-05-explored)
# :::
#
# :::{dropdown} Proof
# The marginals of the optimal process have the variance $V_t = t^2 s^2 + \sigma^2 t (1 - t)$ in
# each coordinate. A linear drift $a_t x$ gives $V_t' = 2 a_t V_t + \sigma^2$, hence
#
# $$
# a_t = \frac{V_t' - \sigma^2}{2 V_t} = \frac{s^2 - \sigma^2}{g_t},
# \qquad g_t = \sigma^2 + t\,(s^2 - \sigma^2).
# $$
#
# So $a_t = g_t' / g_t$. With the larger noise the second moment $M_t$ obeys
# $M_t' = 2 a_t M_t + \sigma^2 + e$ and $M_0 = 0$, which
# $M_t = (\sigma^2 + e)\, g_t^2 \int_0^t g_r^{-2} dr$ solves. The integral up to 1 is
# $1 / (g_0\, g_1) = 1/(\sigma^2 s^2)$, and $g_1 = s^2$. For $s^2 = \sigma^2$ there is no drift, and
# this is {eq}`eq-05-untrained`.
# :::
#
# The two agree for a sampler that has learnt nothing, $s^2 = \sigma^2$. For one that has learnt to
# reach out, the same $e$ throws its paths far beyond the target, by the factor $1 + e/\sigma^2$ in
# variance. This is why exploration must **fade**, and why too much of it hurts.
#
# What does the loss see? A mode whose basin (the points nearer to it than to any other) begins at
# $b$ in both coordinates is hit by a path of an untrained sampler with probability
#
# $$
# \begin{aligned}
# p(e) &= Q\Big( \frac b{\sqrt{\sigma^2 + e}} \Big)^{2}, \\
# Q(z) &= \int_z^\infty \frac{e^{-y^2/2}}{\sqrt{2\pi}}\, dy .
# \end{aligned}
# $$ (eq-05-hits)
#
# For a corner of the grid, at $(10, 10)$ with neighbours at a distance of 5, $b = 7.5$.


# %% tags=["equations"]
def corner_hits(e, sigma2=5.0, edge=7.5):
    """Probability that an untrained path ends in a corner's basin."""
    z = torch.as_tensor(edge / (sigma2 + e) ** 0.5, dtype=torch.float64)
    return (0.5 * torch.erfc(z / 2**0.5)) ** 2


def explored_moment(e, sigma2, s2=None):
    """E |x_1|^2 / d: untrained, or trained for N(0, s2 I)."""
    return sigma2 + e if s2 is None else s2 * (1 + e / sigma2)


def missing_amount(moment, sigma2):
    """Exploration e* that an untrained sampler lacks."""
    return moment - sigma2


# %%
moment = target.sample(200_000, torch.Generator().manual_seed(seed))
moment = moment.square().mean().item()
missing = missing_amount(moment, 5.0)
lines = ["| $e$ | spread untrained | spread trained | hits of one corner |"]
lines.append("|---:|---:|---:|---:|")
for e in (0, 4, 8, 16, 32, 64, 128):
    low, high = explored_moment(e, 5.0), explored_moment(e, 5.0, moment)
    hits = 128 * corner_hits(e).item()
    lines.append(f"| {e} | {low**0.5:.1f} | {high**0.5:.0f} | {hits:.2g} |")
display(Markdown("\n".join(lines)))
display(
    Markdown(
        f"The target's mean square per coordinate is {moment:.1f}, its "
        f"spread {moment**0.5:.1f}. Equation {{eq}}`eq-05-amount` asks for "
        f"$e^* = {missing:.0f}$. Without exploration batches of 128 "
        f"untrained paths meet a given corner once in "
        f"{1 / (128 * corner_hits(0).item()):,.0f} iterations."
    )
)

# %% [markdown]
# The last column is the mean number of a batch's 128 untrained paths that end in the basin of one
# given corner. *Spread* is the square root of the mean square per coordinate, for an untrained
# sampler and, by the proposition, for a Gaussian target as wide as ours whose drift has been
# learnt. Now the measurement: the same training with seven amounts. Move the slider.

# %% tags=["lesson"]
AMOUNTS = (0.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
sweep = {}
for e in AMOUNTS:
    if e in (0.0, amount):
        sampler, found = trained["TB", e], measured["TB", e]
    else:
        (sampler,), _ = train("TB+Expl", exploration=e)
        found = judge(sampler)
    sweep[e] = found | {"sampler": sampler, "x": sampler.sample(1500)}


# %% tags=["lesson", "hide-input"]
def explored_figure(exploration):
    """Samples after a training with this exploration, among the others."""
    now = sweep[exploration]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(7.6, 3.9), width_ratios=[1.1, 1]
    )
    gl.plots.samples(target, now["x"], 14, left)
    left.set_title(f"{now['modes']} of 25 modes")
    places = range(len(AMOUNTS))
    for key, colour, mark in (
        ("ELBO gap", BLUE, "o"),
        ("EUBO gap", ORANGE, "s"),
    ):
        values = [found[key] for found in sweep.values()]
        right.plot(places, values, mark + "-", color=colour, label=key)
    right.axvline(AMOUNTS.index(exploration), color=GREY, linestyle=":")
    right.set_xticks(places, [f"{e:g}" for e in AMOUNTS])
    right.set(xlabel="exploration $e$", ylabel="nats", ylim=(0, None))
    right.legend()
    lower, upper = -now["ELBO gap"], now["EUBO gap"]
    right.set_title(f"ELBO {lower:.1f}, EUBO {upper:.1f}")
    return figure


def explored_words(exploration):
    """The same for who cannot see it."""
    now = sweep[exploration]
    return (
        f"Samples on the 25 modes after training with exploration "
        f"{exploration:g}: {now['modes']} modes found, ELBO "
        f"{-now['ELBO gap']:.1f}, EUBO {now['EUBO gap']:.1f}. Beside it "
        "both gaps against exploration."
    )


gl.explore(explored_figure, explored_words, exploration=AMOUNTS)

# %% tags=["hide-input"]
winner = min(sweep, key=lambda e: sweep[e]["EUBO gap"])
by_elbo = min(sweep, key=lambda e: sweep[e]["ELBO gap"])
end = sweep[AMOUNTS[-1]]
display(
    Markdown(
        f"The EUBO is best at $e = {winner:g}$, with "
        f"{sweep[winner]['modes']} modes; equation {{eq}}`eq-05-amount` "
        f"says {missing:.0f}. The ELBO is best at $e = {by_elbo:g}$, with "
        f"{sweep[by_elbo]['modes']} modes. At $e = {AMOUNTS[-1]:g}$ there "
        f"are {end['modes']} modes: by the table above a path that has "
        "learnt to reach out is then thrown far beyond the target. All of "
        "this is one seed an amount."
    )
)
inner = target.means.abs().amax(1) < 6  # the middle nine
shares = target.modes_of(trained["TB", amount].sample(samples)).mean(0)
outside = shares[~inner].sum().item()
exactly = target.mode_mass[~inner].sum().item()
display(
    Markdown(
        f"Look at the samples at $e = {amount:g}$, too: "
        f"{sweep[amount]['modes']} modes are *found*, with a fifth of "
        f"their mass or more, and yet the outer sixteen together have "
        f"{outside:.0%} of the samples where {exactly:.0%} is right."
    )
)

# %% [markdown]
# A short training with much noise has been shown the outside more often than the inside, and has
# had little time to forget it. To find a mode is less than to weigh it.
#
# The theory gives the scale and not the last factor of two. Given more time a sampler needs less
# than $e^*$, since it reaches further as it learns: [Twenty-five modes](04_25gmm) trains five times
# as many iterations with $e = 16$, about a third of what is missing, and that third is also what
# `gl.diagnose` advises. A *short* training needs more of it, as here. Note too what the table says
# of $e = 4$, the paper's setting: an untrained batch hardly ever meets a corner, which even the
# paper's many iterations do not make up for (section 7).
#
# Noise is the simplest law that covers more. Another is a second sampler that is trained to go
# where the first one errs {cite:p}`kim2025adaptive`; by {prf:ref}`thm-03-tb` any law
# will do that covers the target.
#
# Exploration in units of variance per unit *time* is what makes these statements independent of
# $T$. A fixed standard deviation per step would explore more with each step added.

# %% [markdown]
# ## 3. Replay: what a buffer does to the weights
#
# A **replay buffer** keeps the ends $x_1$ of past trajectories. In half of the training steps an
# end is drawn from it, a trajectory is *destroyed* from there by $P_B$, and the loss is asked on
# it. The energy has been computed already, so a replayed step costs no call at all. What is drawn
# is a choice. The usual one is by **rank** {cite:p}`tripp2020`: with the $N$ ends sorted by reward,
# the best having rank 0,
#
# $$
# p(r) \propto \frac1{kN + r}, \quad 0 \le r < N .
# $$ (eq-05-rank)
#
# For large $N$ it is drawn without any sum, from one uniform number $u$. Replace $1/(kN + r)$ by
# the integral of $1/y$ from $kN + r - \tfrac12$ to $kN + r + \tfrac12$, and invert:
#
# $$
# \begin{aligned}
# r(u) &= \Big\lfloor c \Big[ \Big( \frac{N + c}{c} \Big)^{u} - 1 \Big] \Big\rfloor, \\
# c &= kN - \tfrac12 .
# \end{aligned}
# $$ (eq-05-inverse)
#
# With $u = \tfrac12$ this is the median. So half of all draws are of the best fraction
#
# $$
# \sqrt{k (1 + k)} - k
# $$ (eq-05-half)
#
# of the buffer. For the paper's $k = 0.01$ that is about nine percent: a strong preference.


# %% tags=["equations"]
def rank_of(u, n, k):
    """Ranks drawn by 1 / (k n + rank), from uniform numbers u."""
    c = k * n - 0.5
    return (c * (((n + c) / c) ** u - 1)).floor().clamp(max=n - 1)


def best_half(k):
    """Fraction of the buffer that half of the draws are of."""
    return (k * (1 + k)) ** 0.5 - k


def mean_age(capacity, added):
    """Iterations since a uniform draw was added, buffer full."""
    return (capacity / added - 1) / 2


# %% [markdown]
# **Whom does it prefer?** High reward is not high mass. Take two modes in one dimension, each with
# *half of the mass*: a narrow one of variance 0.1 and a wide one of variance 1. The narrow one is
# about three times as high. Fill a buffer with *exact* samples and draw.

# %% tags=["lesson"]
two = gl.GMM([[-3.0], [3.0]], [0.1, 1.0])  # half of the mass each
generator = torch.Generator().manual_seed(seed)
exact = two.sample(10_000, generator)
log_r = two.log_reward(exact)


def narrow_share(**settings):
    """Share of draws in the narrow mode, from a buffer of exact samples."""
    buffer = ReplayBuffer(len(exact), 1, **settings)
    buffer.add(exact, log_r)
    return (buffer.sample(20_000, generator).x < 0).float().mean().item()


KS = (0.001, 0.01, 0.1, 1.0, 10.0)
by_rank = [narrow_share(priority="rank", rank_weight=k) for k in KS]
uniform = narrow_share(priority="uniform")

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-05-rank", "caption": "Share of the draws that are in the narrow one of two modes of equal mass, from a buffer of exact samples, by rank priority 1/(kN + rank). The smaller k, the more a buffer takes height for mass; uniform draws do not."}, "image": {"alt": "A falling curve of the share of the narrow mode against k on a logarithmic axis, from far above one half down to one half, and a flat dashed line for uniform draws."}}
_, ax = plt.subplots(figsize=(6, 3.4))
ax.semilogx(KS, by_rank, "o-", color=ORANGE, label="by rank")
ax.axhline(uniform, color=BLUE, linestyle="--", label="uniform")
ax.axhline(0.5, color="black", linewidth=0.8, label="exact mass")
ax.set(xlabel="$k$ of the priority", ylabel="share of the narrow mode")
ax.set_ylim(0, 1)
ax.legend()
at_paper = by_rank[KS.index(0.01)]
ax.set_title(
    f"k = 0.01 draws {at_paper:.0%} from a mode with half the mass"
)
plt.show()

# %% [markdown]
# Does that matter? In theory no: trajectory balance has one solution, whatever the law of its
# trajectories, as long as it covers the space and the balance can be met. In practice a network of
# finite size, with steps of finite length, trained for a finite time, makes its errors small where
# it is asked often. The test is `gl.ManyWell(4)`, two
# double wells with unequal sides and four modes of unequal height, with local search and four
# priorities. `reward` and `weight` draw in proportion to (a power of) $R$ and of the log-weight's
# $w$.

# %% tags=["lesson"]
wells = gl.ManyWell(4)
right_side = 1 - wells.mode_mass[0].item()
truth = right_side**2  # both coordinates on their heavier side


def major(x):
    """Share of the points with both wells on the right."""
    return (x[:, 0::2] > 0).all(1).float().mean().item()


held = {}
for priority in ("uniform", "rank", "reward", "weight"):
    team, _ = train(
        "TB+Expl+LS",
        "manywell32",
        wells,
        seeds=(seed, seed + 1, seed + 2),
        replay_priority=priority,
        iterations=max(iterations // 2, 1),
    )
    held[priority] = {
        "drawn": [major(one.replayed.sample(20_000).x) for one in team],
        "sampled": [major(one.sample(samples)) for one in team],
        "EUBO gap": [judge(one)["EUBO gap"] for one in team],
    }
means = {
    priority: {key: sum(row[key]) / len(row[key]) for key in row}
    for priority, row in held.items()
}

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-05-priority", "caption": "Share of the heaviest of the four modes of ManyWell(4), among what each priority draws from the buffer (squares) and among the samples of the sampler trained on it (circles), three seeds joined by lines; the dashed line is exact. Rank and reward over-weight the heaviest mode, and the sampler follows its buffer."}, "image": {"alt": "Dot plot with one row for each priority; open squares are draws of the buffer, filled circles samples, a vertical dashed line is the exact share. Rank and reward lie near one, uniform below the line, weight around it."}}
_, ax = plt.subplots(figsize=(6.2, 3.2))
for y, row in enumerate(reversed(held.values())):
    pairs = zip(row["drawn"], row["sampled"], strict=True)
    for up, (drawn, sampled) in zip((0.2, 0, -0.2), pairs, strict=True):
        ax.plot([drawn, sampled], [y + up, y + up], color=GREY, lw=1)
        ax.plot(drawn, y + up, "s", color=ORANGE, mfc="white", ms=5)
        ax.plot(sampled, y + up, "o", color=BLUE, ms=5)
ax.plot([], [], "s", color=ORANGE, mfc="white", label="drawn")
ax.plot([], [], "o", color=BLUE, label="sampled")
ax.axvline(truth, color="black", linewidth=0.8, linestyle="--")
ax.set_yticks(range(len(held)), reversed(held))
ax.set(xlabel="share of the heaviest mode", ylim=(-0.6, 3.6))
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
ax.set_title(
    f"By rank {means['rank']['sampled']:.0%} where {truth:.0%} is right,"
    f" by weight {means['weight']['sampled']:.0%}"
)
plt.show()

# %% tags=["hide-input"]
lines = ["| priority | drawn | sampled | exact | EUBO gap |"]
lines.append("|:---|---:|---:|---:|---:|")
for priority, row in means.items():
    cells = [row["drawn"], row["sampled"], truth]
    shares = " | ".join(f"{c:.1%}" for c in cells)
    lines.append(f"| {priority} | {shares} | {row['EUBO gap']:.2f} |")
display(Markdown("\n".join(lines)))
near = min(means, key=lambda p: abs(means[p]["sampled"] - truth))
tightest = min(means, key=lambda p: means[p]["EUBO gap"])
some = held["weight"]["sampled"]
display(
    Markdown(
        f"Means of three seeds. Nearest to the exact share is priority "
        f"`{near}`; the least EUBO gap has `{tightest}`. The three seeds "
        f"of `weight` have shares from {min(some):.0%} to {max(some):.0%}: "
        "three are too few to say on which side of the truth it ends."
    )
)

# %% [markdown]
# The sampler follows its buffer. Uniform draws err on the other side, because the chains of the
# local search start where an explored, half-trained sampler ended, spread over the modes too
# evenly, and they hardly move between modes to correct it (next section). Drawing by the importance
# weight $w$ corrects for where the samples came from {cite:p}`choi2025reinforced`. The share of one
# mode is one criterion, and the EUBO, which weighs all of the target, another: compare them in the
# table before choosing.
#
# **Staleness.** A first-in first-out buffer of $N$ ends to which $n$ are added each iteration holds
# ends of mean age
#
# $$
# \tfrac12 \Big( \frac Nn - 1 \Big) \text{ iterations}.
# $$ (eq-05-age)
#
# An old end is not wrong: balance may be asked anywhere. It is only less useful, since it shows
# where an older sampler went. What *is* wrong is a law that does not know the newest ends. In the
# paper's public code the list of indices to draw from is made before the newest samples are added,
# so that what was just found cannot be drawn for a while. `gl` draws from what is there at that
# moment, which `tests/test_replay.py` checks.

# %% [markdown]
# ## 4. Local search: it climbs, it does not cross
#
# A local search takes the ends in the buffer as starts of **Metropolis-adjusted Langevin** chains
# {cite:p}`roberts1996`, and puts the chains' states into a buffer of its own. In GFlowNets on
# graphs the same idea destroys and rebuilds a part of the object {cite:p}`kim2024ls`. A chain
# proposes a step up the gradient, with noise,
#
# $$
# \begin{aligned}
# y &\sim q(\cdot \mid x) \\
# &= \mathcal N\big( x + h \nabla \log R(x),\ 2 h I \big),
# \end{aligned}
# $$
#
# and accepts it with probability
#
# $$
# \alpha(x, y) = \min\Big( 1,\ \frac{R(y)\, q(x \mid y)}{R(x)\, q(y \mid x)} \Big);
# $$ (eq-05-mala)
#
# else it stays, and *the old state counts once more*. This makes the target invariant, because
# $\pi(x)\, q(y \mid x)\, \alpha(x, y)$ is symmetric in $x$ and $y$ (detailed balance). It is
# tempting to keep the accepted proposals alone, as the public code of the paper does. They have
# another law.
#
# :::{prf:proposition} What accepted proposals are samples of
# :label: prp-05-accepted
#
# Let $a(x) = \int q(y \mid x)\, \alpha(x, y)\, dy$ be the mean acceptance at $x$. For a chain in
# equilibrium the accepted proposals have the density
#
# $$
# \frac{\pi(y)\, a(y)}{\int \pi(x)\, a(x)\, dx} .
# $$ (eq-05-accepted)
# :::
#
# :::{dropdown} Proof
# The density of an accepted proposal at $y$ is $\int \pi(x)\, q(y \mid x)\, \alpha(x, y)\, dx$, up
# to normalisation. By detailed balance that is
# $\int \pi(y)\, q(x \mid y)\, \alpha(y, x)\, dx = \pi(y)\, a(y)$.
# :::
#
# So accepted proposals under-weight what is hard to accept in: narrow modes, walls, ridges. The
# same two modes as above, started from exact samples with the right half in each:


# %% tags=["equations"]
def acceptance(target, x, y, h):
    """Probability of accepting y from x, each (n, d): (n,)."""

    def log_q(to, start):
        mean = start + h * target.score(start)
        return -(to - mean).square().sum(-1) / (4 * h)

    log_ratio = target.log_reward(y) - target.log_reward(x)
    log_ratio = log_ratio + log_q(x, y) - log_q(y, x)
    return log_ratio.clamp(max=0).exp()


def proposal(target, x, h, generator):
    """y drawn from q(y | x), (n, d)."""
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return x + h * target.score(x) + (2 * h) ** 0.5 * noise


# %% tags=["lesson", "accepted"]
h = 0.3
chains = mala(
    two, exact[:2000], steps=100, burn_in=0, adapt=1.0, step_size=h,
    generator=generator,
)  # fmt: skip
path = torch.cat((exact[None, :2000], chains.x))
moved = (path[1:] != path[:-1]).any(-1)
accepted, every = chains.x[moved], chains.x.flatten(0, 1)
grid = torch.linspace(-5, 7, 241)[:, None]
many = grid.repeat_interleave(2000, 0)
rate = acceptance(two, many, proposal(two, many, h, generator), h)
rate = rate.view(len(grid), -1).mean(1)  # a(y)
density = two.log_reward(grid).exp()
predicted = density * rate
predicted /= torch.trapezoid(predicted, grid[:, 0])
left = grid[:, 0] < 0
expected = torch.trapezoid(predicted[left], grid[left, 0]).item()

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-05-accepted", "caption": "Chains started from exact samples. All states (filled) keep the target; accepted proposals alone (outline) follow the predicted density, target times acceptance rate, in which the narrow mode has too small a share."}, "image": {"alt": "Two humps, a tall narrow one on the left and a wide one on the right. A filled histogram follows the exact density, an outlined histogram follows a dashed curve that is lower on the left and higher on the right."}}
_, ax = plt.subplots(figsize=(6.2, 3.5))
bars = {"bins": 120, "range": (-5, 7), "density": True}
ax.hist(every[:, 0], **bars, color=BLUE, alpha=0.35, label="all states")
ax.hist(
    accepted[:, 0], **bars, color=ORANGE, histtype="step", linewidth=1.4,
    label="accepted only",
)  # fmt: skip
ax.plot(grid, density, color=BLUE, linewidth=1, label="target")
ax.plot(grid, predicted, "--", color="black", lw=1, label="predicted")
ax.set(xlabel="$x$", ylabel="density")
ax.legend()
share = (accepted < 0).float().mean().item()
kept = (every < 0).float().mean().item()
ax.set_title(
    f"Narrow mode: {kept:.0%} of all states, {share:.0%} of the accepted"
    f" (predicted {expected:.0%})"
)
plt.show()

# %% [markdown]
# **What a search finds.** On the twenty-five Gaussians, start chains from Gaussian clouds of
# growing width, as explored samplers of different spread would give them, and count the modes that
# some chain is nearest to, before and after.

# %% tags=["lesson"]
lines = ["| spread | modes met before | after | new | changed mode |"]
lines[0] += " log R before | after |"
lines.append("|---:|---:|---:|---:|---:|---:|---:|")
nearer, fresh, crossed = [], 0, []
for variance in (0.3, 5.0, 21.0, 37.0, moment):
    x = torch.randn(1000, 2, generator=generator) * variance**0.5
    end = mala(target, x, steps=200, burn_in=100, generator=generator)
    before, after = target.modes_of(x) > 0, target.modes_of(end.x[-1]) > 0
    met = before.any(0), after.any(0)
    new = int((met[1] & ~met[0]).sum())
    left_it = (before != after).any(1)
    two_nearest = (x[:, None] - target.means).norm(dim=-1).sort(1).values
    nearer.append((two_nearest[:, 1] - two_nearest[:, 0])[left_it])
    fresh, crossed = fresh + new, [*crossed, left_it.float().mean().item()]
    heights = [target.log_reward(x).mean(), end.log_reward[-1].mean()]
    row = [f"{variance**0.5:.1f}", *(str(int(m.sum())) for m in met)]
    row += [f"{new}", f"{crossed[-1]:.1%}"]
    row += [f"{height:.1f}" for height in heights]
    lines.append("| " + " | ".join(row) + " |")
display(Markdown("\n".join(lines)))
at_exact = target.log_reward(target.sample(samples, generator)).mean()
undecided = torch.cat(nearer).quantile(0.5).item()
display(
    Markdown(
        f"Exact samples have a mean $\\log R$ of {at_exact:.1f}. In all "
        f"five searches {fresh} of the modes met at the end had not been "
        f"nearest to any start. At most {max(crossed):.1%} of the chains "
        f"changed their mode, and half of those had started less than "
        f"{undecided:.2f} nearer to it than to the next, where "
        "neighbours are 5 apart."
    )
)

# %% [markdown]
# The search makes good points of bad ones, at once: $\log R$ rises to that of exact samples. It
# finds next to no mode that its starts were not already nearest to: most of the few that changed
# mode came from the border of two. So local search **refines what exploration has found**. It
# cannot replace it, which is the row *TB + LS, no* of {ref}`the first figure <fig-05-matrix>`, and
# it does not set the weights of modes right: each keeps nearly all of the chains that it was given.

# %% [markdown]
# ## 5. The Langevin drift
#
# The **Langevin parametrisation** gives the drift the target's gradient as an input, with a learned
# multiple that depends on time alone {cite:p}`zhang2022pis`:
#
# $$
# \begin{aligned}
# u(x, t) ={}& u_\theta(x, t) \\
# & + s_\theta(t)\, \nabla \log R(x).
# \end{aligned}
# $$ (eq-05-lp)
#
# The gradient is clipped in each coordinate (at 100 in the paper and here), because far from the
# target it can be anything. Why it may help: near a mode the gradient says where the mode is, a
# thing the network otherwise has to learn from the values of $\log R$ at ends. Why it may hurt: at
# small $t$ the path is nowhere near its end, and the gradient *there* points to the nearest mode,
# which need not be the right one. On the sampler's own paths that is a strong pull to the modes it
# already knows.
#
# What it costs can be counted without a clock. An iteration with $B$ trajectories of $T$ steps
# calls the energy so many times:
#
# $$
# \begin{array}{ll}
# \text{TB, VarGrad} & B \\
# \text{with LP} & B\,(T + 1) \\
# \text{FL-SubTB} & B\,T \\
# \text{TB, replay} & B\,(1 - \rho) \\
# \text{LS, besides} & B\,(L + 1) / M
# \end{array}
# $$ (eq-05-calls)
#
# where $\rho$ is the fraction of the steps that replay, and $L$ the length of a local search, of
# which there is one every $M$ iterations. A replayed step calls nothing, so that replay with
# $\rho = \tfrac12$ *halves* the calls of TB; LP and FL-SubTB pay at every step of every path. Where
# the energy is a physics code, that decides.

# %% [markdown]
# ## 6. Sub-trajectories: early credit, at a price
#
# Sub-trajectory balance {cite:p}`madan2023subtb` asks for balance on all parts of a path, from $i$
# to $j$, with the imbalance $\delta_{ij}$ of {eq}`eq-imbalance` and the weight $\lambda^{j-i}$
# ([derived here](03_trajectory_balance)). It needs a state flow $F_\theta(x, t)$. The
# *forward-looking* one, {eq}`eq-03-fl`, starts from a guess {cite:p}`pan2023forward`: the energy where
# the path is now.
#
# So a part of the path is judged by what happened in that part: early credit. The noise of all the
# other steps is not in it. But the judge is a flow that is itself still wrong, and the expected
# gradient is no longer that of the Kullback–Leibler divergence, which trajectory balance has
# on-policy. It is a trade of **variance against bias**, and both can be measured.
#
# For that, blindness must be out of the way. Take nine Gaussians and, in the place of exploration,
# a reference process as wide as the target, $\sigma^2 = 17 \approx m_2$. Now every mode is met from
# the first batch on, and slowness is all that is left.

# %% tags=["lesson"]
nine, WIDE = gl.named_target("9gmm"), 17.0
RACE = {
    "TB": ("TB", {}),
    "FL-SubTB, λ = 2": ("FL-SubTB", {}),
    "FL-SubTB, λ = 0.8": ("FL-SubTB", {"subtb_lambda": 0.8}),
    "TB + LP": ("TB+Expl+LP", {"exploration": 0.0}),
}
race = {}
for name, (method, extra) in RACE.items():
    team, seconds = train(
        method,
        "9gmm",
        seeds=(seed, seed + 1, seed + 2),
        sigma2=WIDE,
        iterations=max(iterations // 2, 1),
        **extra,
    )
    race[name] = team, seconds, [judge(one) for one in team]


def mean_of(name, key):
    """Mean over the seeds of a row of the race."""
    return sum(row[key] for row in race[name][2]) / len(race[name][2])


# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-05-race", "caption": "Distance of the ELBO from log Z on nine Gaussians during training, all modes within reach, mean of three seeds. The dotted line is the floor of the fixed variance. Per iteration the gradient of the energy (LP) gains far more than early credit does; per call of the energy see the table below."}, "image": {"alt": "Four noisy curves over iterations that fall at first and then hardly; the one with the Langevin drift is below all others from the start, nearest to the dotted floor. The other three lie close together."}}
_, ax = plt.subplots(figsize=(6.2, 3.8))
looks = ((BLUE, "-"), (GREY, "-."), (GREEN, "--"), (ORANGE, "-"))
for (name, (team, _, _)), (colour, line) in zip(
    race.items(), looks, strict=True
):
    at = [entry["iteration"] for entry in team[0].history]
    elbos = [[entry["elbo"] for entry in one.history] for one in team]
    gap = [-sum(seeds) / len(seeds) for seeds in zip(*elbos, strict=True)]
    ax.plot(at, gap, line, color=colour, label=name)
nine_floor = floor(nine, SHORT["steps"], WIDE)
ax.axhline(nine_floor, color="black", linestyle=":", label="floor")
ax.set(xlabel="iteration", ylabel="ELBO gap (nats)", ylim=(0, None))
ax.legend(ncols=2, loc="upper right")
ends = {name: mean_of(name, "ELBO gap") for name in race}
ax.set_title(
    f"ELBO gap {ends['TB']:.2f} by TB, {ends['FL-SubTB, λ = 0.8']:.2f} by "
    f"λ = 0.8, {ends['TB + LP']:.2f} with LP"
)
plt.show()

# %% tags=["hide-input"]
lines = ["| method | modes | ELBO gap | EUBO gap | calls | CPU s |"]
lines.append("|:---|---:|---:|---:|---:|---:|")
for name, (_, seconds, row) in race.items():
    cells = [f"{min(m['modes'] for m in row)} of 9"]
    for key in ("ELBO gap", "EUBO gap"):
        values = [m[key] for m in row]
        low, high = min(values), max(values)
        cells.append(f"{mean_of(name, key):.2f} ({low:.2f} to {high:.2f})")
    cells += [f"{row[0]['calls']:,}", f"{seconds:.1f}"]
    lines.append(f"| {name} | {' | '.join(cells)} |")
lines.append(f"| floor | | {nine_floor:.2f} | | | |")
display(Markdown("\n".join(lines)))

# %% [markdown]
# Means of three seeds, with the least and the largest in brackets; modes are those of the seed
# that found fewest; calls and seconds are of one seed.
#
# Is the gradient of early credit better, then? Take one sampler trained with $\lambda = 0.8$, the
# same batches of its paths for all losses, and the gradient of its drift for $\lambda$ from
# $\tfrac12$ to 8 and for TB ($\lambda \to \infty$).

# %% tags=["lesson"]
LAMBDAS = (0.5, 0.8, 1.0, 1.25, 1.5, 2.0, 4.0, 8.0)


def gradients(sampler, batches):
    """Gradients of the drift's parameters, (batches, parameters) each."""
    lower = gl.elbo(sampler.log_weight(5000))
    with torch.no_grad():  # the best baseline for TB
        sampler.policy.log_z_value.fill_(lower)
    losses = {
        lam: partial(gl.objectives.subtb, lam=lam) for lam in LAMBDAS
    } | {math.inf: gl.objectives.tb}
    parameters = list(sampler.policy.kernels())
    times = gl.time_grid(SHORT["steps"])
    generator = torch.Generator().manual_seed(seed)
    found = {lam: [] for lam in losses}
    for _ in range(batches):
        kept = generator.get_state()
        for lam, loss in losses.items():
            generator.set_state(kept)  # the same paths for each
            tr = sampler.rollout(times, 128, generator=generator)
            sampler.policy.zero_grad()
            gl.rollout.gradient(sampler.policy, tr, loss)
            row = [p.grad.flatten() for p in parameters]
            found[lam].append(torch.cat(row))
    return {lam: torch.stack(rows) for lam, rows in found.items()}


# A mean of few batches is still noisy, and two noisy means look less alike
# than they are. Products of *different* batches are free of that.
def alike(products):
    """Cosine of the expected gradients, from the three Gram matrices."""
    n = len(products[0])
    ab, aa, bb = ((g.sum() - g.trace()) / (n * (n - 1)) for g in products)
    return (ab / (aa * bb).clamp(min=1e-24).sqrt()).item()


def cosine(a, b):
    """That cosine, and its standard error by the jackknife."""
    products = a @ b.T, a @ a.T, b @ b.T
    places = torch.arange(len(a))
    left_out = torch.tensor(
        [
            alike([g[places != i][:, places != i] for g in products])
            for i in places
        ]
    )
    error = (len(a) - 1) * left_out.var(correction=0)
    return alike(products), error.sqrt().item()


def relative_noise(rows):
    """Deviation of a batch's gradient over the length of the expected."""
    product, n = rows @ rows.T, len(rows)
    signal = (product.sum() - product.trace()) / (n * (n - 1))
    return (rows.var(0).sum() / signal.clamp(min=1e-12)).sqrt().item()


found = gradients(race["FL-SubTB, λ = 0.8"][0][0], batches)
noise = {lam: relative_noise(rows) for lam, rows in found.items()}
direction = {lam: cosine(g, found[math.inf]) for lam, g in found.items()}

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-05-lambda", "caption": "Gradient of forward-looking SubTB by lambda, on the same paths: relative noise of a batch's gradient (left) and cosine of the expected gradient with that of trajectory balance (right), with two standard errors, both corrected for the finite number of batches. The dashed line is trajectory balance. Small lambda is less noisy and points somewhat elsewhere."}, "image": {"alt": "Two panels over lambda on a logarithmic axis. Left: noise rises from a low value to about that of trajectory balance. Right: the cosine rises from somewhat below one, with wide error bars, to one."}}
_, axes = plt.subplots(1, 2, figsize=(7.4, 3.3), sharex=True)
for ax, values, word in zip(
    axes,
    ({lam: (value, 0.0) for lam, value in noise.items()}, direction),
    ("noise / mean of a gradient", "cosine with TB's mean gradient"),
    strict=True,
):
    at, error = zip(*(values[lam] for lam in LAMBDAS), strict=True)
    double = [2 * each for each in error]
    ax.errorbar(LAMBDAS, at, double, fmt="o-", color=BLUE, capsize=2)
    ax.set_xscale("log")
    ax.axhline(values[math.inf][0], color=ORANGE, ls="--", label="TB")
    ax.axvline(2, color=GREY, linestyle=":", label=r"default $\lambda$")
    ax.set(xlabel=r"$\lambda$", ylabel=word)
    ax.set_xticks([0.5, 1, 2, 4, 8], ["0.5", "1", "2", "4", "8"])
    ax.minorticks_off()
    ax.set_ylim(min(0, *at), None)
axes[1].legend(loc="lower right")
gain = noise[math.inf] / noise[0.8]
axes[0].set_title(f"λ = 0.8: {1 / gain:.0%} of TB's noise")
axes[1].set_title(
    f"cosine {direction[0.8][0]:.2f} ± {2 * direction[0.8][1]:.2f}"
)
plt.show()

# %% [markdown]
# Both sides of the trade are there: with small $\lambda$ less noise, and, as far as the error bars
# can tell, a somewhat other direction. How far off it is depends on how good the flow is, which is
# learned along with the drift (exercise 5). And the usual $\lambda = 2$ is near TB: with twenty
# steps the longest part weighs more than half a million times what a part of one step does.

# %% tags=["hide-input"]
tb, usual, early, lp = race
fell = {n: ends[tb] - ends[n] for n in race}
upper = {n: mean_of(n, "EUBO gap") for n in race}
off_tb = measured["TB", amount]
display(
    Markdown(
        f"Against TB's, the ELBO gap of $\\lambda = 2$ is smaller by "
        f"{fell[usual]:.2f} nats, that of $\\lambda = 0.8$ by "
        f"{fell[early]:.2f}, that with LP by {fell[lp]:.2f}; the EUBO gaps "
        f"are {upper[tb]:.2f}, {upper[usual]:.2f}, {upper[early]:.2f} and "
        f"{upper[lp]:.2f}. FL-SubTB asks for "
        f"{race[early][2][0]['calls'] / race[tb][2][0]['calls']:.0f} times "
        f"the calls of TB. On 25GMM with exploration, one seed each, "
        f"FL-SubTB found {measured['FL-SubTB', amount]['modes']} modes, "
        f"VarGrad {measured['VarGrad', amount]['modes']}, TB "
        f"{off_tb['modes']}; with replay of its own ends TB found "
        f"{measured['TB + replay', amount]['modes']}, for "
        f"{measured['TB + replay', amount]['calls'] / off_tb['calls']:.0%} "
        "of the calls."
    )
)

# %% [markdown]
# So the noise of the gradient is not what held most of these trainings back: less of it gained
# little beside what LP did. What the row with LP has is not a better estimate of the same gradient
# but an easier thing to learn, a multiple of a vector that points to the nearest mode, in the place
# of the whole field.
#
# **What helped little.** FL-SubTB pays for every state of every path, and is to be judged by that.
# VarGrad has TB's gradient with the batch's mean as baseline. Its use is for conditional targets,
# where $\log Z_\theta(c)$ would have to be learned for each condition. Replay of the sampler's own
# ends halves the calls, and cured neither disease.

# %% [markdown]
# ## 7. The paper's rows at full size
#
# All of this was small. Below are the rows of {cite:t}`sendera2024` at the paper's settings, from
# the runs behind [Results](15_results): $T = 100$, exploration $e = 4$ on both targets, five seeds
# where not said otherwise. A row that has not been run says so, with the paper's value of $\log Z$
# minus ELBO.

# %% tags=["hide-input", "ledger"]
here = Path.cwd()
root = next(
    folder
    for folder in (here, *here.parents)
    if (folder / "reproduce" / "published.json").exists()
)
SKIPPED = ("DIS", "DDS")  # other processes, not our subject


def full_size(task):
    """A table of the rows of a task at the paper's settings."""
    made = json.loads((root / f"reproduce/results/{task}.json").read_text())
    log_z = made["true_log_z"]
    modes_of = len(gl.named_target(task).mode_mass)
    lines = [f"| row | modes of {modes_of} | ELBO gap | EUBO gap |"]
    lines[0] += " ESS | calls | seeds |"
    lines.append("|:---|---:|---:|---:|---:|---:|---:|")
    for row in made["rows"]:
        ours = row["method"] in gl.METHODS  # trained, and not annealed
        if row["profile"] != "full" or not ours or row["method"] in SKIPPED:
            continue
        if not row["seeds"]:
            cell = (row["paper"] or {}).get("delta_log_z")
            told = f"{cell['mean']:g}" if cell else "none"
            lines.append(
                f"| {row['method']} | not run | (paper: {told}) | | | | |"
            )
            continue
        m = row["metrics"]
        counts = Counter(f"{n:g}" for n in m["modes"]["values"])
        modes = ", ".join(
            n if c == 1 else f"{c} × {n}" for n, c in sorted(counts.items())
        )
        below = log_z - m["elbo"]["mean"]
        above = m["eubo"]["mean"] - log_z
        calls = f"{m['energy_calls']['mean'] / 1e6:,.0f} M"
        lines.append(
            f"| {row['method']} | {modes} | "
            f"{below:.2f} | {above:.2f} | {m['ess']['mean']:.1%} | "
            f"{calls} | {len(row['seeds'])} |"
        )
    return "\n".join(lines)


# %% tags=["hide-input"]
for task, title in (("25gmm", "25GMM"), ("manywell32", "Manywell, d = 32")):
    on = gl.named_target(task)
    square = on.sample(20_000, generator).square().mean().item()
    lacks = square - gl.preset(task, "TB", "full").sigma2
    told = f"**{title}**, where $m_2 - \\sigma^2$ is {lacks:.1f}"
    display(Markdown(f"{told}\n\n{full_size(task)}"))

# %% [markdown]
# Modes are those that the seeds found, among 20,000 samples; on Manywell a mode is one side of one
# well. What holds at full size, and what does not?
#
# - **On 25GMM** plain TB and FL-SubTB end with equally few modes. The paper's exploration alone is
#   not enough for all of them in most seeds: $e = 4$ is less than a tenth of what equation
#   {eq}`eq-05-amount` asks for. Added to it, local search *or* LP finds the rest. In our short runs
#   local search alone did not; with the paper's many iterations it has something to refine, since
#   exploration has put a few ends into each mode, and the buffer keeps them after exploration has
#   faded.
# - **LP finds modes** in long runs, with FL-SubTB even without any exploration.
# - **On Manywell exploration cures nothing**: $e = 4$ is more than $m_2 - \sigma^2$, and the EUBO
#   of *TB+Expl* is no better than that of *TB*. Each well has two sides and there are $2^{16}$
#   combinations, so noise that fades leaves the heavier sides to win ([Manywell](07_manywell)). With
#   LP more sides are kept, by which seeds the table says, with a *worse* ELBO and next to no
#   effective samples: a cure of blindness that brings slowness with it.
# - **PIS with LP** has in the paper the smaller error of the weighted estimate and the larger gap
#   of the ELBO than PIS without.

# %% [markdown]
# ## 8. Symptom, test, setting
#
# `gl.diagnose` does the first two columns of the table below by itself. Here is what it says of the
# samplers of this chapter.

# %% tags=["lesson"]
lines = ["| sampler | verdicts | first advice |", "|:---|:---|:---|"]
patients = {
    "25GMM, TB, no exploration": sweep[0.0]["sampler"],
    f"25GMM, TB, e = {winner:g}": sweep[winner]["sampler"],
    f"25GMM, TB, e = {AMOUNTS[-1]:g}": sweep[AMOUNTS[-1]]["sampler"],
    "9GMM, TB + LP, σ² = 17": race["TB + LP"][0][0],
}
for name, sampler in patients.items():
    found = gl.diagnose(sampler)
    advice = found.findings[0].advice if found.findings else "none"
    lines.append(f"| {name} | {', '.join(found.verdicts)} | {advice} |")
display(Markdown("\n".join(lines)))

# %% [markdown]
# | symptom | test | verdict of `gl.diagnose` | setting |
# |:---|:---|:---|:---|
# | target lies far outside the reference | reach over $\sigma$ above 4 (with lost mass) or 6 | sigma too small | larger `sigma2`, before anything else |
# | ELBO low, and still rising | trend of the history | not converged | more `iterations` |
# | ELBO harmless, EUBO far above $\log Z$, modes missing | EUBO; shares of modes; samples that outweigh all of the sampler's | collapsed | `exploration` from a third of $m_2 - \sigma^2$ (long) to all of it (short); then `ls_every`, `langevin` |
# | modes found, then lost when exploration fades | modes before and after | collapsed | `exploration_decay` up; keep them by replay and local search |
# | no modes at all with much exploration | EUBO rises with `exploration` | collapsed | *less* exploration |
# | all modes, wrong shares | shares against exact, or by importance weights | none | `replay_priority="weight"`, not `rank` |
# | all modes, both gaps large | ELBO against its floor | not converged | `langevin` if calls are cheap; `subtb_lambda` near 1 if not; then more `steps` or `learn_variance` |
# | a few weights carry all | effective sample size | weights degenerate | more `steps` and `iterations` |
#
# For a blind sampler of the twenty-five Gaussians the first advice above is a wider reference: the
# target's edge lies beyond four of its standard deviations. That is exploration which does not
# fade, and it is paid for with a floor that is higher. The amounts of this chapter work at the
# paper's $\sigma^2$.
#
# Two cautions. Where nobody has exact samples there is no EUBO; `gl.diagnose` then searches with
# annealed particles, which may miss a mode as well, so "fine" is no proof. And change one thing at
# a time: on 25GMM the rows with everything in them are no better than the one with local search.
#
# ## In five lines
#
# 1. Blindness (modes never visited) shows in the EUBO and the modes; slowness shows in both bounds.
#    The ELBO alone can take the blind sampler for the better one.
# 2. Exploration cures blindness. Its scale is what is missing, $e^* = m_2 - \sigma^2$; a trained
#    sampler multiplies it, so it must fade, and too much of it blinds again.
# 3. Replay and local search keep and refine what has been found. By rank they take height for mass,
#    and the sampler follows; accepted proposals alone are no samples of the target.
# 4. The Langevin drift is the strongest cure of slowness in the short runs on Gaussians, not on
#    Manywell at full size, and costs $T + 1$ calls of the energy a path.
# 5. SubTB trades noise for bias by $\lambda$ and gained little beside the Langevin drift. At the
#    usual $\lambda = 2$ its gradient points nearly where that of trajectory balance does.
#
# ## Exercises
#
# **1.** Show from {eq}`eq-05-explored` by which factor a trained 25GMM sampler overshoots with
# $e = 16$, and check it on a Gaussian with a plain Euler simulation.
#
# :::{dropdown} Solution
# The factor is $1 + 16/5 = 4.2$ in variance, whatever $s^2$ is.
# ```python
# s2, sigma2, e, n = 50.0, 5.0, 16.0, 2000
# x = torch.zeros(20_000)
# for i in range(n):
#     g = sigma2 + (i + 0.5) / n * (s2 - sigma2)
#     x = x * (1 + (s2 - sigma2) / g / n)
#     x = x + ((sigma2 + e) / n) ** 0.5 * torch.randn(len(x))
# print(x.square().mean() / s2, 1 + e / sigma2)
# ```
# :::
#
# **2.** Which $k$ makes half of the draws come from the best quarter of the buffer? Check it with a
# buffer.
#
# :::{dropdown} Solution
# Solve $\sqrt{k(1+k)} - k = b$: squaring $\sqrt{k (1 + k)} = b + k$ gives $k = b^2 / (1 - 2b)$, for
# $b = \tfrac14$ that is $\tfrac18$.
# ```python
# k = 0.25**2 / (1 - 2 * 0.25)
# buffer = ReplayBuffer(10_000, 1, rank_weight=k)
# order = torch.arange(10_000.0)[:, None]  # the reward is the place
# buffer.add(order, order[:, 0])
# drawn = buffer.sample(20_000).x
# print(k, best_half(k), (drawn >= 7500).float().mean())
# ```
# :::
#
# **3.** Reverse KL with the Langevin drift (`PIS+LP`) cannot explore. How many modes does a short
# training of it find, beside that of TB with LP and no exploration?
#
# :::{dropdown} Solution
# About as few, or fewer: on-policy the two losses have the same expected gradient, and the pull of
# the gradient is to modes that the paths already meet.
# ```python
# few = max(iterations // 4, 1)
# (pis,), _ = train("PIS+LP", iterations=few)
# (tb,), _ = train("TB+Expl+LP", exploration=0.0, iterations=few)
# print("PIS+LP", judge(pis))
# print("TB+LP ", judge(tb))
# ```
# :::
#
# **4.** Correct the accepted proposals: which weights make them samples of the target again?
#
# :::{dropdown} Solution
# By {eq}`eq-05-accepted` their density is $\pi a$ up to a constant, so the weights $1/a$. Here $a$
# is read off the grid of the figure.
# ```python
# place = ((accepted[:, 0] + 5) / 0.05).round().long().clamp(0, 240)
# weight = 1 / rate[place]
# narrow = (weight * (accepted[:, 0] < 0)).sum() / weight.sum()
# print("corrected share of the narrow mode", narrow.item())
# ```
# :::
#
# **5.** How does the direction of SubTB's gradient change when the flow was trained with
# $\lambda = 2$, or not at all?
#
# :::{dropdown} Solution
# The worse the flow, the further the gradient of small $\lambda$ is from that of TB. An untrained
# flow is only the forward-looking guess.
# ```python
# untrained = gl.GFNDiffusion(
#     nine, config=race["FL-SubTB, λ = 2"][0][0].config, seed=seed
# )
# for other in (race["FL-SubTB, λ = 2"][0][0], untrained):
#     rows = gradients(other, batches)
#     for lam in (0.8, 2.0):
#         print(lam, *cosine(rows[lam], rows[math.inf]))
# ```
# :::
#
# ## What went wrong
#
# The first version of the sweep let exploration fade over half of the training, as the paper does.
# With so few iterations there was a cliff: $e = 16$ found as few modes as none, and $e = 32$ nearly
# all. Fading over 80% made the curve smooth. The cliff was a fact about the schedule and had looked
# like one about the amount.
#
# The first version of the gradient comparison asked one trajectory record for the gradients of
# several losses in turn. They add up in the record, so each loss seemed to point exactly where TB
# does. Even detailed balance agreed with it perfectly, which was too good to be true. The paths are
# now drawn anew for each loss, from the same random state.
#
# The first version of the race trained with exploration on the paper's reference process. Within
# its few iterations some methods had found all modes and some had not, so that it compared cures of
# blindness once more. A reference process as wide as the target took that difference away, and with
# it most of the gain of small $\lambda$.
#
# ## Sources
#
# The protocol, and the combination of exploration, replay, local search and the Langevin drift:
# {cite:t}`sendera2024`. The Langevin drift: {cite:t}`zhang2022pis`. Rank-weighted draws:
# {cite:t}`tripp2020`. Metropolis-adjusted Langevin chains: {cite:t}`roberts1996`. Local search in
# GFlowNets: {cite:t}`kim2024ls`. A learned teacher in the place of noise:
# {cite:t}`kim2025adaptive`. Replay by importance weights: {cite:t}`choi2025reinforced`.
# Sub-trajectories: {cite:t}`madan2023subtb`; forward-looking flows: {cite:t}`pan2023forward`. The
# log-variance loss: {cite:t}`richter2020vargrad`. The equations are checked in
# `tests/test_chapter_05.py`.
