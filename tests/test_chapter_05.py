"""Exploration and credit: the equations of its chapter, against simulation and exact sums."""

import ast
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import jupytext
import pytest
import torch

import gfnlite as gl
from gfnlite import diagnosis
from gfnlite.local_search import mala
from gfnlite.process import time_grid
from gfnlite.replay import ReplayBuffer

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "notebooks" / "05_exploration_and_credit.py"
F64 = torch.float64


def cells(tag):
    found = [c for c in jupytext.read(SOURCE).cells if c.cell_type == "code"]
    return [c.source for c in found if tag in c.metadata.get("tags", [])]


@pytest.fixture(scope="module")
def chapter():
    """The chapter's cells tagged `equations`."""
    namespace = {"torch": torch}
    for source in cells("equations"):
        exec(source, namespace)
    return SimpleNamespace(**namespace)


@pytest.fixture
def two():
    """Two modes of equal mass, a narrow one and a wide one, in double precision."""
    return gl.GMM([[-3.0], [3.0]], [0.1, 1.0])


def close(values, expected, twin=None):
    """The mean of independent values is `expected` within four standard errors, and not `twin`."""
    values = values.double()
    mean, error = values.mean().item(), 4 * values.std().item() / math.sqrt(len(values))
    assert mean == pytest.approx(expected, abs=error)
    assert twin is None or mean != pytest.approx(twin, abs=error)


@pytest.mark.equation("eq-05-untrained")
@pytest.mark.parametrize("steps", [5, 20, 100])
def test_spread_of_an_untrained_sampler(chapter, generator, steps):
    sampler = gl.GFNDiffusion(gl.gmm25, sigma2=5.0, steps=steps, hidden=8)
    e = torch.tensor(16.0)
    tr = sampler.rollout(time_grid(steps), 20_000, generator=generator, exploration=e)
    square = tr.x[-1].square().mean(1)
    close(square, chapter.explored_moment(16.0, 5.0), twin=chapter.explored_moment(0.0, 5.0))


@pytest.mark.equation("eq-05-amount")
def test_amount_that_is_missing(chapter, generator):
    target = gl.gmm25.sample(100_000, generator).square().mean(1)
    exact = 50.0 + 0.3  # of the means {-10, ..., 10}, and of a mode
    close(target, exact)
    amount = chapter.missing_amount(exact, 5.0)
    assert chapter.explored_moment(amount, 5.0) == pytest.approx(exact)
    x = torch.randn(100_000, 2, generator=generator) * (5.0 + amount) ** 0.5  # untrained
    close(x.square().mean(1), exact, twin=5.0 + exact)


@pytest.mark.equation("eq-05-explored")
@pytest.mark.parametrize("s2, sigma2, e", [(50.3, 5.0, 16.0), (4.0, 1.0, 4.0), (0.3, 1.0, 2.0)])
def test_exploration_multiplies_what_has_been_learnt(chapter, s2, sigma2, e):
    def second_moment(e, n=20_000):
        """Of the end, by the exact recursion of an Euler scheme with the optimal drift."""
        m, h = 0.0, 1 / n
        for i in range(n):
            t = (i + 0.5) * h
            # the optimal drift from the known marginals, and not from the proof's g
            v = t * t * s2 + sigma2 * t * (1 - t)
            slope = 2 * t * s2 + sigma2 * (1 - 2 * t)
            a = (slope - sigma2) / (2 * v)
            m = (1 + a * h) ** 2 * m + (sigma2 + e) * h
        return m

    assert second_moment(0.0) == pytest.approx(s2, rel=2e-3)
    found = second_moment(e)
    assert found == pytest.approx(chapter.explored_moment(e, sigma2, s2), rel=2e-3)
    assert found != pytest.approx(s2 + e, rel=0.05)  # the twin: a sum


@pytest.mark.equation("eq-05-hits")
@pytest.mark.parametrize("e", [8.0, 32.0])
def test_how_often_a_corner_is_met(chapter, generator, e):
    x = torch.randn(400_000, 2, generator=generator) * (5.0 + e) ** 0.5
    corner = gl.gmm25.modes_of(torch.tensor([[10.0, 10.0]]))[0]
    hits = (gl.gmm25.modes_of(x) * corner).sum(1)
    p = chapter.corner_hits(e).item()
    close(hits, p, twin=p**0.5)


