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
# # Guidance and hybrids: a model of data meets an energy
#
# You have a diffusion model of data, and a wish: samples like these, but with low energy. The usual
# answer adds a gradient to each step. Which distribution does that sample, and what would sample the
# one you asked for?
#
# :::{admonition} At a glance
# **You will** guide a diffusion model by an energy and by its own labels, measure what guidance
# gets wrong against exact samples, and then train what gets it right: a sampler that starts from
# the model, relative trajectory balance, and one network that learns from data and energy at once.
#
# **You will be able to** choose between guidance, importance resampling and training, and to say
# which of them has a bound on its error.
#
# **You need** [Diffusion models](02_diffusion_background) and
# [Trajectory balance](03_trajectory_balance), or their five-line summaries.
# **Time**: 20 minutes to read; about three minutes to run on one CPU core.
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
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression

import gfnlite as gl
from gfnlite.data_loss import DataLoss
from gfnlite.denoiser import Denoiser
from gfnlite.diffusion import Noising, ancestral, step_mean
from gfnlite.guidance import STRENGTHS, guided, strength
from gfnlite.mnist import mnist
from gfnlite.preference import Preference
from gfnlite.relative import RelativeSampler
from gfnlite.vae import pretrained

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
gl.plots.style()

# %% tags=["parameters"]
# smoke (seconds) or quick (minutes)
profile: str = os.environ.get("GFNLITE_PROFILE", "quick")

# %%
smoke = profile == "smoke"
N = 500 if smoke else 2000  # samples behind a distance
generator = torch.Generator().manual_seed(0)


def budget(iterations):
    """As many training steps as the profile allows."""
    return 20 if smoke else iterations


# %% [markdown]
# ## A wish with a known answer
#
# The data are nine Gaussians, $p(x) = \frac19 \sum_m \mathcal N(x; \mu_m, v I)$, and the wish is to be
# near a point $a$: $E(x) = |x - a|^2 / 2 s^2$. What is asked for is the *tilted* density
#
# $$
# \pi(x) = \frac{p(x)\, e^{-E(x)}}{Z}, \qquad Z = \mathbb E_p\big[e^{-E(x)}\big],
# $$ (eq-09-tilted)
#
# and because both factors are Gaussian it is again a mixture, whose weights, means and normaliser
# are known. So every method below can be held against exact samples.

# %% tags=["tilted"]
data = gl.gmm9
centre, width2 = torch.tensor([4.0, 2.0]), 9.0


def wish(x):
    """E(x), low near the centre."""
    return (x - centre).square().sum(-1) / (2 * width2)


v = 0.3  # variance of each of the nine
variance = 1 / (1 / v + 1 / width2)
means = variance * (data.means / v + centre / width2)
far = (data.means - centre).square().sum(-1) / (2 * (v + width2))
tilted = gl.GMM(means, variance, weights=(-far).softmax(0), name="tilted")
log_z = (-far).logsumexp(0) - torch.tensor(9.0).log()
log_z = float(log_z + torch.tensor(width2 / (v + width2)).log())
exact = tilted.sample(N, generator)
print(f"log Z = {log_z:.3f}")

# %% mystnb={"figure": {"name": "fig-09-wish", "caption": "What there is, what guidance makes of it, and what was asked for. Contours are those of the tilted density; guidance finds the right modes and gives them wrong shares: too much near the centre of the wish."}, "image": {"alt": "Three scatter plots: nine equal clusters; mostly the four clusters at the upper right; the exact tilted mixture, with some more in the others."}}
noising = Noising(50, "cosine", sigma2=17.0)
model = Denoiser(2, noising).fit(
    data.sample(20_000, generator), iterations=budget(2500)
)
by_guidance = guided(model.predictor(), noising, wish)
panels = {
    "the data's model": model.sample(N),
    "guided by the energy": model.sample(N, predictor=by_guidance),
    "exact": exact,
}
figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.9), sharey=True)
for ax, (name, x) in zip(axes, panels.items(), strict=True):
    gl.plots.samples(tilted, x, 8, ax)
    others = tilted.sample(N, generator) if x is exact else x
    ax.set_title(f"{name}: W2 {gl.w2(others, exact):.2f}")
plt.show()

