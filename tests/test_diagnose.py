"""Diagnosis: each check on made-up evidence, and the whole on samplers known to be ill or well."""

import copy
import dataclasses
import math

import pytest
import torch

import gfnlite as gl
from gfnlite import diagnosis as module
from gfnlite.diagnosis import Evidence, Mode, diagnose, pilot
from gfnlite.targets import as_target

CONFIG = gl.Config(sigma2=4.0, iterations=1000, steps=50, exploration=0.0)


def history(*elbos, last=1000):
    step = last / len(elbos)
    return [{"iteration": int(step * (i + 1)), "elbo": e} for i, e in enumerate(elbos)]


def evidence(**changes):
    """Of a sampler that is fine: log Z = 0, the target within two standard deviations."""
    well = Evidence(
        config=CONFIG, elbo=-0.3, log_z_is=0.0, eubo=0.2, ess=0.6, largest=0.01, reach=4.0,
        spread=16.0, history=history(-9.0, -3.0, -1.0, -0.4, -0.3, -0.3, -0.3, -0.3),
    )  # fmt: skip
    return dataclasses.replace(well, **changes)


def modes(*weights, mass=None, group=0):
    mass = mass or [1 / len(weights)] * len(weights)
    pairs = zip(mass, weights, strict=True)
    return [Mode(f"mode {k}", *pair, group) for k, pair in enumerate(pairs)]


def test_a_sampler_that_is_fine_has_no_findings():
    for check in module.CHECKS:
        assert check(evidence()) is None
        assert check(evidence(modes=modes(0.3, 0.2, 0.5))) is None


@pytest.mark.parametrize("factor, found", [(0.9, False), (1.1, True)])
def test_sigma_is_too_small_from_six_or_from_four_if_mass_is_missing(factor, found):
    at_six, at_four = 6 * 2 * factor, 4 * 2 * factor
    assert (module.check_sigma(evidence(reach=at_six)) is not None) == found
    lost = modes(1.0, 0.0)
    assert (module.check_sigma(evidence(reach=at_four, modes=lost)) is not None) == found
    assert module.check_sigma(evidence(reach=at_four)) is None


def test_sigma_advice_brings_the_target_within_four():
    finding = module.check_sigma(evidence(reach=20.0))
    assert finding.advice == "set sigma2=25 or more"
    advised = evidence(reach=20.0, config=CONFIG.replace(sigma2=25.5), modes=modes(1.0, 0.0))
    assert module.check_sigma(advised) is None


def test_not_converged_needs_a_gap_and_a_rise():
    rising = history(-90, -60, -40, -30, -20, -10, -7, -5)
    flat = history(-90, -40, -5.1, -5, -5, -5, -5, -5)
    check = module.check_convergence
    finding = check(evidence(elbo=-5.0, history=rising))
    assert finding.advice == "set iterations=2000 (now 1000)"
    assert "5.0 nats below" in finding.evidence
    assert check(evidence(elbo=-5.0, history=flat)) is None  # a floor: more of the same is no help
    assert check(evidence(elbo=-0.9, history=rising)) is None
    assert check(evidence(elbo=-5.0, history=rising[-3:])) is None  # too short to tell


def test_not_converged_if_stopped_early_or_never_begun():
    early = module.check_convergence(evidence(elbo=-5.0, history=history(-5.0, -5.0, last=300)))
    assert early.advice == "call fit() for the other 700"
    assert module.check_convergence(evidence(history=[])).advice == "call fit()"


