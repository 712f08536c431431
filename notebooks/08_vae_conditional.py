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
# # One sampler for every image: the posterior of a VAE
#
# A variational autoencoder explains an image by a latent $z$, and its encoder guesses which: one
# Gaussian for each image. How wrong is the guess? And can a sampler that is taught by the energy
# alone do better, on images that it has never seen?
#
# :::{admonition} At a glance
# **You will** give an energy a condition, check a conditional sampler on two problems with known
# answers, train one on MNIST's posteriors, and measure it image by image against the truth.
#
# **You will be able to** sample the posterior of any $E(z; c)$ for every $c$ at once, and to tell
# which number about it means something.
#
# **You need** [Twenty-five modes](04_25gmm) or its five-line summary.
# **Time**: 15 minutes to read; about three minutes to run on one CPU core in the `quick` profile.
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
import hashlib
import json
import os
from html import escape
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from IPython.display import Markdown
from safetensors.torch import load_file

import gfnlite as gl
from gfnlite.importance import Truth
from gfnlite.mnist import mnist
from gfnlite.posterior import (
    evaluate_posteriors,
    importance_bound,
    pooled_log_z,
    ranks,
)
from gfnlite.targets import LinearGaussian, ObservedMixture, VAEPosterior
from gfnlite.vae import vae_energy

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
gl.plots.style()

# %% tags=["parameters"]
task: str = "vae_whitened"  # vae: the latent itself, as the paper has it
method: str = "VarGrad+LP+LV+Few"  # a name in gl.METHODS
# smoke (seconds), quick (minutes) or full
profile: str = os.environ.get("GFNLITE_PROFILE", "quick")
seeds: list = [0]  # one independent training run each
out_dir: str | None = None  # where everything is kept; None: nothing is
track: str | None = None  # tensorboard or wandb: also log there
steps: int | None = None  # transitions T; None: the preset's
iterations: int | None = None  # training steps; None: the preset's
lr: float | None = None  # learning rate; None: the preset's
settings: dict = {}  # any others of gl.Config, such as {"layers": 3}

# %%
changes = {"steps": steps, "iterations": iterations, "lr": lr}
config = gl.preset(task, method, profile, settings, **changes)
smoke = profile == "smoke"
print(f"{task}, {method}, profile {profile}, seeds {seeds}")

# %% [markdown]
# ## The energy of a latent, given an image
#
# The model draws a latent $z \sim \mathcal N(0, I)$ of 20 numbers and, from it, pixels that are
# independent given $z$, each on with probability $p_i(z)$. So for an image $x$
#
# $$
# E(z; x) = -\log \mathcal N(z; 0, I)
#           - \sum_i \big[x_i \log p_i(z) + (1 - x_i) \log(1 - p_i(z))\big],
# $$ (eq-vae-energy)
#
# and $\exp(-E)$ is, up to its normaliser $Z(x) = p(x)$, the posterior $p(z \mid x)$: which latents
# could have made this image, and how likely each. The decoder is the paper's, one hidden layer of
# 400, trained on grey values as if they were probabilities. For those the bracket is not the log
# of a distribution over images, so that $\log Z(x)$ is a log-likelihood in name only; posteriors and
# bounds are as real as ever.

# %%
source = "small" if smoke else None  # None: all of MNIST if it can be had
train, held_out = mnist("train", source), mnist("evaluation", source)
posterior = VAEPosterior(
    images=train.images, whitened=task == "vae_whitened"
)
vae, images = posterior.vae, held_out.images
print(f"to train on: {train}\nto evaluate on: {held_out}")

# %% [markdown]
# How wrong is the encoder? For one image, adaptive importance sampling finds $\log Z(x)$ to a hundredth
# of a nat with 110,000 draws of its own, and exact posterior samples by the way. That was done once for
# the evaluation images (`python -m reproduce vae --truth`) and is read here. The sampler never sees it.