# %% [markdown]
# The distances are to the exact samples of the right panel, whose own is to as many others: what
# chance alone makes of it.
#
# ## Guidance by an energy, and its sign
#
# Generation follows the score $\nabla \log p_k(x)$ of the noised data, and a model that predicts the
# noise $\varepsilon_\theta$ knows it: $\nabla \log p_k = -\varepsilon_\theta / (\sigma \sqrt{1 -
# \bar\alpha_k})$. To lean towards low energy, add $-\lambda \nabla E$ to the score. In terms of the
# noise the same line reads
#
# $$
# \tilde\varepsilon = \varepsilon_\theta(x_k, k)
#   + \lambda\, \sigma \sqrt{1 - \bar\alpha_k}\; \nabla E(x_k) .
# $$ (eq-09-guidance)
#
# Mind the **plus**: noise points away from the data, and what is subtracted from the state should
# lead uphill. With a minus the samples climb the energy, as the table below shows; the draft that
# this book grew from {cite:p}`hassen2024foundations` has it.
#
# How strong should $\lambda$ be, at which level of noise? If the data were
# $\mathcal N(0, \sigma^2 I)$ and the energy weak, the noised tilted density would have, to first order
# in $E$, the extra score $-\sqrt{\bar\alpha_k}\, \mathbb E[\nabla E(x_0) \mid x_k]$, where $x_0$ given
# $x_k$ has the mean $\sqrt{\bar\alpha_k}\, x_k$. For a quadratic energy around the data's mean that is
# strength $\bar\alpha_k$, the share of the variance of $x_k$ that is data: `kind="variance"`. For any
# other centre no one strength will do. The other kinds are rules of thumb; under this schedule the
# cosine happens to lie nearly on the variance's curve.

# %% mystnb={"figure": {"name": "fig-09-strengths", "caption": "Four ways to let the strength depend on the noise. Far out, where x is nearly all noise, the gradient of E at x says little about the data behind it."}, "image": {"alt": "Four curves of strength over noise level: constant, linear, cosine, and the share of the variance that is data."}}
figure, ax = plt.subplots(figsize=(6.2, 3.2))
for kind in STRENGTHS:
    ax.plot(strength(noising, kind), label=kind)
ax.set(xlabel="noise level $k$", ylabel=r"$\lambda_k / \lambda$")
ax.legend()
ax.set_title("All but one fade where there is only noise")
plt.show()

# %% [markdown]
# Move the slider: contours are the tilted density for $\lambda = 1$, dots are samples guided at the
# strength shown; the last one has the wrong sign.

# %%
start = noising.start(600, 2, torch.Generator().manual_seed(3))


def at_strength(strength):
    """Samples from the same noise, guided by so much."""
    noise = torch.Generator().manual_seed(4)
    predict = guided(model.predictor(), noising, wish, strength)
    x = ancestral(predict, noising, start, noise)
    figure, ax = plt.subplots(figsize=(5, 4.6))
    gl.plots.samples(tilted, x, 9, ax)
    ax.set_title(f"strength {strength}: mean energy {wish(x).mean():.2f}")
    return figure


def strength_in_words(strength):
    """What the figure shows."""
    return (
        f"Samples guided at strength {strength}, on contours of the target."
    )


gl.explore(
    at_strength, strength_in_words, strength=[0.0, 0.5, 1.0, 2.0, 4.0, -0.5]
)