LONG = CONFIG.replace(iterations=5000)
FLAT = history(-9.0, -5.0, -5.0, -5.0, -5.0, -5.0, -5.0, -5.0, last=5000)


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, "set learn_variance=True, or steps=100 (now 50)"),
        ({"config": LONG.replace(learn_variance=True)}, "set steps=100 (now 50)"),
        ({"history": history(-9, -2, -2, -2, -4, -4, -5, -5, last=5000)}, "set lr=0.001 (now 0.00"),
        (
            {"history": history(-5.0, -5.0, last=1000), "config": CONFIG},
            "iterations=4000 (now 1000",
        ),
        ({"elbo": -0.2, "eubo": 5.0}, "set learn_variance=True"),  # seen from the target alone
        ({"elbo": -0.9, "eubo": 2.0, "history": FLAT[:4]}, "call fit() for the other 2,500"),
    ],
)
def test_a_gap_that_nothing_else_explains_is_not_fine(changes, expected):
    ill = evidence(**{"elbo": -5.0, "config": LONG, "history": FLAT} | changes)
    assert [check(ill) is None for check in module.CHECKS] == [True] * 4 + [False]
    finding = module.check_gap(ill)
    assert finding.verdict == "not converged" and expected in finding.advice
    assert f"{-ill.elbo:.1f} nats below IS log Z and the EUBO {ill.eubo:.1f}" in finding.evidence


def test_a_gap_is_not_reported_twice_nor_below_a_nat():
    gap = {"elbo": -5.0, "config": LONG, "history": FLAT}
    assert module.check_gap(evidence(**gap | {"elbo": -0.95})) is None
    assert module.check_gap(evidence(**gap, ess=0.001)) is None  # the weights are degenerate
    assert module.check_gap(evidence(**gap, modes=modes(1.0, 0.0))) is None  # collapsed
    assert "EUBO" not in module.check_gap(evidence(**gap | {"eubo": None})).evidence


def test_collapse_names_the_modes_and_the_mass_that_is_missing():
    lost = modes(0.5, 0.0, 0.46, 0.04, mass=[0.3, 0.2, 0.2, 0.3])
    finding = module.check_collapse(evidence(modes=lost, eubo=12.0))
    assert "mode 1; mode 3" in finding.evidence and "mode 0" not in finding.evidence
    # 0.2 and 0.3 less the 0.04 that are there.
    assert "46.0% of the target is missing, 2 of 4 modes" in finding.evidence
    assert "12.0 nats above IS log Z" in finding.evidence
    # 0.04 is below a fifth of 0.3 and 0.07 above it.
    assert "mode 3" not in module.check_collapse(
        evidence(modes=modes(0.5, 0.0, 0.43, 0.07, mass=[0.3, 0.2, 0.2, 0.3]))
    ).evidence  # fmt: skip
    assert module.check_collapse(evidence(modes=lost, history=[])) is None  # not trained yet


def test_missing_mass_of_wells_multiplies():
    right = 0.84431
    wells = [m for g in range(16) for m in modes(0.0, 1.0, mass=[1 - right, right], group=g)]
    # All 16 minor wells lost leaves 0.84431^16 of the mass, exp(-2.708).
    assert 1 - evidence(modes=wells).missing_mass == pytest.approx(math.exp(-2.708), rel=1e-3)


def test_collapse_without_known_modes_is_told_by_what_no_generated_trajectory_weighs():
    unseen = {"unseen": 0.3, "where": ["(5.0, 5.0)"]}
    assert "30.0% of the target" in module.check_collapse(evidence(**unseen)).evidence
    by_pilot = evidence(exact=False, eubo=None, **unseen)
    assert "unknown mass" in module.check_collapse(by_pilot).evidence
    assert module.check_collapse(evidence(unseen=0.005)) is None
    assert module.check_collapse(evidence(ess=0.001, **unseen)) is None  # weights say nothing then
    found = modes(0.5, 0.5)
    assert module.check_collapse(evidence(modes=found, **unseen)) is None  # the modes know better


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, "set exploration=4 (now 0)"),  # (16 - 4) / 3
        ({"exploration": 1.0}, "set exploration=4 (now 1)"),
        ({"exploration": 4.0}, "exploration_decay=1.0 and iterations=2000"),
        ({"sigma2": 0.01}, "first the larger sigma2"),
        ({"iterations": 2000}, "first the rest of the training"),
    ],
)
def test_advice_for_a_collapse_follows_its_cause(changes, expected):
    collapsed = evidence(modes=modes(1.0, 0.0), config=CONFIG.replace(**changes))
    assert expected in module.check_collapse(collapsed).advice


