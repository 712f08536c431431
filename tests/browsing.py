"""The built book in a headless browser: what is wrong with a page, as a list of words."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
VIEWS = {"desktop": (1280, "light"), "dark": (1280, "dark"), "phone": (390, "light")}
WEIGHT = 2_500_000  # bytes that a first visit to a page may ask for, not compressed
CONTRAST = 4.5  # of text, as WCAG 2.1 AA asks


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


LOOK = """(least) => {
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
    // Text on its ground: every half-transparent layer, from the page up, painted on a pixel.
    const canvas = document.createElement('canvas');
    canvas.width = canvas.height = 1;
    const pixel = canvas.getContext('2d', {willReadFrequently: true});
    const luminance = colours => {
        for (const colour of colours) { pixel.fillStyle = colour; pixel.fillRect(0, 0, 1, 1); }
        const part = [...pixel.getImageData(0, 0, 1, 1).data].slice(0, 3).map(c => c / 255)
            .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
    };
    for (const e of all('.explore :is(label, output, p), div.proof :is(p, .admonition-title)')) {
        const ground = [];
        for (let at = e; at; at = at.parentElement)
            ground.unshift(getComputedStyle(at).backgroundColor);
        const pair = [luminance(['white', ...ground]),
                      luminance(['white', ...ground, getComputedStyle(e).color])];
        const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
        if (contrast < least) wrong.push(`hard to read, contrast ${contrast.toFixed(1)}: `
            + e.textContent.trim().slice(0, 30));
        if (document.documentElement.dataset.theme == 'dark' && pair[0] > 0.5)
            wrong.push(`a light ground in the dark: ${e.textContent.trim().slice(0, 30)}`);
    }
    return wrong;}"""
# What belongs to a slider: its picture, the picture's alt text, and its value in words.
BELONGINGS = """async slider => {
    const image = slider.closest('.explore').querySelector('img');
    const shown = await image.decode().then(() => true, () => false);
    return [image.src, image.alt, slider.parentNode.querySelector('output')?.textContent, shown];
}"""
# On paper the picture of a slider is there, and within the sheet.
PRINTED = """() => [...document.querySelectorAll('.explore img')].filter(image => {
    const at = image.getBoundingClientRect();
    return getComputedStyle(image).visibility != 'visible' || at.height < 50
        || at.left < 0 || at.right > innerWidth + 1;
}).map(image => `not printed: ${image.alt.slice(0, 30)}`)"""


def unmoved(page):
    """What stays as it is when each slider in turn is moved by the keyboard."""
    wrong = []
    sliders = page.locator(".explore input[type=range]")
    for k in range(sliders.count()):
        slider = sliders.nth(k)
        before = slider.evaluate(BELONGINGS)
        slider.press("ArrowRight")
        after = slider.evaluate(BELONGINGS)
        for name, old, new in zip(("picture", "alt text", "value"), before, after, strict=False):
            if old == new:
                wrong.append(f"slider {k} does not change its {name}")
        if not (after[1] or "").strip():
            wrong.append(f"slider {k} leads to a picture without alt text")
        if not after[-1]:
            wrong.append(f"slider {k} leads to a broken picture")
    return wrong


def visit(browser, url, site, width=1280, scheme="light"):
    """Everything wrong that a browser sees on a page, as a list of words; and its bytes."""
    page = browser.new_page(viewport={"width": width, "height": 850}, color_scheme=scheme)
    wrong, sizes = [], {}

    def local_only(route):
        if route.request.url.startswith((site, "data:", "blob:")):
            route.continue_()
        else:
            wrong.append(f"asks the network for {route.request.url}")
            route.abort()

    def came(response):
        sizes[response.url] = int(response.headers.get("content-length", 0))
        if response.status >= 400:
            wrong.append(f"{response.status} {response.url}")

    page.route("**/*", local_only)
    page.on("pageerror", lambda error: wrong.append(f"script error: {error}"))
    page.on("console", lambda m: wrong.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("response", came)
    page.goto(url, wait_until="load")
    page.evaluate("window.MathJax?.startup?.promise")  # settles when all equations are typeset
    wrong += page.evaluate(LOOK, CONTRAST)
    wrong += unmoved(page)
    page.emulate_media(media="print")
    wrong += page.evaluate(PRINTED)
    page.close()
    weight = sum(sizes.values())
    if weight > WEIGHT:
        largest = max(sizes, key=sizes.get)
        wrong.append(f"weighs {weight:,} bytes, most of all {largest}")
    return wrong, weight