# %% [markdown]
# ## What guidance does not do
#
# :::{prf:theorem} What would have to be added to the score
# :label: thm-09-guidance
# Let $\pi_k$ be the density of $x_k$ when $x_0 \sim \pi$ of {eq}`eq-09-tilted`, and $p_k$ when
# $x_0 \sim p$. Then
#
# $$
# \nabla \log \pi_k(x_k) = \nabla \log p_k(x_k)
#   + \nabla \log \mathbb E_p\big[e^{-E(x_0)} \mid x_k\big] .
# $$ (eq-09-exact)
# :::
#
# :::{dropdown} Proof
# With the noising $q(x_k \mid x_0)$, which is the same for both,
#
# $$
# \pi_k(x_k) = \int q(x_k \mid x_0)\, \frac{p(x_0)\, e^{-E(x_0)}}{Z}\, dx_0
# = \frac{p_k(x_k)}{Z}\, \mathbb E_p\big[e^{-E(x_0)} \mid x_k\big],
# $$
#
# since $q(x_k \mid x_0)\, p(x_0) / p_k(x_k)$ is the density of $x_0$ given $x_k$. Take the gradient of
# the logarithm.
# :::
#
# Guidance puts $-\lambda \nabla E(x_k)$ in the place of the last term:
# the energy of the noisy state, for an average over all data that may be behind it. The two agree
# only where there is no noise left. So guidance samples *some* distribution with lower energy, not
# {eq}`eq-09-tilted`. Some strength comes near it; none is exact in general, and to find the best one
# took exact samples. As it is usually run, guidance does not say how wrong it is either.
#
# Three things do. **Importance resampling** draws from the model, and keeps a sample with a chance
# in proportion to $r = e^{-E}$. A **sampler trained on the energy** $-\log p + E$ has ELBO and EUBO
# around $\log Z$, and weights that remove the rest of its bias wherever it goes at all. It can start
# anywhere, also *from the model*, whose network is the drift of such a sampler already. And
# **relative trajectory balance** needs no density of the data, only the model and the reward: of
# every trajectory it asks
#
# $$
# \begin{aligned}
# &\log Z_\theta + \log P_F(\tau; \theta) \\
# &\quad = \log P_F^{\text{model}}(\tau) + \log r(x_1) ,
# \end{aligned}
# $$ (eq-09-rtb)
#
# (Here $x_1$, at time $t = 1$, is what was $x_0$ above.)
#
# :::{prf:theorem} What relative balance buys
# :label: thm-09-rtb
# Where {eq}`eq-09-rtb` holds for all trajectories, the sampler draws from the model's own density
# times $r$, up to its normaliser, which is $Z_\theta = \mathbb E_{\text{model}}[r]$
# {cite:p}`venkatraman2024`.
# :::
#
# :::{dropdown} Proof
# Sum {eq}`eq-09-rtb`, exponentiated, over all trajectories that end in $x_1$: on the left
# $Z_\theta$ times the sampler's density of $x_1$, on the right the model's density of $x_1$ times
# $r(x_1)$. Integrating over $x_1$ gives $Z_\theta = \mathbb E_{\text{model}}[r]$.
# :::
#
# We ask it of
# log-weights among each other, by VarGrad, so that $\log Z_\theta$ need not be learned. With
# finitely many Gaussian steps of fixed variance it cannot hold exactly: a small rest stays.

# %%
rows = {}


def judge(name, x, calls, began):
    """A row of the table: distance, shares of the modes, costs."""
    seconds = now() - began  # not those of judging
    shares = tilted.modes_of(x).mean(0)
    rows[name] = {
        "W2": round(gl.w2(x[:N], exact), 2),
        "shares off by": f"{(shares - tilted.weights).abs().sum() / 2:.0%}",
        "mean energy": round(wish(x).mean().item(), 2),
        "energy calls": f"{calls:,}",
        "seconds": round(seconds, 2),
    }


now = time.perf_counter
began = now()
judge("exact, other samples", tilted.sample(N, generator), 0, began)
began = now()
judge("unguided", model.sample(N), 0, began)
for scale in (0.6, 1.0, 2.0, -1.0):
    began = now()
    predict = guided(model.predictor(), noising, wish, scale)
    x = model.sample(N, predictor=predict)
    sign = "" if scale > 0 else ", the wrong sign"
    calls = N * noising.steps
    judge(f"guided by {scale:g}{sign}", x, calls, began)
began = now()
predict = guided(model.predictor(), noising, wish, kind="variance")
judge(
    "guided by 1, variance",
    model.sample(N, predictor=predict),
    calls,
    began,
)

# %% [markdown]
# Now the trained ones. The energy of the first two is that of the tilted density itself, up to its
# constant; relative balance is given only the model and the wish.

# %%
energy = gl.weighted_sum([data, wish], [1.0, 1.0], dim=2)
began = now()
scratch = gl.GFNDiffusion(
    energy,
    config=gl.Config(
        sigma2=8.0,
        exploration=8.0,
        steps=100,
        coarse_steps=20,
        learn_variance=True,
        iterations=budget(1500),
        lr=5e-3,
    ),
    device="cpu",
).fit()
judge("TB, from scratch", scratch.sample(N), scratch.energy_calls, began)
began = now()
hybrid = model.sampler(
    energy, device="cpu", iterations=budget(400), lr=2e-3
).fit()
judge("TB, from the model", hybrid.sample(N), hybrid.energy_calls, began)
began = now()
relative = RelativeSampler(model, wish).fit(budget(500))
x = relative.sample(N)
judge("relative TB", x, relative.energy_calls, began)
began = now() - rows["relative TB"]["seconds"]
x = relative.sample(N, oversample=10)
calls = relative.energy_calls + 10 * N
judge("the same, resampled", x, calls, began)
began = now()
drawn = model.sample(10 * N)
weights = (-wish(drawn)).softmax(0)
chosen = weights.multinomial(N, replacement=True, generator=generator)
judge("the model, resampled", drawn[chosen], 10 * N, began)
table = pd.DataFrame(rows).T
table

