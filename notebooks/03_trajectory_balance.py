# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Trajectory balance, derived
#
# A ball falls through a board of pegs. At each peg it turns left or right; at the bottom it lands
# in a bin. With fair pegs the middle bins fill up. Can you set the pegs one by one so that the bins
# fill in proportions *prescribed* to you, when nobody tells you what the proportions sum to?
#
# You can, by treating probability as water that flows. That one idea gives every loss in this book.
# Replace the pegs by Gaussian steps, and it trains a diffusion model.
#
# :::{admonition} At a glance
# **You will** solve a flow exactly on a board of ten states, derive five losses from it, carry them
# over to $\mathbb R^d$, and compare the gradient of trajectory balance with that of the reverse
# Kullback–Leibler divergence: exactly on the board, by simulation for a diffusion.
#
# **You will be able to** derive detailed, sub-trajectory and trajectory balance from each other,
# say when trajectory balance *is* reverse KL and when it is not, and say what that freedom buys.
#
# **You need** [From scratch](01_from_scratch) or its five-line summary, and the symbols of
# [Notation](../book/notation). **Time**: 30 minutes to read, under a minute to run on one CPU core;
# `full` averages over more batches and needs no GPU.
# :::

# %% tags=["remove-cell"]
# Where the package is not installed, as on Colab: fetch the book, install.
import importlib.util
import os

book = "gfn-diffusion-samplers"
if importlib.util.find_spec("gfnlite") is None:
    os.system(f"git clone -q --depth 1 https://github.com/vincehass/{book}")
    os.system(f"pip install -q './{book}/gfnlite[all]'")
if os.path.isdir(book):  # also when the kernel is started again
    os.chdir(f"{book}/notebooks")

# %%
import itertools
import os

import matplotlib.pyplot as plt
import torch
from torch import optim

import gfnlite as gl
from gfnlite.plots import BLUE, GREY, ORANGE

torch.set_num_threads(1)  # matrices this small need no second thread
gl.plots.style()

# %% tags=["parameters"]
# smoke (seconds), quick (under a minute) or full (smaller standard errors)
profile: str = os.environ.get("GFNLITE_PROFILE", "quick")
seed: int = 0  # of every random number in this chapter
board_iterations: int | None = None  # training steps on the board
iterations: int | None = None  # training steps of a diffusion
batches: int | None = None  # batches that a gradient is averaged over

# %%
PROFILES = {  # board_iterations, iterations, batches
    "smoke": (50, 20, 10),
    "quick": (400, 800, 400),
    "full": (2000, 3000, 4000),
}
chosen = (board_iterations, iterations, batches)
board_iterations, iterations, batches = (
    default if given is None else given
    for given, default in zip(chosen, PROFILES[profile], strict=True)
)

# %% [markdown]
# ## 1. A flow that can be computed
#
# A state $s = (n, k)$ says that after $n$ turns the ball has gone right $k$ times. The four states
# with $n = 3$ are the bins $x$. Each has a reward $R(x) > 0$, and we want to draw $x$ with
# probability $R(x)/Z$, where $Z = \sum_x R(x)$. A path $\tau = (s_0 \to s_1 \to s_2 \to s_3 = x)$
# is three turns; most bins can be reached by several paths.

# %% tags=["graph"]
F64 = torch.float64
STATES = [(n, k) for n in range(4) for k in range(n + 1)]
EDGES = [
    ((n, k), (n + 1, k + right))
    for n, k in STATES
    if n < 3
    for right in (0, 1)
]
TAIL = torch.tensor([STATES.index(before) for before, _ in EDGES])
HEAD = torch.tensor([STATES.index(after) for _, after in EDGES])
REWARD = torch.tensor([5.0, 1.0, 2.0, 8.0], dtype=F64)  # of the last four


def edges_of(turns):
    """The edges of a path, given as three turns, 0 left or 1 right."""
    k = [0, *itertools.accumulate(turns)]
    hops = [((n, k[n]), (n + 1, k[n + 1])) for n in range(3)]
    return [EDGES.index(hop) for hop in hops]


PATHS = torch.tensor(
    [edges_of(turns) for turns in itertools.product((0, 1), repeat=3)]
)  # (8 paths, 3 edges)
VISITS = torch.cat((TAIL[PATHS], HEAD[PATHS[:, -1:]]), 1)  # (8, 4 states)
END = VISITS[:, -1] - 6  # the bin of each path: 0 to 3

# %% [markdown]
# **A flow** gives each edge an amount of water $F(s \to s') \ge 0$. It is *conserved* if what
# enters a state also leaves it; the source pours in $Z$, and bin $x$ takes out $R(x)$:
#
# $$
# \sum_{s} F(s \to s') \;=\; F(s') \;=\; \sum_{s''} F(s' \to s''),
# \qquad F(x) = R(x).
# $$ (eq-03-conservation)
#
# Many flows do this, since water for one bin may take several ways. To choose one, fix how it is
# traced *back*: let $P_B(s \mid s')$ be probabilities over the parents of $s'$. Here all parents
# count the same. This is **destruction**: it undoes a path, turn by turn. Then all flows follow
# from the rewards, bottom to top:
#
# $$
# F(s \to s') = F(s')\, P_B(s \mid s'),
# \qquad
# F(s) = \sum_{s'} F(s \to s').
# $$ (eq-03-recursion)
#
# **Generation** lets the ball follow the water:
#
# $$P_F(s' \mid s) = F(s \to s') \,/\, F(s).$$ (eq-03-policy)


# %% tags=["graph"]
def exact_flow(p_b):
    """Flows of states (10,) and of edges (12,), from the bins upwards."""
    state = torch.cat((torch.zeros(6, dtype=F64), REWARD))
    edge = torch.zeros(len(EDGES), dtype=F64)
    for e in reversed(range(len(EDGES))):
        edge[e] = state[HEAD[e]] * p_b[e]
        state[TAIL[e]] += edge[e]
    return state, edge


def bins(p_f):
    """Probability of each bin (4,) if pegs turn by p_f (12,)."""
    p = p_f[PATHS].prod(1)  # (8,)
    return torch.zeros(4, dtype=p.dtype).index_add(0, END, p)


PARENTS = HEAD.bincount(minlength=10)
P_B = 1 / PARENTS[HEAD].to(F64)  # all parents count the same
FLOW, EDGE_FLOW = exact_flow(P_B)
P_F = EDGE_FLOW / FLOW[TAIL]
Z = REWARD.sum()

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-03-board", "caption": "The board, with the width of each edge proportional to its flow, and the flow of each state written on it. Left: fair pegs. Right: the conserved flow of the prescribed rewards. Only the turns at the six pegs differ."}, "image": {"alt": "Two triangular boards of ten circles joined by edges. On the left the flow is symmetric and gathers in the middle bins; on the right thick edges run down both sides to the outer bins."}}
fair = torch.full((len(EDGES),), 0.5, dtype=F64)
fair_flow = torch.zeros(10, dtype=F64)
fair_flow[0] = Z
for e in range(len(EDGES)):
    fair_flow[HEAD[e]] += fair_flow[TAIL[e]] * fair[e]


