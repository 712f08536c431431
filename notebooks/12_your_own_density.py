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
# # Your own density, from an energy to an answer
#
# A pathologist has ten measurements of each of 569 tumours, and a model that says how likely each is
# to be benign. How sure may she be of the next one? The answer is an average over a density of
# eleven coefficients that nobody has normalised. Train a sampler on it as it stands, and it ends
# far from the truth. Train the *same* sampler in other coordinates, and it is right to a small part
# of a nat. How would you have known, and which coordinates?
#
# This chapter takes two densities of your own, one from statistics and one from physics, through
# all the steps; then it breaks things on purpose.
#
# :::{admonition} At a glance
# **You will** write two energies by hand, check them, train on them, read the diagnosis, mend what
# it finds, correct what is left by weights, and compare with a truth that comes from elsewhere.
#
# **You will be able to** do this with an energy of your own: choose scale and coordinates, handle
# constraints, recognise the usual mistakes by their symptoms, and report an answer with its error.
#
# **You need** [From scratch](01_from_scratch), and [Is it right?](06_is_it_right) for what the
# numbers of an evaluation mean. **Time**: 30 minutes to read; about a minute to run on one CPU core
# in the `quick` profile; `full` trains longer and needs no GPU.
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
import math
import os
import tempfile
import textwrap
import warnings
from functools import partial
from html import escape
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from IPython.display import Markdown, display
from sklearn.datasets import load_breast_cancer

import gfnlite as gl
from gfnlite.metrics import STATISTICS, bootstrap
from gfnlite.plots import BLUE, GREEN, GREY, ORANGE
from gfnlite.smc import annealed_smc

torch.set_num_threads(1)  # matrices this small need no second thread
gl.plots.style()

# %% tags=["parameters"]
# smoke (seconds), quick (about a minute) or full (longer training)
profile: str = os.environ.get("GFNLITE_PROFILE", "quick")
seed: int = 0  # of every random number in this chapter
iterations: int | None = None  # training steps, in units of a short fit
n: int | None = None  # trajectories of an evaluation

# %%
PROFILES = {  # iterations, n
    "smoke": (20, 200),
    "quick": (400, 5000),
    "full": (4000, 50_000),
}
chosen = (iterations, n)
iterations, n = (
    default if given is None else given
    for given, default in zip(chosen, PROFILES[profile], strict=True)
)
generator = torch.Generator().manual_seed(seed)
SHORT = {  # a short fit: few steps, so that a try costs seconds
    "steps": 20,
    "coarse_steps": None,
    "learn_variance": True,
    "batch_size": 200,
    "lr": 5e-3,
    "seed": seed,
}

# %% [markdown]
# ## What goes in, and what comes out
#
# With two measurements, radius and perimeter, and an intercept, there would be no need of a sampler: a
# grid of $41^3$ points normalises the density of the three coefficients. So here one can see both ends
# of the chapter. What goes in has no reason to be round, or to lie where a sampler starts. What comes
# out is a chance and how sure one may be of it. For eleven coefficients the same grid would have
# $41^{11}$ points, more than $10^{17}$.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-12-in-and-out", "caption": "The model of this chapter with three coefficients, by quadrature on a grid. Left: the posterior of two of them, the third integrated out (regions of 50% and 95%), and those of a standard Gaussian, which is the prior and a sampler before training. Right: the probability that a tumour is benign, against its size (radius and perimeter alike), with the posterior's mean and central 90%; ticks are the tumours."}, "image": {"alt": "Left: a narrow tilted ellipse that lies mostly outside of two dashed circles about the origin. Right: a curve with a thin band falls from one to zero as the size grows; ticks of benign tumours on top lie to the left, ticks of malignant ones at the bottom to the right."}}
sizes, benign = load_breast_cancer(return_X_y=True)
sizes = torch.as_tensor(sizes[:, [0, 2]])  # mean radius, mean perimeter
sizes = (sizes - sizes.mean(0)) / sizes.std(0, correction=0)
rows = torch.cat((torch.ones_like(sizes[:, :1]), sizes), 1)
side = 2.0 * torch.as_tensor(benign) - 1
points = 41  # of each axis: intercept, radius, perimeter
ranges = ((-0.8, 1.8), (-5.0, 3.5), (-7.5, 1.0))
axes = [torch.linspace(*ends, points).double() for ends in ranges]
grid = torch.cartesian_prod(*axes)  # (points^3, 3)
margins = (part @ (side[:, None] * rows).T for part in grid.split(10_000))
log_p = -0.5 * grid.square().sum(1)
log_p += torch.cat([F.logsigmoid(part).sum(1) for part in margins])
p = log_p.softmax(0)  # here the grid normalises it
spread = (p[:, None] * (grid - p @ grid)).T @ (grid - p @ grid)
narrow, wide = torch.linalg.eigvalsh(spread[1:, 1:]).sqrt().tolist()

figure, (ax, right) = plt.subplots(1, 2, figsize=(8.4, 4.1))
plane = p.view(points, points, points).sum(0)  # intercept integrated out
falling = plane.flatten().sort(descending=True).values
held = [falling[(falling.cumsum(0) < q).sum()].item() for q in (0.95, 0.5)]
style = {"colors": [BLUE], "linewidths": 1.5}
ax.contourf(
    axes[1], axes[2], plane.T, [*held, 1], colors=[BLUE, BLUE], alpha=0.25
)
ax.contour(axes[1], axes[2], plane.T, held, **style)
for q in (0.95, 0.5):
    radius = math.sqrt(-2 * math.log(1 - q))
    style = {"fill": False, "color": ORANGE, "linestyle": "--"}
    ax.add_patch(plt.Circle((0, 0), radius, **style))