# %% [markdown]
# The first row is what chance alone makes of these numbers. *Shares off by* is half the sum of
# differences between the modes' shares and the right ones: the mass that sits in the wrong mode.
# Calls and seconds of a training are spent once, those of guidance for every two thousand samples;
# the model's own training is in no row. The two samplers by TB differ in more than their start: the
# one from scratch has the process, exploration and learned variance of
# [Twenty-five modes](04_25gmm), the other the model's process.
#
# The lesson here is not the one you might have expected: **in two dimensions the cheapest way is the
# best.** Ten thousand samples of the model, resampled, are as right as anything trained. That ends
# when hardly any of them count, as in high dimension or for a wish that few data grant. The
# effective sample size (ESS) tells.
#
# Now the bounds. For the samplers trained on the energy, EUBO needs exact samples, which we have
# here; the $\log Z$ of all others is that of the *model's* density, which differs from the data's by
# the model's own error. Even a guided chain has a bound, if one asks for it: its steps are Gaussian,
# as the model's are, so that {eq}`eq-09-rtb` gives it a weight too.


# %%
def guided_weight(predict):
    """log w of guided chains for model x reward: (N,)."""
    x, log_w = noising.start(N, 2, generator), torch.zeros(N)
    for k in range(noising.steps, 0, -1):
        variance = noising.sigma2 * noising.beta[k]
        mean = step_mean(predict, noising, x, k)
        of_model = step_mean(model.predictor(), noising, x, k)
        noise = torch.randn(x.shape, generator=generator)
        x = mean + variance.sqrt() * noise
        off = (x - of_model).square() - (x - mean).square()
        log_w = log_w - off.sum(1) / (2 * variance)
    return log_w - wish(x)


bounds = {}
ends = tilted.sample(N, generator)
for name, sampler in (
    ("TB, from scratch", scratch),
    ("TB, from the model", hybrid),
):
    own, back = sampler.log_weight(N), sampler.log_weight(x=ends)
    bounds[name] = (own.mean(), gl.log_z_is(own), back.mean(), gl.ess(own))
own = relative.log_weight(N)
bounds["relative TB"] = (own.mean(), gl.log_z_is(own), None, gl.ess(own))
chains = {"the model": model.predictor()}
for kind in ("variance", "constant"):
    name = f"guided by 1, {kind}"
    chains[name] = guided(model.predictor(), noising, wish, kind=kind)
for name, predict in chains.items():
    own = guided_weight(predict)
    bounds[name] = (own.mean(), gl.log_z_is(own), None, gl.ess(own))
names = ["ELBO", "importance-sampled", "EUBO", "ESS"]
print(f"exact log Z: {log_z:.3f}")
pd.DataFrame(
    {
        name: [
            "–" if part is None else f"{float(part):.3f}" for part in parts
        ]
        for name, parts in bounds.items()
    },
    index=names,
).T

# %% [markdown]
# The last rows say loudly what guidance leaves unsaid: as a proposal it can be worse than no guidance
# at all. And compare ESS with EUBO for the sampler from scratch: the weights of its own samples look
# nearly perfect, and yet whole modes may be missing, of which only the EUBO knows. Resampling cannot
# bring back what was never drawn.

# %% mystnb={"figure": {"name": "fig-09-compare", "caption": "The four ways to the wish, on contours of the exact tilted density: guidance is fast and biased; what a trained sampler misses, as the one from scratch may, its EUBO shows."}, "image": {"alt": "Four scatter plots on the same contours; the first concentrates the clusters, the other three follow the contours."}}
shown = {
    "guidance": panels["guided by the energy"],
    "TB, from scratch": scratch.sample(N),
    "TB, from the model": hybrid.sample(N),
    "relative TB": relative.sample(N),
}
figure, axes = plt.subplots(
    2, 2, figsize=(7.4, 7.2), sharex=True, sharey=True
)
for ax, (name, x) in zip(axes.flat, shown.items(), strict=True):
    gl.plots.samples(tilted, x, 8, ax)
    ax.set_title(f"{name}: W2 {gl.w2(x, exact):.2f}")
plt.show()

