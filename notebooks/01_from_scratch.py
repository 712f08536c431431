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
# # From scratch: a sampler in one page
#
# You can evaluate an energy $E(x)$ anywhere, but you have no data. Can a diffusion model learn to
# draw samples from $p(x) = e^{-E(x)} / Z$, where nobody knows the normaliser $Z$? And can its
# trajectories tell you $Z$?
#
# ![Samples on twenty-five contour circles, and a bar chart of the share of each.](../reproduce/results/25gmm.png)
#
# *Where this leads: a sampler that finds all modes of an energy, each with its share, made
# [three chapters on](04_25gmm) by the method of this page.*
#
# :::{admonition} At a glance
# **You will** write the whole method with nothing but PyTorch: a generation process, a destruction
# process, one loss; train it on nine separated Gaussians and check it against the known $Z$.
#
# **You will be able to** say what trajectory balance asks for, why it needs no data and no
# backpropagation through time, and how to tell a good sampler from one that has lost a mode.
#
# **You need** Python, a little PyTorch, Gaussian densities. **Time**: 15 minutes to read, under a
# minute to run on a laptop's CPU.
# :::

# %%
import math
import os
import time

import matplotlib.pyplot as plt
import torch
from torch import nn, optim

torch.set_num_threads(1)  # matrices this small need no second thread
# The book's tests run every page in seconds; a reader gets the real thing.
ITERATIONS = 30 if os.environ.get("GFNLITE_PROFILE") == "smoke" else 3000

# %% [markdown]
# ## 1. A target known up to its normaliser
#
# Nine Gaussians $\mathcal N(\mu_k, 0.3\, I)$ on a grid, five apart. We use only
# $\log R(x) = -E(x)$, the *unnormalised* log density. Here we have scaled it so that $\log Z = 2$
# exactly, and the sampler is not told.

# %%
LEVELS = torch.tensor([-5.0, 0.0, 5.0])
MEANS = torch.cartesian_prod(LEVELS, LEVELS)  # (9, 2)
VARIANCE, LOG_Z = 0.3, 2.0


def log_reward(x):  # log R(x): (B, 2) -> (B,)
    squared = (x[:, None] - MEANS).square().sum(-1)  # (B, 9)
    log_modes = -squared / (2 * VARIANCE) - math.log(2 * math.pi * VARIANCE)
    return log_modes.logsumexp(1) - math.log(len(MEANS)) + LOG_Z


def sample_target(n):  # exact samples, for checking only
    mean = MEANS[torch.randint(len(MEANS), (n,))]
    return mean + math.sqrt(VARIANCE) * torch.randn(n, 2)


# %% [markdown]
# ## 2. Two processes that should agree
#
# **Generation** starts at the origin and takes $T$ small Gaussian steps with a learned drift $u$:
#
# $$P_F(x_{t + \Delta t} \mid x_t; \theta)
#   = \mathcal N\big(x_t + u(x_t, t; \theta)\,\Delta t,\;
#     \sigma^2 \Delta t\, I\big).$$ (eq-01-generation)
#
# **Destruction** goes the other way, from a sample back to the origin, and is not learned. It is
# the Brownian bridge, which is what generation without drift looks like when time is reversed:
#
# $$P_B(x_t \mid x_{t + \Delta t})
#   = \mathcal N\Big(\tfrac{t}{t + \Delta t}\, x_{t + \Delta t},\;
#     \sigma^2 \Delta t\, \tfrac{t}{t + \Delta t}\, I\Big).$$ (eq-01-destruction)
#
# Put the target at one end and both describe a joint density of the whole path
# $\tau = (x_0, \dots, x_1)$. If generation were perfect they would be the same density, up to $Z$:
#
# $$Z\, \prod_t P_F(x_{t + \Delta t} \mid x_t; \theta)
#   \;=\; R(x_1) \prod_t P_B(x_t \mid x_{t + \Delta t})
#   \qquad\text{for every path } \tau.$$ (eq-01-balance)
#
# This is **trajectory balance**. Summing it over all paths that end in $x_1$ shows what it buys:
# the samples then have density exactly $R(x_1)/Z$ ({prf:ref}`thm-03-tb`).

