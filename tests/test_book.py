"""The built book: no warning, complete without a network, readable on a phone and in the dark."""

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


def pages():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    chapters = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [toc["root"], *chapters]


def build(folder, **environment):
    """Jupyter Book's exit code and output."""
    command = [str(Path(sys.executable).parent / "jupyter-book"), "build", str(ROOT)]
    command += ["--path-output", str(folder), "-W", "-n", "--keep-going"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=os.environ | environment
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="session")
def html(tmp_path_factory):
    folder = tmp_path_factory.mktemp("book")
    code, output = build(folder, GFNLITE_PROFILE="smoke")
    assert code == 0, output[-5000:]
    return folder / "_build" / "html"


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


@pytest.fixture(scope="session")
def site(html):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=html)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def browser():
    if BROWSER is None:
        pytest.skip("NO BROWSER: the built pages were not looked at")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, headless=True, args=FLAGS)
        yield chromium
        chromium.close()


def faults(browser, url, site, width=1280, scheme="light"):
    """Everything wrong that a browser sees on a page, as a list of words."""
    page = browser.new_page(viewport={"width": width, "height": 850}, color_scheme=scheme)
    wrong = []

    def local_only(route):
        if route.request.url.startswith((site, "data:", "blob:")):
            route.continue_()
        else:
            wrong.append(f"asks the network for {route.request.url}")
            route.abort()

    page.route("**/*", local_only)
    page.on("pageerror", lambda error: wrong.append(f"script error: {error}"))
    page.on("console", lambda m: wrong.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("response", lambda r: wrong.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    page.goto(url, wait_until="load")
    page.evaluate("window.MathJax?.startup?.promise")  # settles when all equations are typeset
    wrong += page.evaluate(
        """() => {
        const wrong = [], all = query => [...document.querySelectorAll(query)];
        const typeset = all('.math').filter(e => e.querySelector('mjx-container')).length;
        if (typeset < all('.math').length) wrong.push('equations not typeset');
        if (all('mjx-merror').length) wrong.push('equations with errors');
        const images = all('.bd-article img');
        if (images.some(i => !i.complete || !i.naturalWidth)) wrong.push('image not loaded');
        if (images.some(i => !(i.alt || '').trim() || i.alt.startsWith('../')))
            wrong.push('image without alt text');
        // On a phone these scroll inside themselves; on a desktop nothing needs to.
        const clipped = query => all(query).filter(e => e.scrollWidth > e.clientWidth + 1);
        if (innerWidth >= 1280) {
            for (const e of all('details')) e.open = true;
            for (const e of clipped('mjx-container[display="true"]'))
                wrong.push(`equation too wide: ${e.scrollWidth} px in ${e.clientWidth}`);
            for (const e of clipped('.highlight pre'))
                wrong.push(`code too wide: ${e.scrollWidth} px in ${e.clientWidth}`);
        }
        const root = document.documentElement;
        if (root.scrollWidth > root.clientWidth + 1) wrong.push('scrolls sideways');
        return wrong;}"""
    )
    page.close()
    return wrong


VIEWS = {"desktop": (1280, "light"), "dark": (1280, "dark"), "phone": (390, "light")}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("page", pages())
def test_a_browser_finds_nothing_wrong(browser, site, page, view):
    assert faults(browser, f"{site}/{page}.html", site, *VIEWS[view]) == []


def test_the_browser_would_find_it(browser, site, html):
    twin = """<html><body><div class="bd-article" style="width:3000px"><span class="math">x</span>
    <img src="none.png"><img alt="a" src="http://192.0.2.1/b.png"></div>
    <mjx-container display="true" style="display:block; width:90px; overflow:auto">
    <div style="width:300px">x</div></mjx-container>
    <details><summary>x</summary><div class="highlight">
    <pre style="width:9em; overflow:auto">0123456789 0123456789</pre></div></details>
    <script>throw Error("broken")</script></body></html>"""
    (html / "twin.html").write_text(twin)
    found = " ".join(faults(browser, f"{site}/twin.html", site))
    for fault in ("asks the network", "script error", "404", "not typeset", "not loaded",
                  "without alt", "equation too wide: 300 px in 90", "code too wide",
                  "sideways"):  # fmt: skip
        assert fault in found
    phone = " ".join(faults(browser, f"{site}/twin.html", site, 390))
    assert "too wide" not in phone and "sideways" in phone


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