def draw_board(ax, state, edge, colour):
    place = torch.tensor([(2 * k - n, -n) for n, k in STATES])
    for e, flow in enumerate(edge.tolist()):
        ends = torch.stack((place[TAIL[e]], place[HEAD[e]]), 1)
        ax.plot(*ends, color=colour, alpha=0.55, linewidth=2.2 * flow)
    for s, ((x, y), flow) in enumerate(
        zip(place.tolist(), state.tolist(), strict=True)
    ):
        shape = "o" if s < 6 else "s"
        style = {"markeredgecolor": "0.2", "markerfacecolor": "white"}
        ax.plot(x, y, shape, markersize=27, **style)
        ax.text(x, y, f"{flow:.4g}", ha="center", va="center", fontsize=10)
    ax.set(xlim=(-3.6, 3.6), ylim=(-3.5, 0.5))
    ax.axis("off")


def ratio(values):
    return " : ".join(f"{value:g}" for value in values.tolist())


_, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.9))
draw_board(left, fair_flow, fair_flow[TAIL] * fair, GREY)
left.set_title(f"Fair pegs fill the bins {ratio(fair_flow[6:])}")
draw_board(right, FLOW, EDGE_FLOW, BLUE)
right.set_title(f"Pegs that follow the flow: {ratio(Z * bins(P_F))}")
plt.show()

# %% [markdown]
# Is it right? Water that enters must leave, and the ball must land in bin $x$ with probability
# $R(x)/Z$. The flow of the first state is $Z$ itself: nobody had to sum the rewards.

# %%
zeros = torch.zeros(10, dtype=F64)
inflow = zeros.index_add(0, HEAD, EDGE_FLOW)
outflow = zeros.index_add(0, TAIL, EDGE_FLOW)
lost = (inflow - outflow)[1:6].abs().max()
print(f"water lost at a peg, at most   {lost:.1e}")
print(f"flow of the first state        {FLOW[0]:g}, sum of R {Z:g}")
print("bins by P_F                   ", bins(P_F).numpy())
print("R / Z                         ", (REWARD / Z).numpy())

# %% [markdown]
# :::{prf:proposition} A ball that follows the water
# :label: thm-03-policy
# By {eq}`eq-03-policy` with a conserved flow {eq}`eq-03-conservation`, the ball passes through $s$
# with probability $F(s)/Z$. So it lands in bin $x$ with probability $R(x)/Z$.
# :::
#
# :::{dropdown} Proof
# This is true at the start, where $F = Z$, and if it is true for all parents of $s'$, then the
# probability of $s'$ is
#
# $$\sum_s \frac{F(s)}{Z}\, P_F(s' \mid s) = \frac1Z \sum_s F(s \to s') = \frac{F(s')}{Z}.$$
# :::
#
# On ten states the recursion {eq}`eq-03-recursion` is all one needs. On more states than can be
# listed it is not: nobody can visit them all. So we turn conditions into losses, to be asked of a
# *parametrised* flow, at those states that a sampled path happens to visit.

# %% [markdown]
# ## 2. Five ways to ask for balance
#
# Each condition below is an equation between positive numbers. Its loss is the squared difference
# of the logarithms of both sides, averaged over whatever states, edges or paths are at hand.
#
# **Flow matching (FM)** {cite:p}`bengio2021gflownet` learns edge flows and asks for conservation
# {eq}`eq-03-conservation` at each state:
#
# $$\delta_{\mathrm{FM}}(s') = \log \sum_s F(s \to s') - \log \sum_{s''} F(s' \to s'').$$ (eq-03-fm)
#
# At a bin the second sum is $R(x)$. Each evaluation needs *all* parents and children of a state,
# which a state in $\mathbb R^d$ cannot list.
#
# **Detailed balance (DB)** {cite:p}`bengio2023foundations` learns state flows and both kernels, and
# needs one edge at a time:
#
# $$
# \delta_{\mathrm{DB}}(s \to s') = \log \frac{F(s)\, P_F(s' \mid s)}{F(s')\, P_B(s \mid s')},
# \qquad F(x) = R(x).
# $$ (eq-03-db)
#
# :::{prf:proposition} FM and DB ask for the same
# :label: thm-03-fm
# Every conserved flow gives state flows and kernels with which DB holds on all edges; and where DB
# holds on all edges, $F(s)\, P_F(s' \mid s)$ is a conserved flow.
# :::
#
# :::{dropdown} Proof
# *From FM to DB.* Given a conserved flow, let $F(s)$ be what passes through $s$, and set
# $P_F(s' \mid s) = F(s \to s')/F(s)$ and $P_B(s \mid s') = F(s \to s')/F(s')$. By conservation both
# are probabilities. And DB holds, since
#
# $$F(s)\, P_F(s' \mid s) = F(s \to s') = F(s')\, P_B(s \mid s').$$
#
# *From DB to FM.* Call the common value of both sides $F(s \to s')$. Summed over the parents $s$ of
# $s'$, the right side gives $F(s')$, since $P_B$ sums to one. Summed over the children of $s'$, the
# left side gives $F(s')$, since $P_F$ sums to one. Inflow is outflow.
# :::
#
# **Sub-trajectory balance (SubTB)** {cite:p}`madan2023subtb` multiplies DB along a part of a path,
# from its $i$-th to its $j$-th state. The flows in between cancel:
#
# $$
# \delta_{ij}(\tau) = \log
#   \frac{F(s_i) \prod_{m=i}^{j-1} P_F(s_{m+1} \mid s_m)}
#        {F(s_j) \prod_{m=i}^{j-1} P_B(s_m \mid s_{m+1})}
# = \sum_{m=i}^{j-1} \delta_{\mathrm{DB}}(s_m \to s_{m+1}).
# $$ (eq-03-subtb)
#
# **Trajectory balance (TB)** {cite:p}`malkin2022tb` takes the whole path. All inner flows are gone.
# Of $F$ only the number $F(s_0) = Z_\theta$ is left to learn:
#
# $$
# \delta_{\mathrm{TB}}(\tau) = \delta_{0T}(\tau) = \log
#   \frac{Z_\theta \prod_{m} P_F(s_{m+1} \mid s_m)}
#        {R(x) \prod_{m} P_B(s_m \mid s_{m+1})}
# = \log Z_\theta - \log w(\tau).
# $$ (eq-03-tb)
#
# The last step defines the **log-weight** of a path, the same as in [Notation](../book/notation):
#
# $$
# \log w(\tau) = \log R(x) + \sum_m \log P_B(s_m \mid s_{m+1})
#   - \sum_m \log P_F(s_{m+1} \mid s_m).
# $$ (eq-03-logw)
#
# **VarGrad**, the log-variance loss {cite:p}`richter2020vargrad`, notices that TB asks $\log w$ to
# be *some* constant. Then it need not be learned, since the best constant is the mean:
#
# $$
# \min_{\log Z_\theta} \tfrac12\, \mathbb E\big[(\log Z_\theta - \log w)^2\big]
# = \tfrac12 \operatorname{Var}[\log w].
# $$ (eq-03-vargrad)
#
# :::{prf:theorem} What trajectory balance buys
# :label: thm-03-tb
# If $\delta_{\mathrm{TB}}(\tau) = 0$ for all paths $\tau$ from the source to the bins, then $P_F$
# draws $x$ with probability $R(x)/Z$, and $Z_\theta = Z$.
# :::
#
# :::{dropdown} Proof
# Write $P_F(\tau)$ and $P_B(\tau \mid x)$ for the products in {eq}`eq-03-tb`. The assumption is
#
# $$Z_\theta\, P_F(\tau) = R(x)\, P_B(\tau \mid x) \quad\text{for all } \tau.$$
#
# Sum over the paths that end in $x$. On the left stands $Z_\theta$ times the probability that
# generation ends in $x$. On the right, destruction from $x$ always arrives at the source, by one
# path or another, so $\sum_\tau P_B(\tau \mid x) = 1$. Hence $Z_\theta\, P_F(x) = R(x)$. Sum over
# $x$: since $\sum_x P_F(x) = 1$, we get $Z_\theta = \sum_x R(x) = Z$.
# :::
#
# :::{prf:theorem} Whole paths know of every edge
# :label: thm-03-db
# Let $P_B > 0$ on all edges. TB holds for all paths if and only if there are state flows, with
# $F(s_0) = Z_\theta$ and $F(x) = R(x)$, with which DB holds on all edges. Then SubTB holds for all
# parts of paths.
# :::
#
# :::{dropdown} Proof
# *From DB to SubTB and TB*: multiply the equations of the edges, as in {eq}`eq-03-subtb`.
#
# *From TB to DB.* Let $q$ be a path from $s$ to a bin $x_q$, and $p$ one from the source to $s$.
# Define $G(s) = \sum_q R(x_q)\, P_B(q)$, where $P_B(q)$ is the product along $q$; so $G(x) = R(x)$.
# TB for $p$ followed by $q$ says $Z_\theta\, P_F(p)\, P_F(q) = P_B(p)\, P_B(q)\, R(x_q)$. Sum over
# $q$:
#
# $$Z_\theta\, P_F(p) = P_B(p)\, G(s).$$
#
# For $s$ the source, $p$ is empty and $G(s_0) = Z_\theta$. The same for $p$ followed by the edge
# $s \to s'$ reads
#
# $$Z_\theta\, P_F(p)\, P_F(s' \mid s) = P_B(p)\, P_B(s \mid s')\, G(s').$$
#
# Put the first into the second and divide by $P_B(p)$:
# $G(s)\, P_F(s' \mid s) = G(s')\, P_B(s \mid s')$. This is DB with $F = G$.
# :::
#
# Let us look at all five on the board. One array does it: with $A_i$ for $\log F(s_i)$ less
# $\sum_{m<i} (\log P_F - \log P_B)$ on a path, $\delta_{ij} = A_i - A_j$. A residual
# that is always zero would prove nothing, so a *twin* stands beside the exact flow: the same board
# with its pegs slightly turned, which every condition must notice.


