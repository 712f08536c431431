"""A dozen densities that no setting was tuned on: `python -m reproduce.bench.suite`.

Each is trained by the default of `GFNDiffusion` and, for comparison, by plain trajectory balance in
the quick profile, three seeds each, and judged by the truth. A cell is written to
results/bench/suite.json as soon as it is there, and one found there is not run again. Seconds are
CPU seconds of a seed; the pilot, logging and evaluation are in them.
"""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import gfnlite as gl
from gfnlite.energy import LOG_2PI, ClosedForm
from gfnlite.targets import GMM, Funnel, Rings, Target, breast_cancer

__all__ = ["DENSITIES", "RESULTS", "WAYS", "Banana", "Correlated", "StudentT", "measure", "run"]

RESULTS = Path(__file__).resolve().parent.parent / "results" / "bench" / "suite.json"
SEEDS = 3


class Correlated(ClosedForm):
    """Z N(x; m, C).

    Args:
        covariance: C (d, d).
        mean: m, a number or (d,).
        log_z: log Z.
    """

    name = "correlated"

    def __init__(self, covariance: Tensor, mean: float | Tensor = 0.0, log_z: float = 0.0):
        self.root, self.precision = torch.linalg.cholesky(covariance), torch.linalg.inv(covariance)
        self.mean, self.dim, self.log_z = torch.as_tensor(mean), len(covariance), log_z
        self.log_norm = log_z - 0.5 * self.dim * LOG_2PI - self.root.diagonal().log().sum().item()

    def _closed_form(self, x):
        away = x - self.mean
        pull = away @ self.precision
        return self.log_norm - 0.5 * (pull * away).sum(-1), lambda: -pull

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Exact samples (n, d)."""
        return self.mean + torch.randn(n, self.dim, generator=generator) @ self.root.mT


class StudentT(ClosedForm):
    """Student's t in d dimensions, Gamma(a) (nu pi)^(-d/2) / Gamma(nu/2) (1 + x^2 / nu)^(-a).

    Here a is (nu + d) / 2; it is normalised, log Z = 0.

    Args:
        dim: d.
        freedom: nu, an integer; moments of that order and above are infinite.
    """

    log_z, name = 0.0, "student"

    def __init__(self, dim: int, freedom: int):
        self.dim, self.freedom, self.power = dim, freedom, 0.5 * (freedom + dim)
        self.log_norm = math.lgamma(self.power) - math.lgamma(0.5 * freedom)
        self.log_norm -= 0.5 * dim * math.log(freedom * math.pi)

    def _closed_form(self, x):
        q = 1 + x.square().sum(-1, keepdim=True) / self.freedom
        slope = -2 * self.power / self.freedom
        return self.log_norm - self.power * q[:, 0].log(), lambda: slope * x / q

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Exact samples (n, d): a Gaussian over the root of an independent chi^2 / nu."""
        noise = torch.randn(n, self.dim + self.freedom, generator=generator)
        chi2 = noise[:, self.dim :].square().sum(-1, keepdim=True)
        return noise[:, : self.dim] * (self.freedom / chi2).sqrt()