# %% [markdown]
# ## 3. The loss
#
# Move everything to one side, take logarithms, and call the result the path's *log-weight*:
#
# $$\log w(\tau) = \log R(x_1) + \sum_t \log P_B - \sum_t \log P_F.$$ (eq-01-log-weight)
#
# Trajectory balance asks that it be one number, the same for all paths:
#
# $$\mathcal L_{\mathrm{TB}}(\theta) =
#   \tfrac12\, \mathbb E_\tau\big[(\log Z_\theta - \log w(\tau))^2\big].$$ (eq-01-tb)
#
# The loss is zero only if the log-weights of all paths are equal, and then they equal $\log Z$.
# With steps of a fixed variance it cannot quite be zero. For a given drift the best $\log Z_\theta$
# is the mean of $\log w$ over the paths trained on, so at the end of a training, when these come
# from $P_F$ itself, $\log Z_\theta$ tracks the ELBO of section 5; take $\log Z$ from importance
# sampling.
#
# Nothing says which paths to average over: *any* paths will do, as long as they cover the space.
# That freedom is called training **off-policy**, and we use it at once: while exploring, the steps
# get more noise than $P_F$ has, but the densities in $\log w$ stay those of $P_F$.
#
# The states are treated as given numbers. So no gradient flows through the simulation or through
# the energy. Training by the reverse Kullback–Leibler divergence, the older way
# ([chapter 03](03_trajectory_balance) compares them), needs both.
#
# Here is all of it, one step at a time.


# %%
class Drift(nn.Module):
    """u(x, t; theta): zero at first, so training starts from pure noise."""

    def __init__(self, hidden=64):
        super().__init__()
        self.frequencies = 2 ** torch.arange(6.0) * math.pi / 2
        self.first = nn.Linear(2 + 12, hidden)  # x; sines and cosines of t
        self.middle = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, 2)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x, t):  # (B, 2), number -> (B, 2)
        angle = t * self.frequencies
        features = torch.cat((angle.sin(), angle.cos())).expand(len(x), -1)
        hidden = self.first(torch.cat((x, features), 1))
        hidden = self.middle(nn.functional.gelu(hidden))
        return self.last(nn.functional.gelu(hidden))


# %% tags=["oracle"]
def log_normal(x, mean, variance):  # log N(x; mean, variance I): (B,)
    squared = (x - mean).square().sum(-1) / variance
    return -0.5 * (squared + x.shape[-1] * math.log(2 * math.pi * variance))


def generate(u, log_reward, noise, sigma2, exploration=0.0):
    """Paths driven by `noise` (T, B, d): ends (B, d), log-weights (B,)."""
    dt = 1 / len(noise)
    x = torch.zeros_like(noise[0])
    log_pf = log_pb = 0.0
    for i, eps in enumerate(noise):
        t = i * dt
        mean = x + u(x, t) * dt
        spread = math.sqrt((sigma2 + exploration) * dt)
        after = (mean + spread * eps).detach()
        log_pf += log_normal(after, mean, sigma2 * dt)
        if i > 0:  # the first step back, to the origin, is certain
            back = t / (t + dt)
            log_pb += log_normal(x, back * after, sigma2 * dt * back)
        x = after
    return x, log_reward(x) + log_pb - log_pf


# %% [markdown]
# ## 4. Training
#
# $\sigma^2 = 5$ gives the undriven process a standard deviation of $\sqrt 5 \approx 2.2$, but the
# outer modes are five away in each direction. Exploration fills the gap: it starts with a variance
# of 5 more and fades to nothing half way through. What is left is a plain loop.

