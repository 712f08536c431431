"""The directive `versions`: Python's version, and that of each pinned package."""

import platform
import re
from importlib.metadata import version
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective


class Versions(SphinxDirective):
    """A table of what is installed, in the order of requirements.txt."""

    def run(self):
        """The table."""
        pins = (Path(self.env.srcdir) / "requirements.txt").read_text()
        names = re.findall(r"^([\w-]+)==", pins, re.MULTILINE)
        rows = [("Python", platform.python_version())]
        rows += [(name, version(name)) for name in [*names, "gfnlite"]]
        group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in range(2)), cols=2)
        body = nodes.tbody()
        for row in rows:
            cells = (nodes.entry("", nodes.paragraph("", text)) for text in row)
            body += nodes.row("", *cells)
        head = (nodes.entry("", nodes.paragraph("", text)) for text in ("package", "version"))
        group += [nodes.thead("", nodes.row("", *head)), body]
        return [nodes.table("", group)]
