"""Replay: every draw has the exact probability of what is in the ring at that moment."""

import io
import math
import time

import numpy as np
import pytest
import torch

from gfnlite import priority as laws
from gfnlite.replay import ReplayBuffer

PRIORITIES = ("uniform", "rank", "reward", "weight")


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def entries(start, end, scale=3.0):
    """Entries number start to end; x tells the number, everything else follows from it."""
    number = torch.arange(start, end, dtype=torch.float32)
    noise = normal(2, 100_000, seed=1)[:, start:end] * scale
    return {
        "x": number[:, None].repeat(1, 2), "log_reward": noise[0], "log_weight": noise[1],
        "condition": number[:, None] + 0.5,
    }  # fmt: skip


def make(capacity, priority="rank", **settings):
    return ReplayBuffer(capacity, 2, condition_dim=1, priority=priority, **settings)


def explicit_law(priority, stored, rank_weight=0.01, ess=0.1):
    """The probability of each of the entries that are there, by the words of the docstring."""
    n = len(stored["x"])
    if priority == "uniform":
        return np.full(n, 1 / n)
    if priority == "rank":
        rank = np.empty(n)
        rank[np.argsort(-stored["log_reward"].numpy())] = np.arange(n)
        p = 1 / (rank_weight * n + rank)
        return p / p.sum()
    key = stored["log_reward" if priority == "reward" else "log_weight"].double().numpy()

    def tempered(log_tau):
        p = np.exp((key - key.max()) / math.exp(log_tau))
        return p / p.sum()

    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        enough = 1 / (tempered(middle) ** 2).sum() >= ess * n
        low, high = (low, middle) if enough else (middle, high)
    return tempered(high)


def z_score(counts, p):
    """Standardised chi-square of counts against p; about N(0, 1) if the law is p."""
    order = np.argsort(p)
    counts, expected = counts[order], (p * counts.sum())[order]
    group = (expected.cumsum() // 20).astype(int)  # at least about 20 expected in each cell
    counts, expected = np.bincount(group, counts), np.bincount(group, expected)
    keep = expected > 0
    counts, expected = counts[keep], expected[keep]
    freedom = len(expected) - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom)


