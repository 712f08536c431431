"""The role `result`: what a sentence shows is what its results file says."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def role():
    spec = importlib.util.spec_from_file_location("result_role", ROOT / "book/ext/result_role.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path):
    def row(method, seeds, metrics):
        about = {"profile": "full", "runs": [f"toy-{method}"], "seeds": seeds}
        return about | {"method": method, "metrics": metrics}

    elbo = {"mean": -1.5, "std": 0.1, "values": [-1.4, -1.5, -1.6]}
    alone = {"elbo": {"mean": 2.0, "std": None, "values": [2.0]}, "eubo": None}
    rows = [row("TB", [0, 1, 2], {"elbo": elbo}), row("one", [0], alone), row("none", [], {})]
    (tmp_path / "toy.json").write_text(json.dumps({"rows": rows}))
    return tmp_path


def test_it_shows_mean_and_half_of_the_interval_and_says_where_from(role, folder):
    text, source = role.look_up(folder, "toy TB elbo")
    # Student's 0.975 quantile at two degrees of freedom is 4.303; times 0.1 / sqrt(3)
    assert text == "−1.50 ± 0.25"
    assert source == "elbo, TB, full: 3 seeds, ± half of the 95% interval; run toy-TB"
    text, source = role.look_up(folder, "toy one elbo full")
    assert text == "2" and "one seed, no interval" in source


@pytest.mark.parametrize("text, message", [
    ("nothing TB elbo", "no results of a task 'nothing'"),
    ("toy PIS elbo", "no run 'PIS' 'full'; there are: TB full, one full"),
    ("toy TB elbo quick", "no run 'TB' 'quick'"),
    ("toy none elbo", "no run 'none'"),
    ("toy one eubo", "no metric 'eubo'; there are: elbo"),
    ("toy", "no run '' 'full'"),
])  # fmt: skip
def test_what_is_not_there_is_one_clear_error(role, folder, text, message):
    with pytest.raises(ValueError, match=message):
        role.look_up(folder, text)


@pytest.mark.parametrize("mean, half, text", [
    (9.0, 0.0, "9"), (7_500_000, None, "7,500,000"), (286.607, 11.2, "287 ± 11"),
    (-0.1692, 0.0248, "−0.169 ± 0.025"), (0.0, None, "0"), (0.71312, None, "0.713"),
])  # fmt: skip
def test_a_number_has_the_digits_that_its_interval_lets_it_have(role, mean, half, text):
    assert role.written(mean, half) == text
