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
# # Diffusion models: learning to undo noise
#
# A drop of ink falls into water and spreads until nothing is left of its shape. Film it, and the
# film can be run in reverse. Can a program learn to run it in reverse when all that it has seen is
# data and the noise that was put on them? If so, it can start from pure noise and end with new
# data. And then: how probable does it think its data are?
#
# :::{admonition} At a glance
# **You will** destroy data with Gaussian noise step by step, train a network to see the noise, and
# generate with it in four ways; then find that the same network is a sampler with a log-weight.
#
# **You will be able to** derive the posterior, the loss and the score of a diffusion model, choose
# a sampler by its error, and bound $\log Z$ with a model that has only ever seen data.
#
# **You need** Gaussian densities and Bayes' rule; [From scratch](01_from_scratch) for the
# log-weight. **Time**: 30 minutes to read; under two minutes to run on one CPU core in the `quick`
# profile; `full` trains for longer.
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

import matplotlib.pyplot as plt
import pandas as pd
import torch

import gfnlite as gl
from gfnlite.denoiser import Denoiser
from gfnlite.diffusion import (
    Noising,
    ancestral,
    ddim,
    exact_predictor,
    heun,
)
from gfnlite.mnist import mnist
from gfnlite.plots import BLUE, GREEN, GREY, ORANGE
from gfnlite.vae import pretrained

torch.set_num_threads(1)  # matrices this small need no second thread
gl.plots.style()

# %% tags=["parameters"]
# smoke (seconds), quick (under two minutes) or full (longer trainings)
profile: str = os.environ.get("GFNLITE_PROFILE", "quick")
seed: int = 0  # of every random number in this chapter
steps: int = 100  # K, the steps of noising
iterations: int | None = None  # training steps in the plane
digit_iterations: int | None = None  # training steps on digits
points: int | None = None  # samples on each side of a W2

# %%
PROFILES = {  # iterations, digit_iterations, points
    "smoke": (20, 10, 100),
    "quick": (4000, 2500, 1000),
    "full": (20_000, 20_000, 2000),
}
chosen = (iterations, digit_iterations, points)
iterations, digit_iterations, points = (
    default if given is None else given
    for given, default in zip(chosen, PROFILES[profile], strict=True)
)
generator = torch.Generator().manual_seed(seed)

# %% [markdown]
# ## 1. All of it in one cell
#
# The data are points on two half circles. `Noising` says how they are destroyed, `Denoiser` learns
# to undo it, and `sample` generates. `watched` lets us look at the states on the way.

# %%
moons = gl.targets.two_moons
data = moons.sample(10_000, generator)
noising = Noising(steps, "cosine", sigma2=data.var(0).mean().item())
model = Denoiser(2, noising, layers=3, seed=seed)
options = {"iterations": iterations, "lr": 1e-2, "progress": False}
model.fit(data, **options)


def watched(predict, seen):
    """The same predictor, which keeps each state that it is shown."""

    def predicted(x, k):
        seen[k] = x
        return predict(x, k)

    return predicted


going = {}
going[0] = model.sample(1200, predictor=watched(model.predictor(), going))

# %% mystnb={"figure": {"name": "fig-02-strip", "caption": "Above: destruction, from data to noise; nothing is learned. Below: generation by the trained network, from other noise to new data. Columns share their level of noise, and should look alike: read the lower row from right to left."}, "image": {"alt": "Two rows of five scatter plots. Above, two crescents blur from left to right into a round cloud. Below, in the same columns, a cloud on the right becomes two crescents on the left."}}
x0 = data[:1200]
noise = torch.randn(x0.shape, generator=generator)
shown = [round(steps * part) for part in (0, 0.1, 0.3, 0.6, 1)]
figure, rows = plt.subplots(2, 5, figsize=(9, 4), sharex=True, sharey=True)
for k, above, below in zip(shown, *rows, strict=True):
    spots = {"s": 2, "alpha": 0.5, "linewidths": 0}
    above.scatter(*noising.noised(x0, k, noise).T, color=GREY, **spots)
    below.scatter(*going[k].T, color=BLUE, **spots)
    above.set_title(f"$k = {k}$")
    for ax in (above, below):
        ax.set(aspect="equal", xlim=(-7, 7), ylim=(-7, 7))
        ax.set(xticks=[], yticks=[])
rows[0, 0].set_ylabel("destruction →")
rows[1, 0].set_ylabel("← generation")
figure.suptitle(
    f"{steps} small steps destroy data, and {steps} learned ones make them",
    fontsize=11, weight="bold",
)  # fmt: skip
plt.show()

# %% [markdown]
# The rest of the chapter takes this cell apart. **Noise is counted** by $k$: $k = 0$ is data and
# $k = K$ is noise. The time of the other chapters runs the other way, $t = 1 - k/K$, so that
# $t = 1$ is the sample. *Destruction* (or noising) raises $k$, *generation* lowers it.
#
# ## 2. Destruction
#
# Each step keeps a share $a_k < 1$ of the variance and replaces the rest $b_k = 1 - a_k$ by noise:
#
# $$
# q(x_k \mid x_{k-1}) = \mathcal N\big(x_k;\ \sqrt{a_k}\, x_{k-1},\ \sigma^2 b_k I\big).
# $$ (eq-02-step)
#
# If the data have variance $\sigma^2$, so do all $x_k$: the process *preserves the variance*.
#
# :::{prf:theorem} Any number of steps is one step
# :label: thm-02-marginal
# With $\bar\alpha_k = a_1 a_2 \cdots a_k$,
#
# $$
# \begin{aligned}
# q(x_k \mid x_0) &= \mathcal N\big(x_k;\ \sqrt{\bar\alpha_k}\, x_0,\
#   \sigma^2 (1 - \bar\alpha_k) I\big), \\
# x_k &= \sqrt{\bar\alpha_k}\, x_0 + \sigma \sqrt{1 - \bar\alpha_k}\; \varepsilon,
# \qquad \varepsilon \sim \mathcal N(0, I).
# \end{aligned}
# $$ (eq-02-marginal)
# :::
#
# :::{dropdown} Proof
# For $k = 1$ it is {eq}`eq-02-step`. If it holds for $k - 1$, then
#
# $$
# x_k = \sqrt{a_k} \Big(\sqrt{\bar\alpha_{k-1}}\, x_0
#   + \sigma \sqrt{1 - \bar\alpha_{k-1}}\; \varepsilon\Big) + \sigma \sqrt{b_k}\; \varepsilon'
# $$
#
# with independent standard normal $\varepsilon$ and $\varepsilon'$. The factor of $x_0$ is
# $\sqrt{a_k \bar\alpha_{k-1}} = \sqrt{\bar\alpha_k}$. The two noises add up to one whose variance
# is $\sigma^2 (a_k - a_k \bar\alpha_{k-1} + 1 - a_k)$, that is $\sigma^2 (1 - \bar\alpha_k)$.
# :::
#
# The sequence $\bar\alpha_k$ is the **schedule**. `linear` {cite:p}`ho2020ddpm` lets the rate of
# noise grow linearly in $k$; `cosine`, close to that of {cite:t}`nichol2021improved`, takes
# $\bar\alpha_k = \cos^2(0.97\, \tfrac{\pi}{2} \tfrac{k}{K})$. What matters is the ratio of signal
# to noise, $\bar\alpha_k / (1 - \bar\alpha_k)$.