def drawn_counts(buffer, first, n, draws=200_000, seed=2, batches=1):
    generator = torch.Generator().manual_seed(seed)
    numbers = [buffer.sample(draws // batches, generator).x[:, 0].long() for _ in range(batches)]
    counts = torch.cat(numbers) - first
    assert counts.min() >= 0, "drew an entry that has been overwritten"
    return np.bincount(counts.numpy(), minlength=n)


def test_counts_exactly_and_wraps():
    buffer = make(100)
    for start in range(0, 260, 26):
        buffer.add(**entries(start, start + 26))
        assert len(buffer) == min(start + 26, 100)
    numbers = buffer.sample(20_000).x[:, 0]
    assert set(numbers.int().tolist()) == set(range(160, 260))
    buffer.add(**entries(1000, 1300))  # more than fit: the newest stay
    assert set(buffer.sample(20_000).x[:, 0].int().tolist()) == set(range(1200, 1300))


def test_first_batch_is_stored_once():
    """The public code stored its first batch twice."""
    buffer = make(1000, "uniform")
    buffer.add(**entries(0, 30))
    buffer.add(**entries(30, 60))
    assert len(buffer) == 60
    assert abs(z_score(drawn_counts(buffer, 0, 60), np.full(60, 1 / 60))) < 4


@pytest.mark.parametrize("priority", PRIORITIES)
def test_each_sample_keeps_what_is_its_own(priority):
    """The public code's buffer gave latents the condition of another image (0.5% right)."""
    buffer = make(500, priority)
    for start in range(0, 900, 45):
        buffer.add(**entries(start, start + 45))
        drawn = buffer.sample(200)
        truth = entries(0, 900)
        number = drawn.x[:, 0].long()
        for name in ("log_reward", "log_weight", "condition"):
            assert torch.equal(getattr(drawn, name), truth[name][number]), name
    # The twin: a batch laid out the other way round is not paired.
    x, condition = torch.arange(6.0).view(3, 2, 1), torch.arange(3.0)
    right, wrong = x.flatten(0, 1), condition.repeat(2)
    assert not torch.equal((right[:, 0] // 2), wrong)


# Entries before the last rebuild, after it (each batch is followed by a draw), and the capacity.
STAGES = {
    "just rebuilt": (6000, 0, 10_000),
    "with a tail": (6000, 110, 10_000),
    "tail fills up, then overwrites": (6000, 110, 6050),
    "full, with a tail": (9000, 110, 6000),
    "full, at an odd place": (9000, 110, 5963),
    "small": (40, 0, 100),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("priority", PRIORITIES)
def test_every_draw_has_the_stated_probability(priority, stage):
    before, after, capacity = STAGES[stage]
    buffer = make(capacity, priority, refresh=10**6)
    buffer.add(**entries(0, before))
    buffer.sample(1)
    for start in range(before, before + after, 10):
        buffer.add(**entries(start, start + 10))
        buffer.sample(1)
    assert priority == "uniform" or buffer._base == before  # really not rebuilt
    first, end = max(0, before + after - capacity), before + after
    stored = entries(first, end)
    p = explicit_law(priority, stored)
    if priority in ("reward", "weight") and after:  # tau is that of the last rebuild
        p = np.exp(buffer._law.beta.item() * stored[f"log_{priority}"].double().numpy())
        p /= p.sum()
    counts = drawn_counts(buffer, first, end - first)
    assert abs(z_score(counts, p)) < 4
    drawn = buffer.sample(2000)
    number = drawn.x[:, 0].long() - first
    np.testing.assert_allclose(drawn.log_prob.numpy(), np.log(p[number.numpy()]), atol=0.02)
    # Twins: laws that are a little wrong are found out.
    if priority != "uniform" and before > 40:
        assert z_score(counts, np.full(len(p), 1 / len(p))) > 20
        assert z_score(counts, p**1.1 / (p**1.1).sum()) > 5
    if priority == "rank" and after and before > capacity:
        stale = explicit_law("rank", entries(before - capacity, before))
        assert z_score(counts, np.roll(stale, -after)) > 20  # the predecessor's rank


def test_what_was_added_can_be_drawn_at_once():
    """The public code draws from an index made before the newest samples came."""
    for priority in PRIORITIES:
        buffer = make(50_000, priority, refresh=10**6)
        buffer.add(**entries(0, 50_000))
        buffer.sample(10)
        new = entries(50_000, 50_001)
        new["log_reward"] += 100
        new["log_weight"] += 100
        buffer.add(**new)
        drawn = buffer.sample(200_000, torch.Generator().manual_seed(0)).x[:, 0]
        share = (drawn == 50_000).float().mean().item()
        if priority == "rank":
            expected = explicit_law("rank", {"x": range(50_000), "log_reward": -torch.arange(5e4)})
            error = math.sqrt(expected[0] / 200_000)  # of a count of about 87
            assert share == pytest.approx(expected[0], abs=4 * error)
            assert 4 * error < expected[0] / 2  # the twin: half as often would be seen
        else:
            assert share > 0.9 if priority != "uniform" else share < 0.001


def test_oldest_is_gone_at_once():
    buffer = make(5000, "rank", refresh=10**6)
    first = entries(0, 5000)
    first["log_reward"][:50] += 1000  # by far the best, but the oldest
    buffer.add(**first)
    assert (buffer.sample(1000).x[:, 0] < 50).float().mean() > 0.1
    buffer.add(**entries(5000, 5050))
    assert buffer.sample(50_000).x[:, 0].min() >= 50


@pytest.mark.parametrize("size", [500, 30_000])
@pytest.mark.parametrize("rank_weight", [1e-5, 0.01, 1.0])
def test_rank_weight_changes_the_law(rank_weight, size):
    """In the public code it does nothing. Below and beyond the ranks that are summed one by one."""
    buffer = make(size, "rank", rank_weight=rank_weight)
    stored = entries(0, size)
    buffer.add(**stored)
    counts = drawn_counts(buffer, 0, size)
    assert abs(z_score(counts, explicit_law("rank", stored, rank_weight))) < 4
    assert z_score(counts, explicit_law("rank", stored, rank_weight * 3)) > 10


@pytest.mark.parametrize("size", [500, 30_000])
@pytest.mark.parametrize("ess", [0.02, 0.1, 0.5])
def test_tempering_reaches_the_effective_sample_size(ess, size):
    buffer = make(size, "weight", temper_ess=ess)
    stored = entries(0, size)
    stored["log_weight"][7] = 200  # one weight above all others, which a subsample might miss
    buffer.add(**stored)
    buffer.sample(1)
    p = torch.softmax(buffer._law.beta * stored["log_weight"], 0)
    assert 1 / p.square().sum() / size == pytest.approx(ess, rel=0.05)


def test_weights_that_are_even_enough_are_not_tempered():
    buffer = make(6000, "weight")
    buffer.add(**entries(0, 6000, scale=0.5))
    buffer.sample(1)
    assert buffer._law.beta == 1


@pytest.mark.parametrize("priority", PRIORITIES)
def test_log_prob_makes_weights_whole(priority):
    """Mean of exp(log_weight - log_prob) f over draws is the weighted sum of f over the buffer."""
    buffer, stored = make(4000, priority), entries(0, 4000, scale=1.0)
    buffer.add(**stored)
    drawn = buffer.sample(100_000, torch.Generator().manual_seed(3))
    for f in (torch.ones_like, torch.sigmoid):
        truth = (stored["log_weight"].exp() * f(stored["log_reward"])).sum()
        terms = (drawn.log_weight - drawn.log_prob).exp() * f(drawn.log_reward)
        assert abs(terms.mean() - truth) < 4 * terms.std() / math.sqrt(len(terms)) + 1e-5 * truth
    if priority != "uniform":  # the twin: as if all were drawn alike; f still the sigmoid
        wrong = 4000 * drawn.log_weight.exp() * f(drawn.log_reward)
        assert abs(wrong.mean() - truth) > 8 * wrong.std() / math.sqrt(len(wrong))


def flat(state):
    """All numbers of a state, however deep."""
    if isinstance(state, dict):
        return {name: flat(value) for name, value in state.items()}
    return state.tolist() if isinstance(state, torch.Tensor) else state


@pytest.mark.parametrize("priority", PRIORITIES)
@pytest.mark.parametrize("moment", [0, 1, 5, 16, 23])
def test_resumes_bit_for_bit(priority, moment):
    def step(buffer, generator, i):
        buffer.add(**entries(40 * i, 40 * i + 40))
        if i % 3 == 0:
            buffer.add(**entries(5000 + 40 * i, 5040 + 40 * i))  # with no draw between
        return buffer.sample(30, generator)

    settings = {"capacity": 1500, "priority": priority, "refresh": 4}
    buffer, generator = make(**settings), torch.Generator().manual_seed(0)
    buffer.add(**entries(50_000, 51_400))
    for i in range(moment):
        step(buffer, generator, i)
    file = io.BytesIO()
    torch.save([buffer.state_dict(), generator.get_state()], file)
    kept = buffer.state_dict()
    file.seek(0)
    state, random_state = torch.load(file, weights_only=True)
    again, generator2 = make(**settings), torch.Generator()
    again.load_state_dict(state)
    generator2.set_state(random_state)
    for i in range(moment, moment + 20):
        one, two = step(buffer, generator, i), step(again, generator2, i)
        assert all(torch.equal(getattr(one, k), getattr(two, k)) for k in vars(one))
    assert flat(kept) == flat(state)  # a state is a copy: going on does not change it
    with pytest.raises(ValueError, match="settings"):
        make(1501, priority, refresh=4).load_state_dict(state)


def test_state_holds_the_used_part_only():
    buffer = make(600_000)
    buffer.add(**entries(0, 10))
    buffer.sample(3)
    file = io.BytesIO()
    torch.save(buffer.state_dict(), file)
    assert file.tell() < 10_000
    empty = make(600_000)
    empty.load_state_dict(make(600_000).state_dict())
    assert len(empty) == 0


@pytest.mark.parametrize("priority", ["uniform", "rank", "reward", "weight"])
def test_groups_of_a_condition_are_kept_and_drawn_together(priority):
    """As often as one sample of the group's mean reward, or weight, would be."""
    generator = torch.Generator().manual_seed(0)
    group, count, n = 3, 40, 60_000
    x = torch.arange(group * count).float()[:, None]
    log_reward = torch.randn(group * count, generator=generator)
    condition = torch.arange(count).float().repeat_interleave(group)[:, None]
    buffer = ReplayBuffer(group * count + 2, 1, 1, priority, rank_weight=0.3, group=group)
    buffer.add(x, log_reward, log_reward, condition)
    assert len(buffer) == group * count
    drawn = buffer.sample(group * n, generator)
    assert torch.equal(drawn.condition, condition[drawn.x[:, 0].long()])
    assert torch.equal(drawn.log_reward, log_reward[drawn.x[:, 0].long()])
    numbers = drawn.x.view(n, group).long()
    assert (numbers[:, :1] + torch.arange(group) == numbers).all()
    single = ReplayBuffer(count, 1, 1, priority, rank_weight=0.3)
    mean = log_reward.view(count, group).logsumexp(1) - math.log(group)
    single.add(x[::group], mean, mean, condition[::group])
    shares = [
        torch.bincount(kept.condition[::step, 0].long(), minlength=count) / n
        for kept, step in ((drawn, group), (single.sample(n, generator), 1))
    ]
    tolerance = 5 * (2 * shares[0].clamp(min=1e-3) / n).sqrt()
    assert ((shares[0] - shares[1]).abs() < tolerance).all()
    torch.testing.assert_close(  # each of the group has its part of the probability
        drawn.log_prob[::group].exp().mean() * group, (shares[0] ** 2).sum(), rtol=0.05, atol=0
    )

    later = ReplayBuffer(group * count + 2, 1, 1, priority, rank_weight=0.3, group=group)
    later.load_state_dict(buffer.state_dict())
    states = [torch.Generator().manual_seed(1) for _ in range(2)]
    assert torch.equal(buffer.sample(30, states[0]).x, later.sample(30, states[1]).x)
    buffer.add(x[:6], log_reward[:6], log_reward[:6], condition[:6])  # overwrites whole groups
    drawn = buffer.sample(3000, generator)
    assert torch.equal(drawn.condition, condition[drawn.x[:, 0].long()])


def test_weights_and_conditions_are_optional():
    buffer = ReplayBuffer(10, 2)
    buffer.add(torch.zeros(4, 2), torch.zeros(4))
    drawn = buffer.sample(3)
    assert drawn.log_weight is None and drawn.condition is None


@pytest.mark.parametrize("settings, message", [
    ({"capacity": 0}, "capacity=0"), ({"capacity": 1.5}, "capacity=1.5"), ({"dim": 0}, "dim=0"),
    ({"condition_dim": -1}, "condition_dim=-1"), ({"group": 0}, "group=0"),
    ({"group": 11}, "capacity=10 must be at least group=11"),
    ({"priority": "best"}, "'best' is unknown"),
    ({"rank_weight": 0}, "rank_weight=0"), ({"temper_ess": 1.5}, "temper_ess=1.5"),
    ({"refresh": 0}, "refresh=0"),
])  # fmt: skip
def test_bad_settings_are_one_clear_error(settings, message):
    with pytest.raises(ValueError, match=message):
        ReplayBuffer(**({"capacity": 10, "dim": 2} | settings))


@pytest.mark.parametrize("change, message", [
    ({"x": torch.zeros(4, 3)}, r"x must have shape \(4, 2\), got \(4, 3\)"),
    ({"log_reward": torch.zeros(4, 1)}, r"log_reward must have shape \(4,\)"),
    ({"log_reward": torch.tensor([0, 1, math.nan, math.inf])}, "log_reward is not finite: 2"),
    ({"condition": None}, "needs condition"), ({"log_weight": None}, "needs log_weight"),
])  # fmt: skip
def test_bad_entries_are_one_clear_error(change, message):
    buffer = make(10, "weight")
    with pytest.raises(ValueError, match=message):
        buffer.add(**(entries(0, 4) | change))
    with pytest.raises(ValueError, match="n=3 samples from a buffer of 0"):
        buffer.sample(3)
    buffer.add(**entries(0, 4))
    with pytest.raises(ValueError, match="n=0"):
        buffer.sample(0)


def test_conditions_and_weights_are_all_or_none():
    buffer = ReplayBuffer(10, 2)
    with pytest.raises(ValueError, match="keeps no condition"):
        buffer.add(**entries(0, 4))
    buffer.add(torch.zeros(4, 2), torch.zeros(4))
    with pytest.raises(ValueError, match="keeps no log_weight"):
        buffer.add(torch.zeros(4, 2), torch.zeros(4), torch.zeros(4))


def milliseconds(priority, size, steps, batch=300, dim=32):
    """CPU time of adding a batch and drawing one, at a full buffer, amortised over many steps."""
    buffer = ReplayBuffer(size, dim, priority=priority)
    buffer.add(torch.randn(size, dim), 3 * torch.randn(size), 3 * torch.randn(size))
    buffer.sample(batch)
    x, spent = torch.randn(batch, dim), 0.0
    for _ in range(steps):
        key = 3 * torch.randn(2, batch)
        start = time.process_time()
        buffer.add(x, key[0], key[1])
        buffer.sample(batch)
        spent += time.process_time() - start
    return 1e3 * spent / steps


@pytest.mark.parametrize("priority", PRIORITIES)
def test_cost_does_not_grow_with_the_buffer(priority):
    """The public code concatenates and sorts the whole buffer: 18 to 110 ms at 600,000."""
    small, large = (milliseconds(priority, size, 100) for size in (60_000, 600_000))
    print(f"{priority}: {small:.2f} ms at 60,000, {large:.2f} ms at 600,000")
    assert large < 4
    assert large < 5 * small  # of ten times as many


@pytest.mark.full
@pytest.mark.parametrize("priority", PRIORITIES)
def test_a_full_buffer_costs_under_a_millisecond(priority, slowdown):
    best = min(milliseconds(priority, 600_000, 250) for _ in range(5))
    print(f"{priority}: {best:.2f} ms a step of add and draw at 600,000 entries")
    assert best < slowdown()


def test_temper_of_a_large_buffer_is_that_of_all_entries():
    key = 3 * normal(50_000)
    p = explicit_law("reward", {"x": key, "log_reward": key})
    beta = laws._temper(key, 0.1).item()
    twin = np.exp(beta * key.double().numpy())
    assert 1 / ((twin / twin.sum()) ** 2).sum() == pytest.approx(1 / (p**2).sum(), rel=0.05)