@pytest.mark.equation("eq-05-rank")
def test_draws_by_rank(generator):
    n, k, draws = 50, 0.1, 200_000
    buffer = ReplayBuffer(n, 1, rank_weight=k)
    best_first = torch.arange(n).float()[:, None]
    order = torch.randperm(n, generator=generator)
    buffer.add(best_first[order], -best_first[order, 0])
    counts = buffer.sample(draws, generator).x[:, 0].long().bincount(minlength=n)
    p = 1 / (k * n + torch.arange(n, dtype=F64))
    p /= p.sum()
    z = (counts - draws * p) / (draws * p * (1 - p)).sqrt()
    assert z.abs().max() < 4.5
    twin = torch.full((n,), 1 / n, dtype=F64)
    assert ((counts - draws * twin) / (draws * twin).sqrt()).abs().max() > 20


def exact_cdf(n, k):
    return (1 / (k * n + torch.arange(n, dtype=F64))).cumsum(0) / (
        1 / (k * n + torch.arange(n, dtype=F64))
    ).sum()


@pytest.mark.equation("eq-05-inverse")
@pytest.mark.parametrize("n, k", [(1000, 0.01), (10_000, 0.01), (10_000, 1.0)])
def test_the_continuous_law_is_the_rank_law(chapter, n, k):
    u = (torch.arange(500_000, dtype=F64) + 0.5) / 500_000

    def error(k):
        drawn = chapter.rank_of(u, n, k).long().bincount(minlength=n).cumsum(0) / len(u)
        return (drawn - exact).abs().max().item()

    exact = exact_cdf(n, k)
    assert error(k) < 1e-4  # 1/y is not linear within a rank: a relative 1 / (12 c^2)
    assert error(2 * k) > 0.01


@pytest.mark.equation("eq-05-half")
@pytest.mark.parametrize("k", [0.001, 0.01, 0.1, 1.0])
def test_half_of_the_draws(chapter, k):
    n = 100_000
    median = (exact_cdf(n, k) < 0.5).sum().item() / n
    assert median == pytest.approx(chapter.best_half(k), abs=1e-4)
    assert chapter.best_half(0.01) == pytest.approx(0.09, abs=0.001)  # as the text says
    assert median != pytest.approx(chapter.best_half(1.2 * k), abs=1e-4)


@pytest.mark.equation("eq-05-age")
def test_age_of_what_is_drawn(chapter, generator):
    capacity, added = 1000, 50
    buffer = ReplayBuffer(capacity, 1, priority="uniform")
    for iteration in range(60):
        buffer.add(torch.full((added, 1), float(iteration)), torch.zeros(added))
    age = iteration - buffer.sample(20_000, generator).x[:, 0]
    close(age, chapter.mean_age(capacity, added), twin=capacity / added / 2)


def log_q(target, to, start, h):
    """log q(to | start), from the definition."""
    return (
        torch.distributions.Normal(start + h * target.score(start), (2 * h) ** 0.5)
        .log_prob(to)
        .sum(-1)
    )


@pytest.mark.equation("eq-05-mala")
def test_acceptance_is_in_detailed_balance(chapter, two, generator):
    x, h = two.sample(1000, generator), 0.3
    y = chapter.proposal(two, x, h, generator)
    flow = two.log_reward(x) + log_q(two, y, x, h) + chapter.acceptance(two, x, y, h).log()
    back = two.log_reward(y) + log_q(two, x, y, h) + chapter.acceptance(two, y, x, h).log()
    torch.testing.assert_close(flow, back, rtol=1e-4, atol=1e-3)
    twin = (two.log_reward(y) - two.log_reward(x)).clamp(max=0)  # no ratio of proposals
    back_twin = (two.log_reward(x) - two.log_reward(y)).clamp(max=0)
    gap = flow - chapter.acceptance(two, x, y, h).log() + twin
    gap = gap - (back - chapter.acceptance(two, y, x, h).log() + back_twin)
    assert gap.abs().max() > 0.5


@pytest.mark.equation("eq-05-mala")
def test_acceptance_is_that_of_the_package(chapter, two, generator):
    x, h = two.sample(100_000, generator), 0.3
    chains = mala(two, x, steps=1, burn_in=0, adapt=1.0, step_size=h, generator=generator)
    y = chapter.proposal(two, x, h, generator)
    close(chapter.acceptance(two, x, y, h), chains.acceptance.item())