# %%
torch.manual_seed(0)  # so that this cell gives the same each time it is run
SIGMA2, STEPS, BATCH, EXPLORATION = 5.0, 25, 256, 5.0
u, log_z = Drift(), nn.Parameter(torch.zeros(()))
groups = [{"params": u.parameters(), "lr": 3e-3}]
groups += [{"params": [log_z], "lr": 0.1}]
optimiser = optim.Adam(groups)
schedule = optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, ITERATIONS)

losses, started = [], time.perf_counter()
for iteration in range(ITERATIONS):
    exploration = EXPLORATION * max(0.0, 1 - 2 * iteration / ITERATIONS)
    noise = torch.randn(STEPS, BATCH, 2)
    _, log_weight = generate(u, log_reward, noise, SIGMA2, exploration)
    loss = 0.5 * (log_z - log_weight).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    schedule.step()
    losses.append(loss.item())
seconds = time.perf_counter() - started
print(f"{ITERATIONS} iterations in {seconds:.0f} s, last loss {loss:.2f}")

# %% [markdown]
# ## 5. Is it right?
#
# Three numbers answer, two of them means of $\log w$ and one the logarithm of a mean of $w$:
#
# - the mean of $\log w$ over generated paths is a **lower** bound of $\log Z$, the ELBO (Jensen's
#   inequality, since the mean of $w$ is $Z$);
# - the same over paths destroyed from *exact* samples is an **upper** bound, the EUBO. It punishes
#   every region that generation cannot reach;
# - $\log$ of the mean of $w$ over generated paths estimates $\log Z$ itself: importance sampling.
#
# A sampler that has lost modes can have a fine ELBO. It cannot have a fine EUBO. For the EUBO we
# need paths that run from a sample back to the origin.


# %% tags=["oracle"]
def destroy(u, log_reward, x, noise, sigma2):
    """Bridges from `x` (B, d) back to the origin: log-weights (B,)."""
    dt = 1 / len(noise)
    log_weight = log_reward(x)
    for i in reversed(range(len(noise))):
        t = i * dt
        back = t / (t + dt)
        before = back * x + math.sqrt(sigma2 * dt * back) * noise[i]
        mean = before + u(before, t) * dt
        log_weight = log_weight - log_normal(x, mean, sigma2 * dt)
        if i > 0:
            log_pb = log_normal(before, back * x, sigma2 * dt * back)
            log_weight = log_weight + log_pb
        x = before
    return log_weight


# %%
N = 5000
with torch.no_grad():
    noise = torch.randn(2, STEPS, N, 2)
    samples, log_weight = generate(u, log_reward, noise[0], SIGMA2)
    upper = destroy(u, log_reward, sample_target(N), noise[1], SIGMA2)
nearest = (samples[:, None] - MEANS).square().sum(-1).argmin(1)
share = torch.bincount(nearest, minlength=len(MEANS)) / N

print(f"ELBO {log_weight.mean():6.2f}   at most log Z")
estimate = log_weight.logsumexp(0) - math.log(N)
print(f"IS   {estimate:6.2f}   estimate of log Z")
print(f"true {LOG_Z:6.2f}")
print(f"EUBO {upper.mean():6.2f}   at least log Z")
print(f"learned log Z_theta {log_z.item():.2f}   tracks the ELBO")
print("share of the samples in each mode (exact: 11.1%)")
for row in share.view(3, 3).T.flip(0):  # laid out as in the figure below
    print("   ".join(f"{s:6.1%}" for s in row))

# %% mystnb={"figure": {"name": "fig-scratch", "caption": "Left: samples of the trained model on contours of the target it never saw a sample of. Right: the loss falls as all log-weights approach one number; 25 steps of a fixed variance cannot bring it to zero."}, "image": {"alt": "Scatter of generated samples forming nine clusters on a three by three grid, and the training loss falling on a logarithmic axis."}}
axis = torch.linspace(-8, 8, 200)
grid = torch.cartesian_prod(axis, axis)
density = (log_reward(grid) - LOG_Z).exp().view(200, 200).T

_, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
left.contour(axis, axis, density, levels=6, colors="0.6", linewidths=0.8)
left.scatter(*samples[:1500].T, s=3, color="#0072B2", alpha=0.6)
found = int((share > 0.2 / 9).sum())
left.set_title(f"{found} of 9 modes are sampled")
left.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
right.semilogy(losses, color="#D55E00", linewidth=0.7)
fall = sum(losses[:20]) / sum(losses[-20:])
right.set_title(f"The loss falls {fall:.0f}-fold")
right.set(xlabel="iteration", ylabel="loss")
plt.show()

# %% [markdown]
# All modes are there, each with about its share, and $\log Z$ lies between the two bounds. Importance
# sampling estimates it well; the learned $\log Z_\theta$ does not, it is the ELBO again. What keeps
# the bounds apart shows in the picture, too: the clusters are wider than the contours. The last of 25
# steps alone has a standard deviation of $\sqrt{5/25} \approx 0.45$, almost that of a mode, and no
# drift takes it away. With more and shorter steps the bounds close in; [Twenty-five modes](04_25gmm)
# takes 100.
#
# ## In five lines
#
# 1. Generation and destruction are two descriptions of one path; balance makes them equal.
# 2. The log-weight $\log w$ of a path says by how much they differ; every loss and every metric in
#    this book is a line or two about it.
# 3. Trajectory balance is the mean square of $\log Z_\theta - \log w$, on paths drawn in any way that
#    covers the space.
# 4. No data, no gradient of the energy, no gradient through the simulation.
# 5. ELBO $\le \log Z \le$ EUBO: look at both.
#
# ## Exercises
#
# **1.** In the training cell, set `EXPLORATION` to zero, and run sections 4 and 5 again. Which
# numbers tell you that something went wrong, and which look *better* than before?
#
# :::{dropdown} Solution
# The second line of the training cell becomes
# ```python
# SIGMA2, STEPS, BATCH, EXPLORATION = 5.0, 25, 256, 0.0
# ```
# Most modes are lost, and the final *loss* is the better for it: it is easier to make the
# log-weights of few modes equal. With $m$ of nine modes left, the importance-sampled $\log Z$ is
# off by $\log(m/9)$ with no sign of trouble, since it only sees what is sampled. The EUBO jumps by
# an order of magnitude, and the shares of the lost modes are zero.
# :::
#
# **2.** The loss above pairs every $\log w$ with a learned number $\log Z_\theta$. Replace it by the
# batch's own mean. What is this loss the variance of?
#
# :::{dropdown} Solution
# Of the log-weights. It is called VarGrad, or log-variance loss, and needs no $\log Z_\theta$.
# ```python
# loss = 0.5 * (log_weight - log_weight.mean()).square().mean()
# ```
# :::
#
# **3.** The loop calls the network $T$ times and keeps all $T$ graphs until `backward`. Since the
# states are constants, that is not necessary. How would you compute the same gradient with one call
# of the network on all $T \times B$ states?
#
# :::{dropdown} Solution
# Run the loop under `torch.no_grad()`, keep the states as one tensor `(T + 1, B, 2)`, then evaluate
# the drift on `states[:-1]` with a time for each row and sum the densities. That is the *two-phase
# step* of `gfnlite`, and the next chapters use it.
# :::
#
# ## What went wrong on the way
#
# The *drift* is multiplied by $\Delta t$ and the *noise* by $\sqrt{\Delta t}$: mixing these up
# trains without an error and converges to nonsense. The exploring variance must not enter
# `log_pf`: with it, the loss has another minimum. And `after` must be detached. Without it
# the *value* of the loss is the same, but its *gradient* is another one: it then also asks how
# moving the path itself would change the loss, needs the gradient of the energy, and is much
# noisier.
#
# ## Sources
#
# Trajectory balance: {cite:t}`malkin2022tb`; in continuous spaces: {cite:t}`lahlou2023continuous`.
# Pinned Brownian motion as reference: {cite:t}`zhang2022pis`. Off-policy training of diffusion
# samplers and this target's relatives: {cite:t}`sendera2024`. VarGrad: {cite:t}`richter2020vargrad`.