# %%
folder = Path("../reproduce/results/vae")
known = json.loads((folder / "truth.json").read_text())
weights = Path(gl.__file__).with_name("data") / "vae.safetensors"
digest = hashlib.sha256(weights.read_bytes()).hexdigest()
assert known["weights_sha256"] == digest, "the truth of other weights"
of_set = known["sets"][held_out.name]
log_z, error, ess, encoder = (
    torch.tensor(of_set[name])
    for name in ("log_z", "error", "ess", "encoder_elbo")
)
exact_z = load_file(folder / "truth.safetensors")[held_out.name].float()
exact = posterior.state(exact_z, images[:, None])
truth = Truth(log_z, error, ess, exact)

# %% tags=["lesson"] mystnb={"figure": {"name": "fig-vae-encoder", "caption": "Left: how far the encoder's ELBO is below the true log Z(x) of each evaluation image, which is the Kullback–Leibler divergence of its Gaussian from the posterior. Right: the six images that it explains worst (top), and the decoded means of its Gaussians (bottom): the means look right, so what is wrong is the rest of the posterior."}, "image": {"alt": "Left: dots that rise from near zero to many nats over the images in order. Right: six handwritten digits, and below them slightly smoother copies."}}
gap = log_z - encoder
figure, (left, right) = plt.subplots(
    1, 2, figsize=(9.5, 3.4), width_ratios=[1.2, 1]
)
left.plot(gap.sort().values, ".", color=gl.plots.GREY)
left.set(xlabel="images, best encoded first", ylabel="nats below the truth")
left.set_ylim(bottom=0)
left.set_title(
    f"The encoder is off by {gap.mean():.1f} nats on average, "
    f"{gap.max():.0f} at worst"
)
shown = images[gap.argsort(descending=True)[:6]]
decoded = vae.decode(vae.encode(shown)[0])
gl.plots.images(torch.cat([shown, decoded]), right, columns=6)
right.set_title("Its means look right all the same")
plt.show()

# %% [markdown]
# The function `vae_energy` is {eq}`eq-vae-energy` and nothing else; `VAEPosterior` is the same as a
# target, with its gradient by formula.

# %% tags=["lesson"]
z = torch.randn(5, 20, generator=torch.Generator().manual_seed(0))
by_function = vae_energy(z, images[:5], vae.decode)
by_target = VAEPosterior(vae).energy(z, images[:5])
pd.DataFrame({"vae_energy": by_function, "VAEPosterior": by_target}).round(
    3
)

# %% [markdown]
# ## What a condition changes
#
# Nothing in the method, and one argument in the code:

# %% tags=["lesson"]
plain = gl.GFNDiffusion(gl.gmm25, device="cpu", exploration=16.0)
conditional = gl.GFNDiffusion(posterior, config=config, device="cpu")
x, c = torch.zeros(3, 2), images[:3]
rows = {
    "energy": (
        f"E(x): {tuple(gl.gmm25.energy(x).shape)}",
        f"E(z; x): {tuple(posterior.energy(torch.zeros(3, 20), c).shape)}",
    ),
    "target": (
        f"p(x), d = {gl.gmm25.dim}",
        f"p(z given x), d = {posterior.dim}, c = {posterior.condition_dim}",
    ),
    "normaliser": (
        f"log Z, one number: {tuple(plain.log_z.shape)}",
        f"log Z(x), a network: {tuple(conditional.log_z(c).shape)}",
    ),
    "balance": (
        "all trajectories have one log-weight",
        f"those of an image do: {config.repeats} a batch",
    ),
    "call": ("sample(3)", "sample(3, condition=x)"),
}
pd.DataFrame(rows, index=["unconditional", "conditional"]).T

# %% [markdown]
# Conditional trajectory balance asks each trajectory for its own image's normaliser, and VarGrad
# does without a network for it, by comparing the trajectories of one image with each other:
#
# $$
# \begin{aligned}
# \mathcal L_{\mathrm{TB}} &= \tfrac12\,\mathbb E_{x}\,\mathbb E_{\tau \mid x}
#   \big[(\log Z_\theta(x) - \log w(\tau; x))^2\big], \\
# \mathcal L_{\mathrm{VarGrad}} &= \tfrac12\,\mathbb E_x\,
#   \mathrm{Var}_{\tau \mid x}\big[\log w(\tau; x)\big].
# \end{aligned}
# $$ (eq-conditional-tb)
#
# ## First, problems whose answers are known
#
# **A linear inverse problem.** Three unknowns $x \sim \mathcal N(0, I)$, of which two noisy
# combinations $c = A x + \mathcal N(0, s^2 I)$ are seen. Posterior and $Z(c)$ are Gaussian and known
# for every $c$. One network learns all of them at once.

