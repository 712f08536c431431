"""The built book: no warning, complete without a network, readable on a phone and in the dark."""

import functools
import re

import nbformat
import pytest
from browsing import ROOT, VIEWS, WEIGHT, build, pages, visit
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn


@pytest.mark.parametrize("page", pages())
def test_page_is_built_and_says_that_it_is_smoke(html, page):
    text = (html / f"{page}.html").read_text()
    assert "Traceback" not in text
    assert "built in the smoke profile" in text


def test_an_unknown_profile_is_refused(tmp_path):
    code, output = build(tmp_path, GFNLITE_PROFILE="fast")
    assert code != 0 and "GFNLITE_PROFILE='fast' is unknown" in output


def test_the_cache_of_a_profile_is_not_anothers(html):
    kept = [path.name for path in (ROOT / ".jupyter_cache").iterdir()]
    assert [name.split("-")[0] for name in kept].count("smoke") == 1


def test_what_a_killed_build_left_half_written_is_dropped(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book" / "ext")
    from gfn_book import mend

    mend(tmp_path / "none yet")
    cache = get_cache(tmp_path / "cache")
    notebooks = [nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(w)]) for w in "abcd−"]

    def keep(notebook):
        bundle = CacheBundleIn(notebook, "a.ipynb")
        return cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)

    names = [keep(notebook).hashkey for notebook in notebooks]
    written = [tmp_path / "cache" / "executed" / name / "base.ipynb" for name in names]
    written[1].write_text(written[1].read_text()[:40])
    written[2].unlink()  # killed between the folder and the file
    cache.remove_cache(4)
    written[3].parent.mkdir()  # the same, and its record was lost
    start = written[4].read_bytes()
    written[4].write_bytes(start[: start.index("−".encode()) + 1])  # within a letter
    (tmp_path / "cache" / "executed" / "note").touch()
    for pk in (2, 3, 5):  # the twin: as it is, the next build stops there
        with pytest.raises((KeyError, ValueError)):
            cache.get_cache_bundle(pk)
    mend(tmp_path / "cache")
    assert [record.hashkey for record in cache.list_cache_records()] == names[:1]
    assert [path.parent.exists() for path in written] == [True, *[False] * 4]
    for notebook in notebooks[1:]:
        keep(notebook)
    assert all(path.exists() for path in written)
    (tmp_path / "cache" / "global.db").write_bytes(b"")
    mend(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("page", pages())
def test_a_browser_finds_nothing_wrong(browser, site, page, view):
    wrong, weight = visit(browser, f"{site}/{page}.html", site, *VIEWS[view])
    assert wrong == [] and weight > 100_000


def test_the_browser_would_find_it(browser, site, html):
    twin = """<html><body><div class="bd-article" style="width:3000px"><span class="math">x</span>
    <img src="none.png"><img alt="a" src="http://192.0.2.1/b.png"></div>
    <mjx-container display="true" style="display:block; width:90px; overflow:auto">
    <div style="width:300px">x</div></mjx-container>
    <details><summary>x</summary><div class="highlight">
    <pre style="width:9em; overflow:auto">0123456789 0123456789</pre></div></details>
    <div class="proof"><p style="color:#777; background:#fff8">grey</p></div>
    <script>throw Error("broken")</script></body></html>"""
    (html / "twin.html").write_text(twin)
    found = " ".join(visit(browser, f"{site}/twin.html", site)[0])
    for fault in ("asks the network", "script error", "404", "not typeset", "not loaded",
                  "without alt", "equation too wide: 300 px in 90", "code too wide",
                  "hard to read, contrast 4.5: grey", "sideways"):  # fmt: skip
        assert fault in found
    phone = " ".join(visit(browser, f"{site}/twin.html", site, 390)[0])
    assert "too wide" not in phone and "sideways" in phone


SLIDER = """<html><body><style>@media print {img {PRINT}}</style><div class="explore">
<label>a <input type="range" min="0" max="3" value="0"><output>0</output></label>
<img alt="a" src="SRC"><script>
const slider = document.querySelector("input"), image = document.querySelector("img");
slider.addEventListener("input", () => {STEP});</script></div></body></html>"""
SQUARE = "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' width='90' height='{}'/>"


@pytest.mark.parametrize("step, fault", [
    ("image.alt += 'b'; slider.nextElementSibling.textContent = '1'", "change its picture"),
    ("image.src = '/grey.svg'; slider.nextElementSibling.textContent = '1'", "change its alt text"),
    ("image.src = '/grey.svg'; image.alt = 'b'", "change its value"),
    ("image.src = '/grey.svg'; image.alt = ' '", "without alt text"),
    ("image.src = '/none.svg'", "a broken picture"),
    (None, "not printed: a"),
])  # fmt: skip
def test_the_browser_would_find_a_slider_that_does_nothing(browser, site, html, step, fault):
    (html / "grey.svg").write_text(SQUARE.format(99).split(",", 1)[1])
    good = "image.src = '/grey.svg'; image.alt += 'b'; slider.nextElementSibling.textContent = 1"
    first = SQUARE.format(90).replace("#", "%23")
    for made, printed, found in (
        (good, "", False),
        (step or good, "" if step else "display:none", True),
    ):
        page = SLIDER.replace("SRC", first).replace("STEP", made).replace("PRINT", printed)
        (html / "twin.html").write_text(page)
        wrong = " ".join(visit(browser, f"{site}/twin.html", site)[0])
        assert (fault in wrong) == found and (found or not wrong), wrong


def test_the_browser_would_find_a_light_box_in_the_dark(browser, site, html):
    page = """<html data-theme="dark"><body style="background: #111; color: #eee">
    <div class="explore" style="background: GROUND; color: INK"><p>a slider</p></div></html>"""
    for ground, ink, found in (("#ccc", "#111", True), ("none", "inherit", False)):
        (html / "twin.html").write_text(page.replace("GROUND", ground).replace("INK", ink))
        wrong, _ = visit(browser, f"{site}/twin.html", site, scheme="dark")
        assert wrong == found * ["a light ground in the dark: a slider"]


def test_the_browser_would_find_a_heavy_page(browser, site, html):
    (html / "heavy.png").write_bytes(bytes(WEIGHT))
    (html / "twin.html").write_text("<html><body><img alt='a' src='heavy.png'></body></html>")
    wrong, weight = visit(browser, f"{site}/twin.html", site)
    assert weight > WEIGHT and "most of all" in wrong[-1] and wrong[-1].endswith("heavy.png")


def misnamed(page, bibliography):
    """Citations of a page whose words are not in the label of the entry that they lead to."""
    entry = r'<div class="citation" id="(id\d+)".*?<span class="label">(.*?)</span>\n'
    plain = functools.partial(re.sub, "<.*?>", "")
    labels = {name: plain(label) for name, label in re.findall(entry, bibliography, re.DOTALL)}
    cited = re.findall(r'<a [^>]*bibliography\.html#(id\d+)"[^>]*>(.*?)</a>', page, re.DOTALL)
    assert cited and labels
    return [text for name, text in cited if plain(text) not in labels[name]]


def test_the_bibliography_names_its_entries_as_the_text_does(html):
    bibliography = (html / "book/bibliography.html").read_text()
    notation = (html / "book/notation.html").read_text()  # cites in brackets, "Lahlou et al., 2023"
    assert misnamed(notation, bibliography) == []
    assert misnamed((html / "notebooks/04_25gmm.html").read_text(), bibliography) == []
    assert misnamed(notation, bibliography.replace(" et al., 2023", "+23")) != []


def test_equations_are_really_typeset(browser, site):
    page = browser.new_page()
    page.goto(f"{site}/book/notation.html")
    page.wait_for_selector("mjx-container")
    assert page.locator("mjx-container").count() > 40
    page.close()
