"""The package, whatever it is given: settings, shapes, types, devices and energies.

Cases are generated: 4,080 with `--all`, 565 in the fast tier. What is given works, or is one error
of the documented kind, in one line, that the package itself raises: nothing of PyTorch's.
"""

import dataclasses
import math
import traceback
import typing
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from generated import ODD_VALUES, cases, is_clear, tried
from hypothesis import strategies as st

import gfnlite as gl
from gfnlite import distances, metrics, targets

PACKAGE = Path(gl.__file__).parent
SMALL = {"sigma2": 2.0, "steps": 3, "batch_size": 4, "iterations": 3, "hidden": 4}
FIELDS = {field.name: field for field in dataclasses.fields(gl.Config)}
HINTS = typing.get_type_hints(gl.Config)

pytestmark = pytest.mark.filterwarnings("ignore")


def refused(call, *arguments, kinds=(ValueError, TypeError, FloatingPointError)):
    """The message of an error that is one clear line of the package's own; None if all is well."""
    try:
        call(*arguments)
    except kinds as error:
        innermost = traceback.extract_tb(error.__traceback__)[-1]
        assert Path(innermost.filename).parent == PACKAGE, error
        assert is_clear(str(error)), error
        return str(error)
    return None


def test_an_error_of_torch_or_of_two_lines_would_be_seen():
    for broken in (lambda: torch.ones(2) + torch.ones(3), lambda: int("x"), lambda: 1 / 0):
        with pytest.raises((AssertionError, RuntimeError, ZeroDivisionError)):
            refused(broken)
    assert refused(gl.time_grid, 0) == "steps=0 must be a positive integer"
    assert refused(gl.time_grid, 1) is None


# ---------------------------------------------------------------- settings


@cases(200, 1000)
def test_a_setting_is_taken_or_is_named_with_its_value(cases):
    def check(name, value):
        message = refused(lambda: gl.Config(**{name: value}), kinds=ValueError)
        if message is None:
            kept = getattr(gl.Config(**{name: value}), name)
            hint = HINTS[name]
            assert kept is None or type(kept) in (hint, *typing.get_args(hint))
        else:
            assert message.startswith(f"{name}=") or f"{name}" in message

    tried(cases, check, name=st.sampled_from(list(FIELDS)), value=ODD_VALUES)


def test_an_integer_of_too_many_digits_is_named():
    for name in ("steps", "iterations", "lr"):
        message = refused(lambda name=name: gl.Config(**{name: 10**5000}))
        assert message.startswith(f"{name}=a huge number")


def spread(low, high):
    """Numbers of any magnitude between these."""
    return st.floats(math.log(low), math.log(high)).map(math.exp)


def values_of(name):
    """Values that the field takes on its own, small where large ones would take long."""
    rule, hint = FIELDS[name].metadata, HINTS[name]
    kinds = typing.get_args(hint) or (hint,)
    if rule["choices"]:
        values = st.sampled_from(rule["choices"])
    elif bool in kinds:
        values = st.booleans()
    elif int in kinds:
        low = rule["low"] or 0
        values = st.integers(low, {"ls_burn_in": 2, "prefill": 20}.get(name, low + 4))
    else:
        low = rule["low"] or rule["above"] or 1e-300
        high = rule["high"] or 1e300
        values = spread(max(low, 1e-2), min(high, 1e1)) | spread(max(low, 1e-300), high)
        values = values.map(lambda v: min(max(v, low), high))
        values = values | st.just(0.0) if rule["low"] == 0 else values
    return st.none() | values if type(None) in kinds else values