# %% mystnb={"figure": {"name": "fig-02-schedules", "caption": "Share of the variance that is data (left), and the ratio of signal to noise (right), for the two schedules. The dotted line is where signal and noise are equal."}, "image": {"alt": "Left: two curves that fall from one to zero, the linear schedule earlier than the cosine one. Right: the same as signal to noise ratio on a logarithmic axis."}}
schedules = {name: Noising(steps, name) for name in ("linear", "cosine")}
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
half = {}
for (name, one), colour in zip(
    schedules.items(), (ORANGE, BLUE), strict=True
):
    signal = one.alpha_bar
    half[name] = int((signal > 0.5).sum()) / steps
    left.plot(signal, color=colour, label=name)
    right.semilogy(
        range(1, steps + 1), (signal / (1 - signal))[1:], color=colour
    )
left.axhline(0.5, color="black", linewidth=0.8, linestyle=":")
right.axhline(1, color="black", linewidth=0.8, linestyle=":")
left.set(xlabel="noise index $k$", ylabel=r"$\bar\alpha_k$")
right.set(xlabel="noise index $k$", ylabel="signal / noise")
left.legend()
words = " and ".join(f"{half[name]:.0%} ({name})" for name in half)
left.set_title(f"Half is noise after {words}\nof the steps")
last = signal[-1] / (1 - signal[-1])
right.set_title(f"At the end signal / noise is {last:.2g}\n(cosine)")
plt.show()

# %% [markdown]
# Check {eq}`eq-02-marginal`: start many copies of one point, take the steps one by one, and look.

# %%
start = torch.tensor([3.0, -1.0]).expand(50_000, 2)
x, lines = start, []
for k in range(1, steps + 1):
    mean, std = noising.step(x, k)
    x = mean + std * torch.randn(x.shape, generator=generator)
    if k in shown:
        mean, std = noising.marginal(start[:1], k)
        of_copies = [*x.mean(0).tolist(), x[:, 0].std().item()]
        lines.append([*of_copies, *mean[0].tolist(), std.item()])
columns = pd.MultiIndex.from_product(
    [["step by step", "formula"], ["mean 1", "mean 2", "std"]]
)
table = pd.DataFrame(lines, pd.Index(shown[1:], name="k"), columns)
table.round(3)

# %% [markdown]
# ## 3. What undoing would need
#
# If someone told us $x_0$, undoing a step would be easy.
#
# :::{prf:theorem} A step undone, given the data
# :label: thm-02-posterior
# By Bayes' rule
#
# $$
# \begin{aligned}
# q(x_{k-1} \mid x_k, x_0) &= \mathcal N\big(x_{k-1};\ \mu_k(x_k, x_0),\ \sigma^2 \tilde b_k I\big), \\
# \mu_k(x_k, x_0) &= \frac{\sqrt{\bar\alpha_{k-1}}\; b_k\, x_0
#   + \sqrt{a_k}\, (1 - \bar\alpha_{k-1})\, x_k}{1 - \bar\alpha_k}, \\
# \tilde b_k &= b_k\, \frac{1 - \bar\alpha_{k-1}}{1 - \bar\alpha_k} .
# \end{aligned}
# $$ (eq-02-posterior)
# :::
#
# :::{dropdown} Proof
# For $k = 1$ it says that $x_0$ is $x_0$, without doubt. Let $k > 1$. Given $x_0$, the step to $x_k$
# depends on $x_{k-1}$ alone, so as a function of $x_{k-1}$
#
# $$
# q(x_{k-1} \mid x_k, x_0) \propto q(x_k \mid x_{k-1})\; q(x_{k-1} \mid x_0).
# $$
#
# Both are Gaussian in $x_{k-1}$, and their precisions add up:
#
# $$
# \frac{1}{\sigma^2 \tilde b_k} = \frac{a_k}{\sigma^2 b_k} + \frac{1}{\sigma^2 (1 - \bar\alpha_{k-1})}
# = \frac{a_k - \bar\alpha_k + 1 - a_k}{\sigma^2 b_k (1 - \bar\alpha_{k-1})}
# = \frac{1 - \bar\alpha_k}{\sigma^2 b_k (1 - \bar\alpha_{k-1})} .
# $$
#
# The mean is the variance times the sum of each one's precision times its centre, which are
# $x_k / \sqrt{a_k}$ and $\sqrt{\bar\alpha_{k-1}}\, x_0$. In it $\sigma^2$ cancels:
#
# $$
# \mu_k = \tilde b_k \Big(\frac{\sqrt{a_k}}{b_k}\, x_k
#   + \frac{\sqrt{\bar\alpha_{k-1}}}{1 - \bar\alpha_{k-1}}\, x_0\Big).
# $$
# :::
#
# Nobody tells us $x_0$. A network has to guess it from $x_k$, and there are three ways to put the
# question, all the same.
#
# **Data or noise.** By {eq}`eq-02-marginal`, whoever knows $x_k$ and the noise $\varepsilon$ knows
# $x_0$, and the other way around. The same holds for the best guesses, their means given $x_k$:
#
# $$
# \begin{gathered}
# \hat\varepsilon(x_k, k) = \mathbb E[\varepsilon \mid x_k],
# \qquad
# \hat x_0(x_k, k) = \mathbb E[x_0 \mid x_k], \\
# \hat x_0 = \frac{x_k - \sigma \sqrt{1 - \bar\alpha_k}\; \hat\varepsilon}{\sqrt{\bar\alpha_k}} .
# \end{gathered}
# $$ (eq-02-x0)
#
# **The score.** The gradient of the logarithm of a noised density points to where the data are
# expected.
#
# :::{prf:theorem} Tweedie's formula
# :label: thm-02-tweedie
# Let $q_k$ be the density of $x_k$. For $k > 0$
#
# $$
# \nabla \log q_k(x_k) = -\frac{\hat\varepsilon(x_k, k)}{\sigma \sqrt{1 - \bar\alpha_k}}
# = \frac{\sqrt{\bar\alpha_k}\, \hat x_0(x_k, k) - x_k}{\sigma^2 (1 - \bar\alpha_k)} .
# $$ (eq-02-tweedie)
# :::
#
# :::{dropdown} Proof
# $q_k(x) = \int q(x \mid x_0)\, p(x_0)\, dx_0$, with $q(x \mid x_0)$ the Gaussian
# {eq}`eq-02-marginal`, whose gradient is itself times
# $-(x - \sqrt{\bar\alpha_k}\, x_0) / \sigma^2 (1 - \bar\alpha_k)$, that is,
# $-\varepsilon / \sigma \sqrt{1 - \bar\alpha_k}$. So
#
# $$
# \begin{aligned}
# \nabla \log q_k(x) = \frac{\nabla q_k(x)}{q_k(x)}
# &= \int \frac{-\varepsilon}{\sigma \sqrt{1 - \bar\alpha_k}}\;
#   \frac{q(x \mid x_0)\, p(x_0)}{q_k(x)}\, dx_0 \\
# &= -\frac{\mathbb E[\varepsilon \mid x_k = x]}{\sigma \sqrt{1 - \bar\alpha_k}} .
# \end{aligned}
# $$
# :::
#
# For a mixture of Gaussians, such as our moons, $q_k$ is again one, and so all three are known:
# `exact_predictor`. It will let us tell the errors of a network from those of a sampler.

