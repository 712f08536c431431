"""The notebooks' own contracts: size, parameters, and a caption and alt text for every figure."""

import ast
import dataclasses
from pathlib import Path

import jupytext
import pytest

import gfnlite as gl

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.py"))
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
    assert names.pop("out_dir") == "str | None"
    hints = {field.name: field.type for field in dataclasses.fields(gl.Config)}
    for name, annotation in names.items():
        kind = hints[name].__name__ if isinstance(hints[name], type) else str(hints[name])
        assert annotation == f"{kind.removesuffix(' | None')} | None"
