"""What the book needs of Sphinx beyond _config.yml: a cache that knows the code, and a banner."""

import hashlib
import os
import shutil
from pathlib import Path

from sphinx.errors import ConfigError

PROFILES = ("smoke", "quick", "full")
# A page shows what these say; the cache of executed notebooks itself looks at their cells only.
SHOWN = ("gfnlite/*.py", "reproduce/results/*.json", "reproduce/results/local/*.json")
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
    config.nb_execution_cache_path = str(current)
    if profile == "smoke":
        config.html_theme_options["announcement"] = SMOKE


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
    """Register both with Sphinx."""
    app.connect("config-inited", configure, priority=100)
    app.connect("html-page-context", drop_repeated_scripts, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