@pytest.mark.equation("eq-05-accepted")
@pytest.mark.parametrize("h", [0.1, 0.3])
def test_what_accepted_proposals_are_samples_of(chapter, two, generator, h):
    """Their share of the narrow mode, against the target weighted by the rate from each point."""
    x = two.sample(200_000, generator)
    chains = mala(two, x, steps=1, burn_in=0, adapt=1.0, step_size=h, generator=generator)
    moved = (chains.x[0] != x)[:, 0]
    narrow = (chains.x[0][moved] < 0).float()
    rate = chapter.acceptance(two, x, chapter.proposal(two, x, h, generator), h)  # a, unbiased
    expected = rate[x[:, 0] < 0].sum() / rate.sum()
    error = 4 * math.sqrt(2) * 0.5 / math.sqrt(moved.sum().item())
    assert narrow.mean().item() == pytest.approx(expected.item(), abs=error)
    assert narrow.mean().item() != pytest.approx(0.5, abs=0.02)  # the twin: the target


@pytest.mark.equation("eq-05-accepted")
def test_the_page_draws_the_law_of_accepted_proposals(chapter, two, generator):
    """The share of the narrow mode under the page's curve, against its accepted proposals."""
    namespace = {"torch": torch, "mala": mala, "two": two, "generator": generator}
    namespace |= vars(chapter) | {"exact": two.sample(2000, generator)}
    (source,) = cells("accepted")
    exec(source, namespace)
    share = (namespace["accepted"] < 0).double().mean().item()
    # no chain crosses: the error is that of the starts' share, and of the moves
    assert namespace["expected"] == pytest.approx(share, abs=4 * 0.5 / math.sqrt(2000))
    assert namespace["expected"] < 0.35  # the twin: half, as in the target
    assert torch.trapezoid(namespace["predicted"], namespace["grid"][:, 0]) == pytest.approx(1)


@pytest.mark.equation("eq-05-lp")
def test_drift_with_the_score(generator):
    sampler = gl.GFNDiffusion(gl.gmm25, langevin=True, hidden=8, steps=4)
    policy = sampler.policy
    with torch.no_grad():
        for p in policy.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
        t = time_grid(4)[:-1]
        context = policy.context(policy.forward_net, t, torch.full((4,), 0.25), None)
        x = 3 * torch.randn(4, 100, 2, generator=generator)
        score = gl.gmm25.score(x.flatten(0, 1)).view_as(x)
        plain = policy.forward_kernel(x, context, torch.zeros_like(x))[0]
        drift = policy.forward_kernel(x, context, score)[0]
        s = policy.langevin(t).reshape(4, 1, 1)
    torch.testing.assert_close(drift, plain + s * score.clamp(-100, 100))
    assert (drift - plain - score.clamp(-100, 100)).abs().max() > 0.1  # the twin: s = 1
    far = policy.forward_kernel(x, context, torch.full_like(x, 1e6))[0]
    torch.testing.assert_close(far, (plain + s * 100.0).expand_as(far))


@pytest.mark.equation("eq-05-calls")
def test_energy_calls_of_an_iteration():
    batch, steps, n, every, search = 16, 6, 20, 10, 30
    common = {"batch_size": batch, "steps": steps, "coarse_steps": None, "iterations": n}
    common |= {"hidden": 8, "exploration": 0.0}
    ls = {"ls_every": every, "ls_steps": search, "ls_burn_in": 10, "replay_capacity": 1000}
    expected = {
        "TB": batch,
        "VarGrad": batch,
        "TB, replay": batch * (1 - 0.25),
        "TB+Expl+LP": batch * (steps + 1),
        "FL-SubTB": batch * steps,
        "TB+Expl+LS": batch * (1 - 0.5) + batch * (search + 1) / every,
    }
    for method, calls in expected.items():
        more = ls if "LS" in method else {"replay_ratio": 0.25} if "replay" in method else {}
        config = gl.preset("25gmm", method.removesuffix(", replay"), "quick").replace(
            **common | more
        )
        sampler = gl.GFNDiffusion(gl.gmm25, config=config)
        sampler.fit(progress=False)
        # every search starts one chain a trajectory; training's logs are not counted
        assert sampler.energy_calls == pytest.approx(n * calls, abs=batch), method


@pytest.mark.equation("eq-03-fl")
def test_forward_looking_flow(generator):
    sampler = gl.GFNDiffusion(
        gl.gmm25, objective="subtb", forward_looking=True, sigma2=5.0, steps=5, hidden=8
    )
    tr = sampler.trajectory(50, generator=generator)
    t = time_grid(5)[1:-1, None]
    x = tr.x[1:-1]
    reference = torch.distributions.Normal(0.0, (5.0 * t[..., None]).sqrt()).log_prob(x).sum(-1)
    found = tr.flow + reference  # it is kept relative to the reference
    log_r = gl.gmm25.log_reward(x.flatten(0, 1)).view(x.shape[:2])
    torch.testing.assert_close(found, t * log_r + (1 - t) * reference, rtol=1e-4, atol=1e-3)
    assert (found - log_r).abs().max() > 1.0  # the twin: the energy alone