# %% [markdown]
# ## Guidance without an energy: the model's own labels
#
# Train one network with labels, and without: withhold the label of a tenth of each batch. Then it
# knows two predictions, and by Bayes' rule, $p_k(c \mid x_k) \propto p_k(x_k \mid c) / p_k(x_k)$, their
# difference is a classifier's gradient:
#
# $$
# \varepsilon_c - \varepsilon_\varnothing
# = -\sigma \sqrt{1 - \bar\alpha_k}\; \nabla \log p_k(c \mid x_k) .
# $$ (eq-09-classifier)
#
# *Classifier-free guidance* {cite:p}`ho2022` goes further that way:
#
# $$
# \tilde\varepsilon = \varepsilon_c + \lambda\, (\varepsilon_c - \varepsilon_\varnothing) .
# $$ (eq-09-cfg)
#
# With $\lambda = 0$ it samples the class. Beyond, and for the same reason as above, it samples neither
# the class nor $p(x)\, p(c \mid x)^{1 + \lambda}$; it buys *fidelity* (samples that a classifier is
# sure of) with *diversity*. The classes here are three overlapping clouds, so that both can be
# computed exactly: fidelity as the mean probability of the right class by Bayes' rule, diversity as
# the samples' standard deviation over the class's own.

# %% mystnb={"figure": {"name": "fig-09-cfg", "caption": "Classifier-free guidance of three overlapping classes. Left: one class at three strengths. Right: the class becomes surer, and its spread smaller."}, "image": {"alt": "Left: scatter of one class moving away from the others and shrinking as the strength grows. Right: fidelity rises with the strength; diversity falls, then levels off."}}
clouds = gl.GMM([[0.0, 1.2], [-1.1, -0.6], [1.1, -0.6]], 0.8, name="clouds")
x = clouds.sample(9000, generator)
# each point's class is drawn by Bayes' rule, as if it had come with it
square = torch.cdist(x, clouds.means).square()
labels = (
    (-square / 1.6).softmax(1).multinomial(1, generator=generator)[:, 0]
)
classes = Denoiser(2, Noising(50, "cosine", 1.6), classes=3)
classes.fit(x, labels, iterations=budget(2500))
scales = [0.0, 0.5, 1.0, 2.0, 4.0]
fidelity, diversity = [], []
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.9))
colours = (gl.plots.GREY, gl.plots.BLUE, gl.plots.ORANGE)
for scale in scales:
    x = classes.sample(N, label=0, scale=scale)
    sure = (-torch.cdist(x, clouds.means).square() / 1.6).softmax(1)[:, 0]
    fidelity.append(sure.mean().item())
    diversity.append((x.var(0).mean() / 0.8).sqrt().item())
    if scale in (0.0, 1.0, 4.0):
        colour = colours[(0.0, 1.0, 4.0).index(scale)]
        label = rf"$\lambda$ = {scale:g}"
        left.scatter(*x[:600].T, s=4, color=colour, alpha=0.6, label=label)
left.scatter(
    *clouds.means.T, marker="x", color="black", label="class means"
)
left.set(aspect="equal", xlabel="$x_1$", ylabel="$x_2$")
left.set_ylim(-4, 5.5)
left.legend(markerscale=2, loc="lower left", ncols=2)
left.set_title("Guidance leaves the other classes")
right.plot(scales, fidelity, "o-", color=gl.plots.BLUE, label="fidelity")
right.plot(
    scales, diversity, "s--", color=gl.plots.ORANGE, label="diversity"
)
right.set(xlabel=r"strength $\lambda$", ylim=(0, 1.25))
right.legend()
right.set_title(f"Spread falls to {diversity[-1]:.0%} of the class's own")
plt.show()

# %% [markdown]
# The same for handwritten digits, in the latent space of the autoencoder of
# [One sampler for every image](08_vae_conditional): twenty numbers an image, ten labels. The judge
# is a logistic regression on the latents of real images; its share of right answers is the
# fidelity.

# %% mystnb={"figure": {"name": "fig-09-digits", "caption": "Ten digits, each from the same noise, decoded from latents that were sampled without guidance (top), with some, and with much (bottom). Fidelity is what a classifier of real latents makes of 100 of each digit; diversity is their standard deviation over that of the real ones."}, "image": {"alt": "Three rows of ten generated digits, from 0 to 9, the lower rows bolder."}}
vae = pretrained()
train = mnist("train", "small" if smoke else None)
mean, std = vae.encode(train.images)
latents = mean + std * torch.randn(mean.shape, generator=generator)
scale_of = latents.std()
digits = Denoiser(20, Noising(50), classes=10, hidden=128)
digits.fit(
    latents / scale_of, train.labels, iterations=budget(3000), lr=2e-3
)
judge_of = LogisticRegression(max_iter=50 if smoke else 300).fit(
    latents[:10_000].numpy(), train.labels[:10_000].numpy()
)
each = 10 if smoke else 100
pictures, found = [], {}
for scale in (0.0, 1.0, 4.0):
    right = spread = 0.0
    for label in range(10):
        digits.generator.manual_seed(label)
        z = scale_of * digits.sample(each, label=label, scale=scale)
        right += (judge_of.predict(z.numpy()) == label).mean() / 10
        real = latents[train.labels == label]
        spread += float((z.var(0).mean() / real.var(0).mean()).sqrt()) / 10
        pictures.append(vae.decode(z[:1]))
    found[scale] = (right, spread)
