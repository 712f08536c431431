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
# # Investigations: one setting at a time
#
# A number of a published table depends on a dozen settings, and a paper names half of them. When a row
# comes out otherwise, or others report that it does, which of them is it? The only way to know is to
# change one, run the row again as long as the paper did, and look.
#
# :::{admonition} At a glance
# **You will** see, for each question that the [tables](15_results) raise, the row of the paper and our
# runs, each of which differs from it in what its line says and in nothing else.
#
# **You will be able to** tell a setting that decides from one that does not matter, and to ask a
# question of your own in five lines of YAML.
#
# **You need** [Results](15_results) and [Manywell](07_manywell). **Time**: 10 minutes to read, seconds
# to run. The runs themselves took minutes on a GPU, up to an hour a seed on a shared core.
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
import os
from html import escape
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.display import HTML, Markdown

import gfnlite as gl
from gfnlite.floor import floor, has_floor
from gfnlite.forest import interval
from gfnlite.plots import BLUE, GREEN, GREY, ORANGE

gl.plots.style()
here = Path.cwd()
ROOT = next(
    folder
    for folder in (here, *here.parents)
    if (folder / "reproduce" / "published.json").exists()
)
FOLDER = ROOT / "reproduce" / "results"
told = json.loads((FOLDER / "investigations.json").read_text())
ASKED = {entry["name"]: entry for entry in told["investigations"]}
published = json.loads((ROOT / "reproduce" / "published.json").read_text())
TABLES = {"manywell32": "manywell"}  # where the paper's name is another


def paper(entry):
    """The paper's row that a question is about."""
    table = published["tasks"][TABLES.get(entry["task"], entry["task"])]
    return table["rows"][entry["against"]]


def columns(entry):
    """The paper's columns that a question looks at."""
    if entry["task"] == "vae":
        return {"log_z": "ELBO", "log_z_rw_pooled": "IS, pooled"}
    shown = {"delta_log_z": "Δ log Z", "delta_log_z_rw": "Δ log Z (IS)"}
    return shown | {"w2": "W₂"}


def number(cell, size=False):
    """A mean and, of several seeds, its deviation."""
    if not cell:
        return "–"
    mean = abs(cell["mean"]) if size else cell["mean"]
    shown = [mean] if cell["std"] is None else [mean, cell["std"]]
    digits = 0 if max(map(abs, shown)) >= 1000 else 2  # one that diverged
    return " ± ".join(f"{v:,.{digits}f}" for v in shown)


def lines(entry):
    """The paper's row, and a line for each of ours."""
    known, names = paper(entry), columns(entry)
    of_paper = [number(known.get(name)) for name in names]
    yield [("the paper", entry["against"]), "5", *of_paper, "–", "–"]
    for row in entry["rows"]:
        changed = [f"{k} {v}" for k, v in row["settings"].items()]
        seeds, m = len(row["seeds"]), row["metrics"]
        tested = {name: f"p {p:.2g}" for name, p in row["p"].items()}
        yield [
            (row["what"], ", ".join([row["method"], *changed])),
            str(seeds) if seeds else ("not run", cost(row["estimate"])),
            *((value(m, name), tested.get(name, "")) for name in names),
            number(m.get("eubo")),
            (number(m.get("mode_error")), modes(m)),
        ]


def cost(seconds):
    """What a run would take."""
    if seconds is None:
        return "cost unknown"
    minutes = seconds / 60
    long = (
        f"{minutes / 60:.1f} h" if minutes >= 90 else f"{minutes:.0f} min"
    )
    return f"{long} of one core"


def modes(metrics):
    """How many of the modes are found, on average."""
    if not metrics.get("modes"):
        return ""
    found, of = (metrics[name]["mean"] for name in ("modes", "n_modes"))
    return f"{found:.3g} of {of:g}"


def value(metrics, column):
    """What of ours stands in a column of the paper's."""
    if column == "log_z":  # of images: their mean
        return number(metrics.get("paper_elbo") or metrics.get("elbo"))
    return number(metrics.get(column), size=column == "delta_log_z_rw")


