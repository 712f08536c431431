"""Local search: the chains leave the target invariant, and the same tests fail for a wrong one."""

import math
import statistics

import pytest
import torch

import gfnlite as gl
from gfnlite.local_search import mala
from reproduce.bench.measure import interleaved

CHAINS = 4000
KEPT = {"steps": 40, "burn_in": 0, "adapt": 1.0}


class Counting(gl.Target):
    """Another target, with its calls counted."""

    def __init__(self, target):
        self.target, self.dim, self.calls, self.seen = target, target.dim, 0, []

    def log_reward_and_score(self, x, condition=None):
        self.calls += 1
        self.seen.append(condition)
        return self.target.log_reward_and_score(x)


@pytest.fixture
def gaussian():
    return gl.Gaussian([1.0, -2.0], [0.5, 1.5])


def worst_z(x, mean, std):
    """Largest standardised error of mean and variance, x (K, B, d) in B independent chains."""
    a = ((x - mean) / std).double()
    found = []
    for moment in (a, a.square() - 1):
        per_chain = moment.mean(0)  # (B, d): independent across B, whatever the correlation in K
        found.append(per_chain.mean(0) / (per_chain.std(0) / math.sqrt(len(per_chain))))
    return torch.stack(found).abs().max().item()


@pytest.mark.parametrize("step_size", [0.02, 0.2])
def test_leaves_a_gaussian_invariant(gaussian, generator, step_size):
    x = gaussian.sample(CHAINS, generator)
    chains = mala(gaussian, x, step_size=step_size, generator=generator, **KEPT)
    assert chains.x.shape == (40, CHAINS, 2) and chains.log_reward.shape == (40, CHAINS)
    assert worst_z(chains.x, gaussian.mean, gaussian.std) < 4.5
    assert torch.equal(chains.log_reward[7], gaussian.log_reward(chains.x[7]))
    # Twins: another target's chain, and the truth of another target.
    other = gl.Gaussian([1.1, -2.0], [0.5, 1.5])
    wrong = mala(other, x, step_size=step_size, generator=generator, **KEPT)
    assert worst_z(wrong.x, gaussian.mean, gaussian.std) > 6
    assert worst_z(chains.x, other.mean, other.std) > 6


def test_adjustment_matters(gaussian, generator):
    """An unadjusted chain (every proposal accepted) at a large step has too large a variance."""
    noise, h = torch.randn((40, CHAINS, 2), generator=generator), 0.2
    x, states = gaussian.sample(CHAINS, generator), []
    for step in noise:
        x = x + h * gaussian.score(x) + math.sqrt(2 * h) * step
        states.append(x)
    assert worst_z(torch.stack(states), gaussian.mean, gaussian.std) > 20


def test_keeps_states_not_accepted_moves_only(gaussian, generator):
    """The public code stores accepted moves, which over-represent where moves are accepted."""
    chains = mala(
        gaussian, gaussian.sample(CHAINS, generator), step_size=0.35, generator=generator, **KEPT
    )
    moved = (chains.x[1:] != chains.x[:-1]).any(-1)
    assert 0.2 < 1 - moved.float().mean() < 0.8  # many states are repeated
    assert chains.acceptance == pytest.approx(moved.float().mean().item(), abs=0.01)
    assert worst_z(chains.x, gaussian.mean, gaussian.std) < 4.5
    accepted = ((chains.x[1:] - gaussian.mean) / gaussian.std)[moved]
    bias = accepted.square().mean() - 1
    assert bias.abs() > 10 * math.sqrt(2 / len(accepted))