axes = gl.plots.images(torch.cat(pictures))
words = " · ".join(
    rf"$\lambda$={s:g}: {r:.0%} right, spread {d:.0%}"
    for s, (r, d) in found.items()
)
axes.set_title(words, fontsize=8)
plt.show()
held_out = judge_of.score(
    latents[-5000:].numpy(), train.labels[-5000:].numpy()
)
print(
    f"of real latents not seen before, the judge gets {held_out:.0%} right"
)

# %% [markdown]
# A little guidance makes the digits more typical than real ones are. Much of it shows the limit of
# both measures: the latents leave the region of the data, where a spread is no diversity any more,
# and the judge was never asked.
#
# ## Data and energy on one network
#
# The last hybrid learns from both at once,
#
# $$
# \mathcal L = \mathcal L_{\text{simple}}(\text{data})
#   + \lambda_{\mathrm{GFN}}\, \mathcal L_{\mathrm{TB}}(\text{energy}) ,
# $$ (eq-09-joint)
#
# because one network is both: the noise that it predicts and the drift of $P_F$ are the same
# function ([Diffusion models](02_diffusion_background) has the formula). In code it is one argument,
# `fit(data=DataLoss(x, noising, gfn=…))`. When would one want that? When the data are few, or blind
# to something that the energy knows. Here they know only twenty of twenty-five modes.

# %%
joint_file = Path("../reproduce/results/diffusion/joint.json")
study = json.loads(joint_file.read_text())
settings = study["settings"]
missing = torch.tensor(study["missing"])
x = gl.gmm25.sample(5000, torch.Generator().manual_seed(0))
mode = gl.gmm25.modes_of(x).argmax(1)
blind = x[~torch.isin(mode, missing)]
steps = Noising(settings["steps"], settings["schedule"], settings["sigma2"])
both = DataLoss(blind, steps, gfn=0.1)

of_data = Denoiser(2, steps).fit(blind, iterations=budget(2500))
later = of_data.sampler(
    gl.gmm25, device="cpu", iterations=budget(1500), lr=5e-3
)
later.fit(data=both)
at_once = gl.GFNDiffusion(
    gl.gmm25,
    config=gl.Config(**settings | {"iterations": budget(1500)}),
    device="cpu",
).fit(data=both)
trials = {
    "data alone": of_data.sample(20_000),
    "data, then both": later.sample(20_000),
    "both from the start": at_once.sample(20_000),
}

# %% mystnb={"figure": {"name": "fig-09-joint", "caption": "Data that lack the corners and the middle. A model of them (left) never goes there, and so learns nothing of them from the energy later (middle). Learning from both while the sampler still goes everywhere, it fills them, if less sharply after so short a time (right). Their right share is 20%."}, "image": {"alt": "Three scatter plots on the contours of 25 modes; in the first two the corners and the middle are empty, in the third they are filled."}}
figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.9), sharey=True)
for ax, (name, x) in zip(axes, trials.items(), strict=True):
    share = gl.gmm25.modes_of(x).mean(0)
    gl.plots.samples(gl.gmm25, x[:1500], 13.5, ax)
    ax.set_title(
        f"{name}:\n{share[missing].sum():.1%} in the missing modes"
    )
plt.show()

# %% [markdown]
# One run is an anecdote, so here is the sweep: five seeds, each cell the mean and the half-width of
# its 95% interval, after equally many iterations (`python -m reproduce.bench.joint_study`). *Missing*
# is the share of samples in the five modes that the first data set lacks (the second has them);
# right is a fifth. The energy alone sees no data, so that its row is the same in both halves.

