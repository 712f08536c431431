"""Runs and results from elsewhere: no path of theirs leads outside, no name is HTML on a page."""

import ast
import base64
import contextlib
import copy
import html.parser
import io
import json
import os
import shutil
import subprocess
from pathlib import Path

import jupytext
import matplotlib.pyplot as plt
import nbformat
import pytest
from click.testing import CliRunner
from markdown_it import MarkdownIt
from PIL import Image
from test_report import finish, house, runs  # noqa: F401

import gfnlite as gl
from reproduce import experiments, pictures, pool, report, runner, show, state
from reproduce.__main__ import main
from reproduce.lock import locked

ROOT = Path(__file__).parent.parent


def png(path, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path, "PNG")
    return path


@pytest.fixture
def run(house):  # noqa: F811
    """A finished run that a stranger may have sent."""
    run = finish(next(run for run in runs() if run.method == "TB+Expl"))
    png(run.folder / "samples.png")
    return run


def told(*words):
    return CliRunner().invoke(main, words)


# ---------------------------------------------------------------- paths


@pytest.mark.parametrize("key", ["task", "profile"])
@pytest.mark.parametrize("value", ["../../../pwned", "/pwned", "a\0b", "<b>", "", ["25gmm"], None])
def test_results_go_into_files_of_known_names_only(run, house, key, value):  # noqa: F811
    about = json.loads((run.folder / "config.json").read_text())
    del about["config"]  # of which nobody could tell whether it is stale
    gl.write_json(run.folder / "config.json", about)
    assert len(report.collect([])) == 1  # the twin: so far it is a run like others
    gl.write_json(run.folder / "config.json", about | {key: value})
    notes = []
    assert report.collect(notes) == [] and len(notes) == 1 and run.name in notes[0]
    assert told("collect").exit_code == 0
    assert not [*house.parent.glob("*pwned*"), *house.rglob("*pwned*")]


def linked(place, outside):
    """Put in the place of a file or folder a link to what it was, outside."""
    shutil.move(place, outside)
    place.symlink_to(outside)


READ = ["", "config.json", "run.json", "seed-0", "seed-0/metrics.json"]  # by `collect`
PLACES = [*READ, "samples.png", "emblem.svg", "wandb"]


@pytest.mark.parametrize("place", PLACES)
def test_a_link_out_of_a_run_is_not_followed(run, tmp_path, place):
    (run.folder / "emblem.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    (run.folder / "wandb").mkdir()
    assert len(report.collect([])) == 1 and runner.why_not(run) == "done already"
    linked(run.folder / place, tmp_path / "outside")
    notes = []
    rows = report.collect(notes)
    assert len(rows) == (place not in READ)
    if not rows:
        assert notes[0].endswith(f"{Path(run.name, place)} is a symbolic link that leads out of it")
    written = [path.name for path in report.write_committed(rows, [])]
    assert report.PICTURES.get(place, place) not in written
    assert "25gmm.png" in written or place not in (
        "emblem.svg",
        "wandb",
    )  # a picture that is its own
    assert "leads out of the run's folder" in runner.why_not(run)
    with pytest.raises(experiments.BadInput, match="a symbolic link that leads out"):
        show.find(run.name)


@pytest.mark.parametrize("seed", ["x/link/sub", "0/../../../outside", "0", -1, True, None, 0.0])
def test_a_seed_is_no_path(run, tmp_path, seed):
    outside = tmp_path / "outside" / "sub"
    outside.mkdir(parents=True)
    for folder in (outside, outside.parent):
        shutil.copy(run.folder / "seed-0/metrics.json", folder)
    (run.folder / "seed-x").mkdir()
    (run.folder / "seed-x/link").symlink_to(outside.parent)
    record = json.loads((run.folder / "run.json").read_text()) | {"seeds": [seed], "commits": {}}
    gl.write_json(run.folder / "run.json", record)
    notes = []
    assert report.collect(notes) == [] and notes[0].endswith("is no seed")


def test_a_run_with_a_link_out_of_it_is_not_executed(house, tmp_path, monkeypatch):  # noqa: F811
    (run,) = [run for run in runs() if run.method == "TB"]
    run.folder.mkdir(parents=True)
    (tmp_path / "precious").write_text("mine")
    (run.folder / ".notebook.ipynb").symlink_to(tmp_path / "precious")
    asked = []
    monkeypatch.setattr(pool, "run_all", lambda runs, *_: asked.extend(runs) or {})
    said = told("run", "--only", "task=25gmm", "method=TB")
    assert asked == []
    assert said.exit_code == 1 and "left alone: " in said.output, said.output
    assert (tmp_path / "precious").read_text() == "mine"
    assert [path.name for path in run.folder.iterdir()] == [".notebook.ipynb"]


def test_a_link_inside_of_a_run_is_one_of_its_files(run):
    (run.folder / "latest").symlink_to("seed-0")
    (run.folder / "wandb").mkdir()  # whose client keeps its own logs elsewhere, and links to them
    (run.folder / "wandb/debug.log").symlink_to("/elsewhere/debug.log")
    assert len(report.collect([])) == 1 and runner.why_not(run) == "done already"


FIRST = {
    ".lock": lambda run: locked(run.folder).__enter__(),
    "log.txt": lambda run: pool._work(run, None, None, os.getpid(), None),
}


@pytest.mark.parametrize("name, use", FIRST.items(), ids=FIRST)
def test_what_is_written_first_follows_no_link(run, tmp_path, monkeypatch, name, use):
    for harmless in ("signal.signal", "signal.pthread_sigmask", "os.setsid", "os.dup2"):
        monkeypatch.setattr(f"reproduce.pool.{harmless}", lambda *_: None)
    monkeypatch.setattr(pool, "end_with", lambda *_: None)
    monkeypatch.setattr(runner, "execute", lambda *_: pytest.fail("it went on"))

    class Teller:
        send = staticmethod(lambda said: pytest.fail(said))

    (run.folder / name).symlink_to(tmp_path / "made")
    with pytest.raises((OSError, AttributeError)):  # which a worker tells, if there is whom
        use(run)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["../../secret", "/secret", "a\0b", "..", ".", ""])
