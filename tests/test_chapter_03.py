"""Trajectory balance: its equations on a board that is solved exactly, and in R^d."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jupytext
import pytest
import torch
from scipy.optimize import minimize_scalar

import gfnlite as gl

F64 = torch.float64


@pytest.fixture(scope="module")
def board():
    """The chapter's cells tagged `graph`: the board, its exact flow and the two gradients."""
    source = Path(__file__).parent.parent / "notebooks" / "03_trajectory_balance.py"
    namespace = {"itertools": itertools, "torch": torch}
    for cell in jupytext.read(source).cells:
        if "graph" in cell.metadata.get("tags", []):
            exec(cell.source, namespace)
    return SimpleNamespace(**namespace)


def random_numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def destructions(board):
    """Two that differ: all parents alike, and the bridge of fair pegs."""
    bridge = [k / n if k > k_before else 1 - k / n for (_, k_before), (n, k) in board.EDGES]
    return {"alike": board.P_B, "bridge": torch.tensor(bridge, dtype=F64)}


@pytest.fixture(params=["alike", "bridge"])
def solved(board, request):
    """P_B, P_F and the flows of states and edges."""
    p_b = destructions(board)[request.param]
    flow, edge = board.exact_flow(p_b)
    return SimpleNamespace(p_b=p_b, p_f=edge / flow[board.TAIL], flow=flow, edge=edge)


def test_board_is_what_it_is_said_to_be(board):
    assert (len(board.STATES), len(board.EDGES), len(board.PATHS)) == (10, 12, 8)
    assert len({tuple(path) for path in board.PATHS.tolist()}) == 8
    assert (board.HEAD[board.PATHS[:, :-1]] == board.TAIL[board.PATHS[:, 1:]]).all()
    assert (board.VISITS[:, 0] == 0).all() and board.END.bincount().tolist() == [1, 3, 3, 1]
    for p_b in destructions(board).values():  # probabilities over the parents
        into = torch.zeros(10, dtype=F64).index_add(0, board.HEAD, p_b)
        torch.testing.assert_close(into[1:], torch.ones(9, dtype=F64))


@pytest.mark.equation("eq-03-conservation", "eq-03-recursion")
def test_flow_is_conserved_and_its_source_is_z(board, solved):
    zeros = torch.zeros(10, dtype=F64)
    inflow = zeros.index_add(0, board.HEAD, solved.edge)
    outflow = zeros.index_add(0, board.TAIL, solved.edge)
    torch.testing.assert_close(inflow[1:6], outflow[1:6])
    torch.testing.assert_close(inflow[6:], board.REWARD)
    torch.testing.assert_close(solved.flow[0], board.REWARD.sum())


@pytest.mark.equation("eq-03-recursion")
def test_flow_by_hand(board):
    by_hand = [16, 6.25, 9.75, 5.5, 1.5, 9, 5, 1, 2, 8]
    torch.testing.assert_close(board.FLOW, torch.tensor(by_hand, dtype=F64))


@pytest.mark.equation("eq-03-policy")
def test_generation_fills_the_bins_in_proportion_to_the_reward(board, solved):
    torch.testing.assert_close(board.bins(solved.p_f), board.REWARD / board.REWARD.sum())
    fair = torch.full((12,), 0.5, dtype=F64)
    pascal = torch.tensor([1, 3, 3, 1], dtype=F64) / 8
    torch.testing.assert_close(board.bins(fair), pascal)
    assert not torch.allclose(board.bins(fair), board.REWARD / board.REWARD.sum(), atol=0.1)


def test_another_destruction_has_another_flow_to_the_same_bins(board):
    flows = [board.exact_flow(p_b)[0] for p_b in destructions(board).values()]
    assert (flows[0] - flows[1]).abs().max() > 0.1


def all_residuals(board, solved, log_pf):
    """The largest of each kind."""
    a = board.imbalance(solved.flow.log(), log_pf, solved.p_b.log())
    log_w = solved.flow[0].log() - (a[:, 0] - a[:, -1])  # TB: log Z - log w
    found = {
        "fm": board.flow_matching(solved.flow.log(), log_pf),
        "db": a.diff(dim=1),
        "subtb": a[:, :, None] - a[:, None, :],
        "tb": a[:, 0] - a[:, -1],
        "vargrad": log_w - log_w.mean(),
    }
    return {name: values.abs().max().item() for name, values in found.items()}


