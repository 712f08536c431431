"""The exercises: every solution runs after the cells of its chapter, in the smoke profile."""

import os
import re
from pathlib import Path

import jupytext
import matplotlib
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.py"))
SOLUTION = re.compile(r"^:::\{dropdown\} Solution\b.*?\n(.*?)^:::$", re.DOTALL | re.MULTILINE)
FENCE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def solutions(cells):
    """The code of each solution, with its number."""
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return [
        (f"solution {number}", code)
        for number, found in enumerate(SOLUTION.findall(text), 1)
        for code in FENCE.findall(found)
    ]


def run(name, cells):
    """Run the cells in one namespace, then each solution in a copy of it; what fails, by name."""
    namespace, wrong = {"__name__": "__main__"}, {}
    for number, cell in enumerate((c for c in cells if c.cell_type == "code"), 1):
        exec(compile(cell.source, f"{name}, cell {number}", "exec"), namespace)
    matplotlib.pyplot.close("all")
    for what, code in solutions(cells):
        torch.manual_seed(0)
        try:
            exec(compile(code, f"{name}, {what}", "exec"), dict(namespace))
        except Exception as error:
            wrong[what] = repr(error)
        matplotlib.pyplot.close("all")
    return wrong


@pytest.fixture(autouse=True)
def as_a_reader(monkeypatch):
    """In the notebooks' folder, in the smoke profile, without a window and without traces."""
    monkeypatch.setenv("GFNLITE_PROFILE", "smoke")
    monkeypatch.setenv("GFNLITE_STATIC", "1")
    monkeypatch.chdir(NOTEBOOKS[0].parent)
    matplotlib.use("Agg")
    with matplotlib.rc_context(), torch.random.fork_rng(devices=[]):
        yield


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_solutions_run(path):
    cells = jupytext.read(path).cells
    assert run(path.stem, cells) == {}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_chapter_has_three_to_five_exercises_with_solutions(path):
    text = "\n\n".join(c.source for c in jupytext.read(path).cells if c.cell_type == "markdown")
    assert text.count("## Exercises") == 1
    asked = re.findall(r"^\*\*\d\.\*\* ", text.split("## Exercises")[1], re.MULTILINE)
    assert 3 <= len(asked) <= 5 and len(asked) == len(SOLUTION.findall(text))


def test_a_solution_that_raises_is_found():
    text = """**1.** One

:::{dropdown} Solution
It builds on the chapter, and leaves it as it was.
```python
a += 1
assert a == 2
```
:::

:::{dropdown} Proof
```python
raise RuntimeError("no solution: not run")
```
:::

**2.** Two

:::{dropdown} Solution
```python
assert a == 2, a
```
```python
b = not_there
```
```bash
no python
```
:::"""
    cells = [new_code_cell("a = 1"), new_markdown_cell(text)]
    assert [name for name, _ in solutions(cells)] == ["solution 1", "solution 2", "solution 2"]
    found = run("twin", cells)
    assert list(found) == ["solution 2"] and "not_there" in found["solution 2"]
    assert os.environ["GFNLITE_PROFILE"] == "smoke"