# %% tags=["graph"]
def imbalance(log_flow, log_pf, log_pb):
    """A of each path, of which delta_ij = A_i - A_j: (8, 4)."""
    spent = (log_pf - log_pb)[PATHS].cumsum(1)
    spent = torch.cat((torch.zeros_like(spent[:, :1]), spent), 1)
    return log_flow[VISITS] - spent


def flow_matching(log_flow, log_pf):
    """Log inflow less log outflow at all states but the source: (9,)."""
    edge = (log_flow[TAIL] + log_pf).exp()
    inflow = torch.zeros_like(log_flow).index_add(0, HEAD, edge)
    return inflow[1:].log() - log_flow[1:]


# %%
def largest(a):
    """Largest residual of each kind, from A of paths (B, T + 1)."""
    pairs = (a[:, :, None] - a[:, None, :]).abs()
    tb = a[:, 0] - a[:, -1]  # log Z - log w
    return {
        "detailed balance": a.diff(dim=1).abs().max(),
        "sub-trajectories": pairs.max(),
        "trajectory balance": tb.abs().max(),
        "VarGrad": (tb - tb.mean()).abs().max(),
    }


def compare(exact, twin):
    print(f"{'largest residual':20}{'exact':>10}{'twin':>10}")
    for name in exact:
        print(f"{name:20}{exact[name]:10.1e}{twin[name]:10.1e}")


def policy(logits):  # (6 pegs, 2 turns) -> log P_F of the edges (12,)
    return logits.log_softmax(1).flatten()


torch.manual_seed(seed)
exact_logits = P_F.log().view(6, 2)
turned = policy(exact_logits + 0.3 * torch.randn(6, 2, dtype=F64))
rows = []
for log_pf in (P_F.log(), turned):
    fm = flow_matching(FLOW.log(), log_pf).abs().max()
    a = imbalance(FLOW.log(), log_pf, P_B.log())
    rows.append({"flow matching": fm} | largest(a))
compare(*rows)

# %% [markdown]
# ## 3. Learning it from paths
#
# Now forget the exact flow. Start from fair pegs and $\log Z_\theta = 0$, draw sixteen paths at a
# time from the current $P_F$, and take steps on the TB loss. The code sees the rewards of the bins
# that it visits and nothing else. On a board with so few paths we may draw a path as one number;
# that is the same as letting the ball fall.

# %%
torch.manual_seed(seed)
log_target = REWARD.log()[END] + P_B.log()[PATHS].sum(1)  # log R P_B (8,)
logits = torch.zeros(6, 2, dtype=F64, requires_grad=True)
log_z = torch.zeros((), dtype=F64, requires_grad=True)
groups = [{"params": [logits], "lr": 0.05}, {"params": [log_z], "lr": 0.1}]
optimiser = optim.Adam(groups)


def edge_flow():  # Z_theta times the probability of the paths that use it
    each = (log_z + policy(logits)[PATHS].sum(1)).exp()
    edge = torch.zeros(12, dtype=F64)
    each = each.repeat_interleave(3)
    return edge.index_add(0, PATHS.flatten(), each).detach()


untrained, errors = edge_flow(), []
for _ in range(board_iterations):
    log_path = policy(logits)[PATHS].sum(1)
    drawn = torch.multinomial(log_path.detach().exp(), 16, replacement=True)
    log_weight = (log_target - log_path)[drawn]
    loss = 0.5 * (log_z - log_weight).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    errors.append(((edge_flow() - EDGE_FLOW).abs() / EDGE_FLOW).max())

