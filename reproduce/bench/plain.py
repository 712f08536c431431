"""The baseline: a diffusion sampler trained by GFlowNet objectives, written the usual way.

The same mathematics as gfnlite, as research code mostly writes it: correct, plain and slow. One
loop over the steps keeps the autograd graph of every network call, the time network sees a time for
each row, both kernels' densities are written out in full, scores come from autograd, and the buffer
is concatenated and ranked anew at each addition. It exists to be compared with.
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

__all__ = ["Buffer", "Policy", "Trainer", "log_reward_25gmm", "log_reward_manywell", "mala"]

DRIFT_CLIP, SCORE_CLIP = 1e4, 1e2
GRID = [(float(a), float(b)) for a in range(-10, 11, 5) for b in range(-10, 11, 5)]


@cache
def modes(device: torch.device) -> list[MultivariateNormal]:
    """The Gaussians of the grid."""
    covariance = 0.3 * torch.eye(2, device=device)
    return [MultivariateNormal(torch.tensor(mean, device=device), covariance) for mean in GRID]


def log_reward_25gmm(x: Tensor) -> Tensor:
    """25 Gaussians of covariance 0.3 I on a grid in the plane, log R: (B, 2) -> (B,)."""
    log_densities = torch.stack([mode.log_prob(x) for mode in modes(x.device)])
    return torch.logsumexp(log_densities, dim=0) - math.log(len(GRID))


def log_reward_manywell(x: Tensor) -> Tensor:
    """d/2 double wells, log R: (B, d) -> (B,)."""
    total = torch.zeros(len(x))
    for i in range(0, x.shape[1], 2):
        a, b = x[:, i], x[:, i + 1]
        total = total - a**4 + 6 * a**2 + 0.5 * a - 0.5 * b**2
    return total


def score(log_reward, x: Tensor) -> Tensor:
    """Gradient of log R at x (B, d), which can be differentiated again if x can."""
    again = x.requires_grad
    with torch.enable_grad():
        x = x if again else x.detach().requires_grad_()
        return torch.autograd.grad(log_reward(x).sum(), x, create_graph=again)[0]


def log_normal(x: Tensor, mean: Tensor | float, variance: float) -> Tensor:
    """log N(x; mean, variance I): (B,)."""
    return -0.5 * ((x - mean) ** 2 / variance + math.log(2 * math.pi * variance)).sum(dim=1)


class TimeNet(nn.Module):
    """Fourier features of time, then a small network: (B,) -> (B, outputs)."""

    def __init__(self, outputs: int, hidden: int, layers: int, harmonics: int = 64):
        super().__init__()
        self.register_buffer("frequency", torch.linspace(0.1, 100, harmonics))
        self.phase = nn.Parameter(torch.randn(harmonics))
        sizes = [2 * harmonics] + layers * [hidden]
        self.hidden = nn.ModuleList(nn.Linear(sizes[i], sizes[i + 1]) for i in range(layers))
        self.out = nn.Linear(hidden, outputs)

    def forward(self, t: Tensor) -> Tensor:
        """Values at the times t (B,)."""
        angle = t.unsqueeze(1) * self.frequency + self.phase
        h = torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)
        for layer in self.hidden:
            h = F.gelu(layer(h))
        return self.out(h)


class StateNet(nn.Module):
    """The network of the path integral sampler: (B, d), (B,) -> (B, outputs), at first all zero."""

    def __init__(self, dim: int, outputs: int, hidden: int):
        super().__init__()
        self.time = TimeNet(hidden, hidden, layers=1)
        self.state = nn.Linear(dim, hidden)
        self.joint = nn.ModuleList([nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)])
        self.out = nn.Linear(hidden, outputs)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Values at the states x (B, d) and times t (B,)."""
        h = self.state(x) + self.time(t)
        for layer in self.joint:
            h = layer(F.gelu(h))
        return self.out(F.gelu(h))


class Policy(nn.Module):
    """All that is learned: the drift, the scale of its Langevin part, the state flow and log Z."""

    def __init__(self, dim: int, hidden: int, langevin: bool, flow: bool):
        super().__init__()
        self.forward_net = StateNet(dim, dim, hidden)
        self.langevin = TimeNet(1, hidden, layers=3) if langevin else None
        if langevin:
            nn.init.zeros_(self.langevin.out.weight)
            nn.init.constant_(self.langevin.out.bias, 0.01)
        self.flow_net = StateNet(dim, 1, hidden) if flow else None
        self.log_z_value = nn.Parameter(torch.tensor(0.0))

    def drift(self, x: Tensor, t: float, log_reward) -> Tensor:
        """Drift of P_F at the states x (B, d) and time t: (B, d)."""
        t = torch.full((len(x),), t)
        u = self.forward_net(x, t)
        if self.langevin is not None:
            u = u + self.langevin(t) * torch.clamp(score(log_reward, x), -SCORE_CLIP, SCORE_CLIP)
        return torch.clamp(u, -DRIFT_CLIP, DRIFT_CLIP)