ax.annotate("start", (0, -0.15), ha="center", color=ORANGE)
ax.annotate("the posterior", (-4.5, -5.5), color=BLUE)
ax.set(xlim=(-5, 3.5), ylim=(-7.2, 2.8), aspect="equal")
ax.set(xlabel="coefficient of radius", ylabel="coefficient of perimeter")
ax.set_title(f"In: a ridge {wide / narrow:.1f} times as long as wide")
size = torch.linspace(-2.2, 3.2, 60).double()
chance = torch.sigmoid(grid[:, :1] + grid[:, 1:].sum(1, True) * size)
order = chance.argsort(0)
below = p[order].cumsum(0)  # (points^3, 60)
band = [
    chance.gather(0, order).gather(0, (below < q).sum(0, keepdim=True))[0]
    for q in (0.05, 0.95)
]
right.plot(size, p @ chance, color=BLUE, label="mean")
right.fill_between(size, *band, color=BLUE, alpha=0.25, label="90%")
for sign, height, colour in ((1, 1.06, GREEN), (-1, -0.06, GREY)):
    shown = sizes[side == sign].mean(1)
    right.plot(shown, 0 * shown + height, "|", color=colour, alpha=0.5)
right.annotate("benign", (3.2, 1.03), ha="right", color=GREEN)
right.annotate("malignant", (-2.2, 0.02), color=GREY)
right.set(xlabel="size (standard deviations from the mean)")
right.set(ylabel="probability of benign", ylim=(-0.12, 1.14))
right.legend(loc="center right")
right.set_title("Out: an answer with its error")
plt.show()

# %% [markdown]
# ## The steps
#
# | step | call | ask yourself |
# |:---|:---|:---|
# | 1. write $E(x) = -\log R(x)$ | `def energy(x)` | sign? one number per row? |
# | 2. check it | below | finite? gradient? does it grow outwards? |
# | 3. find its scale | `gl.suggest_scale` | one scale, or very many? |
# | 4. fit, briefly | `gl.GFNDiffusion(...).fit()` | does the ELBO rise? |
# | 5. ask what is wrong | `gl.diagnose` | what does it say first? |
# | 6. change *one* thing, go to 4 | coordinates, then settings | |
# | 7. evaluate and correct | `evaluate`, `sample(return_weights=True)` | effective sample size? |
# | 8. compare with another method | `gl.mala`, `annealed_smc`, quadrature | within the errors? |
# | 9. keep it | `save`, `load` | |

# %% [markdown]
# ## A posterior: which tumours are benign?
#
# ### 1. Write the energy
#
# Let $y_i = \pm 1$ say whether tumour $i$ is benign, and let the rows $x_i$ hold a constant one and ten
# standardised measurements. Logistic regression with a Gaussian prior of variance $v$, here $v = 1$, has
#
# $$
# E(w) = \frac{|w|^2}{2v} + \frac d2 \log 2 \pi v
#   + \sum_{i=1}^{569} \log\big(1 + e^{-y_i\, w \cdot x_i}\big) .
# $$ (eq-12-posterior)
#
# As the constant of the prior is kept, $Z$ is the **evidence**, the probability of the labels under
# the model. The energy takes a batch $w$ of shape `(B, d)` and returns `(B,)`:

# %% tags=["logistic"]
features, labels = load_breast_cancer(return_X_y=True)
features = torch.as_tensor(features[:, :10])
features = (features - features.mean(0)) / features.std(0, correction=0)
ones = torch.ones_like(features[:, :1])
signed = torch.cat((ones, features), 1)  # (N, d)
signed = ((2.0 * torch.as_tensor(labels) - 1)[:, None] * signed).float()
dim = signed.shape[1]


def energy(w):
    """E(w) of logistic regression, prior N(0, I): (B, d) -> (B,)."""
    margin = w @ signed.T.to(w)  # (B, N)
    prior = 0.5 * w.square().sum(1) + 0.5 * dim * math.log(2 * math.pi)
    return prior + F.softplus(-margin).sum(1)


# %% [markdown]
# `softplus` rather than the formula as it stands: $e^{1000}$ is infinite, $\log(1 + e^{1000})$ is not.
# The package has this target as `gfnlite.bayes.LogisticRegression`; a bare function does as well.
#
# ### 2. Check it
#
# Five checks catch many mistakes. Does it return one number per row? Does a row's energy depend on
# that row alone? Is it finite also far out, where an untrained sampler will go? Is its gradient that
# of finite differences? And does it grow outwards, so that $e^{-E}$ can be normalised at all? For
# the last one: along nearly every ray, $\int e^{-E}\, r^{d-1} dr$ must converge, so $E$ must gain more
# than $d \log r$. A finite check of some rays is no proof, but what fails it is wrong.


# %% tags=["check"]
def check(energy, dim, scale=1.0):
    """What is wrong with an energy, in words; an empty list if nothing."""
    generator = torch.Generator().manual_seed(0)
    x = scale * torch.randn(64, dim, generator=generator).double()
    value = energy(x)
    if value.shape != (64,):
        return [f"shape {tuple(value.shape)} is not (B,) = (64,)"]
    if not (value.isfinite().all() and energy(30 * x).isfinite().all()):
        return ["not finite everywhere"]
    wrong = []
    if not torch.allclose(energy(x[:1]), value[:1]):
        wrong.append("a row's energy depends on other rows")
    x.requires_grad_()
    (slope,) = torch.autograd.grad(energy(x).sum(), x)
    step = 1e-5 * scale * torch.randn(64, dim, generator=generator).double()
    x = x.detach()
    rise = energy(x + step) - energy(x - step)
    if not torch.allclose(rise, 2 * (slope * step).sum(1), rtol=1e-2):
        wrong.append("gradient is not that of finite differences")
    axes = torch.eye(dim, dtype=x.dtype)
    rays = torch.cat((x / x.norm(dim=1, keepdim=True), axes, -axes))
    far = energy(1000 * scale * rays) - energy(100 * scale * rays)
    if not (far > dim * math.log(10)).all():
        wrong.append("does not grow outwards in every direction")
    return wrong


# %%
check(energy, dim) or "nothing found"

