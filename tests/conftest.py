"""One thread (a busy machine makes two far slower), and the two tiers: fast by default, `--all`."""

import math
import re
from pathlib import Path
from types import SimpleNamespace

import jupytext
import pytest
import torch

torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="also run the tests marked `full`")


def pytest_configure(config):
    config.addinivalue_line("markers", "full: long; runs with --all only")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--all"):
        return
    left_out = [item for item in items if item.get_closest_marker("full")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    config.left_out = [item.nodeid for item in left_out]


def pytest_terminal_summary(terminalreporter, config):
    names = getattr(config, "left_out", [])
    if names:
        terminalreporter.section("left out of the fast tier (tests/run.sh --all runs them)")
        for name in names:
            terminalreporter.line(name)


@pytest.fixture(scope="session")
def oracle():
    """The plain sequential loop of the from-scratch notebook: its cells tagged `oracle`."""
    source = Path(__file__).parent.parent / "notebooks" / "01_from_scratch.py"
    cells = jupytext.read(source).cells
    namespace = {"math": math, "torch": torch}
    for cell in cells:
        if "oracle" in cell.metadata.get("tags", []):
            exec(cell.source, namespace)
    return SimpleNamespace(**namespace)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def one_clear_error():
    """Asserts that a call fails with one line that a pattern is found in."""

    def check(call, message):
        with pytest.raises((ValueError, TypeError)) as caught:
            call()
        assert re.search(message, str(caught.value)), str(caught.value)
        assert "\n" not in str(caught.value)

    return check
