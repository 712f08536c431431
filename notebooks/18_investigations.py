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
# runs, each of which differs from it in what the line says and in nothing else.
#
# **You will be able to** tell a setting that decides from one that does not matter, and to ask a
# question of your own in five lines of YAML.
#
# **You need** [Results](15_results) and [Manywell](07_manywell). **Time**: 10 minutes to read, seconds
# to run. The runs themselves took minutes to an hour each.
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
import os
from html import escape
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from IPython.display import HTML, Markdown

import gfnlite as gl
from gfnlite.floor import floor
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
COLUMNS = {"delta_log_z": "Δ log Z", "delta_log_z_rw": "Δ log Z (IS)"}


def paper(entry):
    """The paper's row that a question is about."""
    table = published["tasks"][TABLES.get(entry["task"], entry["task"])]
    return table["rows"][entry["against"]]


def number(cell, size=False):
    """A mean and, of several seeds, its deviation."""
    if not cell:
        return "–"
    mean = abs(cell["mean"]) if size else cell["mean"]
    spread = cell["std"]
    return f"{mean:.2f}" + ("" if spread is None else f" ± {spread:.2f}")


def lines(entry):
    """The paper's row, and a line for each of ours."""
    known = paper(entry)
    yield [
        "the paper", entry["against"], "", "5",
        *(number(known.get(name)) for name in COLUMNS), "–", "–", "",
    ]  # fmt: skip
    for row in entry["rows"]:
        changed = ", ".join(f"{k} = {v}" for k, v in row["settings"].items())
        m, p = row["metrics"], row["p"].get("delta_log_z")
        yield [
            row["what"], row["method"], changed, str(len(row["seeds"]) or ""),
            *(number(m.get(name), name.endswith("rw")) for name in COLUMNS),
            number(m.get("eubo")), number(m.get("mode_error")),
            "not run" if not row["seeds"] else "" if p is None else f"{p:.2g}",
        ]  # fmt: skip


def ask(name):
    """A question, what was run, and the answer."""
    entry = ASKED[name]
    head = ["what", "method", "changed", "seeds", *COLUMNS.values()]
    head += ["EUBO", "mode error", "p"]

    def line(tag, cells):
        kinds = ['class="text"' if i < 3 else "" for i in range(len(cells))]
        made = zip(kinds, cells, strict=True)
        return "".join(f"<{tag} {k}>{escape(c)}</{tag}>" for k, c in made)

    rows = "".join(f"<tr>{line('td', row)}</tr>" for row in lines(entry))
    commands = "\n".join(row["command"] for row in entry["rows"])
    kind, _, answer = entry["answer"].partition(": ")
    return HTML(
        f'<table class="ledger"><tr>{line("th", head)}</tr>{rows}</table>'
        f"<p><b>{escape(kind.capitalize())}</b>: {escape(answer)}</p>"
        f"<details><summary>The command of each line of ours</summary>"
        f"<pre>{escape(commands)}</pre></details>"
    )


# %% [markdown]
# In the tables below, *Δ log Z* and *Δ log Z (IS)* are the paper's columns, of 2,000 samples; the EUBO
# and the mode error (see [Results](15_results)) are of 20,000. A line of a single seed has no
# spread and no p; p is that of Welch's test on Δ log Z against the paper's row, not corrected
# for the number of lines. The settings are those of the `full` profile: a line changes what it
# says. All of it is in `reproduce/investigations.yaml` and `reproduce/results/investigations.json`.
#