print(f"learned Z_theta {log_z.exp().item():.4f}, exact {Z:g}")
print("learned bins", bins(policy(logits).exp()).detach().numpy().round(4))
print("exact bins  ", (REWARD / Z).numpy().round(4))

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-03-learned", "caption": "Trajectory balance never mentions the flow of an edge, and yet learns all twelve. Left: the largest relative error of an edge's flow. Right: learned against exact flows, before and after."}, "image": {"alt": "Left: an error that falls over iterations on a logarithmic axis. Right: twelve points that lie on the diagonal after the training and did not before."}}
_, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.6))
left.semilogy(errors, color=BLUE)
left.set(xlabel="iteration", ylabel="largest relative error")
left.set_title(f"The worst flow is off by {errors[-1]:.0e} of itself")
limit = 1.08 * EDGE_FLOW.max()
right.plot([0, limit], [0, limit], color=GREY, linewidth=0.8)
right.plot(
    EDGE_FLOW, untrained, "o", mfc="none", mec=ORANGE, label="before"
)
right.plot(EDGE_FLOW, edge_flow(), "o", color=BLUE, label="after")
right.set(xlabel="exact flow of an edge", ylabel="learned flow")
right.set_title("Whole paths teach single edges")
right.legend()
plt.show()

# %% [markdown]
# ## 4. From the board to $\mathbb R^d$
#
# A state is now a point *and* a time, $(x, t)$ with $t$ from 0 to 1, so no path visits a state
# twice. Nothing else changes but that tables become densities and sums become integrals
# {cite:p}`lahlou2023continuous`:
#
# | on the board | in $\mathbb R^d$ |
# |:---|:---|
# | state $(n, k)$, source, bins | $(x, t)$, the start at $t = 0$, the points at $t = 1$ |
# | path $s_0 \to \dots \to s_3$ | $\tau = (x_0, \dots, x_1)$ on a time grid $t_0 < \dots < t_T$ |
# | $P_F$, a table for each peg | $P_F(x' \mid x; \theta)$, a Gaussian with a learned mean |
# | $P_B$, all parents alike | $P_B(x \mid x')$, a Gaussian: the Brownian bridge |
# | $R(x)$, $Z = \sum_x R(x)$ | $R(x) = e^{-E(x)}$, $Z = \int R(x)\, dx$ |
# | $F(s)$ | $F(x, t)$: the density at time $t$, times $Z$ |
#
# The start may be random, with a density $p_0$ on which both processes agree; pinned to the origin,
# its logarithm counts as zero. With $i$ for the $i$-th time, the log-weight is
#
# $$
# \begin{aligned}
# \log w(\tau) = \log R(x_1) &+ \sum_i \log P_B(x_{t_i} \mid x_{t_{i+1}}) \\
#   &- \sum_i \log P_F(x_{t_{i+1}} \mid x_{t_i}; \theta) - \log p_0(x_0),
# \end{aligned}
# $$ (eq-03-logw-rd)
#
# and the losses are, with $\delta_{ij}$ as in {eq}`eq-imbalance`,
#
# $$
# \begin{aligned}
# \mathcal L_{\mathrm{TB}} &= \tfrac12\, \mathbb E\big[(\log Z_\theta - \log w)^2\big], \\
# \mathcal L_{\mathrm{VarGrad}} &= \tfrac12 \operatorname{Var}[\log w], \\
# \mathcal L_{\mathrm{DB}} &= \tfrac12\, \mathbb E\Big[\frac1T \sum_i \delta_{i, i+1}^2\Big], \\
# \mathcal L_{\mathrm{SubTB}} &= \tfrac12\, \mathbb E\Big[
#   \frac{\sum_{i<j} \lambda^{j-i} \delta_{ij}^2}{\sum_{i<j} \lambda^{j-i}}\Big].
# \end{aligned}
# $$ (eq-03-losses)
#
# The weight $\lambda$ leads from DB ($\lambda \to 0$: single steps) to TB ($\lambda \to \infty$:
# whole paths). DB and SubTB need a network for $\log F_\theta(x, t)$. A **forward-looking** flow
# {cite:p}`pan2023forward` spares it what is known already. At $t = 1$ the flow is $R$; near $t = 0$
# it is close to the reference process; in between it interpolates {cite:p}`sendera2024`, and the
# network adds the rest:
#
# $$
# \log F_\theta(x, t) = t \log R(x) + (1 - t) \log \mathcal N(x; 0, \sigma^2 t I)
#   + \mathrm{network}(x, t).
# $$ (eq-03-fl)
#
# {prf:ref}`thm-03-tb` and its proof hold as they stand, with "sum over the paths that end in $x$"
# read as an integral over $x_0, \dots$ up to the last state before $x_1$. One thing is lost: on the
# board any table can be learned, but a Gaussian step of finite length cannot follow every flow. So
# with a finite $T$ the loss has a floor above zero in general.
#
# There is an exception that we can use as a check: a Gaussian target with the variance of the
# reference process.
#
# :::{prf:proposition} A flow that finite steps can follow
# :label: thm-03-gaussian
# Let $R = Z\, \mathcal N(m, \sigma^2 I)$, and let the process be Brownian motion pinned to the
# origin. On every time grid the drift $u$ and the flow $F$, for $t > 0$, balance all parts of all
# paths:
#
# $$
# u(x, t) = m, \qquad F(x, t) = Z\, \mathcal N(x;\ t m,\ \sigma^2 t I).
# $$ (eq-03-gaussian)
# :::
#
# :::{dropdown} Proof
# With $u = m$ generation is $x_t = t m + \sigma W_t$ with a Brownian motion $W$, so
# $\mathcal N(x; t m, \sigma^2 t I)$ is its density at $t$. Given $x_{t'}$, it is at $t$ Gaussian with
# the mean $t m + \tfrac{t}{t'} (x_{t'} - t' m) = \tfrac{t}{t'} x_{t'}$ and the variance
# $\sigma^2 \tfrac{t}{t'} (t' - t)$: the bridge, from which $m$ has gone. So DB is Bayes' rule, and the
# other conditions follow by {eq}`eq-03-subtb`.
# :::
#
# Again with a twin, whose drift is a little off.

# %%
torch.manual_seed(seed)
mean = torch.tensor([1.0, -0.5])
gaussian = gl.Gaussian(mean, std=1.0, log_z=2.0)
exact = gl.GFNDiffusion(gaussian, sigma2=1.0, steps=8, exploration=0.0)
grid = gl.time_grid(8, "random")  # any grid will do


def gaussian_imbalance(drift):  # (B, T + 1), as on the board
    with torch.no_grad():  # the last layer's weights are still zero
        exact.policy.forward_net.out.bias[:] = drift
    tr = exact.rollout(grid, 1000)
    moved = tr.x - tr.t[:, None, None] * mean
    log_flow = gaussian.log_z + tr.process.log_marginal(moved, tr.t)
    spent = (tr.log_pf - tr.log_pb).cumsum(0)
    spent = torch.cat((torch.zeros_like(spent[:1]), spent))
    return (log_flow - spent).T.detach()


twin = largest(gaussian_imbalance(mean + 0.3))
compare(largest(gaussian_imbalance(mean)), twin)  # in single precision