def test_weights_are_degenerate_by_either_sign():
    check = module.check_weights
    assert "0.50%" in check(evidence(ess=0.005)).evidence
    assert "40%" in check(evidence(largest=0.4)).evidence
    assert "steps=100 (now 50)" in check(evidence(ess=0.005)).advice
    assert check(evidence(ess=0.02, largest=0.2)) is None


def double_well(x):
    return ((x.square() - 4) ** 2).sum(-1)


def test_pilot_reaches_all_wells_and_their_width(generator):
    x = pilot(as_target(double_well, 2), 1.0, generator, particles=3000)
    assert x.shape == (3000, 2)
    corner = (x > 0).long() @ torch.tensor([1, 2])
    assert (corner.bincount(minlength=4) > 300).all()
    # Exact by quadrature; 6000 values know it to 4 x 0.9%, but resampling leaves fewer of them.
    a = torch.linspace(0, 6, 10_001, dtype=torch.float64)
    p = torch.exp(-((a.square() - 4) ** 2))
    mean = (p * a).sum() / p.sum()
    std = ((p * (a - mean).square()).sum() / p.sum()).sqrt().item()
    assert x.abs().std().item() == pytest.approx(std, rel=0.06)
    wrong = pilot(as_target(lambda x: double_well(x) / 1.5, 2), 1.0, generator, particles=3000)
    assert wrong.abs().std().item() != pytest.approx(std, rel=0.06)


def learn(target, **changes):
    config = gl.preset("9gmm", "TB+Expl", "quick")
    small = {"batch_size": 200, "iterations": 800, "steps": 50, "coarse_fraction": 1.0}
    return gl.GFNDiffusion(target, config=config, **small | changes).fit(progress=False)


def without_truth(sampler):
    """The same sampler, of a target that knows nothing but its energy."""
    sampler, target = copy.copy(sampler), sampler.target
    sampler.target = as_target(lambda x: target.energy(x), target.dim)
    return sampler


@pytest.fixture(scope="module")
def fine():
    return learn(gl.gmm9)


@pytest.fixture(scope="module")
def collapsed():
    return learn(gl.gmm9, exploration=0.0, iterations=300, batch_size=100)


def test_a_sampler_that_learned_all_modes_is_fine(fine):
    diagnosis = diagnose(fine)
    assert diagnosis.verdicts == ["fine"], diagnosis
    assert "modes 9 of 9" in repr(diagnosis)
    assert repr(diagnose(fine)) == repr(diagnosis)
    blind = diagnose(without_truth(fine))
    assert blind.verdicts == ["fine"], blind
    assert blind.evidence.eubo is None and "would not be noticed" in repr(blind)


@pytest.mark.parametrize("target, settings", [
    (gl.Gaussian([3.0] * 2, 0.3), {"steps": 10, "iterations": 300, "sigma2": 1.0, "lr": 1e-3}),
    (gl.targets.two_moons, {"iterations": 20}),
])  # fmt: skip
def test_a_sampler_that_is_nats_off_is_not_fine(target, settings):
    sampler = gl.GFNDiffusion(target, device="cpu", **settings).fit(progress=False)
    diagnosis = diagnose(sampler)
    e = diagnosis.evidence
    assert e.log_z_is - e.elbo > 1.5
    assert diagnosis.verdicts[0] == "not converged", diagnosis
    assert "nats below IS log Z" in repr(diagnosis) and "To do: set iterations=" in repr(diagnosis)


def test_and_the_same_sampler_trained_as_advised_is_fine():
    target, settings = gl.Gaussian([3.0] * 2, 0.3), {"steps": 10, "iterations": 4000, "sigma2": 1.0}
    sampler = gl.GFNDiffusion(target, device="cpu", batch_size=32, hidden=32, **settings)
    diagnosis = diagnose(sampler.fit(progress=False))
    assert diagnosis.verdicts == ["fine"], diagnosis


