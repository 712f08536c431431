"""What the book needs of Sphinx beyond _config.yml: a cache that knows the code, a banner, and a
bibliography that names its entries as the text does.
"""

import hashlib
import os
import re
import shutil
from pathlib import Path

from docutils import nodes
from jupyter_cache import get_cache
from jupyter_cache.cache.db import NbCacheRecord
from PIL import Image
from pybtex.plugin import register_plugin
from pybtex.style.formatting.unsrt import Style
from pybtex.style.labels import BaseLabelStyle
from result_role import Result
from sphinx.errors import ConfigError
from versions import Versions

from gfnlite.interactive import wide

PROFILES = ("smoke", "quick", "full")
# A page shows what these say; the cache of executed notebooks itself looks at their cells only.
SHOWN = (
    "gfnlite/*.py", "reproduce/results/*.json", "reproduce/results/*.svg",
    "reproduce/results/local/*.json",
    "reproduce/results/bench/*.json", "reproduce/results/vae/*.json",
)  # fmt: skip
SMOKE = (
    "This copy was built in the smoke profile: seconds of training, so that its figures show only "
    "that the code runs. Runs on the results page say their own profile."
)


def configure(app, config):
    """Key the execution cache by profile and code, and mark pages that were not really trained."""
    profile = os.environ.get("GFNLITE_PROFILE", "quick")
    if profile not in PROFILES:
        raise ConfigError(f"GFNLITE_PROFILE={profile!r} is unknown; allowed: {PROFILES}")
    root = Path(app.srcdir)
    digest = hashlib.sha256((root / "requirements.txt").read_bytes())
    for pattern in SHOWN:
        for path in sorted(root.glob(pattern)):
            digest.update(path.name.encode() + path.read_bytes())
    cache = root / ".jupyter_cache"
    current = cache / f"{profile}-{digest.hexdigest()[:12]}"
    for old in cache.glob(f"{profile}-*"):
        if old != current:
            shutil.rmtree(old)
    mend(current)
    config.nb_execution_cache_path = str(current)
    os.environ["GFNLITE_STATIC"] = "1"  # sliders of a page have no kernel
    if profile == "smoke":
        config.html_theme_options["announcement"] = SMOKE


def mend(folder):
    """Drop what a build that was killed left half written: the next would stop at it."""
    if not folder.exists():
        return
    cache, whole = get_cache(folder), set()
    try:
        records = cache.list_cache_records()
    except RuntimeError:  # a database without its tables
        shutil.rmtree(folder)
        return
    for record in records:
        try:
            cache.get_cache_bundle(record.pk)
            whole.add(record.hashkey)
        except (KeyError, ValueError):  # no file, or a part of one
            NbCacheRecord.remove_record(record.pk, cache.db)
    for entry in folder.glob("executed/*/"):
        if entry.name not in whole:
            shutil.rmtree(entry)


class AuthorYear(BaseLabelStyle):
    """Labels such as "Malkin et al., 2022", the words of a citation in the text."""

    def format_labels(self, sorted_entries):
        """A label for each entry."""
        for entry in sorted_entries:
            names = [" ".join(p.prelast_names + p.last_names) for p in entry.persons["author"]]
            who = " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
            yield f"{who}, {entry.fields['year']}"


class AuthorYearStyle(Style):
    """The plain style with those labels, in the order of the authors."""

    default_label_style = AuthorYear
    default_sorting_style = "author_year_title"


def mark_wide_images(app, doctree, docname):
    """A figure of several panels is too small on a phone: there it scrolls (see book.css)."""
    for image in doctree.findall(nodes.image):
        path = Path(app.srcdir) / image["uri"]
        if path.exists() and path.suffix in (".png", ".svg"):
            image["classes"] += wide(*size(path)).split()


def size(path):
    """Width and height of a picture, in inches."""
    if path.suffix == ".svg":
        box = re.search(r'viewBox="[\d.-]+ [\d.-]+ ([\d.]+) ([\d.]+)"', path.read_text())
        return tuple(float(points) / 72 for points in box.groups())
    picture = Image.open(path)
    dots = float(picture.info.get("dpi", (150,))[0])  # an inch
    return tuple(pixels / dots for pixels in picture.size)


def drop_repeated_scripts(app, pagename, templatename, context, doctree):
    """Sphinx 7 emits the theme's inline script twice, which a browser reports as an error."""
    seen = set()
    kept = []
    for script in context.get("script_files", []):
        body = getattr(script, "attributes", {}).get("body")
        if not body or body not in seen:
            kept.append(script)
        seen.add(body)
    context["script_files"][:] = kept


def setup(app):
    """Register all with Sphinx."""
    app.add_role("result", Result())
    app.add_directive("versions", Versions)
    register_plugin("pybtex.style.formatting", "author_year", AuthorYearStyle)
    app.connect("config-inited", configure, priority=100)
    app.connect("doctree-resolved", mark_wide_images)
    app.connect("html-page-context", drop_repeated_scripts, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