# %% [markdown]
# A twin is a sampler whose log-weights are *not* all equal. What can $\log Z_\theta$ do about that?
# Its share of the loss is half the square of its distance from their mean, and no more:
#
# $$
# \mathcal L_{\mathrm{TB}} = \tfrac12 \operatorname{Var}[\log w]
#   + \tfrac12 \big(\log Z_\theta - \mathbb E[\log w]\big)^2 .
# $$ (eq-03-split)
#
# So on the sampler's own paths $\log Z_\theta$ comes to rest at their mean, which is the ELBO and not
# $\log Z$, and what is left is VarGrad. Only equal weights bring the two together. Move
# $\log Z_\theta$ (for a drift that is half a unit off) to where the loss is least.

# %%
with torch.no_grad():
    exact.policy.forward_net.out.bias[:] = mean + 0.5  # off again
    own = exact.rollout(grid, 4000)
    log_w = own.log_weight
mean_w, variance = log_w.mean().item(), log_w.var(correction=0).item()


def tb_loss(log_z):
    return 0.5 * (log_z - log_w).square().mean().item()


def at_log_z(log_z_theta):
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.7))
    left.hist(log_w, bins=50, color=BLUE, alpha=0.5)
    left.axvline(log_z_theta, color=ORANGE, label=r"$\log Z_\theta$")
    left.axvline(gaussian.log_z, color="black", linestyle="--",
                 label=r"$\log Z$")  # fmt: skip
    left.set(xlabel=r"$\log w$", ylabel="paths")
    left.legend()
    axis = torch.linspace(0.5, 3.5, 61)
    right.plot(axis, [tb_loss(value) for value in axis], color=GREY)
    right.plot(log_z_theta, tb_loss(log_z_theta), "o", color=ORANGE)
    right.axhline(variance / 2, color=BLUE, linestyle=":", label="VarGrad")
    right.set(xlabel=r"$\log Z_\theta$", ylabel="TB loss", ylim=0)
    right.legend()
    left.set_title(f"The ELBO is {mean_w:.2f}, log Z is {gaussian.log_z:g}")
    right.set_title(log_z_in_words(log_z_theta))
    return figure


def log_z_in_words(log_z_theta):
    loss, least = tb_loss(log_z_theta), variance / 2
    return f"TB {loss:.2f}, of which variance {least:.2f}"


halves = [1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0]
gl.explore(at_log_z, log_z_in_words, log_z_theta=halves)

# %% [markdown]
# ### Two bounds, two divergences
#
# Let $Q(\tau) = R(x_1)\, P_B(\tau \mid x_1)/Z$ be the law of a path that is destroyed from a
# perfect sample. By {eq}`eq-03-logw-rd`, $\log w = \log Z + \log Q(\tau) - \log P_F(\tau)$.
# Averaged over both laws this is {prf:ref}`thm-bounds`, the two bounds and what they are off by:
#
# $$
# \begin{aligned}
# \text{ELBO} &= \mathbb E_{P_F}[\log w] = \log Z - \mathrm{KL}(P_F \,\|\, Q), \\
# \text{EUBO} &= \mathbb E_{Q}[\log w] = \log Z + \mathrm{KL}(Q \,\|\, P_F).
# \end{aligned}
# $$ (eq-03-bounds)
#
# On the board both are sums of eight terms. Here they are for the turned pegs of section 2.

# %%
log_path = turned[PATHS].sum(1)
log_weight = log_target - log_path
elbo = (log_path.exp() * log_weight).sum()
eubo = (log_target.exp() / Z * log_weight).sum()
print(f"ELBO {elbo:.4f} <= log Z {Z.log():.4f} <= EUBO {eubo:.4f}")

# %% [markdown]
# ## 5. On-policy, trajectory balance is reverse KL
#
# The reverse divergence $\mathrm{KL}(P_F \,\|\, Q)$ is what variational inference minimises, by
# maximising the ELBO. How is TB related to it? Let $\tilde P$ be the law that training paths are
# drawn from. It counts as given: the gradient does not see it. For $\theta$ the parameters of $P_F$
# alone, with $\log Z_\theta$ held at any value,
#
# $$
# \begin{aligned}
# g_{\mathrm{TB}} &= \nabla_\theta\, \mathbb E_{\tilde P}\big[\tfrac12 \delta^2\big] \\
#   &= \mathbb E_{\tilde P}\big[(\log Z_\theta - \log w)\, \nabla_\theta \log P_F(\tau)\big].
# \end{aligned}
# $$ (eq-03-tb-gradient)
#
# :::{prf:theorem} On-policy, TB descends the reverse KL divergence
# :label: thm-03-gradient
# On-policy, that is with $\tilde P = P_F$, the expected gradient of TB is that of the reverse KL
# divergence, whatever the value of $\log Z_\theta$ {cite:p}`malkin2023vi,richter2020vargrad`:
#
# $$g_{\mathrm{TB}} = \nabla_\theta\, \mathrm{KL}(P_F \,\|\, Q).$$
# :::
#
# :::{dropdown} Proof
# *The gradient of TB.* In $\delta = \log Z_\theta - \log w$ only $\sum \log P_F$ depends on
# $\theta$, and it has the sign $+$. So
# $\nabla_\theta \tfrac12 \delta^2 = \delta\, \nabla_\theta \log P_F(\tau)$, which is
# {eq}`eq-03-tb-gradient`.
#
# *The baseline.* The score has expectation zero under its own law:
#
# $$
# \mathbb E_{P_F}[\nabla_\theta \log P_F(\tau)]
# = \int P_F\, \frac{\nabla_\theta P_F}{P_F}\, d\tau
# = \nabla_\theta \int P_F(\tau)\, d\tau = \nabla_\theta 1 = 0.
# $$
#
# So on-policy a constant in front of it adds nothing, and $\log Z_\theta$ may be any number.
#
# *The gradient of the divergence.* By the product rule, with the sampling law differentiated too,
#
# $$
# \begin{aligned}
# \nabla_\theta \mathbb E_{P_F}[\log Z - \log w]
# &= \mathbb E_{P_F}\big[(\log Z - \log w)\, \nabla_\theta \log P_F\big]
#   + \mathbb E_{P_F}\big[\nabla_\theta \log P_F\big] \\
# &= \mathbb E_{P_F}\big[(\log Z_\theta - \log w)\, \nabla_\theta \log P_F\big] = g_{\mathrm{TB}}.
# \end{aligned}
# $$
#
# The second term is zero, and so is the difference that $\log Z_\theta$ makes in the place of
# $\log Z$. Derivative and integral may change places: on the board, where the integral is a sum,
# always; for Gaussian steps if drift and energy are smooth and do not grow too fast.
# :::
#
# Three conditions, each of them needed. The paths come from $P_F$ itself. Their law is not
# differentiated. And $\theta$ are the parameters of $P_F$: by those of a learned $P_B$ the
# divergence has the gradient $-\mathbb E[\nabla \log P_B]$, and TB has
# $-\mathbb E[\delta\, \nabla \log P_B]$. The board can check the theorem to all digits, since each
# expectation is a sum of eight terms.