def test_detailed_balance_in_one_dimension():
    """Flow of probability from x to y equals that back, by histogram of pairs in equilibrium."""
    well = gl.targets.as_target(lambda x: (x**4 - 2 * x**2 - 0.5 * x).sum(-1), dim=1)
    grid = torch.linspace(-4, 4, 4001)
    mass = well.log_reward(grid[:, None]).exp()
    generator = torch.Generator().manual_seed(1)
    draw = torch.multinomial(mass, 400_000, replacement=True, generator=generator)
    start = grid[draw, None] + 0.002 * (torch.rand((400_000, 1), generator=generator) - 0.5)
    end = mala(well, start, steps=1, burn_in=0, step_size=0.3, adapt=1, generator=generator).x[0]
    edges = torch.tensor([-1.0, -0.5, 0.2, 0.9, 1.2])
    a, b = torch.bucketize(start[:, 0], edges), torch.bucketize(end[:, 0], edges)
    flow = torch.bincount(6 * a + b, minlength=36).view(6, 6).double()
    z = (flow - flow.T) / (flow + flow.T).clamp(min=1).sqrt()
    assert z.abs().max() < 4.5
    assert flow[0, 5] > 20  # also between the far ends


def test_temperature(gaussian, generator):
    """R^(1 / T) of a Gaussian has T times its variance; the log R returned is not tempered."""
    hot_std = gaussian.std * math.sqrt(3.0)
    x = gl.Gaussian(gaussian.mean, hot_std).sample(CHAINS, generator)
    chains = mala(gaussian, x, temperature=3.0, step_size=0.3, generator=generator, **KEPT)
    assert worst_z(chains.x, gaussian.mean, hot_std) < 4.5
    assert worst_z(chains.x, gaussian.mean, gaussian.std) > 20
    assert torch.equal(chains.log_reward[-1], gaussian.log_reward(chains.x[-1]))


def test_one_call_a_step(gaussian, generator):
    """The public code spends three."""
    target = Counting(gaussian)
    chains = mala(target, gaussian.sample(7, generator), steps=30, burn_in=10)
    assert target.calls == 31 and chains.energy_calls == 31 * 7


@pytest.mark.parametrize(
    "steps, burn_in, thin, kept", [(10, 0, 1, 10), (10, 4, 4, 2), (9, 8, 5, 1)]
)
def test_thinning_keeps_every_so_many(gaussian, steps, burn_in, thin, kept):
    def run(thin):
        generator = torch.Generator().manual_seed(4)
        x = gaussian.sample(5, generator)
        return mala(gaussian, x, steps=steps, burn_in=burn_in, thin=thin, generator=generator)

    assert len(run(thin).x) == kept
    assert torch.equal(run(thin).x, run(1).x[::thin])


@pytest.mark.parametrize("start", [1e-5, 0.01, 30.0])
@pytest.mark.parametrize("target", [gl.gmm25, gl.ManyWell(32), gl.Gaussian([0.0] * 10, 3.0)])
def test_adaptation_reaches_the_acceptance(target, start, generator):
    chains = mala(
        target, target.sample(300, generator), step_size=start, steps=400, burn_in=200,
        generator=generator,
    )  # fmt: skip
    assert chains.acceptance == pytest.approx(0.574, abs=0.06)


def test_step_size_is_fixed_after_the_burn_in(gaussian, generator):
    x = gaussian.sample(50, generator)
    states = [generator.get_state()]
    short = mala(gaussian, x, steps=31, burn_in=30, generator=generator)
    generator.set_state(states[0])
    long = mala(gaussian, x, steps=90, burn_in=30, generator=generator)
    assert long.step_size != 0.01
    assert long.step_size.ndim == 0 and short.step_size.ndim == 0
    fixed = mala(gaussian, x, steps=20, burn_in=10, adapt=1, step_size=0.3)
    assert fixed.step_size == pytest.approx(0.3)


def test_condition_goes_with_its_chain(generator):
    target = gl.targets.as_target(
        lambda x, c: 0.5 * ((x - c) / 0.1).square().sum(-1), dim=2, condition_dim=2
    )
    c = 5 * torch.randn((200, 2), generator=generator)
    chains = mala(target, c.clone(), condition=c, step_size=1e-3, generator=generator)
    assert ((chains.x - c).abs() < 0.6).all()
    assert worst_z(chains.x - c, torch.zeros(2), torch.full((2,), 0.1)) < 4.5