@pytest.mark.equation("eq-03-fm", "eq-03-tb")
def test_all_residuals_vanish_at_the_flow_and_at_no_other(board, solved):
    assert max(all_residuals(board, solved, solved.p_f.log()).values()) < 1e-12
    turned = solved.p_f.log().view(6, 2) + 0.3 * random_numbers(6, 2)
    twin = all_residuals(board, solved, turned.log_softmax(1).flatten())
    assert min(twin.values()) > 0.1, twin


@pytest.mark.equation("eq-03-db", "eq-03-subtb")
def test_residuals_of_parts_are_sums_of_those_of_edges(board):
    log_pf, log_pb, log_flow = random_numbers(12), random_numbers(12, seed=1), random_numbers(10)
    a = board.imbalance(log_flow, log_pf, log_pb)
    db = log_flow[board.TAIL] + log_pf - log_flow[board.HEAD] - log_pb
    torch.testing.assert_close(a[:, :-1] - a[:, 1:], -a.diff(dim=1))
    for i, j in itertools.combinations(range(4), 2):
        torch.testing.assert_close(a[:, i] - a[:, j], db[board.PATHS[:, i:j]].sum(1))


def test_flows_found_from_trajectory_balance_alone(board):
    """The proof's G(s), the sum over completions of R P_B, is the flow of the recursion."""
    g = torch.zeros(10, dtype=F64)
    g[6:] = board.REWARD
    for s in range(6):
        completions = {
            tuple(path[i:])
            for path, visits in zip(board.PATHS.tolist(), board.VISITS.tolist(), strict=True)
            for i in range(3)
            if visits[i] == s
        }
        for rest in completions:
            bin_ = board.HEAD[rest[-1]] - 6
            g[s] += board.REWARD[bin_] * board.P_B[list(rest)].prod()
    torch.testing.assert_close(g, board.FLOW)


@pytest.mark.parametrize("log_z", [-3.0, 0.0, math.log(16), 6.0])
def test_on_policy_gradient_of_tb_is_that_of_reverse_kl(board, log_z):
    logits = random_numbers(6, 2, seed=2).requires_grad_()
    kl = board.kl_gradient(logits)
    assert kl.abs().max() > 0.1
    torch.testing.assert_close(board.tb_gradient(logits, log_z), kl, rtol=0, atol=1e-12)
    for twin in ({"law": torch.full((8,), 1 / 8, dtype=F64)}, {"held": False}):
        assert (board.tb_gradient(logits, log_z, **twin) - kl).abs().max() > 0.1


def test_kl_gradient_is_that_of_finite_differences(board):
    logits, h = random_numbers(6, 2, seed=2), 1e-5
    log_q = ((board.REWARD / board.Z)[board.END] * board.P_B[board.PATHS].prod(1)).log()

    def kl(logits):
        log_p = logits.log_softmax(1).flatten()[board.PATHS].sum(1)
        return (log_p.exp() * (log_p - log_q)).sum()

    steps = h * torch.eye(12, dtype=F64).view(12, 6, 2)
    slopes = torch.stack([(kl(logits + s) - kl(logits - s)) / (2 * h) for s in steps])
    found = board.kl_gradient(logits.clone().requires_grad_())
    torch.testing.assert_close(found.flatten(), slopes, rtol=0, atol=1e-8)