CONFIGS = st.fixed_dictionaries(
    {
        "steps": st.integers(1, 5), "batch_size": st.integers(1, 8),
        "iterations": st.integers(1, 2), "hidden": st.integers(1, 8),
    },
    optional={name: values_of(name) for name in FIELDS if name not in SMALL or name == "sigma2"},
)  # fmt: skip
LINEAR = targets.LinearGaussian([[1.0, 0.5]], 0.5)
ENERGIES = {
    "9gmm": (gl.gmm9, {}),
    "gaussian": (gl.Gaussian([0.0, 1.0], 1.0), {}),
    "callable": (lambda x: x.square().sum(-1), {"dim": 2}),
    "linear": (LINEAR, {}),
    "conditional": (
        lambda x, c: (x - c).square().sum(-1), {"dim": 2, "conditions": [[0.0, 1.0], [2.0, 1.0]]},
    ),
}  # fmt: skip


@cases(80, 1200)
def test_settings_train_or_are_said_not_to_go_together(cases):
    trained = []

    def check(settings, energy, seeds):
        fn, more = ENERGIES[energy]

        def train():
            config = gl.Config(**settings)
            sampler = gl.GFNDiffusion(fn, config=config, **more)
            fitted = sampler.fit(progress=False, seeds=seeds)
            sampler = sampler if seeds is None else fitted[0]
            condition = [0.0] * sampler.target.condition_dim or None
            assert sampler.sample(3, condition=condition).shape == (3, 2)
            sampler.evaluate(4, condition=condition)
            trained.append(settings)

        message = refused(train)
        if message and "iteration" not in message:  # it diverges, by such rates
            named = [name for name in (*FIELDS, "capacity", "group") if name in message]
            assert named, message

    energies, seeds = st.sampled_from(list(ENERGIES)), st.sampled_from([None, None, 2])
    tried(cases, check, settings=CONFIGS, energy=energies, seeds=seeds)
    assert len(trained) > cases / 5


# ---------------------------------------------------------------- shapes, types, devices

SHAPES = [(3, 2), (3, 2), (4, 2), (3,), (), (0,), (0, 2), (3, 1), (3, 3), (1, 2), (2, 3, 2), (2,)]
DTYPES = [
    torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64,
    torch.uint8, torch.bool, torch.complex64,
]  # fmt: skip
DEVICES = [
    "cpu", "cuda:7", "meta", "", "nonsense", "cpu:0", "CPU", None, 3, -1, torch.device("meta"),
    torch.device("cpu"), "mps", "xpu", "cuda:-1", "cpu:99999999999", "hpu", "lazy", b"cpu", 1.5,
    [], "\0", "a\nb",
]  # fmt: skip
ANYWHERE = st.sampled_from(DEVICES) | st.text(max_size=5)


@st.composite
def arrays(draw):
    """A tensor, an array or a list of some shape, type and values, seldom anything else."""
    kind = draw(st.sampled_from(
        ["plain", "plain", "plain", "nan", "inf", "huge", "meta", "array", "list", "grad", "sparse",
         "other"]
    ))  # fmt: skip
    if kind == "other":
        return draw(ODD_VALUES)
    x = torch.linspace(-1, 2, math.prod(shape := draw(st.sampled_from(SHAPES)))).view(shape)
    if kind in ("nan", "inf"):
        x.view(-1)[:1] = float(kind)
    x = (1e30 * x if kind == "huge" else x).to(draw(st.sampled_from(DTYPES)))
    if kind == "array":
        return (x.float() if x.dtype == torch.bfloat16 else x).numpy()
    if kind == "grad" and x.is_floating_point():
        return x.requires_grad_()
    changed = {"meta": lambda: x.to("meta"), "list": x.tolist, "sparse": x.to_sparse}
    return changed[kind]() if kind in changed and (x.ndim or kind != "sparse") else x


def mostly(strategy, other=ODD_VALUES):
    return st.integers(0, 4).flatmap(lambda i: strategy if i else other)


