"""The house: its rooms, its pairs of notebooks, its pins and its links."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

import gfnlite as gl

ROOT = Path(__file__).parent.parent
ROOMS = set(
    "book notebooks gfnlite reproduce tests _config.yml _toc.yml requirements.txt README.md LICENSE"
    .split()
)  # fmt: skip
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))


def tracked():
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [Path(line) for line in done.stdout.splitlines()]


def test_top_level_holds_the_named_rooms_only():
    names = {path.parts[0] for path in tracked()}
    assert {name for name in names if not name.startswith(".")} == ROOMS


def differences(source, paired):
    """What tells the paired notebook from its source: cells, kinds, metadata, or outputs."""
    found = []
    keep = ("tags", "mystnb")
    for cells in (source.cells, paired.cells):
        for cell in cells:
            kept = {key: cell.metadata[key] for key in keep if cell.metadata.get(key)}
            found.append((cell.cell_type, cell.source.strip(), json.dumps(kept, sort_keys=True)))
    half = len(source.cells)
    wrong = [] if found[:half] == found[half:] else ["cells"]
    if any(cell.get("outputs") or cell.get("execution_count") for cell in paired.cells):
        wrong.append("outputs")
    return wrong


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_pairs_hold_the_same_cells_and_no_outputs(path):
    source = jupytext.read(path)
    paired = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(paired)
    # If this fails: jupytext --to ipynb --update notebooks/*.py
    assert differences(source, paired) == []
    paired.cells[1].source += "\n1"
    assert differences(source, paired) == ["cells"]


def test_every_notebook_has_its_source():
    paired = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert paired == {path.stem for path in SOURCES}


def test_requirements_are_exact():
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        line = line.split("#")[0].strip()
        assert not line or line == "-e ./gfnlite" or re.fullmatch(r"[\w-]+==[\w.]+", line), line


def broken_links(page):
    targets = re.findall(r"\]\(([^)#\s]+)\)", page.read_text())
    local = [t for t in targets if not re.match(r"https?:|mailto:", t)]
    suffixes = ("", ".md", ".ipynb")
    return [t for t in local if not any((page.parent / f"{t}{s}").exists() for s in suffixes)]


@pytest.mark.parametrize("page", [ROOT / "README.md", *(ROOT / "book").glob("*.md"), *SOURCES],
                         ids=lambda page: page.name)  # fmt: skip
def test_links_to_files_lead_somewhere(page, tmp_path):
    assert broken_links(page) == []
    twin = tmp_path / "page.md"
    twin.write_text("[a](nowhere)")
    assert broken_links(twin) == ["nowhere"]


def test_files_of_the_package_stay_small():
    for path in (ROOT / "gfnlite").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 300, path


def test_public_names_say_what_they_are():
    for name in gl.__all__:
        public = getattr(gl, name)
        if callable(public) or name == "plots":
            assert public.__doc__, name


def test_installed_package_is_this_one(tmp_path):
    # A fresh, isolated Python sees no folder `gfnlite` at the root, only what pip has installed.
    command = [sys.executable, "-I", "-c", "import gfnlite; print(gfnlite.__file__)"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert Path(found.stdout.strip()).parent == ROOT / "gfnlite", found.stderr
