"""The notebooks' own contracts: size, parameters, and a caption and alt text for every figure."""

import ast
import dataclasses
import importlib.util
import os
import re
from pathlib import Path
from types import SimpleNamespace

import jupytext
import nbformat
import pytest
import yaml

import gfnlite as gl

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.py"))
BOOK = sorted((Path(__file__).parent.parent / "book").glob("*.md"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in jupytext.read(path).cells if cell.cell_type == "code"]


def parameters(path):
    """Names and annotations of the cell that papermill replaces."""
    cells = [c for c in code_cells(path) if "parameters" in c.metadata.get("tags", [])]
    assert len(cells) == 1
    body = ast.parse(cells[0].source).body
    assert all(isinstance(node, ast.AnnAssign) for node in body), "every parameter has a type"
    assert cells[0].source.count("#") == len(body), "every parameter has a comment"
    return {node.target.id: ast.unparse(node.annotation) for node in body}


def test_from_scratch_is_short_and_needs_no_package():
    source = "\n".join(cell.source for cell in code_cells(NOTEBOOKS[0]))
    lines = [line for line in source.splitlines() if line.strip(" #") and line.strip()[0] != "#"]
    assert NOTEBOOKS[0].stem == "01_from_scratch"
    assert 60 < len(lines) <= 120
    assert "gfnlite" not in source and "import gl" not in source


def too_wide(cells, columns=76):
    """Lines of code, in cells or in the fences of the text, that a page would clip."""
    wide = []
    for cell in cells:
        code = [cell.source]
        if cell.cell_type != "code":
            code = re.findall(r"^```\w+\n(.*?)^```", cell.source, re.DOTALL | re.MULTILINE)
        wide += [line for part in code for line in part.splitlines() if len(line) > columns]
    return wide


@pytest.mark.parametrize("path", [*NOTEBOOKS, *BOOK], ids=lambda path: path.stem)
def test_code_fits_its_column(path):
    # boxes of three colons would be taken for Pandoc's
    cells = jupytext.read(path, fmt="md:markdown" if path.suffix == ".md" else None).cells
    assert too_wide(cells) == []
    code, text = "x" * 77, f"```python\n{'y' * 77}\n```\n{'z' * 90}"
    twins = nbformat.v4.new_code_cell(code), nbformat.v4.new_markdown_cell(text)
    assert too_wide(twins) == ["x" * 77, "y" * 77]


def started(source, monkeypatch, missing=True, fetched=False):
    """What a notebook's first cell does where gfnlite is missing, and the book fetched, or not."""
    done = []
    known = importlib.util.find_spec
    absent = lambda name, *rest: None if missing and name == "gfnlite" else known(name, *rest)  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", absent)
        patch.setattr(os, "system", lambda command: done.append(command) or 0)
        patch.setattr(os, "chdir", lambda folder: done.append(f"cd {folder}"))
        patch.setattr(os.path, "isdir", lambda folder: fetched)
        exec(source, {})
    return done


def first_cell(path):
    """The source of a notebook's first cell of code, which no page shows."""
    cell = code_cells(path)[0]
    assert cell.metadata.get("tags") == ["remove-cell"]
    return cell.source


@pytest.mark.parametrize("path", NOTEBOOKS[1:], ids=lambda path: path.stem)
def test_a_launched_notebook_fetches_the_book_where_it_is_missing(path, monkeypatch):
    config = yaml.safe_load((path.parent.parent / "_config.yml").read_text())
    url = config["repository"]["url"]
    name = url.rsplit("/", 1)[1]
    assert first_cell(path) == first_cell(NOTEBOOKS[1])
    fetch = [f"git clone -q --depth 1 {url}", f"pip install -q './{name}/gfnlite[all]'"]
    move = [f"cd {name}/notebooks"]
    assert started(first_cell(path), monkeypatch, fetched=True) == fetch + move
    assert started(first_cell(path), monkeypatch, missing=False) == []
    # A kernel that is started again begins beside what was fetched.
    assert started(first_cell(path), monkeypatch, missing=False, fetched=True) == move
    twin = first_cell(path).replace("is None", "is not None")
    assert not started(twin, monkeypatch) and started(twin, monkeypatch, missing=False)


@pytest.fixture
def results(monkeypatch):
    """What the cell `helpers` of the results page defines."""
    path = next(path for path in NOTEBOOKS if path.stem == "15_results")
    monkeypatch.chdir(path.parent)
    namespace = {}
    for cell in code_cells(path):
        if "helpers" in cell.metadata.get("tags", []):
            exec(cell.source, namespace)
    return SimpleNamespace(**namespace)


def test_results_page_shows_numbers_as_they_are(results):
    def cell(mean, std):
        return {"mean": mean, "std": std}

    assert results.number(cell(-0.001, 0.004), 2) == "0.00 ± 0.00"
    assert results.number(cell(-0.006, None), 2) == "-0.01"
    assert results.number(None) == results.published(None) == "–"
    assert results.published(cell(0.86, 0.1)) == "0.86 ± 0.10"
    assert results.published(cell(0.569, 0.01)) == "0.569 ± 0.010"
    assert results.published(cell(0.0, None)) == "0"
    row = {"commit": "0123456789abcdef+changes, fedcba"}
    assert results.commits(row) == "0123456789+changes, fedcba"
    assert "<td>&lt;b&gt;</td>" in results.table(["a"], [["<b>"]]).data
    table = results.table(["a", "b", "c"], [["1", "2"], ["3", "4", "5"]], words=(1,)).data
    assert '<tr><td>1</td><td class="text" colspan="2">2</td></tr>' in table
    assert '<tr><td>3</td><td class="text">4</td><td>5</td></tr>' in table


def test_results_page_shows_each_cell_and_counts_it(results):
    def cell(mean):
        return {"mean": mean, "std": 0.1, "values": [mean] * 5}

    def judged(verdict, reason="none", wider=False):
        about = {"metric": "w2", "verdict": verdict, "p": None, "reason": reason}
        return about | {"wider": wider}

    def row(method, seeds, verdict, reason, cells):
        mine = {"seeds": seeds, "profile": "full", "metrics": {"w2": cell(2.0)} if seeds else {}}
        paper = {"w2": {"mean": 1.0, "std": 0.1}, "log_z": None}
        about = {"method": method, "paper": paper, "verdict": verdict, "reason": reason}
        about |= {"command": f"run {method}", "estimate": 240.0}
        return about | mine | {"verdicts": cells}

    why = "explained: <why>"
    rows = [
        row("A", [0, 1], "worse", why, {"w2": judged("worse", why)}),
        row("B", [0, 1], "better", "open", {"w2": judged("better", "open")}),
        row("C", [0, 1], "matches", "none", {"w2": judged("not comparable", "explained: noise")}),
        row("D", [], "not run", "none", {"w2": judged("not run")}),
        row("E", [0, 1], "matches", "none", {"w2": judged("matches", wider=True)}),
        row("F", [], "not run", "none", {"w2": judged("not run")}) | {"command": None},
    ]
    html = results.ledger({"rows": rows, "notes": {"w2": "<other>"}}).data
    assert "W2: &lt;other&gt;" in html
    assert "2.000 ± 0.100, worse</td>" in html and "explained: &lt;why&gt;" in html
    assert "W2 of C: not comparable, explained: noise" in html
    assert "not run: 4 min of one core" in html and html.count("not run") == 2
    assert "seeds spread more than the paper&#x27;s: W2" in html
    assert html.count("<tr>") == 1 + 6 + 4 + 4 + 1
    # cells, filled, match, wider, better, worse, explained, open, not comparable, not run, others'
    assert results.tally("25gmm", {"rows": rows})[1:] == list("64111111111")
    assert results.columns({"rows": rows}) == ["w2", "log_z"]
    assert results.columns({"rows": [rows[0] | {"paper": None}]})[0] == "delta_log_z"


def test_results_page_says_what_its_tests_could_not_find(results):
    def row(method, half, verdict="matches", p=0.5):
        cell = {"verdict": verdict, "p": p, "difference": p and [-half, half]}
        return {"method": method, "verdicts": {"w2": cell}, "paper": {"w2": {"mean": 2.0}}}

    rows = [row("A", 0.9), row("B", 1.1), row("C", 0.1, "worse"), row("D", 9, "not run", None)]
    text = results.differences("25gmm", {"rows": rows})
    assert "no difference found in 2 of 3 cells. Compatible with much, 1 of them: B W2." in text
    assert "Compatible" not in results.differences("x", {"rows": rows[:1]})
    assert not results.differences("x", {"rows": rows[3:]})


def test_results_page_shows_the_size_of_a_signed_mean(results):
    cell = {"mean": -0.5, "std": 0.1}
    row = {"metrics": {"delta_log_z_rw": cell, "elbo": cell}, "verdicts": {}}
    assert results.ours(row, "delta_log_z_rw") == "0.500 ± 0.100"
    assert results.ours(row, "elbo") == "-0.500 ± 0.100"


@every_notebook
def test_every_figure_has_its_name_caption_and_alt_text(path):
    for cell in code_cells(path):
        drawn = "plt.show()" in cell.source
        figure = cell.metadata.get("mystnb", {})
        assert drawn == bool(figure.get("figure")), cell.source
        if drawn:
            assert figure["figure"]["name"] and len(figure["figure"]["caption"]) > 40
            assert len(figure["image"]["alt"]) > 30


def test_overrides_of_the_25gmm_notebook_are_settings_and_off_by_default():
    path = next(path for path in NOTEBOOKS if path.stem == "04_25gmm")
    names = parameters(path)
    fixed = {"task": "str", "method": "str", "profile": "str", "seeds": "list"}
    assert {name: names.pop(name) for name in fixed} == fixed
    assert names.pop("out_dir") == names.pop("track") == "str | None"
    assert names.pop("settings") == "dict"
    hints = {field.name: field.type for field in dataclasses.fields(gl.Config)}
    for name, annotation in names.items():
        kind = hints[name].__name__ if isinstance(hints[name], type) else str(hints[name])
        assert annotation == f"{kind.removesuffix(' | None')} | None"