def test_vargrad_of_n_paths_has_n_minus_1_nths_of_the_gradient(board):
    logits, n = random_numbers(6, 2, seed=3).requires_grad_(), 3
    log_p = logits.log_softmax(1).flatten()[board.PATHS].sum(1)
    log_w = board.REWARD.log()[board.END] + board.P_B.log()[board.PATHS].sum(1) - log_p
    batches = torch.tensor(list(itertools.product(range(8), repeat=n)))
    law = log_p.detach().exp()[batches].prod(1)
    each = log_w[batches]
    loss = 0.5 * (each - each.mean(1, keepdim=True)).square().mean(1)
    (found,) = torch.autograd.grad((law * loss).sum(), logits)
    expected = (n - 1) / n * board.kl_gradient(logits)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_same_gradient_for_gaussian_steps_by_quadrature(gauss_hermite):
    """Two steps in one dimension: both expectations are integrals over two normal numbers."""
    nodes, weights = gauss_hermite
    eps = torch.cartesian_prod(nodes, nodes).T  # (2, 3600)
    law = torch.cartesian_prod(weights, weights).prod(1)
    theta = random_numbers(2, 3, seed=4).requires_grad_()

    def log_weight(held):
        x, log_pf, dt, states = torch.zeros_like(law), 0.0, 0.5, []
        for (a, b, c), noise in zip(theta, eps, strict=True):
            mean = x + dt * (a * torch.sin(b * x) + c)
            x = mean + math.sqrt(dt) * noise
            x = x.detach() if held else x
            log_pf = log_pf - (x - mean).square() / (2 * dt)
            states.append(x)
        first, end = states  # the bridge has mean x_1 / 2 and variance 1 / 4
        log_pb = -2 * (first - end / 2).square() - 0.5 * math.log(2 * math.pi / 4)
        log_r = torch.cos(end) - 0.2 * (end - 1).square()
        return log_r + log_pb - log_pf + math.log(2 * math.pi * dt)

    (kl,) = torch.autograd.grad(-(law * log_weight(held=False)).sum(), theta)
    assert kl.abs().max() > 0.5
    for log_z in (-2.0, 0.0, 3.0):
        loss = 0.5 * (law * (log_z - log_weight(held=True)).square()).sum()
        (tb,) = torch.autograd.grad(loss, theta)
        torch.testing.assert_close(tb, kl, rtol=0, atol=1e-9)
    # The twin's states carry a gradient: neither loss nor law is held.
    twin = 0.5 * (law * log_weight(held=False).square()).sum()
    (other,) = torch.autograd.grad(twin, theta)
    assert (other - kl).abs().max() > 0.05


def gaussian_sampler(drift, mean):
    target = gl.Gaussian(mean, std=1.0, log_z=2.0)
    sampler = gl.GFNDiffusion(target, sigma2=1.0, steps=6, exploration=0.0, hidden=8)
    with torch.no_grad():  # the last layer's weights start at zero
        sampler.policy.forward_net.out.bias[:] = drift
    return sampler


@pytest.mark.equation("eq-03-gaussian")
@pytest.mark.parametrize("off, low, high", [(0.0, 0.0, 1e-4), (0.3, 0.1, 10.0)])
def test_gaussian_flow_is_balanced_in_all_its_parts(off, low, high):
    mean = torch.tensor([1.0, -0.5])
    t = gl.time_grid(6, "random", torch.Generator().manual_seed(0))
    tr = gaussian_sampler(mean + off, mean).rollout(t, 200)
    log_flow = 2.0 + tr.process.log_marginal(tr.x - t[:, None, None] * mean, t)
    for i, j in itertools.combinations(range(7), 2):
        delta = log_flow[i] - log_flow[j] + (tr.log_pf - tr.log_pb)[i:j].sum(0)
        assert low <= delta.abs().max().item() <= high
    assert low <= (2.0 - tr.log_weight).abs().max().item() <= high


def test_gradient_of_tb_has_no_noise_at_the_optimum_and_the_path_wise_one_has():
    mean = torch.tensor([1.0, -0.5])
    sampler, t = gaussian_sampler(mean, mean), gl.time_grid(4)
    parameters = list(sampler.policy.kernels())

    def tb(tr):
        return 0.5 * (2.0 - tr.log_weight).square().mean()

    gl.rollout.gradient(sampler.policy, sampler.rollout(t, 64), tb)
    assert max(p.grad.abs().max() for p in parameters) < 1e-5
    sampler.policy.zero_grad()
    gl.objectives.reverse_kl(sampler.rollout(t, 64, differentiable=True)).backward()
    assert max(p.grad.abs().max() for p in parameters) > 1e-2


def some_path_laws(board, seed=5):
    """log P_F of the eight paths for any pegs, log Q, and log w by its definition."""
    log_pf = random_numbers(6, 2, seed=seed).log_softmax(1).flatten()[board.PATHS].sum(1)
    log_r = torch.tensor([5.0, 1.0, 2.0, 8.0], dtype=F64).log()[board.END]
    log_pb = board.P_B.log()[board.PATHS].sum(1)
    return log_pf, log_r + log_pb - math.log(16), log_r + log_pb - log_pf