# %% [markdown]
# ### 3. Find its scale; 4. fit, briefly; 5. ask what is wrong
#
# The pilot runs annealed particles from seven widths and suggests the variance of the reference
# process and the exploration. Then a short fit with few steps:

# %%
scale = gl.suggest_scale(energy, dim, seed=seed)
print(f"sigma2 {scale.sigma2:.2f}, exploration {scale.exploration:.2f}")
print(f"spread {scale.spread:.2f}, radius {scale.radius:.2f}")
print(f"warning: {scale.warning}")

raw = gl.GFNDiffusion(
    energy,
    dim,
    sigma2=scale.sigma2,
    exploration=scale.exploration,
    iterations=iterations,
    **SHORT,
).fit(progress=False)
gl.diagnose(raw)

# %% [markdown]
# The diagnosis says that it has not converged, and that no weight is to be trusted. One could do as
# it says, and train twice as long; this is what it can know from trajectories. But one can also ask
# *why* it is slow. Mean radius, mean perimeter and mean area of a tumour say nearly the same thing,
# so that the posterior is long in some directions and thin in others. One variance $\sigma^2$ cannot
# fit both: with the step sizes that suit the long directions, the thin ones are a wall.

# %% [markdown]
# ### 6. Change one thing: the coordinates
#
# Any smooth one-to-one map $x = g(z)$ may be applied, provided that the volume is accounted for:
#
# :::{prf:theorem} A density in other coordinates
# :label: thm-12-jacobian
#
# Let $g$ be continuously differentiable and one-to-one, with such an inverse, from $\mathbb R^d$ onto an
# open set outside which $R$ is zero (but for a set of volume zero), and
#
# $$\log R_z(z) = \log R\big(g(z)\big) + \log \Big| \det \frac{\partial g}{\partial z} \Big| .$$ (eq-12-jacobian)
#
# Then $R_z$ has the same normaliser as $R$, and if $z$ has the density $R_z/Z$, then $g(z)$ has the
# density $R/Z$.
# :::
#
# :::{dropdown} Proof
# For any bounded function $f$, substitute $x = g(z)$, $dx = |\det \partial g / \partial z|\, dz$:
# $\int f(x)\, R(x)\, dx = \int f(g(z))\, R_z(z)\, dz$. With $f = 1$, both sides are $Z$. Divided by
# $Z$, the equation says that $f(x)$ and $f(g(z))$ have the same mean for all $f$.
# :::
#
# The simplest map is linear. Go to the maximum $m$ of $R$ and take the matrix $H$ of second
# derivatives of the energy there; with $L L^\top = H^{-1}$ let $x = m + L z$. In the coordinates $z$
# the density looks, near its maximum, like a standard Gaussian. This is the **Laplace
# approximation**, which by itself gives an estimate of the evidence:
#
# $$
# \log Z \approx \log R(m) + \frac d2 \log 2\pi - \frac12 \log \det H .
# $$ (eq-12-laplace)
#
# With $\sigma^2 = 1$ and no exploration an *untrained* sampler ends as $\mathcal N(0, I)$: it already is
# this approximation, and all that is left to learn is what the approximation gets wrong. The pilot,
# asked in the new coordinates, comes to nearly the same.


