"""Every command of the chapter on reproduction is one that the program takes."""

import re
import shlex
from pathlib import Path

import jupytext
import pytest
from click.testing import CliRunner

from reproduce.__main__ import main

ROOT = Path(__file__).parent.parent
CHAPTERS = ("10_reproduce", "15_results", "18_investigations")
DRY = ("run", "submit", "train")  # these can be asked what they would do


def commands(chapter):
    """What is typed into a shell in a chapter's prose, continued lines joined."""
    cells = jupytext.read(ROOT / "notebooks" / f"{chapter}.py").cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    known = [line.split("  #")[0].strip() for line in lines]
    return [line for line in known if line.startswith("python -m reproduce ")]


ALL = sorted({(chapter, line) for chapter in CHAPTERS for line in commands(chapter)})


def test_the_chapters_have_commands():
    assert len(ALL) > 20 and sum("--profile full" in line for _, line in ALL) > 5


@pytest.mark.parametrize(("chapter", "line"), ALL)
def test_a_command_is_taken(chapter, line, monkeypatch):
    line = line.replace("$select", "--profile smoke --seeds 0,1 --only task=25gmm method=TB+Expl")
    words = shlex.split(line)[3:]
    if words[0] in DRY and "--from-yaml" not in words:
        words = ["smoke" if word == "full" else word for word in words]
        words = [word for word in words if word not in ("--dry-run", "--profile-step")]
        monkeypatch.chdir(ROOT)
        result = CliRunner().invoke(main, [*words, "--dry-run"])
        assert result.exit_code == 0, result.output or result.exception
        assert result.output.strip()
    else:  # its options, at least
        result = CliRunner().invoke(main, [words[0], "--help"])
        assert result.exit_code == 0, result.output
        options = {word for word in words[1:] if word.startswith("--")}
        assert options <= set(re.findall(r"--[a-z-]+", result.output))


def test_a_wrong_command_would_be_found():
    result = CliRunner().invoke(main, ["run", "--only", "task=26gmm", "--dry-run"])
    assert result.exit_code