# %% tags=["lesson"]
linear = LinearGaussian([[1.0, 0.5, -0.3], [0.0, 1.2, 0.8]], noise=0.6)
small = gl.Config(  # for problems of a few dimensions
    steps=10 if smoke else 60,
    coarse_steps=5 if smoke else 10,
    iterations=40 if smoke else 3000,
    learn_variance=True,
    lr=5e-3,
    lr_log_z=1e-2,
)
solver = gl.GFNDiffusion(linear, config=small, device="cpu").fit()
fresh = linear.sample_condition(400, torch.Generator().manual_seed(1))
evaluate_posteriors(solver, fresh, n=200, k=(100,))

# %% tags=["lesson"] mystnb={"figure": {"name": "fig-linear", "caption": "Observations that the training never saw. Left: the learned log Z(c) against the exact one. Right: rank of an exact posterior draw among 63 of the sampler's, in the first coordinate; uniform if the posteriors are right."}, "image": {"alt": "Left: points along the diagonal. Right: a flat histogram inside a grey band."}}
generator = torch.Generator().manual_seed(2)
learned = solver.log_z(fresh).detach()
error = (learned - linear.log_z(fresh)).abs()
one_each = linear.sample(len(fresh), generator, fresh)
rank = ranks(solver, fresh, one_each, generator=generator)
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6))
left.scatter(linear.log_z(fresh), learned, s=6, color=gl.plots.BLUE)
left.axline((-4, -4), slope=1, color="black", linewidth=0.8)
left.set(xlabel=r"exact $\log Z(c)$", ylabel="learned")
left.set_title(f"Learned log Z(c) is off by {error.mean():.3f} on average")
gl.plots.rank_histogram(rank[:, 0], 63, right)
middle = ((rank[:, 0] > 15) & (rank[:, 0] < 48)).double().mean()
right.set_title(f"{middle:.0%} of the draws are in the middle half")
plt.show()

# %% [markdown]
# **A moving observation.** In two dimensions one can look. Three clusters, and one noisy sighting
# $c$ of a point: as $c$ moves, modes of the posterior come and go. Move the slider: grey contours are
# the exact posterior, dots are samples.

# %% tags=["lesson"]
clusters = [[-2.0, 0.0], [2.0, 0.5], [0.0, 2.5]]
sighting = ObservedMixture(clusters, variance=0.15, noise=1.3)
tracker = gl.GFNDiffusion(
    sighting, config=small, sigma2=2.0, exploration=2.0, device="cpu"
).fit()


def seen_at(position):
    """The posterior of a point that was seen at (position, 0.8)."""
    c = torch.tensor([position, 0.8])
    there = gl.targets.conditioned(sighting, c)
    figure, ax = plt.subplots(figsize=(5, 4.6))
    gl.plots.samples(there, tracker.sample(600, condition=c), 4.5, ax)
    ax.plot(*c, marker="x", color=gl.plots.ORANGE, markersize=10)
    share = sighting.modes_of(tracker.sample(4000, condition=c)).mean(0)
    exact = sighting.weights(c[None])[0]
    words = " ".join(f"{s:.0%}" for s in share)
    truth = " ".join(f"{s:.0%}" for s in exact)
    ax.set_title(f"shares {words}\nexactly {truth}")
    return figure


def seen_in_words(position):
    """What the figure shows."""
    c = torch.tensor([[position, 0.8]])
    exact = ", ".join(f"{w:.0%}" for w in sighting.weights(c)[0])
    return f"Seen at {position}: exact shares of the clusters {exact}."


gl.explore(
    seen_at, seen_in_words, position=[-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0]
)

# %% [markdown]
# ## Training on the images
#
# The method is in its name. `VarGrad` compares ten trajectories of each image with each other.
# `LP`: the drift may use the energy's gradient, which says which way a latent must move to redraw
# the image, whatever the image. `LV`: variances are learned. And the task `vae_whitened` takes as
# variable not $z$ but $e$ with $z = m(x) + s(x)\, e$, the encoder's Gaussian made standard: an
# untrained sampler then *is* the encoder, and all that it learns is what the encoder gets wrong.