@pytest.mark.parametrize("energy", [
    lambda x: torch.from_numpy((x.numpy() ** 2).sum(-1)),
    lambda x: x.detach().square().sum(-1),
])  # fmt: skip
def test_without_a_gradient_there_is_no_pilot_and_the_diagnosis_says_so(energy):
    sampler = gl.GFNDiffusion(energy, dim=2, iterations=10, steps=5).fit(progress=False)
    diagnosis = diagnose(sampler, 200)
    assert not diagnosis.evidence.piloted and diagnosis.evidence.unseen == 0
    assert "the sampler itself never met would not be noticed (no pilot" in repr(diagnosis)
    smooth = gl.GFNDiffusion(lambda x: x.square().sum(-1), dim=2, iterations=10, steps=5)
    assert diagnose(smooth, 200).evidence.piloted and "no pilot," not in repr(diagnose(smooth, 200))


def two_sided(x, c):
    return ((x.square() - c.square()) ** 2).sum(-1)


def test_a_posterior_is_diagnosed_at_its_condition():
    conditions = torch.tensor([[0.5], [4.0]])
    sampler = gl.GFNDiffusion(
        two_sided, dim=2, conditions=conditions, iterations=10, steps=5, device="cpu"
    ).fit(progress=False)
    near, far = (diagnose(sampler, 500, condition=c).evidence for c in conditions)
    assert near.reach < 2 and far.reach == pytest.approx(4, abs=0.5)  # where the pilot went
    assert repr(diagnose(sampler, 500, condition=[4.0])) == repr(
        diagnose(sampler, 500, condition=conditions[1])
    )


@pytest.mark.parametrize("bad", [{"seed": None}, {"seed": 0.5}, {"n_samples": 0}])
def test_bad_arguments_are_one_clear_error(bad):
    with pytest.raises(ValueError, match=r"=.* must be an integer"):
        diagnose(gl.GFNDiffusion(gl.gmm9), **bad)


def test_a_collapsed_sampler_is_told_to_explore(collapsed):
    diagnosis = diagnose(collapsed)
    assert "collapsed" in diagnosis.verdicts and "sigma too small" not in diagnosis.verdicts
    finding = diagnosis.findings[diagnosis.verdicts.index("collapsed")]
    assert "near (-5." in finding.evidence and "set exploration=" in finding.advice
    assert "To do: set exploration=" in repr(diagnosis) and "collapsed" in diagnosis._repr_html_()
    advised = float(finding.advice.split("=")[1].split()[0])
    assert advised == pytest.approx(gl.preset("9gmm", "TB+Expl", "quick").exploration, rel=0.25)


def test_pilot_chains_notice_a_collapse_without_any_truth(collapsed):
    blind = diagnose(without_truth(collapsed))
    assert blind.evidence.unseen > 0.2
    assert "collapsed" in blind.verdicts, blind
    assert "unknown mass" in repr(blind)


def test_a_small_sigma_is_named_first_and_is_the_first_thing_to_change():
    sampler = learn(gl.gmm25, sigma2=0.05, iterations=100, batch_size=100)
    diagnosis = diagnose(sampler)
    assert diagnosis.verdicts[0] == "sigma too small"
    assert "collapsed" in diagnosis.verdicts
    assert "first the larger sigma2" in repr(diagnosis)


def test_an_untrained_sampler_is_not_converged():
    diagnosis = diagnose(gl.GFNDiffusion(gl.ManyWell(8)))
    assert diagnosis.verdicts == ["not converged", "weights degenerate"]
    assert diagnosis.findings[0].advice == "call fit()"


def test_modes_of_wells_are_named_by_well_and_side():
    names = [mode.name for mode in diagnose(gl.GFNDiffusion(gl.ManyWell(4)), 50).evidence.modes]
    assert names == ["well 0 left", "well 0 right", "well 1 left", "well 1 right"]


def test_diagnosis_leaves_the_random_state_alone(fine):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    diagnose(without_truth(fine), 100)
    assert torch.equal(torch.rand(3), expected)