# %% tags=["graph"]
def tb_gradient(logits, log_z, law=None, held=True):
    """Gradient of E[delta^2 / 2] by the logits of P_F (6, 2)."""
    log_path = logits.log_softmax(1).flatten()[PATHS].sum(1)
    law = log_path.exp() if law is None else law
    law = law.detach() if held else law
    log_target = REWARD.log()[END] + P_B.log()[PATHS].sum(1)
    delta = log_z - (log_target - log_path)
    loss = (law * 0.5 * delta.square()).sum()
    return torch.autograd.grad(loss, logits)[0]


def kl_gradient(logits):
    """Gradient of KL(P_F || Q), the sampling differentiated too."""
    log_path = logits.log_softmax(1).flatten()[PATHS].sum(1)
    log_q = (REWARD / Z).log()[END] + P_B.log()[PATHS].sum(1)
    loss = (log_path.exp() * (log_path - log_q)).sum()
    return torch.autograd.grad(loss, logits)[0]


# %%
torch.manual_seed(seed)
start = torch.randn(6, 2, dtype=F64).requires_grad_()  # any pegs
uniform = torch.full((8,), 1 / 8, dtype=F64)  # another law: all paths alike
values = (0.0, Z.log().item(), 6.0)  # of log Z_theta
kl = kl_gradient(start)
cases = {
    "on-policy": {},
    "off-policy": {"law": uniform},
    "law not held": {"held": False},
}
gradients = {
    name: [tb_gradient(start, value, **options) for value in values]
    for name, options in cases.items()
}
print("largest difference from the gradient of reverse KL")
header = "".join(f"{value:9.2f}" for value in values)
print(f"{'log Z_theta =':14}{header}")
for name, found in gradients.items():
    off = "".join(f"{(g - kl).abs().max():9.0e}" for g in found)
    print(f"{name:14}{off}")

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-03-gradients", "caption": "All twelve components of the gradient, on the board, each expectation a full sum. Left: with paths from P_F, for three values of log Z. Right: with all paths alike."}, "image": {"alt": "Two scatter plots of gradient components. On the left the points of all three values of the normaliser lie on the diagonal; on the right they scatter, each value differently."}}
off = max((g - kl).abs().max() for g in gradients["on-policy"])
titles = (
    f"On-policy it is reverse KL, to {off:.0e}",
    "Off-policy it is another gradient",
)
marks = (("o", BLUE, 10), ("s", ORANGE, 6), ("x", "black", 5))
_, axes = plt.subplots(1, 2, figsize=(8.4, 3.8))
for ax, name, title in zip(axes, gradients, titles, strict=False):
    for g, value, mark in zip(gradients[name], values, marks, strict=True):
        shape, colour, size = mark
        style = {"mec": colour, "mfc": "none", "ms": size, "mew": 1.4}
        label = rf"$\log Z_\theta$ = {value:.3g}"
        ax.plot(kl.flatten(), g.flatten(), shape, label=label, **style)
    ax.axline((0, 0), slope=1, color=GREY, linewidth=0.8, zorder=0)
    ax.set(xlabel="gradient of reverse KL", title=title)
axes[0].set_ylabel("gradient of TB")
axes[0].legend()
plt.show()

# %% [markdown]
# So on-policy TB has no magic of its own: it descends the same slope as reverse KL, and inherits
# its habit of settling on a few modes, since an average over $P_F$ does not see what $P_F$ leaves
# out. Two differences remain. The *estimate* of the slope is
# another one, which is the next section. And TB may leave the policy, which is the last.
#
# ## 6. Two estimates of one gradient
#
# In $\mathbb R^d$ the sums become averages over a batch, and the two losses lead to two estimators:
#
# - **TB** averages $(\log Z_\theta - \log w)\, \nabla_\theta \log P_F(\tau)$ over paths whose
#   states are constants. This is the *score-function* estimator, with $\log Z_\theta$ as its
#   **baseline**. It never differentiates the energy, nor the simulation.
# - **Reverse KL** writes $x_{t_{i+1}}$ as a function of noise and $\theta$, and differentiates
#   $-\log w$ through the whole simulation and the energy: the *path-wise* estimator.
#
# Take a diffusion of four steps in one dimension, towards two unequal modes, at an early stage of
# its training and at a late one. We estimate both gradients from many batches of 64 paths. TB's
# gradient is linear in the baseline $c$, $g(c) = g(0) + c\, \overline{\nabla_\theta \log P_F}$, so
# two backward passes over the same paths give it for all $c$.

# %%
T, BATCH = 4, 64
grid = gl.time_grid(T)


def trained(target, iterations):
    sampler = gl.GFNDiffusion(
        target, seed=seed, steps=T, sigma2=1.0, exploration=0.0,
        hidden=16, layers=1, batch_size=256, iterations=iterations,
        coarse_steps=None, lr_decay=0.0,
    )  # fmt: skip
    return sampler.fit(progress=False)


def estimates(sampler, batches):
    """Gradients of batches: path-wise, TB at c = 0, and the mean score."""
    parameters = list(sampler.policy.kernels())
    generator = torch.Generator().manual_seed(seed)

    def gradient():
        return torch.cat([p.grad.flatten() for p in parameters])

    rows = []
    for _ in range(batches):
        tr = sampler.rollout(
            grid, BATCH, generator=generator, differentiable=True
        )
        sampler.policy.zero_grad()
        gl.objectives.reverse_kl(tr).backward()
        row, kept = [gradient()], generator.get_state()
        for objective in (
            lambda tr: 0.5 * tr.log_weight.square().mean(),  # TB with c = 0
            lambda tr: -tr.log_weight.mean(),  # states held: mean score
        ):
            generator.set_state(kept)  # the same paths for both
            tr = sampler.rollout(grid, BATCH, generator=generator)
            sampler.policy.zero_grad()
            gl.rollout.gradient(sampler.policy, tr, objective)
            row.append(gradient())
        rows.append(torch.stack(row))
    return torch.stack(rows, 1)  # (3, batches, parameters)


def spread(gradients):  # standard deviation of a batch's gradient
    return gradients.var(0).sum().sqrt().item()


two_modes = gl.GMM([[-1.5], [1.5]], 0.25, weights=[0.3, 0.7])
stages = {"early": trained(two_modes, 20)}
stages["late"] = trained(two_modes, iterations)
found = {name: estimates(s, batches) for name, s in stages.items()}
lowers = {
    name: s.log_weight(20_000).mean().item() for name, s in stages.items()
}
for name, (path_wise, zero, score) in found.items():
    tb = zero + lowers[name] * score
    error = ((tb.var(0) + path_wise.var(0)) / batches).sqrt()
    shown = slice(-17, None)  # the last layer: 16 weights and a bias
    z = ((tb - path_wise).mean(0) / error)[shown]
    print(f"{name}: ELBO {lowers[name]:.2f}, |gradient|", end=" ")
    print(f"{tb.mean(0).norm():.2f} by TB,", end=" ")
    print(f"{path_wise.mean(0).norm():.2f} path-wise")
    errors = (spread(g) / batches**0.5 for g in (tb, path_wise))
    print("  standard errors {:.2f} and {:.2f}".format(*errors))
    print(
        f"  largest |difference| / its standard error {z.abs().max():.1f}"
    )