def test_table_of_the_full_size_rows_is_that_of_the_results(monkeypatch):
    monkeypatch.chdir(SOURCE.parent)
    from collections import Counter

    namespace = {"json": json, "Path": Path, "Counter": Counter, "gl": gl}
    for source in cells("ledger"):
        exec(source, namespace)
    for task in ("25gmm", "manywell32"):
        made = json.loads((ROOT / f"reproduce/results/{task}.json").read_text())
        table = namespace["full_size"](task)
        full = [r for r in made["rows"] if r["profile"] == "full"]
        full = [r for r in full if r["method"] in set(gl.METHODS) - set(namespace["SKIPPED"])]
        assert len(table.splitlines()) == 2 + len(full)
        for row in full:
            line = next(x for x in table.splitlines() if x.startswith(f"| {row['method']} |"))
            if not row["seeds"]:
                assert "not run" in line
                continue
            cell = line.split("|")
            metrics = row["metrics"]
            assert float(cell[3]) == pytest.approx(
                made["true_log_z"] - metrics["elbo"]["mean"], abs=0.006
            )
            assert float(cell[4]) == pytest.approx(
                metrics["eubo"]["mean"] - made["true_log_z"], abs=0.006
            )
            assert int(cell[7]) == len(row["seeds"])


def test_what_the_page_says_of_the_full_size_rows():
    """The list under the tables is in fixed words: the committed runs must go on saying so."""

    def full(task):
        made = json.loads((ROOT / f"reproduce/results/{task}.json").read_text())
        rows = {r["method"]: r for r in made["rows"] if r["profile"] == "full"}
        ran = {name: row["metrics"] for name, row in rows.items() if row["seeds"]}
        return made["true_log_z"], rows, ran

    _, rows, ran = full("25gmm")
    modes = {name: row["modes"]["values"] for name, row in ran.items() if row.get("modes")}
    assert modes["TB"] == modes["FL-SubTB"] and max(modes["TB"]) < 15
    for name in ("TB+Expl", "VarGrad+Expl"):
        assert sum(n < 25 for n in modes[name]) > len(modes[name]) / 2
    assert min(modes["TB+Expl+LS"]) == min(modes["TB+Expl+LP"]) == 25
    assert min(modes["FL-SubTB+LP"]) >= 24  # without exploration
    assert gl.preset("25gmm", "FL-SubTB+LP", "full").exploration == 0
    for bound, sign in (("elbo", 1), ("eubo", -1)):
        alone = sign * ran["TB+Expl+LS"][bound]["mean"]
        for name in ("TB+Expl+LP+LS", "VarGrad+Expl+LP+LS"):
            assert sign * ran[name][bound]["mean"] < alone
    log_z, wells, ran = full("manywell32")
    assert ran["TB+Expl"]["eubo"]["mean"] >= ran["TB"]["eubo"]["mean"]
    assert set(ran["TB+Expl"]["modes"]["values"]) == {16}
    for name in {"TB+Expl+LP", "TB+Expl+LP+LS"} & set(ran):
        assert sum(ran[name]["modes"]["values"]) > 16 * len(ran[name]["modes"]["values"])
        assert ran[name]["elbo"]["mean"] < ran["TB"]["elbo"]["mean"]
        assert ran[name]["ess"]["mean"] < 0.01
    for table in (rows, wells):
        plain, drift = (table[name]["paper"] for name in ("PIS", "PIS+LP"))
        assert drift["delta_log_z_rw"]["mean"] < plain["delta_log_z_rw"]["mean"]
        assert drift["delta_log_z"]["mean"] > plain["delta_log_z"]["mean"]


def test_decisions_are_those_of_the_diagnosis():
    """The third column of the last table has verdicts that `diagnose` can give, and all of them."""
    lines = SOURCE.read_text().split("verdict of `gl.diagnose`")[1].splitlines()[2:]
    rows = [line.split("|")[3].strip() for line in lines if line.startswith("# | ")]
    source = Path(diagnosis.__file__).read_text()
    calls = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call)]
    findings = [n for n in calls if getattr(n.func, "id", "") == "Finding"]
    verdicts = {n.args[0].value for n in findings if n.args}
    assert set(rows) - {"none"} == verdicts
    settings = set(gl.Config.describe())
    table = "\n".join(line for line in lines if line.startswith("# | "))
    for name in re.findall(r"`(\w+)(?:=[^`]*)?`", table):
        assert name in settings | {"rank"}, name