# %% mystnb={"figure": {"name": "fig-02-score", "caption": "Noised data (dots) and the exact guess of the data (arrow heads) from states on a grid, at three levels of noise. In little noise a state is led to the nearest point of a moon; in much noise all are led to the mean of the data."}, "image": {"alt": "Three panels of arrows over clouds of points. On the left the arrows end on two crescents; on the right all arrows end near the centre."}}
best = exact_predictor(moons, noising)
axis = torch.linspace(-5, 5, 9)
grid = torch.cartesian_prod(axis, axis)
figure, axes = plt.subplots(1, 3, figsize=(9, 3.4), sharey=True)
for part, ax in zip((0.15, 0.5, 0.9), axes, strict=True):
    k = max(1, round(part * steps))
    guess = noising.x0(grid, best(grid, k), k)
    x = noising.noised(x0, k, noise)
    ax.scatter(*x.T, s=1, color="0.75")
    ax.quiver(
        *grid.T, *(guess - grid).T, angles="xy", scale_units="xy", scale=1,
        color=BLUE, width=0.005,
    )  # fmt: skip
    known = noising.x0(x, best(x, k), k).var(0).sum() / x0.var(0).sum()
    ax.set(aspect="equal", xlim=(-5.8, 5.8), ylim=(-5.8, 5.8))
    ax.set_title(f"$k = {k}$: {known:.0%} of the\nvariance can be guessed")
plt.show()

# %% [markdown]
# Move the noise up: the data (grey) blur, and the best guesses of where each came from (blue) draw
# together, first across a moon, then into one point. What a guess has lost, only many small steps
# of generation can bring back.

# %%
part = moons.sample(500, generator)
part_noise = torch.randn(part.shape, generator=generator)


def at_noise(level):
    x = noising.noised(part, level, part_noise)
    guesses = noising.x0(x, best(x, level), level)
    figure, ax = plt.subplots(figsize=(5, 4.9))
    ax.scatter(*x.T, s=5, color="0.7", linewidths=0, label="noised")
    ax.scatter(*guesses.T, s=5, color=BLUE, linewidths=0, label="guessed")
    ax.set(aspect="equal", xlim=(-6, 6), ylim=(-6, 6))
    ax.set(xlabel="$x_1$", ylabel="$x_2$")
    ax.legend(loc="upper right", markerscale=2)
    ax.set_title(noise_in_words(level))
    return figure


def noise_in_words(level):
    x = noising.noised(part, level, part_noise)
    guesses = noising.x0(x, best(x, level), level)
    left = guesses.var(0).sum() / part.var(0).sum()
    signal = noising.alpha_bar[level]
    return f"k = {level}: {signal:.0%} is data, guesses keep {left:.0%}"


ninths = [max(1, round(steps * i / 10)) for i in range(11)]
gl.explore(at_noise, noise_in_words, level=dict.fromkeys(ninths))

# %% [markdown]
# And the formula, against automatic differentiation of the noised mixture's density:

