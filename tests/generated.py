"""Generated cases: how many, how they are drawn, and values of every kind."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# The same cases each time, whatever the machine; nothing is kept on disk.
SETTINGS = {
    "derandomize": True, "database": None, "deadline": None,
    "suppress_health_check": list(HealthCheck),
}  # fmt: skip


def cases(few, many):
    """Gives a test the number of its cases: the fast tier's, and that of `--all`."""
    return pytest.mark.parametrize("cases", [few, pytest.param(many, marks=pytest.mark.full)])


def tried(cases, check, **strategies):
    """Call `check` with so many cases, by the names of what is drawn; and no fewer."""
    count = 0

    @settings(max_examples=cases, **SETTINGS)
    @given(**strategies)
    def each(**drawn):
        nonlocal count
        count += 1
        check(**drawn)

    each()
    assert count >= cases


# No value of a setting as it should be, or only by chance.
ODD_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12),
    st.binary(max_size=4), st.complex_numbers(), st.fractions(), st.decimals(),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=2), st.none()),
    st.integers(min_value=10**18), st.integers(max_value=-(10**300)),
    st.sampled_from(
        [
            "a\nb", "\x1b[31m", b"", ..., int, len, object(), float("inf"), float("nan"), -0.0,
            5e-324, 1.7e308, np.float64("nan"), np.float32(1.5), np.int64(-1), np.bool_(True),
            np.array(1), np.array([1, 2]), np.zeros((40, 40)), torch.tensor(1.0),
            torch.zeros(40, 40), torch.float32, "x" * 10_000, [[[[[[["x" * 99] * 9] * 9] * 9]]]],
            {"a": 1}, set(), (), range(3), NotImplemented,
        ]
    ),
)  # fmt: skip


def is_clear(message):
    """Whether a message is one line, which a terminal shows as it is, and not a page long."""
    return message.isprintable() and 10 < len(message) < 1500