# %%
ensemble = gl.Ensemble(posterior, config=config, seeds=seeds)
on_gpu = ensemble[0].device.type == "cuda"
logs = gl.callbacks.named(track, out_dir)
ensemble.fit(folder=out_dir, callbacks=logs, compile=on_gpu)
sampler = ensemble[0]
print(
    f"{sampler.iteration:,} iterations, {sampler.seconds:.0f} s "
    f"and {sampler.energy_calls:,} energy calls a seed"
)

# %% [markdown]
# ## Image by image against the truth
#
# Of several trajectories of one image, the logarithm of the mean weight is a better bound than the
# mean logarithm {cite:p}`burda2016iwae`: what a sampler is worth once its samples are weighted.
#
# :::{prf:theorem} More samples, a better bound
# :label: thm-08-k-samples
# For independent trajectories $\tau_1, \tau_2, \dots$ of the sampler, given $x$, let
#
# $$
# L_K(x) = \mathbb E\Big[\log \frac1K \sum_{k=1}^K w(\tau_k; x)\Big].
# $$ (eq-08-bound)
#
# Then $\text{ELBO} = L_1 \le L_2 \le \dots \le \log Z(x)$. If the ELBO is finite, $L_K$ tends to
# $\log Z(x)$.
# :::
#
# :::{dropdown} Proof
# Let $M_K$ be the mean of the first $K$ weights. Its expectation is $Z(x)$, and the logarithm is
# concave, so that $L_K = \mathbb E \log M_K \le \log Z(x)$. Of $K + 1$ weights leave out one at random.
# Given the weights, the mean of the others has the expectation $M_{K+1}$; so, by Jensen's inequality
# again, its logarithm has on average at most $\log M_{K+1}$. That logarithm is distributed as
# $\log M_K$, hence $L_K \le L_{K+1}$. At last, $M_K \to Z(x)$ by the law of large numbers, and
# $\log M_K$ lies between $\frac1K \sum_k \log w(\tau_k; x)$ and $M_K$, which both converge in mean.
# So the means of the logarithms converge too.
# :::

# %%
# images, and trajectories of each
count, n = (10, 100) if smoke else (100, 1000)
evaluations = {}
for one in ensemble:
    evaluations[one.seed] = found = evaluate_posteriors(
        one, images[:count], n, (100, n), truth[:count]
    )
    kept = Path(out_dir) / f"seed-{one.seed}" if out_dir else None
    if kept and not (kept / "metrics.json").exists():
        names = ("elbo", "bound_100", "log_z_is", "eubo", "ess")
        means = {name: found.mean(name)[0] for name in names}
        true = found.mean("log_z")[0]
        generator = torch.Generator(one.device).manual_seed(one.seed)
        pooled = pooled_log_z(one, images, generator)
        metrics = (
            means
            | {
                "seed": one.seed,
                "seconds": one.seconds,
                "energy_calls": one.energy_calls,
                "true_log_z": true,
                "delta_log_z": true - means["elbo"],
                "delta_log_z_rw": true - means["log_z_is"],
                "log_z_rw_pooled": pooled,  # the paper's column: see below
                "encoder_elbo": encoder[:count].mean().item(),
                "evaluated_on": held_out.name,
            }
        )
        unknown = ("log_z_learned", "w2", "w2_floor", "modes", "n_modes")
        gl.write_json(
            kept / "metrics.json", dict.fromkeys(unknown) | metrics
        )
evaluation = evaluations[seeds[0]]
evaluation

# %%
compared = [
    ("encoder", encoder[:count]),
    ("sampler", evaluation["elbo"]),
    (
        "sampler, best of its weights: 100-sample bound",
        evaluation["bound_100"],
    ),
    ("truth", log_z[:count]),
]
table = ["| | mean over images (nats) | below the truth |", "|:--|--:|--:|"]
for name, values in compared:
    gap = (log_z[:count] - values).mean()
    table.append(f"| {name} | {values.mean():.2f} | {gap:.2f} |")
Markdown("\n".join(table))

