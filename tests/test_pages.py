"""The parts of built pages: links that lead somewhere, headings in order, labels, buttons."""

import functools
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from browsing import ROOT, pages
from bs4 import BeautifulSoup

CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())
OTHERS = ["genindex", "search", "prf-prf"]  # made by Sphinx, beside the pages of _toc.yml
every_page = pytest.mark.parametrize("page", [*pages(), *OTHERS])


@functools.cache
def soup(path: Path):
    return BeautifulSoup(path.read_text(), "html.parser")


@functools.cache
def anchors(path: Path) -> set[str]:
    tags = soup(path).find_all(lambda tag: tag.get("id") or (tag.name == "a" and tag.get("name")))
    return {tag.get("id") or tag["name"] for tag in tags}


def broken(path: Path) -> list[str]:
    """Links of a page that lead to no file, to no place in it, or out of the book but not well."""
    wrong = []
    for tag in soup(path).find_all(["a", "link", "area"], href=True):
        link = tag["href"]
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            host = re.fullmatch(r"([a-z0-9-]+\.)+[a-z]{2,}", parts.netloc)
            if parts.scheme != "https" or not host or re.search(r'[\s<>"{}|\\^`]', link):
                wrong.append(f"not a well-formed https address: {link}")
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        place = unquote(parts.fragment)
        if not target.is_file():
            wrong.append(f"no such file: {link}")
        elif place and target.suffix == ".html" and place not in anchors(target):
            wrong.append(f"no such place: {link}")
    return wrong


@every_page
def test_every_link_leads_somewhere(html, page):
    assert broken((html / f"{page}.html").resolve()) == []


def test_the_first_page_is_reached_from_the_root(html):
    entry = soup(html / "index.html").find(
        "meta", attrs={"http-equiv": re.compile("refresh", re.I)}
    )
    assert entry["content"].split("url=")[1] == f"{pages()[0]}.html"


def test_a_link_that_leads_nowhere_would_be_found(tmp_path):
    (tmp_path / "there.html").write_text('<p id="here"></p><a name="old"></a>')
    good = ["there.html", "there.html#here", "there.html#old", "#a%20b", "https://arxiv.org/abs/1"]
    bad = ["away.html", "there.html#away", "#away", "http://arxiv.org", "https://arxiv", "https:/x",
           "https://arxiv.org/a b", "mailto:a@b.org", "//arxiv.org", "../there.html"]  # fmt: skip
    page = tmp_path / "page.html"
    page.write_text('<p id="a b"></p>' + "".join(f'<a href="{link}">x</a>' for link in good + bad))
    assert [fault.split(": ", 1)[1] for fault in broken(page)] == bad


def disorder(path: Path) -> list[str]:
    """What a reader who hears the page would stumble over: its language, headings and controls."""
    page, wrong = soup(path), []
    if not (page.html and page.html.get("lang")):
        wrong.append("no language")
    # the theme's title page for print is not shown, nor read aloud
    headings = [
        tag
        for tag in page.find_all(re.compile("^h[1-6]$"))
        if not tag.find_parent(id="jb-print-docs-body")
    ]
    levels = [int(tag.name[1]) for tag in headings]
    if levels.count(1) != 1:
        wrong.append(f"{levels.count(1)} titles")
    for above, tag in zip([0, *levels], headings, strict=False):
        if int(tag.name[1]) > above + 1:
            wrong.append(f"a level skipped before: {tag.get_text().strip('#')}")
    for tag in page.find_all(["input", "select", "textarea"]):
        named = tag.get("aria-label") or tag.get("aria-labelledby") or tag.find_parent("label")
        named = named or tag.get("id") and page.find("label", attrs={"for": tag["id"]})
        if tag.get("type") != "hidden" and not named:
            wrong.append(f"no label: {tag.get('type') or tag.name}")
    for tag in page.find_all("button"):
        if not (tag.get_text().strip() or tag.get("aria-label") or tag.get("title")):
            wrong.append(f"no label: button {tag.get('class')}")
    return wrong


@every_page
def test_headings_are_in_order_and_controls_are_labelled(html, page):
    assert disorder((html / f"{page}.html").resolve()) == []


def test_a_page_without_order_would_be_found(tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<html><h1>a</h1><h3>b</h3><h1>c</h1><input type='range'><button></button>")
    assert disorder(page) == [
        "no language", "2 titles", "a level skipped before: b", "no label: range",
        "no label: button None",
    ]  # fmt: skip
    good = tmp_path / "good.html"
    good.write_text(
        "<html lang='en'><div id='jb-print-docs-body'><h1>a</h1></div><h1>a</h1><h2>b</h2>"
        "<h3>c</h3><h2>d</h2><label>x<input></label><label for='i'>y</label>"
        "<select id='i'></select><button>go</button>"
    )
    assert disorder(good) == []


LAUNCH = re.compile(r"colab\.research\.google\.com|mybinder\.org|hub/user-redirect")


def misled(path: Path, root: Path = ROOT) -> list[str]:
    """Launch buttons of a page that open another repository, another branch or no file."""
    place = urlsplit(CONFIG["repository"]["url"]).path.strip("/")
    branch = CONFIG["repository"]["branch"]
    starts = (f"/github/{place}/blob/{branch}/", f"/v2/gh/{place}/{branch}?urlpath=lab/tree/")
    wrong = []
    for link in launched(path):
        parts = urlsplit(link)
        said = unquote(f"{parts.path}?{parts.query}" if parts.query else parts.path)
        opened = [said.removeprefix(start) for start in starts if said.startswith(start)]
        if not opened or not (root / opened[0]).is_file():
            wrong.append(link)
    return wrong


def launched(path: Path) -> list[str]:
    return [tag["href"] for tag in soup(path).find_all("a", href=LAUNCH)]


@pytest.mark.parametrize("page", pages())
def test_launch_buttons_open_this_notebook(html, page):
    path = html / f"{page}.html"
    assert misled(path) == []
    if page.startswith("notebooks/"):
        assert len(launched(path)) == 2
        assert all(link.endswith(f"{page}.ipynb") for link in launched(path))


def test_a_launch_button_that_opens_something_else_would_be_found(tmp_path):
    place, branch = urlsplit(CONFIG["repository"]["url"]).path, CONFIG["repository"]["branch"]
    colab, there = "https://colab.research.google.com/github", "notebooks/04_25gmm.ipynb"
    binder = f"https://mybinder.org/v2/gh{place}/{branch}?urlpath="
    good = [f"{colab}{place}/blob/{branch}/{there}", f"{binder}lab/tree/{there}"]
    bad = [f"{colab}{place}/blob/master/{there}", f"{colab}/a/b/blob/{branch}/{there}",
           f"{binder}lab/tree/notebooks/04.ipynb", f"{binder}tree/{there}"]  # fmt: skip
    page = tmp_path / "page.html"
    page.write_text("".join(f'<a href="{link}">x</a>' for link in good + bad))
    assert misled(page) == bad