COUNTS = mostly(
    st.integers(-1, 5),
    st.sampled_from([np.int64(3), True, 2.0, "3", None, torch.tensor(3), 1e9, "x" * 999, [3]]),
)
NUMBERS = mostly(
    spread(1e-3, 10),
    st.sampled_from(
        [0.0, -1.0, math.nan, math.inf, "1", 1e30, True, torch.tensor(1.0), np.float32(2), [1.0],
         torch.ones(3), 1j, 10**400]
    ),
)  # fmt: skip
ARRAYS, X = arrays(), st.just(torch.zeros(3, 2))
REAL = ARRAYS.filter(lambda x: getattr(x, "device", None) != torch.device("meta"))
CALLABLE = targets.as_target(lambda x: x.square().sum(-1), 2)
TARGETS = [
    gl.gmm9, gl.Gaussian([0.0, 1.0], 1.0), gl.ManyWell(2), targets.Funnel(2), targets.rings,
    targets.two_moons, CALLABLE, gl.tempered(gl.gmm9, 2.0),
    gl.weighted_sum([gl.gmm9, CALLABLE], [1.0, 0.5]), targets.GMM([[300.0, 0.0]], 0.01),
]  # fmt: skip
KNOWS_MODES = [target for target in TARGETS if target.mode_mass is not None]
PRIORITIES = st.sampled_from(["uniform", "rank", "reward", "weight"])


def made(energy=gl.gmm9, **more):
    return gl.GFNDiffusion(energy, **SMALL | more)


def replay(x, log_reward, log_weight, n, priority, condition=None, condition_dim=0):
    buffer = gl.ReplayBuffer(9, 2, condition_dim, priority)
    buffer.add(x, log_reward, log_weight, condition)
    return buffer.sample(n)