# %%
k = max(1, steps // 3)
signal, variance = noising.alpha_bar[k], noising.noise[k].square()
there = gl.GMM(
    signal.sqrt() * moons.means, signal * moons.variance + variance
)
x = grid.clone().requires_grad_()
(slope,) = torch.autograd.grad(there.log_reward(x).sum(), x)
by_tweedie = noising.score(best(grid, k), k)
error = (slope - by_tweedie).abs().max()
print(f"score by autograd and by Tweedie differ by {error:.1e} at most")

# %% [markdown]
# ## 4. The loss, and why it has no weights
#
# The mean given $x_k$ is what a regression finds. So show a network noised data and let it predict
# the noise:
#
# $$
# \mathcal L_{\mathrm{simple}}(\theta) = \mathbb E_{k,\, x_0,\, \varepsilon}\;
#   \big|\varepsilon - \varepsilon_\theta(x_k, k)\big|^2,
# \qquad k \text{ uniform on } 1, \dots, K .
# $$ (eq-02-simple)
#
# It splits into what no network can know, and the network's own error:
# $\mathbb E|\varepsilon - \hat\varepsilon|^2 + \mathbb E|\hat\varepsilon - \varepsilon_\theta|^2$.
# So it does not fall to zero. How far it can fall, `exact_predictor` tells. (The code takes means
# over coordinates, and so divides it by $d$.)
#
# **Where it comes from.** Let generation be a chain with the variance of destruction's steps,
# $P_F(x_{k-1} \mid x_k; \theta) = \mathcal N(\mu_\theta(x_k, k), \sigma^2 b_k I)$, and let its mean
# be {eq}`eq-02-posterior` with {eq}`eq-02-x0` for the unknown $x_0$,
#
# $$
# \mu_\theta(x_k, k) = \frac{1}{\sqrt{a_k}} \Big(x_k
#   - \frac{\sigma b_k}{\sqrt{1 - \bar\alpha_k}}\; \varepsilon_\theta(x_k, k)\Big).
# $$ (eq-02-mean)
#
# Train the chain by maximum likelihood on destroyed trajectories: the bound on the likelihood of
# the data that started it all {cite:p}`sohl2015deep`, and in this book's words a descent on the
# EUBO. Each step costs the divergence between two Gaussians.
#
# :::{prf:theorem} The likelihood is a weighted regression
# :label: thm-02-elbo
# For the chain with the means {eq}`eq-02-mean`
#
# $$
# \begin{aligned}
# &-\mathbb E_q \Big[\log \frac{P_F(x_0, \dots, x_K)}{q(x_1, \dots, x_K \mid x_0)}\Big] \\
# &\qquad = \text{const} + \sum_{k=1}^K \frac{b_k}{2 a_k (1 - \bar\alpha_k)}\;
#   \mathbb E\, \big|\varepsilon - \varepsilon_\theta(x_k, k)\big|^2 .
# \end{aligned}
# $$ (eq-02-elbo)
#
# where the constant does not depend on $\theta$.
# :::
#
# :::{dropdown} Proof
# Put $x_0$ from {eq}`eq-02-marginal` into {eq}`eq-02-posterior`: $\mu_k(x_k, x_0)$ becomes
# {eq}`eq-02-mean` with the true $\varepsilon$ in the place of $\varepsilon_\theta$. Given $x_k$ and
# $x_0$, the mean of $-\log P_F(x_{k-1} \mid x_k; \theta)$ over {eq}`eq-02-posterior` is
# $|\mu_k - \mu_\theta|^2 / 2 \sigma^2 b_k$ plus terms without $\theta$. And
#
# $$
# \frac{|\mu_k - \mu_\theta|^2}{2 \sigma^2 b_k}
# = \frac{1}{2 \sigma^2 b_k} \cdot \frac{\sigma^2 b_k^2}{a_k (1 - \bar\alpha_k)}\;
#   |\varepsilon - \varepsilon_\theta|^2 .
# $$
#
# At $k = 1$ the posterior is a point and the same holds. The other factors, $p(x_K)$ and $q$, have
# no $\theta$.
# :::
#
# The two losses have the same minimum, the exact $\hat\varepsilon$ at every level, since each term
# has its own level. They differ in what a network of limited size cares about. The weights of
# {eq}`eq-02-elbo` are large at the ends: where there is little noise, and details are too small to
# see; and in the cosine schedule's last, long steps, where the noise is easily told. With all
# weights set to one, training spends itself in between, where shapes are decided. Keep the weights
# in mind: they come back in section 7.

# %% mystnb={"figure": {"name": "fig-02-loss", "caption": "Left: the mean squared error of the predicted noise at each level (per coordinate), of the network and of the exact predictor, which no network can beat but by luck. Right: the weight that the likelihood gives to each level, over its mean; L_simple gives all the same."}, "image": {"alt": "Left: two almost equal curves that fall from near one at little noise towards zero. Right: a curve of weights on a logarithmic axis, highest at both ends."}}
fresh = moons.sample(2000, generator)
network, levels, errors = model.predictor(), range(1, steps + 1), []
eps = torch.randn(fresh.shape, generator=generator)
for k in levels:
    x = noising.noised(fresh, k, eps)
    errors.append(
        [(f(x, k) - eps).square().mean() for f in (network, best)]
    )
errors = torch.tensor(errors)  # (K, 2)


def likelihood_weights(noising):
    """What the likelihood weighs the error at levels 1 to K by: (K,)."""
    a, left = noising.alpha[1:], 1 - noising.alpha_bar[1:]
    return (1 - a) / (2 * a * left)


figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
left.plot(levels, errors[:, 0], color=BLUE, label="network")
left.plot(levels, errors[:, 1], "--", color=ORANGE, label="exact")
left.set(xlabel="noise index $k$", ylabel="error of the noise", ylim=0)
left.legend()
more = errors[:, 0].mean() / errors[:, 1].mean() - 1
left.set_title(f"The network is {more:.1%}\nabove the least loss")
weights = likelihood_weights(noising)
right.semilogy(levels, weights / weights.mean(), color=BLUE)
right.axhline(1, color="black", linewidth=0.8, linestyle="--")
right.set(xlabel="noise index $k$", ylabel="weight / mean weight")
right.set_yticks([0.5, 1, 2, 5], ["0.5", "1", "2", "5"])
right.yaxis.set_minor_formatter(lambda value, _: "")
times = weights[0] / weights.median()
right.set_title(
    f"Likelihood weighs level 1\n{times:.0f} times the median level"
)
plt.show()

# %% [markdown]
# ## 5. Three sets of data
#
# The same few lines learn crescents, thin rings and a grid of 25 Gaussians (the book's, in units in
# which neighbours are 2 apart). How good are the samples? We compare them with *held-out* data by
# the Wasserstein distance $W_2$: how far points have to be moved to turn one set into the other.
# Even two sets of data have a distance. It is the floor, printed beside. All are means over four
# pairs of sets, with standard deviations.

# %%
PAIRS = 4
targets = {
    "two moons": moons,
    "rings": gl.targets.rings,
    "25 Gaussians": gl.GMM(gl.gmm25.means / 2.5, 0.3 / 2.5**2),
}


def distances(first, second):
    """Mean and standard deviation of W2 between pairs of sets."""
    values = [gl.w2(a, b) for a, b in zip(first, second, strict=True)]
    values = torch.tensor(values)
    return values.mean().item(), values.std().item()


models, samples, held_out, rows = {"two moons": model}, {}, {}, []
for name, target in targets.items():
    if name not in models:
        points_here = target.sample(10_000, generator)
        own = Noising(steps, "cosine", points_here.var(0).mean().item())
        models[name] = Denoiser(2, own, layers=3, seed=seed)
        models[name].fit(points_here, **options)
    # sets of held-out data twice, and of samples
    sets = target.sample(2 * PAIRS * points, generator).chunk(2 * PAIRS)
    held_out[name] = sets[:PAIRS]
    samples[name] = models[name].sample(PAIRS * points).chunk(PAIRS)
    w2, off = distances(samples[name], held_out[name])
    least, give = distances(sets[PAIRS:], held_out[name])
    rows.append([f"{w2:.2f} ± {off:.2f}", f"{least:.2f} ± {give:.2f}"])
columns = ["W2 to held-out data", "floor: data to data"]
quality = pd.DataFrame(rows, targets, columns)
quality

# %% mystnb={"figure": {"name": "fig-02-samples", "caption": "Held-out data (above) and as many samples of the trained models (below)."}, "image": {"alt": "Two rows of three scatter plots. Each lower plot repeats the pattern above it: two crescents, three rings, a grid of 25 clusters."}}
figure, axes = plt.subplots(2, 3, figsize=(9, 6))
for column, name in zip(axes.T, targets, strict=True):
    limit = 1.1 * held_out[name][0].abs().max()
    pictures = (held_out[name][0], GREY), (samples[name][0], BLUE)
    for ax, (x, colour) in zip(column, pictures, strict=True):
        ax.scatter(*x.T, s=3, color=colour, alpha=0.6, linewidths=0)
        ax.set(aspect="equal", xticks=[], yticks=[])
        ax.set(xlim=(-limit, limit), ylim=(-limit, limit))
    found, least = (cell.split(" ")[0] for cell in quality.loc[name])
    column[0].set_title(f"{name}: data")
    column[1].set_title(f"$W_2$ {found} (floor {least})")
plt.show()

# %% [markdown]
# ## 6. Four ways to generate
#
# All start at $x_K \sim \mathcal N(0, \sigma^2 I)$ and ask a predictor for the noise. They differ
# in what they do with the answer.
#
# **Ancestral** {cite:p}`ho2020ddpm`: the chain itself. Draw from $\mathcal N(\mu_\theta, \sigma^2
# b_k I)$, with {eq}`eq-02-mean`; the last mean is the sample.
#
# **DDIM** {cite:p}`song2020ddim`: guess the data, then put noise back, partly the noise that was
# found and partly fresh noise. From level $k$ to any level $j < k$,
#
# $$
# \begin{aligned}
# x_j &= \sqrt{\bar\alpha_j}\; \hat x_0
#   + \sqrt{\sigma^2 (1 - \bar\alpha_j) - f^2}\;\, \varepsilon_\theta + f \xi,
# \qquad \xi \sim \mathcal N(0, I), \\
# f^2 &= \eta^2\, \sigma^2\, \frac{1 - \bar\alpha_j}{1 - \bar\alpha_k}
#   \Big(1 - \frac{\bar\alpha_k}{\bar\alpha_j}\Big).
# \end{aligned}
# $$ (eq-02-ddim)
#
# With $\eta = 0$ nothing is random.
#
# :::{prf:proposition} Every $\eta$ has the right marginals
# :label: thm-02-ddim
# Let $0 \le \eta \le 1$. With the true $x_0$ and $\varepsilon$ in the place of the guesses, $x_j$ has
# the marginal {eq}`eq-02-marginal` at $j$. With $\eta = 1$ and $j = k - 1$ a step draws from
# {eq}`eq-02-posterior` at $\hat x_0$.
# :::
#
# :::{dropdown} Proof
# Whatever the split, the two noises are independent and their variances add up to
# $\sigma^2 (1 - \bar\alpha_j)$; and $f^2$ is never more, since
# $1 - \bar\alpha_k / \bar\alpha_j \le 1 - \bar\alpha_k$. For $\eta = 1$ and $j = k - 1$ the fresh
# noise has the variance $f^2 = \sigma^2 \tilde b_k$, and
#
# $$
# 1 - \bar\alpha_{k-1} - \tilde b_k
# = (1 - \bar\alpha_{k-1})\, \frac{1 - \bar\alpha_k - b_k}{1 - \bar\alpha_k}
# = \frac{a_k (1 - \bar\alpha_{k-1})^2}{1 - \bar\alpha_k} .
# $$
#
# Its root is what multiplies $\sigma \varepsilon$ in $\mu_k(x_k, x_0)$, with $x_k$ written as
# {eq}`eq-02-marginal`; and the factors of $x_0$ there add up to $\sqrt{\bar\alpha_{k-1}}$.
# :::
#
# **The SDE and the flow** {cite:p}`song2021sde`. Let $K \to \infty$, and write $s = k/K$ and
# $\beta(s) = -\tfrac{d}{ds} \log \bar\alpha(s)$. Destruction becomes a stochastic differential
# equation.
#
# :::{prf:theorem} Two processes that undo it
# :label: thm-02-sde
# The densities $q_s$ of destruction are, at every $s$, also those of these two, started at $q_1$ and
# run in the direction of falling $s$:
#
# $$
# \begin{aligned}
# \text{destruction:}\quad & dx = -\tfrac12 \beta x\, ds + \sigma \sqrt{\beta}\; dW, \\
# \text{generation, SDE:}\quad & dx = \big[\tfrac12 \beta x
#   + \sigma^2 \beta\, \nabla \log q_s(x)\big]\, |ds| + \sigma \sqrt{\beta}\; dW, \\
# \text{generation, flow:}\quad & dx = \big[\tfrac12 \beta x
#   + \tfrac12 \sigma^2 \beta\, \nabla \log q_s(x)\big]\, |ds| .
# \end{aligned}
# $$ (eq-02-sde)
# :::
#
# :::{dropdown} Proof
# The Fokker–Planck equation of destruction is
# $\partial_s q = \nabla \cdot (\tfrac12 \beta x\, q) + \tfrac12 \sigma^2 \beta\, \Delta q$. Since
# $\Delta q = \nabla \cdot (q\, \nabla \log q)$,
#
# $$
# \partial_s q = -\nabla \cdot (v\, q), \qquad
# v = -\tfrac12 \beta x - \tfrac12 \sigma^2 \beta\, \nabla \log q .
# $$
#
# This is how a density moves if each point moves with velocity $v$ and nothing is random. Run in
# the direction of falling $s$, the velocity is $-v$: the flow. For the SDE, let $s' = -s$ be the
# time of generation. Its Fokker–Planck equation with drift $m$ is
#
# $$
# \begin{aligned}
# \partial_{s'} q &= -\nabla \cdot (m\, q) + \tfrac12 \sigma^2 \beta\, \Delta q \\
# &= -\nabla \cdot \big((m - \tfrac12 \sigma^2 \beta\, \nabla \log q)\, q\big).
# \end{aligned}
# $$
#
# It should be $\nabla \cdot (v\, q)$, which it is for $m = -v + \tfrac12 \sigma^2 \beta\, \nabla \log q$.
# :::
#
# Ancestral sampling is, to first order in the step, Euler's method for the SDE. DDIM is it for the
# flow, in the right coordinates.
#
# :::{prf:proposition} DDIM is Euler's method
# :label: thm-02-flow
# With $y = x / \sqrt{\bar\alpha}$ and the ratio of noise to signal
# $r = \sigma \sqrt{1/\bar\alpha - 1}$ the flow reads
#
# $$
# \frac{dy}{dr} = \hat\varepsilon ,
# $$ (eq-02-flow)
#
# and a step of DDIM with $\eta = 0$ is one of Euler's method for it.
# :::
#
# :::{dropdown} Proof
# Since $\tfrac{d}{ds} \bar\alpha^{-1/2} = \tfrac12 \beta\, \bar\alpha^{-1/2}$, along the flow
#
# $$
# \begin{aligned}
# \frac{dy}{ds} &= \frac{v + \tfrac12 \beta x}{\sqrt{\bar\alpha}}
# = -\frac{\sigma^2 \beta\, \nabla \log q}{2 \sqrt{\bar\alpha}}
# = \frac{\sigma \beta}{2 \sqrt{\bar\alpha (1 - \bar\alpha)}}\; \hat\varepsilon, \\
# \frac{dr}{ds} &= \frac{\sigma}{2 \sqrt{1/\bar\alpha - 1}} \cdot \frac{\beta}{\bar\alpha}
# = \frac{\sigma \beta}{2 \sqrt{\bar\alpha (1 - \bar\alpha)}},
# \end{aligned}
# $$
#
# the last step of the first line by {eq}`eq-02-tweedie`. Their ratio is $\hat\varepsilon$.
# Equation {eq}`eq-02-ddim` with $\eta = 0$, divided by $\sqrt{\bar\alpha_j}$, reads
# $y_j = y_k + (r_j - r_k)\, \varepsilon_\theta$: a step of Euler.
# :::
#
# So a better solver is a better sampler. **Heun's method** {cite:p}`karras2022elucidating` asks the
# predictor at both ends of a step and takes the mean: two calls, and an error of second order.

# %% mystnb={"figure": {"name": "fig-02-paths", "caption": "One dimension, three modes, the exact predictor. Generation runs from right to left. The SDE's paths are rough and may change sides; the flow's are smooth and never cross. At every level both have the same density."}, "image": {"alt": "Two panels of paths that fan out from a normal distribution on the right to three levels on the left: rough paths on the left, smooth ones on the right."}}
line = gl.GMM([[-2.5], [0.5], [2.5]], 0.05, weights=[0.3, 0.2, 0.5])
fine = Noising(400, "cosine", sigma2=4.0)
exact = exact_predictor(line, fine)
begin = fine.start(2000, 1, generator)
figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
for method, ax in zip((ancestral, heun), axes, strict=True):
    seen = {}
    extra = {"generator": generator} if method is ancestral else {}
    end = method(watched(exact, seen), fine, begin, **extra)
    paths = torch.stack([end, *(seen[k] for k in range(1, 401))])[..., 0]
    share = end[:, 0].gt(1.5).double().mean()
    kind = "SDE" if method is ancestral else "Flow"
    ax.plot(paths[:, :60], color=BLUE, alpha=0.4, linewidth=0.6)
    ax.set(xlabel="noise index $k$")
    ax.set_title(f"{kind}: {share:.0%} end in the upper mode")
axes[0].set_ylabel("$x_k$")
plt.show()
print(f"exact share of the upper mode: {line.weights[2]:.0%}")

# %% [markdown]
# How many calls of the network does a sample need? With the exact predictor of the moons the only
# error is that of the steps. On the left is $W_2$ to exact samples. On the right is the error of
# the flow alone: where a fixed $x_K$ ends, compared with where 1,024 steps of Heun's method take
# it.

# %%
many = Noising(1024 if profile != "smoke" else 64, "cosine", noising.sigma2)
oracle = exact_predictor(moons, many)
COUNTS = [2**i for i in range(1, 9 if profile != "smoke" else 6)]
REPEATS = 3 if profile != "smoke" else 1
begin = many.start(REPEATS * points, 2, generator)
right_end = heun(oracle, many, begin)


def few(n, eta, begin):  # ancestral steps of n equal parts
    if eta is None:
        coarse = Noising(n, "cosine", many.sigma2)
        predict = exact_predictor(moons, coarse)
        return ancestral(predict, coarse, begin, generator)
    return ddim(oracle, many, begin, n, eta, generator)


ways = {  # how it generates, and its calls for n steps
    "ancestral": (lambda n: few(n, None, begin), lambda n: n),
    r"DDIM, $\eta = 1$": (lambda n: few(n, 1.0, begin), lambda n: n),
    r"DDIM, $\eta = 0$": (lambda n: few(n, 0.0, begin), lambda n: n),
    "Heun": (lambda n: heun(oracle, many, begin, n), lambda n: 2 * n - 1),
}
exact_sets = [moons.sample(points, generator) for _ in range(2 * REPEATS)]
floor = distances(exact_sets[:REPEATS], exact_sets[REPEATS:])[0]
curves = {}
for name, (make, calls) in ways.items():
    curves[name] = curve = {"calls": [], "w2": [], "error": []}
    for n in COUNTS if name != "Heun" else [1, *COUNTS[:-1]]:
        x = make(n)
        w2, _ = distances(x.split(points), exact_sets[:REPEATS])
        curve["calls"].append(calls(n))
        curve["w2"].append(w2)
        away = (x - right_end).norm(dim=1).median().item()
        curve["error"].append(away)

# %% mystnb={"figure": {"name": "fig-02-steps", "caption": "The exact predictor of two moons. Left: W2 to exact samples against calls of the predictor, mean over three sets; the floor is what exact samples score. Right: median distance from the end of the exact flow, for the two methods that follow it; grey lines have slopes of one and two."}, "image": {"alt": "Left: four curves that fall to a dashed floor as calls grow from two to 256. Right: two falling lines on logarithmic axes, Heun's twice as steep as that of DDIM."}}
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.9))
colours = dict(zip(ways, (GREY, GREEN, ORANGE, BLUE), strict=True))
for name, curve in curves.items():
    style = {"color": colours[name], "marker": "o", "markersize": 4}
    left.loglog(curve["calls"], curve["w2"], label=name, **style)
    if "1" not in name and name != "ancestral":
        right.loglog(curve["calls"], curve["error"], label=name, **style)
