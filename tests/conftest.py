"""One thread (a busy machine makes two far slower), and the two tiers: fast by default, `--all`."""

import functools
import gzip
import http.server
import io
import json
import math
import re
import statistics
import threading
from pathlib import Path
from types import SimpleNamespace

import jupytext
import pytest
import torch
from browsing import BROWSER, FLAGS, build

from reproduce import experiments, papers, provenance, report
from reproduce.bench import tasks
from reproduce.bench.measure import interleaved

torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="also run the tests marked `full`")


def pytest_configure(config):
    config.addinivalue_line("markers", "full: long; runs with --all only")
    config.addinivalue_line(
        "markers", "equation(*labels): the book's equations that this test checks"
    )


BOOK = {"html", "browser"}  # fixtures


def pytest_collection_modifyitems(config, items):
    # Of several workers, one has a whole file, and one all that needs the book: it is built once.
    for item in items:
        needs_book = BOOK & set(item.fixturenames)
        item.add_marker(pytest.mark.xdist_group("book" if needs_book else item.path.stem))
    if config.getoption("--all"):
        return
    left_out = [item for item in items if item.get_closest_marker("full")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    config.left_out = [item.nodeid for item in left_out]
    if hasattr(config, "workeroutput"):
        config.workeroutput["left_out"] = config.left_out


def pytest_runtest_setup(item):
    """What a test draws does not depend on which ran before it."""
    torch.manual_seed(0)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """xdist's: the workers collect, and the one that reports does not."""
    node.config.left_out = []


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """xdist's: every worker has left out the same."""
    node.config.left_out = getattr(node, "workeroutput", {}).get("left_out", [])


@pytest.fixture
def injected(record_property):
    """Counts the faults that a test injects, for the summary: they are lost if it fails."""
    return lambda kind, count=1: record_property("faults", [kind, count])


def pytest_terminal_summary(terminalreporter, config):
    faults: dict[str, list[int]] = {}  # kind -> how many survived, and how many were lost
    for place, outcome in enumerate(("passed", "failed")):
        for test in terminalreporter.stats.get(outcome, []):
            told = dict(test.user_properties) if test.when == "call" else {}
            if "faults" in told:
                kind, count = told["faults"]
                faults.setdefault(kind, [0, 0])[place] += count
    if faults:
        terminalreporter.section("faults injected, survived, lost")
        faults["in all"] = [sum(counts) for counts in zip(*faults.values(), strict=True)]
        for kind, (survived, lost) in faults.items():
            terminalreporter.line(f"{kind}: {survived + lost}, {survived}, {lost}")
    names = getattr(config, "left_out", [])
    if names:
        terminalreporter.section("left out of the fast tier (tests/run.sh --all runs them)")
        for name in names:
            terminalreporter.line(name)


# What a notebook needs to be run in batch.
PARAMETERS = """
task: str = ""
method: str = ""
profile: str = ""
seeds: list = []
out_dir: str | None = None
steps: int | None = None
iterations: int | None = None
batch_size: int | None = None
lr: float | None = None
"""


@pytest.fixture
def build_house(tmp_path, monkeypatch):
    """Makes a copy of the repository's shape, with one experiment and a notebook `fake`."""

    def build(experiment, body):
        for name in ("reproduce/experiments", "reproduce/results", "notebooks"):
            (tmp_path / name).mkdir(parents=True)
        (tmp_path / "reproduce/experiments/fake.yaml").write_text(json.dumps(experiment))
        source = f'# %% tags=["parameters"]{PARAMETERS}\n# %%{body}'
        jupytext.write(jupytext.reads(source, "py:percent"), tmp_path / "notebooks/fake.py")
        for module, names in {
            experiments: ("ROOT", "FOLDER", "NOTEBOOKS", "RUNS"),
            papers: ("NOTEBOOKS",),
            provenance: ("ROOT", "NOTEBOOKS"),
            report: ("FOLDER",),
        }.items():
            for name in names:
                new = tmp_path / getattr(module, name).relative_to(ROOT)
                monkeypatch.setattr(module, name, new)
        commit = lambda *words: "0123abc" if words[0] == "rev-parse" else ""  # noqa: E731
        monkeypatch.setattr(provenance, "git", commit)
        experiments.notebook_parameters.cache_clear()
        return tmp_path

    yield build
    experiments.notebook_parameters.cache_clear()


@pytest.fixture(scope="session")
def html(tmp_path_factory):
    """The folder of the book, built once in the smoke profile."""
    folder = tmp_path_factory.mktemp("book")
    code, output = build(folder, GFNLITE_PROFILE="smoke")
    assert code == 0, output[-5000:]
    return folder / "_build" / "html"


@pytest.fixture(scope="session")
def site(html):
    """The address at which that book is served."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        """Serves texts compressed, as public hosts do, and keeps no log."""

        def log_message(self, *_):
            pass

        def send_head(self):
            path = Path(self.translate_path(self.path))
            if path.suffix not in (".html", ".css", ".js", ".svg") or not path.is_file():
                return super().send_head()
            body = squeezed(path, path.stat().st_mtime_ns)
            self.send_response(200)
            self.send_header("Content-Type", self.guess_type(path))
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            return io.BytesIO(body)

    @functools.cache
    def squeezed(path, _changed):
        return gzip.compress(path.read_bytes())

    handler = functools.partial(Quiet, directory=html)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium."""
    if BROWSER is None:
        pytest.skip("NO BROWSER: the built pages were not looked at")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, headless=True, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def oracle():
    """The plain sequential loop of the from-scratch notebook: its cells tagged `oracle`."""
    source = ROOT / "notebooks" / "01_from_scratch.py"
    cells = jupytext.read(source).cells
    namespace = {"math": math, "torch": torch}
    for cell in cells:
        if "oracle" in cell.metadata.get("tags", []):
            exec(cell.source, namespace)
    return SimpleNamespace(**namespace)


MOST = 5.0  # no machine was seen that is slower than this, and no package is excused beyond it


@pytest.fixture
def slowdown(plain_step):
    """Called after some work: how many times slower this core was than the benchmark's, 1 to 5.

    A core that others share can take four times as long for the same. What is timed, before the
    test and when called, is the step of the benchmark's plain baseline, none of the package's: a
    package grown slow is not excused.
    """
    step, then = plain_step

    def measured():
        with torch.random.fork_rng():
            return statistics.median(interleaved({"plain": step}, 5)["plain"]) / then

    before = measured()

    def during():
        found = (before + measured()) / 2
        print(f"this core is {found:.1f} times as slow as the benchmark's")
        return min(max(1.0, found), MOST)

    return during


@pytest.fixture(scope="session")
def plain_step():
    """A step of the benchmark's plain baseline, and the ms that it took on one quiet core."""
    runs = json.loads((ROOT / "reproduce/results/bench/steps.json").read_text())["runs"]
    of_one_core = {"threads": 1, "clock": "cpu", "device": "cpu"}.items()
    [run] = (run for run in runs if run["environment"].items() >= of_one_core)
    kind = {"task": "25gmm", "step": "TB+Expl forward"}.items()
    [entry] = (entry for entry in run["entries"] if entry.items() >= kind)
    with torch.random.fork_rng():
        baseline = tasks.trainer("25gmm", tasks.Step(), tasks.Sizes())
    return tasks.plain_step(baseline, tasks.Step()), entry["plain"]["median"]


@pytest.fixture(scope="session")
def gauss_hermite():
    """Sixty nodes and weights of a standard normal: eigenvalues of the Jacobi matrix."""
    side = torch.arange(1, 60, dtype=torch.float64).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(side, 1) + torch.diag(side, -1))
    return nodes, vectors[0].square()


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