class Banana(ClosedForm):
    """N(x_1; 0, a^2) N(x_2; b (x_1^2 - a^2), 1), normalised: log Z = 0.

    From Haario, Saksman & Tamminen, Adaptive proposal distribution for random walk Metropolis
    algorithm (1999), with other numbers.
    """

    dim, log_z, name = 2, 0.0, "banana"

    def __init__(self, a: float = 3.0, b: float = 0.5):
        self.a, self.b = a, b

    def _closed_form(self, x):
        first, off = x[:, 0], x[:, 1] - self.b * (x[:, 0].square() - self.a**2)
        log_r = -LOG_2PI - math.log(self.a) - 0.5 * ((first / self.a).square() + off.square())
        return log_r, lambda: torch.stack((first * (2 * self.b * off - self.a**-2), -off), -1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Exact samples (n, 2)."""
        noise = torch.randn(n, 2, generator=generator)
        first = self.a * noise[:, 0]
        return torch.stack((first, noise[:, 1] + self.b * (first.square() - self.a**2)), -1)


def _decaying(dim: int) -> Tensor:
    place = torch.arange(dim)
    return 0.95 ** (place[:, None] - place).abs().float()


def _scattered(dim: int) -> GMM:
    """Five Gaussians of variance 1, with means uniform in [-5, 5]^d."""
    means = 10 * torch.rand(5, dim, generator=torch.Generator().manual_seed(0)) - 5
    return GMM(means, 1.0, f"mixture {dim}-d")


DENSITIES: dict[str, Callable[[], Target]] = {
    "shifted": lambda: GMM(torch.tensor([[20.0, -10.0], [24.0, -10.0], [20.0, -6.0]]), 0.5),
    "scaled by 10": lambda: GMM(10 * gl.gmm9.means, 30.0),
    "scaled by 0.1": lambda: GMM(0.1 * gl.gmm9.means, 0.003),
    "correlated": lambda: Correlated(_decaying(10)),
    "heavy-tailed": lambda: StudentT(5, 3),
    "ring": lambda: Rings([5.0], 0.2),
    "banana": Banana,
    "unequal 1:100": lambda: GMM([[-5.0, 0.0], [5.0, 0.0]], 1.0, weights=[1.0, 100.0]),
    "mixture, 10-d": lambda: _scattered(10),
    "mixture, 50-d": lambda: _scattered(50),
    "logistic regression": breast_cancer,
    "funnel": lambda: Funnel(10, 9.0),
}
WAYS = {
    "default": lambda target, seed: gl.GFNDiffusion(target, seed=seed, device="cpu"),
    "plain TB": lambda target, seed: gl.GFNDiffusion(
        target, config=gl.Config(**gl.PROFILES["quick"]), seed=seed, device="cpu"
    ),
}


def true_log_z(target: Target) -> tuple[float, float]:
    """log Z and its standard error: exact, or of one mode by importance sampling.

    That is from the Gaussian at the mode, by Newton's method, 1.2 times as wide as the curvature
    there says. 200,000 samples.
    """
    if target.log_z is not None:
        return target.log_z, 0.0

    def energy(x: Tensor) -> Tensor:
        return -target.log_reward(x[None])[0]

    mode = torch.zeros(target.dim)
    for _ in range(50):
        slope = torch.autograd.functional.jacobian(energy, mode)
        mode = mode - torch.linalg.solve(torch.autograd.functional.hessian(energy, mode), slope)
    root = 1.2 * torch.linalg.cholesky(
        torch.linalg.inv(torch.autograd.functional.hessian(energy, mode))
    )
    noise = torch.randn(200_000, target.dim, generator=torch.Generator().manual_seed(0))
    log_proposal = -0.5 * (noise.square().sum(-1) + target.dim * LOG_2PI)
    log_proposal = log_proposal - root.diagonal().log().sum()
    log_weight = (target.log_reward(mode + noise @ root.mT) - log_proposal).double()
    log_z = log_weight.logsumexp(0) - math.log(len(noise))
    return log_z.item(), ((log_weight - log_z).exp().std() / len(noise) ** 0.5).item()


def measure(name: str, way: str, seed: int, **changes) -> dict:
    """One training, judged: gaps in nats, modes, energy calls, seconds; what stopped it, if so."""
    target = DENSITIES[name]()
    log_z, error = true_log_z(target)
    started = time.process_time()
    cell = {"density": name, "way": way, "seed": seed, "log_z": log_z, "log_z_error": error}
    try:
        sampler = WAYS[way](target, seed)
        sampler.fit(progress=False, **changes)
        found = sampler.evaluate()
    except (FloatingPointError, ValueError) as problem:
        return cell | {"failed": str(problem)}
    weights, share = found["mode_weights"], None
    if weights:
        share = (torch.tensor(weights) / target.mode_mass).min().item()
    return cell | {
        "elbo_gap": log_z - found["elbo"],
        "eubo_gap": None if found["eubo"] is None else found["eubo"] - log_z,
        "is_error": abs(found["log_z_is"] - log_z),
        "ess": found["ess"],
        "least_share": share,  # of a mode's mass
        "energy_calls": sampler.energy_calls,
        "seconds": round(time.process_time() - started, 1),
    }


def run() -> None:
    """All that is missing in the results, each cell kept as soon as it is there."""
    torch.set_num_threads(1)
    cells = json.loads(RESULTS.read_text())["cells"] if RESULTS.exists() else []
    known = {(cell["density"], cell["way"], cell["seed"]) for cell in cells}
    for name in DENSITIES:
        for way in WAYS:
            for seed in range(SEEDS):
                if (name, way, seed) not in known:
                    cells.append(measure(name, way, seed))
                    print(json.dumps(cells[-1]), flush=True)
                    gl.write_json(RESULTS, {"torch": torch.__version__, "cells": cells})


if __name__ == "__main__":
    run()