# %% [markdown]
# The two estimators agree within their standard errors, as they must: they estimate one vector.
# Which is less noisy?

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-03-baseline", "caption": "Standard deviation of the gradient of one batch, over all parameters of the kernel, against the baseline of trajectory balance; the dashed line is the path-wise estimator. Dots mark the ELBO, to which a learned log Z moves on-policy."}, "image": {"alt": "Two panels, early and late in the training. In each a curve of the noise of trajectory balance has its minimum near the marked ELBO and rises to both sides, against a horizontal dashed line for reverse KL."}}
_, axes = plt.subplots(1, 2, figsize=(8.4, 3.7), sharex=True)
axis = torch.linspace(-4, 4, 41)
for ax, (name, (path_wise, zero, score)) in zip(
    axes, found.items(), strict=True
):
    curve = [spread(zero + c * score) for c in axis]
    at_elbo = spread(zero + lowers[name] * score)
    level = spread(path_wise)
    ax.plot(axis, curve, color=BLUE, label="trajectory balance")
    ax.plot(lowers[name], at_elbo, "o", color=BLUE)
    ax.axhline(level, color=ORANGE, ls="--", label="reverse KL, path-wise")
    times = at_elbo / level
    ax.set_title(f"{name.title()}: TB has {times:.2f} x the noise")
    ax.set(xlabel=r"baseline $\log Z_\theta$")
    ax.set_ylim(0, None)
axes[0].set_ylabel("noise of a batch's gradient")
axes[0].legend()
plt.show()

# %% [markdown]
# The baseline has expectation zero, and yet it decides the noise. Its own gradient under TB is
# $\mathbb E_{P_F}[\delta] = \log Z_\theta - \text{ELBO}$. So on-policy a learned $\log Z_\theta$
# moves to the ELBO, which is not far from the minimum of these curves. That is also why it must be
# learned fast or start well. VarGrad takes the batch's mean instead, and has a good baseline from
# the first step.
#
# At the optimum the two differ in kind. There $\log w$ is constant. With $\log Z_\theta = \log Z$
# each path's $\delta$ is zero, and TB's estimate has no noise at all. The path-wise one still
# contains $\nabla_\theta \log P_F$ at fixed states, which vanishes only on average. The Gaussian
# target of section 4 shows it.

# %%
with torch.no_grad():
    exact.policy.forward_net.out.bias[:] = mean