@pytest.mark.equation("eq-03-logw")
def test_the_mean_weight_of_any_pegs_is_z(board):
    log_pf, _, log_w = some_path_laws(board)
    assert (log_pf + log_w).exp().sum().item() == pytest.approx(16)
    assert (log_pf - log_w).exp().sum().item() != pytest.approx(16, rel=0.1)
    # and the chapter's residual of a whole path is log Z less this
    log_edges = random_numbers(6, 2, seed=5).log_softmax(1).flatten()
    a = board.imbalance(board.FLOW.log(), log_edges, board.P_B.log())
    torch.testing.assert_close(a[:, 0] - a[:, -1], math.log(16) - log_w)


@pytest.mark.equation("eq-03-bounds")
def test_the_bounds_of_the_board_are_off_by_its_two_divergences(board):
    log_pf, log_q, log_w = some_path_laws(board)
    elbo, eubo = (log_pf.exp() * log_w).sum(), (log_q.exp() * log_w).sum()
    reverse = (log_pf.exp() * (log_pf - log_q)).sum()
    forward = (log_q.exp() * (log_q - log_pf)).sum()
    torch.testing.assert_close(elbo, math.log(16) - reverse)
    torch.testing.assert_close(eubo, math.log(16) + forward)
    assert min(reverse, forward, abs(reverse - forward)) > 0.01  # not one for the other


@pytest.mark.equation("eq-03-vargrad")
def test_the_best_constant_is_the_mean_and_leaves_half_the_variance(board):
    log_pf, _, log_w = some_path_laws(board)
    law = log_pf.exp()

    def loss(constant):
        return (0.5 * law * (constant - log_w).square()).sum().item()

    found = minimize_scalar(loss)
    mean = (law * log_w).sum()
    assert found.x == pytest.approx(mean.item(), abs=1e-6)
    second = (law * log_w.square()).sum()
    assert found.fun == pytest.approx(0.5 * (second - mean**2).item())
    assert loss(math.log(16)) > 1.1 * found.fun  # log Z itself is not the best


@pytest.mark.equation("eq-03-tb-gradient")
@pytest.mark.parametrize("law", ["own", "uniform"])
def test_gradient_of_tb_is_the_weighted_score(board, law):
    """By finite differences of log P_F, path by path, in the place of automatic differentiation."""
    logits, log_z, h = random_numbers(6, 2, seed=6), 1.5, 1e-5
    own = logits.log_softmax(1).flatten()[board.PATHS].sum(1)
    weights = own.exp() if law == "own" else torch.full((8,), 1 / 8, dtype=F64)
    log_w = board.REWARD.log()[board.END] + board.P_B.log()[board.PATHS].sum(1) - own
    steps = h * torch.eye(12, dtype=F64).view(12, 6, 2)

    def score(step):
        up, down = (
            (logits + sign * step).log_softmax(1).flatten()[board.PATHS].sum(1) for sign in (1, -1)
        )
        return (up - down) / (2 * h)

    expected = torch.stack([(weights * (log_z - log_w) * score(step)).sum() for step in steps])
    given = None if law == "own" else weights
    found = board.tb_gradient(logits.requires_grad_(), log_z, given).flatten()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
    assert (found + expected).abs().max() > 0.1  # the twin: the other sign


@pytest.mark.equation("eq-03-split")
@pytest.mark.parametrize("log_z", [-1.0, 0.3, 2.0])
def test_tb_is_half_the_variance_and_half_the_square_of_the_distance_from_the_mean(log_z):
    mean = torch.tensor([1.0, -0.5])
    with torch.no_grad():
        tr = gaussian_sampler(mean + 0.5, mean).rollout(gl.time_grid(8), 500)
        tb = gl.objectives.tb(replace(tr, log_z=torch.tensor(log_z))).item()
        w = tr.log_weight.double()
    split = 0.5 * w.var(correction=0).item() + 0.5 * (log_z - w.mean().item()) ** 2
    assert tb == pytest.approx(split, rel=1e-4)
    assert tb != pytest.approx(split - 0.5 * w.var().item(), rel=1e-2)
