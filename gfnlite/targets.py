"""All targets, and the tasks by name: densities known up to their normaliser.

What a target is stands in energy.py; the targets themselves in mixtures.py, funnel.py, wells.py and
bayes.py; those made of others in combine.py.
"""

from .bayes import LogGaussianCox, LogisticRegression, breast_cancer, finnish_pines
from .combine import tempered, weighted_sum
from .energy import ClosedForm, Target, as_target, check_condition
from .funnel import Funnel, easy_funnel, funnel
from .mixtures import GMM, Gaussian, Rings, TwoMoons, gmm9, gmm25, gmm40, rings, two_moons
from .wells import ManyWell

__all__ = [
    "GMM",
    "ClosedForm",
    "Funnel",
    "Gaussian",
    "LogGaussianCox",
    "LogisticRegression",
    "ManyWell",
    "Rings",
    "Target",
    "TwoMoons",
    "as_target",
    "breast_cancer",
    "check_condition",
    "easy_funnel",
    "finnish_pines",
    "funnel",
    "gmm9",
    "gmm25",
    "gmm40",
    "named_target",
    "rings",
    "tempered",
    "two_moons",
    "weighted_sum",
]

_NAMED = {
    "9gmm": lambda: gmm9,
    "25gmm": lambda: gmm25,
    "40gmm": gmm40,
    "funnel": lambda: funnel,
    "easy_funnel": lambda: easy_funnel,
    "lgcp": LogGaussianCox,
    "lgcp_whitened": lambda: LogGaussianCox(whitened=True),
    "rings": lambda: rings,
    "two_moons": lambda: two_moons,
    "logistic": breast_cancer,
}


def named_target(name: str) -> Target:
    """The target of a task, such as '25gmm', 'funnel' (the hard one), 'lgcp' or 'manywell32'.

    Raises:
        ValueError: if no task has that name; the error lists those there are.
    """
    if name in _NAMED:
        return _NAMED[name]()
    if isinstance(name, str) and name.startswith("manywell") and name[8:].isdigit():
        return ManyWell(int(name[8:]))
    known = ", ".join(_NAMED)
    raise ValueError(f"task={name!r} is unknown; known: {known}, manywell<d> (manywell32)")