# %% mystnb={"figure": {"name": "fig-vae-gaps", "caption": "Distance from the true log Z(x) of each evaluation image, in the order of the encoder's. For the two ELBOs it is also the Kullback–Leibler divergence from the posterior (of the encoder's Gaussian, or of the sampler's trajectories)."}, "image": {"alt": "Three lines of dots over images: the encoder's gap rises to many nats, the sampler's stays low, and its 100-sample bound is near zero."}}
order = (log_z - encoder)[:count].argsort()
figure, ax = plt.subplots(figsize=(8, 3.6))
for name, values, colour in (
    ("encoder", encoder[:count], gl.plots.GREY),
    ("sampler: ELBO", evaluation["elbo"], gl.plots.BLUE),
    ("sampler: 100-sample bound", evaluation["bound_100"], gl.plots.GREEN),
):
    gaps = (log_z[:count] - values)[order]
    ax.plot(gaps, ".", color=colour, label=name)
ax.set(xlabel="images, best encoded first", ylabel="nats below the truth")
ax.legend()
better = (evaluation["elbo"] > encoder[:count]).double().mean()
ax.set_title(
    f"The sampler is nearer to the truth on {better:.0%} of the images"
)
plt.show()

# %% [markdown]
# ### What a posterior looks like
#
# For each digit the evaluation image that its encoder explains worst. Above, the image, the
# decoded mean of the encoder, and six decoded samples of the posterior: where they differ is what
# the image leaves open. Below, two coordinates of $e$, the ones in which exact draws are furthest
# from a standard normal: grey circles are the encoder's Gaussian at 1, 2 and 3 standard deviations.

# %%
gap = log_z - encoder
worst = {
    int(digit): int((gap - 1e9 * (held_out.labels != digit)).argmax())
    for digit in held_out.labels.unique()
}
drawn = {
    digit: posterior.latent(
        sampler.sample(min(400, n), condition=images[i]).cpu(), images[i]
    )
    for digit, i in worst.items()
}

# %% tags=["lesson"]
white = VAEPosterior(vae, whitened=True)  # for its coordinates


def posterior_of(digit):
    """A digit's worst encoded image and its posterior, two coordinates."""
    i = worst[digit]
    image, z = images[i : i + 1], drawn[digit]
    e, right = (white.state(v, image) for v in (z, exact_z[i]))
    spread = (
        right.mean(0).square() + (right.std(0).log()).square()
    ).argsort()
    a, b = spread[-2:].tolist()
    figure, (top, low) = plt.subplots(
        2, 1, figsize=(6.4, 7), height_ratios=[1, 5]
    )
    mean = vae.decode(vae.encode(image)[0])
    row = torch.cat([image, mean, vae.decode(z[:6])])
    gl.plots.images(row, top, columns=8)
    top.set_title("image, encoder's mean, six posterior samples")
    for radius in (1, 2, 3):
        low.add_patch(plt.Circle((0, 0), radius, fill=False, color="0.7"))
    low.plot(
        *e[:, [a, b]].T, ".", ms=3, color=gl.plots.BLUE, label="sampler"
    )
    low.plot(*right[:, [a, b]].T, "+", color=gl.plots.ORANGE, label="exact")
    low.set(xlabel=f"$e_{{{a + 1}}}$", ylabel=f"$e_{{{b + 1}}}$")
    low.set(aspect="equal", xlim=(-5, 5), ylim=(-5, 5))
    low.legend(loc="best")
    return figure


def posterior_in_words(digit):
    """What the figure shows."""
    return (
        f"An image of a {digit} that the encoder explains "
        f"{gap[worst[digit]]:.1f} nats below the truth, and its posterior."
    )


gl.explore(posterior_of, posterior_in_words, digit=sorted(worst))

# %% mystnb={"figure": {"name": "fig-vae-traverse", "caption": "What one image leaves open: from left to right along the direction in which its posterior samples vary most, two standard deviations each way; one row for each of five digits, its image first."}, "image": {"alt": "Five rows of digits; in each row the digit's shape changes slightly from left to right."}}
rows = []
for digit in (2, 4, 5, 7, 9):
    image = images[worst[digit]][None]
    z = drawn[digit]
    _, size, direction = torch.linalg.svd(
        z - z.mean(0), full_matrices=False
    )
    reach = size[0] / len(z) ** 0.5 * torch.linspace(-2, 2, 9)[:, None]
    rows += [image, vae.decode(z.mean(0) + reach * direction[0])]