class Path(NamedTuple):
    """What the losses need of a batch of trajectories that end at x (B, d)."""

    x: Tensor
    log_reward: Tensor  # (B,)
    log_pf: Tensor  # (B, T)
    log_pb: Tensor  # (B, T)
    log_flow: Tensor | None  # (B, T + 1)
    log_weight: Tensor  # (B,)


def subtb(path: Path, lam: float = 2.0) -> Tensor:
    """Sub-trajectory balance: parts from i to j have weight lam^(j - i), all together 1."""
    spent = torch.cumsum(path.log_pf - path.log_pb, dim=1)
    level = path.log_flow - F.pad(spent, (1, 0))  # (B, T + 1)
    place = torch.arange(level.shape[1], dtype=torch.float64)
    weights = torch.triu(lam ** (place - place.unsqueeze(1)), diagonal=1)
    weights = (weights / weights.sum()).float()
    losses = []
    for row in level:
        imbalance = row.unsqueeze(1) - row.unsqueeze(0)  # (T + 1, T + 1)
        losses.append((weights * imbalance**2).sum())
    return 0.5 * torch.stack(losses).mean()


class Buffer:
    """First-in first-out memory, drawn with p proportional to 1 / (k N + rank of the reward)."""

    def __init__(self, capacity: int = 600_000, rank_weight: float = 0.01):
        self.capacity, self.rank_weight = capacity, rank_weight
        self.x = self.log_reward = self.weights = torch.empty(0)

    def add(self, x: Tensor, log_reward: Tensor) -> None:
        """Keep x (B, d) and log R (B,), drop the oldest beyond the capacity, and rank them all."""
        x, log_reward = x.detach(), log_reward.detach()
        if len(self.x):
            x = torch.cat([self.x, x])
            log_reward = torch.cat([self.log_reward, log_reward])
        self.x, self.log_reward = x[-self.capacity :], log_reward[-self.capacity :]
        ranks = np.argsort(np.argsort(-self.log_reward.cpu().numpy()))  # 0 is the best
        self.weights = torch.from_numpy(1.0 / (self.rank_weight * len(ranks) + ranks))

    def sample(self, n: int) -> tuple[Tensor, Tensor]:
        """Draw x (n, d) and log R (n,) with replacement."""
        chosen = torch.multinomial(self.weights, n, replacement=True)
        return self.x[chosen], self.log_reward[chosen]