left.axhline(floor, color="black", linewidth=0.8, linestyle="--")
left.text(1, 0.97 * floor, "floor", va="top", fontsize=9)
euler, second = curves[r"DDIM, $\eta = 0$"], curves["Heun"]
for curve, order in ((euler, 1), (second, 2)):
    at = torch.tensor(curve["calls"][-3:], dtype=torch.float64)
    guide = 1.6 * curve["error"][-1] * (at[-1] / at) ** order
    right.plot(at, guide, color="0.6", linewidth=0.8)
for ax, what in ((left, "$W_2$ to exact samples"), (right, "error")):
    ax.set(xlabel="calls of the predictor", ylabel=what)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
left.set_yticks([0.2, 0.3, 0.5, 1, 2, 3], minor=False)
left.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
left.yaxis.set_minor_formatter(lambda value, _: "")
for ax in (left, right):
    ax.legend()
eight = {n: curves[n]["w2"][2] for n in colours}
leader = min(eight, key=eight.get)
left.set_title(f"With about 8 calls,\n{leader} is best")
falls = [c["error"][-2] / c["error"][-1] for c in (euler, second)]
right.set_title(
    "Twice the steps divide the error\n"
    f"by {falls[0]:.1f} (DDIM), {falls[1]:.1f} (Heun)"
)
plt.show()