axes = gl.plots.images(torch.cat(rows))
axes.set_title("Along the longest axis of five posteriors")
if out_dir:
    axes.figure.savefig(Path(out_dir) / "samples.png", dpi=120)
plt.show()

# %% [markdown]
# ### How probable is the image?
#
# The mean over the sampler's own trajectories of $w$, not of $\log w$, estimates $Z(x) = p(x)$
# without bias, for an image that nothing was prepared for.

# %% mystnb={"figure": {"name": "fig-vae-log-z", "caption": "Two means over the sampler's trajectories of each evaluation image, less its true log Z(x), against the latter: easy images are on the right."}, "image": {"alt": "Two clouds of points over a wide range of log Z: one around the line at zero, the other about a nat below it."}}
figure, ax = plt.subplots(figsize=(7, 3.4))
for name, label, colour in (
    ("elbo", "mean of log w (ELBO)", gl.plots.BLUE),
    ("log_z_is", f"log mean of w, {n} samples", gl.plots.GREEN),
):
    off = evaluation[name] - log_z[:count]
    ax.plot(log_z[:count], off, ".", color=colour, label=label)
ax.axhline(0, color="black", linewidth=0.8)
ax.set(xlabel=r"true $\log Z(x)$ (nats)", ylabel="estimate less it (nats)")
ax.legend()
off = (evaluation["log_z_is"] - log_z[:count]).abs().mean()
ax.set_title(f"log mean of w is off by {off:.2f} nats")
plt.show()

# %% mystnb={"figure": {"name": "fig-vae-ranks", "caption": "Rank of an exact posterior draw among 63 of the sampler's, over images and coordinates. Piled up at the ends, the sampler's posteriors are too narrow; in the middle, too wide."}, "image": {"alt": "A histogram of ranks, with the band in which the bars of a right sampler would lie."}}
rank = ranks(sampler, images[:count], exact[:count, 0])
figure, ax = plt.subplots(figsize=(6, 3.2))
gl.plots.rank_histogram(rank.flatten(), 63, ax)
ends = ((rank < 4) | (rank > 59)).double().mean()
ax.set_title(f"{ends:.1%} of the draws are in the outer eighth, not 12.5%")
plt.show()

# %% [markdown]
# ## What made the difference
#
# One change at a time, each trained for the same time on one core, in 20 steps, and measured as
# above (`python -m reproduce.bench.vae_study`; one seed, 200 trajectories for each image):

# %% tags=["hide-input", "lesson"]
study = json.loads((folder / "study.json").read_text())["cells"]
lines = [
    "| | iterations | ELBO below the truth | 100-sample bound below it |",
    "|:--|--:|--:|--:|",
]
for name, cell in study.items():
    gaps = [cell["metrics"][f"gap_{key}"] for key in ("elbo", "bound_100")]
    cells = [f"{gap['mean']:.2f} ± {gap['half_width']:.2f}" for gap in gaps]
    lines.append(
        f"| {escape(name)} | {cell['iterations']:,} | {' | '.join(cells)} |"
    )
Markdown("\n".join(lines))

# %% [markdown]
# The coordinates decide, then the gradient, then the objective. A network for $\log Z(x)$ has to be
# right at every image, and its error enters the loss of every trajectory; a comparison within the
# image has no such error. The learned variance, the number of steps and exploration make no
# difference here that this study could see.
#
# ## What went wrong: a number about one image, and latents of others
#
# **The pooled number.** The paper's column "log Z RW" for this task takes one trajectory for each of
# the 100 evaluation images and averages their weights $w$ *over images*. But $\mathbb E[w] = Z(x)$ is
# another number for each: what is averaged is dominated by the one or two easiest images.