PLAIN, LANGEVIN, POSTERIOR = made(), made(langevin=True), made(LINEAR)
SAMPLERS = st.sampled_from([PLAIN, LANGEVIN])
# A public function, and what it is called with.
CALLS = {
    "log_reward": (lambda t, x: t.log_reward(x), st.sampled_from(TARGETS), ARRAYS),
    "condition": (LINEAR.log_reward, X | ARRAYS, ARRAYS),
    "score": (lambda t, x: t.score(x), st.sampled_from([*TARGETS, LINEAR]), ARRAYS),
    "energy": (lambda t, x: t.energy(x), st.sampled_from(TARGETS), ARRAYS),
    "modes_of": (lambda t, x: t.modes_of(x), st.sampled_from(KNOWS_MODES), REAL),
    "sample": (
        lambda s, n, steps, over: s.sample(n, steps, oversample=over),
        SAMPLERS, COUNTS, st.none() | COUNTS, st.none() | COUNTS,
    ),
    "sample at": (lambda n, c: POSTERIOR.sample(n, condition=c), st.integers(1, 4), ARRAYS),
    "log_weight": (
        lambda s, x, steps: s.log_weight(x=x, steps=steps), SAMPLERS, ARRAYS, st.none() | COUNTS,
    ),
    "unasked": (lambda x, c: PLAIN.log_weight(x=x, condition=c), X, ARRAYS),
    "evaluate": (PLAIN.evaluate, COUNTS, st.none() | COUNTS, COUNTS),
    "evaluate at": (lambda c: POSTERIOR.evaluate(5, condition=c), ARRAYS),
    "rollout": (
        PLAIN.rollout, ARRAYS | st.just(gl.time_grid(3)) | st.just(gl.time_grid(2)),
        st.none() | COUNTS, st.none() | ARRAYS | X,
    ),
    "buffer": (
        gl.ReplayBuffer, COUNTS, COUNTS, st.just(0) | COUNTS, mostly(PRIORITIES), NUMBERS, NUMBERS,
        COUNTS, COUNTS, st.just("cpu") | ANYWHERE,
    ),
    "replay": (
        replay, X | ARRAYS, st.just(torch.zeros(3)) | ARRAYS,
        st.none() | st.just(torch.zeros(3)) | ARRAYS, st.just(2) | COUNTS, PRIORITIES,
    ),
    "replay at": (
        lambda c, dim: replay(torch.zeros(3, 2), torch.zeros(3), None, 2, "rank", c, dim),
        st.none() | ARRAYS, st.sampled_from([0, 1, 2]),
    ),
    "metrics": (
        lambda f, w: f(w),
        st.sampled_from([gl.elbo, gl.eubo, gl.log_z_is, gl.ess, metrics.ess_forward]), ARRAYS,
    ),
    "bootstrap": (
        lambda *rest: metrics.bootstrap(metrics.STATISTICS["elbo"], *rest),
        st.just(torch.zeros(3)) | ARRAYS, st.just(0.9) | NUMBERS, COUNTS, COUNTS,
    ),
    "modes": (
        lambda f, w, m: f(w, m), st.sampled_from([gl.modes_found, metrics.mode_coverage]), ARRAYS,
        ARRAYS,
    ),
    "distances": (
        lambda f, x, y: f(x, y), st.sampled_from([gl.w2, distances.sinkhorn, distances.mmd]),
        ARRAYS | X, ARRAYS,
    ),
    "blur": (
        lambda f, value: f(torch.zeros(3, 2), torch.ones(3, 2), value),
        st.sampled_from([distances.sinkhorn, distances.mmd]), NUMBERS,
    ),
    "gmm": (
        lambda m, v, w: gl.GMM(m, v, weights=w).log_reward(torch.zeros(2, 2)),
        ARRAYS, st.just(1.0) | NUMBERS | ARRAYS, st.none() | ARRAYS,
    ),
    "gaussian": (gl.Gaussian, st.just([0.0, 0.0]) | ARRAYS, NUMBERS | ARRAYS),
    "rings": (targets.Rings, st.just([1.0, 2.0]) | ARRAYS, NUMBERS),
    "two moons": (targets.TwoMoons, NUMBERS, NUMBERS, COUNTS),
    "dimension": (
        lambda f, dim: f(dim), st.sampled_from([targets.gmm40_in, gl.ManyWell, targets.Funnel]),
        COUNTS,
    ),
    "observed": (targets.ObservedMixture, st.just([[0.0, 1.0]]) | ARRAYS, NUMBERS, NUMBERS),
    "mala": (
        lambda t, x, steps, burn, h, a, rate, temperature, thin: gl.mala(
            t, x, steps=steps, burn_in=burn, step_size=h, adapt=a, target_acceptance=rate,
            temperature=temperature, thin=thin,
        ),
        st.sampled_from(TARGETS), X | ARRAYS, st.just(4) | COUNTS, st.just(1) | COUNTS,
        *[st.just(value) | NUMBERS for value in (0.1, 1.1, 0.5, 1.0)], st.just(1) | COUNTS,
    ),
    "grid": (gl.time_grid, COUNTS, mostly(st.sampled_from(["uniform", "random", "cosine"]))),
    "device": (lambda device: made(device=device), ANYWHERE),
    "fit on": (
        lambda device: made().fit(1, progress=False, device=device), ANYWHERE,
    ),
    "sampler": (
        lambda energy, dim, seed, c: made(energy, dim=dim, seed=seed, conditions=c),
        mostly(st.sampled_from([gl.gmm9, lambda x: x.square().sum(-1)])), st.just(2) | COUNTS,
        st.just(0) | COUNTS, st.none() | ARRAYS,
    ),
    "fit": (
        lambda n, seed, seeds, callbacks: made().fit(
            n, progress=False, seed=seed, seeds=seeds, callbacks=callbacks
        ),
        st.integers(0, 1) | st.just("1"), st.none() | COUNTS, st.none() | COUNTS,
        mostly(st.just(())),
    ),
    "tempered": (gl.tempered, mostly(st.sampled_from(TARGETS)), NUMBERS, st.none() | COUNTS),
    "weighted_sum": (
        gl.weighted_sum, st.lists(st.sampled_from(TARGETS), max_size=3),
        st.lists(NUMBERS, max_size=3) | ARRAYS,
    ),
    "preset": (
        gl.preset, mostly(st.just("25gmm")), mostly(st.just("TB")), mostly(st.just("quick")),
    ),
    "task": (gl.named_target, mostly(st.sampled_from(["manywell3", "manywell0", "manywell²"]))),
    "config": (lambda config: gl.GFNDiffusion(gl.gmm9, config=config),
               ODD_VALUES.filter(lambda value: value is not None)),
}  # fmt: skip


