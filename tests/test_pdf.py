"""The book on paper: what is folded on a screen is printed, and one PDF holds all of it."""

import io
import re
import subprocess
import sys
import unicodedata

import pytest
import yaml
from browsing import BROWSER, ROOT, pages
from pypdf import PdfReader
from test_pages import soup


def plain(text):
    """Its letters and digits alone: lines break elsewhere on paper, and f and i may be one sign."""
    return re.sub(r"\W+", "", unicodedata.normalize("NFKC", text))


def test_what_is_folded_on_a_screen_is_open_on_paper(browser, site, html):
    fold = '<details class="sd-dropdown"><summary>Proof</summary><p>{}</p></details>'
    (html / "twin.html").write_text(
        f'<html><link rel="stylesheet" href="_static/book.css"><body>{fold.format("elsewhere")}'
        f'<div class="bd-content">{fold.format("unfolded")}</div></body></html>'
    )
    page = browser.new_page()
    page.goto(f"{site}/twin.html")
    text = PdfReader(io.BytesIO(page.pdf())).pages[0].extract_text()
    page.close()
    assert text.count("Proof") == 2 and "unfolded" in text and "elsewhere" not in text


@pytest.fixture(scope="module")
def book(html, tmp_path_factory):
    if BROWSER is None:
        pytest.skip("NO BROWSER: no PDF was printed")
    out = tmp_path_factory.mktemp("pdf") / "book.pdf"
    command = [sys.executable, str(ROOT / "book" / "pdf.py"), str(html), str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return PdfReader(out)


def astray(entries, texts):
    """Titles (title, page) that do not stand on their page."""
    return [title for title, number in entries if plain(title) not in texts[number]]


@pytest.mark.full
def test_every_chapter_stands_where_the_outline_says(book, html):
    texts = [plain(page.extract_text()) for page in book.pages]
    flat, parts = [], []
    for item in book.outline:  # a part, then the list of its chapters
        nested = isinstance(item, list)
        flat += item if nested else []
        parts += [] if nested else [item.title]
    first, *captions = parts
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    assert captions == [part["caption"] for part in toc["parts"]]
    titles = [soup(html / f"{page}.html").select_one("article h1").get_text() for page in pages()]
    assert [plain(t) for t in titles] == [plain(t) for t in (first, *(i.title for i in flat))]
    entries = [(item.title, book.get_destination_page_number(item)) for item in flat]
    assert len(texts) > len(titles) and plain(first) in texts[0] and astray(entries, texts) == []
    assert astray(entries, ["", *texts]) != []


@pytest.mark.full
def test_proofs_are_in_it(book):
    text = "".join(plain(page.extract_text()) for page in book.pages)
    source = (ROOT / "notebooks" / "03_trajectory_balance.py").read_text()
    proofs = re.findall(r":::\{dropdown\} Proof\n(.*?)\n# :::", source, re.DOTALL)
    # of each its first words between two formulas
    words = [re.search(r"[A-Za-z ,]{20,}", proof.replace("\n# ", " "))[0] for proof in proofs]
    assert len(words) > 4 and [said for said in words if plain(said) not in text] == []
    assert plain("words that no proof has in it") not in text