# %% tags=["lesson"]
generator = torch.Generator(sampler.device).manual_seed(0)
pooled = pooled_log_z(sampler, images, generator)
easiest = log_z.max().item()
paper = json.loads(Path("../reproduce/published.json").read_text())
row = paper["tasks"]["vae"]["rows"]["VarGrad+Expl+LP"]["log_z_rw_pooled"]
ceiling = importance_bound(log_z[None].double(), len(log_z)).item()
Markdown(
    f"Pooled, our sampler has {pooled:.2f} and the paper's best has "
    f"{row['mean']:.2f} (its own autoencoder). The *true* posteriors would "
    f"have {ceiling:.2f}: the log Z of the easiest image, {easiest:.2f}, "
    f"less log 100. The mean of log Z(x) is {log_z.mean():.2f}. A sampler "
    "that is right on one image and useless on the other 99 has nearly the "
    "same pooled number."
)

# %% [markdown]
# **Latents of other images.** The public code's replay buffer is filled by a batch laid out as
# (repeats, images) and read as (images, repeats), so that it pairs nearly all latents with another
# image. Everything still runs. Here is the check that finds it: an energy that is computed again
# must be the one that was stored.

# %% tags=["lesson"]
each = images[:30].repeat_interleave(10, 0)  # 10 trajectories an image
batch = sampler.trajectory(300, condition=each, repeats=10)
z = posterior.latent(batch.x[-1].cpu(), each)
latent = VAEPosterior(vae)
stored = latent.log_reward(z, each)
rows = {}
for layout, read in (
    ("as kept here", each),
    ("as in the public code", images[:30].repeat(10, 1)),
):
    again = latent.log_reward(z, read)
    agree = (again - stored).abs().lt(0.01).double().mean().item()
    rows[layout] = [f"{agree:.1%}", f"{again.mean():.1f}"]
columns = ["rewards that agree", "mean log R"]
pd.DataFrame(rows, index=columns).T

# %% [markdown]
# ## In five lines
#
# 1. A condition is one more argument: $E(z; c)$, `sample(n, condition=c)`, a $\log Z_\theta(c)$.
# 2. Compare log-weights within a condition, never across: $\mathbb E[w]$ is $Z(c)$.
# 3. Start where a good guess already is: in the encoder's coordinates an untrained sampler is as
#    good as the encoder.
# 4. The energy's gradient generalises to new images; a network of the image alone does so slowly.
# 5. Report ELBO, a many-sample bound and EUBO per image, against a truth from importance sampling.
#
# ## Exercises
#
# **1.** How much of the gain is due to the gradient? Train without it.
#
# :::{dropdown} Solution
# ```python
# blind = gl.GFNDiffusion(
#     posterior, config=config, langevin=False
# ).fit()
# some, known = images[:count], truth[:count]
# evaluate_posteriors(blind, some, n=200, k=(100,), truth=known)
# ```
# The table above has the answer: what a gradient says at a new image, a network has to have
# learned from others.
# :::
#
# **2.** Give the sampler an image that is no digit, say uniform noise. What do the ELBO and the
# effective sample size say?
#
# :::{dropdown} Solution
# ```python
# noise = torch.rand(784)
# sampler.evaluate(n_samples=1000, condition=noise)
# ```
# The ELBO falls by hundreds of nats (noise is improbable under the model), and the effective sample
# size with it: for such a condition the sampler was not trained, and its weights say so.
# :::
#
# **3.** Write your own conditional energy as a function `E(x, c)`, say a spring between $x$ and $c$,
# and train on it with `conditions=`.
#
# :::{dropdown} Solution
# ```python
# def spring(x, c):  # (B, 2), (B, 2) -> (B,)
#     return 2 * (x - c).square().sum(-1)
#
# points = torch.randn(1000, 2)
# s = gl.GFNDiffusion(
#     spring, dim=2, conditions=points, sigma2=2.0, learn_variance=True,
#     steps=20, coarse_steps=None,
#     iterations=min(1000, small.iterations),
# ).fit()
# s.log_z(points[:5])  # exactly log(pi / 2) for every c
# ```
# :::
#
# ## Sources
#
# Task, decoder and the paper's rows: {cite:t}`sendera2024`. The autoencoder: {cite:t}`kingma2014vae`.
# The many-sample bound: {cite:t}`burda2016iwae`. VarGrad: {cite:t}`richter2020vargrad`. Adaptive
# importance sampling: {cite:t}`cappe2008adaptive`. Rank histograms: {cite:t}`talts2018sbc`. Images:
# MNIST, by Y. LeCun, C. Cortes and C. Burges, under CC BY-SA 3.0.
