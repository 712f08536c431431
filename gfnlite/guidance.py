"""Guidance: a predictor of noise is bent towards low energy, or towards a class.

With the predicted noise eps = -sigma sqrt(1 - alpha_bar) score, adding -lambda grad E to the score
adds lambda sigma sqrt(1 - alpha_bar) grad E to the noise. What comes out is in general not
p(x) exp(-lambda E(x)): the gradient at a noised state is not that of the noised target's density.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .callables import as_target
from .diffusion import Noising, Predictor
from .energy import Target

__all__ = ["STRENGTHS", "classifier_free", "guided", "strength"]

# lambda_k over lambda, as a function of k / K and alpha_bar_k.
STRENGTHS = {
    "constant": lambda part, alpha_bar: torch.ones_like(part),
    "linear": lambda part, alpha_bar: 1 - part,
    "cosine": lambda part, alpha_bar: torch.cos(0.5 * math.pi * part).square(),
    # the share of the variance of x_k that is data: right to first order if these are normal with
    # the noise's variance, and E is weak, quadratic and least at their mean
    "variance": lambda part, alpha_bar: alpha_bar,
}


def strength(noising: Noising, kind: str = "constant", scale: float = 1.0) -> Tensor:
    """lambda_k for k = 0 to K: (K + 1,).

    Raises:
        ValueError: if the kind is unknown, or `scale` not finite.
    """
    if kind not in STRENGTHS:
        raise ValueError(f"kind={kind!r} of strength is unknown; allowed: {', '.join(STRENGTHS)}")
    if not math.isfinite(scale):
        raise ValueError(f"scale={scale} must be finite")
    part = torch.arange(noising.steps + 1) / noising.steps
    return scale * STRENGTHS[kind](part, noising.alpha_bar)


def guided(
    predict: Predictor,
    noising: Noising,
    energy: Target | Callable[[Tensor], Tensor],
    scale: float = 1.0,
    kind: str = "constant",
    clip: float | None = None,
) -> Predictor:
    """The predictor eps + lambda_k sigma sqrt(1 - alpha_bar_k) grad E(x_k), towards low energy.

    A negative `scale` leads towards high energy. `clip` is the greatest norm that a gradient may
    have; longer ones are shortened.

    Raises:
        ValueError: if the energy has no gradient, `clip` is not positive, or as `strength`.
    """
    if clip is not None and not clip > 0:
        raise ValueError(f"clip={clip} must be positive")
    scales = strength(noising, kind, scale) * noising.noise

    def predicted(x: Tensor, k: int) -> Tensor:
        # of whatever dimension the states have
        gradient = -as_target(energy, x.shape[1]).score(x)
        if clip is not None:
            norm = gradient.norm(dim=-1, keepdim=True)
            gradient = gradient * (clip / norm.clamp(min=clip))
        return predict(x, k) + scales[k] * gradient

    return predicted


def classifier_free(conditional: Predictor, unconditional: Predictor, scale: float) -> Predictor:
    """The predictor eps_c + lambda (eps_c - eps_u) (Ho & Salimans, arXiv:2207.12598).

    A `scale` lambda of 0 is the conditional predictor, -1 the unconditional one.

    Raises:
        ValueError: if `scale` is not finite.
    """
    if not math.isfinite(scale):
        raise ValueError(f"scale={scale} must be finite")

    def predicted(x: Tensor, k: int) -> Tensor:
        with_condition = conditional(x, k)
        if scale == 0:
            return with_condition
        return with_condition + scale * (with_condition - unconditional(x, k))

    return predicted