@cases(5, 40)
@pytest.mark.parametrize("name", CALLS)
def test_arguments_are_taken_or_are_one_line(name, cases):
    function, *strategies = CALLS[name]

    def check(arguments):
        refused(function, *arguments)

    tried(cases, check, arguments=st.tuples(*strategies))


def test_numbers_of_every_type_are_taken():
    for kind in (torch.float16, torch.float64, torch.int64, torch.bool):
        ends = torch.ones(3, 2, dtype=kind)
        assert PLAIN.log_weight(x=ends).dtype == torch.float32
        assert gl.w2(ends, ends) == 0
        assert replay(ends, ends[:, 0], None, 2, "rank").x.dtype == torch.float32
    assert gl.gmm9.modes_of(torch.zeros(3, 2, dtype=torch.float64))[:, 4].all()


# ---------------------------------------------------------------- energies


class Own(Exception):
    """An error of the user's."""


def raises(error):
    def energy(x):
        raise error

    return energy


def bowl(x):
    return x.square().sum(-1)


def somewhere(value):
    return lambda x: torch.where(x[:, 0] > 0, value, bowl(x))


def inference(x):
    with torch.inference_mode():
        return bowl(x)


def switched_off(x):
    torch.set_grad_enabled(False)
    return bowl(x)


def seeding(x):
    torch.manual_seed(0)
    np.random.seed(0)
    return bowl(x)


def scaling(x):
    return x.mul_(2).square().sum(-1) / 4


def erasing(x):
    energy = bowl(x)
    x.zero_()
    return energy


WRONG = {
    "nan": lambda x: bowl(x) * math.nan,
    "nan somewhere": somewhere(math.nan),
    "infinite": lambda x: bowl(x) + math.inf,
    "infinite somewhere": somewhere(math.inf),
    "minus infinite": lambda x: bowl(x) - math.inf,
    "too large": lambda x: bowl(x) * 3e38,
    "column": lambda x: bowl(x)[:, None],
    "scalar": lambda x: bowl(x).sum(),
    "longer": lambda x: torch.cat([bowl(x), bowl(x)[:1]]),
    "none of them": lambda x: bowl(x)[:0],
    "float": lambda x: 1.0,
    "list": lambda x: bowl(x).tolist(),
    "None": lambda x: None,
    "array": lambda x: bowl(x).detach().numpy(),
    "tuple": lambda x: (bowl(x),),
    "complex": lambda x: bowl(x).to(torch.complex64),
    "elsewhere": lambda x: bowl(x).to("meta"),
    "sparse": lambda x: bowl(x).to_sparse(),
}
FLAT = {  # have no gradient
    "detached": lambda x: bowl(x.detach()),
    "steps": lambda x: torch.where(x[:, 0] > 0, 0.0, 1.0),
    "integers": lambda x: bowl(x).long(),
    "truths": lambda x: bowl(x) > 1,
    "inference": inference,
    "switched off": switched_off,
}
USABLE = {
    "double": lambda x: bowl(x).double(),
    "half": lambda x: bowl(x).half(),
    "seeding": seeding,
    "scaling": scaling,
    "erasing": erasing,
}
METHODS = {
    "tb": {},
    "reverse_kl": {"objective": "reverse_kl"},
    "vargrad": {"objective": "vargrad"},
    "subtb": {"objective": "subtb", "forward_looking": True},
    "langevin": {"langevin": True},
    "search": {"replay_ratio": 0.5, "ls_every": 1, "ls_steps": 3, "ls_burn_in": 1},
    "weight": {"replay_ratio": 0.5, "replay_priority": "weight"},
    "mle": {
        "replay_ratio": 1.0,
        "prefill": 8,
        "replay_objective": "mle",
        "replay_priority": "uniform",
    },
    "standardise": {"standardise": True},
}
NEED_GRADIENT = {"reverse_kl", "langevin", "search", "mle", "standardise"}


