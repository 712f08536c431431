"""The whole book as one PDF, from its built pages: `python book/pdf.py _build/html book.pdf`.

Prints every page of _toc.yml with an installed Chromium, and joins them under the book's outline.
"""

import functools
import http.server
import io
import shutil
import sys
import threading
from pathlib import Path

import yaml
from playwright.sync_api import sync_playwright
from pypdf import PdfReader, PdfWriter

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MARGIN = {"top": "18mm", "bottom": "18mm", "left": "16mm", "right": "16mm"}
PAPER = {"format": "A4", "scale": 0.8, "margin": MARGIN, "print_background": True, "tagged": True}
# Pictures below the fold are loaded; what leads to another page of the site leads nowhere on paper.
READY = """async () => {
    await window.MathJax?.startup?.promise;
    for (const image of document.images) image.loading = 'eager';
    await Promise.all([...document.images].map(image => image.decode().catch(() => {})));
    for (const link of document.querySelectorAll('a[href]'))
        if (link.origin == location.origin && link.pathname != location.pathname)
            link.removeAttribute('href');
}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves the pages, and keeps no log."""

    def log_message(self, *_):
        """Nothing."""


def chapters() -> tuple[str, list]:
    """The book's title, and the parts of its table of contents: a caption, and files."""
    root = Path(__file__).parent.parent
    toc = yaml.safe_load((root / "_toc.yml").read_text())
    parts = [(part["caption"], [c["file"] for c in part["chapters"]]) for part in toc["parts"]]
    title = yaml.safe_load((root / "_config.yml").read_text())["title"]
    return title, [(None, [toc["root"]]), *parts]


def main(html: str, out: str) -> None:
    """Print the pages in the folder `html` into the file `out`."""
    programs = filter(None, map(shutil.which, BROWSERS))
    if (program := next(programs, None)) is None:
        sys.exit(f"no browser to print with: install one of {', '.join(BROWSERS)}")
    handler, book = functools.partial(Quiet, directory=html), PdfWriter()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    title, parts = chapters()
    with server, sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for caption, files in parts:
            above = caption and book.add_outline_item(title=caption, page_number=len(book.pages))
            for file in files:
                start, page = len(book.pages), browser.new_page()
                page.goto(f"http://127.0.0.1:{server.server_port}/{file}.html")
                page.evaluate(READY)
                name = page.locator("article h1").first.inner_text().strip("# \n")
                printed = PdfReader(io.BytesIO(page.pdf(**PAPER)))
                book.append(printed, import_outline=False)
                book.add_outline_item(title=name, page_number=start, parent=above)
                print(f"page {start + 1}: {name}")
                page.close()
        server.shutdown()
    book.add_metadata({"/Title": title})
    book.write(out)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
