"""The package alone: with PyTorch and NumPy, and nothing else that is not Python's own."""

import os
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import gfnlite as gl

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "gfnlite/pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A folder of packages: gfnlite's, and those that its dependencies need."""
    site, todo, seen = tmp_path_factory.mktemp("site"), list(PROJECT["dependencies"]), set()
    (site / "gfnlite").symlink_to(ROOT / "gfnlite")
    about = site / f"gfnlite-{PROJECT['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Name: gfnlite\nVersion: {PROJECT['version']}\n")
    while todo:
        wanted = Requirement(todo.pop())
        if wanted.name in seen or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        seen.add(wanted.name)
        try:
            found = distribution(wanted.name)
        except PackageNotFoundError:  # of another build of PyTorch
            continue
        for top in {file.parts[0] for file in found.files} - {"..", "__pycache__"}:
            if not (site / top).exists():  # as `nvidia`, which several packages share
                (site / top).symlink_to(found.locate_file(top))
        todo += found.requires or []
    return site


def use(site, body):
    """A Python process that finds what is in `site`, and nothing else that was installed."""
    start = f"import sys\nsys.path.append({str(site)!r})\n"
    words = [sys.executable, "-I", "-S", "-c", start + body]
    environment = {k: v for k, v in os.environ.items() if k != "GFNLITE_STATIC"}
    return subprocess.run(words, capture_output=True, text=True, env=environment)


def test_a_sampler_is_trained_judged_and_kept_by_torch_and_numpy_alone(alone, tmp_path):
    body = f"""
import gfnlite as gl
small = dict(steps=5, batch_size=32, iterations=20)
sampler = gl.GFNDiffusion(gl.gmm9, **small).fit(folder={str(tmp_path)!r})
found = sampler.evaluate(200)
print(found)
assert found["w2"] is None
gl.diagnose(sampler)
again = gl.GFNDiffusion.load({str(tmp_path / "checkpoint.pt")!r})
assert again.iteration == 20 and again.sample(10).shape == (10, 2)
gl.Ensemble(gl.gmm9, seeds=2, **small).fit(progress=False).evaluate(200)
gl.GFNDiffusion(lambda x: x.square().sum(-1), dim=3).rollout(gl.time_grid(5), 10)
"""
    done = use(alone, body)
    assert done.returncode == 0, done.stderr
    assert "ELBO" in done.stdout
    assert "w2 left out: the module ot is missing: pip install 'gfnlite[transport]'" in done.stderr


@pytest.mark.parametrize(
    "extra, body",
    [
        ("plots", "gl.plots.style()"),
        ("transport", "gl.w2(torch.randn(9, 2), torch.randn(9, 2))"),
        ("data", "gl.targets.breast_cancer()"),
        ("widgets", "gl.explore(print, alt='', n=[1, 2])"),
    ],
)
def test_what_needs_more_says_what_to_install(alone, extra, body):
    done = use(alone, f"import torch, gfnlite as gl\n{body}")
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("ImportError: "), done.stderr
    assert last.endswith(f"pip install 'gfnlite[{extra}]'")
    assert extra in PROJECT["optional-dependencies"]


@pytest.mark.full
def test_every_method_is_trained_by_torch_and_numpy_alone(alone):
    done = use(alone, (ROOT / "tests/every_method.py").read_text())
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ELBO") == len(gl.METHODS)