path_wise, zero, score = estimates(exact, max(batches // 10, 2))
at_optimum = zero + gaussian.log_z * score
print(f"noise at the optimum: TB {spread(at_optimum):.1e}", end=", ")
print(f"path-wise {spread(path_wise):.1e}")

# %% [markdown]
# Is TB's estimate always the better one, then? No. The score-function estimator learns of the
# energy only by the *values* of $\log w$, one number a path; the path-wise one sees the energy's
# gradient, $d$ numbers a path. Here is the same comparison for Gaussian targets of growing
# dimension, each at the baseline that is its ELBO.

# %% mystnb={"figure": {"name": "fig-03-dimension", "caption": "Noise of the gradient of trajectory balance, at its ELBO as baseline, over that of the path-wise gradient, for Gaussian targets with a mean of length 1 and a standard deviation of 0.7, all trained equally long. Below 1 trajectory balance is the better estimate."}, "image": {"alt": "The ratio of the two noises rises with the dimension, from below one to above one."}}
dimensions = (1, 2, 4, 8, 16, 32, 64)
ratios = []
for d in dimensions:
    target = gl.Gaussian([d**-0.5] * d, std=0.7)
    sampler = trained(target, max(iterations // 4, 1))
    path_wise, zero, score = estimates(sampler, max(batches // 8, 2))
    lower = sampler.log_weight(5000).mean().item()
    ratios.append(spread(zero + lower * score) / spread(path_wise))
_, ax = plt.subplots(figsize=(6.2, 3.6))
ax.plot(dimensions, ratios, "o-", color=BLUE)
ax.axhline(1, color=ORANGE, ls="--", label="equally noisy")
ax.set_xscale("log", base=2)
ax.set_xticks(dimensions, [str(d) for d in dimensions])
ax.set(xlabel="dimension d", ylabel="noise of TB / path-wise")
ax.set_ylim(0, None)
ax.set_title(
    f"{ratios[0]:.1f} x the noise at d = 1, "
    f"{ratios[-1]:.1f} x at d = {dimensions[-1]}"
)
ax.legend()
plt.show()

# %% [markdown]
# On-policy, then, TB's case is its price, not its noise: no graph through the simulation, no
# gradient of the energy. A **Langevin** drift, which adds a learned multiple of $\nabla \log R$ to
# $u$, brings the energy's gradient back in as an *input*.
#
# ## 7. What leaving the policy buys
#
# {prf:ref}`thm-03-tb` never asked where the paths come from. TB is zero at the same $P_F$ for
# *every* law $\tilde P$ that covers the paths; reverse KL is an average over $P_F$ by definition.
# Now take two equal modes, one near the start and one out of the reach of the untrained process,
# and train twice. Same loss, same network, same seed. The second training draws its paths with more
# variance, which fades. The densities in $\log w$ are those of $P_F$ both times.

# %%
far_modes = gl.GMM([[-1.0], [4.0]], 0.16)  # log Z = 0
trainings = {"On-policy": 0.0, "Off-policy": 4.0}  # exploration
measured = {}
torch.manual_seed(seed)
lines = [f"{'':12}{'loss':>7}{'ELBO':>7}{'IS log Z':>10}{'EUBO':>7}"]
for name, exploration in trainings.items():
    sampler = gl.GFNDiffusion(
        far_modes, seed=seed, steps=20, sigma2=1.0, hidden=32,
        batch_size=128, exploration=exploration, iterations=iterations,
        coarse_steps=None,
    )  # fmt: skip
    sampler.fit(progress=False)
    tr = sampler.trajectory(20_000)
    log_weight = tr.log_weight
    upper = gl.eubo(sampler.log_weight(x=far_modes.sample(20_000)))
    measured[name] = upper, tr.x[-1]
    loss, lower = gl.objectives.tb(tr), gl.elbo(log_weight)
    estimate = gl.log_z_is(log_weight)
    lines.append(
        f"{name:12}{loss:7.2f}{lower:7.2f}{estimate:10.2f}{upper:7.2f}"
    )
lines.append(f"{'exact':12}{'':14}{far_modes.log_z:10.2f}")
print("\n".join(lines))

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-03-off-policy", "caption": "Samples of the two trainings (bars) and the exact density (line). They differ in the law of the training paths alone."}, "image": {"alt": "Two histograms over the exact density of two peaks. On the left all samples are in one peak, twice as high as it should be; on the right both peaks are filled."}}
axis = torch.linspace(-3, 6, 400)
density = far_modes.log_reward(axis[:, None]).exp()
_, axes = plt.subplots(1, 2, figsize=(8.4, 3.5), sharey=True)
for ax, (name, (upper, x)) in zip(axes, measured.items(), strict=True):
    bars = {"bins": 120, "range": (-3, 6), "density": True}
    bars |= {"histtype": "stepfilled", "color": BLUE, "alpha": 0.6}
    ax.hist(x.flatten(), **bars, label="samples")
    ax.plot(axis, density, color=ORANGE, label="exact density")
    share = far_modes.modes_of(x).mean(0)
    modes = gl.modes_found(share, far_modes.mode_mass)
    ax.set(xlabel="$x$")
    ax.set_title(f"{name}: {modes} of 2 modes, EUBO {upper:.1f}")
axes[1].legend()
plt.show()

# %% [markdown]
# The on-policy training is not at fault by its own measure: its loss and its ELBO look harmless,
# and it has made the log-weights of the paths *that it draws* nearly equal. Its own paths hardly
# ever come to where they are not. The EUBO, which starts from exact samples, sees it at once.
#
# Added noise is the simplest law that covers more. Others are paths destroyed from good samples
# that were found earlier (replay), or found by a local search, or by a sampler at another
# temperature. Any mixture of them is allowed, and no importance weights are needed.
#
# ## In five lines
#
# 1. A conserved flow of total $Z$ that ends as $R(x)$ makes a sampler: turn in proportion to the
#    flow.
# 2. Detailed balance asks for it edge by edge. Multiplied along a path it is SubTB, and TB for the
#    whole path; with the batch's mean for $\log Z_\theta$, VarGrad. All have the same solutions.
# 3. In $\mathbb R^d$ tables become densities, and every $\delta$ is a piece of
#    $\log Z_\theta - \log w$.
# 4. On-policy, TB's expected gradient is that of reverse KL, and $\log Z_\theta$ only a baseline;
#    on our targets its noise is lower in few dimensions and near the optimum, and higher in many.
# 5. Off-policy it is another gradient with the same solution. That is how missed modes are found.
#
# ## Exercises
#
# **1.** On the board, let destruction be the Brownian bridge of fair pegs: from $(n, k)$ the ball
# came by a right turn with probability $k/n$. Which of the flows, $P_F$ and bins change?
#
# :::{dropdown} Solution
# The flows and the pegs do, the bins and $Z$ do not: the rewards alone fix those. $P_B$ says only
# by which ways the water goes.
# ```python
# bridge = torch.tensor(
#     [
#         k / n if k > k_before else 1 - k / n
#         for (_, k_before), (n, k) in EDGES
#     ],
#     dtype=F64,
# )
# state, edge = exact_flow(bridge)
# print("flows of the first three rows")
# print(FLOW[:6].numpy(), "\n", state[:6].numpy().round(3))
# print("bins", bins(edge / state[TAIL]).numpy(), "Z", state[0].item())
# ```
# :::
#
# **2.** Check on paths of a sampler that has a state flow, `gl.GFNDiffusion(two_modes,
# objective="subtb")`, that SubTB is DB for $\lambda \to 0$ and TB for $\lambda \to \infty$.
#
# :::{dropdown} Solution
# With tiny $\lambda$ only the parts of length one count, with huge $\lambda$ only the whole path.
# ```python
# sampler = gl.GFNDiffusion(two_modes, objective="subtb", steps=6)
# with torch.no_grad():  # any flow and any log Z will do
#     for p in sampler.policy.parameters():
#         p += 0.1 * torch.randn(p.shape)
# tr = sampler.trajectory(1000)
# for lam in (1e-6, 0.5, 2.0, 1e6):
#     loss = gl.objectives.subtb(tr, lam).item()
#     print(f"lambda {lam:8g}: SubTB {loss:.5f}")
# print(f"DB {gl.objectives.db(tr).item():.5f}", end=", ")
# print(f"TB {gl.objectives.tb(tr).item():.5f}")
# ```
# :::
#
# **3.** VarGrad with a batch of $n$ on-policy paths, each held constant, has as its expected
# gradient $(n-1)/n$ of that of reverse KL. Prove it, and check it on the board for $n = 2$ by
# enumerating all pairs of paths.
#
# :::{dropdown} Solution
# With $\ell_b = \log w(\tau_b)$ and $\bar\ell$ the batch's mean, the gradient of
# $\frac1{2n} \sum_b (\ell_b - \bar\ell)^2$ is
# $-\frac1n \sum_b (\ell_b - \bar\ell)\, \nabla_\theta \log P_F(\tau_b)$, because the deviations
# from a mean sum to zero. In $\bar\ell$ only the term $\ell_b / n$ depends on $\tau_b$; the others
# are independent of its score, whose expectation is zero. What is left is
# $-(1 - \frac1n)\, \mathbb E[\ell\, \nabla_\theta \log P_F]$, and by
# {prf:ref}`thm-03-gradient` that is $\frac{n-1}n \nabla_\theta \mathrm{KL}(P_F \,\|\, Q)$.
# ```python
# log_path = policy(start)[PATHS].sum(1)
# law = log_path.exp().detach()
# log_w = log_target - log_path
# pairs = torch.stack(
#     (log_w[:, None].expand(8, 8), log_w[None].expand(8, 8))
# )
# loss = 0.5 * (pairs - pairs.mean(0)).square().mean(0)  # (8, 8)
# total = (law[:, None] * law[None] * loss).sum()
# (g,) = torch.autograd.grad(total, start)
# print(f"{(g - kl_gradient(start) / 2).abs().max():.0e}")
# ```
# :::
#
# ## What went wrong on the way
#
# The third line of the table in section 5 is a mistake that is easy to make: if the law of the
# paths stays in the graph, autograd returns the gradient of $\mathbb E_{P_F}[\delta^2 / 2]$ in
# full. It moves paths to where $\delta$ is small already, depends on $\log Z_\theta$, and is
# neither of the two. In a diffusion the same mistake is a state that was not detached. And
# comparing two noisy gradients by eye proves little: the gradients of a network's parameters are
# strongly correlated, so that one unlucky batch shifts them all together. Compare with standard
# errors, few parameters, and once without any noise.
#
# ## Sources
#
# Flow matching: {cite:t}`bengio2021gflownet`. Detailed balance and the theory:
# {cite:t}`bengio2023foundations`. Trajectory balance: {cite:t}`malkin2022tb`; sub-trajectories:
# {cite:t}`madan2023subtb`; forward-looking flows: {cite:t}`pan2023forward`; continuous spaces:
# {cite:t}`lahlou2023continuous`. Log-variance loss and its gradient: {cite:t}`richter2020vargrad`.
# Trajectory balance and variational inference: {cite:t}`malkin2023vi`. Off-policy training of
# diffusion samplers: {cite:t}`sendera2024`.