def test_a_picture_is_only_looked_for_among_the_runs(run, house, name):  # noqa: F811
    png(house / "secret/samples.png")
    name = str(house / "secret") if name == "/secret" else name
    before = sorted(house.rglob("*"))
    assert report._write_pictures([name], []) == []
    assert sorted(house.rglob("*")) == before
    (made,) = report._write_pictures([run.name], [])
    assert made == report.FOLDER / "pictures" / f"{run.name}.webp"
    linked(run.folder / "samples.png", house / "outside.png")
    made.unlink()
    assert report._write_pictures([run.name], []) == []


def test_only_a_png_is_opened(run, monkeypatch):
    """A picture of other kinds may be a program: PostScript is."""
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_: pytest.fail("it ran"))
    path = run.folder / "samples.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with Image.open(path) as known:
        assert known.format == "EPS"
    notes = []
    assert report._write_pictures([run.name], notes) == [] and "cannot be read" in notes[0]


def test_a_picture_that_would_fill_the_memory_is_left_out(run, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    notes = []
    assert report._write_pictures([run.name], notes) == [] and "cannot be read" in notes[0]


SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">{}</svg>'
FILMS = {
    "script": ("<script>alert(1)</script>", "script"),
    "handler": ('<circle onload="alert(1)"/>', "onload"),
    "link": ('<a href="javascript:alert(1)"/>', "a, href"),
    "xlink": ('<circle xlink:href="x"/>', "href"),
    "page": ("<foreignObject/>", "foreignObject"),
    "moved link": ('<animate attributeName="href" values="javascript:alert(1)"/>', "href"),
    "style": ('<circle style="background:red"/>', "style"),
    "address": ('<circle fill="url(https://x)"/>', "url("),
    "sheet": ('<?xml-stylesheet href="https://x"?>', "<?"),
    "comment": ("<!-- -->", "<!"),
    "other space": ('<x:script xmlns:x="http://www.w3.org/1999/xhtml"/>', "script"),
    "no svg": ("<", "not XML"),
}


@pytest.mark.parametrize("inside, message", FILMS.values(), ids=FILMS)
def test_a_film_is_moving_dots_and_no_more(run, inside, message):
    (run.folder / "emblem.svg").write_text(SVG.format(inside))
    notes = []
    written = report.write_committed(report.collect([]), notes)
    assert "emblem.svg" not in [path.name for path in written]
    assert len(notes) == 1 and "emblem.svg is left out" in notes[0] and message in notes[0]


def test_the_film_that_is_made_is_one(run):
    film = (ROOT / "reproduce/results/emblem.svg").read_bytes()
    pictures.check_film(film)
    (run.folder / "emblem.svg").write_bytes(film)
    assert report.FOLDER / "emblem.svg" in report.write_committed(report.collect([]), [])


def test_the_repository_has_no_symbolic_links():
    done = subprocess.run(["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    assert [line for line in done.stdout.splitlines() if line.startswith("120000")] == []


# ---------------------------------------------------------------- what is shown


def test_a_terminal_is_shown_no_commands_of_a_record(run):
    record = json.loads((run.folder / "run.json").read_text())
    evil = {
        "cause": "\x1b]0;pwned\x07",
        "host": "\x1b[2J",
        "device": "a\r\nb",
        "traceback": "\x1b[",
    }
    gl.write_json(run.folder / "run.json", record | evil)
    lines = show.describe(run.folder)
    assert all(line.isprintable() for line in lines)
    assert "cause      \\x1b]0;pwned\\x07" in lines
    made = state.lines(state.table(state.standings([run]), everything=True))
    assert all(line.isprintable() for line in made)


SCRIPTS = """<script>document.title = "pwned"</script>
<img src="x" onerror="document.title = 'pwned'"><img src="http://127.0.0.1:9/x">"""


@pytest.fixture
def page(run):
    """The page of a run whose notebook has a script in its output."""
    output = nbformat.v4.new_output("display_data", {"text/html": SCRIPTS})
    cells = [nbformat.v4.new_code_cell("1", outputs=[output])]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), run.folder / "notebook.ipynb")
    return show.page(run.folder)


def test_the_page_of_a_run_says_first_that_no_script_runs(page):
    text = page.read_text()
    assert text.count(show.NO_SCRIPTS) == 1 and "default-src 'none'" in show.NO_SCRIPTS
    assert text.index(show.NO_SCRIPTS) < text.index("<script") < text.index("pwned")
    assert "script-src" not in show.NO_SCRIPTS and "'unsafe-eval'" not in show.NO_SCRIPTS


def test_in_a_browser_the_page_of_a_run_runs_no_script(page, browser):
    refused, tab = {}, browser.new_page()
    tab.on("requestfailed", lambda request: refused.update({request.url: request.failure}))
    for twin in (False, True):
        if twin:
            page.write_text(page.read_text().replace(show.NO_SCRIPTS, ""))
        tab.goto(page.as_uri(), wait_until="load")
        assert (tab.title() == "pwned") == twin
        if not twin:
            assert refused.pop("http://127.0.0.1:9/x") == "csp" and set(refused.values()) == {"csp"}
    tab.close()


# ---------------------------------------------------------------- pages of the book

EVIL = '"><pwned>'
WHAT = "what device commit command reason question answer density host cpu torch stage idea".split()
SECRET = b"a secret that is no picture"


def poisoned(found):
    """Results in which every text that is shown has HTML in it."""
    if isinstance(found, list):
        return [poisoned(part) for part in found]
    if not isinstance(found, dict):
        return found
    made = {name: poisoned(part) for name, part in found.items()}
    for name in WHAT:
        if isinstance(made.get(name), str) and not (name == "device" and "threads" in made):
            made[name] += EVIL
    if {"method", "seeds", "runs"} <= made.keys() and made["seeds"]:
        made["runs"] = [f"../../{made['method']}"]
    return made


def poison(path):
    """The same of a file, and a row more whose method and profile are HTML."""
    found = poisoned(json.loads(path.read_text()))
    ran = [row for row in found.get("rows", []) if row["seeds"]]
    for row in sorted(ran, key=lambda row: bool(row["paper"]))[-1:]:
        more = {"method": f"TB{EVIL}", "runs": ["../../secret"]}
        found["rows"].append(copy.deepcopy(row) | more)
    if path.stem == "study":
        found["cells"] = {f"{name}{EVIL}": cell for name, cell in found["cells"].items()}
    path.write_text(json.dumps(found))


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """The book's notebooks' place, with poisoned results."""
    home = tmp_path_factory.mktemp("copied")
    shutil.copytree(ROOT / "reproduce/results", home / "reproduce/results",
                    ignore=shutil.ignore_patterns("local"))  # fmt: skip
    shutil.copy(ROOT / "reproduce/published.json", home / "reproduce")
    (home / "notebooks").mkdir()
    (home / "reproduce/secret.webp").write_bytes(SECRET)
    for path in (home / "reproduce/results").rglob("*.json"):
        poison(path)
    local = home / "reproduce/results/local"
    local.mkdir()
    mine = json.loads((home / "reproduce/results/25gmm.json").read_text())
    mine["rows"] = [row for row in mine["rows"] if row["seeds"]]
    (local / "25gmm.json").write_text(json.dumps(mine))
    return home


class Tags(html.parser.HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.text += "".join(value or "" for _, value in attributes)

    def handle_data(self, data):
        self.text += data


def rendered(value):
    """What a page has of a cell's last value, as HTML."""
    if type(value).__name__ == "Markdown":
        return MarkdownIt("commonmark").enable("table").render(value.data)
    return value._repr_html_() if hasattr(value, "_repr_html_") else ""


def executed(source, names):
    """Run a cell; what its last expression shows."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(ast.Module(body, []), "cell", "exec"), names)
        if last is None:
            return ""
        return rendered(eval(compile(ast.Expression(last.value), "cell", "eval"), names))


def trained(name):
    return [(1.0, 0.1, f"TB{EVIL} (full)"), (1e9, 9.0, f"PIS{EVIL} (full)")]


# Of each chapter: cells, by a word of theirs, and what these need of others. Cells that train, or
# compute a long time, are left out.
CELLS = {
    "08_vae_conditional": (
        ['study = json.loads((folder / "study.json")'],
        {"folder": Path("../reproduce/results/vae")},
    ),
    "10_reproduce": (
        ["made = []  # of committed", "kinds = list(", 'shared = ""', "took = {", "names = table("],
        {},
    ),
    "11_why_it_is_fast": (
        ["where = where[", 'table([*columns, "ratio', "its ELBO then", "dead_ends"], {},
    ),
    "13_beyond": (
        ["ASKED = {", 'ladder("ladder-25gmm")', 'ladder("ladder-manywell32")', "def rungs(",
         'ladder("ten-steps")', "AIMS = [", 'suite = read(', "lines_of_suite", 'ladder("dropped")'],
        {},
    ),
    "14_classical_baselines": (
        ["beaten, others = [], []"],
        {"shown": ["25gmm"], "trained": {"25gmm": trained("25gmm")},
         "annealed": {("25gmm", row): [(2.0, 0.5)] for row in gl.annealing.METHODS}},
    ),
    "15_results": (
        ["def read(folder)", "COUNTED = [", "\nledger(gaussians)", "waiting = [", "BEHIND = [",
         "def sources(", "def section(", "said = [", "AGAIN = (", "mine = ["],
        {},
    ),
    "16_what_the_codes_do": (["RESULTS = {", 'for row in RESULTS["manywell32"]'], {}),
    "18_investigations": (["def ask(", 'ask("local-search")', 'ask("images-in-a-batch")'], {}),
}  # fmt: skip


@pytest.mark.parametrize("chapter", CELLS)
def test_names_that_come_with_results_are_no_html(chapter, copied, monkeypatch):
    monkeypatch.chdir(copied / "notebooks")
    monkeypatch.setenv("GFNLITE_PROFILE", "smoke")
    cells = [c for c in jupytext.read(ROOT / f"notebooks/{chapter}.py").cells
             if c.cell_type == "code"][1:]  # fmt: skip
    wanted, names = CELLS[chapter]
    names = {"__name__": "page"} | names
    executed(cells[0].source, names)  # what it imports
    names["shell"] = lambda command: json.dumps({"rows": [], "names": []})
    shown = []
    for word in wanted:
        (source,) = [cell.source for cell in cells if word in f"\n{cell.source}"]
        if chapter == "15_results" and "results" in names:
            names.setdefault("gaussians", names["results"]["25gmm"])
        shown.append(executed(source, names))
        plt.close("all")
    page = Tags("".join(shown))
    assert "pwned" not in page.tags and "<pwned" in page.text
    assert base64.b64encode(SECRET).decode() not in "".join(shown)


def test_html_would_be_found():
    assert "pwned" in Tags(f'<td title="{EVIL}">').tags
    assert "pwned" in Tags(f"<td>{EVIL}").tags
    assert "pwned" in Tags(MarkdownIt("commonmark").render(f"a {EVIL} b")).tags