# %%
lines = {}
for kind, cells in study["cells"].items():
    for weight, cell in cells.items():
        shown = {}
        for name in ("elbo", "eubo", "modes", "missing", "w2"):
            values = cell["metrics"][name]
            middle = sum(values) / len(values)
            half = gl.ensemble.half_width(values)
            digits_shown = 3 if name == "missing" else 2
            shown[name] = (
                f"{middle:.{digits_shown}f} ± {half:.{digits_shown}f}"
            )
        lines[(kind, weight)] = shown
sweep = pd.DataFrame(lines).T
sweep.index.names = ["data", "λ"]
sweep

# %% mystnb={"figure": {"name": "fig-09-sweep", "caption": "The gap between the bounds, EUBO minus ELBO, for each weight of the energy; dots are seeds. Small is good: zero is perfect."}, "image": {"alt": "Two panels, one for each data set, with dots of five seeds over the weight of the energy from zero to the energy alone."}}
figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.6), sharey=True)
for ax, (kind, cells) in zip(axes, study["cells"].items(), strict=True):
    means_of = {}
    for place, (weight, cell) in enumerate(cells.items()):
        m = cell["metrics"]
        gaps = [u - b for u, b in zip(m["eubo"], m["elbo"], strict=True)]
        ax.scatter([place] * len(gaps), gaps, s=14, color=gl.plots.BLUE)
        middle = sum(gaps) / len(gaps)
        ax.plot(place, middle, "_", color="black", markersize=16)
        means_of[weight] = middle
    ax.set_xticks(range(len(cells)), list(cells), fontsize=8)
    ax.set(xlabel=r"$\lambda_{\mathrm{GFN}}$", ylim=(0, None))
    least = min(means_of, key=means_of.get)
    ax.set_title(f"{kind}: least at a weight of {least}")
axes[0].set_ylabel("EUBO − ELBO (nats)")
plt.show()

# %% [markdown]
# Where the data are *blind*, the smallest weight does next to nothing. The middle one finds
# every mode with every seed, gives the missing ones together about their share, and has the least EUBO.
# The largest overshoots: it puts about twice too much there, with every seed. The energy alone does
# that too, or misses modes altogether; it is the least steady, and beside it the data are a help.
#
# Where the data are only *few*, they already touch every mode, and the energy has little to give: at
# the smallest weight the gap between the bounds is a little smaller, the distance no better, and with
# each larger weight the shares go further off, with every seed: a bias, and not a noise, of trainings
# of this length. So the energy pays for what the data do not know, at a weight that has to be found,
# and nothing here makes the bounds close: that takes longer training, with exploration and a learned
# variance, as in [Twenty-five modes](04_25gmm).

# %% [markdown]
# ## Several wishes: one sampler for all preferences
#
# With several energies the question is how much of each. Give the weights $c$ to the sampler as its
# condition, and one training serves every compromise:
#
# $$
# R(x; c) = \exp\Big(-\sum_i c_i E_i(x)\Big), \qquad c_i \ge 0, \quad \sum_i c_i = 1 .
# $$ (eq-09-preference)
#
# Two wishes that exclude each other: a bowl on the left, and two wells on the right. In two
# dimensions the exact mean energies follow from a grid.

# %%
bowl = gl.Gaussian([-2.0, 0.0], [1.5, 1.0])
wells = gl.GMM([[2.0, 2.0], [2.0, -2.0]], 0.6, name="two wells")
wishes = Preference([bowl, wells])
compromise = gl.GFNDiffusion(
    wishes,
    config=gl.Config(
        sigma2=6.0,
        steps=40,
        coarse_steps=10,
        iterations=budget(2500),
        exploration=3.0,
        learn_variance=True,
        langevin=True,
        batch_size=256,
        lr=3e-3,
        lr_log_z=1e-2,
    ),
    device="cpu",
).fit()


def front(c, points=300):
    """Exact mean energies, and log Z, at one preference, from a grid."""
    axis = torch.linspace(-8, 8, points)
    x = torch.cartesian_prod(axis, axis)
    energies = wishes.energies(x)
    log_r = -(energies * c).sum(1)
    area = float(axis[1] - axis[0]) ** 2
    mean = (log_r.softmax(0)[:, None] * energies).sum(0)
    return mean, float(log_r.logsumexp(0)) + float(torch.tensor(area).log())


# %% mystnb={"figure": {"name": "fig-09-pareto", "caption": "Left: mean energies of the sampler (dots) and exact ones (line), as the preference moves from one wish to the other. Right: samples at three preferences."}, "image": {"alt": "Left: dots on a falling curve in the plane of the two mean energies. Right: three clouds of samples, left, spread, and in two wells on the right."}}
share = torch.linspace(0.02, 0.98, 49)
line = torch.stack([front(torch.stack((s, 1 - s)))[0] for s in share])
dots, errors = [], []
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4))
for s in share[::8]:
    c = torch.stack((s, 1 - s))
    x = compromise.sample(N, condition=c)
    dots.append(wishes.energies(x).mean(0))
    learned = compromise.log_z(c[None]).item()
    errors.append(abs(learned - front(c)[1]))