def ask(name):
    """A question, what was run, and the answer."""
    entry = ASKED[name]
    head = ["run", "seeds", *columns(entry).values()]
    head.append("EUBO")
    if any(modes(row["metrics"]) for row in entry["rows"]):
        head.append("mode error")

    def text(cell):
        if isinstance(cell, str):
            return escape(cell)
        main, small = map(escape, cell)
        dim = '<span style="opacity:0.75">'
        return f"{main}<br>{dim}{small}</span>" if small else main

    def line(cells):
        first, *rest = map(text, cells[: len(head)])
        made = "".join(f"<td>{cell}</td>" for cell in rest)
        return f'<tr><td class="text">{first}</td>{made}</tr>'

    top = "".join(f"<th>{escape(word)}</th>" for word in head)
    rows = "".join(line(cells) for cells in lines(entry))
    commands = "\n".join(row["command"] for row in entry["rows"])
    kind, _, answer = entry["answer"].partition(": ")
    return HTML(
        f'<table class="ledger"><tr>{top}</tr>{rows}</table>'
        f"<p><b>{escape(kind.capitalize())}</b>: {escape(answer)}</p>"
        f"<details><summary>The command of each line of ours</summary>"
        f"<pre>{escape(commands)}</pre></details>"
    )


# %% [markdown]
# In the tables below, *Δ log Z*, *Δ log Z (IS)* and $W_2$ are the paper's columns, of 2,000 samples; the
# EUBO, the mode error and how many modes are found (see [Results](15_results)) are of 20,000. A mode
# error that is large with all modes found means that their shares are wrong. Below a value stands
# the p of Welch's test against the same column of the paper's row of that method, not corrected for
# the number of cells; a line of a single seed has no spread and no p. A large p says that no
# difference was found, with three or five seeds, and not that there is none. The settings are those
# of the `full` profile: a line changes what it says. All of it is in `reproduce/investigations.yaml` and `reproduce/results/investigations.json`.
#
# %% tags=["hide-input"]
def draw(name, title):
    """Δ log Z of each line beside the paper's row, and the floor."""
    entry = ASKED[name]
    known = paper(entry)["delta_log_z"]
    ran = [row for row in entry["rows"] if row["seeds"]]
    figure, ax = plt.subplots(figsize=(7.6, 1.4 + 0.42 * len(ran)))
    style = {"color": ORANGE, "alpha": 0.25, "linewidth": 0}
    low, high = interval(known, runs=5)
    ax.axvspan(low, high, label="paper, 95% interval", **style)
    for y, row in enumerate(reversed(ran)):
        values = row["metrics"]["delta_log_z"]["values"]
        ax.plot(values, [y] * len(values), "o", color=BLUE, markersize=5)
        config = gl.preset(
            entry["task"], row["method"], "full", row["settings"]
        )
        if (least := least_error(entry["task"], config)) is not None:
            ax.plot([least] * 2, [y - 0.4, y + 0.4], "--", color=GREEN)
    ax.plot([], [], "o", color=BLUE, label="ours, each seed")
    ax.plot([], [], "--", color=GREEN, label="floor of the variance")
    names = []
    for row in reversed(ran):
        changed = [f"{k} {v}" for k, v in row["settings"].items()]
        names.append(", ".join(changed) or "as the paper says")
    ax.set_yticks(range(len(ran)), names)
    ax.set(
        xscale="log", xlabel="Δ log Z (nats)", ylim=(-0.6, len(ran) - 0.4)
    )
    ax.xaxis.set_major_formatter(plt.FormatStrFormatter("%g"))
    ax.xaxis.set_minor_formatter(plt.NullFormatter())
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    ax.set_title(title)


def least_error(task, config):
    """The least Δ log Z of these settings, where it is known."""
    if not has_floor(config):
        return None
    return floor(gl.named_target(task), config.steps, config.sigma2)


