"""All targets, and the tasks by name: densities known up to their normaliser.

What a target is stands in energy.py; the targets themselves in mixtures.py, funnels.py, wells.py,
bayes.py, conditional.py and vae.py; those made of callables in callables.py, of other targets in
combine.py.
"""

from .arguments import shown
from .bayes import LogGaussianCox, LogisticRegression, breast_cancer, finnish_pines
from .callables import as_target
from .checks import check_condition
from .combine import conditioned, tempered, weighted_sum
from .conditional import LinearGaussian, ObservedMixture
from .energy import ClosedForm, Target, check_target
from .funnels import Funnel, easy_funnel, funnel
from .mixtures import (
    GMM,
    Gaussian,
    Rings,
    TwoMoons,
    gmm9,
    gmm25,
    gmm40,
    gmm40_in,
    rings,
    two_moons,
)
from .vae import VAEPosterior
from .wells import ManyWell

__all__ = [
    "GMM",
    "ClosedForm",
    "Funnel",
    "Gaussian",
    "LinearGaussian",
    "LogGaussianCox",
    "LogisticRegression",
    "ManyWell",
    "ObservedMixture",
    "Rings",
    "Target",
    "TwoMoons",
    "VAEPosterior",
    "as_target",
    "breast_cancer",
    "check_condition",
    "conditioned",
    "check_target",
    "easy_funnel",
    "finnish_pines",
    "funnel",
    "gmm9",
    "gmm25",
    "gmm40",
    "gmm40_in",
    "named_target",
    "rings",
    "tempered",
    "two_moons",
    "weighted_sum",
]

_NAMED = {
    "9gmm": lambda: gmm9,
    "25gmm": lambda: gmm25,
    "40gmm": lambda: gmm40,
    "funnel": lambda: funnel,
    "easy_funnel": lambda: easy_funnel,
    "lgcp": LogGaussianCox,
    "lgcp_whitened": lambda: LogGaussianCox(whitened=True),
    "rings": lambda: rings,
    "two_moons": lambda: two_moons,
    "logistic": breast_cancer,
    "vae": VAEPosterior,
    "vae_whitened": lambda: VAEPosterior(whitened=True),
}


def named_target(name: str) -> Target:
    """The target of a task, such as '25gmm', 'funnel' (the hard one), 'lgcp' or 'manywell32'.

    Raises:
        ValueError: if no task has that name; the error lists those there are.
    """
    if isinstance(name, str):
        if name in _NAMED:
            return _NAMED[name]()
        if name.startswith("manywell") and name[8:].isdecimal():
            return ManyWell(int(name[8:]))
    known = ", ".join(_NAMED)
    raise ValueError(f"task={shown(name)} is unknown; known: {known}, manywell<d> (manywell32)")