# %% [markdown]
# With few calls, the order of a method says nothing: its steps are too long for it. With many, all
# of them are at the floor of $W_2$, and only the right panel still tells them apart. In between is
# where a solver pays.
#
# ## 7. The bridge: this network is a sampler's drift
#
# In the other chapters a sampler has a reference process, a learned drift $u$ and an energy. Take
# as reference the variance-preserving process: destruction {eq}`eq-02-step` in equilibrium. In one
# step from $x_k$ to $x_{k-1}$, that is from $t$ to $t' = t + 1/K$, its kernels are
#
# $$
# \begin{aligned}
# P_F(x_{k-1} \mid x_k; \theta) &= \mathcal N\big(\sqrt{a_k}\, x_k + b_k\, u(x_k, t; \theta),\
#   \sigma^2 b_k I\big), \\
# P_B(x_k \mid x_{k-1}) &= \mathcal N\big(\sqrt{a_k}\, x_{k-1},\ \sigma^2 b_k I\big)
#   = q(x_k \mid x_{k-1}).
# \end{aligned}
# $$ (eq-02-kernels)
#
# $P_F$ has the variance of the ancestral step.
#
# :::{prf:theorem} A predictor of noise is a drift
# :label: thm-02-bridge
# $P_F$ has the mean {eq}`eq-02-mean` of the ancestral step too, if
#
# $$
# \varepsilon_\theta(x, k) = \frac{\sqrt{1 - \bar\alpha_k}}{\sigma}\;
#   \big(x - \sqrt{a_k}\; u(x, t; \theta)\big),
# \qquad t = 1 - \frac kK .
# $$ (eq-02-bridge)
# :::
#
# :::{dropdown} Proof
# Put {eq}`eq-02-bridge` into {eq}`eq-02-mean`:
#
# $$
# \mu_\theta = \frac{1}{\sqrt{a_k}} \Big(x - b_k \big(x - \sqrt{a_k}\, u\big)\Big)
# = \frac{1 - b_k}{\sqrt{a_k}}\, x + b_k u = \sqrt{a_k}\, x + b_k u .
# $$
# :::
#
# `Denoiser` is built that way: its network *is* a drift, and its prediction of the noise is
# {eq}`eq-02-bridge`. So a diffusion model is a GFlowNet sampler that was trained by maximum
# likelihood on destroyed data, with other weights. Nothing has to be converted. Give it an energy,
# and every trajectory has a log-weight
#
# $$
# \begin{aligned}
# \log w ={}& \log R(x_0) + \log \prod_k q(x_k \mid x_{k-1}) \\
#   &- \log \mathcal N(x_K; 0, \sigma^2 I) - \log \prod_k P_F(x_{k-1} \mid x_k; \theta),
# \end{aligned}
# $$ (eq-02-logw)
#
# with mean at most $\log Z$ over generated trajectories and at least $\log Z$ over destroyed ones. So
# the question of the opening has its answer: for one point $x_0$, $\log R(x_0)$ less the mean of
# $\log w$ over trajectories destroyed from it is the bound of section 4 on the log-probability that
# the model gives it, and the energy cancels.
#
# The model of the 25 Gaussians has seen samples and never the density. Here is its evaluation by
# the density, where $\log Z = 0$, without an energy call in training. (Its learned $\log Z$ is the
# zero that it began with: data say nothing of it.)

# %%
target = targets["25 Gaussians"]
sampler = models["25 Gaussians"].sampler(target)
evaluation = sampler.evaluate(20_000 if profile != "smoke" else 200)
evaluation

# %% mystnb={"figure": {"name": "fig-02-bridge", "caption": "Log-weights of generated and of destroyed trajectories of the diffusion model that has only seen samples of the 25 Gaussians. Their means are the two bounds."}, "image": {"alt": "Two overlapping histograms of log-weights on both sides of the dashed line at log Z equal to zero."}}
n = 10_000 if profile != "smoke" else 200
generated = sampler.log_weight(n)
destroyed = sampler.log_weight(x=target.sample(n, generator))
axes = gl.plots.log_weights(generated, destroyed, target.log_z)
lower, upper = evaluation["elbo"], evaluation["eubo"]
axes.set_title(
    f"Trained on data alone: {lower:.2f} ≤ log Z = 0 ≤ {upper:.2f}"
)
plt.show()

# %% [markdown]
# Is {eq}`eq-02-bridge` right? Compute {eq}`eq-02-logw` again, from the predicted noise and the
# schedule alone, and for the exact predictor as well. Ancestral sampling leaves out the last noise;
# $P_F$ does not, so here it is added.


# %%
def log_normal(x, mean, std):  # log N(x; mean, std^2 I): (n,)
    density = torch.distributions.Normal(mean, std).log_prob(x)
    return density.sum(-1)