# %% [markdown]
# ## Which settings give the paper's local search on Manywell?
#
# The paper has $\Delta \log Z = 4.57 \pm 2.13$ for TB with exploration and local search
# {cite:p}`sendera2024`; a later paper, with a wider network, has 1.58 {cite:p}`kim2025scalable`. Every detail
# that the text and the public code leave open is a candidate. Exploration is the first. The paper's
# "0.2" a step {cite:p}`sendera2024` is $e = 4$ in [our unit](../book/notation), and fades over the first
# half of the training. The command for this row, in the README of the code, says half of that
# standard deviation, a quarter of the variance: $e = 1$; and the code lets it fade over the first 5,000 iterations, whatever the length of the
# training. Replay is the second. That code draws a whole buffer of indices by rank, and uses them up
# over thousands of steps; meanwhile each local search pushes 30,000 new states in and as many old ones
# out, so that an index soon points to another state than the one whose rank it was drawn by. What is
# replayed then prefers hardly anything, as in our line with uniform replay.

# %% tags=["hide-input"]
ask("local-search")

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-investigations-search", "caption": "The error of TB+Expl+LS on Manywell, d = 32, with one setting changed at a time; the band is the 95% interval of the paper's mean, the dashed green line what the fixed variance costs at least."}, "image": {"alt": "Dot plot on a logarithmic axis with a line for each setting and a band for the published value."}}
draw("local-search", "With a quarter of the exploration no seed diverges")
plt.show()

# %% [markdown]
# ## Do TB, PIS and VarGrad lose every minor mode?
#
# [Manywell](07_manywell) derives what a sampler shows that never visits the smaller mode of any well:
# both errors are {math}`-16 \log(1 - m)` plus, for the ELBO, the floor of a fixed variance; and the mode
# error is $m$, the share of a left well.

# %% tags=["hide-input"]
wells = gl.named_target("manywell32")
m = wells.mode_mass[0].item()
lost = wells.log_z + 16 * math.log(1 - m)
Markdown(
    f"A complete collapse: Δ log Z (IS) {wells.log_z - lost:.3f}, "
    f"mode error {m:.3f}. The floor of the fixed variance over both modes: "
    f"{floor(wells, 100, 1.0):.3f}."
)

# %% tags=["hide-input"]
ask("collapse")

# %% [markdown]
# ## Where do errors of ten to fifteen come from?
#
# A user of the public code reports errors of *both* columns "consistently around 10–15" on Manywell,
# with several methods ([issue 6](https://github.com/GFNOrg/gfn-diffusion/issues/6), May 2025, closed; we
# know of no answer). Two things of that code could do this to every row at once. Its default variance is
# $\sigma^2 = 5$, and only the commands in its README set the paper's 1 for this target; and a later
# version of it trains on random time grids unless told otherwise, and divides the logarithm of the
# exploration by $\sqrt{\Delta t}$, which leaves none of it. The floor of the variance alone says how far the first
# goes:

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-investigations-floor", "caption": "The least error that any drift reaches on Manywell, d = 32, with a fixed variance and 100 steps, and the same on top of a complete collapse. Computed by dynamic programming, not trained."}, "image": {"alt": "Two rising curves of the error against the process's variance, the upper one by the constant cost of a collapse."}}
SMOKE = os.environ.get("GFNLITE_PROFILE") == "smoke"
variances = [1.0, 5.0] if SMOKE else [0.5, 1.0, 2.0, 3.0, 5.0, 8.0]
floors = [floor(wells, 100, v) for v in variances]
collapsed = [f + wells.log_z - lost for f in floors]
figure, ax = plt.subplots(figsize=(6.4, 3.6))
ax.plot(variances, floors, "o-", color=BLUE, label="all modes")
ax.plot(
    variances,
    collapsed,
    "s--",
    color=ORANGE,
    label="about, after a collapse",
)
ax.axhspan(10, 15, color=GREY, alpha=0.2, linewidth=0, label="reported")
ax.set(xlabel="σ² of the process", ylabel="least Δ log Z (nats)", ylim=0)
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
at = dict(zip(variances, floors, strict=True))
ax.set_title(f"At σ² = 5 no drift gets below {at[5.0]:.1f} nats")
plt.show()

# %% [markdown]
# ("About": inside the modes that it keeps, a collapsed sampler pays a little less.) And the runs:

# %% tags=["hide-input"]
ask("ten-to-fifteen")