def test_weights_of_the_starts_stay_right(gaussian, generator):
    """Starts from a wide proposal, with importance weights: weighted states follow the target."""
    proposal = gl.Gaussian(gaussian.mean + 0.3, 1.5 * gaussian.std)
    x = proposal.sample(40_000, generator)
    w = (gaussian.log_reward(x) - proposal.log_reward(x)).exp()
    chains = mala(gaussian, x, steps=6, burn_in=0, step_size=0.02, adapt=1, generator=generator)
    a = (chains.x - gaussian.mean) / gaussian.std

    def z(weight):
        terms = [weight * moment for moment in (a[-1].T, a[-1].T.square() - 1)]
        return max((t.mean(1) / (t.std(1) / 200)).abs().max().item() for t in terms)

    assert z(w) < 4.5
    assert z(torch.ones_like(w)) > 20


class Holes(gl.Target):
    """N(0, 1) with holes: log R is NaN above 1, and infinite below -1 and from -0.3 to -0.2; the
    gradient is NaN from 0.5 to 0.6."""

    dim = 1

    def log_reward_and_score(self, x, condition=None):
        score = torch.where((x > 0.5) & (x < 0.6), torch.nan, -x)
        x = x[:, 0]
        log_r = torch.where(x > 1, torch.nan, torch.where(x < -1, -torch.inf, -0.5 * x.square()))
        return torch.where((x > -0.3) & (x < -0.2), torch.inf, log_r), score


def test_where_the_target_is_not_finite_is_never_entered(generator):
    x = torch.zeros(500, 1)
    chains = mala(Holes(), x, step_size=0.1, generator=generator)
    assert chains.x.isfinite().all() and chains.log_reward.isfinite().all()
    assert chains.x.min() < -0.9 and chains.x.max() > 0.9 and chains.x.abs().max() <= 1
    for low, high in ((0.5, 0.6), (-0.3, -0.2)):
        assert not ((chains.x > low) & (chains.x < high)).any()
    for bad in (2.0, -2.0, torch.nan, 0.55, -0.25):
        with pytest.raises(ValueError, match="not finite at 1 of 500 starting points"):
            mala(Holes(), x.index_fill(0, torch.tensor([3]), bad))


def test_same_seed_same_chains_and_start_untouched(gaussian):
    x = gaussian.sample(20)
    before = x.clone()
    one, two = (mala(gaussian, x, generator=torch.Generator().manual_seed(s)) for s in (1, 1))
    assert torch.equal(one.x, two.x) and torch.equal(x, before)
    three = mala(gaussian, x, generator=torch.Generator().manual_seed(2))
    assert not torch.equal(one.x, three.x)
    assert not one.x.requires_grad and not mala(gaussian, x.requires_grad_()).x.requires_grad


@pytest.mark.parametrize("change, message", [
    ({"x": torch.zeros(3)}, "x must have shape"), ({"x": torch.zeros(0, 2)}, "x must have shape"),
    ({"steps": 0, "burn_in": 0}, "steps=0"), ({"burn_in": 200}, "burn_in=200"),
    ({"burn_in": -1}, "burn_in=-1"), ({"thin": 0}, "thin=0"), ({"step_size": 0.0}, "step_size=0"),
    ({"step_size": math.nan}, "step_size=nan"), ({"temperature": -1}, "temperature=-1"),
    ({"adapt": 0.9}, "adapt=0.9"), ({"target_acceptance": 1.0}, "target_acceptance=1"),
])  # fmt: skip
def test_bad_input_is_one_clear_error(gaussian, change, message):
    with pytest.raises(ValueError, match=message):
        mala(gaussian, **({"x": torch.zeros(3, 2)} | change))


@pytest.mark.parametrize("target", [gl.gmm25, gl.ManyWell(32)], ids=str)
def test_is_fast(target, generator):
    """200 steps of 300 chains take little more than 201 gradients of the energy, by autograd.

    That each step calls the energy once is tested above.
    """
    x = target.sample(300, generator)

    def gradients():
        for _ in range(201):
            y = x.detach().requires_grad_()
            torch.autograd.grad(target.energy(y).sum(), y)

    variants = {"mala": lambda: mala(target, x, generator=generator), "gradients": gradients}
    times = interleaved(variants, 9)
    ours, bare = (statistics.median(times[name]) for name in variants)
    print(f"{target.name}: {ours:.0f} ms for 200 steps of 300 chains, the gradients {bare:.0f}")
    assert ours < 1.75 * bare