def log_weight(predict, noising, target, path):
    """log w of paths x_0, ..., x_K, each (n, d)."""
    end = torch.tensor(noising.sigma2).sqrt()
    log_w = target.log_reward(path[0]) - log_normal(path[-1], 0.0, end)
    for k in range(1, noising.steps + 1):
        a, left = noising.alpha[k], 1 - noising.alpha_bar[k]
        mean, std = noising.step(path[k - 1], k)
        log_w += log_normal(path[k], mean, std)
        pull = (1 - a) * end / left.sqrt() * predict(path[k], k)
        mean = (path[k] - pull) / a.sqrt()
        log_w -= log_normal(path[k - 1], mean, std)
    return log_w


def generate(predict, noising, n, generator):
    """Paths of P_F, from noise to data."""
    seen, x = {}, noising.start(n, 2, generator)
    x = ancestral(watched(predict, seen), noising, x, generator)
    std = noising.step(x, 1)[1]
    seen[0] = x + std * torch.randn(x.shape, generator=generator)
    return [seen[k] for k in range(noising.steps + 1)]


def destroy(noising, x, generator):
    """Paths of P_B, from data to noise."""
    path = [x]
    for k in range(1, noising.steps + 1):
        mean, std = noising.step(path[-1], k)
        fresh = torch.randn(x.shape, generator=generator)
        path.append(mean + std * fresh)
    return path


own = models["25 Gaussians"].noising
network = models["25 Gaussians"].predictor()
perfect = exact_predictor(target, own)
rows = {
    "network: sampler.evaluate": [
        evaluation[key] for key in ("elbo", "log_z_is", "eubo", "ess")
    ]
}
down = destroy(own, target.sample(n, generator), generator)
over = {}
for name, predict in (("network", network), ("exact predictor", perfect)):
    up = generate(predict, own, n, generator)
    log_w = log_weight(predict, own, target, up)
    over[name] = log_weight(predict, own, target, down)
    rows[f"{name}: by hand"] = [
        float(value)
        for value in (
            gl.elbo(log_w),
            gl.log_z_is(log_w),
            gl.eubo(over[name]),
            gl.ess(log_w),
        )
    ]
names = ["ELBO", "IS log Z", "EUBO", "ESS"]
bounds = pd.DataFrame(rows, names).T
bounds.round(3)

# %% [markdown]
# The first two rows are the same sampler, up to the noise of the estimate. The third is what steps
# of a fixed variance cost, with nothing left to learn. The rest of the gap is the network's. By
# {eq}`eq-02-elbo` the gap in the EUBO is a sum of the errors of section 4, each with the weight
# that $\mathcal L_{\mathrm{simple}}$ left out (with standard errors):

# %%
excess = torch.zeros(own.steps, n)  # at each level of each path
for k, weight in enumerate(likelihood_weights(own), 1):
    error = network(down[k], k) - perfect(down[k], k)
    excess[k - 1] = weight * error.square().sum(1)
gap = over["network"] - over["exact predictor"]  # of the same paths
for name, each in (
    ("EUBO, network less exact", gap),
    ("weighted squared errors", excess.sum(0)),
):
    error = each.std() / n**0.5
    print(f"{name:<25} {each.mean():.3f} ± {error:.3f} nats")