# %% tags=["laplace"]
def laplace(energy, dim):
    """Maximum m (d,) of exp(-E), and L (d, d) with L L^T = H^-1."""
    m = torch.zeros(1, dim, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [m], max_iter=500, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        value = energy(m).sum()
        value.backward()
        return value

    optimiser.step(closure)
    m = m.detach()[0]
    curvature = torch.autograd.functional.hessian(
        lambda x: energy(x[None]).sum(), m
    )
    factor = torch.linalg.cholesky(torch.linalg.inv(curvature))
    return m, factor


def in_coordinates(energy, m, factor):
    """The energy of z, where x = m + L z."""
    log_volume = factor.diagonal().log().sum().item()

    def whitened(z):
        return energy(m.to(z) + z @ factor.T.to(z)) - log_volume

    return whitened


# %%
mode, factor = laplace(energy, dim)
whitened = in_coordinates(energy, mode, factor)
guess = -whitened(torch.zeros(1, dim)).item()
guess += 0.5 * dim * math.log(2 * math.pi)
scale_z = gl.suggest_scale(whitened, dim, seed=seed)
print(
    f"pilot: sigma2 {scale_z.sigma2:.2f}, "
    f"exploration {scale_z.exploration:.2f}"
)
white = gl.GFNDiffusion(
    whitened,
    dim,
    sigma2=1.0,
    iterations=iterations,
    **SHORT,
)
untrained = white.evaluate(n)
white.fit(progress=False)
gl.diagnose(white)

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-12-coordinates", "caption": "Log-weights of generated trajectories for the same posterior, after the same short training, in the coordinates of the data and in those of the Laplace approximation. Equal weights would be a single spike at log Z; what lies outside the axis is counted in its outermost bars."}, "image": {"alt": "Two histograms of log-weights on one axis. One is spread over tens of nats and lies far to the left; the other is a narrow spike at the right end."}}
results = {"as it came": raw.evaluate(n), "whitened": white.evaluate(n)}
figure, ax = plt.subplots(figsize=(6.6, 3.4))
for (name, one), colour, hatch in zip(
    {"as it came": raw, "whitened": white}.items(),
    (ORANGE, BLUE),
    ("", "//"),
    strict=True,
):
    log_w = one.log_weight(2000)
    label = f"{name} (ESS {results[name]['ess']:.1%})"
    style = {"color": colour, "alpha": 0.6, "hatch": hatch}
    low = results["as it came"]["elbo"] - 25
    high = results["whitened"]["log_z_is"] + 3
    style |= {"bins": 80, "range": (low, high), "label": label}
    ax.hist(log_w.clamp(low, high).numpy(), **style)
ax.set(xlabel=r"log-weight $\log w$ (nats)", ylabel="trajectories")
ax.set_yscale("log")
ax.legend(loc="upper left")
gaps = {k: v["log_z_is"] - v["elbo"] for k, v in results.items()}
ax.set_title(
    f"One change of coordinates: gap {gaps['as it came']:.1f} "
    f"→ {gaps['whitened']:.3f} nats"
)
plt.show()

# %% [markdown]
# The model, the network, the number of steps, the training time and the learning rate are the same.
# Only the linear map is new, and with it $\sigma^2$ and the exploration, which the pilot fits to the
# coordinates.
#
# ### 7. Evaluate, and correct what is left
#
# What is left of the sampler's error can be weighed away. A mean under the target is
#
# $$
# \begin{aligned}
# \mathbb E_p[f] &\approx \hat f = \sum_b \bar w_b\, f(x_b),
# \qquad \bar w_b = \frac{w_b}{\sum_c w_c}, \\
# \text{s.e.}^2 &\approx \sum_b \bar w_b^2\, \big(f(x_b) - \hat f\,\big)^2 ,
# \end{aligned}
# $$ (eq-12-weighted)
#
# self-normalised importance sampling and the standard error by the delta method. It repairs any
# error that the effective sample size survives, and none that it cannot see
# ([Is it right?](06_is_it_right)).


# %% tags=["weighted"]
def weighted_mean(f, log_w):
    """Mean of f (n, k) under the target and its standard error, (k,)."""
    w = log_w.double().softmax(0)[:, None]
    mean = (w * f).sum(0)
    return mean, (w * (f - mean)).square().sum(0).sqrt()


# %%
z, log_w = white.sample(n, return_weights=True)
x = mode + z.double() @ factor.T
mean, error = weighted_mean(x, log_w)
print(f"effective sample size {gl.ess(log_w):.1%} of {n:,}")

# %% [markdown]
# ### 8. Compare with another method
#
# Two references that share nothing with the sampler but the energy and the coordinates: long Metropolis-adjusted
# Langevin chains (`gl.mala`) for the means, and annealed importance sampling for the evidence.

# %% tags=["hide-input"]
target_z = gl.targets.as_target(whitened, dim)
chain_steps = 1500 if profile != "smoke" else 60
chains = gl.mala(
    target_z,
    torch.randn(200, dim, generator=generator),
    steps=chain_steps,
    burn_in=chain_steps // 3,
    step_size=0.3,
    thin=10,
    generator=generator,
)
# A chain is one independent value: its own mean.
each = mode + chains.x.double().mean(0) @ factor.T  # (200, d)
reference = each.mean(0)
reference_error = each.std(0) / math.sqrt(len(each))
particles = 2000 if profile != "smoke" else 200
ais = annealed_smc(
    target_z, particles, 1.5, resample=False, generator=generator
)
ais_low, ais_high = bootstrap(STATISTICS["log_z_is"], ais.log_weight)

one = results["whitened"]
low, high = one.intervals["log_z_is"]
lines = ["| evidence | log Z | 95% interval |", "|:---|---:|:---|"]
lines.append(f"| Laplace approximation | {guess:.3f} | none |")
text = f"{results['as it came']['elbo']:.2f}"
lines.append(f"| ELBO, as it came | {text} | a bound |")
lines.append(f"| ELBO, untrained | {untrained['elbo']:.3f} | a bound |")
lines.append(f"| ELBO, trained | {one['elbo']:.3f} | a bound |")
lines.append(
    f"| importance sampling | {one['log_z_is']:.3f} "
    f"| {low:.3f} to {high:.3f} |"
)
lines.append(f"| AIS | {ais.log_z:.3f} | {ais_low:.3f} to {ais_high:.3f} |")
display(Markdown("\n".join(lines)))

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-12-coefficients", "caption": "Posterior means of the eleven coefficients: maximum of the posterior, sampler with weights, and long chains (intervals of 95% are smaller than most markers). Bottom: difference of the last two, in standard errors."}, "image": {"alt": "Top: markers of three kinds for eleven coefficients; two coincide, the maximum of the posterior is for most of them a little nearer to zero. Bottom: bars of standardised differences, most within two."}}
figure, (ax, lower) = plt.subplots(
    2, 1, figsize=(6.6, 5), sharex=True, height_ratios=[2, 1]
)
place = torch.arange(dim)
ax.plot(place - 0.2, mode, "D", color=GREY, label="maximum", markersize=5)
ax.errorbar(place, mean, 1.96 * error, fmt="o", color=BLUE, label="sampler")
ax.errorbar(
    place + 0.2,
    reference,
    1.96 * reference_error,
    fmt="s",
    color=GREEN,
    label="chains",
)
ax.axhline(0, color="black", linewidth=0.8)
ax.set_ylabel("coefficient")
ax.set_ylim(top=1.3)  # room for the legend
ax.legend(ncols=3, loc="upper center")
apart = (mean - reference) / (error**2 + reference_error**2).sqrt()
lower.bar(place, apart, color=BLUE)
lower.axhspan(-2, 2, color=GREY, alpha=0.2, linewidth=0)
names = [name[5:] for name in load_breast_cancer().feature_names[:10]]
lower.set_xticks(place, ["intercept", *names], rotation=45, ha="right")
lower.set_ylabel("standard\nerrors apart")
close = int((apart.abs() < 2).sum())
ax.set_title(f"{close} of {dim} means agree within two standard errors")
plt.show()

# %% [markdown]
# And the question that was asked: how sure may one be? Here are three tumours, the first of them the one
# that the model is least sure of, with the probability of *benign*: at the maximum, which is one number,
# and over the posterior, which also says how far from it the truth may be. They are among the 569 whose
# labels the posterior has seen; with the measurements of a new one in `new`, the lines are the same.
# `oversample` draws more and keeps what importance resampling picks, so that quantiles need no weights.

# %% tags=["hide-input"]
rows = signed * (2.0 * torch.as_tensor(labels) - 1)[:, None]  # x_i again
order = (rows.double() @ mode).abs().sort().indices
new = rows[order[[0, 60, 120]]].double()
at_mode = torch.sigmoid(new @ mode)
average, deviation = weighted_mean(torch.sigmoid(x @ new.T), log_w)
kept = white.sample(2000 if n > 2000 else n, oversample=4).double()
chance = torch.sigmoid((mode + kept @ factor.T) @ new.T)
inside = chance.quantile(torch.tensor([0.05, 0.95]).double(), 0)
lines = ["| tumour | at the maximum | mean | 90% of the posterior |"]
lines.append("|:---|---:|---:|---:|")
for k in range(3):
    text = f"{average[k]:.1%} ± {1.96 * deviation[k]:.1%}"
    text += f" | {inside[0, k]:.0%} to {inside[1, k]:.0%}"
    lines.append(f"| {k + 1} | {at_mode[k]:.1%} | {text} |")
display(Markdown("\n".join(lines)))

# %% [markdown]
# ### 9. Keep it
#
# A saved sampler holds settings, weights and training state, not your function: `load` asks for the
# energy, and refuses another one.

# %%
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "tumours.pt"
    white.save(path)
    again = gl.GFNDiffusion.load(path, whitened)
    try:
        gl.GFNDiffusion.load(path, lambda z: whitened(z) + z[:, 0] ** 2)
    except ValueError as error:
        said = f"ValueError: {error}".replace(str(folder), "…")
        print(textwrap.fill(said, 70))
print(f"loaded: {again.target.name}, {again.iteration} iterations")

# %% [markdown]
# ## A physical system: a chain that wants to choose a side
#
# ### 1. Write the energy
#
# A lattice field theory in one dimension: $N$ sites on a ring, each with a field $\phi_i$ in a double
# well, coupled to its neighbours {cite:p}`albergo2019` (who sample it in two dimensions, without $h$):
#
# $$
# E(\phi) = \sum_{i=1}^{N} \Big[ \tfrac\kappa2 (\phi_{i+1} - \phi_i)^2
#   + \lambda (\phi_i^2 - 1)^2 - h\, \phi_i \Big] .
# $$ (eq-12-chain)
#
# On a ring, $\phi_{N+1} = \phi_1$. Neighbours want to agree, so that the ring tends to be all up or all
# down; a small field $h$ prefers up. A ring may also be up in a part and down in the rest, but the two
# walls between them cost energy. It is the small cousin of many systems in which a sampler must get
# the *ratio* of two states right. We say that a ring is up if its mean field is positive.

# %% tags=["chain"]
N, KAPPA, LAM, FIELD = 12, 2.0, 2.0, 0.03


def chain_energy(phi):
    """E of a ring of N sites: (B, N) -> (B,)."""
    bonds = 0.5 * KAPPA * (phi - phi.roll(1, -1)).square()
    wells = LAM * (phi.square() - 1).square()
    return (bonds + wells - FIELD * phi).sum(-1)


# %% [markdown]
# ### The truth, by a transfer matrix
#
# For this one the truth can be had. Let $V(a) = \lambda (a^2 - 1)^2 - h a$ and
# $K(a, b) = \exp\big[{-\frac\kappa2 (a - b)^2} - \frac12 V(a) - \frac12 V(b)\big]$. Then
# $e^{-E}$ is a product of $K$'s round the ring, integrating out a site is a product of kernels, and
#
# $$
# \begin{aligned}
# Z &= \int K(\phi_1, \phi_2) \cdots K(\phi_N, \phi_1)\, d\phi = \operatorname{Tr} K^N , \\
# \langle \phi_i\, \phi_{i+r} \rangle
#   &= \operatorname{Tr}\big( \Phi K^r \Phi K^{N-r} \big) / Z ,
# \end{aligned}
# $$ (eq-12-transfer)
#
# where $\Phi$ multiplies by $\phi$. On a grid $K$ is a matrix, and since the kernel is smooth and
# vanishes at the ends, the trapezoidal rule is exact to many digits. The same matrices give exact
# *samples*, up to the width of a cell of the grid: $\phi_1$ from the diagonal of $K^N$, then site after
# site,
#
# $$
# p(\phi_i \mid \phi_{i-1}, \phi_1) \propto K(\phi_{i-1}, \phi_i)\, K^{N-i+1}(\phi_i, \phi_1) .
# $$ (eq-12-sites)
#
# What is known of a target belongs *into* the target: a `Target` with `log_z` and `sample` gets its
# EUBO, distances and a better diagnosis without a further word.


# %% tags=["chain"]
class Chain(gl.Target):
    """The ring as a target that knows its normaliser and exact samples."""

    name = "chain_energy(x)"  # by which a checkpoint knows its energy
    dim = N

    def __init__(self, limit=3.0, points=241):
        self.grid = torch.linspace(
            -limit, limit, points, dtype=torch.float64
        )
        a, width = self.grid, 2 * limit / (points - 1)
        well = LAM * (a.square() - 1).square() - FIELD * a
        bond = 0.5 * KAPPA * (a[:, None] - a).square()
        kernel = torch.exp(-bond - 0.5 * (well[:, None] + well)) * width
        self.powers = [torch.eye(points, dtype=torch.float64), kernel]
        while len(self.powers) <= N:
            self.powers.append(self.powers[-1] @ kernel)
        self.z = self.powers[N].trace()
        self.log_z = self.z.log().item()

    def log_reward(self, x, condition=None):
        return -chain_energy(x)

    def correlation(self, r):
        """Mean of phi_i phi_(i + r)."""
        left = self.grid[:, None] * self.powers[r]
        right = self.grid[:, None] * self.powers[N - r]
        return ((left * right.T).sum() / self.z).item()

    def mean_field(self):
        """Mean of phi_i."""
        return (self.grid @ self.powers[N].diagonal() / self.z).item()

    def sample(self, n, generator=None):
        first = self.powers[N].diagonal().expand(n, -1)
        sites = [torch.multinomial(first, 1, generator=generator)[:, 0]]
        for i in range(1, N):
            p = (
                self.powers[1][sites[-1]]
                * self.powers[N - i][:, sites[0]].T
            )
            sites.append(torch.multinomial(p, 1, generator=generator)[:, 0])
        width = self.grid[1] - self.grid[0]
        x = self.grid[torch.stack(sites, 1)]
        jitter = torch.rand(x.shape, generator=generator) - 0.5  # in a cell
        return (x + width * jitter).float()


truth = Chain()

# %%
print(check(chain_energy, N) or "nothing found")
phi = truth.sample(20_000, generator)
up = (phi.mean(1) > 0).float().mean().item()
walls = (phi.sign() != phi.roll(1, -1).sign()).any(1).float().mean()
print(f"exact: log Z {truth.log_z:.4f}, mean {truth.mean_field():.4f}")
print(
    f"the ring is up in {up:.1%} of exact samples, has walls in {walls:.0%}"
)

# %% [markdown]
# ### 3 to 6: scale, fit, diagnose, change
#
# The sampler is given only `chain_energy`. First as the pilot suggests. Then as the diagnosis says:
# more exploration, for longer. Then with what this energy offers and the first two left unused: its
# gradient, as a part of the drift (`langevin`), and annealed particles, found before the training
# and replayed in half of its steps (`prefill`, `replay_ratio`), in place of the exploration.

# %%
scale = gl.suggest_scale(chain_energy, N, seed=seed)
print(f"sigma2 {scale.sigma2:.2f}, exploration {scale.exploration:.2f}")
tries = {
    "as suggested": {"exploration": scale.exploration},
    "as diagnosed": {
        "exploration": 2 * scale.exploration,
        "iterations": 2 * iterations,
    },
    "with particles": {
        "iterations": 2 * iterations,
        "langevin": True,
        "prefill": 2000 if profile != "smoke" else 100,
        "replay_ratio": 0.5,
        "replay_priority": "uniform",
    },
}
rings = {}
for name, changes in tries.items():
    settings = SHORT | {"iterations": iterations} | changes
    rings[name] = gl.GFNDiffusion(
        chain_energy, N, sigma2=scale.sigma2, **settings
    ).fit(progress=False)
    display(Markdown(f"**{name}**"), gl.diagnose(rings[name]))

# %% [markdown]
# The first verdict that something is *missing* came with no truth at all: annealed particles from
# wide starts found rings that are down, or have walls, where the sampler never goes. Now open the envelope. The saved
# sampler is loaded with the target that knows:

# %% tags=["hide-input"]
checked, ups, weighed = {}, {}, {}
with tempfile.TemporaryDirectory() as folder:
    for name, one in rings.items():
        one.save(Path(folder) / "ring.pt")
        known = gl.GFNDiffusion.load(Path(folder) / "ring.pt", truth)
        checked[name] = known.evaluate(n)
        phi, log_w = known.sample(n, return_weights=True)
        side = (phi.mean(1, keepdim=True) > 0).double()
        ups[name] = side.mean().item()
        weighed[name] = [v.item() for v in weighted_mean(side, log_w)]
head = "| sampler | ELBO | IS log Z | EUBO | ESS | ring is up | weighted |"
lines = [head, "|:---|---:|---:|---:|---:|---:|---:|"]
for name, e in checked.items():
    cells = f"{e['elbo']:.2f} | {e['log_z_is']:.3f} | {e['eubo']:.2f}"
    share, half = weighed[name][0], 1.96 * weighed[name][1]
    cells += f" | {e['ess']:.1%} | {ups[name]:.1%}"
    lines.append(f"| {name} | {cells} | {share:.0%} ± {half:.0%} |")
lines.append(f"| exact | | {truth.log_z:.3f} | | | {up:.1%} | |")
display(Markdown("\n".join(lines)))

# %% tags=["hide-input"]
ordered = {
    "ELBO": sorted(checked, key=lambda k: -checked[k]["elbo"]),
    "EUBO": sorted(checked, key=lambda k: checked[k]["eubo"]),
}
order = [f"by the {k}: {', '.join(v)}" for k, v in ordered.items()]
display(Markdown("From best to worst, " + "; ".join(order) + "."))

# %% [markdown]
# An order by the ELBO alone may prefer a sampler that has lost a side to one that has both but is
# rougher inside them. The third sampler has both, and nearly the right ratio, before any weights.
# The weighted share of the first two is as wrong as the unweighted one, with an interval that
# excludes the truth: weights move mass between places that were visited, not to others.
#
# ### 7 and 8: observables, weighted, against the truth

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-12-chain", "caption": "Left: the mean of the field over the ring, exact and by two samplers, without weights. Right: the two-point correlation against distance, from the transfer matrix (line) and from weighted samples of the best sampler (95% intervals); crosses are the first sampler's without weights."}, "image": {"alt": "Left: two-humped density of the mean field; one sampler follows the exact curve, the other has almost no left hump. Right: a falling curve of correlation with points on it."}}
best, first = rings["with particles"], rings["as suggested"]
figure, (ax, right) = plt.subplots(1, 2, figsize=(8.4, 3.7))
drawn = {
    "exact": truth.sample(n, generator),
    "as suggested": first.sample(n),
    "with particles": best.sample(n),
}
for (name, phi), colour, line in zip(
    drawn.items(), ("black", ORANGE, BLUE), ("--", ":", "-"), strict=True
):
    style = {"histtype": "step", "density": True, "linewidth": 1.6}
    style |= {"color": colour, "linestyle": line, "label": name}
    style |= {"bins": 50, "range": (-1.6, 1.6)}
    ax.hist(phi.mean(1).numpy(), **style)
ax.set(xlabel="mean field of the ring", ylabel="density")
ax.legend(loc="upper left")
ax.set_title(
    f"Down: exact {1 - up:.0%}, first {1 - ups['as suggested']:.0%}"
)
phi, log_w = best.sample(n, return_weights=True)
distance = range(N // 2 + 1)


def products(phi):
    """phi_i phi_(i + r) averaged over the ring, (n, N/2 + 1)."""
    return torch.stack(
        [(phi * phi.roll(-r, 1)).mean(1) for r in distance], 1
    )


found, error = weighted_mean(products(phi).double(), log_w)
right.plot(
    distance, [truth.correlation(r) for r in distance], color="black"
)
right.errorbar(distance, found, 1.96 * error, fmt="o", color=BLUE)
right.plot(
    distance, products(drawn["as suggested"]).mean(0), "x", color=ORANGE
)
right.set(
    xlabel="distance $r$", ylabel=r"$\langle\phi_i \phi_{i+r}\rangle$"
)
exact = torch.tensor([truth.correlation(r) for r in distance])
most = ((found - exact) / error).abs().max()
right.set_title(f"At most {most:.1f} standard errors off")
plt.show()

# %% [markdown]
# Look at the crosses. All these products are even: turning a ring over leaves them as they are. So the
# loss of one side hardly shows in them, and what is even under a symmetry cannot see what breaks it.
# That the crosses are wrong at larger distances tells of *another* loss, which no count of sides would
# have told: the first sampler has too few rings with walls. Choose observables that differ in what
# they can see.
#
# And look at the effective sample size in the table before you ask the weights for anything more
# delicate: the error bars are honest only as long as a few trajectories do not carry them all.

# %% [markdown]
# ## What can go wrong with an energy
#
# Each of these was written by somebody. What do the check, the pilot and the sampler say?


# %% tags=["hide-input"]
def words(call):
    """What a call says: its error, its warning, or nothing."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            answer = call()
        except (ValueError, FloatingPointError, RuntimeError) as error:
            return f"{type(error).__name__}: {error}"
    if caught:
        return str(caught[-1].message)
    if isinstance(answer, list):
        return "; ".join(answer) or "nothing"
    return getattr(answer, "warning", None) or "nothing"


def energies():
    """Mistakes, by name: function and dimension."""

    def log_r(x):
        near = [(x - m).square().sum(1) for m in (-2, 2)]
        return torch.logaddexp(-near[0], -near[1])

    return {
        "wrong sign": (lambda x: -x.square().sum(1) / 2, 2),
        "log R given as E": (log_r, 2),
        "a flat direction": (lambda x: x[:, 0] ** 2 / 2, 2),
        "shape (B, 1)": (lambda x: x.square().sum(1, keepdim=True), 2),
        "summed over the batch": (lambda x: x.square().sum(), 2),
        "normalised by the batch": (
            lambda x: (x - x.mean(0)).square().sum(1),
            2,
        ),
        "x in nanometres": (lambda x: (x / 1e4).square().sum(1) / 2, 2),
        "log of a negative": (lambda x: (2 * x - 2 * x.log()).sum(1), 1),
    }


def one_step(wrong, size):
    """Of training."""
    return gl.GFNDiffusion(wrong, size, seed=seed).fit(1, progress=False)


lines = ["| mistake | `check` | `suggest_scale` | one step of `fit` |"]
lines.append("|:---|:---|:---|:---|")
for name, (wrong, size) in energies().items():
    told = (
        words(partial(check, wrong, size)),
        words(partial(gl.suggest_scale, wrong, size)),
        words(partial(one_step, wrong, size)),
    )
    short = [
        textwrap.shorten(text.split("Error: ")[-1], 62, placeholder=" …")
        for text in told
    ]
    shown = [escape(text) for text in short]  # there is a <lambda> in some
    lines.append(f"| {name} | " + " | ".join(shown) + " |")
display(Markdown("\n".join(lines)))

# %% tags=["hide-input"]
endless = gl.GFNDiffusion(
    energies()["log R given as E"][0],
    2,
    iterations=iterations // 2,
    **SHORT,
).fit(progress=False)
start, end = (endless.history[k]["elbo"] for k in (0, -1))
display(
    Markdown(
        f"Trained all the same on *log R given as E*: the ELBO goes from "
        f"{start:.1f} to {end:.1f} in {iterations // 2} steps, and the "
        f"samples reach to {endless.sample(500).abs().max():.0f}."
    )
)

# %% [markdown]
# Read the column of `fit`. With nothing set it starts from a pilot, and says when that does not arrive;
# but then it trains, and a sampler can be *trained* on a density that has no normaliser. Its ELBO
# rises and its samples run away, as there is no $\log Z$ to stop them; that is the symptom. And the
# pilot, which walks a finite time, may find a scale for it. So look at the energy far out yourself.
# `check` does so at the scale that it is told: for $x$ in nanometres it should be given `scale=1e4`,
# and then finds nothing. A sampler, too, is best given numbers of order one.
#
# ### Constraints: change variables, do not cut
#
# A rate is positive, a probability lies between zero and one. An energy that is infinite or not a
# number outside its support is refused, as the last row shows, and rightly: a trajectory may go
# anywhere in $\mathbb R^d$. Map the support to $\mathbb R^d$ instead, and add the logarithm of the
# Jacobian $J = |\det \partial g/\partial z|$ to $\log R$ ({eq}`eq-12-jacobian`), which is to take it from
# the energy. For each coordinate, or for ordered ones together:
#
# $$
# \begin{aligned}
# x > 0: & & x &= e^z, & \log J &= z, \\
# 0 < x < 1: & & x &= 1/(1 + e^{-z}), & \log J &= \log[x (1 - x)], \\
# x_1 < x_2 < \dots: & & x_i &= z_1 + \textstyle\sum_{j=2}^i e^{z_j},
#   & \log J &= \textstyle\sum_{j \ge 2} z_j .
# \end{aligned}
# $$ (eq-12-maps)
#
# What if it is forgotten? Take a rate $x$ with the energy $b x - (a - 1) \log x$, $a > 1$, a Gamma density with
# $\log Z = \log \Gamma(a) - a \log b$ and the mean $a/b$. With the Jacobian,
# $\log R_z = a z - b e^z$. Without it, $\log R_z = (a - 1) z - b e^z$, which is the *same* formula with
# $a - 1$ for $a$:
#
# $$
# \text{forgotten:}\quad \mathbb E[x] = \frac{a - 1}{b}
# \quad\text{instead of}\quad \frac ab .
# $$ (eq-12-forgotten)
#
# A perfectly trained sampler of a perfectly wrong density. No metric can tell, since they all judge
# by the energy that they are given.

# %% tags=["hide-input"]
A, B = 3.0, 1.5


def rate_energy(x):
    """Of a positive rate: (B, 1) -> (B,)."""
    return (B * x - (A - 1) * x.log())[:, 0]


lines = ["| | mean of x | its formula | IS log Z | ESS |"]
lines.append("|:---|---:|---:|---:|---:|")
for name, jacobian in (("with the Jacobian", 1), ("forgotten", 0)):
    one = gl.GFNDiffusion(
        lambda z: rate_energy(z.exp()) - jacobian * z[:, 0],  # noqa: B023
        1,
        iterations=iterations // 2,
        **SHORT,
    ).fit(progress=False)
    z, log_w = one.sample(n, return_weights=True)
    rate, error = weighted_mean(z.exp().double(), log_w)
    formula = (A - 1 + jacobian) / B
    log_z = f"{gl.log_z_is(log_w):.3f}"
    half = 1.96 * error.item()
    text = f"{rate.item():.3f} ± {half:.3f} | {formula:.3f} | {log_z}"
    lines.append(f"| {name} | {text} | {gl.ess(log_w):.0%} |")
exact = math.lgamma(A) - A * math.log(B)
lines.append(f"| exact | | {A / B:.3f} | {exact:.3f} | |")
display(Markdown("\n".join(lines)))

# %% [markdown]
# ## In five lines
#
# 1. Check an energy before training: shape, rows, finiteness, gradient, growth in all directions.
# 2. Coordinates first: one variance cannot fit long and thin directions, and a linear map is free.
# 3. Train briefly, read the first verdict, change one thing; what is lost must be found from outside.
# 4. Weights correct what the sampler reaches; compare with a method that shares only the energy.
# 5. Constraints are changes of variables with a Jacobian; forget it and nothing will tell you.
#
# ## Exercises
#
# **1.** The evidence compares models. Is the model with ten measurements better than one with the
# first four?
#
# :::{dropdown} Solution
# Compare the evidences of both on the same data; AIS in whitened coordinates does it in a second.
# ```python
# def with_columns(k):
#     def part(w):
#         margin = w @ signed[:, :k].T.to(w)
#         prior = 0.5 * w.square().sum(1) + 0.5 * k * math.log(2 * math.pi)
#         return prior + F.softplus(-margin).sum(1)
#
#     return part
#
#
# for k in (5, 11):  # with the intercept
#     part = with_columns(k)
#     whole = in_coordinates(part, *laplace(part, k))
#     found = annealed_smc(
#         gl.targets.as_target(whole, k),
#         500,
#         1.5,
#         resample=False,
#         generator=generator,
#     )
#     print(k - 1, "measurements: log evidence", round(found.log_z, 2))
# ```
# :::
#
# **2.** Without the field, $h = 0$, both sides are equal by symmetry. Use this to test a sampler that
# has no other truth, without training another one.
#
# :::{dropdown} Solution
# The samplers were trained with the field, but weights can take it away: $\log w$ contains
# $\log R = -E$, and without $h$ that is less by $h \sum_i \phi_i$. Then the ring must be up in half of the
# weighted samples, within the interval. Run the first sampler more than once: as a rule it has all
# rings up and an interval of next to nothing; if one ring in thousands is down, its weight is so large
# that the interval holds nearly everything. Turning its samples over at random would repair its sides,
# now that both are equal; its lack of walls would stay.
# ```python
# for name in ("as suggested", "with particles"):
#     phi, log_w = rings[name].sample(n, return_weights=True)
#     free = log_w - FIELD * phi.sum(1)
#     is_up = (phi.mean(1, keepdim=True) > 0).double()
#     share, error = weighted_mean(is_up, free)
#     print(f"{name}: up {share.item():.1%} ± {1.96 * error.item():.1%}")
# sign = 1 - 2 * torch.randint(2, (n, 1), generator=generator)
# turned = sign * rings["as suggested"].sample(n)
# print(f"turned over: up {(turned.mean(1) > 0).float().mean():.1%}")
# ```
# :::
#
# **3.** Write the map for two ordered positive numbers, $0 < x_1 < x_2$, and check its Jacobian
# against automatic differentiation.
#
# :::{dropdown} Solution
# $x_1 = e^{z_1}$ and $x_2 = e^{z_1} + e^{z_2}$; the Jacobian is triangular, with $z_1 + z_2$ for the
# logarithm of its determinant.
# ```python
# def ordered(z):
#     return z.exp().cumsum(0)
#
#
# z = torch.tensor([0.3, -1.2])
# matrix = torch.autograd.functional.jacobian(ordered, z)
# print(matrix.det().log(), z.sum())
# ```
# :::
#
# ## What went wrong on the way
#
# The first ring had a barrier half as high and no clear sides: its mean field was one broad hump, and
# every sampler looked fine. With the higher barrier, exploration and gradient together still lost the
# lower side; only particles from outside kept it. A sentence that said that averages over the posterior are
# less extreme than the maximum was written before they were computed; one of three tumours
# contradicted it. The comparison of coordinates first changed the learning rate too, so that it
# compared two things; with one rate for both, nothing in its result changed. The solution of exercise
# 2 first asked a sampler *with* the field for a symmetry that it does not have. And the Gamma density
# first had $b = 2$, where right and forgotten Jacobian have the same
# normaliser, $\Gamma(3)/2^3 = \Gamma(2)/2^2$: a table in which the mistake seemed to cost nothing.
#
# ## Sources
#
# The field on a lattice as a test of samplers: {cite:t}`albergo2019`. AIS: {cite:t}`neal2001`. The data
# are the Wisconsin breast cancer data that come with scikit-learn. The equations of this page are
# checked in `tests/test_chapter_12.py`.
