"""No bare results in prose: what an experiment gave is shown by its code, or read from its file."""

import re
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*(ROOT / "notebooks").glob("*.py"), *(ROOT / "book").glob("*.md"),
                ROOT / "README.md"])  # fmt: skip

# What is no result: code, formulas (settings and definitions stand there), roles, addresses.
NOT_PROSE = (
    r"^(`{3,}|~{3,}).*?^\1", r"^\$\$.*?^\$\$", r"\{[\w:]+\}`[^`]*`", r"`[^`]*`", r"\$[^$]*\$",
    r"\]\([^)]*\)", r"https?://\S+", r"arXiv:\d+\.\d+(v\d+)?", r"<[^>]*>", r"^:[\w-]+:.*$",
    r"95% intervals?", r"CC BY-SA 3\.0", r"Python 3\.\d+",
)  # fmt: skip
UNIT = r"nats?|times|modes?|s|ms|seconds?|GB|MB|standard errors?"
RESULT = re.compile(rf"(?<![\w.-])-?\d[\d,]*\.\d+|±|\d+ ?%|(?<![\w.])\d[\d,]*(?= ({UNIT})\b)")


def sentences(text):
    """Sentences of a page's prose; one with a citation says whose number it is."""
    cited = re.sub(r"\{cite[:\w]*\}`[^`]*`", " CITED ", text)
    cited = re.sub(r"\$(-?[\d.,]+)(?:\\(%))?\$", r"\1\2", cited)  # a number alone is no formula
    for pattern in NOT_PROSE:
        cited = re.sub(pattern, " ", cited, flags=re.DOTALL | re.MULTILINE)
    for paragraph in re.split(r"\n\s*\n|^\s*(?:[-*|]|\d+\.)\s", cited, flags=re.MULTILINE):
        yield from re.split(r"(?<=[.?!:])\s+(?=\W*[A-Z])", " ".join(paragraph.split()))


def prose(path):
    if path.suffix == ".md":
        return path.read_text()
    cells = jupytext.read(path).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def bare(text):
    return [s for s in sentences(text) if "CITED" not in s and RESULT.search(s)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_prose_holds_no_bare_result(path):
    assert bare(prose(path)) == []


def test_a_bare_result_would_be_found():
    fine = "Take $T = 100$ and {result}`25gmm TB elbo`. They found 1.58 {cite:p}`x`. In two steps."
    assert bare(fine) == []
    for wrong in ("It ends at -0.18.", "Only 70% are left.", "It takes 12 s.", "a 3.2 b",
                  "It finds 9 modes.", "1 ± 2", "- 0.5 of them",
                  "From $-0.18$ on.", r"It is $69\%$."):  # fmt: skip
        assert bare(f"Fine. {wrong} {fine}"), wrong