tenth = max(1, own.steps // 10)
part = excess[:tenth].sum() / excess.sum()
print(f"of which {part:.0%} at the {tenth} levels of least noise")

# %% [markdown]
# And what do the bounds say of the three models of section 5, whose $W_2$ was hard to tell from the
# floor?

# %%
lines = {}
for name, target_here in targets.items():
    its = models[name].sampler(target_here)
    below = gl.elbo(its.log_weight(n))
    above = gl.eubo(its.log_weight(x=target_here.sample(n, generator)))
    lines[name] = [*quality.loc[name], f"{below:.2f}", f"{above:.2f}"]
pd.DataFrame(lines, [*quality.columns, "ELBO", "EUBO"]).T

# %% [markdown]
# $W_2$ is about where the mass is. Whether a ring is sharp, it hardly sees; a density does. The
# three tasks are not equally hard for a network of one size, and the bounds put a number on it.
#
# What one side has learned, the other can go on with. Data give all the modes at once, which an
# energy alone has to find by exploration; the energy then corrects what data left inaccurate
# (exercise 3).
#
# ## 8. Digits
#
# A picture has hundreds of pixels. The cheap way is to diffuse in the latent space of an
# autoencoder: encode MNIST's training images, draw a latent $z$ from each image's Gaussian,
# standardise, and learn the density of what comes out. The autoencoder *assumes* that its latents
# are $\mathcal N(0, I)$. They are not quite, and that is why decoded normal noise is often no
# digit. The labels go in as a condition of the network, so that we can ask for a digit.

# %%
source = "small" if profile == "smoke" else None  # None: all there are
digits, vae = mnist("train", source), pretrained()
with torch.no_grad():
    mean, std = vae.encode(digits.images)
z = mean + std * torch.randn(mean.shape, generator=generator)
centre, scale = z.mean(0), z.std(0)
order = torch.randperm(len(z), generator=generator)
latents, labels = ((z - centre) / scale)[order], digits.labels[order]
kept_out = 1000
drawer = Denoiser(
    20, Noising(steps, "cosine"), classes=10, hidden=128, seed=seed
)
drawer.fit(
    latents[kept_out:], labels[kept_out:], iterations=digit_iterations,
    progress=False,
)  # fmt: skip
print(f"{digits}: trained for {digit_iterations:,} iterations")

# %% [markdown]
# Two measures. $W_2$ to held-out latents, beside its floor. And does a latent look like the digit
# that was asked for? Give it the label of the nearest training latent, and do the same for held-out
# latents, whose labels are true.

# %%
each = 50 if profile != "smoke" else 5
asked = torch.arange(10).repeat_interleave(each)
made = torch.cat([drawer.sample(each, label=c) for c in range(10)])
test, truth = latents[: len(made)], labels[: len(made)]
other = latents[len(made) : 2 * len(made)]
plain = torch.randn(made.shape, generator=generator)


def nearest(x):  # label of the nearest training latent
    away = torch.cdist(x, latents[kept_out:])
    return labels[kept_out:][away.argmin(1)]


right = nearest(made).eq(asked).double().mean().item()
most = nearest(test).eq(truth).double().mean().item()
pd.DataFrame(
    {
        "W2 to held-out latents": [
            f"{gl.w2(x, test):.2f}" for x in (plain, made, other)
        ],
        "has its label": ["–", f"{right:.0%}", f"{most:.0%}"],
    },
    ["N(0, I)", "samples of the model", "other held-out latents"],
)

# %% mystnb={"figure": {"name": "fig-02-digits", "caption": "Left: decoded samples of the model, one column for each digit asked for. Right: decoded draws from N(0, I), as the autoencoder alone would generate."}, "image": {"alt": "Two sheets of handwritten digits. On the left each column shows one digit from zero to nine; on the right digits come in no order and many are no digit."}}
sheet = made.view(10, each, -1)[:, :5].transpose(0, 1).reshape(50, -1)
figure, (left, right_ax) = plt.subplots(1, 2, figsize=(9.4, 2.7))
figure.get_layout_engine().set(wspace=0.08)
gl.plots.images(vae.decode(centre + scale * sheet), left)
gl.plots.images(vae.decode(plain[:50]), right_ax)
left.set_title(f"Model: {right:.0%} are the digit asked for")
right_ax.set_title(r"Decoded noise from $\mathcal{N}(0, I)$")
plt.show()

# %% [markdown]
# ## What went wrong
#
# **Off by one.** Papers count noise from 0 or from 1, and code counts arrays from 0. A sampler that
# asks the predictor about level $k - 1$ when its state is at level $k$ runs without an error. Here
# it is, with the exact predictor of the 25 Gaussians: does anything tell?


# %%
def late(x, k):
    return perfect(x, max(k - 1, 1))


rows, overs, first = {}, [], held_out["25 Gaussians"]
for name, predict in (("right", perfect), ("off by one", late)):
    begin = own.start(PAIRS * points, 2, generator)
    x = ancestral(predict, own, begin, generator)
    w2, off = distances(x.chunk(PAIRS), first)
    up = generate(predict, own, n, generator)
    over = log_weight(predict, own, target, down)
    lower = gl.elbo(log_weight(predict, own, target, up))
    overs.append(over)
    cells = [f"{w2:.2f} ± {off:.2f}"]
    cells += [f"{float(v):.2f}" for v in (lower, gl.eubo(over))]
    rows[name] = cells
worse = overs[1] - overs[0]  # of the same trajectories
sure = worse.mean() / (worse.std() / n**0.5)
print(f"EUBO: {worse.mean():.3f} nats worse, {sure:.0f} standard errors")
pd.DataFrame(rows, ["W2 (floor above)", "ELBO", "EUBO"]).T

# %% [markdown]
# $W_2$ sees nothing. The EUBO, on the same destroyed trajectories, leaves no doubt, although it is
# only a small mistake in so many steps. That is a reason to test a model of data on a problem whose
# density is known: there every part of it can be checked.
#
# **Units.** A network learns numbers of order one more easily than large ones. The same training,
# cut short, on the 25 Gaussians 5 apart and 2 apart:

# %%
for apart in (5, 2):
    scaled = gl.GMM(gl.gmm25.means / 5 * apart, 0.3 * (apart / 5) ** 2)
    sets = scaled.sample(10_000, torch.Generator().manual_seed(seed))
    own_noise = Noising(steps, "cosine", sets.var(0).mean().item())
    trial = Denoiser(2, own_noise, layers=3, seed=seed)
    trial.fit(sets, **options | {"iterations": max(1, iterations // 4)})
    x = scaled.sample(n, torch.Generator().manual_seed(seed))
    above = gl.eubo(trial.sampler(scaled).log_weight(x=x))
    print(f"{apart} apart: EUBO {above:.2f}")

# %% [markdown]
# **Noise in the judge.** $W_2$ between finite sets is a random number whose spread does not shrink
# quickly: mass between modes has to be moved far. A single value below the floor is luck, not a
# better sampler. Average over sets, or use a paired error as in the right panel of
# {numref}`fig-02-steps`.
#
# **The last step.** At $k = 1$ the flow has no noise left to predict at its far end, so Heun's last
# step is one of Euler; the ancestral sampler drops its last noise. Both are harmless for pictures.
# But a sampler that drops noise has no density: leave it in where log-weights matter.
#
# ## In five lines
#
# 1. Destruction is Gaussian and known: $x_k = \sqrt{\bar\alpha_k}\, x_0 + \sigma \sqrt{1 -
#    \bar\alpha_k}\, \varepsilon$.
# 2. Predicted noise, predicted data and score are one function; a regression without weights
#    learns it.
# 3. Ancestral and DDIM are Euler's method for an SDE and for a flow; the flow allows better methods.
# 4. The predicted noise is the drift of $P_F$ in the variance-preserving process, so a diffusion
#    model has an ELBO and an EUBO as soon as there is an energy.
# 5. The likelihood weighs small noise most; $\mathcal L_{\mathrm{simple}}$ does not, and the bounds
#    show it.
#
# ## Exercises
#
# **1.** Train on the 25 Gaussians with `predict="x0"`, so that the squared error of $\hat x_0$ is
# the loss. Which levels get more weight than before, and which bound tells?
#
# :::{dropdown} Solution
# An error in $\hat\varepsilon$ is one in $\hat x_0$ times $\sigma \sqrt{1/\bar\alpha_k - 1}$:
# levels of much noise get far more weight, and the details less. The samples still form a grid of
# 25, but the modes are not sharp, and both bounds are further off.
# ```python
# data = target.sample(10_000)
# noising = Noising(100, "cosine", sigma2=8.0)
# for predict in ("noise", "x0"):
#     trial = Denoiser(2, noising, layers=3)
#     trial.fit(data, predict=predict, **options)
#     print(predict, trial.sampler(target).evaluate(n))
# ```
# :::
#
# **2.** Our $\sigma^2$ was the variance of the data. Train on the same data with less. What gets
# better, and what is the price? Think of the ratio $r$ in {eq}`eq-02-flow`.
#
# :::{dropdown} Solution
# The sampler sees noise through $r = \sigma \sqrt{1/\bar\alpha - 1}$ alone, so a smaller $\sigma$
# is another schedule, which spends more of its steps on details. Since details are what the bounds
# lack, these improve at first. The price is paid where generation begins: it starts at
# $\mathcal N(0, \sigma^2 I)$, but destroyed data arrive with the variance
# $\bar\alpha_K \operatorname{Var} x_0 + \sigma^2 (1 - \bar\alpha_K)$, which is no longer near
# $\sigma^2$ if that is much smaller than the variance of the data.
# ```python
# data = target.sample(10_000)
# for sigma2 in (0.1, 1.0, 8.0):
#     noising = Noising(100, "cosine", sigma2)
#     left = noising.alpha_bar[-1]
#     arrives = left * data.var(0).mean() + sigma2 * (1 - left)
#     trial = Denoiser(2, noising, layers=3).fit(data, **options)
#     print(f"starts at {sigma2}, should at {arrives:.3f}")
#     print(trial.sampler(target).evaluate(n))
# ```
# :::
#
# **3.** Go on where the data ended: train the sampler of section 7 by trajectory balance on the
# energy, and compare with a sampler that starts from nothing and does not explore.
#
# :::{dropdown} Solution
# ```python
# settings = {"lr": 1e-3, "batch_size": 200}
# settings["iterations"] = min(300, iterations)
# warm = models["25 Gaussians"].sampler(target, **settings)
# print(warm.evaluate(n))
# print(warm.fit().evaluate(n))
# cold = gl.GFNDiffusion(target, config=warm.config).fit()
# print(cold.evaluate(n))
# ```
# The bounds of the warm sampler close in further, with few energy calls. The cold one, from the
# same number, is far behind: it has no data to tell it where the modes are.
# :::
#
# ## Sources
#
# Destruction and the bound: {cite:t}`sohl2015deep`. Noise prediction, $\mathcal L_{\mathrm{simple}}$ and the
# linear schedule: {cite:t}`ho2020ddpm`. The cosine schedule: {cite:t}`nichol2021improved`. DDIM:
# {cite:t}`song2020ddim`. The SDE and the flow: {cite:t}`song2021sde`. Heun's method, and the flow
# in the noise-to-signal ratio: {cite:t}`karras2022elucidating`. Samplers as GFlowNets in continuous
# spaces: {cite:t}`lahlou2023continuous`. Images: MNIST, by Y. LeCun, C. Cortes and C. Burges, under
# CC BY-SA 3.0.