def from_call(energy, number):
    """The bowl until it has been called so often, then this energy."""
    calls = 0

    def fn(x):
        nonlocal calls
        calls += 1
        return energy(x) if calls > number else bowl(x)

    return fn


def weights(sampler):
    return torch.nn.utils.parameters_to_vector(sampler.policy.parameters())


def trained(energy, method, seed=0):
    # so that what an energy switches off is off for itself alone
    with torch.enable_grad():
        return made(energy, dim=2, seed=seed, **METHODS[method]).fit(progress=False)


@cases(100, 400)
def test_a_wrong_energy_is_one_line_whenever_it_turns_wrong(cases):
    def check(name, method, number):
        energy = from_call(WRONG[name], number)
        before = torch.get_rng_state()
        message = refused(trained, energy, method)
        assert message or number  # it may have been called too seldom
        assert message is None or "energy" in message or "log R" in message
        assert torch.equal(torch.get_rng_state(), before) and torch.is_grad_enabled()

    tried(
        cases, check, name=st.sampled_from(list(WRONG)), method=st.sampled_from(list(METHODS)),
        number=st.sampled_from([0, 0, 1, 2, 3, 4, 8]),
    )  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FLAT)
def test_an_energy_without_gradient_is_refused_where_one_is_needed(name, method):
    message = refused(trained, FLAT[name], method)
    assert (message is not None) == (method in NEED_GRADIENT)
    assert message is None or "has no gradient with respect to x" in message
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", USABLE)
def test_an_energy_changes_neither_its_input_nor_the_training(name, method):
    if name == "erasing" and method in NEED_GRADIENT:
        message = refused(trained, erasing, method)
        assert "gradient of the energy of target 'erasing(x)' fails" in message
        return
    torch.manual_seed(7)
    one = weights(trained(USABLE[name], method))
    torch.manual_seed(8)
    other = weights(trained(bowl, method))
    assert torch.allclose(one, other, atol=0.1 if name == "half" else 1e-5)
    if name == "seeding":
        assert torch.equal(one, other)
        assert not torch.equal(one, weights(trained(USABLE[name], method, seed=1)))


def test_training_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    for method in METHODS:
        trained(bowl, method)
    assert torch.equal(torch.get_rng_state(), before)
    noisy = [weights(trained(lambda x: bowl(x) + torch.rand(len(x)), "tb")) for _ in range(2)]
    assert not torch.equal(*noisy)  # an energy's own noise is its own to seed


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number", [0, 4])
@pytest.mark.parametrize("kind", [Own, ValueError, TypeError, KeyError, RuntimeError])
def test_an_energy_s_own_error_arrives_as_it_is(kind, number, method):
    error = kind("mine")
    with pytest.raises(kind) as caught:
        trained(from_call(raises(error), number), method)
    assert caught.value is error
    last = traceback.extract_tb(error.__traceback__)[-1]
    assert last.name == "energy" and last.filename == __file__


@pytest.mark.parametrize("method", ["tb", "vargrad", "subtb", "langevin", "search", "weight"])
def test_an_energy_too_large_to_square_stops_the_training_before_the_step(method):
    sampler = made(lambda x: 1e30 * bowl(x), dim=2, warm_log_z=False, **METHODS[method])
    before = weights(sampler)
    with pytest.raises(FloatingPointError, match="iteration 0: the loss is (inf|nan), though"):
        sampler.fit(progress=False)
    assert torch.equal(weights(sampler), before) and sampler.iteration == 0


def test_a_large_constant_in_an_energy_is_no_matter():
    sampler = trained(lambda x: bowl(x) + 1e6, "tb")
    assert math.isfinite(sampler.evaluate(50)["elbo"])


def test_the_warnings_of_this_module_are_only_left_out_here():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        made(gl.GMM([[30.0, 0.0]], 1.0))
    assert any("modes may never be found" in str(one.message) for one in told)