# %% [markdown]
# ## The posterior of an autoencoder: images and networks
#
# Here the decoder is our own, and with it the truth: about as far above the encoder as the paper's
# {cite:p}`sendera2024`, so that the distance to the truth may be looked at, if not tested: the mean of
# log Z over the images stands in [Results](15_results). *IS, pooled* is the paper's estimate, one
# trajectory of each of a hundred images in one mean. Two things are
# open in the text: whether a batch of 300 counts images or trajectories (the public code has 300
# images; of each, for VarGrad, the text has ten trajectories and the README of the code five), and the network (that code joins image and state
# in a perceptron of its own before time comes in; ours adds three embeddings up, as on the other
# targets).

# %% tags=["hide-input"]
ask("images-in-a-batch")

# %% tags=["hide-input"]
ask("network-of-the-posterior")

# %% [markdown]
# ## The score in reverse KL, and VarGrad with everything
#
# PIS with the score ends further from $\log Z$ than the paper's on 25GMM, and nearer on Manywell. Its loss
# is differentiated along the trajectory, and so through the score in the drift, which takes second
# derivatives of the energy; the public code detaches that score (our setting `detach_score`). With
# exploration, score and local search, VarGrad's seeds spread more than the paper's on the Funnel and on
# Manywell. There the exploration is as uncertain as above, and decides on Manywell alone.

# %% tags=["hide-input"]
ask("pis-lp")

# %% tags=["hide-input"]
ask("pis-lp-manywell")

# %% tags=["hide-input"]
ask("funnel-spread")

# %% tags=["hide-input"]
ask("manywell-spread")

# %% [markdown]
# ## In five lines
#
# 1. A published number is a number *and* its settings; half of them are in the code alone.
# 2. One setting at a time, at the full length of training: short runs have other optima.
# 3. A floor that can be computed rules out, or explains, before anything is trained.
# 4. Of several seeds, one that diverges is a result; a mean over it is none.
# 5. Where no run gives the published number, the question is open, and says so.
#
# ## Exercises
#
# **1.** Add a question of your own to `reproduce/investigations.yaml`. What has to be run, and what
# fills the table?
#
# :::{dropdown} Solution
# ```yaml
# - name: width
#   question: Does a wider network mend TB+Expl+LS on Manywell?
#   task: manywell32
#   against: TB+Expl+LS
#   rows:
#     - what: four times as wide
#       method: TB+Expl+LS
#       set: {hidden: 256}
#       seeds: [0]
#   answer: "open: not run"
# ```
# The command of the line is that of any run with a changed setting; then `report` fills the results.
# ```bash
# python -m reproduce run --profile full --seeds 0 \
#     --only task=manywell32 method=TB+Expl+LS --set hidden=256
# python -m reproduce report
# ```
# :::
#
# **2.** The public code divides the logarithm of the exploration's variance by $\sqrt{\Delta t}$ instead
# of adding $-\log \Delta t$ to it. With a standard deviation of $1/5$ a step and $T = 100$, how much
# variance per unit time is left of $e = 4$?
#
# :::{dropdown} Solution
# Next to nothing:
# ```python
# meant = 0.2**2 / 0.01
# left = math.exp(2 * math.log(0.2) / 0.01**0.5)
# print(f"meant {meant:.0f}, left {left:.1e}")
# ```
# :::
#
# **3.** Suppose that two lines of a table have three seeds each. Their mean errors differ by one nat, and
# both deviations are one nat. Would you say that the setting matters?
#
# :::{dropdown} Solution
# Not yet: by chance alone a difference of that size is common.
# ```python
# from scipy.stats import ttest_ind_from_stats
#
# p = ttest_ind_from_stats(1, 1, 3, 2, 1, 3, equal_var=False).pvalue
# print(f"p = {p:.2f}")
# ```
# :::
#
# ## What went wrong
#
# - **A match that was none.** One diverged seed made the spread of a row so wide that Welch's test could
#   not tell its mean from the paper's. The tables now say where our seeds spread more than the paper's
#   runs.
# - **A batch ten times too small.** The first of the autoencoder's rows was trained on thirty images a
#   batch, since 300 was taken to count trajectories; the public code counts images. It stays, as a
#   line of its own.
#
# ## Sources
#
# The paper's rows: {cite:t}`sendera2024`. Later results on the same target: {cite:t}`kim2025scalable`. The
# public code, [GFNOrg/gfn-diffusion](https://github.com/GFNOrg/gfn-diffusion), was read, not run.