left.plot(*line.T, color="black", linewidth=0.8, label="exact")
left.plot(*torch.stack(dots).T, "o", color=gl.plots.BLUE, label="sampler")
left.set(xlabel="mean energy of the bowl", ylabel="of the wells")
left.legend()
left.set_title(f"log Z(c) is off by at most {max(errors):.2f}")
for s, colour in (
    (0.98, gl.plots.BLUE),
    (0.3, gl.plots.GREY),
    (0.02, gl.plots.ORANGE),
):
    x = compromise.sample(600, condition=torch.tensor([s, 1 - s]))
    right.scatter(*x.T, s=4, color=colour, alpha=0.6, label=f"bowl {s:.0%}")
right.set(aspect="equal", xlabel="$x_1$", ylabel="$x_2$")
right.legend(markerscale=2)
right.set_title("One network, every compromise")
plt.show()

# %% [markdown]
# ## What went wrong
#
# - **A wish that few data grant.** Importance resampling and relative balance reweigh what the model
#   makes. Where the wish is far from the data, the weights of a thousand samples are one sample's,
#   and model times reward lives in the model's tail, where its network was never trained. Where the
#   reward is flat wherever the model goes, training has nothing to climb.
# - **A weight that is too large.** Early in a training the squared imbalances are in the hundreds,
#   and $\mathcal L_{\text{simple}}$ is below one: at equal weights the data are hardly heard. The
#   sweep above says what that costs.
# - **A log-density that only the notebook had.** Sampling the tilted density by TB needs
#   $\log p(x)$. Of real data nobody knows it; that is what relative balance is for.
#
# ## In five lines
#
# 1. Guidance adds $+\lambda \sigma \sqrt{1 - \bar\alpha_k}\, \nabla E$ to the predicted noise; the
#    other sign climbs the energy.
# 2. It does not sample $p\, e^{-\lambda E}$; weighed against the model, it would say so.
# 3. A model of data is already a sampler: train it on with an energy, and bounds come with it.
# 4. Relative trajectory balance samples model times reward, and needs no density of the data.
# 5. Labels guide too, at a price in diversity, and one conditional sampler serves all preferences.
#
# ## Exercises
#
# **1.** Guide with the *exact* predictor of the nine Gaussians in place of the network's. Is the bias
# the network's or the method's?
#
# :::{dropdown} Solution
# The method's: the distance stays about what it was.
# ```python
# from gfnlite.diffusion import exact_predictor
#
# exact_noise = exact_predictor(data, noising)
# x = model.sample(N, predictor=guided(exact_noise, noising, wish))
# print(gl.w2(x, exact))
# ```
# :::
#
# **2.** Clip the gradient's norm at $c = 0.3$. What happens to the samples, and for which energies would
# one need that?
#
# :::{dropdown} Solution
# All longer pulls become equally weak, whatever the distance: far modes keep more of their mass.
# One needs it where the gradient explodes, as that of a hard wall or of a classifier on noise does.
# ```python
# weak = guided(model.predictor(), noising, wish, clip=0.3)
# print(tilted.modes_of(model.sample(N, predictor=weak)).mean(0))
# ```
# :::
#
# **3.** Move the centre of the wish to $(12, 12)$, outside the data. Compare the effective sample
# size of the model's weights with that of relative balance after training.
#
# :::{dropdown} Solution
# The model's own weights have collapsed onto one mode; relative balance moves the sampler there.
# ```python
# def far_wish(x):
#     return (x - 12).square().sum(-1) / (2 * width2)
#
#
# before = RelativeSampler(model, far_wish).log_weight(N)
# trained = RelativeSampler(model, far_wish).fit(budget(500))
# after = trained.log_weight(N)
# print(gl.ess(before), gl.ess(after))
# ```
# :::
#
# ## Sources
#
# Energy guidance goes back to the classifier guidance of {cite:t}`dhariwal2021`; classifier-free
# guidance is from {cite:t}`ho2022`; relative trajectory balance from {cite:t}`venkatraman2024`;
# preferences as conditions of a generative flow network from {cite:t}`jain2023`. Exact answers and
# measurements are this page's own.