def mala(
    log_reward, x: Tensor, steps: int = 200, burn_in: int = 100, step_size: float = 0.01,
    target_acceptance: float = 0.574, adapt: float = 1.1,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Metropolis-adjusted Langevin chains from x (B, d): states (K, B, d) and log R (K, B).

    All states after the burn-in are kept; the step size is adapted in the burn-in alone.
    """
    kept_x, kept_log_r = [], []
    for i in range(steps):
        mean = x + step_size * score(log_reward, x)
        y = (mean + math.sqrt(2 * step_size) * torch.randn_like(x)).requires_grad_()
        log_r_y = log_reward(y)
        score_y = torch.autograd.grad(log_r_y.sum(), y)[0]
        y, log_r_y, log_r_x = y.detach(), log_r_y.detach(), log_reward(x)
        log_forth = log_normal(y, mean, 2 * step_size)
        log_back = log_normal(x, y + step_size * score_y, 2 * step_size)
        accept = torch.rand(len(x)) < torch.exp(log_r_y - log_r_x + log_back - log_forth)
        x = torch.where(accept.unsqueeze(1), y, x)
        if i < burn_in:
            rate = accept.float().mean().item()
            step_size = step_size * adapt if rate > target_acceptance else step_size / adapt
        else:
            kept_x.append(x)
            kept_log_r.append(torch.where(accept, log_r_y, log_r_x))
    return torch.stack(kept_x), torch.stack(kept_log_r)


class Trainer:
    """A sampler with its optimiser, and with a buffer if it is to replay.

    `task` is "25gmm" or "manywell" with a dimension, `objective` one of tb, vargrad, subtb (forward
    looking) and reverse_kl. The process is Brownian motion from the origin with variance `sigma2`
    per unit time (None: the task's), to which exploration adds for the sampling noise alone.
    """

    def __init__(
        self, task: str, objective: str = "tb", langevin: bool = False, steps: int = 100,
        batch_size: int = 300, hidden: int = 64, sigma2: float | None = None, lr: float = 1e-3,
        lr_log_z: float = 0.1, lr_flow: float = 1e-2, seed: int = 0, replay: bool = False,
    ):  # fmt: skip
        torch.manual_seed(seed)
        mixture = task == "25gmm"
        self.dim = 2 if mixture else int(task.removeprefix("manywell"))
        self.log_reward = log_reward_25gmm if mixture else log_reward_manywell
        self.sigma2 = sigma2 or (5.0 if mixture else 1.0)
        self.objective, self.batch_size = objective, batch_size
        self.steps, self.dt = steps, 1 / steps
        self.policy = Policy(self.dim, hidden, langevin, flow=objective == "subtb")
        rates = {"log_z_value": lr_log_z, "flow_net": lr_flow}  # and lr for the kernel
        groups = {}
        for name, parameter in self.policy.named_parameters():
            groups.setdefault(rates.get(name.split(".")[0], lr), []).append(parameter)
        self.optimiser = torch.optim.Adam({"params": p, "lr": r} for r, p in groups.items())
        self.buffer, self.search_buffer = Buffer() if replay else None, Buffer()

    def forward_step(self, exploration: float = 0.0) -> float:
        """One optimiser step on a generated batch, whose ends are remembered; its loss."""
        path = self.generate(self.batch_size, exploration)
        if self.buffer is not None:
            self.buffer.add(path.x, path.log_reward)
        return self._update(path)

    def replay_step(self) -> float:
        """One optimiser step on a batch destroyed from what was found, or generated; its loss."""
        buffer = self.search_buffer if len(self.search_buffer.x) else self.buffer
        return self._update(self.destroy(*buffer.sample(self.batch_size)))

    def local_search(self) -> None:
        """MALA from remembered samples; replay will draw from all that it keeps."""
        x, log_reward = mala(self.log_reward, self.buffer.sample(self.batch_size)[0])
        self.search_buffer.add(x.flatten(0, 1), log_reward.flatten())

    @torch.no_grad()
    def sample_log_weight(self, n: int) -> tuple[Tensor, Tensor]:
        """n samples (n, d) without exploration, and their log w (n,)."""
        path = self.generate(n)
        return path.x, path.log_weight

    @torch.no_grad()
    def destroy_log_weight(self, x: Tensor) -> Tensor:
        """log w (B,) of trajectories destroyed from x (B, d)."""
        return self.destroy(x, self.log_reward(x)).log_weight

    def generate(self, n: int, exploration: float = 0.0, noise: Tensor | None = None) -> Path:
        """n trajectories by P_F, driven by `noise` (T, n, d) if it is given."""
        x, rows = torch.zeros(n, self.dim), []
        for i in range(self.steps):
            mean = self._mean(x, i)
            eps = torch.randn_like(x) if noise is None else noise[i]
            after = mean + math.sqrt((self.sigma2 + exploration) * self.dt) * eps
            if self.objective != "reverse_kl":
                after = after.detach()
            rows.append(self._transition(x, mean, after, i))
            x = after
        return self._path(x, self.log_reward(x), rows)

    def destroy(self, x: Tensor, log_reward: Tensor, noise: Tensor | None = None) -> Path:
        """Bridges from x (B, d) back to the origin, driven by `noise` (T, B, d) if it is given."""
        after, rows = x, []
        for i in reversed(range(self.steps)):
            back = i / (i + 1)
            eps = torch.randn_like(x) if noise is None else noise[i]
            before = back * after + math.sqrt(self.sigma2 * self.dt * back) * eps
            rows.append(self._transition(before, self._mean(before, i), after, i))
            after = before
        return self._path(x, log_reward, rows[::-1])

    def loss(self, path: Path) -> Tensor:
        """The objective, a mean over the batch."""
        if self.objective == "tb":
            return 0.5 * ((self.policy.log_z_value - path.log_weight) ** 2).mean()
        if self.objective == "vargrad":
            return 0.5 * ((path.log_weight.mean().detach() - path.log_weight) ** 2).mean()
        return subtb(path) if self.objective == "subtb" else -path.log_weight.mean()

    def _update(self, path: Path) -> float:
        loss = self.loss(path)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return loss.item()

    def _mean(self, x: Tensor, i: int) -> Tensor:
        return x + self.policy.drift(x, i * self.dt, self.log_reward) * self.dt

    def _transition(self, x: Tensor, mean: Tensor, after: Tensor, i: int) -> tuple:
        """log P_F, log P_B and log F at x (which looks forward, or None), each (B,)."""
        t, back = i * self.dt, i / (i + 1)
        log_pf = log_normal(after, mean, self.sigma2 * self.dt)
        if i == 0:  # the way back to the origin is certain
            return log_pf, torch.zeros(len(x)), self.policy.log_z_value.expand(len(x))
        log_pb = log_normal(x, back * after, self.sigma2 * self.dt * back)
        if self.policy.flow_net is None:
            return log_pf, log_pb, None
        known = t * self.log_reward(x) + (1 - t) * log_normal(x, 0.0, self.sigma2 * t)
        learned = self.policy.flow_net(x, torch.full((len(x),), t)).squeeze(1)
        return log_pf, log_pb, known + learned

    def _path(self, x: Tensor, log_reward: Tensor, rows: list) -> Path:
        log_pf, log_pb, log_flow = zip(*rows, strict=True)
        log_pf, log_pb = torch.stack(log_pf, dim=1), torch.stack(log_pb, dim=1)
        with_flow = self.policy.flow_net is not None
        log_flow = torch.stack([*log_flow, log_reward], dim=1) if with_flow else None
        log_weight = log_reward + log_pb.sum(dim=1) - log_pf.sum(dim=1)
        return Path(x, log_reward, log_pf, log_pb, log_flow, log_weight)
